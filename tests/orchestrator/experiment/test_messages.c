/* test_messages.c - what is said to workers and what they may say.
 * SPDX-License-Identifier: Apache-2.0 */
#include "tests/orchestrator/experiment/bench.h"

static void expect_json(const json_t *got, const char *expected)
{
    json_t *value = json_loads(expected, JSON_REJECT_DUPLICATES, NULL);
    char *a, *b;

    assert_non_null(value);
    a = json_canonical(value);
    b = json_canonical(got);
    assert_string_equal(b, a);
    free(a);
    free(b);
    json_decref(value);
}

static void assigns_as_the_protocol_has_it(void **state)
{
    struct bench b;
    json_t *sections;

    (void)state;
    bench_open(&b, PLAIN);
    bench_start(&b, 2);
    assert_string_equal(b.heard, "assign 1\nchanged\n");
    sections = json_incref(json_object_get(b.last, "sections"));
    json_object_del(b.last, "sections");
    expect_json(b.last, "{\"op\":\"assign\",\"run\":1,\"experiment\":1,\"trial\":2,\"attempt\":1,\"seed\":7,\"data_seed\":7,"
                        "\"hyperparameters\":{\"lr\":0.20000000000000001},\"time_metric\":\"rounds\",\"train_until\":4,"
                        "\"max_units\":4,\"metric\":\"validation_accuracy\",\"smaller_is_better\":false,"
                        "\"min_checkpoint_period\":0,\"resume\":null,"
                        "\"trial_dir\":\"/home/test/results/experiments/1/trials/2\","
                        "\"run_dir\":\"/home/test/results/experiments/1/trials/2/runs/1\","
                        "\"cache_dir\":\"/home/test/results/cache\",\"slots\":[\"cpu:0\"]}");
    assert_int_equal(json_object_size(sections), 4);
    assert_float_equal(json_real_value(json_at(sections, "training.learning_rate")), 0.2, 1e-7);/* for $lr */
    assert_string_equal(json_string_value(json_at(sections, "data.source")), "synthetic");
    json_decref(sections);

    /* it dies after a checkpoint: the second attempt resumes from that */
    say_value(&b, 1, 1, 2, "0.5");
    say_saved(&b, 1, 2, 2);
    bench_dies(&b, 1, "signal");
    assert_string_equal(wanted(&b), "2 1 3"); /* one that has begun before the new ones */
    assert_int_equal(bench_start(&b, 2), 2);
    assert_int_equal(json_int_or(b.last, "attempt", 0), 2);
    expect_json(json_object_get(b.last, "resume"),
                "{\"path\":\"/home/test/results/experiments/1/trials/2/runs/1/checkpoint-2.safetensors\","
                "\"units\":{\"rounds\":2},\"best\":{\"path\":"
                "\"/home/test/results/experiments/1/trials/2/runs/1/checkpoint-2.safetensors\",\"unit\":2,\"value\":0.5}}");
    bench_close(&b);
}

static void hands_a_users_program_its_data_untouched(void **state)
{
    struct bench b;

    (void)state;
    bench_open(&b, "name: own\nentrypoint: [\"./train\"]\nhyperparameters: {lr: 0.5}\n"
                   "searcher: {name: single, max_time: 4, " METRIC "}\ndata: {anything: [1, \"$lr\"]}\n");
    bench_start(&b, 1);
    expect_json(json_object_get(b.last, "sections"), "{\"data\":{\"anything\":[1,\"$lr\"]}}");
    say_value(&b, 1, 1, 4, "0.5");
    assert_string_equal(b.heard, "ack 1 1\nstop 1\nchanged\n");
    say_saved(&b, 1, 2, 4);
    say_end(&b, 1, 3, "stopped");
    assert_string_equal(experiment_is(&b), "completed"); /* not evaluated: it may not know how to */
    bench_close(&b);
}

static void evaluates_the_best_checkpoint_once(void **state)
{
    static const char *const VALUES[] = {"0.3", "0.9", "0.9"};
    struct bench b;

    (void)state;
    bench_open(&b, PLAIN);
    for (int t = 3; t >= 1; t--) {
        int64_t run = bench_start(&b, t);
        say_value(&b, run, 1, 4, VALUES[t - 1]);
        say_saved(&b, run, 2, 4);
        say_end(&b, run, 3, "length");
    }
    assert_string_equal(experiment_is(&b), "active");
    assert_string_equal(wanted(&b), "2"); /* of two equal ones the lower, though the other came first */
    assert_int_equal(bench_start(&b, 2), 4);
    assert_string_equal(json_string_or(b.last, "op", ""), "evaluate");
    assert_string_equal(json_string_or(b.last, "split", ""), "test");
    assert_string_equal(json_string_or(b.last, "checkpoint", ""),
                        "/home/test/results/experiments/1/trials/2/runs/2/checkpoint-4.safetensors");
    assert_int_equal(json_int_or(b.last, "attempt", 0), 2);
    assert_string_equal(wanted(&b), "");
    assert_string_equal(trial_is(&b, 2), "completed length");
    assert_int_equal(bench_say(&b, "{\"op\":\"report\",\"run\":4,\"seq\":1,\"kind\":\"test\",\"units\":{\"rounds\":4},"
                                   "\"metrics\":{\"test_accuracy\":0.8}}"),
                     0);
    say_end(&b, 4, 2, "evaluated");
    assert_string_equal(b.heard, "ack 4 2\nfree 4\nchanged\n");
    assert_string_equal(experiment_is(&b), "completed");
    assert_true(experiment_has_ended(b.experiment));
    assert_int_equal(json_array_size(json_object_get(b.disk, "tests")), 1);
    expect_json(json_object_get(json_array_get(json_object_get(b.disk, "tests"), 0), "metrics"), "{\"test_accuracy\":0.8}");
    bench_close(&b);
}

static void duplicates_are_acknowledged_again_and_not_stored(void **state)
{
    struct bench b;
    char *before, *after;

    (void)state;
    bench_open(&b, PLAIN);
    bench_start(&b, 1);
    say_value(&b, 1, 1, 2, "0.5");
    say_saved(&b, 1, 2, 2);
    before = json_canonical(b.disk);
    say_value(&b, 1, 1, 2, "0.5"); /* sent again after a reconnect: all before seq 2 are on disk */
    assert_string_equal(b.heard, "ack 1 2\n");
    say_saved(&b, 1, 2, 2);
    assert_string_equal(b.heard, "ack 1 2\n");
    after = json_canonical(b.disk);
    assert_string_equal(after, before);
    free(before);
    free(after);
    bench_close(&b);
}

static void messages_of_a_run_that_is_over_are_released(void **state)
{
    struct bench b;
    char *before, *after;

    (void)state;
    bench_open(&b, PLAIN);
    bench_start(&b, 1);
    bench_dies(&b, 1, "silent");
    bench_start(&b, 1);
    before = json_canonical(b.disk);
    say_value(&b, 1, 1, 4, "0.5"); /* it was only slow */
    assert_string_equal(b.heard, "release 1\n");
    bench_say(&b, "{\"op\":\"log\",\"run\":1,\"text\":\"hello\"}");
    assert_string_equal(b.heard, "release 1\n");
    bench_say(&b, "{\"op\":\"progress\",\"run\":99,\"units\":{}}");
    assert_string_equal(b.heard, "release 99\n");
    after = json_canonical(b.disk);
    assert_string_equal(after, before);
    bench_dies(&b, 1, "exit"); /* and its end is not the second run's */
    assert_string_equal(trial_is(&b, 1), "running");
    free(before);
    free(after);
    bench_close(&b);
}

static void what_makes_no_sense_is_refused_and_leaves_no_trace(void **state)
{
    static const struct {
        const char *message, *text;
    } ROWS[] = {
        {"{\"op\":\"report\",\"run\":1,\"seq\":4,\"kind\":\"training\",\"units\":{\"rounds\":1}}",
         "operation report: seq 4 after 2: messages between them are missing"},
        {"{\"op\":\"report\",\"run\":1,\"seq\":0,\"kind\":\"training\",\"units\":{\"rounds\":1}}",
         "operation report: seq must be from 1, not 0"},
        {"{\"op\":\"report\",\"run\":1,\"seq\":3,\"kind\":\"training\",\"units\":{\"epochs\":1}}",
         "operation report: units needs \"rounds\", the experiment's time_metric"},
        {"{\"op\":\"report\",\"run\":1,\"seq\":3,\"kind\":\"training\",\"steps\":[{\"units\":{\"rounds\":1}},"
         "{\"units\":{\"rounds\":\"NaN\"}}]}",
         "operation report: units.rounds must be a finite number from 0"},
        {"{\"op\":\"report\",\"run\":1,\"seq\":3,\"kind\":\"test\",\"units\":{\"rounds\":1}}",
         "operation report: kind \"test\" from a run that trains (training or validation)"},
        {"{\"op\":\"checkpoint\",\"run\":1,\"seq\":3,\"units\":{\"rounds\":3},\"path\":\"../2/model\"}",
         "operation checkpoint: path must be relative to trial_dir and stay in it, not \"../2/model\""},
        {"{\"op\":\"checkpoint\",\"run\":1,\"seq\":3,\"units\":{\"rounds\":3},\"path\":\"./\"}",
         "operation checkpoint: path must be relative to trial_dir and stay in it, not \"./\""},
        {"{\"op\":\"checkpoint\",\"run\":1,\"seq\":3,\"units\":{\"rounds\":3},\"path\":\"a/..\"}",
         "operation checkpoint: path must be relative to trial_dir and stay in it, not \"a/..\""},
        {"{\"op\":\"checkpoint\",\"run\":1,\"seq\":3,\"units\":{\"rounds\":3},\"path\":\"a//b\"}",
         "operation checkpoint: path must be relative to trial_dir and stay in it, not \"a//b\""},
        {"{\"op\":\"checkpoint\",\"run\":1,\"seq\":3,\"units\":{\"rounds\":3},\"path\":\"/etc/passwd\"}",
         "operation checkpoint: path must be relative to trial_dir and stay in it, not \"/etc/passwd\""},
        {"{\"op\":\"checkpoint\",\"run\":1,\"seq\":3,\"units\":{\"rounds\":3},\"path\":\"a/../../b\"}",
         "operation checkpoint: path must be relative to trial_dir and stay in it, not \"a/../../b\""},
        {"{\"op\":\"checkpoint\",\"run\":1,\"seq\":3,\"units\":{\"rounds\":3},\"path\":\"\"}",
         "operation checkpoint: path must be relative to trial_dir and stay in it, not \"\""},
        {"{\"op\":\"checkpoint\",\"run\":1,\"seq\":3,\"units\":{\"rounds\":3},\"path\":\"runs/1/checkpoint-2.safetensors\"}",
         "operation checkpoint: path \"runs/1/checkpoint-2.safetensors\" already holds the checkpoint of 2 rounds; "
         "each needs its own"},
        {"{\"op\":\"done\",\"run\":1,\"seq\":3,\"reason\":\"finished\"}",
         "operation done: reason must be length, converged, stopped, preempted or evaluated, not \"finished\""},
        {"{\"op\":\"done\",\"run\":1,\"seq\":3,\"reason\":\"preempted\"}",
         "operation done: reason \"preempted\" from a run that was not told to"},
        {"{\"op\":\"done\",\"run\":1,\"seq\":3,\"reason\":\"stopped\"}",
         "operation done: reason \"stopped\" from a run that was not told to"},
        {"{\"op\":\"done\",\"run\":1,\"seq\":3,\"reason\":\"evaluated\"}",
         "operation done: reason \"evaluated\" from a run that trains"},
    };
    struct bench b;
    char *before, *after;

    (void)state;
    bench_open(&b, PLAIN);
    bench_start(&b, 1);
    say_value(&b, 1, 1, 2, "0.5");
    say_saved(&b, 1, 2, 2);
    before = json_canonical(b.disk);
    for (size_t i = 0; i < sizeof ROWS / sizeof *ROWS; i++) {
        assert_int_equal(bench_say(&b, "%s", ROWS[i].message), -EINVAL);
        assert_string_equal(b.err.text, ROWS[i].text);
    }
    after = json_canonical(b.disk);
    assert_string_equal(after, before);
    free(before);
    free(after);
    say_value(&b, 1, 3, 3, "0.6"); /* the run itself is whole */
    bench_close(&b);
}

static void a_decision_without_its_metric_ends_the_trial_with_what_was_there(void **state)
{
    struct bench b;

    (void)state;
    bench_open(&b, PLAIN);
    bench_start(&b, 1);
    /* below the decision it may be missing */
    bench_say(&b, "{\"op\":\"report\",\"run\":1,\"seq\":1,\"kind\":\"validation\",\"units\":{\"rounds\":3},\"metrics\":{}}");
    assert_string_equal(b.heard, "ack 1 1\nchanged\n");
    bench_say(&b, "{\"op\":\"report\",\"run\":1,\"seq\":2,\"kind\":\"validation\",\"units\":{\"rounds\":4},"
                  "\"metrics\":{\"loss\":1,\"f1\":2}}");
    assert_string_equal(b.heard, "ack 1 2\nkill 1\nchanged\n");
    assert_string_equal(trial_is(&b, 1), "error metric_missing");
    assert_string_equal(json_string_or(disk_trial(b.disk, 1), "text", ""),
                        "the validation at 4 rounds has no validation_accuracy, which the searcher needs; it has loss, f1");
    assert_string_equal(wanted(&b), "2 3"); /* it would fail the same way */
    assert_int_equal(json_int_or(by_id(json_object_get(b.disk, "runs"), 1), "last_seq", 0), 2); /* what it said is kept */
    bench_close(&b);
}

static void one_report_of_many_steps_may_cross_a_decision(void **state)
{
    struct bench b;
    char *events;

    (void)state;
    bench_open(&b, RUNGS);
    bench_start(&b, 1);
    assert_int_equal(bench_say(&b, "{\"op\":\"report\",\"run\":1,\"seq\":1,\"kind\":\"validation\",\"steps\":["
                                   "{\"units\":{\"rounds\":1},\"metrics\":{\"validation_accuracy\":0.5}},"
                                   "{\"units\":{\"rounds\":2},\"metrics\":{\"validation_accuracy\":0.9}}]}"),
                     0);
    events = journal_text(&b, "event");
    assert_string_equal(events, "{\"event\":\"start\"}\n"
                                "{\"event\":\"validation\",\"trial\":1,\"unit\":1,\"value\":0.5}\n");
    free(events);
    bench_close(&b);
}

static void lines_of_a_worker_are_kept_with_its_run(void **state)
{
    struct bench b;
    struct turn turn;

    (void)state;
    bench_open(&b, PLAIN);
    bench_start(&b, 3);
    bench_say(&b, "{\"op\":\"log\",\"run\":1,\"level\":\"warning\",\"text\":\"slow\"}");
    turn = bench_turn(&b);
    experiment_log(b.experiment, 1, "output", "Segmentation fault", &turn);
    experiment_log(b.experiment, 77, "output", "nobody's", &turn);
    bench_commit(&b, &turn);
    expect_json(json_object_get(b.disk, "logs"),
                "[{\"put\":\"log\",\"trial\":3,\"run\":1,\"level\":\"warning\",\"text\":\"slow\"},"
                "{\"put\":\"log\",\"trial\":3,\"run\":1,\"level\":\"output\",\"text\":\"Segmentation fault\"}]");
    bench_close(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(assigns_as_the_protocol_has_it),
        cmocka_unit_test(hands_a_users_program_its_data_untouched),
        cmocka_unit_test(evaluates_the_best_checkpoint_once),
        cmocka_unit_test(duplicates_are_acknowledged_again_and_not_stored),
        cmocka_unit_test(messages_of_a_run_that_is_over_are_released),
        cmocka_unit_test(what_makes_no_sense_is_refused_and_leaves_no_trace),
        cmocka_unit_test(a_decision_without_its_metric_ends_the_trial_with_what_was_there),
        cmocka_unit_test(one_report_of_many_steps_may_cross_a_decision),
        cmocka_unit_test(lines_of_a_worker_are_kept_with_its_run),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
