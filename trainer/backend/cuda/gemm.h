/* gemm.h - convolutions and dense layers of many replicas as implicit matrix products: nothing is unrolled in memory.
 *
 *   mode          out[m][n] = sum over k of a(m, k) b(k, n)   m              n                 k
 *   GEMM_FORWARD  y = x w^T + bias                            row, pixel     out channel       r, s, in channel
 *   GEMM_DATA     dx = dy w                                   row, in pixel  in channel        r, s, out channel
 *   GEMM_WEIGHTS  dw = dy^T x; column n = r s c: the bias's   out channel    r, s, in channel  row, pixel
 *
 * x, y: lanes x rows x h x w x c; w: (out channel, r, s, in channel) in each lane's weights; groups as in PyTorch. A
 * dense layer is the case h = w = 1. Rows past a lane's own are not computed, and do not enter dw.
 *
 * Every output is a sum in order of k, by fused multiply-add: in fp32 the size of a tile or the number of lanes changes
 * no bit. Where a product has few tiles and many k, k is cut into `splits` by a rule that sees the shape alone; the
 * parts are added in order (gemm_finish). The tiles are gemm_tile.h. SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_TRAINER_CUDA_GEMM_H
#define FLEXP_TRAINER_CUDA_GEMM_H

#include "trainer/backend/cuda/kernels_layers.h"
#include "trainer/backend/cuda/kernels_train.h"

enum { GEMM_FORWARD, GEMM_DATA, GEMM_WEIGHTS };
enum { GEMM_FP32, GEMM_TF32, GEMM_BF16 };

struct gemm_args {
    uint64_t count; /* gemm_finish: outputs of all lanes */
    const struct lane_step *steps;
    const float *x, *w, *dy, *bias;
    float *out; /* y, dx or the gradients of weights; parts where splits > 1 or mode is WEIGHTS */
    float *parts, *bias_out;
    /* WEIGHTS: the optimizer's step is taken at once, and no gradient is stored; where the weights and biases stand */
    struct optimize_args update;
    uint64_t weight_first, bias_first;
    uint32_t updates;
    const float *mask;
    uint32_t mode, precision, relu, add, lanes, rows;
    uint32_t in_h, in_w, in_c, out_h, out_w, out_c, kernel_h, kernel_w, stride, groups;
    int32_t pad_top, pad_left;
    uint32_t m, n, k, splits, split_k;   /* for all rows */
    uint64_t weights_stride, out_stride; /* out_stride: of gradients (WEIGHTS) */
    uint64_t x_stride, dy_stride;        /* between lanes */
    struct divisor by_in_c, by_out_c, by_kernel_w, by_in_w, by_in_pixels, by_out_w, by_out_pixels, by_stride;
    uint32_t in_cg, out_cg;         /* of a group */
    uint32_t vector_in, vector_out; /* groups' channels are multiples of 4 */
    uint32_t tile;                  /* 0: by rule; else, for tests, the number of a size */
    /* Dense layers: w has a row for each sample that the lane has seen this round, those of the batch at hand left out
     * (n of FORWARD, k of DATA); NULL: all of w counts. */
    const struct lane *seen;
};

struct gemm_block { /* which part of the whole */
    uint32_t lane, group, split;
};

/* Sizes that follow from the rows this lane has at the moment. */
DEVICE uint32_t gemm_m(const struct gemm_args *a, uint32_t lane)
{
    if (a->mode == GEMM_WEIGHTS)
        return a->m;
    return a->steps[lane].rows * (a->mode == GEMM_FORWARD ? a->out_h * a->out_w : a->in_h * a->in_w);
}

DEVICE uint32_t gemm_n(const struct gemm_args *a, uint32_t lane)
{
    return a->mode == GEMM_FORWARD && a->seen ? samples_seen(&a->seen[lane], &a->steps[lane]) : a->n;
}

DEVICE uint32_t gemm_k(const struct gemm_args *a, uint32_t lane)
{
    if (a->mode == GEMM_WEIGHTS)
        return a->steps[lane].rows * a->out_h * a->out_w;
    return a->mode == GEMM_DATA && a->seen ? samples_seen(&a->seen[lane], &a->steps[lane]) : a->k;
}

struct gemm_pixel { /* of a row of m or k */
    int32_t h, w;   /* top left of what it reads; DATA: h + pad_top, w + pad_left */
    uint64_t base;  /* of its image, with the group's first channel */
};

/* An output pixel's place in x. */
DEVICE struct gemm_pixel pixel_in_x(const struct gemm_args *a, struct gemm_block b, uint32_t at)
{
    uint32_t row = divide(at, a->by_out_pixels), rest = at - row * a->by_out_pixels.value;
    uint32_t p = divide(rest, a->by_out_w), q = rest - p * a->by_out_w.value;
    struct gemm_pixel pixel;

    pixel.h = (int32_t)(p * a->stride) - a->pad_top;
    pixel.w = (int32_t)(q * a->stride) - a->pad_left;
    pixel.base = b.lane * a->x_stride + (uint64_t)row * a->in_h * a->in_w * a->in_c + b.group * a->in_cg;
    return pixel;
}

/* An input pixel's place in dy. */
DEVICE struct gemm_pixel pixel_in_dy(const struct gemm_args *a, struct gemm_block b, uint32_t at)
{
    uint32_t row = divide(at, a->by_in_pixels), rest = at - row * a->by_in_pixels.value;
    uint32_t h = divide(rest, a->by_in_w), w = rest - h * a->by_in_w.value;
    struct gemm_pixel pixel;

    pixel.h = (int32_t)h + a->pad_top;
    pixel.w = (int32_t)w + a->pad_left;
    pixel.base = b.lane * a->dy_stride + (uint64_t)row * a->out_h * a->out_w * a->out_c + b.group * a->out_cg;
    return pixel;
}

struct gemm_tap {
    uint32_t c, r, s;
};

DEVICE struct gemm_tap tap_of(const struct gemm_args *a, uint32_t k, struct divisor by_c)
{
    uint32_t tap = divide(k, by_c);
    struct gemm_tap t;

    t.c = k - tap * by_c.value;
    t.r = divide(tap, a->by_kernel_w);
    t.s = tap - t.r * a->by_kernel_w.value;
    return t;
}

DEVICE void next_tap(const struct gemm_args *a, struct gemm_tap *t, uint32_t channels)
{
    if (++t->c < channels)
        return;
    t->c = 0;
    if (++t->s < a->kernel_w)
        return;
    t->s = 0;
    t->r++;
}

/* Where a tap of a pixel reads x; NULL: a pad. */
DEVICE const float *x_at(const struct gemm_args *a, struct gemm_pixel p, struct gemm_tap t)
{
    int32_t h = p.h + (int32_t)t.r, w = p.w + (int32_t)t.s;

    if (h < 0 || w < 0 || h >= (int32_t)a->in_h || w >= (int32_t)a->in_w)
        return NULL;
    return a->x + p.base + ((uint64_t)(uint32_t)h * a->in_w + (uint32_t)w) * a->in_c + t.c;
}

DEVICE const float *dy_at(const struct gemm_args *a, struct gemm_pixel pixel, struct gemm_tap t)
{
    int32_t h = pixel.h - (int32_t)t.r, w = pixel.w - (int32_t)t.s;
    uint32_t p, q;

    if (h < 0 || w < 0)
        return NULL;
    p = divide((uint32_t)h, a->by_stride);
    q = divide((uint32_t)w, a->by_stride);
    if (p * a->stride != (uint32_t)h || q * a->stride != (uint32_t)w || p >= a->out_h || q >= a->out_w)
        return NULL;
    return a->dy + pixel.base + ((uint64_t)p * a->out_w + q) * a->out_c + t.c;
}

DEVICE float round_for(uint32_t precision, float x)
{
    return precision == GEMM_TF32 ? d_round_tf32(x) : precision == GEMM_BF16 ? d_round_bf16(x) : x;
}

/* One value at a time: the definition, and what the host computes with. */
DEVICE float gemm_a(const struct gemm_args *a, struct gemm_block b, uint32_t m, uint32_t k)
{
    const float *from;

    if (a->mode == GEMM_WEIGHTS)
        return a->dy[b.lane * a->dy_stride + (uint64_t)k * a->out_c + b.group * a->out_cg + m];
    from = a->mode == GEMM_FORWARD ? x_at(a, pixel_in_x(a, b, m), tap_of(a, k, a->by_in_c))
                                   : dy_at(a, pixel_in_dy(a, b, m), tap_of(a, k, a->by_out_c));
    return from ? *from : 0;
}

DEVICE float gemm_b(const struct gemm_args *a, struct gemm_block b, uint32_t k, uint32_t n)
{
    uint32_t taps = a->kernel_h * a->kernel_w;
    const float *w = a->w + b.lane * a->weights_stride + (uint64_t)b.group * a->out_cg * taps * a->in_cg, *from;
    struct gemm_tap t;

    if (a->mode == GEMM_FORWARD)
        return w[(uint64_t)n * a->k + k];
    if (a->mode == GEMM_DATA) {
        t = tap_of(a, k, a->by_out_c);
        return w[((uint64_t)t.c * taps + t.r * a->kernel_w + t.s) * a->in_cg + n];
    }
    if (n == taps * a->in_cg)
        return 1;
    from = x_at(a, pixel_in_x(a, b, k), tap_of(a, n, a->by_in_c));
    return from ? *from : 0;
}

/* Where output (m, n) of a block goes among the parts. */
DEVICE uint64_t part_at(const struct gemm_args *a, struct gemm_block b, uint32_t m, uint32_t n)
{
    return ((((uint64_t)b.lane * a->groups + b.group) * a->splits + b.split) * a->m + m) * a->n + n;
}

DEVICE void gemm_put(const struct gemm_args *a, struct gemm_block b, uint32_t m, uint32_t n, float sum)
{
    uint64_t at;

    if (a->mode == GEMM_FORWARD) {
        uint32_t o = b.group * a->out_cg + n;
        at = ((uint64_t)b.lane * a->rows * a->out_h * a->out_w + m) * a->out_c + o;
        if (a->bias)
            sum += a->bias[b.lane * a->weights_stride + o];
        a->out[at] = a->relu && sum < 0 ? 0 : sum;
    } else if (a->mode == GEMM_DATA) {
        at = ((uint64_t)b.lane * a->rows * a->in_h * a->in_w + m) * a->in_c + b.group * a->in_cg + n;
        put_gradient(&a->out[at], sum, a->mask ? &a->mask[at] : NULL, a->add);
    } else {
        uint32_t columns = a->kernel_h * a->kernel_w * a->in_cg, o = b.group * a->out_cg + m;
        if (a->updates)
            optimize_one(&a->update, b.lane,
                         n < columns ? a->weight_first + (uint64_t)o * columns + n : a->bias_first + o, sum);
        else if (n < columns)
            a->out[b.lane * a->out_stride + (uint64_t)o * columns + n] = sum;
        else if (a->bias_out)
            a->bias_out[b.lane * a->out_stride + o] = sum;
    }
}

DEVICE void gemm_store(const struct gemm_args *a, struct gemm_block b, uint32_t m, uint32_t n, float sum)
{
    if (a->splits > 1)
        a->parts[part_at(a, b, m, n)] = sum;
    else
        gemm_put(a, b, m, n, sum);
}

/* count: lanes x groups x m x n. Adds the parts in order. */
DEVICE void gemm_finish_body(const struct gemm_args *a, uint64_t i)
{
    uint64_t line = quotient(i, a->n), which = quotient(line, a->m);
    uint32_t n = (uint32_t)(i - line * a->n), m = (uint32_t)(line - which * a->m), k, used;
    struct gemm_block b;
    const float *parts;
    float sum = 0;

    b.lane = (uint32_t)which / a->groups;
    b.group = (uint32_t)which % a->groups;
    k = gemm_k(a, b.lane);
    used = (k + a->split_k - 1) / a->split_k;
    if (m >= gemm_m(a, b.lane) || n >= gemm_n(a, b.lane) || !a->steps[b.lane].rows)
        return;
    b.split = 0;
    parts = a->parts + part_at(a, b, m, n);
    UNROLL_8 for (uint32_t split = 0; split < used; split++) sum += parts[(uint64_t)split * a->m * a->n];
    gemm_put(a, b, m, n, sum);
}

#endif
