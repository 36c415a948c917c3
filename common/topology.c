/* topology.c - see topology.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "common/topology.h"

#include <hwloc.h>
#include <stdlib.h>

struct topology {
    hwloc_topology_t machine;
};

struct topology *topology_new(void)
{
    struct topology *t = calloc(1, sizeof *t);

    if (!t || hwloc_topology_init(&t->machine)) {
        free(t);
        return NULL;
    }
    if (hwloc_topology_load(t->machine)) {
        topology_free(t);
        return NULL;
    }
    return t;
}

void topology_free(struct topology *t)
{
    if (!t)
        return;
    hwloc_topology_destroy(t->machine);
    free(t);
}

static hwloc_obj_t unit_of(const struct topology *t, int cpu)
{
    return t && cpu >= 0 ? hwloc_get_pu_obj_by_os_index(t->machine, (unsigned)cpu) : NULL;
}

bool topology_place(const struct topology *t, int cpu, struct cpu_place *ret)
{
    hwloc_obj_t unit = unit_of(t, cpu), core, cache = NULL;
    int thread = -1, node;

    *ret = (struct cpu_place){.order = cpu < 0 ? 0 : (unsigned)cpu};
    if (!unit)
        return false;
    core = hwloc_get_ancestor_obj_by_type(t->machine, HWLOC_OBJ_CORE, unit);
    for (hwloc_obj_t up = unit->parent; up; up = up->parent)
        if (hwloc_obj_type_is_dcache(up->type))
            cache = up;
    ret->order = unit->logical_index;
    while (core && (thread = hwloc_bitmap_next(core->cpuset, thread)) >= 0 && thread != cpu)
        ret->thread++;
    node = hwloc_bitmap_first(unit->nodeset);
    ret->node = node < 0 ? 0 : (unsigned)node;
    ret->cache = (unsigned)hwloc_bitmap_first((cache ? cache : hwloc_get_root_obj(t->machine))->cpuset);
    return true;
}

size_t topology_l2_bytes(const struct topology *t, const int *cpus, size_t n)
{
    size_t least = 0;

    for (size_t i = 0; i < n; i++) {
        hwloc_obj_t unit = unit_of(t, cpus[i]);
        hwloc_obj_t l2 = unit ? hwloc_get_ancestor_obj_by_type(t->machine, HWLOC_OBJ_L2CACHE, unit) : NULL;
        int cores = l2 ? hwloc_get_nbobjs_inside_cpuset_by_type(t->machine, l2->cpuset, HWLOC_OBJ_CORE) : 0;
        size_t share = l2 ? (size_t)l2->attr->cache.size / (cores > 1 ? (size_t)cores : 1) : 0;
        if (share && (!least || share < least))
            least = share;
    }
    return least;
}

size_t topology_interleave(const struct topology *t, const int *cpus, size_t n)
{
    hwloc_nodeset_t nodes = hwloc_bitmap_alloc();
    int count;

    for (size_t i = 0; i < n && nodes; i++) {
        hwloc_obj_t unit = unit_of(t, cpus[i]);
        if (unit)
            hwloc_bitmap_or(nodes, nodes, unit->nodeset);
    }
    count = nodes ? hwloc_bitmap_weight(nodes) : 0;
    if (count > 1) /* where it may not be, memory is where it was */
        hwloc_set_membind(t->machine, nodes, HWLOC_MEMBIND_INTERLEAVE, HWLOC_MEMBIND_THREAD | HWLOC_MEMBIND_BYNODESET);
    hwloc_bitmap_free(nodes);
    return count > 0 ? (size_t)count : 0;
}

void topology_local(const struct topology *t)
{
    if (t)
        hwloc_set_membind(t->machine, hwloc_topology_get_topology_nodeset(t->machine), HWLOC_MEMBIND_DEFAULT,
                          HWLOC_MEMBIND_THREAD | HWLOC_MEMBIND_BYNODESET);
}
