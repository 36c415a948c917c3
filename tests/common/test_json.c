/* test_json.c - numbers that survive the way through text, paths, and refusals that say where.
 * SPDX-License-Identifier: Apache-2.0 */
#include "common/json.h"
#include "common/file.h"

#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static void doubles_come_back_bit_by_bit(void **state)
{
    static const double VALUES[] = {
        0, 0.1, -0.1, 1e-5, 1.0 / 3, DBL_MAX, DBL_MIN, 4.9e-324, 123456789.123456789, NAN, INFINITY, -INFINITY};

    (void)state;
    for (size_t i = 0; i < sizeof VALUES / sizeof *VALUES; i++) {
        json_t *value = json_from_double(VALUES[i]), *again;
        char *line = json_line(value);
        double got = 7;
        assert_int_equal(json_parse(line, strlen(line), &again, NULL), 0);
        assert_true(json_to_double(again, &got));
        assert_true(isnan(VALUES[i]) ? isnan(got) : memcmp(&got, &VALUES[i], sizeof got) == 0);
        json_decref(again);
        json_decref(value);
        free(line);
    }
}

static void only_numbers_and_three_words_are_doubles(void **state)
{
    static const struct {
        const char *text;
        bool good;
    } VALUES[] = {{"1", true},      {"\"NaN\"", true}, {"\"-Infinity\"", true}, {"\"nan\"", false},
                  {"\"1\"", false}, {"null", false},   {"true", false},         {"[1]", false}};

    (void)state;
    for (size_t i = 0; i < sizeof VALUES / sizeof *VALUES; i++) {
        json_t *value = json_loads(VALUES[i].text, JSON_DECODE_ANY, NULL);
        double got = 7;
        assert_int_equal(json_to_double(value, &got), VALUES[i].good);
        assert_true(VALUES[i].good || got == 7); /* written on success only */
        json_decref(value);
    }
    assert_false(json_to_double(NULL, &(double){0}));
}

static void members_have_defaults(void **state)
{
    json_t *object = json_pack("{s:i, s:f, s:b, s:s}", "i", 3, "d", 0.5, "b", 1, "s", "x");

    (void)state;
    assert_int_equal(json_int_or(object, "i", 9), 3);
    assert_int_equal(json_int_or(object, "d", 9), 9); /* another type */
    assert_true(json_double_or(object, "i", 9) == 3 && json_double_or(object, "d", 9) == 0.5);
    assert_true(json_double_or(object, "s", 9) == 9 && json_double_or(NULL, "s", 9) == 9);
    assert_true(json_bool_or(object, "b", false) && json_bool_or(object, "absent", true));
    assert_string_equal(json_string_or(object, "s", "y"), "x");
    assert_string_equal(json_string_or(object, "i", "y"), "y");
    json_decref(object);
}

static void walks_dotted_paths(void **state)
{
    json_t *root = json_loads("{\"a\": {\"b\": [{\"c\": 1}, [2, 3]]}}", 0, NULL);

    (void)state;
    assert_int_equal(json_integer_value(json_at(root, "a.b[0].c")), 1);
    assert_int_equal(json_integer_value(json_at(root, "a.b[1][1]")), 3);
    assert_ptr_equal(json_at(root, ""), root);
    assert_null(json_at(root, "a.x.c"));
    assert_null(json_at(root, "a.b[2]"));
    assert_null(json_at(root, "a.b[x]"));
    assert_null(json_at(root, "a.b[1"));
    assert_null(json_at(root, "a[0]"));
    assert_null(json_at(NULL, "a"));
    json_decref(root);
}

static void equal_values_have_equal_canonical_text(void **state)
{
    json_t *a = json_loads("{\"x\": 1, \"y\": {\"b\": 0.1, \"a\": null}}", 0, NULL);
    json_t *b = json_loads("{\"y\": {\"a\": null, \"b\": 0.1}, \"x\": 1}", 0, NULL);
    char *s = json_canonical(a), *t = json_canonical(b);

    (void)state;
    assert_string_equal(s, t);
    assert_string_equal(s, "{\"x\":1,\"y\":{\"a\":null,\"b\":0.10000000000000001}}");
    free(s);
    free(t);
    json_decref(a);
    json_decref(b);
}

static void refuses_what_is_not_json_and_says_where(void **state)
{
    static const char *const BAD[][2] = {{"", "line 1"},
                                         {"{", "line 1"},
                                         {"{\"a\": 1,\n \"a\": 2}", "line 2"},
                                         {"{} x", "line 1"},
                                         {"[1, NaN]", "line 1"}};

    (void)state;
    for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++) {
        struct error err = {0};
        json_t *value = NULL;
        assert_int_equal(json_parse(BAD[i][0], strlen(BAD[i][0]), &value, &err), -EINVAL);
        assert_null(value);
        assert_non_null(strstr(err.text, BAD[i][1]));
    }
}

static void files_are_written_whole_and_read_back(void **state)
{
    char path[] = "/tmp/flexp-test-json-XXXXXX", *text;
    int fd = mkstemp(path);
    json_t *value = json_pack("{s:f}", "a", 0.1), *again = NULL;
    struct error err = {0};

    (void)state;
    assert_true(fd >= 0);
    close(fd);
    assert_int_equal(json_write_file(path, value, &err), 0);
    assert_int_equal(json_read_file(path, &again, &err), 0);
    assert_true(json_equal(value, again));
    assert_int_equal(file_read(path, &text, NULL, &err), 0);
    assert_string_equal(text, "{\n  \"a\": 0.10000000000000001\n}\n");
    free(text);
    json_decref(again);
    assert_int_equal(file_write(path, "{", 1, &err), 0);
    assert_int_equal(json_read_file(path, &again, &err), -EINVAL);
    assert_int_equal(strncmp(err.text, path, strlen(path)), 0);
    unlink(path);
    assert_int_equal(json_read_file(path, &again, &err), -ENOENT);
    json_decref(value);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(doubles_come_back_bit_by_bit),
        cmocka_unit_test(only_numbers_and_three_words_are_doubles),
        cmocka_unit_test(members_have_defaults),
        cmocka_unit_test(walks_dotted_paths),
        cmocka_unit_test(equal_values_have_equal_canonical_text),
        cmocka_unit_test(refuses_what_is_not_json_and_says_where),
        cmocka_unit_test(files_are_written_whole_and_read_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
