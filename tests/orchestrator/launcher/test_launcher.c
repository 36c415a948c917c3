/* test_launcher.c - workers under their supervisor: pinning, pipes, ends, and that nothing outlives them.
 * SPDX-License-Identifier: Apache-2.0 */
#include "common/file.h"
#include "orchestrator/launcher/launcher.h"
#include "orchestrator/launcher/supervise.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h> /* last: it defines fail() as a macro */

#define DEADLINE_MS 20000

struct test {
    uv_loop_t loop;
    uv_timer_t deadline;
    struct launcher *launcher;
    struct worker *worker;
    char folder[64], leases[80];
    char line[4096];         /* last line of the protocol */
    char output[8192];       /* all lines of output, each with a newline */
    char reason[64], text[4096];
    int lines, ends;
    bool late, closed;
};

static void on_message(void *arg, struct worker *worker, char *line, size_t length)
{
    struct test *test = arg;

    assert_ptr_equal(worker_data(worker), test);
    assert_int_equal(strlen(line), length);
    snprintf(test->line, sizeof test->line, "%s", line);
    test->lines++;
}

static void on_output(void *arg, struct worker *worker, const char *line)
{
    struct test *test = arg;
    size_t used = strlen(test->output);

    (void)worker;
    snprintf(test->output + used, sizeof test->output - used, "%s\n", line);
}

static void on_ended(void *arg, struct worker *worker, const char *reason, const char *text)
{
    struct test *test = arg;

    (void)worker;
    snprintf(test->reason, sizeof test->reason, "%s", reason);
    snprintf(test->text, sizeof test->text, "%s", text);
    test->ends++;
    test->worker = NULL;
}

static void on_late(uv_timer_t *timer)
{
    struct test *test = timer->data;

    test->late = true;
}

static void on_closed(void *arg)
{
    struct test *test = arg;

    test->closed = true;
}

static const struct launcher_events EVENTS = {on_message, on_output, on_ended};

static int set_up(void **state)
{
    struct test *test = calloc(1, sizeof *test);

    signal(SIGPIPE, SIG_IGN);
    snprintf(test->folder, sizeof test->folder, "/tmp/flexp-test-launcher-XXXXXX");
    assert_non_null(mkdtemp(test->folder));
    snprintf(test->leases, sizeof test->leases, "%s/leases", test->folder);
    setenv("FLEXP_LEASES", test->leases, 1);
    assert_int_equal(uv_loop_init(&test->loop), 0);
    uv_timer_init(&test->loop, &test->deadline);
    test->deadline.data = test;
    uv_timer_start(&test->deadline, on_late, DEADLINE_MS, 0);
    assert_int_equal(launcher_new(&test->loop, test->folder, NULL, &EVENTS, test, &test->launcher, NULL), 0);
    assert_true(launcher_lease(test->launcher) >= 1);
    *state = test;
    return 0;
}

static int tear_down(void **state)
{
    struct test *test = *state;

    if (test->launcher)
        launcher_close(test->launcher, on_closed, test);
    while (test->launcher && !test->closed)
        uv_run(&test->loop, UV_RUN_ONCE);
    uv_close((uv_handle_t *)&test->deadline, NULL);
    uv_run(&test->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&test->loop), 0);
    file_remove_tree(test->folder, NULL);
    free(test);
    return 0;
}

#define WAIT(test, condition)                              \
    do {                                                   \
        while (!(condition)) {                             \
            assert_false((test)->late);                    \
            uv_run(&(test)->loop, UV_RUN_ONCE);            \
        }                                                  \
    } while (0)

static int start_on(struct test *test, size_t slot, const char *const *argv, struct error *err)
{
    static const char *const ENV[] = {"EXTRA=given", NULL};

    return launcher_start(test->launcher, &slot, 1, argv, ENV, test->folder, NULL, test, &test->worker, err);
}

/* Starts a shell script on the first slot. */
static void start(struct test *test, const char *script)
{
    const char *argv[] = {"/bin/bash", "-c", script, NULL};
    struct error err = {0};

    if (start_on(test, 0, argv, &err))
        fail_msg("%s", err.text);
}

static bool is_alive(long pid)
{
    char path[64], text[256] = "";
    FILE *stat;
    const char *end;
    size_t n;

    snprintf(path, sizeof path, "/proc/%ld/stat", pid);
    stat = fopen(path, "r");
    if (!stat)
        return false;
    n = fread(text, 1, sizeof text - 1, stat);
    text[n] = 0;
    fclose(stat);
    end = strrchr(text, ')');
    return end && end[2] != 'Z';
}

static void a_worker_speaks_hears_and_exits(void **state)
{
    struct test *test = *state;
    json_t *message = json_pack("{s:s}", "op", "ping");
    char *log;

    start(test, "echo '{\"op\":\"hello\"}' >&$FLEXP_FD; read -u $FLEXP_FD line; echo \"heard $line\"; echo oops >&2; "
                "exit 3");
    worker_send(test->worker, message);
    json_decref(message);
    WAIT(test, test->ends);
    assert_string_equal(test->line, "{\"op\":\"hello\"}");
    assert_string_equal(test->output, "heard {\"op\":\"ping\"}\noops\n");
    assert_string_equal(test->reason, "exit");
    assert_string_equal(test->text, "exit code 3\n  heard {\"op\":\"ping\"}\n  oops");
    snprintf(test->line, sizeof test->line, "%s/output.log", test->folder);
    assert_int_equal(file_read(test->line, &log, NULL, NULL), 0);
    assert_string_equal(log, test->output);
    free(log);
}

static void its_environment_is_clean_and_only_its_own_descriptors_are_open(void **state)
{
    struct test *test = *state;

    setenv("SECRET_OF_CALLER", "x", 1);
    setenv("FLEXP_SEEN", "y", 1);
    start(test, "echo \"${SECRET_OF_CALLER-unset} $FLEXP_SEEN $EXTRA $PWD\"; ls /proc/$$/fd; true");
    WAIT(test, test->ends);
    unsetenv("SECRET_OF_CALLER");
    unsetenv("FLEXP_SEEN");
    snprintf(test->line, sizeof test->line, "unset y given %s\n", test->folder);
    assert_memory_equal(test->output, test->line, strlen(test->line));
    assert_string_equal(test->output + strlen(test->line), "0\n1\n2\n3\n");
}

static void it_is_pinned_to_the_cores_of_its_slots(void **state)
{
    struct test *test = *state;
    const struct slot_info *slots;
    char want[64];

    launcher_slots(test->launcher, &slots);
    assert_string_equal(slots[0].holder, "");
    assert_true(slots[0].ours);
    start(test, "grep Cpus_allowed_list /proc/self/status");
    WAIT(test, test->ends);
    snprintf(want, sizeof want, "Cpus_allowed_list:\t%d\n", slots[0].index);
    assert_string_equal(test->output, want);
}

static void the_reason_tells_exits_from_signals_and_from_programs_that_are_not_there(void **state)
{
    struct test *test = *state;
    const char *missing[] = {"/nowhere/at-all", NULL};

    start(test, "kill -SEGV $$");
    WAIT(test, test->ends == 1);
    assert_string_equal(test->reason, "signal");
    assert_non_null(strstr(test->text, "died of signal 11"));
    assert_int_equal(start_on(test, 0, missing, NULL), 0);
    WAIT(test, test->ends == 2);
    assert_string_equal(test->reason, "exit");
    assert_string_equal(test->text, "the program could not be started: /nowhere/at-all: No such file or directory");
    start(test, "exit 0");
    WAIT(test, test->ends == 3);
    assert_string_equal(test->text, "exit code 0");
}

/* Prints the pids of processes that try to get away: a child, a daemon (forked twice, own session), a deaf one. */
#define RUNAWAYS                                                                          \
    "trap '' TERM HUP INT; sleep 1000 & echo $!; "                                        \
    "(setsid sh -c 'sleep 1000 & echo $!; wait' &) ; "                                    \
    "(trap '' TERM; setsid sh -c 'trap \"\" TERM HUP; echo $$; exec sleep 1000' &) ; "

static void check_all_dead(const char *output, int n)
{
    const char *at = output;
    int seen = 0;

    while (*at) {
        char *end;
        long pid = strtol(at, &end, 10);
        if (end != at && pid > 1) {
            assert_false(is_alive(pid));
            seen++;
        }
        at = strchr(at, '\n') + 1;
    }
    assert_int_equal(seen, n);
}

static int count_lines(const char *text)
{
    int n = 0;

    for (; *text; text++)
        n += *text == '\n';
    return n;
}

static void a_kill_leaves_no_descendant(void **state)
{
    struct test *test = *state;

    start(test, RUNAWAYS "echo $$; while :; do sleep 1000; done");
    WAIT(test, count_lines(test->output) == 4);
    worker_kill(test->worker);
    WAIT(test, test->ends);
    assert_string_equal(test->reason, "signal");
    assert_non_null(strstr(test->text, "killed with signal 9"));
    check_all_dead(test->output, 4);
}

static void an_exit_leaves_no_descendant(void **state)
{
    struct test *test = *state;

    start(test, RUNAWAYS "read -u $FLEXP_FD line; exit 7");
    WAIT(test, count_lines(test->output) == 3);
    worker_dismiss(test->worker); /* the read ends */
    WAIT(test, test->ends);
    assert_string_equal(test->reason, "exit");
    assert_memory_equal(test->text, "exit code 7", 11);
    check_all_dead(test->output, 3);
}

static void a_killed_supervisor_leaves_no_descendant(void **state)
{
    struct test *test = *state;

    start(test, RUNAWAYS "echo $$; echo supervisor $PPID; while :; do sleep 1000; done");
    WAIT(test, count_lines(test->output) == 5);
    assert_int_equal(kill((pid_t)atol(strstr(test->output, "supervisor ") + 11), SIGKILL), 0);
    WAIT(test, test->ends);
    assert_string_equal(test->reason, "lost");
    check_all_dead(test->output, 4);
}

/* A process of its own that holds the leases and one worker until it is killed. */
static void be_orchestrator(struct test *test, int say)
{
    uv_loop_init(&test->loop);
    if (launcher_new(&test->loop, test->folder, NULL, &EVENTS, test, &test->launcher, NULL) ||
        !launcher_lease(test->launcher))
        _exit(1);
    start(test, RUNAWAYS "echo $$; while :; do sleep 1000; done");
    while (count_lines(test->output) < 4)
        uv_run(&test->loop, UV_RUN_ONCE);
    if (fd_write_all(say, test->output, strlen(test->output)))
        _exit(1);
    close(say);
    uv_run(&test->loop, UV_RUN_DEFAULT);
    _exit(1);
}

static bool some_alive(const char *output)
{
    for (const char *at = output; *at; at = strchr(at, '\n') + 1)
        if (is_alive(strtol(at, NULL, 10)))
            return true;
    return false;
}

static void an_orchestrator_killed_dead_leaves_no_process_and_frees_its_leases(void **state)
{
    struct test *test = *state;
    size_t leased = launcher_lease(test->launcher), used = 0;
    char output[512] = "";
    ssize_t n;
    int say[2];
    pid_t child;

    launcher_unlease(test->launcher);
    assert_int_equal(pipe2(say, O_CLOEXEC), 0);
    child = fork();
    if (child == 0)
        be_orchestrator(test, say[1]);
    close(say[1]);
    while ((n = read(say[0], output + used, sizeof output - 1 - used)) > 0)
        used += (size_t)n;
    close(say[0]);
    assert_int_equal(count_lines(output), 4);
    assert_int_equal(launcher_lease(test->launcher), 0);
    kill(child, SIGKILL);
    assert_int_equal(waitpid(child, NULL, 0), child);
    for (int i = 0; i < DEADLINE_MS / 10 && (some_alive(output) || launcher_lease(test->launcher) < leased); i++)
        usleep(10000);
    check_all_dead(output, 4);
    assert_int_equal(launcher_lease(test->launcher), leased);
}

static void output_goes_to_the_folder_of_the_run_that_the_worker_has(void **state)
{
    struct test *test = *state;
    char folder[128], *text;

    snprintf(folder, sizeof folder, "%s/second", test->folder);
    assert_int_equal(mkdir(folder, 0755), 0);
    start(test, "echo one; read -u $FLEXP_FD line; echo two");
    WAIT(test, count_lines(test->output) == 1);
    worker_set_folder(test->worker, folder);
    snprintf(folder, sizeof folder, "%s/second/output.log", test->folder);
    while (!file_exists(folder)) {
        assert_false(test->late);
        uv_run(&test->loop, UV_RUN_NOWAIT);
    }
    worker_dismiss(test->worker);
    WAIT(test, test->ends);
    assert_int_equal(file_read(folder, &text, NULL, NULL), 0);
    assert_string_equal(text, "two\n");
    free(text);
}

static void a_program_that_closes_its_socket_and_lives_is_killed(void **state)
{
    struct test *test = *state;

    start(test, "exec 3>&-; sleep 1000");
    WAIT(test, test->ends);
    assert_string_equal(test->reason, "signal");
}

static void output_of_any_kind_arrives(void **state)
{
    struct test *test = *state;

    /* bytes that are not UTF-8, control characters, no newline at the end */
    start(test, "printf 'a\\377b\\001c\\nlast'");
    WAIT(test, test->ends);
    assert_string_equal(test->output, "a?b c\nlast\n");
}

static void much_output_is_neither_lost_nor_in_the_way_of_a_kill(void **state)
{
    struct test *test = *state;
    struct stat st;

    start(test, "head -c 3000000 /dev/zero | tr '\\0' 'x' | fold -w 1000; echo end");
    WAIT(test, test->ends);
    snprintf(test->line, sizeof test->line, "%s/output.log", test->folder);
    assert_int_equal(stat(test->line, &st), 0);
    assert_int_equal(st.st_size, 3003000 + 3); /* fold's last line has no newline, then "end\n" */
    test->output[0] = 0;
    start(test, "exec yes");
    WAIT(test, strstr(test->output, "y") != NULL);
    worker_kill(test->worker);
    WAIT(test, test->ends == 2);
    assert_string_equal(test->reason, "signal");
}

static void a_slot_that_is_not_leased_is_refused(void **state)
{
    struct test *test = *state;
    const char *argv[] = {"/bin/true", NULL};
    struct error err = {0};
    size_t slot = 0;

    launcher_unlease(test->launcher);
    assert_int_equal(start_on(test, slot, argv, &err), -EPERM);
    slot = 100000;
    assert_int_equal(start_on(test, slot, argv, &err), -EPERM);
}

static void a_supervisor_that_cannot_be_started_is_an_error(void **state)
{
    struct test *test = *state;
    const char *argv[] = {"/bin/true", NULL};
    struct error err = {0};
    size_t slot = 0;

    setenv("FLEXP_SUPERVISOR", "/nowhere/flexp", 1);
    assert_true(start_on(test, slot, argv, &err) < 0);
    unsetenv("FLEXP_SUPERVISOR");
    assert_non_null(strstr(err.text, "/nowhere/flexp"));
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
        TEST(a_worker_speaks_hears_and_exits),
        TEST(its_environment_is_clean_and_only_its_own_descriptors_are_open),
        TEST(it_is_pinned_to_the_cores_of_its_slots),
        TEST(the_reason_tells_exits_from_signals_and_from_programs_that_are_not_there),
        TEST(a_kill_leaves_no_descendant),
        TEST(an_exit_leaves_no_descendant),
        TEST(a_killed_supervisor_leaves_no_descendant),
        TEST(an_orchestrator_killed_dead_leaves_no_process_and_frees_its_leases),
        TEST(output_goes_to_the_folder_of_the_run_that_the_worker_has),
        TEST(a_program_that_closes_its_socket_and_lives_is_killed),
        TEST(output_of_any_kind_arrives),
        TEST(much_output_is_neither_lost_nor_in_the_way_of_a_kill),
        TEST(a_slot_that_is_not_leased_is_refused),
        TEST(a_supervisor_that_cannot_be_started_is_an_error),
    };
    if (argc > 1 && !strcmp(argv[1], "supervise"))
        return supervise_main(argc, argv);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
