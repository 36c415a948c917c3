/* cohort.h - which clients take part in a round.
 * Without replacement, each set of that size equally likely (Floyd's algorithm, 1987), from RNG_COHORT (seed, trial,
 * round); ascending, so that the order of aggregation is fixed. All clients: nothing is drawn.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_TRAINER_COHORT_H
#define FLEXP_TRAINER_COHORT_H

#include <stddef.h>
#include <stdint.h>

/* ret: cohort_n of clients_n, cohort_n <= clients_n. round counts from 1. */
void cohort_draw(uint64_t seed, uint64_t trial, uint64_t round, size_t clients_n, size_t cohort_n, uint32_t *ret);

#endif
