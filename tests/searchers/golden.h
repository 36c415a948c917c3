/* golden.h - reads the lines of a golden table: "word settings : field : field", # starts a comment. A table that
 * cannot be read fails the test; none is ever skipped.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_TESTS_SEARCHERS_GOLDEN_H
#define FLEXP_TESTS_SEARCHERS_GOLDEN_H

#include "tests/searchers/driver.h"

#define GOLDEN_FIELDS 4
#define GOLDEN_NUMBERS 64

/* Calls back for each line whose first word is word, with its fields (the first without word). Returns how many. */
static inline int golden_each(const char *path, const char *word, void (*check)(char **fields, size_t n))
{
    FILE *file = fopen(path, "r");
    char line[1000];
    int lines = 0;

    if (!file)
        fail_msg("%s: cannot be read", path);
    while (fgets(line, sizeof line, file)) {
        size_t length = strlen(word), n = 0;
        char *fields[GOLDEN_FIELDS], *rest = line + length;
        if (strncmp(line, word, length) || line[length] != ' ')
            continue;
        line[strcspn(line, "\n")] = 0;
        for (char *field; n < GOLDEN_FIELDS && (field = strsep(&rest, ":"));)
            fields[n++] = field;
        check(fields, n);
        lines++;
    }
    fclose(file);
    return lines;
}

static inline size_t golden_numbers(const char *text, double *ret)
{
    size_t n = 0;
    char *end;

    for (;; text = end) {
        double value = strtod(text, &end);
        if (end == text)
            return n;
        assert_true(n < GOLDEN_NUMBERS);
        ret[n++] = value;
    }
}

static inline size_t golden_integers(const char *text, int64_t *ret)
{
    double values[GOLDEN_NUMBERS];
    size_t n = golden_numbers(text, values);

    for (size_t i = 0; i < n; i++)
        ret[i] = (int64_t)values[i];
    return n;
}

/* "mode=standard max=100 ..." over a default of adaptive_asha by the stopping rule. *ret_step: step=. */
static inline struct searcher_config golden_config(char *settings, double *ret_step)
{
    static char scheduler[32];
    struct searcher_config config = {.scheduler = "adaptive_asha",
                                     .sampler = "random",
                                     .smaller_is_better = true,
                                     .stop_once = true,
                                     .mode = MODE_STANDARD,
                                     .seed = 1};
    char *word;

    while ((word = strsep(&settings, " "))) {
        char *value = strchr(word, '=');
        double number;
        if (!*word)
            continue;
        assert_non_null(value);
        *value++ = 0;
        number = strtod(value, NULL);
        if (!strcmp(word, "scheduler")) {
            snprintf(scheduler, sizeof scheduler, "%s", value);
            config.scheduler = scheduler;
        } else if (!strcmp(word, "mode"))
            config.mode = *value == 'a' ? MODE_AGGRESSIVE : *value == 's' ? MODE_STANDARD : MODE_CONSERVATIVE;
        else if (!strcmp(word, "max"))
            config.max_units = number;
        else if (!strcmp(word, "trials"))
            config.max_trials = (int64_t)number;
        else if (!strcmp(word, "concurrent"))
            config.max_concurrent_trials = (int64_t)number;
        else if (!strcmp(word, "d"))
            config.divisor = number;
        else if (!strcmp(word, "max_rungs"))
            config.max_rungs = (int64_t)number;
        else if (!strcmp(word, "rungs"))
            config.num_rungs = (int64_t)number;
        else if (!strcmp(word, "smaller"))
            config.smaller_is_better = number != 0;
        else if (!strcmp(word, "step"))
            *ret_step = number;
        else
            fail_msg("unknown setting %s", word);
    }
    return config;
}

#endif
