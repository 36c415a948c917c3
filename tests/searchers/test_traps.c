/* test_traps.c - the traps that other systems fell into, one test each.
 * SPDX-License-Identifier: Apache-2.0 */
#include "common/json.h"
#include "tests/searchers/driver.h"

static const struct searcher_config HALVING_3 = {.scheduler = "async_halving",
                                                 .sampler = "random",
                                                 .smaller_is_better = true,
                                                 .max_units = 9,
                                                 .divisor = 3,
                                                 .num_rungs = 3,
                                                 .stop_once = true,
                                                 .seed = 1};

static void tell(struct play *play, int64_t trial, double unit, double value)
{
    play->trials[trial].at = unit;
    play_tell(play, (struct searcher_event){.type = EVENT_VALIDATION, .trial = trial, .unit = unit, .value = value});
}

static void ends(struct play *play, int64_t trial, enum exit_kind exit, double unit, double value)
{
    play->trials[trial].fate = exit == EXIT_CONVERGED ? FATE_CONVERGED : FATE_FAILED;
    play_tell(play, (struct searcher_event){
                        .type = EVENT_EXITED, .trial = trial, .exit = exit, .unit = unit, .value = value});
}

static void begin(struct play *play, const struct searcher_config *config, const struct space *space,
                  const struct world *world)
{
    play_init(play, driver_searcher(config, space), world);
    if (!world)
        play_tell(play, (struct searcher_event){.type = EVENT_START});
}

/* Trap 1 */
static void integer_bounds_are_inclusive_at_both_ends(void **state)
{
    struct space *space =
        driver_space("{\"n\": {\"type\": \"int\", \"minval\": 3, \"maxval\": 5}, \"x\": {\"type\": \"double\", "
                     "\"minval\": 0, \"maxval\": 1}}");
    struct searcher_config config = {.scheduler = "single", .sampler = "random", .max_units = 1, .max_trials = 60};
    struct world world = {.value = curve_value};
    int seen[3] = {0};
    struct play play;

    (void)state;
    begin(&play, &config, space, &world);
    play_in_order(&play);
    for (size_t i = 1; i <= play.n; i++) {
        json_int_t n = json_integer_value(json_object_get(play.trials[i].hyperparameters, "n"));
        assert_true(n >= 3 && n <= 5);
        seen[n - 3]++;
    }
    assert_true(seen[0] && seen[1] && seen[2]);
    play_done(&play);
    space_free(space);
}

/* Trap 2 */
static void values_that_are_not_finite_are_worst_whichever_way_the_metric_points(void **state)
{
    static const double BAD[] = {NAN, INFINITY, -INFINITY};
    struct space *space = driver_space(LR_SPACE);

    (void)state;
    for (int smaller = 0; smaller < 2; smaller++)
        for (size_t i = 0; i < 3; i++) {
            struct searcher_config config = HALVING_3;
            double good = smaller ? 1e300 : -1e300; /* as bad as a number can be */
            struct play play;
            config.smaller_is_better = smaller;
            config.max_trials = 6;
            config.max_concurrent_trials = 6;
            begin(&play, &config, space, NULL);
            tell(&play, 1, 1, good);
            tell(&play, 2, 1, BAD[i]);
            assert_int_equal(play.trials[2].fate, FATE_STOPPED);
            tell(&play, 3, 1, BAD[(i + 1) % 3]);
            assert_int_equal(play.trials[3].fate, FATE_STOPPED);
            tell(&play, 4, 1, good);
            assert_int_equal(play.trials[4].fate, FATE_TRAINS);
            tell(&play, 5, 1, good);
            assert_int_equal(play.trials[5].fate, FATE_TRAINS);
            assert_true(searcher_better(smaller, good, BAD[i]) && !searcher_better(smaller, BAD[i], good));
            assert_false(searcher_better(smaller, BAD[i], BAD[(i + 1) % 3]));
            play_done(&play);
        }
    space_free(space);
}

static double never_finite(const struct world *world, int64_t trial, double unit)
{
    (void)world;
    return (trial + (int64_t)unit) % 3 == 0 ? NAN : (trial + (int64_t)unit) % 3 == 1 ? INFINITY : -INFINITY;
}

/* Trap 2, all of it: nothing is ever finite, and still every trial ends. */
static void a_search_that_diverges_everywhere_ends(void **state)
{
    struct space *space = driver_space(LR_SPACE);
    struct world world = {.value = never_finite};

    (void)state;
    for (int variant = 0; variant < 4; variant++) {
        struct searcher_config config = HALVING_3;
        struct play play;
        size_t full = 0;
        config.max_trials = 20;
        config.max_concurrent_trials = 4;
        config.stop_once = variant & 1;
        config.logical_order = variant & 2;
        begin(&play, &config, space, &world);
        play_in_order(&play);
        assert_true(play.done);
        for (size_t i = 1; i <= play.n; i++) {
            assert_true(play.trials[i].fate == FATE_STOPPED || play.trials[i].fate == FATE_COMPLETED);
            full += play.trials[i].fate == FATE_COMPLETED;
        }
        assert_in_range(full, 0, 2); /* diverged trials do not carry each other to the top */
        play_done(&play);
    }
    space_free(space);
}

/* Trap 3: the stopping rule counts what is better, so a tie goes before its equals; the promotion rule has the earlier
 * trial first, whatever arrived first. */
static void ties_have_a_total_order(void **state)
{
    struct space *space = driver_space(LR_SPACE);
    struct searcher_config config = HALVING_3;
    int64_t orders[2][6] = {{1, 2, 3, 4, 5, 6}, {6, 5, 4, 3, 2, 1}};
    struct play play;

    (void)state;
    config.max_trials = 6;
    config.max_concurrent_trials = 6;
    for (int order = 0; order < 2; order++) {
        config.stop_once = true;
        begin(&play, &config, space, NULL);
        for (int i = 0; i < 6; i++)
            tell(&play, orders[order][i], 1, 0.5);
        for (size_t i = 1; i <= 6; i++)
            assert_int_equal(play.trials[i].fate, FATE_TRAINS);
        play_done(&play);
        config.stop_once = false;
        begin(&play, &config, space, NULL);
        for (int i = 0; i < 2; i++)
            tell(&play, orders[order][i], 1, 0.5);
        tell(&play, 3, 1, 0.5); /* one of three goes on */
        assert_int_equal(play.trials[order ? 3 : 1].fate, FATE_TRAINS);
        assert_int_equal(play.trials[order ? 5 : 2].fate, FATE_PAUSED);
        play_done(&play);
    }
    space_free(space);
}

/* Trap 4: a crash counts as worst, and is no bad metric: the searcher never says that a crashed trial was stopped. */
static void a_crash_counts_as_worst_and_is_never_called_stopped(void **state)
{
    struct space *space = driver_space(LR_SPACE);
    struct searcher_config config = HALVING_3;
    struct play play;

    (void)state;
    config.max_trials = 4;
    config.max_concurrent_trials = 3;
    for (int stop_once = 0; stop_once < 2; stop_once++) {
        config.stop_once = stop_once;
        begin(&play, &config, space, NULL);
        tell(&play, 2, 1, 7);
        ends(&play, 1, EXIT_ERROR, 0, 0);
        assert_int_equal(play.n, 4); /* its lane is filled */
        tell(&play, 3, 1, 8);
        tell(&play, 4, 1, 9);
        /* of {7, 8, 9, worst} one goes on: 2, which is better than a crash */
        assert_int_equal(play.trials[2].fate, FATE_TRAINS);
        for (size_t i = 3; i <= 4; i++)
            assert_int_equal(play.trials[i].fate,
                             FATE_STOPPED); /* by promotion, when nothing can promote them any more */
        tell(&play, 2, 3, 7);
        if (stop_once)
            tell(&play, 2, 9, 7);
        assert_true(play.done);
        for (size_t i = 0; i < play.said_n; i++)
            assert_false(play.said[i].trial == 1 && play.said[i].type != OP_CREATE && play.said[i].type != OP_TRAIN);
        play_done(&play);
    }
    space_free(space);
}

/* Trap 5 */
static void a_finite_space_repeats_nothing_while_something_is_left(void **state)
{
    struct space *space =
        driver_space("{\"n\": {\"type\": \"int\", \"minval\": 1, \"maxval\": 6}, \"c\": {\"type\": \"categorical\", "
                     "\"vals\": [\"a\", \"b\"]}}");
    struct searcher_config config = HALVING_3;
    struct world world = {.value = curve_value, .fails = curve_fails};

    (void)state;
    config.max_trials = 12;
    config.max_concurrent_trials = 12; /* all pending at once */
    for (uint64_t seed = 0; seed < 20; seed++) {
        json_t *seen = json_object();
        struct play play;
        config.seed = seed;
        config.max_concurrent_trials = 1 + (int64_t)seed % 12;
        begin(&play, &config, space, &world);
        play_at_random(&play, seed, 0);
        for (size_t i = 1; i <= play.n; i++) {
            char *text = json_canonical(play.trials[i].hyperparameters);
            json_object_set_new(seen, text, json_true());
            free(text);
        }
        assert_int_equal(json_object_size(seen), 12);
        json_decref(seen);
        play_done(&play);
    }
    space_free(space);
}

/* Trap 6 */
static void what_a_trial_tries_never_depends_on_timing(void **state)
{
    static const char *const SPACES[] = {
        LR_SPACE,
        "{\"g\": {\"b\": {\"type\": \"int\", \"minval\": 1, \"maxval\": 5}}, \"a\": {\"type\": \"int\", \"minval\": 1, "
        "\"maxval\": 5}}"};
    struct searcher_config config = HALVING_3;
    struct world world = {.value = curve_value, .fails = curve_fails, .seed = 3};

    (void)state;
    config.max_trials = 25;
    config.max_concurrent_trials = 5;
    for (size_t s = 0; s < 2; s++) {
        struct space *space = driver_space(SPACES[s]);
        struct play first, play;
        begin(&first, &config, space, &world);
        play_in_order(&first);
        for (uint64_t order = 0; order < 20; order++) {
            begin(&play, &config, space, &world);
            play_at_random(&play, order, order % 4);
            assert_int_equal(play.n, first.n);
            for (size_t i = 1; i <= play.n; i++)
                assert_true(json_equal(play.trials[i].hyperparameters, first.trials[i].hyperparameters));
            play_done(&play);
        }
        play_done(&first);
        space_free(space);
    }
}

/* Trap 7: at every event, in tests/searchers/test_journal.c; here the shape of it. */
static void a_restored_searcher_answers_as_one_that_never_died(void **state)
{
    struct space *space = driver_space(LR_SPACE);
    struct searcher_config config = HALVING_3;
    struct world world = {.value = curve_value, .seed = 6};
    struct play lived, restored;

    (void)state;
    config.max_trials = 15;
    config.max_concurrent_trials = 4;
    begin(&lived, &config, space, &world);
    play_at_random(&lived, 3, 0);
    play_init(&restored, driver_searcher(&config, space), &world);
    for (size_t i = 0; i < lived.told_n; i++) {
        if (lived.told[i].type == EVENT_VALIDATION)
            restored.trials[lived.told[i].trial].at = lived.told[i].unit;
        play_tell(&restored, lived.told[i]);
    }
    assert_int_equal(restored.said_n, lived.said_n);
    for (size_t i = 0; i < lived.said_n; i++)
        assert_true(same_op(&restored.said[i], &lived.said[i]));
    play_done(&lived);
    play_done(&restored);
    space_free(space);
}

/* Trap 8: a trial that went back to an older checkpoint trains through its rung again; what it says there is not heard.
 */
static void a_trial_resumed_below_its_rung_reports_it_once(void **state)
{
    struct space *space = driver_space(LR_SPACE);
    struct searcher_config config = HALVING_3;
    struct play play;
    size_t said;

    (void)state;
    config.max_trials = 3;
    config.max_concurrent_trials = 3;
    for (int variant = 0; variant < 4; variant++) {
        config.stop_once = variant & 1;
        config.logical_order = variant & 2;
        begin(&play, &config, space, NULL);
        tell(&play, 1, 1, 0.5);
        said = play.said_n;
        tell(&play, 1, 1, 0.1);
        tell(&play, 1, 0.5, 0.1);
        assert_int_equal(play.said_n, said);
        tell(&play, 2, 1, 0.4);
        tell(&play, 3, 1, 0.6);
        /* had 0.1 been heard, it and not 0.4 would be first */
        assert_int_equal(play.trials[2].fate, FATE_TRAINS);
        assert_int_equal(play.trials[3].fate, FATE_STOPPED);
        play_done(&play);
    }
    space_free(space);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(integer_bounds_are_inclusive_at_both_ends),
        cmocka_unit_test(values_that_are_not_finite_are_worst_whichever_way_the_metric_points),
        cmocka_unit_test(a_search_that_diverges_everywhere_ends),
        cmocka_unit_test(ties_have_a_total_order),
        cmocka_unit_test(a_crash_counts_as_worst_and_is_never_called_stopped),
        cmocka_unit_test(a_finite_space_repeats_nothing_while_something_is_left),
        cmocka_unit_test(what_a_trial_tries_never_depends_on_timing),
        cmocka_unit_test(a_restored_searcher_answers_as_one_that_never_died),
        cmocka_unit_test(a_trial_resumed_below_its_rung_reports_it_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
