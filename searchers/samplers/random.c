/* random.c - independent draws. Trial n draws from rng_key(seed, RNG_SEARCH, n, 0, 0) and from nothing else.
 * In a finite space no configuration comes twice while another is left: trial n then draws a position among the
 * configurations that trials 1..n-1 left over, one step of a Fisher-Yates shuffle of all of them. The shuffle is kept
 * sparse (only positions that were moved), so a step costs O(1) in time and memory however large the space. Since it
 * counts what was proposed, not what was finished, pending trials count. When all have been proposed, a new shuffle
 * starts. Source: Durstenfeld, "Algorithm 235: Random permutation", CACM 7(7), 1964.
 * SPDX-License-Identifier: Apache-2.0 */
#include "searchers/searcher_private.h"
#include "searchers/space_private.h"

#include <stdlib.h>
#include <string.h>

/* At position `at` stands `stands`, where the identity would have `at`. */
struct moved {
    uint64_t at, stands;
    bool used;
};

struct random_sampler {
    const struct space *space;
    uint64_t seed, size;
    struct moved *table; /* open addressing, a power of two, at most half full */
    size_t n, room;
};

static int limit(const struct space *space, int64_t *ret, struct error *err)
{
    (void)space;
    (void)err;
    *ret = INT64_MAX;
    return 0;
}

static int open_random(const struct searcher_config *config, const struct space *space, void **ret)
{
    struct random_sampler *self = calloc(1, sizeof *self);

    if (!self)
        return -ENOMEM;
    self->space = space;
    self->seed = config->seed;
    self->size = space_size(space);
    *ret = self;
    return 0;
}

static void close_random(void *state)
{
    struct random_sampler *self = state;

    free(self->table);
    free(self);
}

/* The entry of a position, or the free one where it would go. */
static struct moved *find(struct moved *table, size_t room, uint64_t at)
{
    size_t slot = (size_t)((at * 0x9e3779b97f4a7c15ULL) >> 20) & (room - 1);

    while (table[slot].used && table[slot].at != at)
        slot = (slot + 1) & (room - 1);
    return &table[slot];
}

static bool make_room(struct random_sampler *self)
{
    size_t room = self->room ? 2 * self->room : 64;
    struct moved *table;

    if (2 * (self->n + 1) <= self->room)
        return true;
    table = calloc(room, sizeof *table);
    if (!table)
        return false;
    for (size_t i = 0; i < self->room; i++)
        if (self->table[i].used)
            *find(table, room, self->table[i].at) = self->table[i];
    free(self->table);
    self->table = table;
    self->room = room;
    return true;
}

static json_t *propose(void *state, int64_t trial)
{
    struct random_sampler *self = state;
    struct pcg32 rng = rng_key(self->seed, RNG_SEARCH, (uint64_t)trial, 0, 0);
    uint64_t first, chosen, stands, index;
    struct moved *entry;

    if (!self->size)
        return space_draw(self->space, &rng);
    first = ((uint64_t)trial - 1) % self->size; /* positions before it are spent */
    if (!first && self->room) {
        memset(self->table, 0, self->room * sizeof *self->table);
        self->n = 0;
    }
    if (!make_room(self))
        return NULL;
    entry = find(self->table, self->room, first);
    stands = entry->used ? entry->stands : first;
    chosen = first + axis_below(&rng, self->size - first);
    entry = find(self->table, self->room, chosen);
    index = entry->used ? entry->stands : chosen;
    if (!entry->used)
        self->n++;
    *entry = (struct moved){.at = chosen, .stands = stands, .used = true};
    return space_configuration(self->space, index);
}

const struct sampler_row SAMPLER_RANDOM = {
    .name = "random", .limit = limit, .open = open_random, .close = close_random, .propose = propose};
