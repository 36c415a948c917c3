/* vec.h - vectors of floats, as wide as the instruction set that a file of this folder is being compiled for.
 * Every source of trainer/backend/cpu/native is compiled once for each set (Makefile: ISAS), with NATIVE_ISA its name
 * (avx512, avx2, portable); what it exports is named NATIVE(x), and native.c picks a table when the program starts.
 * Nothing here is contracted or reassociated by the compiler: vec_fma is one rounding where the set has it and two on
 * portable, so that bits depend on the set, which the run's report names, and on nothing else.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_TRAINER_CPU_NATIVE_VEC_H
#define FLEXP_TRAINER_CPU_NATIVE_VEC_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define NATIVE_PASTE2(a, b) a##_##b
#define NATIVE_PASTE(a, b) NATIVE_PASTE2(a, b)
#define NATIVE(name) NATIVE_PASTE(name, NATIVE_ISA)

#if defined(__AVX512F__)
#include <immintrin.h>
#define VEC_N 16
#define VEC_REGISTERS 32
#elif defined(__AVX2__)
#include <immintrin.h>
#define VEC_N 8
#define VEC_REGISTERS 16
#else
#define VEC_N 4
#define VEC_REGISTERS 16
#endif

typedef float vec __attribute__((vector_size(4 * VEC_N), may_alias));
typedef int32_t veci __attribute__((vector_size(4 * VEC_N), may_alias));

#define VEC_INLINE static inline __attribute__((always_inline))
#define VEC_UNROLL _Pragma("GCC unroll 64")

VEC_INLINE vec vec_load(const float *p)
{
    vec v;

    memcpy(&v, p, sizeof v);
    return v;
}

VEC_INLINE void vec_store(float *p, vec v)
{
    memcpy(p, &v, sizeof v);
}

VEC_INLINE vec vec_zero(void)
{
    return (vec){0};
}

VEC_INLINE vec vec_splat(float x)
{
#if VEC_N == 16
    return (vec)_mm512_set1_ps(x);
#elif VEC_N == 8
    return (vec)_mm256_set1_ps(x);
#else
    return (vec){x, x, x, x};
#endif
}

VEC_INLINE vec vec_fma(vec a, vec b, vec c) /* a b + c */
{
#if VEC_N == 16
    return (vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif VEC_N == 8
    return (vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    return a * b + c;
#endif
}

VEC_INLINE vec vec_fnma(vec a, vec b, vec c) /* c - a b */
{
#if VEC_N == 16
    return (vec)_mm512_fnmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif VEC_N == 8
    return (vec)_mm256_fnmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    return c - a * b;
#endif
}

/* Masks, a bit or a lane of ones for each float. */
#if VEC_N == 16
typedef __mmask16 vec_mask;
#else
typedef veci vec_mask;
#endif

VEC_INLINE vec_mask vec_gt(vec a, vec b) /* false where either is no number */
{
#if VEC_N == 16
    return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_GT_OQ);
#else
    return (vec_mask)(a > b);
#endif
}

VEC_INLINE vec_mask vec_unordered(vec a) /* true where it is no number */
{
#if VEC_N == 16
    return _mm512_cmp_ps_mask((__m512)a, (__m512)a, _CMP_UNORD_Q);
#else
    return (vec_mask)(a != a);
#endif
}

VEC_INLINE vec_mask vec_mask_and(vec_mask a, vec_mask b)
{
    return (vec_mask)(a & b);
}

VEC_INLINE vec_mask vec_mask_or(vec_mask a, vec_mask b)
{
    return (vec_mask)(a | b);
}

VEC_INLINE vec_mask vec_mask_andnot(vec_mask a, vec_mask b) /* a, but not b */
{
    return (vec_mask)(a & ~b);
}

VEC_INLINE vec vec_select(vec_mask m, vec a, vec b) /* m ? a : b */
{
#if VEC_N == 16
    return (vec)_mm512_mask_blend_ps(m, (__m512)b, (__m512)a);
#else
    return (vec)((m & (veci)a) | (~m & (veci)b));
#endif
}

VEC_INLINE vec vec_where(vec_mask m, vec a) /* m ? a : 0 */
{
#if VEC_N == 16
    return (vec)_mm512_maskz_mov_ps(m, (__m512)a);
#else
    return (vec)(m & (veci)a);
#endif
}

/* VEC_N bits, the lowest for the first float, and back. */
VEC_INLINE uint16_t vec_mask_bits(vec_mask m)
{
#if VEC_N == 16
    return (uint16_t)m;
#elif VEC_N == 8
    return (uint16_t)_mm256_movemask_ps((__m256)m);
#else
    uint16_t bits = 0;
    for (int i = 0; i < VEC_N; i++)
        bits = (uint16_t)(bits | (m[i] ? 1 << i : 0));
    return bits;
#endif
}

VEC_INLINE vec_mask vec_mask_from(uint16_t bits)
{
#if VEC_N == 16
    return (vec_mask)bits;
#elif VEC_N == 8
    veci b = (veci){1, 2, 4, 8, 16, 32, 64, 128};
    veci all = (veci)_mm256_set1_epi32(bits);
    return (vec_mask)((all & b) == b);
#else
    veci b = (veci){1, 2, 4, 8};
    veci all = (veci){bits, bits, bits, bits};
    return (vec_mask)((all & b) == b);
#endif
}

/* The larger; b where either is no number, so that vec_max(zero, x) passes on what is no number. */
VEC_INLINE vec vec_max(vec a, vec b)
{
#if VEC_N == 16
    return (vec)_mm512_max_ps((__m512)a, (__m512)b);
#elif VEC_N == 8
    return (vec)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return vec_select((vec_mask)(a > b), a, b);
#endif
}

/* The first n floats, 0 < n < VEC_N; nothing behind them is read or written. The rest of what is loaded is 0. */
VEC_INLINE vec vec_load_n(const float *p, size_t n)
{
#if VEC_N == 16
    return (vec)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
#elif VEC_N == 8
    return (vec)_mm256_maskload_ps(p, (__m256i)vec_mask_from((uint16_t)((1u << n) - 1)));
#else
    vec v = {0};
    for (size_t i = 0; i < n; i++)
        v[i] = p[i];
    return v;
#endif
}

VEC_INLINE void vec_store_n(float *p, vec v, size_t n)
{
#if VEC_N == 16
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), (__m512)v);
#elif VEC_N == 8
    _mm256_maskstore_ps(p, (__m256i)vec_mask_from((uint16_t)((1u << n) - 1)), (__m256)v);
#else
    for (size_t i = 0; i < n; i++)
        p[i] = v[i];
#endif
}

/* Halves are added until one is left: an order that does not depend on the compiler. */
VEC_INLINE float vec_sum(vec v)
{
    float x[VEC_N];

    vec_store(x, v);
    for (int n = VEC_N / 2; n; n /= 2)
        for (int i = 0; i < n; i++)
            x[i] += x[i + n];
    return x[0];
}

#endif
