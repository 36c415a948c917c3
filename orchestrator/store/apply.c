/* apply.c - carrying out a batch's operations; on the writer's thread. An operation is up to OP_STATEMENTS statements,
 * all bound with the same values in the order in which put.c wrote them (?1 is the first).
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/store/store_private.h"

#include <stdlib.h>
#include <string.h>

#define THE_TRIAL "(SELECT id FROM trials WHERE experiment = ?1 AND number = ?2)"
/* A run's end is told once; a second telling changes nothing. Where the clock was set back between two orchestrators, nothing
 * ends before it began. */
#define RUN_TIME(table)                                                                                               \
    "UPDATE " table " SET run_us = run_us + max(0, ?4 - r.started_us), slot_us = " table ".slot_us + r.slot_us "       \
    "FROM runs r WHERE r.id = ?1 AND r.ended_us IS NULL AND " table ".id = r."

#define OPEN_RUN_TIME                                                                                                 \
    "(SELECT trial, experiment, sum(max(coalesce(last_us, 0) - started_us, 0)) AS run, sum(slot_us) AS slot"          \
    " FROM runs WHERE experiment = ?1 AND ended_us IS NULL "
#define LAST_HEARD "max(coalesce(runs.last_us, 0), runs.started_us)"

static const struct op_row {
    const char *name;
    int values;
    bool must_change; /* the first statement finds its row, or the caller has named something that is not there */
    const char *sql[OP_STATEMENTS];
} OPS[OP_COUNT] = {
    [OP_EXPERIMENT] = {"experiment", 12, true,
        {"INSERT INTO experiments (id, name, description, labels, searcher, metric, smaller_is_better, time_metric,"
         " state, created_us) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?11, ?12)",
         "INSERT INTO experiment_configs (experiment, config, text) VALUES (?1, ?9, ?10)"}},
    [OP_EXPERIMENT_STATE] = {"experiment_state", 4, true,
        {"UPDATE experiments SET state = ?2, reason = ?3, ended_us = max(?4, created_us) WHERE id = ?1"}},
    [OP_EXPERIMENT_PROGRESS] = {"experiment_progress", 2, true,
        {"UPDATE experiments SET progress = max(progress, ?2) WHERE id = ?1"}},
    [OP_EXPERIMENT_BEST] = {"experiment_best", 5, true,
        {"UPDATE experiments SET best_trial = ?2, best_unit = ?3, best_metrics = ?4, best_checkpoint = ?5 WHERE id = ?1",
         /* not told: what was reported; the latest run's where runs overlap */
         "UPDATE experiments SET best_metrics = (SELECT json_group_object(n.name, CASE m.status WHEN 0 THEN m.value"
         " WHEN 1 THEN 'NaN' WHEN 2 THEN 'Infinity' ELSE '-Infinity' END) FROM metrics m JOIN names n ON n.id = m.name"
         " WHERE m.trial = " THE_TRIAL " AND m.client = -1 AND m.unit = ?3 AND m.kind = 1 AND " METRIC_IS_SHOWN ")"
         " WHERE id = ?1 AND ?2 IS NOT NULL AND ?4 IS NULL",
         "UPDATE experiments SET best_value = (SELECT j.value FROM json_each(best_metrics) j WHERE j.key = metric AND"
         " j.type IN ('integer', 'real')) WHERE id = ?1"}},
    [OP_TRIAL] = {"trial", 4, true,
        {"INSERT INTO trials (experiment, number, hyperparameters, state, created_us)"
         " VALUES (?1, ?2, ?3, 'queued', ?4)"}},
    [OP_TRIAL_STATE] = {"trial_state", 7, true,
        {"UPDATE trials SET state = ?3, reason = ?4, text = ?5, restarts = ?6,"
         " started_us = CASE WHEN started_us IS NULL AND ?3 = 'running' THEN max(?7, created_us) ELSE started_us END,"
         " ended_us = CASE WHEN ?3 IN ('completed', 'stopped', 'canceled', 'error') THEN max(?7, created_us, coalesce(started_us, 0)) END"
         " WHERE experiment = ?1 AND number = ?2"}},
    [OP_TRIAL_ALONE] = {"trial_alone", 4, true,
        {"UPDATE trials SET alone = ?3, alone_past = ?4 WHERE experiment = ?1 AND number = ?2"}},
    [OP_TRIAL_BEST] = {"trial_best", 6, true,
        {"UPDATE trials SET best_value = ?3, best_status = ?4, best_unit = ?5, best_checkpoint = ?6"
         " WHERE experiment = ?1 AND number = ?2"}},
    [OP_RUN] = {"run", 11, true,
        {"INSERT INTO runs (experiment, trial, id, attempt, slot_kind, slots_n, slots, pid, isa, resume_checkpoint,"
         " started_us) VALUES (?1, " THE_TRIAL ", ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
         "UPDATE trials SET runs = runs + 1, slots = ?6 WHERE experiment = ?1 AND number = ?2",
         "UPDATE experiments SET started_us = max(?11, created_us) WHERE id = ?1 AND started_us IS NULL"}},
    [OP_RUN_END] = {"run_end", 4, false,
        {"UPDATE runs SET slot_us = " RUN_SLOT_US("runs", "?4") " WHERE id = ?1 AND ended_us IS NULL",
         RUN_TIME("trials") "trial", RUN_TIME("experiments") "experiment",
         "UPDATE runs SET reason = ?2, text = ?3, ended_us = max(?4, started_us) WHERE id = ?1 AND ended_us IS NULL"}},
    [OP_CHECKPOINT] = {"checkpoint", 10, false, /* a message that came twice is the same row */
        {"INSERT INTO checkpoints (trial, id, run, seq, unit, units, path, bytes, created_us)"
         " VALUES (" THE_TRIAL ", ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) ON CONFLICT (run, seq) DO NOTHING",
         "UPDATE runs SET last_seq = max(last_seq, ?5), last_us = max(coalesce(last_us, 0), ?10) WHERE id = ?4"}},
    [OP_CHECKPOINT_DELETED] = {"checkpoint_deleted", 2, true,
        {"UPDATE checkpoints SET deleted_us = coalesce(deleted_us, ?2) WHERE id = ?1"}},
    [OP_TEST] = {"test", 7, true,
        {"INSERT INTO test_results (trial, run, unit, metrics, by, time_us)"
         " VALUES (" THE_TRIAL ", ?3, ?4, ?5, ?6, ?7)"}},
    [OP_JOURNAL] = {"journal", 6, true,
        {"INSERT INTO journal (experiment, idx, kind, answers, body, time_us) VALUES (?1, ?2, ?3, ?4, ?5, ?6)"}},
    [OP_LOG] = {"log", 6, true,
        {"INSERT INTO logs (experiment, trial, run, level, text, time_us) VALUES (?1, " THE_TRIAL ", ?3, ?4, ?5, ?6)"}},
    [OP_EXPERIMENT_ARCHIVED] = {"experiment_archived", 2, true,
        {"UPDATE experiments SET archived = ?2 WHERE id = ?1"}},
    [OP_EXPERIMENT_CONFIG] = {"experiment_config", 3, true,
        {"UPDATE experiment_configs SET config = ?3 WHERE experiment = ?1",
         "UPDATE experiments SET description = ?2 WHERE id = ?1"}},
    [OP_DELETING] = {"deleting", 2, true,
        {"UPDATE experiments SET deleting_us = coalesce(deleting_us, ?2) WHERE id = ?1",
         "INSERT INTO deleted (experiment, last_run, last_checkpoint, time_us) SELECT ?1, coalesce((SELECT max(id) FROM"
         " runs), 0), coalesce((SELECT max(id) FROM checkpoints), 0), ?2 ON CONFLICT DO NOTHING"}},
    [OP_DELETE_TRIAL] = {"delete_trial", 2, false,
        {"DELETE FROM metrics WHERE trial = " THE_TRIAL, "DELETE FROM client_rounds WHERE trial = " THE_TRIAL,
         "DELETE FROM reports WHERE run IN (SELECT id FROM runs WHERE trial = " THE_TRIAL ")",
         "DELETE FROM usage WHERE run IN (SELECT id FROM runs WHERE trial = " THE_TRIAL ")",
         "DELETE FROM checkpoints WHERE trial = " THE_TRIAL, "DELETE FROM test_results WHERE trial = " THE_TRIAL,
         "DELETE FROM logs WHERE trial = " THE_TRIAL, "DELETE FROM runs WHERE trial = " THE_TRIAL,
         "DELETE FROM trials WHERE experiment = ?1 AND number = ?2"}},
    [OP_USAGE] = {"usage", 6, true,
        {"INSERT INTO usage (run, time_us, cpu_cores, memory_bytes, gpu, gpu_memory_bytes) VALUES (?1, ?2, ?3, ?4, ?5, ?6)"
         " ON CONFLICT DO UPDATE SET cpu_cores = ?3"}},
    [OP_HOOK] = {"hook", 3, true,
        {"UPDATE experiments SET hook = ?2, hook_text = ?3, hook_tries = hook_tries + (?2 = 'due') WHERE id = ?1"}},
    /* Its runs ended with the orchestrator that knew them, when they were heard of last. */
    [OP_ABANDONED] = {"abandoned", 2, true,
        {"UPDATE experiments SET state = 'canceled', ended_us = max(?2, created_us) WHERE id = ?1",
         "UPDATE trials SET state = 'canceled', ended_us = max(?2, created_us, coalesce(started_us, 0))"
         " WHERE experiment = ?1 AND state NOT IN ('completed', 'stopped', 'canceled', 'error')",
         "UPDATE runs SET slot_us = " RUN_SLOT_US("runs", LAST_HEARD) " WHERE experiment = ?1 AND ended_us IS NULL",
         "UPDATE trials SET run_us = run_us + r.run, slot_us = slot_us + r.slot FROM " OPEN_RUN_TIME "GROUP BY trial) r"
         " WHERE trials.id = r.trial",
         "UPDATE experiments SET run_us = run_us + r.run, slot_us = slot_us + r.slot FROM " OPEN_RUN_TIME
         "GROUP BY experiment) r WHERE experiments.id = ?1",
         "UPDATE runs SET reason = 'orchestrator_lost', ended_us = " LAST_HEARD
         " WHERE experiment = ?1 AND ended_us IS NULL"}},
    [OP_DELETE_EXPERIMENT] = {"delete_experiment", 1, false,
        {"DELETE FROM journal WHERE experiment = ?1", "DELETE FROM logs WHERE experiment = ?1",
         "DELETE FROM experiment_configs WHERE experiment = ?1", "DELETE FROM experiments WHERE id = ?1"}},
};
#define MAX_VALUES 12

int bind_value(sqlite3_stmt *statement, int index, const struct value *value)
{
    switch (value->type) {
    case VALUE_INT:
        return sqlite3_bind_int64(statement, index, value->integer);
    case VALUE_REAL:
        return sqlite3_bind_double(statement, index, value->real);
    case VALUE_TEXT: /* the batch outlives the step */
        return sqlite3_bind_text64(statement, index, value->text, value->length, SQLITE_STATIC, SQLITE_UTF8);
    case VALUE_NULL:
        break;
    }
    return sqlite3_bind_null(statement, index);
}

int run_statement(sqlite3 *db, sqlite3_stmt *statement, struct error *err, const char *what)
{
    int result, rc = 0;

    errno = 0;
    do
        result = sqlite3_step(statement);
    while (result == SQLITE_ROW);
    if (result != SQLITE_DONE)
        rc = sql_fail(db, result, err, "%s", what);
    sqlite3_reset(statement);
    sqlite3_clear_bindings(statement);
    return rc;
}

static int apply_op(struct applier *applier, enum op op, struct cursor *cursor, struct error *err)
{
    const struct op_row *row = &OPS[op];
    struct value values[MAX_VALUES];
    int rc = 0;

    for (int i = 0; i < row->values; i++)
        values[i] = cursor_value(cursor);
    for (int s = 0; s < OP_STATEMENTS && applier->ops[op][s] && !rc; s++) {
        sqlite3_stmt *statement = applier->ops[op][s];
        int n = sqlite3_bind_parameter_count(statement), result = SQLITE_OK;

        for (int i = 0; i < n && result == SQLITE_OK; i++)
            result = bind_value(statement, i + 1, &values[i]);
        if (result != SQLITE_OK)
            return sql_fail(applier->db, result, err, "%s %lld/%lld", row->name, (long long)values[0].integer,
                            (long long)values[1].integer);
        rc = run_statement(applier->db, statement, err, row->name);
        if (!rc && s == 0 && row->must_change && sqlite3_changes(applier->db) != 1)
            rc = fail(err, -EINVAL, "%s: there is no such row", row->name);
    }
    if (rc)
        fail_prefix(err, "put_%s of %lld, %lld", row->name, (long long)values[0].integer, (long long)values[1].integer);
    return rc;
}

int apply_batch(struct applier *applier, const struct store_batch *batch, struct error *err)
{
    struct cursor cursor = {batch->bytes, batch->used ? batch->bytes + batch->used : batch->bytes};
    int rc = 0;

    if (batch->broken)
        return fail(err, -ENOMEM, "out of memory while a batch was built");
    for (enum op op; !rc && (op = cursor_op(&cursor)) != OP_END;) {
        if (op == OP_REPORT) {
            rc = apply_report(applier, &cursor, err);
        } else {
            rc = applier_flush(applier, err);
            if (!rc)
                rc = apply_op(applier, op, &cursor, err);
        }
    }
    return rc;
}

int applier_init(struct applier *applier, sqlite3 *db, struct error *err)
{
    int rc = 0;

    applier->db = db;
    for (int op = 0; op < OP_COUNT && !rc; op++)
        for (int s = 0; s < OP_STATEMENTS && OPS[op].sql[s] && !rc; s++)
            rc = sql_prepare(db, OPS[op].sql[s], &applier->ops[op][s], err);
    for (int s = 0; s < REPORT_SQL_COUNT && !rc; s++)
        rc = sql_prepare(db, REPORT_SQL[s], &applier->report[s], err);
    return rc;
}


void applier_done(struct applier *applier)
{
    for (int op = 0; op < OP_COUNT; op++)
        for (int s = 0; s < OP_STATEMENTS; s++)
            sqlite3_finalize(applier->ops[op][s]);
    for (int s = 0; s < REPORT_SQL_COUNT; s++)
        sqlite3_finalize(applier->report[s]);
    applier_forget(applier);
    memset(applier, 0, sizeof *applier);
}
