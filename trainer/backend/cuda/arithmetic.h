/* arithmetic.h - integer and random arithmetic of the kernels, for host and device alike: the same functions are
 * compiled by nvcc into the kernels and by the C compiler into the tests. The generator, its jump ahead and the key are
 * common/rng_steps.h's. SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_TRAINER_CUDA_ARITHMETIC_H
#define FLEXP_TRAINER_CUDA_ARITHMETIC_H

#include "common/rng_steps.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

#ifdef __CUDACC__
#define DEVICE static __host__ __device__ __forceinline__
#else
#define DEVICE static inline
#endif

/* Sums in order whose loads go ahead of the additions. */
#ifdef __CUDACC__
#define UNROLL _Pragma("unroll")
#define UNROLL_8 _Pragma("unroll 8")
#else
#define UNROLL
#define UNROLL_8
#endif

/* Division by a number known at set-up: a multiplication and a shift (Granlund, Montgomery 1994). For n below 2^31. */
struct divisor {
    uint32_t value, multiplier, shift;
};

DEVICE struct divisor divisor_of(uint32_t value)
{
    struct divisor d;

    d.value = value;
    d.shift = 0;
    while (d.shift < 31 && (1u << d.shift) < value)
        d.shift++;
    d.multiplier = (uint32_t)((((uint64_t)1 << 32) * (((uint64_t)1 << d.shift) - value)) / value + 1);
    return d;
}

DEVICE uint32_t divide(uint32_t n, struct divisor d)
{
    uint32_t high = (uint32_t)(((uint64_t)n * d.multiplier) >> 32);

    return (high + n) >> d.shift;
}

/* n / by, n - n / by * by. A GPU divides 64 bits five times slower than 32, and most counts fit. */
DEVICE uint64_t quotient(uint64_t n, uint64_t by)
{
    if ((n | by) >> 32)
        return n / by;
    return (uint32_t)n / (uint32_t)by;
}

DEVICE uint64_t remainder_of(uint64_t n, uint64_t by)
{
    return n - quotient(n, by) * by;
}

/* Exponential and logarithm from + - * / alone, as the CPU backend's loss has them. */

DEVICE double d_exp_negative(double x)
{
    int64_t k;
    uint64_t bits;
    double scale, sum = 1;

    if (x < -700)
        return 0;
    k = (int64_t)(x * 1.44269504088896340736 - 0.5);
    x -= (double)k * 0.693147180369123816490;
    x -= (double)k * 1.90821492927058770002e-10;
    for (int i = 13; i >= 1; i--)
        sum = 1 + sum * x * (1.0 / i);
    bits = (uint64_t)(k + 1023) << 52;
    memcpy(&scale, &bits, sizeof scale);
    return sum * scale;
}

/* x: 1 or more, finite */
DEVICE double d_log(double x)
{
    uint64_t bits;
    int exponent;
    double t, t2, sum = 0;

    memcpy(&bits, &x, sizeof bits);
    exponent = (int)(bits >> 52) - 1023;
    bits = (bits & 0x000fffffffffffffULL) | 0x3ff0000000000000ULL;
    memcpy(&x, &bits, sizeof x);
    if (x > 1.4142135623730951) {
        x *= 0.5;
        exponent++;
    }
    t = (x - 1) / (x + 1);
    t2 = t * t;
    for (int k = 25; k >= 1; k -= 2)
        sum = sum * t2 + 1.0 / k;
    return exponent * 0.693147180559945309417232121458 + 2 * t * sum;
}

DEVICE double d_power(double beta, int64_t t)
{
    double result = 1;

    for (; t > 0; t >>= 1, beta *= beta)
        if (t & 1)
            result *= beta;
    return result;
}

DEVICE bool d_finite(float x)
{
    uint32_t bits;

    memcpy(&bits, &x, sizeof bits);
    return (bits & 0x7f800000u) != 0x7f800000u;
}

/* tf32: 10 bits of mantissa, to nearest, ties away from zero, as cvt.rna.tf32.f32; bf16: 7 bits, ties to even. */
DEVICE float d_round_tf32(float x)
{
    uint32_t bits;

    memcpy(&bits, &x, sizeof bits);
    if ((bits & 0x7f800000u) == 0x7f800000u)
        return x;
    bits = (bits + 0x1000u) & 0xffffe000u;
    memcpy(&x, &bits, sizeof x);
    return x;
}

DEVICE uint16_t d_bf16_bits(float x)
{
    uint32_t bits;

    memcpy(&bits, &x, sizeof bits);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)((bits >> 16) | 0x40u);
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16);
}

DEVICE float d_round_bf16(float x)
{
    uint32_t bits = (uint32_t)d_bf16_bits(x) << 16;

    memcpy(&x, &bits, sizeof x);
    return x;
}

#endif
