/* scheduler.c - see scheduler.h.
 *
 * Kinds of slots are decided apart. Within a kind the experiments that want something stand in a heap by (priority, share,
 * last start, id), share being slots held (with those given in this round) per weight; the first trial of the top one is served, and
 * the experiment goes back into the heap with its new share. So n trials cost O(n log n); a start scans the slots,
 * of several slots once for each group of neighbours.
 *
 * After the first trial that does not fit nothing starts but in packs that have room: every slot that is free or comes free is a step towards it, and
 * whoever took one, even with equal priority, could take the next one too and starve it. One exception: a trial that would
 * have fitted when the decision began, had others of its priority not been ahead of it, lets its equals go on; it blocks
 * from the next decision on, and when they have drained it is the one served longest ago. So an experiment of large trials
 * and one of small trials take turns, each with all slots. (Blocking at once left most slots empty; never blocking, or
 * breaking ties by age alone, starved the large one.) Those that wait, this one and
 * those behind it, are counted as if they would start one after the other, and runs of worse priority are preempted as
 * long as that gets the next of them its slots; runs that are ending already count first. Where that does not help, packs
 * of those whose turn is later are no longer filled up, the emptiest first and as many as slots are lacking.
 *
 * A trial for which slots are shut is served on the spot or left out: it gets slots that are free and open to it, or a place in
 * such a slot of its experiment.
 *
 * Trials that may share are placed last, when it is known which slots their experiment has.
 *
 * An experiment at its max_slots waits for itself, not for slots, and is passed. So is a trial that wants more slots than
 * there are of its kind: create refuses it, but slots may have been lost since.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/scheduler/scheduler_private.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int compare_contenders(const void *a, const void *b)
{
    int64_t x = ((const struct contender *)a)->experiment->id, y = ((const struct contender *)b)->experiment->id;

    return (x > y) - (x < y);
}

static struct contender *find_contender(const struct decide *d, int64_t id)
{
    struct sched_experiment wanted = {.id = id};
    struct contender key = {.experiment = &wanted};

    return d->contenders_n ? bsearch(&key, d->contenders, d->contenders_n, sizeof key, compare_contenders) : NULL;
}

/* --- the heap of experiments that want something ---------------------------------------------------------------- */

/* Its next trial needs no slot of its own. */
static bool joins(const struct contender *contender)
{
    return contender->next < contender->wanted_n && !contender->wanted[contender->next]->alone &&
           contender->room + contender->promised > 0;
}

/* Slots per weight; one that would join a slot asks as if it had yet to get it. */
static double share_of(const struct contender *contender)
{
    double weight = contender->experiment->weight > 0 ? contender->experiment->weight : 1;

    return (double)(contender->held - joins(contender)) / weight;
}

static bool goes_before(const struct contender *a, const struct contender *b)
{
    double share_a = share_of(a), share_b = share_of(b);

    if (a->experiment->priority != b->experiment->priority)
        return a->experiment->priority < b->experiment->priority;
    if (share_a != share_b)
        return share_a < share_b;
    if (a->experiment->last_start != b->experiment->last_start)
        return a->experiment->last_start < b->experiment->last_start;
    return a->experiment->id < b->experiment->id;
}

static void heap_push(struct decide *d, struct contender *contender)
{
    size_t at = d->heap_n++;

    for (; at && goes_before(contender, d->heap[(at - 1) / 2]); at = (at - 1) / 2)
        d->heap[at] = d->heap[(at - 1) / 2];
    d->heap[at] = contender;
}

static struct contender *heap_pop(struct decide *d)
{
    struct contender *top = d->heap[0], *last = d->heap[--d->heap_n];
    size_t at = 0, child;

    for (; (child = 2 * at + 1) < d->heap_n; at = child) {
        if (child + 1 < d->heap_n && goes_before(d->heap[child + 1], d->heap[child]))
            child++;
        if (!goes_before(d->heap[child], last))
            break;
        d->heap[at] = d->heap[child];
    }
    d->heap[at] = last;
    return top;
}

/* --- slots that are shared --------------------------------------------------------------------------------------- */

/* There is one. */
static size_t lowest_free(const struct decide *d, enum slot_kind kind)
{
    size_t i = 0;

    while (!slot_is_free(d, kind, i))
        i++;
    return i;
}

/* A free slot, for trials of this experiment to share. */
static void give_shared(struct decide *d, struct contender *contender, size_t slot)
{
    d->taken[slot] = true;
    d->holdings[slot] = (struct holding){.contender = contender, .slots = 1};
    contender->fresh++;
    contender->room += contender->experiment->trials_per_slot;
}

static bool shares(const struct contender *contender, const struct sched_wanted *wanted)
{
    return contender->experiment->trials_per_slot > 1 && wanted->slots == 1 && !wanted->alone;
}

/* Slots that nobody wants: trials that are started in company get them instead, fewest slots per weight first. */
static void spread(struct decide *d, enum slot_kind kind, int64_t free_n)
{
    while (free_n-- > 0) {
        struct contender *best = NULL;
        for (size_t i = 0; i < d->contenders_n; i++) {
            struct contender *one = &d->contenders[i];
            int64_t limit = one->experiment->max_slots;
            if (one->experiment->kind == kind && one->joined > one->fresh && !(limit > 0 && one->held >= limit) &&
                (!best || goes_before(one, best)))
                best = one;
        }
        if (!best)
            return;
        give_shared(d, best, lowest_free(d, kind));
        best->held++;
    }
}

/* Each trial that shares goes to the emptiest slot of its experiment. */
static void place_all(struct decide *d)
{
    for (size_t s = 0; s < d->decision->starts_n; s++) {
        const struct sched_start *start = &d->decision->starts[s];
        const struct contender *contender = find_contender(d, start->experiment);
        struct holding *best = NULL;
        if (d->decision->slot_indexes[start->first] != NOT_PLACED)
            continue;
        for (size_t i = 0; i < d->slots_n; i++)
            if (d->holdings[i].contender == contender && holding_room(&d->holdings[i]) &&
                (!best || d->holdings[i].runs < best->runs))
                best = &d->holdings[i];
        assert(best);
        best->runs++;
        best->staying++;
        d->decision->slot_indexes[start->first] = (size_t)(best - d->holdings);
    }
}

/* --- the decision ------------------------------------------------------------------------------------------------- */

enum fit { FIT_STARTED, FIT_COMING, FIT_PASSED, FIT_BLOCKS, FIT_LEFT_OUT };

struct kind_state {
    enum slot_kind kind;
    int64_t all, free_first, free_n; /* slots; free_first: when the decision began */
    bool waiting;                    /* trials wait for slots that will come free: nothing starts on others any more */
    bool blocked;                    /* and one that must wait until slots come free by themselves: nobody is preempted any more */
    const struct contender *passed;  /* one that lets its equals go on, but nobody of worse priority */
    struct outlook outlook;
};

/* A place in a slot that the experiment holds, or will. */
static enum fit join(struct decide *d, struct contender *top, const struct sched_wanted *wanted)
{
    if (!top->room) {
        top->promised--;
        return FIT_COMING;
    }
    top->room--;
    top->joined++;
    add_start(d, wanted);
    return FIT_STARTED;
}

static int serve(struct decide *d, struct kind_state *k, struct contender *top, const struct sched_wanted *wanted,
                 enum fit *ret)
{
    int rc;

    *ret = FIT_BLOCKS;
    if (!k->waiting && wanted->slots <= k->free_n) {
        k->free_n -= wanted->slots;
        *ret = FIT_STARTED;
        if (!shares(top, wanted)) {
            slots_give(d, k->kind, wanted);
        } else {
            give_shared(d, top, lowest_free(d, k->kind));
            join(d, top, wanted);
        }
        return 0;
    }
    if (!k->outlook.victims && (rc = outlook_init(d, k->kind, &k->outlook)))
        return rc;
    if (!k->blocked && preempt_for(d, &k->outlook, top, wanted->slots, k->free_n)) {
        *ret = FIT_COMING;
    } else if (!k->waiting && wanted->slots <= k->free_first) {
        k->passed = top;
        *ret = FIT_PASSED;
        return 0;
    } else {
        if (drain_for(d, k->kind, &k->outlook, top, wanted->alone, wanted->slots, k->free_n))
            *ret = FIT_COMING;
        k->blocked = true;
    }
    k->waiting = true;
    if (shares(top, wanted))
        top->promised += top->experiment->trials_per_slot - 1;
    return 0;
}

static void start_at(struct decide *d, struct contender *top, const struct sched_wanted *wanted, size_t slot)
{
    add_start(d, wanted);
    d->decision->slot_indexes[d->indexes_n - 1] = slot;
    d->holdings[slot].runs++;
    d->holdings[slot].staying++;
    top->room--;
}

/* In the emptiest slot of its experiment that is open to the trial; false where none has room. */
static bool join_open(struct decide *d, struct contender *top, const struct sched_wanted *wanted)
{
    size_t best = d->slots_n;

    for (size_t i = 0; i < d->slots_n && top->room > 0; i++)
        if (d->holdings[i].contender == top && holding_room(&d->holdings[i]) && !wanted->shut[i] &&
            (best == d->slots_n || d->holdings[i].runs < d->holdings[best].runs))
            best = i;
    if (best == d->slots_n)
        return false;
    start_at(d, top, wanted, best);
    return true;
}

/* A trial for which slots are shut: of the others it gets what is there, and waits for none. */
static enum fit serve_open(struct decide *d, struct kind_state *k, struct contender *top, const struct sched_wanted *wanted)
{
    int64_t limit = top->experiment->max_slots, n = 0;
    size_t first = d->slots_n;

    if (shares(top, wanted) && join_open(d, top, wanted))
        return FIT_STARTED;
    for (size_t i = d->slots_n; i-- > 0;)
        if (slot_is_open(d, k->kind, wanted, i)) {
            first = i;
            n++;
        }
    if (k->waiting || n < wanted->slots || (limit > 0 && top->held + wanted->slots > limit))
        return FIT_LEFT_OUT;
    k->free_n -= wanted->slots;
    top->held += wanted->slots;
    if (shares(top, wanted)) {
        give_shared(d, top, first);
        top->joined++;
        start_at(d, top, wanted, first);
    } else {
        slots_give(d, k->kind, wanted);
    }
    return FIT_STARTED;
}

/* The next one's turn; *ret_over: nothing starts after it. */
static int take_turn(struct decide *d, struct kind_state *k, bool *ret_over)
{
    struct contender *top = heap_pop(d);
    const struct sched_wanted *wanted = top->wanted[top->next];
    int64_t limit = top->experiment->max_slots;
    enum fit fit = FIT_STARTED;
    int rc = 0;

    if (k->passed && top->experiment->priority > k->passed->experiment->priority) {
        *ret_over = true;
        return 0;
    }
    if (wanted->shut) {
        fit = serve_open(d, k, top, wanted);
    } else if (joins(top)) {
        fit = join(d, top, wanted);
    } else if (limit > 0 && top->held + wanted->slots > limit) {
        return 0;
    } else if (wanted->slots <= k->all) {
        rc = serve(d, k, top, wanted, &fit);
        top->held += wanted->slots;
    }
    if (fit != FIT_PASSED && (fit != FIT_BLOCKS || top->room) && ++top->next < top->wanted_n)
        heap_push(d, top);
    return rc;
}

static int decide_kind(struct decide *d, enum slot_kind kind)
{
    struct kind_state k = {.kind = kind, .all = slots_count(d, kind, false), .free_n = slots_count(d, kind, true)};
    bool over = false;
    int rc = 0;

    k.free_first = k.free_n;
    d->heap_n = 0;
    for (size_t i = 0; i < d->contenders_n; i++)
        if (d->contenders[i].experiment->kind == kind && d->contenders[i].wanted_n)
            heap_push(d, &d->contenders[i]);
    while (d->heap_n && !over && !rc)
        rc = take_turn(d, &k, &over);
    if (!over && !k.waiting && !k.passed)
        spread(d, kind, k.free_n);
    free(k.outlook.victims);
    return rc;
}

/* Sorts wanted by experiment, keeping the order within each, by counting. */
static void distribute(struct decide *d, const struct sched_wanted *wanted, size_t n)
{
    size_t start = 0;

    for (size_t i = 0; i < n; i++) {
        struct contender *contender = find_contender(d, wanted[i].experiment);
        if (contender && wanted[i].slots > 0)
            contender->wanted_n++;
    }
    for (size_t i = 0; i < d->contenders_n; i++) {
        d->contenders[i].wanted = d->wanted + start;
        start += d->contenders[i].wanted_n;
        d->contenders[i].wanted_n = 0;
    }
    for (size_t i = 0; i < n; i++) {
        struct contender *contender = find_contender(d, wanted[i].experiment);
        if (contender && wanted[i].slots > 0)
            contender->wanted[contender->wanted_n++] = &wanted[i];
    }
}

/* One run more holds its slots. */
static void hold(struct decide *d, const struct sched_run *run)
{
    struct holding *holding = run->slots_n ? &d->holdings[run->slots[0]] : NULL;

    if (!holding)
        return; /* its slots went to another already */
    if (!holding->runs) {
        *holding = (struct holding){.contender = find_contender(d, run->experiment), .slots = (int64_t)run->slots_n};
        if (holding->contender)
            holding->contender->held += holding->slots;
    }
    if (!holding->runs || run->started > holding->started) {
        holding->started = run->started;
        holding->run = run->run;
    }
    holding->runs++;
    holding->staying += !run->ending;
    holding->closed |= run->alone;
    for (size_t i = 0; i < run->slots_n; i++)
        d->taken[run->slots[i]] = true;
}

static void fill_tables(struct decide *d, const struct sched_experiment *experiments)
{
    for (size_t i = 0; i < d->contenders_n; i++)
        d->contenders[i].experiment = &experiments[i];
    if (d->contenders_n)
        qsort(d->contenders, d->contenders_n, sizeof *d->contenders, compare_contenders);
    for (size_t i = 0; i < d->runs_n; i++)
        hold(d, &d->runs[i]);
    for (size_t i = 0; i < d->slots_n; i++)
        if (d->holdings[i].runs && d->holdings[i].contender)
            d->holdings[i].contender->room += holding_room(&d->holdings[i]);
}

int scheduler_decide(const struct sched_slot *slots, size_t slots_n, const struct sched_experiment *experiments,
                     size_t experiments_n, const struct sched_wanted *wanted, size_t wanted_n,
                     const struct sched_run *runs, size_t runs_n, struct sched_decision *ret)
{
    /* a start takes slots, or a place in one; each place is one wanted trial */
    struct sched_decision decision = {calloc(wanted_n + 1, sizeof *decision.starts), 0,
                                      calloc(slots_n + wanted_n + 1, sizeof *decision.slot_indexes),
                                      calloc(runs_n + 1, sizeof *decision.preempt), 0};
    struct decide d = {.slots = slots,
                       .slots_n = slots_n,
                       .taken = calloc(slots_n + 1, sizeof *d.taken),
                       .holdings = calloc(slots_n + 1, sizeof *d.holdings),
                       .runs = runs,
                       .runs_n = runs_n,
                       .contenders = calloc(experiments_n + 1, sizeof *d.contenders),
                       .contenders_n = experiments_n,
                       .wanted = calloc(wanted_n + 1, sizeof *d.wanted),
                       .heap = calloc(experiments_n + 1, sizeof *d.heap),
                       .decision = &decision};
    int rc = -ENOMEM;

    if (decision.starts && decision.slot_indexes && decision.preempt && d.taken && d.holdings && d.contenders && d.wanted &&
        d.heap) {
        fill_tables(&d, experiments);
        distribute(&d, wanted, wanted_n);
        rc = decide_kind(&d, SLOT_KIND_CPU);
        if (!rc)
            rc = decide_kind(&d, SLOT_KIND_CUDA);
        if (!rc)
            place_all(&d);
    }
    free(d.taken);
    free(d.holdings);
    free(d.contenders);
    free(d.wanted);
    free(d.heap);
    if (rc)
        sched_decision_done(&decision);
    else
        *ret = decision;
    return rc;
}

void sched_decision_done(struct sched_decision *decision)
{
    free(decision->starts);
    free(decision->slot_indexes);
    free(decision->preempt);
    memset(decision, 0, sizeof *decision);
}
