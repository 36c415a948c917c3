/* test_teams.c - several threads in one replica: bits as with one, for every kind of kernel.
 * SPDX-License-Identifier: Apache-2.0 */
#include "tests/trainer/backend/tiny.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#define CONV(f, k, pad) "{\"conv2d\": {\"filters\": " #f ", \"kernel\": " #k ", \"padding\": \"" pad "\", \"activation\": \"relu\"}}"
#define POOL "{\"max_pool2d\": {\"size\": 2}}"
#define TAIL "\"flatten\", {\"dense\": {\"units\": 70, \"activation\": \"relu\"}}, {\"dropout\": {\"rate\": 0.5}}, " \
             "{\"dense\": {\"units\": \"classes\"}}]"
/* Winograd; 5x5; a lane for each sample; norms and residuals; wide Winograd layers, which are shared by parts, of 3x3 and of
 * 5x5, and one with a stride; pools by themselves; direct (7x7, and one without a pool). */
static const char *const NETS[] = {
    "[" CONV(20, 3, "same") ", " CONV(33, 3, "same") ", " POOL ", {\"dropout\": {\"rate\": 0.25}}, " TAIL,
    "[" CONV(20, 5, "same") ", " POOL ", " CONV(17, 5, "valid") ", " TAIL,
    "[" CONV(6, 3, "valid") ", " POOL ", " CONV(11, 3, "same") ", " POOL ", " TAIL,
    "[" CONV(24, 3, "same") ", {\"residual\": {\"layers\": [" CONV(24, 3, "same")
    ", {\"conv2d\": {\"filters\": 24, \"kernel\": 3, \"padding\": \"same\"}}, {\"group_norm\": {\"groups\": 4}}]}}, "
    "{\"batch_norm\": {\"activation\": \"relu\"}}, \"global_avg_pool2d\", {\"dense\": {\"units\": \"classes\"}}]",
    "[" CONV(72, 3, "same") ", " POOL ", " CONV(110, 3, "same") ", " POOL ", " TAIL,
    "[" CONV(72, 3, "same") ", " POOL ", " CONV(110, 5, "same") ", " POOL ", " TAIL,
    "[" CONV(20, 7, "same") ", " POOL ", " CONV(17, 7, "same") ", " TAIL,
    "[" CONV(66, 3, "same") ", {\"conv2d\": {\"filters\": 98, \"kernel\": 3, \"stride\": 2, \"padding\": 1}}, "
    "{\"group_norm\": {\"groups\": 7}}, " POOL ", " TAIL,
    "[{\"max_pool2d\": {\"size\": 3, \"stride\": 1}}, " CONV(9, 3, "same") ", {\"avg_pool2d\": {\"size\": 2}}, "
    "{\"residual\": {\"layers\": [{\"conv2d\": {\"filters\": 9, \"kernel\": 1}}]}}, \"relu\", "
    "{\"residual\": {\"layers\": [{\"max_pool2d\": {\"size\": 3, \"stride\": 1, \"padding\": 1}}]}}, "
    "\"global_avg_pool2d\", {\"dense\": {\"units\": \"classes\"}}]",
};
#define SAMPLES 90
#define WEIGHTS_MAX ((size_t)400000)

static void train_with(const char *net, size_t batch, size_t threads, size_t replicas_n, double *sum, struct replica *ret)
{
    struct tiny t;
    struct replica r[3];
    uint32_t samples[SAMPLES];
    struct augment augment = {.crop_padding = 1, .horizontal_flip = true};
    struct error err = {0};

    tiny_init(&t, net, 3, 13, 12, 5, SAMPLES, batch, threads);
    assert_true(t.model->weights_n <= WEIGHTS_MAX);
    for (uint32_t i = 0; i < SAMPLES; i++)
        samples[i] = i;
    for (size_t i = 0; i < replicas_n; i++)
        r[i] = (struct replica){.start = t.weights,
                                .samples = samples + 7 * i,
                                .samples_n = 3 * batch - 5 < SAMPLES - 7 * i ? 3 * batch - 5 : SAMPLES - 7 * i,
                                .epochs = 1,
                                .batch = batch,
                                .lr = 0.05f,
                                .optimizer = {.momentum = 0.9f, .weight_decay = 1e-3f},
                                .proximal_mu = i ? 0.1f : 0,
                                .seed = 3,
                                .client = i,
                                .weight = 1.0 / (double)replicas_n};
    if (backend_train(&BACKEND_CPU, t.plan, r, replicas_n, &augment,
                          &(struct reduction){.type = REDUCE_WEIGHTED_SUM, .sum = sum}, NULL, &err))
        fail_msg("%s", err.text);
    memcpy(ret, r, sizeof *r * replicas_n);
    tiny_done(&t);
}

static void bits_are_equal_for_any_number_of_threads_in_a_replica(void **state)
{
    static const size_t BATCHES[] = {32, 10, 37};

    (void)state;
    for (size_t k = 0; k < sizeof NETS / sizeof *NETS; k++)
        for (size_t b = 0; b < sizeof BATCHES / sizeof *BATCHES; b++) {
            double *first = calloc(WEIGHTS_MAX, sizeof *first), *sum = calloc(WEIGHTS_MAX, sizeof *sum);
            struct replica alone[3], r[3];
            size_t n = 1 + b % 2;
            train_with(NETS[k], BATCHES[b], 1, n, first, alone);
            assert_true(alone[0].loss_sum > 0 && alone[0].finite && alone[0].update_norm > 0);
            for (size_t threads = 2; threads <= 5; threads += threads > 2 ? 2 : 1) {
                train_with(NETS[k], BATCHES[b], threads, n, sum, r);
                assert_memory_equal(sum, first, WEIGHTS_MAX * sizeof *sum);
                assert_memory_equal(&r[0].loss_sum, &alone[0].loss_sum, sizeof(double));
                assert_int_equal(r[0].correct, alone[0].correct);
            }
            free(first);
            free(sum);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bits_are_equal_for_any_number_of_threads_in_a_replica),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
