/* test_selftest.c - the selftest of the CUDA backend on the fake GPU, which runs the same kernel bodies on the host:
 * planner, memory plan, schedules and the numerics of every own kernel, held against the CPU backend.
 * SPDX-License-Identifier: Apache-2.0 */
#include "tests/trainer/backend/cuda/fake.h"
#include "trainer/backend/cuda/selftest.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static void none_failed(struct selftest *t, int least)
{
    assert_int_equal(t->failed, 0);
    assert_true(t->passed >= least);
    selftest_done(t);
    assert_int_equal(fake.blocks, 0);
    assert_int_equal(fake.used, 0);
    assert_int_equal(fake.opened, 0);
}

static void every_operation_and_gradient_matches_the_cpu(void **state)
{
    struct selftest t;

    (void)state;
    selftest_init(&t);
    selftest_operations(&t, PRECISION_FP32_STRICT);
    none_failed(&t, 100);
}

static void so_it_does_by_tiles(void **state)
{
    struct selftest t;

    (void)state;
    fake.tiles = true;
    selftest_init(&t);
    selftest_operations(&t, PRECISION_FP32_STRICT);
    fake.tiles = false;
    none_failed(&t, 100);
}

static void rounded_operands_stay_near(void **state)
{
    struct selftest t;

    (void)state;
    selftest_init(&t);
    selftest_operations(&t, PRECISION_TF32);
    selftest_operations(&t, PRECISION_BF16);
    none_failed(&t, 100);
}

static void twenty_steps_of_different_replicas_match_the_cpu(void **state)
{
    struct selftest t;

    (void)state;
    selftest_init(&t);
    selftest_training(&t, PRECISION_FP32_STRICT);
    selftest_training(&t, PRECISION_FP32);
    none_failed(&t, 20);
}

static void bits_do_not_depend_on_packing(void **state)
{
    struct selftest t;

    (void)state;
    selftest_init(&t);
    selftest_bits(&t, PRECISION_FP32_STRICT);
    selftest_bits(&t, PRECISION_BF16);
    fake.tiles = true;
    selftest_bits(&t, PRECISION_FP32_STRICT);
    fake.tiles = false;
    none_failed(&t, 6);
}

static void memory_is_flat_over_rounds(void **state)
{
    struct selftest t;

    (void)state;
    selftest_init(&t);
    selftest_memory(&t, 20);
    none_failed(&t, 1);
}

static int use_fake(void **state)
{
    (void)state;
    cuda_use_driver(&FAKE_DRIVER);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_operation_and_gradient_matches_the_cpu),
        cmocka_unit_test(so_it_does_by_tiles),
        cmocka_unit_test(rounded_operands_stay_near),
        cmocka_unit_test(twenty_steps_of_different_replicas_match_the_cpu),
        cmocka_unit_test(bits_do_not_depend_on_packing),
        cmocka_unit_test(memory_is_flat_over_rounds),
    };
    return cmocka_run_group_tests(tests, use_fake, NULL);
}
