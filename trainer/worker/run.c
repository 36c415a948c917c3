/* run.c - the life of a run: set up, rounds until told to wait, the verdict, the end.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/worker/run_private.h"

#include "common/file.h"
#include "common/log.h"
#include "trainer/artifact/checkpoint.h"
#include "trainer/artifact/result.h"
#include "trainer/federation/cohort.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define CHECKPOINT_EVERY_MS 60000 /* whatever the file says: a killed trial loses no more than this */

enum verdict { GO_ON, CONVERGED, STOPPED, PREEMPTED, RELEASED };

void run_send(struct run *run, const char *op, json_t *fields)
{
    json_object_set_new(fields, "op", json_string(op));
    json_object_set_new(fields, "run", json_integer(run->id));
    json_object_set_new(fields, "seq", json_integer(++run->seq));
    connection_send(run->connection, fields);
}

void run_failed(struct run *run, int code, const struct error *err)
{
    const char *reason = run->bad_checkpoint ? "bad_checkpoint"
                         : code == -ENOMEM ? "out_of_memory"
                         : code == -ENOBUFS ? "memory_in_use"
                         : code == -EDOM ? "non_finite"
                         : code == -EINVAL ? "bad_configuration" : "error";

    run_send(run, "failed", json_pack("{s:s, s:s, s:s*}", "reason", reason, "text", err->text, "path",
                                      run->bad_checkpoint));
}

static void send_done(struct run *run, const char *reason)
{
    run_send(run, "done", json_pack("{s:s, s:o}", "reason", reason, "units", run_units(run)));
}

/* --- set-up ------------------------------------------------------------------------------------------------------ */

int run_read_assign(struct run *run, struct error *err)
{
    const json_t *assign = run->assign;
    json_t *problems;

    run->id = json_int_or(assign, "run", 0);
    run->seed = (uint64_t)json_int_or(assign, "seed", 0);
    run->trial = (uint64_t)json_int_or(assign, "trial", 0);
    run->metric = json_string_or(assign, "metric", "validation_loss");
    run->smaller_is_better = json_bool_or(assign, "smaller_is_better", metric_smaller_is_better(run->metric));
    run->trial_dir = json_string_or(assign, "trial_dir", ".");
    run->run_dir = json_string_or(assign, "run_dir", ".");
    run->until = json_double_or(assign, "train_until", 0);
    run->max_units = json_double_or(assign, "max_units", run->until);
    run->checkpoint_period = json_double_or(assign, "min_checkpoint_period", 0);
    run->checkpoint_unit = run->validation_unit = -1;
    if (unit_kind_parse(json_string_or(assign, "time_metric", "rounds"), &run->kind))
        return fail(err, -EINVAL, "searcher.time_metric: unknown unit");
    sections_resolve(json_object_get(assign, "sections"), &run->sections, &problems);
    if (json_array_size(problems)) {
        const json_t *first = json_array_get(problems, 0);
        fail(err, -EINVAL, "%s: %s", json_string_or(first, "path", ""), json_string_or(first, "text", ""));
        json_decref(problems);
        return -EINVAL;
    }
    json_decref(problems);
    return 0;
}

static int prepare_pool(struct run *run, struct error *err)
{
    const json_t *training = json_object_get(run->sections, "training");
    const json_t *federation = json_object_get(run->sections, "federation");
    bool federated = federation && json_bool_or(federation, "enabled", true);
    struct pool_settings settings = {
        .seat = run->loan.seat,
        .model = run->loan.model,
        .split = run->loan.split,
        .federated = federated,
        .augment = augment_from(json_object_get(run->sections, "data")),
        .batch = (size_t)json_int_or(training, "batch_size", 32),
        .local_epochs = federated ? json_int_or(federation, "local_epochs", 1) : 1,
        .seed = run->seed,
        .trial = run->trial,
    };
    int64_t wanted = federated ? json_int_or(federation, "clients_per_round", 0) : 0;
    int rc;

    run->cohort_n = wanted ? (size_t)wanted : run->loan.split->clients_n;
    if (run->cohort_n > run->loan.split->clients_n)
        return fail(err, -EINVAL, "federation.clients_per_round is %zu, but federation.clients is %zu", run->cohort_n,
                    run->loan.split->clients_n);
    run->validation_period = json_int_or(training, "validation_period", 1);
    run->evaluates_clients = federated && json_double_or(federation, "client_validation_fraction", 0) > 0;
    convergence_init(&run->convergence, federated ? json_object_get(federation, "convergence") : NULL);
    if ((rc = optimizer_from(training, &settings.optimizer, err)) ||
        (rc = schedule_from(training, run->max_units, &run->schedule, err)) ||
        (rc = strategy_from(federated ? json_object_get(federation, "strategy") : NULL, &settings.strategy,
                            &settings.strategy_settings, err)))
        return rc;
    return pool_new(&settings, run->cohort_n, &run->pool, err);
}

static int prepare_arrays(struct run *run, struct error *err)
{
    const struct federation_data *split = run->loan.split;
    size_t weights_n = run->loan.model->weights_n;
    int classes = run->loan.dataset->classes;
    size_t scores_n = split->validation.n * (size_t)classes + 1;

    run->validation_split = !strcmp(json_string_or(json_object_get(run->sections, "data"), "validation", "split"),
                                    "official_test")
                                ? &run->loan.dataset->test
                                : &run->loan.dataset->train;
    run->best.weights = malloc(weights_n * sizeof *run->best.weights);
    run->scores = malloc(scores_n * sizeof *run->scores);
    run->best.scores = malloc(scores_n * sizeof *run->scores);
    run->cohort = malloc(run->cohort_n * sizeof *run->cohort);
    if (!run->best.weights || !run->scores || !run->best.scores || !run->cohort ||
        evaluation_init(&run->validation, classes) || evaluation_init(&run->client, classes) ||
        evaluation_init(&run->clients, classes) || evaluation_init(&run->best.evaluation, classes))
        return fail(err, -ENOMEM, "out of memory for a model of %zu values", weights_n);
    return 0;
}

int run_prepare(struct run *run, struct error *err)
{
    const char *cache_dir = json_string_or(run->assign, "cache_dir", run->run_dir);
    int rc;

    do
        rc = session_prepare(run->session, run->sections, (uint64_t)json_int_or(run->assign, "data_seed", 0), cache_dir,
                             json_object_get(run->assign, "slots"), &run->loan, err);
    while (run_try_again(run, &rc, err));
    return rc;
}

static int set_up(struct run *run, struct error *err)
{
    const json_t *resume = json_object_get(run->assign, "resume");
    char runs_dir[4096];
    int rc;

    snprintf(runs_dir, sizeof runs_dir, "%s/runs/%lld", run->trial_dir, (long long)run->id);
    do
        rc = file_make_folder(runs_dir, err);
    while (run_try_again(run, &rc, err));
    if (rc || (rc = run_prepare(run, err)) || (rc = prepare_pool(run, err)) ||
        (rc = prepare_arrays(run, err)))
        return rc;
    if (json_is_object(resume)) {
        rc = run_resume(run, resume, err);
        if (!rc) /* a validation right here is of that round's cohort */
            cohort_draw(run->seed, run->trial, run->round, run->loan.split->clients_n, run->cohort_n, run->cohort);
        return rc;
    }
    model_init_weights(run->loan.model, run->seed, run->trial, pool_start(run->pool));
    return 0;
}

void run_tear_down(struct run *run)
{
    if (run->leaving[0].begun)
        run_leave_result(run, NULL);
    pool_free(run->pool);
    free(run->best.weights);
    free(run->scores);
    free(run->best.scores);
    free(run->cohort);
    evaluation_done(&run->validation);
    evaluation_done(&run->client);
    evaluation_done(&run->clients);
    evaluation_done(&run->best.evaluation);
    session_return(&run->loan);
    inbox_close(run->inbox);
}

/* --- the life ---------------------------------------------------------------------------------------------------- */

static int64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Takes the messages that have come (wait: at least one) and what they ask. */
static enum verdict listen(struct run *run, bool wait, bool *ret_checkpoint)
{
    struct message message;
    enum verdict verdict = GO_ON;

    while (inbox_next(run->inbox, wait, &message)) {
        if (message.op == MSG_RELEASE)
            verdict = RELEASED;
        else if (message.op == MSG_STOP && verdict != RELEASED)
            verdict = STOPPED;
        else if (message.op == MSG_PREEMPT && verdict == GO_ON)
            verdict = PREEMPTED;
        else if (message.op == MSG_TRAIN_UNTIL)
            run->until = json_double_or(message.body, "unit", run->until);
        else if (message.op == MSG_CHECKPOINT_NOW)
            *ret_checkpoint = true;
        wait = wait && message.op == MSG_ACK;
        message_done(&message);
    }
    return verdict;
}

/* Validation, checkpoint and the trial's own end, after a round. */
static int after_round(struct run *run, enum verdict *ret, struct error *err)
{
    bool due = run_unit(run) >= run->until || run->round % (uint64_t)run->validation_period == 0;
    bool improved = false, checkpoint = false;
    int rc;

    if (due && (rc = run_validate(run, &improved, err)))
        return rc;
    run->converged = run->observed && convergence_observe(&run->convergence, run->observed_value);
    run->observed = false;
    if (run->converged) {
        *ret = CONVERGED;
        if (!due && (rc = run_validate(run, &improved, err)))
            return rc;
    }
    if (*ret == GO_ON)
        *ret = listen(run, false, &checkpoint);
    if (*ret == RELEASED)
        return 0;
    checkpoint |= improved || *ret == PREEMPTED || *ret == CONVERGED || run_unit(run) >= run->until ||
                  (run->checkpoint_period > 0 &&
                   run_unit(run) - fmax(run->checkpoint_unit, 0) >= run->checkpoint_period) ||
                  now_ms() - run->checkpoint_ms >= CHECKPOINT_EVERY_MS;
    if (*ret == CONVERGED || run_unit(run) >= run->max_units)
        run_begin_result(run);
    return checkpoint ? run_checkpoint(run, err) : 0;
}

/* At the unit it was sent to: the value is reported, now the searcher decides. */
static int await_verdict(struct run *run, enum verdict *ret, struct error *err)
{
    bool improved, checkpoint = false;
    int rc;

    /* a run that resumed right here has its checkpoint, but this run has said no value yet */
    if ((rc = run_validate(run, &improved, err)) || (rc = run_checkpoint(run, err)))
        return rc;
    while (*ret == GO_ON && run_unit(run) >= run->until)
        *ret = listen(run, true, &checkpoint);
    return 0;
}

static int live(struct run *run, enum verdict *ret, struct error *err)
{
    int rc = 0;

    run->checkpoint_ms = now_ms();
    if (run->converged) { /* an earlier run of this trial ended so, but its last word was lost */
        bool improved;
        *ret = CONVERGED;
        return run_validate(run, &improved, err);
    }
    while (!rc && *ret == GO_ON) {
        if (run_unit(run) >= run->until) {
            rc = await_verdict(run, ret, err);
            continue;
        }
        rc = run_round(run, err);
        if (!rc)
            rc = after_round(run, ret, err);
    }
    return rc;
}

/* All that the run holds is given back before its last word: the next may be assigned upon it. */
static void train(struct run *run)
{
    static const char *const REASONS[] = {[CONVERGED] = "converged", [STOPPED] = "stopped", [PREEMPTED] = "preempted"};
    enum verdict verdict = GO_ON;
    struct error err = {0};
    int rc = run_read_assign(run, &err);

    if (!rc)
        rc = set_up(run, &err);
    if (!rc)
        rc = live(run, &verdict, &err);
    if (!rc && verdict != RELEASED)
        rc = run_leave_result(run, &err);
    rc = session_blame(&run->loan, run->sections, rc, &err);
    run_tear_down(run);
    if (rc == -ECANCELED || verdict == RELEASED)
        log_info("run %lld was released", (long long)run->id);
    else if (rc)
        run_failed(run, rc, &err);
    else
        send_done(run, verdict == STOPPED && run_unit(run) >= run->max_units ? "length" : REASONS[verdict]);
}

struct starting {
    struct connection *connection;
    struct session *session;
    struct message message;
};

static void *carry(void *arg)
{
    struct starting *starting = arg;
    struct run run = {.connection = starting->connection,
                      .session = starting->session,
                      .assign = starting->message.body,
                      .id = starting->message.run,
                      .inbox = connection_inbox(starting->connection, starting->message.run)};

    run.released = inbox_released(run.inbox);
    if (starting->message.op == MSG_EVALUATE)
        run_evaluate(&run);
    else
        train(&run);
    json_decref(run.sections);
    message_done(&starting->message);
    free(starting);
    return NULL;
}

void run_start(struct connection *connection, struct session *session, struct message *message)
{
    struct starting *starting = malloc(sizeof *starting);
    pthread_attr_t detached;
    pthread_t thread;

    pthread_attr_init(&detached);
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    if (starting)
        *starting = (struct starting){connection, session, *message};
    if (!starting || pthread_create(&thread, &detached, carry, starting)) {
        struct run run = {.connection = connection, .id = message->run};
        struct error err;
        inbox_close(connection_inbox(connection, message->run));
        run_failed(&run, fail(&err, -EAGAIN, "cannot start a thread"), &err);
        message_done(message);
        free(starting);
    }
    pthread_attr_destroy(&detached);
}
