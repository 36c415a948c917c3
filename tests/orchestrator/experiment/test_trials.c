/* test_trials.c - the life of trials: failures and restarts, promotion, convergence, preemption, a user's kill.
 * SPDX-License-Identifier: Apache-2.0 */
#include "tests/orchestrator/experiment/bench.h"

static int say_failed(struct bench *b, int64_t run, int64_t seq, const char *reason)
{
    return bench_say(b, "{\"op\":\"failed\",\"run\":%lld,\"seq\":%lld,\"reason\":\"%s\",\"text\":\"because\"}",
                     (long long)run, (long long)seq, reason);
}

static char *last_event(const struct bench *b)
{
    char *text = journal_text(b, "event"), *line;

    text[strlen(text) - 1] = 0;
    line = strrchr(text, '\n');
    line = strdup(line ? line + 1 : text);
    free(text);
    return line;
}

static void expect_event(const struct bench *b, const char *expected)
{
    char *line = last_event(b);

    assert_string_equal(line, expected);
    free(line);
}

static void failures_are_tried_again_up_to_max_restarts(void **state)
{
    static const struct {
        const char *reason;
        bool dies; /* else it says failed */
        int tries; /* until the trial is in error */
    } ROWS[] = {
        {"error", false, 3},       {"out_of_memory", false, 3}, {"signal", true, 3},     {"silent", true, 3},
        {"non_finite", false, 1},  {"bad_configuration", false, 1},
    };

    (void)state;
    for (size_t i = 0; i < sizeof ROWS / sizeof *ROWS; i++) {
        struct bench b;
        char expected[100];
        bench_open(&b, "max_restarts: 2\n" PLAIN);
        for (int try = 1; try <= ROWS[i].tries; try++) {
            int64_t run;
            assert_string_equal(wanted(&b), "1 2 3");
            run = bench_start(&b, 1);
            if (ROWS[i].dies) {
                bench_dies(&b, run, ROWS[i].reason);
            } else {
                assert_int_equal(say_failed(&b, run, 1, ROWS[i].reason), 0);
                assert_non_null(strstr(b.heard, "free")); /* the worker goes on */
            }
            assert_string_equal(run_ended_by(&b, run), ROWS[i].reason);
            snprintf(expected, sizeof expected, "%s %s", try < ROWS[i].tries ? "queued" : "error", ROWS[i].reason);
            assert_string_equal(trial_is(&b, 1), expected);
        }
        assert_int_equal(json_int_or(disk_trial(b.disk, 1), "restarts", -1), ROWS[i].tries - 1);
        assert_string_equal(json_string_or(disk_trial(b.disk, 1), "text", ""), ROWS[i].dies ? "its last words" : "because");
        expect_event(&b, "{\"event\":\"exited\",\"trial\":1,\"exit\":\"error\"}");
        assert_string_equal(wanted(&b), "2 3");
        bench_close(&b);
    }
}

static void restarts_are_remembered_by_the_store(void **state)
{
    struct bench b;

    (void)state;
    bench_open(&b, "max_restarts: 1\n" PLAIN);
    bench_dies(&b, bench_start(&b, 1), "exit");
    assert_int_equal(bench_restore(&b), 0);
    bench_dies(&b, bench_start(&b, 1), "exit");
    assert_string_equal(trial_is(&b, 1), "error exit");
    bench_close(&b);
}

static void losing_the_orchestrator_or_the_slots_costs_no_restart(void **state)
{
    struct bench b;
    int64_t run;

    (void)state;
    bench_open(&b, "max_restarts: 0\n" PLAIN);
    for (int i = 0; i < 3; i++) { /* all is lost */
        run = bench_start(&b, 1);
        assert_int_equal(bench_restore(&b), 0);
        assert_string_equal(run_ended_by(&b, run), "orchestrator_lost");
        assert_string_equal(trial_is(&b, 1), "queued");
    }
    run = bench_start(&b, 1); /* preempted in order */
    bench_preempt(&b, run);
    assert_string_equal(b.heard, "preempt 4\n");
    bench_preempt(&b, run); /* asked for once */
    assert_string_equal(b.heard, "");
    say_saved(&b, run, 1, 1);
    say_end(&b, run, 2, "preempted");
    assert_string_equal(trial_is(&b, 1), "queued");
    run = bench_start(&b, 1); /* preempted, and killed for being slow about it */
    bench_preempt(&b, run);
    bench_dies(&b, run, "signal");
    assert_string_equal(trial_is(&b, 1), "queued signal");
    run = bench_start(&b, 1); /* the server is going down */
    bench_dies(&b, run, "orchestrator_lost");
    assert_string_equal(trial_is(&b, 1), "queued orchestrator_lost");
    assert_int_equal(json_int_or(disk_trial(b.disk, 1), "restarts", -1), 0);
    bench_dies(&b, bench_start(&b, 1), "signal");
    assert_string_equal(trial_is(&b, 1), "error signal");
    bench_close(&b);
}

static void a_run_that_ends_before_its_decision_has_failed(void **state)
{
    struct bench b;

    (void)state;
    bench_open(&b, "max_restarts: 0\n" PLAIN);
    bench_start(&b, 1);
    say_value(&b, 1, 1, 3, "0.5");
    say_end(&b, 1, 2, "length");
    assert_string_equal(trial_is(&b, 1), "error error");
    assert_string_equal(json_string_or(disk_trial(b.disk, 1), "text", ""),
                        "the run ended by itself (length) before it had validated at 4 rounds");
    bench_close(&b);
}

/* Rungs 1, 3 and 9; a trial is promoted when three have reported and it is the best. */
static void a_rung_holds_trials_until_they_are_promoted(void **state)
{
    struct bench b;

    (void)state;
    bench_open(&b, RUNGS);
    for (int t = 1; t <= 3; t++) {
        assert_int_equal(bench_start(&b, t), t);
        assert_int_equal(json_int_or(b.last, "train_until", 0), 1);
    }
    say_value(&b, 1, 1, 1, "0.9");
    assert_string_equal(b.heard, "ack 1 1\npreempt 1\nchanged\n"); /* its slot goes to trial 4 */
    say_saved(&b, 1, 2, 1);
    say_end(&b, 1, 3, "preempted");
    assert_string_equal(trial_is(&b, 1), "waiting");
    say_value(&b, 2, 1, 1, "0.5");
    assert_string_equal(wanted(&b), "4 5");
    /* the third value promotes trial 1, and it is trial 3 that waits now */
    say_value(&b, 3, 1, 1, "0.4");
    assert_string_equal(b.heard, "ack 3 1\npreempt 3\nchanged\n");
    assert_string_equal(trial_is(&b, 1), "queued");
    assert_string_equal(wanted(&b), "1 4 5");
    assert_int_equal(bench_start(&b, 1), 4);
    assert_int_equal(json_int_or(b.last, "train_until", 0), 3);
    assert_string_equal(json_string_or(json_object_get(b.last, "resume"), "path", ""),
                        "/home/test/results/experiments/1/trials/1/runs/1/checkpoint-1.safetensors");
    bench_close(&b);
}

static void a_promotion_that_comes_while_it_makes_room_works(void **state)
{
    struct bench b;

    (void)state;
    bench_open(&b, RUNGS);
    for (int t = 1; t <= 3; t++)
        bench_start(&b, t);
    say_value(&b, 1, 1, 1, "0.9"); /* told to preempt, and not gone yet */
    say_value(&b, 2, 1, 1, "0.5");
    say_value(&b, 3, 1, 1, "0.4");
    assert_string_equal(trial_is(&b, 1), "running");
    assert_null(strstr(b.heard, "train_until"));
    say_saved(&b, 1, 2, 1);
    say_end(&b, 1, 3, "preempted");
    assert_string_equal(trial_is(&b, 1), "queued");
    assert_int_equal(bench_start(&b, 1), 4);
    assert_int_equal(json_int_or(b.last, "train_until", 0), 3);
    bench_close(&b);
}

static void the_best_of_a_rung_goes_on_where_it_stands(void **state)
{
    struct bench b;

    (void)state;
    bench_open(&b, RUNGS);
    for (int t = 1; t <= 3; t++)
        bench_start(&b, t);
    say_value(&b, 1, 1, 1, "0.4");
    say_value(&b, 2, 1, 1, "0.5");
    say_value(&b, 3, 1, 1, "0.9");
    assert_string_equal(b.heard, "ack 3 1\ntrain_until 3 3\nchanged\n");
    assert_string_equal(trial_is(&b, 3), "running");
    bench_close(&b);
}

static void a_checkpoint_that_was_lost_is_trained_for_again(void **state)
{
    struct bench b;

    (void)state;
    bench_open(&b, PLAIN);
    bench_start(&b, 1);
    say_value(&b, 1, 1, 2, "0.5");
    say_saved(&b, 1, 2, 2);
    say_value(&b, 1, 3, 4, "0.9");
    assert_string_equal(b.heard, "ack 1 3\nstop 1\nchanged\n");
    assert_int_equal(bench_restore(&b), 0); /* before the checkpoint of round 4 has come */
    assert_string_equal(trial_is(&b, 1), "queued");
    assert_int_equal(bench_start(&b, 1), 2);
    assert_int_equal(json_int_or(b.last, "train_until", 0), 4);
    assert_string_equal(b.heard, "assign 2\nchanged\n"); /* no stop yet */
    say_value(&b, 2, 1, 4, "0.9");
    assert_string_equal(b.heard, "ack 2 1\nstop 2\nchanged\n");
    expect_event(&b, "{\"event\":\"validation\",\"trial\":1,\"unit\":4,\"value\":0.90000000000000002}");
    say_saved(&b, 2, 2, 4);
    say_end(&b, 2, 3, "stopped");
    assert_string_equal(trial_is(&b, 1), "completed length");
    assert_float_equal(json_double_or(json_object_get(disk_trial(b.disk, 1), "best"), "unit", 0), 4, 0);
    bench_close(&b);
}

static void a_program_that_keeps_no_checkpoint_is_not_asked_twice(void **state)
{
    struct bench b;

    (void)state;
    bench_open(&b, PLAIN);
    bench_start(&b, 1);
    say_value(&b, 1, 1, 4, "0.9");
    say_end(&b, 1, 2, "stopped");
    assert_string_equal(trial_is(&b, 1), "completed length");
    bench_close(&b);
}

static void a_converged_trial_is_completed_and_its_last_value_stands(void **state)
{
    struct bench b;
    char *events;

    (void)state;
    bench_open(&b, PLAIN);
    bench_start(&b, 2);
    say_value(&b, 1, 1, 3, "0.5");
    say_saved(&b, 1, 2, 3);
    say_end(&b, 1, 3, "converged");
    assert_string_equal(b.heard, "ack 1 3\nfree 1\nchanged\n");
    assert_string_equal(trial_is(&b, 2), "completed converged");
    events = journal_text(&b, "event");
    assert_string_equal(events, "{\"event\":\"start\"}\n"
                                "{\"event\":\"validation\",\"trial\":2,\"unit\":3,\"value\":0.5}\n"
                                "{\"event\":\"exited\",\"trial\":2,\"exit\":\"converged\"}\n");
    free(events);
    assert_int_equal(json_int_or(json_object_get(json_object_get(b.disk, "experiment"), "best"), "trial", 0), 2);
    bench_close(&b);
}

static void converging_before_any_validation_is_a_failure(void **state)
{
    struct bench b;

    (void)state;
    bench_open(&b, "max_restarts: 0\n" PLAIN);
    bench_start(&b, 1);
    say_end(&b, 1, 1, "converged");
    assert_string_equal(trial_is(&b, 1), "error error");
    bench_close(&b);
}

static void a_value_that_is_not_finite_is_told_as_it_is(void **state)
{
    struct bench b;

    (void)state;
    bench_open(&b, PLAIN);
    bench_start(&b, 1);
    say_value(&b, 1, 1, 4, "\"NaN\"");
    expect_event(&b, "{\"event\":\"validation\",\"trial\":1,\"unit\":4,\"value\":\"NaN\"}");
    say_saved(&b, 1, 2, 4);
    say_end(&b, 1, 3, "stopped");
    assert_string_equal(trial_is(&b, 1), "completed length");
    assert_null(json_object_get(json_object_get(b.disk, "experiment"), "best"));
    bench_close(&b);
}

static void a_user_kills_trials_in_any_state(void **state)
{
    struct bench b;

    (void)state;
    bench_open(&b, RUNGS);
    bench_start(&b, 1);
    bench_start(&b, 2);
    say_value(&b, 2, 1, 1, "0.5");
    say_saved(&b, 2, 2, 1);
    say_end(&b, 2, 3, "preempted");
    assert_string_equal(trial_is(&b, 2), "waiting");
    assert_int_equal(bench_kill_trial(&b, 1), 0); /* running */
    assert_string_equal(b.heard, "kill 1\nchanged\n");
    assert_string_equal(run_ended_by(&b, 1), "killed");
    assert_int_equal(bench_kill_trial(&b, 2), 0); /* waiting */
    assert_int_equal(bench_kill_trial(&b, 3), 0); /* queued */
    for (int t = 1; t <= 3; t++)
        assert_string_equal(trial_is(&b, t), "canceled killed");
    expect_event(&b, "{\"event\":\"exited\",\"trial\":3,\"exit\":\"killed\"}");
    bench_dies(&b, 1, "signal"); /* the worker's end comes later and changes nothing */
    assert_string_equal(trial_is(&b, 1), "canceled killed");
    assert_int_equal(bench_kill_trial(&b, 1), -EINVAL);
    assert_string_equal(b.err.text, "trial 1/1 is canceled: it cannot be killed");
    assert_int_equal(bench_kill_trial(&b, 99), -ENOENT);
    assert_non_null(strstr(b.err.text, "experiment 1 has no trial 99"));
    bench_close(&b);
}

static void note_company(struct bench *b, bool shares, int64_t first, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        experiment_note_company(b->experiment, first + i, shares);
}

/* The trials that are to run alone: "1 3". */
static const char *wanted_alone(const struct bench *b)
{
    static char text[400];
    struct wanted list[64];
    size_t n = experiment_wanted(b->experiment, list, 64);

    text[0] = 0;
    for (size_t i = 0; i < n; i++)
        if (list[i].alone)
            sprintf(text + strlen(text), "%s%lld", *text ? " " : "", (long long)list[i].trial);
    return text;
}

static int64_t restarts(const struct bench *b, int64_t trial)
{
    return json_int_or(disk_trial(b->disk, trial), "restarts", -1);
}

/* Which of them killed the worker shows when each runs alone: only that one goes on to fail. */
static void several_that_die_with_one_worker_pay_nothing_and_go_on_alone(void **state)
{
    struct bench b;

    (void)state;
    bench_open(&b, "max_restarts: 1\nresources: {trials_per_slot: 4}\n" PLAIN);
    for (int64_t run = 1; run <= 3; run++)
        assert_int_equal(bench_start(&b, run), run);
    note_company(&b, true, 1, 3);
    for (int64_t run = 1; run <= 3; run++)
        bench_dies(&b, run, "signal");
    assert_string_equal(wanted_alone(&b), "1 2 3");
    for (int64_t trial = 1; trial <= 3; trial++) {
        assert_int_equal(restarts(&b, trial), 0);
        assert_string_equal(trial_is(&b, trial), "queued signal");
    }
    assert_int_equal(bench_start(&b, 1), 4);
    bench_dies(&b, 4, "signal");
    assert_int_equal(restarts(&b, 1), 1);
    assert_string_equal(wanted_alone(&b), "1 2 3"); /* it stays alone until a run of it ends otherwise */
    assert_int_equal(bench_start(&b, 1), 5);
    bench_dies(&b, 5, "signal");
    assert_string_equal(trial_is(&b, 1), "error signal");
    assert_int_equal(bench_start(&b, 2), 6);
    bench_preempt(&b, 6);
    say_end(&b, 6, 1, "preempted");
    assert_string_equal(wanted(&b), "3 2");
    assert_string_equal(wanted_alone(&b), "3"); /* trial 2 may share again */
    bench_close(&b);
}

/* A trial that has come past the unit of the death is not guilty of it: it makes room, and then they share again. */
static void who_outlives_the_death_alone_shares_again(void **state)
{
    struct bench b;

    (void)state;
    bench_open(&b, "max_restarts: 1\nresources: {trials_per_slot: 4}\n" PLAIN);
    for (int64_t run = 1; run <= 3; run++) {
        bench_start(&b, run);
        say_value(&b, run, 1, 1, "0.5");
        say_saved(&b, run, 2, 1);
        say_value(&b, run, 3, 2, "0.5");
    }
    note_company(&b, true, 1, 3);
    for (int64_t run = 1; run <= 3; run++)
        bench_dies(&b, run, "signal");
    assert_int_equal(bench_start(&b, 1), 4);
    assert_string_equal(wanted(&b), "2 3");
    say_value(&b, 4, 1, 2, "0.5");
    assert_null(strstr(b.heard, "preempt")); /* this far it came before */
    say_value(&b, 4, 2, 3, "0.5");
    assert_non_null(strstr(b.heard, "preempt 4"));
    say_saved(&b, 4, 3, 3);
    say_end(&b, 4, 4, "preempted");
    assert_string_equal(wanted(&b), "2 3 1"); /* those under suspicion first, so that all are soon together again */
    assert_string_equal(wanted_alone(&b), "2 3");
    bench_start(&b, 2);
    bench_start(&b, 3);
    bench_start(&b, 1);
    say_value(&b, 5, 1, 3, "0.5");
    assert_null(strstr(b.heard, "preempt")); /* nobody waits */
    for (int64_t trial = 1; trial <= 3; trial++)
        assert_int_equal(restarts(&b, trial), 0);
    bench_close(&b);
}

static void company_that_left_is_none(void **state)
{
    struct bench b;

    (void)state;
    bench_open(&b, "max_restarts: 1\nresources: {trials_per_slot: 4}\n" PLAIN);
    bench_start(&b, 1);
    bench_start(&b, 2);
    note_company(&b, true, 1, 2);
    bench_preempt(&b, 2);
    say_end(&b, 2, 1, "preempted");
    note_company(&b, false, 1, 1);
    bench_dies(&b, 1, "exit");
    assert_int_equal(restarts(&b, 1), 1);
    bench_close(&b);
}

static void out_of_memory_in_company_costs_no_restart_but_alone_it_does(void **state)
{
    struct bench b;

    (void)state;
    bench_open(&b, "max_restarts: 1\nresources: {trials_per_slot: 4}\n" PLAIN);
    bench_start(&b, 1);
    note_company(&b, true, 1, 1);
    say_failed(&b, 1, 1, "out_of_memory");
    assert_int_equal(restarts(&b, 1), 0);
    assert_string_equal(wanted_alone(&b), "1");
    bench_start(&b, 1);
    say_failed(&b, 2, 1, "out_of_memory");
    assert_int_equal(restarts(&b, 1), 1);
    bench_start(&b, 1);
    note_company(&b, true, 3, 1);
    say_failed(&b, 3, 1, "error"); /* that is its own */
    assert_string_equal(trial_is(&b, 1), "error error");
    bench_close(&b);
}

static void that_a_trial_is_to_run_alone_is_remembered_by_the_store(void **state)
{
    struct bench b;

    (void)state;
    bench_open(&b, "max_restarts: 3\nresources: {trials_per_slot: 4}\n" PLAIN);
    for (int64_t run = 1; run <= 3; run++) {
        bench_start(&b, run);
        say_value(&b, run, 1, 2, "0.5");
        say_saved(&b, run, 2, 2);
    }
    note_company(&b, true, 1, 3);
    bench_dies(&b, 1, "signal");
    bench_dies(&b, 2, "signal");
    say_failed(&b, 3, 3, "out_of_memory");
    bench_restore(&b);
    assert_string_equal(wanted_alone(&b), "1 2 3");
    for (int64_t trial = 1; trial <= 3; trial++)
        bench_start(&b, trial); /* runs 4, 5 and 6 */
    bench_restore(&b); /* they have shown nothing */
    assert_string_equal(wanted_alone(&b), "1 2 3");
    bench_start(&b, 1);
    bench_dies(&b, 7, "orchestrator_lost");
    assert_string_equal(wanted_alone(&b), "1 2 3");
    for (int64_t trial = 1; trial <= 3; trial++) {
        bench_start(&b, trial); /* runs 8, 9 and 10 */
        say_value(&b, 7 + trial, 1, 3, "0.5");
        say_saved(&b, 7 + trial, 2, 3);
    }
    bench_restore(&b); /* they have, but for the one that was out of memory, which it may be again at any moment */
    assert_string_equal(wanted_alone(&b), "3");
    bench_start(&b, 3);
    bench_preempt(&b, 11);
    say_end(&b, 11, 1, "preempted");
    assert_string_equal(wanted_alone(&b), "");
    bench_restore(&b);
    assert_string_equal(wanted_alone(&b), "");
    bench_close(&b);
}

/* However often: they are gone some time. Meanwhile those of the experiment that may need less go before it. */
static void memory_that_other_programs_hold_costs_no_restart(void **state)
{
    struct bench b;

    (void)state;
    bench_open(&b, "max_restarts: 0\nresources: {trials_per_slot: 4}\n" PLAIN);
    for (int64_t run = 1; run <= 5; run++) {
        bench_start(&b, 1);
        say_failed(&b, run, 1, "memory_in_use");
        assert_string_equal(run_ended_by(&b, run), "memory_in_use");
        assert_string_equal(trial_is(&b, 1), "queued memory_in_use");
        assert_int_equal(restarts(&b, 1), 0);
        assert_string_equal(wanted(&b), "2 3 1");
        assert_string_equal(wanted_alone(&b), "");
    }
    bench_restore(&b); /* the store remembers it */
    assert_string_equal(wanted(&b), "2 3 1");
    bench_start(&b, 1);
    bench_preempt(&b, 6);
    say_end(&b, 6, 1, "preempted");
    assert_string_equal(wanted(&b), "1 2 3");
    bench_close(&b);
}

static void who_is_suspected_stays_so_when_others_hold_its_memory(void **state)
{
    struct bench b;

    (void)state;
    bench_open(&b, "max_restarts: 1\nresources: {trials_per_slot: 4}\n" PLAIN);
    bench_start(&b, 1);
    note_company(&b, true, 1, 1);
    bench_dies(&b, 1, "signal");
    assert_string_equal(wanted_alone(&b), "1");
    bench_start(&b, 1);
    say_failed(&b, 2, 1, "memory_in_use");
    assert_string_equal(wanted_alone(&b), "1");
    bench_close(&b);
}

/* The evaluation of the best, too. */
static void an_evaluation_waits_for_memory_that_other_programs_hold(void **state)
{
    struct bench b;

    (void)state;
    bench_open(&b, "max_restarts: 0\n" PLAIN);
    for (int64_t run = 1; run <= 3; run++) {
        bench_start(&b, run);
        say_value(&b, run, 1, 4, "0.5");
        say_saved(&b, run, 2, 4);
        say_end(&b, run, 3, "stopped");
    }
    assert_string_equal(wanted(&b), "1");
    for (int64_t run = 4; run <= 6; run++) {
        bench_start(&b, 1);
        say_failed(&b, run, 1, "memory_in_use");
        assert_string_equal(wanted(&b), "1");
    }
    bench_start(&b, 1);
    say_failed(&b, 7, 1, "error");
    assert_string_equal(wanted(&b), "");
    bench_close(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(failures_are_tried_again_up_to_max_restarts),
        cmocka_unit_test(restarts_are_remembered_by_the_store),
        cmocka_unit_test(losing_the_orchestrator_or_the_slots_costs_no_restart),
        cmocka_unit_test(a_run_that_ends_before_its_decision_has_failed),
        cmocka_unit_test(a_rung_holds_trials_until_they_are_promoted),
        cmocka_unit_test(a_promotion_that_comes_while_it_makes_room_works),
        cmocka_unit_test(the_best_of_a_rung_goes_on_where_it_stands),
        cmocka_unit_test(a_checkpoint_that_was_lost_is_trained_for_again),
        cmocka_unit_test(a_program_that_keeps_no_checkpoint_is_not_asked_twice),
        cmocka_unit_test(a_converged_trial_is_completed_and_its_last_value_stands),
        cmocka_unit_test(converging_before_any_validation_is_a_failure),
        cmocka_unit_test(a_value_that_is_not_finite_is_told_as_it_is),
        cmocka_unit_test(a_user_kills_trials_in_any_state),
        cmocka_unit_test(several_that_die_with_one_worker_pay_nothing_and_go_on_alone),
        cmocka_unit_test(who_outlives_the_death_alone_shares_again),
        cmocka_unit_test(company_that_left_is_none),
        cmocka_unit_test(out_of_memory_in_company_costs_no_restart_but_alone_it_does),
        cmocka_unit_test(that_a_trial_is_to_run_alone_is_remembered_by_the_store),
        cmocka_unit_test(memory_that_other_programs_hold_costs_no_restart),
        cmocka_unit_test(who_is_suspected_stays_so_when_others_hold_its_memory),
        cmocka_unit_test(an_evaluation_waits_for_memory_that_other_programs_hold),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
