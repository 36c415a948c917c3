/* test_progress.c - the live frame and the plain lines, from summaries as the orchestrator streams them; and what the
 * screen writes, read back by a small terminal.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/cli/progress.h"
#include "orchestrator/cli/screen.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

static const char DESCRIBE[] =
    "{\"id\": 3, \"name\": \"night\", \"state\": \"active\", \"metric\": \"validation_accuracy\", \"time_metric\":"
    " \"rounds\", \"progress\": 0, \"trials\": {\"queued\": 4}}";

static json_t *event(double progress, int units, const char *state)
{
    json_t *value = json_pack(
        "{s:i, s:s, s:s, s:f, s:i, s:i, s:{s:i, s:i, s:i}, s:i, s:{s:f, s:i, s:i}, s:{s:f},"
        " s:[{s:i, s:i, s:i, s:[s]}]}",
        "id", 3, "name", "night", "state", state, "progress", progress, "units_trained", units, "total_units", 200,
        "trials", "running", 2, "stopped", 5, "completed", 1, "best_trial_id", 4, "best_validation_metrics",
        "validation_accuracy", 0.8123, "unit", 16, "trial_id", 4, "best_hyperparameters", "lr", 0.0123, "running",
        "trial", 7, "unit", 5, "until", 16, "slots", "cpu:0");

    assert_non_null(value);
    return value;
}

static struct progress watched(void)
{
    json_t *describe = json_loads(DESCRIBE, 0, NULL), *now;
    struct progress progress;

    progress_init(&progress, describe, 100);
    json_decref(describe);
    for (int i = 0; i <= 20; i++) {
        now = event(0.2 + i * 0.01, 20 + 2 * i, "active");
        progress_event(&progress, now, 100 + i);
        json_decref(now);
    }
    return progress;
}

static void a_plain_line_says_state_trials_best_rate_and_time_left(void **state)
{
    struct progress progress = watched();
    char *line = progress_line(&progress), *timed = progress_line_timed(&progress, line, 120);

    (void)state;
    assert_string_equal(line, "active 40%: 2 running, 1 completed, 5 stopped, best validation_accuracy 81.23% (trial 4"
                              " at round 16)");
    assert_non_null(strstr(timed, "[    20s] active 40%"));
    assert_non_null(strstr(timed, "2.00 rounds/s"));
    assert_non_null(strstr(timed, "ETA 1m00s"));
    free(line);
    free(timed);
    progress_done(&progress);
}

static void a_frame_has_everything_that_a_person_looks_for(void **state)
{
    static const char *const WANTED[] = {"Experiment 3", "active", "night", "40%", "ETA 1m00s", "2 running",
                                         "5 stopped",
                                         "81.23%, trial 4 at round 16 (validation_accuracy)", "lr=0.0123",
                                         "2.00 rounds/s", "60 of about 200 trained", "trial 7", "round 5/16"};
    struct progress progress = watched();
    struct term term = {.tty = true, .width = 80, .height = 24};
    char *frame = progress_frame(&progress, &term, 120);

    (void)state;
    for (size_t i = 0; i < sizeof WANTED / sizeof *WANTED; i++)
        assert_non_null(strstr(frame, WANTED[i]));
    free(frame);
    progress_done(&progress);
}

static void members_that_are_missing_do_no_harm(void **state)
{
    json_t *nothing = json_object();
    struct term term = {.tty = true, .width = 40, .height = 10};
    struct progress progress;
    char *text;

    (void)state;
    progress_init(&progress, nothing, 0);
    progress_event(&progress, nothing, 1);
    text = progress_frame(&progress, &term, 2);
    assert_non_null(strstr(text, "none yet"));
    free(text);
    text = progress_line(&progress);
    assert_non_null(text);
    free(text);
    progress_done(&progress);
    json_decref(nothing);
}

static void the_bar_shows_the_number_that_list_and_describe_show(void **state)
{
    struct progress progress = watched();
    char *line;

    (void)state;
    progress_units(&progress, 150, 121); /* of about 200: no second opinion */
    line = progress_line(&progress);
    assert_non_null(strstr(line, "active 40%"));
    free(line);
    progress_done(&progress);
}

/* --- a terminal of a few rows, enough for what screen.c writes --------------------------------------------------- */

#define ROWS 60
#define COLUMNS 200

struct tube {
    char cells[ROWS][COLUMNS + 1];
    int row, column, width;
    bool hidden;
};

static void feed(struct tube *tube, const char *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (bytes[i] == '\033') {
            int number = 0;
            bool private = bytes[i + 2] == '?';
            i += private ? 3 : 2;
            for (; bytes[i] >= '0' && bytes[i] <= '9'; i++)
                number = number * 10 + bytes[i] - '0';
            if (bytes[i] == 'A') {
                assert_true(tube->row >= number);
                tube->row -= number;
            } else if (bytes[i] == 'K') {
                memset(tube->cells[tube->row] + tube->column, 0, (size_t)(COLUMNS - tube->column));
            } else if (bytes[i] == 'J') {
                memset(tube->cells[tube->row] + tube->column, 0, (size_t)(COLUMNS - tube->column));
                for (int row = tube->row + 1; row < ROWS; row++)
                    memset(tube->cells[row], 0, COLUMNS);
            } else if (private && number == 25) {
                tube->hidden = bytes[i] == 'l';
            } else {
                assert_int_equal(bytes[i], 'm');
            }
        } else if (bytes[i] == '\n') {
            tube->row++;
            tube->column = 0;
        } else if (bytes[i] == '\r') {
            tube->column = 0;
        } else {
            assert_true(tube->column < tube->width); /* nothing wraps by itself */
            tube->cells[tube->row][tube->column++] = bytes[i];
        }
    }
}

static void pump(struct tube *tube, int fd)
{
    char bytes[8192];
    ssize_t n = read(fd, bytes, sizeof bytes - 1);

    assert_true(n > 0);
    bytes[n] = 0;
    feed(tube, bytes, (size_t)n);
}

static void the_screen_redraws_in_place_and_gives_the_cursor_back(void **state)
{
    struct term term = {.tty = true, .width = 20, .height = 8};
    struct tube tube = {.width = 20};
    struct screen screen;
    int ends[2];

    (void)state;
    assert_int_equal(pipe(ends), 0);
    screen_init(&screen, ends[1], &term);
    screen_draw(&screen, NULL, "one\ntwo\nthree\n");
    pump(&tube, ends[0]);
    assert_true(tube.hidden);
    screen_draw(&screen, NULL, "ONE\nT\n");
    pump(&tube, ends[0]);
    assert_string_equal(tube.cells[0], "ONE");
    assert_string_equal(tube.cells[1], "T");
    assert_string_equal(tube.cells[2], "");
    assert_int_equal(tube.row, 2);
    screen_draw(&screen, "a log line\n", "x\na line that is far too long for it\n");
    pump(&tube, ends[0]);
    assert_string_equal(tube.cells[0], "a log line");
    assert_string_equal(tube.cells[1], "x");
    assert_string_equal(tube.cells[2], "a line that is far.");
    screen_clear(&screen);
    pump(&tube, ends[0]);
    assert_string_equal(tube.cells[0], "a log line");
    assert_string_equal(tube.cells[1], "");
    assert_int_equal(tube.row, 1);
    assert_false(tube.hidden);
    close(ends[0]);
    close(ends[1]);
}

static void a_frame_never_is_higher_than_the_terminal(void **state)
{
    struct term term = {.tty = true, .width = 20, .height = 4};
    struct tube tube = {.width = 20};
    struct screen screen;
    int ends[2];

    (void)state;
    assert_int_equal(pipe(ends), 0);
    screen_init(&screen, ends[1], &term);
    screen_draw(&screen, NULL, "1\n2\n3\n4\n5\n6\n");
    pump(&tube, ends[0]);
    assert_int_equal(tube.row, 3);
    close(ends[0]);
    close(ends[1]);
}

static void a_narrower_terminal_has_wrapped_what_stood_there(void **state)
{
    struct term term = {.tty = true, .width = 20, .height = 20};
    struct tube tube = {.width = 20, .row = 2}; /* two lines of 15 columns, wrapped to two rows each by a width of 10 */
    struct screen screen;
    int ends[2];

    (void)state;
    assert_int_equal(pipe(ends), 0);
    screen_init(&screen, ends[1], &term);
    screen_draw(&screen, NULL, "aaaaaaaaaaaaaaa\nbbbbbbbbbbbbbbb\n");
    pump(&tube, ends[0]);
    memset(&tube, 0, sizeof tube);
    tube.width = 10;
    tube.row = 4;
    term.width = 10;
    screen_draw(&screen, NULL, "c\n");
    pump(&tube, ends[0]);
    assert_string_equal(tube.cells[0], "c");
    assert_int_equal(tube.row, 1);
    close(ends[0]);
    close(ends[1]);
}

static void every_line_of_a_frame_fits_forty_columns_when_drawn(void **state)
{
    struct progress progress = watched();
    struct term term = {.tty = true, .width = 40, .height = 24};
    struct tube tube = {.width = 40};
    struct screen screen;
    char *frame = progress_frame(&progress, &term, 120);
    int ends[2];

    (void)state;
    assert_int_equal(pipe(ends), 0);
    screen_init(&screen, ends[1], &term);
    screen_draw(&screen, NULL, frame);
    pump(&tube, ends[0]);
    assert_true(tube.row >= 6);
    free(frame);
    progress_done(&progress);
    close(ends[0]);
    close(ends[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_plain_line_says_state_trials_best_rate_and_time_left),
        cmocka_unit_test(a_frame_has_everything_that_a_person_looks_for),
        cmocka_unit_test(the_bar_shows_the_number_that_list_and_describe_show),
        cmocka_unit_test(members_that_are_missing_do_no_harm),
        cmocka_unit_test(the_screen_redraws_in_place_and_gives_the_cursor_back),
        cmocka_unit_test(a_frame_never_is_higher_than_the_terminal),
        cmocka_unit_test(a_narrower_terminal_has_wrapped_what_stood_there),
        cmocka_unit_test(every_line_of_a_frame_fits_forty_columns_when_drawn),
    };

    term_locale();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
