/* test_lines.c - the same lines come out however the bytes come in.
 * SPDX-License-Identifier: Apache-2.0 */
#include "common/lines.h"
#include "common/rng.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const char TEXT[] = "one\n\nthree with words\n{\"a\": 1}\nlast\n";
static const char *const WANTED[] = {"one", "", "three with words", "{\"a\": 1}", "last"};

static void lines_do_not_depend_on_how_bytes_arrive(void **state)
{
    (void)state;
    for (uint64_t try = 0; try < 200; try++) {
        struct pcg32 rng;
        struct lines lines;
        size_t at = 0, n = 0, length = sizeof TEXT - 1;
        pcg32_seed(&rng, 1, try);
        lines_init(&lines);
        while (at < length) {
            size_t piece = 1 + rng_below(&rng, 9), got;
            char *line;
            piece = piece < length - at ? piece : length - at;
            assert_int_equal(lines_push(&lines, TEXT + at, piece), 0);
            at += piece;
            if (rng_below(&rng, 2)) /* lines may be taken late */
                continue;
            while ((line = lines_next(&lines, &got))) {
                assert_true(n < 5);
                assert_string_equal(line, WANTED[n]);
                assert_int_equal(got, strlen(WANTED[n++]));
            }
        }
        while (lines_next(&lines, NULL))
            n++;
        assert_int_equal(n, 5);
        lines_done(&lines);
    }
}

static void an_unfinished_line_waits(void **state)
{
    struct lines lines;

    (void)state;
    lines_init(&lines);
    assert_null(lines_next(&lines, NULL));
    assert_int_equal(lines_push(&lines, "abc", 3), 0);
    assert_null(lines_next(&lines, NULL));
    assert_int_equal(lines_push(&lines, "", 0), 0);
    assert_int_equal(lines_push(&lines, "d\ne", 3), 0);
    assert_string_equal(lines_next(&lines, NULL), "abcd");
    assert_null(lines_next(&lines, NULL));
    lines_done(&lines);
}

static void zero_bytes_are_part_of_a_line(void **state)
{
    struct lines lines;
    size_t length;

    (void)state;
    lines_init(&lines);
    assert_int_equal(lines_push(&lines, "a\0b\n", 4), 0);
    assert_memory_equal(lines_next(&lines, &length), "a\0b", 4);
    assert_int_equal(length, 3);
    lines_done(&lines);
}

static void an_endless_line_is_an_error(void **state)
{
    struct lines lines;
    size_t piece = 1 << 20, sent = 0;
    char *bytes = malloc(piece);
    int rc = 0;

    (void)state;
    memset(bytes, 'x', piece);
    lines_init(&lines);
    while (!rc && sent <= 2u * LINES_MAX) {
        rc = lines_push(&lines, bytes, piece);
        sent += piece;
    }
    assert_int_equal(rc, -EMSGSIZE);
    assert_true(sent > LINES_MAX && sent <= LINES_MAX + piece);
    lines_done(&lines);
    free(bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lines_do_not_depend_on_how_bytes_arrive),
        cmocka_unit_test(an_unfinished_line_waits),
        cmocka_unit_test(zero_bytes_are_part_of_a_line),
        cmocka_unit_test(an_endless_line_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
