/* test_space.c - reading a space, drawing from it, its grid and its extremes.
 * SPDX-License-Identifier: Apache-2.0 */
#include "common/json.h"
#include "tests/searchers/driver.h"

static json_t *parse(const char *text)
{
    json_t *value = json_loads(text, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, NULL);

    if (!value)
        fail_msg("test text is no JSON: %s", text);
    return value;
}

static void gives_the_published_grids(void **state)
{
    FILE *file = fopen("tests/golden/searchers/grid.jsonl", "r");
    char line[2000];
    int lines = 0;

    (void)state;
    assert_non_null(file);
    for (; fgets(line, sizeof line, file); lines++) {
        json_t *row = parse(line), *points = json_object_get(row, "points");
        struct space *space = NULL;
        uint64_t size;
        assert_int_equal(space_new(json_object_get(row, "hyperparameters"), &space, NULL), 0);
        assert_int_equal(space_grid_size(space, &size, NULL), 0);
        assert_int_equal(size, json_array_size(points));
        for (uint64_t i = 0; i < size; i++) {
            json_t *point = space_grid_point(space, i);
            if (!json_equal(point, json_array_get(points, i)))
                fail_msg("line %d, point %d: %s", lines + 1, (int)i, json_line(point));
            json_decref(point);
        }
        assert_null(space_grid_point(space, size));
        space_free(space);
        json_decref(row);
    }
    fclose(file);
    assert_int_equal(lines, 12);
}

static void grid_names_the_axis_that_lacks_count(void **state)
{
    struct space *space =
        driver_space("{\"a\": {\"type\": \"int\", \"minval\": 1, \"maxval\": 3, \"count\": 3}, \"g\": {\"lr\": "
                     "{\"type\": \"log\", \"minval\": -3, \"maxval\": -1}}}");
    struct error err;
    uint64_t size = 77;

    (void)state;
    assert_int_equal(space_grid_size(space, &size, &err), -EINVAL);
    assert_non_null(strstr(err.text, "hyperparameters.g.lr"));
    assert_non_null(strstr(err.text, "count"));
    assert_int_equal(size, 77);
    space_free(space);
}

static void a_grid_too_large_is_refused(void **state)
{
    struct space *space = driver_space("{\"a\": {\"type\": \"double\", \"minval\": 0, \"maxval\": 1, \"count\": "
                                       "4000000000}, \"b\": {\"type\": \"double\", "
                                       "\"minval\": 0, \"maxval\": 1, \"count\": 4000000000}}");
    struct error err;
    uint64_t size;

    (void)state;
    assert_int_equal(space_grid_size(space, &size, &err), -EINVAL);
    assert_non_null(strstr(err.text, "2^63"));
    space_free(space);
}

static void refuses_bad_axes_by_key_path(void **state)
{
    static const struct {
        const char *text, *where, *what;
    } BAD[] = {
        {"[]", "hyperparameters", "map"},
        {"{\"lr\": [0.1, 0.2]}", "hyperparameters.lr", "categorical"},
        {"{\"lr\": null}", "hyperparameters.lr", "no value"},
        {"{\"g\": {}}", "hyperparameters.g", "empty"},
        {"{\"a.b\": 1}", "hyperparameters.a.b", "dot"},
        {"{\"\": 1}", "hyperparameters.", "empty"},
        {"{\"lr\": {\"type\": \"float\"}}", "hyperparameters.lr.type", "double"},
        {"{\"lr\": {\"type\": 3}}", "hyperparameters.lr.type", "const"},
        {"{\"g\": {\"lr\": {\"type\": \"double\", \"min\": 1, \"maxval\": 2}}}", "hyperparameters.g.lr.min", "minval"},
        {"{\"lr\": {\"type\": \"categorical\", \"choices\": [1]}}", "hyperparameters.lr.choices", "vals"},
        {"{\"lr\": {\"type\": \"double\", \"minval\": 1}}", "hyperparameters.lr", "maxval"},
        {"{\"lr\": {\"type\": \"double\", \"minval\": \"1\", \"maxval\": 2}}", "hyperparameters.lr.minval", "number"},
        {"{\"lr\": {\"type\": \"double\", \"minval\": 3, \"maxval\": 2}}", "hyperparameters.lr", "greater"},
        {"{\"n\": {\"type\": \"int\", \"minval\": 1.5, \"maxval\": 2}}", "hyperparameters.n.minval", "whole"},
        {"{\"n\": {\"type\": \"int\", \"minval\": 1, \"maxval\": 1e300}}", "hyperparameters.n.maxval", "2^53"},
        {"{\"n\": {\"type\": \"int\", \"minval\": 1, \"maxval\": 3, \"count\": 0}}", "hyperparameters.n.count",
         "at least 1"},
        {"{\"n\": {\"type\": \"int\", \"minval\": 1, \"maxval\": 3, \"count\": 2.5}}", "hyperparameters.n.count",
         "whole"},
        {"{\"lr\": {\"type\": \"log\", \"base\": 1, \"minval\": 0, \"maxval\": 1}}", "hyperparameters.lr.base",
         "not 1"},
        {"{\"lr\": {\"type\": \"log\", \"base\": -2, \"minval\": 0, \"maxval\": 1}}", "hyperparameters.lr.base",
         "greater"},
        {"{\"lr\": {\"type\": \"log\", \"minval\": 0, \"maxval\": 400}}", "hyperparameters.lr.maxval", "exponent"},
        {"{\"lr\": {\"type\": \"double\", \"minval\": -1e308, \"maxval\": 1e308}}", "hyperparameters.lr", "far apart"},
        {"{\"b\": {\"type\": \"categorical\", \"vals\": []}}", "hyperparameters.b.vals", "at least one"},
        {"{\"b\": {\"type\": \"categorical\", \"vals\": 5}}", "hyperparameters.b.vals", "list"},
        {"{\"b\": {\"type\": \"categorical\", \"vals\": [1, 2, 1]}}", "hyperparameters.b.vals", "1 is listed twice"},
        {"{\"b\": {\"type\": \"const\"}}", "hyperparameters.b", "val is missing"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof BAD / sizeof BAD[0]; i++) {
        json_t *value = parse(BAD[i].text);
        struct space *space = NULL;
        struct error err = {0};
        assert_int_equal(space_new(value, &space, &err), -EINVAL);
        if (strncmp(err.text, BAD[i].where, strlen(BAD[i].where)) || !strstr(err.text, BAD[i].what))
            fail_msg("%s gave: %s", BAD[i].text, err.text);
        assert_null(space);
        json_decref(value);
    }
}

static void draws_nested_objects_in_the_order_of_the_file(void **state)
{
    struct space *space =
        driver_space("{\"z\": 1, \"group\": {\"y\": {\"type\": \"const\", \"val\": [1, 2]}, \"deep\": {\"x\": "
                     "\"text\"}}, \"a\": {\"type\": \"categorical\", \"vals\": [{\"k\": 1}]}}");
    struct pcg32 rng = rng_key(1, RNG_SEARCH, 1, 0, 0);
    json_t *drawn = space_draw(space, &rng);
    char *text = json_line(drawn);

    (void)state;
    assert_string_equal(text, "{\"z\":1,\"group\":{\"y\":[1,2],\"deep\":{\"x\":\"text\"}},\"a\":{\"k\":1}}");
    assert_string_equal(space->axes[1].path, "group.y");
    assert_int_equal(space_size(space), 1);
    free(text);
    json_decref(drawn);
    space_free(space);
}

static void integers_are_drawn_at_both_ends(void **state)
{
    struct space *space = driver_space("{\"n\": {\"type\": \"int\", \"minval\": -2, \"maxval\": 3}}");
    int seen[6] = {0};

    (void)state;
    for (uint64_t trial = 1; trial <= 6000; trial++) {
        struct pcg32 rng = rng_key(3, RNG_SEARCH, trial, 0, 0);
        json_t *drawn = space_draw(space, &rng);
        int64_t n = json_integer_value(json_object_get(drawn, "n"));
        assert_true(n >= -2 && n <= 3);
        seen[n + 2]++;
        json_decref(drawn);
    }
    for (int i = 0; i < 6; i++) /* binomial: 1000 +- 29; 6 deviations */
        assert_in_range(seen[i], 1000 - 175, 1000 + 175);
    space_free(space);
}

static void doubles_and_logs_fill_their_range(void **state)
{
    struct space *space =
        driver_space("{\"d\": {\"type\": \"double\", \"minval\": -1, \"maxval\": 3}, \"l\": {\"type\": \"log\", "
                     "\"base\": 10, \"minval\": -4, \"maxval\": -2}}");
    int tenths_d[10] = {0}, tenths_l[10] = {0};

    (void)state;
    for (uint64_t trial = 1; trial <= 10000; trial++) {
        struct pcg32 rng = rng_key(4, RNG_SEARCH, trial, 0, 0);
        json_t *drawn = space_draw(space, &rng);
        double d = json_real_value(json_object_get(drawn, "d")), l = json_real_value(json_object_get(drawn, "l"));
        assert_true(d >= -1 && d <= 3 && l >= 1e-4 && l <= 1e-2);
        tenths_d[(int)fmin((d + 1) * 2.5, 9)]++;
        tenths_l[(int)fmin((log10(l) + 4) * 5, 9)]++; /* uniform in the exponent */
        json_decref(drawn);
    }
    for (int i = 0; i < 10; i++) { /* 1000 +- 30 */
        assert_in_range(tenths_d[i], 820, 1180);
        assert_in_range(tenths_l[i], 820, 1180);
    }
    assert_int_equal(space_size(space), 0);
    space_free(space);
}

static void sizes_count_distinct_configurations(void **state)
{
    static const struct {
        const char *text;
        uint64_t size;
    } ROWS[] = {
        {"{}", 1},
        {"{\"a\": 3}", 1},
        {"{\"a\": {\"type\": \"int\", \"minval\": 1, \"maxval\": 10}, \"b\": {\"type\": \"categorical\", \"vals\": [1, "
         "2, 3]}}",
         30},
        {"{\"a\": {\"type\": \"double\", \"minval\": 1, \"maxval\": 1}}", 1},
        {"{\"a\": {\"type\": \"double\", \"minval\": 1, \"maxval\": 2}}", 0},
        {"{\"a\": {\"type\": \"int\", \"minval\": 0, \"maxval\": 9007199254740991}, \"b\": {\"type\": \"int\", "
         "\"minval\": 0, "
         "\"maxval\": 9007199254740991}}",
         0}, /* too many to count is as good as infinite */
    };

    (void)state;
    for (size_t i = 0; i < sizeof ROWS / sizeof ROWS[0]; i++) {
        struct space *space = driver_space(ROWS[i].text);
        assert_int_equal(space_size(space), ROWS[i].size);
        space_free(space);
    }
}

static void extremes_show_every_choice_and_both_ends(void **state)
{
    struct space *space =
        driver_space("{\"opt\": {\"type\": \"categorical\", \"vals\": [\"a\", \"b\", \"c\"]}, \"net\": {\"n\": "
                     "{\"type\": \"int\", \"minval\": 1, \"maxval\": 9}, \"lr\": {\"type\": \"log\", \"minval\": -3, "
                     "\"maxval\": -1}}, \"fixed\": 5}");
    json_t *list = space_extremes(space), *configuration;
    int choices[3] = {0}, low = 0, high = 0, lr_low = 0, lr_high = 0;
    size_t i;

    (void)state;
    assert_int_equal(json_array_size(list), 3);
    json_array_foreach(list, i, configuration)
    {
        int64_t n = json_integer_value(json_at(configuration, "net.n"));
        double lr = json_real_value(json_at(configuration, "net.lr"));
        choices[*json_string_value(json_at(configuration, "opt")) - 'a']++;
        low += n == 1;
        high += n == 9;
        lr_low += lr == 1e-3;
        lr_high += lr == 1e-1;
        assert_int_equal(json_integer_value(json_at(configuration, "fixed")), 5);
    }
    assert_true(choices[0] && choices[1] && choices[2] && low && high && lr_low && lr_high);
    json_decref(list);
    space_free(space);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gives_the_published_grids),
        cmocka_unit_test(grid_names_the_axis_that_lacks_count),
        cmocka_unit_test(a_grid_too_large_is_refused),
        cmocka_unit_test(refuses_bad_axes_by_key_path),
        cmocka_unit_test(draws_nested_objects_in_the_order_of_the_file),
        cmocka_unit_test(integers_are_drawn_at_both_ends),
        cmocka_unit_test(doubles_and_logs_fill_their_range),
        cmocka_unit_test(sizes_count_distinct_configurations),
        cmocka_unit_test(extremes_show_every_choice_and_both_ends),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
