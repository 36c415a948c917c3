/* threads.c - a crew of threads, one for each core, that do one thing together and then wait.
 * Each has oneDNN's OpenMP set to one thread (a primitive's thread count is fixed when it is made) and flushes denormal
 * numbers, which cost a hundred cycles each and carry nothing.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cpu/cpu_private.h"

#include <omp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#ifdef __SSE2__
#include <xmmintrin.h>
#endif

double clock_seconds(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

struct member {
    struct crew *crew;
    size_t index;
    int core; /* < 0: none */
    pthread_t thread;
};

struct crew {
    size_t n, started;
    struct member *members;
    const struct topology *topology;
    size_t nodes; /* of the cores */
    pthread_mutex_t lock;
    pthread_cond_t work, done;
    uint64_t turn; /* grows with each job */
    bool stop;
    void (*fn)(void *arg, size_t thread);
    void *arg;
    size_t wanted, running;
};

static void *member_main(void *arg)
{
    struct member *m = arg;
    struct crew *crew = m->crew;
    uint64_t seen = 0;

    omp_set_num_threads(1);
    if (crew->nodes > 1)
        topology_local(crew->topology);
#ifdef __SSE2__
    _mm_setcsr(_mm_getcsr() | 0x8040); /* flush to zero, denormals are zero */
#endif
    pthread_mutex_lock(&crew->lock);
    for (;;) {
        while (!crew->stop && crew->turn == seen)
            pthread_cond_wait(&crew->work, &crew->lock);
        if (crew->stop)
            break;
        seen = crew->turn;
        if (m->index >= crew->wanted)
            continue;
        pthread_mutex_unlock(&crew->lock);
        crew->fn(crew->arg, m->index);
        pthread_mutex_lock(&crew->lock);
        if (!--crew->running)
            pthread_cond_signal(&crew->done);
    }
    pthread_mutex_unlock(&crew->lock);
    return NULL;
}

struct seat {
    int core;
    struct cpu_place place;
};

/* As slots are numbered: one thread of every core first. */
static int compare_seats(const void *left, const void *right)
{
    const struct cpu_place *a = &((const struct seat *)left)->place, *b = &((const struct seat *)right)->place;

    if (a->thread != b->thread)
        return a->thread < b->thread ? -1 : 1;
    return a->order < b->order ? -1 : a->order > b->order;
}

static int take_seats(struct crew *crew, const int *cores)
{
    struct seat *seats = calloc(crew->n, sizeof *seats);

    if (!seats)
        return -ENOMEM;
    for (size_t i = 0; i < crew->n; i++) {
        seats[i].core = cores[i];
        topology_place(crew->topology, cores[i], &seats[i].place);
    }
    qsort(seats, crew->n, sizeof *seats, compare_seats);
    for (size_t i = 0; i < crew->n; i++)
        crew->members[i] = (struct member){.crew = crew, .index = i, .core = seats[i].core};
    free(seats);
    return 0;
}

static int start_member(struct member *m, struct error *err)
{
    pthread_attr_t attr;
    cpu_set_t set;
    int rc;

    pthread_attr_init(&attr);
    if (m->core >= 0 && m->core < CPU_SETSIZE) {
        CPU_ZERO(&set);
        CPU_SET((size_t)m->core, &set);
        pthread_attr_setaffinity_np(&attr, sizeof set, &set);
    }
    rc = -pthread_create(&m->thread, &attr, member_main, m);
    pthread_attr_destroy(&attr);
    return rc ? fail(err, rc, "cannot start a thread on core %d: %s", m->core, strerror(-rc)) : 0;
}

int crew_new(const int *cores, size_t n, const struct topology *topology, struct crew **ret, struct error *err)
{
    struct crew *crew = calloc(1, sizeof *crew);
    int rc = 0;

    if (crew)
        *crew = (struct crew){.n = n, .topology = topology, .members = calloc(n, sizeof *crew->members)};
    if (!crew || !crew->members || take_seats(crew, cores)) {
        if (crew)
            free(crew->members);
        free(crew);
        return fail(err, -ENOMEM, "out of memory for %zu threads", n);
    }
    pthread_mutex_init(&crew->lock, NULL);
    pthread_cond_init(&crew->work, NULL);
    pthread_cond_init(&crew->done, NULL);
    crew->nodes = topology_interleave(topology, cores, n);
    for (size_t i = 0; i < n && !rc; i++)
        if (!(rc = start_member(&crew->members[i], err)))
            crew->started++;
    if (rc) {
        crew_free(crew);
        return rc;
    }
    *ret = crew;
    return 0;
}

void crew_free(struct crew *crew)
{
    if (!crew)
        return;
    pthread_mutex_lock(&crew->lock);
    crew->stop = true;
    pthread_cond_broadcast(&crew->work);
    pthread_mutex_unlock(&crew->lock);
    for (size_t i = 0; i < crew->started; i++)
        pthread_join(crew->members[i].thread, NULL);
    if (crew->nodes > 1)
        topology_local(crew->topology);
    pthread_cond_destroy(&crew->done);
    pthread_cond_destroy(&crew->work);
    pthread_mutex_destroy(&crew->lock);
    free(crew->members);
    free(crew);
}

size_t crew_size(const struct crew *crew)
{
    return crew->n;
}

void crew_run(struct crew *crew, size_t n, void (*fn)(void *arg, size_t thread), void *arg)
{
    pthread_mutex_lock(&crew->lock);
    crew->fn = fn;
    crew->arg = arg;
    crew->wanted = crew->running = n < crew->n ? n : crew->n;
    crew->turn++;
    pthread_cond_broadcast(&crew->work);
    while (crew->running)
        pthread_cond_wait(&crew->done, &crew->lock);
    pthread_mutex_unlock(&crew->lock);
}

struct attempt {
    int (*fn)(void *arg, size_t thread, struct error *err);
    void *arg;
    atomic_bool failed;
    struct error err;
    int rc;
};

static void attempt_thread(void *arg, size_t thread)
{
    struct attempt *a = arg;
    struct error err = {0};
    int rc = a->fn(a->arg, thread, &err);

    if (rc && !atomic_exchange(&a->failed, true)) {
        a->rc = rc;
        a->err = err;
    }
}

int crew_try(struct crew *crew, size_t n, int (*fn)(void *arg, size_t thread, struct error *err), void *arg,
             struct error *err)
{
    struct attempt a = {.fn = fn, .arg = arg};

    crew_run(crew, n, attempt_thread, &a);
    return a.rc ? fail(err, a.rc, "%s", a.err.text) : 0;
}

/* teams */

#define SPINS 4000 /* some tens of microseconds: longer than most layers take */

static void relax(unsigned *spins)
{
    if (++*spins < SPINS) {
#ifdef __SSE2__
        _mm_pause();
#endif
    } else {
        sched_yield();
    }
}

void team_run(struct team *team, void (*fn)(void *arg, size_t rank), void *arg)
{
    unsigned spins = 0;

    if (team->n <= 1) {
        fn(arg, 0);
        return;
    }
    team->fn = fn;
    team->arg = arg;
    atomic_store_explicit(&team->running, team->n - 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&team->turn, 1, memory_order_release);
    fn(arg, 0);
    while (atomic_load_explicit(&team->running, memory_order_acquire))
        relax(&spins);
}

void team_follow(struct team *team, size_t rank)
{
    uint_fast64_t seen = 0;

    for (;;) {
        unsigned spins = 0;
        while (atomic_load_explicit(&team->turn, memory_order_acquire) == seen) {
            if (atomic_load_explicit(&team->over, memory_order_acquire))
                return;
            relax(&spins);
        }
        seen++;
        team->fn(team->arg, rank);
        atomic_fetch_sub_explicit(&team->running, 1, memory_order_release);
    }
}

void team_dismiss(struct team *team)
{
    atomic_store_explicit(&team->over, true, memory_order_release);
}
