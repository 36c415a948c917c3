/* vector.h - loops that are compiled for several instruction sets, the fitting one being picked when the program starts.
 * Only for loops without sums across elements: with contraction off, these give equal bits on every set.
 * The sanitizers cannot run before the resolvers of such functions do, so they get the plain version.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_TRAINER_VECTOR_H
#define FLEXP_TRAINER_VECTOR_H

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define VECTOR_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define VECTOR_CLONES
#endif

#endif
