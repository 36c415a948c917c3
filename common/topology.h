/* topology.h - cores, caches and NUMA nodes of this machine, by hwloc; so what hwloc reads from the environment holds here too
 * (HWLOC_SYNTHETIC, HWLOC_XMLFILE: another machine's, on which memory is not bound).
 * Numbers of caches and nodes tell them apart and mean nothing else. A topology that is NULL, or a processor that it does
 * not have, is not an error: nothing is known then. Threads: any, on one topology; binding is the calling thread's.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_TOPOLOGY_H
#define FLEXP_TOPOLOGY_H

#include <stdbool.h>
#include <stddef.h>

struct topology;

struct cpu_place {
    unsigned order;  /* neighbours have numbers next to each other */
    unsigned thread; /* which hardware thread of its core, from 0 */
    unsigned cache;  /* the largest that it shares with others: a third-level cache, as a rule */
    unsigned node;   /* the NUMA node whose memory is nearest */
};

/* NULL where hwloc finds nothing. */
struct topology *topology_new(void);
void topology_free(struct topology *topology);

/* Of a processor by the operating system's number. False, and all 0 but for order, which is that number, where not known. */
bool topology_place(const struct topology *topology, int cpu, struct cpu_place *ret);
/* A core's share of the second-level cache, the least of these processors'; 0: not known. */
size_t topology_l2_bytes(const struct topology *topology, const int *cpus, size_t n);

/* Pages that this thread, and those that it starts, touch first from now on go to the nodes of these processors in turn,
 * where these are more than one: for what threads on all of them read. Returns the number of nodes. */
size_t topology_interleave(const struct topology *topology, const int *cpus, size_t n);
/* Back to the node on which this thread runs. */
void topology_local(const struct topology *topology);

#endif
