/* plan.c - a model made ready to train: working layout of the weights, programs, memory.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cuda/cuda_private.h"

#include <stdlib.h>
#include <string.h>

static size_t values_of(const struct shape *s)
{
    return (size_t)s->c * (size_t)s->h * (size_t)s->w;
}

static size_t aligned(size_t floats)
{
    return (floats + PLACE_ALIGN - 1) / PLACE_ALIGN * PLACE_ALIGN;
}

static bool may_share(const struct program *train, size_t param)
{
    for (size_t i = 0; i < train->ops_n; i++)
        if (train->ops[i].rank && train->model->layers[train->ops[i].layer].weight == (int)param)
            return true;
    return false;
}

struct sizes { /* of the working layout, in floats */
    size_t shared, trainable, weights;
};

/* First the weights of layers whose replicas may share the start, then the others, then buffers. places may be NULL. */
static struct sizes place_params(const struct program *train, struct place *places)
{
    const struct model *m = train->model;
    struct sizes sizes = {0};

    for (int shares = 1; shares >= 0; shares--)
        for (size_t k = 0; k < m->params_n; k++) {
            if (may_share(train, k) != shares)
                continue;
            if (places)
                places[k] = (struct place){.offset = sizes.weights, .size = m->params[k].size};
            sizes.weights += aligned(m->params[k].size);
            sizes.shared = shares ? sizes.weights : sizes.shared;
            sizes.trainable = m->params[k].trainable ? sizes.weights : sizes.trainable;
        }
    return sizes;
}

size_t plan_place_end(const struct plan *p, size_t param)
{
    return p->places[param].offset + aligned(p->places[param].size);
}

static size_t least_rank(const struct program *train)
{
    size_t least = 0;

    for (size_t i = 0; i < train->ops_n; i++)
        if (train->ops[i].rank && (!least || train->ops[i].rank < least))
            least = train->ops[i].rank;
    return least;
}

/* (O, I, R, S) to (O, R, S, I); columns (c, h, w) to (h, w, c). */
static void map_layer(struct plan *p, size_t i)
{
    const struct layer *l = &p->model->layers[i];
    const struct shape *image = &p->train.permuted[i];
    const struct param *param;
    size_t base, in, taps;

    if (l->weight < 0)
        return;
    param = &p->model->params[l->weight];
    base = p->places[l->weight].offset;
    if (l->type == LAYER_CONV2D) {
        in = (size_t)param->shape[1];
        taps = (size_t)param->shape[2] * (size_t)param->shape[3];
    } else if (l->type == LAYER_DENSE && image->c) {
        in = (size_t)image->c;
        taps = (size_t)image->h * (size_t)image->w;
    } else {
        return;
    }
    for (size_t k = 0; k < param->size; k++) {
        size_t o = k / (in * taps), c = k / taps % in, tap = k % taps;
        p->where[param->offset + k] = (uint32_t)(base + (o * taps + tap) * in + c);
    }
}

static int map_params(struct plan *p)
{
    const struct model *m = p->model;
    struct sizes sizes;

    p->where = calloc(m->weights_n + 1, sizeof *p->where);
    p->places = calloc(m->params_n + 1, sizeof *p->places);
    p->draws = calloc(m->layers_n + 1, sizeof *p->draws);
    if (!p->where || !p->places || !p->draws)
        return -ENOMEM;
    sizes = place_params(&p->train, p->places);
    p->weights_n = sizes.weights;
    p->trainable_n = sizes.trainable;
    p->shared_n = sizes.shared;
    p->rank = least_rank(&p->train);
    if (p->weights_n > UINT32_MAX)
        return -ENOMEM;
    for (size_t k = 0; k < m->params_n; k++)
        for (size_t i = 0; i < m->params[k].size; i++)
            p->where[m->params[k].offset + i] = (uint32_t)(p->places[k].offset + i);
    for (size_t i = 0; i < m->layers_n; i++) {
        map_layer(p, i);
        if (m->layers[i].type == LAYER_DROPOUT && m->layers[i].rate > 0)
            p->draws[p->draws_n++] = (uint32_t)values_of(&m->layers[i].in);
    }
    return 0;
}

/* Of an evaluation: a rule over the model, so that scores depend on weights and samples alone. */
static size_t evaluate_rows(const struct model *m)
{
    size_t most = values_of(&m->input), rows = EVALUATE_ROWS;

    for (size_t i = 0; i < m->layers_n; i++)
        most = values_of(&m->layers[i].out) > most ? values_of(&m->layers[i].out) : most;
    while (rows > 16 && rows * most * sizeof(float) > EVALUATE_BYTES)
        rows /= 2;
    return rows;
}

static size_t data_bytes(const struct dataset *d)
{
    size_t image = d ? (size_t)d->channels * (size_t)d->height * (size_t)d->width + sizeof(uint16_t) : 0;

    return d ? (d->train.n + d->test.n) * image : 0;
}

int cuda_plan_bytes(const struct model *m, size_t batch, enum precision precision, const struct dataset *dataset,
                    size_t *ret_shared, size_t *ret_lane, struct error *err)
{
    struct program train = {0}, evaluate = {0};
    struct sizes sizes;
    int rc = program_new(m, batch, true, precision, &train, err);

    if (!rc)
        rc = program_new(m, evaluate_rows(m), false, precision, &evaluate, err);
    if (!rc) {
        sizes = place_params(&train, NULL);
        /* where, canonical weights; of one training the sums and the resident model; an evaluation; the libraries'
         * workspace is in CONTEXT_BYTES */
        *ret_shared = CONTEXT_BYTES + sizes.weights * (4 + 4 + 8 + 4) +
                      lanes_bytes(&evaluate, sizes.weights, sizes.trainable, 1) + data_bytes(dataset) +
                      (dataset ? (dataset->train.n + dataset->test.n) * 32 : 0);
        *ret_lane = lanes_bytes(&train, sizes.weights, sizes.trainable, 1) +
                    (2 * sizes.trainable + sizes.weights) * sizeof(float);
    }
    program_done(&train);
    program_done(&evaluate);
    return rc;
}

static int device_new(struct plan *p, struct error *err)
{
    const struct driver *d = p->backend->driver;
    struct device *device = p->backend->device;
    const struct model *m = p->model;
    int rc;

    if ((rc = d->alloc(device, (m->weights_n + 1) * sizeof *p->where, (void **)&p->d_where, err)) ||
        (rc = d->alloc(device, (p->draws_n + 1) * sizeof *p->draws, (void **)&p->d_draws, err)) ||
        (rc = d->alloc(device, (m->weights_n + 1) * sizeof(float), (void **)&p->d_canonical, err)) ||
        (rc = sums_grow(p, 1, err)) ||
        (rc = d->upload(device, p->d_where, p->where, m->weights_n * sizeof *p->where, err)))
        return rc;
    return d->upload(device, p->d_draws, p->draws, p->draws_n * sizeof *p->draws, err);
}

int cuda_plan_new(struct backend *backend, const struct model *model, const struct plan_options *options,
                  struct plan **ret, struct error *err)
{
    struct plan *p = calloc(1, sizeof *p);
    enum precision precision = options->precision;
    int rc;

    if (!p)
        return fail(err, -ENOMEM, "out of memory");
    p->backend = backend;
    p->next = backend->plans;
    backend->plans = p;
    p->model = model;
    p->batch = options->batch;
    p->precision = options->precision;
    rc = program_new(model, options->batch, true, precision, &p->train, err);
    rc = rc ? rc : program_new(model, evaluate_rows(model), false, precision, &p->evaluate, err);
    if (!rc && backend->ranks) {
        size_t ranks = ranks_n(backend->ranks);
        rc = program_new(model, (options->batch + ranks - 1) / ranks, true, precision, &p->parallel, err);
    }
    if (!rc && map_params(p))
        rc = fail(err, -ENOMEM, "out of memory for a model of %zu weights", model->weights_n);
    rc = rc ? rc : device_new(p, err);
    if (rc) {
        cuda_plan_free(p);
        return rc;
    }
    *ret = p;
    return 0;
}

void cuda_plan_free(struct plan *p)
{
    const struct driver *d;
    struct plan **at;

    if (!p)
        return;
    if (p->peers)
        parallel_plan_free(p);
    d = p->backend->driver;
    for (at = &p->backend->plans; *at != p;)
        at = &(*at)->next;
    *at = p->next;
    lanes_free(p->training);
    lanes_free(p->evaluation);
    d->release(p->backend->device, p->d_where);
    d->release(p->backend->device, p->d_draws);
    d->release(p->backend->device, p->d_canonical);
    d->release(p->backend->device, p->d_sums);
    while (p->residents)
        cuda_drop_model(p, p->residents);
    program_done(&p->train);
    program_done(&p->evaluate);
    program_done(&p->parallel);
    free(p->where);
    free(p->places);
    free(p->draws);
    free(p->host);
    free(p);
}

static bool trim(struct backend *b, const struct plan *but)
{
    bool any = false;

    for (struct plan *p = b->plans; p; p = p->next) {
        if (p == but || (!p->training && !p->evaluation))
            continue;
        lanes_free(p->training);
        lanes_free(p->evaluation);
        p->training = p->evaluation = NULL;
        any = true;
    }
    return any;
}

bool cuda_trim(struct backend *b, const struct plan *but)
{
    bool any = false;

    for (size_t rank = 0; b->peers && rank < ranks_n(b->ranks); rank++)
        any |= trim(b->peers[rank], but ? but->peers[rank] : NULL);
    return b->peers ? any : trim(b, but);
}

void *cuda_plan_host(struct plan *p, size_t bytes)
{
    if (bytes > p->host_bytes || !p->host) {
        free(p->host);
        p->host_bytes = bytes + bytes / 4 + 64;
        p->host = malloc(p->host_bytes);
        if (!p->host)
            p->host_bytes = 0;
    }
    return p->host;
}

int cuda_plan_check_samples(const struct plan *p, const struct data_split *split, const uint32_t *samples, size_t n,
                            struct error *err)
{
    return backend_check_samples(p->model, p->backend->dataset, split, samples, n, err);
}
