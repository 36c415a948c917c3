/* file.c - see file.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "common/file.h"

#include <fcntl.h>
#include <ftw.h>
#include <libgen.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int file_read(const char *path, char **ret_text, size_t *ret_length, struct error *err)
{
    struct stat st;
    char *text = NULL;
    size_t used = 0, room;
    int fd = open(path, O_RDONLY | O_CLOEXEC), rc = 0;

    if (fd < 0)
        return fail(err, -errno, "%s: %s", path, strerror(errno));
    if (fstat(fd, &st) || S_ISDIR(st.st_mode)) {
        rc = fail(err, -EISDIR, "%s: is a folder, not a file", path);
        goto out;
    }
    room = st.st_size > 0 ? (size_t)st.st_size + 1 : 4096;
    text = malloc(room + 1);
    for (;;) {
        ssize_t n;
        if (!text) {
            rc = fail(err, -ENOMEM, "%s: out of memory", path);
            goto out;
        }
        n = read(fd, text + used, room - used);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            rc = fail(err, -errno, "%s: %s", path, strerror(errno));
            goto out;
        }
        if (n == 0)
            break;
        used += (size_t)n;
        if (used == room) {
            char *grown = realloc(text, 2 * room + 1);
            if (!grown)
                free(text);
            text = grown;
            room *= 2;
        }
    }
    text[used] = 0;
    *ret_text = text;
    if (ret_length)
        *ret_length = used;
    text = NULL;
out:
    free(text);
    close(fd);
    return rc;
}

int fd_write_all(int fd, const void *data, size_t length)
{
    const char *at = data;

    while (length) {
        ssize_t n = write(fd, at, length);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        at += n;
        length -= (size_t)n;
    }
    return 0;
}

static void sync_folder_of(const char *path)
{
    char copy[PATH_MAX];
    int fd;

    snprintf(copy, sizeof copy, "%s", path);
    fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return;
    fsync(fd);
    close(fd);
}

static int write_pieces(int fd, const struct file_piece *pieces, size_t n)
{
    int rc = 0;

    for (size_t i = 0; i < n && !rc; i++)
        rc = fd_write_all(fd, pieces[i].data, pieces[i].length);
    return rc;
}

/* A terminal, a pipe, /dev/null: written to, never replaced. */
static int write_to_device(const char *path, const struct file_piece *pieces, size_t n, struct error *err)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC), rc = fd < 0 ? -errno : write_pieces(fd, pieces, n);

    if (fd >= 0 && close(fd) && !rc)
        rc = -errno;
    return rc ? fail(err, rc, "%s: cannot be written: %s", path, strerror(-rc)) : 0;
}

int file_write_pieces(const char *path, const struct file_piece *pieces, size_t n, struct error *err)
{
    char temporary[PATH_MAX];
    struct stat st;
    int fd, rc;

    if (!stat(path, &st) && !S_ISREG(st.st_mode))
        return write_to_device(path, pieces, n, err);
    if ((size_t)snprintf(temporary, sizeof temporary, "%s.%ld.tmp", path, (long)getpid()) >= sizeof temporary)
        return fail(err, -ENAMETOOLONG, "%s: the path is too long", path);
    fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0)
        return fail(err, -errno, "%s: %s", path, strerror(errno));
    rc = write_pieces(fd, pieces, n);
    if (!rc && fsync(fd))
        rc = -errno;
    if (close(fd) && !rc)
        rc = -errno;
    if (!rc && rename(temporary, path))
        rc = -errno;
    if (rc) {
        unlink(temporary);
        return fail(err, rc, "%s: cannot be written: %s", path, strerror(-rc));
    }
    sync_folder_of(path);
    return 0;
}

int file_write(const char *path, const void *data, size_t length, struct error *err)
{
    return file_write_pieces(path, &(struct file_piece){data, length}, 1, err);
}

int file_make_folder(const char *path, struct error *err)
{
    char copy[PATH_MAX];

    if ((size_t)snprintf(copy, sizeof copy, "%s", path) >= sizeof copy)
        return fail(err, -ENAMETOOLONG, "%s: the path is too long", path);
    for (char *at = copy + 1; *at; at++)
        if (*at == '/') {
            *at = 0;
            if (mkdir(copy, 0777) && errno != EEXIST)
                return fail(err, -errno, "%s: %s", copy, strerror(errno));
            *at = '/';
        }
    if (mkdir(copy, 0777) && errno != EEXIST)
        return fail(err, -errno, "%s: %s", copy, strerror(errno));
    return 0;
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
    (void)st, (void)kind, (void)ftw;
    return remove(path) && errno != ENOENT ? errno : 0;
}

int file_remove_tree(const char *path, struct error *err)
{
    int rc = nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);

    if (rc < 0 && errno == ENOENT)
        return 0;
    if (rc)
        return fail(err, rc < 0 ? -errno : -rc, "%s: cannot be removed: %s", path, strerror(rc < 0 ? errno : rc));
    return 0;
}

bool file_exists(const char *path)
{
    return access(path, F_OK) == 0;
}

char *format_text(const char *format, ...)
{
    char *text;
    va_list args;
    int n;

    va_start(args, format);
    n = vasprintf(&text, format, args);
    va_end(args);
    return n < 0 ? NULL : text;
}
