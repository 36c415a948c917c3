/* experiment.c - an experiment: its making, what it tells of itself, the verbs, and the end of every turn.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/experiment/experiment_private.h"

#include <stdlib.h>
#include <string.h>

const char *const EXPERIMENT_STATE_NAMES[] = {"active", "paused", "stopping", "completed", "canceled", "error"};

struct experiment *experiment_alloc(int64_t id, struct experiment_config *config, const char *home,
                                    const struct id_source *ids)
{
    struct experiment *experiment = must(calloc(1, sizeof *experiment));

    experiment->id = id;
    experiment->config = config;
    experiment->home = must(strdup(home));
    experiment->ids = *ids;
    return experiment;
}

void experiment_free(struct experiment *experiment)
{
    if (!experiment)
        return;
    for (size_t i = 0; i < experiment->trials_n; i++)
        trial_free(experiment->trials[i]);
    free(experiment->trials);
    free(experiment->running);
    free(experiment->dirty);
    free(experiment->note);
    free(experiment->home);
    run_free(experiment->evaluation);
    searcher_free(experiment->searcher);
    config_free(experiment->config);
    free(experiment);
}

int experiment_new(int64_t id, struct experiment_config *config, const char *home, const struct id_source *ids,
                   bool paused, struct turn *turn, struct experiment **ret, struct error *err)
{
    struct experiment *experiment = experiment_alloc(id, config, home, ids);
    int rc = searcher_new(&config->searcher, config->space, &experiment->searcher, err);

    if (rc) {
        experiment_free(experiment);
        return rc;
    }
    experiment->state = paused ? EXPERIMENT_PAUSED : EXPERIMENT_ACTIVE;
    store_put_experiment(turn->writes, id, config->name, config->text, config->resolved,
                         EXPERIMENT_STATE_NAMES[experiment->state], turn->now_us);
    search_tell(experiment, &(struct searcher_event){.type = EVENT_START}, turn);
    experiment->changed = true;
    experiment_settle(experiment, turn);
    *ret = experiment;
    return 0;
}

int64_t experiment_id(const struct experiment *experiment)
{
    return experiment->id;
}

enum experiment_state experiment_get_state(const struct experiment *experiment)
{
    return experiment->state;
}

const struct experiment_config *experiment_get_config(const struct experiment *experiment)
{
    return experiment->config;
}

bool experiment_has_ended(const struct experiment *experiment)
{
    return experiment_is_final(experiment) && !experiment_running_n(experiment);
}

size_t experiment_running_n(const struct experiment *experiment)
{
    return experiment->running_n + (experiment->evaluation != NULL);
}

struct trial *experiment_trial(const struct experiment *experiment, int64_t number)
{
    return number >= 1 && (uint64_t)number <= experiment->trials_n ? experiment->trials[number - 1] : NULL;
}

enum rank { RANK_ALONE, RANK_BEGUN, RANK_NEW, RANK_SQUEEZED, RANKS };

static enum rank rank_of(const struct trial *trial)
{
    return trial->squeezed ? RANK_SQUEEZED : trial->alone ? RANK_ALONE : trial->attempts ? RANK_BEGUN : RANK_NEW;
}

static size_t list_queued(const struct experiment *experiment, enum rank rank, struct wanted *ret, size_t n, size_t room)
{
    for (size_t i = 0; i < experiment->trials_n && n < room; i++) {
        const struct trial *trial = experiment->trials[i];
        if (trial->state == TRIAL_QUEUED && rank == rank_of(trial))
            ret[n++] = (struct wanted){trial->number, experiment->config->slots_per_trial, trial->alone};
    }
    return n;
}

size_t experiment_wanted(const struct experiment *experiment, struct wanted *ret, size_t room)
{
    bool evaluate = evaluation_is_wanted(experiment);
    size_t n = 0;

    if (!ret)
        return evaluate + (experiment->state == EXPERIMENT_ACTIVE ? experiment->state_n[TRIAL_QUEUED] : 0);
    if (evaluate && room)
        ret[n++] = (struct wanted){experiment->best_trial, experiment->config->slots_per_trial, false};
    if (experiment->state != EXPERIMENT_ACTIVE || !experiment->state_n[TRIAL_QUEUED])
        return n;
    for (enum rank rank = 0; rank < RANKS; rank++)
        n = list_queued(experiment, rank, ret, n, room);
    return n;
}

bool experiment_wants(const struct experiment *experiment, int64_t number)
{
    const struct trial *trial = experiment_trial(experiment, number);

    return trial && ((number == experiment->best_trial && evaluation_is_wanted(experiment)) ||
                     (experiment->state == EXPERIMENT_ACTIVE && trial->state == TRIAL_QUEUED));
}

bool experiment_goes_on_with(const struct experiment *experiment, int64_t number)
{
    const struct trial *trial = experiment_trial(experiment, number);

    return trial && (!trial_is_over(trial) || (number == experiment->best_trial && evaluation_is_wanted(experiment)));
}

/* A trial whose value the searcher holds (order: logical) waits in its slot, unless another trial of the experiment needs
 * one: the verdict may depend on that very trial. */
static void yield_held(struct experiment *experiment, struct turn *turn)
{
    size_t coming = 0;

    for (size_t i = 0; i < experiment->running_n; i++)
        coming += experiment_trial(experiment, experiment->running[i])->run->told != TOLD_NOTHING;
    for (size_t i = experiment->running_n; i-- > 0 && coming < experiment->state_n[TRIAL_QUEUED];) {
        struct trial *trial = experiment_trial(experiment, experiment->running[i]);
        if (trial->verdict == VERDICT_NONE && !trial->run->told && trial->run->unit >= trial->told) {
            trial->run->told = TOLD_PREEMPT;
            turn_tell(turn, trial->run->id, "preempt");
            coming++;
        }
    }
}

void experiment_settle(struct experiment *experiment, struct turn *turn)
{
    if (!experiment_is_final(experiment)) {
        for (size_t i = 0; i < experiment->dirty_n; i++) {
            struct trial *trial = experiment_trial(experiment, experiment->dirty[i]);
            trial->dirty = false;
            trial_settle(experiment, trial, turn);
        }
        experiment->dirty_n = 0;
        for (size_t i = 0; i < experiment->running_n; i++)
            trial_advise(experiment, experiment_trial(experiment, experiment->running[i]), turn);
        yield_held(experiment, turn);
        if (experiment->evaluation && experiment->ending == ENDING_CANCEL && !experiment->evaluation->told) {
            experiment->evaluation->told = TOLD_STOP;
            turn_tell(turn, experiment->evaluation->id, "stop");
        }
        finish_if_done(experiment, turn);
    }
    if (experiment->changed)
        turn_effect(turn, EFFECT_CHANGED, 0);
    experiment->changed = false;
}

void experiment_set_state(struct experiment *experiment, enum experiment_state state, struct turn *turn)
{
    experiment->state = state;
    experiment->changed = true;
    store_put_experiment_state(turn->writes, experiment->id, EXPERIMENT_STATE_NAMES[state], NULL, 0);
    for (size_t i = 0; i < experiment->trials_n; i++)
        trial_mark(experiment, experiment->trials[i]);
}

static int refuse(const struct experiment *experiment, const char *verb, struct error *err)
{
    return fail(err, -EINVAL, "experiment %lld is %s: it cannot be %s", (long long)experiment->id,
                EXPERIMENT_STATE_NAMES[experiment->state], verb);
}

int experiment_pause(struct experiment *experiment, struct turn *turn, struct error *err)
{
    if (experiment->state != EXPERIMENT_ACTIVE)
        return refuse(experiment, "paused", err);
    experiment_set_state(experiment, EXPERIMENT_PAUSED, turn);
    experiment_settle(experiment, turn);
    return 0;
}

int experiment_activate(struct experiment *experiment, struct turn *turn, struct error *err)
{
    if (experiment->state != EXPERIMENT_PAUSED)
        return refuse(experiment, "activated", err);
    experiment_set_state(experiment, EXPERIMENT_ACTIVE, turn);
    experiment_settle(experiment, turn);
    return 0;
}

int experiment_cancel(struct experiment *experiment, struct turn *turn, struct error *err)
{
    if (experiment_is_final(experiment))
        return refuse(experiment, "canceled", err);
    if (experiment->ending == ENDING_CANCEL)
        return 0;
    search_cancel(experiment, ENDING_CANCEL, turn);
    experiment_set_state(experiment, EXPERIMENT_STOPPING, turn);
    experiment_settle(experiment, turn);
    return 0;
}

int experiment_kill(struct experiment *experiment, struct turn *turn, struct error *err)
{
    if (experiment_is_final(experiment))
        return refuse(experiment, "killed", err);
    if (experiment->ending != ENDING_CANCEL)
        search_cancel(experiment, ENDING_CANCEL, turn);
    finish(experiment, EXPERIMENT_CANCELED, "killed", turn);
    experiment_settle(experiment, turn);
    return 0;
}

void experiment_time_limit(struct experiment *experiment, struct turn *turn)
{
    size_t over = experiment->state_n[TRIAL_COMPLETED] + experiment->state_n[TRIAL_STOPPED] +
                  experiment->state_n[TRIAL_CANCELED] + experiment->state_n[TRIAL_ERROR];

    if (experiment_is_final(experiment) || experiment->ending ||
        (experiment->search_done && over == experiment->trials_n && experiment->state == EXPERIMENT_ACTIVE))
        return; /* ending anyway: at most the evaluation is left */
    search_cancel(experiment, ENDING_TIME_LIMIT, turn);
    experiment_set_state(experiment, EXPERIMENT_STOPPING, turn);
    experiment_settle(experiment, turn);
}

int experiment_kill_trial(struct experiment *experiment, int64_t number, struct turn *turn, struct error *err)
{
    struct trial *trial = experiment_trial(experiment, number);
    bool in_search;

    if (!trial)
        return fail(err, -ENOENT, "experiment %lld has no trial %lld: it has %zu so far", (long long)experiment->id,
                    (long long)number, experiment->trials_n);
    if (trial_is_over(trial))
        return fail(err, -EINVAL, "trial %lld/%lld is %s: it cannot be killed", (long long)experiment->id,
                    (long long)number, TRIAL_STATE_NAMES[trial->state]);
    if (trial->run) {
        turn_effect(turn, EFFECT_KILL, trial->run->id);
        trial_end_run(experiment, trial, "killed", "killed by the user", turn);
    }
    in_search = trial->verdict != VERDICT_STOP && trial->verdict != VERDICT_COMPLETE;
    trial_set_state(experiment, trial, TRIAL_CANCELED, "killed", "killed by the user", turn);
    if (in_search)
        search_tell(experiment,
                    &(struct searcher_event){.type = EVENT_EXITED, .trial = number, .exit = EXIT_KILLED}, turn);
    experiment_settle(experiment, turn);
    return 0;
}

void experiment_preempt(struct experiment *experiment, int64_t run_id, struct turn *turn)
{
    bool evaluation;
    struct trial *trial = run_find(experiment, run_id, &evaluation);
    struct run *run = evaluation ? experiment->evaluation : trial ? trial->run : NULL;

    if (!run || run->told)
        return;
    run->told = TOLD_PREEMPT;
    turn_tell(turn, run->id, "preempt");
}
