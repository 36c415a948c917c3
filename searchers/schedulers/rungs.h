/* rungs.h - the arithmetic of brackets and rungs: Determined AI 0.38's (adaptive_asha.go, asha_stopping.go).
 * Deviations: logarithms are exact (in IEEE doubles ln 243 / ln 3 falls just under 5 and loses a rung); a product that
 * is a whole number but for rounding is taken as that number; the last rung is the full length even where that is no
 * whole number of units.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_SEARCHERS_RUNGS_H
#define FLEXP_SEARCHERS_RUNGS_H

#include "searchers/searcher.h"

#define RUNGS_MAX 100

/* floor(log_base(x)), at most RUNGS_MAX; base > 1, x >= 1. */
int64_t rungs_log(double base, double x);
/* rungs values: max(floor(max_units / divisor^(rungs - 1 - i)), 1), or, accumulating, their running sum. */
void rungs_units(int64_t rungs, double divisor, double max_units, bool accumulate, double *ret);
/* n values: trials of each bracket, by weight divisor^(rungs - 1) / rungs. */
void rungs_share_trials(int64_t max_trials, double divisor, const int64_t *rungs, size_t n, int64_t *ret);
/* n values: how many trials of each bracket train at once. */
void rungs_share_lanes(int64_t max_concurrent, double divisor, const int64_t *trials, size_t n, int64_t *ret);

#endif
