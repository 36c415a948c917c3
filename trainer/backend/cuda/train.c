/* train.c - a round: replicas in lockstep, their weighted sum in order. Replicas that do not fit in memory together go
 * in turns of equal size; bits do not depend on that. SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cuda/cuda_private.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define LANES_MOST 4096
#define LEAN_CALLS 8
#define DRIVER(p) ((p)->backend->driver)
#define DEVICE_OF(p) ((p)->backend->device)

static double seconds_now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* memory */

int lanes_for(struct plan *p, size_t n, size_t *ret_lanes, struct error *err)
{
    size_t shared, lane, free_bytes, total, fit, turns, had = p->training ? p->training->n : 0;
    int rc = cuda_plan_bytes(p->model, p->batch, p->precision, NULL, &shared, &lane, err);

    rc = rc ? rc : DRIVER(p)->memory(DEVICE_OF(p), &free_bytes, &total, err);
    if (rc)
        return rc;
    /* What is left over serves tables and evaluations; what the lanes have already is theirs. */
    fit = (free_bytes / 10 * 9 + had * lane) / lane;
    if (!fit)
        return fail(err, -ENOMEM, "out of GPU memory: a replica needs %zu MiB, %zu of %zu MiB are free on %s",
                    (lane >> 20) + 1, free_bytes >> 20, total >> 20, p->backend->info.name);
    fit = fit < LANES_MOST ? fit : LANES_MOST;
    turns = (n + fit - 1) / fit;
    *ret_lanes = (n + turns - 1) / turns;
    return 0;
}

/* Idle lanes cost time, too: where a pack has ended, and only a quarter of the lanes is used for a while, fewer are
 * made. */
static bool is_lean(struct plan *p, size_t n)
{
    p->lean = 4 * n <= p->training->n ? p->lean + 1 : 0;
    return p->lean >= LEAN_CALLS;
}

int cuda_plan_training(struct plan *p, size_t n, bool parallel, struct error *err)
{
    size_t wanted = n;
    bool fit = p->training && p->training->parallel == parallel, enough = fit && p->training->n >= n;
    bool lean = enough && is_lean(p, n);
    int rc = 0;

    if (enough && !lean)
        return 0;
    if (!enough && ((rc = lanes_for(p, n, &wanted, err)) || (fit && wanted <= p->training->n)))
        return rc;
    lanes_free(p->training);
    p->training = NULL;
    p->lean = 0;
    return lanes_new(p, parallel ? &p->parallel : &p->train, wanted, &p->training, err);
}

/* Where assemble finds images. Captured steps hold what normalises them: another data set makes them anew. */
void cuda_plan_point(struct lanes *l, const struct data_split *split, uint64_t total)
{
    struct plan *p = l->plan;
    size_t which = split == &p->backend->dataset->test;

    if (p->data_seen != p->backend->uploaded) {
        if (p->training)
            lanes_forget_graphs(p->training);
        if (p->evaluation)
            lanes_forget_graphs(p->evaluation);
        p->data_seen = p->backend->uploaded;
    }
    l->host.pointers[0] = p->backend->images[which];
    l->host.pointers[1] = p->backend->labels[which];
    *l->host.total = total;
}

/* one turn */

static int fill_lanes(struct turn *t, struct error *err)
{
    struct lane *lanes = t->lanes->host.lanes;

    memset(lanes, 0, t->lanes->n * sizeof *lanes);
    for (size_t i = 0; i < t->n; i++) {
        const struct replica *r = t->members[i].replica;
        const struct augment *augment = t->members[i].training->augment;
        double per_epoch = (double)((r->samples_n + r->batch - 1) / r->batch), steps = per_epoch * (double)r->epochs;
        if (r->max_batches > 0 && steps > (double)r->max_batches)
            steps = (double)r->max_batches;
        if (steps > 2e9 || r->samples_n > UINT32_MAX || r->epochs > UINT32_MAX)
            return fail(err, -EINVAL, "replica %zu: %.0f steps in a round are too many", i, steps);
        lanes[i] = (struct lane){
            .seed = r->seed,
            .trial = r->trial,
            .round = r->round,
            .client = r->client,
            .samples = t->samples_n,
            .table = t->entries_n,
            .samples_n = (uint32_t)r->samples_n,
            .batch = (uint32_t)r->batch,
            .epochs = (uint32_t)r->epochs,
            .steps = (uint32_t)steps,
            .optimizer = (uint32_t)r->optimizer.type,
            .nesterov = r->optimizer.nesterov,
            .padding = augment && augment->crop_padding > 0 ? augment->crop_padding : 0,
            .flips = augment && augment->horizontal_flip,
            .lr = r->lr,
            .momentum = r->optimizer.momentum,
            .decay = r->optimizer.weight_decay,
            .beta1 = r->optimizer.beta1,
            .beta2 = r->optimizer.beta2,
            .eps = r->optimizer.eps,
            .mu = r->proximal_mu,
            .weight = r->weight,
            .t = r->optimizer_state ? r->optimizer_steps : 0,
        };
        t->samples_n += r->samples_n;
        t->entries_n += r->samples_n * (size_t)r->epochs;
        t->epochs_max = r->epochs > t->epochs_max ? (uint32_t)r->epochs : t->epochs_max;
        t->steps_max = lanes[i].steps > t->steps_max ? lanes[i].steps : t->steps_max;
    }
    *t->lanes->host.left = t->steps_max;
    return 0;
}

/* Clients of one trial share the data among them: cohorts never want more than all. Packed trials do; some to spare, so
 * that they seldom grow it again. */
static size_t table_room(size_t had, size_t wanted, size_t all)
{
    return wanted <= had ? wanted : wanted <= all ? all : wanted + wanted / 4;
}

static int grow_tables(struct turn *t, struct error *err)
{
    struct lanes *l = t->lanes;
    size_t all = t->plan->backend->dataset->train.n, epochs = t->epochs_max ? t->epochs_max : 1;
    void *buffer = l->entries;
    int rc = lanes_grow(l, &buffer, &l->entries_room, table_room(l->entries_room, t->entries_n, all * epochs),
                        sizeof *l->entries, err);

    l->entries = buffer;
    buffer = l->samples;
    rc = rc ? rc
            : lanes_grow(l, &buffer, &l->samples_room, table_room(l->samples_room, t->samples_n, all),
                         sizeof *l->samples, err);
    l->samples = buffer;
    return rc ? rc : lanes_pin_samples(l, l->samples_room, err);
}

static void fill_samples(struct turn *t)
{
    const struct lane *lanes = t->lanes->host.lanes;

    for (size_t i = 0; i < t->n; i++)
        memcpy(t->lanes->host_samples + lanes[i].samples, t->members[i].replica->samples,
               lanes[i].samples_n * sizeof(uint32_t));
}

static void fill_drops(struct turn *t)
{
    struct drop *drop = t->lanes->host.drops;

    for (size_t i = 0; i < t->n; i++) {
        const struct model *m = t->members[i].replica->model ? t->members[i].replica->model : t->plan->model;
        for (size_t k = 0; k < m->layers_n; k++)
            if (m->layers[k].type == LAYER_DROPOUT && m->layers[k].rate > 0)
                *drop++ = (struct drop){.threshold = (uint32_t)(m->layers[k].rate * 65536 + 0.5),
                                        .scale = (float)(1 / (1 - m->layers[k].rate))};
    }
}

/* Of lists that are too long for the device. */
static int put_schedules(struct turn *t, struct error *err)
{
    struct plan *p = t->plan;
    struct lanes *l = t->lanes;
    struct entry *entries;
    int rc = 0;

    for (size_t i = 0; i < t->n && !rc; i++) {
        const struct lane *lane = &l->host.lanes[i];
        if (lane->samples_n <= SCHEDULE_MOST)
            continue;
        if (!(entries = cuda_plan_host(p, lane->samples_n * sizeof *entries)))
            return fail(err, -ENOMEM, "out of memory for %zu replicas", t->n);
        for (uint32_t epoch = 0; epoch < lane->epochs && !rc; epoch++) {
            make_entries(lane, epoch, t->members[i].replica->samples, entries);
            rc = DRIVER(p)->upload(DEVICE_OF(p), l->entries + lane->table + (size_t)epoch * lane->samples_n, entries,
                                   lane->samples_n * sizeof *entries, err);
        }
    }
    return rc;
}

bool turn_same_start(const struct member *a, const struct member *b)
{
    return a->replica->start == b->replica->start &&
           (a->replica->start || a->training->reduction.model == b->training->reduction.model);
}

size_t turn_same_starts(const struct turn *t, size_t i)
{
    size_t end = i + 1;

    while (end < t->n && turn_same_start(&t->members[end], &t->members[i]))
        end++;
    return end;
}

size_t turn_lanes_end(const struct turn *t, size_t end)
{
    return end == t->n && !t->shared ? t->lanes->n : end;
}

/* One start for all, or one for each: neighbours that start alike share the upload. Those of models that stay are
 * there. */
static int put_starts(struct turn *t, struct error *err)
{
    struct plan *p = t->plan;
    struct lanes *l = t->lanes;
    size_t n = p->model->weights_n, end;
    bool same = true;
    int rc = 0;

    for (size_t i = 0; i < t->n; i++)
        same &= turn_same_start(&t->members[i], &t->members[0]);
    if (!same && (rc = lanes_own_starts(l, err)))
        return rc;
    for (size_t i = 0; i < t->n && !rc; i = end) {
        const float *start = t->members[i].replica->start;
        end = turn_same_starts(t, i);
        if (start && !(rc = DRIVER(p)->upload(DEVICE_OF(p), p->d_canonical, start, n * sizeof *start, err)))
            rc = lanes_gather(l, p->d_canonical, l->start + i * l->start_stride, n,
                              l->start_stride ? turn_lanes_end(t, end) - i : 1, err);
    }
    return rc;
}

static int put_state(struct turn *t, struct error *err)
{
    struct plan *p = t->plan;
    struct lanes *l = t->lanes;
    size_t parts = 0, n = p->model->trainable_n;
    bool corrected = false, handed = false;
    int rc;

    for (size_t i = 0; i < t->n; i++) {
        const struct replica *r = t->members[i].replica;
        parts = cuda_state_parts(r) > parts ? cuda_state_parts(r) : parts;
        corrected |= r->correction != NULL;
        handed |= r->optimizer_state != NULL;
    }
    if ((rc = lanes_state(l, parts, err)))
        return rc;
    t->clears_state = l->state && !handed;
    if (l->state && handed &&
        (rc = DRIVER(p)->clear(DEVICE_OF(p), l->state, l->n * l->state_parts * p->trainable_n * sizeof(float), err)))
        return rc;
    for (size_t i = 0; i < t->n && !rc; i++) {
        const struct replica *r = t->members[i].replica;
        for (size_t k = 0; r->optimizer_state && k < cuda_state_parts(r) && !rc; k++)
            rc = lanes_put_weights(l, r->optimizer_state + k * n, l->state + (i * l->state_parts + k) * p->trainable_n,
                                   n, err);
    }
    if (!rc && (corrected || l->correction))
        rc = lanes_corrections(l, err);
    for (size_t i = 0; i < t->n && !rc; i++)
        if (t->members[i].replica->correction)
            rc = lanes_put_weights(l, t->members[i].replica->correction, l->correction + i * p->trainable_n, n, err);
    return rc;
}

static void report(struct replica *r, const struct lane_total *total, double seconds)
{
    r->loss_sum = total->loss;
    r->samples_seen = total->seen;
    r->correct = total->correct;
    r->batches = (int64_t)total->batches;
    r->update_norm = sqrt(total->distance);
    r->finite = isfinite(total->loss) && !total->not_finite;
    r->seconds = seconds;
    if (r->optimizer_state)
        r->optimizer_steps += r->batches;
}

int turn_train(struct turn *t, struct error *err)
{
    struct lanes *l = t->lanes;
    int rc;

    t->began = seconds_now();
    l->update = l->drop = true;
    l->shared = t->shared;
    if ((rc = fill_lanes(t, err)) || (rc = grow_tables(t, err)))
        return rc;
    fill_samples(t);
    fill_drops(t);
    if ((rc = put_schedules(t, err)) || (rc = put_starts(t, err)) || (rc = put_state(t, err)))
        return rc;
    if (t->shared)
        shared_begin(t);
    cuda_plan_point(l, &t->plan->backend->dataset->train, 0);
    return round_run(t, err);
}

void turn_report(struct turn *t)
{
    for (size_t i = 0; i < t->n; i++)
        report(t->members[i].replica, &t->lanes->host_totals[i], seconds_now() - t->began);
}

static int run_turn(struct turn *t, struct error *err)
{
    int rc = turn_train(t, err);

    rc = rc ? rc : turn_fetch(t, err);
    if (rc)
        DRIVER(t->plan)->wait(DEVICE_OF(t->plan), NULL); /* what was queued is done before its memory goes */
    else
        turn_report(t);
    return rc;
}

/* As many replicas as there are lanes, from *at on; those of canceled trainings are passed over. */
static void next_turn(struct turn *t, struct member *at)
{
    struct plan *p = t->plan;
    bool first = !at->k && !at->i;

    *t = (struct turn){.plan = p,
                       .lanes = p->training,
                       .members = t->members,
                       .trainings = t->trainings,
                       .trainings_n = t->trainings_n,
                       .shared = t->shared,
                       .sums = true,
                       .first = first};
    while (at->k < t->trainings_n) {
        struct training *training = &t->trainings[at->k];
        if (training->canceled || at->i == training->n) {
            at->k++;
            at->i = 0;
            continue;
        }
        if (t->n == p->training->n)
            return;
        t->members[t->n++] = (struct member){training, &training->replicas[at->i], at->k, at->i};
        at->i++;
    }
    t->last = true;
}

int cuda_train(struct plan *p, struct training *trainings, size_t n, struct error *err)
{
    size_t replicas = backend_replicas(trainings, n);
    struct turn turn = {.plan = p, .trainings = trainings, .trainings_n = n};
    struct member at = {0};
    bool stepped = false;
    int rc = backend_check_trainings(p->model, p->backend->dataset, p->batch, trainings, n, err);

    for (size_t k = 0; k < n; k++)
        trainings[k].canceled = false;
    if (rc || !replicas)
        return rc;
    if (p->peers)
        return parallel_train(p, trainings, n, err);
    if ((rc = sums_grow(p, n, err)) || (rc = cuda_plan_training(p, replicas, false, err)))
        return rc;
    turn.shared = shared_pays(p, trainings, n);
    turn.members = calloc(replicas, sizeof *turn.members);
    if (!turn.members)
        return fail(err, -ENOMEM, "out of memory for %zu replicas", replicas);
    while (!rc) {
        next_turn(&turn, &at);
        if (!turn.n)
            break;
        rc = run_turn(&turn, err);
        stepped = turn.last;
    }
    free(turn.members);
    if (!rc && !stepped) /* those of the last turn were canceled */
        rc = models_step(p, trainings, n, err);
    return rc ? rc : sums_fetch(p, trainings, n, err);
}

int cuda_gradients(struct plan *p, const float *weights, const struct data_split *split, const uint32_t *samples,
                   size_t n, float *ret_gradients, double *ret_loss, struct error *err)
{
    struct lane_total total;
    struct lanes *l;
    void *list;
    int rc = cuda_plan_check_samples(p, split, samples, n, err);

    if (rc)
        return rc;
    if (!n || n > p->batch)
        return fail(err, -EINVAL, "a batch of %zu, but the plan is for 1 to %zu", n, p->batch);
    if ((rc = cuda_plan_training(p, 1, false, err)))
        return rc;
    l = p->training;
    list = l->samples;
    rc = lanes_grow(l, &list, &l->samples_room, n, sizeof *samples, err);
    l->samples = list;
    l->update = l->drop = l->shared = false;
    cuda_plan_point(l, split, n);
    if (rc || (rc = DRIVER(p)->upload(DEVICE_OF(p), l->samples, samples, n * sizeof *samples, err)) ||
        (rc = DRIVER(p)->clear(DEVICE_OF(p), l->steps, l->n * sizeof *l->steps, err)) ||
        (rc = DRIVER(p)->clear(DEVICE_OF(p), l->totals, l->n * sizeof *l->totals, err)) ||
        (rc = lanes_put_weights(l, weights, l->weights, p->model->weights_n, err)) || (rc = lanes_tell(l, err)) ||
        (rc = lanes_step(l, err)) ||
        (rc = cuda_get_canonical(p, l->grads, ret_gradients, p->model->trainable_n, err)) ||
        (rc = DRIVER(p)->download(DEVICE_OF(p), &total, l->totals, sizeof total, err))) {
        DRIVER(p)->wait(DEVICE_OF(p), NULL);
        return rc;
    }
    *ret_loss = total.loss / (double)n;
    return 0;
}
