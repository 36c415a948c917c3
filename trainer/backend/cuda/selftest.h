/* selftest.h - the checks that are run on a real GPU, each held against the CPU backend; tests run them on a fake one.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_TRAINER_CUDA_SELFTEST_H
#define FLEXP_TRAINER_CUDA_SELFTEST_H

#include "trainer/backend/cuda/cuda.h"
#include "trainer/backend/cuda/driver.h"

#include <stdio.h>

/* Whether rounds that should have been one graph were; ROUNDS_CALLS: not all of them. */
enum rounds_seen { ROUNDS_NOT_SEEN, ROUNDS_WHOLE, ROUNDS_CALLS };

struct selftest {
    int passed, failed;
    bool quiet;
    enum rounds_seen rounds;
    json_t *checks; /* array of {name, ok, value, limit, text} */
    json_t *timings;
    json_t *profiles; /* by setting: operation to microseconds */
};

/* A small data set, a model, and both backends on it. */
struct bed {
    struct dataset data;
    uint8_t *images;
    uint16_t *labels;
    struct model *model;
    struct backend *cpu, *gpu;
    struct plan *cpu_plan, *gpu_plan;
    float *weights;
};

/* layers: a list, or a preset's name. n images of noise with a stripe that tells the class. */
int bed_init(struct bed *bed, const char *layers, int channels, int height, int width, int classes, size_t n,
             size_t batch, enum precision precision, struct error *err);
void bed_done(struct bed *bed);
void selftest_device(struct backend *backend, const struct driver **ret_driver,
                     struct device **ret_device); /* cuda.c */

void selftest_init(struct selftest *t);
void selftest_done(struct selftest *t);
/* value <= limit passes; NaN fails. */
void selftest_check(struct selftest *t, const char *name, double value, double limit);
void selftest_error(struct selftest *t, const char *name, const char *text);

/* The largest difference of two arrays over the largest value of the first. */
double selftest_difference(const float *expected, const float *got, size_t n);

/* Loss, gradients and evaluation of every net of the shape table. */
void selftest_operations(struct selftest *t, enum precision precision);
/* 20 steps of replicas that differ in all they can differ in. */
void selftest_training(struct selftest *t, enum precision precision);
/* Bits: run to run, packed or not, in turns or at once. */
void selftest_bits(struct selftest *t, enum precision precision);
/* selftest_trials.c: bits of several trials in one call, and of each alone. */
void selftest_trials(struct selftest *t, enum precision precision);
/* selftest_rounds.c: bits of rounds as one graph, and call by call. */
void selftest_rounds(struct selftest *t, enum precision precision);
/* Whether the plan that was just trained with has its rounds as graphs: noted. */
bool selftest_saw_rounds(struct selftest *t, const struct bed *bed);
/* Memory over rounds. */
void selftest_memory(struct selftest *t, int rounds);
/* selftest_shared.c: plain SGD clients that share the round's start, against weights of their own. */
void selftest_shared(struct selftest *t, enum precision precision);
/* selftest_profile.c: what each operation of a step takes. */
struct profile_setting {
    const char *net, *label;
    enum precision precision;
    size_t replicas, batch;
    float momentum;
};
void selftest_profile(struct selftest *t, const struct profile_setting *setting);
/* selftest_parallel.c: so many GPUs in one trial. */
void selftest_parallel(struct selftest *t, enum precision precision, size_t gpus);
/* Opens the bed's GPU side anew on so many GPUs. */
int bed_use_gpus(struct bed *bed, size_t n, enum precision precision, size_t batch, struct error *err);
/* selftest_bench.c. wanted: by precision; NULL: all */
void selftest_bench(struct selftest *t, bool quick, const bool *wanted);

#endif
