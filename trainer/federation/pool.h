/* pool.h - the clients of a trial. The round loop hands the pool a round (cohort, settings, reduction) and gets the reduced
 * result and a row for each client. This one is in-process: its clients are replicas on a backend. A pool of remote sites
 * can stand in its place: hence replies have a status, and the loop never touches a client's samples.
 * Without federation the pool has one client that holds all the data and keeps its optimizer's state from round to round.
 * The pool has the global model. Where the backend can keep it and the strategy lets it, it stays there: no weights cross in
 * a round, and they are fetched when somebody wants to see them. Nothing is allocated in a round. Threads: one caller.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_TRAINER_POOL_H
#define FLEXP_TRAINER_POOL_H

#include "trainer/backend/backend.h"
#include "trainer/data/split.h"
#include "trainer/federation/pack.h"
#include "trainer/federation/strategy.h"

enum reply_status { REPLY_OK, REPLY_LATE, REPLY_DROPPED, REPLY_FAILED };
extern const char *const REPLY_STATUS_NAMES[];

struct client_reply {
    uint32_t client;
    enum reply_status status;
    uint64_t samples; /* that it trains on */
    double train_loss, train_accuracy, update_norm, seconds;
};

struct pool_settings {
    struct seat *seat;
    const struct model *model;
    const struct federation_data *split;
    bool federated;
    struct optimizer optimizer;
    struct augment augment;
    size_t batch;
    int64_t local_epochs;
    const struct strategy *strategy;
    struct strategy_settings strategy_settings;
    uint64_t seed, trial;
};

struct pool_round {
    uint64_t round;          /* from 1 */
    const uint32_t *cohort;  /* ascending client numbers */
    size_t cohort_n;
    float learning_rate;
    const volatile int *cancel;
};

struct pool_result {
    double train_loss, train_accuracy; /* sample-weighted means of local minibatch values */
    uint64_t samples, batches;         /* of all clients together */
    bool finite;
    struct client_reply *replies;      /* cohort_n, the pool's */
};

struct pool;

/* seat, model, split are borrowed. cohort_n: the largest cohort. */
int pool_new(const struct pool_settings *settings, size_t cohort_n, struct pool **ret, struct error *err);
void pool_free(struct pool *pool);

/* The global model's array, to be filled before the first round. */
float *pool_start(struct pool *pool);
/* Trains the cohort from the global model, which becomes the next. On an error it is unchanged. */
int pool_train(struct pool *pool, const struct pool_round *round, struct pool_result *ret, struct error *err);
/* The global model's scores; as the backend's evaluate. */
int pool_evaluate(struct pool *pool, const struct data_split *split, const uint32_t *samples, size_t n,
                  struct evaluation *ret, float *predictions, struct error *err);
/* The global model as it is now; the pool's, until the next round. */
int pool_weights(struct pool *pool, float **ret, struct error *err);

/* State that belongs into a checkpoint: the lone client's optimizer. *ret_n 0 where there is none. */
float *pool_state(struct pool *pool, size_t *ret_n, int64_t **ret_steps);

#endif
