/* cpu_private.h - the CPU backend's parts and how they hang together.
 *
 *   threads.c   a crew of pinned threads; teams of them for one replica
 *   native/     our own kernels for convolutions and dense layers
 *   choose.c    whose kernel a layer gets
 *   graph.c     model -> nodes and tensors: what is fused, done in place, skipped; which gradients are wanted where
 *   linear.c    oneDNN: convolution and dense primitives for one batch size, and their arguments
 *   layout.c    weights' working layout
 *   plan.c      variants (batch sizes), compiling
 *   workers.c   what one replica in training needs
 *   kernels.c, pooling.c, norm.c, loss.c   own loops
 *   own.c       layers that have our own kernels
 *   step.c      forward and backward through the nodes
 *   sum.c       weighted sums of replicas in order
 *   train.c, evaluate.c, cpu.c  the table of functions
 *
 * Activations are channels-last (N, H, W, C), or a lane for each sample between two convolutions of that kind. The
 * working layout of weights is what the layer's kernel says, or what oneDNN likes for the forward pass; each parameter starts at a cache line, and oneDNN's padding, where there is some, holds zeros that every optimizer
 * keeps. `flatten` moves nothing: the first dense layer's weights are permuted instead, where only such layers see the
 * order. A last batch that is smaller than the others runs with rows of zeros added, whose gradients are zeros; norms
 * and losses count the real rows alone. SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_TRAINER_CPU_PRIVATE_H
#define FLEXP_TRAINER_CPU_PRIVATE_H

#include "common/buffer.h"
#include "common/rng.h"
#include "common/topology.h"
#include "trainer/backend/backend.h"
#include "trainer/backend/cpu/native/native.h"

#include <dnnl.h>
#include <pthread.h>
#include <stdatomic.h>

/* threads.c */

struct crew;

/* Threads stand on these cores in the order of the topology, so that those of a team are neighbours. Where the cores are of
 * several NUMA nodes, what a thread of the crew touches first is memory of its own node; what the caller does, from now until
 * crew_free, is spread over all: weights and data that all read. topology: NULL, or outlives the crew. */
int crew_new(const int *cores, size_t n, const struct topology *topology, struct crew **ret, struct error *err);
void crew_free(struct crew *crew);
size_t crew_size(const struct crew *crew);
double clock_seconds(void); /* monotonic */
/* Runs fn(arg, 0 .. n - 1) on the first n threads and waits for all of them. */
void crew_run(struct crew *crew, size_t n, void (*fn)(void *arg, size_t thread), void *arg);
/* The same of what can fail: 0, or what the first that failed says. */
int crew_try(struct crew *crew, size_t n, int (*fn)(void *arg, size_t thread, struct error *err), void *arg,
             struct error *err);

/* Some of the crew's threads that share one replica. The leader calls team_run; the others are in team_follow until
 * team_dismiss. fn(arg, rank) runs once for each rank below the team's size; team_run returns when all have. */
struct team {
    size_t n;
    size_t first; /* the leader's number in the crew; the others' follow */
    atomic_uint_fast64_t turn;
    atomic_size_t running;
    atomic_bool over;
    void (*fn)(void *arg, size_t rank);
    void *arg;
};

void team_run(struct team *team, void (*fn)(void *arg, size_t rank), void *arg);
void team_follow(struct team *team, size_t rank);
void team_dismiss(struct team *team);

/* choose.c: by rule, from shapes, batch, precision and instruction set alone; never by measuring. */

struct choose_rules {
    const struct native *native; /* NULL: oneDNN everywhere */
    size_t batch;
    size_t l2_bytes;  /* of a core, for blocks on which no bits depend; 0: not known */
    bool strict;      /* no F(4x4), and no 5x5 by Winograd */
    const char *only; /* a convolution kernel's name: this one or oneDNN, for comparisons; NULL: by rule */
};

/* From FLEXP_ISA and FLEXP_CPU_KERNELS; *ret_only NULL where the latter forces nothing. -EINVAL where one of them is wrong. */
int choose_kernels(const struct native **ret_native, const char **ret_only, struct error *err);
struct choose_rules choose_rules(const struct native *native, const char *only, size_t batch, enum precision precision);
const struct conv_kernel *choose_conv(const struct choose_rules *rules, const struct conv *conv);
bool choose_dense(const struct choose_rules *rules);
bool choose_is_batched(const struct conv_kernel *kernel);
/* Rows of a batch whose gradients of weights are one sum: the same for any number of threads. */
size_t choose_chunk(const struct conv_kernel *kernel, const struct conv *conv, size_t batch);

/* graph.c */

struct node {          /* of one layer */
    bool absorbed;     /* computed with a layer before it: nothing to do, nothing of what follows is set */
    const struct conv_kernel *kernel; /* our own convolution; NULL: none */
    struct conv conv;
    bool by_parts; /* its threads share channels and filters, not rows */
    bool own_dense;
    struct dense dense;
    struct native_norm norm; /* batch norm: pixels of one row of the batch */
    int in, in2, out;  /* tensors: 0 is the image, i + 1 the output of layer i; in2: add only, else -1 */
    bool relu;         /* convolution, dense: the ReLU behind it is computed with it */
    int dropout;       /* the layer whose decisions are applied with this one's ReLU; 0: none */
    bool skip_forward; /* nothing to do: see relu above, or a flatten that moves nothing */
    bool skip_backward;
    bool relu_mask;         /* max pool: its backward pass applies the mask of the ReLU before it */
    bool need_in, need_in2; /* the gradient of the input is wanted */
    bool add_in, add_in2;   /* another layer has written it already: add, where the kernel does not (conv.add_dx) */
    bool permuted;          /* dense: the input comes in H, W, C order of `image` */
    struct shape image;
    size_t aux;       /* bytes a row, kept from forward to backward: arg max, masks */
    size_t aux_fixed; /* bytes in all: statistics */
};

struct tensor {
    size_t values; /* of a row */
    bool absent;   /* inside a fused group: has no storage */
    int root;      /* shares storage with this tensor */
    int slot;      /* of the gradient; -1: none is wanted */
};

struct graph {
    const struct model *model;
    struct choose_rules rules;
    size_t rows_max;
    struct node *nodes;     /* layers_n */
    struct tensor *tensors; /* layers_n + 1 */
    size_t *slots;          /* values of a row */
    size_t slots_n;
    size_t spare;    /* values of a row of the largest gradient that is added to another */
    size_t channels; /* the most that a norm or global pool sees */
};

int graph_init(struct graph *graph, const struct model *model, const struct choose_rules *rules, size_t rows_max);
void graph_done(struct graph *graph);

/* linear.c */

int dnnl_fail(struct error *err, dnnl_status_t status, const char *what);

struct linear {
    dnnl_primitive_t forward, backward_data, backward_weights;            /* the last two NULL when not wanted */
    dnnl_primitive_t to_forward, to_backward_data, from_backward_weights; /* reorders; NULL: same layout */
    dnnl_memory_desc_t src, dst, weights, weights_data, weights_grad, bias;
    dnnl_memory_desc_t scratch[3]; /* forward, backward data, backward weights */
};

/* working: in: the layout of the weights between steps; where its ndims is 0, set to what the forward pass likes. */
int linear_create(dnnl_engine_t engine, const struct layer *layer, const struct node *node, size_t rows, bool training,
                  dnnl_memory_desc_t *working, struct linear *ret, struct error *err);
void linear_destroy(struct linear *linear);
/* Where a value of the weights stands in the working layout. index: in (O, I, R, S) or (out, in) order. */
size_t linear_offset(const dnnl_memory_desc_t *working, const struct layer *layer, const int64_t *index);

struct bound { /* arguments of one layer's primitives for one replica */
    dnnl_memory_t memories[16];
    size_t memories_n;
    dnnl_exec_arg_t forward[5], backward_data[4], backward_weights[5];
    dnnl_exec_arg_t to_forward[2], to_backward_data[2], from_backward_weights[2];
    int forward_n, backward_data_n, backward_weights_n;
};

struct binding {         /* a variant's arguments for one replica */
    struct bound *bound; /* layers_n */
    void *buffer;        /* reordered weights and scratch */
};

struct worker;
struct variant;
int binding_new(struct worker *w, const struct variant *v, struct binding **ret, struct error *err);
void binding_free(struct binding *binding, size_t layers_n);
int linear_forward(struct worker *w, const struct linear *linear, const struct bound *bound);
int linear_backward(struct worker *w, const struct linear *linear, const struct bound *bound);

/* plan.c */

struct backend {
    struct topology *topology; /* NULL: not known */
    size_t l2_bytes;
    struct crew *crew;
    dnnl_engine_t engine;
    const struct dataset *dataset;
    const struct native *native;
    const char *only; /* as of struct choose_rules, and "onednn"; NULL: by rule */
    char isa[32];     /* native's name, and `only` */
};

struct variant { /* the primitives for one number of rows */
    size_t rows;
    bool training;
    struct linear *linear; /* layers_n; empty for other layers */
};

struct place { /* of a parameter in the working layout */
    size_t offset, size;
};

struct layer_times { /* seconds; the quickest so far, 0: not yet run */
    double forward, backward;
};

enum prepared { PREPARED_NOT, PREPARED_FORWARD, PREPARED_BOTH };

struct worker { /* what one replica in training needs */
    struct plan *plan;
    struct team *team; /* never NULL while it works */
    dnnl_stream_t stream;
    void *arena;
    float *weights, *grads;
    void **layer_prepared; /* by layer: what conv_kernel.prepare makes of the weights */
    enum prepared prepared; /* of the weights as they are now */
    float *partials;        /* sums of the gradients of weights by chunk */
    size_t partials_n;      /* floats */
    struct update *update;  /* NULL: gradients are wanted, not steps */
    struct layer_times *times; /* by layer; NULL: nobody wants to know */
    float **act, **grad; /* by tensor */
    float *spare;
    void **aux; /* by layer */
    uint16_t *labels;
    struct augment_choice *choices; /* of a batch's samples */
    const struct layer *rates; /* the model's layers, with the dropout rates of the replica at hand */
    bool dropping;             /* the last forward pass has dropout on */
    struct binding **bindings; /* as plan->variants */
    size_t bindings_n;
    /* for train(), grown before the threads start */
    float *state, *own_start;
    size_t state_n;
    uint32_t *order;
    size_t order_n;
    struct error err;
    int rc;
};

struct plan {
    struct backend *backend;
    const struct model *model;
    struct graph graph;
    size_t batch, rows_max, grain; /* rows are rounded up to the grain */
    bool onednn; /* which computes a layer at least */
    dnnl_memory_desc_t *working;   /* by layer; ndims 0 where there are no such weights */
    struct place *places;          /* by parameter */
    size_t weights_n, trainable_n; /* floats of the working layout */
    const struct node **node_of;   /* by parameter: the layer with kernels of our own whose weights it is, or NULL */
    uint32_t **where;              /* by parameter: canonical -> working index of oneDNN's weights; NULL: another's */
    struct variant **variants;
    size_t variants_n;
    size_t *chunks;              /* by layer: choose_chunk; 0: it has none */
    size_t partial_floats, chunks_max; /* of one chunk of the convolution that needs the most */
    size_t scratch_bytes;        /* that any of our kernels wants */
    void **scratch;              /* by thread of the crew; NULL until used */
    struct worker **workers; /* crew_size; NULL until used */
    float *start;            /* working layout, shared by the replicas of a train() that start alike */
    double **sums;           /* one for each training with a sum in the largest train() so far */
    size_t sums_n;
    float **waiting; /* crew_size buffers for weights that wait to be added; NULL until used */
};

#define EVALUATE_ROWS 32 /* fixed, so that scores depend on weights, samples and the choice of kernels alone */

int plan_compile(struct backend *backend, const struct model *model, const struct plan_options *options,
                 struct plan **ret, struct error *err);
void plan_free(struct plan *plan);
size_t plan_mem_bytes(const struct model *model, size_t batch, size_t threads);
/* On one of the crew's threads. Finds or makes the primitives for a batch of n. */
int plan_variant(struct plan *plan, size_t n, bool training, size_t *ret_index, struct error *err);
size_t plan_rows(const struct plan *plan, size_t n);
const struct variant *plan_find(const struct plan *plan, size_t n, bool training, size_t *ret_index);
bool plan_is_linear(const struct layer *layer);
/* A layer that oneDNN computes. */
bool plan_is_onednn(const struct plan *plan, size_t layer);
size_t plan_aligned(size_t bytes);

/* layout.c */

/* Places of the parameters in the working layout, behind the first variant; -ENOMEM: or more than 2^32 floats. */
int layout_make(struct plan *plan, struct error *err);
/* canonical -> working (padding zeroed), and back; the sums of a round; what is like the trainable part alone. */
void plan_gather(const struct plan *plan, const float *canonical, float *working);
void plan_scatter(const struct plan *plan, const float *working, float *canonical);
void plan_scatter_sum(const struct plan *plan, const double *working, double *canonical);
void plan_scatter_scaled(const struct plan *plan, const float *working, double weight, double *canonical);
void plan_gather_trainable(const struct plan *plan, const float *canonical, float *working);
void plan_scatter_trainable(const struct plan *plan, const float *working, float *canonical);
void plan_add_trainable(const struct plan *plan, const float *canonical, float *working);

/* workers.c */

/* For n threads in teams of `team`: the leaders' workers with bindings of all variants, and scratch for every thread. */
int plan_workers(struct plan *plan, size_t n, size_t team, struct error *err);
void worker_free(struct worker *w);

/* own.c */

/* How the step that ends a batch is taken; ranges of the weights may be given to it as soon as their gradients are
 * there. */
struct update {
    struct optimizer optimizer;
    float lr, proximal_mu;
    int64_t t;
    const float *start; /* the anchor, working layout */
    bool early;         /* false: all gradients are wanted first (a correction is added to them) */
};

/* Weights [from, to) of the working layout; g: gradients of these, changed where there is a proximal term. */
void own_update(struct worker *w, float *g, size_t from, size_t to);
/* What is left after a backward pass. */
void own_update_rest(struct worker *w);
size_t own_dense_scratch(const struct plan *plan, size_t layer);
/* The part of n things that is rank's, in whole grains. */
void own_share(const struct team *team, size_t rank, size_t n, size_t grain, size_t *ret_lo, size_t *ret_hi);
/* Adds the sums of chunks to the first, in order. floats of each, which stand plan->partial_floats apart. */
void own_add_chunks(struct worker *w, size_t chunks, size_t floats);
void own_forward(struct worker *w, size_t layer, size_t rows, bool training);
void own_backward(struct worker *w, size_t layer, size_t rows, float *dx);

/* step.c */

enum mode { MODE_TRAIN, MODE_GRADIENTS, MODE_EVALUATE };

/* Whether dropout layer i drops in the pass at hand. */
bool step_drops(const struct worker *w, size_t layer);
/* The image is in act[0] (n rows; the others are zeroed here). dropout: MODE_TRAIN only. */
int step_forward(struct worker *w, size_t variant, size_t n, enum mode mode, struct pcg32 *dropout);
/* From the gradient of the last tensor to all gradients. */
int step_backward(struct worker *w, size_t variant, size_t n);

/* pooling.c: x, y: n rows, channels-last */

/* arg: which place of its window each value came from; NULL: nobody will ask. */
void kernel_max_pool(const struct layer *l, const float *x, float *y, uint16_t *arg, size_t n);
/* relu_mask: y is the pool's output; where it is 0 the gradient is. dx is overwritten. */
void kernel_max_pool_backward(const struct layer *l, const float *dy, const float *y, const uint16_t *arg, float *dx,
                              size_t n, bool relu_mask);
void kernel_avg_pool(const struct layer *l, const float *x, float *y, size_t n);
void kernel_avg_pool_backward(const struct layer *l, const float *dy, float *dx, size_t n);
void kernel_global_avg_pool(const struct layer *l, const float *x, float *y, size_t n, double *sums);
void kernel_global_avg_pool_backward(const struct layer *l, const float *dy, float *dx, size_t n);

/* kernels.c: x, y: n rows, channels-last, or flat */

void kernel_relu(const float *x, float *y, size_t n);
void kernel_relu_backward(const float *y, const float *dy, float *dx, size_t n);
void kernel_add(const float *a, const float *b, float *y, size_t n);
void kernel_accumulate(const float *x, float *y, size_t n);
/* H, W, C to C, H, W and back. */
void kernel_transpose(const struct shape *image, const float *x, float *y, size_t n, bool back);
void kernel_scaled(const float *x, double weight, double *sum, size_t n); /* overwrites */
void kernel_add_scaled(const float *x, double weight, double *sum, size_t n);
void kernel_proximal(float mu, const float *w, const float *start, float *g, size_t n);
bool kernel_finite(const float *x, size_t n);
double kernel_distance(const float *a, const float *b, size_t n); /* squared */

/* norm.c */

#define NORM_CHUNK 8 /* rows whose gradients of gamma and beta are one sum */

size_t norm_scratch(const struct native *native, const struct native_norm *norm);
/* Ioffe, Szegedy 2015 (arXiv:1502.03167). The running variance takes the unbiased one, as PyTorch does (the biased one
 * where a channel has a single value). stats: 2 x channels; running statistics change with `update` only, and are used
 * where `training` is not set. */
void norm_batch(const struct native *native, const struct native_norm *norm, double momentum, const float *x,
                const float *skip, float *y, const float *gamma, const float *beta, float *running_mean, float *running_var, float *stats, size_t n,
                bool training, bool update, void *scratch);
void norm_forward(struct worker *w, size_t layer, size_t n, bool training, bool update);
void norm_backward(struct worker *w, size_t layer, size_t n, float *dx);

/* loss.c */

/* Softmax cross-entropy of n rows, in double. grad (may be NULL) becomes d(mean loss)/d(logits). Returns the sum of
 * losses. The prediction is the largest logit, the first of equals. confusion, scores: may be NULL. */
double loss_softmax(const float *logits, const uint16_t *labels, size_t n, size_t classes, float *grad,
                    uint64_t *ret_correct, uint64_t *confusion, float *scores);

/* sum.c */

struct sum { /* of a training */
    struct training *training;
    double *values; /* working layout; NULL: of a lone replica, which is scaled and written as it comes */
    size_t next;    /* its replica that is added next */
    bool adding;
    float **ready; /* by replica: weights that wait to be added */
};

struct sums { /* of a call */
    struct plan *plan;
    struct sum *of;
    size_t n;
    pthread_mutex_t lock; /* all below, and what is within `of` */
    pthread_cond_t moved;
    bool stopped;
    float **ready, **spares; /* spares: free buffers */
    size_t spares_n;
};

/* teams: how many replicas are trained at once. To be followed by sums_done, also after an error. */
int sums_init(struct sums *sums, struct plan *plan, struct training *trainings, size_t n, size_t teams,
              struct error *err);
void sums_done(struct sums *sums);
/* The weights of replica i of training k, for REDUCE_WEIGHTED_SUM; waits where it must. */
void sums_deliver(struct sums *sums, size_t k, size_t i, const float *weights);
/* Nobody waits any more: an error. */
void sums_stop(struct sums *sums);
/* Training k is canceled: what it has delivered is dropped. */
void sums_give_up(struct sums *sums, size_t k);
/* To the trainings' own sums. */
void sums_finish(const struct sums *sums);

/* train.c, evaluate.c, profile.c */

int cpu_train(struct plan *plan, struct training *trainings, size_t n, struct error *err);
int cpu_gradients(struct plan *plan, const float *weights, const struct data_split *split, const uint32_t *samples,
                  size_t n, float *ret_gradients, double *ret_loss, struct error *err);
int cpu_evaluate(struct plan *plan, const float *weights, const struct data_split *split, const uint32_t *samples,
                 size_t n, struct evaluation *ret, float *predictions, struct error *err);
json_t *cpu_profile(struct plan *plan, const float *weights, struct error *err);
int cpu_check_samples(const struct plan *plan, const struct data_split *split, const uint32_t *samples, size_t n,
                      struct error *err);

#endif
