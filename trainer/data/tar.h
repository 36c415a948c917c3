/* tar.h - reading a tar archive (plain, .gz, .xz, .bz2, .zst) entry by entry without ever writing it out.
 * Nothing is extracted, and names are treated as if it were: absolute names, "..", links and special files are refused with the
 * entry named, because an archive that holds them is not the data set it claims to be. Names are bytes, whatever the locale.
 * Threads: a reader belongs to one.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_TRAINER_TAR_H
#define FLEXP_TRAINER_TAR_H

#include "common/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct tar_reader;

struct tar_entry {
    const char *name; /* without leading "./", without "/" at its end; valid until the next entry */
    bool folder;
    uint64_t bytes;   /* as its header says */
};

int tar_open(const char *path, struct tar_reader **ret, struct error *err);
/* 1: an entry, 0: the end, negative: an error that names archive and entry. */
int tar_next(struct tar_reader *reader, struct tar_entry *ret, struct error *err);
/* All bytes of the current entry into *bytes (grown; *room its size), up to limit. */
int tar_read(struct tar_reader *reader, uint8_t **bytes, size_t *room, size_t *ret_n, size_t limit, struct error *err);
void tar_close(struct tar_reader *reader);
/* Whether a name ends as an archive's does. */
bool tar_has_name(const char *path);

#endif
