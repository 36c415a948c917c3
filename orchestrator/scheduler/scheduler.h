/* scheduler.h - who gets which slots. Pure.
 * Experiments in order of priority (lower first), within a priority by weighted fair share (fewest slots held per weight
 * first, then the one that was served longest ago, then the older), all-or-nothing per trial (gang), at most max_slots
 * each. A trial that does not fit is not passed by a smaller one (no starvation), except by those of its own priority when
 * it would have fitted had its turn come first. Preemption: only for an experiment of better priority, the worst
 * priority's latest started run first, and only when enough slots come free by it.
 *
 * Packs: runs of one experiment may share a slot, up to its trials_per_slot, where each wants one slot alone. A share of a
 * slot that the experiment holds costs nothing: a shared slot counts once, for the fair share as for max_slots. So a trial
 * joins a slot of its experiment that has room before it takes a new one, and a new one is filled at once. Only where slots
 * would else stand idle, because nobody wants them, are the trials that start spread over them: on a GPU two packs of two
 * are never slower than one of four and an empty slot. Whoever starts goes to the emptiest slot of its experiment.
 * To go on filling a slot an experiment must be entitled to it as if it were given anew: it stands in the order with one
 * slot less than it holds. So packs are filled again and again, and when it is another's turn for a slot the emptiest one
 * drains. A trial that is to run alone shares with none; for it, too, a pack of its experiment drains. Nobody joins a slot
 * all of whose runs are ending. A pack is preempted as a whole.
 * A trial of several slots gets ones that share a cache where there are, else ones of one node: where the fewest that will
 * do are free. Next to each other among these, if can be.
 * Units: slots. Source of the fair share rule: Determined AI's fair-share scheduler, max-min over weights.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_ORCHESTRATOR_SCHEDULER_H
#define FLEXP_ORCHESTRATOR_SCHEDULER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum slot_kind { SLOT_KIND_CPU, SLOT_KIND_CUDA };

struct sched_slot {
    enum slot_kind kind;
    bool leased; /* one that is not is neither given nor counted */
    unsigned cache, node; /* slots of equal numbers share a cache, and the memory of a NUMA node */
};

struct sched_experiment {
    int64_t id;
    int64_t priority;
    double weight;
    int64_t max_slots;       /* 0: no limit */
    int64_t trials_per_slot; /* 1: each has its own */
    enum slot_kind kind;
    int64_t last_start; /* when a run of it was last started, any rising number; 0: never */
};

/* One trial that wants slots; those of one experiment stand in the order they should start. */
struct sched_wanted {
    int64_t experiment, trial, slots;
    bool alone;       /* shares its slot with none */
    const bool *shut; /* of slots: not for this trial; NULL: none is */
};

struct sched_run {
    int64_t run, experiment;
    int64_t started; /* any rising number */
    bool ending;     /* was told to preempt or stop: its slots, or its share of one, will come free */
    bool alone;
    const size_t *slots; /* that it holds; several run on one of them only where that is their experiment's and each one's only */
    size_t slots_n;
};

struct sched_start {
    int64_t experiment, trial;
    size_t first;  /* index into slot_indexes of the decision */
    size_t slots;
    bool alone;
};

struct sched_decision {
    struct sched_start *starts;
    size_t starts_n;
    size_t *slot_indexes;
    int64_t *preempt; /* runs; of a pack all that are not ending */
    size_t preempt_n;
};

/* Decides on the whole table at once. Slots next to each other are preferred for one trial, and the lowest free ones (so
 * that a worker kept warm on a slot is reused). -ENOMEM. The caller calls sched_decision_done. */
int scheduler_decide(const struct sched_slot *slots, size_t slots_n, const struct sched_experiment *experiments,
                     size_t experiments_n, const struct sched_wanted *wanted, size_t wanted_n,
                     const struct sched_run *runs, size_t runs_n, struct sched_decision *ret);
void sched_decision_done(struct sched_decision *decision);

#endif
