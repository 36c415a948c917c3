/* cohort.c - see cohort.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/federation/cohort.h"

#include "common/rng.h"

#include <string.h>

/* Puts value into the ascending list of n unless it is there; returns whether it was put. */
static int insert_ascending(uint32_t *list, size_t n, uint32_t value)
{
    size_t low = 0, high = n;

    while (low < high) {
        size_t middle = (low + high) / 2;
        if (list[middle] < value)
            low = middle + 1;
        else
            high = middle;
    }
    if (low < n && list[low] == value)
        return 0;
    memmove(list + low + 1, list + low, (n - low) * sizeof *list);
    list[low] = value;
    return 1;
}

void cohort_draw(uint64_t seed, uint64_t trial, uint64_t round, size_t clients_n, size_t cohort_n, uint32_t *ret)
{
    struct pcg32 rng = rng_key(seed, RNG_COHORT, trial, round, 0);
    size_t n = 0;

    if (cohort_n == clients_n) {
        for (size_t i = 0; i < clients_n; i++)
            ret[i] = (uint32_t)i;
        return;
    }
    for (size_t last = clients_n - cohort_n; last < clients_n; last++) {
        uint32_t drawn = rng_below(&rng, (uint32_t)last + 1);
        if (!insert_ascending(ret, n, drawn))
            insert_ascending(ret, n, (uint32_t)last);
        n++;
    }
}
