/* fake_store.h - a store in memory for tests of experiment/: a batch is a list of puts, committing applies them to a tree of
 * JSON, and a commit can be cut short. It holds the rules that the real one's callers must keep: rows are there before they
 * are spoken of, sequence numbers and journal indexes rise by one, a run ends once, a trial that is over stays as it is,
 * and the best checkpoint is not deleted.
 * It defines the functions of store.h that experiment/ uses, so the linker takes none of the real store.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_TESTS_FAKE_STORE_H
#define FLEXP_TESTS_FAKE_STORE_H

#include "orchestrator/store/store.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct store_batch {
    json_t *puts;
};

struct store_batch *store_batch_new(void)
{
    struct store_batch *batch = calloc(1, sizeof *batch);

    batch->puts = json_array();
    return batch;
}

void store_batch_free(struct store_batch *batch)
{
    if (!batch)
        return;
    json_decref(batch->puts);
    free(batch);
}

bool store_batch_is_empty(const struct store_batch *batch)
{
    return json_array_size(batch->puts) == 0;
}

#define TEXT(text) ((text) ? json_string(text) : json_null())
#define NUMBER(value) json_integer((json_int_t)(value))
#define COPY(value) ((value) ? json_deep_copy(value) : json_null())

static inline void put(struct store_batch *batch, const char *name, json_t *fields)
{
    assert_non_null(fields);
    json_object_set_new(fields, "put", json_string(name));
    json_array_append_new(batch->puts, fields);
}

void store_put_experiment(struct store_batch *batch, int64_t id, const char *name, const char *text,
                          const json_t *resolved, const char *state, int64_t time_us)
{
    (void)time_us;
    put(batch, "experiment", json_pack("{s:o, s:s, s:o, s:o, s:s}", "id", NUMBER(id), "name", name, "text", TEXT(text),
                                       "resolved", COPY(resolved), "state", state));
}

void store_put_experiment_state(struct store_batch *batch, int64_t id, const char *state, const char *reason,
                                int64_t ended_us)
{
    put(batch, "experiment_state", json_pack("{s:o, s:s, s:o, s:o}", "id", NUMBER(id), "state", state, "reason",
                                             TEXT(reason), "ended", NUMBER(ended_us)));
}

void store_put_experiment_config(struct store_batch *batch, int64_t id, const json_t *resolved)
{
    put(batch, "config", json_pack("{s:o, s:o}", "id", NUMBER(id), "resolved", COPY(resolved)));
}

void store_put_hook(struct store_batch *batch, int64_t id, const char *state, const char *text)
{
    put(batch, "hook", json_pack("{s:o, s:s, s:o}", "id", NUMBER(id), "hook", state, "text", TEXT(text)));
}

void store_put_experiment_progress(struct store_batch *batch, int64_t id, double progress)
{
    put(batch, "progress", json_pack("{s:o, s:f}", "id", NUMBER(id), "progress", progress));
}

void store_put_trial(struct store_batch *batch, struct trial_ref trial, const json_t *hyperparameters, int64_t time_us)
{
    (void)time_us;
    put(batch, "trial", json_pack("{s:o, s:o}", "trial", NUMBER(trial.number), "hyperparameters", COPY(hyperparameters)));
}

void store_put_trial_state(struct store_batch *batch, struct trial_ref trial, const char *state, const char *reason,
                           const char *text, int64_t restarts, int64_t time_us)
{
    (void)time_us;
    put(batch, "trial_state", json_pack("{s:o, s:s, s:o, s:o, s:o}", "trial", NUMBER(trial.number), "state", state,
                                        "reason", TEXT(reason), "text", TEXT(text), "restarts", NUMBER(restarts)));
}

void store_put_trial_alone(struct store_batch *batch, struct trial_ref trial, bool alone, double past)
{
    put(batch, "trial_alone", json_pack("{s:o, s:b, s:o}", "trial", NUMBER(trial.number), "alone", alone, "past",
                                        json_from_double(past)));
}

void store_put_trial_best(struct store_batch *batch, struct trial_ref trial, double value, double unit,
                          int64_t checkpoint)
{
    put(batch, "trial_best", json_pack("{s:o, s:o, s:o, s:o}", "trial", NUMBER(trial.number), "value",
                                       json_from_double(value), "unit", json_from_double(unit), "checkpoint",
                                       NUMBER(checkpoint)));
}

void store_put_experiment_best(struct store_batch *batch, int64_t experiment, int64_t trial, double unit,
                               const json_t *metrics, int64_t checkpoint)
{
    put(batch, "experiment_best", json_pack("{s:o, s:o, s:o, s:o, s:o}", "id", NUMBER(experiment), "trial",
                                            NUMBER(trial), "unit", json_from_double(unit), "metrics", COPY(metrics),
                                            "checkpoint", NUMBER(checkpoint)));
}

void store_put_run(struct store_batch *batch, int64_t run, struct trial_ref trial, int64_t attempt, const json_t *slots,
                   int64_t pid, const char *isa, int64_t resume_checkpoint, int64_t time_us)
{
    (void)time_us;
    put(batch, "run", json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "run", NUMBER(run), "trial",
                                NUMBER(trial.number), "attempt", NUMBER(attempt), "slots", COPY(slots), "pid",
                                NUMBER(pid), "isa", TEXT(isa), "resume", NUMBER(resume_checkpoint)));
}

void store_put_run_end(struct store_batch *batch, int64_t run, const char *reason, const char *text, int64_t time_us)
{
    (void)time_us;
    put(batch, "run_end", json_pack("{s:o, s:s, s:o}", "run", NUMBER(run), "reason", reason, "text", TEXT(text)));
}

void store_put_report(struct store_batch *batch, struct trial_ref trial, int64_t run, int64_t seq, const json_t *body,
                      const char *time_metric, int64_t time_us)
{
    (void)time_us;
    put(batch, "report", json_pack("{s:o, s:o, s:o, s:o, s:s}", "trial", NUMBER(trial.number), "run", NUMBER(run), "seq",
                                   NUMBER(seq), "body", COPY(body), "time_metric", time_metric));
}

void store_put_checkpoint(struct store_batch *batch, int64_t id, struct trial_ref trial, int64_t run, int64_t seq,
                          double unit, const json_t *units, const char *path, int64_t bytes, int64_t time_us)
{
    (void)time_us;
    put(batch, "checkpoint", json_pack("{s:o, s:o, s:o, s:o, s:f, s:o, s:s, s:o}", "id", NUMBER(id), "trial",
                                       NUMBER(trial.number), "run", NUMBER(run), "seq", NUMBER(seq), "unit", unit,
                                       "units", COPY(units), "path", path, "bytes", NUMBER(bytes)));
}

void store_put_checkpoint_deleted(struct store_batch *batch, int64_t id, int64_t time_us)
{
    (void)time_us;
    put(batch, "checkpoint_deleted", json_pack("{s:o}", "id", NUMBER(id)));
}

void store_put_test(struct store_batch *batch, struct trial_ref trial, int64_t run, double unit, const json_t *metrics,
                    const char *by, int64_t time_us)
{
    (void)time_us;
    put(batch, "test", json_pack("{s:o, s:o, s:f, s:o, s:s}", "trial", NUMBER(trial.number), "run", NUMBER(run), "unit",
                                 unit, "metrics", COPY(metrics), "by", by));
}

void store_put_journal(struct store_batch *batch, int64_t experiment, int64_t index, const char *kind, int64_t answers,
                       const json_t *body, int64_t time_us)
{
    (void)time_us;
    put(batch, "journal", json_pack("{s:o, s:o, s:s, s:o, s:o}", "id", NUMBER(experiment), "index", NUMBER(index),
                                    "kind", kind, "answers", NUMBER(answers), "body", COPY(body)));
}

void store_put_log(struct store_batch *batch, struct trial_ref trial, int64_t run, const char *level, const char *text,
                   int64_t time_us)
{
    (void)time_us;
    put(batch, "log", json_pack("{s:o, s:o, s:s, s:s}", "trial", NUMBER(trial.number), "run", NUMBER(run), "level",
                                level, "text", text));
}

/* --- the tree: {experiment: {...}, trials: [...], runs: {}, checkpoints: {}, journal: [], tests: [], logs: []} -------- */

static inline json_t *disk_new(void)
{
    return json_pack("{s:{}, s:[], s:{}, s:{}, s:[], s:[], s:[]}", "experiment", "trials", "runs", "checkpoints",
                     "journal", "tests", "logs");
}

static inline json_t *by_id(const json_t *object, int64_t id)
{
    char key[24];

    snprintf(key, sizeof key, "%lld", (long long)id);
    return json_object_get(object, key);
}

static inline void set_by_id(json_t *object, int64_t id, json_t *value)
{
    char key[24];

    snprintf(key, sizeof key, "%lld", (long long)id);
    json_object_set_new(object, key, value);
}

static inline json_t *disk_trial(const json_t *disk, int64_t number)
{
    return json_array_get(json_object_get(disk, "trials"), (size_t)number - 1);
}

static inline bool is_over(const json_t *trial)
{
    const char *state = json_string_or(trial, "state", "");

    return !strcmp(state, "completed") || !strcmp(state, "stopped") || !strcmp(state, "canceled") || !strcmp(state, "error");
}

static inline json_t *open_run_of(const json_t *disk, int64_t run)
{
    json_t *row = by_id(json_object_get(disk, "runs"), run);

    assert_non_null(row);
    assert_null(json_object_get(row, "reason")); /* it has not ended */
    return row;
}

static inline void note_seq(json_t *row, const json_t *fields)
{
    int64_t seq = json_int_or(fields, "seq", 0);

    assert_int_equal(seq, json_int_or(row, "last_seq", 0) + 1);
    json_object_set_new(row, "last_seq", NUMBER(seq));
}

static inline void join_values(const json_t *run, json_t *checkpoint)
{
    char unit[40];
    json_t *value;

    snprintf(unit, sizeof unit, "%g", json_double_or(checkpoint, "unit", -1));
    value = json_object_get(json_object_get(run, "values"), unit);
    if (value)
        json_object_set(checkpoint, "value", value);
}

/* A run's validations of the searcher's metric, by unit: {"4": 0.5}. */
static inline void note_values(json_t *disk, const json_t *fields)
{
    const json_t *body = json_object_get(fields, "body"), *steps = json_object_get(body, "steps");
    const char *metric = json_string_or(json_at(disk, "experiment.resolved.searcher"), "metric", "");
    json_t *run = by_id(json_object_get(disk, "runs"), json_int_or(fields, "run", 0)), *row;
    const char *id;

    if (strcmp(json_string_or(body, "kind", ""), "validation"))
        return;
    if (!json_object_get(run, "values"))
        json_object_set_new(run, "values", json_object());
    for (size_t i = 0; i < (steps ? json_array_size(steps) : 1); i++) {
        const json_t *step = steps ? json_array_get(steps, i) : body;
        json_t *value = json_object_get(json_object_get(step, "metrics"), metric);
        char unit[40];
        snprintf(unit, sizeof unit, "%g", json_double_or(json_object_get(step, "units"),
                                                         json_string_or(fields, "time_metric", ""), -1));
        if (value)
            json_object_set(json_object_get(run, "values"), unit, value);
    }
    json_object_foreach (json_object_get(disk, "checkpoints"), id, row)
        if (json_int_or(row, "run", 0) == json_int_or(run, "run", 0))
            join_values(run, row);
}

static inline void apply_put(json_t *disk, const json_t *fields)
{
    const char *name = json_string_or(fields, "put", "");
    json_t *experiment = json_object_get(disk, "experiment"), *row;
    json_t *trial = disk_trial(disk, json_int_or(fields, "trial", 0));

    if (strcmp(name, "trial") && json_int_or(fields, "trial", 0))
        assert_non_null(trial);
    if (!strcmp(name, "experiment") || !strcmp(name, "experiment_state") || !strcmp(name, "progress") ||
        !strcmp(name, "config") || !strcmp(name, "hook")) {
        json_object_update(experiment, (json_t *)fields);
    } else if (!strcmp(name, "experiment_best")) {
        row = by_id(json_object_get(disk, "checkpoints"), json_int_or(fields, "checkpoint", 0));
        assert_true(row || !json_int_or(fields, "checkpoint", 0));
        if (json_int_or(fields, "trial", 0))
            json_object_set_new(experiment, "best", COPY(fields));
        else
            json_object_del(experiment, "best");
    } else if (!strcmp(name, "trial")) {
        assert_int_equal(json_int_or(fields, "trial", 0), json_array_size(json_object_get(disk, "trials")) + 1);
        json_array_append_new(json_object_get(disk, "trials"), COPY(fields));
        json_object_set_new(disk_trial(disk, json_int_or(fields, "trial", 0)), "state", json_string("queued"));
    } else if (!strcmp(name, "trial_state")) {
        assert_false(is_over(trial));
        json_object_update(trial, (json_t *)fields);
    } else if (!strcmp(name, "trial_alone")) {
        assert_false(is_over(trial));
        json_object_update(trial, (json_t *)fields);
    } else if (!strcmp(name, "trial_best")) {
        row = by_id(json_object_get(disk, "checkpoints"), json_int_or(fields, "checkpoint", 0));
        assert_true(row || !json_int_or(fields, "checkpoint", 0));
        assert_false(json_bool_or(row, "deleted", false));
        if (isfinite(json_double_or(fields, "unit", NAN)))
            json_object_set_new(trial, "best", COPY(fields));
        else
            json_object_del(trial, "best");
    } else if (!strcmp(name, "run")) {
        assert_null(by_id(json_object_get(disk, "runs"), json_int_or(fields, "run", 0)));
        json_object_set_new(trial, "attempts", NUMBER(json_int_or(trial, "attempts", 0) + 1));
        assert_int_equal(json_int_or(trial, "attempts", 0), json_int_or(fields, "attempt", 0));
        set_by_id(json_object_get(disk, "runs"), json_int_or(fields, "run", 0), COPY(fields));
    } else if (!strcmp(name, "run_end")) {
        json_object_update(open_run_of(disk, json_int_or(fields, "run", 0)), (json_t *)fields);
    } else if (!strcmp(name, "report")) {
        note_values(disk, fields);
        note_seq(open_run_of(disk, json_int_or(fields, "run", 0)), fields);
    } else if (!strcmp(name, "checkpoint")) {
        row = open_run_of(disk, json_int_or(fields, "run", 0));
        note_seq(row, fields);
        set_by_id(json_object_get(disk, "checkpoints"), json_int_or(fields, "id", 0), COPY(fields));
        join_values(row, by_id(json_object_get(disk, "checkpoints"), json_int_or(fields, "id", 0)));
    } else if (!strcmp(name, "checkpoint_deleted")) {
        row = by_id(json_object_get(disk, "checkpoints"), json_int_or(fields, "id", 0));
        assert_non_null(row);
        assert_false(json_bool_or(row, "deleted", false));
        trial = disk_trial(disk, json_int_or(row, "trial", 0));
        assert_true(json_int_or(json_object_get(experiment, "best"), "checkpoint", 0) != json_int_or(fields, "id", 0));
        json_object_set_new(row, "deleted", json_true());
    } else if (!strcmp(name, "journal")) {
        assert_int_equal(json_int_or(fields, "index", 0), json_array_size(json_object_get(disk, "journal")) + 1);
        json_array_append_new(json_object_get(disk, "journal"), COPY(fields));
    } else if (!strcmp(name, "test")) {
        json_array_append_new(json_object_get(disk, "tests"), COPY(fields));
    } else {
        assert_string_equal(name, "log");
        json_array_append_new(json_object_get(disk, "logs"), COPY(fields));
    }
}

/* Applies the first n puts of the batch and frees it. */
static inline void disk_commit_some(json_t *disk, struct store_batch *batch, size_t n)
{
    const json_t *fields;
    size_t i;

    json_array_foreach (batch->puts, i, fields) {
        if (i < n)
            apply_put(disk, fields);
    }
    store_batch_free(batch);
}

static inline void disk_commit(json_t *disk, struct store_batch *batch)
{
    disk_commit_some(disk, batch, json_array_size(batch->puts));
}

/* Up to and with the last event of the journal; 0 when there is none. */
static inline size_t puts_to_last_event(const struct store_batch *batch)
{
    const json_t *fields;
    size_t i, n = 0;

    json_array_foreach (batch->puts, i, fields) {
        if (!strcmp(json_string_or(fields, "put", ""), "journal") && !strcmp(json_string_or(fields, "kind", ""), "event"))
            n = i + 1;
    }
    return n;
}

/* --- reading back; the caller calls stored_done ------------------------------------------------------------------- */

static inline void load_trial(const json_t *disk, const json_t *row, struct stored_trial *ret)
{
    const json_t *best = json_object_get(row, "best");
    json_t *entry;
    const char *key;

    *ret = (struct stored_trial){.number = json_int_or(row, "trial", 0),
                                 .hyperparameters = json_object_get(row, "hyperparameters"),
                                 .state = (char *)json_string_or(row, "state", ""),
                                 .reason = (char *)json_string_or(row, "reason", NULL),
                                 .restarts = json_int_or(row, "restarts", 0),
                                 .alone = json_bool_or(row, "alone", false),
                                 .alone_past = json_double_or(row, "past", 0),
                                 .attempts = json_int_or(row, "attempts", 0),
                                 .has_best = best != NULL,
                                 .best_value = json_double_or(best, "value", NAN),
                                 .best_unit = json_double_or(best, "unit", NAN),
                                 .best_checkpoint = json_int_or(best, "checkpoint", 0)};
    json_object_foreach (json_object_get(disk, "checkpoints"), key, entry) { /* in the order of their making */
        if (json_int_or(entry, "trial", 0) != ret->number || json_bool_or(entry, "deleted", false))
            continue;
        ret->checkpoints = realloc(ret->checkpoints, (ret->checkpoints_n + 1) * sizeof *ret->checkpoints);
        ret->checkpoints[ret->checkpoints_n++] = (struct stored_checkpoint){
            .id = json_int_or(entry, "id", 0), .run = json_int_or(entry, "run", 0),
            .unit = json_double_or(entry, "unit", NAN), .units = json_object_get(entry, "units"),
            .path = (char *)json_string_or(entry, "path", ""), .bytes = json_int_or(entry, "bytes", 0),
            .has_value = json_object_get(entry, "value") != NULL, .value = json_double_or(entry, "value", NAN)};
    }
    json_object_foreach (json_object_get(disk, "runs"), key, entry) {
        if (json_int_or(entry, "trial", 0) == ret->number && !json_object_get(entry, "reason")) {
            assert_int_equal(ret->open_run, 0); /* at most one */
            ret->open_run = json_int_or(entry, "run", 0);
        }
    }
}

/* Borrows its texts and JSON from disk, which must stay until stored_done. */
static inline struct stored_experiment disk_load(const json_t *disk)
{
    const json_t *experiment = json_object_get(disk, "experiment"), *rows = json_object_get(disk, "trials"), *row;
    struct stored_experiment stored = {.id = json_int_or(experiment, "id", 0),
                                       .state = (char *)json_string_or(experiment, "state", ""),
                                       .resolved = json_object_get(experiment, "resolved"),
                                       .best_trial = json_int_or(json_object_get(experiment, "best"), "trial", 0),
                                       .tested = json_array_size(json_object_get(disk, "tests")) > 0};
    size_t i;

    stored.trials = calloc(json_array_size(rows) + 1, sizeof *stored.trials);
    json_array_foreach (rows, i, row)
        load_trial(disk, row, &stored.trials[stored.trials_n++]);
    rows = json_object_get(disk, "journal");
    stored.journal = calloc(json_array_size(rows) + 1, sizeof *stored.journal);
    json_array_foreach (rows, i, row)
        stored.journal[stored.journal_n++] = (struct stored_journal){
            .index = json_int_or(row, "index", 0), .answers = json_int_or(row, "answers", 0),
            .kind = (char *)json_string_or(row, "kind", ""), .body = json_object_get(row, "body")};
    return stored;
}

static inline void stored_done(struct stored_experiment *stored)
{
    for (size_t i = 0; i < stored->trials_n; i++)
        free(stored->trials[i].checkpoints);
    free(stored->trials);
    free(stored->journal);
}

#endif
