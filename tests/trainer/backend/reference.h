/* reference.h - the same networks in double precision, written as plainly as their definitions: NCHW, canonical
 * weights, no fusing. For tests: the gradients of the backend are held against central differences of this.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_TESTS_REFERENCE_H
#define FLEXP_TESTS_REFERENCE_H

#include "trainer/data/dataset.h"
#include "trainer/model/model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct reference {
    const struct model *model;
    size_t n;
    double **act; /* layers_n + 1; 0: the images, n x c x h x w */
    const uint16_t *labels;
};

static size_t reference_values(const struct shape *s)
{
    return (size_t)s->c * (size_t)s->h * (size_t)s->w;
}

static void reference_init(struct reference *r, const struct model *m, const struct dataset *d,
                           const struct data_split *split, const uint32_t *samples, size_t n, uint16_t *labels)
{
    *r = (struct reference){.model = m, .n = n, .labels = labels};
    r->act = calloc(m->layers_n + 1, sizeof *r->act);
    r->act[0] = calloc(n * reference_values(&m->input), sizeof(double));
    for (size_t i = 0; i < m->layers_n; i++)
        r->act[i + 1] = calloc(n * reference_values(&m->layers[i].out), sizeof(double));
    for (size_t i = 0; i < n; i++) {
        labels[i] = split->labels[samples[i]];
        for (int c = 0; c < d->channels; c++)
            for (int y = 0; y < d->height; y++)
                for (int x = 0; x < d->width; x++) {
                    size_t from = ((samples[i] * (size_t)d->height + (size_t)y) * (size_t)d->width + (size_t)x) *
                                      (size_t)d->channels +
                                  (size_t)c;
                    size_t to =
                        ((i * (size_t)d->channels + (size_t)c) * (size_t)d->height + (size_t)y) * (size_t)d->width +
                        (size_t)x;
                    r->act[0][to] = (split->images[from] / 255.0 - (double)d->mean[c]) / (double)d->std[c];
                }
    }
}

static void reference_done(struct reference *r)
{
    for (size_t i = 0; i <= r->model->layers_n; i++)
        free(r->act[i]);
    free(r->act);
}

static double at(const double *x, const struct shape *s, size_t n, int c, int h, int w)
{
    if (h < 0 || w < 0 || h >= s->h || w >= s->w)
        return 0;
    return x[((n * (size_t)s->c + (size_t)c) * (size_t)s->h + (size_t)h) * (size_t)s->w + (size_t)w];
}

static double reference_conv(const struct layer *l, const double *x, const double *w, const double *b, size_t n, int o,
                             int oh, int ow)
{
    int in = l->in.c / l->groups, first = o / (l->out.c / l->groups) * in;
    double sum = b ? b[o] : 0;

    for (int c = 0; c < in; c++)
        for (int r = 0; r < l->kernel_h; r++)
            for (int s = 0; s < l->kernel_w; s++)
                sum += w[((o * in + c) * l->kernel_h + r) * l->kernel_w + s] *
                       at(x, &l->in, n, first + c, oh * l->stride - l->pad_top + r, ow * l->stride - l->pad_left + s);
    return sum;
}

static double reference_pool(const struct layer *l, const double *x, size_t n, int c, int oh, int ow)
{
    double sum = 0, top = -INFINITY;
    int count = 0;

    for (int r = 0; r < l->kernel_h; r++)
        for (int s = 0; s < l->kernel_w; s++) {
            int h = oh * l->stride - l->pad_top + r, w = ow * l->stride - l->pad_left + s;
            if (h < 0 || w < 0 || h >= l->in.h || w >= l->in.w)
                continue;
            count++;
            sum += at(x, &l->in, n, c, h, w);
            top = fmax(top, at(x, &l->in, n, c, h, w));
        }
    return l->type == LAYER_MAX_POOL2D ? top : sum / count;
}

/* Over the channels first .. first + width - 1 of samples from .. to - 1. */
static void reference_norm(const struct layer *l, const double *x, double *y, const double *gamma, const double *beta,
                           size_t from, size_t to, size_t first, size_t width, const double *given_mean,
                           const double *given_var)
{
    size_t pixels = (size_t)l->in.h * (size_t)l->in.w, channels = (size_t)l->in.c;
    double count = (double)((to - from) * width * pixels), mean = 0, var = 0;

    for (size_t pass = 0; pass < 2 && !given_mean; pass++) {
        for (size_t n = from; n < to; n++)
            for (size_t i = 0; i < width * pixels; i++) {
                double v = x[(n * channels + first) * pixels + i];
                if (pass)
                    var += (v - mean) * (v - mean) / count;
                else
                    mean += v / count;
            }
    }
    if (given_mean) {
        mean = *given_mean;
        var = *given_var;
    }
    for (size_t n = from; n < to; n++)
        for (size_t i = 0; i < width * pixels; i++) {
            size_t k = (n * channels + first) * pixels + i, c = first + i / pixels;
            y[k] = (x[k] - mean) / sqrt(var + l->eps) * gamma[c] + beta[c];
        }
}

/* The mean loss; dropout is off. training: batch norm by the batch's own statistics. */
static double reference_loss(struct reference *r, const double *weights, bool training)
{
    const struct model *m = r->model;
    double loss = 0;

    for (size_t i = 0; i < m->layers_n; i++) {
        const struct layer *l = &m->layers[i];
        const double *x = r->act[l->input + 1];
        const double *w = l->weight >= 0 ? weights + m->params[l->weight].offset : NULL;
        const double *b = l->bias_param >= 0 ? weights + m->params[l->bias_param].offset : NULL;
        size_t in = reference_values(&l->in), out = reference_values(&l->out);
        double *y = r->act[i + 1];

        switch (l->type) {
        case LAYER_CONV2D:
        case LAYER_MAX_POOL2D:
        case LAYER_AVG_POOL2D:
            for (size_t n = 0; n < r->n; n++)
                for (int o = 0; o < l->out.c; o++)
                    for (int h = 0; h < l->out.h; h++)
                        for (int v = 0; v < l->out.w; v++)
                            *y++ = l->type == LAYER_CONV2D ? reference_conv(l, x, w, b, n, o, h, v)
                                                           : reference_pool(l, x, n, o, h, v);
            break;
        case LAYER_DENSE:
            for (size_t n = 0; n < r->n; n++)
                for (size_t o = 0; o < out; o++) {
                    double sum = b ? b[o] : 0;
                    for (size_t k = 0; k < in; k++)
                        sum += x[n * in + k] * w[o * in + k];
                    y[n * out + o] = sum;
                }
            break;
        case LAYER_GLOBAL_AVG_POOL2D:
            for (size_t k = 0; k < r->n * out; k++) {
                y[k] = 0;
                for (size_t j = 0; j < in / out; j++)
                    y[k] += x[k * (in / out) + j] / (double)(in / out);
            }
            break;
        case LAYER_BATCH_NORM:
            for (size_t c = 0; c < (size_t)l->in.c; c++)
                reference_norm(l, x, y, w, b, 0, r->n, c, 1,
                               training ? NULL : weights + m->params[l->running_mean].offset + c,
                               training ? NULL : weights + m->params[l->running_var].offset + c);
            break;
        case LAYER_GROUP_NORM:
            for (size_t n = 0; n < r->n; n++)
                for (size_t g = 0; g < (size_t)l->norm_groups; g++)
                    reference_norm(l, x, y, w, b, n, n + 1, g * (size_t)(l->in.c / l->norm_groups),
                                   (size_t)(l->in.c / l->norm_groups), NULL, NULL);
            break;
        case LAYER_RELU:
            for (size_t k = 0; k < r->n * out; k++)
                y[k] = x[k] > 0 ? x[k] : 0;
            break;
        case LAYER_ADD:
            for (size_t k = 0; k < r->n * out; k++)
                y[k] = x[k] + r->act[l->from + 1][k];
            break;
        default: /* dropout, flatten: NCHW is the canonical order already */
            memcpy(y, x, r->n * out * sizeof *y);
            break;
        }
    }
    for (size_t n = 0; n < r->n; n++) {
        const double *z = r->act[m->layers_n] + n * (size_t)m->classes;
        double top = z[0], sum = 0;
        for (int k = 1; k < m->classes; k++)
            top = fmax(top, z[k]);
        for (int k = 0; k < m->classes; k++)
            sum += exp(z[k] - top);
        loss += top + log(sum) - z[r->labels[n]];
    }
    return loss / (double)r->n;
}

#endif
