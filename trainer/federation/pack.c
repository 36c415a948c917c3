/* pack.c - see pack.h. There is no thread of its own: whoever waits and sees that a call can go is its caller.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/federation/pack.h"

#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#define PATIENCE_LEAST_MS 10
#define PATIENCE_MOST_MS 1000
#define LOOK_MS 50 /* how often who waits looks whether its run was given up */

struct pack {
    const struct backend_ops *ops;
    struct backend *backend;
    const struct dataset *loaded;
    pthread_mutex_t lock; /* all below; who is in the backend (busy) has what is above */
    pthread_cond_t changed;
    bool busy;
    size_t entering; /* wait for the backend with what is no training */
    struct seat *seats;
    uint64_t tickets;
};

struct seat {
    struct seat *next;
    struct pack *pack;
    struct plan *plan;
    const struct dataset *dataset;
    struct training *training; /* handed in */
    uint64_t ticket;           /* rising with the time of that */
    bool called;               /* it is in the call at hand */
    int rc;                    /* of the last one */
    struct error err;
    int64_t left_ms, patience_ms; /* when it last left the backend; how long it is waited for then */
    size_t most;                  /* trials of a call it takes part in */
    bool trimmed;                 /* idle memory was given back for its sake */
};

static int64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

int pack_new(struct pack **ret, struct error *err)
{
    struct pack *pack = calloc(1, sizeof *pack);
    pthread_condattr_t monotonic;

    if (!pack)
        return fail(err, -ENOMEM, "out of memory");
    pthread_mutex_init(&pack->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&pack->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    *ret = pack;
    return 0;
}

void pack_free(struct pack *pack)
{
    if (!pack)
        return;
    pthread_cond_destroy(&pack->changed);
    pthread_mutex_destroy(&pack->lock);
    free(pack);
}

void pack_enter(struct pack *pack)
{
    pthread_mutex_lock(&pack->lock);
    pack->entering++;
    while (pack->busy)
        pthread_cond_wait(&pack->changed, &pack->lock);
    pack->entering--;
    pack->busy = true;
    pthread_mutex_unlock(&pack->lock);
}

static void leave_locked(struct pack *pack)
{
    pack->busy = false;
    pthread_cond_broadcast(&pack->changed);
}

void pack_leave(struct pack *pack)
{
    pthread_mutex_lock(&pack->lock);
    leave_locked(pack);
    pthread_mutex_unlock(&pack->lock);
}

void pack_use(struct pack *pack, const struct backend_ops *ops, struct backend *backend)
{
    pack->ops = ops;
    pack->backend = backend;
    pack->loaded = NULL;
}

int pack_load(struct pack *pack, const struct dataset *dataset, struct error *err)
{
    int rc = pack->loaded == dataset ? 0 : pack->ops->load_dataset(pack->backend, dataset, err);

    if (pack->loaded != dataset)
        pack->loaded = rc ? NULL : dataset;
    return rc;
}

void pack_forget(struct pack *pack, const struct dataset *dataset)
{
    if (pack->loaded == dataset)
        pack->loaded = NULL;
}

bool pack_makes_room(struct pack *pack, int rc, bool *tried)
{
    bool again = rc == -ENOMEM && !*tried && pack->ops->trim && pack->ops->trim(pack->backend, NULL);

    *tried = true;
    return again;
}

/* --- seats ------------------------------------------------------------------------------------------------------- */

int seat_take(struct pack *pack, struct plan *plan, const struct dataset *dataset, struct seat **ret, struct error *err)
{
    struct seat *seat = calloc(1, sizeof *seat);

    if (!seat)
        return fail(err, -ENOMEM, "out of memory");
    *seat = (struct seat){.pack = pack,
                          .plan = plan,
                          .dataset = dataset,
                          .left_ms = now_ms(),
                          .patience_ms = PATIENCE_LEAST_MS,
                          .most = PACK_MOST};
    pthread_mutex_lock(&pack->lock);
    seat->next = pack->seats;
    pack->seats = seat;
    pthread_mutex_unlock(&pack->lock);
    *ret = seat;
    return 0;
}

void seat_leave(struct seat *seat)
{
    struct pack *pack = seat ? seat->pack : NULL;
    struct seat **at;

    if (!seat)
        return;
    pthread_mutex_lock(&pack->lock);
    for (at = &pack->seats; *at != seat;)
        at = &(*at)->next;
    *at = seat->next;
    for (struct seat *other = pack->seats; other; other = other->next) {
        other->most = PACK_MOST;
        other->trimmed = false;
    }
    pthread_cond_broadcast(&pack->changed);
    pthread_mutex_unlock(&pack->lock);
    free(seat);
}

/* --- training ---------------------------------------------------------------------------------------------------- */

static bool together(const struct seat *a, const struct seat *b)
{
    return a->plan == b->plan && a->dataset == b->dataset;
}

/* When the call that this seat waits for goes at the latest: 0, now. */
static int64_t goes_at(const struct pack *pack, const struct seat *seat)
{
    int64_t latest = 0;
    size_t here = 0;

    for (const struct seat *s = pack->seats; s; s = s->next) {
        int64_t expected = s->left_ms + s->patience_ms;
        if (!together(s, seat))
            continue;
        here += s->training != NULL;
        if (!s->training && expected > latest)
            latest = expected;
    }
    return here >= seat->most ? 0 : latest;
}

/* The seat whose call goes now, of the longest waiting; NULL: none does, and *ret_ms says for how long. */
static struct seat *first_to_go(const struct pack *pack, int64_t *ret_ms)
{
    int64_t now = now_ms(), soonest = now + LOOK_MS;
    struct seat *first = NULL;

    for (struct seat *s = pack->seats; s; s = s->next) {
        int64_t at = s->training ? goes_at(pack, s) : soonest;
        if (s->training && at <= now && (!first || s->ticket < first->ticket))
            first = s;
        soonest = at < soonest ? at : soonest;
    }
    *ret_ms = soonest > now ? soonest - now : 1;
    return first;
}

/* Those that go with the first, the longest waiting before the others, as many as each of them allows. */
static size_t gather(const struct pack *pack, struct seat *first, struct seat **called)
{
    size_t n = 0, most = first->most;

    called[n++] = first;
    first->called = true;
    while (n < most) {
        struct seat *next = NULL;
        for (struct seat *s = pack->seats; s; s = s->next)
            if (s->training && !s->called && together(s, first) && s->most > n && (!next || s->ticket < next->ticket))
                next = s;
        if (!next)
            break;
        next->called = true;
        most = next->most < most ? next->most : most;
        called[n++] = next;
    }
    return n;
}

/* What the call's outcome is for each of the n; under the lock. */
static void settle(struct seat **called, size_t n, const struct training *trainings, int rc, bool again,
                   int64_t took_ms, const struct error *err)
{
    for (size_t i = 0; i < n; i++) {
        struct seat *s = called[i];
        s->training->canceled = trainings[i].canceled;
        s->rc = rc ? rc : trainings[i].canceled ? -ECANCELED : 0;
        if (s->rc)
            s->err = *err;
        if (again || (n > 1 && rc && rc != -ECANCELED)) {
            s->rc = -EAGAIN;
            s->most = again ? s->most : rc == -ENOMEM ? n / 2 : 1;
        }
        s->called = false;
        s->training = NULL;
        s->left_ms = now_ms();
        s->patience_ms = took_ms < PATIENCE_LEAST_MS ? PATIENCE_LEAST_MS : took_ms;
        s->patience_ms = s->patience_ms > PATIENCE_MOST_MS ? PATIENCE_MOST_MS : s->patience_ms;
    }
}

/* Under the lock, which it leaves for the call. */
static void call(struct pack *pack, struct seat *first)
{
    struct seat *called[PACK_MOST];
    struct training trainings[PACK_MOST];
    size_t n = gather(pack, first, called);
    struct error err = {0};
    int64_t began;
    bool again = false;
    int rc;

    pack->busy = true;
    for (size_t i = 0; i < n; i++)
        trainings[i] = *called[i]->training;
    pthread_mutex_unlock(&pack->lock);
    began = now_ms();
    rc = pack_load(pack, first->dataset, &err);
    rc = rc ? rc : pack->ops->train(first->plan, trainings, n, &err);
    if (rc == -ENOMEM && !first->trimmed && pack->ops->trim)
        first->trimmed = again = pack->ops->trim(pack->backend, first->plan);
    pthread_mutex_lock(&pack->lock);
    if (rc == -ECANCELED)
        fail(&err, rc, "canceled");
    settle(called, n, trainings, rc, again, now_ms() - began, &err);
    leave_locked(pack);
}

static void wait_ms(struct pack *pack, int64_t ms)
{
    struct timespec until;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += (long)(ms % 1000) * 1000000;
    until.tv_sec += ms / 1000 + until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_cond_timedwait(&pack->changed, &pack->lock, &until);
}

int seat_train(struct seat *seat, struct training *training, struct error *err)
{
    struct pack *pack = seat->pack;
    int rc;

    pthread_mutex_lock(&pack->lock);
    seat->training = training;
    seat->ticket = ++pack->tickets;
    pthread_cond_broadcast(&pack->changed);
    while (seat->training) {
        int64_t ms = LOOK_MS;
        struct seat *first = pack->busy || pack->entering ? NULL : first_to_go(pack, &ms);
        if (first) {
            call(pack, first);
        } else if (!seat->called && backend_canceled(training)) {
            seat->training = NULL;
            seat->rc = fail(&seat->err, -ECANCELED, "canceled");
        } else {
            wait_ms(pack, ms);
        }
    }
    rc = seat->rc;
    if (rc)
        fail(err, rc, "%s", seat->err.text);
    pthread_mutex_unlock(&pack->lock);
    return rc;
}

/* --- the rest ---------------------------------------------------------------------------------------------------- */

static void leave_seat(struct seat *seat)
{
    pthread_mutex_lock(&seat->pack->lock);
    seat->left_ms = now_ms();
    leave_locked(seat->pack);
    pthread_mutex_unlock(&seat->pack->lock);
}

int seat_evaluate(struct seat *seat, const float *weights, const struct data_split *split, const uint32_t *samples,
                  size_t n, struct evaluation *ret, float *predictions, struct error *err)
{
    bool tried = false;
    int rc;

    pack_enter(seat->pack);
    do {
        rc = pack_load(seat->pack, seat->dataset, err);
        rc = rc ? rc : seat->pack->ops->evaluate(seat->plan, weights, split, samples, n, ret, predictions, err);
    } while (pack_makes_room(seat->pack, rc, &tried));
    leave_seat(seat);
    return rc;
}

bool seat_keeps_models(const struct seat *seat)
{
    return seat->pack->ops->put_model != NULL;
}

int seat_put_model(struct seat *seat, struct resident **model, const float *weights, struct error *err)
{
    bool tried = false;
    int rc;

    pack_enter(seat->pack);
    do
        rc = seat->pack->ops->put_model(seat->plan, model, weights, err);
    while (pack_makes_room(seat->pack, rc, &tried));
    leave_seat(seat);
    return rc;
}

int seat_get_model(struct seat *seat, const struct resident *model, float *weights, struct error *err)
{
    int rc;

    pack_enter(seat->pack);
    rc = seat->pack->ops->get_model(seat->plan, model, weights, err);
    leave_seat(seat);
    return rc;
}

void seat_drop_model(struct seat *seat, struct resident *model)
{
    if (!model)
        return;
    pack_enter(seat->pack);
    seat->pack->ops->drop_model(seat->plan, model);
    leave_seat(seat);
}

int seat_evaluate_model(struct seat *seat, const struct resident *model, const struct data_split *split,
                        const uint32_t *samples, size_t n, struct evaluation *ret, float *predictions,
                        struct error *err)
{
    bool tried = false;
    int rc;

    pack_enter(seat->pack);
    do {
        rc = pack_load(seat->pack, seat->dataset, err);
        rc = rc ? rc : seat->pack->ops->evaluate_model(seat->plan, model, split, samples, n, ret, predictions, err);
    } while (pack_makes_room(seat->pack, rc, &tried));
    leave_seat(seat);
    return rc;
}
