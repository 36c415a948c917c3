/* test_failpoint.c - a process dies at the named place, the counted time, and no other.
 * SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/failpoint.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

/* What becomes of a child that passes a, b, a, b, a: the number of places passed, or -1 when killed by SIGKILL. */
static int passed(const char *setting, const char *once)
{
    int status;
    pid_t child = fork();

    if (child == 0) {
        static const char *const PLACES[] = {"a", "b", "a", "b", "a"};
        setenv("FLEXP_FAILPOINT", setting, 1);
        if (once)
            setenv("FLEXP_FAILPOINT_ONCE", once, 1);
        for (int i = 0; i < 5; i++)
            failpoint(PLACES[i]);
        _exit(5);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL ? -1 : WEXITSTATUS(status);
}

static void dies_at_the_named_place_the_counted_time(void **state)
{
    (void)state;
    assert_int_equal(passed("a", NULL), -1);
    assert_int_equal(passed("a:3", NULL), -1);
    assert_int_equal(passed("c,b:2", NULL), -1);
}

static void lives_when_the_place_or_the_count_is_not_reached(void **state)
{
    (void)state;
    assert_int_equal(passed("", NULL), 5);
    assert_int_equal(passed("c", NULL), 5);
    assert_int_equal(passed("a:4", NULL), 5);
}

static void only_the_first_process_dies_with_once(void **state)
{
    char path[] = "/tmp/flexp-failpoint-XXXXXX";
    int fd = mkstemp(path);

    (void)state;
    assert_true(fd >= 0);
    close(fd);
    unlink(path);
    assert_int_equal(passed("a", path), -1);
    assert_int_equal(passed("a", path), 5);
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dies_at_the_named_place_the_counted_time),
        cmocka_unit_test(lives_when_the_place_or_the_count_is_not_reached),
        cmocka_unit_test(only_the_first_process_dies_with_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
