/* kernels_data.h - what of a training run stands on the device, and the kernels that make batches.
 *
 * Replicas in lockstep are lanes. A lane's schedule is made on the device: an entry for each (epoch, position) says
 * which sample comes and how it is cropped and flipped; begin_step moves every lane one batch on. A lane that has no
 * batch left has 0 rows, and every kernel leaves it as it is. A kernel's body is a function of its arguments and an
 * index; the same source is compiled for the host, where tests and the fake device run it. Images are NHWC.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_TRAINER_CUDA_KERNELS_DATA_H
#define FLEXP_TRAINER_CUDA_KERNELS_DATA_H

#include "trainer/backend/cuda/arithmetic.h"

enum { LANE_SGD, LANE_ADAM, LANE_ADAMW };

struct lane { /* written by the host at a round's start */
    uint64_t seed, trial, round, client;
    uint64_t samples; /* first of its list */
    uint64_t table;   /* first of its entries: epoch after epoch */
    uint32_t samples_n, batch, epochs, steps;
    uint32_t optimizer, nesterov;
    int32_t padding, flips; /* of its augmentation */
    float lr, momentum, decay, beta1, beta2, eps, mu;
    double weight;
    int64_t t; /* optimizer steps done before */
};

struct lane_step {       /* of the batch at hand */
    uint32_t rows, next; /* rows 0: no batch left; next: number of the step after this */
    uint32_t whole, row; /* where several GPUs share a batch: its rows, and the first of them that is here */
    uint64_t first;      /* of its entries */
    struct pcg32 dropout;
    float rate, root, shrink; /* Adam's */
    float before, after;      /* what plain SGD's decay has left of the round's start, before this step and after it */
};

struct drop { /* of a lane's dropout layer that draws */
    uint32_t threshold;
    float scale;
};

/* Samples of this round that came before the batch at hand. */
DEVICE uint32_t samples_seen(const struct lane *lane, const struct lane_step *step)
{
    return (uint32_t)(step->first - lane->table);
}

struct lane_total {
    double loss, distance;
    uint64_t correct, seen, batches;
    uint32_t not_finite;
};

struct entry {
    uint32_t sample;
    int16_t dy, dx;
    uint32_t flip;
};

/* Shuffles a list into entries and draws how each is placed: position after position, as the CPU backend does batch
 * after batch. */
DEVICE void make_entries(const struct lane *lane, uint32_t epoch, const uint32_t *samples, struct entry *entries)
{
    int padding = lane->padding, flips = lane->flips;
    uint64_t who = lane->client << 16 | epoch;
    struct pcg32 shuffle = rng_keyed(lane->seed, RNG_SHUFFLE, lane->trial, lane->round, who);
    struct pcg32 augment = rng_keyed(lane->seed, RNG_AUGMENT, lane->trial, lane->round, who);

    for (uint32_t i = 0; i < lane->samples_n; i++)
        entries[i].sample = samples[i];
    for (uint32_t i = lane->samples_n; i > 1; i--) {
        uint32_t j = rng_bounded(&shuffle, i), kept = entries[i - 1].sample;
        entries[i - 1].sample = entries[j].sample;
        entries[j].sample = kept;
    }
    for (uint32_t i = 0; i < lane->samples_n; i++) {
        entries[i].dy = (int16_t)(padding ? (int)rng_bounded(&augment, (uint32_t)(2 * padding + 1)) - padding : 0);
        entries[i].dx = (int16_t)(padding ? (int)rng_bounded(&augment, (uint32_t)(2 * padding + 1)) - padding : 0);
        entries[i].flip = flips ? rng_bounded(&augment, 2) : 0;
    }
}

/* One index for each lane and epoch; lanes with longer lists than `most` are done by the host. */
struct schedule_args {
    uint64_t count; /* lanes x epochs_max */
    const struct lane *lanes;
    const uint32_t *samples;
    struct entry *entries;
    uint32_t epochs_max, most;
};

DEVICE void schedule_body(const struct schedule_args *a, uint64_t i)
{
    const struct lane *lane = &a->lanes[i / a->epochs_max];
    uint32_t epoch = (uint32_t)(i % a->epochs_max);

    if (epoch < lane->epochs && lane->samples_n <= a->most)
        make_entries(lane, epoch, a->samples + lane->samples,
                     a->entries + lane->table + (uint64_t)epoch * lane->samples_n);
}

/* draws: values of a row of each dropout layer that draws, in order: two values to a draw. */
DEVICE uint64_t draws_before(const uint32_t *draws, uint32_t n, uint64_t rows)
{
    uint64_t sum = 0;

    for (uint32_t k = 0; k < n; k++)
        sum += (rows * draws[k] + 1) / 2;
    return sum;
}

struct begin_step_args {
    uint64_t count; /* lanes */
    const struct lane *lanes;
    struct lane_step *steps;
    const uint32_t *draws;
    uint32_t draws_n;
    uint32_t share, shares; /* of each batch the rows from whole x share / shares on are this GPU's */
};

DEVICE void begin_step_body(const struct begin_step_args *a, uint64_t i)
{
    const struct lane *lane = &a->lanes[i];
    struct lane_step *step = &a->steps[i];
    uint32_t per_epoch, epoch, at, left;

    if (step->next >= lane->steps) {
        step->rows = step->whole = 0;
        return;
    }
    per_epoch = (lane->samples_n + lane->batch - 1) / lane->batch;
    epoch = step->next / per_epoch;
    at = step->next % per_epoch;
    left = lane->samples_n - at * lane->batch;
    step->whole = left < lane->batch ? left : lane->batch;
    step->row = (uint32_t)((uint64_t)step->whole * a->share / a->shares);
    step->rows = (uint32_t)((uint64_t)step->whole * (a->share + 1) / a->shares) - step->row;
    step->first = lane->table + (uint64_t)epoch * lane->samples_n + (uint64_t)at * lane->batch + step->row;
    step->before = step->next ? step->after : 1;
    step->after = step->before * (1 - lane->lr * lane->decay);
    step->next++;
    if (a->draws_n) {
        step->dropout = rng_keyed(lane->seed, RNG_DROPOUT, lane->trial, lane->round, lane->client << 16 | epoch);
        pcg32_jump(&step->dropout, at * draws_before(a->draws, a->draws_n, lane->batch));
    }
    if (lane->optimizer != LANE_SGD) {
        int64_t t = lane->t + step->next;
        step->rate = (float)((double)lane->lr / (1 - d_power((double)lane->beta1, t)));
        step->root = (float)sqrt(1 - d_power((double)lane->beta2, t));
        step->shrink = lane->optimizer == LANE_ADAMW ? (float)(1 - (double)lane->lr * (double)lane->decay) : 1;
    }
}

/* Steps through a list of samples, rows at a time: for evaluation. */
struct begin_chunk_args {
    uint64_t count; /* 1 */
    struct lane_step *step;
    const uint64_t *total;
    uint32_t rows;
};

DEVICE void begin_chunk_body(const struct begin_chunk_args *a, uint64_t i)
{
    struct lane_step *step = &a->step[i];
    uint64_t first = (uint64_t)step->next * a->rows, left = *a->total > first ? *a->total - first : 0;

    step->first = first;
    step->rows = step->whole = left < a->rows ? (uint32_t)left : a->rows;
    step->row = 0;
    step->next++;
}

struct assemble_args {
    uint64_t count; /* lanes x rows x pixels */
    const struct lane_step *steps;
    const struct entry *entries; /* or, for lists without augmentation: */
    const uint32_t *list;
    const uint8_t *const *images; /* in device memory, so that one captured graph serves both splits */
    const uint16_t *const *labels;
    float *x;
    uint16_t *labels_out;
    uint32_t rows, height, width, channels;
    float mean[4], std[4];
};

DEVICE void assemble_body(const struct assemble_args *a, uint64_t i)
{
    uint32_t pixels = a->height * a->width;
    uint64_t row = quotient(i, pixels), lane = quotient(row, a->rows), at;
    uint32_t pixel = (uint32_t)(i - row * pixels), r = (uint32_t)(row - lane * a->rows);
    uint32_t y = pixel / a->width, x = pixel % a->width;
    int sy, sx;
    bool inside;
    const uint8_t *from;
    struct entry e;

    if (r >= a->steps[lane].rows)
        return;
    at = a->steps[lane].first + r;
    if (a->entries) {
        e = a->entries[at];
    } else {
        e.sample = a->list[at];
        e.dy = e.dx = 0;
        e.flip = 0;
    }
    if (!pixel)
        a->labels_out[row] = (*a->labels)[e.sample];
    sy = (int)y + e.dy;
    sx = (int)(e.flip ? a->width - 1 - x : x) + e.dx;
    inside = sy >= 0 && sy < (int)a->height && sx >= 0 && sx < (int)a->width;
    from = *a->images +
           ((uint64_t)e.sample * pixels + (inside ? (uint32_t)sy * a->width + (uint32_t)sx : 0)) * a->channels;
    for (uint32_t c = 0; c < a->channels; c++)
        a->x[i * a->channels + c] = ((float)(inside ? from[c] : 0) / 255.0f - a->mean[c]) / a->std[c];
}

/* Canonical to working layout and back, for lanes: canonical arrays lie canonical_stride apart (0: one for all). */
struct gather_args {
    uint64_t count; /* lanes x n */
    const float *canonical;
    float *working;
    const uint32_t *where;
    uint64_t n, canonical_stride, working_stride;
};

DEVICE void gather_body(const struct gather_args *a, uint64_t i)
{
    uint64_t lane = quotient(i, a->n), k = i - lane * a->n;

    a->working[lane * a->working_stride + a->where[k]] = a->canonical[lane * a->canonical_stride + k];
}

struct scatter_args {
    uint64_t count; /* n */
    const float *working;
    float *canonical;
    const uint32_t *where;
};

DEVICE void scatter_body(const struct scatter_args *a, uint64_t i)
{
    a->canonical[i] = a->working[a->where[i]];
}

/* One array to all lanes. */
struct spread_args {
    uint64_t count; /* lanes x (n - first) */
    const float *from;
    float *to;
    uint64_t n, first, from_stride; /* from the first value on */
};

DEVICE void spread_body(const struct spread_args *a, uint64_t i)
{
    uint64_t lane = quotient(i, a->n - a->first), k = a->first + (i - lane * (a->n - a->first));

    a->to[lane * a->n + k] = a->from[lane * a->from_stride + k];
}

#endif
