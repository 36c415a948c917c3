/* file.h - whole files, folders and descriptors. A file appears whole or not at all: temporary name, fsync, rename, and
 * fsync of the folder. Errors name the path. Threads: any.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_COMMON_FILE_H
#define FLEXP_COMMON_FILE_H

#include "common/error.h"

#include <stdbool.h>
#include <stddef.h>

/* The caller frees *ret_text, which has a 0 byte behind its length. */
int file_read(const char *path, char **ret_text, size_t *ret_length, struct error *err);
int file_write(const char *path, const void *data, size_t length, struct error *err);
/* As file_write, the content being several pieces. */
struct file_piece {
    const void *data;
    size_t length;
};
int file_write_pieces(const char *path, const struct file_piece *pieces, size_t n, struct error *err);

/* mkdir -p */
int file_make_folder(const char *path, struct error *err);
/* rm -rf, which does not follow links; an absent path is no error. */
int file_remove_tree(const char *path, struct error *err);
bool file_exists(const char *path);

/* Writes all of it, going on after EINTR and short writes. 0 or negative errno. */
int fd_write_all(int fd, const void *data, size_t length);

/* printf into fresh memory; NULL when out of it. */
char *format_text(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
