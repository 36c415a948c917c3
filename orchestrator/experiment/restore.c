/* restore.c - an experiment as it was, from what the store holds.
 * The journal is replayed into a fresh searcher: it gives the searcher's state, the trials and the searcher's verdict on
 * each. The trials' rows give what the journal does not know: ends, restarts, checkpoints, bests. Everything else follows
 * from those (see experiment_private.h), so that restoring twice is restoring once.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/experiment/experiment_private.h"

#include <stdlib.h>
#include <string.h>

static int state_number(const char *const *names, int n, const char *name)
{
    for (int i = 0; name && i < n; i++)
        if (!strcmp(names[i], name))
            return i;
    return -1;
}

/* --- the journal -------------------------------------------------------------------------------------------------- */

struct replay {
    struct searcher_ops *answers; /* of event i, as computed now */
    bool *open;                   /* event i has not been answered in the journal yet */
};

static int replay_event(struct experiment *experiment, const struct stored_journal *record, struct replay *replay,
                        size_t at, struct error *err)
{
    struct searcher_event event;
    int rc = searcher_event_decode(record->body, &event, err);

    if (rc || (rc = searcher_answer(experiment->searcher, &event, &replay->answers[at], err)))
        return rc;
    replay->open[at] = true;
    search_note_event(experiment, &event);
    if (event.type == EVENT_CANCEL)
        experiment->ending =
            strcmp(json_string_or(record->body, "by", "user"), "time_limit") ? ENDING_CANCEL : ENDING_TIME_LIMIT;
    return 0;
}

static int replay_operations(struct experiment *experiment, const struct stored_experiment *stored,
                             struct replay *replay, size_t at, struct error *err)
{
    const struct stored_journal *record = &stored->journal[at];
    size_t event = (size_t)record->answers - 1; /* a wrong one is past the end */
    json_t *computed = NULL;
    char *had = NULL, *got = NULL;
    int rc = 0;

    if (record->answers < 1 || event >= at || !replay->open[event])
        return fail(err, -EINVAL, "operations that answer record %lld, which is no event without an answer",
                    (long long)record->answers);
    computed = must(searcher_ops_encode(&replay->answers[event]));
    had = must(json_canonical(record->body));
    got = must(json_canonical(computed));
    if (strcmp(had, got))
        rc = fail(err, -EINVAL, "stored operations %.300s, computed %.300s", had, got);
    else if (!experiment->ending)
        rc = search_apply(experiment, &replay->answers[event], NULL, err);
    replay->open[event] = false;
    free(had);
    free(got);
    json_decref(computed);
    return rc;
}

/* Journal record i is at index i + 1 of the store. The unanswered events' operations stay in replay. */
static int replay_journal(struct experiment *experiment, const struct stored_experiment *stored, struct replay *replay,
                          struct error *err)
{
    int rc = 0;

    for (size_t i = 0; i < stored->journal_n && !rc; i++) {
        const struct stored_journal *record = &stored->journal[i];
        if (record->index != (int64_t)i + 1)
            return fail(err, -EINVAL, "experiment %lld: journal record %zu is missing (%lld follows %zu)",
                        (long long)stored->id, i + 1, (long long)record->index, i);
        if (!strcmp(record->kind, "event"))
            rc = replay_event(experiment, record, replay, i, err);
        else if (!strcmp(record->kind, "operations"))
            rc = replay_operations(experiment, stored, replay, i, err);
        else if (strcmp(record->kind, "config_changed")) /* what it changed is in the stored file already */
            rc = fail(err, -EINVAL, "kind \"%s\" is not known to this version", record->kind);
        if (rc)
            return fail_prefix(err, "experiment %lld: journal record %zu", (long long)stored->id, i + 1);
    }
    experiment->journal = (int64_t)stored->journal_n;
    return 0;
}

/* --- the trials --------------------------------------------------------------------------------------------------- */

static int restore_trial(struct experiment *experiment, const struct stored_trial *stored, struct error *err)
{
    struct trial *trial = experiment_trial(experiment, stored->number);
    int state = state_number(TRIAL_STATE_NAMES, TRIAL_STATES, stored->state);

    if (!trial)
        return fail(err, -EINVAL, "experiment %lld: trial %lld is stored, but the journal does not create it",
                    (long long)experiment->id, (long long)stored->number);
    if (state < 0)
        return fail(err, -EINVAL, "trial %lld/%lld: state \"%s\" is not known to this version",
                    (long long)experiment->id, (long long)stored->number, stored->state ? stored->state : "");
    experiment->state_n[trial->state]--;
    experiment->state_n[state]++;
    trial->state = (enum trial_state)state;
    trial->stored = true;
    trial->restarts = stored->restarts;
    trial->attempts = stored->attempts;
    trial->alone = stored->alone;
    trial->proven = stored->alone ? stored->alone_past : 0;
    trial->squeezed = stored->reason && !strcmp(stored->reason, "memory_in_use");
    for (size_t i = 0; i < stored->checkpoints_n; i++) {
        const struct stored_checkpoint *from = &stored->checkpoints[i];
        struct checkpoint *to = trial_add_checkpoint(trial);
        *to = (struct checkpoint){.id = from->id,
                                  .run = from->run,
                                  .unit = from->unit,
                                  .units = json_incref(from->units),
                                  .path = must(strdup(from->path)),
                                  .has_value = from->has_value,
                                  .value = from->value};
        if (stored->has_best && stored->best_checkpoint == from->id) {
            to->has_value = true;
            to->value = stored->best_value;
        }
    }
    if (trial_latest(trial) && trial_latest(trial)->unit > trial->proven)
        trial->alone = false;
    if (stored->has_best && trial_checkpoint(trial, stored->best_checkpoint)) {
        trial->has_best = true;
        trial->best_value = stored->best_value;
        trial->best_unit = stored->best_unit;
        trial->best_checkpoint = stored->best_checkpoint;
    }
    return 0;
}

/* A run that the lost orchestrator left open is over; its worker died with its supervisor. */
static void close_run(struct experiment *experiment, const struct stored_trial *stored, struct turn *turn)
{
    if (!stored->open_run)
        return;
    store_put_run_end(turn->writes, stored->open_run, "orchestrator_lost", NULL, turn->now_us);
    experiment->changed = true;
}

/* Operations of events that were told and not answered, in order; they go on record now. */
static int answer_rest(struct experiment *experiment, const struct stored_experiment *stored, struct replay *replay,
                       struct turn *turn, struct error *err)
{
    int rc = 0;

    for (size_t i = 0; i < stored->journal_n && !rc; i++) {
        if (!replay->open[i])
            continue;
        search_put_operations(experiment, (int64_t)i + 1, &replay->answers[i], turn);
        if (!experiment->ending)
            rc = search_apply(experiment, &replay->answers[i], turn, err);
    }
    return rc;
}

static int fill(struct experiment *experiment, const struct stored_experiment *stored, struct replay *replay,
                struct turn *turn, struct error *err)
{
    int state = state_number(EXPERIMENT_STATE_NAMES, EXPERIMENT_ERROR + 1, stored->state), rc;

    if (state < 0)
        return fail(err, -EINVAL, "experiment %lld: state \"%s\" is not known to this version", (long long)stored->id,
                    stored->state ? stored->state : "");
    experiment->state = (enum experiment_state)state;
    if ((rc = searcher_new(&experiment->config->searcher, experiment->config->space, &experiment->searcher, err)) ||
        (rc = replay_journal(experiment, stored, replay, err)))
        return rc;
    for (size_t i = 0; i < stored->trials_n && !rc; i++)
        rc = restore_trial(experiment, &stored->trials[i], err);
    if (rc)
        return rc;
    for (size_t i = 0; i < experiment->trials_n; i++)
        if (!experiment->trials[i]->stored) /* the record of its creation is on disk, its row is not */
            store_put_trial(turn->writes, trial_ref(experiment, experiment->trials[i]),
                            experiment->trials[i]->hyperparameters, turn->now_us);
    if ((rc = answer_rest(experiment, stored, replay, turn, err)))
        return rc;
    if (experiment->state == EXPERIMENT_STOPPING && !experiment->ending)
        experiment->ending = ENDING_CANCEL;
    if (experiment->ending && experiment->state != EXPERIMENT_STOPPING && !experiment_is_final(experiment))
        experiment_set_state(experiment, EXPERIMENT_STOPPING, turn);
    best_find(experiment);
    experiment->evaluated = stored->tested;
    experiment->progress = searcher_progress(experiment->searcher, 0);
    if (!experiment_is_final(experiment))
        for (size_t i = 0; i < stored->trials_n; i++)
            close_run(experiment, &stored->trials[i], turn);
    for (size_t i = 0; i < experiment->trials_n; i++) {
        if (trial_is_over(experiment->trials[i]))
            trial_compact(experiment->trials[i]);
        trial_mark(experiment, experiment->trials[i]);
    }
    experiment_settle(experiment, turn);
    return 0;
}

int experiment_restore(const struct stored_experiment *stored, const char *home, const struct id_source *ids,
                       struct turn *turn, struct experiment **ret, struct error *err)
{
    struct replay replay = {must(calloc(stored->journal_n + 1, sizeof *replay.answers)),
                            must(calloc(stored->journal_n + 1, sizeof *replay.open))};
    struct experiment *experiment = NULL;
    struct experiment_config *config;
    int rc = config_from_resolved(stored->resolved, &config, err);

    if (rc)
        goto out;
    experiment = experiment_alloc(stored->id, config, home, ids);
    rc = fill(experiment, stored, &replay, turn, err);
    if (!rc) {
        *ret = experiment;
        experiment = NULL;
    }
out:
    experiment_free(experiment);
    for (size_t i = 0; i < stored->journal_n; i++)
        searcher_ops_done(&replay.answers[i]);
    free(replay.answers);
    free(replay.open);
    return rc;
}
