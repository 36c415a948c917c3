/* norm.c - batch and group normalisation of a batch, by one thread or a team.
 * Group normalisation by rows; gradients of gamma and beta by chunks of rows that are added up in order, so that bits do
 * not depend on the number of threads. Batch normalisation is one row of all pixels, by one thread.
 * Ioffe, Szegedy 2015 (arXiv:1502.03167); Wu, He 2018 (arXiv:1803.08494). SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cpu/cpu_private.h"

#include <math.h>
#include <string.h>

static size_t variance_bytes(const struct native_norm *norm)
{
    return plan_aligned(norm->groups * sizeof(double));
}

/* A row of batch normalisation has the pixels of any number of rows; the kernel's need for an even number of them is the
 * larger, and 64 is a multiple of every power that it looks at. */
size_t norm_scratch(const struct native *native, const struct native_norm *norm)
{
    struct native_norm whole = *norm;
    size_t one = native->norm_scratch_bytes(norm), many;

    whole.pixels *= 64;
    many = native->norm_scratch_bytes(&whole);
    return variance_bytes(norm) + (one > many ? one : many);
}

void norm_batch(const struct native *native, const struct native_norm *norm, double momentum, const float *x,
                const float *skip, float *y, const float *gamma, const float *beta, float *running_mean, float *running_var, float *stats, size_t n,
                bool training, bool update, void *scratch)
{
    struct native_norm whole = *norm;
    double *var = scratch;
    char *rest = (char *)scratch + variance_bytes(norm);
    size_t c = norm->channels;
    double count;

    whole.pixels *= n;
    count = (double)whole.pixels;
    if (!training) {
        for (size_t k = 0; k < c; k++) {
            stats[k] = running_mean[k];
            stats[c + k] = (float)(1 / sqrt((double)running_var[k] + norm->eps));
        }
        native->norm_apply(&whole, x, skip, y, gamma, beta, stats, stats + c, rest, 0, 1);
        return;
    }
    native->norm_forward(&whole, x, skip, y, gamma, beta, stats, var, rest, 0, 1);
    for (size_t k = 0; k < c && update; k++) {
        double unbiased = whole.pixels > 1 ? var[k] * count / (count - 1) : var[k];
        running_mean[k] = (float)((1 - momentum) * (double)running_mean[k] + momentum * (double)stats[k]);
        running_var[k] = (float)((1 - momentum) * (double)running_var[k] + momentum * unbiased);
    }
}

struct pass {
    struct worker *w;
    const struct native *native;
    const struct node *node;
    const struct layer *layer;
    size_t index, rows;
    float *dx;
    atomic_size_t next;
};

static float *at(float *base, const struct worker *w, int param)
{
    return base + w->plan->places[param].offset;
}

static struct pass pass_of(struct worker *w, size_t i, size_t n)
{
    const struct plan *p = w->plan;

    return (struct pass){w, p->backend->native, &p->graph.nodes[i], &p->model->layers[i], i, n, NULL, 0};
}

/* What is added before ReLU. */
static const float *skip_of(const struct pass *s)
{
    return s->node->in2 >= 0 ? s->w->act[s->node->in2] : NULL;
}

static void forward_share(void *arg, size_t rank)
{
    struct pass *s = arg;
    struct worker *w = s->w;
    size_t lo, hi;

    own_share(w->team, rank, s->rows, 1, &lo, &hi);
    if (lo < hi)
        s->native->norm_forward(&s->node->norm, w->act[s->node->in], skip_of(s), w->act[s->node->out],
                                at(w->weights, w, s->layer->weight), at(w->weights, w, s->layer->bias_param),
                                w->aux[s->index], NULL, w->plan->scratch[w->team->first + rank], lo, hi);
}

void norm_forward(struct worker *w, size_t i, size_t n, bool training, bool update)
{
    struct pass s = pass_of(w, i, n);
    const struct layer *l = s.layer;

    if (l->type == LAYER_GROUP_NORM)
        team_run(w->team, forward_share, &s);
    else
        norm_batch(s.native, &s.node->norm, l->momentum, w->act[s.node->in], skip_of(&s), w->act[s.node->out],
                   at(w->weights, w, l->weight), at(w->weights, w, l->bias_param), at(w->weights, w, l->running_mean),
                   at(w->weights, w, l->running_var), w->aux[i], n, training, update, w->plan->scratch[w->team->first]);
}

static void backward_rows(struct pass *s, const struct native_norm *norm, size_t rank, float *partial, size_t lo, size_t hi)
{
    struct worker *w = s->w;
    const struct node *n = s->node;
    float *dy = w->grad[n->out]; /* behind ReLU's mask it is the gradient of what was added */
    float *masked = n->in2 < 0 || !n->need_in2 ? NULL : n->add_in2 ? dy : w->grad[n->in2];

    s->native->norm_backward(norm, w->act[n->in], w->act[n->out], dy, s->dx, masked,
                             at(w->weights, w, s->layer->weight), w->aux[s->index], partial,
                             w->plan->scratch[w->team->first + rank], lo, hi);
}

static float *partial_new(const struct pass *s, size_t k)
{
    float *partial = s->w->partials + k * s->w->plan->partial_floats;

    memset(partial, 0, 2 * s->node->norm.channels * sizeof(float));
    return partial;
}

static size_t chunk_end(const struct pass *s, size_t k)
{
    return (k + 1) * NORM_CHUNK < s->rows ? (k + 1) * NORM_CHUNK : s->rows;
}

static void backward_chunks(void *arg, size_t rank)
{
    struct pass *s = arg;
    size_t k;

    while ((k = atomic_fetch_add_explicit(&s->next, 1, memory_order_relaxed)) * NORM_CHUNK < s->rows)
        backward_rows(s, &s->node->norm, rank, partial_new(s, k), k * NORM_CHUNK, chunk_end(s, k));
}

void norm_backward(struct worker *w, size_t i, size_t n, float *dx)
{
    struct pass s = pass_of(w, i, n);
    const float *sums = w->partials;
    size_t c = s.node->norm.channels, chunks = (n + NORM_CHUNK - 1) / NORM_CHUNK;

    s.dx = dx;
    if (s.layer->type == LAYER_BATCH_NORM) {
        struct native_norm whole = s.node->norm;
        whole.pixels *= n;
        backward_rows(&s, &whole, 0, partial_new(&s, 0), 0, 1);
    } else if (w->team->n > 1) {
        team_run(w->team, backward_chunks, &s);
        own_add_chunks(w, chunks, 2 * c);
    } else {
        for (size_t k = 0; k < chunks; k++) {
            backward_rows(&s, &s.node->norm, 0, partial_new(&s, k ? 1 : 0), k * NORM_CHUNK, chunk_end(&s, k));
            if (k)
                s.native->add(w->partials + w->plan->partial_floats, w->partials, 2 * c);
        }
    }
    memcpy(at(w->grads, w, s.layer->weight), sums, c * sizeof(float));
    memcpy(at(w->grads, w, s.layer->bias_param), sums + c, c * sizeof(float));
}
