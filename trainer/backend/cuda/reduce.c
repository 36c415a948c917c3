/* reduce.c - what a turn leaves: norms, totals, the weighted sum of each training, and models that stay on the device.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cuda/cuda_private.h"

#include <stdlib.h>

#define RUNS 1024
#define DRIVER(p) ((p)->backend->driver)
#define DEVICE_OF(p) ((p)->backend->device)

size_t turn_same_training(const struct turn *t, size_t i)
{
    size_t end = i + 1;

    while (end < t->n && t->members[end].k == t->members[i].k)
        end++;
    return end;
}

int sums_grow(struct plan *p, size_t n, struct error *err)
{
    int rc;

    if (n <= p->sums_room)
        return 0;
    if (p->training)
        lanes_forget_graphs(p->training);
    if ((rc = DRIVER(p)->wait(DEVICE_OF(p), err)))
        return rc;
    DRIVER(p)->release(DEVICE_OF(p), p->d_sums);
    p->d_sums = NULL;
    p->sums_room = 0;
    if ((rc = DRIVER(p)->alloc(DEVICE_OF(p), (n * p->model->weights_n + 1) * sizeof(double), (void **)&p->d_sums, err)))
        return rc;
    p->sums_room = n;
    return 0;
}

int sums_clear(struct plan *p, size_t n, struct error *err)
{
    return DRIVER(p)->clear(DEVICE_OF(p), p->d_sums, n * p->model->weights_n * sizeof(double), err);
}

int cuda_get_canonical(struct plan *p, const float *working, float *canonical, size_t n, struct error *err)
{
    struct scatter_args a = {.count = n, .working = working, .canonical = p->d_canonical, .where = p->d_where};
    int rc = LAUNCH(p->training, scatter, &a, err);

    return rc ? rc : DRIVER(p)->download(DEVICE_OF(p), canonical, p->d_canonical, n * sizeof *canonical, err);
}

static int measure(struct turn *t, struct error *err)
{
    struct plan *p = t->plan;
    struct lanes *l = t->lanes;
    struct distance_args a = {
        .count = l->n * RUNS,
        .weights = l->weights,
        .start = l->start,
        .totals = l->totals,
        .partial = l->partial,
        .bad = l->bad,
        .n = p->weights_n,
        .trainable = p->trainable_n,
        .runs = RUNS,
        .weights_stride = p->weights_n,
        .start_stride = l->start_stride,
        .first = t->shared ? p->shared_n : 0,
        .more = l->shared_partial,
        .more_n = t->shared ? shared_partials(l->program) : 0,
    };
    int rc = LAUNCH(l, distance, &a, err);

    a.count = l->n;
    return rc ? rc : LAUNCH(l, distance_sum, &a, err);
}

static int add_up(struct turn *t, struct error *err)
{
    struct plan *p = t->plan;
    struct lanes *l = t->lanes;
    size_t end;
    int rc = 0;

    for (size_t i = 0; i < t->n && !rc; i = end) {
        struct aggregate_args a = {.count = p->model->weights_n,
                                   .lanes = l->in.lanes + i,
                                   .weights = l->weights + i * p->weights_n,
                                   .where = p->d_where,
                                   .sum = p->d_sums + t->members[i].k * p->model->weights_n,
                                   .weights_stride = p->weights_n,
                                   .first = t->shared ? p->shared_n : 0};
        end = turn_same_training(t, i);
        a.lanes_n = (uint32_t)(turn_lanes_end(t, end) - i);
        if (t->members[i].training->reduction.type != REDUCE_EACH)
            rc = LAUNCH(l, aggregate, &a, err);
    }
    return rc;
}

/* What a replica alone hands back. */
static int fetch(struct turn *t, size_t lane, struct error *err)
{
    const struct member *m = &t->members[lane];
    const struct replica *r = m->replica;
    struct plan *p = t->plan;
    struct lanes *l = t->lanes;
    size_t n = p->model->trainable_n;
    int rc = 0;

    if (m->training->canceled)
        return 0;
    if (m->training->reduction.type == REDUCE_EACH)
        rc = cuda_get_canonical(p, l->weights + lane * p->weights_n, m->training->reduction.each[m->i],
                                p->model->weights_n, err);
    for (size_t k = 0; r->optimizer_state && k < cuda_state_parts(r) && !rc; k++)
        rc = cuda_get_canonical(p, l->state + (lane * l->state_parts + k) * p->trainable_n, r->optimizer_state + k * n,
                                n, err);
    return rc;
}

int turn_sum(struct turn *t, struct error *err)
{
    int rc = t->shared ? shared_sums(t, err) : 0;

    rc = rc ? rc : measure(t, err);
    rc = rc ? rc : add_up(t, err);
    return rc ? rc
              : DRIVER(t->plan)->copy_out(DEVICE_OF(t->plan), t->lanes->host_totals, t->lanes->totals,
                                          t->lanes->n * sizeof *t->lanes->totals, err);
}

int turn_fetch(struct turn *t, struct error *err)
{
    int rc = 0;

    for (size_t i = 0; i < t->n && !rc; i++)
        rc = fetch(t, i, err);
    return rc ? rc : DRIVER(t->plan)->wait(DEVICE_OF(t->plan), err);
}

int models_step(struct plan *p, const struct training *trainings, size_t n, struct error *err)
{
    size_t weights_n = p->model->weights_n;
    int rc = 0;

    for (size_t k = 0; k < n && !rc; k++) {
        const struct reduction *r = &trainings[k].reduction;
        struct apply_args a = {
            .count = weights_n, .sum = p->d_sums + k * weights_n, .trainable = p->model->trainable_n, .rate = r->rate};
        if (r->type != REDUCE_MODEL || trainings[k].canceled || !trainings[k].n)
            continue;
        a.start = r->model->weights;
        rc = LAUNCH(p->training, apply, &a, err);
    }
    return rc;
}

int sums_fetch(struct plan *p, const struct training *trainings, size_t n, struct error *err)
{
    size_t weights_n = p->model->weights_n;
    int rc = 0;

    for (size_t k = 0; k < n && !rc; k++)
        if (trainings[k].reduction.type == REDUCE_WEIGHTED_SUM && !trainings[k].canceled && trainings[k].n)
            rc = DRIVER(p)->download(DEVICE_OF(p), trainings[k].reduction.sum, p->d_sums + k * weights_n,
                                     weights_n * sizeof(double), err);
    return rc;
}

/* models that stay */

int gpu_put_model(struct plan *p, struct resident **model, const float *weights, struct error *err)
{
    size_t bytes = p->model->weights_n * sizeof *weights;
    struct resident *made = NULL;
    int rc;

    if (!*model) {
        made = calloc(1, sizeof *made);
        if (!made)
            return fail(err, -ENOMEM, "out of memory");
        if ((rc = DRIVER(p)->alloc(DEVICE_OF(p), bytes + 1, (void **)&made->weights, err))) {
            free(made);
            return rc;
        }
        made->next = p->residents;
        p->residents = made;
    }
    rc = DRIVER(p)->upload(DEVICE_OF(p), made ? made->weights : (*model)->weights, weights, bytes, err);
    if (rc && made)
        cuda_drop_model(p, made);
    else if (made)
        *model = made;
    return rc;
}

int cuda_put_model(struct plan *p, struct resident **model, const float *weights, struct error *err)
{
    return (p->peers ? parallel_put_model : gpu_put_model)(p, model, weights, err);
}

int cuda_get_model(struct plan *p, const struct resident *model, float *weights, struct error *err)
{
    return DRIVER(p)->download(DEVICE_OF(p), weights, model->weights, p->model->weights_n * sizeof *weights, err);
}

void cuda_drop_model(struct plan *p, struct resident *model)
{
    struct resident **at = &p->residents;

    if (!model)
        return;
    for (size_t rank = 1; model->peers && rank < ranks_n(p->backend->ranks); rank++)
        cuda_drop_model(p->peers[rank], model->peers[rank]);
    while (*at != model)
        at = &(*at)->next;
    *at = model->next;
    DRIVER(p)->release(DEVICE_OF(p), model->weights);
    free(model->peers);
    free(model);
}
