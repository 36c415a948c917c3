/* run.c - a run: its making (assign or evaluate, as docs/protocol.md has them) and what is remembered of it.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/experiment/experiment_private.h"
#include "common/file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

struct run *run_new(int64_t id)
{
    struct run *run = must(calloc(1, sizeof *run));

    run->id = id;
    run->unit = -1;
    return run;
}

void run_free(struct run *run)
{
    if (!run)
        return;
    for (size_t i = 0; i < run->seen_n; i++)
        json_decref(run->seen[i].metrics);
    free(run->spent);
    free(run);
}

struct validation *run_validation(struct run *run, double unit)
{
    for (size_t i = run->seen_n; i-- > 0;)
        if (run->seen[i].unit == unit)
            return &run->seen[i];
    return NULL;
}

void run_note_validation(struct run *run, double unit, const json_t *metrics)
{
    struct validation *at = run_validation(run, unit);

    if (at) {
        json_object_update(at->metrics, (json_t *)metrics);
        return;
    }
    if (run->seen_n == VALIDATIONS_KEPT) {
        json_decref(run->seen[0].metrics);
        memmove(run->seen, run->seen + 1, --run->seen_n * sizeof *run->seen);
    }
    at = &run->seen[run->seen_n++];
    at->unit = unit;
    at->metrics = must(metrics ? json_copy((json_t *)metrics) : json_object());
    if (unit > run->unit)
        run->unit = unit;
}

void run_spend_path(struct run *run, const char *path)
{
    if (run->spent_n == run->spent_room) {
        run->spent_room = run->spent_room ? 2 * run->spent_room : 8;
        run->spent = must(realloc(run->spent, run->spent_room * sizeof *run->spent));
    }
    run->spent[run->spent_n++] = XXH3_64bits(path, strlen(path));
}

bool run_has_spent(const struct run *run, const char *path)
{
    uint64_t hash = XXH3_64bits(path, strlen(path));
    size_t i = 0;

    while (i < run->spent_n && run->spent[i] != hash)
        i++;
    return i < run->spent_n;
}

struct trial *run_find(const struct experiment *experiment, int64_t run, bool *ret_evaluation)
{
    *ret_evaluation = experiment->evaluation && experiment->evaluation->id == run;
    if (*ret_evaluation)
        return experiment_trial(experiment, experiment->best_trial);
    for (size_t i = 0; i < experiment->running_n; i++) {
        struct trial *trial = experiment_trial(experiment, experiment->running[i]);
        if (trial->run->id == run)
            return trial;
    }
    return NULL;
}

/* Takes ownership of path. */
static json_t *path_json(char *path)
{
    json_t *value = must(json_string(path));

    free(path);
    return value;
}

/* The built-in trainer gets its sections with references replaced; a user's program gets data as it stands. */
static int sections_json(const struct experiment *experiment, const struct trial *trial, json_t **ret,
                         struct error *err)
{
    const struct experiment_config *config = experiment->config;

    if (!config->entrypoint && config->sections)
        return keys_substitute(config->sections, trial->hyperparameters, ret, err);
    *ret = must(config->sections ? json_deep_copy(config->sections) : json_object());
    return 0;
}

/* From where a run goes on, and which checkpoint is the trial's best so far. */
static json_t *resume_json(const struct experiment *experiment, const struct trial *trial,
                           const struct checkpoint *resume)
{
    const struct checkpoint *best = trial->has_best ? trial_checkpoint(trial, trial->best_checkpoint) : NULL;
    json_t *row = best ? json_pack("{s:o, s:o, s:f}", "path", path_json(trial_path(experiment, trial, best->path)), "unit",
                                   unit_json(best->unit), "value", trial->best_value)
                       : json_null();

    return json_pack("{s:o, s:O, s:o}", "path", path_json(trial_path(experiment, trial, resume->path)), "units",
                     resume->units, "best", row);
}

static json_t *assign_json(const struct experiment *experiment, const struct trial *trial, const char *op,
                           const struct run *run, json_t *sections, const struct checkpoint *resume,
                           const json_t *slots)
{
    const struct experiment_config *config = experiment->config;
    json_t *message = must(json_object());
    char run_dir[40];

    snprintf(run_dir, sizeof run_dir, "runs/%lld", (long long)run->id);
    const struct {
        const char *name;
        json_t *value;
    } fields[] = {
        {"op", json_string(op)},
        {"run", json_integer(run->id)},
        {"experiment", json_integer(experiment->id)},
        {"trial", json_integer(trial->number)},
        {"attempt", json_integer(trial->attempts)},
        {"seed", json_integer((json_int_t)config->experiment_seed)},
        {"data_seed", json_integer((json_int_t)config->data_seed)},
        {"hyperparameters", json_deep_copy(trial->hyperparameters)},
        {"sections", sections},
        {"time_metric", json_string(UNIT_NAMES[config->time_metric])},
        {"train_until", unit_json(run->train_until)},
        {"max_units", unit_json(searcher_longest(experiment->searcher))},
        {"metric", json_string(config->metric)},
        {"smaller_is_better", json_boolean(config->smaller_is_better)},
        {"min_checkpoint_period", unit_json(config->min_checkpoint_period)},
        {"resume", resume ? resume_json(experiment, trial, resume) : json_null()},
        {"trial_dir", path_json(trial_path(experiment, trial, ""))},
        {"run_dir", path_json(trial_path(experiment, trial, run_dir))},
        {"cache_dir", path_json(must(format_text("%s/cache", experiment->home)))},
        {"slots", slots ? json_deep_copy(slots) : json_array()},
    };

    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        if (json_object_set_new(message, fields[i].name, fields[i].value))
            must(NULL);
    return message;
}

static int64_t start(struct experiment *experiment, struct trial *trial, bool evaluation, const json_t *slots,
                     int64_t pid, const char *isa, json_t *sections, struct turn *turn)
{
    const struct checkpoint *checkpoint =
        evaluation ? trial_checkpoint(trial, trial->best_checkpoint) : trial_latest(trial);
    struct run *run = run_new(experiment->ids.next_run(experiment->ids.arg));
    json_t *message;

    trial->attempts++;
    run->alone = trial->alone;
    run->proven = trial->proven;
    trial->excused = trial->alone = trial->squeezed = false;
    /* A trial that owes a checkpoint trains again to the unit that the searcher has heard of. */
    run->train_until = evaluation ? checkpoint->unit : trial->verdict == VERDICT_TRAIN ? trial->until : trial->told;
    if (checkpoint && !evaluation)
        run->unit = checkpoint->unit;
    store_put_run(turn->writes, run->id, trial_ref(experiment, trial), trial->attempts, slots, pid, isa,
                  checkpoint ? checkpoint->id : 0, turn->now_us);
    message = assign_json(experiment, trial, evaluation ? "evaluate" : "assign", run, sections,
                          evaluation ? NULL : checkpoint, slots);
    if (evaluation) {
        json_object_set_new(message, "split", json_string("test"));
        json_object_set_new(message, "checkpoint", path_json(trial_path(experiment, trial, checkpoint->path)));
        experiment->evaluation = run;
    } else {
        running_add(experiment, trial, run);
        trial_set_state(experiment, trial, TRIAL_RUNNING, NULL, NULL, turn);
    }
    turn_send(turn, run->id, message);
    return run->id;
}

int64_t experiment_start_run(struct experiment *experiment, int64_t number, const json_t *slots, int64_t pid,
                             const char *isa, struct turn *turn)
{
    struct trial *trial = experiment_trial(experiment, number);
    bool evaluation = evaluation_is_wanted(experiment) && number == experiment->best_trial;
    struct error err;
    json_t *sections;
    int64_t run;
    int rc;

    if (!trial)
        return -ENOENT;
    if (!evaluation && (experiment->state != EXPERIMENT_ACTIVE || trial->state != TRIAL_QUEUED))
        return -EINVAL;
    rc = sections_json(experiment, trial, &sections, &err);
    if (rc) { /* config/ has checked the references, so this is a store that was tampered with */
        if (evaluation)
            evaluation_over(experiment, "bad_configuration", err.text, false, true, turn);
        else
            trial_fail(experiment, trial, "bad_configuration", err.text, false, true, turn);
        experiment_settle(experiment, turn);
        return rc;
    }
    run = start(experiment, trial, evaluation, slots, pid, isa, sections, turn);
    experiment->changed = true;
    experiment_settle(experiment, turn);
    return run;
}
