/* gemm_tile.h - the tiles of gemm.h's product.
 *
 * The kernel is written as phases that a block's 256 threads go through together (fetch to registers, put into
 * shared memory, multiply, store): the device puts barriers between them, the test runs them thread after thread. With
 * fp32 a thread multiplies bm/16 x bn/16 values; with tf32 and bf16 a warp multiplies with mma.sync, and the operands
 * are rounded on their way into shared memory. SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_TRAINER_CUDA_GEMM_TILE_H
#define FLEXP_TRAINER_CUDA_GEMM_TILE_H

#include "trainer/backend/cuda/gemm.h"

#define TILE_K 16
#define TILE_THREADS 256
#define TILE_PAD 4
#define TILE_M_MAX 128
#define TILE_N_MAX 128

/* The tile for a product; bits do not depend on it. Small ones where large ones would be mostly empty or too few. */
DEVICE void tile_size(const struct gemm_args *a, uint32_t *ret_bm, uint32_t *ret_bn)
{
    uint64_t large = (uint64_t)((a->m + 127) / 128) * ((a->n + 63) / 64) * a->lanes * a->groups * a->splits;

    if (a->tile) {
        *ret_bm = a->tile == 1 ? 16 : a->tile == 2 ? 64 : 128;
        *ret_bn = a->tile == 1 ? 128 : a->tile == 4 ? 64 : 32;
    } else if (a->m <= 32 && a->n > 32) {
        *ret_bm = 16;
        *ret_bn = 128;
    } else if (a->n <= 32 || a->m <= 64 || large < 132) {
        *ret_bm = a->m > 64 && a->n <= 32 && large >= 132 ? 128 : 64;
        *ret_bn = 32;
    } else {
        *ret_bm = 128;
        *ret_bn = 64;
    }
}

#define TILE_SIZES 4

struct tile_shared {
    float a[2][TILE_K][TILE_M_MAX + TILE_PAD];
    float b[2][TILE_K][TILE_N_MAX + TILE_PAD];
};

struct tile_thread {
    struct gemm_block block;
    uint32_t m0, n0, m_end, n_end, k_begin, k_end;
    struct gemm_pixel pixel; /* of its row of a, where that is fixed */
    float a[8], b[8];        /* fetched */
    float sum[32];
};

/* Four values that lie together and aligned. */
DEVICE void load_4(const float *from, float *to)
{
#ifdef __CUDA_ARCH__
    float4 v = *(const float4 *)from;
    to[0] = v.x;
    to[1] = v.y;
    to[2] = v.z;
    to[3] = v.w;
#else
    for (int i = 0; i < 4; i++)
        to[i] = from[i];
#endif
}

/* mode, bm, bn are constants where these are called, so that loops unroll and branches vanish. */

DEVICE bool tile_begin(const struct gemm_args *a, uint32_t mode, uint32_t bm, uint32_t bn, uint32_t thread,
                       uint32_t tile_m, uint32_t tile_n, uint32_t which, struct tile_thread *t)
{
    uint32_t per_row = TILE_K / (bm * TILE_K / TILE_THREADS), k;

    t->block.split = which % a->splits;
    t->block.group = which / a->splits % a->groups;
    t->block.lane = which / a->splits / a->groups;
    t->m0 = tile_m * bm;
    t->n0 = tile_n * bn;
    t->m_end = gemm_m(a, t->block.lane);
    t->n_end = gemm_n(a, t->block.lane);
    k = gemm_k(a, t->block.lane);
    t->k_begin = t->block.split * a->split_k;
    t->k_end = t->k_begin + a->split_k < k ? t->k_begin + a->split_k : k;
    UNROLL for (uint32_t i = 0; i < bm * bn / TILE_THREADS; i++) t->sum[i] = 0;
    if (mode != GEMM_WEIGHTS && t->m0 + thread / per_row < t->m_end)
        t->pixel = mode == GEMM_FORWARD ? pixel_in_x(a, t->block, t->m0 + thread / per_row)
                                        : pixel_in_dy(a, t->block, t->m0 + thread / per_row);
    return t->m0 < t->m_end && t->n0 < t->n_end && t->k_begin < t->k_end;
}

/* A run of values along k of a pixel's row. */
DEVICE void fetch_pixel_run(const struct gemm_args *a, uint32_t mode, const struct tile_thread *t, uint32_t k,
                            uint32_t run, float *to)
{
    struct gemm_tap tap = tap_of(a, k, mode == GEMM_FORWARD ? a->by_in_c : a->by_out_c);

    UNROLL for (uint32_t i = 0; i < run; i++) to[i] = 0;
    if (run % 4 == 0 && (mode == GEMM_FORWARD ? a->vector_in : a->vector_out)) {
        UNROLL for (uint32_t i = 0; i < run; i += 4)
        {
            const float *from =
                k + i < t->k_end ? mode == GEMM_FORWARD ? x_at(a, t->pixel, tap) : dy_at(a, t->pixel, tap) : NULL;
            if (from)
                load_4(from, to + i);
            tap.c += 3;
            next_tap(a, &tap, mode == GEMM_FORWARD ? a->in_cg : a->out_cg);
        }
        return;
    }
    UNROLL for (uint32_t i = 0; i < run; i++)
    {
        const float *from =
            k + i < t->k_end ? mode == GEMM_FORWARD ? x_at(a, t->pixel, tap) : dy_at(a, t->pixel, tap) : NULL;
        if (from)
            to[i] = *from;
        next_tap(a, &tap, mode == GEMM_FORWARD ? a->in_cg : a->out_cg);
    }
}

DEVICE void fetch_a(const struct gemm_args *a, uint32_t mode, uint32_t bm, uint32_t thread, uint32_t k0,
                    struct tile_thread *t)
{
    uint32_t run = bm * TILE_K / TILE_THREADS;

    if (mode != GEMM_WEIGHTS) {
        uint32_t per_row = TILE_K / run;
        if (t->m0 + thread / per_row < t->m_end) {
            fetch_pixel_run(a, mode, t, k0 + thread % per_row * run, run, t->a);
            return;
        }
        UNROLL for (uint32_t i = 0; i < run; i++) t->a[i] = 0;
    } else {
        uint32_t per_row = bm / run, k = k0 + thread / per_row, m = t->m0 + thread % per_row * run;
        const float *from =
            a->dy + t->block.lane * a->dy_stride + (uint64_t)k * a->out_c + t->block.group * a->out_cg + m;
        UNROLL for (uint32_t i = 0; i < run; i++) t->a[i] = 0;
        if (run % 4 == 0 && k < t->k_end && a->vector_out) {
            UNROLL for (uint32_t i = 0; i < run; i += 4) if (m + i < t->m_end) load_4(from + i, t->a + i);
        } else if (k < t->k_end) {
            UNROLL for (uint32_t i = 0; i < run; i++) if (m + i < t->m_end) t->a[i] = from[i];
        }
    }
}

DEVICE void fetch_b(const struct gemm_args *a, uint32_t mode, uint32_t bn, uint32_t thread, uint32_t k0,
                    struct tile_thread *t)
{
    uint32_t run = bn * TILE_K / TILE_THREADS, taps = a->kernel_h * a->kernel_w;
    const float *w = a->w + t->block.lane * a->weights_stride + (uint64_t)t->block.group * a->out_cg * taps * a->in_cg;

    UNROLL for (uint32_t i = 0; i < run; i++) t->b[i] = 0;
    if (mode == GEMM_FORWARD) {
        uint32_t per_row = TILE_K / run, n = t->n0 + thread / per_row, k = k0 + thread % per_row * run;
        const float *from = w + (uint64_t)n * a->k + k;
        if (run % 4 == 0 && a->vector_in) {
            UNROLL for (uint32_t i = 0; i < run; i += 4) if (n < t->n_end && k + i < t->k_end) load_4(from + i, t->b + i);
        } else {
            UNROLL for (uint32_t i = 0; i < run; i++) if (n < t->n_end && k + i < t->k_end) t->b[i] = from[i];
        }
    } else if (mode == GEMM_DATA) {
        uint32_t per_row = bn / run, k = k0 + thread / per_row, n = t->n0 + thread % per_row * run;
        if (k < t->k_end) {
            struct gemm_tap tap = tap_of(a, k, a->by_out_c);
            const float *from = w + ((uint64_t)tap.c * taps + tap.r * a->kernel_w + tap.s) * a->in_cg + n;
            if (run % 4 == 0 && a->vector_in) {
                UNROLL for (uint32_t i = 0; i < run; i += 4) if (n + i < t->n_end) load_4(from + i, t->b + i);
            } else {
                UNROLL for (uint32_t i = 0; i < run; i++) if (n + i < t->n_end) t->b[i] = from[i];
            }
        }
    } else {
        uint32_t per_row = bn / run, k = k0 + thread / per_row, n = t->n0 + thread % per_row * run,
                 columns = taps * a->in_cg;
        if (k < t->k_end) {
            struct gemm_pixel pixel = pixel_in_x(a, t->block, k);
            struct gemm_tap tap = tap_of(a, n, a->by_in_c);
            if (run % 4 == 0 && a->vector_in) {
                UNROLL for (uint32_t i = 0; i < run; i += 4)
                {
                    const float *from = n + i < columns ? x_at(a, pixel, tap) : NULL;
                    if (from)
                        load_4(from, t->b + i);
                    if (n + i == columns)
                        t->b[i] = 1;
                    tap.c += 3;
                    next_tap(a, &tap, a->in_cg);
                }
                return;
            }
            UNROLL for (uint32_t i = 0; i < run; i++)
            {
                const float *from = n + i < columns ? x_at(a, pixel, tap) : NULL;
                t->b[i] = n + i == columns ? 1 : from ? *from : 0;
                next_tap(a, &tap, a->in_cg);
            }
        }
    }
}

/* From registers into shared memory, as [k][m] and [k][n]. */
DEVICE void tile_share(uint32_t mode, uint32_t precision, uint32_t bm, uint32_t bn, uint32_t thread, uint32_t buffer,
                       const struct tile_thread *t, struct tile_shared *shared)
{
    uint32_t run = bm * TILE_K / TILE_THREADS;

    UNROLL for (uint32_t i = 0; i < run; i++)
    {
        if (mode != GEMM_WEIGHTS)
            shared->a[buffer][thread % (TILE_K / run) * run + i][thread / (TILE_K / run)] =
                round_for(precision, t->a[i]);
        else
            shared->a[buffer][thread / (bm / run)][thread % (bm / run) * run + i] = round_for(precision, t->a[i]);
    }
    run = bn * TILE_K / TILE_THREADS;
    UNROLL for (uint32_t i = 0; i < run; i++)
    {
        if (mode == GEMM_FORWARD)
            shared->b[buffer][thread % (TILE_K / run) * run + i][thread / (TILE_K / run)] =
                round_for(precision, t->b[i]);
        else
            shared->b[buffer][thread / (bn / run)][thread % (bn / run) * run + i] = round_for(precision, t->b[i]);
    }
}

DEVICE void tile_multiply(uint32_t bm, uint32_t bn, uint32_t thread, uint32_t buffer, struct tile_thread *t,
                          const struct tile_shared *shared)
{
    uint32_t mi = bm / 16, ni = bn / 16, m = thread / 16 * mi, n = thread % 16 * ni;

    UNROLL for (uint32_t k = 0; k < TILE_K; k++)
    {
        float a[8], b[8];
        UNROLL for (uint32_t i = 0; i < mi; i++) a[i] = shared->a[buffer][k][m + i];
        UNROLL for (uint32_t j = 0; j < ni; j++) b[j] = shared->b[buffer][k][n + j];
        UNROLL for (uint32_t i = 0; i < mi; i++) UNROLL for (uint32_t j = 0; j < ni; j++) t->sum[i * ni + j] =
            fmaf(a[i], b[j], t->sum[i * ni + j]);
    }
}

/* mma.sync: 8 warps, 4 along m and 2 along n, or all along n where m is short. */
#define TILE_WARPS_M(bm) ((bm) >= 64 ? 4u : 1u)

/* Which value of the tile a thread's sum i is; with mma.sync a warp has pieces of 16 x 8, whose values lie as the PTX
 * manual has it for m16n8. */
DEVICE void tile_place(uint32_t precision, uint32_t bm, uint32_t bn, uint32_t thread, uint32_t i, uint32_t *ret_m,
                       uint32_t *ret_n)
{
    if (precision == GEMM_FP32) {
        uint32_t mi = bm / 16, ni = bn / 16;
        *ret_m = thread / 16 * mi + i / ni;
        *ret_n = thread % 16 * ni + i % ni;
    } else {
        uint32_t along_m = TILE_WARPS_M(bm), along_n = 8 / along_m, pieces_n = bn / along_n / 8, piece = i / 4;
        uint32_t warp = thread / 32, lane = thread % 32;
        *ret_m = warp / along_n * (bm / along_m) + piece / pieces_n * 16 + lane / 4 + i % 4 / 2 * 8;
        *ret_n = warp % along_n * (bn / along_n) + piece % pieces_n * 8 + lane % 4 * 2 + i % 2;
    }
}

DEVICE void tile_store(const struct gemm_args *a, uint32_t precision, uint32_t bm, uint32_t bn, uint32_t thread,
                       const struct tile_thread *t)
{
    UNROLL for (uint32_t i = 0; i < bm * bn / TILE_THREADS; i++)
    {
        uint32_t m, n;
        tile_place(precision, bm, bn, thread, i, &m, &n);
        if (t->m0 + m < t->m_end && t->n0 + n < t->n_end)
            gemm_store(a, t->block, t->m0 + m, t->n0 + n, t->sum[i]);
    }
}

#endif
