/* layers.c - each kind of layer: its keys, its output's shape, its parameters; one row of the table LAYERS each.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/model/model_private.h"

#include <math.h>
#include <string.h>

#define MAX_LAYERS 10000

/* Reading one layer's keys: common/keys.c has checked them, but a worker may be handed anything. */

static int get_int(struct builder *b, const json_t *spec, const char *key, const struct path *path, int absent, int max)
{
    const json_t *value = json_object_get(spec, key);

    if (!value && absent >= 0)
        return absent;
    if (!json_is_integer(value) || json_integer_value(value) < (absent == 0 ? 0 : 1) ||
        json_integer_value(value) > max) {
        struct path p = model_path(path, ".%s", key);
        model_wrong(b, &p, "must be a whole number from %d to %d", absent == 0 ? 0 : 1, max);
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
        struct path p = model_path(path, ".%s", key);
        model_wrong(b, &p, "must be a number from 0 to %g", max);
        return 0;
    }
    return number;
}

/* A new output shape, refused where it could not be held in memory anyway. */
static void set_out(struct builder *b, struct layer *l, const struct path *path, int64_t c, int64_t h, int64_t w,
                    bool flat)
{
    if ((double)c * (double)h * (double)w > MAX_VALUES) {
        model_wrong(b, path, "the output would have %.0f values for each image; at most %.0f",
                    (double)c * (double)h * (double)w, MAX_VALUES);
        c = h = w = 1;
    }
    l->out = (struct shape){.c = (int)c, .h = (int)h, .w = (int)w, .flat = flat};
    b->shape = l->out;
}

static bool need_image(struct builder *b, const struct path *path, const char *what)
{
    if (!b->shape.flat)
        return true;
    model_wrong(b, path, "%s needs an image, but what comes in is %s", what, MODEL_SHAPE(&b->shape));
    b->shape = (struct shape){.c = b->shape.c, .h = 1, .w = 1};
    return false;
}

static void add_activation(struct builder *b, const json_t *spec)
{
    if (!strcmp(json_string_or(spec, "activation", "none"), "relu"))
        model_add_layer(b, LAYER_RELU);
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
    int weight = model_add_param(b, "weight", shape, dims, true, init_bound(b->init, fan_in, fan_out), 0);
    int bias_param = -1;

    if (bias)
        bias_param = model_add_param(b, "bias", shape, 1, true, b->init == INIT_PYTORCH ? sqrt(1.0 / fan_in) : 0, 0);
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
        p = model_path(path, ".padding");
        model_wrong(b, &p, "must be same, valid or a number of pixels, got \"%s\"", json_string_value(padding));
    }
    need_image(b, path, "conv2d");
    if (b->shape.c % groups || filters % groups) {
        p = model_path(path, ".groups");
        model_wrong(b, &p, "%d groups do not divide %d input channels and %d filters", groups, b->shape.c, filters);
        groups = 1;
    }
    l = model_add_layer(b, LAYER_CONV2D);
    if (!l)
        return;
    l->kernel_h = l->kernel_w = kernel;
    l->stride = stride;
    l->groups = groups;
    fits = window(l->in.h, kernel, stride, pad, same, &l->pad_top, &l->pad_bottom, &h);
    fits &= window(l->in.w, kernel, stride, pad, same, &l->pad_left, &l->pad_right, &w);
    if (!fits) {
        p = model_path(path, ".kernel");
        model_wrong(b, &p, "kernel %d is larger than its %dx%d input%s", kernel, l->in.h + 2 * pad, l->in.w + 2 * pad,
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
        model_wrong(b, path,
                    "dense needs flat values, but what comes in is %s; put flatten or global_avg_pool2d before it",
                    MODEL_SHAPE(&b->shape));
        b->shape = (struct shape){.c = b->shape.c * b->shape.h * b->shape.w, .h = 1, .w = 1, .flat = true};
    }
    l = model_add_layer(b, LAYER_DENSE);
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
        p = model_path(path, ".padding");
        model_wrong(b, &p, "must be less than the window's size %d, got %d", size, pad);
        pad = 0;
    }
    l = model_add_layer(b, type);
    if (!l)
        return;
    l->kernel_h = l->kernel_w = size;
    l->stride = stride;
    fits = window(l->in.h, size, stride, pad, false, &l->pad_top, &l->pad_bottom, &h);
    fits &= window(l->in.w, size, stride, pad, false, &l->pad_left, &l->pad_right, &w);
    if (!fits) {
        p = model_path(path, ".size");
        model_wrong(b, &p, "window %d is larger than its %dx%d input%s", size, l->in.h + 2 * pad, l->in.w + 2 * pad,
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
    l = model_add_layer(b, LAYER_GLOBAL_AVG_POOL2D);
    if (l)
        set_out(b, l, path, l->in.c, 1, 1, true);
}

static void add_scale_and_shift(struct builder *b)
{
    size_t i = (size_t)b->end;
    int gamma = model_add_param(b, "weight", &b->shape.c, 1, true, 0, 1),
        beta = model_add_param(b, "bias", &b->shape.c, 1, true, 0, 0);

    b->model->layers[i].weight = gamma;
    b->model->layers[i].bias_param = beta;
    b->model->layers[i].bias = true;
}

static void add_batch_norm(struct builder *b, const json_t *spec, const struct path *path)
{
    double eps = get_number(b, spec, "eps", path, 1e-5, 1), momentum = get_number(b, spec, "momentum", path, 0.1, 1);
    struct layer *l = model_add_layer(b, LAYER_BATCH_NORM);
    int mean, var;

    if (!l)
        return;
    l->eps = eps;
    l->momentum = momentum;
    add_scale_and_shift(b);
    mean = model_add_param(b, "running_mean", &b->shape.c, 1, false, 0, 0);
    var = model_add_param(b, "running_var", &b->shape.c, 1, false, 0, 1);
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
        struct path p = model_path(path, ".groups");
        model_wrong(b, &p, "%d groups do not divide %d channels", groups, b->shape.c);
        groups = 1;
    }
    l = model_add_layer(b, LAYER_GROUP_NORM);
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
    struct layer *l = model_add_layer(b, LAYER_DROPOUT);

    if (l)
        l->rate = rate;
}

static void add_relu(struct builder *b, const json_t *spec, const struct path *path)
{
    (void)spec, (void)path;
    model_add_layer(b, LAYER_RELU);
}

static void add_flatten(struct builder *b, const json_t *spec, const struct path *path)
{
    struct layer *l = model_add_layer(b, LAYER_FLATTEN);

    (void)spec;
    if (l)
        set_out(b, l, path, (int64_t)l->in.c * l->in.h * l->in.w, 1, 1, true);
}

static void add_repeat(struct builder *b, const json_t *spec, const struct path *path)
{
    int times = get_int(b, spec, "times", path, -1, 1000), before = b->errors;
    struct path p = model_path(path, ".layers");

    /* The mistake of one turn is not told again for the next. */
    for (int i = 0; i < times && b->errors == before && !b->out_of_memory; i++)
        model_add_list(b, json_object_get(spec, "layers"), &p);
}

static void add_residual(struct builder *b, const json_t *spec, const struct path *path)
{
    struct shape before = b->shape, branch;
    int start = b->end, branch_end;
    const json_t *shortcut = json_object_get(spec, "shortcut");
    struct path p = model_path(path, ".layers"), q = model_path(path, ".shortcut");
    struct layer *l;

    model_add_list(b, json_object_get(spec, "layers"), &p);
    branch = b->shape;
    branch_end = b->end;
    b->shape = before;
    b->end = start;
    if (json_array_size(shortcut))
        model_add_list(b, shortcut, &q);
    if (b->shape.c != branch.c || b->shape.h != branch.h || b->shape.w != branch.w || b->shape.flat != branch.flat)
        model_wrong(b, path, "the branch gives %s, but %s gives %s; both must be equal", MODEL_SHAPE(&branch),
                    json_array_size(shortcut) ? "the shortcut" : "its input (there is no shortcut)",
                    MODEL_SHAPE(&b->shape));
    start = b->end;
    b->shape = branch;
    b->end = branch_end;
    l = model_add_layer(b, LAYER_ADD);
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
            p = model_path(path, ".%s", name);
            LAYERS[i].add(b, spec, &p);
            return;
        }
    if (name)
        model_wrong(b, path, "there is no layer \"%s\"", name);
    else
        model_wrong(b, path, "must be the name of a layer, or a map of one layer's name to its settings");
}

void model_add_list(struct builder *b, const json_t *list, const struct path *path)
{
    if (!json_array_size(list)) {
        model_wrong(b, path, "must be a list of at least one layer");
        return;
    }
    for (size_t i = 0; i < json_array_size(list) && !b->out_of_memory && !b->too_long; i++) {
        struct path p = model_path(path, "[%zu]", i);
        if (b->model->layers_n >= MAX_LAYERS) {
            b->too_long = true;
            model_wrong(b, &p, "the network has more than %d layers", MAX_LAYERS);
            return;
        }
        add_one(b, json_array_get(list, i), &p);
    }
}
