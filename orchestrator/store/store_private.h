/* store_private.h - what the files of this room share. sql.c: talking to SQLite. schema.c: tables, views, migrations.
 * migrate.c: from an older schema to this one. open.c: which files we accept, creating, pragmas. batch.c, put*.c:
 * building batches. apply*.c: carrying them out. writer.c: the thread. read.c and read_*.c: answers. load.c: the
 * restart.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_ORCHESTRATOR_STORE_PRIVATE_H
#define FLEXP_ORCHESTRATOR_STORE_PRIVATE_H

#include "orchestrator/store/store.h"

#include <pthread.h>
#include <sqlite3.h>
#include <stdatomic.h>
#include <sys/stat.h>

/* --- sql.c ------------------------------------------------------------------------------------------------------ */

/* The one translator of SQLite's errors: "WHAT: message (errno's text)". result is SQLite's extended code. */
int sql_fail(sqlite3 *db, int result, struct error *err, const char *format, ...) __attribute__((format(printf, 4, 5)));
/* Runs statements that give no rows. */
int sql_exec(sqlite3 *db, const char *sql, struct error *err);
int sql_prepare(sqlite3 *db, const char *sql, sqlite3_stmt **ret, struct error *err);
/* The first column of the first row; -ENODATA when there is none. The caller frees *ret. */
int sql_int(sqlite3 *db, const char *sql, int64_t *ret, struct error *err);
int sql_text(sqlite3 *db, const char *sql, char **ret, struct error *err);
/* Sets a pragma and reads it back: -EINVAL when it did not take. */
int sql_pragma(sqlite3 *db, const char *pragma, const char *expected, struct error *err);

/* How a value that is not finite is kept: NULL beside one of these. */
enum value_status { VALUE_FINITE, VALUE_NAN, VALUE_INFINITY, VALUE_MINUS_INFINITY };
enum value_status value_status(double value);
double value_from_column(sqlite3_stmt *statement, int value_column, int status_column);

/* --- schema.c, migrate.c ---------------------------------------------------------------------------------------- */

#define STORE_APPLICATION_ID 0x666c7870 /* "flxp" */

struct migration {
    int version; /* the schema's number when it is done; they rise by one from 1 */
    const char *const *sql; /* ends with NULL */
};
struct view {
    const char *name, *sql;
};
extern const struct migration MIGRATIONS[]; /* ends with version 0 */
extern const struct view VIEWS[];           /* ends with name NULL; made anew after every migration */

/* Kinds of reports, as stored. */
enum { KIND_TRAINING, KIND_VALIDATION, KIND_TEST };

/* Of a row m of metrics: it is what readers see. Where several kinds of one name meet at a unit that is the
 * validation's, which the search goes by, then the training's; of one kind, the latest run's. */
#define METRIC_IS_SHOWN                                                                                               \
    "NOT EXISTS (SELECT 1 FROM metrics o WHERE o.trial = m.trial AND o.name = m.name AND o.client = m.client"         \
    " AND o.unit = m.unit AND (o.kind = 1, o.kind = 0, o.run) > (m.kind = 1, m.kind = 0, m.run))"

/* The slot time of a run r of table runs until `end`: at each moment a slot counts in equal parts to the runs that share it, so
 * that the runs' sum is the time that slots were held. Those that have not ended stand until then. By the index runs_by_slots (+: what has
 * the affinity of a column is not looked up in an index over an expression). */
#define RUN_ENDS(r) "coalesce(" r "ended_us, 9223372036854775807)" /* r: as "o." */
#define RUNS_BESIDE(r, end)                                                                                           \
    "FROM runs o WHERE o.experiment = " r ".experiment AND o.slots = " r ".slots AND " RUN_ENDS("o.") " > +" r         \
    ".started_us AND o.started_us < " end " "
#define RUN_SLOT_US(r, end)                                                                                           \
    "(SELECT CAST(round(coalesce(sum(1.0 * long / at_once), 0) * " r ".slots_n) AS INTEGER) FROM"                     \
    " (SELECT lead(time) OVER w - time AS long, sum(step) OVER w AS at_once FROM"                                     \
    " (SELECT max(o.started_us, " r ".started_us) AS time, 1 AS step " RUNS_BESIDE(r, end)                            \
    "UNION ALL SELECT min(" RUN_ENDS("o.") ", " end "), -1 " RUNS_BESIDE(r, end)                                       \
    ") WINDOW w AS (ORDER BY time, step ROWS UNBOUNDED PRECEDING)) WHERE at_once > 0)"

int migrations_latest(const struct migration *migrations);
/* All steps from the database's user_version to the latest, and the views, in one transaction. */
int migrate(sqlite3 *db, const struct migration *migrations, const struct view *views, struct error *err);

/* --- filesystem.c ----------------------------------------------------------------------------------------------- */

/* The name of a network file system, or NULL. mount_type is what /proc/self/mountinfo calls it ("fuse.sshfs"), or
 * NULL. */
const char *network_filesystem(long magic, const char *mount_type);
/* -EREMOTE, with its name, when path (or, absent, its folder) lies on one. */
int refuse_network_filesystem(const char *path, struct error *err);

/* --- open.c ----------------------------------------------------------------------------------------------------- */

/* Creates the file if it is absent, checks it, migrates it. */
/* ret_whole: the check saw all of it. ret_note: something that whoever runs this should know, code 0 where there is nothing. */
int open_for_writing(const char *path, sqlite3 **ret, bool *ret_whole, struct error *ret_note, struct error *err);
/* On a connection of its own, until stop. -EUCLEAN: damaged. */
int check_to_the_end(const char *path, const atomic_bool *stop, struct error *err);
/* live: a writer of this process has it open. ret_immutable: no log of changes was there, so the file was opened as it
 * stands and no file is made beside it; ret_stat says as what it was seen. */
int open_for_reading(const char *path, bool live, sqlite3 **ret, bool *ret_immutable, struct stat *ret_stat,
                     struct error *err);
/* True when a database that was opened immutable has since been written to. */
bool file_has_changed(const char *path, const struct stat *seen);

/* --- wal.c ------------------------------------------------------------------------------------------------------- */

/* Of the log beside path, if there is one: -EUCLEAN where it cannot be read at all; a note where it breaks off, which is looked for
 * where ret_note is given. */
int wal_check(const char *path, struct error *ret_note, struct error *err);

/* --- batch.c: a batch is a run of operations, each its number and then its tagged values ------------------------- */

enum op {
    OP_END, OP_EXPERIMENT, OP_EXPERIMENT_STATE, OP_EXPERIMENT_PROGRESS, OP_EXPERIMENT_BEST, OP_TRIAL, OP_TRIAL_STATE,
    OP_TRIAL_ALONE, OP_TRIAL_BEST, OP_RUN, OP_RUN_END, OP_REPORT, OP_CHECKPOINT, OP_CHECKPOINT_DELETED, OP_TEST, OP_JOURNAL, OP_LOG,
    OP_EXPERIMENT_ARCHIVED, OP_EXPERIMENT_CONFIG, OP_DELETING, OP_DELETE_TRIAL, OP_DELETE_EXPERIMENT, OP_USAGE, OP_HOOK,
    OP_ABANDONED,
    OP_COUNT
};

struct store_batch {
    unsigned char *bytes;
    size_t used, room;
    bool broken; /* out of memory while it was built */
    bool deletes; /* rows that others refer to: it gets a transaction of its own, without the check of foreign keys */
    void (*done)(void *arg, int status);
    void *arg;
    int status;
    struct store_batch *next;
};

enum value_type { VALUE_NULL, VALUE_INT, VALUE_REAL, VALUE_TEXT };

struct value {
    enum value_type type;
    int64_t integer;
    double real;
    const char *text; /* inside the batch, not terminated */
    size_t length;
};

/* Reading what was built. */
struct cursor {
    const unsigned char *at, *end;
};
enum op cursor_op(struct cursor *cursor); /* OP_END at the end */
struct value cursor_value(struct cursor *cursor);
int64_t cursor_int(struct cursor *cursor);   /* 0 for NULL */
double cursor_real(struct cursor *cursor);   /* NaN for NULL */

/* --- apply.c, apply_report.c, apply_runs.c ----------------------------------------------------------------------- */

/* Columns of client_rounds beside samples, seconds and status; client metrics of these names are kept there too. */
#define CLIENT_COLUMNS 7
extern const char *const CLIENT_COLUMN_METRICS[CLIENT_COLUMNS][2];

enum report_sql {
    REPORT_RUN, REPORT_ROW, REPORT_NAME, REPORT_NAME_NEW, REPORT_METRIC, REPORT_CLIENT, REPORT_LATEST, REPORT_UNIT,
    REPORT_SEEN, REPORT_SQL_COUNT
};

extern const char *const REPORT_SQL[REPORT_SQL_COUNT];

#define OP_STATEMENTS 9
#define NAME_CACHE 256
#define RUN_CACHE 64

/* A run whose reports are being written: what they need of its rows, and what is still to be written into them. */
struct reported_run {
    int64_t run; /* 0: empty */
    int64_t experiment, number, trial;
    int64_t last_seq, last_us;
    char *metric; /* the searcher's; NULL: none */
    bool has_latest, has_unit, has_seen;
    double latest, latest_unit, unit;
    int latest_status;
};

struct applier {
    sqlite3 *db;
    sqlite3_stmt *ops[OP_COUNT][OP_STATEMENTS];
    sqlite3_stmt *report[REPORT_SQL_COUNT];
    struct {
        char *name; /* NULL: empty */
        size_t length;
        int64_t id;
    } names[NAME_CACHE]; /* metric names to their ids; forgotten at a rollback */
    struct reported_run runs[RUN_CACHE];
    size_t runs_n; /* that are not empty */
};

int applier_init(struct applier *applier, sqlite3 *db, struct error *err);
void applier_done(struct applier *applier);
/* Writes what is still owed to the rows of runs and trials: before a commit, and before any other operation. */
int applier_flush(struct applier *applier, struct error *err);
/* The transaction is rolled back. */
void applier_forget(struct applier *applier);
int apply_batch(struct applier *applier, const struct store_batch *batch, struct error *err);
int apply_report(struct applier *applier, struct cursor *cursor, struct error *err);
int run_report_sql(struct applier *applier, enum report_sql sql, struct error *err);
/* Valid until the next call; -EINVAL when the trial has no such run. */
int reported_run(struct applier *applier, int64_t experiment, int64_t number, int64_t run, struct reported_run **ret,
                 struct error *err);
/* Binds, steps to the end, resets. */
int bind_value(sqlite3_stmt *statement, int index, const struct value *value);
int run_statement(sqlite3 *db, sqlite3_stmt *statement, struct error *err, const char *what);

/* --- store.c, writer.c -------------------------------------------------------------------------------------------- */

#define READ_STATEMENTS 32 /* read_private.h names them */

struct batch_list {
    struct store_batch *first, *last;
};

struct store {
    char *path;
    bool read_only;
    void (*wake)(void *arg);
    void *wake_arg;

    /* The reading side, of the caller's thread. */
    sqlite3 *reader;
    bool immutable;
    struct stat seen;
    sqlite3_stmt *read_statements[READ_STATEMENTS]; /* made at first use */

    /* The writing side: thread, its connection, and what both sides touch, under lock. */
    sqlite3 *writer;
    struct applier applier;
    pthread_t thread;
    bool thread_runs;
    pthread_mutex_t lock;
    pthread_cond_t work, progress;
    struct batch_list submitted, finished;
    size_t unfinished; /* submitted and not yet in finished */
    bool closing, patient, held;
    bool failed;
    struct error failure;
    struct error waiting; /* code 0: it does not wait for space */

    /* A large database is checked while it is used. */
    pthread_t checker;
    bool checker_runs;
    atomic_bool stop_checking;
    struct error note;
};

void batch_list_push(struct batch_list *list, struct store_batch *batch);
int writer_start(struct store *store, struct error *err);
void writer_stop(struct store *store); /* after the last submitted batch */

/* --- read.c ------------------------------------------------------------------------------------------------------- */

void read_done(struct store *store); /* frees statements and closes the connection */

#endif
