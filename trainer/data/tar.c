/* tar.c - see tar.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/data/tar.h"

#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BLOCK_BYTES ((size_t)256 << 10)

struct tar_reader {
    struct archive *archive;
    char *path, *name; /* of the current entry, as the caller sees it */
    uint64_t bytes;    /* likewise */
    int fd;
};

bool tar_has_name(const char *path)
{
    static const char *const ENDS[] = {".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2", ".tar.zst"};
    size_t n = strlen(path);

    for (size_t i = 0; i < sizeof ENDS / sizeof *ENDS; i++)
        if (n > strlen(ENDS[i]) && !strcasecmp(path + n - strlen(ENDS[i]), ENDS[i]))
            return true;
    return false;
}

void tar_close(struct tar_reader *reader)
{
    if (!reader)
        return;
    if (reader->archive)
        archive_read_free(reader->archive);
    if (reader->fd >= 0)
        close(reader->fd);
    free(reader->path);
    free(reader->name);
    free(reader);
}

static const char *why(struct tar_reader *reader)
{
    const char *text = archive_error_string(reader->archive);

    if (text && strstr(text, "No progress is possible")) /* liblzma wants more than there is */
        return "truncated xz input";
    return text && *text ? text : "damaged";
}

int tar_open(const char *path, struct tar_reader **ret, struct error *err)
{
    struct tar_reader *reader = calloc(1, sizeof *reader);
    int rc = 0;

    if (!reader)
        return fail(err, -ENOMEM, "out of memory");
    reader->fd = open(path, O_RDONLY | O_CLOEXEC);
    if (reader->fd < 0) {
        rc = fail(err, -errno, "%s: %s", path, strerror(errno));
        goto out;
    }
    reader->path = strdup(path);
    reader->archive = archive_read_new();
    if (!reader->path || !reader->archive) {
        rc = fail(err, -ENOMEM, "out of memory");
        goto out;
    }
    /* Only filters that run in this process: others would start programs. */
    archive_read_support_filter_gzip(reader->archive);
    archive_read_support_filter_xz(reader->archive);
    archive_read_support_filter_bzip2(reader->archive);
    archive_read_support_filter_zstd(reader->archive);
    archive_read_support_format_tar(reader->archive);
    archive_read_set_options(reader->archive, "tar:hdrcharset=BINARY");
    if (archive_read_open_fd(reader->archive, reader->fd, BLOCK_BYTES) != ARCHIVE_OK)
        rc = fail(err, -EINVAL, "%s: not a tar archive that can be read: %s", path, why(reader));
out:
    if (rc)
        tar_close(reader);
    else
        *ret = reader;
    return rc;
}

/* NULL, or what is wrong with the name. */
static const char *unsafe(const char *name)
{
    if (*name == '/')
        return "its name is absolute";
    for (const char *at = name; at; at = strchr(at, '/')) {
        at += *at == '/';
        if (!strncmp(at, "..", 2) && (!at[2] || at[2] == '/'))
            return "its name has a part \"..\"";
    }
    return NULL;
}

int tar_next(struct tar_reader *reader, struct tar_entry *ret, struct error *err)
{
    struct archive_entry *entry;
    int code = archive_read_next_header(reader->archive, &entry);
    const char *raw, *problem;
    mode_t type;
    size_t n;

    if (code == ARCHIVE_EOF)
        return 0;
    if (code != ARCHIVE_OK)
        return fail(err, -EINVAL, "%s: %s%.300s%s%s", reader->path, reader->name ? "after entry " : "",
                    reader->name ? reader->name : "", reader->name ? ": " : "", why(reader));
    raw = archive_entry_pathname(entry);
    if (!raw)
        return fail(err, -EINVAL, "%s: an entry has no name that can be read", reader->path);
    problem = unsafe(raw);
    type = archive_entry_filetype(entry);
    if (!problem && archive_entry_hardlink(entry))
        problem = "it is a hard link";
    else if (!problem && type == AE_IFLNK)
        problem = "it is a symbolic link";
    else if (!problem && type != AE_IFREG && type != AE_IFDIR)
        problem = "it is neither a file nor a folder";
    else if (!problem && archive_entry_sparse_count(entry)) /* some bytes of which could ask for a terabyte */
        problem = "it is a sparse file";
    if (problem)
        return fail(err, -EINVAL, "%s: entry %.300s is refused: %s", reader->path, raw, problem);
    while (!strncmp(raw, "./", 2))
        raw += 2;
    free(reader->name);
    reader->name = strdup(raw);
    if (!reader->name)
        return fail(err, -ENOMEM, "out of memory");
    n = strlen(reader->name);
    while (n && reader->name[n - 1] == '/')
        reader->name[--n] = 0;
    reader->bytes = (uint64_t)archive_entry_size(entry);
    *ret = (struct tar_entry){reader->name, type == AE_IFDIR, reader->bytes};
    return 1;
}

int tar_read(struct tar_reader *reader, uint8_t **bytes, size_t *room, size_t *ret_n, size_t limit, struct error *err)
{
    size_t used = 0;

    if (reader->bytes > limit)
        return fail(err, -EFBIG, "%s: entry %.300s: its header promises %llu bytes; more than %zu are not read", reader->path,
                    reader->name, (unsigned long long)reader->bytes, limit);
    for (;;) {
        la_ssize_t n;
        if (used == *room) {
            size_t wanted = *room ? 2 * *room : 16384;
            uint8_t *grown = realloc(*bytes, wanted);
            if (!grown)
                return fail(err, -ENOMEM, "%s: out of memory", reader->path);
            *bytes = grown;
            *room = wanted;
        }
        n = archive_read_data(reader->archive, *bytes + used, *room - used);
        if (n < 0)
            return fail(err, -EINVAL, "%s: entry %.300s: %s", reader->path, reader->name, why(reader));
        if (n == 0)
            break;
        used += (size_t)n;
        if (used > reader->bytes) /* holes of a sparse file that its header does not tell of */
            return fail(err, -EINVAL, "%s: entry %.300s: longer than the %llu bytes that its header promises", reader->path,
                        reader->name, (unsigned long long)reader->bytes);
    }
    *ret_n = used;
    return 0;
}
