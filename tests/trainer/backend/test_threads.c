/* test_threads.c - the crew: where its threads stand, how they take denormals, and what of several fails.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cpu/cpu_private.h"

#include <float.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define THREADS 4

static void note_cpu(void *arg, size_t thread)
{
    ((int *)arg)[thread] = sched_getcpu();
}

/* A machine of two cores of two threads: processors 0 and 1 are one core, 2 and 3 the other. */
static void threads_stand_in_the_order_of_the_topology(void **state)
{
    static const int ORDER[] = {0, 2, 1, 3};
    int cores[4], expected[4], at[4];
    size_t n = 0, k = 0;
    struct topology *topology;
    struct crew *crew;
    struct error err;
    cpu_set_t allowed;

    (void)state;
    sched_getaffinity(0, sizeof allowed, &allowed);
    for (int i = 3; i >= 0; i--)
        if (CPU_ISSET((size_t)i, &allowed))
            cores[n++] = i;
    for (int i = 0; i < 4; i++)
        if (CPU_ISSET((size_t)ORDER[i], &allowed))
            expected[k++] = ORDER[i];
    if (n < 2) {
        printf("# because: this test may not use two of processors 0 to 3\n");
        skip();
    }
    setenv("HWLOC_SYNTHETIC", "core:2 pu:2", 1);
    topology = topology_new();
    unsetenv("HWLOC_SYNTHETIC");
    assert_int_equal(crew_new(cores, n, topology, &crew, &err), 0);
    crew_run(crew, n, note_cpu, at);
    assert_memory_equal(at, expected, n * sizeof *at);
    crew_free(crew);
    topology_free(topology);
}

#ifdef __SSE2__

static void note_products(void *arg, size_t thread)
{
    volatile float least = FLT_MIN, denormal, half = 0.5f, large = 1e20f;
    const uint32_t bits = 1000; /* a denormal, 1.4e-42 */
    float *products = (float *)arg + 2 * thread;

    memcpy((void *)(uintptr_t)&denormal, &bits, sizeof bits);
    products[0] = least * half;
    products[1] = denormal * large;
}

/* They cost a hundred times as much as other numbers, and training makes them. */
static void denormals_are_zero_on_every_thread(void **state)
{
    float products[2 * THREADS], zeros[2 * THREADS] = {0};
    struct crew *crew;
    struct error err;

    (void)state;
    memset(products, 0x7f, sizeof products);
    assert_int_equal(crew_new((int[THREADS]){-1, -1, -1, -1}, THREADS, NULL, &crew, &err), 0);
    crew_run(crew, THREADS, note_products, products);
    crew_free(crew);
    assert_memory_equal(products, zeros, sizeof products);
}

#endif

static int odd_ones_fail(void *arg, size_t thread, struct error *err)
{
    atomic_fetch_add((atomic_size_t *)arg, 1);
    return thread % 2 ? (fail)(err, -ENOSPC, "thread %zu has no room", thread) : 0;
}

static void one_error_of_several_is_told(void **state)
{
    atomic_size_t ran = 0;
    struct crew *crew;
    struct error err;

    (void)state;
    assert_int_equal(crew_new((int[THREADS]){-1, -1, -1, -1}, THREADS, NULL, &crew, &err), 0);
    assert_int_equal(crew_try(crew, THREADS, odd_ones_fail, &ran, &err), -ENOSPC);
    assert_true(!strcmp(err.text, "thread 1 has no room") || !strcmp(err.text, "thread 3 has no room"));
    assert_int_equal(ran, THREADS);
    assert_int_equal(crew_try(crew, 1, odd_ones_fail, &ran, &err), 0);
    assert_int_equal(ran, THREADS + 1);
    crew_free(crew);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(threads_stand_in_the_order_of_the_topology),
#ifdef __SSE2__
        cmocka_unit_test(denormals_are_zero_on_every_thread),
#endif
        cmocka_unit_test(one_error_of_several_is_told),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
