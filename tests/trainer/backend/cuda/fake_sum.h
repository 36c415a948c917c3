/* fake_sum.h - the sum over factors (kernels_shared.h) on the host: its phases, thread after thread.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_TESTS_CUDA_FAKE_SUM_H
#define FLEXP_TESTS_CUDA_FAKE_SUM_H

#include "trainer/backend/cuda/driver.h"

#include <stdlib.h>

/* A warp's 32 values by halves, as its shuffles add them. */
static double fake_warp_sum(const struct sum_thread *s)
{
    double values[32];

    for (uint32_t i = 0; i < 32; i++)
        values[i] = s[i].distance;
    for (uint32_t half = 16; half; half /= 2)
        for (uint32_t i = 0; i < half; i++)
            values[i] += values[i + half];
    return values[0];
}

struct fake_sum {
    const struct shared_sum_args *a;
    struct tile_shared shared;
    struct tile_thread t[TILE_THREADS];
    struct sum_thread s[TILE_THREADS];
    uint32_t buffer;
};

static void fake_sum_lane(struct fake_sum *f, uint32_t tile, uint32_t lane)
{
    const struct shared_sum_args *a = f->a;
    uint32_t tiles_n = (a->product.n + SUM_BN - 1) / SUM_BN;

    for (uint32_t i = 0; i < TILE_THREADS; i++)
        sum_begin_lane(a, GEMM_FP32, i, lane, tile / tiles_n, tile % tiles_n, &f->t[i], &f->s[i]);
    for (uint32_t k = 0; k < f->t[0].k_end; k += TILE_K, f->buffer ^= 1) {
        for (uint32_t i = 0; i < TILE_THREADS; i++) {
            fetch_a(&a->product, GEMM_WEIGHTS, SUM_BM, i, k, &f->t[i]);
            fetch_b(&a->product, GEMM_WEIGHTS, SUM_BN, i, k, &f->t[i]);
            tile_share(GEMM_WEIGHTS, a->product.precision, SUM_BM, SUM_BN, i, f->buffer, &f->t[i], &f->shared);
        }
        for (uint32_t i = 0; i < TILE_THREADS; i++)
            tile_multiply(SUM_BM, SUM_BN, i, f->buffer, &f->t[i], &f->shared);
    }
    for (uint32_t i = 0; i < TILE_THREADS; i++)
        sum_end_lane(a, GEMM_FP32, i, &f->t[i], &f->s[i]);
    for (uint32_t i = 0; i < TILE_THREADS; i += 32)
        sum_put_distance(a, i, tile, lane, fake_warp_sum(f->s + i));
}

static void fake_shared_sum(const struct shared_sum_args *a)
{
    uint32_t tiles = shared_sum_partials(a->product.m, a->product.n) / SUM_WARPS;
    struct fake_sum *f = malloc(sizeof *f);

    for (uint32_t tile = 0; tile < tiles && a->end > a->first; tile++) {
        memset(f, 0xff, sizeof *f);
        f->a = a;
        f->buffer = 0;
        for (uint32_t lane = a->first; lane < a->end; lane++)
            fake_sum_lane(f, tile, lane);
        for (uint32_t i = 0; i < TILE_THREADS; i++)
            sum_store(a, GEMM_FP32, i, &f->t[i], &f->s[i]);
    }
    free(f);
}

#endif
