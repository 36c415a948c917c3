/* render_parts.c - the pieces that several pictures share: counts by state, bars, names of units.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/cli/render.h"

#include "common/file.h"
#include "orchestrator/cli/format.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const STATES[] = {"running", "queued", "waiting", "paused", "completed", "stopped", "canceled",
                                     "error", NULL};
#define STATES_GOING_ON 4 /* the first of STATES */

char *render_counts(const struct term *term, const json_t *counts)
{
    char *text = strdup("");

    for (size_t i = 0; text && STATES[i]; i++) {
        int64_t n = json_int_or(counts, STATES[i], 0);
        enum style style = state_style(STATES[i]);
        char *longer;
        if (!n)
            continue;
        longer = format_text("%s%s%s%lld %s%s", text, *text ? ", " : "", term_on(term, style), (long long)n, STATES[i],
                             term_off(term, style));
        free(text);
        text = longer;
    }
    return text;
}

void count_trials(const json_t *counts, int64_t *ret_all, int64_t *ret_ended)
{
    *ret_all = *ret_ended = 0;
    for (size_t i = 0; STATES[i]; i++) {
        int64_t n = json_int_or(counts, STATES[i], 0);
        *ret_all += n;
        *ret_ended += i >= STATES_GOING_ON ? n : 0;
    }
}

char *render_bar(const struct term *term, double share, int columns)
{
    const char *full = term->utf8 ? "█" : "#", *empty = term->utf8 ? "░" : "-";
    char *text = NULL;
    size_t length = 0;
    FILE *memory = open_memstream(&text, &length);
    int filled;

    if (!memory)
        return NULL;
    share = !(share > 0) ? 0 : share > 1 ? 1 : share;
    filled = (int)floor(share * columns + 1e-9);
    fputs(term_on(term, STYLE_CYAN), memory);
    for (int i = 0; i < columns; i++) {
        if (i == filled)
            fprintf(memory, "%s%s", term_off(term, STYLE_CYAN), term_on(term, STYLE_DIM));
        fputs(i < filled ? full : empty, memory);
    }
    fputs(term_off(term, STYLE_CYAN), memory);
    fclose(memory);
    return text;
}

const char *unit_singular(const char *unit)
{
    static const char *const UNITS[][2] = {{"rounds", "round"}, {"epochs", "epoch"}, {"batches", "batch"},
                                           {"samples", "sample"}, {"seconds", "second"}};

    for (size_t i = 0; i < sizeof UNITS / sizeof *UNITS; i++)
        if (!strcmp(UNITS[i][0], unit))
            return UNITS[i][1];
    return "unit";
}
