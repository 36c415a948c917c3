/* batched_weights.c - gradients of weights of images in lanes.
 * A block is a few filters times the taps of one row of the kernel: as many sums, kept in registers over the pixels.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cpu/native/batched.h"

#define TAPS 5 /* of a block */
#if VEC_REGISTERS == 32
#define FILTERS(taps) ((taps) == 5 ? 5 : (taps) == 4 ? 6 : 8)
#define FILTERS_MOST 8
#else
#define FILTERS(taps) ((taps) == 5 ? 2 : (taps) == 4 ? 2 : (taps) == 3 ? 3 : 4)
#define FILTERS_MOST 4
#endif

struct block {
    const float *x, *dy; /* where channel, row and first tap of the block, and its first filter begin */
    float *dw;
    ptrdiff_t filter; /* of dw */
};

VEC_INLINE void sum_block(const struct weight_sums *t, struct block b, const int filters, const int taps)
{
    ptrdiff_t x_pixel = (ptrdiff_t)LANES * t->stride, dy_pixel = t->dy_pixel, dy_plane = t->dy_plane;

    if (filters > FILTERS(taps)) /* such a block is not asked for */
        return;
    for (int part = 0; part < PARTS; part++, b.x += VEC_N, b.dy += VEC_N, b.dw += VEC_N) {
        vec acc[FILTERS_MOST * TAPS];
        VEC_UNROLL for (int i = 0; i < filters * taps; i++)
            acc[i] = vec_load(b.dw + i / taps * b.filter + i % taps * LANES);
        for (int row = 0; row < t->rows; row++) {
            const float *x = b.x + row * t->x_pitch * t->stride, *dy = b.dy + row * t->dy_pitch;
            for (int col = 0; col < t->cols; col++, x += x_pixel, dy += dy_pixel) {
                vec v[TAPS];
                VEC_UNROLL for (int i = 0; i < taps; i++)
                    v[i] = vec_load(x + i * LANES);
                VEC_UNROLL for (int f = 0; f < filters; f++) {
                    vec d = vec_load(dy + f * dy_plane);
                    VEC_UNROLL for (int i = 0; i < taps; i++)
                        acc[f * taps + i] = vec_fma(d, v[i], acc[f * taps + i]);
                }
            }
        }
        VEC_UNROLL for (int i = 0; i < filters * taps; i++)
            vec_store(b.dw + i / taps * b.filter + i % taps * LANES, acc[i]);
    }
}

typedef void block_fn(const struct weight_sums *t, struct block b);

#define BLOCK(filters, taps)                                                                                           \
    static void block_##filters##_##taps(const struct weight_sums *t, struct block b)                                  \
    {                                                                                                                  \
        sum_block(t, b, filters, taps);                                                                                \
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

void NATIVE(batched_weight_sums)(const struct weight_sums *t)
{
    ptrdiff_t filter = (ptrdiff_t)t->channels * t->r * t->s * LANES;

    for (int run = 0; run < block_count(t->s, TAPS); run++) {
        int s0 = block_begin(t->s, TAPS, run), taps = block_begin(t->s, TAPS, run + 1) - s0, most = FILTERS(taps);
        for (int b = 0; b < block_count(t->filters, most); b++) {
            int f0 = block_begin(t->filters, most, b), filters = block_begin(t->filters, most, b + 1) - f0;
            for (int ch = 0; ch < t->channels; ch++)
                for (int r = 0; r < t->r; r++) {
                    struct block at = {
                        .x = t->x + ch * t->x_plane + r * t->x_pitch + s0 * LANES,
                        .dy = t->dy + f0 * t->dy_plane,
                        .dw = t->dw + f0 * filter + ((ptrdiff_t)(ch * t->r + r) * t->s + s0) * LANES,
                        .filter = filter,
                    };
                    SUMS[filters - 1][taps - 1](t, at);
                }
        }
    }
}
