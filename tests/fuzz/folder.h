/* folder.h - a data set made of hostile bytes: a folder in memory for each input, removed after it.
 * It lies in FUZZ_FOLDER, else in /dev/shm; whoever fuzzes sets the first and removes what a crash left there.
 * Threads: one.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_TESTS_FUZZ_FOLDER_H
#define FLEXP_TESTS_FUZZ_FOLDER_H

#include "common/file.h"
#include "tests/fuzz/fuzz.h"
#include "trainer/data/dataset.h"

#include <fcntl.h>
#include <limits.h>
#include <unistd.h>

struct folder {
    char path[PATH_MAX / 2];
};

static inline void folder_init(struct folder *folder)
{
    const char *top = getenv("FUZZ_FOLDER");

    snprintf(folder->path, sizeof folder->path, "%s/flexp-fuzz-XXXXXX", top ? top : "/dev/shm");
    must(mkdtemp(folder->path));
}

static inline void folder_done(struct folder *folder)
{
    must(!file_remove_tree(folder->path, NULL));
}

static inline void folder_write(const struct folder *folder, const char *name, const uint8_t *bytes, size_t n)
{
    char path[PATH_MAX];
    int fd;

    snprintf(path, sizeof path, "%s/%s", folder->path, name);
    fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    must(fd >= 0 && !fd_write_all(fd, bytes, n));
    close(fd);
}

/* Reads every byte, so that one out of bounds is noticed. */
static inline void walk_split(const struct dataset *dataset, const struct data_split *split)
{
    size_t image = (size_t)dataset->channels * (size_t)dataset->height * (size_t)dataset->width;
    volatile uint8_t last = 0;

    for (size_t i = 0; i < split->n; i++)
        must(split->labels[i] < dataset->classes);
    for (size_t i = 0; i < split->n * image; i++)
        last = split->images[i];
    (void)last;
}

/* The file or folder `name` as a data set of this source: refused with words, or opened with the shape that was
 * foretold. */
static inline void folder_open(const struct folder *folder, const char *name, const char *source, json_t *more)
{
    char path[PATH_MAX], cache[PATH_MAX];
    struct data_shape shape = {0};
    struct dataset *dataset = NULL;
    struct error err = {0};
    json_t *data;
    int foretold, rc;

    snprintf(path, sizeof path, "%s%s%s", folder->path, *name ? "/" : "", name);
    snprintf(cache, sizeof cache, "%s/cache", folder->path);
    data = json_pack("{s:s, s:s}", "source", source, "path", path);
    must(data);
    if (more)
        json_object_update(data, more);
    foretold = dataset_shape(data, 1, cache, &shape, &err);
    if (foretold)
        must_be_refusal(foretold, &err);
    err = (struct error){0};
    rc = dataset_open(data, 1, cache, &dataset, &err);
    if (rc) {
        must(!dataset);
        must_be_refusal(rc, &err);
    } else {
        must(!foretold && dataset->train.n == shape.train_n && dataset->test.n == shape.test_n);
        must(dataset->channels == shape.channels && dataset->height == shape.height && dataset->width == shape.width);
        must(dataset->classes == shape.classes);
        walk_split(dataset, &dataset->train);
        walk_split(dataset, &dataset->test);
        for (int k = 0; k < dataset->classes; k++)
            must(dataset->class_names[k][0]);
        dataset_close(dataset);
    }
    json_decref(data);
}

#endif
