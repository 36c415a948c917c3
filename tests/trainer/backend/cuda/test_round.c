/* test_round.c - turns as one graph, on the fake GPU: how many calls of the driver a round is, that nothing is made
 * anew over many of them, and that their bits are those of rounds call by call. SPDX-License-Identifier: Apache-2.0 */
#include "tests/trainer/backend/cuda/fake.h"
#include "trainer/backend/cuda/cuda_private.h"
#include "trainer/backend/cuda/selftest.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#define SAMPLES 60
#define MANY 2100 /* more than the device shuffles */
#define TRIALS 3
#define COHORT 4

static const char LAYERS[] =
    "[{\"conv2d\": {\"filters\": 2, \"kernel\": 3, \"activation\": \"relu\"}}, \"batch_norm\", {\"max_pool2d\": "
    "{\"size\": 2}}, \"flatten\", {\"dropout\": {\"rate\": 0.5}}, {\"dense\": {\"units\": \"classes\"}}]";

/* The same trials, one way and the other, with models on the device. */
enum { WHOLE, CALLS, WAYS };

struct pair {
    struct bed beds[WAYS];
    struct resident *models[WAYS][TRIALS];
    struct replica replicas[TRIALS][COHORT];
    uint32_t samples[2 * MANY];
    float *got[WAYS];
};

static void pair_init_of(struct pair *p, size_t images, enum precision precision, size_t gpus)
{
    struct error err = {0};

    memset(p, 0, sizeof *p);
    for (uint32_t i = 0; i < 2 * images; i++)
        p->samples[i] = i * 11 % (uint32_t)images;
    for (int way = 0; way < WAYS; way++) {
        struct bed *b = &p->beds[way];
        if (bed_init(b, LAYERS, 3, 7, 6, 4, images, 8, precision, &err) ||
            (gpus > 1 && bed_use_gpus(b, gpus, precision, 8, &err)))
            fail_msg("%s", err.text);
        p->got[way] = calloc(b->model->weights_n, sizeof(float));
        for (int k = 0; k < TRIALS; k++)
            assert_int_equal(BACKEND_CUDA.put_model(b->gpu_plan, &p->models[way][k], b->weights, &err), 0);
    }
}

static void pair_init(struct pair *p, enum precision precision, size_t gpus)
{
    pair_init_of(p, SAMPLES, precision, gpus);
}

static void pair_done(struct pair *p)
{
    for (int way = 0; way < WAYS; way++) {
        free(p->got[way]);
        bed_done(&p->beds[way]);
    }
    assert_int_equal(fake.blocks, 0);
    assert_int_equal(fake.opened, 0);
}

/* Clients of a round, different in each: how many samples, which, batches, rates, keys. */
static void make(struct pair *p, int k, int round, const float *start)
{
    for (size_t i = 0; i < COHORT; i++)
        p->replicas[k][i] = (struct replica){
            .start = start,
            .samples = p->samples + (size_t)(round * 5 + k) % SAMPLES,
            .samples_n = 1 + ((size_t)round * 7 + 11 * i) % 14,
            .epochs = 1,
            .batch = 3 + ((size_t)round + i) % 6,
            .lr = 0.01f * (float)(1 + (round + k) % 5),
            .optimizer = {.momentum = round % 2 ? 0.9f : 0.5f},
            .seed = 3,
            .trial = (uint64_t)k,
            .round = (uint64_t)round,
            .client = i,
            .weight = 1.0 / COHORT,
        };
}

/* A round of so many trials, whose first has so many clients: its calls of the driver. */
static size_t go(struct pair *p, int way, int round, size_t trials, size_t clients, const volatile int *cancel)
{
    const struct augment augment = {.crop_padding = 1, .horizontal_flip = true};
    struct training t[TRIALS] = {0};
    struct error err = {0};
    size_t calls = fake.calls;
    int rc;

    for (int k = 0; k < (int)trials; k++) {
        make(p, k, round, NULL);
        t[k] =
            (struct training){.replicas = p->replicas[k],
                              .n = k ? COHORT : clients,
                              .augment = &augment,
                              .reduction = {.type = REDUCE_MODEL, .model = p->models[way][k], .rate = k == 1 ? 0.5 : 1},
                              .cancel = k + 1 == (int)trials ? cancel : NULL};
    }
    if (way == CALLS)
        setenv("FLEXP_CUDA_ROUNDS", "calls", 1);
    rc = BACKEND_CUDA.train(p->beds[way].gpu_plan, t, trials, &err);
    unsetenv("FLEXP_CUDA_ROUNDS");
    if (rc)
        fail_msg("%s", err.text);
    return fake.calls - calls;
}

static void same_models(struct pair *p)
{
    struct error err = {0};

    for (int k = 0; k < TRIALS; k++) {
        for (int way = 0; way < WAYS; way++)
            assert_int_equal(BACKEND_CUDA.get_model(p->beds[way].gpu_plan, p->models[way][k], p->got[way], &err), 0);
        assert_memory_equal(p->got[WHOLE], p->got[CALLS], p->beds[0].model->weights_n * sizeof(float));
    }
}

/* One launch, and the host waits for its totals. Set-up are the first turns: tables for all data, and the graph. */
static void a_round_is_two_calls_a_thousand_times(void **state)
{
    struct pair p;
    size_t allocations = 0, captures = 0, used = 0, replays = 0;
    struct lane_total last[COHORT];

    (void)state;
    pair_init(&p, PRECISION_FP32_STRICT, 1);
    for (int round = 0; round < 1002; round++) {
        size_t calls = go(&p, WHOLE, round, 1, COHORT, NULL);
        if (round == 1) {
            allocations = fake.allocations;
            captures = fake.captures;
            used = fake.used;
            replays = fake.replays;
        }
        assert_true(round < 2 || calls == 2);
    }
    assert_int_equal(fake.allocations, allocations);
    assert_int_equal(fake.captures, captures);
    assert_int_equal(fake.replays, replays + 1000);
    assert_int_equal(fake.used, used);
    memcpy(last, p.beds[WHOLE].gpu_plan->training->host_totals, sizeof last);
    for (int round = 0; round < 1002; round++)
        go(&p, CALLS, round, 1, COHORT, NULL);
    assert_memory_equal(last, p.beds[CALLS].gpu_plan->training->host_totals, sizeof last);
    same_models(&p);
    pair_done(&p);
}

/* Packed trials come and go, more ways than graphs are kept. */
static void rounds_of_other_shapes_have_graphs_of_their_own(void **state)
{
    struct pair p;
    size_t captures;

    (void)state;
    pair_init(&p, PRECISION_FP32_STRICT, 1);
    for (int round = 0; round < 40; round++)
        for (int way = 0; way < WAYS; way++)
            go(&p, way, round, 1 + (size_t)round / 2 % 3, 1 + (size_t)round / 6 % COHORT, NULL);
    same_models(&p);
    captures = fake.captures;
    for (int round = 40; round < 80; round++)
        for (int way = 0; way < WAYS; way++) {
            size_t calls = go(&p, way, round, 1 + (size_t)round % 3, COHORT, NULL);
            assert_true(way == CALLS || round < 70 || calls == 2);
        }
    assert_true(fake.captures - captures <= 3 + GRAPHS);
    same_models(&p);
    pair_done(&p);
}

/* Against lanes of which none is idle. What idle ones hold is the start of packed trials before. */
static void cohorts_of_any_size_have_one_graph(void **state)
{
    struct pair p;

    (void)state;
    pair_init(&p, PRECISION_FP32_STRICT, 1);
    for (int way = 0; way < WAYS; way++)
        go(&p, way, 0, TRIALS, COHORT, NULL);
    for (int round = 1; round < 30; round++) {
        size_t trials = round % 4 ? 1 : 2, clients = trials == 1 ? 1 + (size_t)round * 3 % COHORT : COHORT;
        size_t replays = fake.replays, captures = fake.captures, set_up = trials == 1 ? 3 : 9;
        struct plan *exact = p.beds[CALLS].gpu_plan;
        go(&p, WHOLE, round, trials, clients, NULL);
        assert_true((size_t)round < set_up || (fake.replays == replays + 1 && fake.captures == captures));
        lanes_free(exact->training);
        exact->training = NULL;
        go(&p, CALLS, round, trials, clients, NULL);
    }
    same_models(&p);
    pair_done(&p);
}

static void a_canceled_trial_is_not_stepped_with_the_others(void **state)
{
    const volatile int cancel = 1;
    struct pair p;

    (void)state;
    pair_init(&p, PRECISION_FP32_STRICT, 1);
    for (int round = 0; round < 6; round++)
        for (int way = 0; way < WAYS; way++)
            go(&p, way, round, TRIALS, COHORT, round % 3 == 2 ? &cancel : NULL);
    same_models(&p);
    pair_done(&p);
}

/* Sums begin in the first turn and models are stepped behind the last; else two turns of one trial are alike. */
static void turns_have_graphs_too(void **state)
{
    static const size_t TRIALS_OF[] = {TRIALS, 1}, ROOM[] = {6, 3};
    size_t whole = fake.capacity, shared, lane;
    struct error err = {0};
    struct pair p;

    (void)state;
    for (int k = 0; k < 2; k++) {
        pair_init(&p, PRECISION_FP32_STRICT, 1);
        cuda_plan_bytes(p.beds[0].model, 8, PRECISION_FP32_STRICT, NULL, &shared, &lane, &err);
        for (int round = 0; round < 5; round++)
            go(&p, CALLS, round, TRIALS_OF[k], COHORT, NULL);
        fake.capacity = fake.used + ROOM[k] * lane; /* for half of them */
        for (int round = 0; round < 5; round++) {
            size_t replays = fake.replays, calls = go(&p, WHOLE, round, TRIALS_OF[k], COHORT, NULL);
            replays = fake.replays - replays;
            assert_true(round < 3 || (replays == 2 && calls == 1 + 2 * 2)); /* and asks for the memory that is free */
        }
        fake.capacity = whole;
        assert_true(p.beds[WHOLE].gpu_plan->training->n < p.beds[CALLS].gpu_plan->training->n);
        same_models(&p);
        pair_done(&p);
    }
}

/* What crosses because the strategy asked: the start, and the sum. */
static void a_round_with_sums_for_the_host_is_five_calls(void **state)
{
    struct error err = {0};
    double *sums[WAYS];
    struct pair p;

    (void)state;
    pair_init(&p, PRECISION_FP32_STRICT, 1);
    for (int way = 0; way < WAYS; way++) {
        sums[way] = calloc(p.beds[way].model->weights_n, sizeof **sums);
        for (int round = 0; round < 5; round++) {
            struct reduction reduction = {.type = REDUCE_WEIGHTED_SUM, .sum = sums[way]};
            size_t calls = fake.calls;
            make(&p, 0, round, p.beds[way].weights);
            if (way == CALLS)
                setenv("FLEXP_CUDA_ROUNDS", "calls", 1);
            assert_int_equal(
                backend_train(&BACKEND_CUDA, p.beds[way].gpu_plan, p.replicas[0], COHORT, NULL, &reduction, NULL, &err),
                0);
            unsetenv("FLEXP_CUDA_ROUNDS");
            assert_true(way == CALLS || round < 2 || fake.calls - calls == 5);
            for (size_t i = 0; i < p.beds[way].model->weights_n; i++)
                p.beds[way].weights[i] = (float)sums[way][i];
        }
    }
    assert_memory_equal(sums[WHOLE], sums[CALLS], p.beds[0].model->weights_n * sizeof **sums);
    free(sums[WHOLE]);
    free(sums[CALLS]);
    pair_done(&p);
}

static void without_loops_rounds_go_call_by_call(void **state)
{
    struct pair p;
    size_t most = 0;

    (void)state;
    fake.no_loops = true;
    pair_init(&p, PRECISION_FP32_STRICT, 1);
    for (int round = 0; round < 5; round++) {
        size_t calls = go(&p, WHOLE, round, 1, COHORT, NULL);
        assert_false(fake.capturing);
        most = calls > most ? calls : most;
        go(&p, CALLS, round, 1, COHORT, NULL);
    }
    fake.no_loops = false;
    assert_true(p.beds[WHOLE].gpu_plan->backend->no_loops && !p.beds[CALLS].gpu_plan->backend->no_loops);
    assert_true(most > 10);
    same_models(&p);
    pair_done(&p);
}

/* Longer than a cancellation may wait; and a model in another place than the one that was captured. */
static void what_no_graph_is_for_goes_call_by_call(void **state)
{
    struct error err = {0};
    struct pair p;

    (void)state;
    pair_init(&p, PRECISION_FP32_STRICT, 1);
    for (int round = 0; round < 7; round++)
        for (int way = 0; way < WAYS; way++) {
            struct reduction reduction = {.type = REDUCE_MODEL, .model = p.models[way][0], .rate = 1};
            if (round == 5) {
                struct resident *other = NULL;
                assert_int_equal(BACKEND_CUDA.put_model(p.beds[way].gpu_plan, &other, p.beds[way].weights, &err), 0);
                BACKEND_CUDA.drop_model(p.beds[way].gpu_plan, p.models[way][0]);
                reduction.model = p.models[way][0] = other;
            }
            if (round == 4) {
                size_t calls = fake.calls;
                make(&p, 0, round, NULL);
                p.replicas[0][0].samples_n = 3 * WAIT_STEPS / 60;
                p.replicas[0][0].epochs = 70;
                p.replicas[0][0].batch = 3;
                p.replicas[0][0].lr = 1e-4f;
                assert_int_equal(
                    backend_train(&BACKEND_CUDA, p.beds[way].gpu_plan, p.replicas[0], 1, NULL, &reduction, NULL, &err),
                    0);
                assert_true(p.replicas[0][0].batches > WAIT_STEPS && fake.calls - calls > 10);
            } else {
                go(&p, way, round, 1, COHORT, NULL);
            }
        }
    same_models(&p);
    pair_done(&p);
}

/* Few samples and many, and lists that the host shuffles: what is copied grows with them. */
static void lists_of_any_length_are_copied(void **state)
{
    static const size_t LENGTHS[] = {5, 5, 90, 90, 600, 5, 2050, 600, 2050, 90};
    struct error err = {0};
    struct pair p;

    (void)state;
    pair_init_of(&p, MANY, PRECISION_FP32_STRICT, 1);
    for (int round = 0; round < 10; round++)
        for (int way = 0; way < WAYS; way++) {
            size_t length = LENGTHS[round], n = length > 1000 ? 1 : COHORT;
            struct reduction reduction = {.type = REDUCE_MODEL, .model = p.models[way][0], .rate = 1};
            make(&p, 0, round, NULL);
            for (size_t i = 0; i < n; i++) {
                p.replicas[0][i].samples = p.samples + 10 * i;
                p.replicas[0][i].samples_n = length - i;
                p.replicas[0][i].batch = 8;
            }
            if (way == CALLS)
                setenv("FLEXP_CUDA_ROUNDS", "calls", 1);
            assert_int_equal(
                backend_train(&BACKEND_CUDA, p.beds[way].gpu_plan, p.replicas[0], n, NULL, &reduction, NULL, &err), 0);
            unsetenv("FLEXP_CUDA_ROUNDS");
            assert_true(p.replicas[0][0].samples_seen == length && p.replicas[0][0].finite);
        }
    same_models(&p);
    pair_done(&p);
}

/* Two rounds of a kind that is new: the first goes call by call, the second is captured. */
static void first_round_of_a_kind(struct pair *p, int round)
{
    if (p->beds[WHOLE].gpu_plan->training)
        rounds_free(p->beds[WHOLE].gpu_plan->training);
    for (int way = 0; way < WAYS; way++)
        go(p, way, round, 1, COHORT, NULL);
}

/* Whatever a capture fails of, a launch, a library's call or the loop: the round is trained, its kind not captured. */
static void what_cannot_be_captured_goes_call_by_call(void **state)
{
    struct pair p;
    int refused = 0, left;

    (void)state;
    pair_init(&p, PRECISION_FP32_STRICT, 1);
    for (int at = 1;; at++) {
        first_round_of_a_kind(&p, 3 * at);
        fake.fail_launch = at;
        go(&p, WHOLE, 3 * at + 1, 1, COHORT, NULL);
        left = fake.fail_launch;
        fake.fail_launch = 0;
        go(&p, CALLS, 3 * at + 1, 1, COHORT, NULL);
        assert_true(!fake.capturing && rounds_kept(p.beds[WHOLE].gpu_plan->training) == (left > 0));
        if (left)
            break;
        size_t captures = fake.captures;
        for (int way = 0; way < WAYS; way++)
            go(&p, way, 3 * at + 2, 1, COHORT, NULL);
        assert_int_equal(fake.captures, captures);
        refused++;
    }
    assert_true(refused > 20);
    assert_false(p.beds[WHOLE].gpu_plan->backend->no_loops);
    same_models(&p);
    pair_done(&p);
}

/* No memory for it on the device, or a driver that does not make it. Loops that are not supported are never tried
 * again.
 */
static void a_graph_that_is_not_made_is_done_without(void **state)
{
    static const int REASONS[] = {-ENOMEM, -EIO, -ENOTSUP};
    struct pair p;
    size_t captures;

    (void)state;
    pair_init(&p, PRECISION_FP32_STRICT, 1);
    for (int k = 0; k < 3; k++) {
        first_round_of_a_kind(&p, 10 * k);
        go(&p, CALLS, 10 * k + 1, 1, COHORT, NULL);
        fake.fail_graph = REASONS[k];
        go(&p, WHOLE, 10 * k + 1, 1, COHORT, NULL);
        assert_int_equal(fake.fail_graph, 0);
        assert_int_equal(rounds_kept(p.beds[WHOLE].gpu_plan->training), 0);
        captures = fake.captures;
        for (int round = 10 * k + 2; round < 10 * k + 5; round++)
            for (int way = 0; way < WAYS; way++)
                go(&p, way, round, 1, COHORT, NULL);
        assert_true(fake.captures - captures <= GRAPHS);
        assert_true(p.beds[WHOLE].gpu_plan->backend->no_loops == (REASONS[k] == -ENOTSUP));
    }
    same_models(&p);
    pair_done(&p);
}

/* Then the run ends with its reason. */
static void a_device_that_is_lost_in_a_capture_ends_the_run(void **state)
{
    struct error err = {0};
    struct pair p;

    (void)state;
    pair_init(&p, PRECISION_FP32_STRICT, 1);
    go(&p, WHOLE, 0, 1, COHORT, NULL);
    for (int at = 1; at < 20; at += 6) {
        struct training t = {.replicas = p.replicas[0],
                             .n = COHORT,
                             .augment = &(struct augment){.crop_padding = 1, .horizontal_flip = true},
                             .reduction = {.type = REDUCE_MODEL, .model = p.models[WHOLE][0], .rate = 1}};
        make(&p, 0, 1, NULL);
        fake.fail_stays = true;
        fake.fail_launch = at;
        assert_int_equal(BACKEND_CUDA.train(p.beds[WHOLE].gpu_plan, &t, 1, &err), -EIO);
        assert_string_equal(err.text, "the fake GPU fell off the bus");
        assert_false(fake.capturing);
        fake.fail_stays = fake.of[0].lost = false;
    }
    pair_done(&p);
}

/* Each GPU's part of a cohort is one launch; the sum over the GPUs is between them. */
static void a_turn_on_each_gpu_is_one_launch(void **state)
{
    enum { GPUS = 2 };
    size_t replays = 0, allocations = 0;
    struct pair p;

    (void)state;
    fake.devices = GPUS;
    pair_init(&p, PRECISION_FP32, GPUS);
    for (int round = 0; round < 8; round++) {
        if (round == 2) {
            replays = fake.replays;
            allocations = fake.allocations;
        }
        go(&p, WHOLE, round, 1, COHORT, NULL);
    }
    assert_int_equal(fake.replays, replays + 6 * GPUS);
    assert_int_equal(fake.allocations, allocations);
    for (int round = 0; round < 8; round++)
        go(&p, CALLS, round, 1, COHORT, NULL);
    same_models(&p);
    pair_done(&p);
    fake.devices = 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_round_is_two_calls_a_thousand_times),
        cmocka_unit_test(rounds_of_other_shapes_have_graphs_of_their_own),
        cmocka_unit_test(cohorts_of_any_size_have_one_graph),
        cmocka_unit_test(a_canceled_trial_is_not_stepped_with_the_others),
        cmocka_unit_test(turns_have_graphs_too),
        cmocka_unit_test(a_round_with_sums_for_the_host_is_five_calls),
        cmocka_unit_test(without_loops_rounds_go_call_by_call),
        cmocka_unit_test(what_no_graph_is_for_goes_call_by_call),
        cmocka_unit_test(lists_of_any_length_are_copied),
        cmocka_unit_test(what_cannot_be_captured_goes_call_by_call),
        cmocka_unit_test(a_graph_that_is_not_made_is_done_without),
        cmocka_unit_test(a_device_that_is_lost_in_a_capture_ends_the_run),
        cmocka_unit_test(a_turn_on_each_gpu_is_one_launch),
    };

    return cmocka_run_group_tests(tests, fake_use, NULL);
}
