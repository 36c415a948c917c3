/* dropout.c - the decisions of PCG32's stream (common/rng.h), many at a time, and what they do to values.
 * Each draw decides on two values: its low 16 bits on the first, its high ones on the second, which is their order in
 * memory too. Lanes hold the states of the next DRAWS draws; all jump DRAWS ahead together.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cpu/native/kernels.h"

#define DRAWS 32
#define BLOCK ((size_t)(2 * DRAWS)) /* values that they decide on */

struct lanes {
    uint64_t state[DRAWS], multiplier, plus;
};

static void lanes_at(struct lanes *l, const struct pcg32 *rng, uint64_t draw)
{
    struct pcg32 zero = {0, rng->increment}, one = {1, rng->increment}, at = *rng;

    pcg32_advance(&at, draw);
    for (size_t i = 0; i < DRAWS; i++, pcg32_next(&at))
        l->state[i] = at.state;
    /* An advance by DRAWS is state * multiplier + plus: read both off. */
    pcg32_advance(&zero, DRAWS);
    pcg32_advance(&one, DRAWS);
    l->plus = zero.state;
    l->multiplier = one.state - zero.state;
}

/* 64 decisions: a bit is set where the value stays. threshold: at most 65536. */
#if VEC_N == 16

static uint64_t decide(struct lanes *l, uint32_t threshold)
{
    const __m512i multiplier = _mm512_set1_epi64((long long)l->multiplier),
                  plus = _mm512_set1_epi64((long long)l->plus);
    uint64_t kept = 0;

    VEC_UNROLL for (int i = 0; i < DRAWS / 16; i++)
    {
        __m256i half[2];
        VEC_UNROLL for (int j = 0; j < 2; j++)
        {
            uint64_t *state = l->state + 16 * i + 8 * j;
            __m512i s = _mm512_loadu_si512(state);
            __m512i x = _mm512_srli_epi64(_mm512_xor_si512(_mm512_srli_epi64(s, 18), s), 27);
            half[j] = _mm512_cvtepi64_epi32(_mm512_rorv_epi32(x, _mm512_srli_epi64(s, 59)));
            _mm512_storeu_si512(state, _mm512_add_epi64(_mm512_mullo_epi64(s, multiplier), plus));
        }
        __m512i draws = _mm512_inserti64x4(_mm512_castsi256_si512(half[0]), half[1], 1);
        __mmask32 keep = _mm512_cmpge_epu16_mask(draws, _mm512_set1_epi16((short)threshold));
        kept |= (uint64_t)keep << (32 * i);
    }
    return threshold < 65536 ? kept : 0;
}

#elif VEC_N == 8

static uint64_t decide(struct lanes *l, uint32_t threshold)
{
    const __m256i low = _mm256_set1_epi64x((long long)l->multiplier), high = _mm256_srli_epi64(low, 32);
    const __m256i plus = _mm256_set1_epi64x((long long)l->plus), word = _mm256_set1_epi64x(0xffffffff);
    const __m256i least = _mm256_set1_epi16((short)threshold);
    uint64_t kept = 0;

    VEC_UNROLL for (int i = 0; i < DRAWS / 16; i++)
    {
        __m256i keep[2];
        VEC_UNROLL for (int j = 0; j < 2; j++)
        {
            __m256i draws[2];
            VEC_UNROLL for (int k = 0; k < 2; k++)
            {
                __m256i *state = (__m256i *)(l->state + 16 * i + 8 * j + 4 * k), s = _mm256_loadu_si256(state);
                __m256i x = _mm256_srli_epi64(_mm256_xor_si256(_mm256_srli_epi64(s, 18), s), 27);
                __m256i cross =
                    _mm256_add_epi64(_mm256_mul_epu32(_mm256_srli_epi64(s, 32), low), _mm256_mul_epu32(s, high));
                x = _mm256_or_si256(_mm256_and_si256(x, word), _mm256_slli_epi64(x, 32)); /* twice: shifts turn it */
                draws[k] = _mm256_srlv_epi64(x, _mm256_srli_epi64(s, 59));
                s = _mm256_add_epi64(_mm256_mul_epu32(s, low), _mm256_slli_epi64(cross, 32));
                _mm256_storeu_si256(state, _mm256_add_epi64(s, plus));
            }
            /* the low words of both */
            __m256 words = _mm256_shuffle_ps((__m256)draws[0], (__m256)draws[1], 0x88);
            __m256i ordered = _mm256_permute4x64_epi64((__m256i)words, 0xd8);
            keep[j] = _mm256_cmpeq_epi16(_mm256_max_epu16(ordered, least), ordered);
        }
        /* 16-bit masks to bytes, which packs by half registers */
        __m256i bytes = _mm256_permute4x64_epi64(_mm256_packs_epi16(keep[0], keep[1]), 0xd8);
        kept |= (uint64_t)(uint32_t)_mm256_movemask_epi8(bytes) << (32 * i);
    }
    return threshold < 65536 ? kept : 0;
}

#else

static uint64_t decide(struct lanes *l, uint32_t threshold)
{
    uint64_t kept = 0;

    for (int i = 0; i < DRAWS; i++) {
        uint64_t s = l->state[i];
        uint32_t x = (uint32_t)(((s >> 18) ^ s) >> 27), turn = (uint32_t)(s >> 59);
        x = (x >> turn) | (x << ((0u - turn) & 31));
        kept |= (uint64_t)((x & 0xffff) >= threshold) << (2 * i) | (uint64_t)((x >> 16) >= threshold) << (2 * i + 1);
        l->state[i] = s * l->multiplier + l->plus;
    }
    return kept;
}

#endif

/* y = x * scale where the bit is set, else 0; n values of up to 64. */
VEC_INLINE void apply(uint64_t kept, float scale, const float *x, float *y, size_t n)
{
    const vec by = vec_splat(scale);

    if (n == BLOCK)
        VEC_UNROLL for (size_t i = 0; i < BLOCK; i += VEC_N) vec_store(
            y + i, vec_where(vec_mask_from((uint16_t)(kept >> i & ((1u << VEC_N) - 1))), vec_load(x + i) * by));
    else
        for (size_t i = 0; i < n; i++)
            y[i] = kept >> i & 1 ? x[i] * scale : 0;
}

static uint32_t threshold_of(double rate)
{
    return (uint32_t)(rate * 65536 + 0.5);
}

void NATIVE(dropout_keep)(double rate, const struct pcg32 *rng, uint64_t *kept, size_t lo, size_t hi)
{
    const uint32_t threshold = threshold_of(rate);
    struct lanes l;

    lanes_at(&l, rng, lo / 2);
    for (size_t i = lo; i < hi; i += BLOCK)
        kept[i / BLOCK] = decide(&l, threshold);
}

void NATIVE(dropout)(double rate, const struct pcg32 *rng, const float *x, float *y, uint64_t *kept, size_t lo,
                     size_t hi)
{
    const uint32_t threshold = threshold_of(rate);
    const float scale = (float)(1 / (1 - rate));
    struct lanes l;

    lanes_at(&l, rng, lo / 2);
    for (size_t i = lo; i < hi; i += BLOCK) {
        size_t n = hi - i < BLOCK ? hi - i : BLOCK;
        uint64_t bits = decide(&l, threshold);
        kept[i / BLOCK] = bits;
        apply(bits, scale, x + i, y + i, n);
    }
}

void NATIVE(dropout_backward)(double rate, const uint64_t *kept, const float *dy, float *dx, size_t lo, size_t hi)
{
    const float scale = (float)(1 / (1 - rate));

    for (size_t i = lo; i < hi; i += BLOCK)
        apply(kept[i / BLOCK], scale, dy + i, dx + i, hi - i < BLOCK ? hi - i : BLOCK);
}
