/* test_optim.c - optimizers step by step against their formulas in double precision (test_parity.py holds them against PyTorch
 * too), and schedules at the places where they turn.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/optim/optim.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#define N 37 /* not a multiple of any vector */
#define STEPS 6
#define LR 0.1f

static float gradient(int step, int i)
{
    return (float)((i * 7 + step * 3) % 11 - 5) / 8.0f;
}

static struct optimizer optimizer_of(const char *text)
{
    json_t *training = json_loads(text, 0, NULL);
    struct optimizer optimizer;
    struct error err;

    assert_non_null(training);
    assert_int_equal(optimizer_from(training, &optimizer, &err), 0);
    json_decref(training);
    return optimizer;
}

/* What the papers and PyTorch's documentation say, in double. */
static double reference(const struct optimizer *o, int i)
{
    double w = 1, v = 0, m = 0, s = 0;

    for (int t = 1; t <= STEPS; t++) {
        double g = (double)gradient(t, i), decay = (double)o->weight_decay, b1 = (double)o->beta1, b2 = (double)o->beta2;
        if (o->type != OPTIMIZER_ADAMW)
            g += decay * w;
        if (o->type == OPTIMIZER_SGD) {
            v = t == 1 ? g : (double)o->momentum * v + g;
            w -= (double)LR * (o->momentum == 0 ? g : o->nesterov ? g + (double)o->momentum * v : v);
            continue;
        }
        if (o->type == OPTIMIZER_ADAMW)
            w -= (double)LR * decay * w;
        m = b1 * m + (1 - b1) * g;
        s = b2 * s + (1 - b2) * g * g;
        w -= (double)LR * (m / (1 - pow(b1, t))) / (sqrt(s / (1 - pow(b2, t))) + (double)o->eps);
    }
    return w;
}

static void follow(const char *text)
{
    struct optimizer optimizer = optimizer_of(text);
    float weights[N], gradients[N], state[2 * N] = {0};

    assert_true(optimizer_state_floats(&optimizer, N) <= 2 * N);
    for (int i = 0; i < N; i++)
        weights[i] = 1;
    for (int t = 1; t <= STEPS; t++) {
        for (int i = 0; i < N; i++)
            gradients[i] = gradient(t, i);
        optimizer_step(&optimizer, LR, t, weights, gradients, state, N);
    }
    for (int i = 0; i < N; i++) /* six float32 steps of at most 0.2: an error of a few 1e-7 */
        assert_true(fabs((double)weights[i] - reference(&optimizer, i)) < 2e-6);
}

static void sgd_follows_its_formula(void **state)
{
    (void)state;
    follow("{\"optimizer\": \"sgd\"}");
    follow("{\"optimizer\": \"sgd\", \"weight_decay\": 0.1}");
    follow("{\"optimizer\": \"sgd\", \"momentum\": 0.9}");
    follow("{\"optimizer\": \"sgd\", \"momentum\": 0.9, \"nesterov\": true, \"weight_decay\": 0.01}");
}

static void adam_and_adamw_follow_their_formulas(void **state)
{
    (void)state;
    follow("{\"optimizer\": \"adam\", \"beta1\": 0.9, \"beta2\": 0.999, \"eps\": 1e-3}");
    follow("{\"optimizer\": \"adam\", \"beta1\": 0.8, \"beta2\": 0.99, \"eps\": 1e-3, \"weight_decay\": 0.1}");
    follow("{\"optimizer\": \"adamw\", \"beta1\": 0.9, \"beta2\": 0.999, \"eps\": 1e-3, \"weight_decay\": 0.1}");
}

static void state_is_as_large_as_the_optimizer_needs(void **state)
{
    struct optimizer plain = optimizer_of("{\"optimizer\": \"sgd\"}");
    struct optimizer momentum = optimizer_of("{\"optimizer\": \"sgd\", \"momentum\": 0.5}");
    struct optimizer adam = optimizer_of("{\"optimizer\": \"adam\"}");

    (void)state;
    assert_int_equal(optimizer_state_floats(&plain, N), 0);
    assert_int_equal(optimizer_state_floats(&momentum, N), N);
    assert_int_equal(optimizer_state_floats(&adam, N), 2 * N);
}

static void a_gradient_that_is_not_finite_reaches_the_weight(void **state)
{
    struct optimizer optimizer = optimizer_of("{\"optimizer\": \"sgd\", \"momentum\": 0.9}");
    float weight = 1, bad = NAN, memory = 0;

    (void)state;
    optimizer_step(&optimizer, LR, 1, &weight, &bad, &memory, 1);
    assert_true(isnan(weight));
}

static void schedules_turn_where_they_should(void **state)
{
    static const struct {
        const char *training;
        double unit, rate;
    } ROWS[] = {
        {"{\"learning_rate\": 0.5, \"schedule\": {\"type\": \"constant\"}}", 0, 0.5},
        {"{\"learning_rate\": 0.5, \"schedule\": {\"type\": \"constant\"}}", 99, 0.5},
        {"{\"learning_rate\": 1, \"schedule\": {\"type\": \"step\", \"every\": 10, \"factor\": 0.1}}", 9, 1},
        {"{\"learning_rate\": 1, \"schedule\": {\"type\": \"step\", \"every\": 10, \"factor\": 0.1}}", 10, 0.1},
        {"{\"learning_rate\": 1, \"schedule\": {\"type\": \"step\", \"every\": 10, \"factor\": 0.1}}", 25, 0.01},
        {"{\"learning_rate\": 2, \"schedule\": {\"type\": \"exponential\", \"decay\": 0.5}}", 3, 0.25},
        {"{\"learning_rate\": 1, \"schedule\": {\"type\": \"cosine\"}}", 0, 1},
        {"{\"learning_rate\": 1, \"schedule\": {\"type\": \"cosine\"}}", 50, 0.5},
        {"{\"learning_rate\": 1, \"schedule\": {\"type\": \"cosine\"}}", 100, 0},
        {"{\"learning_rate\": 1, \"schedule\": {\"type\": \"cosine\", \"final_fraction\": 0.2}}", 100, 0.2},
    };
    (void)state;
    for (size_t i = 0; i < sizeof ROWS / sizeof *ROWS; i++) {
        json_t *training = json_loads(ROWS[i].training, 0, NULL);
        struct schedule schedule;
        assert_int_equal(schedule_from(training, 100, &schedule, NULL), 0);
        if (!(fabs(schedule_rate(&schedule, ROWS[i].unit) - ROWS[i].rate) < 1e-9))
            print_message("# row %zu: %.9g\n", i, schedule_rate(&schedule, ROWS[i].unit));
        assert_true(fabs(schedule_rate(&schedule, ROWS[i].unit) - ROWS[i].rate) < 1e-9);
        json_decref(training);
    }
}

static void warm_up_rises_to_the_rate_and_training_never_stands_still(void **state)
{
    json_t *training = json_loads("{\"learning_rate\": 1, \"schedule\": {\"type\": \"constant\", \"warmup\": 4}}", 0, NULL);
    struct schedule schedule;

    (void)state;
    assert_int_equal(schedule_from(training, 100, &schedule, NULL), 0);
    for (int unit = 1; unit < 4; unit++)
        assert_true(schedule_rate(&schedule, unit) > schedule_rate(&schedule, unit - 1));
    assert_true(schedule_rate(&schedule, 4) == 1);
    json_decref(training);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sgd_follows_its_formula),
        cmocka_unit_test(adam_and_adamw_follow_their_formulas),
        cmocka_unit_test(state_is_as_large_as_the_optimizer_needs),
        cmocka_unit_test(a_gradient_that_is_not_finite_reaches_the_weight),
        cmocka_unit_test(schedules_turn_where_they_should),
        cmocka_unit_test(warm_up_rises_to_the_rate_and_training_never_stands_still),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
