/* direct_strip.c - the direct convolution's forward loop: tiles of rows x columns x vectors of filters, kept in
 * registers for the whole sum; each sum is taken over kernel rows, columns and channels in order, whatever the tile.
 * Bias is its start, ReLU and the pool its end. SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cpu/native/direct_private.h"

VEC_INLINE void sum_up(const struct direct_strip *t, const float *x, vec *acc, int rows, int cols, int nv)
{
    const float *w = t->w;
    size_t c1 = t->x_col, c3 = 3 * c1, c4 = 4 * c1, c5 = 5 * c1, down = t->x_row;

    /* So that each column's address is a base and a scaled register, and not a pointer of its own to be kept going. */
    __asm__("" : "+r"(c3), "+r"(c4), "+r"(c5));
    const size_t at[6] = {0, c1, 2 * c1, c3, c4, c5};
    for (size_t r = t->rows; r; r--) {
        const float *x0 = x, *x1 = x + down;
        size_t n = t->run;
        do {
            vec w0 = vec_load(w), w1 = nv > 1 ? vec_load(w + VEC_N) : w0;
            VEC_UNROLL for (int i = 0; i < rows; i++)
                VEC_UNROLL for (int j = 0; j < cols; j++) {
                    vec v = vec_splat((i ? x1 : x0)[at[j]]);
                    vec *sum = acc + (i * cols + j) * nv;
                    sum[0] = vec_fma(v, w0, sum[0]);
                    if (nv > 1)
                        sum[1] = vec_fma(v, w1, sum[1]);
                }
            w += nv * VEC_N;
            x0++;
            x1++;
        } while (--n);
        x += t->kernel_row;
    }
}

/* Max of four, then ReLU; what is no number wins. mask: which of the four it came from, none where ReLU is 0. */
VEC_INLINE vec pool(vec a, vec b, vec c, vec d, uint16_t *mask)
{
    vec zero = vec_zero(), best = vec_max(vec_max(a, b), vec_max(c, d));
    vec_mask odd = vec_mask_or(vec_unordered2(a, b), vec_unordered2(c, d)), left, won;

    if (__builtin_expect(vec_any(odd), 0)) {
        best = vec_select(vec_unordered(c), c, vec_select(vec_unordered(d), d, best));
        best = vec_select(vec_unordered(a), a, vec_select(vec_unordered(b), b, best));
    }
    best = vec_max(zero, best);
    if (!mask)
        return best;
    left = vec_gt(best, zero);
    if (__builtin_expect(vec_any(odd), 0)) {
        left = vec_mask_or(left, odd);
        won = vec_mask_and(left, vec_mask_or(vec_eq(a, best), vec_unordered(a)));
        mask[0] = vec_mask_bits(won);
        left = vec_mask_andnot(left, won);
        won = vec_mask_and(left, vec_mask_or(vec_eq(b, best), vec_unordered(b)));
        mask[1] = vec_mask_bits(won);
        left = vec_mask_andnot(left, won);
        won = vec_mask_and(left, vec_mask_or(vec_eq(c, best), vec_unordered(c)));
    } else {
        won = vec_mask_and(left, vec_eq(a, best));
        mask[0] = vec_mask_bits(won);
        left = vec_mask_andnot(left, won);
        won = vec_mask_and(left, vec_eq(b, best));
        mask[1] = vec_mask_bits(won);
        left = vec_mask_andnot(left, won);
        won = vec_mask_and(left, vec_eq(c, best));
    }
    mask[2] = vec_mask_bits(won);
    mask[3] = vec_mask_bits(vec_mask_andnot(left, won));
    return best;
}

VEC_INLINE void put(const struct direct_strip *t, float *y, uint16_t *mask, const vec *acc, int rows, int cols, int nv,
                    size_t lanes)
{
    if (rows == 2 && cols % 2 == 0 && t->end == DIRECT_POOL) {
        VEC_UNROLL for (int j = 0; j < cols / 2; j++)
            VEC_UNROLL for (int v = 0; v < nv; v++) {
                const vec *a = acc + 2 * j * nv + v, *b = a + cols * nv;
                uint16_t *four = mask ? mask + (size_t)j * t->mask_col + 4 * v : NULL;
                float *to = y + (size_t)j * t->y_col + v * VEC_N;
                vec best = pool(a[0], a[nv], b[0], b[nv], four);
                if (t->drop) {
                    best = drop_vec(t->drop, to, best);
                    drop_masks(t->drop, to, four);
                }
                vec_store_some(to, best, v == nv - 1 ? lanes : VEC_N);
            }
        return;
    }
    VEC_UNROLL for (int i = 0; i < rows; i++)
        VEC_UNROLL for (int j = 0; j < cols; j++)
            VEC_UNROLL for (int v = 0; v < nv; v++) {
                vec a = acc[(i * cols + j) * nv + v];
                float *to = y + (size_t)i * t->y_row + (size_t)j * t->y_col + v * VEC_N;
                if (t->end == DIRECT_RELU)
                    a = vec_max(vec_zero(), a);
                if (t->drop)
                    a = drop_vec(t->drop, to, a);
                vec_store_some(to, a, v == nv - 1 ? lanes : VEC_N);
            }
}

VEC_INLINE void strip(const struct direct_strip *t, int rows, int cols, int nv)
{
    const float *x = t->x;
    float *y = t->y;
    uint16_t *mask = t->mask;

    for (size_t n = t->count; n; n--) {
        vec acc[24];
        VEC_UNROLL for (int i = 0; i < rows * cols * nv; i++)
            acc[i] = vec_load(t->bias + i % nv * VEC_N);
        sum_up(t, x, acc, rows, cols, nv);
        if (t->lanes == VEC_N)
            put(t, y, mask, acc, rows, cols, nv, VEC_N);
        else
            put(t, y, mask, acc, rows, cols, nv, t->lanes);
        x += t->x_tile;
        y += t->y_tile;
        mask = mask ? mask + t->mask_tile : NULL;
    }
}

#define STRIP(rows, cols, nv)                                                                                          \
    static void strip_##rows##_##cols##_##nv(const struct direct_strip *t)                                             \
    {                                                                                                                  \
        strip(t, rows, cols, nv);                                                                                      \
    }
#define COLS(rows, nv) STRIP(rows, 1, nv) STRIP(rows, 2, nv) STRIP(rows, 3, nv)
#define MORE(rows, nv) STRIP(rows, 4, nv) STRIP(rows, 5, nv) STRIP(rows, 6, nv)
COLS(1, 1) COLS(1, 2) COLS(2, 1) COLS(2, 2) MORE(1, 1) MORE(2, 1)
#define ROW3(rows, nv) strip_##rows##_1_##nv, strip_##rows##_2_##nv, strip_##rows##_3_##nv
#define ROW6(rows, nv) ROW3(rows, nv), strip_##rows##_4_##nv, strip_##rows##_5_##nv, strip_##rows##_6_##nv
#if VEC_REGISTERS == 32
MORE(1, 2) MORE(2, 2)
#define ROW_2(rows) ROW6(rows, 2)
#else
#define ROW_2(rows) ROW3(rows, 2)
#endif

direct_strip_fn *NATIVE(direct_strip)(int rows, int cols, int nv)
{
    static direct_strip_fn *const STRIPS[2][2][6] = {{{ROW6(1, 1)}, {ROW_2(1)}}, {{ROW6(2, 1)}, {ROW_2(2)}}};

    return STRIPS[rows - 1][nv - 1][cols - 1];
}
