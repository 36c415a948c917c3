/* experiment.h - the state machines of an experiment and its trials, as plain functions without loop, clock or sockets.
 * Every input (a user's verb, a granted slot, a message, a run's end) is one call with a struct turn. The call changes
 * memory, puts its writes into turn->writes and its consequences into turn->effects, which whoever drives it carries out in
 * order once the batch is on disk, and not before. Acting twice on an effect does no harm.
 *
 * The searcher is asked inside: a report at a decision unit puts the event into the journal with the report's rows; its
 * operations follow as the next journal record that names the event. experiment_restore replays: recorded operations are
 * checked against a fresh searcher and applied, an unanswered event is asked.
 *
 * Trials: QUEUED (wants slots) -> RUNNING -> WAITING (checkpointed at a rung, holds no slot) -> QUEUED ... -> COMPLETED |
 * STOPPED | CANCELED | ERROR; PAUSED by a user only. A run that dies costs a restart unless it was preempted, the
 * orchestrator was lost, the disk was full, other programs held its memory or other runs died with it; past max_restarts the trial is in ERROR and the searcher is told.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_ORCHESTRATOR_EXPERIMENT_H
#define FLEXP_ORCHESTRATOR_EXPERIMENT_H

#include "common/protocol.h"
#include "orchestrator/config/config.h"
#include "orchestrator/store/store.h"

enum experiment_state { EXPERIMENT_ACTIVE, EXPERIMENT_PAUSED, EXPERIMENT_STOPPING, EXPERIMENT_COMPLETED,
                        EXPERIMENT_CANCELED, EXPERIMENT_ERROR };
enum trial_state { TRIAL_QUEUED, TRIAL_RUNNING, TRIAL_WAITING, TRIAL_PAUSED, TRIAL_COMPLETED, TRIAL_STOPPED,
                   TRIAL_CANCELED, TRIAL_ERROR };
extern const char *const EXPERIMENT_STATE_NAMES[];
extern const char *const TRIAL_STATE_NAMES[];

enum effect_type {
    EFFECT_SEND,       /* run, message: to that run's worker (assign, evaluate, train_until, stop, preempt, release) */
    EFFECT_ACK,        /* run, seq: this one and all before it are on disk; of several only the last needs to leave */
    EFFECT_KILL,       /* run: kill its worker now; its slots come back when it is gone */
    EFFECT_FREE_SLOTS, /* run: it has ended by its own word; its worker may take the next trial in the same process */
    EFFECT_DELETE,     /* path: remove this folder or file below the home */
    EFFECT_ERASE,      /* run: the number of an experiment, of which the next piece is to be deleted (never an experiment's own) */
    EFFECT_HOOK,       /* run: the number of an experiment whose on_complete is due (never an experiment's own effect) */
    EFFECT_CHANGED     /* the experiment changed in a way that subscribers and the scheduler want to know */
};

struct effect {
    enum effect_type type;
    int64_t run, seq;
    json_t *message; /* owned */
    char *path;      /* owned */
};

struct turn {
    int64_t now_us;             /* injected */
    struct store_batch *writes; /* new at turn_init */
    struct effect *effects;
    size_t n, room;
};
void turn_init(struct turn *turn, int64_t now_us);
void turn_delete(struct turn *turn, char *path); /* takes ownership of path */
void turn_add_hook(struct turn *turn, int64_t experiment);
void turn_add_erase(struct turn *turn, int64_t experiment);
void turn_done(struct turn *turn); /* frees effects, and writes unless they were submitted (set to NULL) */

struct experiment;

/* Identifiers that are unique over all experiments come from here (the server's counters). */
struct id_source {
    int64_t (*next_run)(void *arg);
    int64_t (*next_checkpoint)(void *arg);
    void *arg;
};

/* Takes ownership of config. home: absolute path, for the folders of trials. */
int experiment_new(int64_t id, struct experiment_config *config, const char *home, const struct id_source *ids,
                   bool paused, struct turn *turn, struct experiment **ret, struct error *err);
/* Open runs of a lost orchestrator are ended (orchestrator_lost); their trials are queued again from their latest
 * checkpoint. -EINVAL when the journal does not replay (said with index, what was stored, what was computed). */
int experiment_restore(const struct stored_experiment *stored, const char *home, const struct id_source *ids,
                       struct turn *turn, struct experiment **ret, struct error *err);
void experiment_free(struct experiment *experiment);

int64_t experiment_id(const struct experiment *experiment);
enum experiment_state experiment_get_state(const struct experiment *experiment);
const struct experiment_config *experiment_get_config(const struct experiment *experiment);
bool experiment_has_ended(const struct experiment *experiment); /* state final, and no run left */

/* What the scheduler is told: trials that want slots, in the order they should get them (a restarted or preempted trial
 * before a new one, one that is to run alone before these, an evaluation of the best before all; one that other programs kept
 * from its memory after all), and those that hold some. */
struct wanted {
    int64_t trial;
    int64_t slots;
    bool alone; /* its last run died with its worker: the next one shares none, so that only who is guilty dies again; once it
                 * has come further than that, and another trial waits, it is preempted and may share again */
};
size_t experiment_wanted(const struct experiment *experiment, struct wanted *ret, size_t room);
/* The trial, or its evaluation, may be wanted again. */
bool experiment_goes_on_with(const struct experiment *experiment, int64_t trial);
/* The trial, or its evaluation, is among those wanted now. */
bool experiment_wants(const struct experiment *experiment, int64_t trial);
size_t experiment_running_n(const struct experiment *experiment);

/* Slots were granted: creates the run and its assign (or evaluate) message. slots: list such as ["cpu:0", "cpu:1"]; pid of
 * the worker and isa may be 0 and NULL where not known yet. Returns the run's id, or a negative errno. */
int64_t experiment_start_run(struct experiment *experiment, int64_t trial, const json_t *slots, int64_t pid,
                             const char *isa, struct turn *turn);
/* A message of one of this experiment's runs. A run that is no longer its trial's current one is answered `release` and
 * nothing is stored; a seq already seen is acknowledged again. -EINVAL (err) when the message makes no sense in its place:
 * the caller then kills the worker and calls experiment_run_ended. */
int experiment_message(struct experiment *experiment, const struct message *message, struct turn *turn,
                       struct error *err);
/* Whether others stand on this run's worker from now on. A death costs a restart only where the run was alone with its worker;
 * so does running out of memory. */
void experiment_note_company(struct experiment *experiment, int64_t run, bool shares);
/* The worker of this run is gone (all of it, output read to its end). reason: exit, signal, out_of_memory, lost_protocol,
 * silent, ... ; text: for a person, with the last lines of output. A run that was done already is not touched. */
void experiment_run_ended(struct experiment *experiment, int64_t run, const char *reason, const char *text,
                          struct turn *turn);
/* Lines that the worker wrote. */
void experiment_log(struct experiment *experiment, int64_t run, const char *level, const char *text, struct turn *turn);

/* Verbs. -EINVAL with what state it is in where that makes no sense. pause checkpoints at the round's end; cancel asks
 * workers to stop at the round's end, kill ends them now; both leave the experiment CANCELED. */
int experiment_pause(struct experiment *experiment, struct turn *turn, struct error *err);
int experiment_activate(struct experiment *experiment, struct turn *turn, struct error *err);
int experiment_cancel(struct experiment *experiment, struct turn *turn, struct error *err);
int experiment_kill(struct experiment *experiment, struct turn *turn, struct error *err);
/* Changes the file in force: resources.priority, resources.weight, resources.max_slots or description, to a value that the
 * table of keys allows. Journalled as config_changed. */
int experiment_set(struct experiment *experiment, const char *path, const json_t *value, struct turn *turn,
                   struct error *err);
int experiment_kill_trial(struct experiment *experiment, int64_t trial, struct turn *turn, struct error *err);
/* The scheduler wants this run's slots back: preempt message, the trial is queued again when it has checkpointed. */
void experiment_preempt(struct experiment *experiment, int64_t run, struct turn *turn);
/* time_limit: called when it has passed; running trials are stopped, the best stands. */
void experiment_time_limit(struct experiment *experiment, struct turn *turn);

#endif
