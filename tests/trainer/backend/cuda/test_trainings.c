/* test_trainings.c - several trials in one call of the CUDA backend, on the fake GPU: in fp32_strict each ends with the
 * bits it has alone, whether all go at once or in turns, with resident models or without.
 * SPDX-License-Identifier: Apache-2.0 */
#include "tests/trainer/backend/cuda/fake.h"
#include "tests/trainer/backend/trainings.h"
#include "trainer/backend/cuda/cuda_private.h"
#include "trainer/backend/cuda/selftest.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static const char NET[] =
    "[{\"conv2d\": {\"filters\": 8, \"kernel\": 3, \"padding\": \"same\", \"activation\": \"relu\"}}, \"batch_norm\", "
    "{\"max_pool2d\": {\"size\": 2}}, \"flatten\", {\"dropout\": {\"rate\": 0.5}}, {\"dense\": {\"units\": \"classes\"}}]";

static void must_open(struct bed *b)
{
    struct error err = {0};

    if (bed_init(b, NET, 3, 8, 6, 4, TRAININGS_SAMPLES, 8, PRECISION_FP32_STRICT, &err))
        fail_msg("%s", err.text);
}

static void must_close(struct bed *b)
{
    bed_done(b);
    assert_int_equal(fake.blocks, 0);
    assert_int_equal(fake.opened, 0);
}

static void check_together(struct bed *b, struct trainings *alone)
{
    struct trainings together;
    struct error err = {0};

    trainings_init(&together, b->model, b->weights);
    if (BACKEND_CUDA.train(b->gpu_plan, together.list, TRAININGS, &err))
        fail_msg("%s", err.text);
    for (size_t k = 0; k < TRAININGS; k++)
        assert_true(trainings_equal(alone, &together, k, b->model));
    trainings_done(&together);
}

static void trials_of_one_call_end_as_if_alone(void **state)
{
    size_t whole = fake.capacity, shared, lane;
    struct trainings alone;
    struct error err = {0};
    struct bed b;

    (void)state;
    must_open(&b);
    trainings_init(&alone, b.model, b.weights);
    trainings_alone(&alone, &BACKEND_CUDA, b.gpu_plan);
    check_together(&b, &alone);
    assert_int_equal(b.gpu_plan->training->n, 11);
    must_close(&b);

    /* turns that end in the middle of a training */
    must_open(&b);
    cuda_plan_bytes(b.model, 8, PRECISION_FP32_STRICT, NULL, &shared, &lane, &err);
    fake.capacity = fake.used + 6 * lane;
    check_together(&b, &alone);
    assert_true(b.gpu_plan->training->n > 1 && b.gpu_plan->training->n < 5);
    fake.capacity = whole;
    trainings_done(&alone);
    must_close(&b);
}

static void dropout_rates_are_the_replicas(void **state)
{
    struct bed b;

    (void)state;
    must_open(&b);
    assert_true(trainings_take_their_rate(&BACKEND_CUDA, b.gpu, b.gpu_plan,
                                          &(struct plan_options){8, PRECISION_FP32_STRICT}, b.model, b.weights));
    must_close(&b);
}

static void a_canceled_trial_leaves_the_others_as_they_are(void **state)
{
    const volatile int cancel = 1;
    struct trainings alone;
    struct error err = {0};
    struct bed b;

    (void)state;
    must_open(&b);
    trainings_init(&alone, b.model, b.weights);
    trainings_alone(&alone, &BACKEND_CUDA, b.gpu_plan);
    for (size_t gone = 0; gone < TRAININGS; gone++) {
        struct trainings together;
        trainings_init(&together, b.model, b.weights);
        together.list[gone].cancel = &cancel;
        assert_int_equal(BACKEND_CUDA.train(b.gpu_plan, together.list, TRAININGS, &err), 0);
        for (size_t k = 0; k < TRAININGS; k++) {
            assert_true(together.list[k].canceled == (k == gone));
            assert_true(k == gone || trainings_equal(&alone, &together, k, b.model));
        }
        for (size_t i = 0; i < b.model->weights_n; i++)
            assert_true(together.sums[gone][i] == 0);
        for (size_t k = 0; k < TRAININGS; k++)
            together.list[k].cancel = &cancel;
        assert_int_equal(BACKEND_CUDA.train(b.gpu_plan, together.list, TRAININGS, &err), -ECANCELED);
        trainings_done(&together);
    }
    trainings_done(&alone);
    must_close(&b);
}

/* Models of two trials stay on the device, with rates of their own, beside a trial whose sum is fetched. */
static void resident_models_are_trained_side_by_side(void **state)
{
    static const double RATES[] = {1, 0.5};
    static const size_t OF[] = {0, 3};
    struct trainings alone, together;
    struct error err = {0};
    float *got;
    struct bed b;

    (void)state;
    must_open(&b);
    trainings_init(&alone, b.model, b.weights);
    trainings_init(&together, b.model, b.weights);
    got = calloc(b.model->weights_n, sizeof *got);
    for (size_t i = 0; i < 2; i++) {
        struct training *t = &together.list[OF[i]];
        t->reduction = (struct reduction){.type = REDUCE_MODEL, .rate = RATES[i]};
        assert_int_equal(BACKEND_CUDA.put_model(b.gpu_plan, &t->reduction.model, together.start[OF[i]], &err), 0);
        for (size_t r = 0; r < t->n; r++)
            t->replicas[r].start = NULL;
    }
    for (int round = 0; round < 3; round++) {
        trainings_alone(&alone, &BACKEND_CUDA, b.gpu_plan);
        for (size_t i = 0; i < 2; i++)
            for (size_t w = 0; w < b.model->weights_n; w++) {
                float *weight = &alone.start[OF[i]][w];
                double sum = alone.sums[OF[i]][w];
                bool moves = w < b.model->trainable_n && RATES[i] != 1;
                *weight = (float)(moves ? (double)*weight + RATES[i] * (sum - (double)*weight) : sum);
            }
        assert_int_equal(BACKEND_CUDA.train(b.gpu_plan, together.list, TRAININGS, &err), 0);
        assert_true(trainings_equal(&alone, &together, 1, b.model) && trainings_equal(&alone, &together, 2, b.model));
        for (size_t i = 0; i < 2; i++) {
            const struct resident *model = together.list[OF[i]].reduction.model;
            assert_int_equal(BACKEND_CUDA.get_model(b.gpu_plan, model, got, &err), 0);
            assert_memory_equal(got, alone.start[OF[i]], b.model->weights_n * sizeof *got);
        }
    }
    BACKEND_CUDA.drop_model(b.gpu_plan, together.list[0].reduction.model); /* the other goes with the plan */
    free(got);
    trainings_done(&alone);
    trainings_done(&together);
    must_close(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(trials_of_one_call_end_as_if_alone),
        cmocka_unit_test(dropout_rates_are_the_replicas),
        cmocka_unit_test(a_canceled_trial_leaves_the_others_as_they_are),
        cmocka_unit_test(resident_models_are_trained_side_by_side),
    };

    return cmocka_run_group_tests(tests, fake_use, NULL);
}
