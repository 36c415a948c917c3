/* ranks.c - threads of several GPUs, where they meet, and the watch over them. See ranks.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cuda/ranks_private.h"

#include "common/log.h"

#include <stdlib.h>
#include <time.h>

#define TIMEOUT_S 300
#define WATCH_NS 50000000L

static double seconds_now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

size_t ranks_n(const struct ranks *r)
{
    return r->n;
}

bool ranks_have_nccl(const struct ranks *r)
{
    return !r->by_host;
}

void rank_device(struct ranks *r, size_t rank, struct device *device)
{
    r->rank[rank].device = device;
}

static void set_since(struct ranks *r, size_t rank, double since)
{
    pthread_mutex_lock(&r->lock);
    r->rank[rank].since = since;
    pthread_mutex_unlock(&r->lock);
}

void rank_enter(struct ranks *r, size_t rank)
{
    set_since(r, rank, seconds_now());
}

void rank_alive(struct ranks *r, size_t rank)
{
    set_since(r, rank, seconds_now());
}

void rank_leave(struct ranks *r, size_t rank)
{
    set_since(r, rank, 0);
}

int ranks_meet(struct ranks *r, bool *vote, struct error *err)
{
    uint64_t meeting;
    bool through;

    pthread_mutex_lock(&r->lock);
    meeting = r->meetings;
    r->votes |= vote && *vote;
    if (++r->arrived == r->n) {
        r->arrived = 0;
        r->meetings++;
        r->verdict = r->votes;
        r->votes = false;
        pthread_cond_broadcast(&r->changed);
    }
    while (meeting == r->meetings && !r->failed)
        pthread_cond_wait(&r->changed, &r->lock);
    through = meeting != r->meetings;
    if (vote && through)
        *vote = r->verdict;
    pthread_mutex_unlock(&r->lock);
    return through ? 0 : fail(err, -ECONNABORTED, "another GPU failed");
}

/* threads */

static void *live(void *arg)
{
    struct rank *self = arg;
    struct ranks *r = self->ranks;
    size_t rank = (size_t)(self - r->rank);
    uint64_t done = 0;

    pthread_mutex_lock(&r->lock);
    for (;;) {
        int rc;
        while (r->jobs == done && !r->ending)
            pthread_cond_wait(&r->changed, &r->lock);
        if (r->jobs == done)
            break;
        done = r->jobs;
        self->err = (struct error){0};
        pthread_mutex_unlock(&r->lock);
        rc = r->job(r->arg, rank, &self->err);
        pthread_mutex_lock(&r->lock);
        self->since = 0;
        if (rc && !r->failed) {
            r->failed = true;
            r->first = rank;
        }
        r->busy--;
        pthread_cond_broadcast(&r->changed);
    }
    pthread_mutex_unlock(&r->lock);
    return NULL;
}

/* Locked. Does somebody wait for what will not come? */
static bool is_stuck(struct ranks *r)
{
    double now = seconds_now();
    bool waits = false;

    for (size_t i = 0; i < r->n; i++) {
        waits |= r->rank[i].since > 0;
        r->late |= r->rank[i].since > 0 && now - r->rank[i].since > r->timeout_s;
    }
    return waits && (r->failed || r->late);
}

static void *abort_links(void *arg)
{
    struct ranks *r = arg;

    for (size_t i = 0; i < r->n; i++)
        r->driver->link_abort(r->rank[i].device);
    return NULL;
}

/* Locked. */
static void give_up(struct ranks *r)
{
    r->failed = true;
    pthread_cond_broadcast(&r->changed);
    if (r->linked && !pthread_create(&r->aborter, NULL, abort_links, r)) {
        r->linked = false;
        r->aborting = true;
    }
}

/* When all ranks are idle. */
static void end_abort(struct ranks *r)
{
    if (!r->aborting)
        return;
    if (r->forget)
        r->forget(r->forget_arg);
    pthread_join(r->aborter, NULL);
    r->aborting = false;
}

/* Locked. The job is done by all, or it is seen to that they end. */
static void watch(struct ranks *r)
{
    while (r->busy) {
        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_nsec += WATCH_NS;
        until.tv_sec += until.tv_nsec / 1000000000L;
        until.tv_nsec %= 1000000000L;
        pthread_cond_timedwait(&r->changed, &r->lock, &until);
        if (!r->aborting && r->busy && is_stuck(r))
            give_up(r);
    }
}

int ranks_run(struct ranks *r, rank_job job, void *arg, struct error *err)
{
    const struct error *why;
    int rc = 0;

    pthread_mutex_lock(&r->lock);
    r->failed = r->late = r->votes = false;
    r->arrived = 0;
    for (size_t i = 0; i < r->n * r->n; i++)
        r->rank[i / r->n].boxes[i % r->n].full = false;
    r->job = job;
    r->arg = arg;
    r->busy = r->n;
    r->jobs++;
    pthread_cond_broadcast(&r->changed);
    watch(r);
    why = &r->rank[r->first].err;
    if (r->late)
        rc =
            fail(err, -EIO, "the GPUs of this trial waited for each other for %g s (FLEXP_CUDA_TIMEOUT)", r->timeout_s);
    else if (r->failed && why->code == -ECANCELED)
        rc = fail(err, why->code, "%s", why->text);
    else if (r->failed)
        rc = fail(err, why->code, "GPU %zu of %zu: %s", r->first + 1, r->n, why->text);
    pthread_mutex_unlock(&r->lock);
    end_abort(r);
    return rc;
}

/* links */

void ranks_on_abort(struct ranks *r, void (*forget)(void *arg), void *arg)
{
    r->forget = forget;
    r->forget_arg = arg;
}

struct opening {
    struct ranks *ranks;
    unsigned char id[LINK_ID_BYTES];
};

static int open_link(void *arg, size_t rank, struct error *err)
{
    struct opening *o = arg;
    struct ranks *r = o->ranks;
    int rc;

    rank_enter(r, rank);
    rc = r->driver->link_open(r->rank[rank].device, o->id, rank, r->n, r->timeout_s, err);
    rank_leave(r, rank);
    return rc;
}

int ranks_link(struct ranks *r, struct error *err)
{
    struct opening o = {.ranks = r};
    struct error why = {0};
    int rc;

    if (r->linked || r->by_host)
        return 0;
    rc = r->driver->link_id ? r->driver->link_id(o.id, &why) : fail(&why, -ENOTSUP, "not there");
    if (rc == -ENOTSUP) {
        log_warning("NCCL cannot be used (%s): what the %zu GPUs of a trial send each other goes through the host",
                    why.text, r->n);
        r->by_host = true;
        return 0;
    }
    if (rc)
        return fail(err, rc, "%s", why.text);
    r->linked = true; /* what is being opened can be given up */
    rc = ranks_run(r, open_link, &o, err);
    if (rc)
        r->linked = false;
    return rc;
}

/* coming and going */

int ranks_new(const struct driver *driver, size_t n, struct ranks **ret, struct error *err)
{
    struct ranks *r = calloc(1, sizeof *r);
    const char *timeout = getenv("FLEXP_CUDA_TIMEOUT");
    pthread_condattr_t monotonic;

    if (!r)
        return fail(err, -ENOMEM, "out of memory");
    r->driver = driver;
    r->n = n;
    r->timeout_s = timeout && atof(timeout) > 0 ? atof(timeout) : TIMEOUT_S;
    pthread_mutex_init(&r->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&r->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    for (; r->threads_n < n; r->threads_n++) {
        r->rank[r->threads_n].ranks = r;
        if (pthread_create(&r->rank[r->threads_n].thread, NULL, live, &r->rank[r->threads_n])) {
            ranks_free(r);
            return fail(err, -ENOMEM, "a thread for each of %zu GPUs cannot be started", n);
        }
    }
    *ret = r;
    return 0;
}

void ranks_free(struct ranks *r)
{
    if (!r)
        return;
    pthread_mutex_lock(&r->lock);
    r->ending = true;
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->lock);
    for (size_t i = 0; i < r->threads_n; i++) {
        pthread_join(r->rank[i].thread, NULL);
        for (size_t from = 0; from < r->n; from++)
            free(r->rank[i].boxes[from].data);
    }
    pthread_cond_destroy(&r->changed);
    pthread_mutex_destroy(&r->lock);
    free(r);
}
