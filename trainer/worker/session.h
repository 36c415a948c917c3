/* session.h - what a worker keeps from trial to trial: the backend, the data set and its split, compiled plans.
 * A trial of a shape seen before decodes nothing and compiles nothing. Memory is bounded: one data set with one split, the
 * PLANS_KEPT plans used last.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_TRAINER_SESSION_H
#define FLEXP_TRAINER_SESSION_H

#include "trainer/backend/backend.h"
#include "trainer/data/split.h"

#define PLANS_KEPT 4

struct kept_plan {
    char *key;           /* model key and batch */
    struct model *model;
    struct plan *plan;
    uint64_t used;       /* rising: the smallest is dropped first */
};

struct session {
    const struct backend_ops *ops;
    struct backend *backend;
    int cores[1024];
    size_t cores_n;
    char *data_key, *split_key;
    struct dataset *dataset;
    struct federation_data *split;
    struct kept_plan plans[PLANS_KEPT];
    uint64_t uses;
};

void session_init(struct session *session);
void session_done(struct session *session);

/* What a trial trains with; all borrowed until the next call. */
struct session_loan {
    const struct dataset *dataset;
    const struct federation_data *split;
    const struct model *model;
    struct plan *plan;
};

/* sections: checked and resolved. slots: list such as ["cpu:0"]. -ENOMEM: out of memory; -EINVAL: the file is wrong, err
 * says where. */
int session_prepare(struct session *session, const json_t *sections, uint64_t data_seed, const char *cache_dir,
                    const json_t *slots, struct session_loan *ret, struct error *err);

#endif
