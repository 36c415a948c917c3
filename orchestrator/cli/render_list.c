/* render_list.c - the tables of `list` and `trials`, and `trial describe`.
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

static void number_cell(struct table *table, const json_t *value)
{
    double number;

    text_cell(table, STYLE_NONE, json_to_double(value, &number) ? format_units(number) : NULL);
}

void render_list(FILE *out, const struct term *term, const json_t *answer, bool all)
{
    const json_t *rows = json_object_get(answer, "experiments");
    struct table *table = table_new();
    json_t *row;
    size_t i;

    if (!json_array_size(rows)) {
        fputs("No experiments yet: flexp create FILE\n", out);
        table_free(table);
        return;
    }
    table_column(table, "ID", TABLE_RIGHT);
    table_column(table, "NAME", TABLE_SHRINK);
    table_column(table, "STATE", TABLE_LEFT);
    table_column(table, "DONE", TABLE_RIGHT);
    table_column(table, "TRIALS", TABLE_RIGHT | TABLE_OPTIONAL);
    table_column(table, "BEST", TABLE_RIGHT);
    table_column(table, "METRIC", TABLE_OPTIONAL | TABLE_SHRINK);
    table_column(table, "CREATED", TABLE_OPTIONAL);
    json_array_foreach((json_t *)rows, i, row) {
        const char *state = json_string_or(row, "state", "?"), *metric = json_string_or(row, "metric", NULL);
        const json_t *counts = json_object_get(row, "trials");
        double progress = json_double_or(row, "progress", NAN);
        int64_t n = 0, ended = 0;
        count_trials(counts, &n, &ended);
        table_cell(table, STYLE_NONE, "%lld", (long long)json_int_or(row, "id", 0));
        table_cell(table, STYLE_NONE, "%s", json_string_or(row, "name", ""));
        table_cell(table, state_style(state), "%s", state);
        if (isnan(progress))
            table_cell(table, STYLE_NONE, "-");
        else
            table_cell(table, STYLE_NONE, "%.0f%%", progress * 100);
        table_cell(table, STYLE_NONE, "%lld", (long long)n);
        text_cell(table, STYLE_BOLD, format_metric(metric, json_object_get(row, "best_metric")));
        table_cell(table, STYLE_NONE, "%s", metric ? metric : "-");
        text_cell(table, STYLE_DIM, format_time(json_object_get(row, "created")));
    }
    table_write(table, out, term, 0);
    if (!all && json_int_or(answer, "total", 0) > (json_int_t)table_rows(table))
        fprintf(out, "%lld older: flexp list --all\n",
                (long long)(json_int_or(answer, "total", 0) - (json_int_t)table_rows(table)));
    table_free(table);
}

/* Best first as the metric points, those without a value last, ties by number. */
struct ranked {
    const json_t *row;
    double value;
    int64_t number;
    bool has, smaller_is_better;
};

static int compare(const void *left, const void *right)
{
    const struct ranked *a = left, *b = right;

    if (a->has != b->has)
        return a->has ? -1 : 1;
    if (a->has && a->value != b->value)
        return (a->value < b->value) == a->smaller_is_better ? -1 : 1;
    return a->number < b->number ? -1 : a->number > b->number;
}

void render_trials(FILE *out, const struct term *term, const json_t *answer)
{
    const json_t *rows = json_object_get(answer, "trials");
    const char *metric = json_string_or(answer, "metric", NULL);
    size_t n = json_array_size(rows);
    struct ranked *list = calloc(n + 1, sizeof *list);
    struct table *table = table_new();

    if (!n)
        fputs("No trials yet\n", out);
    for (size_t i = 0; list && i < n; i++) {
        const json_t *row = json_array_get(rows, i);
        list[i].row = row;
        list[i].has = json_to_double(json_object_get(row, "best_metric"), &list[i].value) &&
                      isfinite(list[i].value);
        list[i].number = json_int_or(row, "id", 0);
        list[i].smaller_is_better = json_bool_or(answer, "smaller_is_better", false);
    }
    if (list)
        qsort(list, n, sizeof *list, compare);
    table_column(table, "TRIAL", TABLE_RIGHT);
    table_column(table, "STATE", TABLE_LEFT);
    table_column(table, "BEST", TABLE_RIGHT);
    table_column(table, "AT", TABLE_RIGHT | TABLE_OPTIONAL);
    table_column(table, "TRAINED", TABLE_RIGHT);
    table_column(table, "RESTARTS", TABLE_RIGHT | TABLE_OPTIONAL);
    table_column(table, "REASON", TABLE_SHRINK | TABLE_OPTIONAL);
    table_column(table, "HYPERPARAMETERS", TABLE_SHRINK);
    for (size_t i = 0; list && i < n; i++) {
        const json_t *row = list[i].row;
        const char *state = json_string_or(row, "state", "?");
        table_cell(table, STYLE_NONE, "%lld", (long long)list[i].number);
        table_cell(table, state_style(state), "%s", state);
        text_cell(table, STYLE_BOLD, format_metric(metric, json_object_get(row, "best_metric")));
        number_cell(table, json_object_get(row, "best_unit"));
        number_cell(table, json_object_get(row, "units"));
        number_cell(table, json_object_get(row, "restarts"));
        table_cell(table, STYLE_NONE, "%s", json_string_or(row, "reason", "-"));
        text_cell(table, STYLE_NONE, format_hyperparameters(json_object_get(row, "hyperparameters")));
    }
    if (n)
        table_write(table, out, term, 0);
    table_free(table);
    free(list);
}

static void leaf_line(void *arg, const char *name, const json_t *value)
{
    char *shown = format_value(value), *clean = text_clean(shown ? shown : "");

    fprintf(arg, "  %-24s %s\n", name, clean ? clean : "");
    free(shown);
    free(clean);
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
    table_column(table, "SLOTS", TABLE_SHRINK | TABLE_OPTIONAL);
    table_column(table, "END", TABLE_LEFT);
    table_column(table, "TEXT", TABLE_SHRINK);
    json_array_foreach((json_t *)rows, i, row) {
        double started = time_seconds(json_object_get(row, "started")), ended = time_seconds(json_object_get(row, "ended"));
        table_cell(table, STYLE_NONE, "%lld", (long long)json_int_or(row, "run", 0));
        table_cell(table, STYLE_NONE, "%lld", (long long)json_int_or(row, "attempt", 0));
        text_cell(table, STYLE_DIM, format_time(json_object_get(row, "started")));
        text_cell(table, STYLE_NONE, format_seconds(ended - started));
        text_cell(table, STYLE_NONE, format_words(json_object_get(row, "slots")));
        table_cell(table, STYLE_NONE, "%s", json_string_or(row, "reason", isnan(ended) ? "running" : "-"));
        table_cell(table, STYLE_NONE, "%s", json_string_or(row, "text", ""));
    }
    table_write(table, out, term, 2);
    table_free(table);
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
        number_cell(table, json_object_get(row, "unit"));
        text_cell(table, STYLE_NONE, format_bytes(json_double_or(row, "bytes", 0)));
        table_cell(table, STYLE_NONE, "%s", json_string_or(row, "path", "-"));
    }
    if (table_rows(table)) {
        fprintf(out, "\n%sCheckpoints%s, below %s\n", term_on(term, STYLE_BOLD), term_off(term, STYLE_BOLD), home);
        table_write(table, out, term, 2);
    }
    table_free(table);
}

/* {name: {value, unit}} or {name: value}. */
static void metrics_section(FILE *out, const struct term *term, const char *title, const json_t *metrics)
{
    struct table *table = table_new();
    const char *name;
    json_t *value;

    table_column(table, "METRIC", TABLE_LEFT);
    table_column(table, "VALUE", TABLE_RIGHT);
    table_column(table, "AT", TABLE_RIGHT);
    json_object_foreach((json_t *)metrics, name, value) {
        table_cell(table, STYLE_NONE, "%s", name);
        text_cell(table, STYLE_NONE, format_metric(name, json_is_object(value) ? json_object_get(value, "value") : value));
        number_cell(table, json_object_get(value, "unit"));
    }
    if (table_rows(table)) {
        fprintf(out, "\n%s%s%s\n", term_on(term, STYLE_BOLD), title, term_off(term, STYLE_BOLD));
        table_write(table, out, term, 2);
    }
    table_free(table);
}

static void tests(FILE *out, const struct term *term, const json_t *rows)
{
    char title[80];
    json_t *row;
    size_t i;

    json_array_foreach((json_t *)rows, i, row) {
        char *unit = format_value(json_object_get(row, "unit"));
        snprintf(title, sizeof title, "Test split, at %s%s", unit ? unit : "",
                 !strcmp(json_string_or(row, "by", ""), "request") ? ", on request" : "");
        metrics_section(out, term, title, json_object_get(row, "metrics"));
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
            (long long)json_int_or(answer, "id", 0), term_off(term, STYLE_BOLD), term_on(term, state_style(state)), state,
            term_off(term, state_style(state)), reason ? "  " : "", reason ? reason : "");
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
    fprintf(out, "  trained   to %s, in %s of %lld run%s\n", at ? at : "0", value ? value : "-",
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
    if (json_object_size(hyperparameters)) {
        fprintf(out, "\n%sHyperparameters%s\n", term_on(term, STYLE_BOLD), term_off(term, STYLE_BOLD));
        each_leaf(hyperparameters, "", leaf_line, out);
    }
    metrics_section(out, term, "Latest metrics", json_object_get(answer, "metrics"));
    tests(out, term, json_object_get(answer, "tests"));
    runs_table(out, term, json_object_get(answer, "run_list"));
    checkpoints_table(out, term, json_object_get(answer, "checkpoints"), home);
    if (best)
        fprintf(out, "\n%sBest checkpoint%s  %s/%s\n", term_on(term, STYLE_BOLD), term_off(term, STYLE_BOLD), home, best);
    fprintf(out, "%s%sFiles%s  %s/experiments/%lld/trials/%lld\n", best ? "" : "\n", term_on(term, STYLE_BOLD),
            term_off(term, STYLE_BOLD), home, (long long)json_int_or(answer, "experiment", 0),
            (long long)json_int_or(answer, "id", 0));
}
