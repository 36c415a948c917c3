/* scheduler_private.h - one decision, as scheduler.c, slots.c and preempt.c share it.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_SCHEDULER_PRIVATE_H
#define FLEXP_SCHEDULER_PRIVATE_H

#include "orchestrator/scheduler/scheduler.h"

struct contender {
    const struct sched_experiment *experiment;
    int64_t held;     /* slots: running, ending or given now */
    int64_t room;     /* places for others in the slots it holds */
    int64_t promised; /* places in slots that are made free for it */
    int64_t joined;   /* trials started now that may share */
    int64_t fresh;    /* slots given now for such trials */
    const struct sched_wanted **wanted;
    size_t wanted_n, next;
};

/* What holds slots from this one on: a run on one or several, or a pack on this one. */
struct holding {
    struct contender *contender; /* NULL: of an experiment that is not in the table */
    int64_t slots;               /* 0: none begins here */
    int64_t runs, staying;       /* staying: not ending */
    int64_t started, run;        /* the latest of them */
    bool closed;                 /* nobody joins */
};

struct decide {
    const struct sched_slot *slots;
    size_t slots_n;
    bool *taken; /* of slots: not to be given */
    struct holding *holdings; /* of slots */
    const struct sched_run *runs;
    size_t runs_n;
    struct contender *contenders; /* by experiment id */
    size_t contenders_n;
    const struct sched_wanted **wanted;
    struct contender **heap;
    size_t heap_n;
    struct sched_decision *decision;
    size_t indexes_n;
};

/* The slots that will be free, and who could be made to give more. */
struct outlook {
    struct holding **victims;
    size_t n, chosen;
    int64_t coming; /* slots ending or preempted */
    int64_t owed;   /* slots that waiting trials want */
};

#define NOT_PLACED SIZE_MAX /* a slot index that place_all fills in */

/* --- slots.c --- */
int64_t slots_count(const struct decide *d, enum slot_kind kind, bool only_free);
bool slot_is_free(const struct decide *d, enum slot_kind kind, size_t i);
/* Free, and not shut for this trial. */
bool slot_is_open(const struct decide *d, enum slot_kind kind, const struct sched_wanted *wanted, size_t i);
/* The trial starts; its slots are not placed yet. */
void add_start(struct decide *d, const struct sched_wanted *wanted);
/* The trial starts on slots of its own, of those that are open to it the nearest to each other: there are enough. */
void slots_give(struct decide *d, enum slot_kind kind, const struct sched_wanted *wanted);

/* --- preempt.c --- */
/* Places for others in what stands on a slot. */
int64_t holding_room(const struct holding *holding);

/* The caller frees ret->victims. -ENOMEM. */
int outlook_init(struct decide *d, enum slot_kind kind, struct outlook *ret);
/* One more trial waits, free_n slots being free. Preempts for it what must be and may be; false, and nothing, where that is
 * not enough. */
bool preempt_for(struct decide *d, struct outlook *outlook, const struct contender *contender, int64_t slots, int64_t free_n);

/* One more trial waits and nobody can be made to go: the emptiest packs of those that it goes before are not filled up any
 * more, as many as it lacks slots; false where there are not as many. alone: of its own experiment, too. */
bool drain_for(struct decide *d, enum slot_kind kind, struct outlook *outlook, const struct contender *contender, bool alone,
               int64_t slots, int64_t free_n);

#endif
