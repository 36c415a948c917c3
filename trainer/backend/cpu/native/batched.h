/* batched.h - what the files of the kernel `batched` share: a lane for each sample, images [C][H][W][LANES].
 *
 * A group with rows missing is cut into shares: the fewer rows a share has, the more bands of output rows stand beside
 * one another in its lanes (lane band * lanes + row), so that 2 rows of an image cost an eighth of what 16 do and not
 * as much. To the loops a share is one more group, of an image that is less high.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_TRAINER_CPU_NATIVE_BATCHED_H
#define FLEXP_TRAINER_CPU_NATIVE_BATCHED_H

#include "trainer/backend/cpu/native/kernels.h"

#define LANES NATIVE_LANES
#define PARTS (LANES / VEC_N) /* vectors for each pixel */

/* A bit for each lane of a vector. */
#if VEC_N == 16
typedef uint16_t lane_bits;
#else
typedef uint8_t lane_bits;
#endif

struct share {
    int row0, n;      /* rows of the group; n <= lanes */
    int lanes, bands; /* their product is LANES */
    int band_p;       /* rows of the convolution's output in a band, even where there are several bands */
    int band_h;       /* and of dx */
    int before;       /* rows of y in the shares before it: where its masks stand */
};

/* Cuts the n rows of a group into shares and returns their number; depends on the shape and n only. */
int NATIVE(batched_shares)(const struct conv *c, int n, struct share shares[LANES]);

/* From a group's activation (rows of (H, W, C), or batched) into lanes [C][rows][cols][LANES]: row v of a band is the
 * image's row band * step + first + v, column u its column u - left; 0 outside of the image and in lanes of no row. */
struct load {
    const float *image; /* of the group's first row */
    bool batched;
    int h, w, c;
    int step, first, left, rows, cols;
};
void NATIVE(batched_load)(const struct load *l, const struct share *s, float *lanes);

/* The way back, for images of `step` rows in each band; rows past the image's end are dropped. */
void NATIVE(batched_store)(float *image, bool batched, int h, int w, int c, int step, const struct share *s,
                           const float *lanes);

/* sums[i] += the sum over the lanes of lanes[i][LANES]. */
void NATIVE(batched_sum_lanes)(const float *lanes, size_t n, float *sums);

/* y = pool(relu(conv(x) + bias)) in lanes, x with its padding. All distances in floats. */
struct sweep {
    const float *x;
    ptrdiff_t x_plane, x_pitch;
    int stride;
    int channels, r, s;
    int top, bottom, left, right; /* x is 0 above row top, from row bottom on, and so on: those taps can be left out */
    int filters, p, q;
    const float *weights; /* as batched_pack has them */
    const float *bias;    /* or NULL */
    float *y;
    ptrdiff_t y_plane, y_pitch;
    bool relu, pool;
    lane_bits *masks; /* [filter][y row][y column][1, or 4 with pool][PARTS]; NULL: not wanted */
};
void NATIVE(batched_sweep)(const struct sweep *t);

/* Weights in the order in which a sweep reads them: [block of filters][channel][r][s][filter of the block]. turned:
 * those of the gradient of x, where inputs and outputs have changed places and the kernel is turned round. */
void NATIVE(batched_pack)(const struct conv *c, const float *weights, bool turned, float *packed);

/* dw[filter][channel][r][s][LANES] += sums of x over `rows` by `cols` pixels of dy. */
struct weight_sums {
    const float *x;
    ptrdiff_t x_plane, x_pitch;
    const float *dy;
    ptrdiff_t dy_plane, dy_pitch, dy_pixel;
    int stride;
    int channels, filters, r, s, rows, cols;
    float *dw;
};
void NATIVE(batched_weight_sums)(const struct weight_sums *t);
/* How many rows, of `cols` pixels, are best summed in one go; even. */
int NATIVE(batched_sum_rows)(const struct conv *c, int cols);

/* v, loaded once and held in a register: GCC would rather load it again for each use, and loads are what runs out. */
VEC_INLINE vec held(vec v)
{
#ifdef __AVX512F__
    __asm__("" : "+v"(v));
#elif defined(__x86_64__)
    __asm__("" : "+x"(v));
#endif
    return v;
}

/* Blocks of at most `most`, as even as can be: where block i of n begins. */
static inline int block_begin(int n, int most, int i)
{
    int blocks = (n + most - 1) / most;

    return n * i / blocks;
}

static inline int block_count(int n, int most)
{
    return (n + most - 1) / most;
}

#endif
