/* test_server.c - an orchestrator's start and end in a process of its own: the word on ready_fd, lock, socket, signals.
 * What it does with experiments, workers and clients is in tests/integration/test_server.py.
 * SPDX-License-Identifier: Apache-2.0 */
#include "common/file.h"
#include "orchestrator/launcher/supervise.h"
#include "orchestrator/server/server.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h> /* last: it defines fail() as a macro */

struct test {
    char folder[64], home[80], leases[80], runtime[80];
};

static int set_up(void **state)
{
    struct test *test = calloc(1, sizeof *test);

    snprintf(test->folder, sizeof test->folder, "/tmp/flexp-test-server-XXXXXX");
    assert_non_null(mkdtemp(test->folder));
    snprintf(test->home, sizeof test->home, "%s/home", test->folder);
    snprintf(test->leases, sizeof test->leases, "%s/leases", test->folder);
    snprintf(test->runtime, sizeof test->runtime, "%s/runtime", test->folder);
    assert_int_equal(mkdir(test->runtime, 0700), 0);
    setenv("FLEXP_LEASES", test->leases, 1);
    setenv("FLEXP_CORES", "2", 1);
    setenv("FLEXP_LOG", "error", 1);
    setenv("XDG_RUNTIME_DIR", test->runtime, 1);
    *state = test;
    return 0;
}

static int tear_down(void **state)
{
    struct test *test = *state;

    file_remove_tree(test->folder, NULL);
    free(test);
    return 0;
}

/* Starts one; its word on ready_fd is in ret. The process exits with 0 when server_run returns 0, else with 1. */
static pid_t start(const char *home, const char *slots, char *ret, size_t room)
{
    int ready[2];
    size_t used = 0;
    ssize_t n;
    pid_t child;

    assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
    child = fork();
    if (child == 0) {
        struct error err = {0};
        close(ready[0]);
        _exit(server_run(home, slots, ready[1], &err) != 0);
    }
    close(ready[1]);
    while (used < room - 1 && (n = read(ready[0], ret + used, room - 1 - used)) > 0)
        used += (size_t)n;
    ret[used] = 0;
    close(ready[0]);
    return child;
}

static int end_of(pid_t child)
{
    int status;

    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* Connects and reads the greeting. */
static int greet(const char *home, char *ret, size_t room)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ssize_t n;

    assert_int_equal(server_socket_path(home, address.sun_path, sizeof address.sun_path, NULL), 0);
    if (connect(fd, (struct sockaddr *)&address, sizeof address)) {
        close(fd);
        return -1;
    }
    n = read(fd, ret, room - 1);
    assert_true(n > 0);
    ret[n] = 0;
    return fd;
}

static void it_says_ready_answers_and_goes_on_sigterm(void **state)
{
    struct test *test = *state;
    char word[1200], greeting[400], path[200];
    struct stat st;
    pid_t child = start(test->home, NULL, word, sizeof word);
    int fd;

    assert_string_equal(word, "ready\n");
    fd = greet(test->home, greeting, sizeof greeting);
    assert_true(fd >= 0);
    assert_non_null(strstr(greeting, "\"flexp\":\"0.1.0\""));
    assert_non_null(strstr(greeting, test->home));
    close(fd);
    assert_int_equal(server_socket_path(test->home, path, sizeof path, NULL), 0);
    assert_memory_equal(path, test->runtime, strlen(test->runtime));
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    kill(child, SIGTERM);
    assert_int_equal(end_of(child), 0);
    assert_int_equal(stat(path, &st), -1);
    assert_int_equal(greet(test->home, greeting, sizeof greeting), -1);
}

static void down_ends_it_and_closes_the_connection(void **state)
{
    struct test *test = *state;
    char word[1200], text[1000];
    pid_t child = start(test->home, "1", word, sizeof word);
    int fd = greet(test->home, text, sizeof text);
    ssize_t n;
    size_t used = 0;

    assert_int_equal(write(fd, "{\"id\":4,\"request\":\"down\"}\n", 26), 26);
    while ((n = read(fd, text + used, sizeof text - 1 - used)) > 0)
        used += (size_t)n;
    text[used] = 0;
    assert_non_null(strstr(text, "\"id\":4,\"ok\":true"));
    close(fd);
    assert_int_equal(end_of(child), 0);
}

static void a_second_one_is_told_who_holds_the_home(void **state)
{
    struct test *test = *state;
    char word[1200], want[200];
    pid_t first = start(test->home, NULL, word, sizeof word), second;

    assert_string_equal(word, "ready\n");
    second = start(test->home, NULL, word, sizeof word);
    assert_int_equal(end_of(second), 1);
    snprintf(want, sizeof want, "an orchestrator (pid %ld) is running for %s already\n", (long)first, test->home);
    assert_string_equal(word, want);
    kill(first, SIGKILL);
    assert_int_equal(end_of(first), 128 + SIGKILL);
    second = start(test->home, NULL, word, sizeof word); /* lock free, socket left behind */
    assert_string_equal(word, "ready\n");
    kill(second, SIGINT);
    assert_int_equal(end_of(second), 0);
}

static void what_keeps_it_from_starting_is_one_line(void **state)
{
    struct test *test = *state;
    char word[1200], path[200];

    assert_int_equal(end_of(start(test->home, "9", word, sizeof word)), 1);
    assert_string_equal(word, "slots: 9 asked for, but this process may use 2 cores\n");
    assert_int_equal(end_of(start(test->home, "gpu", word, sizeof word)), 1);
    assert_non_null(strstr(word, "no GPU"));
    snprintf(path, sizeof path, "%s/file", test->folder);
    assert_int_equal(file_write(path, "x", 1, NULL), 0);
    assert_int_equal(end_of(start(path, NULL, word, sizeof word)), 1);
    assert_non_null(strstr(word, path));
    assert_ptr_equal(strchr(word, '\n'), word + strlen(word) - 1);
    snprintf(path, sizeof path, "%s/home/flexp.db", test->folder);
    assert_int_equal(file_write(path, "this is no database, whatever its name is", 41, NULL), 0);
    assert_int_equal(end_of(start(test->home, NULL, word, sizeof word)), 1);
    assert_non_null(strstr(word, "flexp.db"));
}

static void homes_have_sockets_of_their_own_and_links_lead_to_the_same(void **state)
{
    struct test *test = *state;
    char one[200], two[200], linked[200], link[200], other[200];

    snprintf(other, sizeof other, "%s/other", test->folder);
    snprintf(link, sizeof link, "%s/link", test->folder);
    assert_int_equal(mkdir(test->home, 0755), 0);
    assert_int_equal(mkdir(other, 0755), 0);
    assert_int_equal(symlink(test->home, link), 0);
    assert_int_equal(server_socket_path(test->home, one, sizeof one, NULL), 0);
    assert_int_equal(server_socket_path(other, two, sizeof two, NULL), 0);
    assert_int_equal(server_socket_path(link, linked, sizeof linked, NULL), 0);
    assert_string_not_equal(one, two);
    assert_string_equal(one, linked);
}

static void a_runtime_folder_that_will_not_do_is_replaced_by_tmp(void **state)
{
    struct test *test = *state;
    char path[200], want[64], folder[300];

    snprintf(want, sizeof want, "/tmp/flexp-%u/", getuid());
    setenv("XDG_RUNTIME_DIR", "/nowhere/at/all", 1);
    assert_int_equal(server_socket_path(test->home, path, 108, NULL), 0);
    assert_memory_equal(path, want, strlen(want));
    snprintf(folder, sizeof folder, "%s/%0100d", test->folder, 0); /* no room for it in a socket's address */
    assert_int_equal(mkdir(folder, 0700), 0);
    setenv("XDG_RUNTIME_DIR", folder, 1);
    assert_int_equal(server_socket_path(test->home, path, 108, NULL), 0);
    assert_memory_equal(path, want, strlen(want));
    setenv("XDG_RUNTIME_DIR", "relative", 1);
    assert_int_equal(server_socket_path(test->home, path, 108, NULL), 0);
    assert_memory_equal(path, want, strlen(want));
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
        TEST(it_says_ready_answers_and_goes_on_sigterm),
        TEST(down_ends_it_and_closes_the_connection),
        TEST(a_second_one_is_told_who_holds_the_home),
        TEST(what_keeps_it_from_starting_is_one_line),
        TEST(homes_have_sockets_of_their_own_and_links_lead_to_the_same),
        TEST(a_runtime_folder_that_will_not_do_is_replaced_by_tmp),
    };
    if (argc > 1 && !strcmp(argv[1], "supervise"))
        return supervise_main(argc, argv);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
