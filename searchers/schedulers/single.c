/* single.c - no scheduler: every trial trains its full length, up to max_concurrent_trials (0: 16) at a time.
 * max_trials 0 is one trial for random, all points for grid.
 * SPDX-License-Identifier: Apache-2.0 */
#include "searchers/searcher_private.h"

#define CONCURRENT_DEFAULT 16

static int make_plan(const struct searcher_config *config, int64_t limit, struct plan *plan, struct error *err)
{
    int64_t trials = config->max_trials ? config->max_trials : limit == INT64_MAX ? 1 : limit;
    int64_t concurrent = config->max_concurrent_trials ? config->max_concurrent_trials : CONCURRENT_DEFAULT;
    int rc;

    (void)err;
    rc = plan_add(plan, 1, trials < limit ? trials : limit, concurrent);
    if (!rc)
        plan->brackets[0].units[0] = config->max_units;
    return rc;
}

static const char *const WITH[] = {"random", "grid", NULL};

const struct scheduler_row SCHEDULER_SINGLE = {
    .name = "single", .samplers = WITH, .engine = &HALVING, .plan = make_plan};
