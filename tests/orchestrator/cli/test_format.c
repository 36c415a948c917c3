/* test_format.c - numbers, times and rates as people read them.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/cli/format.h"
#include "orchestrator/cli/rate.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static void is(char *text, const char *wanted)
{
    assert_string_equal(text, wanted);
    free(text);
}

static void metric_is(const char *name, double value, const char *wanted)
{
    json_t *json = json_from_double(value);

    is(format_metric(name, json), wanted);
    json_decref(json);
}

static void shares_are_percent_and_losses_have_four_decimals(void **state)
{
    (void)state;
    metric_is("validation_accuracy", 0.81234, "81.23%");
    metric_is("client_validation_accuracy_worst", 1, "100.00%");
    metric_is("test_f1", 0.5, "50.00%");
    metric_is("avg_precision", 0, "0.00%");
    metric_is("validation_loss", 0.531249, "0.5312");
    metric_is("validation_loss", 12, "12.0000");
    metric_is("validation_loss", 1.5e-7, "1.5e-07");
    metric_is("validation_loss", NAN, "NaN");
    metric_is("validation_loss", INFINITY, "Infinity");
    metric_is("inaccuracy_of_f1x", 0.5, "0.5000");
    is(format_metric("validation_loss", NULL), "-");
}

static void hyperparameters_have_three_digits_and_dotted_names(void **state)
{
    json_t *value = json_loads("{\"lr\": 0.0123456, \"batch\": 32, \"opt\": {\"name\": \"sgd\", \"m\": 0.9},"
                               " \"on\": true, \"list\": [1, 2]}", 0, NULL);

    (void)state;
    is(format_hyperparameters(value), "lr=0.0123, batch=32, opt.name=sgd, opt.m=0.9, on=true, list=[1,2]");
    is(format_hyperparameters(NULL), "-");
    json_decref(value);
}

static void lengths_and_times_read_well(void **state)
{
    json_t *time = json_string("2026-11-21T01:02:03.456Z");

    (void)state;
    is(format_units(16), "16");
    is(format_units(2.5), "2.5");
    is(format_units(123456), "123456");
    is(format_seconds(0.42), "0.4s");
    is(format_seconds(59.7), "1m00s");
    is(format_seconds(185), "3m05s");
    is(format_seconds(7620), "2h07m");
    is(format_seconds(90000), "1d01h");
    is(format_seconds(-1), "-");
    is(format_bytes(812), "812 B");
    is(format_bytes(3140000), "3.1 MB");
    setenv("TZ", "UTC", 1);
    is(format_time(time), "2026-11-21 01:02:03");
    is(format_time(NULL), "-");
    json_decref(time);
}

static void a_rate_looks_at_its_window_alone(void **state)
{
    struct rate rate;

    (void)state;
    rate_init(&rate, 30);
    assert_true(rate_get(&rate, 0) < 0);
    rate_add(&rate, 0, 100);
    rate_add(&rate, 0.5, 101);
    assert_true(rate_get(&rate, 0.5) < 0); /* too short to say */
    for (int i = 1; i <= 1000; i++)
        rate_add(&rate, i, 100 + 2 * i);
    assert_true(fabs(rate_get(&rate, 1000) - 2) < 1e-9);
    for (int i = 1; i <= 1000; i++)
        rate_add(&rate, 1000 + i * 0.1, 2100 + i);
    assert_true(fabs(rate_get(&rate, 1100) - 10) < 0.2);
    assert_true(rate_get(&rate, 1160) < 5); /* nothing more comes: it falls */
    rate_add(&rate, 1161, 0);               /* something else is counted now */
    assert_true(rate_get(&rate, 1161) < 0);
}

static void states_that_end(void **state)
{
    (void)state;
    assert_true(state_has_ended("completed") && state_has_ended("canceled") && state_has_ended("error"));
    assert_false(state_has_ended("active") || state_has_ended("paused") || state_has_ended("stopping"));
}

static void trials_of_a_slot_read_as_ranges(void **state)
{
    static const struct {
        int64_t trials[6];
        const char *text;
    } ROWS[] = {{{0}, "-"},           {{3}, "7/3"},           {{4, 3}, "7/3,4"},
                {{3, 4, 5}, "7/3-5"}, {{9, 3, 5, 4}, "7/3-5,9"}, {{1, 3, 4, 8, 10, 9}, "7/1,3,4,8-10"}};

    (void)state;
    for (size_t i = 0; i < sizeof ROWS / sizeof *ROWS; i++) {
        json_t *runs = json_array();
        char *text;
        for (size_t k = 0; k < 6 && ROWS[i].trials[k]; k++)
            json_array_append_new(runs, json_pack("{s:i, s:I}", "experiment", 7, "trial", (json_int_t)ROWS[i].trials[k]));
        text = format_trials(runs);
        assert_string_equal(text, ROWS[i].text);
        free(text);
        json_decref(runs);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shares_are_percent_and_losses_have_four_decimals),
        cmocka_unit_test(hyperparameters_have_three_digits_and_dotted_names),
        cmocka_unit_test(lengths_and_times_read_well),
        cmocka_unit_test(a_rate_looks_at_its_window_alone),
        cmocka_unit_test(states_that_end),
        cmocka_unit_test(trials_of_a_slot_read_as_ranges),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
