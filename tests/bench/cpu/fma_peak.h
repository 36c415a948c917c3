/* fma_peak.h - what a core can do in fp32 and no kernel can pass: independent fused multiply-adds, all in registers.
 * The best slice of about half a millisecond counts: a neighbour only ever takes time away.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_BENCH_FMA_PEAK_H
#define FLEXP_BENCH_FMA_PEAK_H

#include <stddef.h>
#include <time.h>
#ifdef __x86_64__
#include <immintrin.h>
#endif

/* Each turn is 12 fused multiply-adds: enough in flight for two units of a latency of 4 to 5. */
enum { FMA_PEAK_TURNS = 8192, FMA_PEAK_CHAINS = 12 };

#define FMA_PEAK_LOOP(name, isa, type, set1, fma, add)                                                                \
    __attribute__((target(isa))) static type name##_chains(size_t turns)                                               \
    {                                                                                                                  \
        type a[FMA_PEAK_CHAINS], x = set1(0.999f), y = set1(0.001f);                                                   \
        for (int k = 0; k < FMA_PEAK_CHAINS; k++)                                                                      \
            a[k] = set1((float)k);                                                                                     \
        for (size_t i = 0; i < turns; i++) {                                                                           \
            _Pragma("GCC unroll 12") for (int k = 0; k < FMA_PEAK_CHAINS; k++) a[k] = fma(a[k], x, y);                 \
        }                                                                                                              \
        for (int k = 1; k < FMA_PEAK_CHAINS; k++)                                                                      \
            a[0] = add(a[0], a[k]);                                                                                    \
        return a[0];                                                                                                   \
    }                                                                                                                  \
    __attribute__((target(isa))) static void name(size_t turns)                                                        \
    {                                                                                                                  \
        type sum = name##_chains(turns);                                                                               \
        __asm__ volatile("" ::"m"(sum));                                                                               \
    }

#ifdef __x86_64__
FMA_PEAK_LOOP(fma_peak_avx512, "avx512f", __m512, _mm512_set1_ps, _mm512_fmadd_ps, _mm512_add_ps)
FMA_PEAK_LOOP(fma_peak_avx2, "avx2,fma", __m256, _mm256_set1_ps, _mm256_fmadd_ps, _mm256_add_ps)
#endif

typedef float fma_peak_vec4 __attribute__((vector_size(16)));
static void fma_peak_portable(size_t turns)
{
    fma_peak_vec4 a[FMA_PEAK_CHAINS] = {{0}}, sum = {0};

    for (size_t i = 0; i < turns; i++)
        for (int k = 0; k < FMA_PEAK_CHAINS; k++)
            a[k] = a[k] * 0.999f + 0.001f;
    for (int k = 0; k < FMA_PEAK_CHAINS; k++)
        sum += a[k];
    __asm__ volatile("" ::"m"(sum));
}

static inline double fma_peak_now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* GFLOP/s of the calling thread's core, looked for during so many seconds. */
static inline double fma_peak_gflops(double seconds)
{
    void (*loop)(size_t turns) = fma_peak_portable;
    double end = fma_peak_now() + seconds, best = 0, lanes = 4;

#ifdef __x86_64__
    if (__builtin_cpu_supports("avx512f")) {
        loop = fma_peak_avx512;
        lanes = 16;
    } else if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        loop = fma_peak_avx2;
        lanes = 8;
    }
#endif
    do {
        double began = fma_peak_now(), took, rate;
        for (int slice = 0; slice < 10; slice++)
            loop(FMA_PEAK_TURNS);
        took = fma_peak_now() - began;
        rate = 10.0 * FMA_PEAK_TURNS * FMA_PEAK_CHAINS * lanes * 2 / took * 1e-9;
        best = rate > best ? rate : best;
    } while (fma_peak_now() < end);
    return best;
}

#endif
