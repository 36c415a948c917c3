/* download.h - one file from the network, whole and right or not at all.
 * Bytes go to PATH.part, which is resumed (HTTP Range, with If-Range where the server gave an ETag, kept in PATH.part.etag) by
 * later calls as by retries; when its MD5 is right it is synced and renamed. A server that stalls is left after 30 s without a
 * byte (FLEXP_FETCH_STALL_S) and asked for the rest; failures are tried again with growing pauses, on each mirror in turn; a
 * file that is whole and wrong is thrown away and fetched once more.
 * libcurl is opened at run time (libcurl.so.4), so that no other verb pays for it.
 * Threads: one at a time.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_ORCHESTRATOR_DOWNLOAD_H
#define FLEXP_ORCHESTRATOR_DOWNLOAD_H

#include "common/error.h"

#include <stdbool.h>
#include <stdint.h>

struct download {
    const char *path;
    const char *md5; /* 32 hex digits */
    const char *const *urls; /* mirrors, ends with NULL */
    /* total 0: not known yet. Called now and then; optional. */
    void (*progress)(void *arg, int64_t have, int64_t total);
    /* Something was tried in vain and goes on; optional. */
    void (*note)(void *arg, const char *text);
    void *arg;
};

/* *ret_there: it was there already, and right. -EBUSY: another process fetches it; -EIO: no mirror could give it; -ENOSPC and
 * other errors of the disk. What was received stays in PATH.part, but for a file that was whole and wrong. */
int download_file(const struct download *download, bool *ret_there, struct error *err);

#endif
