/* plan.c - a model made ready to train: working layout of the weights, primitives for each number of rows, workers.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cpu/cpu_private.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define ALIGN 64
#define HUGE_PAGE ((size_t)2 << 20)

static size_t aligned(size_t bytes)
{
    return (bytes + ALIGN - 1) / ALIGN * ALIGN;
}

void *buffer_new(size_t bytes)
{
    size_t alignment = bytes >= 2 * HUGE_PAGE ? HUGE_PAGE : ALIGN;
    void *buffer = NULL;

    if (!bytes)
        bytes = 1;
    if (posix_memalign(&buffer, alignment, bytes))
        return NULL;
    if (alignment == HUGE_PAGE)
        madvise(buffer, bytes, MADV_HUGEPAGE); /* advice: may be refused */
    memset(buffer, 0, bytes);
    return buffer;
}

static bool is_linear(const struct layer *l)
{
    return l->type == LAYER_CONV2D || l->type == LAYER_DENSE;
}

/* the working layout */

static int place_params(struct plan *p)
{
    const struct model *m = p->model;
    size_t offset = 0;

    for (size_t k = 0; k < m->params_n; k++) {
        size_t size = m->params[k].size;
        for (size_t i = 0; i < m->layers_n; i++)
            if (is_linear(&m->layers[i]) && m->layers[i].weight == (int)k)
                size = dnnl_memory_desc_get_size(&p->working[i]) / sizeof(float);
        p->places[k] = (struct place){.offset = offset, .size = size};
        offset += aligned(size * sizeof(float)) / sizeof(float);
        if (m->params[k].trainable)
            p->trainable_n = offset;
    }
    p->weights_n = offset;
    return offset > UINT32_MAX ? -ENOMEM : 0;
}

static void map_weights(struct plan *p, size_t i)
{
    const struct layer *l = &p->model->layers[i];
    const struct node *node = &p->graph.nodes[i];
    const struct param *param = &p->model->params[l->weight];
    size_t base = p->places[l->weight].offset;
    int64_t shape[4] = {1, 1, 1, 1};

    for (int d = 0; d < param->dims; d++)
        shape[d] = param->shape[d];
    for (size_t k = 0; k < param->size; k++) {
        int64_t index[4], rest = (int64_t)k;
        for (int d = param->dims - 1; d >= 0; d--) {
            index[d] = rest % shape[d];
            rest /= shape[d];
        }
        if (node->permuted) { /* column (c, h, w) is column (h, w, c) of what comes in */
            int64_t pixels = (int64_t)node->image.h * node->image.w;
            index[1] = index[1] % pixels * node->image.c + index[1] / pixels;
        }
        p->where[param->offset + k] = (uint32_t)(base + linear_offset(&p->working[i], l, index));
    }
}

static void map_params(struct plan *p)
{
    const struct model *m = p->model;

    for (size_t k = 0; k < m->params_n; k++)
        for (size_t i = 0; i < m->params[k].size; i++)
            p->where[m->params[k].offset + i] = (uint32_t)(p->places[k].offset + i);
    for (size_t i = 0; i < m->layers_n; i++)
        if (is_linear(&m->layers[i]))
            map_weights(p, i);
}

void plan_gather(const struct plan *p, const float *canonical, float *working)
{
    memset(working, 0, p->weights_n * sizeof *working);
    for (size_t i = 0; i < p->model->weights_n; i++)
        working[p->where[i]] = canonical[i];
}

void plan_scatter(const struct plan *p, const float *working, float *canonical)
{
    for (size_t i = 0; i < p->model->weights_n; i++)
        canonical[i] = working[p->where[i]];
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
        if (is_linear(&m->layers[i])) {
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

/* workers */

struct carver { /* first pass with base NULL: counts */
    char *base;
    size_t used;
};

static void *carve(struct carver *c, size_t bytes)
{
    void *at = c->base ? c->base + c->used : NULL;

    c->used += aligned(bytes);
    return at;
}

static void carve_worker(struct worker *w, const struct plan *p, struct carver *c, float **slots)
{
    const struct graph *g = &p->graph;
    size_t layers = p->model->layers_n;

    w->weights = carve(c, p->weights_n * sizeof(float));
    w->grads = carve(c, p->trainable_n * sizeof(float));
    w->labels = carve(c, p->rows_max * sizeof *w->labels);
    w->channel = carve(c, 4 * g->channels * sizeof *w->channel);
    for (size_t s = 0; s < g->slots_n; s++)
        slots[s] = carve(c, p->rows_max * g->slots[s] * sizeof(float));
    w->spare = carve(c, p->rows_max * g->spare * sizeof(float));
    for (size_t t = 0; t <= layers; t++) {
        const struct tensor *tensor = &g->tensors[t];
        w->act[t] =
            tensor->root == (int)t ? carve(c, p->rows_max * tensor->values * sizeof(float)) : w->act[tensor->root];
        w->grad[t] = tensor->slot >= 0 ? slots[tensor->slot] : NULL;
    }
    for (size_t i = 0; i < layers; i++)
        w->aux[i] = carve(c, p->rows_max * g->nodes[i].aux + g->nodes[i].aux_fixed);
}

static void binding_free(const struct plan *p, struct binding *b)
{
    if (!b)
        return;
    for (size_t i = 0; b->bound && i < p->model->layers_n; i++)
        for (size_t k = 0; k < b->bound[i].memories_n; k++)
            dnnl_memory_destroy(b->bound[i].memories[k]);
    free(b->bound);
    free(b->buffer);
    free(b);
}

static void worker_free(struct plan *p, struct worker *w)
{
    if (!w)
        return;
    for (size_t i = 0; i < w->bindings_n; i++)
        binding_free(p, w->bindings[i]);
    free(w->bindings);
    if (w->stream)
        dnnl_stream_destroy(w->stream);
    free(w->arena);
    free(w->act);
    free(w->grad);
    free(w->aux);
    free(w->state);
    free(w->own_start);
    free(w->order);
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
    w->act = calloc(layers + 1, sizeof *w->act);
    w->grad = calloc(layers + 1, sizeof *w->grad);
    w->aux = calloc(layers + 1, sizeof *w->aux);
    if (!w->act || !w->grad || !w->aux)
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
    worker_free(p, w);
    return rc;
}

/* bindings */

struct binder {
    struct bound *bound;
    dnnl_engine_t engine;
    dnnl_status_t status;
};

static dnnl_exec_arg_t bind(struct binder *b, int arg, const dnnl_memory_desc_t *desc, void *data)
{
    dnnl_memory_t memory = NULL;
    dnnl_status_t status = dnnl_memory_create(&memory, desc, b->engine, data);

    if (status != dnnl_success)
        b->status = status;
    else
        b->bound->memories[b->bound->memories_n++] = memory;
    return (dnnl_exec_arg_t){.arg = arg, .memory = memory};
}

static size_t largest(size_t a, size_t b)
{
    return a > b ? a : b;
}

static size_t bytes_of(const dnnl_memory_desc_t *desc)
{
    return desc->ndims ? dnnl_memory_desc_get_size(desc) : 0;
}

/* Reordered weights are used at once, so that one buffer serves all layers; likewise scratch. */
static void buffer_sizes(const struct plan *p, const struct variant *v, size_t *ret_weights, size_t *ret_scratch)
{
    *ret_weights = *ret_scratch = 0;
    for (size_t i = 0; i < p->model->layers_n; i++) {
        const struct linear *lin = &v->linear[i];
        if (lin->to_forward)
            *ret_weights = largest(*ret_weights, bytes_of(&lin->weights));
        if (lin->to_backward_data)
            *ret_weights = largest(*ret_weights, bytes_of(&lin->weights_data));
        if (lin->from_backward_weights)
            *ret_weights = largest(*ret_weights, bytes_of(&lin->weights_grad));
        for (int k = 0; k < 3; k++)
            *ret_scratch = largest(*ret_scratch, bytes_of(&lin->scratch[k]));
    }
}

static void bind_layer(struct worker *w, const struct linear *lin, struct binder *b, size_t i, void *reordered,
                       void *scratch)
{
    const struct plan *p = w->plan;
    const struct layer *l = &p->model->layers[i];
    const struct node *node = &p->graph.nodes[i];
    float *weights = w->weights + p->places[l->weight].offset, *grads = w->grads + p->places[l->weight].offset;
    struct bound *o = b->bound;
    int n = 0;

    o->forward[n++] = bind(b, DNNL_ARG_SRC, &lin->src, w->act[node->in]);
    o->forward[n++] = bind(b, DNNL_ARG_WEIGHTS, &lin->weights, lin->to_forward ? reordered : weights);
    if (l->bias)
        o->forward[n++] = bind(b, DNNL_ARG_BIAS, &lin->bias, w->weights + p->places[l->bias_param].offset);
    o->forward[n++] = bind(b, DNNL_ARG_DST, &lin->dst, w->act[node->out]);
    o->forward[n++] = bind(b, DNNL_ARG_SCRATCHPAD, &lin->scratch[0], scratch);
    o->forward_n = n;
    if (lin->to_forward) {
        o->to_forward[0] = bind(b, DNNL_ARG_FROM, &p->working[i], weights);
        o->to_forward[1] = (dnnl_exec_arg_t){.arg = DNNL_ARG_TO, .memory = o->forward[1].memory};
    }
    if (lin->backward_weights) {
        n = 0;
        o->backward_weights[n++] = o->forward[0];
        o->backward_weights[n++] =
            bind(b, DNNL_ARG_DIFF_WEIGHTS, &lin->weights_grad, lin->from_backward_weights ? reordered : grads);
        if (l->bias)
            o->backward_weights[n++] =
                bind(b, DNNL_ARG_DIFF_BIAS, &lin->bias, w->grads + p->places[l->bias_param].offset);
        o->backward_weights[n++] = bind(b, DNNL_ARG_DIFF_DST, &lin->dst, w->grad[node->out]);
        o->backward_weights[n++] = bind(b, DNNL_ARG_SCRATCHPAD, &lin->scratch[2], scratch);
        o->backward_weights_n = n;
        if (lin->from_backward_weights) {
            o->from_backward_weights[0] =
                (dnnl_exec_arg_t){.arg = DNNL_ARG_FROM, .memory = o->backward_weights[1].memory};
            o->from_backward_weights[1] = bind(b, DNNL_ARG_TO, &p->working[i], grads);
        }
    }
    if (lin->backward_data) {
        n = 0;
        o->backward_data[n++] = bind(b, DNNL_ARG_DIFF_SRC, &lin->src, node->add_in ? w->spare : w->grad[node->in]);
        o->backward_data[n++] =
            bind(b, DNNL_ARG_WEIGHTS, &lin->weights_data, lin->to_backward_data ? reordered : weights);
        o->backward_data[n++] = bind(b, DNNL_ARG_DIFF_DST, &lin->dst, w->grad[node->out]);
        o->backward_data[n++] = bind(b, DNNL_ARG_SCRATCHPAD, &lin->scratch[1], scratch);
        o->backward_data_n = n;
        if (lin->to_backward_data) {
            o->to_backward_data[0] = bind(b, DNNL_ARG_FROM, &p->working[i], weights);
            o->to_backward_data[1] = (dnnl_exec_arg_t){.arg = DNNL_ARG_TO, .memory = o->backward_data[1].memory};
        }
    }
}

static int binding_new(struct worker *w, const struct variant *v, struct binding **ret, struct error *err)
{
    const struct plan *p = w->plan;
    struct binder binder = {.engine = p->backend->engine};
    struct binding *b = calloc(1, sizeof *b);
    size_t weights, scratch;

    buffer_sizes(p, v, &weights, &scratch);
    if (!b || !(b->bound = calloc(p->model->layers_n + 1, sizeof *b->bound)) ||
        !(b->buffer = buffer_new(aligned(weights) + aligned(scratch) + ALIGN))) {
        binding_free(p, b);
        return fail(err, -ENOMEM, "out of memory for a batch of %zu", v->rows);
    }
    for (size_t i = 0; i < p->model->layers_n; i++)
        if (is_linear(&p->model->layers[i])) {
            binder.bound = &b->bound[i];
            bind_layer(w, &v->linear[i], &binder, i, b->buffer, (char *)b->buffer + aligned(weights));
        }
    if (binder.status != dnnl_success) {
        binding_free(p, b);
        return dnnl_fail(err, binder.status, "memory");
    }
    *ret = b;
    return 0;
}

int plan_workers(struct plan *p, size_t n, struct error *err)
{
    int rc = 0;

    for (size_t i = 0; i < n && !rc; i++) {
        struct worker *w = p->workers[i];
        struct binding **grown;
        if (!w && (rc = worker_new(p, &p->workers[i], err)))
            return rc;
        w = p->workers[i];
        grown = realloc(w->bindings, p->variants_n * sizeof *grown);
        if (!grown)
            return fail(err, -ENOMEM, "out of memory");
        w->bindings = grown;
        for (; w->bindings_n < p->variants_n && !rc; w->bindings_n += !rc)
            rc = binding_new(w, p->variants[w->bindings_n], &w->bindings[w->bindings_n], err);
    }
    return rc;
}

int plan_compile(struct backend *backend, const struct model *model, size_t batch, struct plan **ret, struct error *err)
{
    struct plan *p = calloc(1, sizeof *p);
    size_t first;
    int rc = -ENOMEM;

    if (!p)
        return fail(err, rc, "out of memory");
    p->backend = backend;
    p->model = model;
    p->batch = batch;
    p->rows_max = largest(batch, EVALUATE_ROWS);
    p->grain = batch / 8 ? batch / 8 : 1;
    p->working = calloc(model->layers_n + 1, sizeof *p->working);
    p->places = calloc(model->params_n + 1, sizeof *p->places);
    p->workers = calloc(crew_size(backend->crew), sizeof(struct worker *));
    p->where = calloc(model->weights_n + 1, sizeof *p->where);
    if (!p->working || !p->places || !p->workers || !p->where || graph_init(&p->graph, model)) {
        fail(err, rc, "out of memory for the model");
        goto out;
    }
    if ((rc = plan_variant(p, batch, true, &first, err)))
        goto out;
    if ((rc = place_params(p))) {
        fail(err, rc, "the model is too large");
        goto out;
    }
    map_params(p);
    p->start = buffer_new(p->weights_n * sizeof *p->start);
    p->sum = buffer_new(p->weights_n * sizeof *p->sum);
    if (!p->start || !p->sum)
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
    if (!p)
        return;
    for (size_t i = 0; p->workers && i < crew_size(p->backend->crew); i++)
        worker_free(p, p->workers[i]);
    for (size_t i = 0; i < p->variants_n; i++)
        variant_free(p, p->variants[i]);
    if (p->graph.nodes)
        graph_done(&p->graph);
    free(p->variants);
    free(p->workers);
    free(p->working);
    free(p->places);
    free(p->where);
    free(p->start);
    free(p->sum);
    for (size_t i = 0; p->waiting && i < crew_size(p->backend->crew); i++)
        free(p->waiting[i]);
    free(p->waiting);
    free(p);
}

/* An estimate from shapes alone: weights, gradients, two states, a start and a copy waiting for its turn; activations
 * and their gradients; the shared start, map and sum. oneDNN's scratch is small beside these. */
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
