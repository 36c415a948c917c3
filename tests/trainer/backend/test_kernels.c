/* test_kernels.c - the CPU backend's own loops: norms' running statistics, loss, finite checks.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cpu/cpu_private.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void batch_norm_keeps_running_statistics_as_pytorch_does(void **state)
{
    /* two channels, four values each: 1 2 3 4 and 0 0 8 8; momentum .1; biased variance 1.25 and 16, unbiased 5/3 and
     * 64/3 */
    const struct native *native = native_all()[0];
    const struct native_norm norm = {.pixels = 2, .channels = 2, .groups = 2};
    void *scratch = buffer_new(norm_scratch(native, &norm));
    float x[8] = {1, 0, 2, 0, 3, 8, 4, 8}, y[8], gamma[2] = {1, 2}, beta[2] = {0, 1}, mean[2] = {0, 10},
          var[2] = {1, 1};
    float stats[4];
    static const float EXPECTED[8] = {-1.3416408f, -1, -0.4472136f, -1, 0.4472136f, 3, 1.3416408f, 3};

    (void)state;
    norm_batch(native, &norm, 0.1, x, NULL, y, gamma, beta, mean, var, stats, 2, true, true, scratch);
    for (size_t i = 0; i < 8; i++)
        assert_true(fabsf(y[i] - EXPECTED[i]) < 1e-6f);
    assert_true(fabs((double)mean[0] - 0.25) < 1e-7 && fabs((double)mean[1] - 9.4) < 1e-6);
    assert_true(fabs((double)var[0] - (0.9 + 0.1 * 5 / 3)) < 1e-7 && fabs((double)var[1] - (0.9 + 6.4 / 3)) < 1e-6);
    /* gradients() leaves them alone; evaluation uses them */
    norm_batch(native, &norm, 0.1, x, NULL, y, gamma, beta, mean, var, stats, 2, true, false, scratch);
    assert_true(fabs((double)mean[0] - 0.25) < 1e-7);
    norm_batch(native, &norm, 0.1, x, NULL, y, gamma, beta, mean, var, stats, 2, false, false, scratch);
    assert_true(fabs((double)y[0] - 0.75 / sqrt(0.9 + 0.5 / 3)) < 1e-6);
    buffer_free(scratch);
}

static void a_single_value_has_no_unbiased_variance(void **state)
{
    const struct native *native = native_all()[0];
    const struct native_norm norm = {.pixels = 1, .channels = 1, .groups = 1, .eps = 1e-5};
    float x = 3, y, gamma = 1, beta = 0, mean = 0, var = 1, stats[2];
    void *scratch = buffer_new(norm_scratch(native, &norm));

    (void)state;
    norm_batch(native, &norm, 0.5, &x, NULL, &y, &gamma, &beta, &mean, &var, stats, 1, true, true, scratch);
    assert_true(y == 0 && mean == 1.5f && var == 0.5f);
    buffer_free(scratch);
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

/* Against the plainest way, with channels that fill vectors and ones that are left over, ties included. */
static void max_pools_take_the_first_of_equals_and_give_it_the_gradient(void **state)
{
    struct pcg32 rng = rng_key(9, RNG_SYNTHETIC, 0, 0, 0);

    (void)state;
    for (int turn = 0; turn < 300; turn++) {
        int size = 1 + (int)rng_below(&rng, 4), stride = 1 + (int)rng_below(&rng, 5), pad = (int)rng_below(&rng, (uint32_t)(size + 1) / 2);
        int c = 1 + (int)rng_below(&rng, 40), h = size + (int)rng_below(&rng, 7), w = size + (int)rng_below(&rng, 7);
        struct layer l = {.type = LAYER_MAX_POOL2D, .in = {c, h, w, false}, .kernel_h = size, .kernel_w = size,
                          .stride = stride, .pad_top = pad, .pad_left = pad, .groups = 1};
        size_t in = (size_t)(c * h * w), out;
        bool mask = rng_below(&rng, 2);
        float *x, *y, *again, *dy, *dx, *expected;
        uint16_t *arg;
        l.out = (struct shape){c, (h + 2 * pad - size) / stride + 1, (w + 2 * pad - size) / stride + 1, false};
        out = (size_t)(c * l.out.h * l.out.w);
        x = calloc(5 * (in + out), sizeof *x);
        y = x + in, again = y + out, dy = again + out, dx = dy + out, expected = dx + in;
        arg = calloc(out, sizeof *arg);
        for (size_t i = 0; i < in; i++)
            x[i] = (float)rng_below(&rng, 9) - 3;
        for (size_t i = 0; i < out; i++)
            dy[i] = rng_float(&rng);
        kernel_max_pool(&l, x, y, arg, 1);
        kernel_max_pool(&l, x, again, NULL, 1);
        assert_memory_equal(y, again, out * sizeof *y);
        memset(dx, 0x7f, in * sizeof *dx);
        kernel_max_pool_backward(&l, dy, y, arg, dx, 1, mask);
        for (size_t i = 0; i < out; i++) {
            int k = (int)i % c, ow = (int)i / c % l.out.w, oh = (int)i / c / l.out.w, best = -1;
            for (int p = 0; p < size * size; p++) {
                int r = oh * stride - pad + p / size, s = ow * stride - pad + p % size;
                if (r >= 0 && s >= 0 && r < h && s < w && (best < 0 || x[(r * w + s) * c + k] > x[best]))
                    best = (r * w + s) * c + k;
            }
            assert_true(y[i] == x[best]);
            if (!mask || x[best] > 0)
                expected[best] += dy[i];
        }
        assert_memory_equal(dx, expected, in * sizeof *dx);
        free(x);
        free(arg);
    }
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
        cmocka_unit_test(batch_norm_keeps_running_statistics_as_pytorch_does),
        cmocka_unit_test(a_single_value_has_no_unbiased_variance),
        cmocka_unit_test(loss_is_stable_and_exact_where_it_is_known),
        cmocka_unit_test(loss_agrees_with_libm_over_many_logits),
        cmocka_unit_test(logits_that_are_not_finite_give_nan),
        cmocka_unit_test(not_finite_is_found_anywhere),
        cmocka_unit_test(max_pools_take_the_first_of_equals_and_give_it_the_gradient),
        cmocka_unit_test(nan_passes_through_pools_and_relu),
        cmocka_unit_test(transposing_back_gives_the_same_values),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
