/* step.c - one batch through the nodes, forwards and backwards.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cpu/cpu_private.h"

#include <string.h>

static size_t values(const struct plan *p, int tensor)
{
    return p->graph.tensors[tensor].values;
}

/* Rows past the real ones, where a kernel has not written them. */
static void zero_rows(float *x, size_t from, size_t to, size_t row)
{
    if (to > from)
        memset(x + from * row, 0, (to - from) * row * sizeof *x);
}

/* What a layer does for each row by itself; a team shares the rows. */
struct by_rows {
    struct worker *w;
    size_t layer, rows;
    float *dx;      /* backward */
    bool evaluates; /* forward: no backward pass will follow */
};

static size_t share_rows(const struct by_rows *s, size_t rank, size_t *ret_lo)
{
    size_t hi;

    own_share(s->w->team, rank, s->rows, 1, ret_lo, &hi);
    return hi - *ret_lo;
}

static void forward_rows(void *arg, size_t rank)
{
    const struct by_rows *s = arg;
    struct worker *w = s->w;
    const struct plan *p = w->plan;
    const struct layer *l = &p->model->layers[s->layer];
    const struct node *node = &p->graph.nodes[s->layer];
    size_t lo, n = share_rows(s, rank, &lo), row = values(p, node->out), at = lo * row;
    const float *x = w->act[node->in] + lo * values(p, node->in);
    float *y = w->act[node->out] + at;

    switch (l->type) {
    case LAYER_MAX_POOL2D:
        kernel_max_pool(l, x, y, s->evaluates ? NULL : (uint16_t *)w->aux[s->layer] + at, n);
        break;
    case LAYER_AVG_POOL2D:
        kernel_avg_pool(l, x, y, n);
        break;
    case LAYER_GLOBAL_AVG_POOL2D:
        kernel_global_avg_pool(l, x, y, n, p->scratch[w->team->first + rank]);
        break;
    case LAYER_RELU:
        kernel_relu(x, y, n * row);
        break;
    case LAYER_FLATTEN:
        kernel_transpose(&l->in, x, y, n, false);
        break;
    case LAYER_ADD:
        kernel_add(x, w->act[node->in2] + at, y, n * row);
        break;
    default: /* dropout that lets everything through */
        if (y != x)
            memcpy(y, x, n * row * sizeof *y);
        break;
    }
}

static void backward_rows(void *arg, size_t rank)
{
    const struct by_rows *s = arg;
    struct worker *w = s->w;
    const struct plan *p = w->plan;
    const struct layer *l = &p->model->layers[s->layer];
    const struct node *node = &p->graph.nodes[s->layer];
    size_t lo, n = share_rows(s, rank, &lo), row = values(p, node->in), at = lo * values(p, node->out);
    const float *y = w->act[node->out] + at, *dy = w->grad[node->out] + at;
    float *dx = s->dx + lo * row;

    switch (l->type) {
    case LAYER_MAX_POOL2D:
        kernel_max_pool_backward(l, dy, y, (uint16_t *)w->aux[s->layer] + at, dx, n, node->relu_mask);
        break;
    case LAYER_AVG_POOL2D:
        kernel_avg_pool_backward(l, dy, dx, n);
        break;
    case LAYER_GLOBAL_AVG_POOL2D:
        kernel_global_avg_pool_backward(l, dy, dx, n);
        break;
    case LAYER_RELU:
        kernel_relu_backward(y, dy, dx, n * row);
        break;
    case LAYER_FLATTEN:
        kernel_transpose(&l->in, dy, dx, n, true);
        break;
    default: /* a sum, or dropout that let everything through */
        if (dx != dy)
            memcpy(dx, dy, n * row * sizeof *dx);
        break;
    }
}

/* What comes behind a layer's backward pass where its inputs have other readers. */
static void gather_rows(void *arg, size_t rank)
{
    const struct by_rows *s = arg;
    struct worker *w = s->w;
    const struct node *node = &w->plan->graph.nodes[s->layer];
    size_t lo, n = share_rows(s, rank, &lo), row = values(w->plan, node->in), at = lo * row;

    if (node->add_in)
        kernel_accumulate(w->spare + at, w->grad[node->in] + at, n * row);
    if (node->add_in2)
        kernel_accumulate(w->grad[node->out] + at, w->grad[node->in2] + at, n * row);
    else if (node->need_in2 && !node->norm.channels) /* a norm has written it */
        memcpy(w->grad[node->in2] + at, w->grad[node->out] + at, n * row * sizeof(float));
}

struct dropping {
    struct worker *w;
    double rate;
    const struct pcg32 *rng; /* NULL: backward */
    const float *from;       /* NULL: decisions alone */
    float *to;
    uint64_t *kept;
    size_t values;
};

static void drop_share(void *arg, size_t rank)
{
    const struct dropping *d = arg;
    const struct native *native = d->w->plan->backend->native;
    size_t lo, hi;

    own_share(d->w->team, rank, d->values, 64, &lo, &hi);
    if (lo >= hi)
        return;
    if (!d->from)
        native->dropout_keep(d->rate, d->rng, d->kept, lo, hi);
    else if (d->rng)
        native->dropout(d->rate, d->rng, d->from, d->to, d->kept, lo, hi);
    else
        native->dropout_backward(d->rate, d->kept, d->from, d->to, lo, hi);
}

bool step_drops(const struct worker *w, size_t layer)
{
    return w->dropping && w->plan->model->layers[layer].rate > 0;
}

/* Decides on the values of layer i's output, and applies that from x to y, which may be NULL. */
static void drop(struct worker *w, size_t i, size_t values, struct pcg32 *rng, const float *x, float *y)
{
    struct dropping d = {w, w->rates[i].rate, rng, x, y, w->aux[i], values};

    team_run(w->team, drop_share, &d);
    pcg32_advance(rng, (values + 1) / 2);
}

static void note_time(double *quickest, double began)
{
    double took = clock_seconds() - began;

    if (!(*quickest > 0) || took < *quickest)
        *quickest = took;
}

int step_forward(struct worker *w, size_t variant, size_t n, enum mode mode, struct pcg32 *dropout)
{
    struct plan *p = w->plan;
    const struct model *m = p->model;
    const struct variant *v = p->variants[variant];
    size_t rows = v->rows;
    int rc = 0;

    w->dropping = mode == MODE_TRAIN;
    zero_rows(w->act[0], n, rows, values(p, 0));
    for (size_t i = 0; i < m->layers_n && !rc; i++) {
        const struct layer *l = &m->layers[i];
        const struct node *node = &p->graph.nodes[i];
        const float *x = w->act[node->in];
        float *y = w->act[node->out];
        size_t row = values(p, node->out);
        double began = w->times ? clock_seconds() : 0;

        if (node->absorbed || node->skip_forward)
            continue;
        switch (l->type) {
        case LAYER_CONV2D:
        case LAYER_DENSE:
            if (node->dropout && step_drops(w, (size_t)node->dropout))
                drop(w, (size_t)node->dropout, n * row, dropout, NULL, NULL);
            if (node->kernel || node->own_dense)
                own_forward(w, i, rows, mode != MODE_EVALUATE);
            else
                rc = linear_forward(w, &v->linear[i], &w->bindings[variant]->bound[i]);
            break;
        case LAYER_BATCH_NORM:
        case LAYER_GROUP_NORM:
            norm_forward(w, i, n, mode != MODE_EVALUATE, mode == MODE_TRAIN);
            zero_rows(y, n, rows, row);
            break;
        case LAYER_DROPOUT:
            if (step_drops(w, i)) {
                drop(w, i, n * row, dropout, x, y);
                zero_rows(y, n, rows, row);
                break;
            }
            /* fall through */
        default:
            team_run(w->team, forward_rows, &(struct by_rows){.w = w, .layer = i, .rows = rows, .evaluates = mode == MODE_EVALUATE});
            break;
        }
        if (w->times)
            note_time(&w->times[i].forward, began);
    }
    w->prepared = mode != MODE_EVALUATE ? PREPARED_BOTH : w->prepared == PREPARED_NOT ? PREPARED_FORWARD : w->prepared;
    return rc;
}

/* One layer's gradient of its first input into dx (which may be NULL where none is wanted), and of its parameters. */
static int layer_backward(struct worker *w, size_t variant, size_t n, size_t i, float *dx)
{
    struct plan *p = w->plan;
    const struct layer *l = &p->model->layers[i];
    const struct node *node = &p->graph.nodes[i];
    const struct variant *v = p->variants[variant];
    size_t rows = v->rows, row = values(p, node->in);

    switch (l->type) {
    case LAYER_CONV2D:
    case LAYER_DENSE:
        if (node->kernel || node->own_dense) {
            own_backward(w, i, rows, dx);
            return 0;
        }
        return linear_backward(w, &v->linear[i], &w->bindings[variant]->bound[i]);
    case LAYER_BATCH_NORM:
    case LAYER_GROUP_NORM:
        norm_backward(w, i, n, dx);
        if (dx)
            zero_rows(dx, n, rows, row);
        if (node->in2 >= 0 && node->need_in2 && !node->add_in2)
            zero_rows(w->grad[node->in2], n, rows, values(p, node->in2));
        return 0;
    case LAYER_DROPOUT:
        if (dx && step_drops(w, i)) {
            struct dropping d = {w, w->rates[i].rate, NULL, w->grad[node->out], dx, w->aux[i], n * row};
            team_run(w->team, drop_share, &d);
            zero_rows(dx, n, rows, row);
            return 0;
        }
        /* fall through */
    default:
        if (dx)
            team_run(w->team, backward_rows, &(struct by_rows){.w = w, .layer = i, .rows = rows, .dx = dx});
        return 0;
    }
}

int step_backward(struct worker *w, size_t variant, size_t n)
{
    struct plan *p = w->plan;
    size_t rows = p->variants[variant]->rows;
    int rc = 0;

    for (size_t i = p->model->layers_n; i-- > 0 && !rc;) {
        const struct layer *l = &p->model->layers[i];
        const struct node *node = &p->graph.nodes[i];
        float *dx = node->need_in ? node->add_in ? w->spare : w->grad[node->in] : NULL;
        double began = w->times ? clock_seconds() : 0;

        if (node->absorbed || node->skip_backward)
            continue;
        if (dx || l->weight >= 0)
            rc = layer_backward(w, variant, n, i, dx);
        if (node->add_in || node->add_in2 || (node->need_in2 && !node->norm.channels))
            team_run(w->team, gather_rows, &(struct by_rows){.w = w, .layer = i, .rows = rows});
        if (w->times)
            note_time(&w->times[i].backward, began);
    }
    return rc;
}
