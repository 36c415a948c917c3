/* slots.c - which cores there are: those this process may use, in an order in which the first n make a good set of n.
 * Every core gives one hardware thread before any gives its second, and within that neighbours stand together, as hwloc
 * numbers them; so "2 slots" are two cores of one package and not two threads of one core.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/launcher/launcher_private.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int compare_cores(const void *left, const void *right)
{
    const struct core *a = left, *b = right;

    if (a->place.thread != b->place.thread)
        return a->place.thread < b->place.thread ? -1 : 1;
    return a->place.order < b->place.order ? -1 : a->place.order > b->place.order;
}

/* Cores by affinity alone, in the order of their numbers. */
static int find_allowed(struct core **ret, size_t *ret_n)
{
    for (int room = 1024; room <= 1 << 20; room *= 2) {
        cpu_set_t *set = CPU_ALLOC((size_t)room);
        size_t size = CPU_ALLOC_SIZE((size_t)room), n = 0;
        struct core *list;
        if (!set)
            return -ENOMEM;
        if (sched_getaffinity(0, size, set)) {
            CPU_FREE(set);
            continue; /* EINVAL: the kernel's sets are larger */
        }
        list = calloc((size_t)CPU_COUNT_S(size, set) + 1, sizeof *list);
        for (int cpu = 0; list && cpu < room; cpu++)
            if (CPU_ISSET_S((size_t)cpu, size, set))
                list[n++] = (struct core){.cpu = cpu};
        CPU_FREE(set);
        if (!list)
            return -ENOMEM;
        *ret = list;
        *ret_n = n;
        return 0;
    }
    return -EINVAL;
}

int cores_find(struct core **ret, size_t *ret_n, struct error *err)
{
    struct topology *topology;
    int rc = find_allowed(ret, ret_n);

    if (rc)
        return fail(err, rc, "the cores of this machine cannot be listed: %s", strerror(-rc));
    topology = topology_new();
    for (size_t i = 0; i < *ret_n; i++)
        topology_place(topology, (*ret)[i].cpu, &(*ret)[i].place);
    topology_free(topology);
    qsort(*ret, *ret_n, sizeof **ret, compare_cores);
    return 0;
}

/* In whole cores, at least 1, of one group; 0 when it has none. */
static size_t quota_at(unsigned level, bool *ret_root)
{
    char text[128], period_text[128];
    long long quota = 0, period = 0;
    bool root;

    if (cgroup_read_at("", "cpu.max", level, text, sizeof text, ret_root)) {
        if (sscanf(text, "%lld %lld", &quota, &period) != 2)
            return 0; /* "max 100000" */
    } else if (cgroup_read_at("cpu", "cpu.cfs_quota_us", level, text, sizeof text, &root)) {
        *ret_root = root;
        if (!cgroup_read_at("cpu", "cpu.cfs_period_us", level, period_text, sizeof period_text, &root))
            return 0;
        quota = strtoll(text, NULL, 10);
        period = strtoll(period_text, NULL, 10);
    } else {
        *ret_root &= root;
    }
    if (quota <= 0 || period <= 0)
        return 0;
    return quota < period ? 1 : (size_t)(quota / period);
}

size_t cores_quota(void)
{
    size_t least = 0;
    bool root = false;

    for (unsigned level = 0; !root; level++) { /* each group above limits too */
        size_t quota = quota_at(level, &root);
        if (quota && (!least || quota < least))
            least = quota;
    }
    return least;
}
