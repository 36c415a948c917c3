/* tables.c - the rows that may be named in a file, which pairs are legal, and the checks that all rows share.
 * SPDX-License-Identifier: Apache-2.0 */
#include "searchers/searcher_private.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct scheduler_row *const SCHEDULERS[] = {&SCHEDULER_SINGLE, &SCHEDULER_ASYNC_HALVING,
                                                         &SCHEDULER_ADAPTIVE_ASHA};
static const struct sampler_row *const SAMPLERS[] = {&SAMPLER_RANDOM, &SAMPLER_GRID};
#define SCHEDULERS_N (sizeof SCHEDULERS / sizeof SCHEDULERS[0])
#define SAMPLERS_N (sizeof SAMPLERS / sizeof SAMPLERS[0])

/* For whoever wants a list of names; a test holds them against the rows. */
static const char *const SCHEDULER_NAMES[] = {"single", "async_halving", "adaptive_asha", NULL};
static const char *const SAMPLER_NAMES[] = {"random", "grid", NULL};

const char *const *searcher_schedulers(void)
{
    return SCHEDULER_NAMES;
}

const char *const *searcher_samplers(void)
{
    return SAMPLER_NAMES;
}

const struct scheduler_row *scheduler_find(const char *name)
{
    for (size_t i = 0; name && i < SCHEDULERS_N; i++)
        if (!strcmp(SCHEDULERS[i]->name, name))
            return SCHEDULERS[i];
    return NULL;
}

const struct sampler_row *sampler_find(const char *name)
{
    for (size_t i = 0; name && i < SAMPLERS_N; i++)
        if (!strcmp(SAMPLERS[i]->name, name))
            return SAMPLERS[i];
    return NULL;
}

static bool contains(const char *const *names, const char *name)
{
    for (; *names; names++)
        if (!strcmp(*names, name))
            return true;
    return false;
}

bool searcher_pair_is_legal(const char *scheduler, const char *sampler)
{
    const struct scheduler_row *row = scheduler_find(scheduler);

    return row && sampler_find(sampler) && contains(row->samplers, sampler);
}

/* "single with random or grid, ..." */
static void list_pairs(char *text, size_t room)
{
    size_t used = 0;

    for (size_t i = 0; i < SCHEDULERS_N; i++) {
        used += (size_t)snprintf(text + used, room - used, "%s%s with ", i ? ", " : "", SCHEDULERS[i]->name);
        for (const char *const *name = SCHEDULERS[i]->samplers; *name; name++)
            used += (size_t)snprintf(text + used, room - used, "%s%s", name == SCHEDULERS[i]->samplers ? "" : " or ",
                                     *name);
        if (used >= room)
            return;
    }
}

static int check_names(const struct searcher_config *config, struct error *err)
{
    char pairs[400];

    if (searcher_pair_is_legal(config->scheduler, config->sampler))
        return 0;
    list_pairs(pairs, sizeof pairs);
    if (!scheduler_find(config->scheduler))
        return fail(err, -EINVAL, "searcher: there is no scheduler \"%s\"; there are: %s",
                    config->scheduler ? config->scheduler : "", pairs);
    if (!sampler_find(config->sampler))
        return fail(err, -EINVAL, "searcher: there is no sampler \"%s\"; there are: %s",
                    config->sampler ? config->sampler : "", pairs);
    return fail(err, -EINVAL, "searcher: scheduler %s does not go with sampler %s; legal are: %s", config->scheduler,
                config->sampler, pairs);
}

static int check_numbers(const struct searcher_config *config, struct error *err)
{
    const struct {
        const char *name;
        int64_t value, min, max;
    } whole[] = {{"max_trials", config->max_trials, 0, 100000000},
                 {"max_concurrent_trials", config->max_concurrent_trials, 0, 100000000},
                 {"max_rungs", config->max_rungs, 0, 100},
                 {"num_rungs", config->num_rungs, 0, 100}};

    if (!isfinite(config->max_units) || config->max_units <= 0)
        return fail(err, -EINVAL, "searcher.max_time must be greater than 0, got %g", config->max_units);
    if (config->divisor != 0 && !(config->divisor > 1 && isfinite(config->divisor)))
        return fail(err, -EINVAL, "searcher.divisor must be greater than 1, got %g", config->divisor);
    for (size_t i = 0; i < sizeof whole / sizeof whole[0]; i++)
        if (whole[i].value < whole[i].min || whole[i].value > whole[i].max)
            return fail(err, -EINVAL, "searcher.%s must be from %lld to %lld, got %lld", whole[i].name,
                        (long long)whole[i].min, (long long)whole[i].max, (long long)whole[i].value);
    for (size_t i = 0; i < config->bracket_rungs_n; i++)
        if (config->bracket_rungs[i] < 1 || config->bracket_rungs[i] > 100)
            return fail(err, -EINVAL, "searcher.bracket_rungs[%zu] must be from 1 to 100, got %lld", i,
                        (long long)config->bracket_rungs[i]);
    return 0;
}

int searcher_plan(const struct searcher_config *config, const struct space *space, struct plan *ret, struct error *err)
{
    int64_t limit;
    int rc;

    *ret = (struct plan){0};
    rc = check_names(config, err);
    if (!rc)
        rc = check_numbers(config, err);
    if (!rc)
        rc = sampler_find(config->sampler)->limit(space, &limit, err);
    if (rc)
        return rc;
    ret->divisor = config->divisor != 0 ? config->divisor : 4;
    ret->stop_once = config->stop_once;
    rc = scheduler_find(config->scheduler)->plan(config, limit, ret, err);
    return rc == -ENOMEM ? fail(err, rc, "searcher: out of memory") : rc;
}

void plan_done(struct plan *plan)
{
    for (size_t i = 0; i < plan->n; i++)
        free(plan->brackets[i].units);
    free(plan->brackets);
    *plan = (struct plan){0};
}

int plan_add(struct plan *plan, int64_t rungs, int64_t trials, int64_t concurrent)
{
    struct bracket_plan *brackets = realloc(plan->brackets, (plan->n + 1) * sizeof *brackets);
    struct bracket_plan *bracket;

    if (!brackets)
        return -ENOMEM;
    plan->brackets = brackets;
    bracket = &brackets[plan->n];
    *bracket = (struct bracket_plan){.rungs = rungs, .trials = trials, .concurrent = concurrent};
    bracket->units = calloc((size_t)rungs, sizeof *bracket->units);
    if (!bracket->units)
        return -ENOMEM;
    plan->n++;
    return 0;
}

int64_t plan_survivors(const struct plan *plan, int64_t trials)
{
    int64_t n = (int64_t)((double)trials / plan->divisor);

    /* the stopping rule lets the first that reaches a rung go on; the promotion rule waits for divisor of them */
    return plan->stop_once && !n && trials ? 1 : n;
}
