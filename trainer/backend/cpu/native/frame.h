/* frame.h - images among zeros, and the gradient of an output on its way into one: what direct and depthwise share.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_TRAINER_CPU_NATIVE_FRAME_H
#define FLEXP_TRAINER_CPU_NATIVE_FRAME_H

#include "trainer/backend/cpu/native/drop.h"
#include "trainer/backend/cpu/native/native.h"
#include "trainer/backend/cpu/native/vec.h"

#include <stdbool.h>

/* n up to VEC_N */
VEC_INLINE void vec_store_some(float *p, vec v, size_t n)
{
    if (n == VEC_N)
        vec_store(p, v);
    else
        vec_store_n(p, v, n);
}

VEC_INLINE vec_mask vec_not_le(vec a, vec b) /* true where either is no number */
{
#if VEC_N == 16
    return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_NLE_UQ);
#else
    return (vec_mask) ~(a <= b);
#endif
}

/* An image among zeros. */
struct frame {
    size_t rows, cols, top, left;
    size_t depth;  /* floats of a pixel */
    size_t floats; /* of all, in whole cache lines */
    bool bare;     /* nothing to pad: the image as it lies will do */
};

static inline size_t whole_vectors(size_t n)
{
    return (n + VEC_N - 1) / VEC_N * VEC_N;
}

static inline size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

static inline void frame_close(struct frame *f)
{
    f->floats = (f->rows * f->cols * f->depth + 15) / 16 * 16;
}

/* Taps of a kernel that meet a phase: phase, phase + stride, ... */
static inline size_t taps(int kernel, int stride, int phase)
{
    return kernel > phase ? (size_t)((kernel - phase + stride - 1) / stride) : 0;
}

/* What the gradient of the input reads. Output u of a phase reads dy's rows u - taps + 1 to u, and u goes from
 * pad / stride to (h - 1 + pad) / stride. f: rows, columns are dy's own before. */
static inline void frame_for_dx(struct frame *f, const struct conv *c)
{
    size_t taps_h = (size_t)((c->r + c->stride - 1) / c->stride), from_h = (size_t)(c->pad_top / c->stride);
    size_t taps_w = (size_t)((c->s + c->stride - 1) / c->stride), from_w = (size_t)(c->pad_left / c->stride);

    f->top = taps_h - 1 > from_h ? taps_h - 1 - from_h : 0;
    f->left = taps_w - 1 > from_w ? taps_w - 1 - from_w : 0;
    f->rows = larger((size_t)((c->h - 1 + c->pad_top) / c->stride) + 1, f->rows) + f->top;
    f->cols = larger((size_t)((c->w - 1 + c->pad_left) / c->stride) + 1, f->cols) + f->left;
}

/* The pixels of x that meet taps down, down + stride, ... and across, across + stride, ... */
struct phase {
    size_t taps_h, taps_w;
    size_t h0, w0, p, q; /* the first of them, and how many: each stride-th */
    size_t from;         /* pixel of dy's frame that the first of them reads first */
};

static inline struct phase phase_of(const struct conv *c, const struct frame *f, int down, int across)
{
    int h0 = (down + c->stride - c->pad_top % c->stride) % c->stride;
    int w0 = (across + c->stride - c->pad_left % c->stride) % c->stride;
    struct phase z = {.taps_h = taps(c->r, c->stride, down), .taps_w = taps(c->s, c->stride, across),
                      .h0 = (size_t)h0, .w0 = (size_t)w0,
                      .p = taps(c->h, c->stride, h0), .q = taps(c->w, c->stride, w0)};

    if (z.taps_h && z.taps_w)
        z.from = ((size_t)((h0 + c->pad_top) / c->stride) + f->top + 1 - z.taps_h) * f->cols +
                 (size_t)((w0 + c->pad_left) / c->stride) + f->left + 1 - z.taps_w;
    return z;
}

static inline void frame_clear(const struct frame *f, float *to, size_t images)
{
    if (!f->bare)
        memset(to, 0, f->floats * images * sizeof(float));
}

/* An image of h x w pixels, `pixel` floats apart, into its place. */
static inline void frame_fill(const struct frame *f, float *to, const float *from, size_t h, size_t w, size_t pixel)
{
    size_t rows = f->rows - f->top < h ? f->rows - f->top : h, cols = f->cols - f->left < w ? f->cols - f->left : w;

    if (f->rows < f->top || f->cols < f->left) /* all of it is padding */
        return;
    for (size_t i = 0; i < rows; i++) {
        float *o = to + ((i + f->top) * f->cols + f->left) * f->depth;
        const float *x = from + i * w * pixel;
        if (pixel == f->depth)
            memcpy(o, x, cols * pixel * sizeof(float));
        else
            for (size_t j = 0; j < cols; j++)
                memcpy(o + j * f->depth, x + j * pixel, f->depth * sizeof(float));
    }
}

VEC_INLINE vec spread_one(const float *dy, const float *y, vec scale, float *o, size_t lanes)
{
    vec d = vec_load(dy);

    if (y)
        d = vec_where(vec_not_le(vec_load(y), vec_zero()), d * scale);
    if (o)
        vec_store_some(o, d, lanes);
    return d;
}

/* A row of `cols` pixels of dy (and y), k floats apart, through dropout and ReLU to o, `depth` floats apart; their sums to
 * db. y: NULL where there is no ReLU; o: NULL where sums are all that is wanted. */
VEC_INLINE void spread_row(const float *dy, const float *y, const struct native_drop *drop, float *o, float *db,
                           size_t cols, size_t k, size_t depth)
{
    const vec scale = drop_scale(drop);

    for (size_t v = 0; v < depth; v += VEC_N) {
        size_t lanes = depth - v < VEC_N ? depth - v : VEC_N, x = 0;
        vec sum = vec_load(db + v);
#define ONE(i)                                                                                                         \
    spread_one(dy + (x + i) * k + v, y ? y + (x + i) * k + v : NULL, scale, o ? o + (x + i) * depth + v : NULL, lanes)
        for (; x + 4 <= cols; x += 4) {
            vec d0 = ONE(0), d1 = ONE(1), d2 = ONE(2), d3 = ONE(3);
            sum += (d0 + d1) + (d2 + d3);
        }
        for (; x < cols; x++)
            sum += ONE(0);
#undef ONE
        vec_store(db + v, sum);
    }
}

#endif
