/* test_pack.c - runs that meet in front of one backend: who goes together, who is waited for, whose failure it is. The
 * backend is made up: it counts its calls and fails where it is told to. SPDX-License-Identifier: Apache-2.0 */
#include "trainer/federation/pack.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#define RUNS 4

struct backend {
    int none;
};
struct plan {
    int none;
};

/* What the backend is to do, and what it has seen. Trials are told by their one replica's number. */
static struct {
    atomic_int inside;
    long call_ms;
    size_t most;        /* a call of more trials is out of memory; 0: of any number */
    bool held;          /* idle plans hold memory: any call is out of it until trim */
    uint64_t guilty;    /* a call with this trial fails */
    size_t calls, largest, trained[64], loads, trims, evaluations;
    const struct dataset *loaded;
    const struct plan *plan_of[64]; /* by trial: whose calls it may be in */
    const struct dataset *data_of[64];
} seen;

static void sleep_ms(long ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}, NULL);
}

static void enter(void)
{
    if (atomic_fetch_add(&seen.inside, 1))
        abort(); /* two callers at once */
}

static int made_up_load(struct backend *backend, const struct dataset *dataset, struct error *err)
{
    (void)backend, (void)err;
    seen.loads++;
    seen.loaded = dataset;
    return 0;
}

static int made_up_train(struct plan *plan, struct training *trainings, size_t n, struct error *err)
{
    bool guilty = false;

    enter();
    seen.calls++;
    seen.largest = n > seen.largest ? n : seen.largest;
    for (size_t i = 0; i < n; i++) {
        uint64_t trial = trainings[i].replicas[0].trial;
        guilty |= trial == seen.guilty;
        if (seen.plan_of[trial] != plan || seen.data_of[trial] != seen.loaded)
            abort();
    }
    sleep_ms(seen.call_ms);
    atomic_fetch_sub(&seen.inside, 1);
    if (guilty)
        return (fail)(err, -EIO, "the backend broke");
    if (n > seen.most || seen.held)
        return (fail)(err, -ENOMEM, "no memory for %zu trials", n);
    for (size_t i = 0; i < n; i++)
        seen.trained[trainings[i].replicas[0].trial]++;
    return 0;
}

static int made_up_evaluate(struct plan *plan, const float *weights, const struct data_split *split,
                            const uint32_t *samples, size_t n, struct evaluation *ret, float *predictions,
                            struct error *err)
{
    (void)plan, (void)weights, (void)split, (void)samples, (void)n, (void)ret, (void)predictions, (void)err;
    enter();
    seen.evaluations++;
    sleep_ms(1);
    atomic_fetch_sub(&seen.inside, 1);
    return 0;
}

static bool made_up_trim(struct backend *backend, const struct plan *but)
{
    bool had = seen.held;

    (void)backend, (void)but;
    seen.trims++;
    seen.held = false;
    return had;
}

static const struct backend_ops MADE_UP = {
    .api_version = BACKEND_API_VERSION,
    .load_dataset = made_up_load,
    .train = made_up_train,
    .evaluate = made_up_evaluate,
    .trim = made_up_trim,
};

static struct backend backend;
static struct plan plans[2];
static struct dataset data[2];

static struct pack *must_open(void)
{
    struct pack *pack;

    memset(&seen, 0, sizeof seen);
    seen.call_ms = 30;
    seen.most = PACK_MOST;
    seen.guilty = UINT64_MAX;
    assert_int_equal(pack_new(&pack, NULL), 0);
    pack_enter(pack);
    pack_use(pack, &MADE_UP, &backend);
    pack_leave(pack);
    return pack;
}

/* A run: so many rounds, with work of its own between them. */
struct runner {
    struct pack *pack;
    struct plan *plan;
    const struct dataset *dataset;
    uint64_t trial;
    size_t rounds;
    bool evaluates;
    pthread_t thread;
    struct seat *seat;
    int rc;
    struct error err;
};

static int train_once(struct runner *r)
{
    struct replica replica = {.trial = r->trial};
    struct training training = {.replicas = &replica, .n = 1};
    int rc;

    do
        rc = seat_train(r->seat, &training, &r->err);
    while (rc == -EAGAIN);
    return rc;
}

static void *run(void *arg)
{
    struct runner *r = arg;

    for (size_t round = 0; round < r->rounds && !r->rc; round++) {
        r->rc = train_once(r);
        if (r->evaluates && !r->rc)
            r->rc = seat_evaluate(r->seat, NULL, NULL, NULL, 0, NULL, NULL, &r->err);
        sleep_ms((long)r->trial % 3);
    }
    seat_leave(r->seat);
    return NULL;
}

static void seat(struct pack *pack, struct runner *r, uint64_t trial, size_t rounds, struct plan *plan,
                 const struct dataset *dataset)
{
    *r = (struct runner){.pack = pack, .plan = plan, .dataset = dataset, .trial = trial, .rounds = rounds};
    seen.plan_of[trial] = plan;
    seen.data_of[trial] = dataset;
    assert_int_equal(seat_take(pack, plan, dataset, &r->seat, &r->err), 0);
}

static void start(struct runner *r)
{
    assert_int_equal(pthread_create(&r->thread, NULL, run, r), 0);
}

/* All at once, until all are through; of `guilty` (-1: nobody) alone the backend breaks. */
static void run_all(struct runner *runners, size_t n, int guilty)
{
    for (size_t i = 0; i < n; i++)
        start(&runners[i]);
    for (size_t i = 0; i < n; i++) {
        pthread_join(runners[i].thread, NULL);
        assert_int_equal(runners[i].rc, (int)i == guilty ? -EIO : 0);
        assert_int_equal(seen.trained[i], (int)i == guilty ? 0 : runners[i].rounds);
    }
}

static void runs_of_one_plan_go_in_lockstep(void **state)
{
    enum { ROUNDS = 20 };
    struct pack *pack = must_open();
    struct runner runners[RUNS];

    (void)state;
    for (uint64_t i = 0; i < RUNS; i++) {
        seat(pack, &runners[i], i, ROUNDS, &plans[0], &data[0]);
        runners[i].evaluates = true;
    }
    run_all(runners, RUNS, -1);
    assert_int_equal(seen.largest, RUNS);
    assert_in_range(seen.calls, ROUNDS, ROUNDS * RUNS / 2); /* ROUNDS, but for what a busy machine delays */
    assert_int_equal(seen.evaluations, ROUNDS * RUNS);
    assert_int_equal(seen.loads, 1);
    pack_free(pack);
}

static void runs_of_other_plans_and_data_take_turns(void **state)
{
    enum { ROUNDS = 8 };
    struct pack *pack = must_open();
    struct runner runners[6];

    (void)state;
    seen.call_ms = 5;
    for (uint64_t i = 0; i < 6; i++)
        seat(pack, &runners[i], i, ROUNDS, &plans[i % 2], &data[i / 4]);
    run_all(runners, 6, -1);
    assert_in_range(seen.largest, 1, 2);
    assert_true(seen.loads > 1);
    pack_free(pack);
}

static void one_that_does_not_come_is_not_waited_for_again_and_again(void **state)
{
    enum { ROUNDS = 50 };
    struct pack *pack = must_open();
    struct runner trains, rests;
    struct timespec began, ended;

    (void)state;
    seen.call_ms = 1;
    seat(pack, &rests, 0, 1, &plans[0], &data[0]);
    assert_int_equal(train_once(&rests), 0);
    seat(pack, &trains, 1, ROUNDS, &plans[0], &data[0]);
    clock_gettime(CLOCK_MONOTONIC, &began);
    start(&trains);
    pthread_join(trains.thread, NULL);
    clock_gettime(CLOCK_MONOTONIC, &ended);
    assert_int_equal(seen.trained[1], ROUNDS);
    assert_true(ended.tv_sec - began.tv_sec < 10); /* 50 waits of the most, a second each, were 50 s */
    seat_leave(rests.seat);
    pack_free(pack);
}

static void out_of_memory_together_is_tried_with_fewer(void **state)
{
    enum { ROUNDS = 6 };
    struct pack *pack = must_open();
    struct runner runners[RUNS];

    (void)state;
    seen.most = 2;
    for (uint64_t i = 0; i < RUNS; i++)
        seat(pack, &runners[i], i, ROUNDS, &plans[0], &data[0]);
    run_all(runners, RUNS, -1);
    seen.most = 0;
    seat(pack, &runners[0], 0, 1, &plans[0], &data[0]);
    assert_int_equal(train_once(&runners[0]), -ENOMEM);
    assert_string_equal(runners[0].err.text, "no memory for 1 trials");
    seat_leave(runners[0].seat);
    pack_free(pack);
}

static void memory_of_idle_plans_is_given_back_before_a_run_fails(void **state)
{
    struct pack *pack = must_open();
    struct runner runner;

    (void)state;
    seen.held = true;
    seat(pack, &runner, 0, 1, &plans[0], &data[0]);
    assert_int_equal(train_once(&runner), 0);
    assert_int_equal(seen.trims, 1);
    assert_int_equal(seen.calls, 2);
    seat_leave(runner.seat);
    pack_free(pack);
}

static void a_failure_is_the_guilty_ones_alone(void **state)
{
    enum { ROUNDS = 6 };
    struct pack *pack = must_open();
    struct runner runners[RUNS];

    (void)state;
    seen.guilty = 2;
    for (uint64_t i = 0; i < RUNS; i++)
        seat(pack, &runners[i], i, ROUNDS, &plans[0], &data[0]);
    run_all(runners, RUNS, 2);
    assert_string_equal(runners[2].err.text, "the backend broke");
    assert_in_range(seen.largest, 2, RUNS);
    pack_free(pack);
}

static void who_is_given_up_while_it_waits_is_not_trained(void **state)
{
    const volatile int cancel = 1;
    struct pack *pack = must_open();
    struct replica replica = {.trial = 1};
    struct training training = {.replicas = &replica, .n = 1, .cancel = &cancel};
    struct runner other, runner;
    struct error err;

    (void)state;
    seen.call_ms = 500;
    seat(pack, &other, 0, 1, &plans[1], &data[0]);
    seat(pack, &runner, 1, 1, &plans[0], &data[0]);
    start(&other);
    while (!atomic_load(&seen.inside))
        sleep_ms(1);
    assert_int_equal(seat_train(runner.seat, &training, &err), -ECANCELED);
    assert_int_equal(atomic_load(&seen.inside), 1); /* the other's call goes on */
    seat_leave(runner.seat);
    pthread_join(other.thread, NULL);
    assert_int_equal(seen.trained[0], 1);
    assert_int_equal(seen.trained[1], 0);
    pack_free(pack);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(runs_of_one_plan_go_in_lockstep),
        cmocka_unit_test(runs_of_other_plans_and_data_take_turns),
        cmocka_unit_test(one_that_does_not_come_is_not_waited_for_again_and_again),
        cmocka_unit_test(out_of_memory_together_is_tried_with_fewer),
        cmocka_unit_test(memory_of_idle_plans_is_given_back_before_a_run_fails),
        cmocka_unit_test(a_failure_is_the_guilty_ones_alone),
        cmocka_unit_test(who_is_given_up_while_it_waits_is_not_trained),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
