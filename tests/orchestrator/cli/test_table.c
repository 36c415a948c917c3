/* test_table.c - tables and text that fit a terminal.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/cli/table.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static const struct term PIPE = {0};

static char *written(const struct table *table, const struct term *term, int indent)
{
    char *text = NULL;
    size_t length = 0;
    FILE *out = open_memstream(&text, &length);

    table_write(table, out, term, indent);
    fclose(out);
    return text;
}

static struct table *sample(void)
{
    struct table *table = table_new();

    table_column(table, "ID", TABLE_RIGHT);
    table_column(table, "NAME", TABLE_SHRINK);
    table_column(table, "STATE", TABLE_LEFT);
    table_column(table, "CREATED", TABLE_OPTIONAL);
    table_cell(table, STYLE_NONE, "%d", 1);
    table_cell(table, STYLE_NONE, "cifar10-night");
    table_cell(table, STYLE_GREEN, "completed");
    table_cell(table, STYLE_NONE, "2026-11-21");
    table_cell(table, STYLE_NONE, "%d", 12);
    table_cell(table, STYLE_NONE, "a");
    table_cell(table, STYLE_CYAN, "active");
    table_cell(table, STYLE_NONE, "2026-11-22");
    return table;
}

static void columns_are_aligned_and_lines_have_no_blanks_at_their_end(void **state)
{
    struct table *table = sample();
    char *text = written(table, &PIPE, 0);

    (void)state;
    assert_string_equal(text, "ID  NAME           STATE      CREATED\n"
                              " 1  cifar10-night  completed  2026-11-21\n"
                              "12  a              active     2026-11-22\n");
    assert_int_equal(table_rows(table), 2);
    free(text);
    table_free(table);
}

static void every_line_fits_whatever_the_width(void **state)
{
    struct table *table = sample();

    (void)state;
    for (int width = 4; width < 60; width++) {
        struct term term = {.tty = true, .width = width, .height = 24, .utf8 = true, .color = true};
        char *text = written(table, &term, 2), *rest = text, *line;
        int lines = 0;
        while ((line = strsep(&rest, "\n")) && *line) {
            assert_true(text_width(line) <= width);
            lines++;
        }
        assert_int_equal(lines, 3);
        free(text);
    }
    table_free(table);
}

static void an_optional_column_goes_before_a_name_is_cut(void **state)
{
    struct term term = {.tty = true, .width = 30, .height = 24};
    struct table *table = sample();
    char *text = written(table, &term, 0);

    (void)state;
    assert_null(strstr(text, "CREATED"));
    assert_non_null(strstr(text, "cifar10-night"));
    free(text);
    term.width = 24;
    text = written(table, &term, 0);
    assert_null(strstr(text, "cifar10-night"));
    assert_non_null(strstr(text, "completed"));
    free(text);
    table_free(table);
}

static void wide_and_combining_characters_keep_columns_straight(void **state)
{
    struct table *table = table_new();
    char *text;

    (void)state;
    table_column(table, "NAME", TABLE_LEFT);
    table_column(table, "X", TABLE_LEFT);
    table_cell(table, STYLE_NONE, "实验");
    table_cell(table, STYLE_NONE, "1");
    table_cell(table, STYLE_NONE, "e\xcc\x81t\xc3\xa9");
    table_cell(table, STYLE_NONE, "2");
    text = written(table, &PIPE, 0);
    assert_string_equal(text, "NAME  X\n实验  1\ne\xcc\x81t\xc3\xa9   2\n");
    free(text);
    table_free(table);
}

static void control_characters_from_files_do_not_reach_the_terminal(void **state)
{
    char *clean = text_clean("a\033[2Jb\r\nc\td\xff\xc2\x9b");

    (void)state;
    assert_string_equal(clean, "a?[2Jb??c d??");
    free(clean);
}

static void a_cut_closes_open_colours_and_counts_none_for_them(void **state)
{
    struct term term = {.utf8 = true, .color = true};
    char *text = NULL;
    size_t length = 0;
    FILE *out = open_memstream(&text, &length);

    (void)state;
    assert_int_equal(text_width("\033[32mgreen\033[0m"), 5);
    assert_int_equal(text_write(out, &term, "\033[32mgreen and more\033[0m", 6), 6);
    fclose(out);
    assert_string_equal(text, "\033[32mgreen…\033[0m");
    free(text);
}

static void an_empty_table_is_its_head(void **state)
{
    struct table *table = table_new();
    char *text;

    (void)state;
    table_column(table, "A", TABLE_RIGHT);
    text = written(table, &PIPE, 0);
    assert_string_equal(text, "A\n");
    free(text);
    table_free(table);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(columns_are_aligned_and_lines_have_no_blanks_at_their_end),
        cmocka_unit_test(every_line_fits_whatever_the_width),
        cmocka_unit_test(an_optional_column_goes_before_a_name_is_cut),
        cmocka_unit_test(wide_and_combining_characters_keep_columns_straight),
        cmocka_unit_test(control_characters_from_files_do_not_reach_the_terminal),
        cmocka_unit_test(a_cut_closes_open_colours_and_counts_none_for_them),
        cmocka_unit_test(an_empty_table_is_its_head),
    };

    term_locale();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
