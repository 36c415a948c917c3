/* test_gradients.c - loss and gradients of every kind of layer against central differences in double precision.
 * Shapes have tails (channels and widths that are no multiple of a vector), images are higher than wide, and each
 * network is also run with fewer samples than its batch, where rows of zeros are added.
 * SPDX-License-Identifier: Apache-2.0 */
#include "tests/trainer/backend/reference.h"
#include "tests/trainer/backend/tiny.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#define CONV(f, k, more) "{\"conv2d\": {\"filters\": " #f ", \"kernel\": " #k more "}}"
#define SAME ", \"padding\": \"same\""
#define STRIDE ", \"stride\": 2"
#define RELU ", \"activation\": \"relu\""
#define LAST "{\"dense\": {\"units\": \"classes\"}}"
#define END "\"flatten\", " LAST

/* clang-format off */
static const struct net {
    const char *name, *layers;
    int channels, height, width;
} NETS[] = {
    {"dense", "[\"flatten\", {\"dense\": {\"units\": 13, \"activation\": \"relu\"}}, " LAST "]", 1, 5, 3},
    {"dense without bias", "[\"flatten\", {\"dense\": {\"units\": 7, \"bias\": false}}, " LAST "]", 3, 3, 3},
    {"convolution, channels 3 to 5", "[" CONV(5, 3, SAME) ", " END "]", 3, 7, 5},
    {"convolution with ReLU, 17 to 33 channels", "[" CONV(17, 3, SAME RELU) ", " CONV(33, 3, RELU) ", " END "]",
     3, 6, 5},
    {"stride 2 and pads",
     "[" CONV(6, 3, ", \"stride\": 2, \"padding\": 1" RELU) ", " CONV(
         4, 2, ", \"stride\": 2, \"padding\": 1") ", " END "]",
     2, 9, 6},
    {"even kernel, same padding on both strides",
     "[" CONV(5, 4, SAME) ", \"relu\", " CONV(6, 4, SAME ", \"stride\": 2") ", " END "]", 3, 7, 6},
    {"groups", "[" CONV(6, 3, SAME ", \"groups\": 3") ", " CONV(8, 3, SAME RELU ", \"groups\": 2") ", " END "]",
     3, 5, 4},
    {"depthwise, no bias",
     "[" CONV(16, 1, "") ", " CONV(16, 3, SAME ", \"groups\": 16, \"bias\": false") ", \"relu\", " END "]", 3,
     6, 5},
    {"ReLU and max pool 2",
     "[" CONV(16, 3, SAME RELU) ", {\"max_pool2d\": {\"size\": 2}}, " CONV(
         9, 3, SAME RELU) ", {\"max_pool2d\": {\"size\": 2}}, " END "]",
     3, 8, 4},
    {"max pool of odd sizes, ReLU behind",
     "[" CONV(5, 3, SAME) ", {\"max_pool2d\": {\"size\": 2}}, \"relu\", " CONV(7, 3, SAME) ", " END "]", 3, 7,
     5},
    {"overlapping padded max pool",
     "[" CONV(6, 3, SAME RELU) ", {\"max_pool2d\": {\"size\": 3, \"stride\": 2, \"padding\": 1}}, " END "]", 3,
     7, 6},
    {"padded average pool",
     "[" CONV(6, 3, SAME) ", {\"avg_pool2d\": {\"size\": 3, \"stride\": 2, \"padding\": 1}}, \"relu\", "
                          "{\"avg_pool2d\": {\"size\": 2}}, " END "]",
     3, 9, 7},
    {"global average pool", "[" CONV(10, 3, SAME RELU) ", {\"global_avg_pool2d\": {}}, " LAST "]", 3, 6, 5},
    {"batch norm",
     "[" CONV(7, 3, SAME ", \"bias\": false") ", {\"batch_norm\": {\"activation\": \"relu\"}}, "
                                              "{\"max_pool2d\": {\"size\": 2}}, " END "]",
     3, 6, 4},
    {"batch norm first and on flat values",
     "[\"batch_norm\", " CONV(4, 3, "") ", \"flatten\", {\"batch_norm\": {}}, \"relu\", " LAST "]", 3, 6, 5},
    {"group norm",
     "[" CONV(6, 3, SAME) ", {\"group_norm\": {\"groups\": 3, \"activation\": \"relu\"}}, " CONV(
         8, 3, SAME) ", {\"group_norm\": {\"groups\": 1}}, " END "]",
     3, 5, 4},
    {"group norm on flat values",
     "[" CONV(4, 3, "") ", \"flatten\", {\"group_norm\": {\"groups\": 4}}, \"relu\", " LAST "]", 3, 6, 5},
    {"residual",
     "[" CONV(8, 3, SAME RELU) ", {\"residual\": {\"layers\": [" CONV(8, 3, SAME RELU) ", " CONV(
         8, 3, SAME) "], \"activation\": \"relu\"}}, {\"max_pool2d\": {\"size\": 2}}, " END "]",
     3, 6, 4},
    {"residual with shortcut and batch norm",
     "[" CONV(6, 3, SAME RELU) ", {\"residual\": {\"layers\": [" CONV(9, 3, STRIDE ", \"padding\": 1, \"bias\": false")
     ", {\"batch_norm\": {\"activation\": \"relu\"}}, " CONV(9, 3, SAME) ", \"batch_norm\"], "
     "\"shortcut\": [" CONV(9, 1, STRIDE) "], \"activation\": \"relu\"}}, {\"global_avg_pool2d\": {}}, " LAST "]",
     3, 7, 5},
    {"residual from the image",
     "[{\"residual\": {\"layers\": [" CONV(3, 3, SAME) "]}}, {\"residual\": {\"layers\": [\"relu\"]}}, " END
                                                       "]",
     3, 5, 4},
    {"residual on flat values in two orders",
     "[" CONV(4, 3,
              "") ", \"flatten\", {\"residual\": {\"layers\": [{\"dense\": {\"units\": 96}}, \"relu\"]}}, " LAST
                  "]",
     3, 6, 8},
    {"nested residuals",
     "[" CONV(5, 3, SAME) ", {\"residual\": {\"layers\": [{\"residual\": {\"layers\": [\"relu\", " CONV(
         5, 3, SAME) "]}}, {\"max_pool2d\": {\"size\": 3, \"stride\": 1, \"padding\": 1}}]}}, " END "]",
     3, 5, 6},
    {"dropout and ReLU between flatten and dense",
     "[" CONV(6, 3, "") ", \"flatten\", {\"dropout\": {\"rate\": 0.5}}, \"relu\", \"flatten\", " LAST "]", 3, 6,
     5},
    {"repeat",
     "[" CONV(8, 3, SAME) ", {\"repeat\": {\"times\": 3, \"layers\": [\"batch_norm\", \"relu\", " CONV(
         8, 3, SAME) "]}}, " END "]",
     3, 4, 4},
    {"lenet's shapes",
     "[" CONV(6, 5, RELU) ", {\"max_pool2d\": {\"size\": 2}}, " CONV(
         16, 5, RELU) ", {\"max_pool2d\": {\"size\": 2}}, \"flatten\", {\"dense\": {\"units\": 12, "
                      "\"activation\": \"relu\"}}, " LAST "]",
     3, 18, 16},
};
/* clang-format on */
#define NETS_N (sizeof NETS / sizeof NETS[0])

/* Float sums of a few hundred products of size one round to about 1e-6 of the largest value; the gradient passes
 * through up to eight such layers and norms divide by small deviations. 4e-5 of a tensor's largest gradient (plus 1e-6
 * for tensors whose gradient is zero by construction, as a bias before batch norm) holds for all and is a hundredth of
 * what the smallest mistake (a lost border pixel, a wrong sample count) makes. The differences themselves, with step
 * 1e-6 in double, are good to 1e-9, but not across a kink of ReLU or max pool: there the slopes to both sides differ by
 * more than the curvature explains, and the value is left out (of all, no more than one in a hundred). */
#define TOLERANCE 4e-5
#define FLOOR 1e-6
#define STEP 1e-6
#define KINK 2e-5

static size_t compared, left_out;

static void check_net(const struct net *net, size_t batch, size_t n)
{
    struct tiny t;
    struct reference r;
    struct error err = {0};
    uint32_t samples[16];
    uint16_t labels[16];
    double loss, expected, *weights;
    float *gradients;

    tiny_init(&t, net->layers, net->channels, net->height, net->width, 4, 40, batch, 1);
    for (size_t i = 0; i < n; i++)
        samples[i] = (uint32_t)(3 * i + 1);
    gradients = malloc(t.model->trainable_n * sizeof *gradients);
    weights = malloc(t.model->weights_n * sizeof *weights);
    for (size_t i = 0; i < t.model->weights_n; i++)
        weights[i] = (double)t.weights[i];
    reference_init(&r, t.model, &t.data, &t.data.train, samples, n, labels);
    if (BACKEND_CPU.gradients(t.plan, t.weights, &t.data.train, samples, n, gradients, &loss, &err))
        fail_msg("%s: %s", net->name, err.text);
    expected = reference_loss(&r, weights, true);
    if (!(fabs(loss - expected) < 1e-5 * (1 + fabs(expected))))
        fail_msg("%s, %zu of %zu: loss %.9g, expected %.9g", net->name, n, batch, loss, expected);
    for (size_t k = 0; k < t.model->params_n; k++) {
        const struct param *p = &t.model->params[k];
        double top = 0, worst = 0, *reference = malloc(p->size * sizeof *reference);
        size_t where = 0, step = p->trainable ? 1 + p->size / 150 : p->size + 1; /* every one of small tensors */
        for (size_t i = 0; p->trainable && i < p->size; i += step) {
            double *w = &weights[p->offset + i], kept = *w, up, down;
            *w = kept + STEP;
            up = (reference_loss(&r, weights, true) - expected) / STEP;
            *w = kept - STEP;
            down = (expected - reference_loss(&r, weights, true)) / STEP;
            *w = kept;
            compared++;
            left_out += fabs(up - down) > KINK;
            reference[i] = fabs(up - down) > KINK ? (double)gradients[p->offset + i] : (up + down) / 2;
            top = fmax(top, fabs(reference[i]));
        }
        for (size_t i = 0; p->trainable && i < p->size; i += step) {
            double off = fabs((double)gradients[p->offset + i] - reference[i]);
            if (!(off <= worst)) {
                worst = off;
                where = i;
            }
        }
        if (p->trainable && !(worst <= TOLERANCE * top + FLOOR))
            fail_msg("%s, %zu of %zu: gradient of %s[%zu] is %.9g, expected %.9g (largest %.3g)", net->name, n, batch,
                     p->name, where, (double)gradients[p->offset + where], reference[where], top);
        free(reference);
    }
    reference_done(&r);
    free(weights);
    free(gradients);
    tiny_done(&t);
}

static void gradients_of_every_layer_match_central_differences(void **state)
{
    (void)state;
    for (size_t i = 0; i < NETS_N; i++)
        check_net(&NETS[i], 5, 5);
}

static void rows_added_to_a_small_batch_change_no_gradient(void **state)
{
    (void)state;
    for (size_t i = 0; i < NETS_N; i++)
        check_net(&NETS[i], 16, 7); /* 7 real rows in 8 */
    check_net(&NETS[8], 16, 1);
    check_net(&NETS[13], 16, 3);
}

static void a_batch_of_one_is_a_batch(void **state)
{
    (void)state;
    for (size_t i = 0; i < NETS_N; i++)
        if (!strstr(NETS[i].layers, "batch_norm"))
            check_net(&NETS[i], 1, 1);
}

static void few_values_lay_on_a_kink(void **state)
{
    (void)state;
    printf("# %zu values compared, %zu on a kink\n", compared, left_out);
    assert_true(compared > 20000);
    assert_true(left_out * 100 < compared);
}

static void more_samples_than_the_batch_are_refused(void **state)
{
    struct tiny t;
    struct error err = {0};
    float *gradients;
    double loss;

    (void)state;
    tiny_init(&t, NETS[0].layers, 1, 5, 3, 4, 40, 4, 1);
    gradients = malloc(t.model->trainable_n * sizeof *gradients);
    assert_int_equal(BACKEND_CPU.gradients(t.plan, t.weights, &t.data.train, (uint32_t[5]){0, 1, 2, 3, 4}, 5, gradients,
                                           &loss, &err),
                     -EINVAL);
    assert_string_equal(err.text, "a batch of 5, but the plan is for 1 to 4");
    assert_int_equal(
        BACKEND_CPU.gradients(t.plan, t.weights, &t.data.train, (uint32_t[2]){0, 40}, 2, gradients, &loss, &err),
        -EINVAL);
    assert_string_equal(err.text, "sample 40 is past the split's end at 40");
    free(gradients);
    tiny_done(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradients_of_every_layer_match_central_differences),
        cmocka_unit_test(rows_added_to_a_small_batch_change_no_gradient),
        cmocka_unit_test(a_batch_of_one_is_a_batch),
        cmocka_unit_test(few_values_lay_on_a_kink),
        cmocka_unit_test(more_samples_than_the_batch_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
