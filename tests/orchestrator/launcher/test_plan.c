/* test_plan.c - launcher_ask_plan: answers in order, programs that cannot plan, and every way to fail with its words.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/launcher/launcher.h"
#include "orchestrator/launcher/supervise.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h> /* last: it defines fail() as a macro */

#define HELLO "echo '{\"op\":\"hello\",\"version\":1,\"pid\":1,\"capabilities\":[\"plan\"]}' >&3; "
#define ANSWERS "while read -u 3 line; do echo \"got $line\"; id=${line##*\\\"id\\\":}; id=${id%%[,\\}]*}; " \
                "echo '{\"op\":\"heartbeat\"}' >&3; " \
                "echo \"{\\\"op\\\":\\\"plan\\\",\\\"id\\\":$id,\\\"ok\\\":true,\\\"mem_bytes\\\":$id}\" >&3; done"

static int ask(const char *script, json_t **ret, struct error *err)
{
    const char *argv[] = {"/bin/bash", "-c", script, NULL};
    json_t *requests = json_pack("[{s:{}, s:{}, s:i}, {s:{s:f}, s:{}, s:i}]", "hyperparameters", "sections", "slots", 1,
                                 "hyperparameters", "lr", 0.5, "sections", "slots", 1);
    int rc = launcher_ask_plan(argv, NULL, requests, NULL, ret, err);

    json_decref(requests);
    return rc;
}

static void answers_come_in_the_order_of_the_requests(void **state)
{
    struct error err = {0};
    json_t *answers = NULL;

    (void)state;
    if (ask(HELLO ANSWERS, &answers, &err))
        fail_msg("%s", err.text);
    assert_int_equal(json_array_size(answers), 2);
    assert_int_equal(json_int_or(json_array_get(answers, 0), "mem_bytes", 0), 1);
    assert_int_equal(json_int_or(json_array_get(answers, 1), "mem_bytes", 0), 2);
    json_decref(answers);
}

static void a_program_without_the_capability_answers_null(void **state)
{
    struct error err = {0};
    json_t *answers = NULL;

    (void)state;
    assert_int_equal(ask("echo '{\"op\":\"hello\",\"version\":1,\"pid\":1}' >&3; sleep 1000", &answers, &err), 0);
    assert_int_equal(json_array_size(answers), 2);
    assert_true(json_is_null(json_array_get(answers, 1)));
    json_decref(answers);
}

static void a_program_says_whether_it_carries_several_runs(void **state)
{
    static const char *const HELLOS[] = {HELLO, "echo '{\"op\":\"hello\",\"version\":1,\"pid\":1,\"capabilities\":[\"pack\"]}' >&3; "};

    (void)state;
    for (int i = 0; i < 2; i++) {
        const char *argv[] = {"/bin/bash", "-c", HELLOS[i], NULL};
        struct error err = {0};
        json_t *requests = json_array(), *answers = NULL;
        bool packs = !i;
        assert_int_equal(launcher_ask_plan(argv, NULL, requests, &packs, &answers, &err), 0);
        assert_int_equal(packs, i);
        json_decref(requests);
        json_decref(answers);
    }
}

static void each_way_to_fail_has_its_words(void **state)
{
    static const struct {
        const char *script, *says, *also;
    } CASES[] = {
        {"echo 'no module named torch' >&2; exit 1", "exit code 1", "no module named torch"},
        {"kill -ABRT $$", "died of signal 6", "gave no answer"},
        {HELLO "exit 0", "exit code 0 and gave no answer", ""},
        {HELLO "echo rubbish >&3; sleep 1000", "no message of the trial protocol", "not JSON"},
        {HELLO "echo '{\"op\":\"plan\",\"id\":1}' >&3; sleep 1000", "no message of the trial protocol", "\"ok\""},
        {"echo '{\"op\":\"hello\",\"version\":9,\"pid\":1}' >&3; sleep 1000", "version 9", "speaks 1"},
        {"echo '{\"op\":\"heartbeat\"}' >&3; echo '{\"op\":\"log\",\"run\":1,\"text\":\"x\"}' >&3; sleep 1000",
         "must be hello, not log", ""},
    };

    (void)state;
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        struct error err = {0};
        json_t *answers = NULL;
        assert_int_equal(ask(CASES[i].script, &answers, &err), -EIO);
        if (!strstr(err.text, CASES[i].says) || !strstr(err.text, CASES[i].also))
            fail_msg("case %zu: %s", i, err.text);
        assert_null(strchr(err.text, '\n'));
    }
}

/* Its environment is wrong, say: its words alone, no request is to blame. */
static void a_program_that_cannot_plan_anything_says_why(void **state)
{
    struct error err = {0};
    json_t *answers = NULL;

    (void)state;
    assert_int_equal(ask("echo noise; " HELLO "echo '{\"op\":\"plan\",\"id\":1,\"ok\":false,\"text\":\"FLEXP_ISA=x: must be y\"}' >&3; "
                         "sleep 1000", &answers, &err), -EINVAL);
    assert_string_equal(err.text, "FLEXP_ISA=x: must be y");
    assert_null(answers);
}

static void a_silent_program_is_not_waited_for(void **state)
{
    struct error err = {0};
    json_t *answers = NULL;

    (void)state;
    setenv("FLEXP_HELLO_MS", "300", 1);
    assert_int_equal(ask("echo thinking; sleep 1000", &answers, &err), -EIO);
    unsetenv("FLEXP_HELLO_MS");
    assert_non_null(strstr(err.text, "has said nothing"));
    assert_non_null(strstr(err.text, "thinking"));
}

static void a_program_that_is_not_there_is_named(void **state)
{
    const char *argv[] = {"/nowhere/train", NULL};
    struct error err = {0};
    json_t *requests = json_array(), *answers = NULL;

    (void)state;
    assert_int_equal(launcher_ask_plan(argv, NULL, requests, NULL, &answers, &err), -EIO);
    assert_non_null(strstr(err.text, "/nowhere/train: it could not be started: /nowhere/train: No such file"));
    setenv("FLEXP_TRAINER", "/nowhere/flexp-trainer", 1);
    assert_true(launcher_ask_plan(NULL, NULL, requests, NULL, &answers, &err) < 0);
    unsetenv("FLEXP_TRAINER");
    assert_non_null(strstr(err.text, "/nowhere/flexp-trainer cannot be run"));
    json_decref(requests);
}

static void it_runs_in_the_folder_named(void **state)
{
    const char *argv[] = {"/bin/sh", "-c", "pwd; exit 3", NULL};
    struct error err = {0};
    json_t *requests = json_array(), *answers = NULL;

    (void)state;
    assert_int_equal(launcher_ask_plan(argv, "/usr/lib", requests, NULL, &answers, &err), -EIO);
    assert_non_null(strstr(err.text, "/usr/lib"));
    assert_int_equal(launcher_ask_plan(argv, "/nowhere", requests, NULL, &answers, &err), -EIO);
    assert_non_null(strstr(err.text, "/nowhere: No such file"));
    json_decref(requests);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_come_in_the_order_of_the_requests),
        cmocka_unit_test(a_program_without_the_capability_answers_null),
        cmocka_unit_test(a_program_says_whether_it_carries_several_runs),
        cmocka_unit_test(each_way_to_fail_has_its_words),
        cmocka_unit_test(a_program_that_cannot_plan_anything_says_why),
        cmocka_unit_test(a_silent_program_is_not_waited_for),
        cmocka_unit_test(a_program_that_is_not_there_is_named),
        cmocka_unit_test(it_runs_in_the_folder_named),
    };
    if (argc > 1 && !strcmp(argv[1], "supervise"))
        return supervise_main(argc, argv);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
