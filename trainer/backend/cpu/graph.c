/* graph.c - what each layer does with which storage and by whose kernel, decided once for a model.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cpu/cpu_private.h"

#include <stdlib.h>
#include <string.h>

static size_t values_of(const struct shape *s)
{
    return (size_t)s->c * (size_t)s->h * (size_t)s->w;
}

/* Whether the order of the values behind flatten i shows nowhere but in dense layers; these are then told `image`. */
static bool order_is_hidden(struct graph *g, int t, const struct shape *image, bool mark)
{
    const struct model *m = g->model;

    if (t == (int)m->layers_n)
        return false; /* the network's output */
    for (size_t i = 0; i < m->layers_n; i++) {
        const struct layer *l = &m->layers[i];
        if (l->type == LAYER_ADD && (l->from + 1 == t || l->input + 1 == t))
            return false;
        if (l->input + 1 != t)
            continue;
        if (l->type == LAYER_DENSE) {
            if (mark) {
                g->nodes[i].permuted = image->c > 1 && image->h * image->w > 1;
                g->nodes[i].image = *image;
            }
        } else if (l->type == LAYER_RELU || l->type == LAYER_DROPOUT || l->type == LAYER_FLATTEN) {
            if (!order_is_hidden(g, (int)i + 1, image, mark))
                return false;
        } else {
            return false;
        }
    }
    return true;
}

/* Our own kernels: ReLU, a 2x2 max pool and dropout behind a convolution are computed with it, ReLU and dropout behind a
 * dense layer, a sum and ReLU behind a norm. */

static void absorb(struct graph *g, size_t i, int layer)
{
    struct tensor *t = &g->tensors[g->nodes[i].out];

    t->absent = true;
    t->values = 0;
    g->nodes[i].out = layer + 1;
    g->nodes[layer].absorbed = true;
}

static int relu_behind(const struct model *m, int tensor)
{
    int reader = model_sole_reader(m, tensor);

    return reader >= 0 && m->layers[reader].type == LAYER_RELU ? reader : -1;
}

static int pool_behind(const struct model *m, int tensor)
{
    int reader = model_sole_reader(m, tensor);
    const struct layer *l = reader >= 0 ? &m->layers[reader] : NULL;

    if (!l || l->type != LAYER_MAX_POOL2D || l->kernel_h != 2 || l->kernel_w != 2 || l->stride != 2 || l->pad_top ||
        l->pad_left || l->out.h != l->in.h / 2 || l->out.w != l->in.w / 2)
        return -1;
    return reader;
}

/* The sum right behind layer i that alone reads it. What it is added to is there by then. */
static int add_behind(const struct model *m, size_t i)
{
    int reader = model_sole_reader(m, (int)i + 1);

    return reader == (int)i + 1 && m->layers[reader].type == LAYER_ADD ? reader : -1;
}

/* One bit for each value of a batch, and a word to read past them. */
static void plan_dropout(struct graph *g, int layer)
{
    g->nodes[layer].aux = (values_of(&g->model->layers[layer].out) + 7) / 8;
    g->nodes[layer].aux_fixed = sizeof(uint64_t);
}

/* Dropout that alone reads what layer i has made: the next layer, so that the stream of decisions keeps its order. */
static void absorb_dropout(struct graph *g, size_t i)
{
    int last = g->nodes[i].out - 1, reader = model_sole_reader(g->model, last + 1);

    if (reader != last + 1 || g->model->layers[reader].type != LAYER_DROPOUT)
        return;
    plan_dropout(g, reader);
    g->nodes[i].dropout = reader;
    absorb(g, i, reader);
}

static void plan_conv(struct graph *g, size_t i)
{
    const struct model *m = g->model;
    const struct layer *l = &m->layers[i];
    struct node *n = &g->nodes[i];
    int relu = relu_behind(m, n->out), pool = relu >= 0 ? pool_behind(m, relu + 1) : -1;

    n->conv = (struct conv){.h = l->in.h, .w = l->in.w, .c = l->in.c, .k = l->out.c, .r = l->kernel_h, .s = l->kernel_w,
                            .stride = l->stride, .pad_top = l->pad_top, .pad_left = l->pad_left, .p = l->out.h,
                            .q = l->out.w, .groups = l->groups, .bias = l->bias, .relu = relu >= 0, .pool = pool >= 0,
                            .need_dx = l->input >= 0, .batch = g->rows_max, .l2_bytes = g->rules.l2_bytes};
    n->kernel = choose_conv(&g->rules, &n->conv);
    if (!n->kernel)
        return;
    if (relu >= 0)
        absorb(g, i, relu);
    if (pool >= 0)
        absorb(g, i, pool);
    if (relu >= 0 && n->kernel->drops)
        absorb_dropout(g, i);
}

/* Between two convolutions that both take a lane for each sample, so does the tensor. */
static void plan_batched(struct graph *g)
{
    const struct model *m = g->model;

    for (size_t i = 0; i < m->layers_n; i++) {
        struct node *from = &g->nodes[i], *to;
        int reader = from->kernel ? model_sole_reader(m, from->out) : -1;
        struct conv before, after;
        if (reader < 0 || !(to = &g->nodes[reader])->kernel || !choose_is_batched(from->kernel) ||
            !choose_is_batched(to->kernel))
            continue;
        before = from->conv;
        after = to->conv;
        before.y_batched = after.x_batched = true;
        if (from->kernel->covers(&before) && to->kernel->covers(&after)) {
            from->conv = before;
            to->conv = after;
        }
    }
}

/* Whether nobody but layer i reads the storage of its input, under whatever name. */
static bool owns_storage(const struct graph *g, size_t i)
{
    int reader = (int)i, t = g->nodes[i].in;

    while (model_sole_reader(g->model, t) == reader) {
        if (g->tensors[t].root == t)
            return t > 0;
        reader = t - 1;
        t = g->nodes[reader].in;
    }
    return false;
}

static void plan_layer(struct graph *g, size_t i)
{
    const struct model *m = g->model;
    const struct layer *l = &m->layers[i];
    struct node *n = &g->nodes[i];
    struct tensor *out = &g->tensors[i + 1];
    int producer = l->input;
    enum layer_type before = producer >= 0 ? m->layers[producer].type : LAYER_FLATTEN;

    n->in = l->input + 1;
    n->in2 = l->type == LAYER_ADD ? l->from + 1 : -1;
    n->out = (int)i + 1;
    out->values = out->absent ? 0 : values_of(&l->out);
    out->root = n->out;
    if ((size_t)l->in.c > g->channels)
        g->channels = (size_t)l->in.c;
    if (n->absorbed)
        return;
    switch (l->type) {
    case LAYER_CONV2D:
        plan_conv(g, i);
        break;
    case LAYER_DENSE: {
        int relu = relu_behind(m, n->out);
        n->own_dense = choose_dense(&g->rules);
        if (!n->own_dense)
            break;
        n->dense = (struct dense){.in = (size_t)l->in.c, .out = (size_t)l->out.c,
                                  .stride = g->rules.native->dense_stride((size_t)l->out.c), .bias = l->bias,
                                  .relu = relu >= 0};
        if (relu >= 0) {
            absorb(g, i, relu);
            absorb_dropout(g, i);
        }
        break;
    }
    case LAYER_RELU:
        if (before != LAYER_CONV2D && before != LAYER_DENSE && before != LAYER_ADD)
            break;
        if (model_sole_reader(m, n->in) != (int)i)
            break;
        out->root = g->tensors[n->in].root;
        if (before == LAYER_CONV2D || before == LAYER_DENSE) {
            g->nodes[producer].relu = true;
            n->skip_forward = true;
        }
        break;
    case LAYER_MAX_POOL2D:
        n->aux = out->values * sizeof(uint16_t);
        if (before == LAYER_RELU && model_sole_reader(m, n->in) == (int)i && g->tensors[n->in].root != n->in)
            n->relu_mask = g->nodes[producer].skip_backward = true;
        break;
    case LAYER_DROPOUT: /* in place: ReLU's mask, where one is read from the values, is 0 where they are dropped */
        plan_dropout(g, (int)i);
        if (l->input >= 0 && owns_storage(g, i))
            out->root = g->tensors[n->in].root;
        break;
    case LAYER_BATCH_NORM:
    case LAYER_GROUP_NORM: {
        bool batch = l->type == LAYER_BATCH_NORM;
        int add = add_behind(m, i), relu = relu_behind(m, add >= 0 ? add + 1 : n->out);
        n->aux_fixed = batch ? 2 * sizeof(float) * (size_t)l->in.c : 0;
        n->aux = batch ? 0 : 2 * sizeof(float) * (size_t)l->norm_groups;
        n->norm = (struct native_norm){.pixels = (size_t)l->in.h * (size_t)l->in.w, .channels = (size_t)l->in.c,
                                       .groups = (size_t)(batch ? l->in.c : l->norm_groups), .eps = l->eps,
                                       .relu = relu >= 0};
        if (add >= 0) {
            n->in2 = m->layers[add].input == (int)i ? m->layers[add].from + 1 : m->layers[add].input + 1;
            absorb(g, i, add);
        }
        if (relu >= 0)
            absorb(g, i, relu);
        break;
    }
    case LAYER_FLATTEN:
        if (l->in.h * l->in.w == 1 || l->in.c == 1 || order_is_hidden(g, n->out, &l->in, false)) {
            /* A flatten behind a flatten has h = w = 1 and must not overwrite what the first has marked. */
            if (l->in.h * l->in.w > 1)
                order_is_hidden(g, n->out, &l->in, true);
            out->root = g->tensors[n->in].root;
            n->skip_forward = n->skip_backward = true;
        }
        break;
    default:
        break;
    }
}

/* A norm's gradient can take the place of what it is made of, which memory then need not bring: unless that, behind ReLU's
 * mask, is also added to another gradient. */
static bool norm_in_place(const struct graph *g, size_t i, const bool *wanted)
{
    const struct node *n = &g->nodes[i];
    int in = g->tensors[n->in].root, out = g->tensors[n->out].root;
    int other = n->in2 >= 0 && wanted[n->in2] ? g->tensors[n->in2].root : -1;

    return n->norm.channels && wanted[n->in] && wanted[n->out] && in != out && out == n->out && g->tensors[in].slot < 0 &&
           in != other && (other < 0 || g->tensors[other].slot < 0);
}

/* Walks backwards, handing out storage for gradients and taking it back where its last reader is done. */
static int plan_gradients(struct graph *g)
{
    const struct model *m = g->model;
    size_t tensors_n = m->layers_n + 1;
    bool *wanted = calloc(tensors_n, sizeof *wanted), *taken = calloc(tensors_n + 1, sizeof *taken);
    int rc = -ENOMEM;

    g->slots = calloc(tensors_n + 1, sizeof *g->slots);
    if (!wanted || !taken || !g->slots)
        goto out;
    for (size_t i = 0; i < m->layers_n; i++) {
        const struct node *n = &g->nodes[i];
        if (n->absorbed)
            continue;
        wanted[n->out] = m->layers[i].weight >= 0 || wanted[n->in] || (n->in2 >= 0 && wanted[n->in2]);
    }
    for (size_t t = 0; t < tensors_n; t++)
        g->tensors[t].slot = -1;
    if (m->layers_n) { /* the loss writes the first */
        int out = g->tensors[m->layers_n].root;
        g->tensors[out].slot = 0;
        taken[0] = true;
        g->slots_n = 1;
        g->slots[0] = g->tensors[out].values;
    }
    for (size_t i = m->layers_n; i-- > 0;) {
        struct node *n = &g->nodes[i];
        int out = g->tensors[n->out].root, inputs[2] = {n->in, n->in2};
        bool there = !n->absorbed && norm_in_place(g, i, wanted);
        if (n->absorbed)
            continue;
        for (int k = 0; k < 2; k++) {
            int in = inputs[k] >= 0 ? g->tensors[inputs[k]].root : -1;
            size_t slot = 0;
            bool need, add;
            if (in < 0)
                continue;
            need = wanted[inputs[k]] && wanted[n->out];
            add = need && in != out && g->tensors[in].slot >= 0;
            *(k ? &n->need_in2 : &n->need_in) = need;
            if (add && n->kernel && n->kernel->adds) {
                n->conv.add_dx = true;
                continue;
            }
            *(k ? &n->add_in2 : &n->add_in) = add;
            if (add && g->tensors[in].values > g->spare)
                g->spare = g->tensors[in].values;
            if (there && !k) {
                g->tensors[in].slot = g->tensors[out].slot;
            } else if (need && in != out && !add) {
                while (taken[slot])
                    slot++;
                taken[slot] = true;
                if (slot >= g->slots_n)
                    g->slots_n = slot + 1;
                if (g->slots[slot] < g->tensors[in].values)
                    g->slots[slot] = g->tensors[in].values;
                g->tensors[in].slot = (int)slot;
            }
        }
        if (out == n->out && g->tensors[out].slot >= 0 && !there)
            taken[g->tensors[out].slot] = false;
    }
    for (size_t t = 0; t < tensors_n; t++)
        g->tensors[t].slot = g->tensors[g->tensors[t].root].slot;
    rc = 0;
out:
    free(wanted);
    free(taken);
    return rc;
}

int graph_init(struct graph *graph, const struct model *model, const struct choose_rules *rules, size_t rows_max)
{
    struct graph g = {
        .model = model, .rules = *rules, .rows_max = rows_max, .channels = (size_t)model->classes};
    int rc = -ENOMEM;

    g.nodes = calloc(model->layers_n + 1, sizeof *g.nodes);
    g.tensors = calloc(model->layers_n + 1, sizeof *g.tensors);
    if (g.nodes && g.tensors) {
        g.tensors[0].values = values_of(&model->input);
        for (size_t i = 0; i < model->layers_n; i++)
            plan_layer(&g, i);
        plan_batched(&g);
        rc = plan_gradients(&g);
        for (size_t i = 0; i < model->layers_n; i++)
            if (g.nodes[i].kernel) {
                struct node *n = &g.nodes[i];
                n->conv.need_dx = n->need_in;
                n->by_parts = n->kernel->by_parts && n->kernel->by_parts(&n->conv);
            }
    }
    if (rc)
        graph_done(&g);
    else
        *graph = g;
    return rc;
}

void graph_done(struct graph *graph)
{
    free(graph->nodes);
    free(graph->tensors);
    free(graph->slots);
    *graph = (struct graph){0};
}
