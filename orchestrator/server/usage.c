/* usage.c - what runs use, sampled into the store: a first look when a run is a second old, a row each 10 s, and one at its end.
 * So a short run costs nothing, and a long one two lines of /proc each 10 s, which takes well under a millisecond.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/server/server_private.h"

#include <math.h>

#define FIRST_MS 1000

/* What was used since the base, which moves on. False when its processes are gone, or are others by now. */
static bool sample(struct attempt *attempt, uint64_t now, struct usage *ret)
{
    struct process_use use;
    double seconds = (double)(now - attempt->base_ms) / 1000, cpu;

    if (!process_use((pid_t)worker_pid(attempt->hand->worker), &use) || use.started != attempt->base.started || seconds <= 0)
        return false;
    cpu = use.cpu_seconds - attempt->base.cpu_seconds;
    *ret = (struct usage){.cpu_cores = cpu > 0 ? cpu / seconds : 0, .memory_bytes = use.memory_bytes, .gpu = NAN};
    gpu_use(use.pids, use.pids_n, &ret->gpu, &ret->gpu_memory_bytes);
    attempt->base = use;
    attempt->base_ms = now;
    attempt->use = *ret;
    return true;
}

static void put(struct server *server, struct attempt *attempt, uint64_t now)
{
    struct usage usage;
    struct turn turn;

    if (!sample(attempt, now, &usage))
        return;
    turn_init(&turn, clock_us());
    store_put_usage(turn.writes, attempt->run, &usage, turn.now_us);
    server_submit(server, attempt->experiment, &turn);
}

void usage_tick(struct server *server, uint64_t now)
{
    uint64_t first = server->limits.usage < FIRST_MS ? server->limits.usage : FIRST_MS;

    for (struct attempt *attempt = server->attempts; attempt; attempt = attempt->next) {
        if (attempt->phase != ATTEMPT_RUNS || attempt->over || !attempt->hand || now < attempt->began_ms + first)
            continue;
        if (!attempt->base.pids_n) {
            process_use((pid_t)worker_pid(attempt->hand->worker), &attempt->base);
            attempt->base_ms = now;
        } else if (now - attempt->base_ms >= server->limits.usage) {
            put(server, attempt, now);
        }
    }
}

void usage_end(struct server *server, struct attempt *attempt, uint64_t now)
{
    if (attempt->base.pids_n && attempt->hand && now - attempt->base_ms >= 100)
        put(server, attempt, now);
}
