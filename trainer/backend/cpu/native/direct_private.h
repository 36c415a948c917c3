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
    const struct native_drop *drop; /* NULL, or of y */
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

/* Two blocks of filters at once; 0: never. */
#if VEC_REGISTERS == 32
#define DIRECT_WIDE (2 * DIRECT_BLOCK)
#else
#define DIRECT_WIDE 0
#endif
#define DIRECT_WIDE_PIXELS 6
#define DIRECT_WIDE_RUN 6
#define DIRECT_WIDE_PITCH 8 /* floats from one pixel's values of a run to the next's */
#define DIRECT_WIDE_STEPS 4 /* of a run, or pixels, from one fetch ahead to the next */

/* y[i] = bias (NULL: y[i]) + x[i][0, run) times weights, for each pixel. */
struct direct_wide {
    const float *x[DIRECT_WIDE_PIXELS];
    float *y[DIRECT_WIDE_PIXELS];
    const float *w; /* [run][DIRECT_BLOCK], and w_block floats on those of the other block */
    size_t w_block, run;
    const float *bias; /* DIRECT_WIDE of them */
    size_t lanes;      /* of the last vector */
    bool relu;
    const struct native_drop *drop; /* NULL, or of y */
    const char *ahead[2]; /* memory that will be read soon: so many bytes on at each fetch */
    size_t ahead_step[2];
};
typedef void direct_wide_fn(const struct direct_wide *t);
direct_wide_fn *NATIVE(direct_wide)(int pixels);

/* sum[j][DIRECT_BLOCK] (and sum_block on those of the other block) += over pixels: x[j] * d[DIRECT_WIDE] */
struct direct_wide_dw {
    const float *x, *d; /* [pixels][DIRECT_WIDE_PITCH], [pixels][DIRECT_WIDE] */
    size_t pixels;
    float *sum;
    size_t sum_block;
    const float *ahead; /* the next sum */
};
typedef void direct_wide_dw_fn(const struct direct_wide_dw *t);
direct_wide_dw_fn *NATIVE(direct_wide_dw)(int run);

/* A convolution over frames: y[image][row][col][filter]. */
struct direct_job {
    const float *x, *w, *bias;
    float *y;
    uint16_t *mask;
    size_t x_image, x_row, x_col, kernel_row, rows, run;
    size_t y_image, y_row, y_col, mask_image, mask_row, mask_col; /* of outputs, after the pool */
    size_t images, filters, p, q;
    enum direct_end end;
    const struct native_drop *drop; /* NULL, or of y */
    const float *soon[2]; /* NULL, or what is wanted next: so many floats of it */
    size_t soon_floats[2];
};
/* Filters from the first on; returns how many were done. */
size_t NATIVE(direct_wide_run)(const struct direct_job *j);

/* Sums of x and d over pixels, as direct_dw takes them, for the first filters; returns how many were done. room:
 * direct_wide_room floats. */
size_t NATIVE(direct_wide_weights)(const struct direct_dw *t, size_t filters_pad, size_t kernel_rows, size_t kernel_row,
                                   size_t run, float *room);
size_t NATIVE(direct_wide_room)(size_t filters_pad, size_t run);

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
