/* layout.c - where each weight stands while a plan trains, and moving weights there and back.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cpu/cpu_private.h"

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

/* index: (O, I, R, S) of a convolution, (out, in) of a dense layer. */
static size_t weight_at(const struct plan *p, size_t i, const int64_t *index)
{
    const struct node *n = &p->graph.nodes[i];

    if (n->kernel)
        return n->kernel->weight_at(&n->conv, (int)index[0], (int)index[1], (int)index[2], (int)index[3]);
    if (n->own_dense)
        return (size_t)index[1] * n->dense.stride + (size_t)index[0];
    return linear_offset(&p->working[i], &p->model->layers[i], index);
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
        p->where[param->offset + k] = (uint32_t)(base + weight_at(p, i, index));
    }
}

int layout_make(struct plan *p)
{
    const struct model *m = p->model;
    int rc = place_params(p);

    if (rc)
        return rc;
    for (size_t k = 0; k < m->params_n; k++)
        for (size_t i = 0; i < m->params[k].size; i++)
            p->where[m->params[k].offset + i] = (uint32_t)(p->places[k].offset + i);
    for (size_t i = 0; i < m->layers_n; i++) {
        if (p->graph.nodes[i].own_dense)
            p->dense_of[m->layers[i].weight] = &p->graph.nodes[i];
        else if (plan_is_linear(&m->layers[i]))
            map_weights(p, i);
    }
    return 0;
}

/* Each pair of a canonical value C and its place W. A dense layer, canonical [o][c][pixel], working [pixel][c][o] (where
 * nothing is permuted there is one pixel), is walked in tiles: the working side of one stays in the first cache, of the
 * canonical side each line is met once. */
#define TILE 16

struct tile_range {
    size_t from, to;
};

static struct tile_range tile(size_t at, size_t n)
{
    return (struct tile_range){at, at + TILE < n ? at + TILE : n};
}

#define WALK(name, work_type, can_type, ACT)                                                                           \
    static void name##_dense(const struct node *n, work_type *work, can_type *can)                                     \
    {                                                                                                                  \
        size_t pixels = n->permuted ? (size_t)n->image.h * (size_t)n->image.w : 1, channels = n->dense.in / pixels;    \
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
    static void name(const struct plan *p, work_type *work, can_type *can, bool trainable)                             \
    {                                                                                                                  \
        for (size_t k = 0; k < p->model->params_n; k++) {                                                              \
            const struct param *param = &p->model->params[k];                                                          \
            if (trainable && !param->trainable)                                                                        \
                continue;                                                                                              \
            if (p->dense_of[k]) {                                                                                      \
                name##_dense(p->dense_of[k], work + p->places[k].offset, can + param->offset);                         \
                continue;                                                                                              \
            }                                                                                                          \
            for (size_t i = param->offset; i < param->offset + param->size; i++) {                                     \
                work_type *W = &work[p->where[i]];                                                                     \
                can_type *C = &can[i];                                                                                 \
                ACT;                                                                                                   \
            }                                                                                                          \
        }                                                                                                              \
    }

WALK(walk_in, float, const float, *W = *C)
WALK(walk_out, const float, float, *C = *W)
WALK(walk_add, float, const float, *W += *C)
WALK(walk_sum_out, const double, double, *C = *W)

void plan_gather(const struct plan *p, const float *canonical, float *working)
{
    memset(working, 0, p->weights_n * sizeof *working);
    walk_in(p, working, canonical, false);
}

void plan_scatter(const struct plan *p, const float *working, float *canonical)
{
    walk_out(p, working, canonical, false);
}

void plan_gather_trainable(const struct plan *p, const float *canonical, float *working)
{
    walk_in(p, working, canonical, true);
}

void plan_scatter_trainable(const struct plan *p, const float *working, float *canonical)
{
    walk_out(p, working, canonical, true);
}

void plan_add_trainable(const struct plan *p, const float *canonical, float *working)
{
    walk_add(p, working, canonical, true);
}

void plan_scatter_sum(const struct plan *p, const double *working, double *canonical)
{
    walk_sum_out(p, working, canonical, false);
}
