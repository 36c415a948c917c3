/* describe.c - what is told about a finished model (work, canonical text), and its starting weights.
 * SPDX-License-Identifier: Apache-2.0 */
#include "common/rng.h"
#include "trainer/model/model_private.h"

#include <stdio.h>
#include <stdlib.h>

static double layer_flops(const struct layer *l)
{
    if (l->type == LAYER_CONV2D)
        return 2.0 * l->out.c * l->out.h * l->out.w * (l->in.c / l->groups) * l->kernel_h * l->kernel_w;
    return l->type == LAYER_DENSE ? 2.0 * l->in.c * l->out.c : 0;
}

double model_flops(const struct model *model)
{
    double flops = 0;

    for (size_t i = 0; i < model->layers_n; i++)
        flops += layer_flops(&model->layers[i]);
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
            fputs(l->rate > 0 ? "" : " off", out);
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

int model_sole_reader(const struct model *m, int t)
{
    int found = -1;

    for (size_t i = 0; i < m->layers_n; i++) {
        int reads = (m->layers[i].input + 1 == t) + (m->layers[i].type == LAYER_ADD && m->layers[i].from + 1 == t);
        if (!reads)
            continue;
        if (reads > 1 || found >= 0)
            return -1;
        found = (int)i;
    }
    return found;
}

const char *layer_type_name(enum layer_type type)
{
    return TYPE_NAMES[type];
}

/* --- for people ------------------------------------------------------------------------------------------------- */

static json_t *shape_json(const struct shape *shape)
{
    return shape->flat ? json_pack("[i]", shape->c) : json_pack("[i, i, i]", shape->c, shape->h, shape->w);
}

static double param_size(const struct model *model, int index)
{
    return index < 0 ? 0 : (double)model->params[index].size;
}

/* What a person would write in the file, without what follows from the shapes. */
static json_t *settings_json(const struct layer *l)
{
    json_t *settings = json_object();

    if (l->type == LAYER_CONV2D || l->type == LAYER_MAX_POOL2D || l->type == LAYER_AVG_POOL2D) {
        json_object_set_new(settings, l->type == LAYER_CONV2D ? "kernel" : "size", json_integer(l->kernel_h));
        json_object_set_new(settings, "stride", json_integer(l->stride));
        json_object_set_new(settings, "padding", json_pack("[i, i, i, i]", l->pad_top, l->pad_left, l->pad_bottom, l->pad_right));
    }
    if (l->type == LAYER_CONV2D && l->groups > 1)
        json_object_set_new(settings, "groups", json_integer(l->groups));
    if (l->type == LAYER_GROUP_NORM)
        json_object_set_new(settings, "groups", json_integer(l->norm_groups));
    if (l->type == LAYER_DROPOUT)
        json_object_set_new(settings, "rate", json_real(l->rate));
    return settings;
}

json_t *model_json(const struct model *model)
{
    json_t *layers = json_array();

    for (size_t i = 0; i < model->layers_n; i++) {
        const struct layer *l = &model->layers[i];
        json_t *row = json_pack("{s:I, s:s, s:o, s:o, s:i, s:f, s:f, s:f, s:o}", "index", (json_int_t)i, "type",
                                TYPE_NAMES[l->type], "in", shape_json(&l->in), "out", shape_json(&l->out), "input", l->input,
                                "parameters", param_size(model, l->weight) + param_size(model, l->bias_param), "buffers",
                                param_size(model, l->running_mean) + param_size(model, l->running_var), "flops",
                                layer_flops(l), "settings", settings_json(l));
        if (l->type == LAYER_ADD)
            json_object_set_new(row, "from", json_integer(l->from));
        json_array_append_new(layers, row);
    }
    return json_pack("{s:o, s:i, s:o, s:f, s:f, s:f, s:f}", "input", shape_json(&model->input), "classes", model->classes,
                     "layers", layers, "parameters", (double)model->trainable_n, "buffers",
                     (double)(model->weights_n - model->trainable_n), "weight_bytes", 4.0 * (double)model->weights_n,
                     "flops_forward", model->flops_forward);
}
