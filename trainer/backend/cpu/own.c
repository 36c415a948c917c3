/* own.c - layers that have our own kernels, by one thread or a team: forward by rows; gradients of a convolution's
 * weights by chunks of rows that are added up in order, or by parts of a wide layer's channels; a dense layer's by panels of
 * inputs, each given to the optimizer while it is in cache. Bits do not depend on the number of threads.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cpu/cpu_private.h"

#include <string.h>

struct pass {
    struct worker *w;
    const struct native *native;
    const struct node *node;
    const struct layer *layer;
    size_t index, rows, chunk, chunks, panels;
    bool training, steps;
    struct native_drop drop; /* kept is NULL: nothing is dropped */
    float *dx;
    atomic_size_t next;
};

/* SGD's step is taken from the sums where they are; the other optimizers' from a panel that stays in cache, or when all
 * gradients are there. */
static bool takes_sgd(const struct update *u)
{
    return u && u->early && u->optimizer.type == OPTIMIZER_SGD && !(u->proximal_mu > 0);
}

static struct native_sgd sgd_of(const struct update *u)
{
    return (struct native_sgd){u->lr, u->optimizer.weight_decay, u->optimizer.momentum, u->optimizer.nesterov};
}

/* Whether the layer's weights are given to the optimizer in its backward pass. */
static bool steps_early(const struct worker *w, size_t i)
{
    const struct node *node = &w->plan->graph.nodes[i];

    return node->own_dense ? w->update && w->update->early : node->by_parts && takes_sgd(w->update);
}

static struct pass pass_of(struct worker *w, size_t i, size_t rows)
{
    const struct plan *p = w->plan;
    struct pass s = {.w = w,
                     .native = p->backend->native,
                     .node = &p->graph.nodes[i],
                     .layer = &p->model->layers[i],
                     .index = i,
                     .rows = rows,
                     .steps = steps_early(w, i)};
    int drop = s.node->dropout;

    if (drop && step_drops(w, (size_t)drop))
        s.drop = (struct native_drop){w->act[s.node->out], w->aux[drop], (float)(1 / (1 - w->rates[drop].rate))};
    return s;
}

static const struct native_drop *drop_of(const struct pass *s)
{
    return s->drop.kept ? &s->drop : NULL;
}

static float *weights_of(const struct worker *w, int param)
{
    return param < 0 ? NULL : w->weights + w->plan->places[param].offset;
}

static float *grads_of(const struct worker *w, int param)
{
    return param < 0 ? NULL : w->grads + w->plan->places[param].offset;
}

static void *scratch_of(const struct worker *w, size_t rank)
{
    return w->plan->scratch[w->team->first + rank];
}

void own_share(const struct team *team, size_t rank, size_t n, size_t grain, size_t *ret_lo, size_t *ret_hi)
{
    size_t grains = (n + grain - 1) / grain, hi = grains * (rank + 1) / team->n * grain;

    *ret_lo = grains * rank / team->n * grain;
    *ret_hi = hi < n ? hi : n;
}

/* convolutions */

static struct conv_args args_of(const struct pass *s, size_t rank)
{
    struct worker *w = s->w;
    const struct node *n = s->node;

    return (struct conv_args){.weights = weights_of(w, s->layer->weight),
                              .bias = weights_of(w, s->layer->bias_param),
                              .prepared = w->layer_prepared[s->index],
                              .x = w->act[n->in],
                              .y = w->act[n->out],
                              .aux = w->aux[s->index],
                              .dy = w->grad[n->out],
                              .dx = s->dx,
                              .drop = drop_of(s),
                              .scratch = scratch_of(w, rank)};
}

static void conv_prepare(void *arg, size_t rank)
{
    struct pass *s = arg;
    struct conv_args a = args_of(s, rank);

    a.part = (struct conv_part){rank, s->w->team->n};
    s->node->kernel->prepare(&s->node->conv, &a, s->training);
}

static void conv_forward(void *arg, size_t rank)
{
    struct pass *s = arg;
    struct conv_args a = args_of(s, rank);
    size_t lo = 0, hi = s->rows;

    if (s->node->by_parts)
        a.part = (struct conv_part){rank, s->w->team->n};
    else
        own_share(s->w->team, rank, s->rows, choose_is_batched(s->node->kernel) ? NATIVE_LANES : 1, &lo, &hi);
    if (lo < hi)
        s->node->kernel->forward(&s->node->conv, &a, lo, hi, s->training);
}

static float *partial_of(const struct pass *s, size_t k)
{
    return s->w->partials + k * s->w->plan->partial_floats;
}

/* Each chunk has a sum of its own. */
static void conv_backward_chunks(void *arg, size_t rank)
{
    struct pass *s = arg;
    const struct conv *c = &s->node->conv;
    struct conv_args a = args_of(s, rank);
    size_t k;

    while ((k = atomic_fetch_add_explicit(&s->next, 1, memory_order_relaxed)) < s->chunks) {
        size_t lo = k * s->chunk, hi = lo + s->chunk;
        a.partial = partial_of(s, k);
        s->node->kernel->backward(c, &a, lo, hi < s->rows ? hi : s->rows);
    }
}

struct adding {
    struct worker *w;
    size_t chunks, floats;
};

static void add_share(void *arg, size_t rank)
{
    struct adding *a = arg;
    const struct plan *p = a->w->plan;
    float *first = a->w->partials;
    size_t lo, hi;

    own_share(a->w->team, rank, a->floats, 64, &lo, &hi);
    for (size_t k = 1; k < a->chunks && lo < hi; k++)
        p->backend->native->add(first + k * p->partial_floats + lo, first + lo, hi - lo);
}

void own_add_chunks(struct worker *w, size_t chunks, size_t floats)
{
    struct adding a = {w, chunks, floats};

    team_run(w->team, add_share, &a);
}

static void conv_backward_part(void *arg, size_t rank)
{
    struct pass *s = arg;
    struct worker *w = s->w;
    struct conv_args a = args_of(s, rank);
    size_t base = w->plan->places[s->layer->weight].offset;
    struct native_step step;

    a.part = (struct conv_part){rank, w->team->n};
    a.partial = partial_of(s, 0);
    if (s->steps) {
        step = (struct native_step){sgd_of(w->update), w->weights + base,
                                    w->update->optimizer.momentum > 0 ? w->state + base : NULL};
        a.step = &step;
    }
    s->node->kernel->backward(&s->node->conv, &a, 0, s->rows);
}

static void conv_backward_alone(struct pass *s)
{
    const struct conv *c = &s->node->conv;
    struct conv_args a = args_of(s, 0);
    size_t n = s->node->kernel->partial_floats(c);

    for (size_t k = 0; k < s->chunks; k++) {
        size_t lo = k * s->chunk, hi = lo + s->chunk;
        a.partial = partial_of(s, k ? 1 : 0);
        s->node->kernel->backward(c, &a, lo, hi < s->rows ? hi : s->rows);
        if (k)
            s->native->add(a.partial, partial_of(s, 0), n);
    }
}

static void conv_backward_rows(struct pass *s)
{
    struct worker *w = s->w;

    s->chunk = w->plan->chunks[s->index];
    s->chunks = (s->rows + s->chunk - 1) / s->chunk;
    if (w->team->n == 1) {
        conv_backward_alone(s);
    } else {
        team_run(w->team, conv_backward_chunks, s);
        own_add_chunks(w, s->chunks, s->node->kernel->partial_floats(&s->node->conv));
    }
}

static void conv_finish(void *arg, size_t rank)
{
    struct pass *s = arg;
    struct worker *w = s->w;

    s->node->kernel->finish(&s->node->conv, partial_of(s, 0), s->steps ? NULL : grads_of(w, s->layer->weight),
                            grads_of(w, s->layer->bias_param), (struct conv_part){rank, w->team->n});
}

static void conv_backward(struct pass *s)
{
    struct worker *w = s->w;

    if (s->node->by_parts)
        team_run(w->team, conv_backward_part, s);
    else
        conv_backward_rows(s);
    team_run(w->team, conv_finish, s);
}

/* dense layers */

#define PANEL_FLOATS 16384 /* of gradients that wait for the optimizer in the first or second cache */

static size_t panel_rows(const struct dense *d)
{
    size_t rows = PANEL_FLOATS / d->stride / 64 * 64;

    return rows ? rows : 64;
}

static size_t panel_bytes(const struct dense *d)
{
    return plan_aligned((panel_rows(d) < d->in ? panel_rows(d) : d->in) * d->stride * sizeof(float));
}

size_t own_dense_scratch(const struct plan *p, size_t i)
{
    const struct dense *d = &p->graph.nodes[i].dense;

    return panel_bytes(d) + p->backend->native->dense_scratch_bytes(d, p->rows_max) + 64;
}

/* Threads share the outputs first: each then reads its own part of the weights, of which there is more than of rows. */
static void dense_forward(void *arg, size_t rank)
{
    const struct pass *s = arg;
    struct worker *w = s->w;
    const struct dense *d = &s->node->dense;
    const size_t grain = 2 * NATIVE_LANES, grains = (d->out + grain - 1) / grain, n = w->team->n;
    size_t columns = n < grains ? n : grains, lo, hi, from, to;

    while (n % columns)
        columns--;
    from = grains * (rank % columns) / columns * grain;
    to = grains * (rank % columns + 1) / columns * grain;
    lo = s->rows * (rank / columns) / (n / columns);
    hi = s->rows * (rank / columns + 1) / (n / columns);
    if (lo < hi)
        s->native->dense_forward(d, weights_of(w, s->layer->weight), weights_of(w, s->layer->bias_param), w->act[s->node->in],
                                 w->act[s->node->out], drop_of(s), lo, hi, from, to < d->out ? to : d->out);
}

static void sgd_panel(const struct pass *s, size_t i0, size_t i1, void *scratch)
{
    struct worker *w = s->w;
    const struct update *u = w->update;
    const struct native_sgd sgd = sgd_of(u);
    size_t base = w->plan->places[s->layer->weight].offset;

    s->native->dense_backward_sgd(&s->node->dense, &sgd, w->weights + base, w->weights + base,
                                  u->optimizer.momentum > 0 ? w->state + base : NULL, w->act[s->node->in],
                                  w->grad[s->node->out], s->dx, s->rows, i0, i1, scratch);
}

static void gradient_panel(const struct pass *s, size_t i0, size_t i1, char *scratch)
{
    struct worker *w = s->w;
    const struct dense *d = &s->node->dense;
    size_t base = w->plan->places[s->layer->weight].offset, from = base + i0 * d->stride, to = base + i1 * d->stride;
    bool early = w->update && w->update->early;
    float *dw = early ? (float *)(void *)scratch : w->grads + from;

    s->native->dense_backward(d, w->weights + base, w->act[s->node->in], w->grad[s->node->out], s->dx, dw, s->rows, i0, i1,
                              scratch + panel_bytes(d));
    if (early)
        own_update(w, dw, from, to);
}

static void dense_panels(void *arg, size_t rank)
{
    struct pass *s = arg;
    const struct dense *d = &s->node->dense;
    size_t panel = panel_rows(d), k;

    while ((k = atomic_fetch_add_explicit(&s->next, 1, memory_order_relaxed)) < s->panels) {
        size_t i0 = k * panel, i1 = i0 + panel < d->in ? i0 + panel : d->in;
        if (takes_sgd(s->w->update))
            sgd_panel(s, i0, i1, scratch_of(s->w, rank));
        else
            gradient_panel(s, i0, i1, scratch_of(s->w, rank));
    }
}

static void dense_backward(struct pass *s)
{
    struct worker *w = s->w;
    const struct dense *d = &s->node->dense;

    s->native->dense_mask(d, w->act[s->node->out], w->grad[s->node->out], grads_of(w, s->layer->bias_param), drop_of(s),
                          s->rows);
    s->panels = (d->in + panel_rows(d) - 1) / panel_rows(d);
    team_run(w->team, dense_panels, s);
}

/* both */

void own_forward(struct worker *w, size_t i, size_t rows, bool training)
{
    struct pass s = pass_of(w, i, rows);

    s.training = training;
    if (!s.node->kernel) {
        team_run(w->team, dense_forward, &s);
        return;
    }
    if (w->prepared < (training ? PREPARED_BOTH : PREPARED_FORWARD))
        team_run(w->team, conv_prepare, &s);
    team_run(w->team, conv_forward, &s);
}

void own_backward(struct worker *w, size_t i, size_t rows, float *dx)
{
    struct pass s = pass_of(w, i, rows);

    s.dx = dx;
    if (s.node->kernel)
        conv_backward(&s);
    else
        dense_backward(&s);
}

/* the step */

void own_update(struct worker *w, float *g, size_t from, size_t to)
{
    const struct update *u = w->update;

    if (u->proximal_mu > 0)
        kernel_proximal(u->proximal_mu, w->weights + from, u->start + from, g, to - from);
    optimizer_step_part(&u->optimizer, u->lr, u->t, w->weights, g, w->state, w->plan->trainable_n, from, to);
}

struct rest {
    struct worker *w;
    size_t from, to;
};

static void update_share(void *arg, size_t rank)
{
    struct rest *r = arg;
    size_t lo, hi;

    own_share(r->w->team, rank, r->to - r->from, 1024, &lo, &hi);
    if (lo < hi)
        own_update(r->w, r->w->grads + r->from + lo, r->from + lo, r->from + hi);
}

static void update_range(struct worker *w, size_t from, size_t to)
{
    struct rest r = {w, from, to};

    if (to - from > 8192)
        team_run(w->team, update_share, &r);
    else if (to > from)
        own_update(w, w->grads + from, from, to);
}

void own_update_rest(struct worker *w)
{
    const struct plan *p = w->plan;
    size_t from = 0;

    for (size_t i = 0; i < p->model->layers_n; i++) {
        const struct place *place;
        if (!steps_early(w, i))
            continue;
        place = &p->places[p->model->layers[i].weight];
        update_range(w, from, place->offset);
        from = place->offset + place->size;
    }
    update_range(w, from, p->trainable_n);
    w->prepared = PREPARED_NOT;
}
