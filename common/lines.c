/* lines.c - see lines.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "common/lines.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

void lines_init(struct lines *lines)
{
    memset(lines, 0, sizeof *lines);
}

void lines_done(struct lines *lines)
{
    free(lines->bytes);
    memset(lines, 0, sizeof *lines);
}

int lines_push(struct lines *lines, const void *data, size_t length)
{
    if (lines->taken) {
        memmove(lines->bytes, lines->bytes + lines->taken, lines->used - lines->taken);
        lines->used -= lines->taken;
        lines->taken = 0;
    }
    if (lines->used + length > lines->room) {
        size_t room = lines->room ? lines->room : 4096;
        char *grown;
        while (room < lines->used + length)
            room *= 2;
        grown = realloc(lines->bytes, room);
        if (!grown)
            return -ENOMEM;
        lines->bytes = grown;
        lines->room = room;
    }
    if (length)
        memcpy(lines->bytes + lines->used, data, length);
    lines->used += length;
    if (lines->used > LINES_MAX && !memchr(lines->bytes, '\n', lines->used))
        return -EMSGSIZE;
    return 0;
}

char *lines_next(struct lines *lines, size_t *ret_length)
{
    char *start, *end;

    if (lines->taken == lines->used)
        return NULL;
    start = lines->bytes + lines->taken;
    end = memchr(start, '\n', lines->used - lines->taken);
    if (!end)
        return NULL;
    *end = 0;
    lines->taken = (size_t)(end - lines->bytes) + 1;
    if (ret_length)
        *ret_length = (size_t)(end - start);
    return start;
}
