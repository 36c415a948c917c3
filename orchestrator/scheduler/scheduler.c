/* scheduler.c - see scheduler.h.
 *
 * Kinds of slots are decided apart. Within a kind the experiments that want something stand in a heap by (priority, share,
 * last start, id), share being slots held (with those given in this round) per weight; the first trial of the top one is served, and
 * the experiment goes back into the heap with its new share. So n trials cost O(n log n); a start scans the slots once.
 *
 * After the first trial that does not fit nothing starts: every slot that is free or comes free is a step towards it, and
 * whoever took one, even with equal priority, could take the next one too and starve it. One exception: a trial that would
 * have fitted when the decision began, had others of its priority not been ahead of it, lets its equals go on; it blocks
 * from the next decision on, and when they have drained it is the one served longest ago. So an experiment of large trials
 * and one of small trials take turns, each with all slots. (Blocking at once left most slots empty; never blocking, or
 * breaking ties by age alone, starved the large one.) Those that wait, this one and
 * those behind it, are counted as if they would start one after the other, and runs of worse priority are preempted as
 * long as that gets the next of them its slots; runs that are ending already count first.
 *
 * An experiment at its max_slots waits for itself, not for slots, and is passed. So is a trial that wants more slots than
 * there are of its kind: create refuses it, but slots may have been lost since.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/scheduler/scheduler.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct contender {
    const struct sched_experiment *experiment;
    int64_t held;             /* slots: running, ending or given now */
    const struct sched_wanted **wanted;
    size_t wanted_n, next;
};

struct run_row {
    const struct sched_run *run;
    struct contender *contender; /* NULL: of an experiment that is not in the table */
    int64_t slots;
    enum slot_kind kind; /* of those slots */
};

struct decide {
    const struct sched_slot *slots;
    size_t slots_n;
    bool *taken; /* of slots: not to be given */
    struct contender *contenders; /* by experiment id */
    size_t contenders_n;
    const struct sched_wanted **wanted;
    struct run_row *runs; /* by run id */
    size_t runs_n;
    struct contender **heap;
    size_t heap_n;
    struct sched_decision *decision;
    size_t indexes_n;
};

static int compare_int(int64_t a, int64_t b)
{
    return (a > b) - (a < b);
}

static int compare_contenders(const void *a, const void *b)
{
    return compare_int(((const struct contender *)a)->experiment->id, ((const struct contender *)b)->experiment->id);
}

static int compare_runs(const void *a, const void *b)
{
    return compare_int(((const struct run_row *)a)->run->run, ((const struct run_row *)b)->run->run);
}

static struct contender *find_contender(const struct decide *d, int64_t id)
{
    struct sched_experiment wanted = {.id = id};
    struct contender key = {.experiment = &wanted};

    return d->contenders_n ? bsearch(&key, d->contenders, d->contenders_n, sizeof key, compare_contenders) : NULL;
}

static struct run_row *find_run(const struct decide *d, int64_t run)
{
    struct sched_run wanted = {.run = run};
    struct run_row key = {.run = &wanted};

    return d->runs_n ? bsearch(&key, d->runs, d->runs_n, sizeof key, compare_runs) : NULL;
}

/* --- the heap of experiments that want something ---------------------------------------------------------------- */

static bool goes_before(const struct contender *a, const struct contender *b)
{
    double weight_a = a->experiment->weight > 0 ? a->experiment->weight : 1;
    double weight_b = b->experiment->weight > 0 ? b->experiment->weight : 1;
    double share_a = (double)a->held / weight_a, share_b = (double)b->held / weight_b;

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

/* --- slots -------------------------------------------------------------------------------------------------------- */

static int64_t count_slots(const struct decide *d, enum slot_kind kind, bool only_free)
{
    int64_t n = 0;

    for (size_t i = 0; i < d->slots_n; i++)
        n += d->slots[i].kind == kind && !(only_free && d->taken[i]);
    return n;
}

/* The first row of n free slots next to each other, or where there is none the n lowest. n are free. */
static void give(struct decide *d, enum slot_kind kind, const struct sched_wanted *wanted)
{
    size_t n = (size_t)wanted->slots, first = 0, row = 0, given = 0;
    bool whole = false;

    for (size_t i = 0; i < d->slots_n && !whole; i++) {
        row = d->slots[i].kind == kind && !d->taken[i] ? row + 1 : 0;
        whole = row == n;
        first = whole ? i + 1 - n : 0;
    }
    d->decision->starts[d->decision->starts_n++] = (struct sched_start){wanted->experiment, wanted->trial, d->indexes_n, n};
    for (size_t i = first; given < n; i++)
        if (d->slots[i].kind == kind && !d->taken[i]) {
            d->taken[i] = true;
            d->decision->slot_indexes[d->indexes_n++] = i;
            given++;
        }
}

/* --- preemption --------------------------------------------------------------------------------------------------- */

/* Worst priority first, then the latest started. */
static int compare_victims(const void *a, const void *b)
{
    const struct run_row *x = *(const struct run_row *const *)a, *y = *(const struct run_row *const *)b;
    int order = compare_int(y->contender->experiment->priority, x->contender->experiment->priority);

    if (!order)
        order = compare_int(y->run->started, x->run->started);
    return order ? order : compare_int(y->run->run, x->run->run);
}

/* The slots that will be free, and who could be made to give more. */
struct outlook {
    const struct run_row **victims;
    size_t n, chosen;
    int64_t coming; /* slots ending or preempted */
    int64_t owed;   /* slots that waiting trials want */
};

static int outlook_init(struct decide *d, enum slot_kind kind, struct outlook *ret)
{
    *ret = (struct outlook){.victims = calloc(d->runs_n + 1, sizeof *ret->victims)};
    if (!ret->victims)
        return -ENOMEM;
    for (size_t i = 0; i < d->runs_n; i++) {
        const struct run_row *row = &d->runs[i];
        if (!row->slots || row->kind != kind)
            continue;
        if (row->run->ending)
            ret->coming += row->slots;
        else if (row->contender)
            ret->victims[ret->n++] = row;
    }
    qsort(ret->victims, ret->n, sizeof *ret->victims, compare_victims);
    return 0;
}

/* One more trial waits, free_n slots being free. Preempts for it what must be and may be; false, and nothing, where that is not enough. */
static bool preempt_for(struct decide *d, struct outlook *outlook, const struct contender *contender, int64_t slots,
                        int64_t free_n)
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
        const struct run_row *row = outlook->victims[i];
        if (coming - row->slots >= outlook->owed) /* a larger one after it made it needless */
            coming -= row->slots;
        else
            d->decision->preempt[d->decision->preempt_n++] = row->run->run;
    }
    outlook->coming = coming - free_n;
    return true;
}

/* --- the decision ------------------------------------------------------------------------------------------------- */

enum fit { FIT_STARTED, FIT_COMING, FIT_PASSED, FIT_BLOCKS };

struct kind_state {
    enum slot_kind kind;
    int64_t all, free_first, free_n; /* slots; free_first: when the decision began */
    bool waiting;                    /* trials wait for slots that will come free: nothing starts any more */
    const struct contender *passed;  /* one that lets its equals go on, but nobody of worse priority */
    struct outlook outlook;
};

static int serve(struct decide *d, struct kind_state *k, const struct contender *top, const struct sched_wanted *wanted,
                 enum fit *ret)
{
    int rc;

    if (!k->waiting && wanted->slots <= k->free_n) {
        give(d, k->kind, wanted);
        k->free_n -= wanted->slots;
        *ret = FIT_STARTED;
        return 0;
    }
    if (!k->outlook.victims && (rc = outlook_init(d, k->kind, &k->outlook)))
        return rc;
    if (preempt_for(d, &k->outlook, top, wanted->slots, k->free_n)) {
        k->waiting = true;
        *ret = FIT_COMING;
    } else if (!k->waiting && wanted->slots <= k->free_first) {
        k->passed = top;
        *ret = FIT_PASSED;
    } else {
        *ret = FIT_BLOCKS;
    }
    return 0;
}

static int decide_kind(struct decide *d, enum slot_kind kind)
{
    struct kind_state k = {.kind = kind, .all = count_slots(d, kind, false), .free_n = count_slots(d, kind, true)};
    int rc = 0;

    k.free_first = k.free_n;
    d->heap_n = 0;
    for (size_t i = 0; i < d->contenders_n; i++)
        if (d->contenders[i].experiment->kind == kind && d->contenders[i].wanted_n)
            heap_push(d, &d->contenders[i]);
    while (d->heap_n && !rc) {
        struct contender *top = heap_pop(d);
        const struct sched_wanted *wanted = top->wanted[top->next];
        int64_t limit = top->experiment->max_slots;
        enum fit fit = FIT_STARTED;
        if (k.passed && top->experiment->priority > k.passed->experiment->priority)
            break;
        if (limit > 0 && top->held + wanted->slots > limit)
            continue;
        if (wanted->slots <= k.all) {
            rc = serve(d, &k, top, wanted, &fit);
            top->held += wanted->slots;
        }
        if (rc || fit == FIT_BLOCKS)
            break;
        if (fit != FIT_PASSED && ++top->next < top->wanted_n)
            heap_push(d, top);
    }
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

static void fill_tables(struct decide *d, const struct sched_experiment *experiments, const struct sched_run *runs)
{
    for (size_t i = 0; i < d->contenders_n; i++)
        d->contenders[i].experiment = &experiments[i];
    if (d->contenders_n)
        qsort(d->contenders, d->contenders_n, sizeof *d->contenders, compare_contenders);
    for (size_t i = 0; i < d->runs_n; i++)
        d->runs[i] = (struct run_row){&runs[i], find_contender(d, runs[i].experiment), 0, SLOT_KIND_CPU};
    if (d->runs_n)
        qsort(d->runs, d->runs_n, sizeof *d->runs, compare_runs);
    for (size_t i = 0; i < d->slots_n; i++) {
        struct run_row *row = d->slots[i].run ? find_run(d, d->slots[i].run) : NULL;
        struct contender *contender = row ? row->contender : NULL;
        d->taken[i] = d->slots[i].run != 0;
        if (row) {
            row->slots++;
            row->kind = d->slots[i].kind;
        }
        if (contender)
            contender->held++;
    }
}

int scheduler_decide(const struct sched_slot *slots, size_t slots_n, const struct sched_experiment *experiments,
                     size_t experiments_n, const struct sched_wanted *wanted, size_t wanted_n,
                     const struct sched_run *runs, size_t runs_n, struct sched_decision *ret)
{
    struct sched_decision decision = {calloc(slots_n + 1, sizeof *decision.starts), 0,
                                      calloc(slots_n + 1, sizeof *decision.slot_indexes),
                                      calloc(runs_n + 1, sizeof *decision.preempt), 0};
    struct decide d = {.slots = slots,
                       .slots_n = slots_n,
                       .taken = calloc(slots_n + 1, sizeof *d.taken),
                       .contenders = calloc(experiments_n + 1, sizeof *d.contenders),
                       .contenders_n = experiments_n,
                       .wanted = calloc(wanted_n + 1, sizeof *d.wanted),
                       .runs = calloc(runs_n + 1, sizeof *d.runs),
                       .runs_n = runs_n,
                       .heap = calloc(experiments_n + 1, sizeof *d.heap),
                       .decision = &decision};
    int rc = -ENOMEM;

    if (decision.starts && decision.slot_indexes && decision.preempt && d.taken && d.contenders && d.wanted && d.runs &&
        d.heap) {
        fill_tables(&d, experiments, runs);
        distribute(&d, wanted, wanted_n);
        rc = decide_kind(&d, SLOT_KIND_CPU);
        if (!rc)
            rc = decide_kind(&d, SLOT_KIND_CUDA);
    }
    free(d.taken);
    free(d.contenders);
    free(d.wanted);
    free(d.runs);
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
