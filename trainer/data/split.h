/* split.h - who holds which training samples. Depends on data.seed and the sections only: equal for all trials of equal
 * settings. validation_split: RNG_SPLIT 0, stratified by label. partitions: RNG_PARTITION. A client's held-out share:
 * RNG_SPLIT 1 + client. Indices are into the training split, ascending within a client.
 * Dirichlet: Hsu, Qi, Brown 2019 (arXiv:1909.06335) as in NIID-Bench (Li et al. 2021): for each class, shares over clients
 * from Dir(alpha); drawn again as a whole until every client has min_samples (at most 100 tries, then samples are moved from
 * the largest clients, so that no client is ever empty). Logarithms throughout: no NaN for small alpha.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_TRAINER_SPLIT_H
#define FLEXP_TRAINER_SPLIT_H

#include "common/error.h"
#include "common/json.h"
#include "trainer/data/dataset.h"

struct indices {
    uint32_t *list;
    size_t n;
};

struct client_data {
    struct indices train, held_out; /* held_out may be empty */
};

struct federation_data {
    struct indices train, validation; /* central: all that is trained on, and the validation split */
    struct client_data *clients;
    size_t clients_n;
};

/* data: resolved section (validation_fraction; validation: split | official_test, in which case validation indexes the
 * test split). federation: resolved section, or NULL / {enabled: false}: one client that holds all. -EINVAL where a request
 * cannot be met (more clients than samples). */
int split_make(const struct dataset *dataset, const json_t *data, const json_t *federation, uint64_t data_seed,
               struct federation_data **ret, struct error *err);
/* Counts, classes, channel statistics, and what each client holds. docs/protocol.md, `plan`. New reference. */
json_t *dataset_json(const struct dataset *dataset, const struct federation_data *split);
void split_free(struct federation_data *split);

#endif
