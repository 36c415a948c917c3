/* dataset.c - from the section of a file to a mapped data set: source, content, cache.
 * SPDX-License-Identifier: Apache-2.0 */
#include "common/file.h"
#include "trainer/data/convert.h"
#include "trainer/data/data_private.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct data_source *const SOURCES[] = {&SOURCE_CIFAR10, &SOURCE_IDX, &SOURCE_IMAGES, &SOURCE_SYNTHETIC};

/* A data set being opened: which it is, and where its cache lies. */
struct opening {
    const struct data_source *source;
    struct data_input in;
    struct hash128 stamp;
    bool settled; /* see content_stamp */
};

/* What can be had by one command is named; the folder's name says which it is. */
static void suggest_fetch(const char *path, struct error *err)
{
    static const char *const KNOWN[] = {"cifar10", "mnist", "fashion_mnist"};
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    size_t used = strlen(err->text);

    for (size_t i = 0; i < 3; i++)
        if (!strcmp(name, KNOWN[i]))
            snprintf(err->text + used, sizeof err->text - used, "; `flexp data fetch %s --data %.*s` gets it", name,
                     slash && slash > path ? (int)(slash - path) : 1, slash && slash > path ? path : ".");
}

static int opening_init(struct opening *opening, const json_t *data, uint64_t seed, struct error *err)
{
    const char *name = json_string_or(data, "source", NULL);

    *opening = (struct opening){.in = {.data = data, .path = json_string_or(data, "path", ""), .seed = seed}};
    if (!name)
        return fail(err, -EINVAL, "data.source is missing: one of cifar10, idx, images, synthetic");
    for (size_t i = 0; i < sizeof SOURCES / sizeof *SOURCES; i++)
        if (!strcmp(SOURCES[i]->name, name))
            opening->source = SOURCES[i];
    if (!opening->source)
        return fail(err, -EINVAL, "data.source: %s is not one of cifar10, idx, images, synthetic", name);
    if (opening->source->needs_path && !*opening->in.path)
        return fail(err, -EINVAL, "data.path is missing: source %s reads a folder or file", name);
    if (opening->source->files) {
        int rc = opening->source->files(&opening->in, err);
        if (rc == -ENOENT && err)
            suggest_fetch(opening->in.path, err);
        return rc ? rc : content_stamp(&opening->in.files, &opening->stamp, &opening->settled, err);
    }
    return 0;
}

static void opening_done(struct opening *opening)
{
    data_files_done(&opening->in.files);
}

/* The name of the cache: source, its version and settings, and the content of its files. */
static int key_of(const struct opening *opening, struct hash128 content, struct hash128 *ret, struct error *err)
{
    char hex[33], *settings = opening->source->settings ? opening->source->settings(&opening->in) : strdup("");
    char *text;

    hash128_hex(content, hex);
    text = settings ? format_text("%s %d {%s} %s", opening->source->name, opening->source->version, settings, hex) : NULL;
    if (text)
        *ret = hash128_of(text, strlen(text));
    free(settings);
    if (!text)
        return fail(err, -ENOMEM, "out of memory");
    free(text);
    return 0;
}

static int build(const struct opening *opening, struct cache_build *build, struct error *err)
{
    struct hash128 stamp;
    bool settled;
    int rc = opening->source->load(&opening->in, build, err);

    if (rc)
        return rc;
    if (opening->source->files) {
        rc = content_stamp(&opening->in.files, &stamp, &settled, err);
        if (!rc && memcmp(&stamp, &opening->stamp, sizeof stamp))
            rc = fail(err, -EAGAIN, "%s: changed while it was being read", opening->in.path);
    }
    return rc ? rc : cache_build_finish(build, err);
}

static int open_or_build(const struct opening *opening, const char *cache_dir, struct hash128 key, struct cache_map *ret,
                         struct error *err)
{
    struct cache_build cache;
    int rc = cache_open(cache_dir, key, ret, err);

    if (rc != -ENOENT && rc != -EUCLEAN)
        return rc;
    rc = cache_build_lock(cache_dir, key, &cache, err);
    if (rc)
        return rc;
    rc = cache_open(cache_dir, key, ret, err); /* another process may have made it meanwhile */
    if (rc == -ENOENT || rc == -EUCLEAN) {
        rc = build(opening, &cache, err);
        if (!rc)
            rc = cache_open(cache_dir, key, ret, err);
    }
    cache_build_done(&cache);
    return rc;
}

/* What a source made, in another size or other channels, as a cache of its own. native is closed. */
static int build_converted(const struct cache_map *native, const struct conversion *conversion, struct cache_build *cache,
                           struct error *err)
{
    struct converter converter = {.to = *conversion};
    struct data_shape shape = native->shape;
    size_t from = (size_t)(shape.height * shape.width * shape.channels), to;
    int rc;

    conversion_shape(conversion, &shape);
    to = (size_t)shape.height * (size_t)shape.width * (size_t)shape.channels;
    rc = cache_build_shape(cache, &shape, (const char *const *)native->class_names, err);
    for (int s = 0; s < SPLITS && !rc; s++)
        for (size_t i = 0; i < native->splits[s].n && !rc; i++) {
            if (convert(&converter, native->splits[s].images + i * from, native->shape.height, native->shape.width,
                        native->shape.channels))
                rc = fail(err, -ENOMEM, "out of memory");
            else
                memcpy(cache->images[s] + i * to, converter.pixels, to);
            cache->labels[s][i] = native->splits[s].labels[i];
        }
    converter_done(&converter);
    return rc ? rc : cache_build_finish(cache, err);
}

/* Replaces *map, whose key is native, by its converted form where one is asked for. */
static int open_converted(const json_t *data, const char *cache_dir, struct hash128 native, struct cache_map *map,
                          struct error *err)
{
    struct conversion conversion;
    struct cache_map converted;
    struct cache_build cache;
    struct hash128 key;
    char hex[33], *size, *text;
    int rc = conversion_from(data, &conversion, err);

    if (rc || !conversion_is_needed(&conversion, map->shape.height, map->shape.width, map->shape.channels))
        return rc;
    if (conversion.channels && map->shape.channels != 1 && map->shape.channels != 3)
        return fail(err, -EINVAL, "data.channels: images of %d channels are neither grey nor RGB", map->shape.channels);
    hash128_hex(native, hex);
    size = conversion_text(&conversion);
    text = size ? format_text("converted 1 %s %s", size, hex) : NULL;
    free(size);
    if (!text)
        return fail(err, -ENOMEM, "out of memory");
    key = hash128_of(text, strlen(text));
    free(text);
    rc = cache_open(cache_dir, key, &converted, err);
    if (rc == -ENOENT || rc == -EUCLEAN) {
        rc = cache_build_lock(cache_dir, key, &cache, err);
        if (rc)
            return rc;
        rc = cache_open(cache_dir, key, &converted, err);
        if (rc == -ENOENT || rc == -EUCLEAN) {
            rc = build_converted(map, &conversion, &cache, err);
            if (!rc)
                rc = cache_open(cache_dir, key, &converted, err);
        }
        cache_build_done(&cache);
    }
    if (rc)
        return rc;
    cache_close(map);
    *map = converted;
    return 0;
}

static int content_find(const struct opening *opening, const char *cache_dir, struct hash128 *ret, struct error *err)
{
    int rc;

    if (!opening->in.files.n || content_recall(cache_dir, opening->stamp, ret))
        return 0;
    rc = content_hash(&opening->in.files, ret, err);
    if (!rc && opening->settled)
        content_remember(cache_dir, opening->stamp, *ret);
    return rc;
}

int dataset_open(const json_t *data, uint64_t data_seed, const char *cache_dir, struct dataset **ret, struct error *err)
{
    struct dataset *dataset = calloc(1, sizeof *dataset);
    struct cache_map *map = calloc(1, sizeof *map);
    struct hash128 content = {0}, key;
    struct opening opening;
    int rc = opening_init(&opening, data, data_seed, err);

    if (!rc && (!dataset || !map))
        rc = fail(err, -ENOMEM, "out of memory");
    if (!rc)
        rc = file_make_folder(cache_dir, err);
    if (!rc)
        rc = content_find(&opening, cache_dir, &content, err);
    if (!rc)
        rc = key_of(&opening, content, &key, err);
    if (!rc)
        rc = open_or_build(&opening, cache_dir, key, map, err);
    if (!rc && !opening.source->converts) {
        rc = open_converted(data, cache_dir, key, map, err);
        if (rc)
            cache_close(map);
    }
    if (rc)
        goto out;
    *dataset = (struct dataset){
        .channels = map->shape.channels, .height = map->shape.height, .width = map->shape.width,
        .classes = map->shape.classes, .train = map->splits[TRAIN], .test = map->splits[TEST],
        .class_names = map->class_names, .std = {1, 1, 1, 1}, .private_state = map};
    snprintf(dataset->source, sizeof dataset->source, "%s", opening.source->name);
    hash128_hex(map->content, dataset->hash);
    *ret = dataset;
    dataset = NULL;
    map = NULL;
out:
    opening_done(&opening);
    free(dataset);
    free(map);
    return rc;
}

void dataset_close(struct dataset *dataset)
{
    if (!dataset)
        return;
    if (dataset->private_state)
        cache_close(dataset->private_state);
    free(dataset->private_state);
    free(dataset);
}

int dataset_shape(const json_t *data, uint64_t data_seed, const char *cache_dir, struct data_shape *ret, struct error *err)
{
    struct opening opening;
    struct conversion conversion;
    struct hash128 content = {0}, key;
    int rc = opening_init(&opening, data, data_seed, err);

    if (!rc)
        rc = conversion_from(data, &conversion, err);
    if (rc)
        goto out;
    /* Only what is remembered: hashing the files would take longer than looking at their headers. */
    if ((!opening.in.files.n || content_recall(cache_dir, opening.stamp, &content)) &&
        !key_of(&opening, content, &key, NULL) && !cache_peek(cache_dir, key, ret))
        goto found;
    rc = opening.source->shape(&opening.in, ret, err);
found:
    if (!rc && !opening.source->converts)
        conversion_shape(&conversion, ret);
out:
    opening_done(&opening);
    return rc;
}

void dataset_normalise(struct dataset *dataset, const uint32_t *samples, size_t n)
{
    size_t channels = (size_t)dataset->channels, plane = (size_t)dataset->height * (size_t)dataset->width;
    uint64_t sum[4] = {0}, squares[4] = {0};
    double count = (double)n * (double)plane;

    /* Sums of bytes and of their squares are exact in 64 bits up to 2^48 pixels, so the order does not matter. */
    for (size_t i = 0; i < n; i++) {
        const uint8_t *at = dataset->train.images + samples[i] * plane * channels;
        for (size_t c = 0; c < channels; c++) {
            uint64_t a = 0, b = 0;
            for (size_t p = 0; p < plane; p++) {
                uint32_t v = at[p * channels + c];
                a += v;
                b += v * v;
            }
            sum[c] += a;
            squares[c] += b;
        }
    }
    for (size_t c = 0; c < channels; c++) {
        double mean = n ? (double)sum[c] / count : 0;
        double variance = n ? (double)squares[c] / count - mean * mean : 0;
        double std = variance > 0 ? sqrt(variance) / 255 : 1;
        dataset->mean[c] = (float)(mean / 255);
        dataset->std[c] = std > 1e-6 ? (float)std : 1;
    }
}
