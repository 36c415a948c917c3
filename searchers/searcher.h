/* searcher.h - a searcher: a scheduler (which trials go on) with a sampler (which configurations are tried).
 * Pure: events in, operations out. It has no clock, no I/O, no globals, no threads; draws for trial n come from
 * rng_key(seed, RNG_SEARCH, n, 0, 0) alone, so they never depend on timing. A fresh searcher fed the same events gives
 * the same operations: that is how a journal is replayed. An event costs O(log n). Trials are numbered from 1 in the
 * order of their create operations.
 *
 * Life of a trial as the searcher sees it: OP_CREATE, then OP_TRAIN (until U); EVENT_VALIDATION at U; then OP_TRAIN
 * further, OP_PAUSE (it waits at its rung without a slot and may get OP_TRAIN later), OP_STOP, or OP_COMPLETE (it
 * trained all its length). Each (trial, unit) is told once; a second value for it is ignored. Values below a decision
 * unit are ignored too (they may be told or not). EVENT_EXITED ends a trial: converged (its last value stands at every
 * later rung), error and killed count as worst at every rung not reached. What is said about a trial after its exit
 * (logical order alone does that, below) means nothing to it. Once OP_DONE has been said, every trial has ended, and
 * events are ignored. EVENT_CANCEL stops every trial, and is done.
 *
 * order: logical wraps any scheduler: it delivers results as if every unit took the same time on exactly
 * max_concurrent_trials lanes, ties by trial number; a result that arrives early is held until all virtually earlier
 * ones are in. A trial whose result is held is answered by OP_PAUSE, so that it keeps no slot from the trials that it
 * waits for; its verdict (train, stop, complete) comes with a later event. But for these pauses, the operations are the
 * same, in the same order, whatever the order of arrival. An exit counts when the trial would have come to its next
 * decision unit.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_SEARCHERS_SEARCHER_H
#define FLEXP_SEARCHERS_SEARCHER_H

#include "searchers/space.h"

enum halving_mode { MODE_AGGRESSIVE, MODE_STANDARD, MODE_CONSERVATIVE };

struct searcher_config {
    const char *scheduler; /* single, async_halving, adaptive_asha, ... : a row of searcher_schedulers() */
    const char *sampler;   /* random, grid, ... */
    bool smaller_is_better;
    double max_units;              /* max_time or max_length, in the unit of time_metric */
    int64_t max_trials;            /* grid: 0 means all points */
    int64_t max_concurrent_trials; /* 0: the scheduler's own rule (see goldens) */
    double divisor;                /* eta, > 1; default 4 */
    int64_t max_rungs;             /* default 5 */
    int64_t num_rungs;             /* async_halving */
    enum halving_mode mode;
    const int64_t *bracket_rungs; /* overrides mode; NULL */
    size_t bracket_rungs_n;
    bool stop_once;        /* true: the stopping rule; false: the promotion rule */
    bool accumulate_rungs; /* max_length: rung lengths accumulate */
    bool logical_order;
    uint64_t seed;
};

enum event_type { EVENT_START, EVENT_VALIDATION, EVENT_EXITED, EVENT_CANCEL };
enum exit_kind { EXIT_CONVERGED, EXIT_ERROR, EXIT_KILLED };

struct searcher_event {
    enum event_type type;
    int64_t trial;       /* VALIDATION, EXITED */
    double unit, value;  /* VALIDATION; value may be NaN or infinite: worst, whichever way the metric points.
                          * EXITED, converged: its last validation; unit 0 where that has been told by an event */
    enum exit_kind exit; /* EXITED */
};

enum op_type {
    OP_CREATE,   /* trial, hyperparameters */
    OP_TRAIN,    /* trial, until: train to this unit (absolute), report a validation there, and wait */
    OP_PAUSE,    /* trial: waits at its rung, holding no slot */
    OP_STOP,     /* trial: ended early by the searcher */
    OP_COMPLETE, /* trial: it has trained its full length */
    OP_DONE      /* no trial will be created or promoted any more */
};

struct searcher_op {
    enum op_type type;
    int64_t trial;
    double until;
    json_t *hyperparameters; /* owned by the list */
};

struct searcher_ops {
    struct searcher_op *list;
    size_t n, room;
};
void searcher_ops_done(struct searcher_ops *ops);

struct searcher;

/* -EINVAL with what would be right, e.g. an illegal pair of scheduler and sampler with the legal ones. space is
 * borrowed and must outlive the searcher. */
int searcher_new(const struct searcher_config *config, const struct space *space, struct searcher **ret,
                 struct error *err);
void searcher_free(struct searcher *searcher);

/* Appends the operations that answer event to ret (which starts zeroed). -EINVAL for an event about a trial that was
 * never created, and nothing has changed; -ENOMEM, and the searcher is good for searcher_free alone. */
int searcher_answer(struct searcher *searcher, const struct searcher_event *event, struct searcher_ops *ret,
                    struct error *err);

/* 0..1: how much of the work is done, by units trained of the units expected; more: units trained that it was not told
 * of yet, for trials that are on their way to a decision. */
double searcher_progress(const struct searcher *searcher, double more);
/* The unit at which a trial has trained all its length: max_units, or where rung lengths accumulate their sum. */
double searcher_longest(const struct searcher *searcher);

/* What a search would do without metrics (the goldens' preview): rows of (trials, last rung's unit), smallest unit
 * first. */
struct preview_row {
    int64_t trials;
    double units;
};
/* The caller frees *ret_rows. */
int searcher_preview(const struct searcher_config *config, const struct space *space, struct preview_row **ret_rows,
                     size_t *ret_n, double *ret_total_units, struct error *err);

/* Known rows, for checks and help: NULL-terminated names; legal tells whether a pair may be used. */
const char *const *searcher_schedulers(void);
const char *const *searcher_samplers(void);
bool searcher_pair_is_legal(const char *scheduler, const char *sampler);

/* The journal's form: {"event": "validation", "trial": 3, "unit": 4, "value": 0.5}, [{"op": "train", "trial": 3,
 * "until": 16}]. Decoding what encoding gave is exact. New references. */
json_t *searcher_event_encode(const struct searcher_event *event);
int searcher_event_decode(const json_t *value, struct searcher_event *ret, struct error *err);
json_t *searcher_ops_encode(const struct searcher_ops *ops);
int searcher_ops_decode(const json_t *value, struct searcher_ops *ret, struct error *err);

/* value a is better than b; a value that is not finite is worse than every finite one; ties false both ways. */
bool searcher_better(bool smaller_is_better, double a, double b);

#endif
