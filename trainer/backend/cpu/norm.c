/* norm.c - batch and group normalisation, forward and backward. Sums in double, in order.
 * Ioffe, Szegedy 2015 (arXiv:1502.03167); Wu, He 2018 (arXiv:1803.08494). The running variance takes the unbiased one,
 * as PyTorch does (the biased one where a channel has a single value). stats: mean and 1 / sqrt(var + eps) of each
 * channel (or sample and group), kept for the backward pass. SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cpu/cpu_private.h"
#include "trainer/optim/vector.h"

#include <math.h>
#include <string.h>

VECTOR_CLONES static void add_values(const float *restrict x, double *restrict sums, size_t pixels, size_t c)
{
    for (size_t p = 0; p < pixels; p++, x += c)
        for (size_t k = 0; k < c; k++)
            sums[k] += (double)x[k];
}

VECTOR_CLONES static void add_squares(const float *restrict x, const double *restrict mean, double *restrict sums,
                                      size_t pixels, size_t c)
{
    for (size_t p = 0; p < pixels; p++, x += c)
        for (size_t k = 0; k < c; k++) {
            double d = (double)x[k] - mean[k];
            sums[k] += d * d;
        }
}

VECTOR_CLONES static void scale_shift(const float *restrict x, float *restrict y, const double *restrict scale,
                                      const double *restrict shift, size_t pixels, size_t c)
{
    for (size_t p = 0; p < pixels; p++, x += c, y += c)
        for (size_t k = 0; k < c; k++)
            y[k] = (float)((double)x[k] * scale[k] + shift[k]);
}

/* sums of dy and of dy * (x - mean) */
VECTOR_CLONES static void add_gradients(const float *restrict x, const float *restrict dy, const double *restrict mean,
                                        double *restrict sums, double *restrict products, size_t pixels, size_t c)
{
    for (size_t p = 0; p < pixels; p++, x += c, dy += c)
        for (size_t k = 0; k < c; k++) {
            sums[k] += (double)dy[k];
            products[k] += (double)dy[k] * ((double)x[k] - mean[k]);
        }
}

/* dx = a dy + b x + d */
VECTOR_CLONES static void combine(const float *restrict x, const float *restrict dy, float *restrict dx,
                                  const double *restrict a, const double *restrict b, const double *restrict d,
                                  size_t pixels, size_t c)
{
    for (size_t p = 0; p < pixels; p++, x += c, dy += c, dx += c)
        for (size_t k = 0; k < c; k++)
            dx[k] = (float)(a[k] * (double)dy[k] + b[k] * (double)x[k] + d[k]);
}

void norm_batch(const struct layer *l, const float *x, float *y, const float *gamma, const float *beta,
                float *running_mean, float *running_var, float *stats, size_t n, bool training, bool update,
                double *sums)
{
    size_t c = (size_t)l->in.c, pixels = n * (size_t)l->in.h * (size_t)l->in.w;
    double *mean = sums, *var = sums + c, *scale = sums + 2 * c, *shift = sums + 3 * c, count = (double)pixels;

    memset(sums, 0, 2 * c * sizeof *sums);
    if (training) {
        add_values(x, mean, pixels, c);
        for (size_t k = 0; k < c; k++)
            mean[k] /= count;
        add_squares(x, mean, var, pixels, c);
        for (size_t k = 0; k < c; k++)
            var[k] /= count;
    }
    for (size_t k = 0; k < c; k++) {
        double rstd;
        if (!training) {
            mean[k] = (double)running_mean[k];
            var[k] = (double)running_var[k];
        }
        rstd = 1 / sqrt(var[k] + l->eps);
        stats[k] = (float)mean[k];
        stats[c + k] = (float)rstd;
        scale[k] = rstd * (double)gamma[k];
        shift[k] = (double)beta[k] - mean[k] * scale[k];
        if (update) {
            double unbiased = pixels > 1 ? var[k] * count / (count - 1) : var[k];
            running_mean[k] = (float)((1 - l->momentum) * (double)running_mean[k] + l->momentum * mean[k]);
            running_var[k] = (float)((1 - l->momentum) * (double)running_var[k] + l->momentum * unbiased);
        }
    }
    scale_shift(x, y, scale, shift, pixels, c);
}

void norm_batch_backward(const struct layer *l, const float *x, const float *dy, float *dx, const float *gamma,
                         float *dgamma, float *dbeta, const float *stats, size_t n, double *sums)
{
    size_t c = (size_t)l->in.c, pixels = n * (size_t)l->in.h * (size_t)l->in.w;
    double *mean = sums, *sum = sums + c, *product = sums + 2 * c, *a = sums + 3 * c, count = (double)pixels;

    memset(sums, 0, 3 * c * sizeof *sums);
    for (size_t k = 0; k < c; k++)
        mean[k] = (double)stats[k];
    add_gradients(x, dy, mean, sum, product, pixels, c);
    for (size_t k = 0; k < c; k++) {
        double rstd = (double)stats[c + k], b;
        dgamma[k] = (float)(product[k] * rstd);
        dbeta[k] = (float)sum[k];
        /* dx = gamma rstd (dy - mean(dy) - xhat mean(dy xhat)) */
        a[k] = (double)gamma[k] * rstd;
        b = -a[k] * rstd * rstd * product[k] / count;
        sum[k] = -a[k] * sum[k] / count - b * mean[k];
        product[k] = b;
    }
    if (dx)
        combine(x, dy, dx, a, product, sum, pixels, c);
}

void norm_group(const struct layer *l, const float *x, float *y, const float *gamma, const float *beta, float *stats,
                size_t n, double *sums)
{
    size_t c = (size_t)l->in.c, pixels = (size_t)l->in.h * (size_t)l->in.w, groups = (size_t)l->norm_groups;
    size_t width = c / groups;
    double *mean = sums, *square = sums + c, *scale = sums + 2 * c, *shift = sums + 3 * c;
    double count = (double)(pixels * width);

    for (size_t i = 0; i < n; i++, x += pixels * c, y += pixels * c, stats += 2 * groups) {
        memset(sums, 0, 2 * c * sizeof *sums);
        add_values(x, mean, pixels, c);
        for (size_t g = 0; g < groups; g++) {
            double sum = 0;
            for (size_t k = 0; k < width; k++)
                sum += mean[g * width + k];
            for (size_t k = 0; k < width; k++)
                mean[g * width + k] = sum / count;
        }
        add_squares(x, mean, square, pixels, c);
        for (size_t g = 0; g < groups; g++) {
            double sum = 0, rstd;
            for (size_t k = 0; k < width; k++)
                sum += square[g * width + k];
            rstd = 1 / sqrt(sum / count + l->eps);
            stats[g] = (float)mean[g * width];
            stats[groups + g] = (float)rstd;
            for (size_t k = g * width; k < (g + 1) * width; k++) {
                scale[k] = rstd * (double)gamma[k];
                shift[k] = (double)beta[k] - mean[k] * scale[k];
            }
        }
        scale_shift(x, y, scale, shift, pixels, c);
    }
}

void norm_group_backward(const struct layer *l, const float *x, const float *dy, float *dx, const float *gamma,
                         float *dgamma, float *dbeta, const float *stats, size_t n, double *sums)
{
    size_t c = (size_t)l->in.c, pixels = (size_t)l->in.h * (size_t)l->in.w, groups = (size_t)l->norm_groups;
    size_t width = c / groups;
    double *mean = sums, *sum = sums + c, *product = sums + 2 * c, *a = sums + 3 * c;
    double count = (double)(pixels * width);

    memset(dgamma, 0, c * sizeof *dgamma);
    memset(dbeta, 0, c * sizeof *dbeta);
    for (size_t i = 0; i < n; i++, x += pixels * c, dy += pixels * c, stats += 2 * groups) {
        memset(sums, 0, 3 * c * sizeof *sums);
        for (size_t k = 0; k < c; k++)
            mean[k] = (double)stats[k / width];
        add_gradients(x, dy, mean, sum, product, pixels, c);
        for (size_t g = 0; g < groups; g++) {
            double rstd = (double)stats[groups + g], group_sum = 0, group_product = 0, b, d;
            for (size_t k = g * width; k < (g + 1) * width; k++) {
                dgamma[k] += (float)(product[k] * rstd);
                dbeta[k] += (float)sum[k];
                group_sum += (double)gamma[k] * sum[k];
                group_product += (double)gamma[k] * product[k];
            }
            /* dx = rstd (gamma dy - mean(gamma dy) - xhat mean(gamma dy xhat)) */
            b = -rstd * rstd * rstd * group_product / count;
            d = -rstd * group_sum / count - b * mean[g * width];
            for (size_t k = g * width; k < (g + 1) * width; k++) {
                a[k] = (double)gamma[k] * rstd;
                sum[k] = d;
                product[k] = b;
            }
        }
        if (dx) {
            combine(x, dy, dx, a, product, sum, pixels, c);
            dx += pixels * c;
        }
    }
}
