/* test_random.c - the random sampler: streams, no repeats in a finite space, and a fair shuffle.
 * SPDX-License-Identifier: Apache-2.0 */
#include "common/json.h"
#include "searchers/searcher_private.h"
#include "tests/searchers/driver.h"

static void *opened(const struct space *space, uint64_t seed)
{
    struct searcher_config config = {.seed = seed};
    void *sampler = NULL;

    assert_int_equal(SAMPLER_RANDOM.open(&config, space, &sampler), 0);
    return sampler;
}

static void trial_n_draws_from_its_own_stream(void **state)
{
    struct space *space = driver_space(LR_SPACE);
    void *sampler = opened(space, 9);

    (void)state;
    for (int64_t trial = 1; trial <= 20; trial++) {
        struct pcg32 rng = rng_key(9, RNG_SEARCH, (uint64_t)trial, 0, 0);
        json_t *want = space_draw(space, &rng), *got = SAMPLER_RANDOM.propose(sampler, trial);
        assert_true(json_equal(got, want));
        json_decref(want);
        json_decref(got);
    }
    SAMPLER_RANDOM.close(sampler);
    space_free(space);
}

#define FINITE                                                                                                         \
    "{\"a\": {\"type\": \"int\", \"minval\": 0, \"maxval\": 9}, \"g\": {\"b\": {\"type\": \"categorical\", \"vals\": " \
    "[\"x\", \"y\", \"z\"]}}, \"c\": {\"type\": \"const\", \"val\": 1}}"

static void a_finite_space_is_walked_without_repeats_and_then_again(void **state)
{
    struct space *space = driver_space(FINITE);

    (void)state;
    for (uint64_t seed = 0; seed < 50; seed++) {
        void *sampler = opened(space, seed);
        for (int pass = 0; pass < 3; pass++) {
            json_t *seen = json_object();
            for (int64_t i = 1; i <= 30; i++) {
                json_t *got = SAMPLER_RANDOM.propose(sampler, pass * 30 + i);
                char *text = json_canonical(got);
                assert_null(json_object_get(seen, text));
                json_object_set_new(seen, text, json_true());
                free(text);
                json_decref(got);
            }
            assert_int_equal(json_object_size(seen), 30);
            json_decref(seen);
        }
        SAMPLER_RANDOM.close(sampler);
    }
    space_free(space);
}

/* Every configuration is equally likely in every place. */
static void every_order_is_equally_likely(void **state)
{
    struct space *space = driver_space("{\"a\": {\"type\": \"int\", \"minval\": 0, \"maxval\": 4}}");
    int counts[5][5] = {{0}};

    (void)state;
    for (uint64_t seed = 0; seed < 5000; seed++) {
        void *sampler = opened(space, seed);
        for (int64_t i = 0; i < 5; i++) {
            json_t *got = SAMPLER_RANDOM.propose(sampler, i + 1);
            counts[i][json_integer_value(json_object_get(got, "a"))]++;
            json_decref(got);
        }
        SAMPLER_RANDOM.close(sampler);
    }
    for (int i = 0; i < 5; i++)
        for (int k = 0; k < 5; k++) /* 1000 +- 28 */
            assert_in_range(counts[i][k], 1000 - 170, 1000 + 170);
    space_free(space);
}

static void a_huge_finite_space_costs_no_more_than_its_trials(void **state)
{
    struct space *space = driver_space("{\"a\": {\"type\": \"int\", \"minval\": 0, \"maxval\": 999999999999}}");
    void *sampler = opened(space, 2);
    int64_t low = 0;

    (void)state;
    for (int64_t trial = 1; trial <= 20000; trial++) {
        json_t *got = SAMPLER_RANDOM.propose(sampler, trial);
        low += json_integer_value(json_object_get(got, "a")) < 500000000000;
        json_decref(got);
    }
    assert_in_range(low, 10000 - 425, 10000 + 425); /* 10000 +- 71 */
    SAMPLER_RANDOM.close(sampler);
    space_free(space);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(trial_n_draws_from_its_own_stream),
        cmocka_unit_test(a_finite_space_is_walked_without_repeats_and_then_again),
        cmocka_unit_test(every_order_is_equally_likely),
        cmocka_unit_test(a_huge_finite_space_costs_no_more_than_its_trials),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
