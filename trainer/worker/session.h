/* session.h - what a worker keeps from trial to trial and shares among the runs it holds: the backend, data sets and their
 * splits, compiled plans. A trial of a shape seen before decodes nothing and compiles nothing. Memory is bounded: what runs
 * use, and beside it at most one data set with one split and PLANS_KEPT plans, those used last.
 * Threads: all functions are safe beside each other; one run is prepared at a time.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_TRAINER_SESSION_H
#define FLEXP_TRAINER_SESSION_H

#include "trainer/backend/backend.h"
#include "trainer/data/split.h"
#include "trainer/federation/pack.h"

#define PLANS_KEPT 4

struct session;
struct kept;

int session_new(struct session **ret, struct error *err);

/* What a run trains with. */
struct session_loan {
    struct session *session;
    const struct dataset *dataset;
    const struct federation_data *split;
    struct model *model; /* with this run's own starting weights and dropout rates */
    struct seat *seat;
    struct kept *data, *kept_split, *plan;
};

/* sections: checked and resolved. slots: list such as ["cpu:0"]. -ENOMEM: out of memory; -ENOBUFS: for now, because other
 * processes hold what it lacks, and err says how much of which GPU; -EINVAL: the file is wrong, err says where; -EBUSY: runs
 * are here that hold other slots. */
int session_prepare(struct session *session, const json_t *sections, uint64_t data_seed, const char *cache_dir,
                    const json_t *slots, struct session_loan *ret, struct error *err);
/* What a run that ended with rc has ended of: -ENOBUFS, as above, where that was -ENOMEM. */
int session_blame(const struct session_loan *loan, const json_t *sections, int rc, struct error *err);
/* Also of a loan that is all zeros. */
void session_return(struct session_loan *loan);

/* Runs of equal keys train in one call. New string. */
char *session_pack_key(const json_t *sections, uint64_t data_seed, const struct model *model);

#endif
