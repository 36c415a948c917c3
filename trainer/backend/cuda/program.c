/* program.c - the life of buffers and their place in one arena; matrix products of layers.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cuda/cuda_private.h"

#include <stdlib.h>

#define ALIGN 256

uint32_t gemm_precision(enum precision precision)
{
    return precision == PRECISION_TF32 ? GEMM_TF32 : precision == PRECISION_BF16 ? GEMM_BF16 : GEMM_FP32;
}

static void touch(struct program *p, int space, int op)
{
    struct space *s;

    if (space < 0)
        return;
    s = &p->spaces[space];
    if (s->first < 0)
        s->first = op;
    s->last = op;
}

static int by_size(const void *left, const void *right)
{
    const struct space *const *a = left, *const *b = right;

    if ((*a)->bytes != (*b)->bytes)
        return (*a)->bytes < (*b)->bytes ? 1 : -1;
    return *a < *b ? -1 : *a > *b; /* the order of creation: equal plans for equal models */
}

static bool overlap(const struct space *a, const struct space *b)
{
    return a->first <= b->last && b->first <= a->last;
}

/* Largest first, each at the lowest offset where nothing that lives meanwhile stands. */
int program_place(struct program *p)
{
    struct space **sorted = calloc(p->spaces_n + 1, sizeof *sorted);

    if (!sorted)
        return -ENOMEM;
    for (size_t i = 0; i < p->ops_n; i++) {
        const struct op *op = &p->ops[i];
        const int used[] = {op->x, op->x2, op->y, op->dy, op->dx, op->aux, op->aux2, op->parts, op->mask, op->gram};
        for (size_t k = 0; k < sizeof used / sizeof *used; k++)
            touch(p, used[k], (int)i);
    }
    for (size_t i = 0; i < p->spaces_n; i++) {
        struct space *s = &p->spaces[i];
        s->bytes = (s->row * p->rows + s->fixed + ALIGN - 1) / ALIGN * ALIGN;
        sorted[i] = s;
    }
    qsort(sorted, p->spaces_n, sizeof *sorted, by_size);
    for (size_t i = 0; i < p->spaces_n; i++) {
        size_t offset = 0;
        bool moved = true;
        while (moved) {
            moved = false;
            for (size_t k = 0; k < i; k++)
                if (overlap(sorted[i], sorted[k]) && offset < sorted[k]->offset + sorted[k]->bytes &&
                    sorted[k]->offset < offset + sorted[i]->bytes) {
                    offset = sorted[k]->offset + sorted[k]->bytes;
                    moved = true;
                }
        }
        sorted[i]->offset = offset;
        if (offset + sorted[i]->bytes > p->bytes)
            p->bytes = offset + sorted[i]->bytes;
    }
    free(sorted);
    return 0;
}

/* Cuts k so that a lone replica has about two tiles for each multiprocessor of a large GPU, but no part is short. Sees
 * the shape alone: packed or not, the parts are the same. */
#define TILES_WANTED 256
#define PART_LEAST 256

static void cut(struct gemm_args *a)
{
    uint64_t tiles = (uint64_t)((a->m + 63) / 64) * ((a->n + 31) / 32) * a->groups;
    uint64_t wanted = TILES_WANTED / tiles, most = a->k / PART_LEAST;

    a->splits = 1;
    a->split_k = a->k;
    if (wanted > most)
        wanted = most;
    if (wanted > 1) {
        a->split_k = (uint32_t)((a->k + wanted - 1) / wanted + TILE_K - 1) / TILE_K * TILE_K;
        a->splits = (a->k + a->split_k - 1) / a->split_k;
    }
}

int gemm_of(const struct layer *l, uint32_t mode, uint32_t precision, size_t rows, struct gemm_args *ret)
{
    bool dense = l->type == LAYER_DENSE;
    uint32_t in_c = (uint32_t)l->in.c, out_c = (uint32_t)l->out.c, groups = dense ? 1 : (uint32_t)l->groups;
    uint32_t in_h = dense ? 1 : (uint32_t)l->in.h, in_w = dense ? 1 : (uint32_t)l->in.w;
    uint32_t out_h = dense ? 1 : (uint32_t)l->out.h, out_w = dense ? 1 : (uint32_t)l->out.w;
    uint32_t kernel_h = dense ? 1 : (uint32_t)l->kernel_h, kernel_w = dense ? 1 : (uint32_t)l->kernel_w;
    uint32_t stride = dense ? 1 : (uint32_t)l->stride, in_cg = in_c / groups, out_cg = out_c / groups;
    double in_pixels = (double)rows * in_h * in_w, out_pixels = (double)rows * out_h * out_w;
    double taps = (double)kernel_h * kernel_w;

    if (in_pixels > 1e9 || out_pixels > 1e9 || taps * in_cg > 1e9 || taps * out_cg > 1e9)
        return -EINVAL;
    *ret = (struct gemm_args){
        .mode = mode,
        .precision = precision,
        .rows = (uint32_t)rows,
        .in_h = in_h,
        .in_w = in_w,
        .in_c = in_c,
        .out_h = out_h,
        .out_w = out_w,
        .out_c = out_c,
        .kernel_h = kernel_h,
        .kernel_w = kernel_w,
        .stride = stride,
        .groups = groups,
        .pad_top = dense ? 0 : l->pad_top,
        .pad_left = dense ? 0 : l->pad_left,
        .in_cg = in_cg,
        .out_cg = out_cg,
        .by_in_c = divisor_of(in_cg),
        .by_out_c = divisor_of(out_cg),
        .by_kernel_w = divisor_of(kernel_w),
        .by_in_w = divisor_of(in_w),
        .by_in_pixels = divisor_of(in_h * in_w),
        .by_out_w = divisor_of(out_w),
        .by_out_pixels = divisor_of(out_h * out_w),
        .by_stride = divisor_of(stride),
        .x_stride = (uint64_t)rows * in_h * in_w * in_c,
        .dy_stride = (uint64_t)rows * out_h * out_w * out_c,
        .vector_in = in_cg % 4 == 0,
        .vector_out = out_cg % 4 == 0,
    };
    if (mode == GEMM_FORWARD) {
        ret->m = (uint32_t)out_pixels;
        ret->n = out_cg;
        ret->k = (uint32_t)taps * in_cg;
    } else if (mode == GEMM_DATA) {
        ret->m = (uint32_t)in_pixels;
        ret->n = in_cg;
        ret->k = (uint32_t)taps * out_cg;
    } else {
        ret->m = out_cg;
        ret->n = (uint32_t)taps * in_cg + (l->bias ? 1 : 0);
        ret->k = (uint32_t)out_pixels;
    }
    cut(ret);
    return 0;
}

size_t gemm_parts_bytes(const struct gemm_args *a)
{
    return a->splits > 1 ? (size_t)a->splits * a->groups * a->m * a->n * sizeof(float) : 0;
}
