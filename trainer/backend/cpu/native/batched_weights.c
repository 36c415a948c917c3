/* batched_weights.c - gradients of weights of images in lanes.
 * A block is a few filters times the taps of one row of the kernel: as many sums, kept in registers over the pixels.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cpu/native/batched.h"

#define TAPS 5 /* of a block */
#define L1_PIXELS 640 /* of 64 bytes: what a block reads is to stay in L1 from one tap's row to the next */
#if VEC_REGISTERS == 32
#define FILTERS(taps) ((taps) == 5 ? 5 : (taps) == 4 ? 6 : 8)
#define FILTERS_MOST 8
#else
#define FILTERS(taps) ((taps) == 5 ? 2 : (taps) == 4 ? 2 : (taps) == 3 ? 3 : 4)
#define FILTERS_MOST 4
#endif

/* x, dy, dw: where the block's channel, row and first tap, and its first filter begin. */
VEC_INLINE void sum_block(const struct weight_sums *t, const float *bx, const float *bdy, float *bdw, const int filters,
                          const int taps)
{
    ptrdiff_t x_pixel = (ptrdiff_t)LANES * t->stride, dy_pixel = t->dy_pixel, dy_plane = t->dy_plane;
    ptrdiff_t filter = (ptrdiff_t)t->channels * t->r * t->s * LANES; /* from one to the next, in dw */

    if (filters > FILTERS(taps)) /* such a block is not asked for */
        return;
    for (int part = 0; part < PARTS; part++, bx += VEC_N, bdy += VEC_N, bdw += VEC_N) {
        vec acc[FILTERS_MOST * TAPS];
        VEC_UNROLL for (int i = 0; i < filters * taps; i++)
            acc[i] = vec_load(bdw + i / taps * filter + i % taps * LANES);
        for (int row = 0; row < t->rows; row++) {
            const float *x = bx + row * t->x_pitch * t->stride, *dy = bdy + row * t->dy_pitch;
            for (int col = 0; col < t->cols; col++, x += x_pixel, dy += dy_pixel) {
                vec v[TAPS];
                VEC_UNROLL for (int i = 0; i < taps; i++)
                    v[i] = held(vec_load(x + i * LANES));
                VEC_UNROLL for (int f = 0; f < filters; f++) {
                    vec d = held(vec_load(dy + f * dy_plane));
                    VEC_UNROLL for (int i = 0; i < taps; i++)
                        acc[f * taps + i] = vec_fma(d, v[i], acc[f * taps + i]);
                }
            }
        }
        VEC_UNROLL for (int i = 0; i < filters * taps; i++)
            vec_store(bdw + i / taps * filter + i % taps * LANES, acc[i]);
    }
}

typedef void block_fn(const struct weight_sums *t, const float *x, const float *dy, float *dw);

#define BLOCK(filters, taps)                                                                                           \
    static void block_##filters##_##taps(const struct weight_sums *t, const float *x, const float *dy, float *dw)      \
    {                                                                                                                  \
        sum_block(t, x, dy, dw, filters, taps);                                                                        \
    }
#define BLOCKS(filters) BLOCK(filters, 1) BLOCK(filters, 2) BLOCK(filters, 3) BLOCK(filters, 4) BLOCK(filters, 5)
#define NAMES(filters)                                                                                                 \
    {                                                                                                                  \
        block_##filters##_1, block_##filters##_2, block_##filters##_3, block_##filters##_4, block_##filters##_5        \
    }

BLOCKS(1)
BLOCKS(2)
BLOCKS(3)
BLOCKS(4)
#if FILTERS_MOST == 8
BLOCKS(5)
BLOCKS(6)
BLOCKS(7)
BLOCKS(8)
#endif

static block_fn *const SUMS[FILTERS_MOST][TAPS] = {
    NAMES(1), NAMES(2), NAMES(3), NAMES(4),
#if FILTERS_MOST == 8
    NAMES(5), NAMES(6), NAMES(7), NAMES(8),
#endif
};

int NATIVE(batched_sum_rows)(const struct conv *c, int cols)
{
    int taps = (c->s + block_count(c->s, TAPS) - 1) / block_count(c->s, TAPS);
    int blocks = block_count(c->k, FILTERS(taps)), filters = (c->k + blocks - 1) / blocks, wide = cols + c->s;
    int rows = (L1_PIXELS - c->r * wide) / (filters * cols + wide);

    return rows > 2 ? rows / 2 * 2 : 2;
}

void NATIVE(batched_weight_sums)(const struct weight_sums *t)
{
    ptrdiff_t filter = (ptrdiff_t)t->channels * t->r * t->s * LANES;

    for (int run = 0; run < block_count(t->s, TAPS); run++) {
        int s0 = block_begin(t->s, TAPS, run), taps = block_begin(t->s, TAPS, run + 1) - s0, most = FILTERS(taps);
        for (int b = 0; b < block_count(t->filters, most); b++) {
            int f0 = block_begin(t->filters, most, b), filters = block_begin(t->filters, most, b + 1) - f0;
            block_fn *sum = SUMS[filters - 1][taps - 1];
            for (int ch = 0; ch < t->channels; ch++)
                for (int r = 0; r < t->r; r++)
                    sum(t, t->x + ch * t->x_plane + r * t->x_pitch + s0 * LANES, t->dy + f0 * t->dy_plane,
                        t->dw + f0 * filter + ((ptrdiff_t)(ch * t->r + r) * t->s + s0) * LANES);
        }
    }
}
