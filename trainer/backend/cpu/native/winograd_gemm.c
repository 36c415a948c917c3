/* winograd_gemm.c - the products of one frequency of a Winograd convolution.
 * Two vectors wide, as many rows as registers hold; rows are shared out evenly rather than leaving a thin rest.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cpu/native/winograd_private.h"

#define ROWS_MAX (VEC_REGISTERS == 32 ? 12 : 6)
/* Channels at a time, so that a panel's piece stays in the first-level cache while all tiles go past it. */
#define DEPTH_MAX 192
/* U of wide layers lies outside the second-level cache, and the processor's own prefetching stops at each page. */
#define AHEAD 16
#define LINE 16 /* floats */
/* While a frequency's product runs, what the next one reads is brought into the second-level cache: so many floats in
 * each step of a tile, which makes half as much again as s has. */
#define SOON 8

/* n > 0. What is prefetched past a buffer's end is never read. */
VEC_INLINE void tile(const float *s, size_t si, size_t sj, const float *w, size_t wj, float *o, size_t os, size_t n,
                     size_t rows, size_t vecs, bool weights, bool add, const float *next)
{
    vec acc[2 * 12];

    if (weights) { /* the next tile's */
        VEC_UNROLL
        for (size_t i = 0; i < rows * vecs * VEC_N; i += LINE)
            __builtin_prefetch(o + rows * vecs * VEC_N + i, 1);
    }
    VEC_UNROLL
    for (size_t i = 0; i < rows * vecs; i++)
        acc[i] = add ? vec_load(o + i / vecs * os + i % vecs * VEC_N) : vec_zero();
    _Pragma("GCC unroll 2")
    do {
        vec w0 = vec_load(w), w1 = vecs > 1 ? vec_load(w + VEC_N) : w0;

        if (!weights) {
            VEC_UNROLL
            for (size_t i = 0; i < vecs * VEC_N; i += LINE)
                __builtin_prefetch(w + AHEAD * vecs * VEC_N + i);
        }
        __builtin_prefetch(next, 0, 2);
        next += SOON;
        VEC_UNROLL
        for (size_t i = 0; i < rows; i++) {
            vec x = vec_splat(s[i * si]);

            acc[vecs * i] = vec_fma(x, w0, acc[vecs * i]);
            if (vecs > 1)
                acc[vecs * i + 1] = vec_fma(x, w1, acc[vecs * i + 1]);
        }
        s += sj;
        w += wj;
    } while (--n);
    VEC_UNROLL
    for (size_t i = 0; i < rows * vecs; i++)
        vec_store(o + i / vecs * os + i % vecs * VEC_N, acc[i]);
}

/* `tiles` of them, one below the other. */
typedef void tile_fn(const float *s, size_t ss, const float *w, size_t ws, float *o, size_t os, size_t n, size_t tiles,
                     bool add, const float *next);

#define TILE(rows, vecs)                                                                                               \
    static void tile_##rows##_##vecs(const float *s, size_t ss, const float *w, size_t ws, float *o, size_t os,        \
                                     size_t n, size_t tiles, bool add, const float *next)                              \
    {                                                                                                                  \
        (void)ws;                                                                                                      \
        for (; tiles; tiles--, s += rows * ss, o += rows * os, next += SOON * n)                                       \
            tile(s, ss, 1, w, vecs * VEC_N, o, os, n, rows, vecs, false, add, next);                                   \
    }                                                                                                                  \
    static void weights_##rows##_##vecs(const float *s, size_t ss, const float *w, size_t ws, float *o, size_t os,     \
                                        size_t n, size_t tiles, bool add, const float *next)                           \
    {                                                                                                                  \
        (void)os;                                                                                                      \
        for (; tiles; tiles--, s += rows, o += rows * vecs * VEC_N, next += SOON * n)                                  \
            tile(s, 1, ss, w, ws, o, vecs * VEC_N, n, rows, vecs, true, add, next);                                    \
    }
#define TILES(rows) TILE(rows, 1) TILE(rows, 2)
TILES(1) TILES(2) TILES(3) TILES(4) TILES(5) TILES(6)
#if VEC_REGISTERS == 32
TILES(7) TILES(8) TILES(9) TILES(10) TILES(11) TILES(12)
#define ROW_TABLE(name, vecs)                                                                                          \
    {                                                                                                                  \
        NULL, name##_1_##vecs, name##_2_##vecs, name##_3_##vecs, name##_4_##vecs, name##_5_##vecs, name##_6_##vecs,    \
            name##_7_##vecs, name##_8_##vecs, name##_9_##vecs, name##_10_##vecs, name##_11_##vecs, name##_12_##vecs    \
    }
#else
#define ROW_TABLE(name, vecs)                                                                                          \
    {                                                                                                                  \
        NULL, name##_1_##vecs, name##_2_##vecs, name##_3_##vecs, name##_4_##vecs, name##_5_##vecs, name##_6_##vecs     \
    }
#endif

static tile_fn *const TILE_FNS[2][ROWS_MAX + 1] = {ROW_TABLE(tile, 1), ROW_TABLE(tile, 2)};
static tile_fn *const WEIGHT_FNS[2][ROWS_MAX + 1] = {ROW_TABLE(weights, 1), ROW_TABLE(weights, 2)};

/* Rows in tiles of one height, and then of one more. Returns how far `next` has come. */
VEC_INLINE const float *share_out(tile_fn *const *fns, const float *s, size_t s_row, size_t ss, const float *w,
                                  size_t ws, float *o, size_t os, size_t rows, size_t n, bool add, const float *next)
{
    size_t tiles = (rows + ROWS_MAX - 1) / ROWS_MAX, height = rows / tiles, higher = rows % tiles,
           low = (tiles - higher) * height;

    fns[height](s, ss, w, ws, o, os, n, tiles - higher, add, next);
    if (higher)
        fns[height + 1](s + low * s_row, ss, w, ws, o + low * os, os, n, higher, add,
                        next + SOON * n * (tiles - higher));
    return next + SOON * n * tiles;
}

void NATIVE(winograd_gemm)(const float *s, size_t ss, const float *w, float *o, size_t os, size_t rows, size_t n,
                           size_t vecs, bool add, const float *next)
{
    size_t depths = (n + DEPTH_MAX - 1) / DEPTH_MAX;

    for (size_t v = 0; v < vecs; v += 2) {
        size_t width = v + 1 < vecs ? 2 : 1;

        for (size_t depth = 0, j = 0, end; depth < depths; depth++, j = end) {
            end = n * (depth + 1) / depths;
            next = share_out(TILE_FNS[width - 1], s + j, ss, ss, w + (v * n + j * width) * VEC_N, 0, o + v * VEC_N, os,
                             rows, end - j, add || j > 0, next);
        }
    }
}

void NATIVE(winograd_gemm_weights)(const float *s, size_t ss, const float *w, size_t ws, float *o, size_t rows,
                                   size_t n, size_t vecs, bool add, const float *next)
{
    for (size_t v = 0; v < vecs; v += 2) {
        size_t width = v + 1 < vecs ? 2 : 1;

        next = share_out(WEIGHT_FNS[width - 1], s, 1, ss, w + v * VEC_N, ws, o + v * rows * VEC_N, width * VEC_N, rows,
                         n, add, next);
    }
}
