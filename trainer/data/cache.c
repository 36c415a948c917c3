/* cache.c - the decoded data set as one file: CACHE_DIR/KEY.data.
 * A page of header, class names, labels, images; the header carries the file's length, a hash of itself and one of all that
 * follows, and both are checked at every opening (xxh3 runs at memory speed), so that a torn or altered file is found and
 * made again. The file is filled through a shared mapping under a temporary name, which is fixed because only the holder of
 * the lock writes it; then fsync, rename, fsync of the folder.
 * SPDX-License-Identifier: Apache-2.0 */
#include "common/file.h"
#include "trainer/data/data_private.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#define MAGIC "flexpdat"
#define CACHE_VERSION 1u
#define HEADER_BYTES ((size_t)4096)
#define ALIGNMENT ((size_t)64)

/* As it lies in the file, in the byte order of the machine: another order has another version. */
struct cache_header {
    char magic[8];
    uint32_t version, channels, height, width, classes, zero;
    uint64_t length, n[SPLITS];
    uint64_t names_at, labels_at[SPLITS], images_at[SPLITS];
    struct hash128 key, content;
    uint64_t check; /* XXH3 of all before */
};

static uint64_t header_check(const struct cache_header *header)
{
    return XXH3_64bits(header, offsetof(struct cache_header, check));
}

/* Of everything that makes the data set what it is; the places of the parts follow from it. */
static struct hash128 content_of(const struct cache_header *header, const char *bytes)
{
    XXH3_state_t *state = XXH3_createState();
    XXH128_hash_t hash = {0, 0};

    if (state) {
        XXH3_128bits_reset(state);
        XXH3_128bits_update(state, &header->channels, 4 * sizeof header->channels);
        XXH3_128bits_update(state, header->n, sizeof header->n);
        XXH3_128bits_update(state, bytes + HEADER_BYTES, header->length - HEADER_BYTES);
        hash = XXH3_128bits_digest(state);
    }
    XXH3_freeState(state);
    return (struct hash128){hash.high64, hash.low64};
}

static char *cache_name(const char *cache_dir, struct hash128 key, const char *suffix)
{
    char hex[33];

    hash128_hex(key, hex);
    return format_text("%s/%s.%s", cache_dir, hex, suffix);
}

/* -EUCLEAN where the header is not that of a whole file of this length and key. */
static int header_read(int fd, const char *path, struct hash128 key, struct cache_header *ret, struct error *err)
{
    struct stat st;

    if (fstat(fd, &st))
        return fail(err, -errno, "%s: %s", path, strerror(errno));
    if (pread(fd, ret, sizeof *ret, 0) != (ssize_t)sizeof *ret || memcmp(ret->magic, MAGIC, sizeof ret->magic) ||
        ret->version != CACHE_VERSION || ret->check != header_check(ret) || ret->key.high != key.high ||
        ret->key.low != key.low)
        return fail(err, -EUCLEAN, "%s: the header is damaged", path);
    if ((uint64_t)st.st_size != ret->length)
        return fail(err, -EUCLEAN, "%s: %lld bytes long where its header says %llu", path, (long long)st.st_size,
                    (unsigned long long)ret->length);
    return 0;
}

static struct data_shape shape_of(const struct cache_header *header)
{
    return (struct data_shape){(int)header->channels, (int)header->height, (int)header->width, (int)header->classes,
                               header->n[TRAIN], header->n[TEST]};
}

int cache_peek(const char *cache_dir, struct hash128 key, struct data_shape *ret)
{
    char *path = cache_name(cache_dir, key, "data");
    struct cache_header header;
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1, rc = -ENOENT;

    if (fd >= 0) {
        rc = header_read(fd, path, key, &header, NULL);
        close(fd);
    }
    if (!rc)
        *ret = shape_of(&header);
    free(path);
    return rc;
}

static int map_names(struct cache_map *map, const char *at)
{
    map->class_names = calloc((size_t)map->shape.classes, sizeof *map->class_names);
    if (!map->class_names)
        return -ENOMEM;
    for (int k = 0; k < map->shape.classes; k++) {
        map->class_names[k] = at;
        at += strlen(at) + 1;
    }
    return 0;
}

int cache_open(const char *cache_dir, struct hash128 key, struct cache_map *ret, struct error *err)
{
    char *path = cache_name(cache_dir, key, "data");
    struct cache_map map = {.bytes = MAP_FAILED};
    struct cache_header header;
    struct hash128 content;
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1, rc;

    if (fd < 0) {
        rc = path ? fail(err, -errno, "%s: %s", path, strerror(errno)) : fail(err, -ENOMEM, "out of memory");
        goto out;
    }
    rc = header_read(fd, path, key, &header, err);
    if (rc)
        goto out;
    map.length = header.length;
    map.bytes = mmap(NULL, map.length, PROT_READ, MAP_SHARED, fd, 0);
    if (map.bytes == MAP_FAILED) {
        rc = fail(err, -errno, "%s: cannot be mapped: %s", path, strerror(errno));
        goto out;
    }
    content = content_of(&header, map.bytes);
    if (content.high != header.content.high || content.low != header.content.low) {
        rc = fail(err, -EUCLEAN, "%s: its content does not match its hash", path);
        goto out;
    }
    map.shape = shape_of(&header);
    map.content = content;
    for (int s = 0; s < SPLITS; s++)
        map.splits[s] = (struct data_split){header.n[s], (const uint8_t *)map.bytes + header.images_at[s],
                                            (const uint16_t *)(const void *)((const char *)map.bytes + header.labels_at[s])};
    rc = map_names(&map, (const char *)map.bytes + header.names_at);
    if (rc) {
        fail(err, rc, "out of memory");
        goto out;
    }
    *ret = map;
    map.bytes = MAP_FAILED;
out:
    if (map.bytes != MAP_FAILED)
        munmap(map.bytes, map.length);
    if (fd >= 0)
        close(fd);
    free(path);
    return rc;
}

void cache_close(struct cache_map *map)
{
    if (map->bytes)
        munmap(map->bytes, map->length);
    free(map->class_names);
    *map = (struct cache_map){0};
}

/* The lock's file is removed by its holder, so after waiting it must still be the one that the name leads to. */
static int lock_file(const char *path, struct error *err)
{
    for (;;) {
        struct stat held, named;
        int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
        if (fd < 0)
            return fail(err, -errno, "%s: %s", path, strerror(errno));
        while (flock(fd, LOCK_EX)) {
            int code = errno;
            if (code == EINTR)
                continue;
            close(fd);
            return fail(err, -code, "%s: cannot be locked: %s", path, strerror(code));
        }
        if (!fstat(fd, &held) && !stat(path, &named) && held.st_ino == named.st_ino && held.st_dev == named.st_dev)
            return fd;
        close(fd);
    }
}

int cache_build_lock(const char *cache_dir, struct hash128 key, struct cache_build *ret, struct error *err)
{
    struct cache_build build = {.lock = -1, .file = -1, .key = key};
    int rc = 0;

    build.folder = strdup(cache_dir);
    build.path = cache_name(cache_dir, key, "data");
    build.temporary = cache_name(cache_dir, key, "data.tmp");
    build.lock_path = cache_name(cache_dir, key, "lock");
    if (!build.folder || !build.path || !build.temporary || !build.lock_path)
        rc = fail(err, -ENOMEM, "out of memory");
    if (!rc)
        build.lock = rc = lock_file(build.lock_path, err);
    if (rc < 0) {
        cache_build_done(&build);
        return rc;
    }
    *ret = build;
    return 0;
}

static size_t aligned(size_t at)
{
    return (at + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

/* Places of all parts behind the header; false where they do not fit in the address space. */
static bool lay_out(struct cache_header *header, size_t names_bytes)
{
    size_t at = HEADER_BYTES, image = (size_t)header->channels * header->height * header->width, bytes;

    header->names_at = at;
    at = aligned(at + names_bytes);
    for (int s = 0; s < SPLITS; s++) {
        if (__builtin_mul_overflow(header->n[s], image + sizeof(uint16_t), &bytes) || bytes > SIZE_MAX / 8)
            return false;
        header->labels_at[s] = at;
        at = aligned(at + header->n[s] * sizeof(uint16_t));
    }
    for (int s = 0; s < SPLITS; s++) {
        header->images_at[s] = at;
        at = aligned(at + header->n[s] * image);
    }
    header->length = at;
    return true;
}

static size_t write_names(char *at, const struct data_shape *shape, const char *const *names)
{
    size_t used = 0;

    for (int k = 0; k < shape->classes; k++) {
        char number[16];
        const char *name = number;
        size_t n;
        if (names)
            name = names[k];
        else
            snprintf(number, sizeof number, "%d", k);
        n = strlen(name) + 1;
        if (at)
            memcpy(at + used, name, n);
        used += n;
    }
    return used;
}

int cache_build_shape(struct cache_build *build, const struct data_shape *shape, const char *const *names,
                      struct error *err)
{
    struct cache_header header = {
        .magic = MAGIC, .version = CACHE_VERSION, .channels = (uint32_t)shape->channels, .height = (uint32_t)shape->height,
        .width = (uint32_t)shape->width, .classes = (uint32_t)shape->classes, .n = {shape->train_n, shape->test_n},
        .key = build->key};
    int rc;

    if (!lay_out(&header, write_names(NULL, shape, names)))
        return fail(err, -EFBIG, "%zu and %zu images are too many", shape->train_n, shape->test_n);
    build->file = open(build->temporary, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (build->file < 0)
        return fail(err, -errno, "%s: %s", build->temporary, strerror(errno));
    build->length = header.length;
    /* Space is taken before it is written to: a full disk is an error here and would be a signal later. */
    rc = -posix_fallocate(build->file, 0, (off_t)build->length);
    if (rc)
        return fail(err, rc, "%s: no room for %zu bytes of decoded data: %s", build->temporary, build->length,
                    strerror(-rc));
    build->bytes = mmap(NULL, build->length, PROT_READ | PROT_WRITE, MAP_SHARED, build->file, 0);
    if (build->bytes == MAP_FAILED) {
        build->bytes = NULL;
        return fail(err, -errno, "%s: cannot be mapped: %s", build->temporary, strerror(errno));
    }
    memcpy(build->bytes, &header, sizeof header);
    write_names(build->bytes + header.names_at, shape, names);
    for (int s = 0; s < SPLITS; s++) {
        build->images[s] = (uint8_t *)build->bytes + header.images_at[s];
        build->labels[s] = (uint16_t *)(void *)(build->bytes + header.labels_at[s]);
    }
    return 0;
}

int cache_build_scratch(struct cache_build *build, struct error *err)
{
    char *path = format_text("%s.XXXXXX", build->temporary);
    int fd = path ? mkostemp(path, O_CLOEXEC) : -1;
    int rc = fd >= 0 ? fd : fail(err, path ? -errno : -ENOMEM, "%s: %s", build->folder, strerror(path ? errno : ENOMEM));

    if (fd >= 0)
        unlink(path);
    free(path);
    return rc;
}

int cache_build_finish(struct cache_build *build, struct error *err)
{
    struct cache_header *header = (struct cache_header *)(void *)build->bytes;
    int folder, rc = 0;

    header->content = content_of(header, build->bytes);
    header->check = header_check(header);
    if (fsync(build->file) || rename(build->temporary, build->path))
        return fail(err, -errno, "%s: cannot be written: %s", build->path, strerror(errno));
    folder = open(build->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder < 0 || fsync(folder))
        rc = fail(err, -errno, "%s: cannot be synced: %s", build->folder, strerror(errno));
    if (folder >= 0)
        close(folder);
    return rc;
}

void cache_build_done(struct cache_build *build)
{
    if (build->bytes)
        munmap(build->bytes, build->length);
    if (build->file >= 0) {
        close(build->file);
        unlink(build->temporary); /* no longer there where it was finished */
    }
    if (build->lock >= 0) {
        unlink(build->lock_path);
        close(build->lock);
    }
    free(build->folder);
    free(build->path);
    free(build->temporary);
    free(build->lock_path);
    *build = (struct cache_build){.lock = -1, .file = -1};
}
