/* model.h - a network as a list of layers: from `model.layers` or a preset, with shapes and parameters, no arithmetic.
 * The weights of a model are one flat float array, parameters first, then buffers (running mean and variance of batch
 * norm). Canonical layout, as PyTorch's: conv2d weight (O, I, R, S), dense weight (out, in), flatten in C, H, W order; so
 * model.safetensors opens in PyTorch under the same names ("0.weight", "0.bias", "2.running_mean": index of the layer in
 * the flattened list, as nn.Sequential numbers them when activations are layers of their own).
 * Initialisation from RNG_INIT (seed, trial), tensor after tensor, element after element: he_uniform, the default (for conv
 * and dense: U(-b, b), b = sqrt(6 / fan_in); He et al. 2015), glorot_uniform (Glorot, Bengio 2010), pytorch (U(+-1/sqrt(
 * fan_in)), biases too), biases 0 otherwise. The preset pfl_cnn starts glorot_uniform where model.init is absent.
 * A residual adds the layers of its branch, then those of its shortcut, then LAYER_ADD, each with a number of its own.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_TRAINER_MODEL_H
#define FLEXP_TRAINER_MODEL_H

#include "common/error.h"
#include "common/json.h"
#include "common/keys.h"
#include "trainer/data/dataset.h"

enum layer_type {
    LAYER_CONV2D, LAYER_DENSE, LAYER_MAX_POOL2D, LAYER_AVG_POOL2D, LAYER_GLOBAL_AVG_POOL2D, LAYER_BATCH_NORM,
    LAYER_GROUP_NORM, LAYER_DROPOUT, LAYER_RELU, LAYER_FLATTEN, LAYER_ADD /* residual: input + output of layer `from` */
};

struct shape {
    int c, h, w; /* after flatten: c values, h = w = 1, flat set */
    bool flat;
};

struct layer {
    enum layer_type type;
    struct shape in, out;
    int input;                        /* index of the layer whose output this reads; -1: the image */
    int from;                         /* LAYER_ADD: the second input's layer; -1: the image */
    int kernel_h, kernel_w, stride, pad_top, pad_left, pad_bottom, pad_right, groups; /* conv2d (kernels, pads, stride), pools */
    bool bias;
    double rate;                      /* dropout */
    double eps, momentum;             /* norms; PyTorch's meaning: new = (1 - momentum) old + momentum batch */
    int norm_groups;                  /* group_norm */
    int weight, bias_param;           /* indexes into params, -1: none; norms: gamma and beta */
    int running_mean, running_var;    /* likewise, buffers */
};

struct param {
    char name[64];
    int shape[4], dims;
    size_t offset, size; /* in floats, into the flat array */
    bool trainable;      /* false: a buffer */
    double init_bound;   /* U(-b, b) when > 0, else init_value */
    float init_value;
};

struct model {
    struct layer *layers;
    size_t layers_n;
    struct param *params;
    size_t params_n;
    size_t weights_n;   /* floats in the flat array */
    size_t trainable_n; /* of these, the leading ones that are parameters */
    struct shape input;
    int classes;
    double flops_forward; /* of one image, multiply and add counted apart */
    char *key;            /* canonical text of layers and shapes: equal keys can be packed. Starting weights and dropout
                           * rates, other than none, are not in it */
};

/* model: resolved `model` section with references replaced. Error paths are "model.layers[2].conv2d.filters" and the like;
 * the callback form collects all of them for plan (-EINVAL after at least one report). */
int model_new(const json_t *model, const struct data_shape *data, struct model **ret, struct error *err);
int model_new_report(const json_t *model, const struct data_shape *data, struct model **ret, keys_report_fn *report,
                     void *arg);
void model_free(struct model *model);
void model_init_weights(const struct model *model, uint64_t seed, uint64_t trial, float *weights);

/* The only layer that reads tensor t (0: the image, i + 1: the output of layer i), or -1 where there are none or several. */
int model_sole_reader(const struct model *model, int t);

/* "conv2d", "dense", ... */
const char *layer_type_name(enum layer_type type);

/* Layers with shapes, parameters and FLOPs of one image (a multiplication and an addition are two; convolutions and dense
 * layers are counted), and their sums. docs/protocol.md, `plan`, has an example. New reference. */
json_t *model_json(const struct model *model);

/* Preset names for help and checks, NULL-terminated: seed_cnn, bench_cnn, lenet, pfl_cnn, mcmahan_2nn, mcmahan_cnn. */
const char *const *model_presets(void);

#endif
