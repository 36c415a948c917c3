/* test_retention.c - which checkpoints are kept, by the golden table and in a running experiment.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/experiment/experiment_private.h"
#include "tests/orchestrator/experiment/bench.h"

#define GOLDEN "tests/golden/experiment/retention.txt"

struct golden {
    struct retained list[32];
    size_t n;
};

static void keeps(struct golden *golden, bool smaller, const int *settings, int64_t winner, const char *expected)
{
    char got[200] = "";

    retention_mark(golden->list, golden->n, smaller, settings[0], settings[1], settings[2], winner);
    for (size_t i = 0; i < golden->n; i++)
        if (golden->list[i].keep)
            sprintf(got + strlen(got), " %lld", (long long)golden->list[i].id);
    assert_string_equal(got, expected);
}

/* Calls check for each row of the table; the number of rows. */
static size_t each_row(void (*check)(struct golden *golden, const int *settings, const char *expected))
{
    struct golden golden = {.n = 0};
    char line[200], metric[20];
    FILE *file = fopen(GOLDEN, "r");
    size_t rows = 0;

    assert_non_null(file);
    while (fgets(line, sizeof line, file)) {
        long long id, trial;
        int settings[3], at;
        line[strcspn(line, "\n")] = 0;
        if (sscanf(line, "checkpoint %lld %lld %19s", &id, &trial, metric) == 3) {
            struct retained *one = &golden.list[golden.n++];
            *one = (struct retained){.id = id, .trial = trial, .has_value = strcmp(metric, "none")};
            one->value = one->has_value ? atof(metric) : 0;
        } else if (sscanf(line, "keep %d %d %d :%n", &settings[0], &settings[1], &settings[2], &at) == 3) {
            check(&golden, settings, line + at);
            rows++;
        }
    }
    fclose(file);
    return rows;
}

static void check_row(struct golden *golden, const int *settings, const char *expected)
{
    keeps(golden, true, settings, 0, expected);
}

static void keeps_what_the_golden_table_keeps(void **state)
{
    (void)state;
    assert_int_equal(each_row(check_row), 8);
}

/* The same with the metric's sign turned, and larger being better. */
static void check_turned(struct golden *golden, const int *settings, const char *expected)
{
    for (size_t i = 0; i < golden->n; i++)
        golden->list[i].value = -golden->list[i].value;
    keeps(golden, false, settings, 0, expected);
    for (size_t i = 0; i < golden->n; i++)
        golden->list[i].value = -golden->list[i].value;
}

static void keeps_the_same_when_larger_is_better(void **state)
{
    (void)state;
    assert_int_equal(each_row(check_turned), 8);
}

static void check_winner(struct golden *golden, const int *settings, const char *expected)
{
    if (!settings[0] && !settings[1] && !settings[2]) {
        assert_string_equal(expected, "");
        keeps(golden, true, settings, 7, " 7");
    }
}

static void always_keeps_the_winner(void **state)
{
    (void)state;
    each_row(check_winner);
}

static void a_value_that_is_not_finite_is_never_among_the_best(void **state)
{
    struct golden golden = {.list = {{.id = 1, .trial = 1, .has_value = true, .value = NAN},
                                     {.id = 2, .trial = 1, .has_value = true, .value = -INFINITY},
                                     {.id = 3, .trial = 1, .has_value = true, .value = 2},
                                     {.id = 4, .trial = 1, .has_value = true, .value = 2}},
                            .n = 4};

    (void)state;
    keeps(&golden, true, (int[]){0, 1, 0}, 0, " 3"); /* of equal ones the older */
    keeps(&golden, true, (int[]){4, 4, 0}, 0, " 3 4");
}

/* --- in a running experiment -------------------------------------------------------------------------------------- */

/* "1 3": the kept checkpoints on disk. */
static const char *kept(const struct bench *b)
{
    static char text[400];
    const char *id;
    json_t *row;

    text[0] = 0;
    json_object_foreach (json_object_get(b->disk, "checkpoints"), id, row) {
        if (!json_bool_or(row, "deleted", false))
            sprintf(text + strlen(text), "%s%s", *text ? " " : "", id);
    }
    return text;
}

static void a_running_trial_keeps_its_latest_and_its_best(void **state)
{
    struct bench b;

    (void)state;
    bench_open(&b, PLAIN);
    bench_start(&b, 1);
    say_value(&b, 1, 1, 1, "0.5");
    say_saved(&b, 1, 2, 1);
    assert_string_equal(kept(&b), "1");
    say_value(&b, 1, 3, 2, "0.4");
    say_saved(&b, 1, 4, 2);
    assert_string_equal(kept(&b), "1 2");
    say_saved(&b, 1, 5, 3); /* no validation there */
    assert_string_equal(b.heard, "ack 1 5\ndelete /home/test/results/experiments/1/trials/1/runs/1/checkpoint-2.safetensors\n"
                                 "changed\n");
    assert_string_equal(kept(&b), "1 3");
    say_value(&b, 1, 6, 4, "0.6");
    say_saved(&b, 1, 7, 4);
    assert_string_equal(kept(&b), "4");
    bench_close(&b);
}

/* The old file may still be about to go, and would take the new one with it. */
static void a_path_that_was_deleted_does_not_come_again_in_that_run(void **state)
{
    struct bench b;

    (void)state;
    bench_open(&b, PLAIN);
    bench_start(&b, 1);
    say_value(&b, 1, 1, 1, "0.5");
    assert_int_equal(say_saved_as(&b, 1, 2, 1, "a"), 0);
    assert_int_equal(say_saved_as(&b, 1, 3, 2, "b"), 0);
    assert_int_equal(say_saved_as(&b, 1, 4, 3, "c"), 0);
    assert_string_equal(kept(&b), "1 3");
    assert_int_equal(say_saved_as(&b, 1, 5, 3, "b"), -EINVAL);
    assert_string_equal(b.err.text, "operation checkpoint: path \"b\" was that of an earlier checkpoint, which is"
                                    " deleted; each needs its own");
    bench_dies(&b, 1, "signal");
    bench_start(&b, 1); /* by now that is carried out */
    assert_int_equal(say_saved_as(&b, 2, 1, 3, "b"), 0);
    bench_close(&b);
}

static void a_validation_behind_its_checkpoint_still_counts(void **state)
{
    struct bench b;

    (void)state;
    bench_open(&b, PLAIN);
    bench_start(&b, 1);
    say_saved(&b, 1, 1, 2);
    assert_null(json_object_get(disk_trial(b.disk, 1), "best"));
    say_value(&b, 1, 2, 2, "0.5");
    assert_int_equal(json_int_or(json_object_get(disk_trial(b.disk, 1), "best"), "checkpoint", 0), 1);
    say_value(&b, 1, 3, 3, "\"NaN\"");
    say_saved(&b, 1, 4, 3);
    assert_int_equal(json_int_or(json_object_get(disk_trial(b.disk, 1), "best"), "checkpoint", 0), 1);
    bench_close(&b);
}

static void at_the_end_only_what_was_asked_for_stays(void **state)
{
    static const struct {
        const char *settings, *kept;
    } ROWS[] = {
        {"save_experiment_best: 0, save_trial_best: 0, save_trial_latest: 0", "3"}, /* the winner's */
        {"save_experiment_best: 0, save_trial_best: 1, save_trial_latest: 1", "1 2 3 4"},
        {"save_experiment_best: 0, save_trial_best: 0, save_trial_latest: 1", "2 3 4"},
        {"save_experiment_best: 2, save_trial_best: 0, save_trial_latest: 0", "1 3"},
        {"save_experiment_best: 3, save_trial_best: 0, save_trial_latest: 0", "1 3 4"},
    };
    char yaml[2000];

    (void)state;
    for (size_t i = 0; i < sizeof ROWS / sizeof *ROWS; i++) {
        struct bench b;
        snprintf(yaml, sizeof yaml,
                 "name: two\nhyperparameters: {lr: {type: double, minval: 0.1, maxval: 0.3, count: 2}}\n"
                 "searcher: {name: grid, max_time: 4, max_concurrent_trials: 2, " METRIC "}\n"
                 "checkpoint_storage: {%s}\n" REST, ROWS[i].settings);
        bench_open(&b, yaml);
        bench_start(&b, 1);
        say_value(&b, 1, 1, 2, "0.5");
        say_saved(&b, 1, 2, 2); /* checkpoint 1 */
        say_value(&b, 1, 3, 4, "0.2");
        say_saved(&b, 1, 4, 4); /* 2 */
        say_end(&b, 1, 5, "length");
        bench_start(&b, 2);
        say_value(&b, 2, 1, 2, "0.9");
        say_saved(&b, 2, 2, 2); /* 3 */
        say_value(&b, 2, 3, 4, "0.4");
        say_saved(&b, 2, 4, 4); /* 4 */
        say_end(&b, 2, 5, "length");
        bench_start(&b, 2);
        bench_say(&b, "{\"op\":\"report\",\"run\":3,\"seq\":1,\"kind\":\"test\",\"units\":{\"rounds\":2},\"metrics\":{}}");
        assert_int_equal(bench_restore(&b), 0); /* the rest is decided by what is on disk */
        assert_string_equal(experiment_is(&b), "completed");
        assert_string_equal(kept(&b), ROWS[i].kept);
        bench_close(&b);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keeps_what_the_golden_table_keeps),
        cmocka_unit_test(keeps_the_same_when_larger_is_better),
        cmocka_unit_test(always_keeps_the_winner),
        cmocka_unit_test(a_value_that_is_not_finite_is_never_among_the_best),
        cmocka_unit_test(a_running_trial_keeps_its_latest_and_its_best),
        cmocka_unit_test(a_path_that_was_deleted_does_not_come_again_in_that_run),
        cmocka_unit_test(a_validation_behind_its_checkpoint_still_counts),
        cmocka_unit_test(at_the_end_only_what_was_asked_for_stays),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
