/* squeeze.c - trials that find too little memory, because programs that are no workers of ours hold it. Such a trial is queued
 * again, and the slots where it failed are shut for it a while, each for longer every time; they stay open to every other
 * trial. Nothing of this is stored: after a restart the trial is tried, and what was so is found to be so again.
 * SPDX-License-Identifier: Apache-2.0 */
#include "common/log.h"
#include "orchestrator/server/server_private.h"

#include <stdlib.h>
#include <string.h>

/* Where it stands in the list, or would. */
static struct squeeze **find(struct entry *entry, int64_t trial)
{
    struct squeeze **at = &entry->squeezes;

    while (*at && (*at)->trial != trial)
        at = &(*at)->next;
    return at;
}

static void free_one(struct squeeze *squeeze)
{
    if (squeeze) {
        free(squeeze->text);
        free(squeeze->shut);
    }
    free(squeeze);
}

static struct squeeze *make(const struct server *server, int64_t trial)
{
    const struct slot_info *slots;
    size_t n = launcher_slots(server->launcher, &slots);
    struct squeeze *squeeze = calloc(1, sizeof *squeeze + n * sizeof *squeeze->slots);

    if (squeeze)
        squeeze->shut = calloc(n + 1, sizeof *squeeze->shut);
    if (squeeze && squeeze->shut) {
        squeeze->trial = trial;
        return squeeze;
    }
    free_one(squeeze);
    return NULL;
}

/* Runs on this slot. */
static size_t company(const struct server *server, size_t slot)
{
    size_t n = 0;

    for (const struct attempt *one = server->attempts; one; one = one->next)
        n += one->slots_n == 1 && one->slots[0] == slot && !one->over;
    return n;
}

/* The more trials wait the longer does each, so that they are not tried one after the other without end. */
static uint64_t pause_of(const struct server *server, const struct entry *entry, int failures)
{
    uint64_t pause = pause_ms(server, failures), n = 0;

    for (const struct squeeze *one = squeeze_next(entry, NULL); one; one = squeeze_next(entry, one))
        n++;
    return n * pause_ms(server, 0) > pause ? n * pause_ms(server, 0) : pause;
}

static void shut(struct server *server, struct squeezed_slot *slot, uint64_t pause, size_t others)
{
    slot->company = slot->failures && slot->company < others ? slot->company : others;
    slot->failures++;
    slot->until_ms = clock_ms() + pause;
    if (slot->until_ms > server->delayed_until_ms)
        server->delayed_until_ms = slot->until_ms;
}

void squeeze_note(struct server *server, struct attempt *attempt, const char *text)
{
    struct entry *entry = entry_find(server, attempt->experiment);
    struct squeeze **at = entry ? find(entry, attempt->trial) : NULL;
    char name[96];

    attempt->squeezed = true;
    if (!at)
        return;
    if (!*at) {
        log_warning("%s: memory_in_use: %s; it is queued again, and tried as soon as there may be more",
                    attempt_name(attempt, name, sizeof name), text);
        *at = make(server, attempt->trial);
    }
    if (!*at) { /* without memory it waits all the same */
        delay_add(server, attempt->experiment, attempt->trial, true);
        return;
    }
    free((*at)->text);
    (*at)->text = strdup(text);
    for (size_t i = 0; i < attempt->slots_n; i++) {
        struct squeezed_slot *slot = &(*at)->slots[attempt->slots[i]];
        shut(server, slot, pause_of(server, entry, slot->failures),
             attempt->slots_n == 1 ? company(server, attempt->slots[i]) : 0);
    }
}

void squeeze_clear(struct server *server, const struct attempt *attempt)
{
    struct entry *entry = entry_find(server, attempt->experiment);
    struct squeeze **at = entry ? find(entry, attempt->trial) : NULL, *gone = at ? *at : NULL;

    if (gone)
        *at = gone->next;
    free_one(gone);
}

/* As the company only counts when it is smaller than ever, this ends, and then the pauses alone decide. */
void squeeze_wake(struct server *server, const struct attempt *attempt)
{
    const struct entry *entry = attempt->slots_n == 1 && !attempt->squeezed ? entry_find(server, attempt->experiment) : NULL;
    size_t left = entry ? company(server, attempt->slots[0]) : 0;

    for (struct squeeze *squeeze = entry ? entry->squeezes : NULL; squeeze; squeeze = squeeze->next) {
        struct squeezed_slot *slot = &squeeze->slots[attempt->slots[0]];
        if (left >= slot->company)
            continue;
        slot->company = left;
        slot->until_ms = 0;
    }
}

const bool *squeeze_shut(const struct server *server, const struct entry *entry, int64_t trial, uint64_t now)
{
    const struct slot_info *slots;
    size_t n = launcher_slots(server->launcher, &slots);
    const struct squeeze *squeeze = entry->squeezes;
    bool any = false;

    while (squeeze && squeeze->trial != trial)
        squeeze = squeeze->next;
    for (size_t i = 0; squeeze && i < n; i++)
        any |= squeeze->shut[i] = now < squeeze->slots[i].until_ms;
    return any ? squeeze->shut : NULL;
}

size_t squeezes_n(const struct entry *entry)
{
    size_t n = 0;

    for (const struct squeeze *squeeze = entry->squeezes; squeeze; squeeze = squeeze->next)
        n++;
    return n;
}

const struct squeeze *squeeze_next(const struct entry *entry, const struct squeeze *after)
{
    const struct squeeze *squeeze = after ? after->next : entry->squeezes;

    while (squeeze && (!squeeze->text || !experiment_wants(entry->experiment, squeeze->trial)))
        squeeze = squeeze->next;
    return squeeze;
}

bool squeeze_any(const struct server *server)
{
    const struct entry *entry = server->entries;

    while (entry && !squeeze_next(entry, NULL))
        entry = entry->next;
    return entry != NULL;
}

void squeezes_free(struct entry *entry)
{
    while (entry->squeezes) {
        struct squeeze *squeeze = entry->squeezes;
        entry->squeezes = squeeze->next;
        free_one(squeeze);
    }
}
