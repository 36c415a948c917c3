/* searcher_private.h - what the files of this room share: the two tables, and the core that stands between events and
 * schedulers.
 *
 * The core (searcher.c) knows each trial: whether it trains, what was told of it, whether it has exited. It sees to the
 * rules that hold for every scheduler (each unit told once, nothing said about a trial that is gone), and with
 * order: logical it holds reports back (order.c). An engine (halving.c) sees reports alone, and acts through the
 * searcher_* functions at the end of this header.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_SEARCHERS_SEARCHER_PRIVATE_H
#define FLEXP_SEARCHERS_SEARCHER_PRIVATE_H

#include "searchers/searcher.h"

/* Samplers: one row each. */
struct sampler_row {
    const char *name;
    /* Most trials it can propose, INT64_MAX where there is no end; -EINVAL when the space does not suit it. */
    int (*limit)(const struct space *space, int64_t *ret, struct error *err);
    int (*open)(const struct searcher_config *config, const struct space *space, void **ret);
    void (*close)(void *self);
    /* Called for trial 1, 2, 3 ... in order. New reference, NULL when out of memory. */
    json_t *(*propose)(void *self, int64_t trial);
};
extern const struct sampler_row SAMPLER_RANDOM, SAMPLER_GRID;

/* Schedulers: one row each. A plan is what the three of today have in common: brackets of rungs. */
struct bracket_plan {
    double *units; /* of each rung, the last one being the full length; never decreasing */
    int64_t rungs, trials, concurrent;
};

struct plan {
    struct bracket_plan *brackets;
    size_t n;
    double divisor;
    bool stop_once;
};
void plan_done(struct plan *plan);
/* Adds a bracket, its units zeroed. */
int plan_add(struct plan *plan, int64_t rungs, int64_t trials, int64_t concurrent);
/* Without metrics: how many of trials that reach a rung go on. */
int64_t plan_survivors(const struct plan *plan, int64_t trials);

struct engine {
    /* plan is borrowed and outlives the engine */
    int (*open)(struct searcher *searcher, const struct plan *plan, void **ret);
    void (*close)(void *self);
    int (*start)(void *self);
    /* trial has score (smaller is better, INFINITY the worst) at unit, at or past the one it was to train until; unit
     * INFINITY: it has exited, and score stands for all that it will ever report. */
    int (*report)(void *self, int64_t trial, double unit, double score);
    /* Units that are expected to be trained beside those that trials have been told to train. */
    double (*expected)(const void *self);
};
extern const struct engine HALVING;

struct scheduler_row {
    const char *name;
    const char *const *samplers; /* legal ones, NULL-terminated */
    const struct engine *engine;
    /* limit: what the sampler can propose. Fills plan (zeroed), freed by the caller even after an error. */
    int (*plan)(const struct searcher_config *config, int64_t limit, struct plan *plan, struct error *err);
};
extern const struct scheduler_row SCHEDULER_SINGLE, SCHEDULER_ASYNC_HALVING, SCHEDULER_ADAPTIVE_ASHA;

const struct scheduler_row *scheduler_find(const char *name);
const struct sampler_row *sampler_find(const char *name);

/* Checks the whole of config and makes its plan; *ret must be freed by plan_done, after an error too. */
int searcher_plan(const struct searcher_config *config, const struct space *space, struct plan *ret, struct error *err);

struct trial {
    double until, reached;        /* it trains from reached to until */
    double unit, value;           /* the last one told; unit 0: none */
    double due;                   /* logical order: the virtual time at which its result counts */
    double held_unit, held_score; /* a result that is being held, where held */
    double exit_score;            /* where exited: what stands for it from then on */
    bool training;                /* by the scheduler's account */
    bool paused;                  /* OP_PAUSE was the last thing said */
    bool ended;                   /* OP_STOP or OP_COMPLETE was */
    bool exited;                  /* EVENT_EXITED came: nothing more is heard about it */
    bool exit_held;               /* and the scheduler does not know yet */
    bool gone;                    /* and it knows: nothing more is said about it */
    bool held;
};

/* order.c: trials that train, in the order in which their results count. */
struct order {
    int64_t *heap; /* by (due, trial) */
    size_t n, room;
    double now; /* virtual */
};

struct searcher {
    struct plan plan;
    const struct sampler_row *sampler;
    const struct scheduler_row *scheduler;
    void *sampler_state, *engine;
    bool smaller_is_better, logical, started, done;
    struct trial *trials; /* trial n is trials[n - 1] */
    size_t n, room;
    struct order order;
    double trained, ahead, expected, progress; /* expected: in all */
    struct searcher_ops *ops; /* of the answer being made */
};

int order_push(struct searcher *searcher, int64_t trial);
/* Delivers what is due, until the next result that counts is one that has not arrived. */
int order_drain(struct searcher *searcher);
/* Hands a result to the engine now. */
int searcher_deliver(struct searcher *searcher, int64_t trial, double unit, double score);

/* What engines do. -ENOMEM or 0. */
int searcher_create(struct searcher *searcher, double until, int64_t *ret_trial); /* create, and train until */
int searcher_train(struct searcher *searcher, int64_t trial, double until);
int searcher_pause(struct searcher *searcher, int64_t trial);
int searcher_stop(struct searcher *searcher, int64_t trial);
int searcher_complete(struct searcher *searcher, int64_t trial);
int searcher_finish(struct searcher *searcher);

#endif
