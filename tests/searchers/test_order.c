/* test_order.c - order: logical: whatever the order of arrival and the number of slots, the operations are the same.
 * SPDX-License-Identifier: Apache-2.0 */
#include "tests/searchers/driver.h"

static const struct searcher_config BASE = {
    .smaller_is_better = true, .sampler = "random", .max_units = 40, .divisor = 3, .logical_order = true, .seed = 5};

/* What was said but for pauses: those of held results come when results do. */
static size_t decisions(const struct play *play, struct searcher_op *ret)
{
    size_t n = 0;

    for (size_t i = 0; i < play->said_n; i++)
        if (play->said[i].type != OP_PAUSE)
            ret[n++] = play->said[i];
    return n;
}

static int64_t best(const struct play *play)
{
    int64_t trial = 0;
    double value = NAN;

    for (size_t i = 1; i <= play->n; i++)
        for (double unit = 1; unit <= play->trials[i].at; unit++) {
            double at = play->world->value(play->world, (int64_t)i, unit);
            if (searcher_better(true, at, value)) {
                value = at;
                trial = (int64_t)i;
            }
        }
    return trial;
}

static void same_decisions(const struct searcher_config *config, const struct world *world, int orders)
{
    struct space *space = driver_space(LR_SPACE);
    struct searcher_op *first, *other;
    struct play reference, play;
    size_t n;

    play_init(&reference, driver_searcher(config, space), world);
    play_in_order(&reference);
    assert_true(reference.done);
    first = calloc(reference.said_n, sizeof *first);
    n = decisions(&reference, first);
    for (int order = 0; order < orders; order++) {
        play_init(&play, driver_searcher(config, space), world);
        play_at_random(&play, (uint64_t)order, (size_t)order % 5);
        other = calloc(play.said_n, sizeof *other);
        assert_int_equal(decisions(&play, other), n);
        for (size_t i = 0; i < n; i++)
            assert_true(same_op(&other[i], &first[i]));
        assert_int_equal(best(&play), best(&reference));
        for (size_t i = 1; i <= play.n; i++) {
            assert_int_equal(play.trials[i].fate, reference.trials[i].fate);
            assert_true(json_equal(play.trials[i].hyperparameters, reference.trials[i].hyperparameters));
        }
        free(other);
        play_done(&play);
    }
    play_done(&reference);
    free(first);
    space_free(space);
}

static void sweep(struct searcher_config config, int worlds, int orders)
{
    for (uint64_t w = 0; w < (uint64_t)worlds; w++) {
        struct world world = {.value = curve_value,
                              .converges = w % 2 ? curve_converges : NULL,
                              .fails = w % 3 == 2 ? curve_fails : NULL,
                              .seed = w};
        config.max_trials = 12 + (int64_t)w % 3 * 9;
        config.max_concurrent_trials = w % 4 ? 1 + (int64_t)w % 8 : 0;
        same_decisions(&config, &world, orders);
    }
}

static void any_arrival_decides_alike_by_the_stopping_rule(void **state)
{
    struct searcher_config config = BASE;

    (void)state;
    config.scheduler = "async_halving";
    config.num_rungs = 3;
    config.stop_once = true;
    sweep(config, 24, 50);
}

static void any_arrival_decides_alike_by_the_promotion_rule(void **state)
{
    struct searcher_config config = BASE;

    (void)state;
    config.scheduler = "async_halving";
    config.num_rungs = 3;
    sweep(config, 24, 50);
    config.accumulate_rungs = true;
    sweep(config, 12, 50);
}

static void any_arrival_decides_alike_in_brackets(void **state)
{
    struct searcher_config config = BASE;

    (void)state;
    config.scheduler = "adaptive_asha";
    config.mode = MODE_CONSERVATIVE;
    config.stop_once = true;
    sweep(config, 24, 50);
    config.stop_once = false;
    sweep(config, 24, 50);
}

static void any_arrival_decides_alike_without_a_scheduler(void **state)
{
    struct searcher_config config = BASE;

    (void)state;
    config.scheduler = "single";
    sweep(config, 6, 50);
}

/* The same worlds by arrival: if these agreed too, the tests above would show nothing. */
static void by_arrival_decisions_do_depend_on_the_order(void **state)
{
    struct searcher_config config = BASE;
    struct space *space = driver_space(LR_SPACE);
    struct world world = {.value = curve_value, .seed = 1};
    struct play one, other;
    size_t same = 0;

    (void)state;
    config.logical_order = false;
    config.scheduler = "async_halving";
    config.num_rungs = 3;
    config.stop_once = true;
    config.max_trials = 30;
    config.max_concurrent_trials = 8;
    play_init(&one, driver_searcher(&config, space), &world);
    play_at_random(&one, 1, 0);
    play_init(&other, driver_searcher(&config, space), &world);
    play_at_random(&other, 2, 0);
    while (same < one.said_n && same < other.said_n && same_op(&one.said[same], &other.said[same]))
        same++;
    assert_true(same < one.said_n);
    play_done(&one);
    play_done(&other);
    space_free(space);
}

static void keeps_to_its_lanes(void **state)
{
    struct searcher_config config = BASE;
    struct space *space = driver_space(LR_SPACE);
    struct world world = {.value = curve_value, .converges = curve_converges, .fails = curve_fails, .seed = 3};

    (void)state;
    config.scheduler = "async_halving";
    config.num_rungs = 3;
    config.max_trials = 40;
    config.max_concurrent_trials = 6;
    for (int logical = 0; logical < 2; logical++)
        for (int stop_once = 0; stop_once < 2; stop_once++) {
            struct play play;
            config.logical_order = logical;
            config.stop_once = stop_once;
            play_init(&play, driver_searcher(&config, space), &world);
            play_at_random(&play, 4, 0);
            assert_int_equal(play.training_most, 6);
            play_done(&play);
        }
    space_free(space);
}

static void tell(struct play *play, int64_t trial, double value)
{
    play->trials[trial].at = play->trials[trial].until;
    play_tell(play, (struct searcher_event){
                        .type = EVENT_VALIDATION, .trial = trial, .unit = play->trials[trial].until, .value = value});
}

static void holds_a_result_until_the_earlier_ones_are_in(void **state)
{
    struct searcher_config config = BASE;
    struct space *space = driver_space(LR_SPACE);
    struct play play;

    (void)state;
    config.scheduler = "async_halving";
    config.num_rungs = 2;
    config.stop_once = true;
    config.max_trials = 4;
    config.max_concurrent_trials = 3;
    play_init(&play, driver_searcher(&config, space), NULL);
    play_tell(&play, (struct searcher_event){.type = EVENT_START});
    assert_int_equal(play.n, 3);
    tell(&play, 3, 0.1); /* ties go by trial: 1 and 2 come first */
    assert_int_equal(play.trials[3].fate, FATE_PAUSED);
    tell(&play, 2, 0.2);
    assert_int_equal(play.trials[2].fate, FATE_PAUSED);
    tell(&play, 1, 0.3); /* now all three are due: 1 is first at its rung, 2 and 3 are better than all before them */
    assert_int_equal(play.trials[1].fate, FATE_TRAINS);
    assert_int_equal(play.trials[2].fate, FATE_TRAINS);
    assert_int_equal(play.trials[3].fate, FATE_TRAINS);
    tell(&play, 2, 0.2);
    assert_int_equal(play.trials[2].fate, FATE_PAUSED);
    tell(&play, 1, 0.3);
    assert_int_equal(play.trials[1].fate, FATE_COMPLETED);
    assert_int_equal(play.trials[2].fate, FATE_COMPLETED);
    assert_int_equal(play.n, 4); /* the freed lane is filled */
    play_done(&play);
    space_free(space);
}

/* Two lanes. Trial 1 trains 0..1 and 1..3, trials 2, 3 and 4 a unit each in the other lane: all end at 3, and 1 goes
 * first. */
static void a_unit_takes_the_same_time_in_every_lane(void **state)
{
    struct searcher_config config = BASE;
    struct space *space = driver_space(LR_SPACE);
    struct play play;

    (void)state;
    config.scheduler = "async_halving";
    config.num_rungs = 3;
    config.max_units = 9;
    config.stop_once = true;
    config.max_trials = 5;
    config.max_concurrent_trials = 2;
    play_init(&play, driver_searcher(&config, space), NULL);
    play_tell(&play, (struct searcher_event){.type = EVENT_START});
    tell(&play, 1, 0.1);
    tell(&play, 2, 0.2); /* at 1 */
    assert_int_equal(play.trials[2].fate, FATE_STOPPED);
    assert_true(play.trials[1].until == 3);
    tell(&play, 1, 0.1); /* due at 3 */
    assert_int_equal(play.trials[1].fate, FATE_PAUSED);
    tell(&play, 3, 0.3); /* at 2; 4 starts and is due at 3 too, after 1 */
    assert_int_equal(play.n, 4);
    assert_int_equal(play.trials[1].fate, FATE_TRAINS);
    assert_true(play.trials[1].until == 9);
    tell(&play, 4, 0.4);
    assert_int_equal(play.trials[4].fate, FATE_STOPPED);
    play_done(&play);
    space_free(space);
}

static void a_trial_killed_while_its_result_is_held_does_not_block(void **state)
{
    struct searcher_config config = BASE;
    struct space *space = driver_space(LR_SPACE);
    struct play play;

    (void)state;
    config.scheduler = "async_halving";
    config.num_rungs = 2;
    config.max_trials = 3;
    config.max_concurrent_trials = 3;
    for (int stop_once = 0; stop_once < 2; stop_once++) {
        config.stop_once = stop_once;
        play_init(&play, driver_searcher(&config, space), NULL);
        play_tell(&play, (struct searcher_event){.type = EVENT_START});
        tell(&play, 3, 0.1);
        play.trials[3].fate = FATE_FAILED;
        play_tell(&play, (struct searcher_event){.type = EVENT_EXITED, .trial = 3, .exit = EXIT_KILLED});
        tell(&play, 1, 0.3);
        tell(&play, 2, 0.4);
        for (size_t i = 1; i <= 2; i++)
            if (play_trains(&play, i))
                tell(&play, (int64_t)i, 0.3);
        assert_true(play.done);
        play_done(&play);
    }
    space_free(space);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_arrival_decides_alike_by_the_stopping_rule),
        cmocka_unit_test(any_arrival_decides_alike_by_the_promotion_rule),
        cmocka_unit_test(any_arrival_decides_alike_in_brackets),
        cmocka_unit_test(any_arrival_decides_alike_without_a_scheduler),
        cmocka_unit_test(by_arrival_decisions_do_depend_on_the_order),
        cmocka_unit_test(keeps_to_its_lanes),
        cmocka_unit_test(holds_a_result_until_the_earlier_ones_are_in),
        cmocka_unit_test(a_unit_takes_the_same_time_in_every_lane),
        cmocka_unit_test(a_trial_killed_while_its_result_is_held_does_not_block),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
