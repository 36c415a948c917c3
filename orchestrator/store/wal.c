/* wal.c - is the log of changes that was left beside the database whole? SQLite takes what stands before the first frame
 * that is wrong and says nothing of what follows, which is right after a kill (what follows was not committed) and would
 * hide damage. So we look first. Format: SQLite's "Database File Format", 4.1 and 4.2.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/store/store_private.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define HEADER 32
#define FRAME_HEADER 24
#define MAGIC 0x377f0682u /* the lowest bit: words of checksums are big-endian */

struct sums {
    bool big_endian;
    uint32_t a, b;
};

static uint32_t word(const unsigned char *at, bool big_endian)
{
    return big_endian ? (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3]
                      : (uint32_t)at[3] << 24 | (uint32_t)at[2] << 16 | (uint32_t)at[1] << 8 | at[0];
}

static void add(struct sums *sums, const unsigned char *at, size_t n)
{
    for (size_t i = 0; i + 8 <= n; i += 8) {
        sums->a += word(at + i, sums->big_endian) + sums->b;
        sums->b += word(at + i + 4, sums->big_endian) + sums->a;
    }
}

static bool equal(const struct sums *sums, const unsigned char *stored)
{
    return sums->a == word(stored, true) && sums->b == word(stored + 4, true);
}

/* Frames of the log's present generation (salt) that are whole, and those that stand behind the first that is not. */
static void count_frames(FILE *file, const unsigned char *header, struct sums sums, size_t page, long long *ret_whole,
                         long long *ret_behind)
{
    unsigned char *frame = malloc(FRAME_HEADER + page);
    bool whole = true;

    *ret_whole = *ret_behind = 0;
    while (frame && fread(frame, 1, FRAME_HEADER + page, file) == FRAME_HEADER + page &&
           !memcmp(frame + 8, header + 16, 8)) {
        add(&sums, frame, 8);
        add(&sums, frame + FRAME_HEADER, page);
        whole = whole && equal(&sums, frame + 16);
        *(whole ? ret_whole : ret_behind) += 1;
    }
    free(frame);
}

int wal_check(const char *path, struct error *ret_note, struct error *err)
{
    unsigned char header[HEADER] = "", zeros[HEADER] = "";
    char name[PATH_MAX];
    struct sums sums = {0};
    long long whole = 0, behind = 0;
    FILE *file;
    size_t n, page;

    snprintf(name, sizeof name, "%s-wal", path);
    file = fopen(name, "re");
    if (!file)
        return errno == ENOENT ? 0 : fail(err, -errno, "%s: %s", name, strerror(errno));
    n = fread(header, 1, sizeof header, file);
    if (n < sizeof header || !memcmp(header, zeros, sizeof header)) { /* begun, and never synced */
        fclose(file);
        return 0;
    }
    sums.big_endian = header[3] & 1;
    add(&sums, header, 24);
    page = word(header + 8, true);
    if ((word(header, true) & ~1u) != MAGIC || !equal(&sums, header + 24) || page < 512 || page > 65536) {
        fclose(file);
        return fail(err, -EUCLEAN,
                    "%s is damaged at its beginning, and it holds what was stored last. Nothing was changed. Put back a"
                    " whole one, or move it away to go on without what it held",
                    name);
    }
    if (ret_note)
        count_frames(file, header, sums, page, &whole, &behind);
    fclose(file);
    if (ret_note && behind)
        fail(ret_note, -EUCLEAN,
             "%s breaks off: page %lld of %lld is not what was written. Where power was lost that is what was not yet"
             " stored; else the file was damaged, and what it held from there on is gone",
             name, whole + 1, whole + behind);
    return 0;
}
