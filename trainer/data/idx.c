/* idx.c - MNIST's format: train-images-idx3-ubyte, train-labels-idx1-ubyte and the same for t10k (or test), each plain or
 * .gz, with - or . before idx. A folder without test files has no test split; other files in it (val-...) are not read.
 * A file is 4 bytes magic (0, 0, 8 for unsigned bytes, number of dimensions), big-endian sizes, then the bytes. The header is
 * checked against the file's length before anything of that size is allocated.
 * Source: http://yann.lecun.com/exdb/mnist/ ("File formats").
 * SPDX-License-Identifier: Apache-2.0 */
#include "common/file.h"
#include "trainer/data/data_private.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <zlib.h>

#define IMAGES_HEADER 16u
#define LABELS_HEADER 8u
/* A byte of deflate stands for at most 1032 bytes: what a file could at most hold. */
#define DEFLATE_MOST 1032u

static const struct {
    const char *role, *stem;
    unsigned dims;
} PARTS[SPLITS][2] = {
    {{"train-images", "images", 3}, {"train-labels", "labels", 1}},
    {{"test-images", "images", 3}, {"test-labels", "labels", 1}},
};
static const char *const STEMS[SPLITS][2] = {{"train", "train"}, {"t10k", "test"}};

/* A file's bytes, unpacked as far as asked for. */
struct reader {
    const char *path;
    char *bytes;
    size_t length, taken;
    bool packed, ended;
    z_stream stream;
};

static int reader_init(struct reader *reader, const char *path, struct error *err)
{
    int rc;

    *reader = (struct reader){.path = path};
    rc = file_read(path, &reader->bytes, &reader->length, err);
    if (rc)
        return rc;
    reader->packed = reader->length >= 2 && !memcmp(reader->bytes, "\x1f\x8b", 2);
    if (!reader->packed)
        return 0;
    reader->stream.next_in = (unsigned char *)reader->bytes;
    reader->stream.avail_in = (unsigned)reader->length;
    if (reader->length > UINT32_MAX || inflateInit2(&reader->stream, 15 + 16) != Z_OK)
        return fail(err, -ENOMEM, "%s: cannot be unpacked: too large, or out of memory", path);
    return 0;
}

static void reader_done(struct reader *reader)
{
    if (reader->packed)
        inflateEnd(&reader->stream);
    free(reader->bytes);
}

static int unpack(struct reader *reader, unsigned char *into, size_t n, size_t *ret_n, struct error *err)
{
    z_stream *stream = &reader->stream;

    *ret_n = 0;
    while (*ret_n < n && !reader->ended) {
        size_t room = n - *ret_n < 1u << 30 ? n - *ret_n : 1u << 30;
        int code;
        stream->next_out = into + *ret_n;
        stream->avail_out = (unsigned)room;
        code = inflate(stream, Z_NO_FLUSH);
        *ret_n += room - stream->avail_out;
        if (code == Z_STREAM_END) {
            if (stream->avail_in >= 2 && stream->next_in[0] == 0x1f && stream->next_in[1] == 0x8b)
                inflateReset(stream); /* one more member, as gzip itself reads on */
            else if (stream->avail_in)
                return fail(err, -EINVAL, "%s: %u bytes follow the end of the gzip data", reader->path, stream->avail_in);
            else
                reader->ended = true;
        } else if (code == Z_BUF_ERROR || (code == Z_OK && !stream->avail_in && stream->avail_out)) {
            return fail(err, -EINVAL, "%s: the gzip data is truncated after %zu bytes", reader->path, reader->length);
        } else if (code != Z_OK) {
            return fail(err, -EINVAL, "%s: the gzip data is damaged near byte %lu: %s", reader->path, stream->total_in,
                        stream->msg ? stream->msg : "error");
        }
    }
    return 0;
}

/* Up to n bytes; fewer at the end of the file. */
static int reader_read(struct reader *reader, unsigned char *into, size_t n, size_t *ret_n, struct error *err)
{
    if (reader->packed)
        return unpack(reader, into, n, ret_n, err);
    *ret_n = n < reader->length - reader->taken ? n : reader->length - reader->taken;
    memcpy(into, reader->bytes + reader->taken, *ret_n);
    reader->taken += *ret_n;
    return 0;
}

static uint32_t big_endian(const unsigned char *at)
{
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

/* sizes: `dims` of them (1 or 3). */
static int read_header(struct reader *reader, unsigned dims, uint32_t *sizes, struct error *err)
{
    unsigned char header[IMAGES_HEADER];
    size_t want = 4 + 4 * dims, n, limit;
    uint64_t bytes = want;
    int rc = reader_read(reader, header, want, &n, err);

    if (rc)
        return rc;
    if (n >= 4 && big_endian(header) != (0x800u | dims))
        return fail(err, -EINVAL, "%s: its magic number is 0x%08x where 0x%08x is right (IDX, unsigned bytes, %u dimension%s)",
                    reader->path, big_endian(header), 0x800u | dims, dims, dims > 1 ? "s" : "");
    if (n < want)
        return fail(err, -EINVAL, "%s: ends after %zu bytes, within its header of %zu", reader->path, n, want);
    for (unsigned d = 0; d < dims; d++) {
        sizes[d] = big_endian(header + 4 + 4 * d);
        if (d && (sizes[d] < 1 || sizes[d] > DATA_SIDE_MAX))
            return fail(err, -EINVAL, "%s: its header promises images of %ux%u, which is not within 1..%d", reader->path,
                        sizes[1], big_endian(header + 12), DATA_SIDE_MAX);
        bytes = d ? bytes + (bytes - want) * (sizes[d] - 1) : bytes + sizes[d];
    }
    if (!sizes[0])
        return fail(err, -EINVAL, "%s: its header promises no %s", reader->path, dims == 3 ? "images" : "labels");
    limit = reader->packed ? reader->length * DEFLATE_MOST : reader->length;
    if (bytes > limit && dims == 3)
        return fail(err, -EINVAL, "%s: its header promises %u images of %ux%u, %llu bytes in all, but the file holds at most %zu",
                    reader->path, sizes[0], sizes[1], sizes[2], (unsigned long long)bytes, limit);
    if (bytes > limit)
        return fail(err, -EINVAL, "%s: its header promises %u labels, %llu bytes in all, but the file holds at most %zu",
                    reader->path, sizes[0], (unsigned long long)bytes, limit);
    return 0;
}

/* Exactly n bytes of data, and the file ends there. */
static int read_body(struct reader *reader, unsigned char *into, size_t n, const char *what, uint32_t count,
                     struct error *err)
{
    unsigned char more[4096];
    size_t got, after = 0, extra;
    int rc = reader_read(reader, into, n, &got, err);

    if (rc)
        return rc;
    if (got < n)
        return fail(err, -EINVAL, "%s: record %zu: ends within the %u %s that its header promises", reader->path,
                    got / (n / count), count, what);
    do {
        rc = reader_read(reader, more, sizeof more, &extra, err);
        after += extra;
    } while (!rc && extra && after < sizeof more);
    if (!rc && after)
        rc = fail(err, -EINVAL, "%s: %s%zu byte%s the %u %s that its header promises", reader->path,
                  after >= sizeof more ? "at least " : "", after, after == 1 ? " follows" : "s follow", count, what);
    return rc;
}

static int idx_files(struct data_input *in, struct error *err)
{
    static const struct {
        char before_idx;
        const char *suffix;
    } FORMS[] = {{'-', ""}, {'.', ""}, {'-', ".gz"}, {'.', ".gz"}};
    struct stat st;
    int rc = 0;

    if (stat(in->path, &st))
        return fail(err, -errno, "data.path: %s: %s", in->path, strerror(errno));
    if (!S_ISDIR(st.st_mode))
        return fail(err, -ENOTDIR, "data.path: %s: source idx reads a folder with train-images-idx3-ubyte(.gz), "
                    "train-labels-idx1-ubyte(.gz) and the same for t10k", in->path);
    for (int s = 0; s < SPLITS; s++)
        for (int part = 0; part < 2; part++) {
            bool found = false;
            for (size_t i = 0; i < 2 * sizeof FORMS / sizeof *FORMS && !found && !rc; i++) {
                char *path = format_text("%s/%s-%s%cidx%u-ubyte%s", in->path, STEMS[s][i % 2], PARTS[s][part].stem,
                                         FORMS[i / 2].before_idx, PARTS[s][part].dims, FORMS[i / 2].suffix);
                found = path && file_exists(path);
                if (!path)
                    rc = fail(err, -ENOMEM, "out of memory");
                else if (found)
                    rc = data_files_add(&in->files, PARTS[s][part].role, err, "%s", path);
                free(path);
            }
            if (rc)
                return rc;
        }
    for (int s = 0; s < SPLITS; s++) {
        const char *images = data_file_path(&in->files, PARTS[s][0].role), *labels = data_file_path(&in->files, PARTS[s][1].role);
        if (s == TEST && !images && !labels)
            continue;
        if (!images)
            return fail(err, -ENOENT, "%s/%s-images-idx3-ubyte: no such file, nor with .gz or with . before idx", in->path,
                        STEMS[s][0]);
        if (!labels)
            return fail(err, -ENOENT, "%s/%s-labels-idx1-ubyte: no such file, nor with .gz or with . before idx", in->path,
                        STEMS[s][0]);
    }
    return 0;
}

/* One file's bytes behind its header. */
static int read_part(const struct data_input *in, int s, int part, uint32_t *ret_sizes, unsigned char **ret_body,
                     struct error *err)
{
    const char *path = data_file_path(&in->files, PARTS[s][part].role);
    struct reader reader;
    unsigned char *body = NULL;
    size_t n = 1;
    int rc = reader_init(&reader, path, err);

    if (!rc)
        rc = read_header(&reader, PARTS[s][part].dims, ret_sizes, err);
    if (!rc && ret_body) {
        for (unsigned d = 0; d < PARTS[s][part].dims; d++)
            n *= ret_sizes[d];
        body = malloc(n);
        rc = body ? read_body(&reader, body, n, part ? "labels" : "images", ret_sizes[0], err)
                  : fail(err, -ENOMEM, "%s: out of memory for %zu bytes", path, n);
    }
    reader_done(&reader);
    if (rc)
        free(body);
    else if (ret_body)
        *ret_body = body;
    return rc;
}

/* Everything of a set of files: images and labels of both splits. */
struct parts {
    uint32_t sizes[SPLITS][3];
    unsigned char *body[SPLITS][2];
};

static void parts_done(struct parts *parts)
{
    for (int s = 0; s < SPLITS; s++)
        for (int part = 0; part < 2; part++)
            free(parts->body[s][part]);
}

/* with_images: else their headers alone. Fills in the shape. */
static int parts_read(const struct data_input *in, bool with_images, struct parts *parts, struct data_shape *shape,
                      struct error *err)
{
    unsigned most = 0;
    int rc = 0;

    *parts = (struct parts){0};
    for (int s = 0; s < SPLITS && !rc; s++) {
        const char *path = data_file_path(&in->files, PARTS[s][0].role);
        const char *labels_path = data_file_path(&in->files, PARTS[s][1].role);
        uint32_t labels_n = 0, *sizes = parts->sizes[s];
        if (!path)
            continue;
        rc = read_part(in, s, 0, sizes, with_images ? &parts->body[s][0] : NULL, err);
        if (!rc)
            rc = read_part(in, s, 1, &labels_n, &parts->body[s][1], err);
        if (rc)
            break;
        if (labels_n != sizes[0])
            rc = fail(err, -EINVAL, "%s: %u labels for the %u images of %s", labels_path, labels_n, sizes[0], path);
        else if (s == TEST && (sizes[1] != parts->sizes[TRAIN][1] || sizes[2] != parts->sizes[TRAIN][2]))
            rc = fail(err, -EINVAL, "%s: images of %ux%u where the training images are %ux%u", path, sizes[1], sizes[2],
                      parts->sizes[TRAIN][1], parts->sizes[TRAIN][2]);
        for (uint32_t i = 0; i < labels_n && !rc; i++) {
            unsigned label = parts->body[s][1][i];
            if (s == TRAIN && label > most)
                most = label;
            if (s == TEST && label > most)
                rc = fail(err, -EINVAL, "%s: record %u: label %u is not among the training labels 0..%u", labels_path, i,
                          label, most);
        }
    }
    if (!rc)
        *shape = (struct data_shape){1, (int)parts->sizes[TRAIN][1], (int)parts->sizes[TRAIN][2], (int)most + 1,
                                     parts->sizes[TRAIN][0], parts->sizes[TEST][0]};
    return rc;
}

static int idx_shape(const struct data_input *in, struct data_shape *ret, struct error *err)
{
    struct parts parts;
    int rc = parts_read(in, false, &parts, ret, err);

    parts_done(&parts);
    return rc;
}

static int idx_load(const struct data_input *in, struct cache_build *build, struct error *err)
{
    struct parts parts;
    struct data_shape shape;
    int rc = parts_read(in, true, &parts, &shape, err);

    if (!rc)
        rc = cache_build_shape(build, &shape, NULL, err);
    for (int s = 0; s < SPLITS && !rc; s++) {
        uint32_t n = parts.sizes[s][0];
        if (!n)
            continue;
        memcpy(build->images[s], parts.body[s][0], (size_t)n * parts.sizes[s][1] * parts.sizes[s][2]);
        for (uint32_t i = 0; i < n; i++)
            build->labels[s][i] = parts.body[s][1][i];
    }
    parts_done(&parts);
    return rc;
}

const struct data_source SOURCE_IDX = {
    .name = "idx", .version = 1, .needs_path = true, .files = idx_files, .shape = idx_shape, .load = idx_load};
