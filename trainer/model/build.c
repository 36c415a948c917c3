/* build.c - from the `model` section to layers, shapes and parameters.
 * A mistake is reported with its path and then mended in place (the layer is taken to have some sensible output), so that
 * one pass finds all mistakes of a file; a model with mistakes is never handed out.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/model/model_private.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_LAYERS 10000
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

/* paths */

struct path {
    char text[400];
};

static struct path path_of(const struct path *base, const char *format, ...) __attribute__((format(printf, 2, 3)));
static struct path path_of(const struct path *base, const char *format, ...)
{
    struct path p = *base;
    size_t length = strlen(p.text);
    va_list args;

    va_start(args, format);
    vsnprintf(p.text + length, sizeof p.text - length, format, args);
    va_end(args);
    return p;
}

static void wrong(struct builder *b, const struct path *path, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static void wrong(struct builder *b, const struct path *path, const char *format, ...)
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

static const char *shape_text(const struct shape *s, char *buffer, size_t size)
{
    if (s->flat)
        snprintf(buffer, size, "%d flat values", s->c);
    else
        snprintf(buffer, size, "%dx%dx%d (channels, height, width)", s->c, s->h, s->w);
    return buffer;
}
#define SHAPE(s) shape_text(s, (char[64]){0}, 64)

/* reading one layer's keys; common/keys.c has checked them, but a worker may be handed anything */

static int get_int(struct builder *b, const json_t *spec, const char *key, const struct path *path, int absent, int max)
{
    const json_t *value = json_object_get(spec, key);

    if (!value && absent >= 0)
        return absent;
    if (!json_is_integer(value) || json_integer_value(value) < (absent == 0 ? 0 : 1) ||
        json_integer_value(value) > max) {
        struct path p = path_of(path, ".%s", key);
        wrong(b, &p, "must be a whole number from %d to %d", absent == 0 ? 0 : 1, max);
        return 1;
    }
    return (int)json_integer_value(value);
}

static double get_number(struct builder *b, const json_t *spec, const char *key, const struct path *path, double absent,
                         double max)
{
    const json_t *value = json_object_get(spec, key);
    double number = json_number_value(value);

    if (!value && absent >= 0)
        return absent;
    if (!json_is_number(value) || !(number >= 0 && number <= max)) {
        struct path p = path_of(path, ".%s", key);
        wrong(b, &p, "must be a number from 0 to %g", max);
        return 0;
    }
    return number;
}

/* growing the model */

static struct layer *add_layer(struct builder *b, enum layer_type type)
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

static int add_param(struct builder *b, const char *what, const int *shape, int dims, bool trainable, double bound,
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

/* A new output shape, refused where it could not be held in memory anyway. */
static void set_out(struct builder *b, struct layer *l, const struct path *path, int64_t c, int64_t h, int64_t w,
                    bool flat)
{
    if ((double)c * (double)h * (double)w > MAX_VALUES) {
        wrong(b, path, "the output would have %.0f values for each image; at most %.0f", (double)c * (double)h * (double)w,
              MAX_VALUES);
        c = h = w = 1;
    }
    l->out = (struct shape){.c = (int)c, .h = (int)h, .w = (int)w, .flat = flat};
    b->shape = l->out;
}

static bool need_image(struct builder *b, const struct path *path, const char *what)
{
    if (!b->shape.flat)
        return true;
    wrong(b, path, "%s needs an image, but what comes in is %s", what, SHAPE(&b->shape));
    b->shape = (struct shape){.c = b->shape.c, .h = 1, .w = 1};
    return false;
}

static void add_activation(struct builder *b, const json_t *spec)
{
    if (!strcmp(json_string_or(spec, "activation", "none"), "relu"))
        add_layer(b, LAYER_RELU);
}

static double init_bound(enum init init, double fan_in, double fan_out)
{
    switch (init) {
    case INIT_GLOROT_UNIFORM:
        return sqrt(6.0 / (fan_in + fan_out));
    case INIT_PYTORCH:
        return sqrt(1.0 / fan_in);
    default:
        return sqrt(6.0 / fan_in);
    }
}

static void add_weight_and_bias(struct builder *b, const int *shape, int dims, bool bias)
{
    double area = dims == 4 ? (double)shape[2] * shape[3] : 1;
    double fan_in = shape[1] * area, fan_out = shape[0] * area;
    size_t i = (size_t)b->end;
    int weight = add_param(b, "weight", shape, dims, true, init_bound(b->init, fan_in, fan_out), 0);
    int bias_param = -1;

    if (bias)
        bias_param = add_param(b, "bias", shape, 1, true, b->init == INIT_PYTORCH ? sqrt(1.0 / fan_in) : 0, 0);
    b->model->layers[i].weight = weight;
    b->model->layers[i].bias_param = bias_param;
    b->model->layers[i].bias = bias;
}

/* Pads and output size of a window in one direction; false when it does not fit. */
static bool window(int in, int kernel, int stride, int pad, bool same, int *ret_before, int *ret_after, int *ret_out)
{
    if (same) { /* as TensorFlow and PyTorch: what is odd goes after */
        int out = (in + stride - 1) / stride, total = (out - 1) * stride + kernel - in;
        if (total < 0)
            total = 0;
        *ret_before = total / 2;
        *ret_after = total - total / 2;
        *ret_out = out;
        return true;
    }
    *ret_before = *ret_after = pad;
    *ret_out = in + 2 * pad >= kernel ? (in + 2 * pad - kernel) / stride + 1 : 1;
    return in + 2 * pad >= kernel;
}

/* the layers */

static void add_conv2d(struct builder *b, const json_t *spec, const struct path *path)
{
    int filters = get_int(b, spec, "filters", path, -1, 65536), kernel = get_int(b, spec, "kernel", path, -1, 64);
    int stride = get_int(b, spec, "stride", path, 1, 64), groups = get_int(b, spec, "groups", path, 1, 65536);
    const json_t *padding = json_object_get(spec, "padding");
    bool words = json_is_string(padding), same = words && !strcmp(json_string_value(padding), "same"), fits;
    int pad = words ? 0 : get_int(b, spec, "padding", path, 0, 64), h, w;
    struct layer *l;
    struct path p;

    if (words && !same && strcmp(json_string_value(padding), "valid")) {
        p = path_of(path, ".padding");
        wrong(b, &p, "must be same, valid or a number of pixels, got \"%s\"", json_string_value(padding));
    }
    need_image(b, path, "conv2d");
    if (b->shape.c % groups || filters % groups) {
        p = path_of(path, ".groups");
        wrong(b, &p, "%d groups do not divide %d input channels and %d filters", groups, b->shape.c, filters);
        groups = 1;
    }
    l = add_layer(b, LAYER_CONV2D);
    if (!l)
        return;
    l->kernel_h = l->kernel_w = kernel;
    l->stride = stride;
    l->groups = groups;
    fits = window(l->in.h, kernel, stride, pad, same, &l->pad_top, &l->pad_bottom, &h);
    fits &= window(l->in.w, kernel, stride, pad, same, &l->pad_left, &l->pad_right, &w);
    if (!fits) {
        p = path_of(path, ".kernel");
        wrong(b, &p, "kernel %d is larger than its %dx%d input%s", kernel, l->in.h + 2 * pad, l->in.w + 2 * pad,
              pad ? " (padding counted)" : "");
    }
    set_out(b, l, path, filters, h, w, false);
    add_weight_and_bias(b, (int[]){filters, l->in.c / groups, kernel, kernel}, 4, json_bool_or(spec, "bias", true));
    add_activation(b, spec);
}

static void add_dense(struct builder *b, const json_t *spec, const struct path *path)
{
    const json_t *units = json_object_get(spec, "units");
    bool classes = json_is_string(units) && !strcmp(json_string_value(units), "classes");
    int n = classes ? b->classes : get_int(b, spec, "units", path, -1, 1048576);
    struct layer *l;

    if (!b->shape.flat) {
        wrong(b, path, "dense needs flat values, but what comes in is %s; put flatten or global_avg_pool2d before it",
              SHAPE(&b->shape));
        b->shape = (struct shape){.c = b->shape.c * b->shape.h * b->shape.w, .h = 1, .w = 1, .flat = true};
    }
    l = add_layer(b, LAYER_DENSE);
    if (!l)
        return;
    set_out(b, l, path, n, 1, 1, true);
    add_weight_and_bias(b, (int[]){n, l->in.c}, 2, json_bool_or(spec, "bias", true));
    add_activation(b, spec);
}

static void add_pool(struct builder *b, const json_t *spec, const struct path *path, enum layer_type type,
                     const char *name)
{
    int size = get_int(b, spec, "size", path, -1, 64), stride = get_int(b, spec, "stride", path, size, 64);
    int pad = get_int(b, spec, "padding", path, 0, 32), h, w;
    struct layer *l;
    struct path p;
    bool fits;

    need_image(b, path, name);
    if (pad >= size) {
        p = path_of(path, ".padding");
        wrong(b, &p, "must be less than the window's size %d, got %d", size, pad);
        pad = 0;
    }
    l = add_layer(b, type);
    if (!l)
        return;
    l->kernel_h = l->kernel_w = size;
    l->stride = stride;
    fits = window(l->in.h, size, stride, pad, false, &l->pad_top, &l->pad_bottom, &h);
    fits &= window(l->in.w, size, stride, pad, false, &l->pad_left, &l->pad_right, &w);
    if (!fits) {
        p = path_of(path, ".size");
        wrong(b, &p, "window %d is larger than its %dx%d input%s", size, l->in.h + 2 * pad, l->in.w + 2 * pad,
              pad ? " (padding counted)" : "");
    }
    set_out(b, l, path, l->in.c, h, w, false);
}

static void add_max_pool2d(struct builder *b, const json_t *spec, const struct path *path)
{
    add_pool(b, spec, path, LAYER_MAX_POOL2D, "max_pool2d");
}

static void add_avg_pool2d(struct builder *b, const json_t *spec, const struct path *path)
{
    add_pool(b, spec, path, LAYER_AVG_POOL2D, "avg_pool2d");
}

static void add_global_avg_pool2d(struct builder *b, const json_t *spec, const struct path *path)
{
    struct layer *l;

    (void)spec;
    need_image(b, path, "global_avg_pool2d");
    l = add_layer(b, LAYER_GLOBAL_AVG_POOL2D);
    if (l)
        set_out(b, l, path, l->in.c, 1, 1, true);
}

static void add_scale_and_shift(struct builder *b)
{
    size_t i = (size_t)b->end;
    int gamma = add_param(b, "weight", &b->shape.c, 1, true, 0, 1), beta = add_param(b, "bias", &b->shape.c, 1, true, 0, 0);

    b->model->layers[i].weight = gamma;
    b->model->layers[i].bias_param = beta;
    b->model->layers[i].bias = true;
}

static void add_batch_norm(struct builder *b, const json_t *spec, const struct path *path)
{
    double eps = get_number(b, spec, "eps", path, 1e-5, 1), momentum = get_number(b, spec, "momentum", path, 0.1, 1);
    struct layer *l = add_layer(b, LAYER_BATCH_NORM);
    int mean, var;

    if (!l)
        return;
    l->eps = eps;
    l->momentum = momentum;
    add_scale_and_shift(b);
    mean = add_param(b, "running_mean", &b->shape.c, 1, false, 0, 0);
    var = add_param(b, "running_var", &b->shape.c, 1, false, 0, 1);
    l->running_mean = mean;
    l->running_var = var;
    add_activation(b, spec);
}

static void add_group_norm(struct builder *b, const json_t *spec, const struct path *path)
{
    int groups = get_int(b, spec, "groups", path, -1, 65536);
    double eps = get_number(b, spec, "eps", path, 1e-5, 1);
    struct layer *l;

    if (b->shape.c % groups) {
        struct path p = path_of(path, ".groups");
        wrong(b, &p, "%d groups do not divide %d channels", groups, b->shape.c);
        groups = 1;
    }
    l = add_layer(b, LAYER_GROUP_NORM);
    if (!l)
        return;
    l->norm_groups = groups;
    l->eps = eps;
    add_scale_and_shift(b);
    add_activation(b, spec);
}

static void add_dropout(struct builder *b, const json_t *spec, const struct path *path)
{
    double rate = get_number(b, spec, "rate", path, -1, 0.99);
    struct layer *l = add_layer(b, LAYER_DROPOUT);

    if (l)
        l->rate = rate;
}

static void add_relu(struct builder *b, const json_t *spec, const struct path *path)
{
    (void)spec, (void)path;
    add_layer(b, LAYER_RELU);
}

static void add_flatten(struct builder *b, const json_t *spec, const struct path *path)
{
    struct layer *l = add_layer(b, LAYER_FLATTEN);

    (void)spec;
    if (l)
        set_out(b, l, path, (int64_t)l->in.c * l->in.h * l->in.w, 1, 1, true);
}

static void add_list(struct builder *b, const json_t *list, const struct path *path);

static void add_repeat(struct builder *b, const json_t *spec, const struct path *path)
{
    int times = get_int(b, spec, "times", path, -1, 1000), before = b->errors;
    struct path p = path_of(path, ".layers");

    /* The mistake of one turn is not told again for the next. */
    for (int i = 0; i < times && b->errors == before && !b->out_of_memory; i++)
        add_list(b, json_object_get(spec, "layers"), &p);
}

static void add_residual(struct builder *b, const json_t *spec, const struct path *path)
{
    struct shape before = b->shape, branch;
    int start = b->end, branch_end;
    const json_t *shortcut = json_object_get(spec, "shortcut");
    struct path p = path_of(path, ".layers"), q = path_of(path, ".shortcut");
    struct layer *l;

    add_list(b, json_object_get(spec, "layers"), &p);
    branch = b->shape;
    branch_end = b->end;
    b->shape = before;
    b->end = start;
    if (json_array_size(shortcut))
        add_list(b, shortcut, &q);
    if (b->shape.c != branch.c || b->shape.h != branch.h || b->shape.w != branch.w || b->shape.flat != branch.flat)
        wrong(b, path, "the branch gives %s, but %s gives %s; both must be equal", SHAPE(&branch),
              json_array_size(shortcut) ? "the shortcut" : "its input (there is no shortcut)", SHAPE(&b->shape));
    start = b->end;
    b->shape = branch;
    b->end = branch_end;
    l = add_layer(b, LAYER_ADD);
    if (!l)
        return;
    l->from = start;
    add_activation(b, spec);
}

static const struct {
    const char *name;
    void (*add)(struct builder *b, const json_t *spec, const struct path *path);
} LAYERS[] = {
    {"conv2d", add_conv2d},
    {"dense", add_dense},
    {"max_pool2d", add_max_pool2d},
    {"avg_pool2d", add_avg_pool2d},
    {"global_avg_pool2d", add_global_avg_pool2d},
    {"batch_norm", add_batch_norm},
    {"group_norm", add_group_norm},
    {"dropout", add_dropout},
    {"relu", add_relu},
    {"flatten", add_flatten},
    {"repeat", add_repeat},
    {"residual", add_residual},
};

static void add_one(struct builder *b, const json_t *entry, const struct path *path)
{
    const char *name = json_is_string(entry) ? json_string_value(entry) : NULL;
    const json_t *spec = NULL;
    struct path p;

    if (json_object_size(entry) == 1) {
        void *iter = json_object_iter((json_t *)entry);
        name = json_object_iter_key(iter);
        spec = json_object_iter_value(iter);
    }
    for (size_t i = 0; name && i < sizeof LAYERS / sizeof LAYERS[0]; i++)
        if (!strcmp(name, LAYERS[i].name)) {
            p = path_of(path, ".%s", name);
            LAYERS[i].add(b, spec, &p);
            return;
        }
    if (name)
        wrong(b, path, "there is no layer \"%s\"", name);
    else
        wrong(b, path, "must be the name of a layer, or a map of one layer's name to its settings");
}

static void add_list(struct builder *b, const json_t *list, const struct path *path)
{
    if (!json_array_size(list)) {
        wrong(b, path, "must be a list of at least one layer");
        return;
    }
    for (size_t i = 0; i < json_array_size(list) && !b->out_of_memory && !b->too_long; i++) {
        struct path p = path_of(path, "[%zu]", i);
        if (b->model->layers_n >= MAX_LAYERS) {
            b->too_long = true;
            wrong(b, &p, "the network has more than %d layers", MAX_LAYERS);
            return;
        }
        add_one(b, json_array_get(list, i), &p);
    }
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
    struct path path = {"model.layers"}, model_path = {"model"};
    json_t *preset_layers = NULL;

    if (preset_name && layers && !json_is_null(layers)) {
        wrong(b, &model_path, "give preset or layers, not both");
        return;
    }
    if (preset_name && !preset) {
        struct path p = {"model.preset"};
        wrong(b, &p, "there is no preset \"%s\"", preset_name);
        return;
    }
    if (!preset && (!layers || json_is_null(layers))) {
        wrong(b, &model_path, "needs preset or layers");
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
    add_list(b, layers, &path);
    if (!b->errors && !(b->shape.flat && b->shape.c == b->classes)) {
        struct path p = path_of(&path, "[%zu]", json_array_size(layers) - 1);
        wrong(b, &p, "the last layer must give one value for each of the data's %d classes, but it gives %s", b->classes,
              SHAPE(&b->shape));
    }
    if (!b->errors && b->too_large)
        wrong(b, &model_path, "the network has more than %.0f parameters", MAX_VALUES);
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
