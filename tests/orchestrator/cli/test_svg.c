/* test_svg.c - escapes, scales, ticks, paths that break, pictures that stay small.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/cli/plot.h"
#include "orchestrator/cli/svg.h"
#include "orchestrator/cli/top_frame.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static char *written(void (*write)(FILE *out, const void *arg), const void *arg)
{
    char *text = NULL;
    size_t length;
    FILE *out = open_memstream(&text, &length);

    write(out, arg);
    fclose(out);
    return text;
}

static void write_escaped(FILE *out, const void *arg)
{
    svg_escape(out, arg);
}

static void text_is_escaped_for_xml(void **state)
{
    static const char *const ROWS[][2] = {
        {"a < b & \"c\" > d", "a &lt; b &amp; &quot;c&quot; &gt; d"},
        {"bell\a and tab\t.", "bell? and tab ."},
        {"\xef\xbf\xbf", "?"},
        {"\xc3\xa4\xe2\x82\xac", "\xc3\xa4\xe2\x82\xac"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof ROWS / sizeof *ROWS; i++) {
        char *text = written(write_escaped, ROWS[i][0]);
        assert_string_equal(text, ROWS[i][1]);
        free(text);
    }
}

static void ticks_are_round_and_inside(void **state)
{
    static const struct {
        double low, high;
        bool log;
    } ROWS[] = {{0, 1, false},   {0.1, 0.996, false},  {-3, 17, false}, {1e-4, 0.3, true}, {5, 5, false},
                {0, 0, false},   {1e-9, 1e9, true},    {-1, 1, true},   {1e6, 1.2e6, false}, {0.2, 0.3, true},
                {-1e300, 1e300, false}};

    (void)state;
    for (size_t i = 0; i < sizeof ROWS / sizeof *ROWS; i++) {
        struct scale scale = scale_new(ROWS[i].low, ROWS[i].high, 0, 100, ROWS[i].log);
        double ticks[SCALE_TICKS], before = -INFINITY;
        size_t n = scale_ticks(&scale, ticks);
        assert_in_range(n, 1, SCALE_TICKS);
        for (size_t k = 0; k < n; k++) {
            double at = scale_at(&scale, ticks[k]);
            assert_true(at >= -0.01 && at <= 100.01);
            assert_true(ticks[k] > before);
            before = ticks[k];
        }
    }
}

struct points {
    const double *x, *y;
    size_t n;
};

static void write_path(FILE *out, const void *arg)
{
    const struct points *points = arg;

    svg_path(out, points->x, points->y, points->n, "class=\"a\"", "x < y");
}

static void a_path_breaks_where_a_value_is_not_finite(void **state)
{
    const double x[] = {1, 2, 3, 4}, y[] = {1, 2, NAN, 4};
    char *text = written(write_path, &(struct points){x, y, 4});

    (void)state;
    assert_string_equal(text, "<path d=\"M1.0,1.0L2.0,2.0M4.0,4.0\" class=\"a\"><title>x &lt; y</title></path>\n");
    free(text);
}

static void sparklines_are_thinned_and_plain_where_needed(void **state)
{
    static const struct {
        const char *values;
        int width;
        bool utf8;
        const char *text;
    } ROWS[] = {
        {"[]", 10, true, ""},
        {"[1]", 10, true, "\u2581"},
        {"[0, 1, 2, 3, 4, 5, 6, 7]", 10, true, "\u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"},
        {"[0, 1, 2, 3, 4, 5, 6, 7]", 4, false, ".~+#"},
        {"[0, \"NaN\", 1]", 10, false, "_ #"},
        {"[5, 5, 5]", 2, false, "__"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof ROWS / sizeof *ROWS; i++) {
        json_t *values = json_loads(ROWS[i].values, 0, NULL);
        char *text = sparkline(values, ROWS[i].width, ROWS[i].utf8);
        assert_string_equal(text, ROWS[i].text);
        free(text);
        json_decref(values);
    }
}

static void a_picture_of_ten_thousand_trials_stays_small(void **state)
{
    json_t *trials = json_pack("{s:s, s:b, s:[]}", "metric", "m", "smaller_is_better", 1, "trials"), *curves = json_object();
    json_t *describe = json_pack("{s:i, s:s, s:s, s:s}", "id", 1, "name", "<many>", "metric", "m", "state", "completed");
    json_t *chosen, *number;
    char *text = NULL;
    size_t length, i;
    FILE *out;

    (void)state;
    for (int t = 1; t <= 10000; t++)
        json_array_append_new(json_object_get(trials, "trials"),
                              json_pack("{s:i, s:s, s:f, s:i, s:{s:f, s:s}}", "id", t, "state", "completed", "best_metric",
                                        t % 97 ? 1.0 / t : 1e30, "latest_unit", 500, "hyperparameters", "lr", 1e-4 * t, "kind",
                                        t % 2 ? "a&b" : "c"));
    chosen = plot_choose(trials);
    assert_in_range(json_array_size(chosen), 100, PLOT_CURVES);
    assert_int_equal(json_integer_value(json_array_get(chosen, 0)), 10000);
    json_array_foreach (chosen, i, number) {
        json_t *curve = json_array();
        char key[16];
        for (int unit = 1; unit <= 500; unit++)
            json_array_append_new(curve, json_pack("{s:i, s:f, s:s}", "unit", unit, "value", 1.0 / unit, "time",
                                                   "2026-11-21T01:02:03.456Z"));
        snprintf(key, sizeof key, "%lld", (long long)json_integer_value(number));
        json_object_set_new(curves, key, curve);
    }
    out = open_memstream(&text, &length);
    plot_write(out, describe, trials, curves);
    fclose(out);
    assert_in_range(length, 10000, 2000000);
    assert_non_null(strstr(text, "&lt;many&gt;"));
    assert_non_null(strstr(text, "of 10000 trials"));
    assert_null(strstr(text, "nan"));
    assert_null(strstr(text, "inf"));
    free(text);
    json_decref(trials);
    json_decref(curves);
    json_decref(describe);
    json_decref(chosen);
}

/* A picture of two trials with these hyperparameters, whose only curve ends then; the caller frees. */
static char *picture_of(const char *hyperparameters, const char *values_1, const char *values_2, const char *end)
{
    json_t *first = json_loads(values_1, 0, NULL), *second = json_loads(values_2, 0, NULL);
    json_t *space = json_loads(hyperparameters, 0, NULL), *describe, *trials, *curves;
    char *text = NULL;
    size_t length;
    FILE *out = open_memstream(&text, &length);

    describe = json_pack("{s:i, s:s, s:s, s:s, s:{s:s}, s:{s:o}}", "id", 1, "name", "n", "metric", "m", "state",
                         "completed", "timings", "created", "2026-11-21T01:02:03.000Z", "config", "hyperparameters",
                         space);
    trials = json_pack("{s:s, s:b, s:[{s:i, s:s, s:f, s:i, s:o}, {s:i, s:s, s:f, s:i, s:o}]}", "metric", "m",
                       "smaller_is_better", 1, "trials", "id", 1, "state", "completed", "best_metric", 0.5,
                       "latest_unit", 2, "hyperparameters", first, "id", 2, "state", "completed", "best_metric", 0.7,
                       "latest_unit", 2, "hyperparameters", second);
    curves = json_pack("{s:[{s:i, s:f, s:s}, {s:i, s:f, s:s}]}", "1", "unit", 1, "value", 0.8, "time",
                       "2026-11-21T01:02:03.010Z", "unit", 2, "value", 0.5, "time", end);
    plot_write(out, describe, trials, curves);
    fclose(out);
    json_decref(describe);
    json_decref(trials);
    json_decref(curves);
    return text;
}

static void the_ticks_of_a_short_time_differ(void **state)
{
    static const struct {
        const char *end, *labels[4];
    } ROWS[] = {
        {"2026-11-21T01:02:03.240Z", {">0s<", ">0.05s<", ">0.1s<", ">0.2s<"}},
        {"2026-11-21T01:02:06.500Z", {">0s<", ">0.5s<", ">1s<", ">3.5s<"}},
        {"2026-11-21T01:05:03.000Z", {">0s<", ">50s<", ">1m40s<", ">2m30s<"}},
    };

    (void)state;
    for (size_t i = 0; i < sizeof ROWS / sizeof *ROWS; i++) {
        char *text = picture_of("{}", "{\"lr\": 1}", "{\"lr\": 2}", ROWS[i].end);
        for (int k = 0; k < 4; k++)
            if (!strstr(text, ROWS[i].labels[k]))
                fail_msg("no %s in %s", ROWS[i].labels[k], text);
        free(text);
    }
}

static size_t count(const char *text, const char *part)
{
    size_t n = 0;

    while ((text = strstr(text, part)) != NULL) {
        text += strlen(part);
        n++;
    }
    return n;
}

/* Each choice stands on its axis once, chosen or not, in the file's order; nothing stands between them. */
static void choices_are_the_ticks_of_a_categorical_axis(void **state)
{
    static const char *const LABELS[] = {">16<", ">64<", ">32<", ">0<", ">0.9<", ">null<", ">[1,2]<"};
    char *text = picture_of("{\"batch\": {\"type\": \"categorical\", \"vals\": [16, 64, 32]}, \"opt\": {"
                            "\"momentum\": {\"type\": \"categorical\", \"vals\": [0, 0.9]},"
                            " \"kind\": {\"type\": \"categorical\", \"vals\": [null, [1, 2]]}}}",
                            "{\"batch\": 16, \"opt\": {\"momentum\": 0.9, \"kind\": null}}",
                            "{\"batch\": 64, \"opt\": {\"momentum\": 0.9, \"kind\": [1, 2]}}",
                            "2026-11-21T01:02:06.500Z");
    char *axes = strstr(text, "halo\">");

    (void)state;
    for (size_t i = 0; i < sizeof LABELS / sizeof *LABELS; i++)
        if (!axes || count(axes - 40, LABELS[i]) != 1)
            fail_msg("not one %s in %s", LABELS[i], axes ? axes : text);
    assert_null(strstr(axes, ">20<"));
    assert_null(strstr(axes, ">0.2<"));
    assert_true(strstr(axes, ">16<") < strstr(axes, ">64<") && strstr(axes, ">64<") < strstr(axes, ">32<"));
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_is_escaped_for_xml),
        cmocka_unit_test(ticks_are_round_and_inside),
        cmocka_unit_test(a_path_breaks_where_a_value_is_not_finite),
        cmocka_unit_test(sparklines_are_thinned_and_plain_where_needed),
        cmocka_unit_test(a_picture_of_ten_thousand_trials_stays_small),
        cmocka_unit_test(the_ticks_of_a_short_time_differ),
        cmocka_unit_test(choices_are_the_ticks_of_a_categorical_axis),
    };

    term_locale(); /* what is text and what is not depends on it */
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
