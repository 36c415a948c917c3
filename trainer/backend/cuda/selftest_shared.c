/* selftest_shared.c - dense layers that share the round's start (shared.c) against weights of their own, here and on
 * the CPU: rounds of plain SGD clients of uneven sizes, with dropout, weight decay and a flatten in between.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cuda/selftest.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define NET                                                                                                            \
    "[{\"conv2d\": {\"filters\": 6, \"kernel\": 3, \"padding\": \"same\", \"activation\": \"relu\"}}, "                \
    "{\"max_pool2d\": {\"size\": 2}}, {\"dropout\": {\"rate\": 0.25}}, \"flatten\", "                                  \
    "{\"dense\": {\"units\": 64, \"activation\": \"relu\"}}, {\"dropout\": {\"rate\": 0.5}}, "                         \
    "{\"dense\": {\"units\": \"classes\"}}]"
#define CLIENTS 13
#define SAMPLES 120
#define ROUNDS 20

enum side { SHARED, OWN, CPU, SIDES };

static void make_clients(struct replica *r, const float *start, const uint32_t *samples, int round)
{
    for (size_t i = 0; i < CLIENTS; i++)
        r[i] = (struct replica){.start = start,
                                .samples = samples + 5 * i,
                                .samples_n = 1 + (i * 7 + (size_t)round) % 16,
                                .epochs = 1 + (int64_t)i % 2,
                                .batch = 4 + i % 2,
                                .lr = 0.05f / (float)(1 + i % 3),
                                .optimizer = {.weight_decay = i % 2 ? 1e-2f : 0},
                                .seed = 3,
                                .trial = 1,
                                .round = (uint64_t)round,
                                .client = i,
                                .weight = 1.0 / CLIENTS};
}

struct rounds {
    float *weights[SIDES];
    struct replica clients[SIDES][CLIENTS];
};

static int run(struct bed *b, struct rounds *r, int rounds, struct error *err)
{
    uint32_t samples[SAMPLES];
    double *sum = calloc(b->model->weights_n, sizeof *sum);
    int rc = 0;

    for (uint32_t i = 0; i < SAMPLES; i++)
        samples[i] = i;
    for (int round = 0; round < rounds; round++)
        for (int side = 0; side < SIDES && !rc; side++) {
            struct reduction reduction = {.type = REDUCE_WEIGHTED_SUM, .sum = sum};
            bool cpu = side == CPU;
            setenv("FLEXP_CUDA_SHARED", side == SHARED ? "1" : "0", 1);
            make_clients(r->clients[side], r->weights[side], samples, round);
            rc = backend_train(cpu ? &BACKEND_CPU : &BACKEND_CUDA, cpu ? b->cpu_plan : b->gpu_plan, r->clients[side],
                               CLIENTS, NULL, &reduction, NULL, err);
            for (size_t i = 0; i < b->model->weights_n && !rc; i++)
                r->weights[side][i] = (float)sum[i];
        }
    free(sum);
    return rc;
}

/* How far the updates of two sides are from each other, over the CPU's. */
static double apart(const struct bed *b, const struct rounds *r, enum side x, enum side y)
{
    double off = 0, all = 0;

    for (size_t i = 0; i < b->model->weights_n; i++) {
        double d = (double)r->weights[x][i] - (double)r->weights[y][i];
        double update = (double)r->weights[CPU][i] - (double)b->weights[i];
        off += d * d;
        all += update * update;
    }
    return sqrt(off / all);
}

static double worst_client(const struct rounds *r, enum side side)
{
    double worst = 0;

    for (size_t i = 0; i < CLIENTS; i++) {
        const struct replica *a = &r->clients[side][i], *b = &r->clients[SHARED][i];
        double off = fabs(a->loss_sum - b->loss_sum) / (1 + fabs(a->loss_sum)) +
                     fabs(a->update_norm - b->update_norm) / (1e-2 + a->update_norm) +
                     (a->samples_seen != b->samples_seen) + (a->batches != b->batches) + (a->finite != b->finite);
        worst = off <= worst ? worst : off;
    }
    return worst;
}

/* fp32: 20 rounds, weights to 1e-4. Rounded operands tip ReLUs and maxima over in either form: after one round sharing
 * is to be as near to the CPU as own weights are. */
static void compare(struct selftest *t, struct bed *b, enum precision precision)
{
    bool exact = precision == PRECISION_FP32;
    struct rounds r;
    struct error err = {0};
    char text[100];

    for (int side = 0; side < SIDES; side++) {
        r.weights[side] = malloc(b->model->weights_n * sizeof(float));
        memcpy(r.weights[side], b->weights, b->model->weights_n * sizeof(float));
    }
    snprintf(text, sizeof text, "%s: clients that share the start", PRECISION_NAMES[precision]);
    if (run(b, &r, exact ? ROUNDS : 1, &err)) {
        selftest_error(t, text, err.text);
    } else if (exact) {
        snprintf(text, sizeof text, "%s: 20 rounds that share the start, weights against own ones",
                 PRECISION_NAMES[precision]);
        selftest_check(t, text, selftest_difference(r.weights[OWN], r.weights[SHARED], b->model->weights_n), 1e-4);
        snprintf(text, sizeof text, "%s: their losses, norms and counts", PRECISION_NAMES[precision]);
        selftest_check(t, text, worst_client(&r, OWN), 1e-4);
        snprintf(text, sizeof text, "%s: and against the CPU", PRECISION_NAMES[precision]);
        selftest_check(t, text, selftest_difference(r.weights[CPU], r.weights[SHARED], b->model->weights_n), 1e-4);
    } else {
        snprintf(text, sizeof text, "%s: sharing is as near to the CPU as own weights", PRECISION_NAMES[precision]);
        selftest_check(t, text, apart(b, &r, CPU, SHARED) / apart(b, &r, CPU, OWN), 1.5);
    }
    for (int side = 0; side < SIDES; side++)
        free(r.weights[side]);
}

void selftest_shared(struct selftest *t, enum precision precision)
{
    struct bed b;
    struct error err = {0};

    setenv("FLEXP_CUDA_SHARED", "1", 1); /* what may share is planned for it */
    if (bed_init(&b, NET, 3, 8, 6, 4, SAMPLES, 5, precision, &err)) {
        selftest_error(t, "clients that share the start", err.text);
    } else {
        compare(t, &b, precision);
        bed_done(&b);
    }
    unsetenv("FLEXP_CUDA_SHARED");
}
