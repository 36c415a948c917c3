/* slots.c - which slots are free, and which of them a trial gets: near each other where it wants several.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/scheduler/scheduler_private.h"

int64_t slots_count(const struct decide *d, enum slot_kind kind, bool only_free)
{
    int64_t n = 0;

    for (size_t i = 0; i < d->slots_n; i++)
        n += d->slots[i].kind == kind && d->slots[i].leased && !(only_free && d->taken[i]);
    return n;
}

bool slot_is_free(const struct decide *d, enum slot_kind kind, size_t i)
{
    return d->slots[i].kind == kind && d->slots[i].leased && !d->taken[i];
}

bool slot_is_open(const struct decide *d, enum slot_kind kind, const struct sched_wanted *wanted, size_t i)
{
    return slot_is_free(d, kind, i) && !(wanted->shut && wanted->shut[i]);
}

void add_start(struct decide *d, const struct sched_wanted *wanted)
{
    size_t n = (size_t)wanted->slots;

    d->decision->starts[d->decision->starts_n++] = (struct sched_start){wanted->experiment, wanted->trial, d->indexes_n, n,
                                                                             wanted->alone};
    for (size_t i = 0; i < n; i++)
        d->decision->slot_indexes[d->indexes_n++] = NOT_PLACED;
}

/* How near slots are that a trial shares. */
enum nearness { NEAR_CACHE, NEAR_NODE, NEAR_ANY };

static bool is_near(const struct decide *d, enum nearness nearness, size_t a, size_t b)
{
    const struct sched_slot *x = &d->slots[a], *y = &d->slots[b];

    return nearness == NEAR_ANY || (nearness == NEAR_CACHE ? x->cache == y->cache && x->node == y->node : x->node == y->node);
}

/* A slot of the group that has the fewest free slots, n at least; slots_n: there is no such group. */
static size_t find_group(const struct decide *d, enum slot_kind kind, enum nearness nearness, const struct sched_wanted *wanted)
{
    size_t best = d->slots_n, fewest = SIZE_MAX, n = (size_t)wanted->slots;

    for (size_t i = 0; i < d->slots_n; i++) {
        size_t members = 0;
        bool seen = !slot_is_open(d, kind, wanted, i);
        for (size_t k = 0; k < i && !seen; k++)
            seen = slot_is_open(d, kind, wanted, k) && is_near(d, nearness, k, i);
        for (size_t k = i; k < d->slots_n && !seen; k++)
            members += slot_is_open(d, kind, wanted, k) && is_near(d, nearness, k, i);
        if (members >= n && members < fewest) {
            best = i;
            fewest = members;
        }
    }
    return best;
}

/* Of the nearest group that has n free slots (there is one): the first row of n next to each other, or the n lowest. */
void slots_give(struct decide *d, enum slot_kind kind, const struct sched_wanted *wanted)
{
    size_t n = (size_t)wanted->slots, first = 0, row = 0, given = d->indexes_n, in = d->slots_n;
    enum nearness nearness = n > 1 ? NEAR_CACHE : NEAR_ANY;
    bool whole = false;

    while (nearness < NEAR_ANY && (in = find_group(d, kind, nearness, wanted)) == d->slots_n)
        nearness++;
    for (size_t i = 0; i < d->slots_n && !whole; i++) {
        row = slot_is_open(d, kind, wanted, i) && is_near(d, nearness, i, in) ? row + 1 : 0;
        whole = row == n;
        first = whole ? i + 1 - n : 0;
    }
    add_start(d, wanted);
    for (size_t i = first; given < d->indexes_n; i++)
        if (slot_is_open(d, kind, wanted, i) && is_near(d, nearness, i, in)) {
            d->taken[i] = true;
            d->decision->slot_indexes[given++] = i;
        }
}
