/* read_sql.c - the statements that read, by name. Budgets are for 10,000 trials with 100 reports each.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/store/read_private.h"

/* A run that goes on counts until its latest report, as in an experiment's timings. By the index runs_open. */
#define OPEN_RUN_US(us)                                                                                               \
    "(SELECT coalesce(sum(" us "), 0) FROM runs r WHERE r.experiment = t.experiment AND r.trial = t.id AND"           \
    " r.ended_us IS NULL)"
#define TRAINED_US "max(r.last_us - r.started_us, 0)"
/* As trial_row() reads them. */
#define TRIAL_COLUMNS                                                                                                 \
    "t.number, t.state, t.reason, t.text, t.hyperparameters, t.restarts, t.runs, t.slots, t.unit, t.best_value,"      \
    " t.best_status, t.best_unit, t.latest_value, t.latest_status, t.latest_unit, t.created_us, t.started_us,"        \
    " t.ended_us, t.run_us + " OPEN_RUN_US(TRAINED_US) ", t.slot_us + " OPEN_RUN_US(RUN_SLOT_US("r", "r.last_us"))      \
    ", t.id"
#define DELETED_FILES(deleted)                                                                                        \
    "SELECT t.experiment, t.number, c.path FROM checkpoints c JOIN trials t ON t.id = c.trial"                        \
    " WHERE c.id > (SELECT max(id) FROM checkpoints) - 5000 AND c.deleted_us " deleted
#define LOG_COLUMNS "l.id, l.time_us, t.number, l.run, l.level, l.text FROM logs l LEFT JOIN trials t ON t.id = l.trial"

const char *const READ_SQL[READ_SQL_COUNT] = {
    /* 50 experiments of 10,000 trials: 30 ms, over an index */
    [READ_EXPERIMENTS] =
        "SELECT e.id, e.name, e.state, e.reason, e.progress, e.searcher, e.metric, e.smaller_is_better, e.labels,"
        " e.created_us, e.started_us, e.ended_us, e.best_trial, e.best_value, e.best_unit, e.description, e.archived FROM"
        " experiments e WHERE e.deleting_us IS NULL AND (?1 OR e.ended_us IS NULL OR e.id IN (SELECT id FROM experiments"
        " WHERE NOT archived AND deleting_us IS NULL ORDER BY id DESC LIMIT ?2)) ORDER BY e.id",
    [READ_EXPERIMENT] =
        "SELECT e.id, e.name, e.description, e.labels, e.state, e.reason, e.progress, e.searcher, e.metric,"
        " e.smaller_is_better, e.time_metric, e.created_us, e.started_us, e.ended_us, e.run_us, e.slot_us,"
        " e.best_trial,"
        " e.best_unit, e.best_value, e.best_metrics, e.best_checkpoint, c.config, c.text, e.archived, e.hook, e.hook_text FROM experiments e"
        " JOIN experiment_configs c ON c.experiment = e.id WHERE e.id = ?1 AND e.deleting_us IS NULL",
    [READ_STATE_COUNTS] = "SELECT state, count(*) FROM trials WHERE experiment = ?1 GROUP BY state", /* 1 ms */
    [READ_FAILURES] = "SELECT coalesce(reason, 'unknown'), count(*) FROM trials WHERE experiment = ?1 AND state ="
                      " 'error' GROUP BY 1 ORDER BY 2 DESC, 1",
    /* the text is the first one's; over an index */
    [READ_SQUEEZED] = "SELECT min(number), text, count(*) FROM trials WHERE experiment = ?1 AND state = 'queued' AND"
                      " reason = 'memory_in_use'",
    [READ_RUN_REASONS] = "SELECT reason, isa, count(*) FROM runs WHERE experiment = ?1 GROUP BY reason, isa", /* 2 ms */
    [READ_TOP_SMALLER] = "SELECT " TRIAL_COLUMNS " FROM trials t WHERE t.experiment = ?1 AND t.best_value IS NOT NULL"
                         " ORDER BY t.best_value, t.number LIMIT ?2",
    [READ_TOP_LARGER] = "SELECT " TRIAL_COLUMNS " FROM trials t WHERE t.experiment = ?1 AND t.best_value IS NOT NULL"
                        " ORDER BY t.best_value DESC, t.number LIMIT ?2",
    [READ_TRIALS] = "SELECT " TRIAL_COLUMNS " FROM trials t WHERE t.experiment = ?1 ORDER BY t.number",
    [READ_TRIAL] = "SELECT " TRIAL_COLUMNS ", t.best_checkpoint, e.metric FROM trials t JOIN experiments e"
                   " ON e.id = t.experiment WHERE t.experiment = ?1 AND t.number = ?2 AND e.deleting_us IS NULL",
    [READ_TEST] = "SELECT r.metrics, r.unit, r.by, r.time_us FROM test_results r JOIN trials t ON t.id = r.trial"
                  " WHERE t.experiment = ?1 AND t.number = ?2 ORDER BY r.by = 'best' DESC, r.id DESC LIMIT ?3",
    [READ_ROUND] = "SELECT p.rounds FROM checkpoints c JOIN reports p ON p.run = c.run WHERE c.id = ?1 AND p.unit = ?2"
                   " AND p.rounds IS NOT NULL LIMIT 1",
    [READ_OPEN_RUN_TIME] = "SELECT coalesce(sum(r.last_us - r.started_us), 0), coalesce(sum(" RUN_SLOT_US("r", "r.last_us")
                           "), 0), coalesce(max(r.last_us), (SELECT max(last_us) FROM runs WHERE experiment = ?1))"
                           " FROM runs r WHERE r.experiment = ?1 AND r.ended_us IS NULL", /* 10 ms when it has ended */
    [READ_RUNS] = "SELECT r.id, r.attempt, r.slots, r.pid, r.isa, r.resume_checkpoint, r.started_us, r.ended_us,"
                  " r.reason, r.text, u.cpu, u.memory, u.gpu, u.gpu_memory FROM runs r LEFT JOIN (SELECT run, avg(cpu_cores) AS cpu,"
                  " max(memory_bytes) AS memory, avg(gpu) AS gpu, max(gpu_memory_bytes) AS gpu_memory FROM usage"
                  " WHERE run IN (SELECT id FROM runs WHERE trial = ?1) GROUP BY run) u ON u.run = r.id"
                  " WHERE r.trial = ?1 ORDER BY r.id",
    [READ_CHECKPOINTS] = "SELECT id, run, unit, path, bytes, created_us, deleted_us FROM checkpoints WHERE trial = ?1"
                         " ORDER BY id",
    [READ_CHECKPOINT] = "SELECT t.experiment, t.number, c.path, c.unit, c.bytes FROM checkpoints c JOIN trials t"
                        " ON t.id = c.trial WHERE c.id = ?1 AND c.deleted_us IS NULL",
    [READ_METRIC] = "SELECT metric, smaller_is_better FROM experiments WHERE id = ?1 AND deleting_us IS NULL",
    [READ_NO_EXPERIMENT] = "SELECT EXISTS (SELECT 1 FROM deleted WHERE experiment = ?1 UNION ALL SELECT 1 FROM experiments"
                           " WHERE id = ?1 AND deleting_us IS NOT NULL),"
                           " (SELECT coalesce(max(id), 0) FROM experiments WHERE deleting_us IS NULL)",
    [READ_HIGHEST_TRIAL] = "SELECT coalesce((SELECT max(number) FROM trials WHERE experiment = e.id), 0)"
                           " FROM experiments e WHERE e.id = ?1 AND e.deleting_us IS NULL",
    /* Jumps from name to name, so that a trial of a million client rows costs as little as a small one. */
    [READ_NAMES] = "WITH RECURSIVE found(id) AS (SELECT min(name) FROM metrics WHERE trial = ?1 UNION ALL SELECT"
                   " (SELECT min(m.name) FROM metrics m WHERE m.trial = ?1 AND m.name > found.id) FROM found"
                   " WHERE found.id IS NOT NULL) SELECT n.id, n.name FROM found JOIN names n ON n.id = found.id"
                   " ORDER BY n.name",
    [READ_LATEST] = "SELECT value, status, unit FROM metrics WHERE trial = ?1 AND name = ?2 AND client = -1"
                    " ORDER BY unit DESC, kind = 1 DESC, kind = 0 DESC, run DESC LIMIT 1",
    [READ_CURVE] = "SELECT m.unit, m.value, m.status, m.run FROM metrics m JOIN names n ON n.id = m.name"
                   " WHERE m.trial = ?1 AND n.name = ?2 AND m.client = -1 AND " METRIC_IS_SHOWN " ORDER BY m.unit",
    [READ_METRICS] = "SELECT m.unit, m.client, m.value, m.status, m.run, r.time_us FROM metrics m"
                     " LEFT JOIN reports r ON r.run = m.run AND r.seq = m.seq AND r.step = 0"
                     " WHERE m.trial = ?1 AND m.name = ?2 AND m.client BETWEEN ?3 AND ?4 AND " METRIC_IS_SHOWN
                     " ORDER BY m.unit, m.client",
    [READ_LOGS_EXPERIMENT] = "SELECT " LOG_COLUMNS " WHERE l.experiment = ?1 AND l.id > ?2 ORDER BY l.id LIMIT ?3",
    [READ_LOGS_TRIAL] = "SELECT " LOG_COLUMNS " WHERE l.trial = ?1 AND l.id > ?2 ORDER BY l.id LIMIT ?3",
    [READ_LOAD_EXPERIMENTS] =
        "SELECT e.id, e.created_us, e.state, c.config, e.best_trial, EXISTS (SELECT 1 FROM test_results r JOIN trials t"
        " ON t.id = r.trial WHERE t.experiment = e.id AND t.number = e.best_trial AND (r.by = 'best' OR r.unit ="
        " e.best_unit)) FROM experiments e JOIN experiment_configs c ON c.experiment = e.id"
        " WHERE e.state NOT IN ('completed', 'canceled', 'error') ORDER BY e.id",
    [READ_LOAD_TRIALS] =
        "SELECT t.number, t.hyperparameters, t.state, t.reason, t.restarts, t.runs, t.best_value, t.best_status,"
        " t.best_unit, t.best_checkpoint, (SELECT max(r.id) FROM runs r WHERE r.trial = t.id AND r.ended_us IS NULL),"
        " t.id, t.alone, t.alone_past FROM trials t WHERE t.experiment = ?1 ORDER BY t.number",
    /* with the value of the searcher's metric that its own run validated at its unit */
    [READ_LOAD_CHECKPOINTS] =
        "SELECT c.id, c.run, c.unit, c.units, c.path, c.bytes, m.value, m.status FROM checkpoints c"
        " LEFT JOIN metrics m ON m.trial = c.trial AND m.client = -1 AND m.unit = c.unit AND m.run = c.run AND m.kind = 1"
        " AND m.name ="
        " (SELECT n.id FROM names n JOIN experiments e ON e.metric = n.name WHERE e.id = ?2)"
        " WHERE c.trial = ?1 AND c.deleted_us IS NULL ORDER BY c.id",
    [READ_LOAD_JOURNAL] = "SELECT idx, coalesce(answers, 0), kind, body FROM journal WHERE experiment = ?1 ORDER BY"
                          " idx",
    [READ_DELETING] = "SELECT e.id, coalesce((SELECT max(number) FROM trials WHERE experiment = e.id), 0)"
                      " FROM experiments e WHERE e.deleting_us IS NOT NULL ORDER BY e.id",
    [READ_HOOKS] = "SELECT id, hook_tries FROM experiments WHERE hook = 'due' AND deleting_us IS NULL ORDER BY id",
    /* What a crash interrupted is among the last. A path may have come again since, and be kept: a later row. */
    [READ_DELETED_FILES] = DELETED_FILES("IS NOT NULL") " EXCEPT " DELETED_FILES("IS NULL"),
};
