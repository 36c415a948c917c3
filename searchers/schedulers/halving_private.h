/* halving_private.h - what the plans of the halving schedulers share.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_SEARCHERS_HALVING_PRIVATE_H
#define FLEXP_SEARCHERS_HALVING_PRIVATE_H

#include "searchers/searcher.h"

/* What every halving needs of its settings, and how many trials there will be. */
int halving_check(const struct searcher_config *config, int64_t limit, int64_t *ret_trials, struct error *err);
/* min(max_rungs, floor(log_d(max_units)) + 1, floor(log_d(trials)) + 1) */
int64_t halving_most_rungs(const struct searcher_config *config, double divisor, int64_t trials);

#endif
