/* read.c - the reading connection: statements made at first use, one transaction for each answer, and columns as JSON.
 * A database opened as immutable is read without locks; when a writer appears beside us meanwhile, the answer is
 * thrown away and asked again on an ordinary connection.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/store/read_private.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define TRIES 3

void read_done(struct store *store)
{
    for (int i = 0; i < READ_SQL_COUNT; i++) {
        sqlite3_finalize(store->read_statements[i]);
        store->read_statements[i] = NULL;
    }
    sqlite3_close(store->reader);
    store->reader = NULL;
}

static int reopen(struct store *store, struct error *err)
{
    read_done(store);
    return open_for_reading(store->path, false, &store->reader, &store->immutable, &store->seen, err);
}

int read_run(struct store *store, read_fn *fn, const struct read_arguments *arguments, json_t **ret, struct error *err)
{
    json_t *answer = NULL;
    struct error why = {0};
    int rc;

    for (int try = 0;; try++) {
        rc = 0;
        if (!store->reader || (store->immutable && file_has_changed(store->path, &store->seen)))
            rc = reopen(store, err);
        if (rc)
            return rc;
        rc = sql_exec(store->reader, "BEGIN", err);
        if (rc)
            return rc;
        rc = fn(store, arguments, &answer, &why);
        sqlite3_exec(store->reader, "ROLLBACK", NULL, NULL, NULL);
        if (!store->immutable || try + 1 == TRIES || !file_has_changed(store->path, &store->seen))
            break;
        json_decref(answer);
        answer = NULL;
        if (arguments->ret_experiments && !rc)
            stored_experiments_free(*arguments->ret_experiments, *arguments->ret_n);
    }
    if (rc) {
        json_decref(answer);
        return fail(err, rc, "%s", why.text);
    }
    if (ret)
        *ret = answer;
    return 0;
}

sqlite3_stmt *read_statement(struct store *store, enum read_sql sql, struct error *err)
{
    sqlite3_stmt **statement = &store->read_statements[sql];

    if (!*statement && sql_prepare(store->reader, READ_SQL[sql], statement, err))
        return NULL;
    return *statement;
}

bool read_row(struct store *store, sqlite3_stmt *statement, int *rc, struct error *err)
{
    int result;

    *rc = 0;
    if (!statement) {
        *rc = err && err->code ? err->code : -EIO;
        return false;
    }
    result = sqlite3_step(statement);
    if (result == SQLITE_ROW)
        return true;
    if (result != SQLITE_DONE)
        *rc = sql_fail(store->reader, result, err, "%s", store->path);
    sqlite3_reset(statement);
    sqlite3_clear_bindings(statement);
    return false;
}

sqlite3_stmt *read_bound(struct store *store, enum read_sql sql, const int64_t *values, int n, struct error *err)
{
    sqlite3_stmt *statement = read_statement(store, sql, err);

    for (int i = 0; statement && i < n; i++)
        sqlite3_bind_int64(statement, i + 1, values[i]);
    return statement;
}

json_t *number_json(double value)
{
    return isfinite(value) && value == floor(value) && fabs(value) < 9e15 ? json_integer((json_int_t)value)
                                                                          : json_from_double(value);
}

static bool is_null(sqlite3_stmt *statement, int column)
{
    return sqlite3_column_type(statement, column) == SQLITE_NULL;
}

json_t *column_text(sqlite3_stmt *statement, int column)
{
    const char *text = (const char *)sqlite3_column_text(statement, column);

    return text ? json_stringn(text, (size_t)sqlite3_column_bytes(statement, column)) : json_null();
}

json_t *column_int(sqlite3_stmt *statement, int column)
{
    return is_null(statement, column) ? json_null() : json_integer(sqlite3_column_int64(statement, column));
}

json_t *column_number(sqlite3_stmt *statement, int column)
{
    return is_null(statement, column) ? json_null() : number_json(sqlite3_column_double(statement, column));
}

json_t *column_seconds(sqlite3_stmt *statement, int column)
{
    return is_null(statement, column) ? json_null() : json_real((double)sqlite3_column_int64(statement, column) / 1e6);
}

json_t *column_time(sqlite3_stmt *statement, int column)
{
    return is_null(statement, column) ? json_null() : time_json(sqlite3_column_int64(statement, column));
}

json_t *time_json(int64_t time_us)
{
    time_t seconds = (time_t)(time_us / 1000000);
    char text[64];
    struct tm utc;
    size_t n;

    gmtime_r(&seconds, &utc);
    n = strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &utc);
    snprintf(text + n, sizeof text - n, ".%03dZ", (int)(time_us / 1000 % 1000));
    return json_string(text);
}

json_t *column_json(sqlite3_stmt *statement, int column)
{
    const char *text = (const char *)sqlite3_column_text(statement, column);
    json_t *value;

    if (!text || json_parse(text, (size_t)sqlite3_column_bytes(statement, column), &value, NULL))
        return json_null();
    return value;
}

json_t *column_value(sqlite3_stmt *statement, int value_column, int status_column)
{
    if (is_null(statement, value_column) && !sqlite3_column_int(statement, status_column))
        return json_null(); /* there is none */
    return json_from_double(value_from_column(statement, value_column, status_column));
}

json_t *trial_row(sqlite3_stmt *statement)
{
    json_t *row = json_object();

    json_object_set_new(row, "id", column_int(statement, 0));
    json_object_set_new(row, "state", column_text(statement, 1));
    json_object_set_new(row, "reason", column_text(statement, 2));
    json_object_set_new(row, "text", column_text(statement, 3));
    json_object_set_new(row, "hyperparameters", column_json(statement, 4));
    json_object_set_new(row, "restarts", column_int(statement, 5));
    json_object_set_new(row, "runs", column_int(statement, 6));
    json_object_set_new(row, "slots", column_int(statement, 7));
    json_object_set_new(row, "units", column_number(statement, 8));
    json_object_set_new(row, "best_metric", column_value(statement, 9, 10));
    json_object_set_new(row, "best_unit", column_number(statement, 11));
    json_object_set_new(row, "latest_metric", column_value(statement, 12, 13));
    json_object_set_new(row, "latest_unit", column_number(statement, 14));
    json_object_set_new(row, "created", column_time(statement, 15));
    json_object_set_new(row, "started", column_time(statement, 16));
    json_object_set_new(row, "ended", column_time(statement, 17));
    json_object_set_new(row, "trained_seconds", column_seconds(statement, 18));
    json_object_set_new(row, "slot_seconds", column_seconds(statement, 19));
    return row;
}
