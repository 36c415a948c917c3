/* space_private.h - what the files of the space share with the samplers.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_SEARCHERS_SPACE_PRIVATE_H
#define FLEXP_SEARCHERS_SPACE_PRIVATE_H

#include "searchers/space.h"

/* base^exponent without libm, so that it is the same everywhere; exact where exponent is whole and base^|exponent| is
 * an integer below 2^53, so that a grid from 10^-5 has 1e-5 in it and not its neighbour. */
double axis_power(double base, double exponent);

/* Uniform in [0, bound), without bias; bound 0 gives 0. */
uint64_t axis_below(struct pcg32 *rng, uint64_t bound);

/* Number of distinct values, 0 when infinite. */
uint64_t axis_size(const struct axis *axis);

/* Value of int, double (value) or log (exponent) as JSON. New reference. */
json_t *axis_number(const struct axis *axis, double value);

/* Puts value (taken over) at a dotted path below root, with the groups that it needs. */
int space_put(json_t *root, const char *path, json_t *value);

/* The index-th of space_size() configurations of a finite space, the last axis varying fastest. New reference. */
json_t *space_configuration(const struct space *space, uint64_t index);

#endif
