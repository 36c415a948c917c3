/* store.h - the only door to SQLite.
 * One thread owns the write connection. The loop builds a batch with store_put_*, hands it over with store_submit and is
 * told by `wake` (any thread; an uv_async_send) that store_poll has finished batches to report; batches commit in the
 * order given, several may share one transaction (group commit), and a batch is on disk (WAL, synchronous=FULL) before
 * its callback runs. Nothing may leave the orchestrator that depends on a batch before that callback.
 * Identifiers are given by the caller, who learns the highest ones in store_open. Times are microseconds since 1970,
 * UTC. Reads use a second connection of the caller's thread; their budget is 50 ms at 10,000 trials.
 * Schema, views and their queries: docs/schema.md. Non-finite values are NULL with a status.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_ORCHESTRATOR_STORE_H
#define FLEXP_ORCHESTRATOR_STORE_H

#include "common/error.h"
#include "common/json.h"

struct store;
struct store_batch;

struct store_high {
    int64_t experiment, run, checkpoint; /* highest identifiers in use, 0 when none */
};

/* Opens or creates PATH (HOME/flexp.db). Refuses by name and leaves as it is: a network file system, a database of a newer
 * schema, one that is damaged, one that is not flexp's. One too large to be checked at once is checked while it is used; where
 * that finds damage, the store fails from then on, as by a failed commit. read_only opens no write connection, starts no thread and makes
 * no file. wake may be NULL (then store_flush is the way to wait). */
int store_open(const char *path, bool read_only, void (*wake)(void *arg), void *wake_arg, struct store **ret,
               struct store_high *ret_high, struct error *err);
/* While a store is patient, a commit for which the disk has no space is tried again each second until it succeeds: nothing
 * fails, nothing is reported as done, and `wake` says when the waiting begins and ends. When it ceases to be patient, what
 * waits fails. It opens without patience. */
void store_be_patient(struct store *store, bool patient);
bool store_waits_for_space(struct store *store, struct error *ret_why);
/* Commits what was submitted, runs its callbacks, joins the thread. Has no patience. */
void store_close(struct store *store);

/* --- writing --------------------------------------------------------------------------------------------------- */

struct store_batch *store_batch_new(void); /* NULL when out of memory; the puts below then do nothing */
void store_batch_free(struct store_batch *batch); /* one that was never submitted */
bool store_batch_is_empty(const struct store_batch *batch);

/* done(arg, 0) or done(arg, negative errno) from store_poll or store_flush, once, in order. Takes ownership of batch.
 * After the first failed commit (I/O error; disk full without patience) every later batch fails too until store_open. */
void store_submit(struct store *store, struct store_batch *batch, void (*done)(void *arg, int status), void *arg);
/* Between these two, what is submitted waits, so that it shares one commit. */
void store_hold(struct store *store);
void store_go(struct store *store);
void store_poll(struct store *store);  /* runs the callbacks of finished batches; on the loop's thread */
void store_flush(struct store *store); /* waits for all submitted batches, then polls */
const char *store_failure(const struct store *store); /* text of the failed commit, or NULL */
const char *store_note(const struct store *store);    /* what was found at the opening and is no failure, or NULL */
const char *store_path(const struct store *store);    /* as given to store_open */

struct trial_ref {
    int64_t experiment, number;
};

void store_put_experiment(struct store_batch *batch, int64_t id, const char *name, const char *text,
                          const json_t *resolved, const char *state, int64_t time_us);
/* state: active, paused, stopping, completed, canceled, error. ended_us 0 where it goes on. reason may be NULL. */
void store_put_experiment_state(struct store_batch *batch, int64_t id, const char *state, const char *reason,
                                int64_t ended_us);
void store_put_experiment_progress(struct store_batch *batch, int64_t id, double progress);

void store_put_trial(struct store_batch *batch, struct trial_ref trial, const json_t *hyperparameters, int64_t time_us);
/* state: queued, running, waiting, paused, completed, stopped, canceled, error. reason: converged, length, killed, the
 * failure's reason ...; text: for a person. Either may be NULL. restarts is what counts toward max_restarts. */
void store_put_trial_state(struct store_batch *batch, struct trial_ref trial, const char *state, const char *reason,
                           const char *text, int64_t restarts, int64_t time_us);
/* Whether its next run is to share its worker with none, until it has come past this unit (infinite: as long as it runs). */
void store_put_trial_alone(struct store_batch *batch, struct trial_ref trial, bool alone, double past);
/* The best validation so far at a unit whose checkpoint is kept. value and unit NaN: none is left; checkpoint 0: its
 * checkpoint was lost after the search. */
void store_put_trial_best(struct store_batch *batch, struct trial_ref trial, double value, double unit,
                          int64_t checkpoint);
/* The experiment's best; with its validation metrics (flat map; NULL: as reported) and where its checkpoint is (0: it
 * was lost). trial 0: none. */
void store_put_experiment_best(struct store_batch *batch, int64_t experiment, int64_t trial, double unit,
                               const json_t *metrics, int64_t checkpoint);

/* One attempt. attempt counts from 1 within the trial; slots is a list such as ["cpu:0"]; resume 0 or a checkpoint. */
void store_put_run(struct store_batch *batch, int64_t run, struct trial_ref trial, int64_t attempt, const json_t *slots,
                   int64_t pid, const char *isa, int64_t resume_checkpoint, int64_t time_us);
/* reason: length, converged, stopped, preempted, killed, orchestrator_lost, exit, signal, out_of_memory, non_finite,
 * ... */
void store_put_run_end(struct store_batch *batch, int64_t run, const char *reason, const char *text, int64_t time_us);

/* A report message's body as it came (report or its steps): metric rows, client rows, client_rounds. kind training,
 * validation or test. unit is the value of the experiment's time_metric. last_seq is remembered for the run. */
void store_put_report(struct store_batch *batch, struct trial_ref trial, int64_t run, int64_t seq, const json_t *body,
                      const char *time_metric, int64_t time_us);
void store_put_checkpoint(struct store_batch *batch, int64_t id, struct trial_ref trial, int64_t run, int64_t seq,
                          double unit, const json_t *units, const char *path, int64_t bytes, int64_t time_us);
/* The files are gone or about to be. */
void store_put_checkpoint_deleted(struct store_batch *batch, int64_t id, int64_t time_us);
/* Metrics of the test split, recorded each time they are computed; by: best (automatic) or request. */
void store_put_test(struct store_batch *batch, struct trial_ref trial, int64_t run, double unit, const json_t *metrics,
                    const char *by, int64_t time_us);

/* The append-only journal of an experiment: kind event, operations, config_changed, reopened. index from 1 without
 * gaps. operations name the index of the event that they answer. */
void store_put_journal(struct store_batch *batch, int64_t experiment, int64_t index, const char *kind, int64_t answers,
                       const json_t *body, int64_t time_us);
void store_put_experiment_archived(struct store_batch *batch, int64_t id, bool archived);
/* The file in force changed: description and the resolved form. */
void store_put_experiment_config(struct store_batch *batch, int64_t id, const json_t *resolved);
/* What a run's processes used since the sample before. */
struct usage {
    double cpu_cores;     /* cores kept busy */
    int64_t memory_bytes; /* resident */
    double gpu;           /* 0..1, of the GPUs it is on; NaN: none */
    int64_t gpu_memory_bytes;
};
void store_put_usage(struct store_batch *batch, int64_t run, const struct usage *usage, int64_t time_us);
/* on_complete: due, done, failed. text: how it ended, or NULL. */
void store_put_hook(struct store_batch *batch, int64_t experiment, const char *state, const char *text);
/* Deleting an experiment that has ended: from the first on it is in no answer. Then its trials, a few in each batch, for
 * nothing else is committed meanwhile, then what is left. Each does nothing where it was done already. */
/* One that cannot be restored is canceled, with all its trials and runs that have not ended. */
void store_put_abandoned(struct store_batch *batch, int64_t id, int64_t time_us);
void store_put_deleting(struct store_batch *batch, int64_t id, int64_t time_us);
void store_put_delete_trial(struct store_batch *batch, struct trial_ref trial);
void store_put_delete_experiment(struct store_batch *batch, int64_t id);
void store_put_log(struct store_batch *batch, struct trial_ref trial, int64_t run, const char *level, const char *text,
                   int64_t time_us);

/* --- reading back at a restart ---------------------------------------------------------------------------------- */

struct stored_checkpoint {
    int64_t id, run;
    double unit;
    json_t *units;
    char *path;
    int64_t bytes;
    bool has_value; /* the same run validated resolved's searcher.metric at this unit */
    double value;   /* not finite where it was not */
};

struct stored_trial {
    int64_t number;
    json_t *hyperparameters;
    char *state, *reason;
    int64_t restarts, attempts; /* attempts: runs so far */
    bool alone;
    double alone_past;
    bool has_best;
    double best_value, best_unit;
    int64_t best_checkpoint;
    struct stored_checkpoint *checkpoints; /* kept ones, oldest first */
    size_t checkpoints_n;
    int64_t open_run; /* a run without an end, or 0 */
};

struct stored_journal {
    int64_t index, answers;
    char *kind;
    json_t *body;
};

struct stored_experiment {
    int64_t id, created_us;
    char *state;
    json_t *resolved;
    int64_t best_trial; /* 0: none */
    struct stored_trial *trials;
    size_t trials_n;
    struct stored_journal *journal;
    size_t journal_n;
    bool tested; /* the best trial's test metrics are recorded */
};

/* All experiments whose state is not completed, canceled or error. */
int store_load(struct store *store, struct stored_experiment **ret, size_t *ret_n, struct error *err);
void stored_experiments_free(struct stored_experiment *list, size_t n);

/* Experiments whose deletion was begun: [[id, number of trials], ...]. New reference. */
int store_read_deleting(struct store *store, json_t **ret, struct error *err);

/* Experiments whose on_complete is due: [[number, how often it was due]]. New reference. */
int store_read_hooks(struct store *store, json_t **ret, struct error *err);
/* Files, relative to the home, of the latest checkpoints that are marked deleted: some may be there still. New reference. */
int store_read_deleted_files(struct store *store, json_t **ret, struct error *err);

/* --- answers to read requests (the JSON of the --json verbs; docs/schema.md describes each) ----------------------- */

/* Each sets *ret to a new reference with schema_version; -ENOENT with a clear text where the thing does not exist. */
int store_read_list(struct store *store, bool all, json_t **ret, struct error *err);
int store_read_describe(struct store *store, int64_t experiment, json_t **ret, struct error *err);
int store_read_trials(struct store *store, int64_t experiment, json_t **ret, struct error *err);
int store_read_trial(struct store *store, struct trial_ref trial, json_t **ret, struct error *err);
/* metric rows of a trial: {name, unit, client, value}; client < -1: all clients */
int store_read_metrics(struct store *store, struct trial_ref trial, const char *name, int64_t client, json_t **ret,
                       struct error *err);
/* Log lines after the row id `after` (0: from the start), at most limit, oldest first; trial.number 0: all trials.
 * {"lines": [{id, time, trial, run, level, text}], "last": id}. */
int store_read_logs(struct store *store, struct trial_ref trial, int64_t after, int64_t limit, json_t **ret,
                    struct error *err);

#endif
