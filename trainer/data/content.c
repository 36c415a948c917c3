/* content.c - the content of files as a hash, and a small memory that saves reading them again.
 * The memory is CACHE_DIR/content-index, lines "STAMP CONTENT" of hex digits, only ever appended to; the last line of a stamp
 * counts, a torn line is no line. A file that changed within the last seconds is not remembered: it could change once
 * more without its time of change showing it.
 * SPDX-License-Identifier: Apache-2.0 */
#include "common/file.h"
#include "trainer/data/data_private.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>

#define SETTLE_S 2
#define INDEX_MAX ((size_t)1 << 20) /* started anew when it is longer */
#define LINE_LENGTH 66              /* two hashes, a space, a newline */

int data_files_add(struct data_files *files, const char *role, struct error *err, const char *path_format, ...)
{
    struct data_file file = {.role = strdup(role)};
    va_list args;

    va_start(args, path_format);
    if (vasprintf(&file.path, path_format, args) < 0)
        file.path = NULL;
    va_end(args);
    if (files->n == files->room) {
        size_t room = files->room ? 2 * files->room : 8;
        struct data_file *grown = realloc(files->list, room * sizeof *grown);
        if (grown) {
            files->list = grown;
            files->room = room;
        }
    }
    if (!file.path || !file.role || files->n == files->room) {
        free(file.path);
        free(file.role);
        return fail(err, -ENOMEM, "out of memory");
    }
    files->list[files->n++] = file;
    return 0;
}

void data_files_done(struct data_files *files)
{
    for (size_t i = 0; i < files->n; i++) {
        free(files->list[i].path);
        free(files->list[i].role);
    }
    free(files->list);
    *files = (struct data_files){0};
}

const char *data_file_path(const struct data_files *files, const char *role)
{
    for (size_t i = 0; i < files->n; i++)
        if (!strcmp(files->list[i].role, role))
            return files->list[i].path;
    return NULL;
}

void hash128_hex(struct hash128 hash, char ret[33])
{
    snprintf(ret, 33, "%016" PRIx64 "%016" PRIx64, hash.high, hash.low);
}

static struct hash128 from_xxh(XXH128_hash_t hash)
{
    return (struct hash128){hash.high64, hash.low64};
}

struct hash128 hash128_of(const void *bytes, size_t n)
{
    return from_xxh(XXH3_128bits(bytes, n));
}

int content_stamp(const struct data_files *files, struct hash128 *ret, bool *ret_settled, struct error *err)
{
    XXH3_state_t *state = XXH3_createState();
    struct timespec now;
    int rc = 0;

    if (!state)
        return fail(err, -ENOMEM, "out of memory");
    clock_gettime(CLOCK_REALTIME, &now);
    *ret_settled = true;
    XXH3_128bits_reset(state);
    for (size_t i = 0; i < files->n && !rc; i++) {
        struct stat st;
        if (stat(files->list[i].path, &st)) {
            rc = fail(err, -errno, "%s: %s", files->list[i].path, strerror(errno));
        } else {
            int64_t numbers[] = {(int64_t)st.st_dev, (int64_t)st.st_ino, st.st_size, st.st_mtim.tv_sec,
                                 st.st_mtim.tv_nsec, st.st_ctim.tv_sec, st.st_ctim.tv_nsec};
            XXH3_128bits_update(state, files->list[i].role, strlen(files->list[i].role) + 1);
            XXH3_128bits_update(state, numbers, sizeof numbers);
            *ret_settled = *ret_settled && now.tv_sec - st.st_ctim.tv_sec > SETTLE_S;
        }
    }
    *ret = from_xxh(XXH3_128bits_digest(state));
    XXH3_freeState(state);
    return rc;
}

static int hash_file(XXH3_state_t *state, const struct data_file *file, char *buffer, size_t room, struct error *err)
{
    size_t role_n = strlen(file->role);
    uint64_t length = 0;
    ssize_t n = 0;
    int fd, rc = 0;

    XXH3_128bits_update(state, file->role, role_n + 1);
    if (role_n && file->role[role_n - 1] == '/') /* a folder */
        return 0;
    fd = open(file->path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return fail(err, -errno, "%s: %s", file->path, strerror(errno));
    while ((n = read(fd, buffer, room)) > 0 || (n < 0 && errno == EINTR))
        if (n > 0) {
            XXH3_128bits_update(state, buffer, (size_t)n);
            length += (uint64_t)n;
        }
    if (n < 0)
        rc = fail(err, -errno, "%s: %s", file->path, strerror(errno));
    XXH3_128bits_update(state, &length, sizeof length);
    close(fd);
    return rc;
}

int content_hash(const struct data_files *files, struct hash128 *ret, struct error *err)
{
    size_t room = (size_t)1 << 20;
    XXH3_state_t *state = XXH3_createState();
    char *buffer = malloc(room);
    int rc = state && buffer ? 0 : fail(err, -ENOMEM, "out of memory");

    if (!rc)
        XXH3_128bits_reset(state);
    for (size_t i = 0; i < files->n && !rc; i++)
        rc = hash_file(state, &files->list[i], buffer, room, err);
    if (!rc)
        *ret = from_xxh(XXH3_128bits_digest(state));
    XXH3_freeState(state);
    free(buffer);
    return rc;
}

bool content_recall(const char *cache_dir, struct hash128 stamp, struct hash128 *ret)
{
    char *path = format_text("%s/content-index", cache_dir), *text = NULL, hex[33];
    size_t length = 0;
    bool found = false;

    hash128_hex(stamp, hex);
    if (path && !file_read(path, &text, &length, NULL))
        for (char *line = text, *end; (end = memchr(line, '\n', length - (size_t)(line - text))); line = end + 1) {
            struct hash128 content;
            if (end - line == LINE_LENGTH - 1 && !memcmp(line, hex, 32) &&
                sscanf(line + 33, "%16" SCNx64 "%16" SCNx64, &content.high, &content.low) == 2) {
                *ret = content;
                found = true;
            }
        }
    free(text);
    free(path);
    return found;
}

void content_remember(const char *cache_dir, struct hash128 stamp, struct hash128 content)
{
    char *path = format_text("%s/content-index", cache_dir), line[LINE_LENGTH + 1], a[33], b[33];
    struct stat st;
    int fd;

    hash128_hex(stamp, a);
    hash128_hex(content, b);
    snprintf(line, sizeof line, "%s %s\n", a, b);
    fd = path ? open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644) : -1;
    if (fd >= 0) {
        if (!fstat(fd, &st) && (size_t)st.st_size > INDEX_MAX && ftruncate(fd, 0))
            (void)0; /* a longer index is still a right one */
        (void)!fd_write_all(fd, line, LINE_LENGTH);
        close(fd);
    }
    free(path);
}
