/* test_parallel.c - several GPUs in one trial, on fake ones: what a cohort and a shared batch are trained to, memory,
 * GPUs that fail or do not answer. SPDX-License-Identifier: Apache-2.0 */
#include "tests/trainer/backend/cuda/fake.h"
#include "trainer/backend/cuda/cuda_private.h"
#include "trainer/backend/cuda/selftest.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static void none_failed(struct selftest *t, int least)
{
    assert_int_equal(t->failed, 0);
    assert_true(t->passed >= least);
    selftest_done(t);
    assert_int_equal(fake.blocks, 0);
    assert_int_equal(fake.used, 0);
    assert_int_equal(fake.opened, 0);
}

static void several_gpus_train_what_one_trains(void **state)
{
    static const size_t GPUS[] = {2, 3, 8};

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        struct selftest t;
        selftest_init(&t);
        selftest_parallel(&t, PRECISION_FP32_STRICT, GPUS[i]);
        selftest_parallel(&t, PRECISION_FP32, GPUS[i]);
        none_failed(&t, 12);
    }
}

static void rounded_operands_stay_near(void **state)
{
    struct selftest t;

    (void)state;
    selftest_init(&t);
    selftest_parallel(&t, PRECISION_TF32, 3);
    selftest_parallel(&t, PRECISION_BF16, 2);
    none_failed(&t, 8);
}

static void without_nccl_it_goes_through_the_host(void **state)
{
    struct selftest t;
    size_t sums = fake_sums;

    (void)state;
    fake.no_nccl = true;
    selftest_init(&t);
    selftest_parallel(&t, PRECISION_FP32_STRICT, 3);
    selftest_parallel(&t, PRECISION_FP32, 2);
    fake.no_nccl = false;
    assert_int_equal(fake_sums, sums);
    none_failed(&t, 12);
}

/* A bed on several GPUs, with rounds of so many replicas. */

#define SAMPLES 60
#define LAYERS                                                                                                         \
    "[{\"conv2d\": {\"filters\": 4, \"kernel\": 3, \"padding\": \"same\", \"activation\": \"relu\"}}, "                \
    "{\"max_pool2d\": {\"size\": 2}}, \"flatten\", {\"dropout\": {\"rate\": 0.5}}, {\"dense\": {\"units\": "           \
    "\"classes\"}}]"

static void must_open(struct bed *b, const char *layers, size_t gpus, enum precision precision)
{
    struct error err = {0};

    if (bed_init(b, layers, 3, 8, 6, 4, SAMPLES, 8, precision, &err) ||
        (gpus > 1 && bed_use_gpus(b, gpus, precision, 8, &err)))
        fail_msg("%s", err.text);
}

static void must_close(struct bed *b)
{
    bed_done(b);
    assert_int_equal(fake.blocks, 0);
    assert_int_equal(fake.opened, 0);
    assert_int_equal(fake.capturing, 0);
}

static int round_of(struct bed *b, size_t n, double *sum, const volatile int *cancel, struct error *err)
{
    uint32_t samples[SAMPLES];
    struct replica r[16];
    struct reduction reduction = {.type = REDUCE_WEIGHTED_SUM, .sum = sum};

    for (uint32_t i = 0; i < SAMPLES; i++)
        samples[i] = i;
    for (size_t i = 0; i < n; i++)
        r[i] = (struct replica){.start = b->weights,
                                .samples = samples + i,
                                .samples_n = 20 + 2 * i,
                                .epochs = 1,
                                .batch = 8,
                                .lr = 0.05f,
                                .optimizer = {.momentum = 0.9f},
                                .seed = 1,
                                .client = i,
                                .weight = 0.125};
    return backend_train(&BACKEND_CUDA, b->gpu_plan, r, n, NULL, &reduction, cancel, err);
}

static double *sums_of(const struct bed *b)
{
    return calloc(b->model->weights_n, sizeof(double));
}

/* One of the GPUs has room for a replica or two, and goes on with what the others leave. */
static void a_gpu_with_little_memory_has_turns(void **state)
{
    struct bed b;
    struct error err = {0};
    size_t shared, lane;
    double *expected, *got;

    (void)state;
    must_open(&b, LAYERS, 1, PRECISION_FP32_STRICT);
    expected = sums_of(&b);
    got = sums_of(&b);
    assert_int_equal(round_of(&b, 13, expected, NULL, &err), 0);
    assert_int_equal(bed_use_gpus(&b, 3, PRECISION_FP32_STRICT, 8, &err), 0);
    cuda_plan_bytes(b.model, 8, PRECISION_FP32_STRICT, NULL, &shared, &lane, &err);
    fake.of[1].capacity = fake.of[1].used + 5 * lane / 2;
    if (round_of(&b, 13, got, NULL, &err))
        fail_msg("%s", err.text);
    assert_int_equal(b.gpu_plan->peers[0]->training->n, 5);
    assert_true(b.gpu_plan->peers[1]->training->n < 3);
    assert_memory_equal(got, expected, b.model->weights_n * sizeof *got);
    /* not even one fits */
    fake.of[1].capacity = 0;
    assert_int_equal(bed_use_gpus(&b, 3, PRECISION_FP32_STRICT, 8, &err), 0);
    fake.of[1].capacity = fake.of[1].used + 1000;
    assert_int_equal(round_of(&b, 13, got, NULL, &err), -ENOMEM);
    assert_non_null(strstr(err.text, "GPU 2 of 3: out of GPU memory: a replica needs 1 MiB"));
    fake.of[1].capacity = 0;
    assert_int_equal(round_of(&b, 13, got, NULL, &err), 0);
    assert_memory_equal(got, expected, b.model->weights_n * sizeof *got);
    free(expected);
    free(got);
    must_close(&b);
}

static void a_round_has_one_sum_over_the_gpus(void **state)
{
    struct bed b;
    struct error err = {0};
    size_t before;
    double *sum;

    (void)state;
    must_open(&b, LAYERS, 4, PRECISION_FP32);
    sum = sums_of(&b);
    before = fake_sums;
    for (int i = 0; i < 5; i++)
        assert_int_equal(round_of(&b, 10, sum, NULL, &err), 0);
    assert_int_equal(fake_sums - before, 5 * 4);
    free(sum);
    must_close(&b);
}

/* 2 million weights: the widest layer is summed while the backward pass goes on, then what lies around it. */
static void gradients_are_summed_in_buckets(void **state)
{
    static const char WIDE[] = "[\"flatten\", {\"dense\": {\"units\": 1500, \"activation\": \"relu\"}}, {\"dense\": "
                               "{\"units\": 1200, \"activation\": \"relu\"}}, {\"dense\": {\"units\": \"classes\"}}]";
    struct bed b;
    struct error err = {0};
    double *expected, *got;
    size_t before;

    (void)state;
    must_open(&b, WIDE, 1, PRECISION_FP32);
    expected = sums_of(&b);
    got = sums_of(&b);
    assert_int_equal(round_of(&b, 1, expected, NULL, &err), 0);
    assert_int_equal(bed_use_gpus(&b, 2, PRECISION_FP32, 8, &err), 0);
    before = fake_sums;
    assert_int_equal(round_of(&b, 1, got, NULL, &err), 0);
    assert_int_equal(fake_sums - before, 2 * 2 * (1 + 3)); /* GPUs, buckets, warming up and three steps */
    for (size_t i = 0; i < b.model->weights_n; i++)
        assert_true(fabs(got[i] - expected[i]) < 1e-6);
    free(expected);
    free(got);
    must_close(&b);
}

static void a_set_up_trial_allocates_nothing(void **state)
{
    struct bed b;
    struct error err = {0};
    size_t allocations = 0;
    double *sum;

    (void)state;
    for (size_t n = 1; n < 10; n += 8) { /* shared, and a cohort */
        must_open(&b, LAYERS, 3, PRECISION_FP32);
        sum = sums_of(&b);
        for (int i = 0; i < 6; i++) {
            assert_int_equal(round_of(&b, n, sum, NULL, &err), 0);
            if (i == 1)
                allocations = fake.allocations;
        }
        assert_int_equal(fake.allocations, allocations);
        free(sum);
        must_close(&b);
    }
}

/* Wherever a GPU fails, nobody waits for it for ever, its reason is told, and the next round trains as if nothing had
 * been. */
static void a_failing_gpu_ends_the_round_for_all(void **state)
{
    static const enum precision PRECISIONS[] = {PRECISION_FP32_STRICT, PRECISION_FP32};

    (void)state;
    for (size_t k = 0; k < 4; k++) { /* shared, or a cohort */
        size_t n = k % 2 ? 7 : 1;
        struct bed b;
        struct error err = {0};
        double *sum, *expected;
        int at = 1;
        must_open(&b, LAYERS, 3, PRECISIONS[k / 2]);
        sum = sums_of(&b);
        expected = sums_of(&b);
        assert_int_equal(round_of(&b, n, expected, NULL, &err), 0);
        fake.fail_device = 1;
        fake.fail_stays = true;
        for (;; at += 5) {
            fake.of[1].lost = false;
            for (size_t rank = 0; rank < 3; rank++)
                if (b.gpu_plan->peers[rank]->training)
                    lanes_forget_graphs(b.gpu_plan->peers[rank]->training);
            fake.fail_launch = at;
            if (!round_of(&b, n, sum, NULL, &err))
                break;
            assert_string_equal(err.text, "GPU 2 of 3: the fake GPU fell off the bus");
            fake.fail_launch = 0;
        }
        fake.fail_launch = fake.fail_device = 0;
        fake.fail_stays = false;
        assert_true(at > 20);
        assert_int_equal(round_of(&b, n, sum, NULL, &err), 0);
        assert_memory_equal(sum, expected, b.model->weights_n * sizeof *sum);
        free(sum);
        free(expected);
        must_close(&b);
    }
}

static void a_gpu_that_does_not_answer_is_given_up(void **state)
{
    (void)state;
    setenv("FLEXP_CUDA_TIMEOUT", "0.2", 1);
    for (size_t k = 0; k < 4; k++) {
        size_t n = k % 2 ? 7 : 1;
        struct bed b;
        struct error err = {0};
        double *sum, *expected;
        must_open(&b, LAYERS, 3, k / 2 ? PRECISION_FP32 : PRECISION_FP32_STRICT);
        sum = sums_of(&b);
        expected = sums_of(&b);
        assert_int_equal(round_of(&b, n, expected, NULL, &err), 0);
        fake.hangs = 2;
        assert_int_equal(round_of(&b, n, sum, NULL, &err), -EIO);
        assert_string_equal(err.text, "the GPUs of this trial waited for each other for 0.2 s (FLEXP_CUDA_TIMEOUT)");
        fake.hangs = 0;
        assert_int_equal(round_of(&b, n, sum, NULL, &err), 0);
        assert_memory_equal(sum, expected, b.model->weights_n * sizeof *sum);
        free(sum);
        free(expected);
        must_close(&b);
    }
    unsetenv("FLEXP_CUDA_TIMEOUT");
}

/* Their lanes begin with a step together: where one could make none, all make them anew. */
static void a_gpu_that_was_short_of_memory_is_met_again(void **state)
{
    struct bed b;
    struct error err = {0};
    double *sum, *expected;

    (void)state;
    setenv("FLEXP_CUDA_TIMEOUT", "5", 1);
    must_open(&b, LAYERS, 3, PRECISION_FP32);
    sum = sums_of(&b);
    expected = sums_of(&b);
    fake.of[1].capacity = fake.of[1].used + 1000;
    assert_int_equal(round_of(&b, 1, sum, NULL, &err), -ENOMEM);
    assert_non_null(strstr(err.text, "GPU 2 of 3: out of GPU memory"));
    fake.of[1].capacity = 0;
    if (round_of(&b, 1, expected, NULL, &err) || round_of(&b, 1, sum, NULL, &err))
        fail_msg("%s", err.text);
    assert_memory_equal(sum, expected, b.model->weights_n * sizeof *sum);
    free(sum);
    free(expected);
    must_close(&b);
    unsetenv("FLEXP_CUDA_TIMEOUT");
}

static void a_cancellation_ends_the_round(void **state)
{
    (void)state;
    for (size_t n = 1; n < 10; n += 8) {
        struct bed b;
        struct error err = {0};
        int cancel = 1;
        double *sum;
        must_open(&b, LAYERS, 3, PRECISION_FP32);
        sum = sums_of(&b);
        assert_int_equal(round_of(&b, n, sum, &cancel, &err), -ECANCELED);
        assert_string_equal(err.text, "canceled");
        cancel = 0;
        assert_int_equal(round_of(&b, n, sum, &cancel, &err), 0);
        free(sum);
        must_close(&b);
    }
}

/* Packed trials on several GPUs: each as it would be alone. */
static void trials_go_together_and_one_is_given_up(void **state)
{
    struct bed b;
    struct error err = {0};
    uint32_t samples[SAMPLES];
    struct replica r[2][4];
    struct training trainings[2];
    double *sums[4];
    int cancel = 0;

    (void)state;
    must_open(&b, LAYERS, 3, PRECISION_FP32_STRICT);
    for (uint32_t i = 0; i < SAMPLES; i++)
        samples[i] = i;
    for (int k = 0; k < 4; k++)
        sums[k] = sums_of(&b);
    for (int together = 0; together < 2; together++)
        for (int k = 0; k < 2; k++) {
            for (size_t i = 0; i < 4; i++)
                r[k][i] = (struct replica){.start = b.weights,
                                           .samples = samples + i,
                                           .samples_n = 30,
                                           .epochs = 1,
                                           .batch = 8,
                                           .lr = k ? 0.01f : 0.05f,
                                           .trial = (uint64_t)k,
                                           .client = i,
                                           .weight = 0.25};
            trainings[k] = (struct training){.replicas = r[k],
                                             .n = 4,
                                             .reduction = {.type = REDUCE_WEIGHTED_SUM, .sum = sums[2 * together + k]},
                                             .cancel = k ? &cancel : NULL};
            if (!together)
                assert_int_equal(BACKEND_CUDA.train(b.gpu_plan, &trainings[k], 1, &err), 0);
        }
    assert_int_equal(BACKEND_CUDA.train(b.gpu_plan, trainings, 2, &err), 0);
    for (int k = 0; k < 2; k++)
        assert_memory_equal(sums[k], sums[2 + k], b.model->weights_n * sizeof(double));
    cancel = 1;
    memset(sums[2], 0, b.model->weights_n * sizeof(double));
    memset(sums[3], 0, b.model->weights_n * sizeof(double));
    assert_int_equal(BACKEND_CUDA.train(b.gpu_plan, trainings, 2, &err), 0);
    assert_true(!trainings[0].canceled && trainings[1].canceled);
    assert_memory_equal(sums[0], sums[2], b.model->weights_n * sizeof(double));
    assert_true(sums[3][0] == 0);
    for (int k = 0; k < 4; k++)
        free(sums[k]);
    must_close(&b);
}

static void more_gpus_than_there_are_cannot_be_opened(void **state)
{
    struct backend *backend;
    struct error err = {0};

    (void)state;
    fake.devices = 3;
    assert_int_equal(BACKEND_CUDA.open(&(struct backend_options){.gpus_n = 4}, &backend, &err), -ENODEV);
    assert_string_equal(err.text, "GPU 4 of 4: there is no GPU 3: 3 are visible");
    fake.devices = FAKE_DEVICES;
    assert_int_equal(fake.opened, 0);
    assert_int_equal(BACKEND_CUDA.open(&(struct backend_options){.gpus_n = 17}, &backend, &err), -EINVAL);
    assert_string_equal(err.text, "a trial trains on at most 16 GPUs, got 17");
    assert_int_equal(BACKEND_CUDA.open(&(struct backend_options){.gpus_n = 8}, &backend, &err), 0);
    assert_string_equal(BACKEND_CUDA.info(backend).isa, "host x 8");
    BACKEND_CUDA.close(backend);
    assert_int_equal(fake.opened, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(several_gpus_train_what_one_trains),
        cmocka_unit_test(rounded_operands_stay_near),
        cmocka_unit_test(without_nccl_it_goes_through_the_host),
        cmocka_unit_test(a_gpu_with_little_memory_has_turns),
        cmocka_unit_test(a_round_has_one_sum_over_the_gpus),
        cmocka_unit_test(gradients_are_summed_in_buckets),
        cmocka_unit_test(a_set_up_trial_allocates_nothing),
        cmocka_unit_test(a_failing_gpu_ends_the_round_for_all),
        cmocka_unit_test(a_gpu_that_does_not_answer_is_given_up),
        cmocka_unit_test(a_gpu_that_was_short_of_memory_is_met_again),
        cmocka_unit_test(a_cancellation_ends_the_round),
        cmocka_unit_test(trials_go_together_and_one_is_given_up),
        cmocka_unit_test(more_gpus_than_there_are_cannot_be_opened),
    };
    fake.devices = FAKE_DEVICES;
    cuda_use_driver(&FAKE_DRIVER);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
