/* async_halving.c - asynchronous successive halving: one bracket of num_rungs rungs. halving.c has the rules.
 * max_concurrent_trials 0: divisor^(num_rungs - 1), at most max_trials: enough that one reaches the last rung.
 * num_rungs 0: as adaptive_asha's most aggressive bracket. With grid, the points are tried in the grid's order.
 * Source: Li, Jamieson, Rostamizadeh, Gonina, Hardt, Recht, Talwalkar, "A System for Massively Parallel Hyperparameter
 * Tuning", MLSys 2020 (arXiv 1810.05934); Determined AI 0.38's asha_stopping.go and 0.37's asha.go.
 * SPDX-License-Identifier: Apache-2.0 */
#include "searchers/searcher_private.h"
#include "searchers/schedulers/halving_private.h"
#include "searchers/schedulers/rungs.h"

static int make_plan(const struct searcher_config *config, int64_t limit, struct plan *plan, struct error *err)
{
    int64_t trials, concurrent = 1, rungs;
    int rc = halving_check(config, limit, &trials, err);

    if (rc)
        return rc;
    rungs = config->num_rungs ? config->num_rungs : halving_most_rungs(config, plan->divisor, trials);
    if (config->max_concurrent_trials) {
        concurrent = config->max_concurrent_trials;
    } else {
        double all = 1;
        for (int64_t i = 1; i < rungs && all < (double)trials; i++)
            all *= plan->divisor;
        concurrent = all < (double)trials ? (int64_t)all : trials;
    }
    rc = plan_add(plan, rungs, trials, concurrent < trials ? concurrent : trials);
    if (!rc)
        rungs_units(rungs, plan->divisor, config->max_units, config->accumulate_rungs, plan->brackets[0].units);
    return rc;
}

static const char *const WITH[] = {"random", "grid", NULL};

const struct scheduler_row SCHEDULER_ASYNC_HALVING = {
    .name = "async_halving", .samplers = WITH, .engine = &HALVING, .plan = make_plan};
