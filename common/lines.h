/* lines.h - cutting a byte stream into lines, for newline-delimited JSON.
 * Bytes go in as they come; lines come out without their newline, 0-terminated, valid until the next call.
 * A line longer than LINES_MAX is an error (-EMSGSIZE) and the stream should be closed: nothing can be trusted after it.
 * Threads: one.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_COMMON_LINES_H
#define FLEXP_COMMON_LINES_H

#include <stddef.h>

#define LINES_MAX (16u << 20)

struct lines {
    char *bytes;
    size_t used, room, taken; /* taken: bytes handed out already */
};

void lines_init(struct lines *lines);
void lines_done(struct lines *lines);
int lines_push(struct lines *lines, const void *data, size_t length);
/* The next whole line, or NULL. */
char *lines_next(struct lines *lines, size_t *ret_length);

#endif
