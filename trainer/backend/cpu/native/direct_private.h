/* direct_private.h - the two loops of the direct convolution. Both walk runs of floats of an image in which (kernel
 * column, channel) is contiguous for each kernel row, and hold a tile of sums in registers.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_TRAINER_CPU_NATIVE_DIRECT_PRIVATE_H
#define FLEXP_TRAINER_CPU_NATIVE_DIRECT_PRIVATE_H

#include "trainer/backend/cpu/native/frame.h"

/* Filters are taken in blocks of two vectors, the last of one where that is enough. */
#define DIRECT_BLOCK (2 * VEC_N)

/* Pixels of a tile, of two rows; and values of a run times filters in a tile of the gradient of weights: what leaves
 * registers for two vectors of weights and a splat. */
#if VEC_REGISTERS == 32
#define DIRECT_COLS(nv) 6
#define DIRECT_RUN(nv) 12
#else
#define DIRECT_COLS(nv) ((nv) == 2 ? 3 : 6)
#define DIRECT_RUN(nv) ((nv) == 2 ? 6 : 12)
#endif

enum direct_end { DIRECT_PLAIN, DIRECT_RELU, DIRECT_POOL };

/* Tiles beside each other, `count` of them. */
struct direct_strip {
    const float *x;
    size_t x_row, x_col, x_tile; /* floats from an output's run to that below it, beside it, of the next tile */
    size_t kernel_row;           /* and to that of the next kernel row */
    size_t rows, run;            /* kernel rows, and floats of a run */
    const float *w;              /* [rows][run][nv * VEC_N] */
    const float *bias;           /* nv * VEC_N sums to start from */
    float *y;
    size_t y_row, y_col, y_tile; /* with a pool: of pooled pixels */
    size_t count;
    size_t lanes; /* of the last vector */
    enum direct_end end;
    uint16_t *mask; /* of the pool: four for each vector and pooled pixel, or NULL */
    size_t mask_col, mask_tile;
};

/* For a tile of [rows - 1][columns - 1][vectors - 1]. */
typedef void direct_strip_fn(const struct direct_strip *s);
direct_strip_fn *NATIVE(direct_strip)(int rows, int cols, int nv);

/* sum[j][nv * VEC_N] += over images, rows, columns: x[j] * d[nv * VEC_N], j < run <= DIRECT_RUN(nv) */
struct direct_dw {
    const float *x, *d;
    size_t x_image, x_row, x_col, d_image, d_row, d_col;
    size_t images, rows, cols;
    float *sum;
    const float *ahead[2]; /* memory that will be read soon: a cache line of each is fetched for each pixel */
};
typedef void direct_dw_fn(const struct direct_dw *t);
direct_dw_fn *NATIVE(direct_dw)(int run, int nv);

VEC_INLINE vec_mask vec_eq(vec a, vec b)
{
#if VEC_N == 16
    return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_EQ_OQ);
#else
    return (vec_mask)(a == b);
#endif
}

VEC_INLINE vec_mask vec_unordered2(vec a, vec b) /* true where either is no number */
{
#if VEC_N == 16
    return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_UNORD_Q);
#else
    return (vec_mask)((a != a) | (b != b));
#endif
}

VEC_INLINE bool vec_any(vec_mask m)
{
#if VEC_N == 16
    return m != 0;
#else
    return vec_mask_bits(m) != 0;
#endif
}

#endif
