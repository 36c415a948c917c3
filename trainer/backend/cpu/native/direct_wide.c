/* direct_wide.c - the direct convolution's loops for 64 filters and more, where registers are many: six values of x are
 * splat for four vectors of filters, fewer loads than for two. Pixels of a tile are any; sums that do not fit what the
 * first cache holds of the weights go on from where they stand in y, so that the order is that of the other loops.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cpu/native/direct_private.h"

#if VEC_REGISTERS == 32

#define NV 4
#define STEPS DIRECT_WIDE_STEPS

VEC_INLINE void wide_step(const float *const *x, ptrdiff_t n, const float *w, const float *more, vec *acc, int pixels)
{
    vec w0 = vec_load(w), w1 = vec_load(w + VEC_N), w2 = vec_load(more), w3 = vec_load(more + VEC_N);

    VEC_UNROLL for (int i = 0; i < pixels; i++)
    {
        vec v = vec_splat(x[i][n]);
        acc[i * NV] = vec_fma(v, w0, acc[i * NV]);
        acc[i * NV + 1] = vec_fma(v, w1, acc[i * NV + 1]);
        acc[i * NV + 2] = vec_fma(v, w2, acc[i * NV + 2]);
        acc[i * NV + 3] = vec_fma(v, w3, acc[i * NV + 3]);
    }
}

VEC_INLINE void wide_dw_step(const float *x, const float *d, vec *acc, int run)
{
    vec d0 = vec_load(d), d1 = vec_load(d + VEC_N), d2 = vec_load(d + 2 * VEC_N), d3 = vec_load(d + 3 * VEC_N);

    VEC_UNROLL for (int i = 0; i < run; i++)
    {
        vec v = vec_splat(x[i]);
        acc[i * NV] = vec_fma(v, d0, acc[i * NV]);
        acc[i * NV + 1] = vec_fma(v, d1, acc[i * NV + 1]);
        acc[i * NV + 2] = vec_fma(v, d2, acc[i * NV + 2]);
        acc[i * NV + 3] = vec_fma(v, d3, acc[i * NV + 3]);
    }
}

VEC_INLINE void wide(const struct direct_wide *t, int pixels)
{
    const float *w = t->w, *more = t->w + t->w_block, *x[DIRECT_WIDE_PIXELS];
    const char *ahead0 = t->ahead[0], *ahead1 = t->ahead[1];
    size_t step0 = t->ahead_step[0], step1 = t->ahead_step[1], run = t->run, last = t->lanes;
    vec acc[DIRECT_WIDE_PIXELS * NV];

    VEC_UNROLL for (int i = 0; i < pixels; i++)
    {
        x[i] = t->x[i] + run;
        VEC_UNROLL for (int v = 0; v < NV; v++) {
            const float *from = t->bias ? t->bias + v * VEC_N : t->y[i] + v * VEC_N;
            acc[i * NV + v] = v < NV - 1 || t->bias || last == VEC_N ? vec_load(from) : vec_load_n(from, last);
        }
    }
    ptrdiff_t n = -(ptrdiff_t)run;
    for (; n <= -STEPS; n += STEPS) {
        VEC_UNROLL for (int u = 0; u < STEPS; u++)
            wide_step(x, n + u, w + u * DIRECT_BLOCK, more + u * DIRECT_BLOCK, acc, pixels);
        __builtin_prefetch(ahead0, 0, 2);
        __builtin_prefetch(ahead1, 0, 2);
        ahead0 += step0;
        ahead1 += step1;
        w += STEPS * DIRECT_BLOCK;
        more += STEPS * DIRECT_BLOCK;
    }
    for (; n; n++, w += DIRECT_BLOCK, more += DIRECT_BLOCK)
        wide_step(x, n, w, more, acc, pixels);
    if (t->relu)
        VEC_UNROLL for (int i = 0; i < pixels * NV; i++)
            acc[i] = vec_max(vec_zero(), acc[i]);
    if (t->drop)
        VEC_UNROLL for (int i = 0; i < pixels * NV; i++)
            acc[i] = drop_vec(t->drop, t->y[i / NV] + i % NV * VEC_N, acc[i]);
    VEC_UNROLL for (int i = 0; i < pixels; i++)
    {
        VEC_UNROLL for (int v = 0; v < NV - 1; v++)
            vec_store(t->y[i] + v * VEC_N, acc[i * NV + v]);
        vec_store_some(t->y[i] + (NV - 1) * VEC_N, acc[i * NV + NV - 1], last);
    }
}

VEC_INLINE void wide_dw(const struct direct_wide_dw *t, int run)
{
    const float *x = t->x, *d = t->d;
    const char *ahead0 = (const char *)t->ahead, *ahead1 = (const char *)(t->ahead + t->sum_block);
    size_t step = (size_t)run * DIRECT_BLOCK * sizeof(float) * STEPS / t->pixels + 1;
    float *sum = t->sum, *more = t->sum + t->sum_block;
    vec acc[DIRECT_WIDE_RUN * NV];

    VEC_UNROLL for (int i = 0; i < run * NV; i++)
        acc[i] = vec_zero();
    size_t n = t->pixels;
    for (; n >= STEPS; n -= STEPS) {
        VEC_UNROLL for (int u = 0; u < STEPS; u++)
            wide_dw_step(x + u * DIRECT_WIDE_PITCH, d + u * DIRECT_WIDE, acc, run);
        __builtin_prefetch(ahead0, 1, 2);
        __builtin_prefetch(ahead1, 1, 2);
        ahead0 += step;
        ahead1 += step;
        x += STEPS * DIRECT_WIDE_PITCH;
        d += STEPS * DIRECT_WIDE;
    }
    for (; n; n--, x += DIRECT_WIDE_PITCH, d += DIRECT_WIDE)
        wide_dw_step(x, d, acc, run);
    VEC_UNROLL for (int i = 0; i < run; i++)
    {
        VEC_UNROLL for (int v = 0; v < 2; v++) {
            float *a = sum + i * DIRECT_BLOCK + v * VEC_N, *b = more + i * DIRECT_BLOCK + v * VEC_N;
            vec_store(a, vec_load(a) + acc[i * NV + v]);
            vec_store(b, vec_load(b) + acc[i * NV + 2 + v]);
        }
    }
}

#define ONE(n)                                                                                                         \
    static void wide_##n(const struct direct_wide *t)                                                                  \
    {                                                                                                                  \
        wide(t, n);                                                                                                    \
    }                                                                                                                  \
    static void wide_dw_##n(const struct direct_wide_dw *t)                                                            \
    {                                                                                                                  \
        wide_dw(t, n);                                                                                                 \
    }
ONE(1) ONE(2) ONE(3) ONE(4) ONE(5) ONE(6)

direct_wide_fn *NATIVE(direct_wide)(int pixels)
{
    static direct_wide_fn *const ALL[] = {wide_1, wide_2, wide_3, wide_4, wide_5, wide_6};

    return ALL[pixels - 1];
}

direct_wide_dw_fn *NATIVE(direct_wide_dw)(int run)
{
    static direct_wide_dw_fn *const ALL[] = {wide_dw_1, wide_dw_2, wide_dw_3, wide_dw_4, wide_dw_5, wide_dw_6};

    return ALL[run - 1];
}

#endif
