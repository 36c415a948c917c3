/* nearest.c - which word did they mean.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/cli/cli_private.h"

#include <string.h>

#define WORD_MAX 40

/* Edits that turn a into b, neighbours swapped counting as one (optimal string alignment: Damerau 1964, Levenshtein
 * 1966). Words longer than WORD_MAX are far from everything. */
static size_t distance(const char *a, const char *b)
{
    size_t rows[3][WORD_MAX + 1], na = strlen(a), nb = strlen(b);

    if (na > WORD_MAX || nb > WORD_MAX)
        return WORD_MAX;
    for (size_t j = 0; j <= nb; j++)
        rows[0][j] = j;
    for (size_t i = 1; i <= na; i++) {
        size_t *now = rows[i % 3], *before = rows[(i + 2) % 3], *second = rows[(i + 1) % 3];
        now[0] = i;
        for (size_t j = 1; j <= nb; j++) {
            size_t best = before[j - 1] + (a[i - 1] != b[j - 1]);
            best = before[j] + 1 < best ? before[j] + 1 : best;
            best = now[j - 1] + 1 < best ? now[j - 1] + 1 : best;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] && second[j - 2] + 1 < best)
                best = second[j - 2] + 1;
            now[j] = best;
        }
    }
    return rows[na % 3][nb];
}

const char *nearest_word(const char *const *words, const char *name)
{
    const char *found = NULL;
    size_t allowed = strlen(name) / 3 > 0 ? strlen(name) / 3 : 1, best = allowed + 1, length = strlen(name);

    for (; *words; words++) {
        size_t d = distance(name, *words);
        if (length >= 3 && !strncmp(*words, name, length))
            d = 0; /* "desc" */
        if (d < best) {
            best = d;
            found = *words;
        }
    }
    return best <= allowed ? found : NULL;
}

const char *verb_synonym(const char *name)
{
    static const char *const SYNONYMS[][2] = {
        {"ls", "list"}, {"ps", "list"}, {"experiments", "list"}, {"show", "describe"}, {"info", "describe"},
        {"get", "describe"}, {"run", "create"}, {"submit", "create"}, {"start", "create"}, {"new", "create"},
        {"experiment", "create"}, {"resume", "activate"}, {"unpause", "activate"}, {"continue", "activate"},
        {"stop", "cancel"}, {"abort", "cancel"}, {"rm", "cancel"}, {"delete", "cancel"}, {"follow", "wait"},
        {"attach", "wait"}, {"log", "logs"}, {"tail", "logs"}, {"check", "validate"}, {"lint", "validate"},
        {"preview-search", "preview"}, {"shutdown", "down"}, {"serve", "up"}, {"server", "up"}, {"daemon", "up"},
        {"gpus", "slots"}, {"devices", "slots"}, {"agents", "slots"}, {"best", "describe"},
    };

    for (size_t i = 0; i < sizeof SYNONYMS / sizeof *SYNONYMS; i++)
        if (!strcmp(SYNONYMS[i][0], name))
            return SYNONYMS[i][1];
    return NULL;
}
