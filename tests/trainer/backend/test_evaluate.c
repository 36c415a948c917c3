/* test_evaluate.c - sums over a split: against double precision, for any threads, for any number of samples.
 * SPDX-License-Identifier: Apache-2.0 */
#include "tests/trainer/backend/reference.h"
#include "tests/trainer/backend/tiny.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#define NET                                                                                                            \
    "[{\"conv2d\": {\"filters\": 9, \"kernel\": 3, \"padding\": \"same\"}}, {\"batch_norm\": {\"activation\": "        \
    "\"relu\"}}, "                                                                                                     \
    "{\"max_pool2d\": {\"size\": 2}}, {\"dropout\": {\"rate\": 0.5}}, \"flatten\", {\"dense\": {\"units\": "           \
    "\"classes\"}}]"
#define SAMPLES 700

static void scores_match_double_precision_without_dropout_and_by_running_statistics(void **state)
{
    static const size_t COUNTS[] = {1, 31, 33, 256, 700};
    struct tiny t;
    uint32_t samples[SAMPLES];
    uint16_t labels[SAMPLES];
    float *predictions = malloc(SAMPLES * 5 * sizeof *predictions);
    double *weights;
    struct error err = {0};

    (void)state;
    tiny_init(&t, NET, 3, 8, 6, 5, SAMPLES, 8, 3);
    weights = malloc(t.model->weights_n * sizeof *weights);
    for (size_t i = 0; i < t.model->weights_n; i++)
        weights[i] = (double)t.weights[i];
    for (size_t i = 0; i < SAMPLES; i++)
        samples[i] = (uint32_t)(SAMPLES - 1 - i);
    for (size_t k = 0; k < sizeof COUNTS / sizeof COUNTS[0]; k++) {
        size_t n = COUNTS[k];
        struct reference r;
        struct evaluation e;
        double loss, sum = 0;
        uint64_t confusion[25] = {0};
        reference_init(&r, t.model, &t.data, &t.data.test, samples, n, labels);
        loss = reference_loss(&r, weights, false);
        evaluation_init(&e, 5);
        if (BACKEND_CPU.evaluate(t.plan, t.weights, &t.data.test, samples, n, &e, predictions, &err))
            fail_msg("%s", err.text);
        assert_int_equal(e.n, n);
        /* Float arithmetic of three layers: 1e-6 of logits of size one. */
        assert_true(fabs(e.loss_sum / (double)n - loss) < 1e-5);
        for (size_t i = 0; i < n; i++) {
            const double *z = r.act[t.model->layers_n] + 5 * i;
            size_t best = 0;
            double total = 0;
            for (size_t c = 0; c < 5; c++) {
                best = z[c] > z[best] ? c : best;
                total += exp(z[c]);
            }
            for (size_t c = 0; c < 5; c++)
                assert_true(fabs((double)predictions[5 * i + c] - exp(z[c]) / total) < 1e-5);
            confusion[labels[i] * 5 + best]++;
            sum -= log((double)predictions[5 * i + labels[i]]);
        }
        assert_memory_equal(e.confusion, confusion, sizeof confusion);
        assert_true(fabs(sum - e.loss_sum) < 1e-5 * (double)n);
        evaluation_done(&e);
        reference_done(&r);
    }
    free(weights);
    free(predictions);
    tiny_done(&t);
}

static void sums_have_equal_bits_for_any_number_of_threads_and_any_plan_of_the_same_kernels(void **state)
{
    static const struct {
        size_t threads, batch;
    } ROWS[] = {{1, 16}, {2, 16}, {4, 12}, {2, 64}, {16, 10}};
    double first = 0;
    uint64_t confusion[25];

    (void)state;
    for (size_t k = 0; k < sizeof ROWS / sizeof ROWS[0]; k++) {
        struct tiny t;
        uint32_t samples[SAMPLES];
        struct evaluation e;
        struct error err = {0};
        tiny_init(&t, NET, 3, 8, 6, 5, SAMPLES, ROWS[k].batch, ROWS[k].threads);
        for (size_t i = 0; i < SAMPLES; i++)
            samples[i] = (uint32_t)i;
        evaluation_init(&e, 5);
        for (int again = 0; again < 2; again++) {
            evaluation_clear(&e);
            if (BACKEND_CPU.evaluate(t.plan, t.weights, &t.data.test, samples, SAMPLES, &e, NULL, &err))
                fail_msg("%s", err.text);
            if (!k && !again) {
                first = e.loss_sum;
                memcpy(confusion, e.confusion, sizeof confusion);
            }
            assert_memory_equal(&e.loss_sum, &first, sizeof first);
            assert_memory_equal(e.confusion, confusion, sizeof confusion);
        }
        evaluation_done(&e);
        tiny_done(&t);
    }
}

static void an_evaluation_adds_to_what_is_there(void **state)
{
    struct tiny t;
    uint32_t samples[2] = {0, 1};
    struct evaluation e;
    struct error err = {0};
    double once;

    (void)state;
    tiny_init(&t, NET, 3, 8, 6, 5, 10, 8, 1);
    evaluation_init(&e, 5);
    assert_int_equal(BACKEND_CPU.evaluate(t.plan, t.weights, &t.data.test, samples, 0, &e, NULL, &err), 0);
    assert_int_equal(e.n, 0);
    assert_int_equal(BACKEND_CPU.evaluate(t.plan, t.weights, &t.data.test, samples, 2, &e, NULL, &err), 0);
    once = e.loss_sum;
    assert_int_equal(BACKEND_CPU.evaluate(t.plan, t.weights, &t.data.test, samples, 2, &e, NULL, &err), 0);
    assert_int_equal(e.n, 4);
    assert_true(e.loss_sum == 2 * once);
    evaluation_done(&e);
    evaluation_init(&e, 4);
    assert_int_equal(BACKEND_CPU.evaluate(t.plan, t.weights, &t.data.test, samples, 2, &e, NULL, &err), -EINVAL);
    evaluation_done(&e);
    tiny_done(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scores_match_double_precision_without_dropout_and_by_running_statistics),
        cmocka_unit_test(sums_have_equal_bits_for_any_number_of_threads_and_any_plan_of_the_same_kernels),
        cmocka_unit_test(an_evaluation_adds_to_what_is_there),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
