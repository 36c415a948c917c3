/* plan.c - a model made ready to train: working layout of the weights, primitives for each number of rows.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cpu/cpu_private.h"

#include <stdlib.h>
#include <string.h>

size_t plan_aligned(size_t bytes)
{
    return (bytes + 63) / 64 * 64;
}

bool plan_is_linear(const struct layer *l)
{
    return l->type == LAYER_CONV2D || l->type == LAYER_DENSE;
}

bool plan_is_onednn(const struct plan *p, size_t layer)
{
    const struct node *n = &p->graph.nodes[layer];

    return plan_is_linear(&p->model->layers[layer]) && !n->kernel && !n->own_dense;
}

static size_t largest(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* variants */

static void variant_free(const struct plan *p, struct variant *v)
{
    if (!v)
        return;
    for (size_t i = 0; v->linear && i < p->model->layers_n; i++)
        linear_destroy(&v->linear[i]);
    free(v->linear);
    free(v);
}

size_t plan_rows(const struct plan *p, size_t n)
{
    size_t rows = (n + p->grain - 1) / p->grain * p->grain;

    return rows < p->batch ? rows : p->batch;
}

const struct variant *plan_find(const struct plan *p, size_t n, bool training, size_t *ret_index)
{
    size_t rows = training ? plan_rows(p, n) : EVALUATE_ROWS;

    for (size_t i = 0; i < p->variants_n; i++)
        if (p->variants[i]->rows == rows && p->variants[i]->training == training) {
            *ret_index = i;
            return p->variants[i];
        }
    return NULL;
}

int plan_variant(struct plan *p, size_t n, bool training, size_t *ret_index, struct error *err)
{
    const struct model *m = p->model;
    struct variant *v, **grown;
    int rc = 0;

    if (plan_find(p, n, training, ret_index))
        return 0;
    v = calloc(1, sizeof *v);
    grown = realloc(p->variants, (p->variants_n + 1) * sizeof *grown);
    if (grown)
        p->variants = grown;
    if (!v || !grown || !(v->linear = calloc(m->layers_n + 1, sizeof *v->linear))) {
        free(v);
        return fail(err, -ENOMEM, "out of memory for a batch of %zu", n);
    }
    v->rows = training ? plan_rows(p, n) : EVALUATE_ROWS;
    v->training = training;
    for (size_t i = 0; i < m->layers_n && !rc; i++)
        if (plan_is_onednn(p, i)) {
            rc = linear_create(p->backend->engine, &m->layers[i], &p->graph.nodes[i], v->rows, training, &p->working[i],
                               &v->linear[i], err);
            if (rc)
                fail_prefix(err, "layer %zu", i);
        }
    if (rc) {
        variant_free(p, v);
        return rc;
    }
    *ret_index = p->variants_n;
    p->variants[p->variants_n++] = v;
    return 0;
}

/* What our own kernels want besides. */
static int size_own(struct plan *p)
{
    const struct graph *g = &p->graph;

    p->chunks = calloc(p->model->layers_n + 1, sizeof *p->chunks);
    if (!p->chunks)
        return -ENOMEM;
    p->scratch_bytes = 4 * g->channels * sizeof(double);
    for (size_t i = 0; i < p->model->layers_n; i++) {
        const struct node *n = &g->nodes[i];
        if (n->kernel) {
            if (!n->by_parts) {
                p->chunks[i] = choose_chunk(n->kernel, &n->conv, p->batch);
                p->chunks_max = largest(p->chunks_max, (p->batch + p->chunks[i] - 1) / p->chunks[i]);
            }
            p->partial_floats = largest(p->partial_floats, plan_aligned(n->kernel->partial_floats(&n->conv) * 4) / 4);
            p->scratch_bytes = largest(p->scratch_bytes, n->kernel->scratch_bytes(&n->conv));
        } else if (n->own_dense) {
            p->scratch_bytes = largest(p->scratch_bytes, own_dense_scratch(p, i));
        } else if (n->norm.channels) {
            p->chunks[i] = NORM_CHUNK;
            p->chunks_max = largest(p->chunks_max, (p->batch + NORM_CHUNK - 1) / NORM_CHUNK);
            p->partial_floats = largest(p->partial_floats, plan_aligned(2 * n->norm.channels * 4) / 4);
            p->scratch_bytes = largest(p->scratch_bytes, norm_scratch(p->backend->native, &n->norm));
        }
    }
    return 0;
}

int plan_compile(struct backend *backend, const struct model *model, const struct plan_options *options,
                 struct plan **ret, struct error *err)
{
    struct plan *p = calloc(1, sizeof *p);
    struct choose_rules rules = choose_rules(backend->native, backend->only, options->batch, options->precision);
    size_t first;
    int rc = -ENOMEM;

    if (!p)
        return fail(err, rc, "out of memory");
    p->backend = backend;
    p->model = model;
    p->batch = options->batch;
    p->rows_max = (largest(p->batch, EVALUATE_ROWS) + NATIVE_LANES - 1) / NATIVE_LANES * NATIVE_LANES;
    p->working = calloc(model->layers_n + 1, sizeof *p->working);
    p->places = calloc(model->params_n + 1, sizeof *p->places);
    p->workers = calloc(crew_size(backend->crew), sizeof(struct worker *));
    p->scratch = calloc(crew_size(backend->crew), sizeof *p->scratch);
    p->where = calloc(model->params_n + 1, sizeof *p->where);
    p->node_of = calloc(model->params_n + 1, sizeof *p->node_of);
    rules.l2_bytes = backend->l2_bytes;
    if (!p->working || !p->places || !p->workers || !p->scratch || !p->where || !p->node_of ||
        graph_init(&p->graph, model, &rules, p->rows_max) || size_own(p)) {
        rc = fail(err, -ENOMEM, "out of memory for the model");
        goto out;
    }
    for (size_t i = 0; i < model->layers_n; i++)
        p->onednn |= plan_is_onednn(p, i);
    p->grain = p->onednn && p->batch / 8 ? p->batch / 8 : 1;
    if ((rc = plan_variant(p, p->batch, true, &first, err)))
        goto out;
    if ((rc = layout_make(p, err)))
        goto out;
    p->start = buffer_new(p->weights_n * sizeof *p->start + 64); /* kernels may read that far past its end */
    if (!p->start)
        rc = fail(err, -ENOMEM, "out of memory for the model's weights");
out:
    if (rc)
        plan_free(p);
    else
        *ret = p;
    return rc;
}

void plan_free(struct plan *p)
{
    size_t threads = p ? crew_size(p->backend->crew) : 0;

    if (!p)
        return;
    for (size_t i = 0; p->workers && i < threads; i++)
        worker_free(p->workers[i]);
    for (size_t i = 0; p->scratch && i < threads; i++)
        buffer_free(p->scratch[i]);
    for (size_t i = 0; i < p->variants_n; i++)
        variant_free(p, p->variants[i]);
    if (p->graph.nodes)
        graph_done(&p->graph);
    free(p->variants);
    free(p->workers);
    free(p->scratch);
    free(p->chunks);
    free(p->working);
    free(p->places);
    for (size_t i = 0; p->where && i < p->model->params_n; i++)
        free(p->where[i]);
    free(p->where);
    free(p->node_of);
    buffer_free(p->start);
    for (size_t i = 0; i < p->sums_n; i++)
        buffer_free(p->sums[i]);
    free(p->sums);
    for (size_t i = 0; p->waiting && i < threads; i++)
        buffer_free(p->waiting[i]);
    free(p->waiting);
    free(p);
}

/* An estimate from shapes alone: weights, gradients, two states, a start and a copy waiting for its turn; activations
 * and their gradients; the shared start and sum, a map where oneDNN has the weights. oneDNN's scratch is small beside these. */
size_t plan_mem_bytes(const struct model *model, size_t batch, size_t threads)
{
    double rows = (double)largest(batch, EVALUATE_ROWS), values = 0, bytes;

    values += (double)model->input.c * model->input.h * model->input.w;
    for (size_t i = 0; i < model->layers_n; i++) {
        const struct shape *s = &model->layers[i].out;
        values += 1.5 * s->c * s->h * s->w;
    }
    bytes = (double)threads * (rows * values * sizeof(float) + 6.0 * (double)model->weights_n * sizeof(float));
    bytes += (double)model->weights_n * (sizeof(float) + sizeof(uint32_t) + sizeof(double));
    return (size_t)bytes;
}
