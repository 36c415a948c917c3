/* describe.c - what is told about a finished model (work, canonical text), and its starting weights.
 * SPDX-License-Identifier: Apache-2.0 */
#include "common/rng.h"
#include "trainer/model/model_private.h"

#include <stdio.h>
#include <stdlib.h>

double model_flops(const struct model *model)
{
    double flops = 0;

    for (size_t i = 0; i < model->layers_n; i++) {
        const struct layer *l = &model->layers[i];
        if (l->type == LAYER_CONV2D)
            flops += 2.0 * l->out.c * l->out.h * l->out.w * (l->in.c / l->groups) * l->kernel_h * l->kernel_w;
        else if (l->type == LAYER_DENSE)
            flops += 2.0 * l->in.c * l->out.c;
    }
    return flops;
}

static const char *const TYPE_NAMES[] = {
    [LAYER_CONV2D] = "conv2d",
    [LAYER_DENSE] = "dense",
    [LAYER_MAX_POOL2D] = "max_pool2d",
    [LAYER_AVG_POOL2D] = "avg_pool2d",
    [LAYER_GLOBAL_AVG_POOL2D] = "global_avg_pool2d",
    [LAYER_BATCH_NORM] = "batch_norm",
    [LAYER_GROUP_NORM] = "group_norm",
    [LAYER_DROPOUT] = "dropout",
    [LAYER_RELU] = "relu",
    [LAYER_FLATTEN] = "flatten",
    [LAYER_ADD] = "add",
};

char *model_key_text(const struct model *model)
{
    char *text = NULL;
    size_t length;
    FILE *out = open_memstream(&text, &length);
    bool bad;

    if (!out)
        return NULL;
    fprintf(out, "%dx%dx%d/%d", model->input.c, model->input.h, model->input.w, model->classes);
    for (size_t i = 0; i < model->layers_n; i++) {
        const struct layer *l = &model->layers[i];
        fprintf(out, ";%s", TYPE_NAMES[l->type]);
        if (l->input != (int)i - 1)
            fprintf(out, " of %d", l->input);
        switch (l->type) {
        case LAYER_CONV2D:
        case LAYER_MAX_POOL2D:
        case LAYER_AVG_POOL2D:
            fprintf(out, " %d k%dx%d s%d p%d,%d,%d,%d g%d%s", l->out.c, l->kernel_h, l->kernel_w, l->stride, l->pad_top,
                    l->pad_left, l->pad_bottom, l->pad_right, l->groups, l->bias ? " b" : "");
            break;
        case LAYER_DENSE:
            fprintf(out, " %d%s", l->out.c, l->bias ? " b" : "");
            break;
        case LAYER_BATCH_NORM:
            fprintf(out, " %.17g %.17g", l->eps, l->momentum);
            break;
        case LAYER_GROUP_NORM:
            fprintf(out, " %d %.17g", l->norm_groups, l->eps);
            break;
        case LAYER_DROPOUT:
            fprintf(out, " %.17g", l->rate);
            break;
        case LAYER_ADD:
            fprintf(out, " %d", l->from);
            break;
        default:
            break;
        }
    }
    bad = ferror(out) != 0;
    if (fclose(out) || bad) {
        free(text);
        return NULL;
    }
    return text;
}

void model_init_weights(const struct model *model, uint64_t seed, uint64_t trial, float *weights)
{
    struct pcg32 rng = rng_key(seed, RNG_INIT, trial, 0, 0);

    for (size_t i = 0; i < model->params_n; i++) {
        const struct param *p = &model->params[i];
        float *w = weights + p->offset;
        if (p->init_bound > 0) {
            for (size_t k = 0; k < p->size; k++)
                w[k] = (float)(p->init_bound * (2.0 * (double)rng_float(&rng) - 1.0));
        } else {
            for (size_t k = 0; k < p->size; k++)
                w[k] = p->init_value;
        }
    }
}

void model_free(struct model *model)
{
    if (!model)
        return;
    free(model->layers);
    free(model->params);
    free(model->key);
    free(model);
}
