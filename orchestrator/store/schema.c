/* schema.c - tables and migrations. Views are in views.c. Described in docs/schema.md. A step that was released is
 * never edited: append one. Rows of metrics and client_rounds are clustered by trial, then by what a reader asks for,
 * so that a curve is one run of pages; their keys are small integers. Sums and latest values that many trials would
 * have to be scanned for are kept beside them (trials.best_value, latest_*, run_us; experiments.run_us ...), written
 * in the same transaction as what they follow from.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/store/store_private.h"

#define STRINGIFY(x) #x
#define TEXT_OF(x) STRINGIFY(x)

static const char *const FIRST[] = {
    "PRAGMA application_id=" TEXT_OF(STORE_APPLICATION_ID),

    "CREATE TABLE names (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT",

    "CREATE TABLE experiments ("
    "  id INTEGER PRIMARY KEY, name TEXT NOT NULL, description TEXT, labels TEXT NOT NULL,"
    "  searcher TEXT, metric TEXT, smaller_is_better INTEGER NOT NULL, time_metric TEXT,"
    "  state TEXT NOT NULL CHECK (state IN ('active', 'paused', 'stopping', 'completed', 'canceled', 'error')),"
    "  reason TEXT, progress REAL NOT NULL DEFAULT 0,"
    "  created_us INTEGER NOT NULL, started_us INTEGER, ended_us INTEGER,"
    "  run_us INTEGER NOT NULL DEFAULT 0, slot_us INTEGER NOT NULL DEFAULT 0," /* over runs that have ended */
    "  best_trial INTEGER, best_unit REAL, best_value REAL, best_metrics TEXT,"
    "  best_checkpoint INTEGER REFERENCES checkpoints(id) DEFERRABLE INITIALLY DEFERRED,"
    "  FOREIGN KEY (id, best_trial) REFERENCES trials(experiment, number) DEFERRABLE INITIALLY DEFERRED) STRICT",

    /* Apart, because a row that is written at every step of progress should be short. */
    "CREATE TABLE experiment_configs ("
    "  experiment INTEGER PRIMARY KEY REFERENCES experiments(id), config TEXT NOT NULL, text TEXT NOT NULL) STRICT",

    "CREATE TABLE trials ("
    "  id INTEGER PRIMARY KEY, experiment INTEGER NOT NULL REFERENCES experiments(id), number INTEGER NOT NULL,"
    "  state TEXT NOT NULL CHECK (state IN ('queued', 'running', 'waiting', 'paused', 'completed', 'stopped',"
    "    'canceled', 'error')),"
    "  reason TEXT, text TEXT, restarts INTEGER NOT NULL DEFAULT 0, runs INTEGER NOT NULL DEFAULT 0,"
    "  slots INTEGER, unit REAL, latest_unit REAL, latest_value REAL, latest_status INTEGER NOT NULL DEFAULT 0,"
    "  best_unit REAL, best_value REAL, best_status INTEGER NOT NULL DEFAULT 0,"
    "  best_checkpoint INTEGER REFERENCES checkpoints(id) DEFERRABLE INITIALLY DEFERRED,"
    "  created_us INTEGER NOT NULL, started_us INTEGER, ended_us INTEGER,"
    "  run_us INTEGER NOT NULL DEFAULT 0, slot_us INTEGER NOT NULL DEFAULT 0,"
    "  hyperparameters TEXT NOT NULL, UNIQUE (experiment, number)) STRICT",
    "CREATE INDEX trials_by_state ON trials(experiment, state, reason)",
    "CREATE INDEX trials_by_best ON trials(experiment, best_value) WHERE best_value IS NOT NULL",

    "CREATE TABLE runs ("
    "  id INTEGER PRIMARY KEY, experiment INTEGER NOT NULL REFERENCES experiments(id),"
    "  trial INTEGER NOT NULL REFERENCES trials(id), attempt INTEGER NOT NULL,"
    "  slot_kind TEXT, slots_n INTEGER NOT NULL, slots TEXT NOT NULL, pid INTEGER, isa TEXT,"
    "  resume_checkpoint INTEGER REFERENCES checkpoints(id) DEFERRABLE INITIALLY DEFERRED,"
    "  last_seq INTEGER NOT NULL DEFAULT 0, last_us INTEGER,"
    "  started_us INTEGER NOT NULL, ended_us INTEGER, reason TEXT, text TEXT) STRICT",
    "CREATE INDEX runs_by_trial ON runs(trial)",
    "CREATE INDEX runs_by_reason ON runs(experiment, reason, isa)",
    "CREATE INDEX runs_open ON runs(experiment, trial) WHERE ended_us IS NULL",

    "CREATE TABLE checkpoints ("
    "  id INTEGER PRIMARY KEY, trial INTEGER NOT NULL REFERENCES trials(id), run INTEGER NOT NULL REFERENCES runs(id),"
    "  seq INTEGER NOT NULL, unit REAL NOT NULL, units TEXT NOT NULL, path TEXT NOT NULL, bytes INTEGER NOT NULL,"
    "  created_us INTEGER NOT NULL, deleted_us INTEGER, UNIQUE (run, seq)) STRICT",
    "CREATE INDEX checkpoints_by_trial ON checkpoints(trial)",

    /* kind 0 training, 1 validation, 2 test */
    "CREATE TABLE reports ("
    "  run INTEGER NOT NULL REFERENCES runs(id), seq INTEGER NOT NULL, step INTEGER NOT NULL, kind INTEGER NOT NULL,"
    "  unit REAL NOT NULL, rounds REAL, epochs REAL, batches REAL, samples REAL, seconds REAL, time_us INTEGER NOT"
    " NULL,  PRIMARY KEY (run, seq, step)) STRICT, WITHOUT ROWID",

    /* status 0 finite, 1 NaN, 2 +infinity, 3 -infinity; where it is not 0, value is NULL */
    "CREATE TABLE metrics ("
    "  trial INTEGER NOT NULL REFERENCES trials(id), name INTEGER NOT NULL REFERENCES names(id),"
    "  client INTEGER NOT NULL, unit REAL NOT NULL, run INTEGER NOT NULL REFERENCES runs(id),"
    "  seq INTEGER NOT NULL, value REAL, status INTEGER NOT NULL DEFAULT 0 CHECK ((status = 0) = (value IS NOT NULL)),"
    "  PRIMARY KEY (trial, name, client, unit, run)) STRICT, WITHOUT ROWID",

    /* non_finite: bit i is set when column i of train_loss ... validation_recall was not finite */
    "CREATE TABLE client_rounds ("
    "  trial INTEGER NOT NULL REFERENCES trials(id), round REAL NOT NULL, client INTEGER NOT NULL,"
    "  run INTEGER NOT NULL REFERENCES runs(id), unit REAL NOT NULL, samples INTEGER, seconds REAL, status TEXT,"
    "  train_loss REAL, train_accuracy REAL, validation_loss REAL, validation_accuracy REAL, validation_f1 REAL,"
    "  validation_precision REAL, validation_recall REAL, non_finite INTEGER NOT NULL DEFAULT 0,"
    "  PRIMARY KEY (trial, round, client, run)) STRICT, WITHOUT ROWID",

    "CREATE TABLE test_results ("
    "  id INTEGER PRIMARY KEY, trial INTEGER NOT NULL REFERENCES trials(id), run INTEGER REFERENCES runs(id),"
    "  unit REAL NOT NULL, metrics TEXT NOT NULL, by TEXT NOT NULL, time_us INTEGER NOT NULL) STRICT",
    "CREATE INDEX test_results_by_trial ON test_results(trial)",

    "CREATE TABLE journal ("
    "  experiment INTEGER NOT NULL REFERENCES experiments(id), idx INTEGER NOT NULL,"
    "  kind TEXT NOT NULL CHECK (kind IN ('event', 'operations', 'config_changed', 'reopened')),"
    "  answers INTEGER, body TEXT NOT NULL, time_us INTEGER NOT NULL,"
    "  PRIMARY KEY (experiment, idx),"
    "  FOREIGN KEY (experiment, answers) REFERENCES journal(experiment, idx)) STRICT, WITHOUT ROWID",
    "CREATE TRIGGER journal_is_not_changed BEFORE UPDATE ON journal"
    "  BEGIN SELECT raise(ABORT, 'the journal is append-only'); END",
    "CREATE TRIGGER journal_is_not_shortened BEFORE DELETE ON journal"
    "  BEGIN SELECT raise(ABORT, 'the journal is append-only'); END",
    "CREATE TRIGGER journal_has_no_gaps BEFORE INSERT ON journal"
    "  WHEN NEW.idx <> 1 + coalesce((SELECT max(idx) FROM journal WHERE experiment = NEW.experiment), 0)"
    "  BEGIN SELECT raise(ABORT, 'the journal has no gaps: this index does not follow the last one'); END",

    "CREATE TABLE logs ("
    "  id INTEGER PRIMARY KEY, experiment INTEGER NOT NULL REFERENCES experiments(id),"
    "  trial INTEGER REFERENCES trials(id), run INTEGER REFERENCES runs(id), level TEXT NOT NULL, text TEXT NOT NULL,"
    "  time_us INTEGER NOT NULL) STRICT",
    "CREATE INDEX logs_by_experiment ON logs(experiment)",
    "CREATE INDEX logs_by_trial ON logs(trial)",
    NULL,
};

/* Archived experiments; deleted ones, whose numbers are never given out again. */
static const char *const SECOND[] = {
    "ALTER TABLE experiments ADD COLUMN archived INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE experiments ADD COLUMN deleting_us INTEGER", /* not NULL: going, and in no answer */
    "CREATE TABLE deleted ("
    "  experiment INTEGER PRIMARY KEY, last_run INTEGER NOT NULL, last_checkpoint INTEGER NOT NULL,"
    "  time_us INTEGER NOT NULL) STRICT",
    "DROP TRIGGER journal_is_not_shortened",
    "CREATE TRIGGER journal_is_not_shortened BEFORE DELETE ON journal"
    "  WHEN (SELECT deleting_us FROM experiments WHERE id = OLD.experiment) IS NULL"
    "  BEGIN SELECT raise(ABORT, 'the journal is append-only'); END",
    NULL,
};

/* What runs used; the command that on_complete names: due when the experiment's end is committed, until it has ended. */
static const char *const THIRD[] = {
    "CREATE TABLE usage ("
    "  run INTEGER NOT NULL REFERENCES runs(id), time_us INTEGER NOT NULL, cpu_cores REAL NOT NULL,"
    "  memory_bytes INTEGER NOT NULL, gpu REAL, gpu_memory_bytes INTEGER, PRIMARY KEY (run, time_us)) STRICT, WITHOUT ROWID",
    "ALTER TABLE experiments ADD COLUMN hook TEXT CHECK (hook IN ('due', 'done', 'failed'))",
    "ALTER TABLE experiments ADD COLUMN hook_text TEXT",
    NULL,
};

/* What training and validation report under one name are two values. kind as in reports. Views are made anew behind
 * this. */
static const char *const FOURTH[] = {
    "DROP VIEW IF EXISTS v_metrics",
    "DROP VIEW IF EXISTS v_client_metrics",
    "ALTER TABLE metrics RENAME TO metrics_3",
    "CREATE TABLE metrics ("
    "  trial INTEGER NOT NULL REFERENCES trials(id), name INTEGER NOT NULL REFERENCES names(id),"
    "  client INTEGER NOT NULL, unit REAL NOT NULL, run INTEGER NOT NULL REFERENCES runs(id), kind INTEGER NOT NULL,"
    "  seq INTEGER NOT NULL, value REAL, status INTEGER NOT NULL DEFAULT 0 CHECK ((status = 0) = (value IS NOT NULL)),"
    "  PRIMARY KEY (trial, name, client, unit, run, kind)) STRICT, WITHOUT ROWID",
    "INSERT INTO metrics (trial, name, client, unit, run, kind, seq, value, status) SELECT trial, name, client, unit,"
    " run, coalesce((SELECT r.kind FROM reports r WHERE r.run = m.run AND r.seq = m.seq LIMIT 1), 0), seq, value, status"
    " FROM metrics_3 m",
    "DROP TABLE metrics_3",
    NULL,
};

/* How often the command of on_complete was due: at the end, and at each start of an orchestrator that found it so. */
static const char *const FIFTH[] = {
    "ALTER TABLE experiments ADD COLUMN hook_tries INTEGER NOT NULL DEFAULT 0",
    NULL,
};

/* A trial whose next run shares its worker with none, and the unit past which it may again (NULL: none). */
static const char *const SIXTH[] = {
    "ALTER TABLE trials ADD COLUMN alone INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE trials ADD COLUMN alone_past REAL",
    NULL,
};

/* Slots that runs share count once. */
static const char *const SEVENTH[] = {
    "ALTER TABLE runs ADD COLUMN slot_us INTEGER NOT NULL DEFAULT 0", /* when it has ended */
    "CREATE INDEX runs_by_slots ON runs(experiment, slots, " RUN_ENDS("") ")",
    "UPDATE runs SET slot_us = " RUN_SLOT_US("runs", "runs.ended_us") " WHERE ended_us > started_us",
    "UPDATE trials SET slot_us = (SELECT coalesce(sum(r.slot_us), 0) FROM runs r WHERE r.trial = trials.id)",
    "UPDATE experiments SET slot_us = (SELECT coalesce(sum(r.slot_us), 0) FROM runs r WHERE r.experiment = experiments.id)",
    NULL,
};

const struct migration MIGRATIONS[] = {{1, FIRST}, {2, SECOND}, {3, THIRD}, {4, FOURTH}, {5, FIFTH}, {6, SIXTH}, {7, SEVENTH}, {0, NULL}};
