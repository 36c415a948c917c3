/* searcher.c - the core: from events to reports, from a scheduler's acts to operations.
 * After -ENOMEM a searcher is good for searcher_free alone; its owner starts again from the journal.
 * SPDX-License-Identifier: Apache-2.0 */
#include "searchers/searcher_private.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void searcher_ops_done(struct searcher_ops *ops)
{
    for (size_t i = 0; i < ops->n; i++)
        json_decref(ops->list[i].hyperparameters);
    free(ops->list);
    memset(ops, 0, sizeof *ops);
}

bool searcher_better(bool smaller_is_better, double a, double b)
{
    if (!isfinite(a))
        return false;
    return !isfinite(b) || (smaller_is_better ? a < b : a > b);
}

int searcher_new(const struct searcher_config *config, const struct space *space, struct searcher **ret,
                 struct error *err)
{
    struct searcher *searcher = calloc(1, sizeof *searcher);
    int rc;

    if (!searcher)
        return fail(err, -ENOMEM, "searcher: out of memory");
    rc = searcher_plan(config, space, &searcher->plan, err);
    if (rc)
        goto failed;
    searcher->scheduler = scheduler_find(config->scheduler);
    searcher->sampler = sampler_find(config->sampler);
    searcher->smaller_is_better = config->smaller_is_better;
    searcher->logical = config->logical_order;
    rc = searcher->sampler->open(config, space, &searcher->sampler_state);
    if (!rc)
        rc = searcher->scheduler->engine->open(searcher, &searcher->plan, &searcher->engine);
    if (rc) {
        fail(err, rc, "searcher: out of memory");
        goto failed;
    }
    *ret = searcher;
    return 0;
failed:
    searcher_free(searcher);
    return rc;
}

void searcher_free(struct searcher *searcher)
{
    if (!searcher)
        return;
    if (searcher->engine)
        searcher->scheduler->engine->close(searcher->engine);
    if (searcher->sampler_state)
        searcher->sampler->close(searcher->sampler_state);
    plan_done(&searcher->plan);
    free(searcher->order.heap);
    free(searcher->trials);
    free(searcher);
}

static int say(struct searcher *searcher, enum op_type type, int64_t trial, double until, json_t *hyperparameters)
{
    struct searcher_ops *ops = searcher->ops;

    if (ops->n == ops->room) {
        size_t room = ops->room ? 2 * ops->room : 8;
        struct searcher_op *list = realloc(ops->list, room * sizeof *list);
        if (!list) {
            json_decref(hyperparameters);
            return -ENOMEM;
        }
        ops->list = list;
        ops->room = room;
    }
    ops->list[ops->n++] =
        (struct searcher_op){.type = type, .trial = trial, .until = until, .hyperparameters = hyperparameters};
    return 0;
}

int searcher_create(struct searcher *searcher, double until, int64_t *ret_trial)
{
    int64_t number = (int64_t)searcher->n + 1;
    json_t *hyperparameters;
    int rc;

    if (searcher->n == searcher->room) {
        size_t room = searcher->room ? 2 * searcher->room : 64;
        struct trial *trials = realloc(searcher->trials, room * sizeof *trials);
        if (!trials)
            return -ENOMEM;
        searcher->trials = trials;
        searcher->room = room;
    }
    hyperparameters = searcher->sampler->propose(searcher->sampler_state, number);
    if (!hyperparameters)
        return -ENOMEM;
    searcher->trials[searcher->n++] = (struct trial){0};
    rc = say(searcher, OP_CREATE, number, 0, hyperparameters);
    if (!rc)
        rc = searcher_train(searcher, number, until);
    *ret_trial = number;
    return rc;
}

int searcher_train(struct searcher *searcher, int64_t number, double until)
{
    struct trial *trial = &searcher->trials[number - 1];

    trial->until = until;
    trial->training = true;
    if (searcher->logical) {
        int rc;
        trial->due = searcher->order.now + (until - trial->reached);
        rc = order_push(searcher, number);
        if (rc)
            return rc;
    }
    trial->paused = false;
    if (!trial->exited)
        searcher->ahead += until - trial->unit;
    return say(searcher, OP_TRAIN, number, until, NULL);
}

int searcher_pause(struct searcher *searcher, int64_t number)
{
    struct trial *trial = &searcher->trials[number - 1];

    if (trial->gone || trial->paused)
        return 0;
    trial->paused = true;
    return say(searcher, OP_PAUSE, number, 0, NULL);
}

static int end(struct searcher *searcher, int64_t number, enum op_type type)
{
    struct trial *trial = &searcher->trials[number - 1];

    trial->ended = true;
    return trial->gone ? 0 : say(searcher, type, number, 0, NULL);
}

int searcher_stop(struct searcher *searcher, int64_t trial)
{
    return end(searcher, trial, OP_STOP);
}

int searcher_complete(struct searcher *searcher, int64_t trial)
{
    return end(searcher, trial, OP_COMPLETE);
}

int searcher_finish(struct searcher *searcher)
{
    searcher->done = true;
    return say(searcher, OP_DONE, 0, 0, NULL);
}

int searcher_deliver(struct searcher *searcher, int64_t number, double unit, double score)
{
    struct trial *trial = &searcher->trials[number - 1];

    trial->training = false;
    if (isfinite(unit))
        trial->reached = unit;
    else
        trial->gone = true;
    return searcher->scheduler->engine->report(searcher->engine, number, unit, score);
}

/* Remembers a value; false when that unit was told before. */
static bool note(struct searcher *searcher, struct trial *trial, double unit, double value)
{
    if (unit <= trial->unit)
        return false;
    searcher->trained += unit - trial->unit;
    searcher->ahead -= fmin(unit, trial->until) - fmin(trial->unit, trial->until);
    trial->unit = unit;
    trial->value = value;
    return true;
}

static double score(const struct searcher *searcher, double value)
{
    return !isfinite(value) ? INFINITY : searcher->smaller_is_better ? value : -value;
}

static int validated(struct searcher *searcher, const struct searcher_event *event)
{
    struct trial *trial = &searcher->trials[event->trial - 1];
    int rc;

    if (trial->ended || trial->exited || !trial->training || trial->held ||
        !note(searcher, trial, event->unit, event->value) || event->unit < trial->until)
        return 0;
    if (!searcher->logical)
        return searcher_deliver(searcher, event->trial, event->unit, score(searcher, event->value));
    trial->held = true;
    trial->held_unit = event->unit;
    trial->held_score = score(searcher, event->value);
    rc = order_drain(searcher);
    /* Its verdict may wait for trials that want the very slot it stands on: it must not keep it. (Draining may have
     * moved the table of trials.) */
    return !rc && searcher->trials[event->trial - 1].held ? searcher_pause(searcher, event->trial) : rc;
}

static int exited(struct searcher *searcher, const struct searcher_event *event)
{
    struct trial *trial = &searcher->trials[event->trial - 1];

    if (trial->ended || trial->exited)
        return 0;
    if (event->exit == EXIT_CONVERGED && event->unit > 0)
        note(searcher, trial, event->unit, event->value);
    if (trial->training)
        searcher->ahead -= trial->until - fmin(trial->unit, trial->until);
    trial->exited = true;
    trial->exit_score = event->exit == EXIT_CONVERGED && trial->unit > 0 ? score(searcher, trial->value) : INFINITY;
    if (!searcher->logical || !trial->training)
        return searcher_deliver(searcher, event->trial, INFINITY, trial->exit_score);
    trial->exit_held = true;
    return order_drain(searcher);
}

static int canceled(struct searcher *searcher)
{
    for (size_t i = 0; i < searcher->n; i++)
        if (!searcher->trials[i].ended && !searcher->trials[i].exited) {
            int rc = searcher_stop(searcher, (int64_t)i + 1);
            if (rc)
                return rc;
        }
    return searcher_finish(searcher);
}

static int check_event(const struct searcher *searcher, const struct searcher_event *event, struct error *err)
{
    if (event->type == EVENT_START && searcher->started)
        return fail(err, -EINVAL, "searcher: a second start event");
    if (event->type != EVENT_VALIDATION && event->type != EVENT_EXITED)
        return 0;
    if (event->trial < 1 || (uint64_t)event->trial > searcher->n)
        return fail(err, -EINVAL, "searcher: an event about trial %lld, but %zu trials have been created",
                    (long long)event->trial, searcher->n);
    if (!isfinite(event->unit) || event->unit < 0)
        return fail(err, -EINVAL,
                    "searcher: an event about trial %lld at unit %g; a unit is a finite number, at least 0",
                    (long long)event->trial, event->unit);
    return 0;
}

int searcher_answer(struct searcher *searcher, const struct searcher_event *event, struct searcher_ops *ret,
                    struct error *err)
{
    int rc = check_event(searcher, event, err);

    if (rc || searcher->done)
        return rc;
    searcher->ops = ret;
    switch (event->type) {
    case EVENT_START:
        searcher->started = true;
        rc = searcher->scheduler->engine->start(searcher->engine);
        break;
    case EVENT_VALIDATION:
        rc = validated(searcher, event);
        break;
    case EVENT_EXITED:
        rc = exited(searcher, event);
        break;
    case EVENT_CANCEL:
        rc = canceled(searcher);
        break;
    }
    searcher->ops = NULL;
    if (rc)
        return fail(err, rc, "searcher: out of memory");
    searcher->expected = searcher->trained + searcher->ahead + searcher->scheduler->engine->expected(searcher->engine);
    searcher->progress = searcher_progress(searcher, 0);
    return 0;
}

double searcher_longest(const struct searcher *searcher)
{
    double longest = 0;

    for (size_t i = 0; i < searcher->plan.n; i++) {
        const struct bracket_plan *bracket = &searcher->plan.brackets[i];
        if (bracket->units[bracket->rungs - 1] > longest)
            longest = bracket->units[bracket->rungs - 1];
    }
    return longest;
}

/* What is left is an estimate: going on shortens it, a trial that goes further lengthens it. Never show less. */
double searcher_progress(const struct searcher *searcher, double more)
{
    double trained = searcher->trained + fmax(fmin(more, searcher->ahead), 0);

    if (searcher->done)
        return 1;
    return fmax(searcher->progress, searcher->expected > 0 ? fmin(trained / searcher->expected, 1) : 0);
}
