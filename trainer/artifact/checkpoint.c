/* checkpoint.c - see checkpoint.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/artifact/checkpoint.h"

#include "trainer/artifact/safetensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#define FORMAT "flexp-checkpoint-1"
#define CHECKSUM "checksum" /* key of the metadata: XXH3-128 in hexadecimal */

static void hash_of(const struct model *model, char ret[17])
{
    snprintf(ret, 17, "%016llx", (unsigned long long)XXH3_64bits(model->key, strlen(model->key)));
}

/* Of all that the file says: tensors in their order, then the metadata without the checksum itself. */
static bool checksum_of(const struct tensor *tensors, size_t n, const json_t *metadata, char ret[33])
{
    XXH3_state_t *state = XXH3_createState();
    json_t *rest = json_copy((json_t *)metadata);
    char *text;
    XXH128_hash_t hash;

    json_object_del(rest, CHECKSUM);
    text = json_canonical(rest);
    json_decref(rest);
    if (!state || !text) {
        free(text);
        XXH3_freeState(state);
        return false;
    }
    XXH3_128bits_reset(state);
    for (size_t i = 0; i < n; i++) {
        XXH3_128bits_update(state, tensors[i].name, strlen(tensors[i].name) + 1);
        XXH3_128bits_update(state, tensors[i].shape, (size_t)tensors[i].dims * sizeof *tensors[i].shape);
        XXH3_128bits_update(state, tensors[i].data, tensors[i].bytes);
    }
    XXH3_128bits_update(state, text, strlen(text));
    hash = XXH3_128bits_digest(state);
    snprintf(ret, 33, "%016llx%016llx", (unsigned long long)hash.high64, (unsigned long long)hash.low64);
    XXH3_freeState(state);
    free(text);
    return true;
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
    char hash[17], seed[24], trial[24], checksum[33], *state = json_line(checkpoint->state);
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
    if (checksum_of(tensors, n, metadata, checksum)) {
        json_object_set_new(metadata, CHECKSUM, json_string(checksum));
        rc = safetensors_write(path, tensors, n, metadata, err);
    } else {
        rc = fail(err, -ENOMEM, "%s: out of memory", path);
    }
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

/* Whole in its form, it may still hold other bits than were written. */
static int check_checksum(const char *path, const struct tensor_file *file, struct error *err)
{
    const char *written = json_string_or(file->metadata, CHECKSUM, "");
    char found[33];

    if (!checksum_of(file->tensors, file->n, file->metadata, found))
        return fail(err, -ENOMEM, "%s: out of memory", path);
    if (strcmp(written, found))
        return fail(err, -EINVAL, "%s: its content is not what was written: checksum %s, not \"%.40s\"", path, found,
                    written);
    return 0;
}

/* Of what can go wrong, what is the file's own fault: it will not be better at the next try. */
static bool file_is_bad(int rc)
{
    return rc == -EINVAL || rc == -ENOENT || rc == -ENOTDIR || rc == -EISDIR || rc == -EIO;
}

static int read_whole(const char *path, struct checkpoint *checkpoint, struct error *err)
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
    if ((rc = expect_text(path, file.metadata, "format", FORMAT, err)) || (rc = check_checksum(path, &file, err)) ||
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

int checkpoint_read(const char *path, struct checkpoint *checkpoint, struct error *err)
{
    int rc = read_whole(path, checkpoint, err);

    if (!file_is_bad(rc))
        return rc;
    if (err)
        err->code = -EUCLEAN;
    return -EUCLEAN;
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
