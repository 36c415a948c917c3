/* kernels_norm.h - batch and group normalisation. Ioffe, Szegedy 2015; Wu, He 2018; formulas and order of sums as in
 * cpu/norm.c, in double.
 * Sums go in two steps: of each sample's channel over the pixels (norm_sums), then over samples (batch) or over the
 * channels of a group (group). stats: mean and 1 / sqrt(var + eps), of each channel of a lane, or of each sample and
 * group. coefs: what makes y or dx of x and dy, by channel of a lane or of a sample.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_TRAINER_CUDA_KERNELS_NORM_H
#define FLEXP_TRAINER_CUDA_KERNELS_NORM_H

#include "trainer/backend/cuda/kernels_layers.h"

enum { NORM_VALUES, NORM_SQUARES, NORM_GRADIENTS };

struct norm_args {
    uint64_t count;
    const struct lane_step *steps;
    uint32_t rows, c, pixels, groups; /* groups 0: batch norm */
    const float *x, *dy;
    float *y;      /* apply: y, or dx */
    double *sums;  /* lanes x rows x c, twice: the second half is products */
    double *coefs; /* 3 x lanes x (1 or rows) x c */
    float *stats;
    uint32_t what;
    /* parameters of lane 0; lanes are weights_stride apart, gradients grads_stride */
    const float *gamma, *beta;
    float *running_mean, *running_var, *dgamma, *dbeta;
    uint64_t weights_stride, grads_stride;
    double eps, momentum;
    uint32_t training, update, relu, add;
    const float *mask;
};

DEVICE uint64_t norm_lane_rows(const struct norm_args *a, uint64_t row)
{
    return a->steps[quotient(row, a->rows)].rows;
}

/* the mean that belongs to channel c of a row */
DEVICE double norm_mean(const struct norm_args *a, uint64_t row, uint32_t c)
{
    if (a->groups)
        return (double)a->stats[row * 2 * a->groups + c / (a->c / a->groups)];
    return (double)a->stats[row / a->rows * 2 * a->c + c];
}

/* count: lanes x rows x c. The means of squares are exact doubles, kept in coefs. */
DEVICE void norm_sums_body(const struct norm_args *a, uint64_t i)
{
    uint64_t row = quotient(i, a->c), half = a->count;
    uint32_t c = (uint32_t)(i - row * a->c);
    const float *x = a->x + row * a->pixels * a->c + c;
    double sum = 0, product = 0, mean = 0;

    if (remainder_of(row, a->rows) >= norm_lane_rows(a, row))
        return;
    if (a->what == NORM_SQUARES)
        mean = a->coefs[a->groups ? i : row / a->rows * a->c + c];
    if (a->what == NORM_GRADIENTS)
        mean = norm_mean(a, row, c);
    UNROLL_8 for (uint32_t p = 0; p < a->pixels; p++)
    {
        double value = (double)x[(uint64_t)p * a->c];
        if (a->what == NORM_VALUES) {
            sum += value;
        } else if (a->what == NORM_SQUARES) {
            sum += (value - mean) * (value - mean);
        } else {
            double dy = (double)a->dy[(row * a->pixels + p) * a->c + c];
            sum += dy;
            product += dy * (value - mean);
        }
    }
    a->sums[i] = sum;
    if (a->what == NORM_GRADIENTS)
        a->sums[half + i] = product;
}

/* count: lanes x c (batch norm). Means, into coefs. */
DEVICE void norm_batch_mean_body(const struct norm_args *a, uint64_t i)
{
    uint64_t lane = i / a->c, rows = a->steps[lane].rows;
    double sum = 0;

    if (!rows)
        return;
    UNROLL_8 for (uint64_t r = 0; r < rows; r++) sum += a->sums[(lane * a->rows + r) * a->c + i % a->c];
    a->coefs[i] = sum / (double)(rows * a->pixels);
}

/* count: lanes x c. Statistics, what scales and shifts, running means. */
DEVICE void norm_batch_stats_body(const struct norm_args *a, uint64_t i)
{
    uint64_t lane = i / a->c, c = i % a->c, rows = a->steps[lane].rows, w = lane * a->weights_stride + c;
    double count = (double)(rows * a->pixels), mean, var = 0, rstd, scale;

    if (!rows)
        return;
    if (a->training) {
        mean = a->coefs[i];
        UNROLL_8 for (uint64_t r = 0; r < rows; r++) var += a->sums[(lane * a->rows + r) * a->c + c];
        var /= count;
    } else {
        mean = (double)a->running_mean[w];
        var = (double)a->running_var[w];
    }
    rstd = 1 / sqrt(var + a->eps);
    a->stats[lane * 2 * a->c + c] = (float)mean;
    a->stats[lane * 2 * a->c + a->c + c] = (float)rstd;
    scale = rstd * (double)a->gamma[w];
    a->coefs[i] = scale;
    a->coefs[a->count + i] = (double)a->beta[w] - mean * scale;
    if (a->update) {
        double unbiased = count > 1 ? var * count / (count - 1) : var;
        a->running_mean[w] = (float)((1 - a->momentum) * (double)a->running_mean[w] + a->momentum * mean);
        a->running_var[w] = (float)((1 - a->momentum) * (double)a->running_var[w] + a->momentum * unbiased);
    }
}

/* count: lanes x rows x groups (group norm). Means, into coefs by channel. */
DEVICE void norm_group_mean_body(const struct norm_args *a, uint64_t i)
{
    uint64_t row = i / a->groups, width = a->c / a->groups, first = row * a->c + i % a->groups * width;
    double sum = 0;

    if (remainder_of(row, a->rows) >= norm_lane_rows(a, row))
        return;
    for (uint64_t k = 0; k < width; k++)
        sum += a->sums[first + k];
    for (uint64_t k = 0; k < width; k++)
        a->coefs[first + k] = sum / (double)(a->pixels * width);
}

DEVICE void norm_group_stats_body(const struct norm_args *a, uint64_t i)
{
    uint64_t row = i / a->groups, g = i % a->groups, width = a->c / a->groups, first = row * a->c + g * width;
    uint64_t w = row / a->rows * a->weights_stride + g * width, all = a->count / a->groups * a->c;
    double sum = 0, mean, rstd;

    if (remainder_of(row, a->rows) >= norm_lane_rows(a, row))
        return;
    mean = a->coefs[first];
    for (uint64_t k = 0; k < width; k++)
        sum += a->sums[first + k];
    rstd = 1 / sqrt(sum / (double)(a->pixels * width) + a->eps);
    a->stats[row * 2 * a->groups + g] = (float)mean;
    a->stats[row * 2 * a->groups + a->groups + g] = (float)rstd;
    for (uint64_t k = 0; k < width; k++) {
        double scale = rstd * (double)a->gamma[w + k];
        a->coefs[first + k] = scale;
        a->coefs[all + first + k] = (double)a->beta[w + k] - mean * scale;
    }
}

/* count: lanes x rows x pixels x c. */
DEVICE void norm_apply_body(const struct norm_args *a, uint64_t i)
{
    uint64_t pixel = quotient(i, a->c), row = quotient(pixel, a->pixels), lane = quotient(row, a->rows),
             c = i - pixel * a->c;
    uint64_t all = quotient(a->count, a->pixels), k = (a->groups ? row : lane) * a->c + c;
    float y;

    if (row - lane * a->rows >= a->steps[lane].rows)
        return;
    if (!a->groups)
        all = quotient(all, a->rows);
    y = (float)((double)a->x[i] * a->coefs[k] + a->coefs[all + k]);
    a->y[i] = a->relu && y < 0 ? 0 : y;
}

/* count: lanes x c (batch norm): gradients of gamma and beta, and dx = a dy + b x + d. */
DEVICE void norm_batch_backward_body(const struct norm_args *a, uint64_t i)
{
    uint64_t lane = i / a->c, c = i % a->c, rows = a->steps[lane].rows, half = a->count * a->rows;
    double sum = 0, product = 0, mean, rstd, count = (double)(rows * a->pixels), scale, b;

    if (!rows)
        return;
    UNROLL_8 for (uint64_t r = 0; r < rows; r++)
    {
        uint64_t at = (lane * a->rows + r) * a->c + c;
        sum += a->sums[at];
        product += a->sums[half + at];
    }
    mean = (double)a->stats[lane * 2 * a->c + c];
    rstd = (double)a->stats[lane * 2 * a->c + a->c + c];
    a->dgamma[lane * a->grads_stride + c] = (float)(product * rstd);
    a->dbeta[lane * a->grads_stride + c] = (float)sum;
    scale = (double)a->gamma[lane * a->weights_stride + c] * rstd;
    b = -scale * rstd * rstd * product / count;
    a->coefs[i] = scale;
    a->coefs[a->count + i] = b;
    a->coefs[2 * a->count + i] = -scale * sum / count - b * mean;
}

/* count: lanes x rows x groups */
DEVICE void norm_group_backward_body(const struct norm_args *a, uint64_t i)
{
    uint64_t row = i / a->groups, g = i % a->groups, width = a->c / a->groups, first = row * a->c + g * width;
    uint64_t w = row / a->rows * a->weights_stride + g * width, all = a->count / a->groups * a->c;
    double count = (double)(a->pixels * width), sum = 0, product = 0, mean, rstd, b, d;

    if (remainder_of(row, a->rows) >= norm_lane_rows(a, row))
        return;
    mean = (double)a->stats[row * 2 * a->groups + g];
    rstd = (double)a->stats[row * 2 * a->groups + a->groups + g];
    for (uint64_t k = 0; k < width; k++) {
        sum += (double)a->gamma[w + k] * a->sums[first + k];
        product += (double)a->gamma[w + k] * a->sums[all + first + k];
    }
    b = -rstd * rstd * rstd * product / count;
    d = -rstd * sum / count - b * mean;
    for (uint64_t k = 0; k < width; k++) {
        a->coefs[first + k] = (double)a->gamma[w + k] * rstd;
        a->coefs[all + first + k] = b;
        a->coefs[2 * all + first + k] = d;
    }
}

/* count: lanes x c: gradients of gamma and beta, over samples in order. */
DEVICE void norm_group_params_body(const struct norm_args *a, uint64_t i)
{
    uint64_t lane = i / a->c, c = i % a->c, g = c / (a->c / a->groups), half = a->count * a->rows;
    float gamma = 0, beta = 0;

    if (!a->steps[lane].rows)
        return;
    for (uint64_t r = 0; r < a->steps[lane].rows; r++) {
        uint64_t row = lane * a->rows + r;
        gamma += (float)(a->sums[half + row * a->c + c] * (double)a->stats[row * 2 * a->groups + a->groups + g]);
        beta += (float)a->sums[row * a->c + c];
    }
    a->dgamma[lane * a->grads_stride + c] = gamma;
    a->dbeta[lane * a->grads_stride + c] = beta;
}

/* count: lanes x rows x pixels x c. */
DEVICE void norm_gradient_body(const struct norm_args *a, uint64_t i)
{
    uint64_t pixel = quotient(i, a->c), row = quotient(pixel, a->pixels), lane = quotient(row, a->rows),
             c = i - pixel * a->c;
    uint64_t all = quotient(a->count, a->pixels), k = (a->groups ? row : lane) * a->c + c;

    if (!a->groups)
        all = quotient(all, a->rows);
    if (row - lane * a->rows < a->steps[lane].rows)
        put_gradient(
            &a->y[i],
            (float)(a->coefs[k] * (double)a->dy[i] + a->coefs[all + k] * (double)a->x[i] + a->coefs[2 * all + k]),
            a->mask ? &a->mask[i] : NULL, a->add);
}

#endif
