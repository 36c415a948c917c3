/* test_searcher.c - the interface: what is refused, exits, late reports, lanes, progress, cancel, and large searches.
 * SPDX-License-Identifier: Apache-2.0 */
#include "searchers/searcher_private.h"
#include "tests/searchers/driver.h"

static const struct searcher_config HALVING_3 = {.scheduler = "async_halving",
                                                 .sampler = "random",
                                                 .smaller_is_better = true,
                                                 .max_units = 9,
                                                 .divisor = 3,
                                                 .num_rungs = 3,
                                                 .stop_once = true,
                                                 .seed = 1};

static void begin(struct play *play, const struct searcher_config *config, const struct space *space)
{
    play_init(play, driver_searcher(config, space), NULL);
    play_tell(play, (struct searcher_event){.type = EVENT_START});
}

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

static void the_lists_of_names_are_the_tables(void **state)
{
    (void)state;
    for (const char *const *name = searcher_schedulers(); *name; name++) {
        assert_string_equal(scheduler_find(*name)->name, *name);
        for (const char *const *sampler = scheduler_find(*name)->samplers; *sampler; sampler++)
            assert_true(searcher_pair_is_legal(*name, *sampler));
    }
    for (const char *const *name = searcher_samplers(); *name; name++)
        assert_string_equal(sampler_find(*name)->name, *name);
    assert_false(searcher_pair_is_legal("adaptive_asha", "grid"));
    assert_false(searcher_pair_is_legal("adaptive_asha", "tpe"));
    assert_false(searcher_pair_is_legal("hyperband", "random"));
    assert_false(searcher_pair_is_legal(NULL, NULL));
}

static void refuses_bad_settings_with_what_would_be_right(void **state)
{
    static const int64_t RUNGS_0[] = {2, 0};
    static const struct {
        struct searcher_config config;
        const char *says;
    } BAD[] = {
        {{.scheduler = "adaptive_asha", .sampler = "grid", .max_units = 9, .max_trials = 4},
         "single with random or grid"},
        {{.scheduler = "asha", .sampler = "random", .max_units = 9, .max_trials = 4}, "no scheduler \"asha\""},
        {{.scheduler = "single", .sampler = "bayes", .max_units = 9, .max_trials = 4}, "no sampler \"bayes\""},
        {{.scheduler = "single", .sampler = "random", .max_units = 0, .max_trials = 4},
         "searcher.max_time must be greater"},
        {{.scheduler = "single", .sampler = "random", .max_units = NAN, .max_trials = 4}, "searcher.max_time"},
        {{.scheduler = "async_halving", .sampler = "random", .max_units = 0.5, .max_trials = 4}, "at least 1"},
        {{.scheduler = "async_halving", .sampler = "random", .max_units = 9}, "searcher.max_trials must be at least 1"},
        {{.scheduler = "single", .sampler = "random", .max_units = 9, .max_trials = -1}, "searcher.max_trials"},
        {{.scheduler = "single", .sampler = "random", .max_units = 9, .max_concurrent_trials = -1},
         "max_concurrent_trials"},
        {{.scheduler = "async_halving", .sampler = "random", .max_units = 9, .max_trials = 4, .divisor = 1},
         "searcher.divisor"},
        {{.scheduler = "async_halving", .sampler = "random", .max_units = 9, .max_trials = 4, .num_rungs = 101},
         "num_rungs"},
        {{.scheduler = "adaptive_asha",
          .sampler = "random",
          .max_units = 9,
          .max_trials = 4,
          .bracket_rungs = RUNGS_0,
          .bracket_rungs_n = 2},
         "searcher.bracket_rungs[1]"},
        {{.scheduler = "single", .sampler = "grid", .max_units = 9}, "hyperparameters.lr"},
    };
    struct space *space = driver_space(LR_SPACE);

    (void)state;
    for (size_t i = 0; i < sizeof BAD / sizeof BAD[0]; i++) {
        struct searcher *searcher = NULL;
        struct error err = {0};
        assert_int_equal(searcher_new(&BAD[i].config, space, &searcher, &err), -EINVAL);
        assert_null(searcher);
        if (!strstr(err.text, BAD[i].says))
            fail_msg("row %d: %s", (int)i, err.text);
    }
    space_free(space);
}

static void refuses_events_about_trials_that_were_never_created(void **state)
{
    struct space *space = driver_space(LR_SPACE);
    struct searcher_config config = HALVING_3;
    struct searcher_event bad[] = {{.type = EVENT_VALIDATION, .trial = 4, .unit = 1},
                                   {.type = EVENT_EXITED, .trial = 0},
                                   {.type = EVENT_VALIDATION, .trial = 1, .unit = NAN},
                                   {.type = EVENT_VALIDATION, .trial = 1, .unit = -1},
                                   {.type = EVENT_START}};
    struct searcher_ops ops = {0};
    struct play play;

    (void)state;
    config.max_trials = 3;
    begin(&play, &config, space);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct error err = {0};
        assert_int_equal(searcher_answer(play.searcher, &bad[i], &ops, &err), -EINVAL);
        assert_int_equal(ops.n, 0);
        assert_true(err.text[0]);
    }
    tell(&play, 1, 1, 0.5); /* and it goes on as if nothing had been */
    assert_int_equal(play.trials[1].fate, FATE_TRAINS);
    play_done(&play);
    space_free(space);
}

static void a_converged_trial_stands_at_every_later_rung(void **state)
{
    struct space *space = driver_space(LR_SPACE);
    struct searcher_config config = HALVING_3;
    struct play play;

    (void)state;
    config.max_trials = 4;
    config.max_concurrent_trials = 4;
    for (int told = 0; told < 2; told++) { /* its last value comes with the exit, or was told before */
        begin(&play, &config, space);
        if (told)
            tell(&play, 1, 0.5, 0.3);
        ends(&play, 1, EXIT_CONVERGED, told ? 0 : 0.5, told ? 0 : 0.3);
        tell(&play, 2, 1, 0.2); /* better at rung 1 */
        assert_int_equal(play.trials[2].fate, FATE_TRAINS);
        tell(&play, 2, 3, 0.4); /* but at rung 3 the converged one's 0.3 stands */
        assert_int_equal(play.trials[2].fate, FATE_STOPPED);
        tell(&play, 3, 1, 0.1);
        tell(&play, 3, 3, 0.29);
        assert_int_equal(play.trials[3].fate, FATE_TRAINS);
        play_done(&play);
    }
    space_free(space);
}

static void the_first_value_told_of_a_unit_stands_for_a_trial_that_converges(void **state)
{
    struct space *space = driver_space(LR_SPACE);
    struct searcher_config config = HALVING_3;
    struct play play;

    (void)state;
    config.max_trials = 3;
    begin(&play, &config, space);
    tell(&play, 1, 0.5, 0.3);
    tell(&play, 1, 0.5, 0.9); /* resumed from an older checkpoint */
    ends(&play, 1, EXIT_CONVERGED, 0.5, 0.9);
    tell(&play, 2, 1, 0.4);
    assert_int_equal(play.trials[2].fate, FATE_STOPPED);
    play_done(&play);
    space_free(space);
}

static void what_a_failed_trial_had_told_on_its_way_does_not_count(void **state)
{
    static const enum exit_kind EXITS[] = {EXIT_ERROR, EXIT_KILLED};
    struct space *space = driver_space(LR_SPACE);
    struct searcher_config config = HALVING_3;
    struct play play;

    (void)state;
    config.max_trials = 3;
    for (size_t i = 0; i < 2; i++) {
        begin(&play, &config, space);
        tell(&play, 1, 0.5, 0.01);
        ends(&play, 1, EXITS[i], 0, 0);
        tell(&play, 2, 1, 0.5);
        assert_int_equal(play.trials[2].fate, FATE_TRAINS);
        play_done(&play);
    }
    space_free(space);
}

static void the_last_rung_is_the_full_length(void **state)
{
    struct space *space = driver_space(LR_SPACE);
    struct searcher_config config = HALVING_3;
    struct play play;

    (void)state;
    config.max_trials = 3;
    config.max_units = 7.5;
    begin(&play, &config, space);
    assert_true(play.trials[1].until == 1);
    tell(&play, 1, 1, 0.5);
    assert_true(play.trials[1].until == 2);
    tell(&play, 1, 2, 0.5);
    assert_true(play.trials[1].until == 7.5);
    tell(&play, 1, 7.5, 0.5);
    assert_int_equal(play.trials[1].fate, FATE_COMPLETED);
    play_done(&play);
    space_free(space);
}

static void a_converged_trial_is_promoted_without_training(void **state)
{
    struct space *space = driver_space(LR_SPACE);
    struct searcher_config config = HALVING_3;
    struct play play;

    (void)state;
    config.stop_once = false;
    config.max_trials = 9;
    config.max_concurrent_trials = 9;
    begin(&play, &config, space);
    ends(&play, 1, EXIT_CONVERGED, 0.5, 0.1);
    for (int64_t trial = 2; trial <= 9; trial++)
        tell(&play, trial, 1, (double)trial);
    /* three are promoted: 1, which stands at 3 at once, 2 and 3 */
    assert_int_equal(play.trials[2].fate, FATE_TRAINS);
    assert_int_equal(play.trials[3].fate, FATE_TRAINS);
    tell(&play, 2, 3, 2);
    tell(&play, 3, 3, 3); /* of these three one is promoted: 1, and that is the end */
    assert_true(play.done);
    assert_int_equal(play.trials[2].fate, FATE_STOPPED);
    assert_int_equal(play.trials[3].fate, FATE_STOPPED);
    play_done(&play);
    space_free(space);
}

static void killing_a_trial_that_waits_at_a_rung_frees_no_lane_and_promotes_nobody(void **state)
{
    struct space *space = driver_space(LR_SPACE);
    struct searcher_config config = HALVING_3;
    struct play play;
    size_t said;

    (void)state;
    config.stop_once = false;
    config.max_trials = 6;
    config.max_concurrent_trials = 2;
    for (int logical = 0; logical < 2; logical++) {
        config.logical_order = logical;
        begin(&play, &config, space);
        tell(&play, 1, 1, 0.1);
        assert_int_equal(play.trials[1].fate, FATE_PAUSED);
        assert_int_equal(play.n, 3);
        said = play.said_n;
        ends(&play, 1, EXIT_KILLED, 0, 0);
        assert_int_equal(play.said_n, said);
        tell(&play, 2, 1, 0.2);
        tell(&play, 3, 1, 0.3); /* 1 is the best of three and promoted, but gone: the worst at rung 3 */
        assert_int_equal(play.trials[2].fate, FATE_PAUSED);
        tell(&play, 4, 1, 0.4);
        tell(&play, 5, 1, 0.5);
        tell(&play, 6, 1, 0.6); /* two of six: 1 and 2 */
        assert_int_equal(play.trials[2].fate, FATE_TRAINS);
        tell(&play, 2, 3, 0.2);
        assert_true(play.done);
        play_done(&play);
    }
    space_free(space);
}

static void one_late_report_crosses_several_rungs(void **state)
{
    struct space *space = driver_space(LR_SPACE);
    struct searcher_config config = HALVING_3;
    struct play play;

    (void)state;
    config.max_trials = 3;
    config.max_concurrent_trials = 3;
    begin(&play, &config, space);
    tell(&play, 1, 5, 0.5); /* at 5 it stands at rungs 1 and 3 */
    assert_true(play.trials[1].until == 9);
    tell(&play, 2, 1, 0.4);
    assert_true(play.trials[2].until == 3);
    tell(&play, 2, 3, 0.6); /* worse than the 0.5 that crossed */
    assert_int_equal(play.trials[2].fate, FATE_STOPPED);
    tell(&play, 3, 20, 0.1); /* past the last */
    assert_int_equal(play.trials[3].fate, FATE_COMPLETED);
    play_done(&play);
    space_free(space);
}

static void nothing_is_trained_past_an_undecided_rung(void **state)
{
    struct space *space = driver_space(LR_SPACE);

    (void)state;
    for (int variant = 0; variant < 8; variant++) {
        struct searcher_config config = HALVING_3;
        struct world world = {.value = curve_value, .converges = curve_converges, .seed = (uint64_t)variant};
        struct play play;
        config.stop_once = variant & 1;
        config.accumulate_rungs = variant & 2;
        config.logical_order = variant & 4;
        config.max_trials = 30;
        play_init(&play, driver_searcher(&config, space), &world);
        play_at_random(&play, 8, 0);
        for (size_t i = 1; i <= play.n; i++)
            for (size_t k = 0; k < play.trials[i].untils_n; k++) {
                const double plain[] = {1, 3, 9}, running[] = {1, 4, 13};
                assert_true(play.trials[i].untils[k] == (config.accumulate_rungs ? running[k] : plain[k]));
            }
        play_done(&play);
    }
    space_free(space);
}

static void without_a_scheduler_lanes_are_refilled(void **state)
{
    struct space *space = driver_space("{\"n\": {\"type\": \"int\", \"minval\": 0, \"maxval\": 20, \"count\": 21}}");
    struct searcher_config config = {.scheduler = "single", .sampler = "grid", .max_units = 7.5};
    struct play play;

    (void)state;
    begin(&play, &config, space);
    assert_int_equal(play.n, 16);
    tell(&play, 4, 7.5, 0.5);
    assert_int_equal(play.trials[4].fate, FATE_COMPLETED);
    assert_int_equal(play.n, 17);
    ends(&play, 5, EXIT_ERROR, 0, 0);
    assert_int_equal(play.n, 18);
    tell(&play, 6, 3, 0.5); /* on the way: nothing to decide */
    assert_int_equal(play.n, 18);
    for (int64_t i = 1; i <= (int64_t)play.n; i++)
        if (play.trials[i].fate == FATE_TRAINS)
            tell(&play, i, 7.5, NAN);
    assert_true(play.done);
    assert_int_equal(play.n, 21);
    for (int64_t i = 1; i <= 21; i++)
        assert_int_equal(json_integer_value(json_object_get(play.trials[i].hyperparameters, "n")), i - 1);
    assert_true(play.progress == 1);
    play_done(&play);
    space_free(space);
}

static void a_grid_with_fewer_points_than_max_trials_ends_with_its_points(void **state)
{
    struct space *space = driver_space("{\"n\": {\"type\": \"int\", \"minval\": 0, \"maxval\": 4, \"count\": 5}}");
    struct searcher_config config = {.scheduler = "single", .sampler = "grid", .max_units = 2, .max_trials = 100};
    struct world world = {.value = curve_value};
    struct preview_row *rows;
    struct play play;
    double total;
    size_t n;

    (void)state;
    for (int halving = 0; halving < 2; halving++) {
        config.scheduler = halving ? "async_halving" : "single";
        play_init(&play, driver_searcher(&config, space), &world);
        play_in_order(&play);
        assert_true(play.done);
        assert_int_equal(play.n, 5);
        play_done(&play);
    }
    config.scheduler = "single";
    assert_int_equal(searcher_preview(&config, space, &rows, &n, &total, NULL), 0);
    assert_true(n == 1 && rows[0].trials == 5 && rows[0].units == 2 && total == 10);
    free(rows);
    config.max_trials = 3;
    play_init(&play, driver_searcher(&config, space), &world);
    play_in_order(&play);
    assert_int_equal(play.n, 3);
    play_done(&play);
    space_free(space);
}

static void every_search_ends_with_every_trial_ended(void **state)
{
    static const char *const SCHEDULERS[] = {"single", "async_halving", "adaptive_asha"};
    struct space *space = driver_space(LR_SPACE);

    (void)state;
    for (uint64_t seed = 0; seed < 400; seed++) {
        struct pcg32 rng = rng_key(seed, RNG_SEARCH, 7, 7, 7);
        struct world world = {.value = curve_value,
                              .converges = rng_below(&rng, 2) ? curve_converges : NULL,
                              .fails = rng_below(&rng, 2) ? curve_fails : NULL,
                              .seed = seed};
        struct searcher_config config = {
            .scheduler = SCHEDULERS[seed % 3], .sampler = "random", .smaller_is_better = seed % 2};
        struct play play;
        config.max_units = 1 + rng_below(&rng, 60);
        config.max_trials = 1 + rng_below(&rng, 40);
        config.max_concurrent_trials = rng_below(&rng, 9);
        config.divisor = 1.5 + rng_below(&rng, 6) * 0.5;
        config.max_rungs = rng_below(&rng, 6);
        config.num_rungs = rng_below(&rng, 6);
        config.mode = (enum halving_mode)rng_below(&rng, 3);
        config.stop_once = rng_below(&rng, 2);
        config.accumulate_rungs = rng_below(&rng, 2);
        config.logical_order = rng_below(&rng, 2);
        play_init(&play, driver_searcher(&config, space), &world);
        play_at_random(&play, seed, rng_below(&rng, 5));
        assert_true(play.done && play.progress == 1);
        assert_true(play.n >= (size_t)config.max_trials); /* more only where there are more brackets */
        for (size_t i = 1; i <= play.n; i++)
            assert_true(play.trials[i].fate >= FATE_STOPPED);
        play_done(&play);
    }
    space_free(space);
}

static void cancel_stops_every_trial_and_nothing_is_heard_after(void **state)
{
    struct space *space = driver_space(LR_SPACE);
    struct searcher_config config = HALVING_3;
    struct play play;
    size_t said;

    (void)state;
    config.max_trials = 9;
    config.max_concurrent_trials = 3;
    for (int logical = 0; logical < 2; logical++) {
        config.logical_order = logical;
        begin(&play, &config, space);
        tell(&play, 1, 1, 0.5);
        ends(&play, 2, EXIT_ERROR, 0, 0);
        play_tell(&play, (struct searcher_event){.type = EVENT_CANCEL});
        assert_true(play.done);
        for (size_t i = 1; i <= play.n; i++)
            assert_int_equal(play.trials[i].fate, i == 2 ? FATE_FAILED : FATE_STOPPED);
        said = play.said_n;
        tell(&play, 3, 1, 0.1);
        play_tell(&play, (struct searcher_event){.type = EVENT_CANCEL});
        assert_int_equal(play.said_n, said);
        play_done(&play);
    }
    space_free(space);
}

/* As many trials as Optuna's table goes to. Made quadratic, this takes minutes. */
static void thousands_of_trials_are_decided(void **state)
{
    struct space *space = driver_space(LR_SPACE);
    struct world world = {.value = curve_value, .seed = 1};

    (void)state;
    for (int variant = 0; variant < 4; variant++) {
        struct searcher_config config = HALVING_3;
        struct play play;
        config.scheduler = "adaptive_asha";
        config.mode = MODE_STANDARD;
        config.max_units = 256;
        config.max_trials = 8500;
        config.max_concurrent_trials = 2000;
        config.stop_once = variant & 1;
        config.logical_order = variant & 2;
        play_init(&play, driver_searcher(&config, space), &world);
        play_in_order(&play);
        assert_true(play.done && play.n == 8500);
        play_done(&play);
    }
    space_free(space);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_lists_of_names_are_the_tables),
        cmocka_unit_test(refuses_bad_settings_with_what_would_be_right),
        cmocka_unit_test(refuses_events_about_trials_that_were_never_created),
        cmocka_unit_test(a_converged_trial_stands_at_every_later_rung),
        cmocka_unit_test(the_first_value_told_of_a_unit_stands_for_a_trial_that_converges),
        cmocka_unit_test(what_a_failed_trial_had_told_on_its_way_does_not_count),
        cmocka_unit_test(the_last_rung_is_the_full_length),
        cmocka_unit_test(a_converged_trial_is_promoted_without_training),
        cmocka_unit_test(killing_a_trial_that_waits_at_a_rung_frees_no_lane_and_promotes_nobody),
        cmocka_unit_test(one_late_report_crosses_several_rungs),
        cmocka_unit_test(nothing_is_trained_past_an_undecided_rung),
        cmocka_unit_test(without_a_scheduler_lanes_are_refilled),
        cmocka_unit_test(a_grid_with_fewer_points_than_max_trials_ends_with_its_points),
        cmocka_unit_test(every_search_ends_with_every_trial_ended),
        cmocka_unit_test(cancel_stops_every_trial_and_nothing_is_heard_after),
        cmocka_unit_test(thousands_of_trials_are_decided),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
