/* exchange.c - what the ranks of a trial send each other: by NCCL, or from mailbox to mailbox on the host.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cuda/ranks_private.h"

#include <stdlib.h>

/* through the host */

static int aborted(struct error *err)
{
    return fail(err, -ECONNABORTED, "another GPU failed");
}

/* Each sender has a box at each receiver; the data goes in without the lock, for nobody else touches a box that is not
 * full. */
static int post(struct ranks *r, size_t rank, const void *memory, size_t bytes, size_t to, struct error *err)
{
    struct mailbox *box = &r->rank[to].boxes[rank];
    bool failed;
    int rc;

    pthread_mutex_lock(&r->lock);
    while (box->full && !r->failed)
        pthread_cond_wait(&r->changed, &r->lock);
    failed = r->failed;
    pthread_mutex_unlock(&r->lock);
    if (failed)
        return aborted(err);
    if (bytes > box->room) {
        void *grown = realloc(box->data, bytes);
        if (!grown)
            return fail(err, -ENOMEM, "out of memory for what GPUs send each other");
        box->data = grown;
        box->room = bytes;
    }
    if ((rc = r->driver->download(r->rank[rank].device, box->data, memory, bytes, err)))
        return rc;
    pthread_mutex_lock(&r->lock);
    box->bytes = bytes;
    box->full = true;
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->lock);
    return 0;
}

static int collect(struct ranks *r, size_t rank, void *memory, size_t bytes, size_t from, struct error *err)
{
    struct mailbox *box = &r->rank[rank].boxes[from];
    bool failed;
    int rc;

    pthread_mutex_lock(&r->lock);
    while (!box->full && !r->failed)
        pthread_cond_wait(&r->changed, &r->lock);
    failed = !box->full;
    pthread_mutex_unlock(&r->lock);
    if (failed)
        return aborted(err);
    rc = r->driver->upload(r->rank[rank].device, memory, box->data, bytes, err);
    rc = rc ? rc : r->driver->wait(r->rank[rank].device, err);
    pthread_mutex_lock(&r->lock);
    box->full = false;
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->lock);
    return rc;
}

/* by either */

static int fork_off(struct ranks *r, size_t rank, struct error *err)
{
    return r->driver->link_fork(r->rank[rank].device, err);
}

int rank_join(struct ranks *r, size_t rank, struct error *err)
{
    return r->by_host ? 0 : r->driver->link_join(r->rank[rank].device, err);
}

int rank_send(struct ranks *r, size_t rank, const void *memory, size_t bytes, size_t to, struct error *err)
{
    int rc;

    if (r->by_host)
        return post(r, rank, memory, bytes, to, err);
    rc = fork_off(r, rank, err);
    return rc ? rc : r->driver->link_send(r->rank[rank].device, memory, bytes, to, err);
}

int rank_receive(struct ranks *r, size_t rank, void *memory, size_t bytes, size_t from, struct error *err)
{
    int rc;

    if (r->by_host)
        return collect(r, rank, memory, bytes, from, err);
    rc = fork_off(r, rank, err);
    return rc ? rc : r->driver->link_receive(r->rank[rank].device, memory, bytes, from, err);
}

int rank_broadcast(struct ranks *r, size_t rank, void *memory, size_t bytes, size_t root, struct error *err)
{
    int rc = 0;

    if (!r->by_host) {
        rc = fork_off(r, rank, err);
        return rc ? rc : r->driver->link_broadcast(r->rank[rank].device, memory, bytes, root, err);
    }
    if (rank != root)
        return collect(r, rank, memory, bytes, root, err);
    for (size_t to = 0; to < r->n && !rc; to++)
        rc = to == root ? 0 : post(r, rank, memory, bytes, to, err);
    return rc;
}

int rank_sum(struct ranks *r, size_t rank, void *memory, size_t n, enum link_type type, struct error *err)
{
    int rc;

    if (r->by_host)
        return fail(err, -ENOTSUP, "there is no NCCL");
    rc = fork_off(r, rank, err);
    return rc ? rc : r->driver->link_sum(r->rank[rank].device, memory, n, type, err);
}

int rank_sum_in_order(struct ranks *r, size_t rank, float *memory, float *room, size_t n, struct error *err)
{
    struct device *device = r->rank[rank].device;
    struct accumulate_args a = {.count = n, .from = room, .to = memory};
    size_t bytes = n * sizeof *memory;
    int rc = 0;

    if (rank && ((rc = rank_receive(r, rank, room, bytes, rank - 1, err)) || (rc = rank_join(r, rank, err)) ||
                 (rc = r->driver->launch(device, KERNEL_accumulate, &a, sizeof a, err))))
        return rc;
    if (rank + 1 < r->n && (rc = rank_send(r, rank, memory, bytes, rank + 1, err)))
        return rc;
    return rank_broadcast(r, rank, memory, bytes, r->n - 1, err);
}
