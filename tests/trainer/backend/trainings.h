/* trainings.h - several trials in one call, for either backend: trainings that differ in all they can differ in.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_TESTS_TRAININGS_H
#define FLEXP_TESTS_TRAININGS_H

#include "trainer/backend/backend.h"

#include <stdlib.h>
#include <string.h>

#define TRAININGS 4
#define TRAININGS_SAMPLES 60

/* A mean of five clients, each of two clients, a lone replica with its optimizer's state, a mean of three others. */
static const size_t TRAININGS_REPLICAS[TRAININGS] = {5, 2, 1, 3};

struct trainings {
    struct training list[TRAININGS];
    struct replica replicas[TRAININGS][5];
    struct augment augment[TRAININGS];
    uint32_t samples[TRAININGS_SAMPLES];
    struct model other; /* the model with another dropout rate */
    size_t weights_n;
    float *start[TRAININGS], *each[2], *state;
    double *sums[TRAININGS];
};

/* weights: of the model; each training but the first starts a little off them. */
static void trainings_init(struct trainings *t, const struct model *model, const float *weights)
{
    memset(t, 0, sizeof *t);
    t->weights_n = model->weights_n;
    t->other = *model;
    t->other.layers = malloc(model->layers_n * sizeof *model->layers);
    memcpy(t->other.layers, model->layers, model->layers_n * sizeof *model->layers);
    for (size_t i = 0; i < model->layers_n; i++)
        if (model->layers[i].rate > 0)
            t->other.layers[i].rate = 0.2;
    for (uint32_t i = 0; i < TRAININGS_SAMPLES; i++)
        t->samples[i] = i;
    for (int i = 0; i < 2; i++)
        t->each[i] = calloc(t->weights_n, sizeof(float));
    t->state = calloc(2 * model->trainable_n + 1, sizeof(float));
    for (size_t k = 0; k < TRAININGS; k++) {
        t->start[k] = malloc(t->weights_n * sizeof(float));
        t->sums[k] = calloc(t->weights_n, sizeof(double));
        for (size_t i = 0; i < t->weights_n; i++)
            t->start[k][i] = weights[i] * (1 + 0.01f * (float)k);
        t->augment[k] = (struct augment){.crop_padding = (int)k, .horizontal_flip = k % 2 == 0};
        for (size_t i = 0; i < TRAININGS_REPLICAS[k]; i++)
            t->replicas[k][i] = (struct replica){
                .start = t->start[k],
                .samples = t->samples + 3 * i,
                .samples_n = 13 + 5 * i + k,
                .epochs = 1 + (int64_t)(k == 1),
                .batch = k == 3 ? 5 : 8,
                .lr = 0.02f * (float)(k + 1),
                .optimizer = {.type = k == 2 ? OPTIMIZER_ADAM : OPTIMIZER_SGD, .momentum = k % 2 ? 0.9f : 0,
                              .beta1 = 0.9f, .beta2 = 0.999f, .eps = 1e-8f, .weight_decay = 1e-3f * (float)k},
                .model = k == 3 ? &t->other : NULL,
                .seed = 7 + k,
                .trial = k,
                .round = 2,
                .client = i,
                .weight = (double)(i + 1) / 15,
            };
        t->list[k] = (struct training){.replicas = t->replicas[k],
                                       .n = TRAININGS_REPLICAS[k],
                                       .augment = k == 1 ? NULL : &t->augment[k],
                                       .reduction = {.type = k == 1 ? REDUCE_EACH : REDUCE_WEIGHTED_SUM,
                                                     .sum = t->sums[k],
                                                     .each = t->each}};
    }
    t->replicas[2][0].optimizer_state = t->state;
    t->replicas[2][0].optimizer_steps = 3;
}

static void trainings_done(struct trainings *t)
{
    for (size_t k = 0; k < TRAININGS; k++) {
        free(t->start[k]);
        free(t->sums[k]);
    }
    free(t->other.layers);
    free(t->each[0]);
    free(t->each[1]);
    free(t->state);
}

/* Whether training k ended with the same bits in both. */
static bool trainings_equal(const struct trainings *a, const struct trainings *b, size_t k, const struct model *model)
{
    for (size_t i = 0; i < TRAININGS_REPLICAS[k]; i++) {
        const struct replica *x = &a->replicas[k][i], *y = &b->replicas[k][i];
        if (memcmp(&x->loss_sum, &y->loss_sum, sizeof x->loss_sum) || x->batches != y->batches || !x->batches ||
            x->correct != y->correct || x->samples_seen != y->samples_seen || x->update_norm != y->update_norm ||
            x->optimizer_steps != y->optimizer_steps || !x->finite || !y->finite)
            return false;
    }
    if (k == 1)
        return !memcmp(a->each[0], b->each[0], a->weights_n * sizeof(float)) &&
               !memcmp(a->each[1], b->each[1], a->weights_n * sizeof(float));
    if (k == 2 && memcmp(a->state, b->state, 2 * model->trainable_n * sizeof(float)))
        return false;
    return !memcmp(a->sums[k], b->sums[k], a->weights_n * sizeof(double));
}

static void trainings_alone(struct trainings *t, const struct backend_ops *ops, struct plan *plan)
{
    struct error err = {0};

    for (size_t k = 0; k < TRAININGS; k++)
        if (ops->train(plan, &t->list[k], 1, &err)) {
            fprintf(stderr, "training %zu: %s\n", k, err.text);
            abort();
        }
}

/* A replica's own dropout rate gives the bits of a plan of that rate, and others than the plan's. */
static bool trainings_take_their_rate(const struct backend_ops *ops, struct backend *backend, struct plan *plan,
                                      const struct plan_options *options, const struct model *model,
                                      const float *weights)
{
    struct trainings t[3];
    struct plan *plans[3] = {plan, NULL, plan};
    struct error err = {0};
    bool right;

    for (int i = 0; i < 3; i++)
        trainings_init(&t[i], model, weights);
    if (ops->compile(backend, &t[0].other, options, &plans[1], NULL, &err)) {
        fprintf(stderr, "%s\n", err.text);
        abort();
    }
    for (size_t i = 0; i < TRAININGS_REPLICAS[3]; i++)
        t[1].replicas[3][i].model = t[2].replicas[3][i].model = NULL;
    right = true;
    for (int i = 0; i < 3; i++)
        right = right && !ops->train(plans[i], &t[i].list[3], 1, NULL);
    right = right && trainings_equal(&t[0], &t[1], 3, model) && !trainings_equal(&t[0], &t[2], 3, model);
    ops->release_plan(plans[1]);
    for (int i = 0; i < 3; i++)
        trainings_done(&t[i]);
    return right;
}

#endif
