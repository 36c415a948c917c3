/* nccl.c - what several GPUs of one process send each other, through NCCL; the library is opened at run time.
 * Each GPU has a communicator, made and used by its own thread. Communicators do not block: a call that is in progress
 * is asked for until it is through, so that it can be given up. The lock keeps link_abort, which comes from another
 * thread, from taking a communicator away under a call; aborting itself is done without it, for it may wait until what
 * was captured with the communicator is gone. Source: NCCL user guide, "Creating a communicator with options"
 * and "Fault tolerance". SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cuda/device/device.h"

#include <assert.h>
#include <nccl.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

static struct {
    ncclResult_t (*unique_id)(ncclUniqueId *);
    ncclResult_t (*init)(ncclComm_t *, int, ncclUniqueId, int, ncclConfig_t *);
    ncclResult_t (*async_error)(ncclComm_t, ncclResult_t *);
    ncclResult_t (*abort)(ncclComm_t);
    ncclResult_t (*all_reduce)(const void *, void *, size_t, ncclDataType_t, ncclRedOp_t, ncclComm_t, cudaStream_t);
    ncclResult_t (*send)(const void *, size_t, ncclDataType_t, int, ncclComm_t, cudaStream_t);
    ncclResult_t (*receive)(void *, size_t, ncclDataType_t, int, ncclComm_t, cudaStream_t);
    ncclResult_t (*broadcast)(const void *, void *, size_t, ncclDataType_t, int, ncclComm_t, cudaStream_t);
    const char *(*text)(ncclResult_t);
} nccl;

static const struct symbol SYMBOLS[] = {{"ncclGetUniqueId", &nccl.unique_id},
                                        {"ncclCommInitRankConfig", &nccl.init},
                                        {"ncclCommGetAsyncError", &nccl.async_error},
                                        {"ncclCommAbort", &nccl.abort},
                                        {"ncclAllReduce", &nccl.all_reduce},
                                        {"ncclSend", &nccl.send},
                                        {"ncclRecv", &nccl.receive},
                                        {"ncclBroadcast", &nccl.broadcast},
                                        {"ncclGetErrorString", &nccl.text},
                                        {NULL, NULL}};

struct link {
    pthread_mutex_t lock;
    ncclComm_t comm; /* NULL: given up */
    cudaStream_t stream;
    cudaEvent_t forked, joined;
    double timeout_s;
};

static double seconds_now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int nccl_fail(struct error *err, ncclResult_t status, const char *what)
{
    if (status == ncclSuccess)
        return 0;
    return fail(err, -EIO, "NCCL: %s (%s)", nccl.text(status), what);
}

/* Until a call that is in progress is through. */
static int settle(struct link *l, ncclResult_t status, const char *what, struct error *err)
{
    static const struct timespec PAUSE = {.tv_nsec = 50000};
    double began = seconds_now();

    while (status == ncclInProgress) {
        pthread_mutex_lock(&l->lock);
        if (!l->comm)
            status = ncclInvalidUsage;
        else if (nccl.async_error(l->comm, &status) != ncclSuccess)
            status = ncclInternalError;
        pthread_mutex_unlock(&l->lock);
        if (status != ncclInProgress)
            break;
        if (seconds_now() - began > l->timeout_s)
            return fail(err, -ETIMEDOUT, "NCCL: not through after %.0f s (%s)", l->timeout_s, what);
        nanosleep(&PAUSE, NULL);
    }
    return nccl_fail(err, status, what);
}

int link_id(unsigned char *ret, struct error *err)
{
    static const char *const NAMES[] = {"libnccl.so.2", NULL};
    int rc = open_library(NAMES, SYMBOLS, err);
    ncclUniqueId id;

    if (rc)
        return rc;
    static_assert(sizeof id == LINK_ID_BYTES, "driver.h has the size of ncclUniqueId");
    if ((rc = nccl_fail(err, nccl.unique_id(&id), "a name for the group")))
        return rc;
    memcpy(ret, &id, sizeof id);
    return 0;
}

int link_new(struct device *d, struct error *err)
{
    struct link *l = calloc(1, sizeof *l);

    if (!l)
        return fail(err, -ENOMEM, "out of memory");
    pthread_mutex_init(&l->lock, NULL);
    d->link = l;
    return 0;
}

void link_free(struct device *d)
{
    struct link *l = d->link;

    if (!l)
        return;
    link_abort(d);
    if (l->stream)
        cudaStreamDestroy(l->stream);
    if (l->forked)
        cudaEventDestroy(l->forked);
    if (l->joined)
        cudaEventDestroy(l->joined);
    pthread_mutex_destroy(&l->lock);
    free(l);
    d->link = NULL;
}

static int make_stream(struct device *d, struct error *err)
{
    struct link *l = d->link;
    int rc = cuda_fail(err, cudaSetDevice(d->index), "linking GPUs");

    if (rc || l->stream)
        return rc;
    if ((rc = cuda_fail(err, cudaEventCreateWithFlags(&l->forked, cudaEventDisableTiming), "linking GPUs")) ||
        (rc = cuda_fail(err, cudaEventCreateWithFlags(&l->joined, cudaEventDisableTiming), "linking GPUs")))
        return rc;
    return cuda_fail(err, cudaStreamCreateWithFlags(&l->stream, cudaStreamNonBlocking), "linking GPUs");
}

int link_open(struct device *d, const unsigned char *id, size_t rank, size_t ranks, double timeout_s, struct error *err)
{
    struct link *l = d->link;
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    ncclResult_t status;
    ncclUniqueId unique;
    int rc;

    if ((rc = make_stream(d, err)))
        return rc;
    link_abort(d); /* what was there */
    memcpy(&unique, id, sizeof unique);
    config.blocking = 0;
    l->timeout_s = timeout_s;
    pthread_mutex_lock(&l->lock);
    status = nccl.init(&l->comm, (int)ranks, unique, (int)rank, &config);
    pthread_mutex_unlock(&l->lock);
    return settle(l, status, "a communicator", err);
}

/* Also how a communicator goes that nothing waits for. */
void link_abort(struct device *d)
{
    struct link *l = d->link;
    ncclComm_t comm;

    pthread_mutex_lock(&l->lock);
    comm = l->comm;
    l->comm = NULL;
    pthread_mutex_unlock(&l->lock);
    if (comm)
        nccl.abort(comm);
}

int link_fork(struct device *d, struct error *err)
{
    int rc = cuda_fail(err, cudaSetDevice(d->index), "to the other GPUs");

    rc = rc ? rc : cuda_fail(err, cudaEventRecord(d->link->forked, d->stream), "to the other GPUs");
    return rc ? rc : cuda_fail(err, cudaStreamWaitEvent(d->link->stream, d->link->forked, 0), "to the other GPUs");
}

int link_join(struct device *d, struct error *err)
{
    int rc = cuda_fail(err, cudaSetDevice(d->index), "from the other GPUs");

    rc = rc ? rc : cuda_fail(err, cudaEventRecord(d->link->joined, d->link->stream), "from the other GPUs");
    return rc ? rc : cuda_fail(err, cudaStreamWaitEvent(d->stream, d->link->joined, 0), "from the other GPUs");
}

/* A call on the communicator, unless it was given up. */
#define CALL(device, what, err, function, ...)                                                                         \
    do {                                                                                                               \
        struct link *l_ = (device)->link;                                                                              \
        ncclResult_t status_ = ncclInvalidUsage;                                                                       \
        cudaSetDevice((device)->index);                                                                                \
        pthread_mutex_lock(&l_->lock);                                                                                 \
        if (l_->comm)                                                                                                  \
            status_ = nccl.function(__VA_ARGS__, l_->comm, l_->stream);                                                \
        pthread_mutex_unlock(&l_->lock);                                                                               \
        return settle(l_, status_, what, err);                                                                         \
    } while (0)

int link_sum(struct device *d, void *memory, size_t n, enum link_type type, struct error *err)
{
    CALL(d, "sum", err, all_reduce, memory, memory, n, type == LINK_DOUBLE ? ncclDouble : ncclFloat, ncclSum);
}

int link_send(struct device *d, const void *memory, size_t bytes, size_t to, struct error *err)
{
    CALL(d, "send", err, send, memory, bytes, ncclChar, (int)to);
}

int link_receive(struct device *d, void *memory, size_t bytes, size_t from, struct error *err)
{
    CALL(d, "receive", err, receive, memory, bytes, ncclChar, (int)from);
}

int link_broadcast(struct device *d, void *memory, size_t bytes, size_t root, struct error *err)
{
    CALL(d, "broadcast", err, broadcast, memory, memory, bytes, ncclChar, (int)root);
}
