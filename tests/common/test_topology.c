/* test_topology.c - machines that hwloc makes up, and this one.
 * SPDX-License-Identifier: Apache-2.0 */
#include "common/topology.h"

#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

static struct topology *made_up(const char *machine)
{
    struct topology *t;

    setenv("HWLOC_SYNTHETIC", machine, 1);
    t = topology_new();
    unsetenv("HWLOC_SYNTHETIC");
    assert_non_null(t);
    return t;
}

/* Two packages of two third-level caches, each with two cores of two threads: processors in order of the tree. */
static void cores_stand_by_node_cache_and_core(void **state)
{
    struct topology *t = made_up("pack:2 numa:1 l3:2(size=33554432) core:2 l2:1(size=1048576) pu:2");
    struct cpu_place place[16];

    (void)state;
    for (int i = 0; i < 16; i++) {
        assert_true(topology_place(t, i, &place[i]));
        assert_int_equal(place[i].thread, i % 2);
        assert_int_equal(place[i].order, i);
    }
    for (int i = 0; i < 16; i++)
        for (int k = 0; k < 16; k++) {
            assert_true((place[i].node == place[k].node) == (i / 8 == k / 8));
            assert_true((place[i].cache == place[k].cache) == (i / 4 == k / 4));
        }
    assert_int_equal(topology_l2_bytes(t, (int[]){0, 5}, 2), 1 << 20);
    topology_free(t);
}

/* Hardware threads far apart in number, as Linux has them: core 0 is processors 0 and 4. */
static void threads_are_told_by_core_not_by_number(void **state)
{
    struct topology *t = made_up("core:4 pu:2(indexes=0,4,1,5,2,6,3,7)");
    struct cpu_place first, second, other;

    (void)state;
    assert_true(topology_place(t, 0, &first) && topology_place(t, 4, &second) && topology_place(t, 1, &other));
    assert_int_equal(first.thread, 0);
    assert_int_equal(second.thread, 1);
    assert_int_equal(other.thread, 0);
    assert_int_equal(second.order, first.order + 1);
    topology_free(t);
}

static void a_cache_of_several_cores_is_shared_out_and_the_least_counts(void **state)
{
    struct topology *shared = made_up("l2:2(size=4194304) core:4 pu:1"), *none = made_up("core:2 pu:1");
    struct cpu_place a, b;

    (void)state;
    assert_int_equal(topology_l2_bytes(shared, (int[]){0, 7}, 2), 1 << 20);
    assert_int_equal(topology_l2_bytes(shared, (int[]){-1, 700}, 2), 0);
    assert_int_equal(topology_l2_bytes(none, (int[]){0}, 1), 0);
    assert_true(topology_place(none, 0, &a) && topology_place(none, 1, &b));
    assert_int_equal(a.cache, b.cache); /* no cache at all: nothing parts them */
    topology_free(shared);
    topology_free(none);
}

static void memory_is_spread_over_the_nodes_of_the_cores_alone(void **state)
{
    struct topology *t = made_up("numa:4 core:2 pu:1");

    (void)state;
    assert_int_equal(topology_interleave(t, (int[]){0, 1}, 2), 1);
    assert_int_equal(topology_interleave(t, (int[]){1, 2, 7}, 3), 3);
    assert_int_equal(topology_interleave(t, (int[]){-1}, 1), 0);
    topology_local(t);
    topology_free(t);
}

static void what_is_not_known_is_no_error(void **state)
{
    struct cpu_place place;

    (void)state;
    assert_false(topology_place(NULL, 3, &place));
    assert_int_equal(place.order, 3);
    assert_int_equal(place.thread + place.cache + place.node, 0);
    assert_false(topology_place(NULL, -1, &place));
    assert_int_equal(topology_l2_bytes(NULL, (int[]){0}, 1), 0);
    assert_int_equal(topology_interleave(NULL, (int[]){0}, 1), 0);
    topology_local(NULL);
    topology_free(NULL);
}

static void this_machine_has_the_core_that_runs_this(void **state)
{
    struct topology *t = topology_new();
    struct cpu_place place;
    int cpu = sched_getcpu();

    (void)state;
    assert_non_null(t);
    assert_true(topology_place(t, cpu, &place));
    assert_int_equal(topology_interleave(t, &cpu, 1), 1);
    topology_local(t);
    topology_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cores_stand_by_node_cache_and_core),
        cmocka_unit_test(threads_are_told_by_core_not_by_number),
        cmocka_unit_test(a_cache_of_several_cores_is_shared_out_and_the_least_counts),
        cmocka_unit_test(memory_is_spread_over_the_nodes_of_the_cores_alone),
        cmocka_unit_test(what_is_not_known_is_no_error),
        cmocka_unit_test(this_machine_has_the_core_that_runs_this),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
