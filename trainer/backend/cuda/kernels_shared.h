/* kernels_shared.h - dense layers whose replicas share the round's start W0. Plain SGD leaves a replica with
 *
 *     W = left (W0 + H^T A)        left = (1 - lr decay)^steps
 *
 * A: the layer's inputs, H: -lr / left(after the step) x the gradients of its outputs, a row for each sample the
 * replica has seen this round. So no replica's W is ever made:
 *
 *     forward   y = left (x W0^T + (x A^T) H) + bias          backward   dx = left (dy W0 + (dy H^T) A)
 *
 * the products with W0 for all replicas in one; and the weighted sum of all W is one product over the factors (below).
 * Source: W_t+1 = W_t - lr (dy^T x + decay W_t), unrolled; as ghost norms, Goodfellow 2015 (arXiv 1510.01799), have it,
 * a dense layer's gradient is kept as its factors. SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_TRAINER_CUDA_KERNELS_SHARED_H
#define FLEXP_TRAINER_CUDA_KERNELS_SHARED_H

#include "trainer/backend/cuda/gemm_tile.h"

/* What is left of the start when the round is over. */
DEVICE float start_left(const struct lane *lane, const struct lane_step *step)
{
    return lane->steps ? step->after : 1;
}

/* The batch's inputs become rows of A. */
struct keep_inputs_args {
    uint64_t count; /* lanes x rows x in */
    struct live live;
    const struct lane *lanes;
    const float *x;
    float *factor; /* of lane 0 */
    uint64_t stride;
};

DEVICE void keep_inputs_body(const struct keep_inputs_args *a, uint64_t i)
{
    uint64_t row = quotient(i, a->live.values), lane = quotient(row, a->live.rows), at;

    if (!is_live(&a->live, i))
        return;
    at = samples_seen(&a->lanes[lane], &a->live.steps[lane]) + (row - lane * a->live.rows);
    a->factor[lane * a->stride + at * a->live.values + (i - row * a->live.values)] = a->x[i];
}

/* The gradients of the batch's outputs become rows of H; dy becomes what dx is computed from; the bias is stepped. */
struct keep_gradients_args {
    uint64_t count; /* lanes x out */
    const struct lane *lanes;
    const struct lane_step *steps;
    float *dy;
    float *factor;
    uint64_t stride;
    struct optimize_args update;
    uint64_t bias_first;
    uint32_t rows, out, bias;
};

DEVICE void keep_gradients_body(const struct keep_gradients_args *a, uint64_t i)
{
    uint64_t lane = quotient(i, a->out), column = i - lane * a->out;
    const struct lane_step *step = &a->steps[lane];
    float *dy = a->dy + lane * a->rows * a->out + column, *factor = a->factor + lane * a->stride + column;
    float scale, sum = 0;
    uint64_t first;

    if (!step->rows)
        return;
    scale = -a->lanes[lane].lr / step->after;
    first = samples_seen(&a->lanes[lane], step);
    UNROLL_8 for (uint32_t r = 0; r < step->rows; r++)
    {
        float g = dy[(uint64_t)r * a->out];
        sum += g;
        factor[(first + r) * a->out] = scale * g;
        dy[(uint64_t)r * a->out] = step->before * g;
    }
    if (a->bias)
        optimize_one(&a->update, lane, a->bias_first + column, sum);
}

/* y = left y + bias, ReLU of it */
struct shared_output_args {
    uint64_t count; /* lanes x rows x out */
    struct live live;
    const float *bias; /* NULL: none */
    float *y;
    uint64_t weights_stride;
    uint32_t relu;
};

DEVICE void shared_output_body(const struct shared_output_args *a, uint64_t i)
{
    uint64_t row = quotient(i, a->live.values), lane = quotient(row, a->live.rows);
    float value;

    if (!is_live(&a->live, i))
        return;
    value = a->live.steps[lane].before * a->y[i];
    if (a->bias)
        value += a->bias[lane * a->weights_stride + (i - row * a->live.values)];
    a->y[i] = a->relu && value < 0 ? 0 : value;
}

/* The weighted sum of the replicas' W, and of each its squared distance from W0: a block goes over a tile of W, lane
 * after lane; H^T A as GEMM_WEIGHTS, in fp32 within a lane, and the lanes in double, in order. Which lanes are in a
 * turn changes no bit. */
#define SUM_BM 64
#define SUM_BN 32
#define SUM_VALUES (SUM_BM * SUM_BN / TILE_THREADS)
#define SUM_WARPS (TILE_THREADS / 32)

struct shared_sum_args {
    struct gemm_args product; /* dy: H, x: A */
    const struct lane *lanes; /* with steps and totals, of all */
    const struct lane_total *totals;
    const float *start; /* W0 of lane 0 */
    uint64_t start_stride;
    double *sum;             /* canonical: of W */
    double *partial;         /* lanes x partial_stride: by tile and warp; not finite where W is not */
    uint64_t partial_stride; /* at least shared_sum_partials */
    uint32_t first, end;     /* lanes */
    struct divisor by_channels;
    uint32_t pixels; /* inputs lie as (pixel, channel), canonical columns as (channel, pixel) */
};

struct sum_thread {
    double sum[SUM_VALUES];
    float start[SUM_VALUES];
    double distance; /* of the lane at hand */
};

DEVICE uint32_t shared_sum_partials(uint32_t out, uint32_t in)
{
    return ((out + SUM_BM - 1) / SUM_BM) * ((in + SUM_BN - 1) / SUM_BN) * SUM_WARPS;
}

/* Whether the thread's value i is one of W, and its place there. */
DEVICE bool sum_place(const struct shared_sum_args *a, uint32_t precision, uint32_t thread, const struct tile_thread *t,
                      uint32_t i, uint32_t *ret_m, uint32_t *ret_n)
{
    tile_place(precision, SUM_BM, SUM_BN, thread, i, ret_m, ret_n);
    *ret_m += t->m0;
    *ret_n += t->n0;
    return *ret_m < a->product.m && *ret_n < a->product.n;
}

/* A lane begins; the first one sets the sums to 0. */
DEVICE void sum_begin_lane(const struct shared_sum_args *a, uint32_t precision, uint32_t thread, uint32_t lane,
                           uint32_t tile_m, uint32_t tile_n, struct tile_thread *t, struct sum_thread *s)
{
    t->block.lane = lane;
    t->block.group = t->block.split = 0;
    t->m0 = tile_m * SUM_BM;
    t->n0 = tile_n * SUM_BN;
    t->m_end = a->product.m;
    t->n_end = a->product.n;
    t->k_begin = 0;
    t->k_end = (uint32_t)a->totals[lane].seen;
    UNROLL for (uint32_t i = 0; i < SUM_VALUES; i++)
    {
        uint32_t m, n;
        bool inside = sum_place(a, precision, thread, t, i, &m, &n);
        t->sum[i] = 0;
        if (lane == a->first)
            s->sum[i] = 0;
        if (lane == a->first || a->start_stride)
            s->start[i] = inside ? a->start[lane * a->start_stride + (uint64_t)m * a->product.n + n] : 0;
    }
}

DEVICE void sum_end_lane(const struct shared_sum_args *a, uint32_t precision, uint32_t thread,
                         const struct tile_thread *t, struct sum_thread *s)
{
    uint32_t lane = t->block.lane;
    double left = (double)start_left(&a->lanes[lane], &a->product.steps[lane]), weight = a->lanes[lane].weight;

    s->distance = 0;
    UNROLL for (uint32_t i = 0; i < SUM_VALUES; i++)
    {
        uint32_t m, n;
        double w = left * ((double)s->start[i] + (double)t->sum[i]), d = w - (double)s->start[i];
        if (!sum_place(a, precision, thread, t, i, &m, &n))
            continue;
        s->sum[i] += weight * w;
        s->distance += d_finite((float)w) ? d * d : (double)NAN;
    }
}

/* Distances of a warp's 32 threads have been added up by halves. */
DEVICE void sum_put_distance(const struct shared_sum_args *a, uint32_t thread, uint32_t tile, uint32_t lane, double sum)
{
    a->partial[lane * a->partial_stride + (uint64_t)tile * SUM_WARPS + thread / 32] = sum;
}

DEVICE void sum_store(const struct shared_sum_args *a, uint32_t precision, uint32_t thread, const struct tile_thread *t,
                      const struct sum_thread *s)
{
    UNROLL for (uint32_t i = 0; i < SUM_VALUES; i++)
    {
        uint32_t m, n, pixel;
        if (!sum_place(a, precision, thread, t, i, &m, &n))
            continue;
        pixel = divide(n, a->by_channels);
        a->sum[(uint64_t)m * a->product.n + (n - pixel * a->by_channels.value) * a->pixels + pixel] += s->sum[i];
    }
}

#endif
