/* test_goldens.c - published known answers of brackets, rungs, previews and played searches.
 * SPDX-License-Identifier: Apache-2.0 */
#include "searchers/schedulers/rungs.h"
#include "searchers/searcher_private.h"
#include "tests/searchers/golden.h"

#define BRACKETS "tests/golden/searchers/brackets.txt"
#define LIVE "tests/golden/searchers/live.txt"

static void check_share(char **fields, size_t n)
{
    double in[GOLDEN_NUMBERS];
    int64_t rungs[GOLDEN_NUMBERS], want[GOLDEN_NUMBERS], got[GOLDEN_NUMBERS];
    size_t brackets;

    assert_int_equal(n, 3);
    assert_int_equal(golden_numbers(fields[0], in), 2);
    brackets = golden_integers(fields[1], rungs);
    assert_int_equal(golden_integers(fields[2], want), brackets);
    rungs_share_trials((int64_t)in[0], in[1], rungs, brackets, got);
    assert_memory_equal(got, want, brackets * sizeof *got);
}

static void shares_trials_among_brackets(void **state)
{
    (void)state;
    assert_int_equal(golden_each(BRACKETS, "share", check_share), 4);
}

static void check_lanes(char **fields, size_t n)
{
    double in[GOLDEN_NUMBERS];
    int64_t trials[GOLDEN_NUMBERS], want[GOLDEN_NUMBERS], got[GOLDEN_NUMBERS];
    size_t brackets;

    assert_int_equal(n, 3);
    assert_int_equal(golden_numbers(fields[0], in), 2);
    brackets = golden_integers(fields[1], trials);
    assert_int_equal(golden_integers(fields[2], want), brackets);
    rungs_share_lanes((int64_t)in[0], in[1], trials, brackets, got);
    assert_memory_equal(got, want, brackets * sizeof *got);
}

static void shares_lanes_among_brackets(void **state)
{
    (void)state;
    assert_int_equal(golden_each(BRACKETS, "lanes", check_lanes), 3);
}

static void check_brackets(char **fields, size_t n)
{
    struct searcher_config config = golden_config(fields[0], NULL);
    struct space *space = driver_space(LR_SPACE);
    char text[400] = "";
    struct plan plan;

    assert_int_equal(n, 2);
    assert_int_equal(searcher_plan(&config, space, &plan, NULL), 0);
    for (size_t i = 0; i < plan.n; i++)
        snprintf(text + strlen(text), sizeof text - strlen(text), " %d,%d,%d", (int)plan.brackets[i].rungs,
                 (int)plan.brackets[i].trials, (int)plan.brackets[i].concurrent);
    assert_string_equal(text, fields[1]);
    plan_done(&plan);
    space_free(space);
}

static void makes_brackets(void **state)
{
    (void)state;
    assert_int_equal(golden_each(BRACKETS, "brackets", check_brackets), 2);
}

static void check_units(char **fields, size_t n)
{
    double in[GOLDEN_NUMBERS], want[GOLDEN_NUMBERS], got[GOLDEN_NUMBERS];
    size_t rungs;

    assert_int_equal(n, 2);
    assert_int_equal(golden_numbers(fields[0], in), 4);
    rungs = golden_numbers(fields[1], want);
    assert_int_equal(rungs, (size_t)in[0]);
    rungs_units((int64_t)in[0], in[1], in[2], in[3] != 0, got);
    assert_memory_equal(got, want, rungs * sizeof *got);
}

static void makes_rungs(void **state)
{
    (void)state;
    assert_int_equal(golden_each(BRACKETS, "units", check_units), 6);
}

static void check_log(char **fields, size_t n)
{
    double in[GOLDEN_NUMBERS];

    assert_int_equal(n, 2);
    assert_int_equal(golden_numbers(fields[0], in), 2);
    assert_int_equal(rungs_log(in[0], in[1]), strtol(fields[1], NULL, 10));
}

static void logarithms_are_exact(void **state)
{
    (void)state;
    assert_int_equal(golden_each(BRACKETS, "log", check_log), 6);
}

static void check_preview(char **fields, size_t n)
{
    struct searcher_config config = golden_config(fields[0], NULL);
    struct space *space = driver_space(LR_SPACE);
    struct preview_row *rows = NULL;
    double total = 0, sum = 0;
    char text[400] = "";
    size_t rows_n = 0;

    assert_int_equal(n, 2);
    assert_int_equal(searcher_preview(&config, space, &rows, &rows_n, &total, NULL), 0);
    for (size_t i = 0; i < rows_n; i++) {
        snprintf(text + strlen(text), sizeof text - strlen(text), " %d@%g", (int)rows[i].trials, rows[i].units);
        sum += (double)rows[i].trials * rows[i].units;
    }
    assert_string_equal(text, fields[1]);
    assert_true(total == sum);
    free(rows);
    space_free(space);
}

static void previews_without_metrics(void **state)
{
    (void)state;
    assert_int_equal(golden_each(BRACKETS, "preview", check_preview), 6);
}

/* Each trial reports every `step` units, the next trial's report always being worse than all before. */
static void check_worse(char **fields, size_t n)
{
    double step = 0, metric = 0;
    struct searcher_config config = golden_config(fields[0], &step);
    struct space *space = driver_space(LR_SPACE);
    struct play play;

    play_init(&play, driver_searcher(&config, space), NULL);
    play_tell(&play, (struct searcher_event){.type = EVENT_START});
    assert_int_equal(play.n, 3);
    while (!play.done)
        for (size_t i = 1, turn = play.n; i <= turn; i++)
            if (play_trains(&play, i)) {
                play.trials[i].at += step;
                play_tell(&play, (struct searcher_event){.type = EVENT_VALIDATION,
                                                         .trial = (int64_t)i,
                                                         .unit = play.trials[i].at,
                                                         .value = ++metric});
            }
    for (size_t f = 1; f < n; f++) { /* a field for each bracket, known by its first rung */
        double first = strtod(strchr(fields[f], '@') + 1, NULL), want_trials = 0;
        for (char *word; (word = strsep(&fields[f], " "));) {
            int want, got = 0;
            double units;
            if (sscanf(word, "%d@%lf", &want, &units) != 2)
                continue;
            for (size_t i = 1; i <= play.n; i++)
                got += play.trials[i].untils[0] == first && play.trials[i].at == units;
            assert_int_equal(got, want);
            want_trials += want;
        }
        for (size_t i = 1; i <= play.n; i++)
            want_trials -= play.trials[i].untils[0] == first;
        assert_true(want_trials == 0);
    }
    assert_int_equal(play.n, config.max_trials);
    play_done(&play);
    space_free(space);
}

static void plays_with_metrics_that_worsen(void **state)
{
    (void)state;
    assert_int_equal(golden_each(LIVE, "worse", check_worse), 2);
}

static double fails_where_marked(const struct world *world, int64_t trial)
{
    return isnan(world->values[trial - 1]) ? 1 : 0;
}

static void check_fixed(char **fields, size_t n, bool stop_once)
{
    struct searcher_config config = golden_config(fields[0], NULL);
    struct space *space = driver_space(LR_SPACE);
    double values[GOLDEN_NUMBERS];
    struct world world = {.value = fixed_value, .fails = fails_where_marked, .values = values};
    struct play play;
    char text[400] = "", *word;
    size_t values_n = 0;

    assert_int_equal(n, 3);
    while ((word = strsep(&fields[1], " ")))
        if (*word)
            values[values_n++] = *word == 'x' ? NAN : strtod(word, NULL);
    assert_int_equal(values_n, config.max_trials);
    config.scheduler = "async_halving";
    config.stop_once = stop_once;
    config.accumulate_rungs = !stop_once;
    play_init(&play, driver_searcher(&config, space), &world);
    play_in_order(&play);
    assert_true(play.done);
    for (size_t i = 1; i <= play.n; i++)
        for (size_t k = 0; k < play.trials[i].untils_n; k++)
            snprintf(text + strlen(text), sizeof text - strlen(text), "%s%g", k ? "/" : " ",
                     play.trials[i].untils[k] - (k && !stop_once ? play.trials[i].untils[k - 1] : 0));
    assert_string_equal(text, fields[2]);
    play_done(&play);
    space_free(space);
}

static void check_promote(char **fields, size_t n)
{
    check_fixed(fields, n, false);
}

static void promotes_as_published(void **state)
{
    (void)state;
    assert_int_equal(golden_each(LIVE, "promote", check_promote), 5);
}

static void check_stop(char **fields, size_t n)
{
    check_fixed(fields, n, true);
}

static void stops_as_published(void **state)
{
    (void)state;
    assert_int_equal(golden_each(LIVE, "stop", check_stop), 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shares_trials_among_brackets),
        cmocka_unit_test(shares_lanes_among_brackets),
        cmocka_unit_test(makes_brackets),
        cmocka_unit_test(makes_rungs),
        cmocka_unit_test(logarithms_are_exact),
        cmocka_unit_test(previews_without_metrics),
        cmocka_unit_test(plays_with_metrics_that_worsen),
        cmocka_unit_test(promotes_as_published),
        cmocka_unit_test(stops_as_published),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
