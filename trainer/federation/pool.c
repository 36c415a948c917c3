/* pool.c - the in-process pool: a cohort is a list of replicas.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/federation/pool.h"

#include <stdlib.h>
#include <string.h>

const char *const REPLY_STATUS_NAMES[] = {"ok", "late", "dropped", "failed"};

struct pool {
    struct pool_settings settings;
    size_t cohort_room;
    struct replica *replicas;
    struct client_reply *replies;
    double *sum;
    float *state; /* the lone client's optimizer */
    size_t state_n;
    int64_t steps;
};

int pool_new(const struct pool_settings *settings, size_t cohort_n, struct pool **ret, struct error *err)
{
    struct pool *pool = calloc(1, sizeof *pool);

    if (!pool)
        return fail(err, -ENOMEM, "out of memory");
    pool->settings = *settings;
    pool->cohort_room = cohort_n;
    pool->replicas = calloc(cohort_n, sizeof *pool->replicas);
    pool->replies = calloc(cohort_n, sizeof *pool->replies);
    pool->sum = calloc(settings->model->weights_n, sizeof *pool->sum);
    if (!settings->federated)
        pool->state_n = optimizer_state_floats(&settings->optimizer, settings->model->trainable_n);
    if (pool->state_n)
        pool->state = calloc(pool->state_n, sizeof *pool->state);
    if (!pool->replicas || !pool->replies || !pool->sum || (pool->state_n && !pool->state)) {
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
    free(pool->replicas);
    free(pool->replies);
    free(pool->sum);
    free(pool->state);
    free(pool);
}

float *pool_state(struct pool *pool, size_t *ret_n, int64_t **ret_steps)
{
    *ret_n = pool->state_n;
    *ret_steps = &pool->steps;
    return pool->state;
}

static void set_replica(struct pool *pool, const struct pool_round *round, size_t i, const float *weights)
{
    const struct pool_settings *settings = &pool->settings;
    uint32_t client = round->cohort[i];
    const struct indices *samples = &settings->split->clients[client].train;

    pool->replicas[i] = (struct replica){
        .start = weights,
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
        .optimizer_state = pool->state,
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

int pool_train(struct pool *pool, const struct pool_round *round, float *weights, struct pool_result *ret,
               struct error *err)
{
    const struct model *model = pool->settings.model;
    struct reduction reduction = {.type = round->strategy->reduction, .sum = pool->sum};
    int rc;

    if (round->cohort_n > pool->cohort_room)
        return fail(err, -EINVAL, "a cohort of %zu in a pool made for %zu", round->cohort_n, pool->cohort_room);
    for (size_t i = 0; i < round->cohort_n; i++)
        set_replica(pool, round, i, weights);
    round->strategy->weigh(round->strategy_settings, pool->replicas, round->cohort_n);
    rc = backend_train(pool->settings.ops, pool->settings.plan, pool->replicas, round->cohort_n,
                       &pool->settings.augment, &reduction, round->cancel, err);
    if (rc)
        return rc;
    round->strategy->apply(round->strategy_settings, pool->sum, model->trainable_n, model->weights_n, weights);
    if (pool->state)
        pool->steps = pool->replicas[0].optimizer_steps;
    collect(pool, round, ret);
    return 0;
}
