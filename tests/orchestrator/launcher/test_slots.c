/* test_slots.c - the order of cores, on a machine that hwloc makes up.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/launcher/launcher_private.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

static size_t find(const struct core *cores, size_t n, int cpu)
{
    for (size_t i = 0; i < n; i++)
        if (cores[i].cpu == cpu)
            return i;
    return n;
}

/* Two nodes of one core of two threads: 0 and 1 are threads of a core, and so are 2 and 3. */
static void a_core_gives_one_thread_before_any_gives_its_second(void **state)
{
    struct core *cores;
    struct error err;
    size_t n, at[4];

    (void)state;
    setenv("HWLOC_SYNTHETIC", "numa:2 core:1 pu:2", 1);
    assert_int_equal(cores_find(&cores, &n, &err), 0);
    unsetenv("HWLOC_SYNTHETIC");
    assert_true(n > 0);
    for (int i = 0; i < 4; i++)
        at[i] = find(cores, n, i);
    if (at[0] == n || at[1] == n || at[2] == n || at[3] == n) {
        free(cores);
        printf("# because: this test may not use processors 0 to 3\n");
        skip();
    }
    assert_true(at[0] < at[2] && at[2] < at[1] && at[1] < at[3]);
    assert_int_equal(cores[at[0]].place.node, cores[at[1]].place.node);
    assert_int_not_equal(cores[at[0]].place.node, cores[at[2]].place.node);
    free(cores);
}

static void every_core_that_may_be_used_is_there_once(void **state)
{
    struct core *cores;
    struct error err;
    size_t n;

    (void)state;
    assert_int_equal(cores_find(&cores, &n, &err), 0);
    for (size_t i = 0; i < n; i++)
        assert_true(cores[i].cpu >= 0 && find(cores, n, cores[i].cpu) == i);
    free(cores);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_core_gives_one_thread_before_any_gives_its_second),
        cmocka_unit_test(every_core_that_may_be_used_is_there_once),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
