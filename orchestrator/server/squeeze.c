/* squeeze.c - slots where runs find too little memory, because programs that are no workers of ours hold it. Such a slot is given
 * to nobody for a while; its trial is queued again and may have another slot. Nothing of this is stored: after a restart the
 * slot is tried, and what was so is found to be so again.
 * SPDX-License-Identifier: Apache-2.0 */
#include "common/log.h"
#include "orchestrator/server/server_private.h"

#include <stdlib.h>
#include <string.h>

static bool make_room(struct server *server)
{
    const struct slot_info *slots;
    size_t n = launcher_slots(server->launcher, &slots);

    if (!server->squeezes)
        server->squeezes = calloc(n + 1, sizeof *server->squeezes);
    server->squeezes_n = server->squeezes ? n : 0;
    return server->squeezes != NULL;
}

void squeeze_note(struct server *server, const struct attempt *attempt, const char *text)
{
    bool said = false;
    char name[96];

    if (!make_room(server))
        return; /* tried again at once, which is harmless */
    for (size_t i = 0; i < attempt->slots_n; i++) {
        struct squeeze *squeeze = &server->squeezes[attempt->slots[i]];
        said = said || (squeeze->text && squeeze->experiment == attempt->experiment && squeeze->trial == attempt->trial);
        free(squeeze->text);
        *squeeze = (struct squeeze){.failures = squeeze->failures + 1,
                                    .until_ms = clock_ms() + pause_ms(server, squeeze->failures),
                                    .order = server->orders,
                                    .experiment = attempt->experiment,
                                    .trial = attempt->trial,
                                    .text = strdup(text)};
    }
    if (!said)
        log_warning("%s: memory_in_use: %s; it is queued again, and tried as soon as there may be more",
                    attempt_name(attempt, name, sizeof name), text);
}

static void forget(struct squeeze *squeeze)
{
    free(squeeze->text);
    squeeze->text = NULL;
}

void squeeze_clear(struct server *server, const struct attempt *attempt)
{
    for (size_t i = 0; i < server->squeezes_n; i++)
        if (server->squeezes[i].experiment == attempt->experiment && server->squeezes[i].trial == attempt->trial)
            forget(&server->squeezes[i]);
    for (size_t i = 0; server->squeezes_n && i < attempt->slots_n; i++) {
        struct squeeze *squeeze = &server->squeezes[attempt->slots[i]];
        if (attempt->order <= squeeze->order)
            continue; /* it had its memory before */
        squeeze->failures = 0;
        squeeze->until_ms = 0;
    }
}

void squeeze_wake(struct server *server, const struct attempt *attempt)
{
    for (size_t i = 0; server->squeezes_n && i < attempt->slots_n; i++) {
        struct squeeze *squeeze = &server->squeezes[attempt->slots[i]];
        if (squeeze->experiment != attempt->experiment || squeeze->trial != attempt->trial)
            squeeze->until_ms = 0;
    }
}

bool squeeze_holds(const struct server *server, size_t slot, uint64_t now)
{
    return server->squeezes_n && now < server->squeezes[slot].until_ms;
}

void squeezes_free(struct server *server)
{
    for (size_t i = 0; i < server->squeezes_n; i++)
        forget(&server->squeezes[i]);
    free(server->squeezes);
}

static bool runs(const struct server *server, int64_t experiment, int64_t trial)
{
    const struct attempt *attempt = server->attempts;

    while (attempt && (attempt->experiment != experiment || attempt->trial != trial || attempt->phase != ATTEMPT_RUNS ||
                       attempt->over))
        attempt = attempt->next;
    return attempt != NULL;
}

const struct squeeze *squeeze_next(const struct server *server, int64_t experiment, size_t *at)
{
    while (*at < server->squeezes_n) {
        const struct squeeze *squeeze = &server->squeezes[(*at)++];
        const struct entry *entry = squeeze->text ? entry_find(server, squeeze->experiment) : NULL;
        if (entry && (!experiment || experiment == entry->id) && experiment_goes_on_with(entry->experiment, squeeze->trial) &&
            !runs(server, squeeze->experiment, squeeze->trial))
            return squeeze;
    }
    return NULL;
}
