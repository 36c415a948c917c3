/* test_packs.c - several trials on one slot; the scheduler's rules on random tables and over a random schedule.
 * SPDX-License-Identifier: Apache-2.0 */
#include "tests/orchestrator/scheduler/scheduler_test.h"

static void trials_of_one_experiment_share_a_slot_where_others_want_the_rest(void **state)
{
    static const struct row ROWS[] = {
        {"g", "1:42:1:0:g:0:4", "1/1:1 1/2:1 1/3:1 1/4:1 1/5:1", "", "1/1@0 1/2@0 1/3@0 1/4@0"},
        /* another wants a slot: a pack is filled before its experiment takes a second one */
        {"gg", "1:42:1:0:g:0:2 2:42:1:0:g:0:1", "1/1:1 1/2:1 1/3:1 2/1:1 2/2:1", "", "1/1@0 1/2@0 2/1@1"},
        {"gggg", "1:42:1:0:g:0:4 2:42:1:0:g:0:1", "1/1:1 1/2:1 1/3:1 1/4:1 2/1:1 2/2:1 2/3:1 2/4:1", "",
         "1/1@0 1/2@0 1/3@0 1/4@0 2/1@1 2/2@2 2/3@3"},
        /* none of two experiments together, and none where a trial has several */
        {"g", "1:42:1:0:g:0:4 2:42:1:0:g:0:4", "1/1:1 2/1:1", "", "1/1@0"},
        {"ggg", "1:42:1:0:g:0:4", "1/1:2 1/2:2", "", "1/1@0,1"},
    };
    (void)state;
    CHECK(ROWS);
}

static void trials_are_spread_where_slots_would_be_idle(void **state)
{
    static const struct row ROWS[] = {
        {"gg", "1:42:1:0:g:0:4", "1/1:1 1/2:1 1/3:1 1/4:1", "", "1/1@0 1/2@1 1/3@0 1/4@1"},
        {"gggg", "1:42:1:0:g:0:4", "1/1:1 1/2:1", "", "1/1@0 1/2@1"},
        {"gg", "1:42:1:1:g:0:4", "1/1:1 1/2:1 1/3:1", "", "1/1@0 1/2@0 1/3@0"}, /* not past its max_slots */
        {"xgg", "1:42:1:0:g:0:4", "1/4:1 1/5:1", "", "1/4@1 1/5@2"},
        {"Xg", "1:42:1:0:g:0:4", "1/4:1 1/5:1", "1:1:1@0 2:1:2@0 3:1:3@0", "1/4@1 1/5@1"},
        {"Xgc", "1:42:1:0:g:0:4", "1/4:1", "1:1:1@0 2:1:2@0", "1/4@1"},
        {"ggg", "1:42:1:0:g:0:4 2:42:1:0:g:0:4", "1/1:1 1/2:1 2/1:1 2/2:1", "", "1/1@0 1/2@2 2/1@1 2/2@1"},
        {"gg-", "1:42:1:0:g:0:4", "1/1:1 1/2:1 1/3:1", "", "1/1@0 1/2@1 1/3@0"},
    };
    (void)state;
    CHECK(ROWS);
}

static void a_trial_joins_the_emptiest_slot_of_its_experiment(void **state)
{
    static const struct row ROWS[] = {
        {"XX", "1:42:1:0:g:0:3", "1/4:1 1/5:1 1/6:1", "1:1:1@0 2:1:2@0 3:1:3@1", "1/4@1 1/5@0 1/6@1"},
        {"XX", "1:42:1:0:g:0:2", "1/4:1", "1:1:1@0 2:1:2@0 3:1:3@1 4:1:4@1", ""},        /* both full */
        {"X", "1:42:1:0:g:0:2 2:42:1:0:g:9:2", "2/1:1", "1:1:1@0", ""},                    /* another's */
        {"X", "1:42:1:0:g:0:4", "1/4:1", "1:1:1:e@0 2:1:2:e@0", ""},                       /* it is coming free */
        {"X", "1:42:1:0:g:0:2", "1/4:1", "1:1:1:e@0 2:1:2@0", ""},                         /* its place is not free yet */
        {"X", "1:42:1:0:g:0:3", "1/4:1", "1:1:1:e@0 2:1:2@0", "1/4@0"},
    };
    (void)state;
    CHECK(ROWS);
}

static void a_trial_that_is_to_run_alone_shares_with_none(void **state)
{
    static const struct row ROWS[] = {
        {"gg", "1:42:1:0:g:0:4", "1/1:1a 1/2:1 1/3:1", "", "1/1@0 1/2@1 1/3@1"},
        {"gg", "1:42:1:0:g:0:4", "1/1:1 1/2:1a 1/3:1", "", "1/1@0 1/2@1 1/3@0"},
        {"X", "1:42:1:0:g:0:4", "1/2:1", "1:1:1:a@0", ""},
        {"X", "1:42:1:0:g:0:4", "1/2:1a 1/3:1", "1:1:1@0", ""}, /* the pack drains for it */
        {"Xg", "1:42:1:0:g:0:4", "1/2:1a 1/3:1", "1:1:1@0", "1/2@1 1/3@0"},
        {"XX", "1:42:1:0:g:0:4", "1/9:1a 1/10:1 1/11:1", "1:1:1@0 2:1:2@0 3:1:3@1", "1/10@0 1/11@0"}, /* the emptier one does */
        {"X", "1:42:1:1:g:0:4", "1/2:1a", "1:1:1:e@0 2:1:2@0", ""},
    };
    (void)state;
    CHECK(ROWS);
}

static void a_slot_is_shut_for_the_trials_that_say_so_alone(void **state)
{
    static const struct row ROWS[] = {
        {"cc", "1:42:1:0", "1/1:1!0 1/2:1", "", "1/1@1 1/2@0"},
        {"cc", "1:42:1:0", "1/1:2!0 1/2:1", "", "1/2@0"}, /* half of what it wants is nothing */
        {"cccc", "1:42:1:0", "1/1:2!13", "", "1/1@0,2"},
        {"c", "1:10:1:0 2:42:1:0", "1/1:1!0 2/1:1", "", "2/1@0"}, /* a better priority waits for none */
        {"c2", "1:10:1:0 2:42:1:0", "1/1:1!0", "2:2:1", ""},      /* nor is anybody preempted for it, */
        {"c2", "1:10:1:0 2:42:1:0", "1/1:1", "2:2:1", "1/1@0"},
        {"2", "1:10:1:0 2:42:1:0", "1/1:1", "2:2:1", "-2"},
        {"2c", "1:10:1:0 2:42:1:0", "1/1:2 1/2:1!0", "2:2:1", "-2"}, /* and it takes no slot that others wait for */
        {"c", "1:42:1:1 2:42:1:0", "1/1:1!0 2/1:1", "", "2/1@0"},
        {"cc1", "1:42:1:1", "1/1:1!0", "1:1:1", ""},
        {"X", "1:42:1:0:g:0:4", "1/2:1!0 1/3:1", "1:1:1@0", "1/3@0"}, /* the same of a place in a pack */
        {"Xg", "1:42:1:0:g:0:4", "1/2:1!0", "1:1:1@0", "1/2@1"},
        {"XX", "1:42:1:0:g:0:4", "1/2:1!0", "1:1:1@0 2:1:2@1 3:1:2@1", "1/2@1"},
        {"XX", "1:42:1:0:g:0:4", "1/2:1!0 1/3:1 1/4:1", "1:1:1@0 2:1:2@1 3:1:2@1", "1/2@1 1/3@0 1/4@0"},
        {"gg", "1:42:1:0:g:0:2", "1/1:1 1/2:1!0 1/3:1 1/4:1", "", "1/1@0 1/2@1 1/3@0 1/4@1"},
        {"g", "1:42:1:0:g:0:2", "1/1:1!0 1/2:1!0", "", ""},
    };
    (void)state;
    CHECK(ROWS);
}

static void a_pack_counts_as_one_slot(void **state)
{
    static const struct row ROWS[] = {
        /* two slots each: 1 has four trials on them, 2 has two; equal shares, so the longer unserved goes first */
        {"XXXXg", "1:42:1:0:g:5:2 2:42:1:0:g:6:1", "1/9:1 2/9:1", "1:1:1@0 2:1:2@0 3:1:3@1 4:1:4@1 5:2:5@2 6:2:6@3",
         "1/9@4"},
        {"Xg", "1:42:1:2:g:0:2", "1/9:1 1/10:1 1/11:1", "1:1:1@0 2:1:2@0", "1/9@1 1/10@1"},
        /* whoever would not get a slot that it holds anew lets it drain */
        {"XX", "1:42:1:0:g:0:4 2:42:1:0:g:0:4", "1/9:1 2/9:1", "1:1:1@0 2:1:2@1", "1/9@1"},
        {"XX", "1:42:1:0:g:0:4 2:42:1:0:g:0:4", "1/9:1 2/1:1 2/2:1 2/3:1 2/4:1 2/5:1 2/6:1", "1:1:1@0 2:1:2@0 3:1:3@1", "1/9@0"},
        {"XX", "1:42:1:0:g:0:2 2:42:1:0:g:0:4", "1/9:1 2/1:1", "1:1:1@0 2:1:2@1 3:1:3@1", ""}, /* what has room is what drains */
        {"XXX", "1:42:1:0:g:5:2 2:42:1:0:g:4:2 3:42:1:0:g:3:2", "1/9:1 1/10:1 2/9:1 3/9:1", "1:1:1@0 2:1:2@1 3:1:3@2",
         "1/9@2"},
        {"XX", "1:42:1:0:g:0:4 2:50:1:0:g:0:4", "1/9:1 2/9:1", "1:1:1@0 2:1:2@1", "1/9@0"}, /* one that comes later is no matter */
        {"XX", "1:42:1:0:g:7:4 2:42:1:0:g:6:1", "1/9:1 2/9:1", "1:1:1@0 2:2:2@1", "1/9@0"},
        {"X", "1:42:1:0:g:7:4 2:42:1:0:g:6:4", "1/9:1 2/9:1", "1:1:1@0", ""},
        {"X", "1:42:1:0:g:7:4 2:50:1:0:g:6:4", "1/9:1 2/9:1", "1:1:1@0", "1/9@0"},
    };
    (void)state;
    CHECK(ROWS);
}

static void a_pack_is_preempted_as_a_whole(void **state)
{
    static const struct row ROWS[] = {
        {"XX", "1:42:1:0:g:0:4 2:10:1:0:g:0:1", "2/1:1", "1:1:1@0 2:1:2@0 3:1:3@1 4:1:9@1", "-3 -4"},
        {"X", "1:42:1:0:g:0:4 2:10:1:0:g:0:1", "2/1:1", "1:1:1:e@0 2:1:2@0", "-2"},
        {"X", "1:42:1:0:g:0:4 2:10:1:0:g:0:1", "2/1:1", "1:1:1:e@0 2:1:2:e@0", ""}, /* it ends as it is */
        /* one slot is made free for four that will share it, and nobody joins the pack that goes */
        {"XX", "1:42:1:0:g:0:4 2:10:1:0:g:0:4", "2/1:1 2/2:1 2/3:1 2/4:1 1/9:1 1/10:1 1/11:1 1/12:1",
         "1:1:1@0 2:1:2@1 3:1:3@1", "1/9@0 1/10@0 1/11@0 -2 -3"},
        {"XX", "1:42:1:0:g:0:4 2:10:1:0:g:0:4", "2/1:1 2/2:1 2/3:1 2/4:1 2/5:1", "1:1:1@0 2:1:2@1", "-2 -1"},
    };
    (void)state;
    CHECK(ROWS);
}

/* --- rules ----------------------------------------------------------------------------------------------------------- */

static uint32_t drawn = 1;

static size_t draw(size_t n)
{
    drawn = drawn * 1664525u + 1013904223u;
    return (drawn >> 16) % n;
}

/* Runs that hold slots: some on several, some in packs. */
static void draw_runs(struct table *t, size_t n)
{
    for (size_t r = 0; r < n; r++) {
        size_t e = draw(t->experiments_n);
        const struct sched_experiment *experiment = &t->experiments[e];
        size_t in_pack = experiment->trials_per_slot > 1 ? 1 + draw((size_t)experiment->trials_per_slot) : 0;
        int64_t run = (int64_t)t->runs_n + 1;
        for (size_t i = 0, given = 0; i < t->slots_n; i++) {
            if (t->on[i] || !t->slots[i].leased || t->slots[i].kind != experiment->kind || draw(3))
                continue;
            t->on[i] = run;
            for (size_t k = 0; k < (in_pack ? in_pack : !given); k++)
                t->runs[t->runs_n++] = (struct sched_run){.run = (int64_t)t->runs_n + 1, .experiment = (int64_t)e + 1,
                                                          .started = (int64_t)t->runs_n, .ending = draw(3) == 0,
                                                          .alone = in_pack == 1 && draw(4) == 0};
            for (size_t k = 0; k < (in_pack ? in_pack : 1); k++)
                hold(t, t->runs_n - 1 - k, i);
            given++;
            if (in_pack)
                break;
        }
    }
}

static void draw_table(struct table *t)
{
    memset(t, 0, sizeof *t);
    t->experiments_n = 1 + draw(4);
    for (size_t e = 0; e < t->experiments_n; e++)
        t->experiments[e] = (struct sched_experiment){.id = (int64_t)e + 1, .priority = (int64_t)draw(3),
                                                      .weight = 1 + (double)draw(3),
                                                      .max_slots = draw(2) ? (int64_t)draw(8) : 0,
                                                      .trials_per_slot = draw(2) ? 1 + (int64_t)draw(4) : 1,
                                                      .kind = draw(2) ? SLOT_KIND_CPU : SLOT_KIND_CUDA,
                                                      .last_start = (int64_t)draw(3)};
    t->slots_n = draw(20);
    for (size_t i = 0; i < t->slots_n; i++)
        t->slots[i] = (struct sched_slot){.kind = draw(2) ? SLOT_KIND_CPU : SLOT_KIND_CUDA, .leased = draw(8) > 0,
                                            .cache = (unsigned)i / 3, .node = (unsigned)i / 6};
    draw_runs(t, draw(6));
    t->wanted_n = draw(30);
    for (size_t i = 0; i < t->wanted_n; i++) {
        int64_t experiment = 1 + (int64_t)draw(t->experiments_n);
        bool packs = t->experiments[experiment - 1].trials_per_slot > 1;
        t->wanted[i] = (struct sched_wanted){experiment, (int64_t)i + 1, packs ? 1 : 1 + (int64_t)draw(4), packs && draw(6) == 0,
                                               draw(4) ? NULL : t->shut[i]};
        for (size_t k = 0; k < t->slots_n; k++)
            t->shut[i][k] = draw(3) == 0;
    }
}

/* What stands on each slot, before and then with what is started. */
struct standing {
    int64_t experiment[64], runs[64], staying[64], held[16];
    bool alone[64];
};

static void stand(struct standing *s, size_t slot, int64_t experiment, bool ending, bool alone)
{
    s->held[experiment - 1] += s->experiment[slot] == 0;
    s->experiment[slot] = experiment;
    s->runs[slot]++;
    s->staying[slot] += !ending;
    s->alone[slot] |= alone;
}

static void check_start(const struct table *t, const struct sched_decision *decision, const struct sched_start *start,
                        const struct standing *before, struct standing *s)
{
    const struct sched_experiment *e = &t->experiments[start->experiment - 1];
    const struct sched_wanted *wanted = &t->wanted[start->trial - 1];

    assert_int_equal(start->slots, wanted->slots);
    for (size_t k = 0; k < start->slots; k++) {
        size_t at = decision->slot_indexes[start->first + k];
        assert_true(at < t->slots_n && t->slots[at].leased && t->slots[at].kind == e->kind);
        assert_true(!wanted->shut || !wanted->shut[at]);
        if (s->runs[at]) { /* shared: of one experiment, with room, by those who may, and not one that is coming free */
            assert_true(s->experiment[at] == start->experiment && s->runs[at] < e->trials_per_slot);
            assert_true(start->slots == 1 && !wanted->alone && !s->alone[at]);
            assert_true(!before->runs[at] || before->staying[at]);
        }
        stand(s, at, start->experiment, false, wanted->alone);
    }
    assert_true(!e->max_slots || s->held[start->experiment - 1] <= e->max_slots ||
                s->held[start->experiment - 1] == before->held[start->experiment - 1]);
}

/* How many packs of several go. */
static size_t check_preempted(const struct table *t, const struct sched_decision *decision, const struct standing *after,
                              const struct standing *before)
{
    int64_t gone[64] = {0};
    size_t packs = 0;

    for (size_t p = 0; p < decision->preempt_n; p++) {
        const struct sched_run *victim = NULL;
        bool better = false;
        for (size_t r = 0; r < t->runs_n; r++)
            if (t->runs[r].run == decision->preempt[p])
                victim = &t->runs[r];
        assert_non_null(victim);
        assert_false(victim->ending);
        gone[victim->slots[0]]++;
        for (size_t i = 0; i < t->wanted_n; i++)
            better |= t->experiments[t->wanted[i].experiment - 1].priority <
                      t->experiments[victim->experiment - 1].priority;
        assert_true(better);
        for (size_t q = 0; q < p; q++)
            assert_true(decision->preempt[q] != decision->preempt[p]);
    }
    for (size_t i = 0; i < t->slots_n; i++) { /* all of a pack or none, and nobody joins it */
        assert_true(!gone[i] || (gone[i] == before->staying[i] && after->runs[i] == before->runs[i]));
        packs += gone[i] > 1;
    }
    return packs;
}

/* No slot is given twice but to a pack, nothing is given in part, no limit is passed, whatever the table. */
static void holds_its_rules_on_random_tables(void **state)
{
    static struct table t;
    size_t joined = 0, packs_preempted = 0;

    (void)state;
    for (int round = 0; round < 20000; round++) {
        struct sched_decision decision;
        struct standing before = {0}, after;
        draw_table(&t);
        for (size_t r = 0; r < t.runs_n; r++)
            for (size_t k = 0; k < t.runs[r].slots_n; k++)
                stand(&before, t.runs[r].slots[k], t.runs[r].experiment, t.runs[r].ending, t.runs[r].alone);
        after = before;
        decision = decide(&t);
        for (size_t s = 0; s < decision.starts_n; s++)
            check_start(&t, &decision, &decision.starts[s], &before, &after);
        packs_preempted += check_preempted(&t, &decision, &after, &before);
        for (size_t i = 0; i < t.slots_n; i++)
            joined += before.runs[i] && after.runs[i] > before.runs[i];
        sched_decision_done(&decision);
    }
    assert_true(joined > 500 && packs_preempted > 50); /* the tables had what this is about */
}

/* A random schedule of two packed experiments and one that is not, equal in priority, always wanting: no slot stands empty
 * while someone waits who could have it, none is shared by two experiments, and everybody's turn comes again and again. */
static void packed_and_other_experiments_take_turns_over_time(void **state)
{
    static const int64_t PACKED[] = {4, 3, 1};
    static struct table t;
    int64_t left[128] = {0}, owner[128] = {0}, slot_of[128] = {0}, turns[3] = {0}, longest[3] = {0}, last[3] = {0};
    size_t shared = 0;

    (void)state;
    t.slots_n = 3;
    lease_all(&t);
    t.experiments_n = 3;
    for (int e = 0; e < 3; e++)
        t.experiments[e] = (struct sched_experiment){e + 1, 42, 1, 0, PACKED[e], SLOT_KIND_CPU, 0};
    for (int64_t tick = 1; tick <= 3000; tick++) {
        struct sched_decision decision;
        int64_t on[3] = {0}, by[3] = {0};
        t.wanted_n = t.runs_n = 0;
        for (int e = 0; e < 3; e++)
            for (int k = 0; k < 12; k++)
                t.wanted[t.wanted_n++] = (struct sched_wanted){e + 1, (int64_t)t.wanted_n + 1, 1, false, NULL};
        for (int64_t r = 1; r < 128; r++)
            if (left[r]) {
                t.runs[t.runs_n] = (struct sched_run){.run = r, .experiment = owner[r], .started = r};
                hold(&t, t.runs_n++, (size_t)slot_of[r]);
            }
        decision = decide(&t);
        for (size_t s = 0; s < decision.starts_n; s++) {
            int64_t r = 1, e = decision.starts[s].experiment;
            while (left[r])
                r++;
            left[r] = 1 + (int64_t)draw(9);
            owner[r] = e;
            slot_of[r] = (int64_t)decision.slot_indexes[decision.starts[s].first];
            t.experiments[e - 1].last_start = tick * 100 + (int64_t)s;
            turns[e - 1]++;
            longest[e - 1] = tick - last[e - 1] > longest[e - 1] ? tick - last[e - 1] : longest[e - 1];
            last[e - 1] = tick;
        }
        sched_decision_done(&decision);
        for (int64_t r = 1; r < 128; r++)
            if (left[r]) {
                assert_true(!on[slot_of[r]] || by[slot_of[r]] == owner[r]);
                by[slot_of[r]] = owner[r];
                assert_true(++on[slot_of[r]] <= PACKED[owner[r] - 1]);
                left[r]--;
            }
        for (int i = 0; i < 3; i++) {
            assert_true(on[i]);
            shared += on[i] > 1;
        }
    }
    for (int e = 0; e < 3; e++)
        assert_true(turns[e] > 400 && longest[e] <= 60);
    assert_true(turns[0] > 2 * turns[2] && shared > 3000); /* a pack of four does more in its slot than one alone */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(trials_of_one_experiment_share_a_slot_where_others_want_the_rest),
        cmocka_unit_test(trials_are_spread_where_slots_would_be_idle),
        cmocka_unit_test(a_trial_joins_the_emptiest_slot_of_its_experiment),
        cmocka_unit_test(a_trial_that_is_to_run_alone_shares_with_none),
        cmocka_unit_test(a_slot_is_shut_for_the_trials_that_say_so_alone),
        cmocka_unit_test(a_pack_counts_as_one_slot),
        cmocka_unit_test(a_pack_is_preempted_as_a_whole),
        cmocka_unit_test(holds_its_rules_on_random_tables),
        cmocka_unit_test(packed_and_other_experiments_take_turns_over_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
