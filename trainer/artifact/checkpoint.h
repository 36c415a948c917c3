/* checkpoint.h - all that a trial needs to go on as if it had never stopped, in one safetensors file: the model's tensors
 * under their names, "optimizer" where there is such state, and in the metadata `state` (a JSON object), `model` (hash of
 * the model's key), `seed`, `trial` and `checksum`, which is over all the rest. Reading refuses a checkpoint of another
 * model, seed or trial, and a file that is torn, altered or gone.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_TRAINER_CHECKPOINT_H
#define FLEXP_TRAINER_CHECKPOINT_H

#include "common/error.h"
#include "common/json.h"
#include "trainer/model/model.h"

struct checkpoint {
    const struct model *model;
    uint64_t seed, trial;
    float *weights;       /* weights_n */
    float *optimizer;     /* NULL: none */
    size_t optimizer_n;
    json_t *state;        /* writing: borrowed; reading: new reference */
};

int checkpoint_write(const char *path, const struct checkpoint *checkpoint, struct error *err);
/* model, seed, trial and the arrays are the caller's; weights and optimizer are filled, state is set. -EUCLEAN: the file
 * cannot be used, now or later; the arrays' content is then undefined. */
int checkpoint_read(const char *path, struct checkpoint *checkpoint, struct error *err);

/* The model alone, for whoever uses it: tensors and metadata (an object of strings). */
int model_file_write(const char *path, const struct model *model, const float *weights, const json_t *metadata,
                     struct error *err);

#endif
