/* lanes.c - device memory of replicas in lockstep, and their steps as captured graphs.
 * Everything is one allocation, made for a number of lanes; a smaller round leaves lanes idle. Steps are captured in
 * graphs of 1, 2, 4 ... 32, so that any number of steps is a few launches and at most six graphs are ever made.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cuda/cuda_private.h"
#include "common/failpoint.h"

#include <stdlib.h>
#include <string.h>

#define RUNS 1024        /* partial sums of a lane's distance */
#define WAIT_PARALLEL 64 /* where GPUs wait for each other, so that it is soon seen that one does not answer */
#define DRIVER(l) ((l)->plan->backend->driver)
#define DEVICE_OF(l) ((l)->plan->backend->device)

struct carver { /* base NULL: counts */
    char *base;
    size_t used;
};

static void *carve(struct carver *c, size_t bytes)
{
    void *at = c->base ? c->base + c->used : NULL;

    c->used += (bytes + 255) / 256 * 256;
    return at;
}

static void carve_inbox(const struct lanes *l, struct inbox *in, struct carver *c)
{
    size_t drops = l->training ? l->n * program_dropouts(l->program->model, l->program->model->layers_n) : 0;

    in->lanes = carve(c, l->n * sizeof *in->lanes);
    in->drops = carve(c, drops * sizeof *in->drops);
    in->start_steps = carve(c, l->training ? l->n * sizeof *in->start_steps : 0);
    in->pointers = carve(c, 2 * sizeof *in->pointers);
    in->total = carve(c, sizeof *in->total);
    in->left = carve(c, sizeof *in->left);
}

static void carve_lanes(struct lanes *l, struct carver *c, size_t weights_n, size_t trainable_n)
{
    size_t rows = l->program->rows * l->n;

    carve_inbox(l, &l->in, c);
    l->inbox_bytes = c->used;
    l->arena = carve(c, l->program->bytes * l->n);
    l->steps = carve(c, l->n * sizeof *l->steps);
    l->totals = carve(c, l->n * sizeof *l->totals);
    l->weights = carve(c, l->n * weights_n * sizeof(float));
    l->labels = carve(c, rows * sizeof *l->labels);
    if (!l->training)
        return;
    l->grads = carve(c, l->n * trainable_n * sizeof(float));
    l->start = carve(c, weights_n * sizeof(float));
    l->predictions = carve(c, rows * sizeof *l->predictions);
    l->losses = carve(c, rows * sizeof *l->losses);
    l->partial = carve(c, l->n * RUNS * sizeof *l->partial);
    l->bad = carve(c, l->n * RUNS * sizeof *l->bad);
    l->shared_partial = carve(c, l->n * shared_partials(l->program) * sizeof *l->shared_partial);
}

size_t lanes_bytes(const struct program *program, size_t weights_n, size_t trainable_n, size_t n)
{
    struct lanes l = {.program = program, .n = n, .training = program->training};
    struct carver c = {0};

    carve_lanes(&l, &c, weights_n, trainable_n);
    return c.used;
}

void lanes_forget_graphs(struct lanes *l)
{
    for (size_t i = 0; i < 2 * GRAPHS; i++) {
        struct captured **graph = &l->graphs[i / GRAPHS][i % GRAPHS];
        if (*graph)
            DRIVER(l)->captured_free(DEVICE_OF(l), *graph);
        *graph = NULL;
    }
    rounds_forget_graphs(l);
}

void lanes_free(struct lanes *l)
{
    if (!l)
        return;
    lanes_forget_graphs(l);
    rounds_free(l);
    libraries_free(l);
    DRIVER(l)->release(DEVICE_OF(l), l->state);
    DRIVER(l)->release(DEVICE_OF(l), l->correction);
    DRIVER(l)->release(DEVICE_OF(l), l->entries);
    DRIVER(l)->release(DEVICE_OF(l), l->samples);
    DRIVER(l)->release(DEVICE_OF(l), l->scores);
    if (l->start_stride)
        DRIVER(l)->release(DEVICE_OF(l), l->start);
    if (!l->training) {
        DRIVER(l)->release(DEVICE_OF(l), l->losses);
        DRIVER(l)->release(DEVICE_OF(l), l->predictions);
    }
    parallel_step_free(l);
    DRIVER(l)->unpin(DEVICE_OF(l), l->host_samples);
    DRIVER(l)->unpin(DEVICE_OF(l), l->host.lanes);
    DRIVER(l)->release(DEVICE_OF(l), l->memory);
    free(l);
}

int lanes_grow(struct lanes *l, void **buffer, size_t *room, size_t wanted, size_t item, struct error *err)
{
    int rc;

    if (*buffer && *room >= wanted)
        return 0;
    lanes_forget_graphs(l);
    if ((rc = DRIVER(l)->wait(DEVICE_OF(l), err)))
        return rc;
    DRIVER(l)->release(DEVICE_OF(l), *buffer);
    *buffer = NULL;
    *room = 0;
    if ((rc = DRIVER(l)->alloc(DEVICE_OF(l), (wanted + 1) * item, buffer, err)))
        return rc;
    *room = wanted;
    return 0;
}

int lanes_state(struct lanes *l, size_t parts, struct error *err)
{
    size_t had = l->state_parts * l->n * l->plan->trainable_n;
    void *buffer = l->state;
    int rc = parts > l->state_parts
                 ? lanes_grow(l, &buffer, &had, parts * l->n * l->plan->trainable_n, sizeof(float), err)
                 : 0;

    l->state = buffer;
    if (!rc && parts > l->state_parts)
        l->state_parts = parts;
    if (rc && !buffer)
        l->state_parts = 0;
    return rc;
}

int lanes_own_starts(struct lanes *l, struct error *err)
{
    void *buffer = NULL;
    size_t room = 0;
    int rc;

    if (l->start_stride)
        return 0;
    if ((rc = lanes_grow(l, &buffer, &room, l->n * l->plan->weights_n, sizeof(float), err)))
        return rc;
    l->start = buffer;
    l->start_stride = l->plan->weights_n;
    return DRIVER(l)->clear(DEVICE_OF(l), buffer, l->n * l->plan->weights_n * sizeof(float), err);
}

int lanes_corrections(struct lanes *l, struct error *err)
{
    void *buffer = l->correction;
    size_t room = buffer ? l->n * l->plan->trainable_n : 0;
    int rc = lanes_grow(l, &buffer, &room, l->n * l->plan->trainable_n, sizeof(float), err);

    l->correction = buffer;
    return rc ? rc : DRIVER(l)->clear(DEVICE_OF(l), buffer, l->n * l->plan->trainable_n * sizeof(float), err);
}

int lanes_gather(struct lanes *l, const float *canonical, float *working, size_t n, size_t lanes_n, struct error *err)
{
    struct gather_args a = {.count = lanes_n * n,
                            .canonical = canonical,
                            .working = working,
                            .where = l->plan->d_where,
                            .n = n,
                            .working_stride = l->plan->weights_n};

    return LAUNCH(l, gather, &a, err);
}

/* n: weights_n, or trainable_n for what is laid out as these. */
int lanes_put_weights(struct lanes *l, const float *canonical, float *working, size_t n, struct error *err)
{
    int rc = DRIVER(l)->upload(DEVICE_OF(l), l->plan->d_canonical, canonical, n * sizeof *canonical, err);

    return rc ? rc : lanes_gather(l, l->plan->d_canonical, working, n, 1, err);
}

/* a step */

static int queue_begin(struct lanes *l, struct error *err)
{
    if (l->update) {
        struct begin_step_args a = {.count = l->n,
                                    .lanes = l->in.lanes,
                                    .steps = l->steps,
                                    .draws = l->plan->d_draws,
                                    .draws_n = l->plan->draws_n,
                                    .share = l->parallel ? (uint32_t)l->plan->backend->rank : 0,
                                    .shares = l->parallel ? (uint32_t)ranks_n(l->plan->backend->ranks) : 1};
        return LAUNCH(l, begin_step, &a, err);
    }
    struct begin_chunk_args a = {
        .count = 1, .step = l->steps, .total = l->in.total, .rows = (uint32_t)l->program->rows};
    return LAUNCH(l, begin_chunk, &a, err);
}

struct optimize_args lanes_update(const struct lanes *l)
{
    const struct plan *p = l->plan;

    return (struct optimize_args){
        .lanes = l->in.lanes,
        .steps = l->steps,
        .weights = l->weights,
        .grads = l->grads,
        .start = l->start,
        .correction = l->correction,
        .state = l->state,
        .n = p->trainable_n,
        .weights_stride = p->weights_n,
        .grads_stride = p->trainable_n,
        .start_stride = l->start_stride,
        .state_stride = l->state_parts * p->trainable_n,
    };
}

/* Whether what makes the gradient of a parameter steps it as well, or there is no such parameter in the step. */
static bool is_stepped(const struct lanes *l, size_t param)
{
    const struct program *p = l->program;

    if (l->parallel)
        return false;
    for (size_t i = 0; i < p->ops_n; i++) {
        const struct op *op = &p->ops[i];
        const struct layer *layer = op->layer >= 0 ? &p->model->layers[op->layer] : NULL;
        if (op->type == OP_BACKWARD && (layer->type == LAYER_CONV2D || layer->type == LAYER_DENSE) &&
            (layer->weight == (int)param || layer->bias_param == (int)param))
            return (l->shared && op->rank) || !library_of(l, op, GEMM_WEIGHTS);
    }
    return false;
}

/* The parameters that are left, neighbours together. */
static int queue_update(struct lanes *l, struct error *err)
{
    const struct plan *p = l->plan;
    const struct model *m = p->model;
    struct optimize_args a = lanes_update(l);
    int rc = 0;

    for (size_t k = 0; k < m->params_n && m->params[k].trainable && !rc; k++) {
        size_t end = plan_place_end(p, k);
        a.first = p->places[k].offset;
        if (is_stepped(l, k))
            continue;
        while (k + 1 < m->params_n && m->params[k + 1].trainable && p->places[k + 1].offset == end &&
               !is_stepped(l, k + 1))
            end = plan_place_end(p, ++k);
        a.count_n = end - a.first;
        a.count = l->n * a.count_n;
        rc = LAUNCH(l, optimize, &a, err);
    }
    return rc;
}

int lanes_step(struct lanes *l, struct error *err)
{
    int rc = queue_begin(l, err);

    if (!rc && l->parallel)
        rc = parallel_step_begin(l, err);
    for (size_t i = 0; i < l->program->ops_n && !rc; i++) {
        rc = layer_queue(l, &l->program->ops[i], err);
        if (!rc && l->parallel)
            rc = parallel_step_made(l, &l->program->ops[i], err);
    }
    if (!rc && l->parallel)
        rc = parallel_step_end(l, err);
    return rc || !l->update ? rc : queue_update(l, err);
}

/* A step in which no lane has rows: what the first use of a kernel or engine loads is loaded before a capture, which
 * may not wait for it. */
static int warm_up(struct lanes *l, struct error *err)
{
    int rc;

    l->update = l->drop = l->training;
    if (!l->plan->backend->dataset)
        return 0;
    l->shared = l->training && !l->parallel && l->plan->rank;
    rc = l->shared ? lanes_step(l, err) : 0;
    l->shared = false;
    rc = rc ? rc : lanes_step(l, err);
    return rc ? rc : DRIVER(l)->wait(DEVICE_OF(l), err);
}

static int capture(struct lanes *l, size_t k, struct error *err)
{
    int rc = DRIVER(l)->capture_begin(DEVICE_OF(l), err), ended;

    if (rc)
        return rc;
    for (size_t i = 0; i < (size_t)1 << k && !rc; i++)
        rc = lanes_step(l, err);
    ended = DRIVER(l)->capture_end(DEVICE_OF(l), rc ? NULL : &l->graphs[l->shared][k], rc ? NULL : err);
    return rc ? rc : ended;
}

static int pin_inbox(struct lanes *l, struct error *err)
{
    size_t bytes = l->inbox_bytes + l->n * sizeof *l->host_totals;
    struct carver c = {0};
    void *pinned;
    int rc = DRIVER(l)->pin(DEVICE_OF(l), bytes, &pinned, err);

    if (rc)
        return rc;
    memset(pinned, 0, bytes);
    c.base = pinned;
    carve_inbox(l, &l->host, &c);
    l->host_totals = carve(&c, l->n * sizeof *l->host_totals);
    return 0;
}

int lanes_tell(struct lanes *l, struct error *err)
{
    return DRIVER(l)->copy_in(DEVICE_OF(l), l->in.lanes, l->host.lanes, l->inbox_bytes, err);
}

int lanes_pin_samples(struct lanes *l, size_t n, struct error *err)
{
    void *pinned;
    int rc;

    if (n <= l->host_samples_room)
        return 0;
    lanes_forget_graphs(l);
    DRIVER(l)->unpin(DEVICE_OF(l), l->host_samples);
    l->host_samples = NULL;
    l->host_samples_room = 0;
    if ((rc = DRIVER(l)->pin(DEVICE_OF(l), n * sizeof *l->host_samples, &pinned, err)))
        return rc;
    l->host_samples = pinned;
    l->host_samples_room = n;
    return 0;
}

int lanes_new(struct plan *plan, const struct program *program, size_t n, struct lanes **ret, struct error *err)
{
    struct lanes *l = calloc(1, sizeof *l);
    size_t bytes = lanes_bytes(program, plan->weights_n, plan->trainable_n, n);
    struct carver c = {0};
    void *memory;
    int rc;

    if (!l)
        return fail(err, -ENOMEM, "out of memory");
    l->plan = plan;
    l->program = program;
    l->n = n;
    l->training = program->training;
    l->starts = 1;
    l->per_start = n;
    l->bytes = bytes;
    l->parallel = program == &plan->parallel;
    if ((rc = DRIVER(l)->alloc(DEVICE_OF(l), bytes, &memory, err))) {
        free(l);
        return rc;
    }
    c.base = l->memory = memory;
    carve_lanes(l, &c, plan->weights_n, plan->trainable_n);
    rc = pin_inbox(l, err);
    rc = !rc && l->parallel ? parallel_step_new(l, err) : rc;
    if (rc || (rc = DRIVER(l)->clear(DEVICE_OF(l), memory, bytes, err)) || (rc = libraries_new(l, err)) ||
        (rc = warm_up(l, err))) {
        lanes_free(l);
        return rc;
    }
    *ret = l;
    return 0;
}

/* Several GPUs that share a replica stop together. */
int lanes_may_go_on(struct lanes *l, struct training *trainings, size_t n, struct error *err)
{
    bool stop;
    int rc;

    failpoint("worker_mid_round");
    for (size_t i = 0; i < n; i++)
        trainings[i].canceled |= backend_canceled(&trainings[i]);
    stop = n && backend_all_canceled(trainings, n);
    if (l->parallel && (rc = ranks_meet(l->plan->backend->ranks, &stop, err)))
        return rc;
    for (size_t i = 0; l->parallel && stop && i < n; i++)
        trainings[i].canceled = true;
    return stop ? fail(err, -ECANCELED, "canceled") : 0;
}

/* 2^k steps. What goes through the host cannot be captured. */
static int run_steps(struct lanes *l, size_t k, struct error *err)
{
    int rc = 0;

    if (l->parallel && !ranks_have_nccl(l->plan->backend->ranks)) {
        for (size_t i = 0; i < (size_t)1 << k && !rc; i++)
            rc = lanes_step(l, err);
        return rc;
    }
    if (!l->graphs[l->shared][k])
        rc = capture(l, k, err);
    return rc ? rc : DRIVER(l)->replay(DEVICE_OF(l), l->graphs[l->shared][k], err);
}

int lanes_run(struct lanes *l, uint64_t steps, struct training *trainings, size_t n, struct error *err)
{
    uint64_t queued = 0, most = l->parallel ? WAIT_PARALLEL : WAIT_STEPS;

    while (steps) {
        size_t k = GRAPHS - 1;
        int rc = lanes_may_go_on(l, trainings, n, err);
        while ((uint64_t)1 << k > steps)
            k--;
        rc = rc ? rc : run_steps(l, k, err);
        steps -= (uint64_t)1 << k;
        queued += (uint64_t)1 << k;
        if (!rc && queued >= most) {
            rc = DRIVER(l)->wait(DEVICE_OF(l), err);
            queued = 0;
        }
        if (rc)
            return rc;
        if (l->parallel)
            rank_alive(l->plan->backend->ranks, l->plan->backend->rank);
    }
    return 0;
}
