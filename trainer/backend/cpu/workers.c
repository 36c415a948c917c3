/* workers.c - the memory that one replica in training needs, in one piece.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cpu/cpu_private.h"

#include <stdlib.h>
#include <string.h>

#define ALIGN 64

struct carver { /* first pass with base NULL: counts */
    char *base;
    size_t used;
};

static void *carve(struct carver *c, size_t bytes)
{
    void *at = c->base ? c->base + c->used : NULL;

    c->used += plan_aligned(bytes) + ALIGN; /* kernels may read that far past the end */
    return at;
}

static void carve_worker(struct worker *w, const struct plan *p, struct carver *c, float **slots)
{
    const struct graph *g = &p->graph;
    size_t layers = p->model->layers_n;

    w->weights = carve(c, p->weights_n * sizeof(float));
    w->grads = carve(c, p->trainable_n * sizeof(float));
    w->labels = carve(c, p->rows_max * sizeof *w->labels);
    w->choices = carve(c, p->rows_max * sizeof *w->choices);
    for (size_t s = 0; s < g->slots_n; s++)
        slots[s] = carve(c, p->rows_max * g->slots[s] * sizeof(float));
    w->spare = carve(c, p->rows_max * g->spare * sizeof(float));
    for (size_t t = 0; t <= layers; t++) {
        const struct tensor *tensor = &g->tensors[t];
        w->act[t] =
            tensor->root == (int)t ? carve(c, p->rows_max * tensor->values * sizeof(float)) : w->act[tensor->root];
        w->grad[t] = tensor->slot >= 0 ? slots[tensor->slot] : NULL;
    }
    for (size_t i = 0; i < layers; i++) {
        const struct node *n = &g->nodes[i];
        size_t aux = n->kernel ? n->kernel->aux_row_bytes(&n->conv) : n->aux;
        w->aux[i] = carve(c, p->rows_max * aux + n->aux_fixed);
        w->layer_prepared[i] = n->kernel ? carve(c, n->kernel->prepared_bytes(&n->conv)) : NULL;
    }
}

void worker_free(struct worker *w)
{
    if (!w)
        return;
    for (size_t i = 0; i < w->bindings_n; i++)
        binding_free(w->bindings[i], w->plan->model->layers_n);
    free(w->bindings);
    if (w->stream)
        dnnl_stream_destroy(w->stream);
    buffer_free(w->arena);
    free(w->act);
    free(w->grad);
    free(w->aux);
    free(w->layer_prepared);
    buffer_free(w->partials);
    buffer_free(w->state);
    buffer_free(w->own_start);
    buffer_free(w->order);
    free(w);
}

static int worker_new(struct plan *p, struct worker **ret, struct error *err)
{
    size_t layers = p->model->layers_n;
    struct worker *w = calloc(1, sizeof *w);
    float **slots = calloc(p->graph.slots_n + 1, sizeof *slots);
    struct carver c = {0};
    dnnl_status_t status;
    int rc = -ENOMEM;

    if (!w || !slots)
        goto out;
    w->plan = p;
    w->rates = p->model->layers;
    w->act = calloc(layers + 1, sizeof *w->act);
    w->grad = calloc(layers + 1, sizeof *w->grad);
    w->aux = calloc(layers + 1, sizeof *w->aux);
    w->layer_prepared = calloc(layers + 1, sizeof *w->layer_prepared);
    if (!w->act || !w->grad || !w->aux || !w->layer_prepared)
        goto out;
    carve_worker(w, p, &c, slots);
    c = (struct carver){.base = w->arena = buffer_new(c.used)};
    if (!w->arena)
        goto out;
    carve_worker(w, p, &c, slots);
    status = dnnl_stream_create(&w->stream, p->backend->engine, dnnl_stream_default_flags);
    rc = status ? dnnl_fail(err, status, "stream") : 0;
    if (!rc) {
        *ret = w;
        w = NULL;
    }
out:
    if (rc == -ENOMEM)
        fail(err, rc, "out of memory for the training of one more model");
    free(slots);
    worker_free(w);
    return rc;
}

/* One sum for each chunk where a team fills them at once; else the total and the one being filled. */
static size_t partials_wanted(const struct plan *p, size_t team)
{
    return p->partial_floats * (team > 1 && p->chunks_max > 2 ? p->chunks_max : 2);
}

static int grow_partials(struct worker *w, size_t n)
{
    if (w->partials_n >= n)
        return 0;
    buffer_free(w->partials);
    w->partials = buffer_new(n * sizeof(float));
    w->partials_n = w->partials ? n : 0;
    return w->partials ? 0 : -ENOMEM;
}

struct making {
    struct plan *plan;
    size_t team;
};

static bool is_made(const struct making *m, size_t thread)
{
    const struct plan *p = m->plan;
    const struct worker *w = p->workers[thread];

    return p->scratch[thread] && (thread % m->team || (w && w->bindings_n == p->variants_n &&
                                                       w->partials_n >= partials_wanted(p, m->team)));
}

/* What a thread works in it makes itself, so that it is memory of its own node. */
static int make_worker(void *arg, size_t thread, struct error *err)
{
    struct making *m = arg;
    struct plan *p = m->plan;
    struct worker *w;
    struct binding **grown;
    int rc = 0;

    if (!p->scratch[thread] && !(p->scratch[thread] = buffer_new(p->scratch_bytes + ALIGN)))
        return fail(err, -ENOMEM, "out of memory");
    if (thread % m->team)
        return 0;
    if (!p->workers[thread] && (rc = worker_new(p, &p->workers[thread], err)))
        return rc;
    w = p->workers[thread];
    grown = realloc(w->bindings, p->variants_n * sizeof *grown);
    if (grown)
        w->bindings = grown;
    if (!grown || grow_partials(w, partials_wanted(p, m->team)))
        return fail(err, -ENOMEM, "out of memory");
    for (; w->bindings_n < p->variants_n && !rc; w->bindings_n += !rc)
        rc = binding_new(w, p->variants[w->bindings_n], &w->bindings[w->bindings_n], err);
    return rc;
}

int plan_workers(struct plan *p, size_t n, size_t team, struct error *err)
{
    struct making m = {p, team};
    size_t made = 0;

    while (made < n && is_made(&m, made))
        made++;
    return made < n ? crew_try(p->backend->crew, n, make_worker, &m, err) : 0;
}
