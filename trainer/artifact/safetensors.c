/* safetensors.c - see safetensors.h.
 * What is written is laid out so that any reader is content: tensors of wide types first, no holes, a header padded with
 * spaces to 8 bytes; so every tensor is aligned to its own type in the file and in memory.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/artifact/safetensors.h"
#include "common/file.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define HEADER_MAX ((size_t)100 << 20) /* the reference implementation's limit */
#define LENGTH_BYTES ((size_t)8)
#define DTYPES (sizeof DTYPE / sizeof *DTYPE)

static const struct {
    const char *name;
    size_t bytes;
} DTYPE[] = {
    [TENSOR_F32] = {"F32", 4}, [TENSOR_F64] = {"F64", 8}, [TENSOR_I64] = {"I64", 8}, [TENSOR_U8] = {"U8", 1},
};

/* Bytes of this many elements; false where that does not fit in 63 bits. */
static bool shape_bytes(const int64_t *shape, int dims, size_t element, size_t *ret)
{
    uint64_t bytes = element;

    for (int i = 0; i < dims; i++)
        if (__builtin_mul_overflow(bytes, (uint64_t)shape[i], &bytes) || bytes > INT64_MAX)
            return false;
    *ret = (size_t)bytes;
    return true;
}

static int check_one(const char *path, const struct tensor *t, struct error *err)
{
    size_t bytes;

    if (!memchr(t->name, 0, sizeof t->name) || !*t->name || !strcmp(t->name, "__metadata__"))
        return fail(err, -EINVAL, "%s: a tensor has no name, too long a name or the name __metadata__", path);
    if ((size_t)t->dtype >= DTYPES || t->dims < 0 || t->dims > 4)
        return fail(err, -EINVAL, "%s: tensor %s: dtype %d with %d dimensions cannot be written", path, t->name,
                    (int)t->dtype, t->dims);
    for (int i = 0; i < t->dims; i++)
        if (t->shape[i] < 0)
            return fail(err, -EINVAL, "%s: tensor %s: shape[%d] is negative", path, t->name, i);
    if (!shape_bytes(t->shape, t->dims, DTYPE[t->dtype].bytes, &bytes) || bytes != t->bytes)
        return fail(err, -EINVAL, "%s: tensor %s: its shape does not ask for the %zu bytes given", path, t->name, t->bytes);
    return 0;
}

static json_t *header_of(const struct tensor *const *order, size_t n, const json_t *metadata)
{
    json_t *header = json_object();
    size_t at = 0;

    if (metadata && json_object_size(metadata))
        json_object_set(header, "__metadata__", (json_t *)metadata);
    for (size_t i = 0; i < n; i++) {
        json_t *shape = json_array();
        for (int d = 0; d < order[i]->dims; d++)
            json_array_append_new(shape, json_integer(order[i]->shape[d]));
        json_object_set_new(header, order[i]->name,
                            json_pack("{s:s, s:o, s:[I, I]}", "dtype", DTYPE[order[i]->dtype].name, "shape", shape,
                                      "data_offsets", (json_int_t)at, (json_int_t)(at + order[i]->bytes)));
        at += order[i]->bytes;
    }
    return header;
}

int safetensors_write(const char *path, const struct tensor *tensors, size_t n, const json_t *metadata,
                      struct error *err)
{
    const struct tensor **order = calloc(n + 1, sizeof *order);
    struct file_piece *pieces = calloc(n + 3, sizeof *pieces);
    unsigned char length[LENGTH_BYTES];
    json_t *header = NULL, *value;
    char *text = NULL;
    size_t used = 0, text_n, padding;
    const char *key;
    int rc = 0;

    if (!order || !pieces) {
        rc = fail(err, -ENOMEM, "%s: out of memory", path);
        goto out;
    }
    json_object_foreach((json_t *)metadata, key, value)
        if (!json_is_string(value)) {
            rc = fail(err, -EINVAL, "%s: metadata %s is not a string", path, key);
            goto out;
        }
    for (size_t i = 0; i < n && !rc; i++)
        rc = check_one(path, &tensors[i], err);
    if (rc)
        goto out;
    for (size_t width = 8; width; width /= 2)
        for (size_t i = 0; i < n; i++)
            if (DTYPE[tensors[i].dtype].bytes == width)
                order[used++] = &tensors[i];
    header = header_of(order, n, metadata);
    text = json_dumps(header, JSON_COMPACT);
    if (!text) {
        rc = fail(err, -EINVAL, "%s: the header cannot be written: a name is not UTF-8, or out of memory", path);
        goto out;
    }
    if (json_object_size(header) != n + (metadata && json_object_size(metadata) ? 1 : 0)) {
        rc = fail(err, -EINVAL, "%s: two tensors have one name", path);
        goto out;
    }
    text_n = strlen(text);
    padding = (8 - text_n % 8) % 8;
    for (size_t i = 0; i < LENGTH_BYTES; i++)
        length[i] = (unsigned char)((uint64_t)(text_n + padding) >> (8 * i));
    pieces[0] = (struct file_piece){length, sizeof length};
    pieces[1] = (struct file_piece){text, text_n};
    pieces[2] = (struct file_piece){"       ", padding};
    for (size_t i = 0; i < n; i++)
        pieces[3 + i] = (struct file_piece){order[i]->data, order[i]->bytes};
    rc = file_write_pieces(path, pieces, n + 3, err);
out:
    free(text);
    json_decref(header);
    free(pieces);
    free(order);
    return rc;
}

/* One member of the header into t. data: the bytes behind the header. */
static int parse_one(const char *name, const json_t *entry, const char *data, size_t data_n, struct tensor *t,
                     struct error *err)
{
    const json_t *shape = json_object_get(entry, "shape"), *offsets = json_object_get(entry, "data_offsets");
    const char *dtype = json_string_or(entry, "dtype", NULL);
    json_int_t begin, end;
    size_t bytes, d = 0;

    if (strlen(name) >= sizeof t->name)
        return fail(err, -EINVAL, "tensor %.60s...: the name is longer than %zu bytes", name, sizeof t->name - 1);
    memcpy(t->name, name, strlen(name) + 1);
    if (!json_is_object(entry) || json_object_size(entry) != 3 || !dtype || !json_is_array(shape) ||
        !json_is_array(offsets))
        return fail(err, -EINVAL, "tensor %s: must have exactly dtype, shape and data_offsets", name);
    while (d < DTYPES && strcmp(DTYPE[d].name, dtype))
        d++;
    if (d == DTYPES)
        return fail(err, -EINVAL, "tensor %s: dtype \"%.20s\" is not one of F32, F64, I64, U8", name, dtype);
    t->dtype = (enum tensor_dtype)d;
    if (json_array_size(shape) > 4)
        return fail(err, -EINVAL, "tensor %s: has %zu dimensions where at most 4 are read", name, json_array_size(shape));
    t->dims = (int)json_array_size(shape);
    for (int i = 0; i < t->dims; i++) {
        const json_t *size = json_array_get(shape, (size_t)i);
        if (!json_is_integer(size) || json_integer_value(size) < 0)
            return fail(err, -EINVAL, "tensor %s: shape[%d] is not a size", name, i);
        t->shape[i] = json_integer_value(size);
    }
    if (json_array_size(offsets) != 2 || !json_is_integer(json_array_get(offsets, 0)) ||
        !json_is_integer(json_array_get(offsets, 1)))
        return fail(err, -EINVAL, "tensor %s: data_offsets must be two numbers", name);
    begin = json_integer_value(json_array_get(offsets, 0));
    end = json_integer_value(json_array_get(offsets, 1));
    if (begin < 0 || end < begin || (uint64_t)end > data_n)
        return fail(err, -EINVAL, "tensor %s: data_offsets %lld to %lld are not within the file's %zu bytes of data", name,
                    (long long)begin, (long long)end, data_n);
    t->bytes = (size_t)(end - begin);
    if (!shape_bytes(t->shape, t->dims, DTYPE[d].bytes, &bytes) || bytes != t->bytes)
        return fail(err, -EINVAL, "tensor %s: its shape does not ask for the %zu bytes of its data_offsets", name, t->bytes);
    t->data = data + begin;
    if (t->bytes && (uintptr_t)t->data % DTYPE[d].bytes)
        return fail(err, -EINVAL, "tensor %s: its data is not aligned to %zu bytes", name, DTYPE[d].bytes);
    return 0;
}

static int by_place(const void *a, const void *b)
{
    const struct tensor *const *x = a, *const *y = b;
    const char *p = (*x)->data, *q = (*y)->data;

    return p != q ? (p > q) - (p < q) : ((*x)->bytes > (*y)->bytes) - ((*x)->bytes < (*y)->bytes);
}

/* Every byte of data belongs to exactly one tensor. */
static int check_cover(const struct tensor *tensors, size_t n, const char *data, size_t data_n, struct error *err)
{
    const struct tensor **order = calloc(n + 1, sizeof *order);
    const char *at = data;
    int rc = 0;

    if (!order)
        return fail(err, -ENOMEM, "out of memory");
    for (size_t i = 0; i < n; i++)
        order[i] = &tensors[i];
    qsort(order, n, sizeof *order, by_place);
    for (size_t i = 0; i < n && !rc; i++) {
        if ((const char *)order[i]->data != at)
            rc = fail(err, -EINVAL, "tensor %s: begins at %td where the data before it ends at %td", order[i]->name,
                      (const char *)order[i]->data - data, at - data);
        at = (const char *)order[i]->data + order[i]->bytes;
    }
    if (!rc && (size_t)(at - data) != data_n)
        rc = fail(err, -EINVAL, "%zu bytes follow the last tensor", data_n - (size_t)(at - data));
    free(order);
    return rc;
}

static int parse_metadata(const json_t *value, json_t *ret, struct error *err)
{
    json_t *member;
    const char *key;

    if (!json_is_object(value))
        return fail(err, -EINVAL, "__metadata__ is not an object");
    json_object_foreach((json_t *)value, key, member) {
        if (!json_is_string(member))
            return fail(err, -EINVAL, "__metadata__.%.60s is not a string", key);
        json_object_set(ret, key, member);
    }
    return 0;
}

int safetensors_parse(const char *bytes, size_t length, struct tensor_file *ret, struct error *err)
{
    struct tensor_file file = {.length = length};
    uint64_t header_n = 0;
    json_t *header = NULL, *entry;
    const char *name, *data;
    size_t data_n;
    int rc = 0;

    if (length < LENGTH_BYTES)
        return fail(err, -EINVAL, "%zu bytes are too few: a safetensors file begins with 8 bytes of length", length);
    for (size_t i = 0; i < LENGTH_BYTES; i++)
        header_n |= (uint64_t)(unsigned char)bytes[i] << (8 * i);
    if (header_n > HEADER_MAX || header_n > length - LENGTH_BYTES)
        return fail(err, -EINVAL, "the header should be %llu bytes long, but only %zu follow: torn, or not a safetensors file",
                    (unsigned long long)header_n, length - LENGTH_BYTES);
    if (!header_n || bytes[LENGTH_BYTES] != '{')
        return fail(err, -EINVAL, "byte 8: the header does not begin with {");
    rc = json_parse(bytes + LENGTH_BYTES, (size_t)header_n, &header, err);
    if (rc)
        return fail_prefix(err, "header");
    data = bytes + LENGTH_BYTES + header_n;
    data_n = length - LENGTH_BYTES - (size_t)header_n;
    file.metadata = json_object();
    file.tensors = calloc(json_object_size(header) + 1, sizeof *file.tensors);
    if (!file.metadata || !file.tensors) {
        rc = fail(err, -ENOMEM, "out of memory");
        goto out;
    }
    json_object_foreach(header, name, entry) {
        if (!strcmp(name, "__metadata__"))
            rc = parse_metadata(entry, file.metadata, err);
        else
            rc = parse_one(name, entry, data, data_n, &file.tensors[file.n++], err);
        if (rc)
            goto out;
    }
    rc = check_cover(file.tensors, file.n, data, data_n, err);
out:
    json_decref(header);
    if (rc)
        tensor_file_done(&file);
    else
        *ret = file;
    return rc;
}

int safetensors_read(const char *path, struct tensor_file *ret, struct error *err)
{
    char *bytes;
    size_t length;
    int rc = file_read(path, &bytes, &length, err);

    if (rc)
        return rc;
    rc = safetensors_parse(bytes, length, ret, err);
    if (rc) {
        free(bytes);
        return err ? fail_prefix(err, "%s", path) : rc;
    }
    ret->bytes = bytes;
    return 0;
}

void tensor_file_done(struct tensor_file *file)
{
    if (!file)
        return;
    free(file->bytes);
    free(file->tensors);
    json_decref(file->metadata);
    *file = (struct tensor_file){0};
}

const struct tensor *tensor_find(const struct tensor_file *file, const char *name)
{
    for (size_t i = 0; i < file->n; i++)
        if (!strcmp(file->tensors[i].name, name))
            return &file->tensors[i];
    return NULL;
}
