/* rng.c - PCG32, keys, and the distributions made from it.
 * SPDX-License-Identifier: Apache-2.0 */
#include "common/rng_steps.h"

#include <math.h>
#include <string.h>

#define LN2 0.693147180559945309417232121458

uint32_t pcg32_next(struct pcg32 *rng)
{
    return pcg32_step(rng);
}

void pcg32_seed(struct pcg32 *rng, uint64_t seed, uint64_t stream)
{
    *rng = pcg32_from(seed, stream);
}

void pcg32_advance(struct pcg32 *rng, uint64_t delta)
{
    pcg32_jump(rng, delta);
}

struct pcg32 rng_key(uint64_t seed, enum rng_purpose purpose, uint64_t a, uint64_t b, uint64_t c)
{
    return rng_keyed(seed, purpose, a, b, c);
}

uint32_t rng_below(struct pcg32 *rng, uint32_t bound)
{
    return rng_bounded(rng, bound);
}

double rng_double(struct pcg32 *rng)
{
    uint64_t high = pcg32_next(rng) >> 5, low = pcg32_next(rng) >> 6;

    return (double)(high << 26 | low) * 0x1p-53;
}

float rng_float(struct pcg32 *rng)
{
    return (float)(pcg32_next(rng) >> 8) * 0x1p-24f;
}

double rng_log(double x)
{
    uint64_t bits;
    int exponent;
    double t, t2, sum = 0;

    memcpy(&bits, &x, sizeof bits);
    exponent = (int)(bits >> 52) - 1023;
    if (exponent == -1023) { /* subnormal */
        x *= 0x1p54;
        memcpy(&bits, &x, sizeof bits);
        exponent = (int)(bits >> 52) - 1023 - 54;
    }
    bits = (bits & 0x000fffffffffffffULL) | 0x3ff0000000000000ULL;
    memcpy(&x, &bits, sizeof x);
    if (x > 1.4142135623730951) {
        x *= 0.5;
        exponent++;
    }
    /* log x = 2 atanh t, |t| < 0.1716: 13 terms leave less than 1e-20 */
    t = (x - 1) / (x + 1);
    t2 = t * t;
    for (int k = 25; k >= 1; k -= 2)
        sum = sum * t2 + 1.0 / k;
    return exponent * LN2 + 2 * t * sum;
}

double rng_exp(double x)
{
    double sum = 1;
    int64_t n;
    uint64_t bits;
    double scale;

    if (x < -745)
        return 0;
    if (x > 709.7)
        return HUGE_VAL;
    n = (int64_t)(x / LN2 + (x < 0 ? -0.5 : 0.5));
    x -= (double)n * 0.693147180369123816490; /* LN2 in two parts */
    x -= (double)n * 1.90821492927058770002e-10;
    for (int k = 18; k >= 1; k--)
        sum = 1 + sum * x / k;
    if (n < -1000) {
        sum *= 0x1p-1000;
        n += 1000;
    } else if (n > 1000) {
        sum *= 0x1p1000;
        n -= 1000;
    }
    bits = (uint64_t)(n + 1023) << 52;
    memcpy(&scale, &bits, sizeof scale);
    return sum * scale;
}

double rng_gaussian(struct pcg32 *rng)
{
    double u, v, s;

    do {
        u = 2 * rng_double(rng) - 1;
        v = 2 * rng_double(rng) - 1;
        s = u * u + v * v;
    } while (s >= 1 || s == 0);
    return u * sqrt(-2 * rng_log(s) / s);
}

double rng_gamma(struct pcg32 *rng, double shape, double *log_ret)
{
    double boost = 0, d, c, value, log_value;

    if (shape < 1) { /* Gamma(a) = Gamma(a + 1) U^(1/a) */
        double u;
        do
            u = rng_double(rng);
        while (u == 0);
        boost = rng_log(u) / shape;
        shape += 1;
    }
    d = shape - 1.0 / 3;
    c = 1 / sqrt(9 * d);
    for (;;) {
        double x, v, u;
        do {
            x = rng_gaussian(rng);
            v = 1 + c * x;
        } while (v <= 0);
        v = v * v * v;
        u = rng_double(rng);
        if (u > 0 && rng_log(u) < 0.5 * x * x + d - d * v + d * rng_log(v)) {
            value = d * v;
            break;
        }
    }
    log_value = rng_log(value) + boost;
    if (log_ret)
        *log_ret = log_value;
    return boost == 0 ? value : rng_exp(log_value);
}

void rng_shuffle_u32(struct pcg32 *rng, uint32_t *values, size_t n)
{
    for (size_t i = n; i > 1; i--) {
        uint32_t j = rng_below(rng, (uint32_t)i);
        uint32_t kept = values[i - 1];
        values[i - 1] = values[j];
        values[j] = kept;
    }
}
