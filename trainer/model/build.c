/* build.c - from the `model` section to layers, shapes and parameters.
 * A mistake is reported with its path and then mended in place (the layer is taken to have some sensible output), so
 * that one pass finds all mistakes of a file; a model with mistakes is never handed out. The layers themselves are in
 * layers.c. SPDX-License-Identifier: Apache-2.0 */
#include "trainer/model/model_private.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct path model_path(const struct path *base, const char *format, ...)
{
    struct path p = *base;
    size_t length = strlen(p.text);
    va_list args;

    va_start(args, format);
    vsnprintf(p.text + length, sizeof p.text - length, format, args);
    va_end(args);
    return p;
}

void model_wrong(struct builder *b, const struct path *path, const char *format, ...)
{
    char text[500], whole[1000];
    va_list args;

    b->errors++;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (b->preset) {
        snprintf(whole, sizeof whole, "%s does not fit this data: at %s: %s", b->preset, path->text, text);
        b->report(b->arg, false, "model.preset", whole);
    } else {
        b->report(b->arg, false, path->text, text);
    }
}

const char *model_shape_text(const struct shape *s, char *buffer, size_t size)
{
    if (s->flat)
        snprintf(buffer, size, "%d flat values", s->c);
    else
        snprintf(buffer, size, "%dx%dx%d (channels, height, width)", s->c, s->h, s->w);
    return buffer;
}

struct layer *model_add_layer(struct builder *b, enum layer_type type)
{
    struct model *m = b->model;
    struct layer *l;

    if (m->layers_n == b->layers_capacity) {
        size_t capacity = b->layers_capacity ? 2 * b->layers_capacity : 16;
        struct layer *grown = realloc(m->layers, capacity * sizeof *grown);
        if (!grown) {
            b->out_of_memory = true;
            return NULL;
        }
        m->layers = grown;
        b->layers_capacity = capacity;
    }
    l = &m->layers[m->layers_n];
    *l = (struct layer){.type = type,
                        .in = b->shape,
                        .out = b->shape,
                        .input = b->end,
                        .from = -1,
                        .groups = 1,
                        .weight = -1,
                        .bias_param = -1,
                        .running_mean = -1,
                        .running_var = -1};
    b->end = (int)m->layers_n++;
    return l;
}

int model_add_param(struct builder *b, const char *what, const int *shape, int dims, bool trainable, double bound,
                    float value)
{
    struct model *m = b->model;
    struct param *p;
    double size = 1;

    if (m->params_n == b->params_capacity) {
        size_t capacity = b->params_capacity ? 2 * b->params_capacity : 16;
        struct param *grown = realloc(m->params, capacity * sizeof *grown);
        if (!grown) {
            b->out_of_memory = true;
            return -1;
        }
        m->params = grown;
        b->params_capacity = capacity;
    }
    p = &m->params[m->params_n];
    *p = (struct param){.dims = dims, .trainable = trainable, .init_bound = bound, .init_value = value};
    snprintf(p->name, sizeof p->name, "%d.%s", b->end, what);
    for (int i = 0; i < dims; i++) {
        p->shape[i] = shape[i];
        size *= shape[i];
    }
    if ((double)m->weights_n + size > MAX_VALUES)
        b->too_large = true;
    else
        m->weights_n += (size_t)size;
    p->size = (size_t)fmin(size, MAX_VALUES);
    return (int)m->params_n++;
}

/* Parameters first, then buffers; offsets in that order. */
static int order_params(struct model *m)
{
    struct param *sorted = calloc(m->params_n + 1, sizeof *sorted);
    int *place = calloc(m->params_n + 1, sizeof *place);
    size_t n = 0, offset = 0;

    if (!sorted || !place) {
        free(sorted);
        free(place);
        return -ENOMEM;
    }
    for (int buffers = 0; buffers < 2; buffers++) {
        for (size_t i = 0; i < m->params_n; i++)
            if (m->params[i].trainable == !buffers) {
                place[i] = (int)n;
                sorted[n] = m->params[i];
                sorted[n].offset = offset;
                offset += sorted[n++].size;
            }
        if (!buffers)
            m->trainable_n = offset;
    }
    m->weights_n = offset;
    for (size_t i = 0; i < m->layers_n; i++) {
        int *indexes[] = {&m->layers[i].weight, &m->layers[i].bias_param, &m->layers[i].running_mean,
                          &m->layers[i].running_var};
        for (size_t k = 0; k < 4; k++)
            if (*indexes[k] >= 0)
                *indexes[k] = place[*indexes[k]];
    }
    memcpy(m->params, sorted, m->params_n * sizeof *sorted);
    free(sorted);
    free(place);
    return 0;
}

static void build(struct builder *b, const json_t *section)
{
    const char *preset_name = json_string_or(section, "preset", NULL), *init = json_string_or(section, "init", NULL);
    const json_t *layers = json_object_get(section, "layers");
    const struct preset *preset = preset_name ? preset_find(preset_name) : NULL;
    struct path path = {"model.layers"}, whole = {"model"};
    json_t *preset_layers = NULL;

    if (preset_name && layers && !json_is_null(layers)) {
        model_wrong(b, &whole, "give preset or layers, not both");
        return;
    }
    if (preset_name && !preset) {
        struct path p = {"model.preset"};
        model_wrong(b, &p, "there is no preset \"%s\"", preset_name);
        return;
    }
    if (!preset && (!layers || json_is_null(layers))) {
        model_wrong(b, &whole, "needs preset or layers");
        return;
    }
    b->init = preset ? preset->init : INIT_HE_UNIFORM;
    if (init)
        b->init = !strcmp(init, "glorot_uniform") ? INIT_GLOROT_UNIFORM
                  : !strcmp(init, "pytorch")      ? INIT_PYTORCH
                                                  : INIT_HE_UNIFORM;
    if (preset) {
        b->preset = preset->name;
        if (json_parse(preset->layers, strlen(preset->layers), &preset_layers, NULL)) {
            b->out_of_memory = true; /* the texts are ours and parse */
            return;
        }
        layers = preset_layers;
        snprintf(path.text, sizeof path.text, "layers");
    }
    model_add_list(b, layers, &path);
    if (!b->errors && !(b->shape.flat && b->shape.c == b->classes)) {
        struct path p = model_path(&path, "[%zu]", json_array_size(layers) - 1);
        model_wrong(b, &p, "the last layer must give one value for each of the data's %d classes, but it gives %s",
                    b->classes, MODEL_SHAPE(&b->shape));
    }
    if (!b->errors && b->too_large)
        model_wrong(b, &whole, "the network has more than %.0f parameters", MAX_VALUES);
    json_decref(preset_layers);
}

int model_new_report(const json_t *section, const struct data_shape *data, struct model **ret, keys_report_fn *report,
                     void *arg)
{
    struct builder b = {.classes = data->classes,
                        .shape = {.c = data->channels, .h = data->height, .w = data->width},
                        .end = -1,
                        .report = report,
                        .arg = arg};

    b.model = calloc(1, sizeof *b.model);
    if (!b.model)
        goto no_memory;
    b.model->input = b.shape;
    b.model->classes = data->classes;
    build(&b, section);
    if (b.out_of_memory)
        goto no_memory;
    if (b.errors) {
        model_free(b.model);
        return -EINVAL;
    }
    b.model->key = model_key_text(b.model);
    if (!b.model->key || order_params(b.model))
        goto no_memory;
    b.model->flops_forward = model_flops(b.model);
    *ret = b.model;
    return 0;
no_memory:
    model_free(b.model);
    report(arg, false, "model", "out of memory");
    return -ENOMEM;
}

struct first_error {
    int n;
    char text[900];
};

static void keep_first(void *arg, bool warning, const char *path, const char *text)
{
    struct first_error *first = arg;

    if (warning)
        return;
    if (!first->n++)
        snprintf(first->text, sizeof first->text, "%s: %s", path, text);
}

int model_new(const json_t *section, const struct data_shape *data, struct model **ret, struct error *err)
{
    struct first_error first = {0};
    int rc = model_new_report(section, data, ret, keep_first, &first);

    if (rc && first.n > 1)
        return fail(err, rc, "%s (and %d more)", first.text, first.n - 1);
    if (rc)
        return fail(err, rc, "%s", first.text);
    return 0;
}
