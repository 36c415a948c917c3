/* usage.c - what runs use, sampled into the store: a first look when a run is a second old, a row each 10 s, and one at its end.
 * Of a process that several runs share each gets an equal part of what it uses, by how many they are when the sample is taken.
 * So a short run costs nothing, and a long one two lines of /proc each 10 s, which takes well under a millisecond.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/server/server_private.h"

#include <math.h>

#define FIRST_MS 1000

/* What was used since the base, which moves on. False when its processes are gone, or are others by now. */
static bool sample(struct attempt *attempt, uint64_t now, struct usage *ret)
{
    struct process_use use;
    double seconds = (double)(now - attempt->base_ms) / 1000, cpu, part = 1;
    size_t n = hand_load(attempt->hand);

    if (!process_use((pid_t)worker_pid(attempt->hand->worker), &use) || use.started != attempt->base.started || seconds <= 0)
        return false;
    cpu = use.cpu_seconds - attempt->base.cpu_seconds;
    part /= n > 1 ? (double)n : 1;
    *ret = (struct usage){.cpu_cores = cpu > 0 ? part * cpu / seconds : 0,
                          .memory_bytes = (int64_t)(part * (double)use.memory_bytes), .gpu = NAN};
    if (gpu_use(use.pids, use.pids_n, &ret->gpu, &ret->gpu_memory_bytes)) {
        ret->gpu *= part;
        ret->gpu_memory_bytes = (int64_t)(part * (double)ret->gpu_memory_bytes);
    }
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
