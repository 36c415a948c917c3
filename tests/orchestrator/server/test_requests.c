/* test_requests.c - the table of requests without a server: arguments, errors, paths.
 * SPDX-License-Identifier: Apache-2.0 */
#include "common/file.h"
#include "orchestrator/server/requests.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h> /* last: it defines fail() as a macro */

struct test {
    char folder[64], path[80];
    struct store *store;
};

static void put_one(struct store *store)
{
    struct store_batch *batch = store_batch_new();
    struct trial_ref trial = {1, 1};
    json_t *resolved = json_pack("{s:s, s:{s:s, s:s, s:b}, s:{s:s}}", "name", "experiments/1 in its name", "searcher",
                                 "name", "grid", "metric", "validation_accuracy", "smaller_is_better", 0, "data",
                                 "path", "experiments/data");
    json_t *hyperparameters = json_pack("{s:f}", "lr", 0.1), *units = json_pack("{s:i}", "rounds", 4);
    json_t *metrics = json_pack("{s:f}", "validation_accuracy", 0.5), *slots = json_pack("[s]", "cpu:0");

    store_put_experiment(batch, 1, "one", "name: one\n", resolved, "active", 1000);
    store_put_trial(batch, trial, hyperparameters, 1000);
    store_put_run(batch, 1, trial, 1, slots, 77, "none", 0, 1000);
    store_put_checkpoint(batch, 1, trial, 1, 1, 4, units, "runs/1/checkpoint-4.bin", 10, 1000);
    store_put_trial_best(batch, trial, 0.5, 4, 1);
    store_put_experiment_best(batch, 1, 1, 4, metrics, 1);
    store_submit(store, batch, NULL, NULL);
    store_flush(store);
    assert_null(store_failure(store));
    json_decref(resolved);
    json_decref(hyperparameters);
    json_decref(units);
    json_decref(metrics);
    json_decref(slots);
}

static int set_up(void **state)
{
    struct test *test = calloc(1, sizeof *test);
    struct store_high high;
    struct error err = {0};

    snprintf(test->folder, sizeof test->folder, "/tmp/flexp-test-requests-XXXXXX");
    assert_non_null(mkdtemp(test->folder));
    snprintf(test->path, sizeof test->path, "%s/flexp.db", test->folder);
    if (store_open(test->path, false, NULL, NULL, &test->store, &high, &err))
        fail_msg("%s", err.text);
    put_one(test->store);
    *state = test;
    return 0;
}

static int tear_down(void **state)
{
    struct test *test = *state;

    store_close(test->store);
    file_remove_tree(test->folder, NULL);
    free(test);
    return 0;
}

static int ask(struct test *test, const char *name, const char *arguments, json_t **ret, struct error *err)
{
    json_t *value = json_loads(arguments, 0, NULL);
    int rc;

    assert_non_null(value);
    *err = (struct error){0};
    *ret = NULL;
    rc = request_run(NULL, test->store, name, value, ret, err);
    json_decref(value);
    return rc;
}

static void wrong_arguments_are_refused_with_what_would_be_right(void **state)
{
    static const struct {
        const char *name, *arguments;
        int code;
        const char *says;
    } CASES[] = {
        {"describe", "{}", -EINVAL, "describe: the argument experiment (an integer) is missing"},
        {"describe", "{\"experiment\": null}", -EINVAL, "is missing"},
        {"describe", "{\"experiment\": \"1\"}", -EINVAL, "must be an integer"},
        {"describe", "{\"experiment\": -3}", -EINVAL, "must not be negative"},
        {"describe", "{\"experiment\": 1, \"trail\": 2}", -EINVAL,
         "no argument is called \"trail\"; it takes experiment:int"},
        {"describe", "{\"experiment\": 2}", -ENOENT, "2"},
        {"trial", "{\"experiment\": 1, \"trial\": 2}", -ENOENT, "2"},
        {"list", "{\"all\": \"yes\"}", -EINVAL, "must be true or false"},
        {"metrics", "{\"experiment\": 1, \"trial\": 1, \"name\": 5}", -EINVAL, "must be a string"},
        {"logs", "{\"experiment\": 1, \"limit\": 0}", -EINVAL, "from 1 to 100000"},
        {"logs", "{\"experiment\": 1, \"limit\": 100001}", -EINVAL, "from 1 to 100000"},
        {"create", "{\"text\": \"\", \"resolved\": 1}", -EINVAL, "must be an object"},
        {"status", "{\"x\": 1}", -EINVAL, "it takes none"},
        {"nothing", "{}", -ENOSYS, "there is no request \"nothing\""},
        {"", "{}", -ENOSYS, "there is no request"},
    };

    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        struct error err;
        json_t *answer;
        int rc = ask(*state, CASES[i].name, CASES[i].arguments, &answer, &err);
        if (rc != CASES[i].code || err.code != rc || !strstr(err.text, CASES[i].says) || answer)
            fail_msg("%s %s: %d %s", CASES[i].name, CASES[i].arguments, rc, err.text);
    }
}

static void every_request_is_described_and_checks_its_arguments(void **state)
{
    size_t n = 0;

    for (const struct request *request = REQUESTS; request->name; request++, n++) {
        struct error err;
        json_t *answer;
        int rc = ask(*state, request->name, "{\"no such argument\": 1}", &answer, &err);
        assert_non_null(request->doc);
        assert_non_null(request->handle);
        assert_int_equal(rc, -EINVAL);
    }
    assert_true(n > 16);
}

static void what_needs_an_orchestrator_says_so_where_there_is_none(void **state)
{
    static const char *const ARGUMENTS[] = {"{}", "{\"experiment\": 1}", "{\"experiment\": 1, \"trial\": 1}",
                                            "{\"text\": \"\", \"resolved\": {}}",
                                            "{\"experiment\": 1, \"archived\": true}",
                                            "{\"experiment\": 1, \"key\": \"\", \"value\": \"\"}",
                                            "{\"experiment\": 1, \"trial\": 1, \"unit\": \"1\", \"metrics\": {}}"};

    for (const struct request *request = REQUESTS; request->name; request++) {
        int code = 0;
        for (size_t i = 0; i < sizeof ARGUMENTS / sizeof *ARGUMENTS && code != -ENOTCONN; i++) {
            struct error err;
            json_t *answer;
            code = ask(*state, request->name, ARGUMENTS[i], &answer, &err);
            if (code == -ENOTCONN)
                assert_non_null(strstr(err.text, "flexp up"));
            json_decref(answer);
        }
        assert_int_equal(code == -ENOTCONN, request->need == REQUEST_SERVER);
    }
}

static void read_requests_answer_from_the_store_alone(void **state)
{
    static const struct {
        const char *name, *arguments;
    } CASES[] = {{"list", "{}"},
                 {"list", "{\"all\": true}"},
                 {"describe", "{\"experiment\": 1}"},
                 {"trials", "{\"experiment\": 1}"},
                 {"trial", "{\"experiment\": 1, \"trial\": 1}"},
                 {"metrics", "{\"experiment\": 1, \"trial\": 1, \"client\": -1}"},
                 {"logs", "{\"experiment\": 1, \"trial\": null, \"after\": 0, \"limit\": 5}"}};

    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        struct error err;
        json_t *answer;
        if (ask(*state, CASES[i].name, CASES[i].arguments, &answer, &err))
            fail_msg("%s: %s", CASES[i].name, err.text);
        assert_int_equal(json_int_or(answer, "schema_version", 0), 1);
        json_decref(answer);
    }
}

static void paths_of_files_are_absolute_and_nothing_else_is_touched(void **state)
{
    struct test *test = *state;
    struct error err;
    json_t *answer;
    char want[200];

    assert_int_equal(ask(test, "describe", "{\"experiment\": 1}", &answer, &err), 0);
    snprintf(want, sizeof want, "%s/experiments/1/trials/1/runs/1/checkpoint-4.bin", test->folder);
    assert_string_equal(json_string_or(json_object_get(answer, "best_checkpoint"), "path", ""), want);
    assert_string_equal(json_string_value(json_at(answer, "config.data.path")), "experiments/data");
    assert_string_equal(json_string_value(json_at(answer, "config.name")), "experiments/1 in its name");
    json_decref(answer);
    assert_int_equal(ask(test, "trial", "{\"experiment\": 1, \"trial\": 1}", &answer, &err), 0);
    assert_string_equal(json_string_value(json_at(answer, "checkpoints[0].path")), want);
    json_decref(answer);
}

static void codes_have_names(void **state)
{
    (void)state;
    assert_string_equal(request_error_code(-ENOENT), "not_found");
    assert_string_equal(request_error_code(-EINVAL), "bad_input");
    assert_string_equal(request_error_code(-EBUSY), "conflict");
    assert_string_equal(request_error_code(-ENOSYS), "usage");
    assert_string_equal(request_error_code(-EPROTO), "version");
    assert_string_equal(request_error_code(-ENOSPC), "internal");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wrong_arguments_are_refused_with_what_would_be_right),
        cmocka_unit_test(every_request_is_described_and_checks_its_arguments),
        cmocka_unit_test(what_needs_an_orchestrator_says_so_where_there_is_none),
        cmocka_unit_test(read_requests_answer_from_the_store_alone),
        cmocka_unit_test(paths_of_files_are_absolute_and_nothing_else_is_touched),
        cmocka_unit_test(codes_have_names),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
