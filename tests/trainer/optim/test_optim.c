/* test_optim.c - optimizers and schedules against PyTorch's numbers (tests/golden/trainer) and against hand-made ones.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/optim/optim.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define N 12
#define STEPS 6

static FILE *open_golden(const char *name)
{
    char path[200], line[400];
    FILE *file;
    int c;

    snprintf(path, sizeof path, "tests/golden/trainer/%s", name);
    file = fopen(path, "r");
    if (!file)
        fail_msg("%s is missing", path);
    while ((c = fgetc(file)) == '#')
        assert_non_null(fgets(line, sizeof line, file));
    ungetc(c, file);
    return file;
}

/* Both sides round each operation to float, in different order: a few units in the last place at each step. */
static void optimizers_step_as_pytorch_does(void **state)
{
    FILE *file = open_golden("optimizers.txt");
    char name[20];
    double lr, momentum, decay, beta1, beta2, eps;
    int nesterov, cases = 0;

    (void)state;
    while (fscanf(file, " case %19s %lf %lf %lf %d %lf %lf %lf", name, &lr, &momentum, &decay, &nesterov, &beta1,
                  &beta2, &eps) == 8) {
        json_t *training =
            json_pack("{s:s, s:f, s:f, s:b, s:f, s:f, s:f}", "optimizer", name, "momentum", momentum, "weight_decay",
                      decay, "nesterov", nesterov, "beta1", beta1, "beta2", beta2, "eps", eps);
        struct optimizer o;
        float w[N], g[N], s[2 * N] = {0};

        assert_int_equal(optimizer_from(training, &o, NULL), 0);
        for (int i = 0; i < N; i++)
            w[i] = (float)((i - 5) / 7.0);
        for (int t = 0; t < STEPS; t++) {
            for (int i = 0; i < N; i++)
                g[i] = (float)(((i * 7 + t * 3) % 11 - 5) / 9.0);
            optimizer_step(&o, (float)lr, t + 1, w, g, s, N);
            for (int i = 0; i < N; i++) {
                double expected;
                assert_int_equal(fscanf(file, "%lf", &expected), 1);
                if (!(fabs((double)w[i] - expected) < 2e-6 * (0.1 + fabs(expected))))
                    fail_msg("case %d (%s), step %d: w[%d] is %.9g, expected %.9g", cases, name, t + 1, i, (double)w[i],
                             expected);
            }
        }
        json_decref(training);
        cases++;
    }
    assert_int_equal(cases, 11);
    fclose(file);
}

static void state_is_as_large_as_documented(void **state)
{
    (void)state;
    assert_int_equal(optimizer_state_floats(&(struct optimizer){.type = OPTIMIZER_SGD}, 5), 0);
    assert_int_equal(optimizer_state_floats(&(struct optimizer){.type = OPTIMIZER_SGD, .momentum = 0.5f}, 5), 5);
    assert_int_equal(optimizer_state_floats(&(struct optimizer){.type = OPTIMIZER_ADAM}, 5), 10);
    assert_int_equal(optimizer_state_floats(&(struct optimizer){.type = OPTIMIZER_ADAMW}, 5), 10);
}

/* The working layout has gaps of zeros between parameters; they must stay. */
static void zeros_with_zero_gradient_stay_zeros(void **state)
{
    static const struct optimizer ALL[] = {
        {.type = OPTIMIZER_SGD, .momentum = 0.9f, .weight_decay = 0.1f, .nesterov = true},
        {.type = OPTIMIZER_ADAM, .beta1 = 0.9f, .beta2 = 0.999f, .eps = 1e-8f, .weight_decay = 0.1f},
        {.type = OPTIMIZER_ADAMW, .beta1 = 0.9f, .beta2 = 0.999f, .eps = 1e-8f, .weight_decay = 0.1f},
    };

    (void)state;
    for (size_t k = 0; k < 3; k++) {
        float w[N] = {0}, g[N] = {0}, s[2 * N] = {0};
        for (int64_t t = 1; t < 100; t++)
            optimizer_step(&ALL[k], 0.1f, t, w, g, s, N);
        for (int i = 0; i < N; i++)
            assert_true(w[i] == 0);
    }
}

static void a_gradient_that_is_not_finite_reaches_the_weight(void **state)
{
    static const struct optimizer ALL[] = {
        {.type = OPTIMIZER_SGD},
        {.type = OPTIMIZER_SGD, .momentum = 0.9f},
        {.type = OPTIMIZER_SGD, .momentum = 0.9f, .nesterov = true},
        {.type = OPTIMIZER_ADAM, .beta1 = 0.9f, .beta2 = 0.999f, .eps = 1e-8f},
        {.type = OPTIMIZER_ADAMW, .beta1 = 0.9f, .beta2 = 0.999f, .eps = 1e-8f},
    };

    (void)state;
    for (size_t k = 0; k < sizeof ALL / sizeof ALL[0]; k++) {
        float w[N] = {0}, g[N] = {0}, s[2 * N] = {0};
        g[7] = NAN;
        optimizer_step(&ALL[k], 0.1f, 1, w, g, s, N);
        for (int i = 0; i < N; i++)
            assert_int_equal(isnan(w[i]) != 0, i == 7);
    }
}

static void schedules_run_as_pytorchs_do(void **state)
{
    FILE *file = open_golden("schedules.txt");
    char type[20];
    double base, every, factor, decay, final, length;
    int cases = 0;

    (void)state;
    while (fscanf(file, " case %19s %lf %lf %lf %lf %lf %lf", type, &base, &every, &factor, &decay, &final, &length) ==
           7) {
        json_t *training = json_pack("{s:f, s:{s:s, s:f, s:f, s:f, s:f}}", "learning_rate", base, "schedule", "type",
                                     type, "every", every, "factor", factor, "decay", decay, "final_fraction", final);
        struct schedule s;

        assert_int_equal(schedule_from(training, length, &s, NULL), 0);
        for (int unit = 0; unit < 40; unit++) {
            double expected;
            assert_int_equal(fscanf(file, "%lf", &expected), 1);
            /* PyTorch multiplies from unit to unit: 40 roundings */
            if (!(fabs(schedule_rate(&s, unit) - expected) < 1e-11 * base))
                fail_msg("case %d (%s): the rate at %d is %.15g, expected %.15g", cases, type, unit,
                         schedule_rate(&s, unit), expected);
        }
        json_decref(training);
        cases++;
    }
    assert_int_equal(cases, 6);
    fclose(file);
}

static void warm_up_rises_linearly_and_the_schedule_follows_it(void **state)
{
    struct schedule constant = {.type = SCHEDULE_CONSTANT, .base = 1, .warmup = 4, .length = 20};
    struct schedule cosine = {.type = SCHEDULE_COSINE, .base = 1, .warmup = 4, .length = 20};
    struct schedule step = {.type = SCHEDULE_STEP, .base = 1, .warmup = 4, .length = 20, .every = 3, .factor = 0.5};

    (void)state;
    for (int unit = 0; unit < 4; unit++)
        assert_true(fabs(schedule_rate(&constant, unit) - 0.2 * (unit + 1)) < 1e-15);
    assert_true(schedule_rate(&constant, 4) == 1);
    assert_true(schedule_rate(&cosine, 4) == 1);
    assert_true(fabs(schedule_rate(&cosine, 12) - 0.5) < 1e-15);
    assert_true(fabs(schedule_rate(&cosine, 20)) < 1e-15);
    assert_true(schedule_rate(&step, 6) == 1);
    assert_true(schedule_rate(&step, 7) == 0.5);
    assert_true(schedule_rate(&step, 10) == 0.25);
}

static void a_cosine_agrees_with_libm_and_never_leaves_its_range(void **state)
{
    struct schedule s = {.type = SCHEDULE_COSINE, .base = 1, .final_fraction = 0.125, .length = 1000};

    (void)state;
    for (int unit = 0; unit <= 1000; unit++)
        assert_true(fabs(schedule_rate(&s, unit) - (0.125 + 0.875 * 0.5 * (1 + cos(M_PI * unit / 1000)))) < 1e-15);
    assert_true(schedule_rate(&s, 5000) == 0.125); /* past the end */
}

static void settings_out_of_range_are_refused(void **state)
{
    static const struct {
        const char *training, *text;
    } ROWS[] = {
        {"{\"learning_rate\": 0}", "training.learning_rate: must be a number above 0"},
        {"{\"learning_rate\": 1, \"schedule\": {\"type\": \"cosin\"}}",
         "training.schedule.type: must be constant, step, exponential or cosine, got \"cosin\""},
        {"{\"learning_rate\": 1, \"schedule\": {\"type\": \"step\", \"every\": 0}}",
         "training.schedule.every: must be above 0"},
        {"{\"learning_rate\": 1, \"schedule\": {\"type\": \"exponential\", \"decay\": 0}}",
         "training.schedule.decay: must be above 0"},
        {"{\"learning_rate\": 1, \"schedule\": {\"warmup\": 10}}",
         "training.schedule.warmup: must be less than the trial's length of 10, got 10"},
    };
    struct error err;
    json_t *training;
    struct optimizer o;

    (void)state;
    for (size_t i = 0; i < sizeof ROWS / sizeof ROWS[0]; i++) {
        struct schedule s;
        assert_int_equal(json_parse(ROWS[i].training, strlen(ROWS[i].training), &training, NULL), 0);
        assert_int_equal(schedule_from(training, 10, &s, &err), -EINVAL);
        assert_string_equal(err.text, ROWS[i].text);
        json_decref(training);
    }
    training = json_pack("{s:s}", "optimizer", "lamb");
    assert_int_equal(optimizer_from(training, &o, &err), -EINVAL);
    assert_string_equal(err.text, "training.optimizer: must be sgd, adam or adamw, got \"lamb\"");
    json_decref(training);
    training = json_pack("{s:b}", "nesterov", 1);
    assert_int_equal(optimizer_from(training, &o, &err), -EINVAL);
    assert_string_equal(err.text, "training.nesterov: needs training.momentum above 0");
    json_decref(training);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(optimizers_step_as_pytorch_does),
        cmocka_unit_test(state_is_as_large_as_documented),
        cmocka_unit_test(zeros_with_zero_gradient_stay_zeros),
        cmocka_unit_test(a_gradient_that_is_not_finite_reaches_the_weight),
        cmocka_unit_test(schedules_run_as_pytorchs_do),
        cmocka_unit_test(warm_up_rises_linearly_and_the_schedule_follows_it),
        cmocka_unit_test(a_cosine_agrees_with_libm_and_never_leaves_its_range),
        cmocka_unit_test(settings_out_of_range_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
