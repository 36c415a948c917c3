/* backend.h - "train these replicas". A backend trains many models of one shape at once: the clients of a cohort, or those
 * of several packed trials. Weights cross this interface as flat canonical arrays (model.h).
 *
 * open -> load_dataset -> compile(model, options) -> train / evaluate ... -> release_plan -> close
 *
 * Replicas are independent. For `weighted_sum` the backend adds weight * (trained weights) of a training's replica 0, 1,
 * 2 ... in that order in double precision, so that the aggregate is the same for any number of threads; a replica whose
 * loss or weights are not finite is added all the same (a diverged run must be seen to diverge) and flagged. A training's
 * results do not depend on what else is in the call (on a GPU: in fp32_strict).
 * The CPU backend is the reference: one replica per pinned thread; threads inside a replica only where replicas are fewer
 * than cores, with equal bits. Random decisions: rng_key(seed, purpose, trial, round, client << 16 | local epoch).
 * Threads: one caller at a time.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_TRAINER_BACKEND_H
#define FLEXP_TRAINER_BACKEND_H

#include "common/error.h"
#include "trainer/data/augment.h"
#include "trainer/data/dataset.h"
#include "trainer/metrics/metrics.h"
#include "trainer/model/model.h"
#include "trainer/optim/optim.h"

#define BACKEND_API_VERSION 2

struct backend;
struct plan;

struct backend_options {
    const int *cores; /* one thread for each, pinned to it; cores[i] < 0: not pinned */
    size_t cores_n;
    size_t gpus_n; /* a GPU backend's: it trains on the first so many that are visible; 0 counts as 1 */
    bool planning; /* for compile without a plan, and fit, alone: a GPU backend opens also where others hold all memory */
};

/* fp32: fp32 throughout, sums in whatever order is fast, Winograd's F(4x4) and 5x5 kernels by F(2x2) included (their rounding
 * errors are up to 6 times those of a direct sum). fp32_strict: nothing whose errors are larger than a direct sum's by more than half; on a GPU also
 * equal bits from run to run and packed or not. tf32, bf16: a GPU's; operands of matrix products are rounded, sums and
 * weights are not. */
enum precision { PRECISION_FP32, PRECISION_FP32_STRICT, PRECISION_TF32, PRECISION_BF16 };
extern const char *const PRECISION_NAMES[]; /* NULL-terminated */

struct plan_options {
    size_t batch; /* the largest a replica will use; bits may depend on it (a trial's own batch gives its bits) */
    enum precision precision;
};

struct backend_info {
    const char *name; /* "cpu" */
    const char *isa;  /* part of what bits depend on: "avx512", or with kernels forced "avx512 direct"; "sm_90, cuDNN ..." */
};

struct replica {
    /* in */
    const float *start;         /* weights_n floats */
    const uint32_t *samples;    /* of the training split */
    size_t samples_n;
    int64_t epochs;             /* local epochs; each shuffles anew */
    int64_t max_batches;        /* 0: no limit; else stops after so many in all */
    size_t batch;               /* the last batch of an epoch may be smaller */
    float lr;
    struct optimizer optimizer;
    const struct model *model;  /* of the plan's key: its dropout rates are taken; NULL: the plan's own */
    uint64_t seed, trial, round, client; /* the random key */
    double weight;              /* in the weighted sum */
    float proximal_mu;          /* 0: none; anchor is start */
    const float *correction;    /* added to the gradient; NULL: none */
    float *optimizer_state;     /* in and out; NULL: starts as zeros, thrown away */
    int64_t optimizer_steps;    /* in and out: Adam's t so far */
    /* out */
    double loss_sum;            /* of sample losses, each at its step's weights */
    uint64_t samples_seen, correct;
    int64_t batches;
    double update_norm;         /* l2 norm of trained - start, trainable part */
    bool finite;                /* loss and weights */
    double seconds;
};

/* A global model that the backend keeps beside a plan (put_model), so that no weights cross in a round. */
struct resident;

/* REDUCE_MODEL: replicas' start is NULL, they start from the resident model, and it becomes model + rate x (weighted sum -
 * model) for parameters, the weighted sum for buffers. */
enum reduction_type { REDUCE_WEIGHTED_SUM, REDUCE_EACH, REDUCE_MODEL };

struct reduction {
    enum reduction_type type;
    double *sum;            /* WEIGHTED_SUM: weights_n, overwritten; left alone on an error */
    float **each;           /* EACH: trained weights of each replica, weights_n floats each */
    struct resident *model; /* MODEL; left alone on an error */
    double rate;
};

/* A trial's part of a call: its replicas and what becomes of them. */
struct training {
    struct replica *replicas;
    size_t n;
    const struct augment *augment; /* NULL: none */
    struct reduction reduction;
    const volatile int *cancel;    /* non-zero gives this training up; looked at between batches, a GPU looks
                                    * once in 512 or more often. NULL: never */
    bool canceled;                 /* out: given up. Nothing was reduced, what stands in the replicas means nothing */
};

/* Why a GPU has too little memory for a trial at the moment. */
struct squeeze {
    size_t gpu; /* of those that the backend was opened with */
    const char *name;
    size_t needed_bytes;              /* by the trial */
    size_t free_bytes;                /* or held by this process */
    size_t total_bytes, others_bytes; /* others: held by other processes, about */
};

struct backend_ops {
    int api_version;
    /* -ENOBUFS: other processes hold all the memory of a GPU. */
    int (*open)(const struct backend_options *options, struct backend **ret, struct error *err);
    void (*close)(struct backend *backend);
    struct backend_info (*info)(const struct backend *backend);
    /* Borrowed until the next call or close. */
    int (*load_dataset)(struct backend *backend, const struct dataset *dataset, struct error *err);
    /* mem_bytes of the plan is asked first with ret NULL. model is borrowed. */
    int (*compile)(struct backend *backend, const struct model *model, const struct plan_options *options,
                   struct plan **ret, size_t *ret_mem_bytes, struct error *err);
    /* Optional: how many trials of this plan, each of so many replicas at once, this backend's memory holds beside the data
     * (shapes and counts are looked at alone) and pay to be trained in one call; without it: 1. At least 1. */
    int (*fit)(struct backend *backend, const struct model *model, const struct plan_options *options,
               const struct dataset *dataset, size_t replicas, size_t *ret_trials, struct error *err);
    /* Optional, asked after -ENOMEM: whether a trial of this plan is out of memory only because other processes hold what
     * it lacks. */
    bool (*squeezed)(struct backend *backend, const struct model *model, const struct plan_options *options,
                     const struct dataset *dataset, struct squeeze *ret);
    void (*release_plan)(struct plan *plan);
    /* Optional: gives back the memory that plans other than this one hold between calls, but for resident models; their next
     * calls make it anew. Whether there was any. */
    bool (*trim)(struct backend *backend, const struct plan *but);
    /* All trainings at once. -ENOMEM: out of memory for these together; not finite is no error. -ECANCELED: all of them
     * were given up. On an error nothing was reduced. */
    int (*train)(struct plan *plan, struct training *trainings, size_t n, struct error *err);
    /* Optional, all four or none: resident models. put makes one where *model is NULL; release_plan frees those that are
     * left; evaluate_model is evaluate of one. */
    int (*put_model)(struct plan *plan, struct resident **model, const float *weights, struct error *err);
    int (*get_model)(struct plan *plan, const struct resident *model, float *weights, struct error *err);
    void (*drop_model)(struct plan *plan, struct resident *model);
    int (*evaluate_model)(struct plan *plan, const struct resident *model, const struct data_split *split,
                          const uint32_t *samples, size_t n, struct evaluation *ret, float *predictions,
                          struct error *err);
    /* Sums over these samples of a split, in fixed chunks: equal bits for any number of threads. predictions (may be NULL):
     * n x classes softmax scores. */
    int (*evaluate)(struct plan *plan, const float *weights, const struct data_split *split, const uint32_t *samples,
                    size_t n, struct evaluation *ret, float *predictions, struct error *err);
    /* For tests and parity: gradients of the mean loss of one batch at these weights (dropout off), trainable_n floats. */
    int (*gradients)(struct plan *plan, const float *weights, const struct data_split *split, const uint32_t *samples,
                     size_t n, float *ret_gradients, double *ret_loss, struct error *err);
    /* optional. What the plan is made of, and what its parts take on this machine: {isa, batch, peak_flops, step_us, rows:
     * [{first, last (layers), types, kernel, flops, bytes, forward_us, backward_us, peak_share}]}. New reference; NULL: err. */
    json_t *(*profile)(struct plan *plan, const float *weights, struct error *err);
};

/* For backends: -EINVAL where no data set is loaded, it is not what the model is for, or a sample is past the split's end. */
int backend_check_samples(const struct model *model, const struct dataset *dataset, const struct data_split *split,
                          const uint32_t *samples, size_t n, struct error *err);

/* For backends, of a call: how many replicas; -EINVAL where one cannot be trained with a plan for batches of up to `batch`;
 * what *cancel says; whether all trainings are marked as canceled. */
size_t backend_replicas(const struct training *trainings, size_t n);
int backend_check_trainings(const struct model *model, const struct dataset *dataset, size_t batch,
                            const struct training *trainings, size_t n, struct error *err);
bool backend_canceled(const struct training *training);
bool backend_all_canceled(const struct training *trainings, size_t n);

/* Trains the replicas of one trial. */
int backend_train(const struct backend_ops *ops, struct plan *plan, struct replica *replicas, size_t n,
                  const struct augment *augment, const struct reduction *reduction, const volatile int *cancel,
                  struct error *err);

/* From the resolved `training` section. */
struct plan_options plan_options_from(const json_t *training);

extern const struct backend_ops BACKEND_CPU;

#endif
