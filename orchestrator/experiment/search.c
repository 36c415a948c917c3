/* search.c - asking the searcher, and the journal of it.
 * An event is journalled, asked and answered in one turn: two records, the second naming the first. A store that holds the
 * first alone is still good, because restore asks what was not answered. The searcher hears the event as it reads in the
 * journal (encoded and decoded), so that a replay cannot differ from the first time.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/experiment/experiment_private.h"

#include <math.h>

void search_put_operations(struct experiment *experiment, int64_t answers, const struct searcher_ops *ops,
                           struct turn *turn)
{
    json_t *body = must(searcher_ops_encode(ops));

    store_put_journal(turn->writes, experiment->id, ++experiment->journal, "operations", answers, body, turn->now_us);
    json_decref(body);
}

void search_put_progress(struct experiment *experiment, double progress, struct turn *turn)
{
    if (progress - experiment->progress < 0.001 && !(progress >= 1 && experiment->progress < 1))
        return;
    experiment->progress = progress;
    store_put_experiment_progress(turn->writes, experiment->id, progress);
}

void search_note_progress(struct experiment *experiment, struct turn *turn)
{
    double more = 0;

    if (experiment->ending)
        return; /* the searcher is done for it was told to be, not for all was trained */
    for (size_t i = 0; i < experiment->running_n; i++) {
        const struct trial *trial = experiment_trial(experiment, experiment->running[i]);
        more += fmax(fmin(fmax(trial->run->unit, trial->run->trained), trial->until) - fmax(trial->told, 0), 0);
    }
    search_put_progress(experiment, searcher_progress(experiment->searcher, more), turn);
}

void search_note_event(struct experiment *experiment, const struct searcher_event *event)
{
    struct trial *trial = experiment_trial(experiment, event->trial);

    if (event->type == EVENT_VALIDATION && trial) {
        trial->told = event->unit;
        if (event->unit >= trial->until)
            trial->verdict = VERDICT_NONE;
    }
}

static const enum verdict VERDICTS[] = {
    [OP_TRAIN] = VERDICT_TRAIN, [OP_PAUSE] = VERDICT_PAUSE, [OP_STOP] = VERDICT_STOP, [OP_COMPLETE] = VERDICT_COMPLETE};

static int apply_one(struct experiment *experiment, const struct searcher_op *op, struct turn *turn, struct error *err)
{
    struct trial *trial;

    if (op->type == OP_DONE) {
        experiment->search_done = true;
        for (size_t i = 0; i < experiment->trials_n; i++)
            trial_mark(experiment, experiment->trials[i]); /* those that wait will not be promoted */
        return 0;
    }
    if (op->type == OP_CREATE) {
        if (op->trial != (int64_t)experiment->trials_n + 1)
            return fail(err, -EINVAL, "the searcher created trial %lld after %zu", (long long)op->trial,
                        experiment->trials_n);
        trial = trial_add(experiment, op->hyperparameters);
        if (turn)
            store_put_trial(turn->writes, trial_ref(experiment, trial), trial->hyperparameters, turn->now_us);
        trial_mark(experiment, trial);
        return 0;
    }
    trial = experiment_trial(experiment, op->trial);
    if (!trial)
        return fail(err, -EINVAL, "the searcher speaks of trial %lld, which it has not created", (long long)op->trial);
    trial->verdict = VERDICTS[op->type];
    if (op->type == OP_TRAIN)
        trial->until = op->until;
    trial_mark(experiment, trial);
    return 0;
}

int search_apply(struct experiment *experiment, const struct searcher_ops *ops, struct turn *turn, struct error *err)
{
    int rc = 0;

    for (size_t i = 0; i < ops->n && !rc; i++)
        rc = apply_one(experiment, &ops->list[i], turn, err);
    return rc;
}

/* Journals event (its body is taken over) and asks; ops are journalled but not applied. Returns the event's index. */
static int ask(struct experiment *experiment, json_t *body, struct turn *turn, struct searcher_event *ret_heard,
               struct searcher_ops *ops, struct error *err)
{
    int64_t index = ++experiment->journal;
    int rc;

    store_put_journal(turn->writes, experiment->id, index, "event", 0, must(body), turn->now_us);
    rc = searcher_event_decode(body, ret_heard, err);
    json_decref(body);
    if (!rc)
        rc = searcher_answer(experiment->searcher, ret_heard, ops, err);
    if (!rc)
        search_put_operations(experiment, index, ops, turn);
    return rc;
}

void search_tell(struct experiment *experiment, const struct searcher_event *event, struct turn *turn)
{
    struct searcher_ops ops = {0};
    struct searcher_event heard;
    struct error err;
    int rc;

    if (experiment->ending)
        return;
    rc = ask(experiment, searcher_event_encode(event), turn, &heard, &ops, &err);
    if (!rc) {
        search_note_event(experiment, &heard);
        rc = search_apply(experiment, &ops, turn, &err);
    }
    searcher_ops_done(&ops);
    if (rc)
        finish(experiment, EXPERIMENT_ERROR, err.text, turn); /* our own bug, or no memory: stop rather than guess */
    else
        search_note_progress(experiment, turn);
}

void search_cancel(struct experiment *experiment, enum ending ending, struct turn *turn)
{
    json_t *body = must(searcher_event_encode(&(struct searcher_event){.type = EVENT_CANCEL}));
    struct searcher_ops ops = {0};
    struct searcher_event heard;

    json_object_set_new(body, "by", json_string(ending == ENDING_TIME_LIMIT ? "time_limit" : "user"));
    ask(experiment, body, turn, &heard, &ops, NULL); /* whatever it answers is on record and not followed */
    searcher_ops_done(&ops);
    experiment->ending = ending;
}
