/* cifar10.c - CIFAR-10's binary version: records of one label byte and 3,072 pixel bytes (32x32, planes R, G, B).
 * data.path is the folder with data_batch_1.bin to data_batch_5.bin and test_batch.bin, or one that holds it as
 * cifar-10-batches-bin, or cifar-10-binary.tar.gz as published, or a single .bin file, which is all training data.
 * Source: https://www.cs.toronto.edu/~kriz/cifar.html ("Binary version").
 * SPDX-License-Identifier: Apache-2.0 */
#include "common/file.h"
#include "trainer/data/data_private.h"
#include "trainer/data/tar.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define SIDE 32u
#define PLANE ((size_t)SIDE * SIDE)
#define RECORD (1 + 3 * PLANE)
#define BATCHES 6
#define BATCH_MAX ((size_t)1 << 30)

static const char *const NAMES[BATCHES] = {"data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin",
                                           "data_batch_4.bin", "data_batch_5.bin", "test_batch.bin"};
static const char *const CLASSES[] = {"airplane", "automobile", "bird", "cat", "deer",
                                      "dog", "frog", "horse", "ship", "truck"};
#define CLASSES_N ((int)(sizeof CLASSES / sizeof *CLASSES))

static bool is_folder(const char *path)
{
    struct stat st;

    return !stat(path, &st) && S_ISDIR(st.st_mode);
}

static bool holds(const char *folder, const char *name)
{
    char *path = format_text("%s/%s", folder, name);
    bool found = path && file_exists(path);

    free(path);
    return found;
}

static int folder_files(struct data_input *in, const char *folder, struct error *err)
{
    int rc = 0;

    for (int b = 0; b < BATCHES && !rc; b++) {
        if (!holds(folder, NAMES[b]))
            return fail(err, -ENOENT, "%s/%s: no such file; CIFAR-10's binary version has data_batch_1.bin to data_batch_5.bin "
                        "and test_batch.bin", folder, NAMES[b]);
        rc = data_files_add(&in->files, NAMES[b], err, "%s/%s", folder, NAMES[b]);
    }
    return rc;
}

static int cifar10_files(struct data_input *in, struct error *err)
{
    static const char INNER[] = "cifar-10-batches-bin", ARCHIVE[] = "cifar-10-binary.tar.gz";
    const char *path = in->path;
    size_t n = strlen(path);
    char *inner;
    int rc;

    if (!file_exists(path))
        return fail(err, -ENOENT, "data.path: %s: %s", path, strerror(ENOENT));
    if (!is_folder(path)) {
        if (tar_has_name(path))
            return data_files_add(&in->files, "archive", err, "%s", path);
        if (n > 4 && !strcmp(path + n - 4, ".bin"))
            return data_files_add(&in->files, "single", err, "%s", path);
        return fail(err, -EINVAL, "data.path: %s: source cifar10 reads a folder, a .bin file or a .tar.gz", path);
    }
    if (!holds(path, NAMES[0])) {
        inner = format_text("%s/%s", path, INNER);
        if (!inner)
            return fail(err, -ENOMEM, "out of memory");
        rc = is_folder(inner) ? folder_files(in, inner, err) : 1;
        free(inner);
        if (rc != 1)
            return rc;
        if (holds(path, ARCHIVE))
            return data_files_add(&in->files, "archive", err, "%s/%s", path, ARCHIVE);
        if (holds(path, "data_batch_1") || holds(path, "cifar-10-batches-py"))
            return fail(err, -EINVAL, "data.path: %s: holds CIFAR-10's Python version; flexp reads the binary version "
                        "(cifar-10-binary.tar.gz)", path);
    }
    return folder_files(in, path, err);
}

/* One batch. name: for errors, "PATH" or "ARCHIVE: ENTRY". */
struct batch {
    char *name, *bytes;
    size_t length;
};

static void batches_done(struct batch batches[BATCHES])
{
    for (int b = 0; b < BATCHES; b++) {
        free(batches[b].name);
        free(batches[b].bytes);
    }
}

static int check_length(const char *name, uint64_t length, struct error *err)
{
    if (length && length % RECORD == 0)
        return 0;
    return fail(err, -EINVAL, "%s: record %llu: truncated: the file's %llu bytes are not a whole number of records of %zu bytes",
                name, (unsigned long long)(length / RECORD), (unsigned long long)length, RECORD);
}

static int batch_number(const char *entry)
{
    const char *slash = strrchr(entry, '/'), *base = slash ? slash + 1 : entry;

    for (int b = 0; b < BATCHES; b++)
        if (!strcmp(base, NAMES[b]))
            return b;
    return -1;
}

/* Lengths, and bytes where asked for, of the batches in an archive. */
static int archive_batches(const char *path, struct batch batches[BATCHES], bool with_bytes, struct error *err)
{
    struct tar_reader *reader;
    struct tar_entry entry;
    int rc = tar_open(path, &reader, err), b;

    if (rc)
        return rc;
    while ((rc = tar_next(reader, &entry, err)) == 1) {
        size_t room = 0;
        b = entry.folder ? -1 : batch_number(entry.name);
        if (b < 0)
            continue;
        if (batches[b].name) {
            rc = fail(err, -EINVAL, "%s: entry %s: %s is there twice", path, entry.name, NAMES[b]);
            break;
        }
        batches[b].name = format_text("%s: %s", path, entry.name);
        batches[b].length = entry.bytes;
        rc = batches[b].name ? 0 : fail(err, -ENOMEM, "out of memory");
        if (!rc && with_bytes)
            rc = tar_read(reader, (uint8_t **)(void *)&batches[b].bytes, &room, &batches[b].length, BATCH_MAX, err);
        if (rc)
            break;
    }
    for (b = 0; b < BATCHES && !rc; b++)
        if (!batches[b].name)
            rc = fail(err, -EINVAL, "%s: %s is missing from the archive", path, NAMES[b]);
    tar_close(reader);
    return rc;
}

/* Batch 5 is the test batch; a single file is batch 0. */
static int batches_read(const struct data_input *in, struct batch batches[BATCHES], bool with_bytes, struct error *err)
{
    const char *archive = data_file_path(&in->files, "archive");
    int rc = archive ? archive_batches(archive, batches, with_bytes, err) : 0;

    for (size_t i = 0; i < in->files.n && !archive && !rc; i++) {
        const char *path = in->files.list[i].path;
        struct stat st;
        batches[i].name = strdup(path);
        if (!batches[i].name)
            rc = fail(err, -ENOMEM, "out of memory");
        else if (with_bytes)
            rc = file_read(path, &batches[i].bytes, &batches[i].length, err);
        else if (stat(path, &st))
            rc = fail(err, -errno, "%s: %s", path, strerror(errno));
        else
            batches[i].length = (size_t)st.st_size;
    }
    for (int b = 0; b < BATCHES && !rc; b++)
        if (batches[b].name)
            rc = check_length(batches[b].name, batches[b].length, err);
    return rc;
}

static struct data_shape shape_of(const struct batch batches[BATCHES])
{
    struct data_shape shape = {3, (int)SIDE, (int)SIDE, CLASSES_N, 0, batches[BATCHES - 1].length / RECORD};

    for (int b = 0; b < BATCHES - 1; b++)
        shape.train_n += batches[b].length / RECORD;
    return shape;
}

static int cifar10_shape(const struct data_input *in, struct data_shape *ret, struct error *err)
{
    struct batch batches[BATCHES] = {0};
    int rc = batches_read(in, batches, false, err);

    if (!rc)
        *ret = shape_of(batches);
    batches_done(batches);
    return rc;
}

static int unpack(const struct batch *batch, uint8_t *images, uint16_t *labels, struct error *err)
{
    for (size_t r = 0; r < batch->length / RECORD; r++) {
        const uint8_t *at = (const uint8_t *)batch->bytes + r * RECORD, *planes = at + 1;
        uint8_t *to = images + r * 3 * PLANE;
        if (*at >= CLASSES_N)
            return fail(err, -EINVAL, "%s: record %zu: label %d is not in 0..%d (byte %zu)", batch->name, r, *at,
                        CLASSES_N - 1, r * RECORD);
        labels[r] = *at;
        for (size_t p = 0; p < PLANE; p++)
            for (size_t c = 0; c < 3; c++)
                to[3 * p + c] = planes[c * PLANE + p];
    }
    return 0;
}

static int cifar10_load(const struct data_input *in, struct cache_build *build, struct error *err)
{
    struct batch batches[BATCHES] = {0};
    struct data_shape shape;
    size_t at = 0;
    int rc = batches_read(in, batches, true, err);

    if (rc)
        goto out;
    shape = shape_of(batches);
    rc = cache_build_shape(build, &shape, CLASSES, err);
    for (int b = 0; b < BATCHES - 1 && !rc; b++) {
        rc = unpack(&batches[b], build->images[TRAIN] + at * 3 * PLANE, build->labels[TRAIN] + at, err);
        at += batches[b].length / RECORD;
    }
    if (!rc)
        rc = unpack(&batches[BATCHES - 1], build->images[TEST], build->labels[TEST], err);
out:
    batches_done(batches);
    return rc;
}

const struct data_source SOURCE_CIFAR10 = {.name = "cifar10", .version = 1, .needs_path = true,
                                           .files = cifar10_files, .shape = cifar10_shape, .load = cifar10_load};
