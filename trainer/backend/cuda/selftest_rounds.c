/* selftest_rounds.c - rounds as one graph against rounds that are queued call by call: of a cohort, and of a lone
 * replica, whose convolutions cuDNN computes in fp32 and tf32. SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cuda/cuda_private.h"
#include "trainer/backend/cuda/selftest.h"

#include <stdio.h>
#include <stdlib.h>

#define SAMPLES 96
#define CLIENTS 9
#define ROUNDS 4 /* three alike after another; the first of a kind has no graph yet */

static const char NET[] =
    "[{\"conv2d\": {\"filters\": 8, \"kernel\": 3, \"padding\": \"same\", \"activation\": \"relu\"}}, \"batch_norm\", "
    "{\"max_pool2d\": {\"size\": 2}}, \"flatten\", {\"dropout\": {\"rate\": 0.25}}, {\"dense\": {\"units\": 96, "
    "\"activation\": \"relu\"}}, {\"dense\": {\"units\": \"classes\"}}]";

/* Clients that differ in everything, the number of steps included. */
static int train_round(struct bed *b, struct resident *model, int round, const uint32_t *samples, struct replica *r,
                       size_t n, struct error *err)
{
    struct augment augment = {.crop_padding = 1, .horizontal_flip = true};
    struct reduction reduction = {.type = REDUCE_MODEL, .model = model, .rate = 0.9};

    for (size_t i = 0; i < n; i++)
        r[i] = (struct replica){.samples = samples + 9 * i,
                                .samples_n = 3 + (7 * i + 5 * (size_t)round) % 17,
                                .epochs = 1,
                                .batch = 1 + (i + (size_t)round) % 5,
                                .lr = 0.02f * (float)(1 + round),
                                .seed = 4,
                                .round = (uint64_t)round,
                                .client = i,
                                .weight = 1.0 / (double)n};
    return backend_train(&BACKEND_CUDA, b->gpu_plan, r, n, &augment, &reduction, NULL, err);
}

/* *ret_weights: the model after all rounds; r: of the last. */
static int train(struct bed *b, float *ret_weights, struct replica *r, size_t n, struct error *err)
{
    struct resident *model = NULL;
    uint32_t samples[SAMPLES];
    int rc = BACKEND_CUDA.put_model(b->gpu_plan, &model, b->weights, err);

    for (uint32_t i = 0; i < SAMPLES; i++)
        samples[i] = i * 5 % SAMPLES;
    for (int round = 0; round < ROUNDS && !rc; round++)
        rc = train_round(b, model, round, samples, r, n, err);
    rc = rc ? rc : BACKEND_CUDA.get_model(b->gpu_plan, model, ret_weights, err);
    BACKEND_CUDA.drop_model(b->gpu_plan, model);
    return rc;
}

static double differ(const struct bed *b, float *const *weights, struct replica (*r)[CLIENTS], size_t n)
{
    double found = memcmp(weights[0], weights[1], b->model->weights_n * sizeof(float)) != 0;

    for (size_t i = 0; i < n; i++)
        found += r[0][i].loss_sum != r[1][i].loss_sum || r[0][i].update_norm != r[1][i].update_norm ||
                 r[0][i].batches != r[1][i].batches || r[0][i].correct != r[1][i].correct;
    return found;
}

bool selftest_saw_rounds(struct selftest *t, const struct bed *b)
{
    bool whole = rounds_kept(b->gpu_plan->training) > 0;

    t->rounds = whole && t->rounds != ROUNDS_CALLS ? ROUNDS_WHOLE : ROUNDS_CALLS;
    return whole;
}

static void compare(struct selftest *t, struct bed *b, enum precision precision, size_t n)
{
    struct replica r[2][CLIENTS];
    struct error err = {0};
    float *weights[2];
    bool whole = false;
    char text[100];
    int rc = 0;

    for (int calls = 0; calls < 2; calls++) {
        weights[calls] = calloc(b->model->weights_n, sizeof(float));
        if (calls)
            setenv("FLEXP_CUDA_ROUNDS", "calls", 1);
        rc = rc ? rc : train(b, weights[calls], r[calls], n, &err);
        unsetenv("FLEXP_CUDA_ROUNDS");
        if (!calls && !rc)
            whole = selftest_saw_rounds(t, b);
    }
    snprintf(text, sizeof text, "%s, %zu client%s: %s", PRECISION_NAMES[precision], n, n == 1 ? "" : "s",
             whole ? "rounds as one graph have the bits of rounds call by call"
                   : "rounds are not one graph here: call by call twice");
    if (rc)
        selftest_error(t, text, err.text);
    else
        selftest_check(t, text, differ(b, weights, r, n), 0);
    free(weights[0]);
    free(weights[1]);
}

static void rounds_of(struct selftest *t, enum precision precision, size_t n, bool shared)
{
    struct bed b;
    struct error err = {0};

    setenv("FLEXP_CUDA_SHARED", shared ? "1" : "0", 1);
    if (bed_init(&b, NET, 3, 8, 6, 4, SAMPLES, 5, precision, &err)) {
        selftest_error(t, "rounds as one graph", err.text);
    } else {
        compare(t, &b, precision, n);
        bed_done(&b);
    }
    unsetenv("FLEXP_CUDA_SHARED");
}

void selftest_rounds(struct selftest *t, enum precision precision)
{
    rounds_of(t, precision, CLIENTS, false);
    if (precision != PRECISION_FP32_STRICT)
        rounds_of(t, precision, CLIENTS, true);
    rounds_of(t, precision, 1, false);
}
