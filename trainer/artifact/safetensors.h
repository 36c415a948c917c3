/* safetensors.h - reading and writing the safetensors format (https://github.com/huggingface/safetensors, "Format"):
 * 8 bytes little-endian header length, JSON header {"name": {"dtype": "F32", "shape": [..], "data_offsets": [a, b]},
 * "__metadata__": {string: string}}, then the bytes. Written whole or not at all. Every offset, length and shape is checked
 * when read: a torn or altered file is -EINVAL with what is wrong and where.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_TRAINER_SAFETENSORS_H
#define FLEXP_TRAINER_SAFETENSORS_H

#include "common/error.h"
#include "common/json.h"

enum tensor_dtype { TENSOR_F32, TENSOR_F64, TENSOR_I64, TENSOR_U8 };

struct tensor {
    char name[96];
    enum tensor_dtype dtype;
    int64_t shape[4];
    int dims;
    const void *data; /* borrowed when writing; into the file's bytes when read */
    size_t bytes;
};

struct tensor_file {
    char *bytes;
    size_t length;
    json_t *metadata; /* strings; may be empty */
    struct tensor *tensors;
    size_t n;
};

/* metadata: an object of strings (NULL: none). */
int safetensors_write(const char *path, const struct tensor *tensors, size_t n, const json_t *metadata,
                      struct error *err);
int safetensors_read(const char *path, struct tensor_file *ret, struct error *err);
/* The same on bytes (borrowed; takes no file): for the fuzzer and for read. */
int safetensors_parse(const char *bytes, size_t length, struct tensor_file *ret, struct error *err);
void tensor_file_done(struct tensor_file *file);
const struct tensor *tensor_find(const struct tensor_file *file, const char *name);

#endif
