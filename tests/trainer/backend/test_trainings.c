/* test_trainings.c - several trials in one call on the CPU backend: each ends as if it were alone.
 * SPDX-License-Identifier: Apache-2.0 */
#include "tests/trainer/backend/tiny.h"
#include "tests/trainer/backend/trainings.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include <cmocka.h>

static const char NET[] =
    "[{\"conv2d\": {\"filters\": 8, \"kernel\": 3, \"padding\": \"same\", \"activation\": \"relu\"}}, \"batch_norm\", "
    "{\"max_pool2d\": {\"size\": 2}}, \"flatten\", {\"dropout\": {\"rate\": 0.5}}, {\"dense\": {\"units\": \"classes\"}}]";

static void trials_of_one_call_end_as_if_alone(void **state)
{
    static const size_t THREADS[] = {1, 2, 3, 16};

    (void)state;
    for (size_t n = 0; n < sizeof THREADS / sizeof *THREADS; n++) {
        struct trainings alone, together;
        struct tiny t;
        tiny_init(&t, NET, 3, 10, 8, 4, TRAININGS_SAMPLES, 8, THREADS[n]);
        trainings_init(&alone, t.model, t.weights);
        trainings_init(&together, t.model, t.weights);
        trainings_alone(&alone, &BACKEND_CPU, t.plan);
        for (int again = 0; again < 2; again++) { /* a call leaves nothing behind that the next one sees */
            memset(together.state, 0, 2 * t.model->trainable_n * sizeof(float));
            together.replicas[2][0].optimizer_steps = 3;
            assert_int_equal(BACKEND_CPU.train(t.plan, together.list, TRAININGS, NULL), 0);
            for (size_t k = 0; k < TRAININGS; k++)
                assert_true(trainings_equal(&alone, &together, k, t.model));
        }
        trainings_done(&alone);
        trainings_done(&together);
        tiny_done(&t);
    }
}

static void dropout_rates_are_the_replicas(void **state)
{
    struct tiny t;

    (void)state;
    tiny_init(&t, NET, 3, 10, 8, 4, TRAININGS_SAMPLES, 8, 2);
    assert_true(trainings_take_their_rate(&BACKEND_CPU, t.backend, t.plan, &(struct plan_options){.batch = 8}, t.model,
                                          t.weights));
    tiny_done(&t);
}

static void a_canceled_trial_leaves_the_others_as_they_are(void **state)
{
    static const size_t THREADS[] = {1, 2, 16};
    const volatile int cancel = 1;

    (void)state;
    for (size_t n = 0; n < sizeof THREADS / sizeof *THREADS; n++)
        for (size_t gone = 0; gone < TRAININGS; gone++) {
            struct trainings alone, together;
            struct tiny t;
            tiny_init(&t, NET, 3, 10, 8, 4, TRAININGS_SAMPLES, 8, THREADS[n]);
            trainings_init(&alone, t.model, t.weights);
            trainings_init(&together, t.model, t.weights);
            trainings_alone(&alone, &BACKEND_CPU, t.plan);
            together.list[gone].cancel = &cancel;
            assert_int_equal(BACKEND_CPU.train(t.plan, together.list, TRAININGS, NULL), 0);
            for (size_t k = 0; k < TRAININGS; k++) {
                assert_true(together.list[k].canceled == (k == gone));
                assert_true(k == gone || trainings_equal(&alone, &together, k, t.model));
            }
            for (size_t i = 0; i < t.model->weights_n; i++)
                assert_true(together.sums[gone][i] == 0);
            trainings_done(&alone);
            trainings_done(&together);
            tiny_done(&t);
        }
}

static void all_canceled_is_an_outcome_of_the_call(void **state)
{
    const volatile int cancel = 1;
    struct trainings together;
    struct error err = {0};
    struct tiny t;

    (void)state;
    tiny_init(&t, NET, 3, 10, 8, 4, TRAININGS_SAMPLES, 8, 2);
    trainings_init(&together, t.model, t.weights);
    for (size_t k = 0; k < TRAININGS; k++)
        together.list[k].cancel = &cancel;
    assert_int_equal(BACKEND_CPU.train(t.plan, together.list, TRAININGS, &err), -ECANCELED);
    assert_string_equal(err.text, "canceled");
    trainings_done(&together);
    tiny_done(&t);
}

/* One trial is given up by another thread at whatever moment; it would train for ever. */
static void *cancel_some_time(void *arg)
{
    nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
    __atomic_store_n((volatile int *)arg, 1, __ATOMIC_RELEASE);
    return NULL;
}

static void a_trial_is_given_up_in_the_middle(void **state)
{
    struct trainings alone, together;
    volatile int cancel = 0;
    pthread_t thread;
    struct tiny t;

    (void)state;
    tiny_init(&t, NET, 3, 10, 8, 4, TRAININGS_SAMPLES, 8, 2);
    trainings_init(&alone, t.model, t.weights);
    trainings_init(&together, t.model, t.weights);
    trainings_alone(&alone, &BACKEND_CPU, t.plan);
    for (size_t i = 0; i < TRAININGS_REPLICAS[0]; i++)
        together.replicas[0][i].epochs = 1000000;
    together.list[0].cancel = &cancel;
    assert_int_equal(pthread_create(&thread, NULL, cancel_some_time, (void *)&cancel), 0);
    assert_int_equal(BACKEND_CPU.train(t.plan, together.list, TRAININGS, NULL), 0);
    pthread_join(thread, NULL);
    assert_true(together.list[0].canceled);
    for (size_t k = 1; k < TRAININGS; k++)
        assert_true(trainings_equal(&alone, &together, k, t.model));
    trainings_done(&alone);
    trainings_done(&together);
    tiny_done(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(trials_of_one_call_end_as_if_alone),
        cmocka_unit_test(dropout_rates_are_the_replicas),
        cmocka_unit_test(a_canceled_trial_leaves_the_others_as_they_are),
        cmocka_unit_test(all_canceled_is_an_outcome_of_the_call),
        cmocka_unit_test(a_trial_is_given_up_in_the_middle),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
