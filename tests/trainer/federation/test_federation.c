/* test_federation.c - cohorts, FedAvg's arithmetic and the convergence rule.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/federation/cohort.h"
#include "trainer/federation/convergence.h"
#include "trainer/federation/strategy.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void cohort_is_ascending_without_repeats_and_depends_on_its_key(void **state)
{
    uint32_t a[10], b[10];
    int differing = 0;

    (void)state;
    for (uint64_t round = 1; round <= 200; round++) {
        cohort_draw(7, 1, round, 100, 10, a);
        cohort_draw(7, 1, round, 100, 10, b);
        assert_memory_equal(a, b, sizeof a);
        for (int i = 1; i < 10; i++)
            assert_true(a[i - 1] < a[i]);
        assert_true(a[9] < 100);
        cohort_draw(7, 2, round, 100, 10, b);
        differing += memcmp(a, b, sizeof a) != 0;
    }
    assert_true(differing > 190);
}

/* Each client is drawn with probability 10/100: over 20,000 rounds 2,000 times, standard deviation 42; 6 of them. */
static void every_client_is_drawn_equally_often(void **state)
{
    int count[100] = {0};
    uint32_t cohort[10];

    (void)state;
    for (uint64_t round = 1; round <= 20000; round++) {
        cohort_draw(3, 5, round, 100, 10, cohort);
        for (int i = 0; i < 10; i++)
            count[cohort[i]]++;
    }
    for (int i = 0; i < 100; i++)
        assert_in_range(count[i], 2000 - 252, 2000 + 252);
}

static void all_clients_make_the_whole_cohort(void **state)
{
    uint32_t cohort[5];

    (void)state;
    cohort_draw(1, 1, 1, 5, 5, cohort);
    for (uint32_t i = 0; i < 5; i++)
        assert_int_equal(cohort[i], i);
}

static void fedavg_weighs_clients_by_their_samples(void **state)
{
    struct replica replicas[3] = {{.samples_n = 10}, {.samples_n = 30}, {.samples_n = 60}};
    const struct strategy *strategy;
    struct strategy_settings settings;

    (void)state;
    assert_int_equal(strategy_from(NULL, &strategy, &settings, NULL), 0);
    strategy->weigh(&settings, replicas, 3);
    assert_true(replicas[0].weight == 0.1 && replicas[1].weight == 0.3 && replicas[2].weight == 0.6);
    settings.uniform = true;
    strategy->weigh(&settings, replicas, 3);
    assert_true(replicas[0].weight == 1.0 / 3 && replicas[2].weight == 1.0 / 3);
}

static void server_learning_rate_scales_the_mean_update_but_not_buffers(void **state)
{
    json_t *section = json_pack("{s:s, s:f}", "name", "fedavg", "server_learning_rate", 0.5);
    const struct strategy *strategy;
    struct strategy_settings settings;
    double sum[3] = {2, 4, 8};
    float weights[3] = {0, 2, 2};

    (void)state;
    assert_int_equal(strategy_from(section, &strategy, &settings, NULL), 0);
    strategy->apply(&settings, sum, 2, 3, weights);
    assert_true(weights[0] == 1 && weights[1] == 3 && weights[2] == 8);
    json_decref(section);
}

static void unknown_strategy_is_refused_by_name(void **state)
{
    json_t *section = json_pack("{s:s}", "name", "fedmagic");
    const struct strategy *strategy;
    struct strategy_settings settings;
    struct error err;

    (void)state;
    assert_int_equal(strategy_from(section, &strategy, &settings, &err), -EINVAL);
    assert_string_equal(err.text, "federation.strategy.name: no strategy \"fedmagic\"");
    json_decref(section);
}

static int rounds_until_converged(const char *section_text, const double *values, int n)
{
    json_t *section = json_loads(section_text, 0, NULL);
    struct convergence convergence;
    int round = 0;

    convergence_init(&convergence, section);
    for (int i = 0; i < n && !round; i++)
        if (convergence_observe(&convergence, values[i]))
            round = i + 1;
    json_decref(section);
    return round;
}

static void converges_when_patience_is_spent(void **state)
{
    const double values[] = {2, 1, 0.99, 0.98, 0.97, 0.5, 0.49};

    (void)state;
    /* 0.99 .. 0.97 are each less than 0.1 below the best, 1: three rounds without */
    assert_int_equal(rounds_until_converged("{\"metric\": \"train_loss\", \"min_delta\": 0.1, \"patience\": 3}", values, 7), 5);
    assert_int_equal(rounds_until_converged("{\"metric\": \"train_loss\", \"min_delta\": 0.1, \"patience\": 4}", values, 7), 0);
}

static void converges_when_the_target_is_reached_whichever_way_is_better(void **state)
{
    const double values[] = {0.5, 0.8, 0.91, 0.95};

    (void)state;
    assert_int_equal(rounds_until_converged("{\"metric\": \"validation_accuracy\", \"target\": 0.9}", values, 4), 3);
    assert_int_equal(rounds_until_converged("{\"metric\": \"train_loss\", \"target\": 0.6}", values, 4), 1);
}

static void a_value_that_is_not_finite_never_improves(void **state)
{
    const double values[] = {NAN, INFINITY, -INFINITY, 1};

    (void)state;
    assert_int_equal(rounds_until_converged("{\"metric\": \"train_loss\", \"patience\": 3}", values, 4), 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cohort_is_ascending_without_repeats_and_depends_on_its_key),
        cmocka_unit_test(every_client_is_drawn_equally_often),
        cmocka_unit_test(all_clients_make_the_whole_cohort),
        cmocka_unit_test(fedavg_weighs_clients_by_their_samples),
        cmocka_unit_test(server_learning_rate_scales_the_mean_update_but_not_buffers),
        cmocka_unit_test(unknown_strategy_is_refused_by_name),
        cmocka_unit_test(converges_when_patience_is_spent),
        cmocka_unit_test(converges_when_the_target_is_reached_whichever_way_is_better),
        cmocka_unit_test(a_value_that_is_not_finite_never_improves),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
