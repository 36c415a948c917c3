/* adaptive_asha.c - several brackets of asynchronous halving side by side, from those that stop many trials early to
 * those that stop few; each has trials and lanes of its own. mode says how many brackets: aggressive one, standard
 * about half of the possible ones, conservative all. Why not with grid: a bracket compares the trials that it was
 * given, and would be given one slab of the grid. Source: Determined AI 0.38's adaptive_asha.go (rungs.h has the
 * formulas and deviations); the idea of several brackets is Hyperband's: Li, Jamieson, DeSalvo, Rostamizadeh,
 * Talwalkar, JMLR 18, 2018.
 * SPDX-License-Identifier: Apache-2.0 */
#include "searchers/searcher_private.h"
#include "searchers/schedulers/halving_private.h"
#include "searchers/schedulers/rungs.h"

#include <stdlib.h>

/* Rungs of each bracket, most first. Returns how many, or -ENOMEM. */
static int choose_brackets(const struct searcher_config *config, double divisor, int64_t trials, int64_t **ret)
{
    int64_t most = halving_most_rungs(config, divisor, trials);
    int64_t least = config->mode == MODE_CONSERVATIVE ? 1 : config->mode == MODE_STANDARD ? (most - 1) / 2 + 1 : most;
    int64_t n = config->bracket_rungs_n ? (int64_t)config->bracket_rungs_n : most - least + 1;
    int64_t *rungs = calloc((size_t)n, sizeof *rungs);

    if (!rungs)
        return -ENOMEM;
    for (int64_t i = 0; i < n; i++) {
        int64_t value = config->bracket_rungs_n ? config->bracket_rungs[i] : most - i, at = i;
        for (; at && rungs[at - 1] < value; at--)
            rungs[at] = rungs[at - 1];
        rungs[at] = value;
    }
    *ret = rungs;
    return (int)n;
}

static int make_plan(const struct searcher_config *config, int64_t limit, struct plan *plan, struct error *err)
{
    int64_t *rungs = NULL, *trials, *lanes, max_trials;
    int n, rc = halving_check(config, limit, &max_trials, err);

    if (rc)
        return rc;
    n = choose_brackets(config, plan->divisor, max_trials, &rungs);
    if (n < 0)
        return n;
    trials = calloc(2 * (size_t)n, sizeof *trials);
    if (!trials) {
        free(rungs);
        return -ENOMEM;
    }
    lanes = trials + n;
    rungs_share_trials(max_trials, plan->divisor, rungs, (size_t)n, trials);
    rungs_share_lanes(config->max_concurrent_trials, plan->divisor, trials, (size_t)n, lanes);
    for (int i = 0; !rc && i < n; i++) {
        rc = plan_add(plan, rungs[i], trials[i], lanes[i]);
        if (!rc)
            rungs_units(rungs[i], plan->divisor, config->max_units, config->accumulate_rungs, plan->brackets[i].units);
    }
    free(trials);
    free(rungs);
    return rc;
}

static const char *const WITH[] = {"random", NULL};

const struct scheduler_row SCHEDULER_ADAPTIVE_ASHA = {
    .name = "adaptive_asha", .samplers = WITH, .engine = &HALVING, .plan = make_plan};
