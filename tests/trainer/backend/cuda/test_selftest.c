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
    selftest_trials(&t, PRECISION_FP32_STRICT);
    fake.tiles = true;
    selftest_bits(&t, PRECISION_FP32_STRICT);
    fake.tiles = false;
    none_failed(&t, 7);
}

static void rounds_as_one_graph_have_the_bits_of_their_calls(void **state)
{
    struct selftest t;

    (void)state;
    selftest_init(&t);
    assert_int_equal(t.rounds, ROUNDS_NOT_SEEN);
    selftest_rounds(&t, PRECISION_FP32_STRICT);
    selftest_rounds(&t, PRECISION_FP32);
    selftest_rounds(&t, PRECISION_TF32);
    selftest_rounds(&t, PRECISION_BF16); /* and with the start shared */
    assert_int_equal(t.rounds, ROUNDS_WHOLE);
    none_failed(&t, 2 + 3 * 3);
}

/* Such a pass says nothing of loops, and is told apart; a refusal in one kind of them is enough. */
static void rounds_that_are_no_graphs_are_told(void **state)
{
    struct selftest t;

    (void)state;
    selftest_init(&t);
    fake.no_loops = true;
    selftest_rounds(&t, PRECISION_FP32);
    fake.no_loops = false;
    assert_int_equal(t.rounds, ROUNDS_CALLS);
    assert_non_null(strstr(json_string_value(json_object_get(json_array_get(t.checks, 0), "name")), "not one graph"));
    selftest_rounds(&t, PRECISION_FP32);
    assert_int_equal(t.rounds, ROUNDS_CALLS);
    none_failed(&t, 6);
}

static void sharing_the_start_passes_its_checks(void **state)
{
    struct selftest t;

    (void)state;
    selftest_init(&t);
    selftest_shared(&t, PRECISION_FP32);
    selftest_shared(&t, PRECISION_TF32);
    selftest_shared(&t, PRECISION_BF16);
    none_failed(&t, 5);
}

static void each_operation_of_a_step_is_timed(void **state)
{
    struct selftest t;
    const char *key;
    json_t *rows;

    (void)state;
    selftest_init(&t);
    t.quiet = true;
    setenv("FLEXP_CUDA_SHARED", "1", 1);
    selftest_profile(&t, &(struct profile_setting){"lenet", "", PRECISION_BF16, 2, 4, 0});
    unsetenv("FLEXP_CUDA_SHARED");
    assert_int_equal(json_object_size(t.profiles), 1);
    json_object_foreach(t.profiles, key, rows)
    {
        assert_string_equal(key, "lenet bf16, 2 replicas x 4");
        assert_true(json_object_size(rows) > 15);
        assert_non_null(json_object_get(rows, "layer 0, conv2d + relu, forward"));
        assert_non_null(json_object_get(rows, "layer 7, dense (shared start), backward"));
        assert_true(json_real_value(json_object_get(rows, "batches")) > 0);
    }
    none_failed(&t, 0);
}

static void memory_is_flat_over_rounds(void **state)
{
    struct selftest t;

    (void)state;
    selftest_init(&t);
    selftest_memory(&t, 20);
    none_failed(&t, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_operation_and_gradient_matches_the_cpu),
        cmocka_unit_test(so_it_does_by_tiles),
        cmocka_unit_test(rounded_operands_stay_near),
        cmocka_unit_test(twenty_steps_of_different_replicas_match_the_cpu),
        cmocka_unit_test(bits_do_not_depend_on_packing),
        cmocka_unit_test(rounds_as_one_graph_have_the_bits_of_their_calls),
        cmocka_unit_test(rounds_that_are_no_graphs_are_told),
        cmocka_unit_test(sharing_the_start_passes_its_checks),
        cmocka_unit_test(each_operation_of_a_step_is_timed),
        cmocka_unit_test(memory_is_flat_over_rounds),
    };
    return cmocka_run_group_tests(tests, fake_use, NULL);
}
