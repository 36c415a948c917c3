/* round.c - a turn of a round on the device: what the host tells is copied in, schedules are made, replicas get their
 * start, steps are trained, and what they leave is added up and copied out.
 *
 * All of it is one captured graph with a loop over the steps, so that one launch trains a turn of any number of steps.
 * What differs from turn to turn comes from pinned memory: samples, batch sizes, rates, keys, weights, the number of
 * steps. What a graph holds is its key: how many lanes each training but the last has (where starts are shared, that
 * one, too), where models are and at what rate they go on, how much is copied. A few graphs are kept. The first turn of a key goes call by call, by graphs of 1 to 32 steps (lanes.c): what the
 * first use of a kernel loads is loaded then, and a turn that comes once is not captured for nothing. So does a turn
 * for whose graph there is no room, one that is too long to be left alone, one whose trial was canceled, one whose
 * steps send to other GPUs, one whose graph was refused (the device has no memory for it, or a library's call cannot
 * be in it), and each one where the driver has no loops. Bits are the same either way.
 * FLEXP_CUDA_ROUNDS=calls: always call by call, for comparisons. SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cuda/cuda_private.h"

#include "common/log.h"

#include <stdlib.h>
#include <string.h>

#define ROUNDS 8
#define PATIENCE 16 /* turns that a graph is kept for which are not its own */
#define SAMPLES_LEAST 256
#define DRIVER(t) ((t)->plan->backend->driver)
#define DEVICE_OF(t) ((t)->plan->backend->device)

/* Compared as bytes. */
struct part { /* of a training in the turn; 0 where it does not matter */
    size_t lanes, type;
    const float *model;
    double rate;
};
#define LANES_REST SIZE_MAX /* all that are left, idle ones too: turn_lanes_end */

struct round_key {
    size_t bytes, samples, epochs_max, flags;
    struct part parts[];
};
enum { SHARED = 1, CLEARS_STATE = 2, SUMS = 4, FIRST = 8, LAST = 16 };

struct round {
    struct round_key *key;  /* NULL: none */
    struct captured *graph; /* NULL: its key has been seen */
    bool refused;           /* it is not tried again */
    uint64_t used;
};

struct rounds {
    struct round all[ROUNDS];
    uint64_t clock;
    bool said; /* that one was refused */
};

void rounds_forget_graphs(struct lanes *l)
{
    const struct driver *d = l->plan->backend->driver;

    for (size_t i = 0; l->rounds && i < ROUNDS; i++) {
        if (l->rounds->all[i].graph)
            d->captured_free(l->plan->backend->device, l->rounds->all[i].graph);
        l->rounds->all[i].graph = NULL;
    }
}

void rounds_free(struct lanes *l)
{
    rounds_forget_graphs(l);
    for (size_t i = 0; l->rounds && i < ROUNDS; i++)
        free(l->rounds->all[i].key);
    free(l->rounds);
    l->rounds = NULL;
}

/* what a turn is made of */

/* Twos' powers, so that turns of about as many samples are copied alike. */
static size_t samples_copied(const struct turn *t)
{
    size_t n = SAMPLES_LEAST;

    while (n < t->samples_n)
        n *= 2;
    return n < t->lanes->samples_room ? n : t->lanes->samples_room;
}

static int queue_tables(struct turn *t, struct error *err)
{
    struct plan *p = t->plan;
    struct lanes *l = t->lanes;
    const struct driver *d = DRIVER(t);
    struct schedule_args a = {.count = l->n * (uint64_t)t->epochs_max,
                              .lanes = l->in.lanes,
                              .samples = l->samples,
                              .entries = l->entries,
                              .epochs_max = t->epochs_max,
                              .most = SCHEDULE_MOST};
    int rc;

    if ((rc = lanes_tell(l, err)) ||
        (rc = d->copy_in(DEVICE_OF(t), l->samples, l->host_samples, samples_copied(t) * sizeof *l->samples, err)) ||
        (rc = d->clear(DEVICE_OF(t), l->steps, l->n * sizeof *l->steps, err)) ||
        (rc = d->clear(DEVICE_OF(t), l->totals, l->n * sizeof *l->totals, err)) ||
        (rc = t->first ? sums_clear(p, t->trainings_n, err) : 0) ||
        (rc = t->clears_state
                  ? d->clear(DEVICE_OF(t), l->state, l->n * l->state_parts * p->trainable_n * sizeof *l->state, err)
                  : 0))
        return rc;
    return t->epochs_max ? LAUNCH(l, schedule, &a, err) : 0;
}

/* From models that stay; then all lanes begin where they start. */
static int queue_starts(struct turn *t, struct error *err)
{
    const struct plan *p = t->plan;
    struct lanes *l = t->lanes;
    struct spread_args spread = {.from = l->start,
                                 .to = l->weights,
                                 .n = p->weights_n,
                                 .first = t->shared ? p->shared_n : 0,
                                 .from_stride = l->start_stride};
    size_t end;
    int rc = 0;

    for (size_t i = 0; i < t->n && !rc; i = end) {
        const struct member *m = &t->members[i];
        end = turn_same_starts(t, i);
        if (!m->replica->start)
            rc = lanes_gather(l, m->training->reduction.model->weights, l->start + i * l->start_stride,
                              p->model->weights_n, l->start_stride ? turn_lanes_end(t, end) - i : 1, err);
    }
    spread.count = l->n * (spread.n - spread.first);
    return rc ? rc : LAUNCH(l, spread, &spread, err);
}

static int queue_begin(struct turn *t, struct error *err)
{
    int rc = queue_tables(t, err);

    return rc ? rc : queue_starts(t, err);
}

static int queue_end(struct turn *t, struct error *err)
{
    int rc = t->sums ? turn_sum(t, err) : 0;

    return rc || !t->last ? rc : models_step(t->plan, t->trainings, t->trainings_n, err);
}

static int call_by_call(struct turn *t, struct error *err)
{
    int rc = queue_begin(t, err);

    rc = rc ? rc : lanes_run(t->lanes, t->steps_max, t->trainings, t->trainings_n, err);
    return rc ? rc : queue_end(t, err);
}

/* as one graph */

static int queue_whole(struct turn *t, struct error *err)
{
    struct lanes *l = t->lanes;
    int rc;

    if ((rc = queue_begin(t, err)) || (rc = DRIVER(t)->loop_begin(DEVICE_OF(t), err)) || (rc = lanes_step(l, err)) ||
        (rc = DRIVER(t)->loop_end(DEVICE_OF(t), l->in.left, err)))
        return rc;
    return queue_end(t, err);
}

static int capture(struct turn *t, struct captured **ret, struct error *err)
{
    int rc = DRIVER(t)->capture_begin(DEVICE_OF(t), err), ended;

    if (rc)
        return rc;
    rc = queue_whole(t, err);
    ended = DRIVER(t)->capture_end(DEVICE_OF(t), rc ? NULL : ret, rc ? NULL : err);
    return rc ? rc : ended;
}

static struct round_key *key_of(const struct turn *t)
{
    size_t bytes = sizeof(struct round_key) + t->trainings_n * sizeof(struct part);
    struct round_key *key = cuda_plan_host(t->plan, bytes);

    if (!key)
        return NULL;
    *key = (struct round_key){.bytes = bytes,
                              .samples = samples_copied(t),
                              .epochs_max = t->epochs_max,
                              .flags = (t->shared ? SHARED : 0) | (t->clears_state ? CLEARS_STATE : 0) |
                                       (t->sums ? SUMS : 0) | (t->first ? FIRST : 0) | (t->last ? LAST : 0)};
    for (size_t k = 0; k < t->trainings_n; k++) {
        const struct reduction *r = &t->trainings[k].reduction;
        key->parts[k] = (struct part){.type = r->type,
                                      .model = r->type == REDUCE_MODEL && t->trainings[k].n ? r->model->weights : NULL,
                                      .rate = r->type == REDUCE_MODEL && t->last ? r->rate : 0};
    }
    for (size_t i = 0, end; i < t->n; i = end) {
        end = turn_same_training(t, i);
        key->parts[t->members[i].k].lanes = end == t->n && !t->shared ? LANES_REST : end - i;
    }
    return key;
}

/* The round of this key; one that was not used for long makes room for it. NULL: there is none. */
static struct round *find_round(struct turn *t)
{
    struct lanes *l = t->lanes;
    struct round_key *key = key_of(t), *kept;
    struct round *oldest;

    if (!l->rounds)
        l->rounds = calloc(1, sizeof *l->rounds);
    if (!key || !l->rounds)
        return NULL;
    l->rounds->clock++;
    oldest = &l->rounds->all[0];
    for (size_t i = 0; i < ROUNDS; i++) {
        struct round *r = &l->rounds->all[i];
        if (r->key && r->key->bytes == key->bytes && !memcmp(r->key, key, key->bytes))
            return r;
        oldest = r->used < oldest->used ? r : oldest;
    }
    if ((oldest->key && l->rounds->clock - oldest->used < PATIENCE) || !(kept = malloc(key->bytes)))
        return NULL;
    memcpy(kept, key, key->bytes);
    if (oldest->graph)
        DRIVER(t)->captured_free(DEVICE_OF(t), oldest->graph);
    free(oldest->key);
    *oldest = (struct round){.key = kept};
    return oldest;
}

static bool may_be_whole(const struct turn *t)
{
    const char *way = getenv("FLEXP_CUDA_ROUNDS");

    return !t->lanes->parallel && !t->plan->backend->no_loops && DRIVER(t)->loop_begin && t->steps_max &&
           t->steps_max <= WAIT_STEPS && !(way && !strcmp(way, "calls"));
}

/* What a capture fails of is no failure of the turn, unless the device itself has failed: then all it does fails. */
static int refuse(struct turn *t, struct round *r, int why, const char *text, struct error *err)
{
    struct rounds *rounds = t->lanes->rounds;
    int rc = DRIVER(t)->wait(DEVICE_OF(t), err);

    if (rc)
        return rc;
    if (why == -ENOTSUP) {
        log_warning("rounds are queued call by call, not as one graph: %s", text);
        t->plan->backend->no_loops = true;
    } else if (!rounds->said) {
        log_warning("some rounds are queued call by call, not as one graph: %s", text);
        rounds->said = true;
    }
    r->refused = true;
    return 0;
}

/* *ret NULL: call by call. */
static int whole_of(struct turn *t, struct captured **ret, struct error *err)
{
    struct error why = {0};
    struct round *r;
    int rc;

    *ret = NULL;
    for (size_t k = 0; k < t->trainings_n; k++)
        if (t->trainings[k].canceled)
            return 0;
    if (!(r = find_round(t)))
        return 0;
    if (r->used && !r->graph && !r->refused && (rc = capture(t, &r->graph, &why)) &&
        (rc = refuse(t, r, rc, why.text, err)))
        return rc;
    r->used = t->lanes->rounds->clock;
    *ret = r->graph;
    return 0;
}

size_t rounds_kept(const struct lanes *l)
{
    size_t n = 0;

    for (size_t i = 0; l && l->rounds && i < ROUNDS; i++)
        n += l->rounds->all[i].graph != NULL;
    return n;
}

int round_run(struct turn *t, struct error *err)
{
    struct captured *whole = NULL;
    int rc = 0;

    if (may_be_whole(t) &&
        ((rc = lanes_may_go_on(t->lanes, t->trainings, t->trainings_n, err)) || (rc = whole_of(t, &whole, err))))
        return rc;
    return whole ? DRIVER(t)->replay(DEVICE_OF(t), whole, err) : call_by_call(t, err);
}
