/* direct_dw.c - the direct convolution's gradient of weights: a tile of a run's values x vectors of filters, kept in
 * registers over all pixels. It starts from 0 and is added to the sum at the end: the error stays small.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cpu/native/direct_private.h"

VEC_INLINE void dw(const struct direct_dw *t, int run, int nv)
{
    const float *ahead0 = t->ahead[0], *ahead1 = t->ahead[1];
    vec acc[24];

    VEC_UNROLL for (int i = 0; i < run * nv; i++)
        acc[i] = vec_zero();
    for (size_t n = 0; n < t->images; n++)
        for (size_t r = 0; r < t->rows; r++) {
            const float *x = t->x + n * t->x_image + r * t->x_row, *d = t->d + n * t->d_image + r * t->d_row;
            size_t x_col = t->x_col, d_col = t->d_col, left = t->cols;
            do {
                vec d0 = vec_load(d), d1 = nv > 1 ? vec_load(d + VEC_N) : d0;
                VEC_UNROLL for (int i = 0; i < run; i++) {
                    vec v = vec_splat(x[i]);
                    acc[nv * i] = vec_fma(v, d0, acc[nv * i]);
                    if (nv > 1)
                        acc[nv * i + 1] = vec_fma(v, d1, acc[nv * i + 1]);
                }
                __builtin_prefetch(ahead0, 0, 2);
                __builtin_prefetch(ahead1, 0, 2);
                ahead0 += 16;
                ahead1 += 16;
                x += x_col;
                d += d_col;
            } while (--left);
        }
    VEC_UNROLL for (int i = 0; i < run * nv; i++)
        vec_store(t->sum + i * VEC_N, vec_load(t->sum + i * VEC_N) + acc[i]);
}

#define DW(run, nv)                                                                                                    \
    static void dw_##run##_##nv(const struct direct_dw *t)                                                             \
    {                                                                                                                  \
        dw(t, run, nv);                                                                                                \
    }
#define DW6(nv) DW(1, nv) DW(2, nv) DW(3, nv) DW(4, nv) DW(5, nv) DW(6, nv)
#define DW12(nv) DW6(nv) DW(7, nv) DW(8, nv) DW(9, nv) DW(10, nv) DW(11, nv) DW(12, nv)
#define ROW6(nv) dw_1_##nv, dw_2_##nv, dw_3_##nv, dw_4_##nv, dw_5_##nv, dw_6_##nv
#define ROW12(nv) ROW6(nv), dw_7_##nv, dw_8_##nv, dw_9_##nv, dw_10_##nv, dw_11_##nv, dw_12_##nv
DW12(1)
#if VEC_REGISTERS == 32
DW12(2)
#define ROW_2 ROW12(2)
#else
DW6(2)
#define ROW_2 ROW6(2)
#endif

direct_dw_fn *NATIVE(direct_dw)(int run, int nv)
{
    static direct_dw_fn *const ALL[2][12] = {{ROW12(1)}, {ROW_2}};

    return ALL[nv - 1][run - 1];
}
