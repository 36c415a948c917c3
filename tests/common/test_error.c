/* test_error.c - what an error's text may hold.
 * SPDX-License-Identifier: Apache-2.0 */
#include "common/error.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h> /* has a fail() of its own, a macro */

static void what_a_terminal_obeys_and_what_is_not_utf8_is_replaced(void **state)
{
    static const struct {
        const char *given, *wanted;
    } ROWS[] = {
        {"plain ~", "plain ~"},
        {"\xc3\xa9 \xe2\x82\xac \xf0\x9f\x99\x82", "\xc3\xa9 \xe2\x82\xac \xf0\x9f\x99\x82"},
        {"a\nb\tc\rd", "a b c d"},
        {"\x1b[31m\x7f\x01", "?[31m??"},
        {"\xc2\x9b"
         "31m \xc2\xa0",
         "??31m \xc2\xa0"},
        {"\xff\xc3-\x80", "\?\?-?"},
        {"\xc0\xaf \xe0\x80\xaf \xed\xa0\x80 \xf4\x90\x80\x80", "?? ??? ??? ????"},
        {"\xe2\x82", "??"},
    };
    struct error err;

    (void)state;
    for (size_t i = 0; i < sizeof ROWS / sizeof *ROWS; i++) {
        assert_int_equal((fail)(&err, -EINVAL, "%s", ROWS[i].given), -EINVAL);
        assert_string_equal(err.text, ROWS[i].wanted);
        err.text[0] = 0;
        (fail)(&err, -EIO, "x");
        assert_int_equal(fail_prefix(&err, "%s", ROWS[i].given), -EIO);
        err.text[strlen(err.text) - 3] = 0;
        assert_string_equal(err.text, ROWS[i].wanted);
    }
}

static void a_long_text_is_cut_between_characters(void **state)
{
    char given[1200];
    struct error err;

    (void)state;
    for (size_t shift = 0; shift < 4; shift++) {
        memset(given, 'a', shift);
        for (size_t at = shift; at + 4 < sizeof given; at += 4)
            memcpy(given + at, "\xf0\x9f\x99\x82", 5);
        (fail)(&err, -EINVAL, "%s", given);
        assert_int_equal((strlen(err.text) - shift) % 4, 0);
        assert_in_range(strlen(err.text), sizeof err.text - 5, sizeof err.text - 1);
        assert_null(strchr(err.text, '?'));
    }
}

static void a_list_ends_with_a_whole_word_and_how_many_are_left(void **state)
{
    struct words words = {0};
    char word[20], want[20];

    (void)state;
    assert_string_equal(words_text(&words), "");
    words_add(&words, "train_loss");
    assert_string_equal(words_text(&words), "train_loss");
    words_add(&words, "own");
    assert_string_equal(words_text(&words), "train_loss, own");
    for (int i = 0; i < 1000; i++) {
        snprintf(word, sizeof word, "metric_%d", 100000 + i);
        words_add(&words, word);
    }
    snprintf(want, sizeof want, " and %zu more", words.left_out);
    assert_in_range(words.left_out, 950, 999);
    assert_non_null(strstr(words_text(&words), want));
    assert_int_equal(strlen(words.text), words.used + strlen(want));
    snprintf(want, sizeof want, "metric_%d", (int)(100000 + 999 - words.left_out));
    assert_memory_equal(words.text + words.used - strlen(want), want, strlen(want));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_a_terminal_obeys_and_what_is_not_utf8_is_replaced),
        cmocka_unit_test(a_long_text_is_cut_between_characters),
        cmocka_unit_test(a_list_ends_with_a_whole_word_and_how_many_are_left),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
