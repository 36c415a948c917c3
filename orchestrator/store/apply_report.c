/* apply_report.c - the rows of a report. What a run has said once stands: a message that comes twice, and a second
 * value for the same (trial, run, unit, kind, client, name), change nothing.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/store/store_private.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

/* client metrics by both of their names; the trainer's own and the shorter one that a user's program may choose */
const char *const CLIENT_COLUMN_METRICS[CLIENT_COLUMNS][2] = {
    {"train_loss", NULL},
    {"train_accuracy", NULL},
    {"client_validation_loss", "validation_loss"},
    {"client_validation_accuracy", "validation_accuracy"},
    {"client_validation_f1", "validation_f1"},
    {"client_validation_precision", "validation_precision"},
    {"client_validation_recall", "validation_recall"},
};

/* Training and validation of one round may come in two messages: the row is completed. */
#define KEEP_OR_ADD(c) c " = coalesce(" c ", excluded." c ")"

const char *const REPORT_SQL[REPORT_SQL_COUNT] = {
    [REPORT_RUN] = "SELECT t.id, r.last_seq, e.metric FROM runs r JOIN trials t ON t.id = r.trial"
                     " JOIN experiments e ON e.id = t.experiment WHERE r.id = ?3 AND e.id = ?1 AND t.number = ?2",
    [REPORT_ROW] = "INSERT INTO reports (run, seq, step, kind, unit, rounds, epochs, batches, samples, seconds,"
                   " time_us) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11) ON CONFLICT DO NOTHING",
    [REPORT_NAME] = "SELECT id FROM names WHERE name = ?1",
    [REPORT_NAME_NEW] = "INSERT INTO names (name) VALUES (?1)",
    [REPORT_METRIC] = "INSERT INTO metrics (trial, run, seq, unit, client, name, value, status, kind)"
                      " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT DO NOTHING",
    [REPORT_CLIENT] =
        "INSERT INTO client_rounds (trial, run, unit, round, client, samples, seconds, status, non_finite, train_loss,"
        " train_accuracy, validation_loss, validation_accuracy, validation_f1, validation_precision, validation_recall)"
        " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16) ON CONFLICT DO UPDATE SET "
        KEEP_OR_ADD("samples") ", " KEEP_OR_ADD("seconds") ", " KEEP_OR_ADD("status") ", "
        KEEP_OR_ADD("train_loss") ", "
        KEEP_OR_ADD("train_accuracy") ", " KEEP_OR_ADD("validation_loss") ", " KEEP_OR_ADD("validation_accuracy") ", "
        KEEP_OR_ADD("validation_f1") ", " KEEP_OR_ADD("validation_precision") ", " KEEP_OR_ADD("validation_recall")
        ", non_finite = non_finite | excluded.non_finite",
    [REPORT_LATEST] = "UPDATE trials SET latest_unit = ?2, latest_value = ?3, latest_status = ?4 WHERE id = ?1",
    [REPORT_UNIT] = "UPDATE trials SET unit = ?2 WHERE id = ?1",
    [REPORT_SEEN] = "UPDATE runs SET last_seq = max(last_seq, ?2), last_us = max(coalesce(last_us, 0), ?3)"
                    " WHERE id = ?1",
};

/* What is known of the report while its rows are written. */
struct report {
    struct reported_run *of;
    int64_t trial, run, seq, kind, time_us;
    bool is_new; /* not one that came before */
    int64_t step;
    double unit, round;
};

int run_report_sql(struct applier *applier, enum report_sql sql, struct error *err)
{
    return run_statement(applier->db, applier->report[sql], err, "report");
}

static int add_name(struct applier *applier, struct value name, int64_t *ret, struct error *err)
{
    sqlite3_stmt *find = applier->report[REPORT_NAME], *add = applier->report[REPORT_NAME_NEW];
    int result, rc = 0;

    bind_value(find, 1, &name);
    result = sqlite3_step(find);
    if (result == SQLITE_ROW)
        *ret = sqlite3_column_int64(find, 0);
    sqlite3_reset(find);
    if (result == SQLITE_DONE) {
        bind_value(add, 1, &name);
        rc = run_report_sql(applier, REPORT_NAME_NEW, err);
        *ret = sqlite3_last_insert_rowid(applier->db);
    } else if (result != SQLITE_ROW) {
        rc = sql_fail(applier->db, result, err, "report");
    }
    return rc;
}

static int name_id(struct applier *applier, struct value name, int64_t *ret, struct error *err)
{
    size_t at = XXH3_64bits(name.text, name.length) % NAME_CACHE;
    int rc;

    if (applier->names[at].name && applier->names[at].length == name.length &&
        !memcmp(applier->names[at].name, name.text, name.length)) {
        *ret = applier->names[at].id;
        return 0;
    }
    rc = add_name(applier, name, ret, err);
    if (rc)
        return rc;
    free(applier->names[at].name);
    applier->names[at].name = strndup(name.text, name.length); /* NULL: it is looked up again */
    applier->names[at].length = name.length;
    applier->names[at].id = *ret;
    return 0;
}

static int put_metric(struct applier *applier, const struct report *report, int64_t client, int64_t name, double value,
                      int status, struct error *err)
{
    sqlite3_stmt *statement = applier->report[REPORT_METRIC];

    sqlite3_bind_int64(statement, 1, report->trial);
    sqlite3_bind_int64(statement, 2, report->run);
    sqlite3_bind_int64(statement, 3, report->seq);
    sqlite3_bind_double(statement, 4, report->unit);
    sqlite3_bind_int64(statement, 5, client);
    sqlite3_bind_int64(statement, 6, name);
    if (status == VALUE_FINITE)
        sqlite3_bind_double(statement, 7, value);
    sqlite3_bind_int(statement, 8, status);
    sqlite3_bind_int64(statement, 9, report->kind);
    return run_report_sql(applier, REPORT_METRIC, err);
}

static bool same_text(struct value value, const char *text)
{
    return text && value.length == strlen(text) && !memcmp(value.text, text, value.length);
}

static void note_latest(const struct report *report, double value, int status)
{
    report->of->has_latest = true;
    report->of->latest_unit = report->unit;
    report->of->latest = value;
    report->of->latest_status = status;
}

static int put_global_values(struct applier *applier, const struct report *report, struct cursor *cursor,
                             struct error *err)
{
    int64_t n = cursor_int(cursor), id;
    int rc = 0;

    for (int64_t i = 0; i < n && !rc; i++) {
        struct value name = cursor_value(cursor);
        double value = cursor_real(cursor);
        int status = (int)cursor_int(cursor);

        rc = name_id(applier, name, &id, err);
        if (!rc)
            rc = put_metric(applier, report, -1, id, value, status, err);
        if (!rc && report->is_new && report->kind == KIND_VALIDATION && same_text(name, report->of->metric))
            note_latest(report, value, status);
    }
    return rc;
}

static int client_column(struct value name)
{
    for (int column = 0; column < CLIENT_COLUMNS; column++)
        for (int spelling = 0; spelling < 2; spelling++) {
            const char *known = CLIENT_COLUMN_METRICS[column][spelling];
            if (same_text(name, known))
                return column;
        }
    return -1;
}

static int put_client(struct applier *applier, const struct report *report, struct cursor *cursor, struct error *err)
{
    sqlite3_stmt *wide = applier->report[REPORT_CLIENT];
    int64_t client = cursor_int(cursor), n, non_finite = 0, id;
    struct value samples = cursor_value(cursor), seconds = cursor_value(cursor), status = cursor_value(cursor);
    int rc = 0;

    n = cursor_int(cursor);
    for (int64_t i = 0; i < n && !rc; i++) {
        struct value name = cursor_value(cursor);
        double value = cursor_real(cursor);
        int value_is = (int)cursor_int(cursor), column = client_column(name);

        rc = name_id(applier, name, &id, err);
        if (!rc)
            rc = put_metric(applier, report, client, id, value, value_is, err);
        if (column >= 0 && value_is == VALUE_FINITE)
            sqlite3_bind_double(wide, 10 + column, value);
        else if (column >= 0)
            non_finite |= (int64_t)1 << column;
    }
    sqlite3_bind_int64(wide, 1, report->trial);
    sqlite3_bind_int64(wide, 2, report->run);
    sqlite3_bind_double(wide, 3, report->unit);
    sqlite3_bind_double(wide, 4, report->round);
    sqlite3_bind_int64(wide, 5, client);
    bind_value(wide, 6, &samples);
    bind_value(wide, 7, &seconds);
    bind_value(wide, 8, &status);
    sqlite3_bind_int64(wide, 9, non_finite);
    if (!rc)
        return run_report_sql(applier, REPORT_CLIENT, err);
    sqlite3_clear_bindings(wide);
    return rc;
}

static int put_report_row(struct applier *applier, struct report *report, struct cursor *cursor, struct error *err)
{
    sqlite3_stmt *statement = applier->report[REPORT_ROW];

    report->unit = cursor_real(cursor);
    report->round = report->unit;
    sqlite3_bind_int64(statement, 1, report->run);
    sqlite3_bind_int64(statement, 2, report->seq);
    sqlite3_bind_int64(statement, 3, report->step);
    sqlite3_bind_int64(statement, 4, report->kind);
    sqlite3_bind_double(statement, 5, report->unit);
    for (int kind = 0; kind < 5; kind++) {
        struct value value = cursor_value(cursor);
        bind_value(statement, 6 + kind, &value);
        if (kind == 0 && value.type == VALUE_REAL)
            report->round = value.real;
    }
    sqlite3_bind_int64(statement, 11, report->time_us);
    return run_report_sql(applier, REPORT_ROW, err);
}

static int put_step(struct applier *applier, struct report *report, struct cursor *cursor, struct error *err)
{
    int rc = put_report_row(applier, report, cursor, err);
    int64_t clients;

    if (!rc)
        rc = put_global_values(applier, report, cursor, err);
    if (rc)
        return rc;
    clients = cursor_int(cursor);
    for (int64_t i = 0; i < clients && !rc; i++)
        rc = put_client(applier, report, cursor, err);
    if (!rc && report->is_new && report->kind != KIND_TEST && report->unit >= 0) {
        report->of->has_unit = true;
        report->of->unit = report->unit;
    }
    return rc;
}

int apply_report(struct applier *applier, struct cursor *cursor, struct error *err)
{
    int64_t experiment = cursor_int(cursor), number = cursor_int(cursor), steps;
    struct report report = {.run = cursor_int(cursor)};
    int rc;

    report.seq = cursor_int(cursor);
    report.kind = cursor_int(cursor);
    report.time_us = cursor_int(cursor);
    steps = cursor_int(cursor);
    rc = reported_run(applier, experiment, number, report.run, &report.of, err);
    if (!rc) {
        report.trial = report.of->trial;
        report.is_new = report.seq > report.of->last_seq;
    }
    for (report.step = 0; report.step < steps && !rc; report.step++)
        rc = put_step(applier, &report, cursor, err);
    if (rc) {
        fail_prefix(err, "put_report of %lld/%lld, run %lld, seq %lld", (long long)experiment, (long long)number,
                    (long long)report.run, (long long)report.seq);
        return rc;
    }
    report.of->has_seen = true;
    if (report.is_new)
        report.of->last_seq = report.seq;
    if (report.time_us > report.of->last_us)
        report.of->last_us = report.time_us;
    return 0;
}
