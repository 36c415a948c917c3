/* test_scheduler.c - decisions about slots, each a row of a table (scheduler_test.h); shares and turns over time.
 * SPDX-License-Identifier: Apache-2.0 */
#include "tests/orchestrator/scheduler/scheduler_test.h"

static void gives_the_lowest_free_slots_in_the_order_wanted(void **state)
{
    static const struct row ROWS[] = {
        {"cccc", "1:42:1:0", "1/3:1 1/1:1", "", "1/3@0 1/1@1"},
        {"1c2c", "1:42:1:0", "1/7:1 1/8:1 1/9:1", "1:1:1 2:1:2", "1/7@1 1/8@3"},
        {"cccc", "1:42:1:0", "", "", ""},
        {"", "1:42:1:0", "1/1:1", "", ""},
        {"cc", "", "1/1:1", "", ""}, /* an experiment that is not in the table gets nothing */
    };
    (void)state;
    CHECK(ROWS);
}

static void a_trial_gets_slots_next_to_each_other_where_there_are(void **state)
{
    static const struct row ROWS[] = {
        {"c1cc", "1:42:1:0", "1/1:2", "1:1:1", "1/1@2,3"},
        {"cccc", "1:42:1:0", "1/1:2 1/2:2", "", "1/1@0,1 1/2@2,3"},
        {"c1c2c", "1:42:1:0", "1/1:2", "1:1:1 2:1:2", "1/1@0,2"}, /* no two in a row: the lowest */
        {"cgcc", "1:42:1:0", "1/1:2", "", "1/1@2,3"},             /* a slot of another kind parts them */
    };
    (void)state;
    CHECK(ROWS);
}

static void a_trial_gets_slots_that_share_a_cache_or_a_node(void **state)
{
    static const struct row ROWS[] = {
        {"ccc|ccc", "1:42:1:0", "1/1:2 1/2:2 1/3:2", "", "1/1@0,1 1/2@3,4 1/3@2,5"}, /* at last, neither will do */
        {"1cc|cccc", "1:42:1:0", "1/2:2 1/3:4", "1:1:1", "1/2@1,2 1/3@3,4,5,6"},
        {"cccc|11cc", "1:42:1:0", "1/1:2", "1:1:1", "1/1@6,7"}, /* where the fewest that will do are free */
        {"c1|c1/cc|cc", "1:42:1:0", "1/1:2 1/2:2 1/3:2", "1:1:1", "1/1@4,5 1/2@6,7 1/3@0,2"},
        {"c1|cc|1c/cc|cc", "1:42:1:0", "1/1:3", "1:1:1", "1/1@0,2,3"}, /* one node has four, the other four: the first */
        {"cc|cc", "1:42:1:0", "1/1:3", "", "1/1@0,1,2"},
        {"cc/cc", "1:42:1:0", "1/1:3 ", "", "1/1@0,1,2"},
        {"c1c|cc", "1:42:1:0", "1/1:1 1/2:2", "1:1:1", "1/1@0 1/2@3,4"}, /* one slot: the lowest */
    };
    (void)state;
    CHECK(ROWS);
}

static void better_priority_goes_first_whatever_the_share(void **state)
{
    static const struct row ROWS[] = {
        {"cc", "1:42:1:0 2:10:1:0", "1/1:1 2/1:1 2/2:1", "", "2/1@0 2/2@1"},
        {"1cc", "1:42:1:0 2:10:1:0", "1/1:1 2/2:1 2/3:1", "1:2:1", "2/2@1 2/3@2"},
    };
    (void)state;
    CHECK(ROWS);
}

static void within_a_priority_the_fewest_slots_per_weight_goes_first(void **state)
{
    static const struct row ROWS[] = {
        {"cccc", "1:42:1:0 2:42:1:0", "1/1:1 1/2:1 1/3:1 2/1:1 2/2:1", "", "1/1@0 2/1@1 1/2@2 2/2@3"},
        {"11cc", "1:42:1:0 2:42:1:0", "1/2:1 2/1:1 2/2:1", "1:1:1", "2/1@2 2/2@3"},
        {"cccc", "1:42:3:0 2:42:1:0", "1/1:1 1/2:1 1/3:1 1/4:1 2/1:1 2/2:1", "", "1/1@0 2/1@1 1/2@2 1/3@3"},
        {"cc", "2:42:1:0 1:42:1:0", "2/1:1 1/1:1", "", "1/1@0 2/1@1"}, /* equal: the older */
        {"cc", "2:42:1:0:c:3 1:42:1:0:c:4", "2/1:1 1/1:1", "", "2/1@0 1/1@1"}, /* equal, but served longer ago */
        {"1c", "1:42:1:0 2:42:1:0", "1/2:1 2/1:1", "1:1:1:e", "2/1@1"}, /* what is ending is still held */
    };
    (void)state;
    CHECK(ROWS);
}

static void a_trial_gets_all_its_slots_or_none(void **state)
{
    static const struct row ROWS[] = {
        {"1ccc", "1:42:1:0", "1/2:4", "1:1:1", ""},
        {"cccc", "1:42:1:0", "1/2:4", "", "1/2@0,1,2,3"},
        {"ccccc", "1:42:1:0", "1/1:2 1/2:2 1/3:2", "", "1/1@0,1 1/2@2,3"},
    };
    (void)state;
    CHECK(ROWS);
}

static void nothing_passes_a_trial_that_waits_for_slots(void **state)
{
    static const struct row ROWS[] = {
        {"1ccc", "1:10:1:0 2:42:1:0", "1/1:4 2/1:1", "1:2:1:e", ""},
        {"1ccc", "1:42:1:0 2:42:1:0", "1/1:4 2/2:1", "1:2:1", ""}, /* 1 holds less, so it is its turn */
        /* the smaller one of better priority does go first */
        {"1ccc", "1:42:1:0 2:10:1:0", "1/1:4 2/2:1", "1:2:1", "2/2@1"},
        /* it would have fitted: its equals go on, a worse one does not */
        {"cccc", "1:42:1:0 2:42:1:0", "1/1:1 1/2:1 1/3:1 2/1:4", "", "1/1@0 1/2@1 1/3@2"},
        {"cccc", "1:42:1:0 2:42:1:0 3:50:1:0", "1/1:1 2/1:4 3/1:1", "", "1/1@0"},
        {"c2cc", "1:42:1:0 2:42:1:0 3:50:1:0", "1/1:1 1/2:1 2/1:3", "2:3:1", "1/1@0 -2"}, /* slots can be made for it */
        {"1ccc", "1:42:1:0 2:42:1:0", "1/2:1 2/1:4", "1:1:1", ""}, /* and from the next decision on it blocks */
        /* one that never fits is waited for by nobody */
        {"cc", "1:10:1:0 2:42:1:0", "1/1:3 2/1:1", "", "2/1@0"},
        {"cg", "1:10:1:0:g 2:42:1:0", "1/1:2 2/1:1", "", "2/1@0"},
    };
    (void)state;
    CHECK(ROWS);
}

static void an_experiment_holds_at_most_its_max_slots(void **state)
{
    static const struct row ROWS[] = {
        {"cccc", "1:42:1:2", "1/1:1 1/2:1 1/3:1", "", "1/1@0 1/2@1"},
        {"1ccc", "1:42:1:2", "1/2:1 1/3:1", "1:1:1", "1/2@1"},
        {"cccc", "1:42:1:3", "1/1:2 1/2:2", "", "1/1@0,1"},
        {"cccc", "1:10:1:1 2:42:1:0", "1/1:1 1/2:1 2/1:1 2/2:1", "", "1/1@0 2/1@1 2/2@2"}, /* its limit keeps no one */
    };
    (void)state;
    CHECK(ROWS);
}

static void preempts_only_worse_priorities_latest_started_first(void **state)
{
    static const struct row ROWS[] = {
        {"12", "1:42:1:0 2:10:1:0", "2/1:1", "1:1:5 2:1:6", "-2"},
        {"12", "1:42:1:0 2:10:1:0", "2/1:1", "1:1:6 2:1:5", "-1"},
        {"12", "1:42:1:0 2:42:1:0", "2/1:1", "1:1:5 2:1:6", ""},
        {"12", "1:42:1:0 2:50:1:0", "2/1:1", "1:1:5 2:1:6", ""},
        {"123", "1:42:1:0 2:10:1:0 3:60:1:0", "2/1:1", "1:1:9 2:3:1 3:3:2", "-3"}, /* worst priority first */
        {"12", "1:42:1:0 2:10:1:0", "2/1:1 2/2:1", "1:1:5 2:1:6", "-2 -1"},        /* two that wait, two that make room */
        {"12", "1:42:1:0 2:10:1:0", "2/1:1 2/2:1 2/3:1", "1:1:5 2:1:6", "-2 -1"},
        {"12", "1:42:1:0 2:10:1:1", "2/1:1 2/2:1", "1:1:5 2:1:6", "-2"}, /* the second is past its max_slots */
    };
    (void)state;
    CHECK(ROWS);
}

static void preempts_only_when_that_helps_and_only_what_is_needed(void **state)
{
    static const struct row ROWS[] = {
        {"122c", "1:42:1:0 2:10:1:0 3:10:1:0", "2/1:4", "1:3:1 2:1:2", ""}, /* run 1 stays, so 4 never come free */
        {"1cc2", "1:42:1:0 2:10:1:0", "2/1:3", "1:1:1 2:1:2", "-2"},
        {"1222", "1:42:1:0 2:10:1:0", "2/1:3", "1:1:9 2:1:2", "-2"}, /* run 1 is newer, but run 2 alone does it */
        {"12", "1:42:1:0 2:10:1:0", "2/1:1", "1:1:5 2:1:6:e", ""},   /* one is ending already */
        {"12", "1:42:1:0 2:10:1:0", "2/1:2", "1:1:5 2:1:6:e", "-1"},
        {"1B", "1:42:1:0 2:10:1:0:g 3:10:1:0:g", "2/1:1", "1:1:1 2:3:1", ""}, /* slots of another kind are no help */
        {"11cc", "1:42:1:0 2:10:1:0", "2/1:2", "1:1:1", "2/1@2,3"},
    };
    (void)state;
    CHECK(ROWS);
}

static void kinds_of_slots_are_decided_apart(void **state)
{
    static const struct row ROWS[] = {
        {"gcgc", "1:42:1:0 2:42:1:0:g", "1/1:1 1/2:1 1/3:1 2/1:1", "", "1/1@1 1/2@3 2/1@0"},
        {"gccc", "1:10:1:0:g 2:42:1:0", "1/1:1 1/2:1 2/1:1", "", "2/1@1 1/1@0"},
        {"Bc", "1:10:1:0:g 2:42:1:0 3:50:1:0:g", "1/1:1 2/1:1", "2:3:1", "2/1@1 -2"},
    };
    (void)state;
    CHECK(ROWS);
}

/* Runs of random length, always someone waiting: slot-time goes by weight. */
static void shares_follow_the_weights_over_time(void **state)
{
    static const double WEIGHTS[] = {1, 2, 5};
    double used[3] = {0}, total = 0;
    static struct table t = {.slots_n = 16, .experiments_n = 3};
    int64_t left[65] = {0}, owner[65] = {0}, next_run = 1, next_trial = 1;
    uint32_t random = 7;

    (void)state;
    lease_all(&t);
    for (int e = 0; e < 3; e++)
        t.experiments[e] = (struct sched_experiment){e + 1, 42, WEIGHTS[e], 0, 1, SLOT_KIND_CPU, 0};
    for (int tick = 0; tick < 4000; tick++) {
        struct sched_decision decision;
        t.wanted_n = t.runs_n = 0;
        for (int e = 0; e < 3; e++)
            for (int k = 0; k < 16; k++)
                t.wanted[t.wanted_n++] = (struct sched_wanted){e + 1, next_trial++, 1, false, NULL};
        for (int64_t r = 1; r <= 64; r++)
            if (left[r])
                t.runs[t.runs_n++] = (struct sched_run){.run = r, .experiment = owner[r], .started = r};
        hold_all(&t);
        decision = decide(&t);
        for (size_t s = 0; s < decision.starts_n; s++) {
            while (left[next_run])
                next_run = next_run % 64 + 1;
            random = random * 1664525u + 1013904223u;
            left[next_run] = 1 + (random >> 16) % 9;
            owner[next_run] = decision.starts[s].experiment;
            t.on[decision.slot_indexes[decision.starts[s].first]] = next_run;
        }
        sched_decision_done(&decision);
        for (size_t i = 0; i < t.slots_n; i++) {
            int64_t run = t.on[i];
            assert_true(run > 0); /* no slot stays empty while someone waits */
            used[owner[run] - 1]++;
            total++;
            if (!--left[run])
                t.on[i] = 0;
        }
    }
    for (int e = 0; e < 3; e++) /* 16 slots in shares of 2, 4 and 10 */
        assert_true(used[e] / total > WEIGHTS[e] / 8 - 0.02 && used[e] / total < WEIGHTS[e] / 8 + 0.02);
}

/* One experiment of trials that want all slots, one of many that want one, both always wanting: they take turns, and the
 * slots stand empty only while the small ones drain. */
static void large_and_small_trials_take_turns(void **state)
{
    static struct table t = {.slots_n = 8, .experiments_n = 2};
    int64_t left[16] = {0}, owner[16] = {0}, tick = 1;
    int started[2] = {0}, busy = 0;

    (void)state;
    lease_all(&t);
    for (int e = 0; e < 2; e++)
        t.experiments[e] = (struct sched_experiment){e + 1, 42, 1, 0, 1, SLOT_KIND_CPU, 0};
    for (; tick <= 600; tick++) {
        struct sched_decision decision;
        t.wanted_n = t.runs_n = 0;
        for (int k = 0; k < 8; k++)
            t.wanted[t.wanted_n++] = (struct sched_wanted){1, 100 * tick + k, 1, false, NULL};
        t.wanted[t.wanted_n++] = (struct sched_wanted){2, tick, 8, false, NULL};
        for (int r = 1; r <= 9; r++)
            if (left[r])
                t.runs[t.runs_n++] = (struct sched_run){.run = r, .experiment = owner[r], .started = r};
        hold_all(&t);
        decision = decide(&t);
        for (size_t s = 0; s < decision.starts_n; s++) {
            const struct sched_start *start = &decision.starts[s];
            int64_t run = 1;
            while (left[run])
                run++;
            owner[run] = start->experiment;
            left[run] = start->experiment == 1 ? 1 + tick % 3 + run % 2 : 4;
            started[start->experiment - 1]++;
            t.experiments[start->experiment - 1].last_start = tick;
            for (size_t k = 0; k < start->slots; k++)
                t.on[decision.slot_indexes[start->first + k]] = run;
        }
        sched_decision_done(&decision);
        for (size_t i = 0; i < 8; i++)
            busy += t.on[i] != 0;
        for (int r = 1; r <= 9; r++)
            if (left[r] && !--left[r])
                for (size_t i = 0; i < 8; i++)
                    if (t.on[i] == r)
                        t.on[i] = 0;
    }
    assert_true(started[1] >= 60); /* a turn of each lasts 7 to 8 ticks */
    assert_int_equal(started[0] / 8, started[1]);
    assert_true(busy > 600 * 8 * 3 / 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gives_the_lowest_free_slots_in_the_order_wanted),
        cmocka_unit_test(a_trial_gets_slots_next_to_each_other_where_there_are),
        cmocka_unit_test(a_trial_gets_slots_that_share_a_cache_or_a_node),
        cmocka_unit_test(better_priority_goes_first_whatever_the_share),
        cmocka_unit_test(within_a_priority_the_fewest_slots_per_weight_goes_first),
        cmocka_unit_test(a_trial_gets_all_its_slots_or_none),
        cmocka_unit_test(nothing_passes_a_trial_that_waits_for_slots),
        cmocka_unit_test(an_experiment_holds_at_most_its_max_slots),
        cmocka_unit_test(preempts_only_worse_priorities_latest_started_first),
        cmocka_unit_test(preempts_only_when_that_helps_and_only_what_is_needed),
        cmocka_unit_test(kinds_of_slots_are_decided_apart),
        cmocka_unit_test(shares_follow_the_weights_over_time),
        cmocka_unit_test(large_and_small_trials_take_turns),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
