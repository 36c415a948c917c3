/* render_trial.c - `trial describe`: one trial with its runs and checkpoints.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/cli/format.h"
#include "orchestrator/cli/render.h"
#include "orchestrator/cli/table.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static void text_cell(struct table *table, enum style style, char *text)
{
    table_cell(table, style, "%s", text ? text : "-");
    free(text);
}

/* "-" where there is none. */
static void number_cell(struct table *table, const char *format, const json_t *value)
{
    char text[40] = "-";

    if (json_is_number(value))
        snprintf(text, sizeof text, format, json_number_value(value));
    table_cell(table, STYLE_NONE, "%s", text);
}

/* NaN where there is none. */
static double time_seconds(const json_t *value)
{
    const char *text = json_string_value(value), *rest;
    struct tm utc = {0};

    if (!text || !(rest = strptime(text, "%Y-%m-%dT%H:%M:%S", &utc)))
        return NAN;
    return (double)timegm(&utc) + (*rest == '.' ? strtod(rest, NULL) : 0);
}

static void runs_table(FILE *out, const struct term *term, const json_t *rows)
{
    struct table *table;
    json_t *row;
    size_t i;

    if (!json_array_size(rows))
        return;
    table = table_new();
    fprintf(out, "\n%sRuns%s\n", term_on(term, STYLE_BOLD), term_off(term, STYLE_BOLD));
    table_column(table, "RUN", TABLE_RIGHT);
    table_column(table, "ATTEMPT", TABLE_RIGHT | TABLE_OPTIONAL);
    table_column(table, "STARTED", TABLE_OPTIONAL);
    table_column(table, "TOOK", TABLE_RIGHT);
    table_column(table, "CORES", TABLE_RIGHT | TABLE_OPTIONAL);
    table_column(table, "MEMORY", TABLE_RIGHT | TABLE_OPTIONAL);
    table_column(table, "SLOTS", TABLE_SHRINK | TABLE_OPTIONAL);
    table_column(table, "END", TABLE_LEFT);
    table_column(table, "TEXT", TABLE_SHRINK);
    json_array_foreach((json_t *)rows, i, row) {
        double started = time_seconds(json_object_get(row, "started"));
        double ended = time_seconds(json_object_get(row, "ended"));
        table_cell(table, STYLE_NONE, "%lld", (long long)json_int_or(row, "run", 0));
        table_cell(table, STYLE_NONE, "%lld", (long long)json_int_or(row, "attempt", 0));
        text_cell(table, STYLE_DIM, format_time(json_object_get(row, "started")));
        text_cell(table, STYLE_NONE, format_seconds(ended - started));
        number_cell(table, "%.2f", json_object_get(row, "cpu_cores_mean"));
        text_cell(table, STYLE_NONE, json_is_integer(json_object_get(row, "memory_bytes_peak"))
                                         ? format_bytes(json_double_or(row, "memory_bytes_peak", 0))
                                         : NULL);
        text_cell(table, STYLE_NONE, format_words(json_object_get(row, "slots")));
        table_cell(table, STYLE_NONE, "%s", json_string_or(row, "reason", isnan(ended) ? "running" : "-"));
        table_cell(table, STYLE_NONE, "%s", json_string_or(row, "text", ""));
    }
    table_write(table, out, term, 2);
    table_free(table);
}

/* A path without the home before it. */
static const char *below(const char *path, const char *home)
{
    size_t n = strlen(home);

    return !strncmp(path, home, n) && path[n] == '/' ? path + n + 1 : path;
}

static void checkpoints_table(FILE *out, const struct term *term, const json_t *rows, const char *home)
{
    struct table *table;
    json_t *row;
    size_t i;

    if (!json_array_size(rows))
        return;
    table = table_new();
    table_column(table, "AT", TABLE_RIGHT);
    table_column(table, "SIZE", TABLE_RIGHT);
    table_column(table, "FILE", TABLE_SHRINK);
    json_array_foreach((json_t *)rows, i, row) {
        if (json_is_string(json_object_get(row, "deleted")))
            continue;
        text_cell(table, STYLE_NONE, format_value(json_object_get(row, "unit")));
        text_cell(table, STYLE_NONE, format_bytes(json_double_or(row, "bytes", 0)));
        table_cell(table, STYLE_NONE, "%s", below(json_string_or(row, "path", "-"), home));
    }
    if (table_rows(table)) {
        fprintf(out, "\n%sCheckpoints%s, below %s\n", term_on(term, STYLE_BOLD), term_off(term, STYLE_BOLD), home);
        table_write(table, out, term, 2);
    }
    table_free(table);
}

static void latest(FILE *out, const struct term *term, const json_t *answer)
{
    const json_t *metrics = json_object_get(answer, "metrics");
    json_t *flat = json_object(), *row;
    const char *name;
    double unit = NAN, one;

    json_object_foreach((json_t *)metrics, name, row) { /* {name: {value, unit}} */
        json_object_set(flat, name, json_object_get(row, "value"));
        if (json_to_double(json_object_get(row, "unit"), &one) && !(unit >= one))
            unit = one;
    }
    if (json_object_size(flat)) {
        char *at = format_units(unit);
        fprintf(out, "\n%sLatest metrics%s, up to %s\n", term_on(term, STYLE_BOLD), term_off(term, STYLE_BOLD),
                at ? at : "");
        free(at);
        render_metrics(out, term, flat, NULL);
    }
    json_decref(flat);
}

static void tests(FILE *out, const struct term *term, const json_t *rows)
{
    json_t *row;
    size_t i;

    json_array_foreach((json_t *)rows, i, row) {
        char *unit = format_value(json_object_get(row, "unit"));
        fprintf(out, "\n%sTest split%s, at %s%s\n", term_on(term, STYLE_BOLD), term_off(term, STYLE_BOLD),
                unit ? unit : "", !strcmp(json_string_or(row, "by", ""), "request") ? ", on request" : "");
        render_metrics(out, term, NULL, json_object_get(row, "metrics"));
        free(unit);
    }
}

static void trial_head(FILE *out, const struct term *term, const json_t *answer)
{
    const char *state = json_string_or(answer, "state", "?"), *reason = json_string_or(answer, "reason", NULL);
    const char *metric = json_string_or(answer, "metric", "value"), *on = term_on(term, STYLE_BOLD);
    const char *raw = json_string_or(answer, "text", "");
    char *value, *at;

    fprintf(out, "%sTrial %lld/%lld%s  %s%s%s%s%s\n", on, (long long)json_int_or(answer, "experiment", 0),
            (long long)json_int_or(answer, "id", 0), term_off(term, STYLE_BOLD), term_on(term, state_style(state)),
            state, term_off(term, state_style(state)), reason ? "  " : "", reason ? reason : "");
    while (*raw) { /* the last lines of a worker's output may be in it */
        size_t n = strcspn(raw, "\n");
        char *line = strndup(raw, n), *clean = line ? text_clean(line) : NULL;
        fprintf(out, "  %s\n", clean ? clean : "");
        free(line);
        free(clean);
        raw += n + (raw[n] == '\n');
    }
    if (json_object_get(answer, "best_metric") && !json_is_null(json_object_get(answer, "best_metric"))) {
        value = format_metric(metric, json_object_get(answer, "best_metric"));
        at = format_value(json_object_get(answer, "best_unit"));
        fprintf(out, "  best      %s %s at %s\n", value ? value : "", metric, at ? at : "");
        free(value);
        free(at);
    }
    at = format_value(json_object_get(answer, "units"));
    value = format_seconds(json_double_or(answer, "trained_seconds", NAN));
    fprintf(out, "  trained   to %s, %s in %lld run%s\n", at ? at : "0", value ? value : "-",
            (long long)json_int_or(answer, "runs", 0), json_int_or(answer, "runs", 0) == 1 ? "" : "s");
    if (json_int_or(answer, "restarts", 0))
        fprintf(out, "  restarts  %lld\n", (long long)json_int_or(answer, "restarts", 0));
    free(value);
    free(at);
}

void render_trial(FILE *out, const struct term *term, const json_t *answer, const char *home)
{
    const json_t *hyperparameters = json_object_get(answer, "hyperparameters");
    const char *best = json_string_or(json_object_get(answer, "best_checkpoint"), "path", NULL);

    trial_head(out, term, answer);
    if (json_object_size(hyperparameters))
        fputc('\n', out);
    render_hyperparameters(out, term, hyperparameters);
    latest(out, term, answer);
    tests(out, term, json_object_get(answer, "tests"));
    runs_table(out, term, json_object_get(answer, "run_list"));
    checkpoints_table(out, term, json_object_get(answer, "checkpoints"), home);
    if (best)
        fprintf(out, "\n%sBest checkpoint%s  %s/%s\n", term_on(term, STYLE_BOLD), term_off(term, STYLE_BOLD), home,
                below(best, home));
    fprintf(out, "%s%sFiles%s  %s/experiments/%lld/trials/%lld\n", best ? "" : "\n", term_on(term, STYLE_BOLD),
            term_off(term, STYLE_BOLD), home, (long long)json_int_or(answer, "experiment", 0),
            (long long)json_int_or(answer, "id", 0));
}
