/* sections.c - the keys of the four trainer sections: data, model, training, federation.
 * SPDX-License-Identifier: Apache-2.0 */
#include "common/keys.h"

#define END {.name = NULL}
#define ACTIVATION                                                                                                     \
    {"activation", KEY_CHOICE, .choices = "none relu", .def = "\"none\"", .doc = "What follows the layer.",            \
     .example = "activation: relu"}

static const struct key CROP[] = {
    {"padding", KEY_INT, .def = "4", .min = 0, .max = 64, .doc = "Pixels of black border that the crop may reach into.",
     .example = "padding: 4"},
    END};
static const struct key AUGMENT[] = {
    {"random_crop", KEY_MAP, .sub = CROP, .shorthand = "padding",
     .doc = "Crop of the image's own size at a random place.", .example = "random_crop: {padding: 4}"},
    {"horizontal_flip", KEY_BOOL, .def = "false", .doc = "Mirror half of the images.",
     .example = "horizontal_flip: true"},
    END};
static const struct key SYNTHETIC[] = {
    {"samples", KEY_INT, .def = "10000", .min = 10, .max = 10000000, .doc = "Training images.",
     .example = "samples: 10000"},
    {"test_samples", KEY_INT, .def = "2000", .min = 1, .max = 10000000, .doc = "Test images.",
     .example = "test_samples: 2000"},
    {"classes", KEY_INT, .def = "10", .min = 2, .max = 1000, .doc = "Classes.", .example = "classes: 10"},
    {"channels", KEY_INT, .def = "3", .min = 1, .max = 4, .doc = "Channels.", .example = "channels: 3"},
    {"size", KEY_INT, .def = "32", .min = 8, .max = 256, .doc = "Height and width in pixels.", .example = "size: 32"},
    {"noise", KEY_NUMBER, .def = "1.0", .min = 0, .max = 10,
     .doc = "Strength of the clutter around the pattern; 1 is the tested setting.", .example = "noise: 1.0"},
    END};
static const struct key RESIZE[] = {
    {"height", KEY_INT, .required = true, .min = 1, .max = 4096, .doc = "Pixels.", .example = "height: 64"},
    {"width", KEY_INT, .min = 1, .max = 4096, .doc = "Pixels; as many as the height where absent.", .example = "width: 64"},
    END};
const struct key DATA_KEYS[] = {
    {"source", KEY_CHOICE, .required = true, .choices = "cifar10 idx images synthetic",
     .doc = "Where images come from: CIFAR-10 binary batches, IDX (MNIST's format), a folder or tar of JPEG or PNG, "
            "or made from the seed.", .example = "source: cifar10"},
    {"path", KEY_STRING, .doc = "Folder or file; relative to --data or FLEXP_DATA where one is given.",
     .example = "path: cifar10/cifar-10-batches-bin"},
    {"label_pattern", KEY_STRING,
     .doc = "source images: labels from the names of files, not of folders. A POSIX extended regular expression (and \\d) that is "
            "held against the file's name without its folders; its first group is the class.",
     .example = "label_pattern: '^([a-z]+)\\.[0-9]+\\.jpg$'"},
    {"test_fraction", KEY_NUMBER, .min = 0, .max = 0.9,
     .doc = "source images, where there is no test folder: share of each class that becomes the test split, chosen by a "
            "hash of the names, so that it is the same for every seed.", .example = "test_fraction: 0.2"},
    {"resize", KEY_MAP, .sub = RESIZE, .shorthand = "height",
     .doc = "Every image to one size, by antialiased bilinear interpolation; the aspect ratio is not kept.",
     .example = "resize: 64"},
    {"channels", KEY_INT, .min = 1, .max = 3,
     .doc = "1: grey (ITU-R BT.601), 3: RGB; as the images are where absent.", .example = "channels: 1"},
    {"validation", KEY_CHOICE, .def = "\"split\"", .choices = "split official_test",
     .doc = "What validation_* is computed on: a split of the training data, or (to reproduce published tables, and "
            "labelled so) the official test split.", .example = "validation: split"},
    {"validation_fraction", KEY_NUMBER, .def = "0.1", .min = 0, .max = 0.9,
     .doc = "Share of the training data held out centrally, stratified by label.",
     .example = "validation_fraction: 0.1"},
    {"seed", KEY_INT, .min = 0, .max = 9e18,
     .doc = "Seed of partition, splits and synthetic data; the experiment's where absent.", .example = "seed: 7"},
    {"augment", KEY_MAP, .sub = AUGMENT, .doc = "Random changes of the training images.",
     .example = "augment: {horizontal_flip: true}"},
    {"synthetic", KEY_MAP, .sub = SYNTHETIC, .doc = "The data set made from the seed (source: synthetic).",
     .example = "synthetic: {samples: 10000}"},
    END};

static const struct key CONV2D[] = {
    {"filters", KEY_INT, .required = true, .min = 1, .max = 65536, .doc = "Output channels.", .example = "filters: 32"},
    {"kernel", KEY_INT, .required = true, .min = 1, .max = 64, .doc = "Height and width of the kernel.",
     .example = "kernel: 3"},
    {"stride", KEY_INT, .def = "1", .min = 1, .max = 64, .doc = "Step in both directions.", .example = "stride: 1"},
    {"padding", KEY_INT, .def = "\"valid\"", .choices = "same valid", .min = 0, .max = 64,
     .doc = "same, valid (none) or pixels on each side.", .example = "padding: same"},
    {"groups", KEY_INT, .def = "1", .min = 1, .max = 65536,
     .doc = "Groups of channels; as many as channels is depthwise.", .example = "groups: 1"},
    {"bias", KEY_BOOL, .def = "true", .doc = "Whether there is a bias.", .example = "bias: true"},
    ACTIVATION, END};
static const struct key DENSE[] = {
    {"units", KEY_INT, .required = true, .choices = "classes", .min = 1, .max = 1048576,
     .doc = "Outputs; `classes` is the number of classes in the data.", .example = "units: classes"},
    {"bias", KEY_BOOL, .def = "true", .doc = "Whether there is a bias.", .example = "bias: true"},
    ACTIVATION, END};
static const struct key POOL[] = {
    {"size", KEY_INT, .required = true, .min = 1, .max = 64, .doc = "Height and width of the window.",
     .example = "size: 2"},
    {"stride", KEY_INT, .min = 1, .max = 64, .doc = "Step; the window's size where absent.", .example = "stride: 2"},
    {"padding", KEY_INT, .def = "0", .min = 0, .max = 32, .doc = "Pixels on each side (not counted in an average).",
     .example = "padding: 0"},
    END};
static const struct key BATCH_NORM[] = {
    {"eps", KEY_NUMBER, .def = "1e-5", .min = 0, .max = 1, .doc = "Added to the variance.", .example = "eps: 1e-5"},
    {"momentum", KEY_NUMBER, .def = "0.1", .min = 0, .max = 1,
     .doc = "Weight of the batch in the running statistics, as in PyTorch.", .example = "momentum: 0.1"},
    ACTIVATION, END};
static const struct key GROUP_NORM[] = {
    {"groups", KEY_INT, .required = true, .min = 1, .max = 65536, .doc = "Groups of channels.", .example = "groups: 8"},
    {"eps", KEY_NUMBER, .def = "1e-5", .min = 0, .max = 1, .doc = "Added to the variance.", .example = "eps: 1e-5"},
    ACTIVATION, END};
static const struct key DROPOUT[] = {
    {"rate", KEY_NUMBER, .required = true, .min = 0, .max = 0.99, .doc = "Share of values set to 0 while training.",
     .example = "rate: 0.5"},
    END};
static const struct key NO_KEYS[] = {END};
static const struct key LAYERS[]; /* tags; layers nest */
static const struct key LAYER_LIST[] = {{NULL, KEY_TAGGED, .sub = LAYERS, .doc = "One layer."}};
static const struct key REPEAT[] = {
    {"times", KEY_INT, .required = true, .min = 1, .max = 1000, .doc = "How often.", .example = "times: 2"},
    {"layers", KEY_LIST, .required = true, .sub = LAYER_LIST, .doc = "What is repeated.", .example = "layers: [relu]"},
    END};
static const struct key RESIDUAL[] = {
    {"layers", KEY_LIST, .required = true, .sub = LAYER_LIST, .doc = "The branch that is added to its input.",
     .example = "layers: [relu]"},
    {"shortcut", KEY_LIST, .sub = LAYER_LIST, .doc = "Layers on the way past the branch, where shapes differ.",
     .example = "shortcut: [{conv2d: {filters: 64, kernel: 1, stride: 2}}]"},
    {"activation", KEY_CHOICE, .choices = "none relu", .def = "\"none\"", .doc = "What follows the sum.",
     .example = "activation: relu"},
    END};
static const struct key LAYERS[] = {
    {"conv2d", KEY_MAP, .sub = CONV2D, .doc = "2-D convolution.",
     .example = "conv2d: {filters: 32, kernel: 3, padding: same, activation: relu}"},
    {"dense", KEY_MAP, .sub = DENSE, .shorthand = "units", .doc = "Fully connected layer.",
     .example = "dense: {units: 128, activation: relu}"},
    {"max_pool2d", KEY_MAP, .sub = POOL, .shorthand = "size", .doc = "Largest value of each window.",
     .example = "max_pool2d: 2"},
    {"avg_pool2d", KEY_MAP, .sub = POOL, .shorthand = "size", .doc = "Mean of each window.",
     .example = "avg_pool2d: 2"},
    {"global_avg_pool2d", KEY_MAP, .sub = NO_KEYS, .doc = "Mean of each channel; its output is flat.",
     .example = "global_avg_pool2d"},
    {"batch_norm", KEY_MAP, .sub = BATCH_NORM, .doc = "Batch normalisation (Ioffe, Szegedy 2015).",
     .example = "batch_norm"},
    {"group_norm", KEY_MAP, .sub = GROUP_NORM, .shorthand = "groups", .doc = "Group normalisation (Wu, He 2018).",
     .example = "group_norm: 8"},
    {"dropout", KEY_MAP, .sub = DROPOUT, .shorthand = "rate", .doc = "Dropout.", .example = "dropout: 0.25"},
    {"relu", KEY_MAP, .sub = NO_KEYS, .doc = "max(x, 0).", .example = "relu"},
    {"flatten", KEY_MAP, .sub = NO_KEYS, .doc = "Channels, rows, columns to one axis.", .example = "flatten"},
    {"repeat", KEY_MAP, .sub = REPEAT, .doc = "Layers several times.", .example = "repeat: {times: 2, layers: [relu]}"},
    {"residual", KEY_MAP, .sub = RESIDUAL, .doc = "A branch added to its input (He et al. 2016).",
     .example = "residual: {layers: [{conv2d: {filters: 32, kernel: 3, padding: same}}]}"},
    END};
const struct key MODEL_KEYS[] = {
    {"preset", KEY_CHOICE, .choices = "seed_cnn bench_cnn lenet pfl_cnn mcmahan_2nn mcmahan_cnn",
     .doc = "A network by name, in place of layers.", .example = "preset: seed_cnn"},
    {"layers", KEY_LIST, .sub = LAYER_LIST, .doc = "The network, layer by layer.",
     .example = "layers: [flatten, {dense: {units: classes}}]"},
    {"init", KEY_CHOICE, .choices = "he_uniform glorot_uniform pytorch",
     .doc = "How weights start; he_uniform where absent (preset pfl_cnn: glorot_uniform).", .example = "init: he_uniform"},
    END};

static const struct key SCHEDULE[] = {
    {"type", KEY_CHOICE, .def = "\"constant\"", .choices = "constant step exponential cosine",
     .doc = "Shape of the learning rate over the trial's full length.", .example = "type: cosine"},
    {"warmup", KEY_NUMBER, .def = "0", .min = 0, .max = 1e9,
     .doc = "Units of time_metric over which the rate rises from 0 at first.", .example = "warmup: 5"},
    {"every", KEY_NUMBER, .def = "10", .min = 0, .max = 1e9, .exclusive_min = true,
     .doc = "step: units between two reductions.", .example = "every: 10"},
    {"factor", KEY_NUMBER, .def = "0.1", .min = 0, .max = 1, .exclusive_min = true,
     .doc = "step: factor of each reduction.", .example = "factor: 0.1"},
    {"decay", KEY_NUMBER, .def = "0.99", .min = 0, .max = 1, .exclusive_min = true,
     .doc = "exponential: factor per unit.", .example = "decay: 0.99"},
    {"final_fraction", KEY_NUMBER, .def = "0", .min = 0, .max = 1,
     .doc = "cosine: the last rate, as a share of the first.", .example = "final_fraction: 0"},
    END};
const struct key TRAINING_KEYS[] = {
    {"optimizer", KEY_CHOICE, .def = "\"sgd\"", .choices = "sgd adam adamw", .doc = "Local optimizer.",
     .example = "optimizer: sgd"},
    {"learning_rate", KEY_NUMBER, .required = true, .min = 0, .max = 1000, .exclusive_min = true,
     .doc = "Learning rate of the local optimizer.", .example = "learning_rate: $lr"},
    {"momentum", KEY_NUMBER, .def = "0", .min = 0, .max = 0.9999, .doc = "sgd: momentum.", .example = "momentum: 0.9"},
    {"nesterov", KEY_BOOL, .def = "false", .doc = "sgd: Nesterov's form of momentum.", .example = "nesterov: true"},
    {"weight_decay", KEY_NUMBER, .def = "0", .min = 0, .max = 10, .doc = "Weight decay (adamw: decoupled).",
     .example = "weight_decay: 1e-4"},
    {"beta1", KEY_NUMBER, .def = "0.9", .min = 0, .max = 0.99999, .doc = "adam, adamw: decay of the first moment.",
     .example = "beta1: 0.9"},
    {"beta2", KEY_NUMBER, .def = "0.999", .min = 0, .max = 0.9999999, .doc = "adam, adamw: decay of the second moment.",
     .example = "beta2: 0.999"},
    {"eps", KEY_NUMBER, .def = "1e-8", .min = 0, .max = 1, .exclusive_min = true,
     .doc = "adam, adamw: added to the denominator.", .example = "eps: 1e-8"},
    {"batch_size", KEY_INT, .def = "32", .min = 1, .max = 65536, .doc = "Samples of a step.",
     .example = "batch_size: 32"},
    {"precision", KEY_CHOICE, .def = "\"fp32\"", .choices = "fp32 fp32_strict tf32 bf16",
     .doc = "Arithmetic of the network; fp32_strict: on CPU cores no Winograd F(4x4) and none for 5x5 kernels, whose rounding "
            "errors are larger, on a GPU equal bits from run to run and packed or not; tf32, bf16 (GPU only): operands of "
            "matrix products rounded.",
     .example = "precision: fp32_strict"},
    {"schedule", KEY_MAP, .sub = SCHEDULE, .shorthand = "type", .def = "{\"type\": \"constant\"}",
     .doc = "Learning rate over time.", .example = "schedule: {type: cosine, warmup: 2}"},
    {"validation_period", KEY_INT, .def = "1", .min = 1, .max = 1000000,
     .doc = "Rounds between two validations; decision units are always validated.", .example = "validation_period: 1"},
    END};

static const struct key STRATEGY[] = {
    {"name", KEY_CHOICE, .def = "\"fedavg\"", .choices = "fedavg", .doc = "How updates become the next global model.",
     .example = "name: fedavg"},
    {"weighting", KEY_CHOICE, .def = "\"samples\"", .choices = "samples uniform",
     .doc = "Weight of a client in the mean.", .example = "weighting: samples"},
    {"server_learning_rate", KEY_NUMBER, .def = "1.0", .min = 0, .max = 100, .exclusive_min = true,
     .doc = "Factor on the mean update.", .example = "server_learning_rate: 1.0"},
    END};
static const struct key PARTITION[] = {
    {"scheme", KEY_CHOICE, .def = "\"iid\"", .choices = "iid dirichlet",
     .doc = "How training samples are dealt to the clients.", .example = "scheme: dirichlet"},
    {"alpha", KEY_NUMBER, .def = "0.5", .min = 0, .max = 1e6, .exclusive_min = true,
     .doc = "dirichlet: concentration; smaller is more uneven.", .example = "alpha: 0.5"},
    {"min_samples", KEY_INT, .def = "1", .min = 1, .max = 1000000, .doc = "Fewest training samples of a client.",
     .example = "min_samples: 10"},
    END};
static const struct key CONVERGENCE[] = {
    {"metric", KEY_STRING, .def = "\"train_loss\"", .doc = "The metric that is watched.",
     .example = "metric: train_loss"},
    {"min_delta", KEY_NUMBER, .def = "0", .min = 0, .max = 1e9, .doc = "Smallest change that counts as an improvement.",
     .example = "min_delta: 1e-3"},
    {"patience", KEY_INT, .min = 1, .max = 1000000,
     .doc = "Rounds without an improvement after which the trial has converged.", .example = "patience: 5"},
    {"target", KEY_NUMBER, .doc = "The trial has converged when the metric reaches this.", .example = "target: 0.99"},
    END};
const struct key FEDERATION_KEYS[] = {
    {"enabled", KEY_BOOL, .def = "true",
     .doc = "false: the centralised baseline, one model on all the data; a round is an epoch.",
     .example = "enabled: false"},
    {"strategy", KEY_MAP, .sub = STRATEGY, .shorthand = "name", .def = "{\"name\": \"fedavg\"}", .doc = "Aggregation.",
     .example = "strategy: fedavg"},
    {"clients", KEY_INT, .def = "10", .min = 1, .max = 1000000, .doc = "Clients of the federation.",
     .example = "clients: 10"},
    {"clients_per_round", KEY_INT, .def = "\"all\"", .choices = "all", .min = 1, .max = 1000000,
     .doc = "Size of the cohort, drawn without replacement.", .example = "clients_per_round: 5"},
    {"local_epochs", KEY_INT, .def = "1", .min = 1, .max = 10000, .doc = "Epochs of a client in a round.",
     .example = "local_epochs: 1"},
    {"partition", KEY_MAP, .sub = PARTITION, .shorthand = "scheme", .def = "{\"scheme\": \"iid\"}",
     .doc = "Who holds which samples.", .example = "partition: {scheme: dirichlet, alpha: 0.5}"},
    {"client_validation_fraction", KEY_NUMBER, .def = "0.1", .min = 0, .max = 0.9,
     .doc = "Share of each client's samples held out for client_validation_* (0: none).",
     .example = "client_validation_fraction: 0.1"},
    {"convergence", KEY_MAP, .sub = CONVERGENCE, .doc = "When a trial ends by itself.",
     .example = "convergence: {metric: train_loss, min_delta: 1e-3, patience: 5}"},
    END};

const struct key SECTION_KEYS[] = {
    {"data", KEY_MAP, .required = true, .sub = DATA_KEYS, .doc = "The images.",
     .example = "data: {source: synthetic}"},
    {"model", KEY_MAP, .required = true, .sub = MODEL_KEYS, .doc = "The network.",
     .example = "model: {preset: seed_cnn}"},
    {"training", KEY_MAP, .required = true, .sub = TRAINING_KEYS, .doc = "Local training.",
     .example = "training: {learning_rate: 0.01}"},
    {"federation", KEY_MAP, .sub = FEDERATION_KEYS,
     .doc = "The federation; absent: centralised training.", .example = "federation: {clients: 10}"},
    END};
