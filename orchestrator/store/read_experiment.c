/* read_experiment.c - the answers to `list` and `describe`.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/store/read_private.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#define LIST_NEWEST 50
#define TOP 5

/* Every state stands in the counts, so that nobody has to know which may be missing. */
static const char *const TRIAL_STATES[] = {"queued", "running", "waiting", "paused", "completed", "stopped", "canceled",
                                           "error"};

int no_experiment(struct store *store, int64_t experiment, struct error *err)
{
    sqlite3_stmt *statement = read_bound(store, READ_NO_EXPERIMENT, INTS(experiment), err);
    int64_t highest = 0;
    bool deleted = false;
    int rc;

    while (read_row(store, statement, &rc, err)) {
        deleted = sqlite3_column_int(statement, 0);
        highest = sqlite3_column_int64(statement, 1);
    }
    if (rc)
        return rc;
    if (deleted)
        return fail(err, -ENOENT, "there is no experiment %lld: it was deleted", (long long)experiment);
    if (!highest)
        return fail(err, -ENOENT, "there is no experiment %lld: this home has none", (long long)experiment);
    return fail(err, -ENOENT, "there is no experiment %lld: the newest is %lld (flexp list shows all)",
                (long long)experiment, (long long)highest);
}

static int state_counts(struct store *store, int64_t experiment, json_t **ret, struct error *err)
{
    sqlite3_stmt *statement = read_bound(store, READ_STATE_COUNTS, INTS(experiment), err);
    json_t *counts = json_object();
    int64_t total = 0;
    int rc;

    for (size_t i = 0; i < sizeof TRIAL_STATES / sizeof *TRIAL_STATES; i++)
        json_object_set_new(counts, TRIAL_STATES[i], json_integer(0));
    while (read_row(store, statement, &rc, err)) {
        json_object_set_new(counts, (const char *)sqlite3_column_text(statement, 0), column_int(statement, 1));
        total += sqlite3_column_int64(statement, 1);
    }
    json_object_set_new(counts, "total", json_integer(total));
    *ret = counts;
    return rc;
}

static int list(struct store *store, const struct read_arguments *arguments, json_t **ret, struct error *err)
{
    sqlite3_stmt *statement = read_bound(store, READ_EXPERIMENTS, INTS(arguments->all, LIST_NEWEST), err);
    json_t *rows = json_array(), *row, *counts;
    int64_t total = 0;
    size_t i;
    int rc;

    while (read_row(store, statement, &rc, err)) {
        row = json_object();
        json_object_set_new(row, "id", column_int(statement, 0));
        json_object_set_new(row, "name", column_text(statement, 1));
        json_object_set_new(row, "description", column_text(statement, 15));
        json_object_set_new(row, "labels", column_json(statement, 8));
        json_object_set_new(row, "state", column_text(statement, 2));
        json_object_set_new(row, "reason", column_text(statement, 3));
        json_object_set_new(row, "progress", column_number(statement, 4));
        json_object_set_new(row, "searcher", column_text(statement, 5));
        json_object_set_new(row, "metric", column_text(statement, 6));
        json_object_set_new(row, "smaller_is_better", json_boolean(sqlite3_column_int(statement, 7)));
        json_object_set_new(row, "best_trial_id", column_int(statement, 12));
        json_object_set_new(row, "best_metric", column_number(statement, 13));
        json_object_set_new(row, "best_unit", column_number(statement, 14));
        json_object_set_new(row, "created", column_time(statement, 9));
        json_object_set_new(row, "started", column_time(statement, 10));
        json_object_set_new(row, "ended", column_time(statement, 11));
        json_object_set_new(row, "archived", json_boolean(sqlite3_column_int(statement, 16)));
        json_array_append_new(rows, row);
    }
    json_array_foreach (rows, i, row) {
        if (rc || (rc = state_counts(store, json_int_or(row, "id", 0), &counts, err)))
            break;
        json_object_set_new(row, "trials", counts);
    }
    if (!rc)
        rc = sql_int(store->reader, "SELECT count(*) FROM experiments WHERE deleting_us IS NULL", &total, err);
    *ret = json_pack("{s:i, s:I, s:o}", "schema_version", STORE_JSON_VERSION, "total", (json_int_t)total, "experiments",
                     rows);
    return rc;
}

int store_read_list(struct store *store, bool all, json_t **ret, struct error *err)
{
    return read_run(store, list, &(struct read_arguments){.all = all}, ret, err);
}

/* --- describe ---------------------------------------------------------------------------------------------------- */

int checkpoint_json(struct store *store, int64_t checkpoint, json_t **ret, struct error *err)
{
    sqlite3_stmt *statement = read_bound(store, READ_CHECKPOINT, INTS(checkpoint), err);
    json_t *found = json_null();
    int rc;

    while (read_row(store, statement, &rc, err)) {
        found = json_object();
        json_object_set_new(found, "path", json_sprintf("experiments/%lld/trials/%lld/%s",
                                                        (long long)sqlite3_column_int64(statement, 0),
                                                        (long long)sqlite3_column_int64(statement, 1),
                                                        (const char *)sqlite3_column_text(statement, 2)));
        json_object_set_new(found, "unit", column_number(statement, 3));
        json_object_set_new(found, "trial_id", column_int(statement, 1));
        json_object_set_new(found, "checkpoint", json_integer(checkpoint));
        json_object_set_new(found, "bytes", column_int(statement, 4));
    }
    *ret = found;
    return rc;
}

static int failures(struct store *store, int64_t experiment, json_t *ret, struct error *err)
{
    sqlite3_stmt *statement = read_bound(store, READ_FAILURES, INTS(experiment), err);
    json_t *counts = json_object();
    int rc;

    while (read_row(store, statement, &rc, err))
        json_object_set_new(counts, (const char *)sqlite3_column_text(statement, 0), column_int(statement, 1));
    json_object_set_new(ret, "failures", counts);
    return rc;
}

/* What keeps trials from going on, as far as it is stored: an orchestrator that runs knows more. */
static int waiting(struct store *store, int64_t experiment, json_t *ret, struct error *err)
{
    sqlite3_stmt *statement = read_bound(store, READ_SQUEEZED, INTS(experiment), err);
    json_t *found = json_null();
    char more[40] = "";
    int rc;

    while (read_row(store, statement, &rc, err)) {
        int64_t n = sqlite3_column_int64(statement, 2);
        const char *text = (const char *)sqlite3_column_text(statement, 1);
        if (n > 1)
            snprintf(more, sizeof more, " and %lld more", (long long)n - 1);
        if (n)
            found = json_sprintf("in trial %lld%s: for memory that other programs hold: %s",
                                 (long long)sqlite3_column_int64(statement, 0), more, text ? text : "");
    }
    json_object_set_new(ret, "waiting", found);
    return rc;
}

/* How runs ended, those that failed and were tried again included, and which instruction sets computed. */
static int run_ends(struct store *store, int64_t experiment, json_t *ret, struct error *err)
{
    sqlite3_stmt *statement = read_bound(store, READ_RUN_REASONS, INTS(experiment), err);
    json_t *counts = json_object(), *sets = json_object(), *isa = json_array();
    const char *name;
    json_t *ignored;
    int rc;

    while (read_row(store, statement, &rc, err)) {
        const char *reason = (const char *)sqlite3_column_text(statement, 0);
        const char *set = (const char *)sqlite3_column_text(statement, 1);
        int64_t before;

        reason = reason ? reason : "running";
        before = json_int_or(counts, reason, 0);
        json_object_set_new(counts, reason, json_integer(before + sqlite3_column_int64(statement, 2)));
        if (set)
            json_object_set_new(sets, set, json_true());
    }
    json_object_foreach (sets, name, ignored)
        json_array_append_new(isa, json_string(name));
    json_decref(sets);
    json_object_set_new(ret, "runs_by_reason", counts);
    json_object_set_new(ret, "isa", isa);
    return rc;
}

static int timings(struct store *store, int64_t experiment, sqlite3_stmt *row, json_t *ret, struct error *err)
{
    int64_t created = sqlite3_column_int64(row, 11), ended = sqlite3_column_int64(row, 13);
    int64_t run_us = sqlite3_column_int64(row, 14), slot_us = sqlite3_column_int64(row, 15);
    json_t *timings = json_object();
    sqlite3_stmt *statement;
    struct timespec now;
    int rc;

    clock_gettime(CLOCK_REALTIME, &now);
    if (!ended)
        ended = (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
    json_object_set_new(timings, "created", column_time(row, 11));
    json_object_set_new(timings, "started", column_time(row, 12));
    json_object_set_new(timings, "ended", column_time(row, 13));
    json_object_set_new(timings, "elapsed_seconds", json_real((double)(ended > created ? ended - created : 0) / 1e6));
    /* Runs that go on count until their latest report: an orchestrator that is gone must not let the clock run. */
    statement = read_bound(store, READ_OPEN_RUN_TIME, INTS(experiment), err);
    while (read_row(store, statement, &rc, err)) {
        run_us += sqlite3_column_int64(statement, 0);
        slot_us += sqlite3_column_int64(statement, 1);
        json_object_set_new(timings, "latest_report", column_time(statement, 2));
    }
    json_object_set_new(timings, "trained_seconds", json_real((double)run_us / 1e6));
    json_object_set_new(timings, "slot_seconds", json_real((double)slot_us / 1e6));
    json_object_set_new(ret, "timings", timings);
    return rc;
}

static int top(struct store *store, int64_t experiment, bool smaller_is_better, json_t *ret, struct error *err)
{
    sqlite3_stmt *statement =
        read_bound(store, smaller_is_better ? READ_TOP_SMALLER : READ_TOP_LARGER, INTS(experiment, TOP), err);
    json_t *rows = json_array();
    int rc;

    while (read_row(store, statement, &rc, err))
        json_array_append_new(rows, trial_row(statement));
    json_object_set_new(ret, "top", rows);
    return rc;
}

/* The test metrics that count: those computed for the best trial by itself before those that somebody asked for. */
static int test_metrics(struct store *store, int64_t experiment, int64_t trial, json_t *ret, struct error *err)
{
    sqlite3_stmt *statement = read_bound(store, READ_TEST, INTS(experiment, trial, 1), err);
    json_t *metrics = json_null();
    int rc;

    while (read_row(store, statement, &rc, err)) {
        metrics = column_json(statement, 0);
        if (!json_is_object(metrics))
            continue;
        json_object_set_new(metrics, "trial_id", json_integer(trial));
        json_object_set_new(metrics, "unit", column_number(statement, 1));
        json_object_set_new(metrics, "by", column_text(statement, 2));
    }
    json_object_set_new(ret, "test_metrics", metrics);
    return rc;
}

/* The round of the best validation: its unit, or what the report said where the unit is not rounds. */
static int best_round(struct store *store, sqlite3_stmt *row, json_t **ret, struct error *err)
{
    double unit = sqlite3_column_double(row, 17);
    const char *time_metric = (const char *)sqlite3_column_text(row, 10);
    json_t *found = number_json(unit);
    sqlite3_stmt *statement;
    int rc = 0;

    if (time_metric && strcmp(time_metric, "rounds")) {
        statement = read_bound(store, READ_ROUND, INTS(sqlite3_column_int64(row, 20)), err);
        if (statement)
            sqlite3_bind_double(statement, 2, unit);
        while (read_row(store, statement, &rc, err)) {
            json_decref(found);
            found = column_number(statement, 0);
        }
    }
    *ret = found;
    return rc;
}

static int best_hyperparameters(struct store *store, int64_t experiment, int64_t trial, json_t *ret, struct error *err)
{
    sqlite3_stmt *statement = read_bound(store, READ_TRIAL, INTS(experiment, trial), err);
    int rc;

    while (read_row(store, statement, &rc, err))
        json_object_set_new(ret, "best_hyperparameters", column_json(statement, 4));
    return rc;
}

static int best(struct store *store, int64_t experiment, sqlite3_stmt *row, json_t *ret, struct error *err)
{
    static const char *const KEYS[] = {"best_trial_id",   "best_validation_metrics", "best_hyperparameters",
                                       "best_checkpoint", "best_model",              "test_metrics"};
    int64_t trial = sqlite3_column_int64(row, 16);
    json_t *metrics, *round = NULL, *checkpoint = NULL;
    int rc;

    for (size_t i = 0; i < sizeof KEYS / sizeof *KEYS; i++)
        json_object_set_new(ret, KEYS[i], json_null());
    if (!trial)
        return 0;
    metrics = column_json(row, 19);
    if (!json_is_object(metrics))
        metrics = json_object();
    rc = best_round(store, row, &round, err);
    json_object_set_new(metrics, "round", round);
    json_object_set_new(metrics, "unit", column_number(row, 17));
    json_object_set_new(metrics, "trial_id", json_integer(trial));
    json_object_set_new(ret, "best_trial_id", json_integer(trial));
    json_object_set_new(ret, "best_validation_metrics", metrics);
    if (!rc)
        rc = best_hyperparameters(store, experiment, trial, ret, err);
    if (!rc) {
        rc = checkpoint_json(store, sqlite3_column_int64(row, 20), &checkpoint, err);
        json_object_set_new(ret, "best_checkpoint", checkpoint);
    }
    json_object_set_new(ret, "best_model",
                        json_sprintf("experiments/%lld/trials/%lld/model.safetensors", (long long)experiment,
                                     (long long)trial));
    return rc ? rc : test_metrics(store, experiment, trial, ret, err);
}

static int describe_row(struct store *store, sqlite3_stmt *row, json_t *ret, struct error *err)
{
    int64_t id = sqlite3_column_int64(row, 0);
    json_t *counts;
    int rc;

    json_object_set_new(ret, "schema_version", json_integer(STORE_JSON_VERSION));
    json_object_set_new(ret, "id", column_int(row, 0));
    json_object_set_new(ret, "name", column_text(row, 1));
    json_object_set_new(ret, "description", column_text(row, 2));
    json_object_set_new(ret, "labels", column_json(row, 3));
    json_object_set_new(ret, "state", column_text(row, 4));
    json_object_set_new(ret, "reason", column_text(row, 5));
    json_object_set_new(ret, "progress", column_number(row, 6));
    json_object_set_new(ret, "searcher", column_text(row, 7));
    json_object_set_new(ret, "metric", column_text(row, 8));
    json_object_set_new(ret, "smaller_is_better", json_boolean(sqlite3_column_int(row, 9)));
    json_object_set_new(ret, "time_metric", column_text(row, 10));
    json_object_set_new(ret, "archived", json_boolean(sqlite3_column_int(row, 23)));
    json_object_set_new(ret, "on_complete", sqlite3_column_type(row, 24) == SQLITE_NULL
                                                ? json_null()
                                                : json_pack("{s:o, s:o}", "state", column_text(row, 24), "text",
                                                            column_text(row, 25)));
    rc = best(store, id, row, ret, err);
    if (!rc) {
        rc = state_counts(store, id, &counts, err);
        json_object_set_new(ret, "trials", counts);
    }
    if (!rc)
        rc = failures(store, id, ret, err);
    if (!rc)
        rc = waiting(store, id, ret, err);
    if (!rc)
        rc = run_ends(store, id, ret, err);
    if (!rc)
        rc = timings(store, id, row, ret, err);
    if (!rc)
        rc = top(store, id, sqlite3_column_int(row, 9), ret, err);
    json_object_set_new(ret, "config", column_json(row, 21));
    json_object_set_new(ret, "config_text", column_text(row, 22));
    return rc;
}

static int describe(struct store *store, const struct read_arguments *arguments, json_t **ret, struct error *err)
{
    sqlite3_stmt *row = read_bound(store, READ_EXPERIMENT, INTS(arguments->experiment), err);
    int rc;

    while (read_row(store, row, &rc, err)) {
        *ret = json_object();
        rc = describe_row(store, row, *ret, err);
        if (rc) {
            sqlite3_reset(row);
            return rc;
        }
    }
    return rc ? rc : *ret ? 0 : no_experiment(store, arguments->experiment, err);
}

int store_read_describe(struct store *store, int64_t experiment, json_t **ret, struct error *err)
{
    return read_run(store, describe, &(struct read_arguments){.experiment = experiment}, ret, err);
}
