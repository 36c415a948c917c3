/* error.h - one error, for a person to read.
 * Functions return 0 or a negative errno. Where a person will read the failure they take `struct error *err` last (NULL
 * allowed); fail() fills it and returns the code, so that `return fail(err, -EINVAL, "...")` is one statement.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_COMMON_ERROR_H
#define FLEXP_COMMON_ERROR_H

#include <errno.h>
#include <stddef.h>

struct error {
    int code;        /* negative errno, 0 when unset */
    char text[1000]; /* one line of UTF-8, no newline at its end */
};

/* Fills err (if not NULL) and returns code. Control characters and what is not UTF-8 become ? (newlines and tabs spaces). */
int fail(struct error *err, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* A list of words for such a text, "a, b and 7 more": whole words, as many as there is room for. Starts zeroed. */
struct words {
    char text[600];
    size_t used, left_out;
};
void words_add(struct words *words, const char *word);
const char *words_text(struct words *words); /* "" when there are none */

/* Puts "PREFIX: " before the text already in err, and returns err's code. */
int fail_prefix(struct error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
