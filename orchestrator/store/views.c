/* views.c - the public interface of the database: what docs/schema.md describes and what a user's queries may lean on.
 * Times are ISO 8601 in UTC. Where runs of a trial overlap, v_metrics, v_client_metrics and v_client_rounds show the
 * value of the latest run (runs are numbered in the order they were started); see METRIC_IS_SHOWN.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/store/store_private.h"

#define TIME(c)                                                                                                       \
    "strftime('%Y-%m-%dT%H:%M:%S', " c " / 1000000, 'unixepoch') || printf('.%03dZ', " c " / 1000 % 1000)"
#define SECONDS(c) "(" c ") / 1e6"
#define STATUS(c) "CASE " c " WHEN 0 THEN 'finite' WHEN 1 THEN 'NaN' WHEN 2 THEN 'Infinity' ELSE '-Infinity' END"
#define KIND(c) "CASE " c " WHEN 0 THEN 'training' WHEN 1 THEN 'validation' ELSE 'test' END"
#define FOLDER(e, t) "'experiments/' || " e " || '/trials/' || " t

#define METRIC_COLUMNS                                                                                                \
    "t.experiment AS experiment, t.number AS trial, m.unit AS unit, n.name AS name, m.value AS value, "               \
    STATUS("m.status") " AS status, m.run AS run, m.seq AS seq, r.time_us / 1e6 AS epoch_seconds, "                   \
    TIME("r.time_us") " AS time, " KIND("m.kind") " AS kind "
/* reports is joined by its whole key, so a query that asks for no time does not pay for it. */
#define METRIC_TABLES                                                                                                 \
    "FROM metrics m JOIN trials t ON t.id = m.trial JOIN names n ON n.id = m.name "                                   \
    "LEFT JOIN reports r ON r.run = m.run AND r.seq = m.seq AND r.step = 0 "
const struct view VIEWS[] = {
    {"v_experiments",
     "CREATE VIEW v_experiments AS SELECT e.id, e.name, e.description, e.labels, e.state, e.reason, e.progress,"
     " e.searcher, e.metric, e.smaller_is_better, e.time_metric,"
     " (SELECT count(*) FROM trials t WHERE t.experiment = e.id) AS trials,"
     " e.best_trial, e.best_unit, e.best_value, " TIME("e.created_us") " AS created, " TIME("e.started_us")
     " AS started, " TIME("e.ended_us") " AS ended, " SECONDS("e.ended_us - e.created_us") " AS seconds, "
     SECONDS("e.run_us") " AS run_seconds, " SECONDS("e.slot_us") " AS slot_seconds, e.archived"
     " FROM experiments e WHERE e.deleting_us IS NULL"},

    {"v_trials",
     "CREATE VIEW v_trials AS SELECT t.experiment, t.number AS trial, t.state, t.reason, t.text, t.restarts, t.runs,"
     " t.slots, t.hyperparameters, t.unit, e.metric, t.best_value, t.best_unit, t.latest_value, t.latest_unit, "
     STATUS("t.latest_status") " AS latest_status, " TIME("t.created_us") " AS created, " TIME("t.started_us")
     " AS started, " TIME("t.ended_us") " AS ended, " SECONDS("t.run_us") " AS run_seconds, " SECONDS("t.slot_us")
     " AS slot_seconds FROM trials t JOIN experiments e ON e.id = t.experiment"},

    {"v_hyperparameters",
     "CREATE VIEW v_hyperparameters AS SELECT t.experiment, t.number AS trial, substr(h.fullkey, 3) AS name,"
     " h.atom AS value FROM trials t, json_tree(t.hyperparameters) h WHERE h.atom IS NOT NULL"},

    {"v_runs",
     "CREATE VIEW v_runs AS SELECT r.id AS run, r.experiment, t.number AS trial, r.attempt, r.slot_kind, r.slots_n,"
     " r.slots, r.pid, r.isa, r.resume_checkpoint, r.last_seq, " TIME("r.started_us") " AS started, "
     TIME("r.ended_us") " AS ended, " SECONDS("r.ended_us - r.started_us") " AS seconds, "
     SECONDS("CASE WHEN r.ended_us IS NOT NULL THEN r.slot_us END") " AS slot_seconds, r.reason, r.text, "
     FOLDER("r.experiment", "t.number") " || '/runs/' || r.id || '/output.log' AS log"
     " FROM runs r JOIN trials t ON t.id = r.trial"},

    {"v_checkpoints",
     "CREATE VIEW v_checkpoints AS SELECT c.id AS checkpoint, t.experiment, t.number AS trial, c.run, c.unit, c.units, "
     FOLDER("t.experiment", "t.number") " || '/' || c.path AS path, c.bytes, " TIME("c.created_us") " AS created, "
     TIME("c.deleted_us") " AS deleted FROM checkpoints c JOIN trials t ON t.id = c.trial"},

    {"v_reports",
     "CREATE VIEW v_reports AS SELECT t.experiment, t.number AS trial, p.run, p.seq, p.step,"
     " " KIND("p.kind") " AS kind, p.unit, p.rounds, p.epochs,"
     " p.batches, p.samples, p.seconds, " TIME("p.time_us") " AS time"
     " FROM reports p JOIN runs r ON r.id = p.run JOIN trials t ON t.id = r.trial"},

    {"v_metrics",
     "CREATE VIEW v_metrics AS SELECT " METRIC_COLUMNS METRIC_TABLES "WHERE m.client = -1 AND " METRIC_IS_SHOWN},

    {"v_client_metrics",
     "CREATE VIEW v_client_metrics AS SELECT m.client AS client, " METRIC_COLUMNS METRIC_TABLES
     "WHERE m.client >= 0 AND " METRIC_IS_SHOWN},

    {"v_client_rounds",
     "CREATE VIEW v_client_rounds AS SELECT t.experiment, t.number AS trial, c.round, c.client, c.run, c.unit,"
     " c.samples,"
     " c.seconds, c.status, c.train_loss, c.train_accuracy, c.validation_loss, c.validation_accuracy, c.validation_f1,"
     " c.validation_precision, c.validation_recall, c.non_finite FROM client_rounds c JOIN trials t ON t.id = c.trial"
     " WHERE NOT EXISTS (SELECT 1 FROM client_rounds o WHERE o.trial = c.trial AND o.round = c.round"
     " AND o.client = c.client AND o.run > c.run)"},

    {"v_best",
     "CREATE VIEW v_best AS SELECT e.id AS experiment, e.name, e.state, e.metric, e.best_value AS value,"
     " e.best_trial AS trial, e.best_unit AS unit, t.hyperparameters, e.best_metrics AS metrics, "
     FOLDER("e.id", "e.best_trial") " || '/' || c.path AS checkpoint,"
     " (SELECT r.metrics FROM test_results r WHERE r.trial = t.id ORDER BY r.by = 'best' DESC, r.id DESC LIMIT 1)"
     " AS test_metrics FROM experiments e JOIN trials t ON t.experiment = e.id AND t.number = e.best_trial"
     " LEFT JOIN checkpoints c ON c.id = e.best_checkpoint"},

    {"v_tests",
     "CREATE VIEW v_tests AS SELECT t.experiment, t.number AS trial, r.run, r.unit, m.key AS name, m.value AS value,"
     " r.by, "
     TIME("r.time_us") " AS time FROM test_results r JOIN trials t ON t.id = r.trial, json_each(r.metrics) m"},

    {"v_journal",
     "CREATE VIEW v_journal AS SELECT experiment, idx, kind, answers, body, " TIME("time_us") " AS time FROM journal"},

    {"v_logs",
     "CREATE VIEW v_logs AS SELECT l.id, l.experiment, t.number AS trial, l.run, l.level, l.text, " TIME("l.time_us")
     " AS time FROM logs l LEFT JOIN trials t ON t.id = l.trial"},

    {"v_usage",
     "CREATE VIEW v_usage AS SELECT r.experiment, t.number AS trial, u.run, u.cpu_cores, u.memory_bytes, u.gpu,"
     " u.gpu_memory_bytes, u.time_us / 1e6 AS epoch_seconds, " TIME("u.time_us") " AS time"
     " FROM usage u JOIN runs r ON r.id = u.run JOIN trials t ON t.id = r.trial"},

    {NULL, NULL},
};
