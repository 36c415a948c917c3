/* checkpoint.c - see checkpoint.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/artifact/checkpoint.h"

#include "trainer/artifact/safetensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#define FORMAT "flexp-checkpoint-1"

static void hash_of(const struct model *model, char ret[17])
{
    snprintf(ret, 17, "%016llx", (unsigned long long)XXH3_64bits(model->key, strlen(model->key)));
}

/* room for one more tensor than the model has */
static struct tensor *tensors_of(const struct model *model, const float *weights)
{
    struct tensor *tensors = calloc(model->params_n + 1, sizeof *tensors);

    for (size_t i = 0; tensors && i < model->params_n; i++) {
        const struct param *param = &model->params[i];
        memcpy(tensors[i].name, param->name, sizeof param->name);
        tensors[i].dtype = TENSOR_F32;
        tensors[i].dims = param->dims;
        for (int d = 0; d < param->dims; d++)
            tensors[i].shape[d] = param->shape[d];
        tensors[i].data = weights + param->offset;
        tensors[i].bytes = param->size * sizeof *weights;
    }
    return tensors;
}

int checkpoint_write(const char *path, const struct checkpoint *checkpoint, struct error *err)
{
    const struct model *model = checkpoint->model;
    struct tensor *tensors = tensors_of(model, checkpoint->weights);
    char hash[17], seed[24], trial[24], *state = json_line(checkpoint->state);
    size_t n = model->params_n;
    json_t *metadata;
    int rc;

    if (!tensors || !state) {
        free(tensors);
        free(state);
        return fail(err, -ENOMEM, "%s: out of memory", path);
    }
    if (checkpoint->optimizer_n) {
        tensors[n] = (struct tensor){.name = "optimizer", .dtype = TENSOR_F32, .dims = 1,
                                     .shape = {(int64_t)checkpoint->optimizer_n}, .data = checkpoint->optimizer,
                                     .bytes = checkpoint->optimizer_n * sizeof(float)};
        n++;
    }
    hash_of(model, hash);
    snprintf(seed, sizeof seed, "%llu", (unsigned long long)checkpoint->seed);
    snprintf(trial, sizeof trial, "%llu", (unsigned long long)checkpoint->trial);
    metadata = json_pack("{s:s, s:s, s:s, s:s, s:s}", "format", FORMAT, "model", hash, "seed", seed, "trial", trial,
                         "state", state);
    rc = safetensors_write(path, tensors, n, metadata, err);
    json_decref(metadata);
    free(tensors);
    free(state);
    return rc;
}

static int expect_text(const char *path, const json_t *metadata, const char *key, const char *wanted, struct error *err)
{
    const char *found = json_string_or(metadata, key, "");

    if (strcmp(found, wanted))
        return fail(err, -EINVAL, "%s: is not this trial's checkpoint: its %s is \"%.60s\", not \"%s\"", path, key, found,
                    wanted);
    return 0;
}

static int copy_floats(const char *path, const struct tensor_file *file, const char *name, float *to, size_t n,
                       struct error *err)
{
    const struct tensor *tensor = tensor_find(file, name);

    if (!tensor)
        return fail(err, -EINVAL, "%s: the tensor \"%s\" is missing", path, name);
    if (tensor->dtype != TENSOR_F32 || tensor->bytes != n * sizeof *to)
        return fail(err, -EINVAL, "%s: the tensor \"%s\" has %zu bytes, not %zu float32 values", path, name,
                    tensor->bytes, n);
    memcpy(to, tensor->data, tensor->bytes);
    return 0;
}

static int read_state(const char *path, const struct tensor_file *file, json_t **ret, struct error *err)
{
    const char *text = json_string_or(file->metadata, "state", "");
    int rc = json_parse(text, strlen(text), ret, err);

    return rc ? fail_prefix(err, "%s: metadata state", path) : 0;
}

int checkpoint_read(const char *path, struct checkpoint *checkpoint, struct error *err)
{
    const struct model *model = checkpoint->model;
    struct tensor_file file;
    char hash[17], seed[24], trial[24];
    int rc = safetensors_read(path, &file, err);

    if (rc)
        return rc;
    hash_of(model, hash);
    snprintf(seed, sizeof seed, "%llu", (unsigned long long)checkpoint->seed);
    snprintf(trial, sizeof trial, "%llu", (unsigned long long)checkpoint->trial);
    if ((rc = expect_text(path, file.metadata, "format", FORMAT, err)) ||
        (rc = expect_text(path, file.metadata, "model", hash, err)) ||
        (rc = expect_text(path, file.metadata, "seed", seed, err)) ||
        (rc = expect_text(path, file.metadata, "trial", trial, err)))
        goto out;
    for (size_t i = 0; i < model->params_n && !rc; i++) {
        const struct param *param = &model->params[i];
        rc = copy_floats(path, &file, param->name, checkpoint->weights + param->offset, param->size, err);
    }
    if (!rc && checkpoint->optimizer_n)
        rc = copy_floats(path, &file, "optimizer", checkpoint->optimizer, checkpoint->optimizer_n, err);
    if (!rc)
        rc = read_state(path, &file, &checkpoint->state, err);
out:
    tensor_file_done(&file);
    return rc;
}

int model_file_write(const char *path, const struct model *model, const float *weights, const json_t *metadata,
                     struct error *err)
{
    struct tensor *tensors = tensors_of(model, weights);
    int rc = tensors ? safetensors_write(path, tensors, model->params_n, metadata, err)
                     : fail(err, -ENOMEM, "%s: out of memory", path);

    free(tensors);
    return rc;
}
