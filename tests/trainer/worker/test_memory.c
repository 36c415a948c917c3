/* test_memory.c - the worker when memory of the fake GPU is short: what can never fit is refused when it is planned, a run
 * that others keep from its memory says so and of how much, and it trains when they are gone. The test is the orchestrator,
 * on the other end of a socket pair. SPDX-License-Identifier: Apache-2.0 */
#include "tests/trainer/backend/cuda/fake.h"
#include "trainer/backend/cuda/cuda.h"
#include "trainer/worker/run.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#define MIB ((size_t)1 << 20)
#define LARGE 65536 /* a batch that the GPU is too small for */

static struct connection *connection;
static struct session *session;
static struct planner planner;
static FILE *heard;
static int spoken = -1;
static char folder[] = "/tmp/flexp-test-memory-XXXXXX";

static const char SECTIONS[] =
    "\"sections\": {\"data\": {\"source\": \"synthetic\", \"synthetic\": {\"samples\": 300, \"test_samples\": 60, \"classes\": 3,"
    " \"channels\": 1, \"size\": 12}}, \"model\": {\"layers\": [{\"conv2d\": {\"filters\": 4, \"kernel\": 3}}, \"flatten\","
    " {\"dense\": {\"units\": \"classes\"}}]}, \"training\": {\"learning_rate\": 0.05, \"batch_size\": %d},"
    " \"federation\": {\"clients\": 4, \"partition\": {\"scheme\": \"iid\"}}}";

static int set_up(void **state)
{
    int ends[2];
    char *line = NULL;
    size_t room = 0;
    struct error err;

    (void)state;
    if (!mkdtemp(folder) || socketpair(AF_UNIX, SOCK_STREAM, 0, ends) || session_new(&session, &err) ||
        connection_open(ends[1], "none", &connection, &err))
        return -1;
    spoken = ends[0];
    heard = fdopen(ends[0], "r");
    if (getline(&line, &room, heard) < 0 || !strstr(line, "hello"))
        return -1;
    free(line);
    return 0;
}

/* The connection ends the process with its stream, so that stays open. */
static int tear_down(void **state)
{
    char *command = NULL;

    (void)state;
    planner_done(&planner);
    if (asprintf(&command, "rm -r %s", folder) < 0 || system(command))
        return -1;
    free(command);
    return 0;
}

__attribute__((format(printf, 1, 0))) static void say(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vdprintf(spoken, format, args);
    va_end(args);
}

/* The next message that is of one of these operations, a new reference. */
static json_t *hear(const char *op, const char *other)
{
    char *line = NULL;
    size_t room = 0;
    json_t *message = NULL;

    while (!message) {
        struct error err;
        if (getline(&line, &room, heard) < 0 || json_parse(line, strlen(line), &message, &err))
            fail_msg("nothing is heard");
        if (strcmp(json_string_or(message, "op", ""), op) && strcmp(json_string_or(message, "op", ""), other)) {
            json_decref(message);
            message = NULL;
        }
    }
    free(line);
    return message;
}

static void pass_on(void)
{
    struct message message;

    connection_next(connection, &message);
    if (message.op == MSG_PLAN) {
        plan_answer(&planner, connection, &message);
        message_done(&message);
    } else {
        planner_done(&planner);
        run_start(connection, session, &message);
    }
}

static json_t *plan(const char *slot_type, int batch)
{
    char text[1000];

    snprintf(text, sizeof text, SECTIONS, batch);
    say("{\"op\": \"plan\", \"id\": 1, \"hyperparameters\": {}, \"slots\": 1, \"cache_dir\": \"%s\", \"slot_type\": \"%s\", %s}\n",
        folder, slot_type, text);
    pass_on();
    return hear("plan", "plan");
}

/* How a run of one round ends: its last word. */
static json_t *run(int number, int batch)
{
    char text[1000];
    json_t *message;

    snprintf(text, sizeof text, SECTIONS, batch);
    say("{\"op\": \"assign\", \"run\": %d, \"experiment\": 1, \"trial\": 1, \"attempt\": 1, \"seed\": 7, \"data_seed\": 7,"
        " \"hyperparameters\": {}, \"time_metric\": \"rounds\", \"train_until\": 1, \"max_units\": 1,"
        " \"metric\": \"validation_accuracy\", \"smaller_is_better\": false, \"min_checkpoint_period\": 0, \"resume\": null,"
        " \"trial_dir\": \"%s\", \"run_dir\": \"%s/runs/%d\", \"cache_dir\": \"%s\", \"slots\": [\"cuda:0\"], %s}\n",
        number, folder, folder, number, folder, text);
    pass_on();
    message = hear("checkpoint", "failed");
    if (strcmp(json_string_or(message, "op", ""), "checkpoint"))
        return message;
    json_decref(message);
    say("{\"op\": \"stop\", \"run\": %d}\n", number);
    return hear("done", "failed");
}

static void must_end(int number, int batch, const char *reason, const char *text)
{
    json_t *message = run(number, batch);

    assert_string_equal(json_string_or(message, "reason", ""), reason);
    if (!strstr(json_string_or(message, "text", ""), text))
        fail_msg("%s lacks: %s", json_string_or(message, "text", ""), text);
    json_decref(message);
}

static void what_can_never_fit_is_refused_when_it_is_planned(void **state)
{
    json_t *answer = plan("cuda", 8), *error;

    (void)state;
    assert_true(json_bool_or(answer, "ok", false));
    assert_true(json_int_or(answer, "mem_bytes", 0) > (int64_t)(600 * MIB));
    json_decref(answer);
    answer = plan("cuda", LARGE);
    assert_false(json_bool_or(answer, "ok", true));
    error = json_array_get(json_object_get(answer, "errors"), 0);
    assert_non_null(strstr(json_string_or(error, "text", ""), "MiB of GPU memory for batches of 65536, but Fake GPU has 700 MiB"));
    json_decref(answer);
    answer = plan("cpu", LARGE);
    assert_true(json_bool_or(answer, "ok", false));
    json_decref(answer);
}

/* What a file is stored with must not hang on who used the GPU in that minute. */
static void a_full_gpu_is_planned_for_as_if_it_were_free(void **state)
{
    json_t *before = plan("cuda", 8), *answer, *error;

    (void)state;
    assert_true(json_int_or(before, "trials_per_slot", 0) > 1);
    planner_done(&planner);
    fake_others(0, fake.capacity);
    answer = plan("cuda", 8);
    assert_true(json_equal(answer, before));
    json_decref(answer);
    json_decref(before);
    answer = plan("cuda", LARGE);
    error = json_array_get(json_object_get(answer, "errors"), 0);
    assert_non_null(strstr(json_string_or(error, "text", ""), "MiB of GPU memory for batches of 65536, but Fake GPU has 700 MiB"));
    json_decref(answer);
    planner_done(&planner);
    fake_others(0, 0);
}

/* However little others leave, wherever it is missed first. */
static void a_run_that_others_keep_from_its_memory_says_so_and_trains_when_they_are_gone(void **state)
{
    size_t left = 0;
    int number = 1;
    char text[100];

    (void)state;
    fake_others(0, fake.capacity);
    must_end(number++, 8, "memory_in_use", "cuda:0: other processes hold its memory: there is none for a context");
    for (left = 4096; left < 64 * MIB; left *= 2) {
        json_t *message;
        const char *reason;
        fake_others(0, fake.capacity - left);
        message = run(number++, 8);
        reason = json_string_or(message, "reason", "");
        if (strcmp(reason, "memory_in_use")) {
            assert_string_equal(reason, "length");
            json_decref(message);
            break;
        }
        snprintf(text, sizeof text, "%zu of 700 MiB are free; other processes hold about", left / MIB);
        assert_non_null(strstr(json_string_or(message, "text", ""), "cuda:0 (Fake GPU): a trial needs "));
        if (!strstr(json_string_or(message, "text", ""), text))
            fail_msg("%s lacks: %s", json_string_or(message, "text", ""), text);
        json_decref(message);
    }
    assert_true(number > 6 && left < 64 * MIB);
    fake_others(0, 0);
    must_end(number, 8, "length", "");
}

/* It would wait for ever. */
static void a_run_that_the_whole_gpu_is_too_small_for_does_not_put_it_on_others(void **state)
{
    (void)state;
    fake_others(0, 400 * MIB);
    must_end(100, LARGE, "out_of_memory", "but Fake GPU has 700 MiB");
    fake_others(0, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_can_never_fit_is_refused_when_it_is_planned),
        cmocka_unit_test(a_full_gpu_is_planned_for_as_if_it_were_free),
        cmocka_unit_test(a_run_that_others_keep_from_its_memory_says_so_and_trains_when_they_are_gone),
        cmocka_unit_test(a_run_that_the_whole_gpu_is_too_small_for_does_not_put_it_on_others),
    };

    fake.capacity = 700 * MIB;
    cuda_use_driver(&FAKE_DRIVER);
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
