/* layout.c - where each weight stands while a plan trains, and moving weights there and back.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cpu/cpu_private.h"

#include <stdlib.h>
#include <string.h>

static size_t weights_floats(const struct plan *p, size_t i)
{
    const struct node *n = &p->graph.nodes[i];

    if (n->kernel)
        return n->kernel->weights_floats(&n->conv);
    if (n->own_dense)
        return n->dense.in * n->dense.stride;
    return dnnl_memory_desc_get_size(&p->working[i]) / sizeof(float);
}

static int place_params(struct plan *p)
{
    const struct model *m = p->model;
    size_t offset = 0;

    for (size_t k = 0; k < m->params_n; k++) {
        size_t size = m->params[k].size;
        for (size_t i = 0; i < m->layers_n; i++)
            if (plan_is_linear(&m->layers[i]) && m->layers[i].weight == (int)k)
                size = weights_floats(p, i);
        p->places[k] = (struct place){.offset = offset, .size = size};
        offset += plan_aligned(size * sizeof(float)) / sizeof(float);
        if (m->params[k].trainable)
            p->trainable_n = offset;
    }
    p->weights_n = offset;
    return offset > UINT32_MAX ? -ENOMEM : 0;
}

/* oneDNN's layouts are asked value by value. */
static int map_onednn(struct plan *p, size_t i)
{
    const struct layer *l = &p->model->layers[i];
    const struct node *node = &p->graph.nodes[i];
    const struct param *param = &p->model->params[l->weight];
    uint32_t *where = p->where[l->weight] = malloc((param->size + 1) * sizeof *where);
    int64_t shape[4] = {1, 1, 1, 1};

    if (!where)
        return -ENOMEM;
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
        where[k] = (uint32_t)linear_offset(&p->working[i], l, index);
    }
    return 0;
}

int layout_make(struct plan *p, struct error *err)
{
    const struct model *m = p->model;
    int rc = place_params(p);

    for (size_t i = 0; i < m->layers_n && !rc; i++) {
        const struct node *n = &p->graph.nodes[i];
        if (n->own_dense || n->kernel)
            p->node_of[m->layers[i].weight] = n;
        else if (plan_is_linear(&m->layers[i]))
            rc = map_onednn(p, i);
    }
    return rc ? fail(err, rc, "out of memory for the model's weights, or they are too many") : 0;
}

/* Each pair of a canonical value C and its place W, in tiles: the working side of one stays in the first cache, of the
 * canonical side each line is met once. A dense layer is canonical [o][c][pixel], working [pixel][c][o] (where nothing is
 * permuted there is one pixel); a convolution canonical [k][c][tap]. */
#define TILE 16

struct tile_range {
    size_t from, to;
};

static struct tile_range tile(size_t at, size_t n)
{
    return (struct tile_range){at, at + TILE < n ? at + TILE : n};
}

#define WALK(name, work_type, can_type, ACT)                                                                           \
    static void name##_dense(const struct node *n, work_type *work, can_type *can, double weight)                      \
    {                                                                                                                  \
        size_t pixels = n->permuted ? (size_t)n->image.h * (size_t)n->image.w : 1, channels = n->dense.in / pixels;    \
        (void)weight;                                                                                                  \
        for (size_t ot = 0; ot < n->dense.out; ot += TILE)                                                             \
            for (size_t ct = 0; ct < channels; ct += TILE)                                                             \
                for (size_t pt = 0; pt < pixels; pt += TILE) {                                                         \
                    struct tile_range o = tile(ot, n->dense.out), c = tile(ct, channels), q = tile(pt, pixels);        \
                    for (size_t i = o.from; i < o.to; i++)                                                             \
                        for (size_t b = c.from; b < c.to; b++)                                                         \
                            for (size_t a = q.from; a < q.to; a++) {                                                   \
                                work_type *W = &work[(a * channels + b) * n->dense.stride + i];                        \
                                can_type *C = &can[i * n->dense.in + b * pixels + a];                                  \
                                ACT;                                                                                   \
                            }                                                                                          \
                }                                                                                                      \
    }                                                                                                                  \
    static void name##_conv(const struct node *n, work_type *work, can_type *can, double weight)                       \
    {                                                                                                                  \
        const struct conv *conv = &n->conv;                                                                            \
        size_t channels = (size_t)(conv->c / conv->groups), taps = (size_t)(conv->r * conv->s);                        \
        (void)weight;                                                                                                  \
        for (size_t kt = 0; kt < (size_t)conv->k; kt += TILE) {                                                        \
            struct tile_range k = tile(kt, (size_t)conv->k);                                                           \
            struct conv_place at[TILE];                                                                                \
            for (size_t i = k.from; i < k.to; i++)                                                                     \
                at[i - kt] = n->kernel->place(conv, (int)i);                                                           \
            for (size_t ct = 0; ct < channels; ct += TILE) {                                                           \
                struct tile_range c = tile(ct, channels);                                                              \
                for (size_t i = k.from; i < k.to; i++)                                                                 \
                    for (size_t b = c.from; b < c.to; b++)                                                             \
                        for (size_t t = 0; t < taps; t++) {                                                            \
                            const struct conv_place *p = &at[i - kt];                                                  \
                            work_type *W = &work[p->first + b * p->channel + t * p->tap];                              \
                            can_type *C = &can[(i * channels + b) * taps + t];                                         \
                            ACT;                                                                                       \
                        }                                                                                              \
            }                                                                                                          \
        }                                                                                                              \
    }                                                                                                                  \
    static void name##_others(const uint32_t *where, size_t n, work_type *work, can_type *can, double weight)          \
    {                                                                                                                  \
        (void)weight;                                                                                                  \
        for (size_t i = 0; i < n; i++) {                                                                               \
            work_type *W = &work[where ? where[i] : i];                                                                \
            can_type *C = &can[i];                                                                                     \
            ACT;                                                                                                       \
        }                                                                                                              \
    }                                                                                                                  \
    static void name(const struct plan *p, work_type *work, can_type *can, bool trainable, double weight)              \
    {                                                                                                                  \
        for (size_t k = 0; k < p->model->params_n; k++) {                                                              \
            const struct param *param = &p->model->params[k];                                                          \
            const struct node *n = p->node_of[k];                                                                      \
            work_type *to = work + p->places[k].offset;                                                                \
            if (trainable && !param->trainable)                                                                        \
                continue;                                                                                              \
            if (!n)                                                                                                    \
                name##_others(p->where[k], param->size, to, can + param->offset, weight);                              \
            else if (n->own_dense)                                                                                     \
                name##_dense(n, to, can + param->offset, weight);                                                      \
            else                                                                                                       \
                name##_conv(n, to, can + param->offset, weight);                                                       \
        }                                                                                                              \
    }

WALK(walk_in, float, const float, *W = *C)
WALK(walk_out, const float, float, *C = *W)
WALK(walk_add, float, const float, *W += *C)
WALK(walk_sum_out, const double, double, *C = *W)
WALK(walk_scaled_out, const float, double, *C = weight * (double)*W)

void plan_gather(const struct plan *p, const float *canonical, float *working)
{
    memset(working, 0, p->weights_n * sizeof *working);
    walk_in(p, working, canonical, false, 1);
}

void plan_scatter(const struct plan *p, const float *working, float *canonical)
{
    walk_out(p, working, canonical, false, 1);
}

void plan_gather_trainable(const struct plan *p, const float *canonical, float *working)
{
    walk_in(p, working, canonical, true, 1);
}

void plan_scatter_trainable(const struct plan *p, const float *working, float *canonical)
{
    walk_out(p, working, canonical, true, 1);
}

void plan_add_trainable(const struct plan *p, const float *canonical, float *working)
{
    walk_add(p, working, canonical, true, 1);
}

void plan_scatter_sum(const struct plan *p, const double *working, double *canonical)
{
    walk_sum_out(p, working, canonical, false, 1);
}

void plan_scatter_scaled(const struct plan *p, const float *working, double weight, double *canonical)
{
    walk_scaled_out(p, working, canonical, false, weight);
}
