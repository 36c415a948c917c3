/* dataset.h - images with labels, from any source, in one shape.
 * A data set is decoded once, written to a cache file under the cache folder whose name is a hash of the content of its
 * files (size and bytes) and of the decoding settings, and mapped read-only, so that all workers of a machine share its
 * pages. Images are uint8 NHWC: images[((i * height + y) * width + x) * channels + c]; labels uint16.
 * Sources (`data.source`): cifar10 (binary batches in a folder or one file; https://www.cs.toronto.edu/~kriz/cifar.html),
 * idx (MNIST's format, plain or .gz; data.path is a folder with the four usual names), images (a folder or a .tar, .tar.gz,
 * .tar.xz of JPEG or PNG files as {train,test}/CLASS/NAME or CLASS/NAME; labels from folder names, sorted), synthetic.
 * Owns its mapping. Threads: read-only after opening.
 * Errors name file and record ("data_batch_3.bin: record 17: label 12 is not in 0..9"); a damaged cache is made again.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_TRAINER_DATASET_H
#define FLEXP_TRAINER_DATASET_H

#include "common/error.h"
#include "common/json.h"

#include <stdint.h>

struct data_split {
    size_t n;
    const uint8_t *images;
    const uint16_t *labels;
};

struct dataset {
    int channels, height, width, classes;
    struct data_split train, test; /* test.n 0: the source has no test split */
    const char *const *class_names; /* classes of them */
    char source[64];  /* "cifar10", "synthetic", ... */
    char hash[33];    /* of the content, hex */
    float mean[4], std[4]; /* per channel, of the training part that the caller named; values scaled to 0..1 first */
    void *private_state;
};

/* data: the resolved `data` section. cache_dir: created where missing. */
int dataset_open(const json_t *data, uint64_t data_seed, const char *cache_dir, struct dataset **ret, struct error *err);
void dataset_close(struct dataset *dataset);

/* Sets mean and std per channel over these training samples, in double, in order (a std of 0 becomes 1). */
void dataset_normalise(struct dataset *dataset, const uint32_t *samples, size_t n);

/* Shapes without decoding everything: for `plan`. channels, height, width, classes and the split sizes; from the cache, from
 * file headers, or (images) by walking the archive. */
struct data_shape {
    int channels, height, width, classes;
    size_t train_n, test_n;
};
int dataset_shape(const json_t *data, uint64_t data_seed, const char *cache_dir, struct data_shape *ret, struct error *err);

#endif
