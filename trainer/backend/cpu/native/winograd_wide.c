/* winograd_wide.c - Winograd convolutions whose transformed weights are larger than the second-level cache, while there
 * are few tiles to use them on. To store U would cost more than to multiply with it, so that it never is: a block of
 * channels and filters is transformed into cache, has its use on a block of tiles, and is forgotten. dU likewise: a
 * block's sum becomes dw at once, and partial holds dw; or, with the last tiles, SGD's step is taken with it, and a dw of
 * one block of tiles is stored nowhere. Threads share the work by filters forward and by channels backward, not by rows:
 * each block of U and dU is then made by one of them, and only V or D by all.
 *
 * V and D lie block of channels by block: [block][frequency][tile][SIDE]. Each phase of the input has its own blocks.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cpu/native/winograd_private.h"

/* Channels, filters or tiles of a block: U's, V's and M's blocks together fill most of a second-level cache. */
#define SIDE ((size_t)64)
/* From which size of U on, and up to how many tiles. */
#define U_BYTES ((size_t)1 << 20)
#define TILES_MAX ((size_t)192)

static void cover(struct winograd *w, struct conv_part channels, struct conv_part filters)
{
    winograd_share(channels, w->c, &w->c_from, &w->c_to);
    winograd_share(filters, w->k, &w->k_from, &w->k_to);
    w->c_blocks = w->c_from < w->c_to ? (w->c_to - w->c_from + SIDE - 1) / SIDE * w->phases : 0;
    w->k_blocks = w->k_from < w->k_to ? (w->k_to - w->k_from + SIDE - 1) / SIDE : 0;
}

void NATIVE(winograd_wide_plan)(struct winograd *w, const struct conv *c)
{
    size_t rows = w->tile_rows * c->batch, blocks;

    w->wide = w->products * w->c * w->k * 4 > U_BYTES && rows * w->tile_columns <= TILES_MAX;
    if (!w->wide)
        return;
    blocks = (rows * w->tile_columns + SIDE - 1) / SIDE;
    w->block = (rows + blocks - 1) / blocks;
    w->c_tile = w->k_tile = SIDE;
    w->v_point = w->d_point = w->block * w->tile_columns * SIDE + 16;
    w->u_point = w->ut_point = SIDE * SIDE + 16;
    cover(w, (struct conv_part){0}, (struct conv_part){0});
}

/* V, D, a block of M or dV, and one of U, U^T or dU */
size_t NATIVE(winograd_wide_scratch)(const struct winograd *w)
{
    return w->points * ((w->c_blocks + w->k_blocks + 1) * w->v_point + w->u_point);
}

static void take_channels(struct winograd *w, size_t block)
{
    winograd_take_phase(w, block % w->phases);
    w->c_lo = w->c_from + block / w->phases * SIDE;
    w->c_hi = w->c_lo + SIDE < w->c_to ? w->c_lo + SIDE : w->c_to;
}

static void take_filters(struct winograd *w, size_t block)
{
    w->k_lo = w->k_from + block * SIDE;
    w->k_hi = w->k_lo + SIDE < w->k_to ? w->k_lo + SIDE : w->k_to;
}

static void input(struct winograd *w, const struct conv *c, const float *x, size_t lo, size_t hi, float *v,
                  const float *zeros)
{
    for (size_t i = 0; i < w->c_blocks; i++, v += w->points * w->v_point) {
        take_channels(w, i);
        NATIVE(winograd_input)(w, c, x, lo, hi, v, zeros);
    }
}

static void gradient(struct winograd *w, const struct conv *c, const struct conv_args *a, size_t lo, size_t hi,
                     float *d, float *db)
{
    for (size_t i = 0; i < w->k_blocks; i++, d += w->points * w->d_point) {
        take_filters(w, i);
        NATIVE(winograd_gradient)(w, c, a, lo, hi, d, c->bias && !w->c_from ? db : NULL);
    }
}

static void forward(struct winograd *w, const struct conv *c, const struct conv_args *a, size_t lo, size_t hi,
                    bool training, const float *v, float *m, float *u)
{
    size_t tiles = (hi - lo) * w->tile_columns;

    for (size_t k = 0; k < w->k_blocks; k++) {
        take_filters(w, k);
        for (size_t i = 0; i < w->c_blocks; i++) {
            const float *from = v + i * w->points * w->v_point;

            take_channels(w, i);
            NATIVE(winograd_weights)(w, a->weights, u, NULL);
            for (size_t f = 0; f < w->rows * w->columns; f++, from += w->v_point)
                NATIVE(winograd_gemm)(from, SIDE, u + f * w->u_point, m + winograd_frequency(w, f) * w->d_point, SIDE,
                                      tiles, w->c_hi - w->c_lo, winograd_vecs(w->k_hi - w->k_lo), i > 0,
                                      from + w->v_point);
        }
        NATIVE(winograd_output)(w, c, a, lo, hi, m, training);
    }
}

static void weights_gradient(struct winograd *w, size_t tiles, const float *v, const float *d, float *du, float *dw,
                             bool add, const struct native_step *step)
{
    for (size_t k = 0; k < w->k_blocks; k++, d += w->points * w->d_point) {
        take_filters(w, k);
        for (size_t i = 0; i < w->c_blocks; i++) {
            const float *from = v + i * w->points * w->v_point;

            take_channels(w, i);
            for (size_t f = 0; f < w->rows * w->columns; f++, from += w->v_point)
                NATIVE(winograd_gemm_weights)(from, SIDE, d + winograd_frequency(w, f) * w->d_point, SIDE,
                                              du + f * w->u_point, w->c_hi - w->c_lo, tiles,
                                              winograd_vecs(w->k_hi - w->k_lo), false, from + w->v_point);
            NATIVE(winograd_weights_back)(w, du, dw, add, step);
        }
    }
}

static void input_gradient(struct winograd *w, const struct conv *c, const struct conv_args *a, size_t lo, size_t hi,
                           const float *d, float *dv, float *ut, float *dump)
{
    size_t tiles = (hi - lo) * w->tile_columns;

    for (size_t i = 0; i < w->c_blocks; i++) {
        take_channels(w, i);
        for (size_t k = 0; k < w->k_blocks; k++) {
            const float *block = d + k * w->points * w->d_point;

            take_filters(w, k);
            NATIVE(winograd_weights)(w, a->weights, NULL, ut);
            for (size_t f = 0; f < w->rows * w->columns; f++) {
                const float *from = block + winograd_frequency(w, f) * w->d_point;
                NATIVE(winograd_gemm)(from, SIDE, ut + f * w->ut_point, dv + f * w->v_point, SIDE, tiles,
                                      w->k_hi - w->k_lo, winograd_vecs(w->c_hi - w->c_lo), k > 0, from + w->d_point);
            }
        }
        NATIVE(winograd_spread)(w, c, a->dx, lo, hi, dv, dump);
    }
}

void NATIVE(winograd_wide_forward)(const struct winograd *w, const struct conv *c, const struct conv_args *a, size_t lo,
                                   size_t hi, bool training, const float *zeros, float *scratch)
{
    struct winograd part = *w;
    float *v = scratch, *m = v + w->c_blocks * w->points * w->v_point, *u = m + w->points * w->d_point;
    size_t end = hi * w->tile_rows, next;

    cover(&part, (struct conv_part){0}, a->part);
    if (!part.k_blocks)
        return;
    for (size_t row = lo * w->tile_rows; row < end; row = next) {
        next = row + w->block < end ? row + w->block : end;
        input(&part, c, a->x, row, next, v, zeros);
        forward(&part, c, a, row, next, training, v, m, u);
    }
}

void NATIVE(winograd_wide_backward)(const struct winograd *w, const struct conv *c, const struct conv_args *a,
                                    size_t lo, size_t hi, float *edge, size_t edge_floats, float *scratch, float *db)
{
    struct winograd part = *w;
    float *v = scratch, *d = v + w->c_blocks * w->points * w->v_point, *dv = d + w->k_blocks * w->points * w->d_point,
          *u = dv + w->points * w->v_point;
    size_t begin = lo * w->tile_rows, end = hi * w->tile_rows, next;

    cover(&part, a->part, (struct conv_part){0});
    if (!part.c_blocks)
        return;
    if (!part.c_from)
        memset(db, 0, w->k_vecs * VEC_N * 4);
    for (size_t row = begin; row < end; row = next) {
        next = row + w->block < end ? row + w->block : end;
        memset(edge, 0, edge_floats * 4);
        input(&part, c, a->x, row, next, v, edge);
        gradient(&part, c, a, row, next, d, db);
        if (a->dx)
            input_gradient(&part, c, a, row, next, d, dv, u, edge);
        weights_gradient(&part, (next - row) * w->tile_columns, v, d, u, a->partial, row > begin,
                         next < end ? NULL : a->step);
    }
}
