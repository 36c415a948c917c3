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

#define MAX_VALUES 2147483647.0 /* of one image's activation, and of all weights */

struct builder {
    struct model *model;
    size_t layers_capacity, params_capacity;
    int classes;
    enum init init;
    struct shape shape; /* of the end so far */
    int end;            /* its layer; -1: the image */
    int errors;
    bool out_of_memory, too_long, too_large;
    keys_report_fn *report;
    void *arg;
    const char *preset; /* errors name it, since its layers are not in the file */
};

struct path {
    char text[400];
};

struct path model_path(const struct path *base, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Reports a mistake at path. */
void model_wrong(struct builder *b, const struct path *path, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
const char *model_shape_text(const struct shape *shape, char *buffer, size_t size);
#define MODEL_SHAPE(shape) model_shape_text(shape, (char[64]){0}, 64)
/* Behind b->end, with that one's shape on both sides. NULL, and b->out_of_memory, when there is no memory. */
struct layer *model_add_layer(struct builder *b, enum layer_type type);
/* Of the layer b->end; its index. */
int model_add_param(struct builder *b, const char *what, const int *shape, int dims, bool trainable, double bound,
                    float value);
/* layers.c: a list of layers, in the resolved spelling. */
void model_add_list(struct builder *b, const json_t *list, const struct path *path);

/* NULL where there is none of that name. */
const struct preset *preset_find(const char *name);

/* Multiplications and additions of one image through convolutions and dense layers. */
double model_flops(const struct model *model);
/* Canonical text of the network; the caller frees. NULL when out of memory. */
char *model_key_text(const struct model *model);

#endif
