/* bind.c - oneDNN's primitives with the memory of one replica, and running them.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cpu/cpu_private.h"

#include <stdlib.h>

/* oneDNN 2.6 writes past the scratch that it asks for in strided 1x1 convolutions of few channels (jit_1x1:avx2). */
#define SLACK 65536

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

static size_t larger(size_t a, size_t b)
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
            *ret_weights = larger(*ret_weights, bytes_of(&lin->weights));
        if (lin->to_backward_data)
            *ret_weights = larger(*ret_weights, bytes_of(&lin->weights_data));
        if (lin->from_backward_weights)
            *ret_weights = larger(*ret_weights, bytes_of(&lin->weights_grad));
        for (int k = 0; k < 3; k++)
            *ret_scratch = larger(*ret_scratch, bytes_of(&lin->scratch[k]));
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

void binding_free(struct binding *b, size_t layers_n)
{
    if (!b)
        return;
    for (size_t i = 0; b->bound && i < layers_n; i++)
        for (size_t k = 0; k < b->bound[i].memories_n; k++)
            dnnl_memory_destroy(b->bound[i].memories[k]);
    free(b->bound);
    buffer_free(b->buffer);
    free(b);
}

int binding_new(struct worker *w, const struct variant *v, struct binding **ret, struct error *err)
{
    const struct plan *p = w->plan;
    struct binder binder = {.engine = p->backend->engine};
    struct binding *b = calloc(1, sizeof *b);
    size_t weights, scratch;

    buffer_sizes(p, v, &weights, &scratch);
    if (!b || !(b->bound = calloc(p->model->layers_n + 1, sizeof *b->bound)) ||
        !(b->buffer = buffer_new(plan_aligned(weights) + plan_aligned(scratch) + scratch / 2 + SLACK))) {
        binding_free(b, p->model->layers_n);
        return fail(err, -ENOMEM, "out of memory for a batch of %zu", v->rows);
    }
    for (size_t i = 0; i < p->model->layers_n; i++)
        if (plan_is_onednn(p, i)) {
            binder.bound = &b->bound[i];
            bind_layer(w, &v->linear[i], &binder, i, b->buffer, (char *)b->buffer + plan_aligned(weights));
        }
    if (binder.status != dnnl_success) {
        binding_free(b, p->model->layers_n);
        return dnnl_fail(err, binder.status, "memory");
    }
    *ret = b;
    return 0;
}

/* running */

static int run(struct worker *w, dnnl_primitive_t primitive, int n, const dnnl_exec_arg_t *args)
{
    dnnl_status_t status = primitive ? dnnl_primitive_execute(primitive, w->stream, n, args) : dnnl_success;

    return status == dnnl_success ? 0 : dnnl_fail(&w->err, status, "running a layer");
}

int linear_forward(struct worker *w, const struct linear *lin, const struct bound *b)
{
    int rc = run(w, lin->to_forward, 2, b->to_forward);

    return rc ? rc : run(w, lin->forward, b->forward_n, b->forward);
}

int linear_backward(struct worker *w, const struct linear *lin, const struct bound *b)
{
    int rc = run(w, lin->backward_weights, b->backward_weights_n, b->backward_weights);

    if (!rc)
        rc = run(w, lin->from_backward_weights, 2, b->from_backward_weights);
    if (!rc)
        rc = run(w, lin->to_backward_data, 2, b->to_backward_data);
    return rc ? rc : run(w, lin->backward_data, b->backward_data_n, b->backward_data);
}
