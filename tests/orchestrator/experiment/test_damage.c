/* test_damage.c - a worker cannot use a checkpoint: which one is given up, from where the trial goes on, what is best then.
 * SPDX-License-Identifier: Apache-2.0 */
#include "tests/orchestrator/experiment/bench.h"

#include <cmocka.h>

#define TRIAL_1 BENCH_HOME "/experiments/1/trials/1/"

static void say_bad(struct bench *b, int64_t run, int64_t seq, const char *path)
{
    assert_int_equal(bench_say(b, "{\"op\":\"failed\",\"run\":%lld,\"seq\":%lld,\"reason\":\"bad_checkpoint\","
                                  "\"path\":\"%s\",\"text\":\"it is torn\"}",
                               (long long)run, (long long)seq, path),
                     0);
}

static const char *resumes_from(const struct bench *b)
{
    const char *path = json_string_or(json_object_get(b->last, "resume"), "path", "the beginning");

    return strrchr(path, '/') ? strrchr(path, '/') + 1 : path;
}

static double best_of(const struct bench *b, int64_t trial)
{
    return json_double_or(json_object_get(disk_trial(b->disk, trial), "best"), "unit", -1);
}

/* Trial 1 has checkpoints at 2 (its best) and 3 rounds, and its run has died. */
static void open_with_two(struct bench *b)
{
    bench_open(b, PLAIN);
    bench_start(b, 1);
    say_value(b, 1, 1, 2, "0.5");
    say_saved(b, 1, 2, 2);
    say_value(b, 1, 3, 3, "0.4");
    say_saved(b, 1, 4, 3);
    bench_dies(b, 1, "signal");
    bench_start(b, 1);
    assert_string_equal(resumes_from(b), "checkpoint-3.safetensors");
}

static void a_trial_goes_on_from_the_checkpoint_before_and_that_costs_no_restart(void **state)
{
    struct bench b;

    (void)state;
    open_with_two(&b);
    say_bad(&b, 2, 1, TRIAL_1 "runs/1/checkpoint-3.safetensors");
    assert_string_equal(b.heard, "ack 2 1\nfree 2\nchanged\n"); /* and no file is deleted */
    assert_string_equal(trial_is(&b, 1), "queued bad_checkpoint");
    assert_int_equal(json_int_or(disk_trial(b.disk, 1), "restarts", -1), 1); /* the signal's */
    assert_true(json_bool_or(by_id(json_object_get(b.disk, "checkpoints"), 2), "deleted", false));
    assert_non_null(strstr(json_string_or(json_array_get(json_object_get(b.disk, "logs"), 0), "text", ""),
                           "the checkpoint of 3 rounds cannot be used and is given up; the trial goes on from 2 rounds. it "
                           "is torn"));
    bench_start(&b, 1);
    assert_string_equal(resumes_from(&b), "checkpoint-2.safetensors");
    assert_float_equal(best_of(&b, 1), 2, 0);
    bench_close(&b);
}

static void with_no_checkpoint_left_a_trial_begins_anew_and_has_no_best(void **state)
{
    struct bench b;

    (void)state;
    open_with_two(&b);
    say_bad(&b, 2, 1, TRIAL_1 "runs/1/checkpoint-3.safetensors");
    bench_start(&b, 1);
    say_bad(&b, 3, 1, TRIAL_1 "runs/1/checkpoint-2.safetensors");
    assert_float_equal(best_of(&b, 1), -1, 0);
    assert_null(json_object_get(json_object_get(b.disk, "experiment"), "best"));
    assert_int_equal(json_int_or(disk_trial(b.disk, 1), "restarts", -1), 1);
    assert_int_equal(bench_restore(&b), 0);
    bench_start(&b, 1);
    assert_string_equal(resumes_from(&b), "the beginning");
    say_value(&b, 4, 1, 2, "0.5"); /* it gets the same again */
    say_saved(&b, 4, 2, 2);
    assert_float_equal(best_of(&b, 1), 2, 0);
    bench_close(&b);
}

/* The latest is whole: the work is not thrown away for the best's sake. */
static void a_lost_best_gives_its_place_to_the_best_that_is_kept(void **state)
{
    const json_t *best;
    struct bench b;

    (void)state;
    open_with_two(&b);
    bench_start(&b, 2);
    say_value(&b, 3, 1, 2, "0.45");
    say_saved(&b, 3, 2, 2);
    say_bad(&b, 2, 1, TRIAL_1 "runs/1/checkpoint-2.safetensors");
    assert_float_equal(best_of(&b, 1), 3, 0);
    best = json_object_get(json_object_get(b.disk, "experiment"), "best");
    assert_int_equal(json_int_or(best, "trial", 0), 2); /* 0.45 beats 0.4 */
    bench_start(&b, 1);
    assert_string_equal(resumes_from(&b), "checkpoint-3.safetensors");
    assert_float_equal(json_double_or(json_object_get(json_object_get(b.last, "resume"), "best"), "value", 0), 0.4, 0);
    bench_close(&b);
}

/* A program may name them by the unit alone, and no file is deleted. */
static void the_path_of_a_damaged_checkpoint_may_come_again(void **state)
{
    struct bench b;

    (void)state;
    bench_open(&b, PLAIN);
    bench_start(&b, 1);
    assert_int_equal(say_saved_as(&b, 1, 1, 2, "c2"), 0);
    bench_dies(&b, 1, "signal");
    bench_start(&b, 1);
    say_bad(&b, 2, 1, TRIAL_1 "c2");
    bench_start(&b, 1);
    assert_int_equal(say_saved_as(&b, 3, 1, 2, "c2"), 0);
    bench_dies(&b, 3, "signal");
    bench_start(&b, 1);
    assert_string_equal(resumes_from(&b), "c2");
    bench_close(&b);
}

/* A worker that says so of a file it was not given is at fault itself, or it would be started for ever. */
static void what_the_trial_does_not_keep_counts_as_a_failure(void **state)
{
    struct bench b;

    (void)state;
    open_with_two(&b);
    say_bad(&b, 2, 1, TRIAL_1 "runs/1/checkpoint-9.safetensors");
    assert_int_equal(json_int_or(disk_trial(b.disk, 1), "restarts", -1), 2);
    bench_start(&b, 1);
    say_bad(&b, 3, 1, "");
    assert_int_equal(json_int_or(disk_trial(b.disk, 1), "restarts", -1), 3);
    assert_string_equal(resumes_from(&b), "checkpoint-3.safetensors");
    bench_close(&b);
}

static void a_trial_that_waits_trains_to_its_rung_again(void **state)
{
    struct bench b;

    (void)state;
    bench_open(&b, RUNGS);
    bench_start(&b, 1);
    say_value(&b, 1, 1, 1, "0.9");
    say_saved(&b, 1, 2, 1);
    say_end(&b, 1, 3, "preempted");
    for (int trial = 2; trial <= 3; trial++) {
        bench_start(&b, trial);
        say_value(&b, trial, 1, 1, "0.1");
        say_saved(&b, trial, 2, 1);
        say_end(&b, trial, 3, "preempted");
    }
    bench_start(&b, 1); /* promoted */
    assert_string_equal(resumes_from(&b), "checkpoint-1.safetensors");
    say_bad(&b, 4, 1, TRIAL_1 "runs/1/checkpoint-1.safetensors");
    bench_start(&b, 1);
    assert_string_equal(resumes_from(&b), "the beginning");
    assert_float_equal(json_double_or(b.last, "train_until", 0), 3, 0);
    say_value(&b, 5, 1, 1, "0.9"); /* heard before: the searcher is not asked again */
    say_value(&b, 5, 2, 3, "0.95");
    assert_non_null(strstr(b.heard, "ack 5 2"));
    bench_close(&b);
}

static void at_the_final_evaluation_the_best_stands_without_test_metrics(void **state)
{
    const json_t *experiment;
    struct bench b;

    (void)state;
    bench_open(&b, PLAIN);
    for (int trial = 1; trial <= 3; trial++) {
        bench_start(&b, trial);
        say_value(&b, trial, 1, 4, trial == 1 ? "0.9" : "0.5");
        say_saved(&b, trial, 2, 4);
        say_end(&b, trial, 3, "stopped");
    }
    assert_int_equal(bench_start(&b, 1), 4);
    say_bad(&b, 4, 1, TRIAL_1 "runs/1/checkpoint-4.safetensors");
    assert_string_equal(experiment_is(&b), "completed");
    experiment = json_object_get(b.disk, "experiment");
    assert_string_equal(json_string_or(experiment, "reason", ""),
                        "the best trial could not be evaluated on the test split: bad_checkpoint: it is torn");
    assert_int_equal(json_int_or(json_object_get(experiment, "best"), "trial", 0), 1);
    assert_int_equal(json_int_or(json_object_get(experiment, "best"), "checkpoint", -1), 0);
    assert_int_equal(json_array_size(json_object_get(b.disk, "tests")), 0);
    bench_close(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_trial_goes_on_from_the_checkpoint_before_and_that_costs_no_restart),
        cmocka_unit_test(with_no_checkpoint_left_a_trial_begins_anew_and_has_no_best),
        cmocka_unit_test(a_lost_best_gives_its_place_to_the_best_that_is_kept),
        cmocka_unit_test(the_path_of_a_damaged_checkpoint_may_come_again),
        cmocka_unit_test(what_the_trial_does_not_keep_counts_as_a_failure),
        cmocka_unit_test(a_trial_that_waits_trains_to_its_rung_again),
        cmocka_unit_test(at_the_final_evaluation_the_best_stands_without_test_metrics),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
