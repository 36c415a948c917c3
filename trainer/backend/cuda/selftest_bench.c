/* selftest_bench.c - timings: images/s of one model and of packed replicas, and pfl-research's CIFAR-10 benchmark.
 * Data are made up (timings do not depend on them; accuracies are measured elsewhere). Every row is the median of
 * several rounds after a warm-up round, by the host's clock around whole calls that end with the results on the host.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cuda/selftest.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

static const char *label = "";

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return x < y ? -1 : x > y;
}

static void put(struct selftest *t, const char *key, double value)
{
    json_object_set_new(t->timings, key, json_real(value));
    printf("%-44s %14.2f\n", key, value);
    fflush(stdout);
}

/* So many replicas, each of `steps` batches. */
static int time_replicas(struct bed *b, size_t replicas, size_t batch, size_t steps, int repeats, double *ret,
                         struct error *err)
{
    struct replica *r = calloc(replicas, sizeof *r);
    uint32_t *samples = calloc(batch * steps, sizeof *samples);
    struct reduction reduction = {.type = REDUCE_WEIGHTED_SUM, .sum = calloc(b->model->weights_n, sizeof(double))};
    struct augment augment = {.crop_padding = 4, .horizontal_flip = true};
    double seconds[16];
    int rc = 0;

    for (size_t i = 0; i < batch * steps; i++)
        samples[i] = (uint32_t)(i % b->data.train.n);
    for (int k = 0; k <= repeats && !rc; k++) {
        double began;
        for (size_t i = 0; i < replicas; i++)
            r[i] = (struct replica){.start = b->weights,
                                    .samples = samples,
                                    .samples_n = batch * steps,
                                    .epochs = 1,
                                    .batch = batch,
                                    .lr = 1e-3f,
                                    .optimizer = {.momentum = 0.9f},
                                    .seed = 1,
                                    .trial = 1,
                                    .round = (uint64_t)k,
                                    .client = i,
                                    .weight = 1 / (double)replicas};
        began = now();
        rc = backend_train(&BACKEND_CUDA, b->gpu_plan, r, replicas, &augment, &reduction, NULL, err);
        if (k)
            seconds[k - 1] = now() - began;
    }
    qsort(seconds, (size_t)repeats, sizeof *seconds, by_value);
    *ret = seconds[repeats / 2];
    free(samples);
    free(r);
    free(reduction.sum);
    return rc;
}

static void bench_images(struct selftest *t, const char *preset, enum precision precision, size_t replicas, bool quick)
{
    struct bed b;
    struct error err = {0};
    size_t batch = 64, steps = quick ? 64 : 256;
    double seconds;
    char key[100];

    snprintf(key, sizeof key, "%s %s%s batch 64 replicas %zu, images/s", preset, PRECISION_NAMES[precision], label,
             replicas);
    if (bed_init(&b, preset, 3, 32, 32, 10, 4096, batch, precision, &err)) {
        selftest_error(t, key, err.text);
        return;
    }
    if (time_replicas(&b, replicas, batch, steps, quick ? 3 : 7, &seconds, &err))
        selftest_error(t, key, err.text);
    else
        put(t, key, (double)(replicas * batch * steps) / seconds);
    bed_done(&b);
}

/* 1,000 clients of 50 images, cohorts of 50, one local epoch of batches of 10, SGD 0.1, plain mean, central evaluation
 * of 10,000 images every 10 rounds: 375,000 client steps, 150 evaluations in 1,500 rounds. */
static void bench_pfl(struct selftest *t, enum precision precision, int rounds)
{
    struct bed b;
    struct error err = {0};
    struct evaluation e = {0};
    struct replica r[50];
    uint32_t *samples = calloc(50000, sizeof *samples);
    struct reduction reduction = {.type = REDUCE_MODEL, .rate = 1};
    struct pcg32 rng = rng_key(1, RNG_COHORT, 0, 0, 0);
    uint64_t steps = 0, evaluations = 0;
    double began = 0;
    char key[100];
    int rc;

    snprintf(key, sizeof key, "pfl-research's benchmark %s%s, %d rounds", PRECISION_NAMES[precision], label, rounds);
    if ((rc = bed_init(&b, "pfl_cnn", 3, 32, 32, 10, 50000, 10, precision, &err))) {
        selftest_error(t, key, err.text);
        free(samples);
        return;
    }
    rc = evaluation_init(&e, 10);
    rc = rc ? rc : BACKEND_CUDA.put_model(b.gpu_plan, &reduction.model, b.weights, &err);
    for (uint32_t i = 0; i < 50000; i++)
        samples[i] = i;
    for (int round = 0; round <= rounds && !rc; round++) { /* round 0 warms up */
        if (round == 1)
            began = now();
        for (size_t i = 0; i < 50; i++) {
            uint32_t client = rng_below(&rng, 1000);
            r[i] = (struct replica){.samples = samples + 50 * client,
                                    .samples_n = 50,
                                    .epochs = 1,
                                    .batch = 10,
                                    .lr = 0.1f,
                                    .seed = 1,
                                    .trial = 1,
                                    .round = (uint64_t)round,
                                    .client = client,
                                    .weight = 1.0 / 50};
        }
        rc = backend_train(&BACKEND_CUDA, b.gpu_plan, r, 50, NULL, &reduction, NULL, &err);
        for (size_t i = 0; i < 50 && round; i++)
            steps += (uint64_t)r[i].batches;
        if (!rc && round % 10 == 0) {
            evaluation_clear(&e);
            rc = BACKEND_CUDA.evaluate_model(b.gpu_plan, reduction.model, &b.data.test, samples, 10000, &e, NULL, &err);
            evaluations += round > 0;
        }
    }
    if (rc) {
        selftest_error(t, key, err.text);
    } else {
        double seconds = now() - began;
        rc = BACKEND_CUDA.get_model(b.gpu_plan, reduction.model, b.weights, &err);
        printf("%llu client steps, %llu evaluations\n", (unsigned long long)steps, (unsigned long long)evaluations);
        strcat(key, ", s");
        put(t, key, seconds);
        if (!getenv("FLEXP_CUDA_ROUNDS"))
            selftest_saw_rounds(t, &b);
    }
    evaluation_done(&e);
    free(samples);
    bed_done(&b);
}

/* own: without the libraries. */
static void bench_all(struct selftest *t, enum precision precision, bool own, bool quick)
{
    setenv("FLEXP_CUDA_LIBRARIES", own ? "none" : "", 1);
    label = own ? " own kernels" : "";
    for (size_t replicas = 1; replicas <= 16; replicas *= quick ? 16 : 2)
        bench_images(t, "bench_cnn", precision, replicas, quick);
    bench_images(t, "seed_cnn", precision, 1, quick);
    if (!quick)
        bench_images(t, "seed_cnn", precision, 16, quick);
    bench_pfl(t, precision, quick ? 30 : 1500);
    if (precision != PRECISION_FP32_STRICT && !own) {
        setenv("FLEXP_CUDA_SHARED", "0", 1);
        label = " weights of their own";
        bench_pfl(t, precision, quick ? 30 : 300);
        unsetenv("FLEXP_CUDA_SHARED");
        setenv("FLEXP_CUDA_ROUNDS", "calls", 1);
        label = " call by call";
        bench_pfl(t, precision, quick ? 30 : 300);
        unsetenv("FLEXP_CUDA_ROUNDS");
    }
    label = "";
    unsetenv("FLEXP_CUDA_LIBRARIES");
}

static void profile_all(struct selftest *t, enum precision precision)
{
    selftest_profile(t, &(struct profile_setting){"pfl_cnn", "", precision, 50, 10, 0});
    setenv("FLEXP_CUDA_SHARED", "0", 1);
    selftest_profile(t, &(struct profile_setting){"pfl_cnn", ", weights of their own", precision, 50, 10, 0});
    unsetenv("FLEXP_CUDA_SHARED");
    selftest_profile(t, &(struct profile_setting){"bench_cnn", "", precision, 1, 64, 0.9f});
    selftest_profile(t, &(struct profile_setting){"bench_cnn", "", precision, 16, 64, 0.9f});
    selftest_profile(t, &(struct profile_setting){"seed_cnn", "", precision, 1, 64, 0.9f});
}

void selftest_bench(struct selftest *t, bool quick, const bool *wanted)
{
    static const struct {
        enum precision precision;
        bool own;
    } ROWS[] = {{PRECISION_BF16, false},
                {PRECISION_TF32, false},
                {PRECISION_TF32, true},
                {PRECISION_FP32, false},
                {PRECISION_FP32_STRICT, false}};

    for (size_t i = 0; i < sizeof ROWS / sizeof *ROWS; i++)
        if (!wanted || wanted[ROWS[i].precision])
            bench_all(t, ROWS[i].precision, ROWS[i].own, quick);
    for (size_t i = 0; i < sizeof ROWS / sizeof *ROWS; i++)
        if ((!wanted || wanted[ROWS[i].precision]) && !ROWS[i].own)
            profile_all(t, ROWS[i].precision);
}
