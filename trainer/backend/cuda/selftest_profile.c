/* selftest_profile.c - where a step's time goes: each operation of a network queued many times between two marks of the
 * device's clock, without capture. Their sum is more than a captured step takes, where a launch costs more than its
 * work. SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cuda/cuda_private.h"
#include "trainer/backend/cuda/selftest.h"

#include <stdlib.h>
#include <string.h>

#define REPEATS 20

static int train_once(struct bed *b, const struct profile_setting *s, size_t samples_n, struct error *err)
{
    struct replica *r = calloc(s->replicas, sizeof *r);
    uint32_t *samples = calloc(samples_n + 1, sizeof *samples);
    struct reduction reduction = {.type = REDUCE_WEIGHTED_SUM, .sum = calloc(b->model->weights_n, sizeof(double))};
    int rc;

    for (size_t i = 0; i < s->replicas; i++)
        r[i] = (struct replica){.start = b->weights,
                                .samples = samples,
                                .samples_n = samples_n,
                                .epochs = 1,
                                .batch = s->batch,
                                .lr = 1e-3f,
                                .optimizer = {.momentum = s->momentum},
                                .weight = 1 / (double)s->replicas};
    rc = backend_train(&BACKEND_CUDA, b->gpu_plan, r, s->replicas, NULL, &reduction, NULL, err);
    free(reduction.sum);
    free(samples);
    free(r);
    return rc;
}

static void name_of(const struct lanes *l, const struct op *op, char *text, size_t size)
{
    static const char *const WAYS[] = {
        [OP_ASSEMBLE] = "batches", [OP_LAYER] = "forward", [OP_LOSS] = "loss", [OP_BACKWARD] = "backward"};

    if (op->layer < 0)
        snprintf(text, size, "%s", WAYS[op->type]);
    else
        snprintf(text, size, "layer %d, %s%s%s, %s", op->layer,
                 layer_type_name(l->program->model->layers[op->layer].type), op->relu ? " + relu" : "",
                 l->shared && op->rank ? " (shared start)" : "", WAYS[op->type]);
}

/* The lanes stand at the last step of a round, so that all have rows. */
static int time_operation(struct lanes *l, const struct op *op, double *ret_us, struct error *err)
{
    const struct driver *d = l->plan->backend->driver;
    struct device *device = l->plan->backend->device;
    double seconds = 0;
    int rc = layer_queue(l, op, err); /* warm */

    rc = rc ? rc : d->mark(device, 0, err);
    for (int i = 0; i < REPEATS && !rc; i++)
        rc = layer_queue(l, op, err);
    rc = rc ? rc : d->mark(device, 1, err);
    rc = rc ? rc : d->seconds(device, &seconds, err);
    *ret_us = seconds * 1e6 / REPEATS;
    return rc;
}

void selftest_profile(struct selftest *t, const struct profile_setting *s)
{
    struct bed b;
    struct error err = {0};
    struct lanes *l;
    json_t *rows = json_object();
    double us, sum = 0;
    char key[160], name[100];
    int rc;

    snprintf(key, sizeof key, "%s %s, %zu replicas x %zu%s", s->net, PRECISION_NAMES[s->precision], s->replicas,
             s->batch, s->label);
    if ((rc = bed_init(&b, s->net, 3, 32, 32, 10, 512, s->batch, s->precision, &err))) {
        selftest_error(t, key, err.text);
        json_decref(rows);
        return;
    }
    rc = train_once(&b, s, 2 * s->batch, &err);
    l = b.gpu_plan->training;
    if (!t->quiet)
        printf("\n%s: us of each operation\n", key);
    for (size_t i = 0; i < b.gpu_plan->train.ops_n && !rc; i++) {
        const struct op *op = &b.gpu_plan->train.ops[i];
        rc = time_operation(l, op, &us, &err);
        name_of(l, op, name, sizeof name);
        sum += us;
        json_object_set_new(rows, name, json_real(us));
        if (!t->quiet && !rc)
            printf("  %-56s %10.2f\n", name, us);
    }
    if (rc) {
        selftest_error(t, key, err.text);
        json_decref(rows);
    } else {
        json_object_set_new(rows, "sum", json_real(sum));
        json_object_set_new(t->profiles, key, rows);
        if (!t->quiet)
            printf("  %-56s %10.2f\n", "together", sum);
    }
    fflush(stdout);
    bed_done(&b);
}
