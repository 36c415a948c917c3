/* strategy.h - how the updates of a cohort become the next global model. One row a strategy.
 * fedavg: McMahan et al. 2017 (arXiv:1602.05629), algorithm 1: w <- sum_k (n_k / n) w_k over the cohort; with
 * server_learning_rate s it is w <- w + s (sum - w) (Reddi et al. 2021, algorithm 1 with SGD at the server), which is the
 * same at s = 1. weighting: uniform gives every client 1 / cohort. Buffers (running statistics of batch norm) are averaged
 * with the same weights, always with s = 1.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_TRAINER_STRATEGY_H
#define FLEXP_TRAINER_STRATEGY_H

#include "trainer/backend/backend.h"

struct strategy_settings {
    double server_learning_rate;
    bool uniform; /* weighting */
};

struct strategy {
    const char *name;
    enum reduction_type reduction;
    bool resident; /* apply is what REDUCE_MODEL does with the server's learning rate: a backend may keep the model */
    /* Sets replica.weight of each; they add up to 1. */
    void (*weigh)(const struct strategy_settings *settings, struct replica *replicas, size_t n);
    /* weights (in and out) from the reduction's sum; trainable_n of weights_n are parameters. */
    void (*apply)(const struct strategy_settings *settings, const double *sum, size_t trainable_n, size_t weights_n,
                  float *weights);
};

/* From the resolved `federation.strategy`; NULL section: fedavg. -EINVAL for an unknown name. */
int strategy_from(const json_t *section, const struct strategy **ret, struct strategy_settings *ret_settings,
                  struct error *err);

#endif
