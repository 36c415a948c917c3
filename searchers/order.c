/* order.c - order: logical. Results reach the scheduler in an order that depends on the search alone: as if every unit
 * took the same time and every trial that the scheduler lets train had a lane of its own (it never lets more train than
 * there are lanes), ties by trial number.
 *
 * A trial told at virtual time t to train from unit a to unit b is due at t + (b - a). Whatever becomes of it counts at
 * that time: a trial that converges, fails or is killed on the way counts when it would have come to b. (Were an exit
 * counted at the unit where it happened, no result could be delivered before every slower trial had passed that time,
 * for it might yet converge; and where a crash happens is no property of the search.) So the next thing to happen is
 * always known, the trial at the top of the heap, and is delivered once it has arrived. No deadlock: that trial is
 * one that was told to train and has not answered; nothing that it needs waits for anything else, since a trial whose
 * result is held is told to pause and gives up its slot.
 *
 * An exit of a trial that waits at a rung (a user killed it) is delivered at once: it is on no lane.
 * SPDX-License-Identifier: Apache-2.0 */
#include "searchers/searcher_private.h"

#include <math.h>
#include <stdlib.h>

static bool before(const struct searcher *searcher, int64_t a, int64_t b)
{
    double due_a = searcher->trials[a - 1].due, due_b = searcher->trials[b - 1].due;

    return due_a < due_b || (due_a == due_b && a < b);
}

int order_push(struct searcher *searcher, int64_t trial)
{
    struct order *order = &searcher->order;
    size_t at = order->n;

    if (order->n == order->room) {
        size_t room = order->room ? 2 * order->room : 32;
        int64_t *heap = realloc(order->heap, room * sizeof *heap);
        if (!heap)
            return -ENOMEM;
        order->heap = heap;
        order->room = room;
    }
    order->n++;
    while (at && before(searcher, trial, order->heap[(at - 1) / 2])) {
        order->heap[at] = order->heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    order->heap[at] = trial;
    return 0;
}

static void pop(struct searcher *searcher)
{
    struct order *order = &searcher->order;
    int64_t last = order->heap[--order->n];
    size_t at = 0;

    for (;;) {
        size_t child = 2 * at + 1;
        if (child >= order->n)
            break;
        if (child + 1 < order->n && before(searcher, order->heap[child + 1], order->heap[child]))
            child++;
        if (!before(searcher, order->heap[child], last))
            break;
        order->heap[at] = order->heap[child];
        at = child;
    }
    if (order->n)
        order->heap[at] = last;
}

int order_drain(struct searcher *searcher)
{
    struct order *order = &searcher->order;

    while (order->n && !searcher->done) {
        int64_t number = order->heap[0];
        struct trial *trial = &searcher->trials[number - 1];
        bool exit = !trial->held;
        int rc;

        if (!trial->held && !trial->exit_held)
            return 0;
        pop(searcher);
        order->now = trial->due;
        trial->held = false;
        if (exit)
            trial->exit_held = false;
        rc = searcher_deliver(searcher, number, exit ? INFINITY : trial->held_unit,
                              exit ? trial->exit_score : trial->held_score);
        if (rc)
            return rc;
        trial = &searcher->trials[number - 1];
        /* killed while its result was held, and now waiting at a rung: on no lane */
        if (trial->exit_held && !trial->training && !trial->ended && !searcher->done) {
            trial->exit_held = false;
            rc = searcher_deliver(searcher, number, INFINITY, trial->exit_score);
            if (rc)
                return rc;
        }
    }
    return 0;
}
