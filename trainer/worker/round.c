/* round.c - one round of a run, and its validation: what is computed becomes a report.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/worker/run_private.h"

#include "trainer/federation/cohort.h"

#include <math.h>
#include <string.h>
#include <time.h>

static double seconds_now(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

json_t *run_units(const struct run *run)
{
    json_t *units = json_object();

    for (int kind = 0; kind < UNIT_KINDS; kind++) {
        double value = run->units[kind];
        bool whole = kind != UNIT_EPOCHS && kind != UNIT_SECONDS;
        json_object_set_new(units, UNIT_NAMES[kind], whole ? json_integer((json_int_t)value) : json_real(value));
    }
    return units;
}

static json_t *training_rows(const struct run *run, const struct pool_result *result)
{
    json_t *rows = json_array();

    for (size_t i = 0; i < run->cohort_n; i++) {
        const struct client_reply *reply = &result->replies[i];
        json_t *metrics = json_object();
        json_object_set_new(metrics, "train_loss", json_from_double(reply->train_loss));
        json_object_set_new(metrics, "train_accuracy", json_from_double(reply->train_accuracy));
        json_object_set_new(metrics, "update_norm", json_from_double(reply->update_norm));
        json_array_append_new(rows, json_pack("{s:i, s:s, s:I, s:f, s:o}", "client", (int)reply->client, "status",
                                              REPLY_STATUS_NAMES[reply->status], "samples", (json_int_t)reply->samples,
                                              "seconds", reply->seconds, "metrics", metrics));
    }
    return rows;
}

static void report(struct run *run, const char *kind, json_t *metrics, json_t *rows)
{
    json_t *body = json_pack("{s:s, s:o, s:o}", "kind", kind, "units", run_units(run), "metrics", metrics);

    if (rows)
        json_object_set_new(body, "clients", rows);
    run_send(run, "report", body);
}

/* Notes the value that the convergence rule watches, where these metrics have it. */
static void observe(struct run *run, const json_t *metrics)
{
    if (run->convergence.metric &&
        json_to_double(json_object_get(metrics, run->convergence.metric), &run->observed_value))
        run->observed = true;
}

int run_round(struct run *run, struct error *err)
{
    const struct federation_data *split = run->loan.split;
    double started = seconds_now(), rate = schedule_rate(&run->schedule, run_unit(run));
    struct pool_result result;
    json_t *metrics;
    int rc;

    cohort_draw(run->seed, run->trial, run->round + 1, split->clients_n, run->cohort_n, run->cohort);
    connection_note(run->connection, run->id, "trains a round");
    rc = pool_train(run->pool,
                    &(struct pool_round){.round = run->round + 1,
                                         .cohort = run->cohort,
                                         .cohort_n = run->cohort_n,
                                         .learning_rate = (float)rate,
                                         .cancel = run->released},
                    &result, err);
    connection_note(run->connection, run->id, "has trained it");
    if (rc)
        return rc;
    run->round++;
    run->units[UNIT_ROUNDS] = (double)run->round;
    run->units[UNIT_SAMPLES] += (double)result.samples;
    run->units[UNIT_BATCHES] += (double)result.batches;
    run->units[UNIT_EPOCHS] = run->units[UNIT_SAMPLES] / (double)split->train.n;
    run->units[UNIT_SECONDS] += seconds_now() - started;

    metrics = json_object();
    json_object_set_new(metrics, "train_loss", json_from_double(result.train_loss));
    json_object_set_new(metrics, "train_accuracy", json_from_double(result.train_accuracy));
    json_object_set_new(metrics, "learning_rate", json_real(rate));
    observe(run, metrics);
    report(run, "training", metrics, training_rows(run, &result));
    if (!result.finite || !isfinite(result.train_loss))
        return fail(err, -EDOM, "training diverged in round %llu: train_loss is %g at learning rate %g",
                    (unsigned long long)run->round, result.train_loss, rate);
    return 0;
}

/* Each client of the cohort evaluates the global model on its own held-out share. */
static int validate_clients(struct run *run, json_t *metrics, json_t **ret_rows, struct error *err)
{
    static const char *const WORST[] = {"loss", "accuracy", "f1", "precision", "recall"};
    double sum[5] = {0}, worst[5] = {0};
    size_t n = 0;
    struct scores scores;
    json_t *rows = json_array();

    evaluation_clear(&run->clients);
    for (size_t i = 0; i < run->cohort_n; i++) {
        const struct indices *held_out = &run->loan.split->clients[run->cohort[i]].held_out;
        double values[5];
        json_t *own;
        int rc;
        if (!held_out->n)
            continue;
        evaluation_clear(&run->client);
        rc = pool_evaluate(run->pool, &run->loan.dataset->train, held_out->list, held_out->n, &run->client, NULL, err);
        if (rc) {
            json_decref(rows);
            return rc;
        }
        evaluation_merge(&run->clients, &run->client);
        scores = evaluation_scores(&run->client);
        memcpy(values, (double[]){scores.loss, scores.accuracy, scores.f1, scores.precision, scores.recall},
               sizeof values);
        for (int k = 0; k < 5; k++) {
            bool worse = k == 0 ? !(values[k] <= worst[k]) : !(values[k] >= worst[k]);
            sum[k] += values[k];
            if (!n || worse)
                worst[k] = values[k];
        }
        n++;
        own = json_object();
        scores_put(own, "client_validation", &scores);
        json_array_append_new(rows, json_pack("{s:i, s:I, s:o}", "client", (int)run->cohort[i], "held_out",
                                              (json_int_t)held_out->n, "metrics", own));
    }
    if (n) {
        scores = evaluation_scores(&run->clients);
        scores_put(metrics, "client_validation", &scores);
        for (int k = 0; k < 5; k++) {
            char name[64];
            snprintf(name, sizeof name, "client_validation_%s_mean", WORST[k]);
            json_object_set_new(metrics, name, json_from_double(sum[k] / (double)n));
            snprintf(name, sizeof name, "client_validation_%s_worst", WORST[k]);
            json_object_set_new(metrics, name, json_from_double(worst[k]));
        }
    }
    *ret_rows = rows;
    return 0;
}

static bool improves(const struct run *run, double value)
{
    if (!isfinite(value))
        return false;
    return !run->best.has || (run->smaller_is_better ? value < run->best.value : value > run->best.value);
}

static int keep_as_best(struct run *run, double value, struct error *err)
{
    struct best *best = &run->best;
    float *weights;
    int rc = pool_weights(run->pool, &weights, err);

    if (rc)
        return rc;
    best->has = best->in_memory = true;
    best->value = value;
    best->unit = run_unit(run);
    memcpy(best->weights, weights, run->loan.model->weights_n * sizeof *weights);
    memcpy(best->scores, run->scores,
           run->loan.split->validation.n * (size_t)run->loan.dataset->classes * sizeof *run->scores);
    evaluation_clear(&best->evaluation);
    evaluation_merge(&best->evaluation, &run->validation);
    return 0;
}

int run_validate(struct run *run, bool *ret_improved, struct error *err)
{
    const struct indices *samples = &run->loan.split->validation;
    json_t *metrics, *rows = NULL;
    double value;
    int rc = 0;

    *ret_improved = false;
    if (run->validation_unit == run_unit(run))
        return 0;
    metrics = json_object();
    evaluation_clear(&run->validation);
    if (samples->n) {
        struct scores scores;
        rc = pool_evaluate(run->pool, run->validation_split, samples->list, samples->n, &run->validation, run->scores,
                           err);
        scores = evaluation_scores(&run->validation);
        scores_put(metrics, "validation", &scores);
    }
    if (!rc && run->evaluates_clients)
        rc = validate_clients(run, metrics, &rows, err);
    if (!rc && json_to_double(json_object_get(metrics, run->metric), &value) && improves(run, value)) {
        rc = keep_as_best(run, value, err);
        *ret_improved = !rc;
    }
    if (rc) {
        json_decref(metrics);
        json_decref(rows);
        return rc;
    }
    run->validation_unit = run_unit(run);
    report(run, "validation", json_incref(metrics), rows);
    observe(run, metrics);
    json_decref(metrics);
    return 0;
}
