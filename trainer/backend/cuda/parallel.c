/* parallel.c - calls on several GPUs.
 *
 * A backend of several GPUs is that of its first one, rank 0, which knows its peers; so are a plan and a resident
 * model. Evaluations are split at the borders of their chunks: bits are those of one GPU.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cuda/cuda_private.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* open and close */

struct opening {
    const struct driver *driver;
    struct ranks *ranks;
    struct backend **peers;
};

static int open_rank(void *arg, size_t rank, struct error *err)
{
    struct opening *o = arg;
    int rc = gpu_open(o->driver, (int)rank, &o->peers[rank], err);

    if (rc)
        return rc;
    o->peers[rank]->ranks = o->ranks;
    o->peers[rank]->rank = rank;
    rank_device(o->ranks, rank, o->peers[rank]->device);
    return 0;
}

static int close_rank(void *arg, size_t rank, struct error *err)
{
    struct opening *o = arg;

    (void)err;
    gpu_close(o->peers[rank]);
    return 0;
}

/* Of all plans of all GPUs: steps that were captured with communicators. */
static void forget_links(void *arg)
{
    struct backend *b = arg;

    for (size_t rank = 0; rank < ranks_n(b->ranks); rank++)
        for (struct plan *p = b->peers[rank]->plans; p; p = p->next)
            if (p->training && p->training->parallel)
                lanes_forget_graphs(p->training);
}

int parallel_open(const struct driver *driver, size_t n, struct backend **ret, struct error *err)
{
    struct opening o = {.driver = driver, .peers = calloc(n, sizeof *o.peers)};
    int rc = o.peers ? ranks_new(driver, n, &o.ranks, err) : fail(err, -ENOMEM, "out of memory");
    size_t length;

    rc = rc ? rc : ranks_run(o.ranks, open_rank, &o, err);
    rc = rc ? rc : ranks_link(o.ranks, err);
    if (rc) {
        if (o.ranks)
            ranks_run(o.ranks, close_rank, &o, NULL);
        ranks_free(o.ranks);
        free(o.peers);
        return rc;
    }
    o.peers[0]->peers = o.peers;
    ranks_on_abort(o.ranks, forget_links, o.peers[0]);
    length = strlen(o.peers[0]->info.isa);
    snprintf(o.peers[0]->info.isa + length, sizeof o.peers[0]->info.isa - length, " x %zu", n);
    *ret = o.peers[0];
    return 0;
}

void parallel_close(struct backend *b)
{
    struct opening o = {.ranks = b->ranks, .peers = b->peers};

    ranks_run(o.ranks, close_rank, &o, NULL);
    ranks_free(o.ranks);
    free(o.peers);
}

/* data and plans */

struct setting {
    struct backend *backend;
    const struct dataset *dataset;
    const struct model *model;
    const struct plan_options *options;
    struct plan **plans;
};

static int load_rank(void *arg, size_t rank, struct error *err)
{
    struct setting *s = arg;

    return gpu_load_dataset(s->backend->peers[rank], s->dataset, err);
}

int parallel_load_dataset(struct backend *b, const struct dataset *dataset, struct error *err)
{
    struct setting s = {.backend = b, .dataset = dataset};

    return ranks_run(b->ranks, load_rank, &s, err);
}

static int plan_rank(void *arg, size_t rank, struct error *err)
{
    struct setting *s = arg;

    return cuda_plan_new(s->backend->peers[rank], s->model, s->options, &s->plans[rank], err);
}

int parallel_plan_new(struct backend *b, const struct model *model, const struct plan_options *options,
                      struct plan **ret, struct error *err)
{
    size_t n = ranks_n(b->ranks);
    struct setting s = {.backend = b, .model = model, .options = options, .plans = calloc(n, sizeof *s.plans)};
    int rc = s.plans ? ranks_run(b->ranks, plan_rank, &s, err) : fail(err, -ENOMEM, "out of memory");

    if (rc) {
        for (size_t i = 0; s.plans && i < n; i++)
            cuda_plan_free(s.plans[i]);
        free(s.plans);
        return rc;
    }
    s.plans[0]->peers = s.plans;
    *ret = s.plans[0];
    return 0;
}

/* Of rank 0's plan: the others. */
void parallel_plan_free(struct plan *p)
{
    struct plan **peers = p->peers;

    while (p->residents)
        cuda_drop_model(p, p->residents);
    p->peers = NULL;
    for (size_t i = 1; i < ranks_n(p->backend->ranks); i++)
        cuda_plan_free(peers[i]);
    free(peers);
}

/* evaluation */

struct scoring {
    struct plan **plans;
    size_t ranks_n;
    const float *weights;
    const struct resident *model;
    const struct data_split *split;
    const uint32_t *samples;
    size_t n;
    double *losses;
    uint16_t *predictions;
    float *scores;
};

static int score_rank(void *arg, size_t rank, struct error *err)
{
    struct scoring *s = arg;
    struct plan *p = s->plans[rank];
    size_t rows = p->evaluate.rows, chunks = (s->n + rows - 1) / rows;
    size_t first = chunks * rank / s->ranks_n * rows, end = chunks * (rank + 1) / s->ranks_n * rows;

    end = end < s->n ? end : s->n;
    if (first >= end)
        return 0;
    return cuda_score(p, s->weights, s->model ? s->model->peers[rank] : NULL, s->split, s->samples + first, end - first,
                      s->losses + first, s->predictions + first,
                      s->scores ? s->scores + first * (size_t)p->model->classes : NULL, err);
}

int parallel_score(struct plan *p, const float *weights, const struct resident *model, const struct data_split *split,
                   const uint32_t *samples, size_t n, double *losses, uint16_t *predictions, float *scores,
                   struct error *err)
{
    struct scoring s = {.plans = p->peers,
                        .ranks_n = ranks_n(p->backend->ranks),
                        .weights = weights,
                        .model = model,
                        .split = split,
                        .samples = samples,
                        .n = n,
                        .losses = losses,
                        .predictions = predictions,
                        .scores = scores};

    return ranks_run(p->backend->ranks, score_rank, &s, err);
}

/* models that stay: rank 0's knows the others' */

struct putting {
    struct plan **plans;
    struct resident **models;
    const float *weights;
};

static int put_rank(void *arg, size_t rank, struct error *err)
{
    struct putting *s = arg;

    return gpu_put_model(s->plans[rank], &s->models[rank], s->weights, err);
}

int parallel_put_model(struct plan *p, struct resident **model, const float *weights, struct error *err)
{
    size_t n = ranks_n(p->backend->ranks);
    struct putting s = {.plans = p->peers, .weights = weights};
    int rc;

    s.models = *model ? (*model)->peers : calloc(n, sizeof *s.models);
    if (!s.models)
        return fail(err, -ENOMEM, "out of memory");
    rc = ranks_run(p->backend->ranks, put_rank, &s, err);
    if (rc && !*model) {
        for (size_t rank = 0; rank < n; rank++)
            cuda_drop_model(s.plans[rank], s.models[rank]);
        free(s.models);
    } else if (!rc && !*model) {
        *model = s.models[0];
        (*model)->peers = s.models;
    }
    return rc;
}
