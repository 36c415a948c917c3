/* optim.h - optimizers over flat arrays, and learning-rate schedules over the whole length of a trial.
 * SGD as in PyTorch: g += weight_decay * w; v = momentum * v + g (the first step: v = g); w -= lr * (nesterov ? g + momentum
 * * v : v). Adam: Kingma, Ba 2015, weight decay added to the gradient; AdamW: Loshchilov, Hutter 2019, decoupled.
 * Schedules (training.schedule): constant; step {every, factor}; exponential {decay} (per unit); cosine {final_fraction}
 * (Loshchilov, Hutter 2017, without restarts); each after a linear warm-up, whose unit u has base * (u + 1) / (warmup + 1).
 * Progress is counted in the units of time_metric over max_time, never over a rung.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_TRAINER_OPTIM_H
#define FLEXP_TRAINER_OPTIM_H

#include "common/error.h"
#include "common/json.h"

#include <stddef.h>
#include <stdint.h>

enum optimizer_type { OPTIMIZER_SGD, OPTIMIZER_ADAM, OPTIMIZER_ADAMW };

struct optimizer {
    enum optimizer_type type;
    float momentum, weight_decay, beta1, beta2, eps;
    bool nesterov;
};

struct schedule {
    enum { SCHEDULE_CONSTANT, SCHEDULE_STEP, SCHEDULE_EXPONENTIAL, SCHEDULE_COSINE } type;
    double base, every, factor, decay, final_fraction, warmup, length;
};

/* From the resolved `training` section; length is max_time in time_metric units. */
int optimizer_from(const json_t *training, struct optimizer *ret, struct error *err);
int schedule_from(const json_t *training, double length, struct schedule *ret, struct error *err);
/* The rate at `unit` (0 at the start; the value used for the steps of the round that starts there). */
double schedule_rate(const struct schedule *schedule, double unit);

/* Floats of state that n parameters need: 0, n (momentum), 2n (Adam). State starts as zeros. */
size_t optimizer_state_floats(const struct optimizer *optimizer, size_t n);
/* One step; t from 1. */
void optimizer_step(const struct optimizer *optimizer, float lr, int64_t t, float *weights, const float *gradients,
                    float *state, size_t n);
/* The same for weights [from, to) alone, of n in all; gradients: of these. */
void optimizer_step_part(const struct optimizer *optimizer, float lr, int64_t t, float *weights, const float *gradients,
                         float *state, size_t n, size_t from, size_t to);

#endif
