/* rng.h - random numbers that are the same on every machine and every backend.
 * The generator is PCG32 (PCG-XSH-RR 64/32): O'Neill, "PCG: A Family of Simple Fast Space-Efficient Statistically Good
 * Algorithms for Random Number Generation", HMC-CS-2014-0905. Every stream of a run is made by rng_key() from what the
 * draw is for, never from the order in which draws happen. All arithmetic is on integers or on IEEE doubles with
 * + - * / and sqrt alone (no libm), so results are equal bit by bit. Threads: a stream belongs to one thread.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_COMMON_RNG_H
#define FLEXP_COMMON_RNG_H

#include <stddef.h>
#include <stdint.h>

struct pcg32 {
    uint64_t state;
    uint64_t increment; /* odd */
};

/* As pcg32_srandom of the reference: seed 42, stream 54 gives 0xa15c02b7 0x7b47f409 ... */
void pcg32_seed(struct pcg32 *rng, uint64_t seed, uint64_t stream);
uint32_t pcg32_next(struct pcg32 *rng);
/* Jumps delta draws ahead in O(log delta). */
void pcg32_advance(struct pcg32 *rng, uint64_t delta);

/* What a stream is for. The numbers are part of the results: append, never renumber. */
enum rng_purpose {
    RNG_SEARCH = 1,    /* a: trial (hyperparameters of trial a) */
    RNG_INIT = 2,      /* a: trial */
    RNG_SHUFFLE = 3,   /* a: trial, b: round, c: client * 2^16 + local epoch */
    RNG_AUGMENT = 4,   /* likewise */
    RNG_DROPOUT = 5,   /* likewise */
    RNG_COHORT = 6,    /* a: trial, b: round */
    RNG_PARTITION = 7, /* seed is data.seed */
    RNG_SPLIT = 8,     /* seed is data.seed; a: 0 central validation, 1 + client for a client's held-out share */
    RNG_SYNTHETIC = 9, /* seed is data.seed; a: sample or prototype */
    RNG_RETRY = 10     /* restart back-off */
};

/* The one documented hash. With mix() the finaliser of SplitMix64 (Steele, Lea, Flood 2014; Stafford's variant 13)
 *     h = mix(seed); h = mix(h ^ purpose); h = mix(h ^ a); h = mix(h ^ b); h = mix(h ^ c)
 * where every mix first adds 0x9e3779b97f4a7c15; PCG32 is then seeded with state h and stream mix(h). */
struct pcg32 rng_key(uint64_t seed, enum rng_purpose purpose, uint64_t a, uint64_t b, uint64_t c);

/* Uniform in [0, bound), without bias (Lemire 2019); bound 0 gives 0. */
uint32_t rng_below(struct pcg32 *rng, uint32_t bound);
/* Uniform in [0, 1), 53 bits (two draws). */
double rng_double(struct pcg32 *rng);
/* Uniform in [0, 1), 24 bits (one draw). */
float rng_float(struct pcg32 *rng);
/* Standard normal (Marsaglia's polar method; the second value is thrown away so that a draw has no memory). */
double rng_gaussian(struct pcg32 *rng);
/* Gamma(shape, 1), shape > 0 (Marsaglia and Tsang 2000). Returns the logarithm where log_ret is not NULL, so that tiny
 * shapes do not underflow. */
double rng_gamma(struct pcg32 *rng, double shape, double *log_ret);
/* In-place Fisher-Yates. */
void rng_shuffle_u32(struct pcg32 *rng, uint32_t *values, size_t n);

/* Natural logarithm (x > 0, finite) and exponential from + - * / alone; relative error below 1e-14. */
double rng_log(double x);
double rng_exp(double x);

#endif
