/* ranks.h - several GPUs in one trial: a rank for each, with a thread of its own and, where NCCL can be had, a
 * communicator; without it what they send each other goes through the host.
 * A rank that fails ends the others' waiting: ranks_meet and what is sent return -ECONNABORTED, and the reason of the
 * first is the reason of all. Where ranks wait for each other's GPUs for longer than FLEXP_CUDA_TIMEOUT seconds (300),
 * the communicators are aborted and that is the reason; the next call makes new ones. NCCL's abort returns when nothing
 * is left that was captured with a communicator: so a thread of its own aborts, and when all ranks have ended their job,
 * what was captured is thrown away (ranks_on_abort).
 * Threads: ranks_new, _free, _link and _run are the backend's one caller's; the rest a rank's own, within a job.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_TRAINER_CUDA_RANKS_H
#define FLEXP_TRAINER_CUDA_RANKS_H

#include "common/keys.h"
#include "trainer/backend/cuda/driver.h"

#define RANKS_MOST GPUS_MOST

struct ranks;
typedef int (*rank_job)(void *arg, size_t rank, struct error *err);

/* The devices are set by the ranks' own first job (rank_device). */
int ranks_new(const struct driver *driver, size_t n, struct ranks **ret, struct error *err);
void ranks_free(struct ranks *ranks);
size_t ranks_n(const struct ranks *ranks);
/* Every rank does the job; err names the GPU that failed first. */
int ranks_run(struct ranks *ranks, rank_job job, void *arg, struct error *err);
/* Called behind a job that was given up: graphs that hold communicators go. */
void ranks_on_abort(struct ranks *ranks, void (*forget)(void *arg), void *arg);
/* Opens communicators where there are none. */
int ranks_link(struct ranks *ranks, struct error *err);
/* Known after ranks_link. */
bool ranks_have_nccl(const struct ranks *ranks);

void rank_device(struct ranks *ranks, size_t rank, struct device *device);
/* Between these, ranks wait for each other's GPUs, and the time since rank_alive runs. */
void rank_enter(struct ranks *ranks, size_t rank);
void rank_alive(struct ranks *ranks, size_t rank);
void rank_leave(struct ranks *ranks, size_t rank);
/* Until all ranks are here. vote: *vote becomes true where it was any rank's. */
int ranks_meet(struct ranks *ranks, bool *vote, struct error *err);

/* exchange.c: device memory. Queued behind what the device was given, on a stream beside it; rank_join makes what comes
 * after wait for it. Through the host: done on return, and not to be captured. */
int rank_send(struct ranks *ranks, size_t rank, const void *memory, size_t bytes, size_t to, struct error *err);
int rank_receive(struct ranks *ranks, size_t rank, void *memory, size_t bytes, size_t from, struct error *err);
int rank_broadcast(struct ranks *ranks, size_t rank, void *memory, size_t bytes, size_t root, struct error *err);
int rank_join(struct ranks *ranks, size_t rank, struct error *err);
/* Sums of all ranks in each: in NCCL's order. Where there is no NCCL: -ENOTSUP. */
int rank_sum(struct ranks *ranks, size_t rank, void *memory, size_t n, enum link_type type, struct error *err);
/* Sums of floats in the order of ranks. room: n floats. */
int rank_sum_in_order(struct ranks *ranks, size_t rank, float *memory, float *room, size_t n, struct error *err);

#endif
