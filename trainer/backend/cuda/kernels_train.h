/* kernels_train.h - loss, optimizers, and what a round leaves: totals, norms, the weighted sum. Sums in fixed order,
 * losses and aggregates in double. SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_TRAINER_CUDA_KERNELS_TRAIN_H
#define FLEXP_TRAINER_CUDA_KERNELS_TRAIN_H

#include "trainer/backend/cuda/kernels_data.h"

/* Softmax cross-entropy of a row, as cpu/loss.c. */
struct loss_args {
    uint64_t count; /* lanes x rows */
    const struct lane_step *steps;
    const float *logits;
    const uint16_t *labels;
    float *grad;    /* NULL: not wanted; d(mean loss of the batch)/d(logits) */
    double *losses; /* by row; or, with at_first, by position of the list */
    uint16_t *predictions;
    float *scores; /* may be NULL */
    uint32_t rows, classes, at_first;
};

DEVICE void loss_body(const struct loss_args *a, uint64_t i)
{
    uint64_t lane = i / a->rows, n = a->steps[lane].whole, at = i;
    const float *z = a->logits + i * a->classes;
    float *grad = a->grad ? a->grad + i * a->classes : NULL, *scores;
    uint32_t best = 0, label, k;
    double top, sum = 0, inverse;
    bool finite = true;

    if (i % a->rows >= a->steps[lane].rows)
        return;
    if (a->at_first)
        at = a->steps[lane].first + i % a->rows;
    scores = a->scores ? a->scores + at * a->classes : NULL;
    label = a->labels[i];
    for (k = 0; k < a->classes; k++) {
        if (z[k] > z[best] || (z[best] != z[best] && z[k] == z[k]))
            best = k;
        finite = finite && d_finite(z[k]);
    }
    a->predictions[at] = (uint16_t)best;
    if (!finite) { /* diverged: to be seen, not mended */
        a->losses[at] = (double)NAN;
        for (k = 0; k < a->classes; k++) {
            if (grad)
                grad[k] = NAN;
            if (scores)
                scores[k] = NAN;
        }
        return;
    }
    top = (double)z[best];
    for (k = 0; k < a->classes; k++)
        sum += d_exp_negative((double)z[k] - top);
    a->losses[at] = d_log(sum) - ((double)z[label] - top);
    inverse = 1 / sum;
    for (k = 0; k < a->classes && (grad || scores); k++) {
        double p = d_exp_negative((double)z[k] - top) * inverse;
        if (grad)
            grad[k] = (float)((p - (k == label ? 1 : 0)) / (double)n);
        if (scores)
            scores[k] = (float)p;
    }
}

struct totals_args {
    uint64_t count; /* lanes */
    const struct lane_step *steps;
    struct lane_total *totals;
    const double *losses;
    const uint16_t *predictions, *labels;
    uint32_t rows;
};

DEVICE void totals_body(const struct totals_args *a, uint64_t i)
{
    struct lane_total *t = &a->totals[i];
    const double *losses = a->losses + i * a->rows;
    const uint16_t *predictions = a->predictions + i * a->rows, *labels = a->labels + i * a->rows;
    double loss = 0;
    uint32_t rows = a->steps[i].rows, correct = 0;

    UNROLL_8 for (uint32_t r = 0; r < rows; r++) loss += losses[r];
    UNROLL_8 for (uint32_t r = 0; r < rows; r++) correct += predictions[r] == labels[r];
    if (rows)
        t->loss += loss;
    t->correct += correct;
    t->seen += rows;
    t->batches += a->steps[i].whole > 0;
}

/* Each lane by its own rule and rate; as optim.c. */
struct optimize_args {
    uint64_t count; /* lanes x count_n: weights first .. first + count_n - 1 of the n of each lane */
    const struct lane *lanes;
    const struct lane_step *steps;
    float *weights;
    const float *grads, *start, *correction;
    float *state; /* two arrays of n for each lane, or one where no lane is Adam's */
    uint64_t first, count_n, n, weights_stride, grads_stride, start_stride, state_stride;
};

/* Weight k of a lane, whose gradient is g. */
DEVICE void optimize_one(const struct optimize_args *a, uint64_t lane, uint64_t k, float g)
{
    const struct lane *l = &a->lanes[lane];
    const struct lane_step *s = &a->steps[lane];
    float *w = &a->weights[lane * a->weights_stride + k], *v, *second, d, weight = *w, m;

    if (!s->whole)
        return;
    if (l->mu > 0)
        g += l->mu * (weight - a->start[lane * a->start_stride + k]);
    if (a->correction)
        g += a->correction[lane * a->n + k];
    if (l->optimizer == LANE_SGD) {
        d = g + l->decay * weight;
        if (l->momentum > 0) {
            v = &a->state[lane * a->state_stride + k];
            m = l->momentum * *v + d;
            *v = m;
            d = l->nesterov ? d + l->momentum * m : m;
        }
        *w = weight - l->lr * d;
        return;
    }
    v = &a->state[lane * a->state_stride + k];
    second = v + a->n;
    d = g + (l->optimizer == LANE_ADAM ? l->decay : 0) * weight;
    m = l->beta1 * *v + (1 - l->beta1) * d;
    *v = m;
    d = l->beta2 * *second + (1 - l->beta2) * (d * d);
    *second = d;
    *w = s->shrink * weight - s->rate * (m / (sqrtf(d) / s->root + l->eps));
}

DEVICE void optimize_body(const struct optimize_args *a, uint64_t i)
{
    uint64_t lane = quotient(i, a->count_n), k = a->first + (i - lane * a->count_n);

    optimize_one(a, lane, k, a->grads[lane * a->grads_stride + k]);
}

/* to = from + to: the gradients of the GPUs before this one, then its own. */
struct accumulate_args {
    uint64_t count;
    const float *from;
    float *to;
};

DEVICE void accumulate_body(const struct accumulate_args *a, uint64_t i)
{
    a->to[i] = a->from[i] + a->to[i];
}

/* sum += weight of lane 0 x its value, then lane 1 ...; canonical order. Idle lanes add nothing. */
struct aggregate_args {
    uint64_t count; /* n */
    const struct lane *lanes;
    const float *weights;
    const uint32_t *where;
    double *sum;
    uint64_t weights_stride, first; /* of the working layout; what stands before is added elsewhere */
    uint32_t lanes_n;
};

DEVICE void aggregate_body(const struct aggregate_args *a, uint64_t i)
{
    double sum = a->sum[i];
    uint64_t at = a->where[i];

    if (at < a->first)
        return;
    UNROLL_8 for (uint32_t lane = 0; lane < a->lanes_n; lane++) sum +=
        a->lanes[lane].batch ? a->lanes[lane].weight * (double)a->weights[lane * a->weights_stride + at] : 0;
    a->sum[i] = sum;
}

/* The next global model, in place: start + rate x (sum - start) for parameters, sum for buffers; as
 * federation/strategy.c. */
struct apply_args {
    uint64_t count; /* n */
    const double *sum;
    float *start;
    uint64_t trainable;
    double rate;
};

DEVICE void apply_body(const struct apply_args *a, uint64_t i)
{
    double start = (double)a->start[i];

    /* rate 1 apart: start + (sum - start) rounds differently from sum. */
    a->start[i] = (float)(i < a->trainable && a->rate != 1 ? start + a->rate * (a->sum[i] - start) : a->sum[i]);
}

/* Squared distance from the start and whether all is finite: of runs of DISTANCE_RUN, then of all. */
#define DISTANCE_RUN 1024

struct distance_args {
    uint64_t count; /* lanes x runs */
    const float *weights, *start;
    struct lane_total *totals;
    double *partial; /* lanes x runs */
    uint32_t *bad;   /* likewise */
    uint64_t first, n, trainable, runs, weights_stride, start_stride;
    const double
        *more; /* squared distances of what stands before the first, lanes x more_n; not finite where that is not */
    uint64_t more_n;
};

/* Lane-major index so that neighbours read neighbours: run k takes elements k, k + runs, ... */
DEVICE void distance_body(const struct distance_args *a, uint64_t i)
{
    uint64_t lane = i / a->runs;
    double sum = 0;
    uint32_t bad = 0;

    UNROLL_8 for (uint64_t k = a->first + i % a->runs; k < a->n; k += a->runs)
    {
        float w = a->weights[lane * a->weights_stride + k];
        double d = (double)w - (double)a->start[lane * a->start_stride + k];
        if (k < a->trainable)
            sum += d * d;
        bad |= !d_finite(w);
    }
    UNROLL_8 for (uint64_t k = i % a->runs; k < a->more_n; k += a->runs)
    {
        double d = a->more[lane * a->more_n + k];
        sum += d;
        bad |= d - d != 0;
    }
    a->partial[i] = sum;
    a->bad[i] = bad;
}

DEVICE void distance_sum_body(const struct distance_args *a, uint64_t i)
{
    double sum = 0;
    uint32_t bad = 0;

    UNROLL_8 for (uint64_t k = 0; k < a->runs; k++)
    {
        sum += a->partial[i * a->runs + k];
        bad |= a->bad[i * a->runs + k];
    }
    a->totals[i].distance = sum;
    a->totals[i].not_finite = bad;
}

#endif
