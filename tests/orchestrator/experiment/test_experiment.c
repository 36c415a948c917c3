/* test_experiment.c - the experiment as a whole: verbs, its end, evaluation, restoring.
 * SPDX-License-Identifier: Apache-2.0 */
#include "tests/orchestrator/experiment/bench.h"

static const char *reason_of(const struct bench *b)
{
    return json_string_or(json_object_get(b->disk, "experiment"), "reason", "");
}

/* A trial of PLAIN trained to its end. */
static void train(struct bench *b, int64_t trial, const char *value)
{
    int64_t run = bench_start(b, trial);

    say_value(b, run, 1, 4, value);
    say_saved(b, run, 2, 4);
    say_end(b, run, 3, "stopped");
}

static void pause_checkpoints_and_activate_goes_on(void **state)
{
    struct bench b;

    (void)state;
    bench_open(&b, PLAIN);
    bench_start(&b, 1);
    assert_int_equal(bench_verb(&b, experiment_pause), 0);
    assert_string_equal(b.heard, "preempt 1\nchanged\n");
    assert_string_equal(experiment_is(&b), "paused");
    assert_string_equal(trial_is(&b, 2), "paused");
    assert_string_equal(trial_is(&b, 1), "running");
    assert_string_equal(wanted(&b), "");
    say_saved(&b, 1, 1, 2);
    say_end(&b, 1, 2, "preempted");
    assert_string_equal(trial_is(&b, 1), "paused");
    assert_int_equal(bench_restore(&b), 0); /* stays paused */
    assert_string_equal(trial_is(&b, 1), "paused");
    assert_int_equal(bench_verb(&b, experiment_pause), -EINVAL);
    assert_string_equal(b.err.text, "experiment 1 is paused: it cannot be paused");
    assert_int_equal(bench_verb(&b, experiment_activate), 0);
    assert_string_equal(wanted(&b), "1 2 3");
    assert_int_equal(json_int_or(disk_trial(b.disk, 1), "restarts", -1), 0);
    assert_int_equal(bench_verb(&b, experiment_activate), -EINVAL);
    assert_string_equal(b.err.text, "experiment 1 is active: it cannot be activated");
    bench_start(&b, 1);
    assert_int_equal(json_int_or(json_object_get(json_object_get(b.last, "resume"), "units"), "rounds", 0), 2);
    bench_close(&b);
}

static void activated_while_a_run_still_makes_room(void **state)
{
    struct bench b;

    (void)state;
    bench_open(&b, PLAIN);
    bench_start(&b, 1);
    bench_verb(&b, experiment_pause);
    bench_verb(&b, experiment_activate);
    assert_string_equal(trial_is(&b, 1), "running");
    say_end(&b, 1, 1, "preempted");
    assert_string_equal(trial_is(&b, 1), "queued");
    bench_close(&b);
}

static void an_experiment_may_begin_paused(void **state)
{
    struct bench b = {0};
    struct id_source ids = {bench_next_run, bench_next_checkpoint, &b};
    struct turn turn;

    (void)state;
    b.disk = disk_new();
    turn = bench_turn(&b);
    assert_int_equal(experiment_new(1, bench_config(PLAIN), BENCH_HOME, &ids, true, &turn, &b.experiment, &b.err), 0);
    bench_commit(&b, &turn);
    assert_string_equal(experiment_is(&b), "paused");
    assert_string_equal(trial_is(&b, 3), "paused");
    assert_string_equal(wanted(&b), "");
    assert_int_equal(bench_verb(&b, experiment_activate), 0);
    assert_string_equal(wanted(&b), "1 2 3");
    bench_close(&b);
}

static void cancel_stops_at_the_rounds_end(void **state)
{
    struct bench b;

    (void)state;
    bench_open(&b, PLAIN);
    bench_start(&b, 1);
    assert_int_equal(bench_verb(&b, experiment_cancel), 0);
    assert_string_equal(b.heard, "stop 1\nchanged\n");
    assert_string_equal(experiment_is(&b), "stopping");
    assert_string_equal(trial_is(&b, 2), "canceled");
    assert_string_equal(trial_is(&b, 1), "running");
    assert_int_equal(bench_verb(&b, experiment_cancel), 0); /* twice does no harm */
    assert_string_equal(b.heard, "");
    say_value(&b, 1, 1, 4, "0.5"); /* it was at its end just then: kept, and not told to the searcher */
    assert_string_equal(b.heard, "ack 1 1\nchanged\n");
    assert_false(experiment_has_ended(b.experiment));
    say_end(&b, 1, 2, "stopped");
    assert_string_equal(trial_is(&b, 1), "canceled");
    assert_string_equal(experiment_is(&b), "canceled");
    assert_true(experiment_has_ended(b.experiment));
    assert_int_equal(bench_verb(&b, experiment_cancel), -EINVAL);
    assert_string_equal(b.err.text, "experiment 1 is canceled: it cannot be canceled");
    bench_close(&b);
}

static void a_cancel_outlives_the_orchestrator(void **state)
{
    struct bench b;

    (void)state;
    bench_open(&b, PLAIN);
    bench_start(&b, 1);
    bench_verb(&b, experiment_cancel);
    assert_int_equal(bench_restore(&b), 0);
    assert_string_equal(run_ended_by(&b, 1), "orchestrator_lost");
    assert_string_equal(trial_is(&b, 1), "canceled");
    assert_string_equal(experiment_is(&b), "canceled");
    bench_close(&b);
}

static void kill_ends_runs_at_once(void **state)
{
    struct bench b;

    (void)state;
    bench_open(&b, PLAIN);
    bench_start(&b, 1);
    bench_start(&b, 2);
    bench_verb(&b, experiment_cancel); /* too slow for the user */
    assert_int_equal(bench_verb(&b, experiment_kill), 0);
    assert_string_equal(b.heard, "kill 1\nkill 2\nchanged\n");
    assert_string_equal(experiment_is(&b), "canceled");
    assert_string_equal(reason_of(&b), "killed");
    assert_string_equal(run_ended_by(&b, 2), "killed");
    assert_true(experiment_has_ended(b.experiment));
    assert_int_equal(bench_verb(&b, experiment_pause), -EINVAL);
    bench_close(&b);
}

static void after_the_time_limit_the_best_stands_and_is_evaluated(void **state)
{
    struct bench b;
    struct turn turn;

    (void)state;
    bench_open(&b, PLAIN);
    train(&b, 1, "0.5");
    bench_start(&b, 2);
    turn = bench_turn(&b);
    experiment_time_limit(b.experiment, &turn);
    bench_commit(&b, &turn);
    assert_string_equal(b.heard, "stop 2\nchanged\n");
    assert_string_equal(trial_is(&b, 3), "stopped time_limit");
    assert_int_equal(bench_restore(&b), 0); /* what it was stopping for is remembered */
    assert_string_equal(trial_is(&b, 2), "stopped time_limit");
    assert_string_equal(experiment_is(&b), "stopping");
    assert_string_equal(wanted(&b), "1");
    assert_int_equal(bench_start(&b, 1), 3);
    turn = bench_turn(&b);
    experiment_time_limit(b.experiment, &turn);
    bench_commit(&b, &turn);
    assert_string_equal(b.heard, "");
    bench_say(&b, "{\"op\":\"report\",\"run\":3,\"seq\":1,\"kind\":\"test\",\"units\":{\"rounds\":4},\"metrics\":{\"test_accuracy\":1}}");
    say_end(&b, 3, 2, "evaluated");
    assert_string_equal(experiment_is(&b), "completed");
    assert_string_equal(reason_of(&b), "time_limit");
    bench_close(&b);
}

static void an_evaluation_that_fails_leaves_the_experiment_completed(void **state)
{
    struct bench b;

    (void)state;
    bench_open(&b, "max_restarts: 1\n" PLAIN);
    for (int t = 1; t <= 3; t++)
        train(&b, t, "0.5");
    assert_string_equal(wanted(&b), "1");
    bench_dies(&b, bench_start(&b, 1), "signal");
    assert_string_equal(wanted(&b), "1"); /* once more */
    bench_preempt(&b, bench_start(&b, 1));
    say_end(&b, 5, 1, "preempted");
    assert_string_equal(wanted(&b), "1"); /* that did not count */
    bench_dies(&b, bench_start(&b, 1), "signal");
    assert_string_equal(experiment_is(&b), "completed");
    assert_string_equal(reason_of(&b),
                        "the best trial could not be evaluated on the test split: signal: its last words");
    assert_string_equal(json_string_or(json_array_get(json_object_get(b.disk, "logs"), 0), "text", ""), reason_of(&b));
    assert_int_equal(json_array_size(json_object_get(b.disk, "tests")), 0);
    assert_string_equal(trial_is(&b, 1), "completed length");
    bench_close(&b);
}

static void an_evaluation_with_no_test_split_is_not_tried_again(void **state)
{
    struct bench b;

    (void)state;
    bench_open(&b, "max_restarts: 5\n" PLAIN);
    for (int t = 1; t <= 3; t++)
        train(&b, t, "0.5");
    bench_start(&b, 1);
    bench_say(&b, "{\"op\":\"failed\",\"run\":4,\"seq\":1,\"reason\":\"bad_configuration\",\"text\":\"no test split\"}");
    assert_string_equal(experiment_is(&b), "completed");
    assert_non_null(strstr(reason_of(&b), "no test split"));
    bench_close(&b);
}

static void when_all_trials_fail_the_experiment_has_failed(void **state)
{
    struct bench b;

    (void)state;
    bench_open(&b, "max_restarts: 0\n" PLAIN);
    for (int t = 1; t <= 3; t++)
        bench_dies(&b, bench_start(&b, t), "exit");
    assert_string_equal(experiment_is(&b), "error");
    assert_string_equal(reason_of(&b), "all 3 trials ended in error");
    bench_close(&b);
}

static void one_good_trial_is_enough(void **state)
{
    struct bench b;

    (void)state;
    bench_open(&b, "max_restarts: 0\n" PLAIN);
    bench_dies(&b, bench_start(&b, 1), "exit");
    train(&b, 2, "0.1");
    bench_dies(&b, bench_start(&b, 3), "exit");
    assert_string_equal(experiment_is(&b), "active");
    assert_string_equal(wanted(&b), "2");
    bench_start(&b, 2);
    bench_say(&b, "{\"op\":\"report\",\"run\":4,\"seq\":1,\"kind\":\"test\",\"units\":{\"rounds\":4},\"metrics\":{}}");
    say_end(&b, 4, 2, "evaluated");
    assert_string_equal(experiment_is(&b), "completed");
    bench_close(&b);
}

static void without_a_finite_value_nothing_is_evaluated(void **state)
{
    struct bench b;

    (void)state;
    bench_open(&b, PLAIN);
    for (int t = 1; t <= 3; t++)
        train(&b, t, "\"Infinity\"");
    assert_string_equal(experiment_is(&b), "completed");
    assert_null(json_object_get(json_object_get(b.disk, "experiment"), "best"));
    bench_close(&b);
}

static void the_order_of_arrival_does_not_choose_between_equals(void **state)
{
    static const int ORDERS[][3] = {{1, 2, 3}, {3, 2, 1}, {2, 1, 3}, {3, 1, 2}};

    (void)state;
    for (size_t i = 0; i < 4; i++) {
        struct bench b;
        bench_open(&b, PLAIN);
        for (int k = 0; k < 3; k++)
            train(&b, ORDERS[i][k], ORDERS[i][k] == 1 ? "0.4" : "0.7");
        assert_int_equal(json_int_or(json_object_get(json_object_get(b.disk, "experiment"), "best"), "trial", 0), 2);
        assert_int_equal(bench_restore(&b), 0);
        assert_string_equal(wanted(&b), "2");
        bench_close(&b);
    }
}

static void progress_reaches_one(void **state)
{
    struct bench b;
    double last = 0;

    (void)state;
    bench_open(&b, PLAIN);
    for (int t = 1; t <= 3; t++) {
        double now;
        train(&b, t, "\"NaN\"");
        now = json_double_or(json_object_get(b.disk, "experiment"), "progress", -1);
        assert_true(now > last);
        last = now;
    }
    assert_float_equal(last, 1, 0);
    bench_close(&b);
}

static double progress_of(const struct bench *b)
{
    return json_double_or(json_object_get(b->disk, "experiment"), "progress", -1);
}

static void say_trained(struct bench *b, int64_t run, int64_t seq, int64_t round)
{
    assert_int_equal(bench_say(b, "{\"op\":\"report\",\"run\":%lld,\"seq\":%lld,\"kind\":\"training\","
                                  "\"units\":{\"rounds\":%lld},\"metrics\":{\"train_loss\":1}}",
                               (long long)run, (long long)seq, (long long)round), 0);
}

/* Three trials of four rounds; nothing has reached a decision yet. */
static void progress_counts_rounds_that_lead_to_a_decision(void **state)
{
    struct bench b;

    (void)state;
    bench_open(&b, PLAIN);
    bench_start(&b, 1);
    bench_start(&b, 2);
    assert_true(progress_of(&b) <= 0);
    say_trained(&b, 1, 1, 1);
    assert_float_equal(progress_of(&b), 1.0 / 12, 1e-9);
    say_trained(&b, 2, 1, 2);
    assert_float_equal(progress_of(&b), 3.0 / 12, 1e-9);
    assert_int_equal(bench_say(&b, "{\"op\":\"progress\",\"run\":1,\"units\":{\"rounds\":3}}"), 0);
    assert_float_equal(progress_of(&b), 5.0 / 12, 1e-9);
    say_value(&b, 1, 2, 4, "0.5");
    assert_float_equal(progress_of(&b), 6.0 / 12, 1e-9);
    say_trained(&b, 2, 2, 400); /* not further than it was asked to */
    assert_float_equal(progress_of(&b), 8.0 / 12, 1e-9);
    bench_close(&b);
}

static void what_is_canceled_shows_what_was_trained(void **state)
{
    struct bench b;

    (void)state;
    bench_open(&b, PLAIN);
    bench_start(&b, 1);
    say_trained(&b, 1, 1, 1);
    assert_int_equal(bench_verb(&b, experiment_cancel), 0);
    say_trained(&b, 1, 2, 2);
    say_end(&b, 1, 3, "stopped");
    assert_string_equal(experiment_is(&b), "canceled");
    assert_float_equal(progress_of(&b), 1.0 / 12, 1e-9);
    bench_close(&b);
}

/* --- a journal that does not replay -------------------------------------------------------------------------------- */

static void refuses_a_journal_that_the_searcher_would_not_have_written(void **state)
{
    static const struct {
        size_t record; /* index in the list */
        const char *path, *value; /* put there; path NULL: the record is removed */
        const char *text;
    } ROWS[] = {
        {1, "body[1].until", "3", "experiment 1: journal record 2: stored operations ["},
        {1, "answers", "7", "experiment 1: journal record 2: operations that answer record 7, which is no event"},
        {1, "answers", "0", "experiment 1: journal record 2: operations that answer record 0"},
        {2, "body.trial", "9", "experiment 1: journal record 3: searcher: an event about trial 9"},
        {2, "body.event", "\"dance\"", "experiment 1: journal record 3: journal: unknown event \"dance\""},
        {2, "kind", "\"reopened\"", "kind \"reopened\" is not known to this version"},
        {1, NULL, NULL, "experiment 1: journal record 2 is missing (3 follows 1)"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof ROWS / sizeof *ROWS; i++) {
        struct bench b;
        json_t *journal, *record;
        bench_open(&b, PLAIN);
        bench_start(&b, 1);
        say_value(&b, 1, 1, 4, "0.5");
        journal = json_object_get(b.disk, "journal");
        record = json_array_get(journal, ROWS[i].record);
        if (!ROWS[i].path) {
            json_array_remove(journal, ROWS[i].record);
        } else {
            const char *dot = strrchr(ROWS[i].path, '.');
            char parent[40] = "";
            if (dot)
                snprintf(parent, sizeof parent, "%.*s", (int)(dot - ROWS[i].path), ROWS[i].path);
            json_object_set_new(json_at(record, parent), dot ? dot + 1 : ROWS[i].path,
                                json_loads(ROWS[i].value, JSON_DECODE_ANY, NULL));
        }
        assert_int_equal(bench_restore(&b), -EINVAL);
        if (!strstr(b.err.text, ROWS[i].text))
            printf("# %s\n", b.err.text);
        assert_non_null(strstr(b.err.text, ROWS[i].text));
        bench_close(&b);
    }
}

static void says_what_was_stored_and_what_was_computed(void **state)
{
    struct bench b;

    (void)state;
    bench_open(&b, PLAIN);
    json_object_set_new(json_at(json_object_get(b.disk, "journal"), "[1].body[1]"), "until", json_integer(3));
    assert_int_equal(bench_restore(&b), -EINVAL);
    assert_non_null(strstr(b.err.text, "\"until\":3}"));
    assert_non_null(strstr(b.err.text, "computed ["));
    assert_non_null(strstr(b.err.text, "\"until\":4}"));
    bench_close(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pause_checkpoints_and_activate_goes_on),
        cmocka_unit_test(activated_while_a_run_still_makes_room),
        cmocka_unit_test(an_experiment_may_begin_paused),
        cmocka_unit_test(cancel_stops_at_the_rounds_end),
        cmocka_unit_test(a_cancel_outlives_the_orchestrator),
        cmocka_unit_test(kill_ends_runs_at_once),
        cmocka_unit_test(after_the_time_limit_the_best_stands_and_is_evaluated),
        cmocka_unit_test(an_evaluation_that_fails_leaves_the_experiment_completed),
        cmocka_unit_test(an_evaluation_with_no_test_split_is_not_tried_again),
        cmocka_unit_test(when_all_trials_fail_the_experiment_has_failed),
        cmocka_unit_test(one_good_trial_is_enough),
        cmocka_unit_test(without_a_finite_value_nothing_is_evaluated),
        cmocka_unit_test(the_order_of_arrival_does_not_choose_between_equals),
        cmocka_unit_test(progress_reaches_one),
        cmocka_unit_test(progress_counts_rounds_that_lead_to_a_decision),
        cmocka_unit_test(what_is_canceled_shows_what_was_trained),
        cmocka_unit_test(refuses_a_journal_that_the_searcher_would_not_have_written),
        cmocka_unit_test(says_what_was_stored_and_what_was_computed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
