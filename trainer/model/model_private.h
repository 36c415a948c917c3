/* model_private.h - what the files of model/ share.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_TRAINER_MODEL_PRIVATE_H
#define FLEXP_TRAINER_MODEL_PRIVATE_H

#include "trainer/model/model.h"

enum init { INIT_HE_UNIFORM, INIT_GLOROT_UNIFORM, INIT_PYTORCH };

/* A preset as the layer list that a person could have written, in the resolved spelling of common/sections.c. */
struct preset {
    const char *name;
    const char *layers; /* JSON */
    enum init init;     /* where model.init is absent */
};

/* NULL where there is none of that name. */
const struct preset *preset_find(const char *name);

/* Multiplications and additions of one image through convolutions and dense layers. */
double model_flops(const struct model *model);
/* Canonical text of the network; the caller frees. NULL when out of memory. */
char *model_key_text(const struct model *model);

#endif
