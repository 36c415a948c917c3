/* finish.c - the end of an experiment: when nothing is left to do the best trial's best checkpoint is evaluated once on the
 * test split, checkpoints that nobody asked for are deleted, and the experiment is over.
 * A user's own program is not asked to evaluate: it may lack the capability, and its hello is not known here.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/experiment/experiment_private.h"
#include "common/file.h"

#include <stdio.h>
#include <stdlib.h>

bool experiment_is_final(const struct experiment *experiment)
{
    return experiment->state >= EXPERIMENT_COMPLETED;
}

static size_t living(const struct experiment *experiment)
{
    return experiment->state_n[TRIAL_QUEUED] + experiment->state_n[TRIAL_RUNNING] +
           experiment->state_n[TRIAL_WAITING] + experiment->state_n[TRIAL_PAUSED];
}

bool evaluation_is_wanted(const struct experiment *experiment)
{
    bool over = experiment->state == EXPERIMENT_ACTIVE ? experiment->search_done
                                                       : experiment->ending == ENDING_TIME_LIMIT;

    return over && !experiment_is_final(experiment) && !living(experiment) && experiment->best_trial &&
           !experiment->evaluated && !experiment->evaluation && !experiment->config->entrypoint;
}

static void end_evaluation_run(struct experiment *experiment, const char *reason, const char *text, struct turn *turn)
{
    if (!experiment->evaluation)
        return;
    store_put_run_end(turn->writes, experiment->evaluation->id, reason, text, turn->now_us);
    run_free(experiment->evaluation);
    experiment->evaluation = NULL;
}

void evaluation_over(struct experiment *experiment, const char *reason, const char *text, bool retry, bool counts,
                     struct turn *turn)
{
    const struct trial *best = experiment_trial(experiment, experiment->best_trial);
    int64_t run = experiment->evaluation ? experiment->evaluation->id : 0;

    end_evaluation_run(experiment, reason, text, turn);
    experiment->changed = true;
    if (experiment->evaluated || experiment->ending == ENDING_CANCEL)
        return;
    experiment->evaluation_failures += counts;
    if (retry && experiment->evaluation_failures <= experiment->config->max_restarts)
        return;
    experiment->evaluated = true;
    free(experiment->note);
    experiment->note = must(format_text("the best trial could not be evaluated on the test split: %s: %s", reason,
                                        text ? text : ""));
    store_put_log(turn->writes, trial_ref(experiment, best), run, "error", experiment->note, turn->now_us);
}

void kill_runs(struct experiment *experiment, struct turn *turn)
{
    while (experiment->running_n) {
        struct trial *trial = experiment_trial(experiment, experiment->running[0]);
        turn_effect(turn, EFFECT_KILL, trial->run->id);
        trial_end_run(experiment, trial, "killed", NULL, turn);
    }
    if (experiment->evaluation) {
        turn_effect(turn, EFFECT_KILL, experiment->evaluation->id);
        end_evaluation_run(experiment, "killed", NULL, turn);
    }
}

void finish(struct experiment *experiment, enum experiment_state state, const char *reason, struct turn *turn)
{
    if (experiment_is_final(experiment))
        return;
    kill_runs(experiment, turn);
    if (!experiment->ending)
        experiment->ending = ENDING_CANCEL;
    for (size_t i = 0; i < experiment->trials_n; i++)
        trial_settle(experiment, experiment->trials[i], turn);
    retention_at_end(experiment, turn);
    if (state == EXPERIMENT_COMPLETED)
        search_put_progress(experiment, 1.0, turn);
    experiment->state = state;
    experiment->changed = true;
    store_put_experiment_state(turn->writes, experiment->id, EXPERIMENT_STATE_NAMES[state], reason, turn->now_us);
    if (experiment->config->on_complete)
        store_put_hook(turn->writes, experiment->id, "due", NULL);
}

void finish_if_done(struct experiment *experiment, struct turn *turn)
{
    size_t failed = experiment->state_n[TRIAL_ERROR];
    char reason[160];

    if (experiment_is_final(experiment) || experiment->running_n || experiment->evaluation)
        return;
    if (experiment->ending == ENDING_CANCEL) {
        finish(experiment, EXPERIMENT_CANCELED, "canceled", turn);
        return;
    }
    if (experiment->state == EXPERIMENT_ACTIVE && !experiment->search_done &&
        living(experiment) == experiment->state_n[TRIAL_WAITING]) {
        /* Only trials that wait for a verdict, and nothing that could bring one: better to end than to wait for ever. */
        snprintf(reason, sizeof reason, "the searcher left %zu trials without a verdict", living(experiment));
        finish(experiment, EXPERIMENT_ERROR, reason, turn);
        return;
    }
    if (living(experiment))
        return;
    if ((!experiment->search_done && !experiment->ending) || evaluation_is_wanted(experiment))
        return;
    if (experiment->state == EXPERIMENT_PAUSED && !experiment->evaluated)
        return; /* goes on with `activate` */
    if (failed && failed == experiment->trials_n) {
        snprintf(reason, sizeof reason, "all %zu trials ended in error", failed);
        finish(experiment, EXPERIMENT_ERROR, reason, turn);
        return;
    }
    finish(experiment, EXPERIMENT_COMPLETED,
           experiment->note ? experiment->note : experiment->ending == ENDING_TIME_LIMIT ? "time_limit" : NULL, turn);
}
