/* error.c - filling struct error.
 * SPDX-License-Identifier: Apache-2.0 */
#include "common/error.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* Bytes of the UTF-8 character here (RFC 3629); 0: it is none. */
static size_t character(const unsigned char *at)
{
    static const struct {
        unsigned char first, last, low, high; /* of the first byte and of the second */
        size_t n;
    } FORMS[] = {{0xc2, 0xdf, 0x80, 0xbf, 2}, {0xe0, 0xe0, 0xa0, 0xbf, 3}, {0xe1, 0xec, 0x80, 0xbf, 3},
                 {0xed, 0xed, 0x80, 0x9f, 3}, {0xee, 0xef, 0x80, 0xbf, 3}, {0xf0, 0xf0, 0x90, 0xbf, 4},
                 {0xf1, 0xf3, 0x80, 0xbf, 4}, {0xf4, 0xf4, 0x80, 0x8f, 4}};

    for (size_t i = 0; i < sizeof FORMS / sizeof *FORMS; i++) {
        size_t n = 2;
        if (*at < FORMS[i].first || *at > FORMS[i].last || at[1] < FORMS[i].low || at[1] > FORMS[i].high)
            continue;
        while (n < FORMS[i].n && (at[n] & 0xc0) == 0x80)
            n++;
        return n == FORMS[i].n ? n : 0;
    }
    return 0;
}

/* Errors quote what stands in files and are shown on terminals, stored and sent as JSON: one line of UTF-8, nothing that
 * a terminal obeys. full: the end was cut off, maybe within a character. */
static void make_line(char *text, bool full)
{
    size_t length = strlen(text);

    for (size_t i = 0, n; i < length; i += n) {
        unsigned char byte = (unsigned char)text[i];
        n = 1;
        if (byte >= ' ' && byte < 0x7f)
            continue;
        if (byte >= 0x80)
            n = character((const unsigned char *)text + i);
        if (n > 1 && (byte != 0xc2 || (unsigned char)text[i + 1] >= 0xa0)) /* below, U+0080 and on: controls too */
            continue;
        if (full && byte >= 0xc2 && length - i < 4 && !n) {
            text[i] = 0;
            return;
        }
        n = n ? n : 1;
        memset(text + i, byte == '\n' || byte == '\t' || byte == '\r' ? ' ' : '?', n);
    }
}

int fail(struct error *err, int code, const char *format, ...)
{
    if (err) {
        va_list args;
        int n;
        err->code = code;
        va_start(args, format);
        n = vsnprintf(err->text, sizeof err->text, format, args);
        va_end(args);
        make_line(err->text, n >= (int)sizeof err->text);
    }
    return code;
}

int fail_prefix(struct error *err, const char *format, ...)
{
    char text[sizeof err->text];
    va_list args;
    size_t used;
    int n;

    if (!err)
        return -EINVAL;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    used = strlen(text);
    n = snprintf(text + used, sizeof text - used, ": %s", err->text);
    make_line(text, n >= (int)(sizeof text - used));
    memcpy(err->text, text, sizeof text);
    return err->code;
}

#define MORE 32 /* room for " and 1234 more" */

void words_add(struct words *words, const char *word)
{
    if (words->left_out || words->used + strlen(word) + 2 + MORE > sizeof words->text)
        words->left_out++;
    else
        words->used += (size_t)snprintf(words->text + words->used, sizeof words->text - words->used, "%s%s",
                                        words->used ? ", " : "", word);
}

const char *words_text(struct words *words)
{
    if (words->left_out)
        snprintf(words->text + words->used, sizeof words->text - words->used, " and %zu more", words->left_out);
    return words->text;
}
