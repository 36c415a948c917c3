/* experiment_private.h - what the files of this room share.
 * A trial's state while it lives is a function of three things that are on disk: the searcher's verdict and the units told
 * (both from the journal), the checkpoints kept, and the experiment's state. trial_settle() computes it, for a trial whose
 * run has just ended as for one that was restored; trial_advise() computes likewise what a run must be told. So there are
 * no states "being preempted" or "about to be promoted" that a crash could lose.
 *
 * Memory: small allocations go through must(): when there is none left the program aborts, which loses no more than a
 * kill -9 and is recovered from in the same way; a consequence that is silently left out would not be.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_EXPERIMENT_PRIVATE_H
#define FLEXP_EXPERIMENT_PRIVATE_H

#include "orchestrator/experiment/experiment.h"

#define TRIAL_STATES (TRIAL_ERROR + 1)
#define VALIDATIONS_KEPT 64 /* of a run, for its next checkpoints: memory is flat over rounds */

struct checkpoint {
    int64_t id, run;
    double unit;
    json_t *units;
    char *path;     /* as the worker gave it: relative to the trial's folder */
    bool has_value; /* there is a validation of the searcher's metric at its unit */
    double value;
};

struct validation {
    double unit;
    json_t *metrics; /* of all validation reports at this unit */
};

enum told { TOLD_NOTHING, TOLD_PREEMPT, TOLD_STOP };

struct run {
    int64_t id, seq; /* seq: the last one stored */
    enum told told;
    bool shares;   /* its worker carries others, too */
    bool alone;    /* it is to show that it does not kill its worker */
    double proven; /* past this unit it has */
    double train_until; /* what the worker was told last */
    double unit;        /* the furthest unit it resumed from, validated or checkpointed */
    double trained;     /* the unit of its last report of any kind, or of its progress */
    struct validation seen[VALIDATIONS_KEPT]; /* oldest first */
    size_t seen_n;
    uint64_t *spent; /* hashes of the paths of its trial's checkpoints that were told to be deleted while it runs */
    size_t spent_n, spent_room;
};

/* What the searcher has last said about a trial. */
enum verdict {
    VERDICT_NONE, /* told a value and not answered yet: it may be held (order: logical) */
    VERDICT_TRAIN,
    VERDICT_PAUSE,
    VERDICT_STOP,
    VERDICT_COMPLETE
};

struct trial {
    int64_t number;
    json_t *hyperparameters;
    enum trial_state state;
    bool stored; /* a state has been put into the store */
    int64_t restarts, attempts;
    enum verdict verdict;
    double until; /* of the last OP_TRAIN */
    double told;  /* furthest unit whose value the searcher was told; -1: none */
    bool converged; /* by its own rule; the searcher hears of it when it asks for more training, and not before */
    bool excused; /* its last run ended in order without a checkpoint at `told`: none is asked for again */
    bool alone;   /* its next run shares its worker with none, until it has come past the unit proven */
    double proven;
    bool squeezed; /* other programs held the memory that its last run lacked: those of the experiment that may need less go first */
    bool dirty;   /* in experiment->dirty */
    struct checkpoint *checkpoints; /* kept ones, oldest first */
    size_t checkpoints_n, checkpoints_room;
    bool has_best;
    double best_value, best_unit;
    int64_t best_checkpoint;
    struct run *run; /* the current one, or NULL */
};

enum ending { ENDING_NONE, ENDING_CANCEL, ENDING_TIME_LIMIT };

struct experiment {
    int64_t id;
    struct experiment_config *config;
    char *home;
    struct id_source ids;
    enum experiment_state state;
    enum ending ending; /* why STOPPING; the searcher is told nothing more */
    struct searcher *searcher;
    int64_t journal; /* index of the last record */
    bool search_done;
    double progress; /* as stored */
    struct trial **trials; /* number - 1 */
    size_t trials_n, trials_room;
    size_t state_n[TRIAL_STATES];
    int64_t *running; /* trials with a run */
    size_t running_n, running_room;
    int64_t *dirty; /* trials that trial_settle must look at */
    size_t dirty_n, dirty_room;
    int64_t best_trial;  /* 0: none */
    struct run *evaluation; /* of the best trial, or NULL */
    int64_t evaluation_failures;
    bool evaluated; /* on disk, or given up */
    char *note;     /* why it was given up; NULL */
    bool changed;
};

/* --- turn.c */
void *must(void *pointer);
void turn_send(struct turn *turn, int64_t run, json_t *message); /* takes ownership of message */
void turn_tell(struct turn *turn, int64_t run, const char *op);  /* a message that is only {op, run} */
void turn_train_until(struct turn *turn, int64_t run, double unit);
void turn_ack(struct turn *turn, int64_t run, int64_t seq);
void turn_effect(struct turn *turn, enum effect_type type, int64_t run);
json_t *unit_json(double unit); /* a whole number travels as one; new reference */

/* --- experiment.c */
struct experiment *experiment_alloc(int64_t id, struct experiment_config *config, const char *home,
                                    const struct id_source *ids);
struct trial *experiment_trial(const struct experiment *experiment, int64_t number); /* NULL: no such trial */
/* To a state that is not final. */
void experiment_set_state(struct experiment *experiment, enum experiment_state state, struct turn *turn);
/* Ends every public call: settles, advises, and finishes the experiment where nothing is left to do. */
void experiment_settle(struct experiment *experiment, struct turn *turn);

/* --- search.c */
/* Journals the event, asks, journals and applies the operations. Nothing once the experiment is ending. */
void search_tell(struct experiment *experiment, const struct searcher_event *event, struct turn *turn);
void search_cancel(struct experiment *experiment, enum ending ending, struct turn *turn);
/* Memory only: what an event says about its trial. */
void search_note_event(struct experiment *experiment, const struct searcher_event *event);
/* Memory only, but for the rows of new trials; turn NULL: they are in the store. */
int search_apply(struct experiment *experiment, const struct searcher_ops *ops, struct turn *turn, struct error *err);
void search_put_operations(struct experiment *experiment, int64_t answers, const struct searcher_ops *ops,
                           struct turn *turn);
void search_put_progress(struct experiment *experiment, double progress, struct turn *turn);
/* By what the searcher was told and what is trained beyond that. */
void search_note_progress(struct experiment *experiment, struct turn *turn);

/* --- trial.c */
struct trial *trial_add(struct experiment *experiment, json_t *hyperparameters); /* takes a reference of its own */
void trial_free(struct trial *trial);
struct trial_ref trial_ref(const struct experiment *experiment, const struct trial *trial);
/* Absolute; the caller frees. */
char *trial_path(const struct experiment *experiment, const struct trial *trial, const char *path);
bool trial_is_over(const struct trial *trial);
void trial_mark(struct experiment *experiment, struct trial *trial); /* trial_settle will look at it */
void trial_settle(struct experiment *experiment, struct trial *trial, struct turn *turn);
void trial_advise(struct experiment *experiment, struct trial *trial, struct turn *turn);
/* An ended trial is never resumed, and without a checkpoint never evaluated: what it would need for that is forgotten, so
 * that a night of many trials stays small. */
void trial_compact(struct trial *trial);
void trial_set_state(struct experiment *experiment, struct trial *trial, enum trial_state state, const char *reason,
                     const char *text, struct turn *turn);
/* Puts the run's end and forgets it. */
void trial_end_run(struct experiment *experiment, struct trial *trial, const char *reason, const char *text,
                   struct turn *turn);
/* The run has ended badly: a restart, or the trial's end in error. */
void trial_fail(struct experiment *experiment, struct trial *trial, const char *reason, const char *text, bool retry,
                bool counts, struct turn *turn);
struct checkpoint *trial_latest(const struct trial *trial); /* NULL: none */
struct checkpoint *trial_checkpoint(const struct trial *trial, int64_t id);
struct checkpoint *trial_add_checkpoint(struct trial *trial);
void trial_drop_checkpoint(struct trial *trial, size_t index);
/* Its next run is to be alone with its worker, until it has come past this unit; before its present run is ended. */
void trial_isolate(const struct experiment *experiment, struct trial *trial, double unit, struct turn *turn);
void running_add(struct experiment *experiment, struct trial *trial, struct run *run);
void running_remove(struct experiment *experiment, struct trial *trial);

/* --- run.c */
struct run *run_new(int64_t id);
void run_free(struct run *run);
struct validation *run_validation(struct run *run, double unit); /* NULL: none seen */
void run_spend_path(struct run *run, const char *path);
bool run_has_spent(const struct run *run, const char *path);
void run_note_validation(struct run *run, double unit, const json_t *metrics);
/* The run's trial, whether it trains or is evaluated; NULL when the run is nobody's current one. */
struct trial *run_find(const struct experiment *experiment, int64_t run, bool *ret_evaluation);

/* --- best.c */
/* Judges a checkpoint by the validation at its unit. */
void best_judge(struct experiment *experiment, struct trial *trial, struct checkpoint *checkpoint,
                const json_t *metrics, struct turn *turn);
void best_find(struct experiment *experiment); /* over all trials; memory only */
/* The trial's best was lost with its checkpoint: the best of those that are kept takes its place, or none. */
void best_of_kept(struct experiment *experiment, struct trial *trial, struct turn *turn);

/* --- retention.c */
struct retained {
    int64_t id, trial;
    bool has_value;
    double value;
    bool keep; /* out */
};
/* Marks what is kept. list: ascending by (trial, age), oldest first. winner is kept whatever the settings; 0: none. */
void retention_mark(struct retained *list, size_t n, bool smaller_is_better, int64_t experiment_best,
                    int64_t trial_best, int64_t trial_latest, int64_t winner);
void retention_while_active(struct experiment *experiment, struct trial *trial, struct turn *turn);
void retention_at_end(struct experiment *experiment, struct turn *turn);

/* --- damage.c */
/* A worker could not use one of the trial's checkpoints: path (absolute) as it was told. The checkpoint is a kept one no
 * longer. False where the trial keeps none of this path. */
bool damage_note(struct experiment *experiment, struct trial *trial, int64_t run, bool evaluation, const char *path,
                 const char *text, struct turn *turn);

/* --- finish.c */
bool experiment_is_final(const struct experiment *experiment);
/* Ends every run now, by the worker's death. */
void kill_runs(struct experiment *experiment, struct turn *turn);
void finish_if_done(struct experiment *experiment, struct turn *turn);
/* ends the experiment now; reason may be NULL */
void finish(struct experiment *experiment, enum experiment_state state, const char *reason, struct turn *turn);
bool evaluation_is_wanted(const struct experiment *experiment);
/* The evaluation's run has ended, or could not begin; it is done when its metrics were stored, else tried again where retry
 * is set and max_restarts allow. */
void evaluation_over(struct experiment *experiment, const char *reason, const char *text, bool retry, bool counts,
                     struct turn *turn);

#endif
