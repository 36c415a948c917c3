/* data_private.h - what the files of this room share: the table of sources, the files a source reads, the cache.
 * A source says which files it reads (they are hashed: equal content finds an equal cache), can tell its shape from their
 * headers, and fills a cache once. Threads: a call belongs to one thread; processes meet in the cache folder alone.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_TRAINER_DATA_PRIVATE_H
#define FLEXP_TRAINER_DATA_PRIVATE_H

#include "trainer/data/dataset.h"

enum { TRAIN, TEST, SPLITS };

#define DATA_CLASSES_MAX 65535 /* labels are 16 bits wide */
#define DATA_SIDE_MAX 8192     /* pixels of height or width */

/* A file that a source reads. role: its name within the data set, the same wherever the data set lies; that of a folder ends
 * in /. */
struct data_file {
    char *path, *role;
};
struct data_files {
    struct data_file *list;
    size_t n, room;
};
int data_files_add(struct data_files *files, const char *role, struct error *err, const char *path_format, ...)
    __attribute__((format(printf, 4, 5)));
void data_files_done(struct data_files *files);
const char *data_file_path(const struct data_files *files, const char *role); /* NULL where there is none */

struct data_input {
    const json_t *data; /* the resolved section */
    const char *path;   /* data.path; "" where absent */
    uint64_t seed;
    struct data_files files;
};

struct cache_build;

struct data_source {
    const char *name;
    int version;     /* of what it makes from equal files: raised when that changes, so that old caches are not used */
    bool needs_path;
    bool converts; /* it applies data.resize and data.channels itself; else they are applied to what it makes */
    /* optional: what is read */
    int (*files)(struct data_input *in, struct error *err);
    /* optional: text of the settings that decide what is made. The caller frees; NULL when out of memory */
    char *(*settings)(const struct data_input *in);
    int (*shape)(const struct data_input *in, struct data_shape *ret, struct error *err);
    int (*load)(const struct data_input *in, struct cache_build *build, struct error *err);
};
extern const struct data_source SOURCE_CIFAR10, SOURCE_IDX, SOURCE_IMAGES, SOURCE_SYNTHETIC;

/* -- content.c -- */
struct hash128 {
    uint64_t high, low;
};
void hash128_hex(struct hash128 hash, char ret[33]);
struct hash128 hash128_of(const void *bytes, size_t n);
/* Of names, sizes, inodes and times of change: tells whether the files are those seen before, without reading them.
 * *ret_settled: none of them changed within the last seconds, so that the stamp can be trusted from now on. */
int content_stamp(const struct data_files *files, struct hash128 *ret, bool *ret_settled, struct error *err);
/* Of roles, sizes and bytes. */
int content_hash(const struct data_files *files, struct hash128 *ret, struct error *err);
/* The folder's memory of stamp -> content. Losing it costs one more reading, so errors of remember are not reported. */
bool content_recall(const char *cache_dir, struct hash128 stamp, struct hash128 *ret);
void content_remember(const char *cache_dir, struct hash128 stamp, struct hash128 content);

/* -- cache.c -- */
struct cache_map {
    void *bytes;
    size_t length;
    struct data_shape shape;
    struct data_split splits[SPLITS];
    const char **class_names;
    struct hash128 content; /* of shape, names, labels and pixels */
};
/* 0; -ENOENT: none there; -EUCLEAN: damaged, to be made again (err says how). */
int cache_open(const char *cache_dir, struct hash128 key, struct cache_map *ret, struct error *err);
/* The header alone. */
int cache_peek(const char *cache_dir, struct hash128 key, struct data_shape *ret);
void cache_close(struct cache_map *map);

/* One process at a time makes a cache: held from lock to done, given up by the kernel when the process dies. */
struct cache_build {
    char *folder, *path, *temporary, *lock_path;
    int lock, file;
    struct hash128 key;
    char *bytes;
    size_t length;
    uint8_t *images[SPLITS]; /* set by cache_build_shape: to be filled by the source */
    uint16_t *labels[SPLITS];
};
int cache_build_lock(const char *cache_dir, struct hash128 key, struct cache_build *ret, struct error *err);
/* Called once by the source, as soon as it knows. names: shape->classes of them, or NULL for "0", "1", ... */
int cache_build_shape(struct cache_build *build, const struct data_shape *shape, const char *const *names,
                      struct error *err);
/* A nameless file in the cache folder, for what does not fit its final place yet. Returns a descriptor or -errno. */
int cache_build_scratch(struct cache_build *build, struct error *err);
int cache_build_finish(struct cache_build *build, struct error *err);
/* Unlocks; removes what was not finished. */
void cache_build_done(struct cache_build *build);

#endif
