/* winograd_private.h - what the files of the Winograd convolutions share.
 *
 * The output is cut into tiles of m x m (m 4 or 2), each from a x a inputs, a = m + r - 1 (r: the kernel's side), with
 * a^2 frequencies. F(4, 3) and F(2, 3) are of 3x3 kernels, F(2, 5) of 5x5 ones.
 *   forward   V = B^T x B, U = G w G^T, M = V U for each frequency (a GEMM: tiles x channels x filters), y = A^T M A
 *   backward  D = A dy A^T, dU += V^T D, dV = D U^T, dx += B dV B^T (tiles overlap by r - 1), at the end dw = G^T dU G
 * Lavin and Gray, arXiv 1509.09308. Backward is the exact adjoint of forward, so that one transform of dy serves both
 * gradients. Of F(2, 3) the points are 0, 1, -1, infinity; the others' are pairs, x and -x, and their errors within 1%
 * of the best such pairs': half of those with 1, -1, 2, -2 (tests/bench/cpu/points.py; Barabasz et al., arXiv
 * 1803.10986). F(2, 5) has F(4, 3)'s points, and so its transforms of the input.
 *
 * A stride of 2 parts the input of a 3x3 kernel into phases, by the parity of row and column as the kernel's top left
 * corner counts them: each is a convolution of stride 1, the even one of taps 0 and 2, the odd one of tap 1, and their
 * sum is y. In each direction an even phase is F(4, 2) of a = 5 points, two pairs and infinity; an odd phase has the
 * same transform of the output with nothing at infinity, 4 points. So M and D have 25 frequencies, to which phases add,
 * of 25, 20, 20 and 16 products. V, U, dU and dV have those of a phase side by side: its rows x columns.
 *
 * Buffers: V and dV [frequency][tile][channel], M and D [frequency][tile][filter], U in panels of two vectors of
 * filters, [frequency][panel][channel][2 VEC_N] (the last panel has one vector if their number is odd); dU alike; U^T
 * with channels and filters swapped. Lanes of V, D and dU past the last channel hold anything and end in no sum.
 * A batch is worked off in blocks of whole rows of tiles, which may begin and end inside an image. Every sum runs over
 * channels, or over tiles, in their order, so that bits do not depend on the blocks.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_TRAINER_CPU_NATIVE_WINOGRAD_PRIVATE_H
#define FLEXP_TRAINER_CPU_NATIVE_WINOGRAD_PRIVATE_H

#include "trainer/backend/cpu/native/kernels.h"
#include "trainer/backend/cpu/native/winograd_transform.h"

struct winograd {
    enum winograd_form form;
    size_t a, points;      /* points: frequencies, a^2 */
    size_t taps;           /* of the kernel, r^2 */
    size_t stride, phases; /* phases: stride^2 */
    size_t products;       /* frequencies of all phases of V and U */
    size_t phase;          /* which transforms go over, odd row * 2 + odd column */
    size_t rows, columns;  /* its frequencies in each direction, */
    size_t before;         /* and those of the phases before it */
    size_t p, q;           /* of the outputs that are used: even if a pool drops the last */
    size_t tile_rows, tile_columns;
    size_t block;          /* rows of tiles in a block, at most */
    size_t c, k;
    size_t c_vecs, k_vecs;
    size_t c_tile, k_tile; /* floats from tile to tile in V and in D */
    size_t v_point, d_point, u_point, ut_point; /* floats from frequency to frequency */
    size_t c_lo, c_hi, k_lo, k_hi; /* the channels and filters that transforms go over: all, a part, a wide layer's block */
    bool wide;             /* winograd_wide.c */
    size_t c_from, c_to, k_from, k_to; /* what its blocks cover */
    size_t c_blocks, k_blocks;
};

struct winograd NATIVE(winograd_plan)(const struct conv *c, enum winograd_form form);

VEC_INLINE void winograd_take_phase(struct winograd *w, size_t phase)
{
    w->phase = phase;
    w->rows = w->a - phase / 2;
    w->columns = w->a - phase % 2;
    w->before = phase ? w->points + (phase - 1) * w->a * (w->a - 1) : 0;
}

/* Which frequency of M and D goes with frequency f of V and U. */
VEC_INLINE size_t winograd_frequency(const struct winograd *w, size_t f)
{
    return f / w->columns * w->a + f % w->columns;
}

/* do_(form, rows, columns), with constants, for what w's transforms are of. */
#define WINOGRAD_EACH(w, do_)                                                                                          \
    do {                                                                                                               \
        if ((w)->form == WINOGRAD_F43)                                                                                 \
            do_(WINOGRAD_F43, 6, 6);                                                                                   \
        else if ((w)->form == WINOGRAD_F23)                                                                            \
            do_(WINOGRAD_F23, 4, 4);                                                                                   \
        else if ((w)->form == WINOGRAD_F25)                                                                            \
            do_(WINOGRAD_F25, 6, 6);                                                                                   \
        else if ((w)->phase == 0)                                                                                      \
            do_(WINOGRAD_F42, 5, 5);                                                                                   \
        else if ((w)->phase == 1)                                                                                      \
            do_(WINOGRAD_F42, 5, 4);                                                                                   \
        else if ((w)->phase == 2)                                                                                      \
            do_(WINOGRAD_F42, 4, 5);                                                                                   \
        else                                                                                                           \
            do_(WINOGRAD_F42, 4, 4);                                                                                   \
    } while (0)

/* o[i][0 .. vecs) (rows os floats apart) = or += sum over j < n of s[i][j] w[j][0 .. vecs), for one frequency.
 * gemm: s[i * ss + j], w as U's panels, rows of o hold whole vectors.
 * gemm_weights: s[j * ss + i], w[j * ws + ...], o as dU's panels.
 * next: the s of the product that follows, to be fetched meanwhile. */
void NATIVE(winograd_gemm)(const float *s, size_t ss, const float *w, float *o, size_t os, size_t rows, size_t n,
                           size_t vecs, bool add, const float *next);
void NATIVE(winograd_gemm_weights)(const float *s, size_t ss, const float *w, size_t ws, float *o, size_t rows,
                                   size_t n, size_t vecs, bool add, const float *next);

/* Rows of tiles [lo, hi), counted through all images. zeros, and dump for what falls off the input: ((a - 1) * stride
 * + 1) * c + VEC_N floats. */
void NATIVE(winograd_input)(const struct winograd *w, const struct conv *c, const float *x, size_t lo, size_t hi,
                            float *v, const float *zeros);
void NATIVE(winograd_output)(const struct winograd *w, const struct conv *c, const struct conv_args *a, size_t lo,
                             size_t hi, const float *m, bool training);
/* db: NULL, or what the sums of dy are added to, tile by tile. */
void NATIVE(winograd_gradient)(const struct winograd *w, const struct conv *c, const struct conv_args *a, size_t lo,
                               size_t hi, float *d, float *db);
void NATIVE(winograd_spread)(const struct winograd *w, const struct conv *c, float *dx, size_t lo, size_t hi,
                             const float *dv, float *dump);

/* U and U^T, each where it is not NULL, from weights [filter / VEC_N][channel][taps][VEC_N]; and back. */
void NATIVE(winograd_weights)(const struct winograd *w, const float *weights, float *u, float *transposed);
/* add: dw is added to. step: NULL, or what is done with the sum, which is then not stored. */
void NATIVE(winograd_weights_back)(const struct winograd *w, const float *du, float *dw, bool add,
                                   const struct native_step *step);

/* winograd_wide.c. scratch: floats, behind edge_floats of zeros. */
void NATIVE(winograd_wide_plan)(struct winograd *w, const struct conv *c);
size_t NATIVE(winograd_wide_scratch)(const struct winograd *w);
void NATIVE(winograd_wide_forward)(const struct winograd *w, const struct conv *c, const struct conv_args *a, size_t lo,
                                   size_t hi, bool training, const float *zeros, float *scratch);
void NATIVE(winograd_wide_backward)(const struct winograd *w, const struct conv *c, const struct conv_args *a,
                                    size_t lo, size_t hi, float *edge, size_t edge_floats, float *scratch, float *db);

/* n, of which the compiler knows nothing: otherwise it computes the address of every frequency ahead of the loop over
 * channels, has far too few registers for them, and reloads each through a vector unit that the sums need. */
VEC_INLINE size_t winograd_hide(size_t n)
{
    __asm__("" : "+r"(n));
    return n;
}

/* A part's share of n channels or filters, in whole panels of any instruction set. */
VEC_INLINE void winograd_share(struct conv_part part, size_t n, size_t *ret_lo, size_t *ret_hi)
{
    size_t panels = (n + 31) / 32, hi;

    if (!part.n)
        part.n = 1;
    hi = panels * (part.index + 1) / part.n * 32;
    *ret_lo = panels * part.index / part.n * 32;
    *ret_hi = hi < n ? hi : n;
}

VEC_INLINE size_t winograd_vecs(size_t channels)
{
    return (channels + VEC_N - 1) / VEC_N;
}

/* Where vector v of row `row` of a matrix in panels begins. */
VEC_INLINE size_t winograd_panel(size_t v, size_t row, size_t rows, size_t vecs)
{
    size_t width = v / 2 * 2 + 1 < vecs ? 2 : 1;

    return (v / 2 * 2 * rows + row * width + v % 2) * VEC_N;
}

#endif
