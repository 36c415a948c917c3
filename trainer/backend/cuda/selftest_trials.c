/* selftest_trials.c - trials in one call: each ends with the bits it has alone, with its own start, augmentation, dropout
 * rate, and its model on the device or a sum that is fetched. SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cuda/selftest.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TRIALS 4
#define CLIENTS 3
#define SAMPLES 90

static const char NET[] =
    "[{\"conv2d\": {\"filters\": 9, \"kernel\": 3, \"padding\": \"same\", \"activation\": \"relu\"}}, \"batch_norm\", "
    "{\"max_pool2d\": {\"size\": 2}}, {\"dropout\": {\"rate\": 0.25}}, \"flatten\", {\"dense\": {\"units\": 20}}, "
    "{\"dense\": {\"units\": \"classes\"}}]";

struct trials {
    struct bed bed;
    struct model other; /* with another dropout rate */
    uint32_t samples[SAMPLES];
    float *starts[TRIALS];
    struct augment augment[TRIALS];
    struct replica replicas[TRIALS][CLIENTS];
};

/* Of trial k: its sum, or where the model stays, the model after three rounds. */
struct left {
    double *sums[TRIALS];
    float *models[TRIALS];
};

static void fill(struct trials *t)
{
    size_t n = t->bed.model->weights_n;

    t->other = *t->bed.model;
    t->other.layers = malloc(t->other.layers_n * sizeof *t->other.layers);
    memcpy(t->other.layers, t->bed.model->layers, t->other.layers_n * sizeof *t->other.layers);
    for (size_t i = 0; i < t->other.layers_n; i++)
        if (t->other.layers[i].rate > 0)
            t->other.layers[i].rate = 0.5;
    for (uint32_t i = 0; i < SAMPLES; i++)
        t->samples[i] = i;
    for (size_t k = 0; k < TRIALS; k++) {
        t->starts[k] = malloc(n * sizeof(float));
        for (size_t i = 0; i < n; i++)
            t->starts[k][i] = t->bed.weights[i] * (1 + 0.01f * (float)k);
        t->augment[k] = (struct augment){.crop_padding = (int)k, .horizontal_flip = k % 2};
        for (size_t i = 0; i < CLIENTS; i++)
            t->replicas[k][i] = (struct replica){.start = k % 2 ? NULL : t->starts[k],
                                                 .samples = t->samples + 5 * i,
                                                 .samples_n = 20 + 9 * i + k,
                                                 .epochs = 1,
                                                 .batch = 8,
                                                 .lr = 0.01f * (float)(k + 1),
                                                 .optimizer = {.momentum = 0.9f, .weight_decay = 1e-3f * (float)k},
                                                 .model = k > 1 ? &t->other : NULL,
                                                 .seed = 7,
                                                 .trial = k,
                                                 .client = i,
                                                 .weight = 1.0 / CLIENTS};
    }
}

static int run(struct trials *t, bool together, struct left *left, struct error *err)
{
    struct plan *plan = t->bed.gpu_plan;
    struct training trainings[TRIALS];
    int rc = 0;

    for (size_t k = 0; k < TRIALS; k++)
        trainings[k] = (struct training){
            .replicas = t->replicas[k],
            .n = CLIENTS,
            .augment = &t->augment[k],
            .reduction = {.type = k % 2 ? REDUCE_MODEL : REDUCE_WEIGHTED_SUM, .sum = left->sums[k], .rate = 1}};
    for (size_t k = 1; k < TRIALS && !rc; k += 2)
        rc = BACKEND_CUDA.put_model(plan, &trainings[k].reduction.model, t->starts[k], err);
    for (int round = 0; round < 3 && !rc; round++) {
        if (together)
            rc = BACKEND_CUDA.train(plan, trainings, TRIALS, err);
        for (size_t k = 0; k < TRIALS && !together && !rc; k++)
            rc = BACKEND_CUDA.train(plan, &trainings[k], 1, err);
    }
    for (size_t k = 1; k < TRIALS; k += 2) {
        const struct resident *model = trainings[k].reduction.model;
        rc = rc ? rc : BACKEND_CUDA.get_model(plan, model, left->models[k], err);
        BACKEND_CUDA.drop_model(plan, trainings[k].reduction.model);
    }
    return rc;
}

static void left_init(struct left *left, size_t n)
{
    for (size_t k = 0; k < TRIALS; k++) {
        left->sums[k] = calloc(n, sizeof(double));
        left->models[k] = calloc(n, sizeof(float));
    }
}

static void left_done(struct left *left)
{
    for (size_t k = 0; k < TRIALS; k++) {
        free(left->sums[k]);
        free(left->models[k]);
    }
}

void selftest_trials(struct selftest *t, enum precision precision)
{
    struct trials trials = {0};
    struct left alone, together;
    struct error err = {0};
    double unequal = 0, trained = 0;
    char text[100];
    size_t n;

    if (bed_init(&trials.bed, NET, 3, 10, 8, 4, SAMPLES, 8, precision, &err)) {
        selftest_error(t, "trials of one call", err.text);
        return;
    }
    n = trials.bed.model->weights_n;
    fill(&trials);
    left_init(&alone, n);
    left_init(&together, n);
    if (run(&trials, false, &alone, &err) || run(&trials, true, &together, &err)) {
        selftest_error(t, "trials of one call", err.text);
    } else {
        for (size_t k = 0; k < TRIALS; k++) {
            unequal += memcmp(alone.sums[k], together.sums[k], n * sizeof(double)) != 0;
            unequal += memcmp(alone.models[k], together.models[k], n * sizeof(float)) != 0;
            trained += k % 2 ? memcmp(alone.models[k], trials.starts[k], n * sizeof(float)) != 0 : alone.sums[k][0] != 0;
        }
        snprintf(text, sizeof text, "%s: trials in one call or alone, equal bits", PRECISION_NAMES[precision]);
        selftest_check(t, text, unequal + (TRIALS - trained), 0);
    }
    left_done(&alone);
    left_done(&together);
    for (size_t k = 0; k < TRIALS; k++)
        free(trials.starts[k]);
    free(trials.other.layers);
    bed_done(&trials.bed);
}
