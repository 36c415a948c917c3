/* transpose.h - a square of VEC_N x VEC_N floats, turned in registers.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_TRAINER_CPU_NATIVE_TRANSPOSE_H
#define FLEXP_TRAINER_CPU_NATIVE_TRANSPOSE_H

#include "trainer/backend/cpu/native/vec.h"

#if VEC_N == 16

#define LOW_PAIRS(a, b) _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)))
#define HIGH_PAIRS(a, b) _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)))

VEC_INLINE void vec_transpose(vec *v)
{
    __m512 r[16], t[16];

    VEC_UNROLL for (int i = 0; i < 8; i++)
    {
        t[2 * i] = _mm512_unpacklo_ps((__m512)v[2 * i], (__m512)v[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_ps((__m512)v[2 * i], (__m512)v[2 * i + 1]);
    }
    VEC_UNROLL for (int i = 0; i < 4; i++)
    {
        r[4 * i] = LOW_PAIRS(t[4 * i], t[4 * i + 2]);
        r[4 * i + 1] = HIGH_PAIRS(t[4 * i], t[4 * i + 2]);
        r[4 * i + 2] = LOW_PAIRS(t[4 * i + 1], t[4 * i + 3]);
        r[4 * i + 3] = HIGH_PAIRS(t[4 * i + 1], t[4 * i + 3]);
    }
    VEC_UNROLL for (int i = 0; i < 4; i++)
    {
        t[i] = _mm512_shuffle_f32x4(r[i], r[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_f32x4(r[i], r[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0xdd);
    }
    VEC_UNROLL for (int i = 0; i < 8; i++)
    {
        v[i] = (vec)_mm512_shuffle_f32x4(t[i], t[i + 8], 0x88);
        v[i + 8] = (vec)_mm512_shuffle_f32x4(t[i], t[i + 8], 0xdd);
    }
}

#elif VEC_N == 8

VEC_INLINE void vec_transpose(vec *v)
{
    __m256 r[8], t[8];

    VEC_UNROLL for (int i = 0; i < 4; i++)
    {
        t[2 * i] = _mm256_unpacklo_ps((__m256)v[2 * i], (__m256)v[2 * i + 1]);
        t[2 * i + 1] = _mm256_unpackhi_ps((__m256)v[2 * i], (__m256)v[2 * i + 1]);
    }
    VEC_UNROLL for (int i = 0; i < 2; i++)
    {
        r[4 * i] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0x44);
        r[4 * i + 1] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0xee);
        r[4 * i + 2] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0x44);
        r[4 * i + 3] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0xee);
    }
    VEC_UNROLL for (int i = 0; i < 4; i++)
    {
        v[i] = (vec)_mm256_permute2f128_ps(r[i], r[i + 4], 0x20);
        v[i + 4] = (vec)_mm256_permute2f128_ps(r[i], r[i + 4], 0x31);
    }
}

#else

VEC_INLINE void vec_transpose(vec *v)
{
    vec a = __builtin_shufflevector(v[0], v[1], 0, 4, 1, 5), b = __builtin_shufflevector(v[0], v[1], 2, 6, 3, 7);
    vec c = __builtin_shufflevector(v[2], v[3], 0, 4, 1, 5), d = __builtin_shufflevector(v[2], v[3], 2, 6, 3, 7);

    v[0] = __builtin_shufflevector(a, c, 0, 1, 4, 5);
    v[1] = __builtin_shufflevector(a, c, 2, 3, 6, 7);
    v[2] = __builtin_shufflevector(b, d, 0, 1, 4, 5);
    v[3] = __builtin_shufflevector(b, d, 2, 3, 6, 7);
}

#endif

#endif
