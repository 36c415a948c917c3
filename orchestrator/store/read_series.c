/* read_series.c - the answers to `metrics` and `logs`: rows in the order of their units and of their writing.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/store/read_private.h"

#include <stdio.h>
#include <string.h>

static int add_metric(struct store *store, int64_t trial, int64_t name_id, const char *name, int64_t client,
                      json_t *rows, struct error *err)
{
    int64_t first = client < -1 ? 0 : client, last = client < -1 ? INT64_MAX : client;
    sqlite3_stmt *statement = read_bound(store, READ_METRICS, INTS(trial, name_id, first, last), err);
    int rc;

    while (read_row(store, statement, &rc, err))
        json_array_append_new(rows, json_pack("{s:s, s:o, s:o, s:o, s:o, s:o}", "name", name, "unit",
                                              column_number(statement, 0), "client", column_int(statement, 1), "value",
                                              column_value(statement, 2, 3), "run", column_int(statement, 4), "time", column_time(statement, 5)));
    return rc;
}

static int metrics(struct store *store, const struct read_arguments *arguments, json_t **ret, struct error *err)
{
    struct words known = {0};
    sqlite3_stmt *names;
    json_t *rows = json_array();
    bool found = false;
    int64_t id;
    int rc, row_rc = 0;

    *ret = json_pack("{s:i, s:I, s:I, s:o}", "schema_version", STORE_JSON_VERSION, "experiment",
                     (json_int_t)arguments->experiment, "trial", (json_int_t)arguments->trial, "metrics", rows);
    rc = find_trial(store, arguments, &id, err);
    if (rc)
        return rc;
    names = read_bound(store, READ_NAMES, INTS(id), err);
    while (read_row(store, names, &rc, err)) {
        const char *name = (const char *)sqlite3_column_text(names, 1);

        words_add(&known, name);
        if (arguments->name && strcmp(arguments->name, name))
            continue;
        found = true;
        row_rc = add_metric(store, id, sqlite3_column_int64(names, 0), name, arguments->client, rows, err);
        if (row_rc) {
            sqlite3_reset(names);
            return row_rc;
        }
    }
    /* Before the first report a known name and a mistyped one look the same: no rows. */
    if (!rc && arguments->name && !found && known.used)
        rc = fail(err, -ENOENT, "trial %lld/%lld has no metric \"%s\": it has %s", (long long)arguments->experiment,
                  (long long)arguments->trial, arguments->name, words_text(&known));
    return rc;
}

int store_read_metrics(struct store *store, struct trial_ref trial, const char *name, int64_t client, json_t **ret,
                       struct error *err)
{
    struct read_arguments arguments = {
        .experiment = trial.experiment, .trial = trial.number, .name = name, .client = client};

    return read_run(store, metrics, &arguments, ret, err);
}

static int experiment_is_there(struct store *store, int64_t experiment, struct error *err)
{
    sqlite3_stmt *statement = read_bound(store, READ_METRIC, INTS(experiment), err);
    bool found = false;
    int rc;

    while (read_row(store, statement, &rc, err))
        found = true;
    return rc || found ? rc : no_experiment(store, experiment, err);
}

static int logs(struct store *store, const struct read_arguments *arguments, json_t **ret, struct error *err)
{
    json_t *rows = json_array();
    int64_t last = arguments->after, id = arguments->experiment;
    sqlite3_stmt *statement;
    int rc;

    rc = arguments->trial ? find_trial(store, arguments, &id, err) : experiment_is_there(store, id, err);
    if (!rc) {
        statement = read_bound(store, arguments->trial ? READ_LOGS_TRIAL : READ_LOGS_EXPERIMENT,
                               INTS(id, arguments->after, arguments->limit), err);
        while (read_row(store, statement, &rc, err)) {
            last = sqlite3_column_int64(statement, 0);
            json_array_append_new(rows,
                                  json_pack("{s:o, s:o, s:o, s:o, s:o, s:o}", "id", column_int(statement, 0), "time",
                                            column_time(statement, 1), "trial", column_int(statement, 2), "run",
                                            column_int(statement, 3), "level", column_text(statement, 4), "text",
                                            column_text(statement, 5)));
        }
    }
    *ret = json_pack("{s:i, s:o, s:I}", "schema_version", STORE_JSON_VERSION, "lines", rows, "last", (json_int_t)last);
    return rc;
}

int store_read_logs(struct store *store, struct trial_ref trial, int64_t after, int64_t limit, json_t **ret,
                    struct error *err)
{
    struct read_arguments arguments = {
        .experiment = trial.experiment, .trial = trial.number, .after = after, .limit = limit};

    return read_run(store, logs, &arguments, ret, err);
}
