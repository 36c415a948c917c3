/* test_shared.c - dense layers of plain SGD replicas that share the round's start: rounds of them against replicas with
 * weights of their own, on the fake GPU and on the CPU; when they are not chosen; bits, turns, memory.
 * SPDX-License-Identifier: Apache-2.0 */
#include "tests/trainer/backend/cuda/fake.h"
#include "trainer/backend/cuda/cuda_private.h"
#include "trainer/backend/cuda/selftest.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#define SAMPLES 400
#define COHORT 50
#define LIMIT 1e-4 /* relative; fp32 sums of a few thousand products in another order */

/* Dropout in front of the wide layer and behind it, biases, a pool whose flatten is permuted; room for 33 rows. */
static const char NET[] =
    "[{\"conv2d\": {\"filters\": 6, \"kernel\": 3, \"padding\": \"same\", \"activation\": \"relu\"}}, "
    "{\"max_pool2d\": {\"size\": 2}}, {\"dropout\": {\"rate\": 0.25}}, \"flatten\", "
    "{\"dense\": {\"units\": 64, \"activation\": \"relu\"}}, {\"dropout\": {\"rate\": 0.5}}, "
    "{\"dense\": {\"units\": \"classes\"}}]";
/* Two layers that share; the first reads the image, so that nobody wants its dx; the second's dx is added to. */
static const char WIDE[] =
    "[\"flatten\", {\"dense\": {\"units\": 80, \"activation\": \"relu\"}}, "
    "{\"residual\": {\"layers\": [{\"dense\": {\"units\": 80, \"bias\": false}}], \"activation\": \"relu\"}}, "
    "{\"dense\": {\"units\": \"classes\"}}]";

enum form { OWN, SHARED, CPU, FORMS };

struct rounds {
    struct bed bed;
    uint32_t samples[SAMPLES];
    struct replica replicas[FORMS][COHORT];
    float *weights[FORMS];
    double *sum;
};

static void force(int shared)
{
    setenv("FLEXP_CUDA_SHARED", shared ? "1" : "0", 1);
}

static void rounds_init(struct rounds *r, const char *net, size_t batch, enum precision precision)
{
    struct error err = {0};

    memset(r, 0, sizeof *r);
    force(1); /* what may share is planned for it */
    if (bed_init(&r->bed, net, 3, 8, 6, 4, SAMPLES, batch, precision, &err))
        fail_msg("%s", err.text);
    for (uint32_t i = 0; i < SAMPLES; i++)
        r->samples[i] = i;
    for (int f = 0; f < FORMS; f++) {
        r->weights[f] = malloc(r->bed.model->weights_n * sizeof(float));
        memcpy(r->weights[f], r->bed.weights, r->bed.model->weights_n * sizeof(float));
    }
    r->sum = calloc(r->bed.model->weights_n, sizeof *r->sum);
}

static void rounds_done(struct rounds *r)
{
    for (int f = 0; f < FORMS; f++)
        free(r->weights[f]);
    free(r->sum);
    bed_done(&r->bed);
    unsetenv("FLEXP_CUDA_SHARED");
    assert_int_equal(fake.blocks, 0);
}

/* Clients of different sizes, epochs, rates and decays, some with no samples at all; of at most 30 samples. */
static void make(struct replica *r, size_t n, size_t batch, int round, const float *start, const uint32_t *samples)
{
    static const size_t SIZES[] = {30, 7, 10, 1, 13, 0, 12, 29};

    for (size_t i = 0; i < n; i++) {
        size_t size = SIZES[(i + (size_t)round) % 8];
        r[i] = (struct replica){.start = start,
                                .samples = samples + (i * 7 + (size_t)round * 11) % (SAMPLES - 30),
                                .samples_n = size,
                                .epochs = size > 15   ? 1
                                          : size > 10 ? 2
                                                      : 3,
                                .batch = i % 3 ? batch : batch - 1,
                                .lr = 0.05f / (float)(1 + i % 3),
                                .optimizer = {.weight_decay = i % 2 ? 1e-2f : 0},
                                .seed = 3,
                                .trial = 1,
                                .round = (uint64_t)round,
                                .client = i,
                                .weight = 1 / (double)n};
    }
}

/* A round of a form from its own weights. */
static void go(struct rounds *r, enum form form, struct replica *replicas, size_t n)
{
    struct reduction reduction = {.type = REDUCE_WEIGHTED_SUM, .sum = r->sum};
    struct augment augment = {.crop_padding = 1, .horizontal_flip = true};
    struct error err = {0};

    force(form == SHARED);
    if (backend_train(form == CPU ? &BACKEND_CPU : &BACKEND_CUDA, form == CPU ? r->bed.cpu_plan : r->bed.gpu_plan,
                      replicas, n, &augment, &reduction, NULL, &err))
        fail_msg("%s", err.text);
    if (form != CPU)
        assert_int_equal(r->bed.gpu_plan->training->shared, form == SHARED);
    for (size_t i = 0; i < r->bed.model->weights_n; i++)
        r->weights[form][i] = (float)r->sum[i];
}

static void near(const struct rounds *r, enum form form, size_t n, double limit)
{
    double off = selftest_difference(r->weights[form], r->weights[SHARED], r->bed.model->weights_n);

    if (!(off <= limit))
        fail_msg("weights are off by %g", off);
    for (size_t i = 0; i < n; i++) {
        const struct replica *a = &r->replicas[form][i], *b = &r->replicas[SHARED][i];
        assert_true(fabs(a->loss_sum - b->loss_sum) <= limit * (1 + fabs(a->loss_sum)));
        assert_true(fabs(a->update_norm - b->update_norm) <= limit * (1e-2 + a->update_norm));
        assert_int_equal(a->samples_seen, b->samples_seen);
        assert_int_equal(a->batches, b->batches);
        assert_int_equal(a->finite, b->finite);
    }
}

static void run_rounds(struct rounds *r, int rounds, size_t cohort, size_t batch)
{
    for (int round = 0; round < rounds; round++)
        for (int f = 0; f < FORMS; f++) {
            make(r->replicas[f], cohort, batch, round, r->weights[f], r->samples);
            go(r, f, r->replicas[f], cohort);
        }
}

static void rounds_match(int rounds, const char *net, size_t cohort, size_t batch)
{
    struct rounds r;
    size_t moved = 0;

    rounds_init(&r, net, batch, PRECISION_FP32);
    run_rounds(&r, rounds, cohort, batch);
    near(&r, OWN, cohort, LIMIT);
    near(&r, CPU, cohort, LIMIT);
    for (size_t i = 0; i < r.bed.model->weights_n; i++)
        moved += fabsf(r.weights[SHARED][i] - r.bed.weights[i]) > 10 * (float)LIMIT;
    assert_true(moved > r.bed.model->weights_n / 4); /* there was something to compare */
    rounds_done(&r);
}

static void twenty_rounds_match_weights_of_their_own(void **state)
{
    (void)state;
    rounds_match(20, NET, COHORT, 5);
    rounds_match(20, NET, 1, 5);
    rounds_match(20, WIDE, 9, 4);
}

static void so_they_do_by_tiles(void **state)
{
    (void)state;
    fake.tiles = true;
    rounds_match(5, NET, 7, 5);
    fake.tiles = false;
}

/* How far two forms' updates are from each other, in the mean. */
static double apart(const struct rounds *r, enum form a, enum form b)
{
    double off = 0, all = 0;

    for (size_t i = 0; i < r->bed.model->weights_n; i++) {
        double d = (double)r->weights[a][i] - (double)r->weights[b][i];
        double update = (double)r->weights[a][i] - (double)r->bed.weights[i];
        off += d * d;
        all += update * update;
    }
    return sqrt(off / all);
}

/* Operands of 11 and 8 bits tip ReLUs and maxima over, in either form: sharing is to be no worse than own weights are.
 */
static void rounded_operands_stay_as_near_as_with_own_weights(void **state)
{
    static const enum precision ROUNDED[] = {PRECISION_TF32, PRECISION_BF16};

    (void)state;
    for (size_t k = 0; k < 2; k++) {
        struct rounds r;
        rounds_init(&r, NET, 5, ROUNDED[k]);
        run_rounds(&r, 1, 13, 5);
        assert_true(apart(&r, CPU, OWN) > 0 && apart(&r, CPU, OWN) < 0.2);
        assert_true(apart(&r, CPU, SHARED) < 1.5 * apart(&r, CPU, OWN));
        rounds_done(&r);
    }
}

static void a_model_on_the_device_gets_the_same_bits(void **state)
{
    struct rounds r;
    struct error err = {0};
    struct resident *model = NULL;
    float *got;

    (void)state;
    rounds_init(&r, NET, 5, PRECISION_FP32);
    got = malloc(r.bed.model->weights_n * sizeof *got);
    assert_int_equal(BACKEND_CUDA.put_model(r.bed.gpu_plan, &model, r.bed.weights, &err), 0);
    for (int round = 0; round < 3; round++) {
        struct reduction reduction = {.type = REDUCE_MODEL, .model = model, .rate = 1};
        struct augment augment = {.crop_padding = 1, .horizontal_flip = true};
        make(r.replicas[SHARED], 8, 5, round, r.weights[SHARED], r.samples);
        go(&r, SHARED, r.replicas[SHARED], 8);
        make(r.replicas[OWN], 8, 5, round, NULL, r.samples);
        assert_int_equal(
            backend_train(&BACKEND_CUDA, r.bed.gpu_plan, r.replicas[OWN], 8, &augment, &reduction, NULL, &err), 0);
        assert_true(r.bed.gpu_plan->training->shared);
        assert_true(r.replicas[OWN][0].update_norm == r.replicas[SHARED][0].update_norm);
    }
    assert_int_equal(BACKEND_CUDA.get_model(r.bed.gpu_plan, model, got, &err), 0);
    assert_memory_equal(got, r.weights[SHARED], r.bed.model->weights_n * sizeof *got);
    free(got);
    rounds_done(&r);
}

/* Packed trials, each with its own start, of equal numbers of clients and not. */
static void trials_side_by_side_get_the_bits_they_get_alone(void **state)
{
    static const size_t COHORTS[][3] = {{4, 4, 4}, {2, 5, 3}};
    struct rounds r;
    struct error err = {0};
    size_t n;

    (void)state;
    rounds_init(&r, NET, 5, PRECISION_FP32);
    n = r.bed.model->weights_n;
    for (int f = 0; f < FORMS; f++)
        for (size_t i = 0; i < n; i++)
            r.weights[f][i] += 1e-3f * (float)(f * (int)(i % 5));
    for (size_t k = 0; k < 2; k++) {
        struct training trainings[FORMS];
        double *sums[FORMS], *alone = calloc(n, sizeof *alone);
        for (int f = 0; f < FORMS; f++) {
            sums[f] = calloc(n, sizeof(double));
            make(r.replicas[f], COHORTS[k][f], 5, f, r.weights[f], r.samples);
            trainings[f] = (struct training){.replicas = r.replicas[f],
                                             .n = COHORTS[k][f],
                                             .reduction = {.type = REDUCE_WEIGHTED_SUM, .sum = sums[f]}};
        }
        force(1);
        assert_int_equal(BACKEND_CUDA.train(r.bed.gpu_plan, trainings, FORMS, &err), 0);
        assert_true(r.bed.gpu_plan->training->shared);
        assert_int_equal(r.bed.gpu_plan->training->starts, k ? 10 : 3);
        for (int f = 0; f < FORMS; f++) {
            struct reduction reduction = {.type = REDUCE_WEIGHTED_SUM, .sum = alone};
            double norm = r.replicas[f][0].update_norm;
            assert_int_equal(backend_train(&BACKEND_CUDA, r.bed.gpu_plan, r.replicas[f], COHORTS[k][f], NULL,
                                           &reduction, NULL, &err),
                             0);
            assert_memory_equal(sums[f], alone, n * sizeof *alone);
            assert_true(norm == r.replicas[f][0].update_norm);
            free(sums[f]);
        }
        free(alone);
    }
    rounds_done(&r);
}

static void turns_leave_the_bits_as_they_are(void **state)
{
    struct rounds r;
    struct error err = {0};
    size_t whole = fake.capacity, shared, lane;

    (void)state;
    rounds_init(&r, NET, 5, PRECISION_FP32);
    cuda_plan_bytes(r.bed.model, 5, PRECISION_FP32, NULL, &shared, &lane, &err);
    fake.capacity = fake.used + 4 * lane;
    make(r.replicas[SHARED], 10, 5, 0, r.bed.weights, r.samples);
    go(&r, SHARED, r.replicas[SHARED], 10);
    assert_true(r.bed.gpu_plan->training->n < 10);
    memcpy(r.weights[OWN], r.weights[SHARED], r.bed.model->weights_n * sizeof(float));
    fake.capacity = whole;
    make(r.replicas[OWN], 10, 5, 0, r.bed.weights, r.samples);
    go(&r, SHARED, r.replicas[OWN], 10);
    assert_int_equal(r.bed.gpu_plan->training->n, 10);
    assert_memory_equal(r.weights[OWN], r.weights[SHARED], r.bed.model->weights_n * sizeof(float));
    for (int i = 0; i < 10; i++)
        assert_true(r.replicas[OWN][i].update_norm == r.replicas[SHARED][i].update_norm);
    rounds_done(&r);
}

/* What a replica can have that its weights cannot be told from the factors with. */
static void with_momentum_and_the_like_weights_are_their_own(void **state)
{
    enum { MOMENTUM, ADAM, PROXIMAL, CORRECTION, TOO_MANY, DECAY, NONE, CASES };
    static float correction[20000];
    struct rounds r;

    (void)state;
    rounds_init(&r, NET, 5, PRECISION_FP32);
    assert_true(r.bed.model->weights_n < 20000 && r.bed.gpu_plan->rank == 33);
    for (int k = 0; k < CASES; k++) {
        make(r.replicas[OWN], 4, 5, 0, r.bed.weights, r.samples);
        r.replicas[OWN][2].optimizer.momentum = k == MOMENTUM ? 0.9f : 0;
        r.replicas[OWN][2].optimizer.type = k == ADAM ? OPTIMIZER_ADAM : OPTIMIZER_SGD;
        r.replicas[OWN][2].optimizer.eps = 1e-3f;
        r.replicas[OWN][2].proximal_mu = k == PROXIMAL ? 0.1f : 0;
        r.replicas[OWN][2].correction = k == CORRECTION ? correction : NULL;
        r.replicas[OWN][2].epochs = k == TOO_MANY ? 4 : 3;
        r.replicas[OWN][2].max_batches = k == NONE ? 2 : 0;
        if (k == DECAY)
            r.replicas[OWN][2].optimizer.weight_decay = 1.5f;
        force(1);
        assert_int_equal(shared_pays(r.bed.gpu_plan, &(struct training){.replicas = r.replicas[OWN], .n = 4}, 1),
                         k == NONE);
        assert_false(shared_pays(
            r.bed.gpu_plan, &(struct training){.replicas = r.replicas[OWN], .n = 4, .reduction = {.type = REDUCE_EACH}},
            1));
        memcpy(r.replicas[CPU], r.replicas[OWN], sizeof r.replicas[CPU]);
        memcpy(r.replicas[SHARED], r.replicas[OWN], sizeof r.replicas[CPU]);
        go(&r, CPU, r.replicas[CPU], 4);
        go(&r, k == NONE ? SHARED : OWN, r.replicas[k == NONE ? SHARED : OWN], 4);
        if (k == NONE)
            near(&r, CPU, 4, LIMIT);
        else
            assert_true(selftest_difference(r.weights[CPU], r.weights[OWN], r.bed.model->weights_n) < LIMIT);
    }
    rounds_done(&r);
}

/* 4 epochs of 10 samples are past the 33 rows; 3 are not: rounds of both, in turn, without anything made anew. */
static void rounds_past_the_rank_go_between(void **state)
{
    struct rounds r;
    size_t allocations = 0, captures = 0;

    (void)state;
    rounds_init(&r, NET, 5, PRECISION_FP32);
    for (int round = 0; round < 8; round++) {
        bool past = round % 2;
        for (int f = SHARED; f <= CPU; f++) {
            make(r.replicas[f], 4, 5, 0, r.weights[f], r.samples);
            r.replicas[f][2].epochs = past ? 4 : 3;
            if (f == SHARED) {
                struct reduction reduction = {.type = REDUCE_WEIGHTED_SUM, .sum = r.sum};
                struct augment augment = {.crop_padding = 1, .horizontal_flip = true};
                struct error err = {0};
                force(1);
                assert_int_equal(
                    backend_train(&BACKEND_CUDA, r.bed.gpu_plan, r.replicas[f], 4, &augment, &reduction, NULL, &err),
                    0);
                assert_int_equal(r.bed.gpu_plan->training->shared, !past);
                for (size_t i = 0; i < r.bed.model->weights_n; i++)
                    r.weights[f][i] = (float)r.sum[i];
            } else {
                go(&r, f, r.replicas[f], 4);
            }
        }
        near(&r, CPU, 4, LIMIT);
        if (round == 3) { /* each has come twice */
            allocations = fake.allocations;
            captures = fake.captures;
        }
    }
    assert_int_equal(fake.allocations, allocations);
    assert_int_equal(fake.captures, captures);
    rounds_done(&r);
}

static void a_diverged_client_is_flagged(void **state)
{
    struct rounds r;

    (void)state;
    rounds_init(&r, NET, 5, PRECISION_FP32);
    for (int f = 0; f < FORMS; f++) {
        make(r.replicas[f], 4, 5, 0, r.bed.weights, r.samples);
        r.replicas[f][1].lr = 1e30f;
        r.replicas[f][1].optimizer.weight_decay = 0;
        go(&r, f, r.replicas[f], 4);
        for (int i = 0; i < 4; i++)
            assert_int_equal(r.replicas[f][i].finite, i != 1);
    }
    assert_true(isnan(r.weights[SHARED][r.bed.model->weights_n - 1]));
    rounds_done(&r);
}

/* By rule: wide layers of many replicas; what shares takes no more memory than what does not, but for Gram matrices. */
static void by_rule_wide_layers_of_many_replicas_share(void **state)
{
    static const struct {
        const char *net;
        size_t batch;
        enum precision precision;
        size_t replicas, samples, rank;
        bool shares;
    } ROWS[] = {
        {"pfl_cnn", 10, PRECISION_BF16, 50, 50, 126, true},   {"pfl_cnn", 10, PRECISION_FP32, 50, 50, 126, true},
        {"pfl_cnn", 10, PRECISION_TF32, 50, 126, 126, true},  {"pfl_cnn", 10, PRECISION_TF32, 50, 127, 126, false},
        {"pfl_cnn", 10, PRECISION_BF16, 7, 50, 126, false},   {"pfl_cnn", 10, PRECISION_FP32_STRICT, 50, 50, 0, false},
        {"pfl_cnn", 128, PRECISION_BF16, 50, 50, 0, false},   {"lenet", 10, PRECISION_BF16, 50, 20, 0, false},
        {"bench_cnn", 10, PRECISION_BF16, 50, 50, 124, true},
    };
    static const uint32_t none[127];

    (void)state;
    unsetenv("FLEXP_CUDA_SHARED");
    for (size_t k = 0; k < sizeof ROWS / sizeof *ROWS; k++) {
        struct bed b;
        struct error err = {0};
        struct replica r[50];
        size_t shared, lane, own;
        assert_int_equal(bed_init(&b, ROWS[k].net, 3, 32, 32, 10, 10, ROWS[k].batch, ROWS[k].precision, &err), 0);
        assert_int_equal(b.gpu_plan->rank, ROWS[k].rank);
        for (size_t i = 0; i < ROWS[k].replicas; i++)
            r[i] = (struct replica){
                .samples = none, .samples_n = ROWS[k].samples, .epochs = 1, .batch = ROWS[k].batch, .lr = 0.1f};
        assert_int_equal(shared_pays(b.gpu_plan, &(struct training){.replicas = r, .n = ROWS[k].replicas}, 1),
                         ROWS[k].shares);
        cuda_plan_bytes(b.model, ROWS[k].batch, ROWS[k].precision, NULL, &shared, &lane, &err);
        force(0);
        cuda_plan_bytes(b.model, ROWS[k].batch, ROWS[k].precision, NULL, &shared, &own, &err);
        unsetenv("FLEXP_CUDA_SHARED");
        assert_true(lane >= own && lane - own < own / 50);
        bed_done(&b);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(twenty_rounds_match_weights_of_their_own),
        cmocka_unit_test(so_they_do_by_tiles),
        cmocka_unit_test(rounded_operands_stay_as_near_as_with_own_weights),
        cmocka_unit_test(a_model_on_the_device_gets_the_same_bits),
        cmocka_unit_test(trials_side_by_side_get_the_bits_they_get_alone),
        cmocka_unit_test(turns_leave_the_bits_as_they_are),
        cmocka_unit_test(with_momentum_and_the_like_weights_are_their_own),
        cmocka_unit_test(rounds_past_the_rank_go_between),
        cmocka_unit_test(a_diverged_client_is_flagged),
        cmocka_unit_test(by_rule_wide_layers_of_many_replicas_share),
    };
    return cmocka_run_group_tests(tests, fake_use, NULL);
}
