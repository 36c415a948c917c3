/* test_leases.c - a core belongs to one launcher at a time, machine-wide, and a dead holder's lease is free.
 * SPDX-License-Identifier: Apache-2.0 */
#include "common/file.h"
#include "orchestrator/launcher/launcher_private.h"

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

struct test {
    uv_loop_t loop;
    char folder[64];
    int open;
};

static const struct launcher_events EVENTS;

static int set_up(void **state)
{
    struct test *test = calloc(1, sizeof *test);

    snprintf(test->folder, sizeof test->folder, "/tmp/flexp-test-leases-XXXXXX");
    assert_non_null(mkdtemp(test->folder));
    setenv("FLEXP_LEASES", test->folder, 1);
    setenv("FLEXP_CORES", "4", 1);
    assert_int_equal(uv_loop_init(&test->loop), 0);
    *state = test;
    return 0;
}

static int tear_down(void **state)
{
    struct test *test = *state;

    assert_int_equal(test->open, 0);
    assert_int_equal(uv_loop_close(&test->loop), 0);
    file_remove_tree(test->folder, NULL);
    unsetenv("FLEXP_CORES");
    free(test);
    return 0;
}

static struct launcher *make(struct test *test, const char *home, const char *slots)
{
    struct launcher *launcher = NULL;
    struct error err = {0};

    if (launcher_new(&test->loop, home, slots, &EVENTS, test, &launcher, &err))
        fail_msg("%s", err.text);
    test->open++;
    return launcher;
}

static void on_closed(void *arg)
{
    ((struct test *)arg)->open--;
}

/* Bits of the slots held. */
static unsigned held(struct launcher *launcher)
{
    const struct slot_info *slots;
    size_t n = launcher_slots(launcher, &slots);
    unsigned bits = 0;

    for (size_t i = 0; i < n; i++)
        bits |= (unsigned)slots[i].ours << i;
    return bits;
}

static void two_launchers_never_share_a_core(void **state)
{
    struct test *test = *state;
    struct launcher *a = make(test, "/home/a", "3"), *b = make(test, "/home/b", NULL);
    const struct slot_info *slots;

    assert_int_equal(launcher_capacity(a, SLOT_KIND_CPU), 3);
    assert_int_equal(launcher_capacity(b, SLOT_KIND_CPU), 4);
    assert_int_equal(launcher_capacity(a, SLOT_KIND_CUDA), 0);
    assert_int_equal(launcher_lease(a), 3);
    assert_int_equal(launcher_lease(b), 1);
    assert_int_equal(held(a) & held(b), 0);
    assert_int_equal(held(a) | held(b), 15);
    launcher_slots(b, &slots);
    assert_non_null(strstr(slots[0].holder, "home /home/a"));
    assert_string_equal(slots[3].holder, "");
    launcher_unlease(a);
    assert_int_equal(held(a), 0);
    assert_int_equal(launcher_lease(b), 4);
    assert_int_equal(launcher_lease(a), 0);
    launcher_close(a, on_closed, test);
    launcher_close(b, on_closed, test);
}

static void the_lease_of_a_dead_holder_is_free(void **state)
{
    struct test *test = *state;
    struct launcher *a = make(test, "/home/a", NULL);
    int ready[2];
    char byte;
    pid_t child;

    assert_int_equal(pipe(ready), 0);
    child = fork();
    if (child == 0) {
        uv_loop_t loop;
        struct launcher *other;
        uv_loop_init(&loop);
        launcher_new(&loop, "/home/b", NULL, &EVENTS, NULL, &other, NULL);
        launcher_lease(other);
        if (write(ready[1], "x", 1) == 1)
            for (;;)
                pause();
    }
    assert_int_equal(read(ready[0], &byte, 1), 1);
    assert_int_equal(launcher_lease(a), 0);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    assert_int_equal(launcher_lease(a), 4);
    close(ready[0]);
    close(ready[1]);
    launcher_close(a, on_closed, test);
}

static void the_files_are_open_to_all_users_whatever_the_umask(void **state)
{
    struct test *test = *state;
    char folder[80], path[96], holder[96];
    struct stat st;
    mode_t mask = umask(077);
    int fd;

    snprintf(folder, sizeof folder, "%s/sub", test->folder);
    snprintf(path, sizeof path, "%s/cpu-0", folder);
    assert_int_equal(lease_take(folder, "cpu-0", "/home/a", &fd, holder, sizeof holder, NULL), 0);
    umask(mask);
    assert_int_equal(stat(folder, &st), 0);
    assert_int_equal(st.st_mode & 07777, 01777);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0666);
    lease_give(fd);
    assert_true(file_exists(path));
}

static void what_another_user_wrote_into_a_lease_is_shown_harmless(void **state)
{
    struct test *test = *state;
    char path[96], holder[96];
    struct error err = {0};
    int fd, other;

    assert_int_equal(lease_take(test->folder, "cpu-0", "/home/a", &fd, holder, sizeof holder, NULL), 0);
    assert_int_equal(pwrite(fd, "7 \033[2Jx\n", 9, 0), 9);
    assert_int_equal(lease_take(test->folder, "cpu-0", "/home/b", &other, holder, sizeof holder, &err), -EBUSY);
    assert_string_equal(holder, "pid 7, home ?[2Jx");
    assert_int_equal(ftruncate(fd, 0), 0);
    assert_int_equal(lease_take(test->folder, "cpu-0", "/home/b", &other, holder, sizeof holder, &err), -EBUSY);
    assert_string_equal(holder, "another process");
    lease_give(fd);
    /* a link in its place is not followed */
    snprintf(path, sizeof path, "%s/cpu-1", test->folder);
    assert_int_equal(symlink("/etc/passwd", path), 0);
    assert_int_equal(lease_take(test->folder, "cpu-1", "/home/b", &other, holder, sizeof holder, &err), -ELOOP);
    assert_non_null(strstr(err.text, "cpu-1"));
}

static void a_folder_that_is_none_is_named(void **state)
{
    struct test *test = *state;
    char path[96], holder[96];
    struct error err = {0};
    int fd;

    snprintf(path, sizeof path, "%s/file", test->folder);
    assert_int_equal(file_write(path, "", 0, NULL), 0);
    assert_int_equal(lease_take(path, "cpu-0", "/home/a", &fd, holder, sizeof holder, &err), -ENOTDIR);
    assert_non_null(strstr(err.text, path));
}

static void slots_that_cannot_be_had_are_refused_with_what_can(void **state)
{
    static const struct {
        const char *slots;
        int code;
        const char *says;
    } CASES[] = {
        {"5", -EINVAL, "may use 4 cores"}, {"0", -EINVAL, "a number from 1"}, {"-1", -EINVAL, "a number from 1"},
        {"2x", -EINVAL, "got \"2x\""},     {"gpu", -ENODEV, "no GPU"},        {"all", -EINVAL, "\"cpu\", \"gpu\""},
    };
    struct test *test = *state;

    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        struct launcher *launcher;
        struct error err = {0};
        assert_int_equal(launcher_new(&test->loop, "/h", CASES[i].slots, &EVENTS, NULL, &launcher, &err),
                         CASES[i].code);
        assert_non_null(strstr(err.text, CASES[i].says));
    }
}

static void only_cores_that_this_process_may_use_are_slots(void **state)
{
    struct test *test = *state;
    cpu_set_t before, one;
    struct launcher *launcher;
    const struct slot_info *slots;
    size_t core = 0;

    unsetenv("FLEXP_CORES");
    assert_int_equal(sched_getaffinity(0, sizeof before, &before), 0);
    while (!CPU_ISSET(core, &before))
        core++;
    CPU_ZERO(&one);
    CPU_SET(core, &one);
    assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
    launcher = make(test, "/h", NULL);
    assert_int_equal(launcher_slots(launcher, &slots), 1);
    assert_int_equal(slots[0].index, (int)core);
    assert_int_equal(slots[0].kind, SLOT_KIND_CPU);
    sched_setaffinity(0, sizeof before, &before);
    launcher_close(launcher, on_closed, test);
    launcher = make(test, "/h", NULL);
    assert_int_equal(launcher_slots(launcher, &slots), CPU_COUNT(&before));
    launcher_close(launcher, on_closed, test);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
        TEST(two_launchers_never_share_a_core),
        TEST(the_lease_of_a_dead_holder_is_free),
        TEST(the_files_are_open_to_all_users_whatever_the_umask),
        TEST(what_another_user_wrote_into_a_lease_is_shown_harmless),
        TEST(a_folder_that_is_none_is_named),
        TEST(slots_that_cannot_be_had_are_refused_with_what_can),
        TEST(only_cores_that_this_process_may_use_are_slots),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
