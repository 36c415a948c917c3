/* clock.c - the clocks, and every deadline: a timer looks at all of them a few times a second, which costs nothing and needs
 * no handle apiece. FLEXP_HELLO_MS, FLEXP_SILENT_MS, FLEXP_GRACE_MS, FLEXP_IDLE_MS, FLEXP_BACKOFF_MS, FLEXP_DOWN_MS set them
 * for tests.
 * SPDX-License-Identifier: Apache-2.0 */
#include "common/log.h"
#include "orchestrator/server/server_private.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define BACKOFF_MOST 60 /* times the first */

int64_t clock_us(void)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

uint64_t clock_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
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
    };
}

/* --- trials that wait after a worker died -------------------------------------------------------------------------------- */

static struct delay *delay_find(const struct server *server, int64_t experiment, int64_t trial)
{
    struct delay *delay = server->delays;

    while (delay && (delay->experiment != experiment || delay->trial != trial))
        delay = delay->next;
    return delay;
}

void delay_add(struct server *server, int64_t experiment, int64_t trial)
{
    struct delay *delay = delay_find(server, experiment, trial);
    uint64_t factor;

    if (!delay) {
        delay = calloc(1, sizeof *delay);
        if (!delay)
            return; /* tried again at once: harmless */
        delay->experiment = experiment;
        delay->trial = trial;
        delay->next = server->delays;
        server->delays = delay;
    }
    factor = delay->failures < 6 ? 1u << delay->failures : BACKOFF_MOST;
    delay->failures++;
    delay->until_ms = clock_ms() + server->limits.backoff * factor;
}

void delay_remove(struct server *server, int64_t experiment, int64_t trial)
{
    struct delay **at = &server->delays, *gone = delay_find(server, experiment, trial);

    if (!gone)
        return;
    while (*at != gone)
        at = &(*at)->next;
    *at = gone->next;
    free(gone);
}

bool delay_holds(const struct server *server, int64_t experiment, int64_t trial, uint64_t now)
{
    const struct delay *delay = delay_find(server, experiment, trial);

    return delay && delay->until_ms > now;
}

/* --- deadlines ----------------------------------------------------------------------------------------------------------- */

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

static void check_attempt(struct server *server, struct attempt *attempt, uint64_t now)
{
    const struct hand *hand = attempt->hand;
    char text[200];

    if (!hand || hand->leaving)
        return;
    if (attempt->phase == ATTEMPT_STARTS && passed(hand->started_ms, server->limits.hello, now)) {
        snprintf(text, sizeof text, "the worker did not say hello within %.0f s", (double)server->limits.hello / 1000);
        attempt_kill(server, attempt, "silent", text);
    } else if (attempt->phase == ATTEMPT_RUNS && passed(hand->heard_ms, server->limits.silent, now)) {
        snprintf(text, sizeof text, "the worker said nothing, not even that it lives, for %.0f s",
                 (double)server->limits.silent / 1000);
        attempt_kill(server, attempt, "silent", text);
    } else if (attempt->told_ms && passed(attempt->told_ms, grace_of(server, attempt), now)) {
        attempt_kill(server, attempt, "unresponsive", "the worker was told to stop and did not");
    }
}

static void check_hands(struct server *server, uint64_t now)
{
    for (struct hand *hand = server->hands; hand; hand = hand->next)
        if (!hand->attempt && !hand->leaving && passed(hand->idle_ms, server->limits.idle, now))
            hand_dismiss(hand);
}

static void check_time_limits(struct server *server)
{
    for (struct entry *entry = server->entries; entry; entry = entry->next) {
        double limit = experiment_get_config(entry->experiment)->time_limit_s;
        struct turn turn;
        if (entry->time_is_up || limit <= 0 || (double)(clock_us() - entry->created_us) < limit * 1e6)
            continue;
        entry->time_is_up = true;
        log_info("experiment %lld: its time limit of %g s has passed", (long long)entry->id, limit);
        turn_init(&turn, clock_us());
        experiment_time_limit(entry->experiment, &turn);
        server_submit(server, entry->id, &turn);
    }
}

static void on_tick(uv_timer_t *timer)
{
    struct server *server = timer->data;
    uint64_t now = clock_ms();

    if (server->state == SERVER_RUNS || server->state == SERVER_STOPS)
        for (struct attempt *attempt = server->attempts, *next; attempt; attempt = next) {
            next = attempt->next;
            check_attempt(server, attempt, now);
        }
    check_hands(server, now);
    if (server->state == SERVER_RUNS) {
        check_time_limits(server);
        if (server->schedule_wanted || server->slots_wanted || server->delays)
            schedule(server);
    }
    server_check_stopped(server);
}

void clock_start(struct server *server)
{
    server->tick.data = server;
    uv_timer_start(&server->tick, on_tick, server->limits.tick, server->limits.tick);
}
