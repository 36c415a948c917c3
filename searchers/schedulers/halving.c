/* halving.c - the engine of asynchronous halving: brackets of rungs, by the stopping rule or the promotion rule.
 * One rung is no halving at all: `single` runs on it too.
 *
 * Stopping rule (stop_once): a trial that reaches a rung goes on iff fewer than max(floor(len / divisor), 1) results of
 * that rung are better, len counted with its own; so a tie goes before its equals. Else it is stopped for good.
 * Promotion rule: it waits at the rung, and of each rung the best floor(len / divisor), by (score, trial), go on, as
 * soon as they are among those; at most one a result. When nothing can reach a rung any more, those that wait there are
 * stopped.
 *
 * A report may stand for several rungs: it came late, or the trial has exited and its last value (converged) or the
 * worst (error, killed) stands for whatever it would have reported. It then meets one rung after the other as a trial
 * would that went on training and kept its value.
 *
 * A result that is not finite is the worst; under the stopping rule it goes after its equals, so that diverged trials do
 * not carry each other on.
 *
 * Source: see async_halving.c. Deviations: those above for exits under the stopping rule (there Determined enters the
 * exit at its own rung alone) and for values that are not finite; ties of the promotion rule go by trial, not by
 * arrival.
 * SPDX-License-Identifier: Apache-2.0 */
#include "searchers/schedulers/halving_private.h"
#include "searchers/ranking.h"
#include "searchers/schedulers/rungs.h"
#include "searchers/searcher_private.h"

#include <math.h>
#include <stdlib.h>

struct bracket {
    const struct bracket_plan *plan;
    struct ranking *rungs;
    int64_t *heading;                 /* trials training towards each rung */
    int64_t *set_out;                 /* trials that ever did */
    int64_t created, running, closed; /* closed: rungs that nothing can reach any more */
};

struct member {
    size_t bracket;
    int64_t rung; /* that it trains towards, or waits at */
    bool waiting;
    double unit, score; /* the last reported */
};

struct halving {
    struct searcher *searcher;
    const struct plan *plan;
    struct bracket *brackets;
    struct member *members;
    size_t n, room;
};

static void close_halving(void *state)
{
    struct halving *self = state;

    for (size_t i = 0; i < self->plan->n && self->brackets; i++) {
        struct bracket *bracket = &self->brackets[i];
        for (int64_t r = 0; bracket->rungs && r < bracket->plan->rungs; r++)
            ranking_done(&bracket->rungs[r]);
        free(bracket->rungs);
        free(bracket->heading);
        free(bracket->set_out);
    }
    free(self->brackets);
    free(self->members);
    free(self);
}

static int open_halving(struct searcher *searcher, const struct plan *plan, void **ret)
{
    struct halving *self = calloc(1, sizeof *self);

    if (!self)
        return -ENOMEM;
    self->searcher = searcher;
    self->plan = plan;
    self->brackets = calloc(plan->n, sizeof *self->brackets);
    if (!self->brackets)
        goto failed;
    for (size_t i = 0; i < plan->n; i++) {
        struct bracket *bracket = &self->brackets[i];
        bracket->plan = &plan->brackets[i];
        bracket->rungs = calloc((size_t)bracket->plan->rungs, sizeof *bracket->rungs);
        bracket->heading = calloc((size_t)bracket->plan->rungs, sizeof *bracket->heading);
        bracket->set_out = calloc((size_t)bracket->plan->rungs, sizeof *bracket->set_out);
        if (!bracket->rungs || !bracket->heading || !bracket->set_out)
            goto failed;
    }
    *ret = self;
    return 0;
failed:
    close_halving(self);
    return -ENOMEM;
}

static int create(struct halving *self, size_t b)
{
    struct bracket *bracket = &self->brackets[b];
    int64_t trial;

    if (self->n == self->room) {
        size_t room = self->room ? 2 * self->room : 64;
        struct member *members = realloc(self->members, room * sizeof *members);
        if (!members)
            return -ENOMEM;
        self->members = members;
        self->room = room;
    }
    self->members[self->n++] = (struct member){.bracket = b};
    bracket->created++;
    bracket->running++;
    bracket->heading[0]++;
    bracket->set_out[0]++;
    return searcher_create(self->searcher, bracket->plan->units[0], &trial);
}

/* Stops those that wait at rungs that nothing can reach any more. Every trial is stopped once, so this costs a pass
 * over the trials for each rung of the search, not for each event. */
static int close_rungs(struct halving *self, size_t b)
{
    struct bracket *bracket = &self->brackets[b];

    if (self->plan->stop_once || bracket->created < bracket->plan->trials)
        return 0;
    for (; bracket->closed < bracket->plan->rungs && !bracket->heading[bracket->closed]; bracket->closed++)
        for (size_t i = 0; i < self->n; i++) {
            struct member *member = &self->members[i];
            if (member->bracket == b && member->waiting && member->rung == bracket->closed) {
                int rc = searcher_stop(self->searcher, (int64_t)i + 1);
                if (rc)
                    return rc;
                member->waiting = false;
            }
        }
    return 0;
}

/* Fills the lanes of bracket b, and sees whether that was all. */
static int settle(struct halving *self, size_t b)
{
    struct bracket *bracket = &self->brackets[b];
    int rc = 0;

    while (!rc && bracket->running < bracket->plan->concurrent && bracket->created < bracket->plan->trials)
        rc = create(self, b);
    if (!rc)
        rc = close_rungs(self, b);
    for (size_t i = 0; !rc && i < self->plan->n; i++)
        if (self->brackets[i].running || self->brackets[i].created < self->brackets[i].plan->trials)
            return 0;
    return rc ? rc : searcher_finish(self->searcher);
}

static int start(void *state)
{
    struct halving *self = state;

    for (size_t b = 0; b < self->plan->n; b++) {
        int rc = 0;
        while (!rc && self->brackets[b].running < self->brackets[b].plan->concurrent &&
               self->brackets[b].created < self->brackets[b].plan->trials)
            rc = create(self, b);
        if (rc)
            return rc;
    }
    return 0;
}

/* The trial goes on to the rung it is headed for: 1 when its last report stands there already. */
static int advance(struct halving *self, int64_t trial)
{
    struct member *member = &self->members[trial - 1];
    struct bracket *bracket = &self->brackets[member->bracket];
    double units = bracket->plan->units[++member->rung];

    member->waiting = false;
    bracket->set_out[member->rung]++;
    if (member->unit >= units)
        return 1;
    bracket->heading[member->rung]++;
    bracket->running++;
    return searcher_train(self->searcher, trial, units);
}

/* Enters the trial's report at its rung. Returns the trial that goes on because of it, 0 for none, or -ENOMEM. */
static int64_t enter(struct halving *self, int64_t trial)
{
    struct member *member = &self->members[trial - 1];
    struct bracket *bracket = &self->brackets[member->bracket];
    struct ranking *rung = &bracket->rungs[member->rung];
    double divisor = self->plan->divisor;
    uint32_t index, before, now;
    int rc;

    if (member->rung == bracket->plan->rungs - 1)
        return searcher_complete(self->searcher, trial);
    rc = ranking_insert(rung, member->score, trial);
    if (rc)
        return rc;
    now = (uint32_t)((double)rung->n / divisor);
    if (self->plan->stop_once) {
        index = isfinite(member->score) ? ranking_better(rung, member->score) : rung->n - 1;
        return index < (now ? now : 1) ? trial : searcher_stop(self->searcher, trial);
    }
    /* Of the best `before` all had gone on. If this one is among the best `now`, it has pushed out one that had gone on
     * already; if not, and there is one place more, whoever stands on that place may not have gone on yet. */
    before = (uint32_t)((double)(rung->n - 1) / divisor);
    if (ranking_index(rung, member->score, trial) < now)
        return trial;
    member->waiting = true;
    rc = searcher_pause(self->searcher, trial);
    if (rc || now == before)
        return rc;
    trial = ranking_at(rung, before);
    return self->members[trial - 1].waiting && self->members[trial - 1].rung == member->rung ? trial : 0;
}

static int report(void *state, int64_t trial, double unit, double score)
{
    struct halving *self = state;
    struct member *member = &self->members[trial - 1];
    struct bracket *bracket = &self->brackets[member->bracket];
    size_t b = member->bracket;

    member->unit = unit;
    member->score = score;
    if (member->waiting) /* it exited there: what it reported there stands, the rest counts if it is promoted */
        return 0;
    bracket->running--;
    bracket->heading[member->rung]--;
    for (int64_t next = trial; next;) {
        int rc;
        next = enter(self, next);
        if (next <= 0) {
            if (next)
                return (int)next;
            break;
        }
        rc = advance(self, next);
        if (rc < 0)
            return rc;
        if (!rc)
            break;
    }
    return settle(self, b);
}

/* By each rung: as many as the plan says set out for it, while some still can. */
static double expected(const void *state)
{
    const struct halving *self = state;
    double units = 0;

    for (size_t b = 0; b < self->plan->n; b++) {
        const struct bracket *bracket = &self->brackets[b];
        const double *at = bracket->plan->units;
        int64_t trials = bracket->plan->trials;
        bool reachable = bracket->created < trials;
        for (int64_t r = 0; r < bracket->plan->rungs; r++) {
            if (reachable && trials > bracket->set_out[r])
                units += (double)(trials - bracket->set_out[r]) * (at[r] - (r ? at[r - 1] : 0));
            reachable = reachable || bracket->heading[r];
            trials = plan_survivors(self->plan, trials);
        }
    }
    return units;
}

const struct engine HALVING = {
    .open = open_halving, .close = close_halving, .start = start, .report = report, .expected = expected};

int halving_check(const struct searcher_config *config, int64_t limit, int64_t *ret_trials, struct error *err)
{
    int64_t trials = config->max_trials ? config->max_trials : limit;

    if (trials == INT64_MAX)
        return fail(err, -EINVAL, "searcher.max_trials must be at least 1, got 0");
    if (config->max_units < 1)
        return fail(err, -EINVAL,
                    "searcher.max_time must be at least 1 for %s, got %g; a shorter unit of time_metric would do",
                    config->scheduler, config->max_units);
    *ret_trials = trials < limit ? trials : limit;
    return 0;
}

int64_t halving_most_rungs(const struct searcher_config *config, double divisor, int64_t trials)
{
    int64_t most = config->max_rungs ? config->max_rungs : 5;
    int64_t by_units = rungs_log(divisor, config->max_units) + 1, by_trials = rungs_log(divisor, (double)trials) + 1;

    most = by_units < most ? by_units : most;
    return by_trials < most ? by_trials : most;
}
