/* schedule.c - asks the scheduler on the whole table and carries out what it decides.
 * SPDX-License-Identifier: Apache-2.0 */
#include "common/log.h"
#include "orchestrator/server/server_private.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LEASE_PERIOD_MS 250

/* What is shown to the scheduler. */
struct table {
    struct sched_slot *slots; /* as the launcher numbers them */
    size_t slots_n;
    struct sched_experiment *experiments;
    size_t experiments_n;
    struct sched_wanted *wanted;
    size_t wanted_n, wanted_room;
    struct sched_run *runs;
    size_t runs_n;
};

static void free_table(struct table *table)
{
    free(table->slots);
    free(table->experiments);
    free(table->wanted);
    free(table->runs);
}

static int show_slots(const struct server *server, struct table *table)
{
    const struct slot_info *slots;
    size_t n = launcher_slots(server->launcher, &slots);

    table->slots = calloc(n + 1, sizeof *table->slots);
    if (!table->slots)
        return -ENOMEM;
    for (size_t i = 0; i < n; i++)
        table->slots[table->slots_n++] =
            (struct sched_slot){slots[i].kind, slots[i].ours, slots[i].cache, slots[i].node};
    return 0;
}

static int show_runs(const struct server *server, struct table *table)
{
    size_t n = 0;

    for (const struct attempt *attempt = server->attempts; attempt; attempt = attempt->next)
        n++;
    table->runs = calloc(n + 1, sizeof *table->runs);
    if (!table->runs)
        return -ENOMEM;
    for (const struct attempt *attempt = server->attempts; attempt; attempt = attempt->next)
        table->runs[table->runs_n++] =
            (struct sched_run){.run = attempt->run, .experiment = attempt->experiment, .started = attempt->order,
                               .ending = attempt->ending, .alone = attempt->alone, .slots = attempt->slots, .slots_n = attempt->slots_n};
    return 0;
}

static int add_wanted(struct table *table, int64_t experiment, const struct wanted *wanted, const bool *shut)
{
    if (table->wanted_n == table->wanted_room) {
        size_t room = table->wanted_room ? 2 * table->wanted_room : 64;
        struct sched_wanted *grown = realloc(table->wanted, room * sizeof *grown);
        if (!grown)
            return -ENOMEM;
        table->wanted = grown;
        table->wanted_room = room;
    }
    table->wanted[table->wanted_n++] = (struct sched_wanted){experiment, wanted->trial, wanted->slots, wanted->alone, shut};
    return 0;
}

static int64_t trials_per_slot(const struct entry *entry)
{
    return entry->unpacked ? 1 : experiment_get_config(entry->experiment)->trials_per_slot;
}

static enum slot_kind kind_of(const struct server *server, const struct experiment_config *config)
{
    if (config->slot_type == SLOT_AUTO)
        return launcher_capacity(server->launcher, SLOT_KIND_CUDA) ? SLOT_KIND_CUDA : SLOT_KIND_CPU;
    return config->slot_type == SLOT_CUDA ? SLOT_KIND_CUDA : SLOT_KIND_CPU;
}

/* The slots that are not shut for a trial are too few, or other homes' when they were asked for last. */
static bool is_shut_out(const struct server *server, enum slot_kind kind, int64_t wanted, const bool *shut)
{
    const struct slot_info *slots;
    size_t n = launcher_slots(server->launcher, &slots);

    for (size_t i = 0; shut && i < n; i++)
        wanted -= slots[i].kind == kind && !shut[i] && (slots[i].ours || !*slots[i].holder);
    return shut && wanted > 0;
}

static int show_trial(const struct server *server, const struct entry *entry, const struct wanted *wanted, uint64_t now,
                      struct table *table)
{
    const bool *shut = squeeze_shut(server, entry, wanted->trial, now);

    if (attempt_of_trial(server, entry->id, wanted->trial) || delay_holds(entry, wanted->trial, now) ||
        is_shut_out(server, kind_of(server, experiment_get_config(entry->experiment)), wanted->slots, shut))
        return 0;
    return add_wanted(table, entry->id, wanted, shut);
}

/* More trials than could start are not needed, but those held back must not hide those behind them. */
static int show_wanted(const struct server *server, const struct entry *entry, size_t capacity, struct table *table)
{
    uint64_t now = clock_ms();
    size_t room = capacity * (size_t)trials_per_slot(entry) + 16 + delays_hold(entry, now) + squeezes_n(entry), n;
    struct wanted *list;
    int rc = 0;

    for (const struct attempt *attempt = server->attempts; attempt; attempt = attempt->next)
        room++;
    list = calloc(room, sizeof *list);
    if (!list)
        return -ENOMEM;
    n = experiment_wanted(entry->experiment, list, room);
    for (size_t i = 0; i < n && i < room && !rc; i++)
        rc = show_trial(server, entry, &list[i], now, table);
    free(list);
    return rc;
}

static int show_experiments(const struct server *server, struct table *table)
{
    size_t n = 0, capacity;
    int rc = 0;

    for (const struct entry *entry = server->entries; entry; entry = entry->next)
        n++;
    table->experiments = calloc(n + 1, sizeof *table->experiments);
    if (!table->experiments)
        return -ENOMEM;
    capacity = launcher_capacity(server->launcher, SLOT_KIND_CPU) + launcher_capacity(server->launcher, SLOT_KIND_CUDA);
    for (const struct entry *entry = server->entries; entry && !rc; entry = entry->next) {
        const struct experiment_config *config = experiment_get_config(entry->experiment);
        table->experiments[table->experiments_n++] = (struct sched_experiment){
            entry->id, config->priority, config->weight, config->max_slots, trials_per_slot(entry), kind_of(server, config),
            entry->last_start};
        rc = show_wanted(server, entry, capacity, table);
    }
    return rc;
}

static void preempt(struct server *server, int64_t run)
{
    struct attempt *attempt = attempt_find(server, run);
    struct entry *entry = attempt ? entry_find(server, attempt->experiment) : NULL;
    struct turn turn;

    if (!entry || attempt->ending)
        return;
    if (attempt->phase != ATTEMPT_RUNS) {
        attempt_cancel(server, attempt);
        return;
    }
    attempt->ending = true;
    turn_init(&turn, clock_us());
    experiment_preempt(entry->experiment, run, &turn);
    server_submit(server, attempt->experiment, &turn);
}

static void carry_out(struct server *server, const struct sched_decision *decision)
{
    for (size_t i = 0; i < decision->starts_n; i++) {
        const struct sched_start *start = &decision->starts[i];
        if (attempt_add(server, start, decision->slot_indexes + start->first)) {
            server_fail(server, -ENOMEM, "out of memory");
            return;
        }
    }
    for (size_t i = 0; i < decision->preempt_n; i++)
        preempt(server, decision->preempt[i]);
}

/* Advancing one attempt may end it, or others. */
static void advance_all(struct server *server)
{
    int64_t last = 0;

    for (;;) {
        struct attempt *next = NULL;
        for (struct attempt *attempt = server->attempts; attempt; attempt = attempt->next)
            if (attempt->phase == ATTEMPT_WAITS && attempt->order > last && (!next || attempt->order < next->order))
                next = attempt;
        if (!next)
            return;
        last = next->order;
        attempt_advance(server, next);
    }
}

static int decide(struct server *server, struct table *table)
{
    struct sched_decision decision = {0};
    int rc = show_slots(server, table);

    if (!rc)
        rc = show_runs(server, table);
    if (rc)
        return rc;
    rc = scheduler_decide(table->slots, table->slots_n, table->experiments, table->experiments_n, table->wanted,
                          table->wanted_n, table->runs, table->runs_n, &decision);
    if (rc)
        return rc;
    carry_out(server, &decision);
    sched_decision_done(&decision);
    return 0;
}

/* Leases are taken while something wants slots, and looked for again and again while another home holds some. */
static void lease(struct server *server)
{
    uint64_t now = clock_ms();

    if (server->lease_ms && now - server->lease_ms < LEASE_PERIOD_MS)
        return;
    server->lease_ms = now;
    launcher_lease(server->launcher);
}

/* Something wants to run and cannot: whoever looks on is told why, and who has the slots where not one is ours. */
static void note_waiting(struct server *server)
{
    const struct slot_info *slots;
    size_t n = launcher_slots(server->launcher, &slots), ours = 0, held = n;
    char text[sizeof server->waiting] = "";

    for (size_t i = n; i-- > 0;) {
        ours += slots[i].ours;
        if (*slots[i].holder)
            held = i;
    }
    if (server->no_space)
        snprintf(text, sizeof text, "for space on the disk of %.300s", server->home);
    else if (server->slots_wanted && server->scarce[0])
        snprintf(text, sizeof text, "because a worker could not be started: %.300s", server->scarce);
    else if (server->slots_wanted && !ours && held < n)
        snprintf(text, sizeof text, "for slots held by %s", slots[held].holder);
    if (!strcmp(text, server->waiting))
        return;
    memcpy(server->waiting, text, sizeof text);
    if (*text && !server->no_space && !server->scarce[0]) /* those were said */
        log_info("waiting %s", text);
    for (const struct entry *entry = server->entries; entry; entry = entry->next)
        subscriptions_changed(server, entry->id);
}

void schedule(struct server *server)
{
    struct table table = {0};
    int rc = 0;

    server->schedule_wanted = false;
    entries_drop_ended(server);
    if (server->state != SERVER_RUNS)
        return;
    if (server->no_space) {
        note_waiting(server);
        return;
    }
    rc = show_experiments(server, &table);
    server->slots_wanted = table.wanted_n > 0;
    if (!rc && server->slots_wanted) {
        lease(server);
        rc = decide(server, &table);
    }
    free_table(&table);
    note_waiting(server);
    if (rc) {
        server_fail(server, rc, "out of memory while scheduling");
        return;
    }
    advance_all(server);
}
