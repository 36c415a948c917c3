/* test_gradients.c - loss and gradients of every kind of layer against central differences in double precision.
 * Shapes have tails (channels and widths that are no multiple of a vector), images are higher than wide, and each
 * network is also run with fewer samples than its batch, where rows of zeros are added.
 * SPDX-License-Identifier: Apache-2.0 */
#include "tests/trainer/backend/reference.h"
#include "tests/trainer/backend/tiny.h"
#include "trainer/backend/shape_table.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>


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

static void check_net(const struct selftest_net *net, size_t batch, size_t n)
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
