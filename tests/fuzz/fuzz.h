/* fuzz.h - what the fuzz targets of this folder share.
 * A target is one file test_NAME.c with LLVMFuzzerTestOneInput: `make fuzz` links it with libFuzzer, `make test` with
 * inputs.c, which runs it on tests/fuzz/corpus/NAME/ and tests/fuzz/regressions/NAME/ (what once crashed it).
 * must() ends the program: for both a crash. A refusal must have a text that is one line of UTF-8 without control
 * characters, whatever the file holds, for it is shown on terminals and travels as JSON; and no input of some kilobytes
 * may use up memory or disk.
 * Threads: one.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_TESTS_FUZZ_H
#define FLEXP_TESTS_FUZZ_H

#include "common/json.h"

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define must(condition)                                                                                                \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);                                    \
            abort();                                                                                                   \
        }                                                                                                              \
    } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Fit to be shown and sent. */
static inline void must_be_text(const char *text)
{
    json_t *value = json_string(text);

    must(value && *text);
    json_decref(value);
    for (const char *at = text; *at; at++)
        must((unsigned char)*at >= ' ' && *at != 0x7f);
}

static inline void must_be_refusal(int rc, const struct error *err)
{
    must(rc < 0 && rc == err->code && rc != -ENOMEM && rc != -ENOSPC);
    must_be_text(err->text);
}

#endif
