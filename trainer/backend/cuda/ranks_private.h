/* ranks_private.h - what ranks.c and exchange.c share. SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_TRAINER_CUDA_RANKS_PRIVATE_H
#define FLEXP_TRAINER_CUDA_RANKS_PRIVATE_H

#include "trainer/backend/cuda/ranks.h"

#include <pthread.h>

struct mailbox { /* of what comes through the host */
    void *data;
    size_t bytes, room;
    bool full;
};

struct rank {
    struct ranks *ranks;
    struct device *device;
    pthread_t thread;
    struct mailbox boxes[RANKS_MOST]; /* by sender */
    struct error err;
    double since; /* waits for others since, by the clock; 0: does not */
};

struct ranks {
    const struct driver *driver;
    size_t n, threads_n;
    double timeout_s;
    bool linked, by_host, aborting; /* the caller's alone */
    pthread_t aborter;
    void (*forget)(void *arg);
    void *forget_arg;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    /* under the lock */
    struct rank rank[RANKS_MOST];
    rank_job job;
    void *arg;
    uint64_t jobs; /* counts them */
    size_t busy;
    bool ending, failed, late;
    size_t first; /* that failed */
    size_t arrived;
    uint64_t meetings;
    bool votes, verdict;
};

#endif
