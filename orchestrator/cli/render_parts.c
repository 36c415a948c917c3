/* render_parts.c - the pieces that several pictures share: counts by state, bars, the best trial.
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

struct leaf_lines {
    FILE *out;
    const struct term *term;
    int width; /* of the widest name */
    bool measure;
};

static void one_line(struct leaf_lines *lines, const char *name, const char *shown)
{
    char *clean_name = text_clean(name), *clean = text_clean(shown), *line;

    if (!clean_name || !clean) {
        free(clean_name);
        free(clean);
        return;
    }
    if (lines->measure) {
        int width = text_width(clean_name);
        lines->width = width > lines->width ? width : lines->width;
    } else {
        line = format_text("  %s%*s  %s", clean_name, lines->width - text_width(clean_name), "", clean);
        text_write(lines->out, lines->term, line ? line : "", lines->term->width);
        fputc('\n', lines->out);
        free(line);
    }
    free(clean_name);
    free(clean);
}

static void value_line(void *arg, const char *name, const json_t *value)
{
    char *shown = format_value(value);

    one_line(arg, name, shown ? shown : "");
    free(shown);
}

static void metric_line(void *arg, const char *name, const json_t *value)
{
    char *shown;

    /* Said in the heading. */
    if (!strcmp(name, "trial_id") || !strcmp(name, "unit") || !strcmp(name, "round") || !strcmp(name, "by"))
        return;
    shown = format_metric(name, value);
    one_line(arg, name, shown ? shown : "");
    free(shown);
}

static void section(FILE *out, const struct term *term, const char *title, const json_t *map, leaf_fn *line)
{
    struct leaf_lines lines = {out, term, 0, true};

    if (!json_object_size(map))
        return;
    fprintf(out, "%s%s%s\n", term_on(term, STYLE_BOLD), title, term_off(term, STYLE_BOLD));
    each_leaf(map, "", line, &lines);
    lines.measure = false;
    each_leaf(map, "", line, &lines);
}

/* The name of its unit, NULL where it is not known. */
static const char *best_unit(const json_t *answer, const json_t *metrics, double *ret)
{
    static const char *const NAMES[] = {"unit", "round", NULL};

    for (size_t i = 0; NAMES[i]; i++) {
        const json_t *value = json_object_get(metrics, NAMES[i]);
        if (!json_to_double(value, ret))
            continue;
        return unit_singular(json_string_or(answer, "time_metric", "rounds"));
    }
    return NULL;
}

/* Never cut: a path is there to be copied. */
static void where_line(FILE *out, const struct term *term, const char *title, const char *home, const char *path)
{
    char *whole = format_text(path[0] == '/' ? "%.0s%s" : "%s/%s", home, path);

    if (*path && whole && file_exists(whole))
        fprintf(out, "%s%-11s%s %s\n", term_on(term, STYLE_BOLD), title, term_off(term, STYLE_BOLD), whole);
    free(whole);
}

void render_best(FILE *out, const struct term *term, const json_t *answer, const char *home)
{
    const json_t *metrics = json_object_get(answer, "best_validation_metrics");
    int64_t trial = json_int_or(answer, "best_trial_id", json_int_or(metrics, "trial_id", 0));
    const char *unit_name;
    double unit = 0;

    if (!trial) {
        fprintf(out, "No best trial%s: none has reported a validation with a checkpoint\n",
                state_has_ended(json_string_or(answer, "state", "")) ? "" : " yet");
        return;
    }
    fprintf(out, "%sBest trial %lld/%lld%s", term_on(term, STYLE_BOLD), (long long)json_int_or(answer, "id", 0),
            (long long)trial, term_off(term, STYLE_BOLD));
    unit_name = best_unit(answer, metrics, &unit);
    if (unit_name) {
        char *text = format_units(unit);
        fprintf(out, ", at %s %s", unit_name, text ? text : "");
        free(text);
    }
    fputc('\n', out);
    section(out, term, "Validation", metrics, metric_line);
    section(out, term, "Hyperparameters", json_object_get(answer, "best_hyperparameters"), value_line);
    section(out, term, "Test", json_object_get(answer, "test_metrics"), metric_line);
    where_line(out, term, "Model", home, json_string_or(answer, "best_model", ""));
    where_line(out, term, "Checkpoint", home, json_string_or(json_object_get(answer, "best_checkpoint"), "path", ""));
}
