/* scheduler_test.h - tables for the scheduler's tests, as text.
 * A row is text: slots "cccg" (c: free cpu, g: free cuda, digit n: held by run n on cpu, A.. : held by run 1.. on cuda; |:
 * another cache from here on, /: another node);
 * experiments "id:priority:weight:max_slots[:g[:last_start[:trials_per_slot]]]", wanted "experiment/trial:slots[a][!digits]" (a: alone, !: shut
 * for it are the slots of these digits), runs
 * "run:experiment:started[:ea][@slot]" (e: ending, a: alone; slot: one that it shares with the run of that slot's digit, or
 * with others written so, the slot being x or X); the decision as text "experiment/trial@slot,slot ... -run -run".
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_SCHEDULER_TEST_H
#define FLEXP_SCHEDULER_TEST_H

#include "orchestrator/scheduler/scheduler.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct row {
    const char *slots, *experiments, *wanted, *runs, *decision;
};

struct table {
    struct sched_slot slots[64];
    struct sched_experiment experiments[16];
    struct sched_wanted wanted[256];
    bool shut[256][64]; /* of wanted[i], where it says so */
    struct sched_run runs[128];
    size_t held[128][64]; /* slots of runs[i] */
    int64_t on[64];       /* of a slot: the run that holds it, in tests without packs; 0: free */
    size_t slots_n, experiments_n, wanted_n, runs_n;
};

static inline void read_slots(const char *text, struct table *t)
{
    unsigned cache = 0, node = 0;

    for (; *text; text++) {
        struct sched_slot *slot;
        if (*text == '|' || *text == '/') {
            cache++;
            node += *text == '/';
            continue;
        }
        slot = &t->slots[t->slots_n++];
        bool cuda = *text == 'g' || (*text >= 'A' && *text <= 'Z');
        *slot = (struct sched_slot){cuda ? SLOT_KIND_CUDA : SLOT_KIND_CPU, *text != '-', cache, node};
        t->on[t->slots_n - 1] = *text >= '0' && *text <= '9' ? *text - '0' : *text >= 'A' && *text < 'X' ? *text - 'A' + 1 : 0;
    }
}

static inline void hold(struct table *t, size_t row, size_t slot)
{
    t->held[row][t->runs[row].slots_n++] = slot;
    t->runs[row].slots = t->held[row];
}

/* Runs get the slots that t->on says are theirs. */
static inline void hold_all(struct table *t)
{
    for (size_t r = 0; r < t->runs_n; r++)
        for (size_t i = 0; i < t->slots_n; i++)
            if (t->on[i] == t->runs[r].run)
                hold(t, r, i);
}

static inline void read_row(const struct row *row, struct table *t)
{
    char text[4000], *word, *rest;

    memset(t, 0, sizeof *t);
    read_slots(row->slots, t);
    strcpy(text, row->experiments);
    for (word = strtok_r(text, " ", &rest); word; word = strtok_r(NULL, " ", &rest)) {
        long long id, priority, max, last = 0, packed = 1;
        double weight;
        char kind = 'c';
        assert_true(sscanf(word, "%lld:%lld:%lf:%lld:%c:%lld:%lld", &id, &priority, &weight, &max, &kind, &last, &packed) >= 4);
        t->experiments[t->experiments_n++] =
            (struct sched_experiment){id, priority, weight, max, packed, kind == 'g' ? SLOT_KIND_CUDA : SLOT_KIND_CPU, last};
    }
    strcpy(text, row->wanted);
    for (word = strtok_r(text, " ", &rest); word; word = strtok_r(NULL, " ", &rest)) {
        long long experiment, trial, slots;
        const char *shut = strchr(word, '!');
        char alone = 0;
        assert_true(sscanf(word, "%lld/%lld:%lld%c", &experiment, &trial, &slots, &alone) >= 3);
        for (const char *slot = shut; slot && *++slot;)
            t->shut[t->wanted_n][*slot - '0'] = true;
        t->wanted[t->wanted_n] =
            (struct sched_wanted){experiment, trial, slots, alone == 'a', shut ? t->shut[t->wanted_n] : NULL};
        t->wanted_n++;
    }
    strcpy(text, row->runs);
    for (word = strtok_r(text, " ", &rest); word; word = strtok_r(NULL, " ", &rest)) {
        long long run, experiment, started;
        char *slot = strchr(word, '@'), *flags;
        assert_true(sscanf(word, "%lld:%lld:%lld", &run, &experiment, &started) == 3);
        if (slot) {
            *slot++ = 0;
            hold(t, t->runs_n, (size_t)atoi(slot));
        }
        flags = word + strspn(word, "0123456789:");
        t->runs[t->runs_n].run = run;
        t->runs[t->runs_n].experiment = experiment;
        t->runs[t->runs_n].started = started;
        t->runs[t->runs_n].ending = strchr(flags, 'e') != NULL;
        t->runs[t->runs_n++].alone = strchr(flags, 'a') != NULL;
    }
    hold_all(t);
}

static inline struct sched_decision decide(const struct table *t)
{
    struct sched_decision decision;

    assert_int_equal(scheduler_decide(t->slots, t->slots_n, t->experiments, t->experiments_n, t->wanted, t->wanted_n,
                                      t->runs, t->runs_n, &decision),
                     0);
    return decision;
}

static inline void check(const struct row *rows, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        struct sched_decision decision;
        struct table t;
        char got[4000] = "";
        read_row(&rows[i], &t);
        decision = decide(&t);
        for (size_t s = 0; s < decision.starts_n; s++) {
            const struct sched_start *start = &decision.starts[s];
            sprintf(got + strlen(got), "%s%lld/%lld", *got ? " " : "", (long long)start->experiment,
                    (long long)start->trial);
            for (size_t k = 0; k < start->slots; k++)
                sprintf(got + strlen(got), "%c%zu", k ? ',' : '@', decision.slot_indexes[start->first + k]);
        }
        for (size_t p = 0; p < decision.preempt_n; p++)
            sprintf(got + strlen(got), "%s-%lld", *got ? " " : "", (long long)decision.preempt[p]);
        if (strcmp(got, rows[i].decision))
            print_message("row %zu: slots %s experiments %s wanted %s runs %s\n", i, rows[i].slots,
                          rows[i].experiments, rows[i].wanted, rows[i].runs);
        assert_string_equal(got, rows[i].decision);
        sched_decision_done(&decision);
    }
}
#define CHECK(rows) check(rows, sizeof(rows) / sizeof(rows)[0])

static inline void lease_all(struct table *t)
{
    for (size_t i = 0; i < t->slots_n; i++)
        t->slots[i].leased = true;
}

#endif
