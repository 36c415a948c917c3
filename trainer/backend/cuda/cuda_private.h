/* cuda_private.h - the CUDA backend's parts and how they hang together. All of it is plain C over the table of
 * driver.h.
 *
 *   graph.c      model -> operations and buffers: what is fused, which gradients are wanted where
 *   program.c    when each buffer lives, and where it stands in one arena; memory is known before anything starts
 *   layers.c     an operation -> launches
 *   lanes.c      device memory of replicas in lockstep, steps captured as graphs
 *   round.c      a turn of a round from what comes in to what goes out, captured as one graph
 *   libraries.c  which products of a program a library computes
 *   shared.c     dense layers of plain SGD replicas that share the round's start
 *   parallel_step.c     gradients of a batch that several GPUs share
 *   plan.c       working layout of the weights, memory of a plan
 *   memory.c     refused, as many as fit, or to be waited for
 *   reduce.c     weighted sums, models that stay on the device
 *   train.c, evaluate.c, cuda.c   the table of functions
 *   parallel.c, parallel_train.c   calls on several GPUs
 *   ranks.c, exchange.c   a thread for each GPU, what they send each other (ranks.h)
 *   load.c       opens flexp-cuda.so
 *   settings.c   what the environment may say
 *   selftest*.c  the checks that are run on a real GPU
 *
 * The working layout of weights: each parameter starts at a multiple of 256 bytes, convolutions are (O, R, S, I), the
 * first dense layer behind a flatten takes H, W, C order where nobody else sees the order. Between parameters are zeros
 * that every optimizer keeps. Buffers of a program are lanes x rows x values. SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_TRAINER_CUDA_PRIVATE_H
#define FLEXP_TRAINER_CUDA_PRIVATE_H

#include "trainer/backend/backend.h"
#include "trainer/backend/cuda/cuda.h"
#include "trainer/backend/cuda/driver.h"
#include "trainer/backend/cuda/ranks.h"

/* graph.c */

enum op_type { OP_ASSEMBLE, OP_LAYER, OP_LOSS, OP_BACKWARD };

struct op {
    enum op_type type;
    int layer;
    int x, x2, y, dy, dx; /* buffers; -1: none */
    int aux, aux2, parts;
    int mask;         /* buffer that masks dx */
    bool relu;        /* the ReLU behind the layer is computed with it */
    bool add;         /* dx is added to */
    bool arg_mask;    /* max pool: masks by its output what its input's ReLU let through */
    size_t rank;      /* dense: rows of factors there is room for where replicas share the start; 0: they never do */
    int gram;         /* buffer: rows x rank */
    uint32_t dropout; /* dropout layers that draw, in front of this one */
};

struct space {         /* a buffer */
    size_t row, fixed; /* bytes of a row, of a lane */
    size_t bytes;      /* of a lane, aligned */
    int first, last;   /* operations that touch it */
    size_t offset;     /* times lanes */
};

struct program {
    const struct model *model;
    size_t rows;
    bool training;
    struct op *ops;
    size_t ops_n;
    struct space *spaces;
    size_t spaces_n;
    size_t bytes; /* of the arena, a lane */
    int image, logits, dlogits;
    /* by layer: dense layers that read an image in H, W, C order */
    struct shape *permuted;
};

/* A program for batches of so many rows. -ENOMEM; -EINVAL: the model is too large to count. */
int program_new(const struct model *model, size_t rows, bool training, enum precision precision, struct program *ret,
                struct error *err);
void program_done(struct program *program);

/* Dropout layers that draw among the first `end` layers. */
uint32_t program_dropouts(const struct model *model, size_t end);

/* program.c */
uint32_t gemm_precision(enum precision precision);
/* Sets first, last, offset and bytes. */
int program_place(struct program *program);
/* The matrix product of a convolution or dense layer, without pointers. */
int gemm_of(const struct layer *layer, uint32_t mode, uint32_t precision, size_t rows, struct gemm_args *ret);
size_t gemm_parts_bytes(const struct gemm_args *args); /* of a lane; 0: not cut */

/* plan.c */

struct backend {
    const struct driver *driver;
    struct device *device;
    struct device_info info;
    const struct dataset *dataset;
    uint64_t uploaded;           /* counts data sets: what was captured with another is thrown away */
    void *images[2], *labels[2]; /* train, test */
    struct plan *plans;
    size_t data_bytes;
    struct ranks *ranks; /* of several GPUs: this is one of them. NULL: the only one */
    size_t rank;
    struct backend **peers; /* rank 0's: all, by rank; it is the one that callers have */
    bool no_loops;          /* what is captured cannot have any */
};

#define PLACE_ALIGN 64 /* floats */

struct place { /* of a parameter in the working layout, in floats */
    size_t offset, size;
};

struct lanes;
struct turn;

struct plan {
    struct plan *next; /* of the backend's */
    struct backend *backend;
    const struct model *model;
    size_t batch;
    enum precision precision;
    struct program train, evaluate;
    struct program parallel; /* train, for a GPU's share of a batch; none on one GPU */
    struct plan **peers;     /* rank 0's: all, by rank */
    struct place *places;
    size_t weights_n, trainable_n; /* of the working layout */
    size_t rank, shared_n;         /* the least of its layers'; floats of layers that may share, which come first */
    uint32_t *where;               /* canonical index -> working index */
    uint32_t *draws;               /* values of a row of each dropout layer that draws */
    uint32_t draws_n;
    /* on the device */
    uint32_t *d_where, *d_draws;
    float *d_canonical; /* one model */
    double *d_sums;     /* of trainings, each of the model's weights_n */
    size_t sums_room;
    struct resident *residents;
    struct lanes *training, *evaluation; /* NULL until used */
    size_t lean;                         /* calls in a row that used few of the lanes */
    uint64_t data_seen;
    void *host; /* staging */
    size_t host_bytes;
};

#define EVALUATE_ROWS 512 /* at most; fewer where a tensor of so many rows would be larger than EVALUATE_BYTES */
#define EVALUATE_BYTES ((size_t)256 << 20)
#define CONTEXT_BYTES ((size_t)600 << 20) /* what the driver and the libraries take for themselves */
#define NCCL_BYTES ((size_t)512 << 20)    /* kept free for a communicator's channels */

int cuda_plan_new(struct backend *backend, const struct model *model, const struct plan_options *options,
                  struct plan **ret, struct error *err);
void cuda_plan_free(struct plan *plan);
bool cuda_trim(struct backend *backend, const struct plan *but);
/* Bytes on the device: of what all lanes share, and of a lane (with its optimizer's state and its own start). */
int cuda_plan_bytes(const struct model *model, size_t batch, enum precision precision, const struct dataset *dataset,
                    size_t *ret_shared, size_t *ret_lane, struct error *err);
/* memory.c; as in backend.h. check_memory is what compile does with ret NULL. */
int cuda_check_memory(const struct backend *backend, const struct model *model, const struct plan_options *options,
                      size_t *ret_bytes, struct error *err);
int cuda_fit(struct backend *backend, const struct model *model, const struct plan_options *options,
             const struct dataset *dataset, size_t replicas, size_t *ret_trials, struct error *err);
bool cuda_squeezed(struct backend *backend, const struct model *model, const struct plan_options *options,
                   const struct dataset *dataset, struct squeeze *ret);
void *cuda_plan_host(struct plan *plan, size_t bytes); /* NULL: out of memory */
/* Where the next parameter may stand. */
size_t plan_place_end(const struct plan *plan, size_t param);
int cuda_plan_check_samples(const struct plan *plan, const struct data_split *split, const uint32_t *samples, size_t n,
                            struct error *err);

/* lanes.c */

#define GRAPHS 6       /* of 1, 2, 4 ... 32 steps */
#define WAIT_STEPS 512 /* that may be queued before the host waits, so that a cancellation is soon seen (backend.h) */

struct inbox { /* what the host tells the lanes */
    struct lane *lanes;
    struct drop *drops;            /* by lane and dropout layer that draws */
    struct lane_step *start_steps; /* shared.c: of each start, the rows of all its replicas */
    const void **pointers;         /* images and labels that assemble reads, */
    uint64_t *total;               /* and the number of samples */
    uint32_t *left;                /* steps that are to come: of a loop */
};

struct lanes {
    struct plan *plan;
    const struct program *program;
    size_t n;
    bool training;
    char *memory;
    size_t bytes;
    /* pinned: copied to `in` and `samples`, and from `totals` */
    struct inbox host;
    size_t inbox_bytes;
    struct lane_total *host_totals;
    uint32_t *host_samples;
    size_t host_samples_room;
    /* on the device */
    struct inbox in;
    char *arena;
    struct lane_step *steps;
    struct lane_total *totals;
    float *weights, *grads;
    float *start; /* one or n */
    size_t start_stride;
    float *state, *correction; /* NULL until wanted */
    size_t state_parts;
    uint16_t *labels, *predictions;
    double *losses, *partial;
    uint32_t *bad;
    float *scores;
    /* tables, grown before the first round that needs more */
    struct entry *entries;
    uint32_t *samples;
    size_t entries_room, samples_room;
    bool drop, update; /* of the step at hand: dropout draws; running statistics move and the optimizer steps */
    bool shared;       /* of the step at hand: dense layers share the start (shared.c) */
    size_t starts, per_start;
    double *shared_partial;
    struct captured *graphs[2][GRAPHS]; /* of steps that do not share, that do */
    struct rounds *rounds;              /* round.c; NULL until used */
    bool parallel;                      /* data parallel: of each batch a share, gradients are summed over the GPUs */
    struct pieces *pieces;              /* of the gradients */
    float *incoming;                    /* gradients of the GPUs before this one, where they are added in order */
    struct library **libraries;         /* NULL: own kernels alone */
    void *workspace;
};

int lanes_new(struct plan *plan, const struct program *program, size_t n, struct lanes **ret, struct error *err);
void lanes_free(struct lanes *lanes);
size_t lanes_bytes(const struct program *program, size_t weights_n, size_t trainable_n, size_t n);
/* Runs so many steps, captured. Between graphs it marks which of the n trainings (0: it is an evaluation) are canceled,
 * and goes on until all of them are. */
int lanes_run(struct lanes *lanes, uint64_t steps, struct training *trainings, size_t n, struct error *err);
/* Marks what is canceled. -ECANCELED: all of it. */
int lanes_may_go_on(struct lanes *lanes, struct training *trainings, size_t n, struct error *err);
/* What the host tells: queued. */
int lanes_tell(struct lanes *lanes, struct error *err);
int lanes_pin_samples(struct lanes *lanes, size_t n, struct error *err);
/* A step without capture. */
int lanes_step(struct lanes *lanes, struct error *err);
void lanes_forget_graphs(struct lanes *lanes);
int lanes_grow(struct lanes *lanes, void **buffer, size_t *room, size_t wanted, size_t item, struct error *err);
int lanes_state(struct lanes *lanes, size_t parts, struct error *err);
int lanes_own_starts(struct lanes *lanes, struct error *err);
int lanes_corrections(struct lanes *lanes, struct error *err);
/* Canonical weights on the device to the working layout of so many lanes, one after another. */
int lanes_gather(struct lanes *lanes, const float *canonical, float *working, size_t n, size_t lanes_n,
                 struct error *err);
/* The host's, to one. */
int lanes_put_weights(struct lanes *lanes, const float *canonical, float *working, size_t n, struct error *err);
/* The optimizer's arguments, without a range. */
struct optimize_args lanes_update(const struct lanes *lanes);
/* A buffer of all lanes; index -1: NULL. */
static inline void *lanes_space(const struct lanes *l, int index)
{
    return index < 0 ? NULL : l->arena + l->program->spaces[index].offset * l->n;
}

/* round.c */

#define SCHEDULE_MOST 2048 /* a longer list is shuffled by the host: one GPU thread would take long */

/* Trains a turn that train.c has prepared; where it has to, sums are added up with it. */
int round_run(struct turn *turn, struct error *err);
void rounds_forget_graphs(struct lanes *lanes);
/* Graphs of rounds that are there. lanes may be NULL. */
size_t rounds_kept(const struct lanes *lanes);
void rounds_free(struct lanes *lanes);

/* parallel_step.c: around a step's operations, and after each of them. */
int parallel_step_new(struct lanes *lanes, struct error *err);
void parallel_step_free(struct lanes *lanes);
int parallel_step_begin(struct lanes *lanes, struct error *err);
int parallel_step_made(struct lanes *lanes, const struct op *op, struct error *err);
int parallel_step_end(struct lanes *lanes, struct error *err);

/* layers.c: queues an operation of the program for all lanes. */
int layer_queue(struct lanes *lanes, const struct op *op, struct error *err);
/* library NULL: the own kernel. */
int gemm_queue(struct lanes *lanes, struct library *library, const struct gemm_args *args, struct error *err);
/* Whether the operation has this matrix product, with its arguments. */
bool layer_product(const struct lanes *lanes, const struct op *op, uint32_t mode, struct gemm_args *ret);
#define LAUNCH(lanes, kernel, args, err)                                                                               \
    (lanes)->plan->backend->driver->launch((lanes)->plan->backend->device, KERNEL_##kernel, args, sizeof *(args), err)

/* reduce.c */

struct resident {
    struct resident *next;   /* of the plan's */
    float *weights;          /* canonical, on the device */
    struct resident **peers; /* rank 0's: all, by rank */
};

/* A replica of a call. */
struct member {
    struct training *training;
    struct replica *replica;
    size_t k, i; /* which training of the call, which replica of that */
};

/* Those that are trained at once: lane after lane; members of one training are neighbours. */
struct turn {
    struct plan *plan;
    struct lanes *lanes;
    struct member *members; /* room for the call's */
    size_t n;
    struct training *trainings; /* the call's */
    size_t trainings_n;
    bool shared;      /* they share their starts: shared.c */
    bool sums;        /* they are added up as soon as they are trained */
    bool first, last; /* on one GPU: sums begin with it, resident models are stepped behind it */
    double began;
    size_t samples_n, entries_n;
    uint32_t epochs_max, steps_max;
    bool clears_state; /* nobody handed optimizer state in */
};

/* Arrays like the trainable weights. */
static inline size_t cuda_state_parts(const struct replica *r)
{
    return optimizer_state_floats(&r->optimizer, 1);
}

/* The end of the neighbours that begin at lane i. */
size_t turn_same_training(const struct turn *turn, size_t i);
bool turn_same_start(const struct member *a, const struct member *b);
size_t turn_same_starts(const struct turn *turn, size_t i);
/* Lanes that are queued for neighbours up to `end`: the last ones' reach over the lanes that are idle, so that it is the
 * same work for cohorts of any size. Not where starts are shared. */
size_t turn_lanes_end(const struct turn *turn, size_t end);
/* Of so many trainings: makes room for their sums; sets them to 0. */
int sums_grow(struct plan *plan, size_t n, struct error *err);
int sums_clear(struct plan *plan, size_t n, struct error *err);
/* Adds up what the turn leaves, in order of replicas, and queues its totals. */
int turn_sum(struct turn *turn, struct error *err);
/* What single replicas hand back, and the totals: waits. */
int turn_fetch(struct turn *turn, struct error *err);
/* What the trainings that are not canceled end with: models that stay, sums that the caller has. */
int models_step(struct plan *plan, const struct training *trainings, size_t n, struct error *err);
int sums_fetch(struct plan *plan, const struct training *trainings, size_t n, struct error *err);
int cuda_get_canonical(struct plan *plan, const float *working, float *canonical, size_t n, struct error *err);
int gpu_put_model(struct plan *plan, struct resident **model, const float *weights, struct error *err);
int cuda_put_model(struct plan *plan, struct resident **model, const float *weights, struct error *err);
int cuda_get_model(struct plan *plan, const struct resident *model, float *weights, struct error *err);
void cuda_drop_model(struct plan *plan, struct resident *model);

/* shared.c */

/* Rows of factors that a layer has room for; 0: its replicas never share. */
size_t shared_rank(const struct layer *layer, size_t rows, enum precision precision);
/* Whether the replicas of a call share. */
bool shared_pays(const struct plan *plan, const struct training *trainings, size_t n);
enum shared_product {
    SHARED_FORWARD_START,
    SHARED_FORWARD_GRAM,
    SHARED_FORWARD_FACTORS,
    SHARED_BACKWARD_START,
    SHARED_BACKWARD_GRAM,
    SHARED_BACKWARD_FACTORS
};
int shared_shape(const struct layer *layer, enum shared_product which, size_t rank, size_t rows,
                 enum precision precision, struct gemm_args *ret);
/* Raises the bytes of a lane's parts to what the products want. */
int shared_spaces(const struct layer *layer, bool backward, size_t rank, size_t rows, enum precision precision,
                  size_t *ret_parts_bytes);
bool shared_product(const struct lanes *lanes, const struct op *op, enum shared_product which, struct gemm_args *ret);
int shared_forward(struct lanes *lanes, const struct op *op, struct error *err);
int shared_backward(struct lanes *lanes, const struct op *op, struct error *err);
void shared_begin(struct turn *turn);
size_t shared_partials(const struct program *program); /* of a lane */
int shared_sums(struct turn *turn, struct error *err);

/* libraries.c: what a library computes of the program; NULL: the own kernel does. */

int libraries_new(struct lanes *lanes, struct error *err);
void libraries_free(struct lanes *lanes);
struct library *library_of(const struct lanes *lanes, const struct op *op, uint32_t mode);
struct library *library_of_shared(const struct lanes *lanes, const struct op *op, enum shared_product which);

/* train.c, evaluate.c */

/* A turn: all up to `last` is set. Queues its training; totals become what the replicas report. */
int turn_train(struct turn *turn, struct error *err);
void turn_report(struct turn *turn);
int cuda_train(struct plan *plan, struct training *trainings, size_t n, struct error *err);
int cuda_gradients(struct plan *plan, const float *weights, const struct data_split *split, const uint32_t *samples,
                   size_t n, float *ret_gradients, double *ret_loss, struct error *err);
int cuda_evaluate(struct plan *plan, const float *weights, const struct data_split *split, const uint32_t *samples,
                  size_t n, struct evaluation *ret, float *predictions, struct error *err);
int cuda_evaluate_model(struct plan *plan, const struct resident *model, const struct data_split *split,
                        const uint32_t *samples, size_t n, struct evaluation *ret, float *predictions,
                        struct error *err);
/* How many lanes go at once for n replicas: all, or as few turns as memory allows. */
int lanes_for(struct plan *plan, size_t n, size_t *ret_lanes, struct error *err);
/* Lanes for n replicas; those that are there serve fewer, too. parallel: of one, for shares of its batches. */
int cuda_plan_training(struct plan *plan, size_t n, bool parallel, struct error *err);
/* What lanes_tell will tell of the data. */
void cuda_plan_point(struct lanes *lanes, const struct data_split *split, uint64_t total);
/* Of weights, or of a model on the device: each sample's loss and prediction, and where wanted its scores. */
int cuda_score(struct plan *plan, const float *weights, const struct resident *model, const struct data_split *split,
               const uint32_t *samples, size_t n, double *losses, uint16_t *predictions, float *scores,
               struct error *err);

/* memory.c: opens the first GPU that can be, and says what look tells of it. -ENOBUFS: other processes hold the memory of
 * all that could be (full_too: of the first that could), and *ret_info is of the first of these. Else why the first GPU
 * cannot be opened. */
int device_any(const struct driver *driver, bool full_too, struct device **ret, struct device_info *ret_info, struct error *err);

/* cuda.c: of one GPU, which is index among the visible ones */

int gpu_open(const struct driver *driver, int index, struct backend **ret, struct error *err);
void gpu_close(struct backend *backend);
int gpu_load_dataset(struct backend *backend, const struct dataset *dataset, struct error *err);

/* parallel.c: of all GPUs of rank 0's backend or plan */

int parallel_open(const struct driver *driver, size_t n, struct backend **ret, struct error *err);
void parallel_close(struct backend *backend);
int parallel_load_dataset(struct backend *backend, const struct dataset *dataset, struct error *err);
int parallel_plan_new(struct backend *backend, const struct model *model, const struct plan_options *options,
                      struct plan **ret, struct error *err);
void parallel_plan_free(struct plan *plan);
int parallel_score(struct plan *plan, const float *weights, const struct resident *model,
                   const struct data_split *split, const uint32_t *samples, size_t n, double *losses,
                   uint16_t *predictions, float *scores, struct error *err);
int parallel_put_model(struct plan *plan, struct resident **model, const float *weights, struct error *err);
/* parallel_train.c */
int parallel_train(struct plan *plan, struct training *trainings, size_t n, struct error *err);

#endif
