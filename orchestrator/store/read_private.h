/* read_private.h - the reading side: read.c's helpers and read_sql.c's statements.
 * A read function binds, walks read_row to its end (which resets the statement), and so leaves nothing open.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_ORCHESTRATOR_READ_PRIVATE_H
#define FLEXP_ORCHESTRATOR_READ_PRIVATE_H

#include "orchestrator/store/store_private.h"

#define STORE_JSON_VERSION 1

enum read_sql {
    READ_EXPERIMENTS, READ_EXPERIMENT, READ_STATE_COUNTS, READ_FAILURES, READ_SQUEEZED, READ_RUN_REASONS, READ_TOP_SMALLER,
    READ_TOP_LARGER, READ_TRIALS, READ_TRIAL, READ_TEST, READ_ROUND, READ_OPEN_RUN_TIME, READ_RUNS, READ_CHECKPOINTS,
    READ_CHECKPOINT, READ_METRIC, READ_NO_EXPERIMENT, READ_HIGHEST_TRIAL, READ_NAMES, READ_LATEST, READ_CURVE, READ_METRICS,
    READ_LOGS_EXPERIMENT, READ_LOGS_TRIAL,
    READ_LOAD_EXPERIMENTS, READ_LOAD_TRIALS, READ_LOAD_CHECKPOINTS, READ_LOAD_JOURNAL, READ_DELETING,
    READ_DELETED_FILES, READ_HOOKS, READ_SQL_COUNT
};
_Static_assert(READ_SQL_COUNT == READ_STATEMENTS, "store_private.h counts them");
extern const char *const READ_SQL[READ_SQL_COUNT];

struct read_arguments {
    bool all;
    int64_t experiment, trial, client, after, limit;
    const char *name;
    struct stored_experiment **ret_experiments;
    size_t *ret_n;
};
typedef int read_fn(struct store *store, const struct read_arguments *arguments, json_t **ret, struct error *err);

/* Calls fn inside one read transaction, so that an answer is of one moment. */
int read_run(struct store *store, read_fn *fn, const struct read_arguments *arguments, json_t **ret, struct error *err);
/* The statement, ready for binding; NULL with err filled. */
sqlite3_stmt *read_statement(struct store *store, enum read_sql sql, struct error *err);
sqlite3_stmt *read_bound(struct store *store, enum read_sql sql, const int64_t *values, int n, struct error *err);
/* True while there are rows; at the end *rc is 0 or the failure, and the statement is reset. A NULL statement is a
 * failure that err tells already. */
bool read_row(struct store *store, sqlite3_stmt *statement, int *rc, struct error *err);

#define INTS(...) ((const int64_t[]){__VA_ARGS__}), (int)(sizeof((const int64_t[]){__VA_ARGS__}) / sizeof(int64_t))

/* Columns as JSON, NULL as null. New references. */
json_t *column_text(sqlite3_stmt *statement, int column);
json_t *column_int(sqlite3_stmt *statement, int column);
json_t *column_number(sqlite3_stmt *statement, int column);  /* whole numbers without a decimal point */
json_t *column_seconds(sqlite3_stmt *statement, int column); /* from microseconds */
json_t *column_time(sqlite3_stmt *statement, int column);    /* ISO 8601, UTC */
json_t *column_json(sqlite3_stmt *statement, int column);    /* null where it is not JSON */
json_t *column_value(sqlite3_stmt *statement, int value_column, int status_column);
json_t *number_json(double value);
json_t *time_json(int64_t time_us);

/* A row of READ_TRIAL, READ_TRIALS and READ_TOP_*. */
json_t *trial_row(sqlite3_stmt *statement);
#define TRIAL_ROW_COLUMNS 21 /* the last of them is the trial's row id */

/* The trial's row id; -ENOENT with a clear text where there is none. */
int find_trial(struct store *store, const struct read_arguments *arguments, int64_t *ret, struct error *err);
/* -ENOENT, saying which there are. */
int no_experiment(struct store *store, int64_t experiment, struct error *err);
/* {"path" (relative to the home), "unit", "trial_id", "checkpoint"}, or null where it is gone. */
int checkpoint_json(struct store *store, int64_t checkpoint, json_t **ret, struct error *err);

#endif
