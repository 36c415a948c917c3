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

const json_t *first_of(const json_t *object, const char *const *names)
{
    for (; *names; names++) {
        const json_t *value = json_object_get(object, *names);
        if (value && !json_is_null(value))
            return value;
    }
    return NULL;
}

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
    if (!strcmp(name, "trial_id") || !strcmp(name, "trial") || !strcmp(name, "unit") || !strcmp(name, "round") ||
        !strcmp(name, "rounds") || !strcmp(name, "epoch") || !strcmp(name, "batch"))
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

static const char *best_unit(const json_t *answer, const json_t *metrics, double *ret)
{
    static const char *const NAMES[] = {"round", "epoch", "batch", "sample", "second", "unit", NULL};

    for (size_t i = 0; NAMES[i]; i++) {
        const json_t *value = json_object_get(metrics, NAMES[i]);
        if (!json_to_double(value, ret))
            continue;
        if (!strcmp(NAMES[i], "unit"))
            return unit_singular(json_string_or(json_at(answer, "config.searcher"), "time_metric", "rounds"));
        return NAMES[i];
    }
    return NULL;
}

static void where_line(FILE *out, const struct term *term, const json_t *answer, int64_t trial, const char *home)
{
    const json_t *checkpoint = json_object_get(answer, "best_checkpoint");
    const char *path = json_is_string(checkpoint) ? json_string_value(checkpoint)
                                                  : json_string_or(checkpoint, "path", NULL);
    char *folder = format_text("%s/experiments/%lld/trials/%lld", home, (long long)json_int_or(answer, "id", 0),
                               (long long)trial);
    char *model = format_text("%s/model.safetensors", folder ? folder : ""), *whole = NULL;

    if (path && *path != '/')
        whole = format_text("%s/%s", folder ? folder : "", path);
    else if (path)
        whole = strdup(path);
    /* Never cut: a path is there to be copied. */
    if (model && file_exists(model))
        fprintf(out, "%sModel%s       %s\n", term_on(term, STYLE_BOLD), term_off(term, STYLE_BOLD), model);
    if (whole)
        fprintf(out, "%sCheckpoint%s  %s\n", term_on(term, STYLE_BOLD), term_off(term, STYLE_BOLD), whole);
    free(folder);
    free(model);
    free(whole);
}

void render_best(FILE *out, const struct term *term, const json_t *answer, const char *home)
{
    const json_t *metrics = json_object_get(answer, "best_validation_metrics"), *test;
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
    test = json_object_get(answer, "test_metrics");
    section(out, term, "Test", test, metric_line);
    where_line(out, term, answer, trial, home);
}
