/* rng_steps.h - the steps of PCG32 and of its keys, inline: rng.c is made of them, and so are a GPU's kernels, in which nvcc
 * compiles them for the device. What they are is said in rng.h. SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_COMMON_RNG_STEPS_H
#define FLEXP_COMMON_RNG_STEPS_H

#include "common/rng.h"

#ifdef __CUDACC__
#define RNG_STEP static __host__ __device__ __forceinline__
#else
#define RNG_STEP static inline
#endif

#define PCG_MULTIPLIER 6364136223846793005ULL

RNG_STEP uint32_t pcg32_step(struct pcg32 *rng)
{
    uint64_t old = rng->state;
    uint32_t shifted = (uint32_t)(((old >> 18) ^ old) >> 27), rot = (uint32_t)(old >> 59);

    rng->state = old * PCG_MULTIPLIER + rng->increment;
    return (shifted >> rot) | (shifted << ((0u - rot) & 31));
}

/* Brown, "Random Number Generation with Arbitrary Strides", 1994. */
RNG_STEP void pcg32_jump(struct pcg32 *rng, uint64_t delta)
{
    uint64_t multiplier = PCG_MULTIPLIER, plus = rng->increment, all_multiplier = 1, all_plus = 0;

    for (; delta; delta >>= 1) {
        if (delta & 1) {
            all_multiplier *= multiplier;
            all_plus = all_plus * multiplier + plus;
        }
        plus = (multiplier + 1) * plus;
        multiplier *= multiplier;
    }
    rng->state = all_multiplier * rng->state + all_plus;
}

RNG_STEP struct pcg32 pcg32_from(uint64_t seed, uint64_t stream)
{
    struct pcg32 rng;

    rng.state = 0;
    rng.increment = (stream << 1) | 1;
    pcg32_step(&rng);
    rng.state += seed;
    pcg32_step(&rng);
    return rng;
}

RNG_STEP uint64_t rng_mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15ULL;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
    return x ^ (x >> 31);
}

RNG_STEP struct pcg32 rng_keyed(uint64_t seed, enum rng_purpose purpose, uint64_t a, uint64_t b, uint64_t c)
{
    uint64_t h = rng_mix(rng_mix(rng_mix(rng_mix(rng_mix(seed) ^ (uint64_t)purpose) ^ a) ^ b) ^ c);

    return pcg32_from(h, rng_mix(h));
}

RNG_STEP uint32_t rng_bounded(struct pcg32 *rng, uint32_t bound)
{
    uint64_t product;
    uint32_t low;

    if (!bound)
        return 0;
    product = (uint64_t)pcg32_step(rng) * bound;
    low = (uint32_t)product;
    if (low < bound) {
        uint32_t threshold = (0u - bound) % bound;
        while (low < threshold) {
            product = (uint64_t)pcg32_step(rng) * bound;
            low = (uint32_t)product;
        }
    }
    return (uint32_t)(product >> 32);
}

#endif
