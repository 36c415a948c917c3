/* preempt.c - whose slots a trial that waits will get: what is ending, what can be made to end, and what drains.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/scheduler/scheduler_private.h"

#include <errno.h>
#include <stdlib.h>

static int compare(int64_t a, int64_t b)
{
    return (a > b) - (a < b);
}

/* Worst priority first, then the latest started. */
static int compare_victims(const void *a, const void *b)
{
    const struct holding *x = *(const struct holding *const *)a, *y = *(const struct holding *const *)b;
    int order = compare(y->contender->experiment->priority, x->contender->experiment->priority);

    if (!order)
        order = compare(y->started, x->started);
    return order ? order : compare(y->run, x->run);
}

int64_t holding_room(const struct holding *holding)
{
    int64_t most = holding->contender ? holding->contender->experiment->trials_per_slot : 1;
    bool fresh = !holding->runs;

    return holding->slots != 1 || holding->closed || (!fresh && !holding->staying) || most <= holding->runs
               ? 0
               : most - holding->runs;
}

int outlook_init(struct decide *d, enum slot_kind kind, struct outlook *ret)
{
    *ret = (struct outlook){.victims = calloc(d->slots_n + 1, sizeof *ret->victims)};
    if (!ret->victims)
        return -ENOMEM;
    for (size_t i = 0; i < d->slots_n; i++) {
        struct holding *holding = &d->holdings[i];
        if (!holding->runs || d->slots[i].kind != kind)
            continue;
        if (!holding->staying)
            ret->coming += holding->slots;
        else if (holding->contender)
            ret->victims[ret->n++] = holding;
    }
    qsort(ret->victims, ret->n, sizeof *ret->victims, compare_victims);
    return 0;
}

/* Its experiment's turn comes later, if at all: nothing was started there. */
static void preempt(struct decide *d, struct holding *holding)
{
    size_t slot = (size_t)(holding - d->holdings);

    holding->contender->room -= holding_room(holding);
    holding->closed = true;
    for (size_t i = 0; i < d->runs_n; i++)
        if (d->runs[i].slots_n && d->runs[i].slots[0] == slot && !d->runs[i].ending)
            d->decision->preempt[d->decision->preempt_n++] = d->runs[i].run;
}

/* Were the slot given anew, it would not be the holder's. */
static bool is_entitled(const struct contender *waiting, const struct contender *holder)
{
    double weight = waiting->experiment->weight > 0 ? waiting->experiment->weight : 1;
    double other = holder->experiment->weight > 0 ? holder->experiment->weight : 1;
    double share = (double)waiting->held / weight, others = (double)(holder->held - 1) / other;

    if (waiting->experiment->priority != holder->experiment->priority)
        return waiting->experiment->priority < holder->experiment->priority;
    if (share != others)
        return share < others;
    if (waiting->experiment->last_start != holder->experiment->last_start)
        return waiting->experiment->last_start < holder->experiment->last_start;
    return waiting->experiment->id < holder->experiment->id;
}

bool drain_for(struct decide *d, enum slot_kind kind, struct outlook *outlook, const struct contender *contender, bool alone,
               int64_t slots, int64_t free_n)
{
    outlook->owed += slots;
    while (free_n + outlook->coming < outlook->owed) {
        struct holding *best = NULL;
        for (size_t i = 0; i < d->slots_n; i++) {
            struct holding *one = &d->holdings[i];
            struct contender *holder = one->contender;
            if (!one->staying || one->closed || d->slots[i].kind != kind || !holder || holder->joined ||
                holder->experiment->trials_per_slot < 2)
                continue;
            if ((holder == contender ? alone : is_entitled(contender, holder)) && (!best || one->staying < best->staying))
                best = one;
        }
        if (!best)
            return false;
        best->contender->room -= holding_room(best);
        best->contender->held--;
        best->closed = true;
        outlook->coming++;
    }
    return true;
}

bool preempt_for(struct decide *d, struct outlook *outlook, const struct contender *contender, int64_t slots, int64_t free_n)
{
    size_t first = outlook->chosen;
    int64_t coming = free_n + outlook->coming;

    outlook->owed += slots;
    while (coming < outlook->owed && outlook->chosen < outlook->n &&
           outlook->victims[outlook->chosen]->contender->experiment->priority > contender->experiment->priority)
        coming += outlook->victims[outlook->chosen++]->slots;
    if (coming < outlook->owed) {
        outlook->owed -= slots;
        outlook->chosen = first;
        return false;
    }
    for (size_t i = first; i < outlook->chosen; i++) {
        struct holding *holding = outlook->victims[i];
        if (coming - holding->slots >= outlook->owed) /* a larger one after it made it needless */
            coming -= holding->slots;
        else
            preempt(d, holding);
    }
    outlook->coming = coming - free_n;
    return true;
}
