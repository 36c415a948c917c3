/* config_test.h - what the tests of config/ share.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_TESTS_CONFIG_TEST_H
#define FLEXP_TESTS_CONFIG_TEST_H

#include "common/file.h"
#include "orchestrator/config/config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define DATA_ROOT "/data"

/* Reads text; *ret_text is what a person would see. The caller frees both. NULL where there are errors. */
static inline struct experiment_config *read_config(const char *text, size_t length, const char *const *overrides,
                                                    size_t n, const char *name, char **ret_text)
{
    struct experiment_config *config = NULL;
    struct config_problems problems;
    int rc = config_read(text, length, overrides, n, DATA_ROOT, &config, &problems);

    assert_int_equal(rc == 0, problems.errors == 0);
    assert_int_equal(rc == 0, config != NULL);
    *ret_text = config_problems_text(&problems, name);
    config_problems_done(&problems);
    return config;
}

/* Holds text against a file; FLEXP_UPDATE_GOLDEN=1 writes it instead. */
static inline void assert_golden(const char *path, const char *text)
{
    struct error err = {0};
    char *wanted;

    if (getenv("FLEXP_UPDATE_GOLDEN")) {
        if (file_write(path, text, strlen(text), &err))
            fail_msg("%s", err.text);
        return;
    }
    if (file_read(path, &wanted, NULL, &err))
        fail_msg("%s", err.text);
    if (strcmp(wanted, text))
        fail_msg("%s differs; wanted:\n%s\ngot:\n%s", path, wanted, text);
    free(wanted);
}

#endif
