/* trial.c - the state machine of one trial.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/experiment/experiment_private.h"
#include "common/file.h"

#include <stdlib.h>
#include <string.h>

const char *const TRIAL_STATE_NAMES[] = {"queued",    "running", "waiting",  "paused",
                                         "completed", "stopped", "canceled", "error"};

static void push(int64_t **list, size_t *n, size_t *room, int64_t value)
{
    if (*n == *room) {
        *room = *room ? 2 * *room : 8;
        *list = must(realloc(*list, *room * sizeof **list));
    }
    (*list)[(*n)++] = value;
}

struct trial *trial_add(struct experiment *experiment, json_t *hyperparameters)
{
    struct trial *trial = must(calloc(1, sizeof *trial));

    if (experiment->trials_n == experiment->trials_room) {
        experiment->trials_room = experiment->trials_room ? 2 * experiment->trials_room : 16;
        experiment->trials = must(realloc(experiment->trials, experiment->trials_room * sizeof *experiment->trials));
    }
    experiment->trials[experiment->trials_n++] = trial;
    trial->number = (int64_t)experiment->trials_n;
    trial->hyperparameters = must(hyperparameters ? json_incref(hyperparameters) : json_object());
    trial->told = -1;
    trial->state = TRIAL_WAITING;
    experiment->state_n[TRIAL_WAITING]++;
    return trial;
}

void trial_free(struct trial *trial)
{
    if (!trial)
        return;
    while (trial->checkpoints_n)
        trial_drop_checkpoint(trial, trial->checkpoints_n - 1);
    free(trial->checkpoints);
    run_free(trial->run);
    json_decref(trial->hyperparameters);
    free(trial);
}

struct trial_ref trial_ref(const struct experiment *experiment, const struct trial *trial)
{
    return (struct trial_ref){.experiment = experiment->id, .number = trial->number};
}

char *trial_path(const struct experiment *experiment, const struct trial *trial, const char *path)
{
    return must(format_text("%s/experiments/%lld/trials/%lld%s%s", experiment->home, (long long)experiment->id,
                            (long long)trial->number, *path ? "/" : "", path));
}

bool trial_is_over(const struct trial *trial)
{
    return trial->state >= TRIAL_COMPLETED;
}

struct checkpoint *trial_latest(const struct trial *trial)
{
    return trial->checkpoints_n ? &trial->checkpoints[trial->checkpoints_n - 1] : NULL;
}

struct checkpoint *trial_checkpoint(const struct trial *trial, int64_t id)
{
    for (size_t i = 0; i < trial->checkpoints_n; i++)
        if (trial->checkpoints[i].id == id)
            return &trial->checkpoints[i];
    return NULL;
}

struct checkpoint *trial_add_checkpoint(struct trial *trial)
{
    if (trial->checkpoints_n == trial->checkpoints_room) {
        trial->checkpoints_room = trial->checkpoints_room ? 2 * trial->checkpoints_room : 4;
        trial->checkpoints = must(realloc(trial->checkpoints, trial->checkpoints_room * sizeof *trial->checkpoints));
    }
    trial->checkpoints[trial->checkpoints_n] = (struct checkpoint){0};
    return &trial->checkpoints[trial->checkpoints_n++];
}

void trial_drop_checkpoint(struct trial *trial, size_t index)
{
    json_decref(trial->checkpoints[index].units);
    free(trial->checkpoints[index].path);
    memmove(trial->checkpoints + index, trial->checkpoints + index + 1,
            (--trial->checkpoints_n - index) * sizeof *trial->checkpoints);
}

void trial_mark(struct experiment *experiment, struct trial *trial)
{
    if (trial->dirty)
        return;
    trial->dirty = true;
    push(&experiment->dirty, &experiment->dirty_n, &experiment->dirty_room, trial->number);
}

void trial_isolate(const struct experiment *experiment, struct trial *trial, double unit, struct turn *turn)
{
    trial->alone = true;
    trial->proven = unit > trial->proven ? unit : trial->proven;
    store_put_trial_alone(turn->writes, trial_ref(experiment, trial), true, trial->proven);
}

void running_add(struct experiment *experiment, struct trial *trial, struct run *run)
{
    trial->run = run;
    push(&experiment->running, &experiment->running_n, &experiment->running_room, trial->number);
}

void running_remove(struct experiment *experiment, struct trial *trial)
{
    size_t i = 0;

    while (experiment->running[i] != trial->number)
        i++;
    memmove(experiment->running + i, experiment->running + i + 1,
            (--experiment->running_n - i) * sizeof *experiment->running);
    run_free(trial->run);
    trial->run = NULL;
}

void trial_compact(struct trial *trial)
{
    for (size_t i = 0; i < trial->checkpoints_n; i++) {
        json_decref(trial->checkpoints[i].units);
        trial->checkpoints[i].units = NULL;
    }
    if (!trial->checkpoints_n) {
        json_decref(trial->hyperparameters);
        trial->hyperparameters = NULL;
    }
}

void trial_set_state(struct experiment *experiment, struct trial *trial, enum trial_state state, const char *reason,
                     const char *text, struct turn *turn)
{
    if (trial->stored && trial->state == state && !reason)
        return;
    experiment->state_n[trial->state]--;
    experiment->state_n[state]++;
    trial->state = state;
    trial->stored = true;
    if (trial_is_over(trial))
        trial_compact(trial);
    experiment->changed = true;
    store_put_trial_state(turn->writes, trial_ref(experiment, trial), TRIAL_STATE_NAMES[state], reason, text,
                          trial->restarts, turn->now_us);
}

/* The searcher has heard of a unit whose checkpoint was lost with the run that made it: train to it again. */
static bool owes_checkpoint(const struct trial *trial)
{
    const struct checkpoint *latest = trial_latest(trial);

    return trial->told >= 0 && !trial->excused && (!latest || latest->unit < trial->told);
}

/* After it said that it is done, the searcher answers nothing: a trial that is still to be answered is at its end. */
static bool trial_is_complete(const struct experiment *experiment, const struct trial *trial)
{
    return trial->verdict == VERDICT_COMPLETE ||
           (trial->verdict == VERDICT_NONE && experiment->search_done && trial->told >= 0);
}

/* A converged trial leaves the search when it is asked to train, and not before: were the searcher told as soon as the
 * worker said so, the trial's place in the order of results, and how it ends when it is not asked again, would depend on
 * when that message came and on whether it was lost. Its last value has been told; it stands at every later rung. */
static void exit_converged(struct experiment *experiment, struct trial *trial, struct turn *turn)
{
    trial_set_state(experiment, trial, TRIAL_COMPLETED, "converged", NULL, turn);
    search_tell(experiment,
                &(struct searcher_event){.type = EVENT_EXITED, .trial = trial->number, .exit = EXIT_CONVERGED}, turn);
}

void trial_settle(struct experiment *experiment, struct trial *trial, struct turn *turn)
{
    enum trial_state state;
    const char *reason = NULL;

    if (trial_is_over(trial) || trial->run)
        return;
    if (trial->converged && trial->verdict == VERDICT_TRAIN && !experiment->ending) {
        exit_converged(experiment, trial, turn);
        return;
    }
    if (experiment->ending == ENDING_CANCEL)
        state = TRIAL_CANCELED;
    else if (experiment->ending)
        state = TRIAL_STOPPED, reason = "time_limit";
    else if (trial->verdict == VERDICT_STOP)
        state = TRIAL_STOPPED, reason = "searcher";
    else if (trial->verdict == VERDICT_TRAIN || owes_checkpoint(trial))
        state = experiment->state == EXPERIMENT_PAUSED ? TRIAL_PAUSED : TRIAL_QUEUED;
    else if (trial_is_complete(experiment, trial))
        state = TRIAL_COMPLETED, reason = "length";
    else if (trial->verdict == VERDICT_PAUSE && experiment->search_done)
        state = TRIAL_STOPPED, reason = "not_promoted";
    else
        state = TRIAL_WAITING;
    trial_set_state(experiment, trial, state, reason, NULL, turn);
}

/* It has outlived what it was suspected of, and others wait for the slot, which it may now share with them. */
static bool may_share_again(const struct experiment *experiment, const struct run *run)
{
    return run->alone && run->unit > run->proven && experiment->config->trials_per_slot > 1 &&
           experiment->state_n[TRIAL_QUEUED];
}

void trial_advise(struct experiment *experiment, struct trial *trial, struct turn *turn)
{
    struct run *run = trial->run;
    bool reached = run->unit >= trial->told;

    if (run->told)
        return;
    if (experiment->ending || trial->verdict == VERDICT_STOP || (trial_is_complete(experiment, trial) && reached)) {
        run->told = TOLD_STOP;
        turn_tell(turn, run->id, "stop");
    } else if (experiment->state == EXPERIMENT_PAUSED || (trial->verdict == VERDICT_PAUSE && reached) ||
               may_share_again(experiment, run)) {
        run->told = TOLD_PREEMPT;
        turn_tell(turn, run->id, "preempt");
    } else if (trial->verdict == VERDICT_TRAIN && trial->until > run->train_until) {
        run->train_until = trial->until;
        turn_train_until(turn, run->id, trial->until);
    }
}

void trial_end_run(struct experiment *experiment, struct trial *trial, const char *reason, const char *text,
                   struct turn *turn)
{
    store_put_run_end(turn->writes, trial->run->id, reason, text, turn->now_us);
    if (trial->run->alone && !trial->alone)
        store_put_trial_alone(turn->writes, trial_ref(experiment, trial), false, 0);
    running_remove(experiment, trial);
    experiment->changed = true;
    trial_mark(experiment, trial);
}

void trial_fail(struct experiment *experiment, struct trial *trial, const char *reason, const char *text, bool retry,
                bool counts, struct turn *turn)
{
    bool in_search = trial->verdict != VERDICT_STOP && trial->verdict != VERDICT_COMPLETE;

    trial_mark(experiment, trial);
    if (experiment->ending || trial->verdict == VERDICT_STOP ||
        (trial->verdict != VERDICT_TRAIN && !owes_checkpoint(trial)))
        return; /* it had nothing more to do */
    if (retry && (!counts || trial->restarts < experiment->config->max_restarts)) {
        trial->restarts += counts;
        trial_set_state(experiment, trial, experiment->state == EXPERIMENT_PAUSED ? TRIAL_PAUSED : TRIAL_QUEUED,
                        reason, text, turn);
        return;
    }
    trial_set_state(experiment, trial, TRIAL_ERROR, reason, text, turn);
    if (in_search)
        search_tell(experiment,
                    &(struct searcher_event){.type = EVENT_EXITED, .trial = trial->number, .exit = EXIT_ERROR}, turn);
}
