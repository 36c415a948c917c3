/* read_trial.c - the answers to `trials` and `trial`.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/store/read_private.h"

static int trials(struct store *store, const struct read_arguments *arguments, json_t **ret, struct error *err)
{
    sqlite3_stmt *statement = read_bound(store, READ_TRIALS, INTS(arguments->experiment), err);
    json_t *rows = json_array(), *metric = json_null(), *smaller_is_better = json_null();
    int rc;

    while (read_row(store, statement, &rc, err))
        json_array_append_new(rows, trial_row(statement));
    statement = rc ? NULL : read_bound(store, READ_METRIC, INTS(arguments->experiment), err);
    while (!rc && read_row(store, statement, &rc, err)) {
        metric = column_text(statement, 0);
        smaller_is_better = json_boolean(sqlite3_column_int(statement, 1));
    }
    if (!rc && json_is_null(smaller_is_better))
        rc = no_experiment(store, arguments->experiment, err);
    *ret = json_pack("{s:i, s:I, s:o, s:o, s:o}", "schema_version", STORE_JSON_VERSION, "experiment",
                     (json_int_t)arguments->experiment, "metric", metric, "smaller_is_better", smaller_is_better,
                     "trials", rows);
    return rc;
}

int store_read_trials(struct store *store, int64_t experiment, json_t **ret, struct error *err)
{
    return read_run(store, trials, &(struct read_arguments){.experiment = experiment}, ret, err);
}

/* --- one trial ---------------------------------------------------------------------------------------------------- */

static int no_trial(struct store *store, const struct read_arguments *arguments, struct error *err)
{
    sqlite3_stmt *statement = read_bound(store, READ_HIGHEST_TRIAL, INTS(arguments->experiment), err);
    int64_t highest = -1;
    int rc;

    while (read_row(store, statement, &rc, err))
        highest = sqlite3_column_int64(statement, 0);
    if (rc)
        return rc;
    if (highest < 0)
        return no_experiment(store, arguments->experiment, err);
    if (!highest)
        return fail(err, -ENOENT, "experiment %lld has no trial yet", (long long)arguments->experiment);
    return fail(err, -ENOENT, "experiment %lld has no trial %lld: its trials are 1 to %lld",
                (long long)arguments->experiment, (long long)arguments->trial, (long long)highest);
}

int find_trial(struct store *store, const struct read_arguments *arguments, int64_t *ret, struct error *err)
{
    sqlite3_stmt *statement = read_bound(store, READ_TRIAL, INTS(arguments->experiment, arguments->trial), err);
    int64_t id = 0;
    int rc;

    while (read_row(store, statement, &rc, err))
        id = sqlite3_column_int64(statement, TRIAL_ROW_COLUMNS - 1);
    if (!rc && !id)
        rc = no_trial(store, arguments, err);
    if (!rc)
        *ret = id;
    return rc;
}

static int runs(struct store *store, const struct read_arguments *arguments, int64_t id, json_t *ret, struct error *err)
{
    sqlite3_stmt *statement = read_bound(store, READ_RUNS, INTS(id), err);
    json_t *rows = json_array();
    int rc;

    while (read_row(store, statement, &rc, err)) {
        json_t *row = json_object();
        json_object_set_new(row, "run", column_int(statement, 0));
        json_object_set_new(row, "attempt", column_int(statement, 1));
        json_object_set_new(row, "slots", column_json(statement, 2));
        json_object_set_new(row, "pid", column_int(statement, 3));
        json_object_set_new(row, "isa", column_text(statement, 4));
        json_object_set_new(row, "resumed_from", column_int(statement, 5));
        json_object_set_new(row, "started", column_time(statement, 6));
        json_object_set_new(row, "ended", column_time(statement, 7));
        json_object_set_new(row, "reason", column_text(statement, 8));
        json_object_set_new(row, "text", column_text(statement, 9));
        json_object_set_new(row, "cpu_cores_mean", column_number(statement, 10));
        json_object_set_new(row, "memory_bytes_peak", column_int(statement, 11));
        json_object_set_new(row, "gpu_mean", column_number(statement, 12));
        json_object_set_new(row, "gpu_memory_bytes_peak", column_int(statement, 13));
        json_object_set_new(row, "log", json_sprintf("experiments/%lld/trials/%lld/runs/%lld/output.log",
                                                     (long long)arguments->experiment, (long long)arguments->trial,
                                                     (long long)sqlite3_column_int64(statement, 0)));
        json_array_append_new(rows, row);
    }
    json_object_set_new(ret, "run_list", rows);
    return rc;
}

static int checkpoints(struct store *store, const struct read_arguments *arguments, int64_t id, json_t *ret,
                       struct error *err)
{
    sqlite3_stmt *statement = read_bound(store, READ_CHECKPOINTS, INTS(id), err);
    json_t *rows = json_array();
    int rc;

    while (read_row(store, statement, &rc, err)) {
        json_t *row = json_object();
        json_object_set_new(row, "checkpoint", column_int(statement, 0));
        json_object_set_new(row, "run", column_int(statement, 1));
        json_object_set_new(row, "unit", column_number(statement, 2));
        json_object_set_new(row, "path", json_sprintf("experiments/%lld/trials/%lld/%s",
                                                      (long long)arguments->experiment, (long long)arguments->trial,
                                                      (const char *)sqlite3_column_text(statement, 3)));
        json_object_set_new(row, "bytes", column_int(statement, 4));
        json_object_set_new(row, "created", column_time(statement, 5));
        json_object_set_new(row, "deleted", column_time(statement, 6));
        json_array_append_new(rows, row);
    }
    json_object_set_new(ret, "checkpoints", rows);
    return rc;
}

/* {name: {value, unit}} of each metric's last unit. */
static int latest_metrics(struct store *store, int64_t id, json_t *ret, struct error *err)
{
    sqlite3_stmt *names = read_bound(store, READ_NAMES, INTS(id), err), *statement;
    json_t *latest = json_object();
    int rc, row_rc = 0;

    while (read_row(store, names, &rc, err)) {
        const char *name = (const char *)sqlite3_column_text(names, 1);
        statement = read_bound(store, READ_LATEST, INTS(id, sqlite3_column_int64(names, 0)), err);
        while (read_row(store, statement, &row_rc, err))
            json_object_set_new(latest, name, json_pack("{s:o, s:o}", "value", column_value(statement, 0, 1), "unit",
                                                        column_number(statement, 2)));
        if (row_rc) {
            sqlite3_reset(names);
            rc = row_rc;
            break;
        }
    }
    json_object_set_new(ret, "metrics", latest);
    return rc;
}

static int curve(struct store *store, int64_t id, const json_t *metric, json_t *ret, struct error *err)
{
    json_t *points = json_array();
    sqlite3_stmt *statement;
    int rc = 0;

    if (json_is_string(metric)) {
        statement = read_bound(store, READ_CURVE, INTS(id), err);
        if (statement)
            sqlite3_bind_text(statement, 2, json_string_value(metric), -1, SQLITE_TRANSIENT);
        while (read_row(store, statement, &rc, err))
            json_array_append_new(points, json_pack("{s:o, s:o, s:o}", "unit", column_number(statement, 0), "value",
                                                    column_value(statement, 1, 2), "run", column_int(statement, 3)));
    }
    json_object_set_new(ret, "curve", points);
    return rc;
}

static int tests(struct store *store, const struct read_arguments *arguments, json_t *ret, struct error *err)
{
    sqlite3_stmt *statement = read_bound(store, READ_TEST, INTS(arguments->experiment, arguments->trial, -1), err);
    json_t *rows = json_array();
    int rc;

    while (read_row(store, statement, &rc, err))
        json_array_append_new(rows, json_pack("{s:o, s:o, s:o, s:o}", "metrics", column_json(statement, 0), "unit",
                                              column_number(statement, 1), "by", column_text(statement, 2), "time",
                                              column_time(statement, 3)));
    json_object_set_new(ret, "tests", rows);
    return rc;
}

static int trial(struct store *store, const struct read_arguments *arguments, json_t **ret, struct error *err)
{
    sqlite3_stmt *statement = read_bound(store, READ_TRIAL, INTS(arguments->experiment, arguments->trial), err);
    json_t *row = NULL, *metric = NULL, *checkpoint = NULL;
    int64_t id = 0, best = 0;
    int rc;

    while (read_row(store, statement, &rc, err)) {
        row = trial_row(statement);
        id = sqlite3_column_int64(statement, TRIAL_ROW_COLUMNS - 1);
        best = sqlite3_column_int64(statement, TRIAL_ROW_COLUMNS);
        metric = column_text(statement, TRIAL_ROW_COLUMNS + 1);
    }
    *ret = row;
    if (!rc && !row)
        rc = no_trial(store, arguments, err);
    if (rc)
        goto out;
    json_object_set_new(row, "schema_version", json_integer(STORE_JSON_VERSION));
    json_object_set_new(row, "experiment", json_integer(arguments->experiment));
    json_object_set(row, "metric", metric);
    rc = checkpoint_json(store, best, &checkpoint, err);
    json_object_set_new(row, "best_checkpoint", checkpoint);
    if (!rc)
        rc = runs(store, arguments, id, row, err);
    if (!rc)
        rc = checkpoints(store, arguments, id, row, err);
    if (!rc)
        rc = latest_metrics(store, id, row, err);
    if (!rc)
        rc = curve(store, id, metric, row, err);
    if (!rc)
        rc = tests(store, arguments, row, err);
out:
    json_decref(metric);
    return rc;
}

int store_read_trial(struct store *store, struct trial_ref ref, json_t **ret, struct error *err)
{
    return read_run(store, trial, &(struct read_arguments){.experiment = ref.experiment, .trial = ref.number}, ret,
                    err);
}
