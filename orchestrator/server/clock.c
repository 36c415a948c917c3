/* clock.c - the clocks, and every deadline: one timer looks at all of them a few times a second, which costs nothing
 * and needs no handle apiece. FLEXP_HELLO_MS, FLEXP_SILENT_MS, FLEXP_GRACE_MS, FLEXP_IDLE_MS, FLEXP_BACKOFF_MS,
 * FLEXP_DOWN_MS, FLEXP_USAGE_MS, FLEXP_HOOK_MS set them for tests.
 * SPDX-License-Identifier: Apache-2.0 */
#include "common/file.h"
#include "common/log.h"
#include "orchestrator/server/server_private.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define CLOCK_SET_US 2000000 /* less is drift */
#define DELAY_MAX_MS 60000
#define IDLE_ALONE_MS 5000 /* a warm worker when nothing runs or wants to: it keeps the slots from other homes; none where
                            * trials only wait for memory, of which it may hold some */

static int64_t read_clock(clockid_t clock)
{
    struct timespec now;

    clock_gettime(clock, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

/* The system's clock may be set while we run. Our time is what it showed at our first look, and goes on steadily from there
 * (through suspends too): no duration is negative, no limit passes early or late. */
int64_t clock_us(void)
{
    static _Atomic int64_t start;
    int64_t none = 0;

    if (!atomic_load(&start))
        atomic_compare_exchange_strong(&start, &none, read_clock(CLOCK_REALTIME) - read_clock(CLOCK_BOOTTIME));
    return atomic_load(&start) + read_clock(CLOCK_BOOTTIME);
}

static void check_clock(struct server *server)
{
    int64_t off = read_clock(CLOCK_REALTIME) - clock_us();

    if (llabs(off - server->clock_off_us) < CLOCK_SET_US)
        return;
    log_warning("the system's clock was set by %+.0f s: times that are stored go on from before until the next `flexp up`;"
                " durations and time limits are what they are", (double)(off - server->clock_off_us) / 1e6);
    server->clock_off_us = off;
}

uint64_t clock_ms(void)
{
    return uv_hrtime() / 1000000;
}

static uint64_t from_environment(const char *name, uint64_t absent)
{
    const char *text = getenv(name);
    char *end;
    unsigned long long value = text ? strtoull(text, &end, 10) : 0;

    return text && end != text && !*end ? value : absent;
}

void limits_read(struct limits *ret)
{
    *ret = (struct limits){
        .hello = from_environment("FLEXP_HELLO_MS", 30000),
        .silent = from_environment("FLEXP_SILENT_MS", 60000),
        .grace = from_environment("FLEXP_GRACE_MS", 60000),
        .idle = from_environment("FLEXP_IDLE_MS", 60000),
        .backoff = from_environment("FLEXP_BACKOFF_MS", 1000),
        .down = from_environment("FLEXP_DOWN_MS", 10000),
        .tick = 100,
        .usage = from_environment("FLEXP_USAGE_MS", 10000),
        .hook = from_environment("FLEXP_HOOK_MS", 600000),
    };
}

/* --- trials that wait after a worker died ----------------------------------------------------------------------- */

static struct delay *delay_find(const struct entry *entry, int64_t trial)
{
    return entry && trial > 0 && (size_t)trial <= entry->delays_n ? &entry->delays[trial - 1] : NULL;
}

static struct delay *delay_make(struct entry *entry, int64_t trial)
{
    size_t n = (size_t)trial > 2 * entry->delays_n ? (size_t)trial : 2 * entry->delays_n;
    struct delay *grown;

    if (delay_find(entry, trial))
        return delay_find(entry, trial);
    grown = realloc(entry->delays, n * sizeof *grown);
    if (!grown)
        return NULL;
    memset(grown + entry->delays_n, 0, (n - entry->delays_n) * sizeof *grown);
    entry->delays = grown;
    entry->delays_n = n;
    return delay_find(entry, trial);
}

uint64_t pause_ms(const struct server *server, int n)
{
    uint64_t pause = server->limits.backoff;

    for (int i = 0; i < n && pause < DELAY_MAX_MS; i++)
        pause *= 2;
    return pause < DELAY_MAX_MS ? pause : DELAY_MAX_MS;
}

void delay_add(struct server *server, int64_t experiment, int64_t trial, bool grows)
{
    struct entry *entry = entry_find(server, experiment);
    struct delay *delay = entry && experiment_goes_on_with(entry->experiment, trial) ? delay_make(entry, trial) : NULL;

    if (!delay)
        return; /* also without memory: tried again at once, which is harmless */
    delay->until_ms = clock_ms() + pause_ms(server, delay->failures);
    delay->failures += grows;
    if (delay->until_ms > server->delayed_until_ms)
        server->delayed_until_ms = delay->until_ms;
}

void delay_remove(struct server *server, int64_t experiment, int64_t trial)
{
    struct delay *delay = delay_find(entry_find(server, experiment), trial);

    if (delay)
        *delay = (struct delay){0};
}

bool delay_holds(const struct entry *entry, int64_t trial, uint64_t now)
{
    const struct delay *delay = delay_find(entry, trial);

    return delay && now < delay->until_ms;
}

size_t delays_hold(const struct entry *entry, uint64_t now)
{
    size_t n = 0;

    for (size_t i = 0; i < entry->delays_n; i++)
        n += now < entry->delays[i].until_ms;
    return n;
}

bool delays_pending(struct server *server, uint64_t now)
{
    bool pending = server->delayed_until_ms != 0;

    if (now >= server->delayed_until_ms)
        server->delayed_until_ms = 0;
    return pending;
}

/* --- deadlines -------------------------------------------------------------------------------------------------- */

static bool passed(uint64_t since, uint64_t limit, uint64_t now)
{
    return now > since && now - since > limit;
}

/* One that has to finish a round first may take as long as its longest so far, three times over. */
static uint64_t grace_of(const struct server *server, const struct attempt *attempt)
{
    uint64_t rounds = 3 * attempt->longest_ms;

    return rounds > server->limits.grace ? rounds : server->limits.grace;
}

static void kill_for(struct hand *hand, struct attempt *guilty, const char *why, const char *what, uint64_t limit)
{
    char *text = format_text("%s for %.3g s", what, (double)limit / 1000);

    hand_kill(hand, guilty, why, text ? text : what);
    free(text);
}

static void check_attempt(struct server *server, struct attempt *attempt, uint64_t now)
{
    const struct limits *limits = &server->limits;
    struct hand *hand = attempt->hand;

    if (!hand || hand->leaving)
        return;
    if (attempt->phase == ATTEMPT_STARTS && passed(hand->started_ms, limits->hello, now))
        kill_for(hand, NULL, "silent", "the worker has not said hello", limits->hello);
    else if (attempt->phase == ATTEMPT_RUNS && passed(hand->heard_ms, limits->silent, now))
        kill_for(hand, NULL, "silent", "the worker has said nothing, not even that it lives,", limits->silent);
    else if (attempt->told_ms && passed(attempt->told_ms, grace_of(server, attempt), now))
        kill_for(hand, attempt, "unresponsive", "the worker was told to end its run and has gone on",
                 grace_of(server, attempt));
}

static void check_hands(struct server *server, uint64_t now)
{
    uint64_t limit = server->limits.idle;

    if (!server->attempts && !server->slots_wanted && limit > IDLE_ALONE_MS)
        limit = squeeze_any(server) ? 0 : IDLE_ALONE_MS;
    for (struct hand *hand = server->hands; hand; hand = hand->next)
        if (!hand_first(hand) && !hand->leaving && passed(hand->idle_ms, limit, now))
            hand_dismiss(hand);
}

static void check_time_limits(struct server *server)
{
    int64_t now = clock_us();

    for (struct entry *entry = server->entries; entry; entry = entry->next) {
        double limit = experiment_get_config(entry->experiment)->time_limit_s;
        struct turn turn;
        if (entry->time_is_up || limit <= 0 || (double)(now - entry->created_us) < limit * 1e6)
            continue;
        entry->time_is_up = true;
        log_info("experiment %lld: its time_limit of %g s has passed", (long long)entry->id, limit);
        turn_init(&turn, now);
        experiment_time_limit(entry->experiment, &turn);
        server_submit(server, entry->id, &turn);
    }
}

/* Slots that nobody here needs are for other homes. */
static void check_leases(struct server *server)
{
    const struct slot_info *slots;
    size_t n = launcher_slots(server->launcher, &slots), ours = 0;

    for (size_t i = 0; i < n; i++)
        ours += slots[i].ours;
    if (ours && !server->hands && !server->attempts && !server->slots_wanted)
        launcher_unlease(server->launcher);
}

static void on_tick(uv_timer_t *timer)
{
    struct server *server = timer->data;
    uint64_t now = clock_ms();

    struct error err;

    if (server->state == SERVER_RUNS)
        server_check_home(server, &err);
    if (server->state <= SERVER_STOPS) {
        space_check(server);
        descriptors_check(server);
    }
    if (server->state <= SERVER_STOPS && !server->no_space)
        for (struct attempt *attempt = server->attempts, *next; attempt; attempt = next) {
            next = attempt->next;
            check_attempt(server, attempt, now);
        }
    check_hands(server, now);
    check_clock(server);
    if (!server->no_space)
        usage_tick(server, now); /* nobody waits for these rows, and they would pile up in memory */
    if (server->state == SERVER_RUNS) {
        check_time_limits(server);
        /* slots that another home gave back, and trials that have waited long enough, announce themselves by nothing */
        if (server->schedule_wanted || server->slots_wanted || delays_pending(server, now))
            schedule(server);
        check_leases(server);
    }
    server_check_stopped(server);
}

void clock_start(struct server *server)
{
    uv_timer_start(&server->tick, on_tick, server->limits.tick, server->limits.tick);
}
