/* pool.c - the in-process pool: a cohort is a list of replicas.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/federation/pool.h"

#include "common/buffer.h"

#include <stdlib.h>
#include <string.h>

const char *const REPLY_STATUS_NAMES[] = {"ok", "late", "dropped", "failed"};

struct pool {
    struct pool_settings settings;
    size_t cohort_room;
    struct replica *replicas;
    struct client_reply *replies;
    float *weights; /* the global model */
    double *sum;    /* NULL where the backend keeps the model */
    struct resident *resident; /* NULL until the first round has put it there */
    bool stale;                /* weights are older than the resident model */
    float *state, *next_state; /* the lone client's optimizer, before and after a round */
    size_t state_n;
    int64_t steps;
};

static bool keeps(const struct pool_settings *settings)
{
    return settings->strategy->resident && seat_keeps_models(settings->seat);
}

int pool_new(const struct pool_settings *settings, size_t cohort_n, struct pool **ret, struct error *err)
{
    struct pool *pool = calloc(1, sizeof *pool);

    if (!pool)
        return fail(err, -ENOMEM, "out of memory");
    pool->settings = *settings;
    pool->cohort_room = cohort_n;
    pool->replicas = calloc(cohort_n, sizeof *pool->replicas);
    pool->replies = calloc(cohort_n, sizeof *pool->replies);
    pool->weights = buffer_new(settings->model->weights_n * sizeof *pool->weights);
    if (!keeps(settings))
        pool->sum = buffer_new(settings->model->weights_n * sizeof *pool->sum);
    if (!settings->federated)
        pool->state_n = optimizer_state_floats(&settings->optimizer, settings->model->trainable_n);
    if (pool->state_n) {
        pool->state = buffer_new(pool->state_n * sizeof *pool->state);
        pool->next_state = buffer_new(pool->state_n * sizeof *pool->next_state);
    }
    if (!pool->replicas || !pool->replies || !pool->weights || (!keeps(settings) && !pool->sum) ||
        (pool->state_n && (!pool->state || !pool->next_state))) {
        pool_free(pool);
        return fail(err, -ENOMEM, "out of memory for a cohort of %zu clients", cohort_n);
    }
    *ret = pool;
    return 0;
}

void pool_free(struct pool *pool)
{
    if (!pool)
        return;
    seat_drop_model(pool->settings.seat, pool->resident);
    buffer_free(pool->weights);
    free(pool->replicas);
    free(pool->replies);
    buffer_free(pool->sum);
    buffer_free(pool->state);
    buffer_free(pool->next_state);
    free(pool);
}

float *pool_state(struct pool *pool, size_t *ret_n, int64_t **ret_steps)
{
    *ret_n = pool->state_n;
    *ret_steps = &pool->steps;
    return pool->state;
}

static void set_replica(struct pool *pool, const struct pool_round *round, size_t i)
{
    const struct pool_settings *settings = &pool->settings;
    uint32_t client = round->cohort[i];
    const struct indices *samples = &settings->split->clients[client].train;

    pool->replicas[i] = (struct replica){
        .start = pool->resident ? NULL : pool->weights,
        .samples = samples->list,
        .samples_n = samples->n,
        .epochs = settings->local_epochs,
        .batch = settings->batch,
        .lr = round->learning_rate,
        .optimizer = settings->optimizer,
        .seed = settings->seed,
        .trial = settings->trial,
        .round = round->round,
        .client = client,
        .model = settings->model,
        .optimizer_state = pool->next_state,
        .optimizer_steps = pool->state ? pool->steps : 0,
    };
}

static void collect(struct pool *pool, const struct pool_round *round, struct pool_result *ret)
{
    double loss = 0;
    uint64_t correct = 0;

    *ret = (struct pool_result){.finite = true, .replies = pool->replies};
    for (size_t i = 0; i < round->cohort_n; i++) {
        const struct replica *replica = &pool->replicas[i];
        double seen = (double)replica->samples_seen;
        pool->replies[i] = (struct client_reply){
            .client = round->cohort[i],
            .status = REPLY_OK,
            .samples = replica->samples_n,
            .train_loss = replica->loss_sum / seen,
            .train_accuracy = (double)replica->correct / seen,
            .update_norm = replica->update_norm,
            .seconds = replica->seconds,
        };
        loss += replica->loss_sum;
        correct += replica->correct;
        ret->samples += replica->samples_seen;
        ret->batches += (uint64_t)replica->batches;
        ret->finite &= replica->finite;
    }
    ret->train_loss = loss / (double)ret->samples;
    ret->train_accuracy = (double)correct / (double)ret->samples;
}

float *pool_start(struct pool *pool)
{
    return pool->weights;
}

/* The model goes where it is to stay. */
static int place_model(struct pool *pool, struct error *err)
{
    if (!keeps(&pool->settings) || pool->resident)
        return 0;
    return seat_put_model(pool->settings.seat, &pool->resident, pool->weights, err);
}

/* One call of the backend, again where it was one of several trials that failed together. */
static int train_cohort(struct pool *pool, const struct pool_round *round, struct error *err)
{
    const struct pool_settings *settings = &pool->settings;
    struct training training = {.replicas = pool->replicas,
                                .n = round->cohort_n,
                                .augment = &settings->augment,
                                .reduction = {.type = pool->resident ? REDUCE_MODEL : settings->strategy->reduction,
                                              .sum = pool->sum,
                                              .model = pool->resident,
                                              .rate = settings->strategy_settings.server_learning_rate},
                                .cancel = round->cancel};
    int rc;

    do {
        for (size_t i = 0; i < round->cohort_n; i++)
            set_replica(pool, round, i);
        if (pool->state)
            memcpy(pool->next_state, pool->state, pool->state_n * sizeof *pool->state);
        settings->strategy->weigh(&settings->strategy_settings, pool->replicas, round->cohort_n);
        rc = seat_train(settings->seat, &training, err);
    } while (rc == -EAGAIN);
    return rc;
}

int pool_train(struct pool *pool, const struct pool_round *round, struct pool_result *ret, struct error *err)
{
    const struct pool_settings *settings = &pool->settings;
    float *state = pool->state;
    int rc;

    if (round->cohort_n > pool->cohort_room)
        return fail(err, -EINVAL, "a cohort of %zu in a pool made for %zu", round->cohort_n, pool->cohort_room);
    if ((rc = place_model(pool, err)) || (rc = train_cohort(pool, round, err)))
        return rc;
    if (pool->resident)
        pool->stale = true;
    else
        settings->strategy->apply(&settings->strategy_settings, pool->sum, settings->model->trainable_n,
                                  settings->model->weights_n, pool->weights);
    if (state) {
        pool->state = pool->next_state;
        pool->next_state = state;
        pool->steps = pool->replicas[0].optimizer_steps;
    }
    collect(pool, round, ret);
    return 0;
}

int pool_evaluate(struct pool *pool, const struct data_split *split, const uint32_t *samples, size_t n,
                  struct evaluation *ret, float *predictions, struct error *err)
{
    struct seat *seat = pool->settings.seat;

    if (pool->resident)
        return seat_evaluate_model(seat, pool->resident, split, samples, n, ret, predictions, err);
    return seat_evaluate(seat, pool->weights, split, samples, n, ret, predictions, err);
}

int pool_weights(struct pool *pool, float **ret, struct error *err)
{
    int rc = pool->stale ? seat_get_model(pool->settings.seat, pool->resident, pool->weights, err) : 0;

    if (rc)
        return rc;
    pool->stale = false;
    *ret = pool->weights;
    return 0;
}
