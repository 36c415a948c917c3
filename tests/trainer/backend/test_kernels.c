/* test_kernels.c - the CPU backend's own loops: dropout's stream, norms' running statistics, loss, finite checks.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cpu/cpu_private.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void dropout_takes_two_values_from_each_draw_in_order(void **state)
{
    static const size_t COUNTS[] = {1, 2, 15, 16, 17, 1023, 1024, 1025, 5000};
    float x[5000], y[5000], dx[5000];
    uint8_t kept[5000];

    (void)state;
    for (size_t i = 0; i < 5000; i++)
        x[i] = 1 + (float)i;
    for (size_t k = 0; k < sizeof COUNTS / sizeof COUNTS[0]; k++) {
        struct pcg32 fast = rng_key(1, RNG_DROPOUT, 2, 3, 4), plain = fast;
        size_t n = COUNTS[k], dropped = 0;
        uint32_t draw = 0;
        kernel_dropout(0.25, &fast, x, y, kept, n);
        for (size_t i = 0; i < n; i++) {
            bool keep;
            draw = i & 1 ? draw >> 16 : pcg32_next(&plain);
            keep = (draw & 0xffff) >= 16384;
            dropped += !keep;
            assert_int_equal(kept[i], keep);
            assert_true(y[i] == (keep ? x[i] * (float)(1 / 0.75) : 0));
        }
        assert_int_equal(fast.state, plain.state);
        kernel_dropout_backward(0.25, x, kept, dx, n);
        assert_memory_equal(dx, y, n * sizeof *y);
        /* 5000 draws of .25: standard deviation 31 */
        if (n == 5000)
            assert_in_range(dropped, 1250 - 155, 1250 + 155);
    }
}

static void batch_norm_keeps_running_statistics_as_pytorch_does(void **state)
{
    /* two channels, four values each: 1 2 3 4 and 0 0 8 8; momentum .1; biased variance 1.25 and 16, unbiased 5/3 and
     * 64/3 */
    struct layer l = {
        .type = LAYER_BATCH_NORM, .in = {2, 2, 1, false}, .out = {2, 2, 1, false}, .eps = 0, .momentum = 0.1};
    float x[8] = {1, 0, 2, 0, 3, 8, 4, 8}, y[8], gamma[2] = {1, 2}, beta[2] = {0, 1}, mean[2] = {0, 10},
          var[2] = {1, 1};
    float stats[4];
    double sums[8];
    static const float EXPECTED[8] = {-1.3416408f, -1, -0.4472136f, -1, 0.4472136f, 3, 1.3416408f, 3};

    (void)state;
    norm_batch(&l, x, y, gamma, beta, mean, var, stats, 2, true, true, sums);
    for (size_t i = 0; i < 8; i++)
        assert_true(fabsf(y[i] - EXPECTED[i]) < 1e-6f);
    assert_true(fabs((double)mean[0] - 0.25) < 1e-7 && fabs((double)mean[1] - 9.4) < 1e-6);
    assert_true(fabs((double)var[0] - (0.9 + 0.1 * 5 / 3)) < 1e-7 && fabs((double)var[1] - (0.9 + 6.4 / 3)) < 1e-6);
    /* gradients() leaves them alone; evaluation uses them */
    norm_batch(&l, x, y, gamma, beta, mean, var, stats, 2, true, false, sums);
    assert_true(fabs((double)mean[0] - 0.25) < 1e-7);
    norm_batch(&l, x, y, gamma, beta, mean, var, stats, 2, false, false, sums);
    assert_true(fabs((double)y[0] - 0.75 / sqrt(0.9 + 0.5 / 3)) < 1e-6);
}

static void a_single_value_has_no_unbiased_variance(void **state)
{
    struct layer l = {
        .type = LAYER_BATCH_NORM, .in = {1, 1, 1, true}, .out = {1, 1, 1, true}, .eps = 1e-5, .momentum = 0.5};
    float x = 3, y, gamma = 1, beta = 0, mean = 0, var = 1, stats[2];
    double sums[4];

    (void)state;
    norm_batch(&l, &x, &y, &gamma, &beta, &mean, &var, stats, 1, true, true, sums);
    assert_true(y == 0 && mean == 1.5f && var == 0.5f);
}

static void loss_is_stable_and_exact_where_it_is_known(void **state)
{
    /* ln(3) for equal logits; 0 and 2000 for logits a thousand apart; e^-1 / (1 + e^-1) */
    float logits[] = {5, 5, 5, 1000, 0, -1000, 1000, 0, -1000, 1, 2, -1e30f}, grad[12], scores[12];
    uint16_t labels[] = {2, 0, 2, 0};
    uint64_t correct, confusion[9] = {0};
    double loss = loss_softmax(logits, labels, 4, 3, grad, &correct, confusion, scores), p = 1 / (1 + exp(1.0));

    (void)state;
    assert_true(fabs(loss - (log(3.0) + 0 + 2000 - log(p))) < 1e-10);
    assert_int_equal(correct, 1);
    assert_int_equal(confusion[2 * 3 + 0], 2); /* equal logits: the first */
    assert_int_equal(confusion[0 * 3 + 0], 1);
    assert_int_equal(confusion[0 * 3 + 1], 1);
    assert_true(fabs((double)scores[0] - 1.0 / 3) < 1e-7);
    assert_true(fabs((double)grad[2] - (1.0 / 3 - 1) / 4) < 1e-7);
    assert_true(fabs((double)grad[9] - (p - 1) / 4) < 1e-7);
    assert_true(grad[11] == 0);
    for (size_t i = 0; i < 4; i++)
        assert_true(fabsf(grad[3 * i] + grad[3 * i + 1] + grad[3 * i + 2]) < 1e-7f);
}

static void loss_agrees_with_libm_over_many_logits(void **state)
{
    struct pcg32 rng = rng_key(3, RNG_SYNTHETIC, 0, 0, 0);

    (void)state;
    for (int turn = 0; turn < 2000; turn++) {
        float logits[7];
        uint16_t label = (uint16_t)rng_below(&rng, 7);
        double top = -INFINITY, sum = 0, expected;
        for (int k = 0; k < 7; k++) {
            logits[k] = (float)(20 * rng_gaussian(&rng));
            top = fmax(top, (double)logits[k]);
        }
        for (int k = 0; k < 7; k++)
            sum += exp((double)logits[k] - top);
        expected = log(sum) + top - (double)logits[label];
        assert_true(fabs(loss_softmax(logits, &label, 1, 7, NULL, NULL, NULL, NULL) - expected) <
                    1e-13 * (1 + expected));
    }
}

static void logits_that_are_not_finite_give_nan(void **state)
{
    static const float BAD[] = {NAN, INFINITY, -INFINITY};

    (void)state;
    for (size_t k = 0; k < 3; k++) {
        float logits[4] = {1, BAD[k], 2, 3}, grad[4], scores[4];
        uint16_t labels[2] = {0, 1};
        assert_true(isnan(loss_softmax(logits, labels, 2, 2, grad, NULL, NULL, scores)));
        assert_true(isnan(grad[0]) && isnan(scores[1]) && !isnan(grad[2]) && !isnan(scores[3]));
    }
}

static void not_finite_is_found_anywhere(void **state)
{
    float x[37] = {0};

    (void)state;
    assert_true(kernel_finite(x, 37));
    for (size_t i = 0; i < 37; i++) {
        x[i] = i % 3 ? i % 3 == 1 ? INFINITY : -INFINITY : NAN;
        assert_false(kernel_finite(x, 37));
        x[i] = 3.4e38f;
    }
    assert_true(kernel_finite(x, 37));
}

static void nan_passes_through_pools_and_relu(void **state)
{
    struct layer l = {.type = LAYER_MAX_POOL2D,
                      .in = {1, 2, 2, false},
                      .out = {1, 1, 1, false},
                      .kernel_h = 2,
                      .kernel_w = 2,
                      .stride = 2,
                      .groups = 1};
    struct layer odd = l;
    float y;
    uint16_t arg;

    (void)state;
    odd.in.w = 3;
    for (size_t i = 0; i < 4; i++) {
        float x[6] = {1, 2, 3, 4, 5, 6}, wide[6] = {1, 2, 9, 3, 4, 9};
        x[i] = NAN;
        kernel_max_pool(&l, x, &y, &arg, 1);
        assert_true(isnan(y) && arg == i);
        wide[i < 2 ? i : i + 1] = NAN;
        kernel_max_pool(&odd, wide, &y, &arg, 1);
        assert_true(isnan(y) && arg == i);
        kernel_relu(x, x, 4);
        assert_true(isnan(x[i]));
    }
}

static void transposing_back_gives_the_same_values(void **state)
{
    struct shape image = {3, 2, 4, false};
    float x[48], y[48], z[48];

    (void)state;
    for (size_t i = 0; i < 48; i++)
        x[i] = (float)i;
    kernel_transpose(&image, x, y, 2, false);
    assert_true(y[0] == 0 && y[1] == 3 && y[8] == 1 &&
                y[24] == 24); /* (c, h, w) = 0,0,1 is pixel 1; 1,0,0 is channel 1 */
    kernel_transpose(&image, y, z, 2, true);
    assert_memory_equal(x, z, sizeof x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dropout_takes_two_values_from_each_draw_in_order),
        cmocka_unit_test(batch_norm_keeps_running_statistics_as_pytorch_does),
        cmocka_unit_test(a_single_value_has_no_unbiased_variance),
        cmocka_unit_test(loss_is_stable_and_exact_where_it_is_known),
        cmocka_unit_test(loss_agrees_with_libm_over_many_logits),
        cmocka_unit_test(logits_that_are_not_finite_give_nan),
        cmocka_unit_test(not_finite_is_found_anywhere),
        cmocka_unit_test(nan_passes_through_pools_and_relu),
        cmocka_unit_test(transposing_back_gives_the_same_values),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
