/* render_list.c - the tables of `list` and `trials`, and `trial describe`.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/cli/format.h"
#include "orchestrator/cli/render.h"
#include "orchestrator/cli/table.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define NAMES(...) (const char *const[]){__VA_ARGS__, NULL}

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
        fputs(all ? "No experiments yet: flexp create FILE\n"
                  : "No experiment is going on; `flexp list --all` shows those that have ended\n", out);
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
        const json_t *counts = first_of(row, NAMES("trials", "trials_by_state"));
        double progress = json_double_or(row, "progress", NAN);
        int64_t n = 0, ended = 0;
        if (json_is_object(counts))
            count_trials(counts, &n, &ended);
        else
            n = json_is_integer(counts) ? json_integer_value(counts) : 0;
        table_cell(table, STYLE_NONE, "%lld", (long long)json_int_or(row, "id", 0));
        table_cell(table, STYLE_NONE, "%s", json_string_or(row, "name", ""));
        table_cell(table, state_style(state), "%s", state);
        if (isnan(progress))
            table_cell(table, STYLE_NONE, "-");
        else
            table_cell(table, STYLE_NONE, "%.0f%%", progress * 100);
        table_cell(table, STYLE_NONE, "%lld", (long long)n);
        text_cell(table, STYLE_BOLD, format_metric(metric, first_of(row, NAMES("best_value", "best", "value"))));
        table_cell(table, STYLE_NONE, "%s", metric ? metric : "-");
        text_cell(table, STYLE_DIM, format_time(first_of(row, NAMES("created", "created_us"))));
    }
    table_write(table, out, term, 0);
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
        list[i].has = json_to_double(first_of(row, NAMES("best_value", "best", "value")), &list[i].value) &&
                      isfinite(list[i].value);
        list[i].number = json_int_or(row, "trial", json_int_or(row, "id", 0));
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
        text_cell(table, STYLE_BOLD, format_metric(metric, first_of(row, NAMES("best_value", "best", "value"))));
        number_cell(table, first_of(row, NAMES("best_unit")));
        number_cell(table, first_of(row, NAMES("unit", "units", "last_unit", "trained")));
        number_cell(table, first_of(row, NAMES("restarts")));
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
        const json_t *started = first_of(row, NAMES("started", "started_us", "start"));
        const json_t *ended = first_of(row, NAMES("ended", "ended_us", "end"));
        double took = json_is_number(started) && json_is_number(ended)
                          ? (json_number_value(ended) - json_number_value(started)) / 1e6
                          : json_double_or(row, "seconds", NAN);
        table_cell(table, STYLE_NONE, "%lld", (long long)json_int_or(row, "run", json_int_or(row, "id", 0)));
        table_cell(table, STYLE_NONE, "%lld", (long long)json_int_or(row, "attempt", 0));
        text_cell(table, STYLE_DIM, format_time(started));
        text_cell(table, STYLE_NONE, format_seconds(took));
        text_cell(table, STYLE_NONE, format_value(json_object_get(row, "slots")));
        table_cell(table, STYLE_NONE, "%s", json_string_or(row, "reason", ended ? "-" : "running"));
        table_cell(table, STYLE_NONE, "%s", json_string_or(row, "text", ""));
    }
    table_write(table, out, term, 2);
    table_free(table);
}

static void checkpoints_table(FILE *out, const struct term *term, const json_t *rows)
{
    struct table *table;
    json_t *row;
    size_t i;

    if (!json_array_size(rows))
        return;
    table = table_new();
    fprintf(out, "\n%sCheckpoints%s\n", term_on(term, STYLE_BOLD), term_off(term, STYLE_BOLD));
    table_column(table, "AT", TABLE_RIGHT);
    table_column(table, "SIZE", TABLE_RIGHT);
    table_column(table, "FILE", TABLE_SHRINK);
    json_array_foreach((json_t *)rows, i, row) {
        number_cell(table, json_object_get(row, "unit"));
        text_cell(table, STYLE_NONE, format_bytes(json_double_or(row, "bytes", 0)));
        table_cell(table, STYLE_NONE, "%s", json_string_or(row, "path", "-"));
    }
    table_write(table, out, term, 2);
    table_free(table);
}

static void metrics_section(FILE *out, const struct term *term, const char *title, const json_t *metrics)
{
    const char *name;
    json_t *value;

    if (!json_object_size(metrics))
        return;
    fprintf(out, "\n%s%s%s\n", term_on(term, STYLE_BOLD), title, term_off(term, STYLE_BOLD));
    json_object_foreach((json_t *)metrics, name, value) {
        char *shown = format_metric(name, value);
        if (!json_is_object(value) && !json_is_array(value))
            fprintf(out, "  %-24s %s\n", name, shown ? shown : "");
        free(shown);
    }
}

void render_trial(FILE *out, const struct term *term, const json_t *answer, const char *home)
{
    const char *state = json_string_or(answer, "state", "?"), *reason = json_string_or(answer, "reason", NULL);
    long long id = json_int_or(answer, "experiment", json_int_or(answer, "experiment_id", 0));
    long long number = json_int_or(answer, "trial", json_int_or(answer, "id", 0));
    const char *metric = json_string_or(answer, "metric", NULL);
    const json_t *best = first_of(answer, NAMES("best_value"));
    char *text = text_clean(json_string_or(answer, "text", "")), *value, *at;

    fprintf(out, "%sTrial %lld/%lld%s  %s%s%s%s%s\n", term_on(term, STYLE_BOLD), id, number,
            term_off(term, STYLE_BOLD), term_on(term, state_style(state)), state, term_off(term, state_style(state)),
            reason ? "  " : "", reason ? reason : "");
    if (text && *text)
        fprintf(out, "  %s\n", text);
    free(text);
    if (best) {
        value = format_metric(metric, best);
        at = format_value(first_of(answer, NAMES("best_unit")));
        fprintf(out, "  best %s %s at %s\n", metric ? metric : "value", value ? value : "", at ? at : "");
        free(value);
        free(at);
    }
    if (json_int_or(answer, "restarts", 0))
        fprintf(out, "  restarts %lld\n", (long long)json_int_or(answer, "restarts", 0));
    if (json_object_size(json_object_get(answer, "hyperparameters"))) {
        fprintf(out, "\n%sHyperparameters%s\n", term_on(term, STYLE_BOLD), term_off(term, STYLE_BOLD));
        each_leaf(json_object_get(answer, "hyperparameters"), "", leaf_line, out);
    }
    metrics_section(out, term, "Validation", first_of(answer, NAMES("best_validation_metrics", "validation_metrics",
                                                                      "metrics")));
    metrics_section(out, term, "Test", first_of(answer, NAMES("test_metrics", "test")));
    runs_table(out, term, json_object_get(answer, "runs"));
    checkpoints_table(out, term, json_object_get(answer, "checkpoints"));
    fprintf(out, "\n%sFiles%s  %s/experiments/%lld/trials/%lld\n", term_on(term, STYLE_BOLD),
            term_off(term, STYLE_BOLD), home, id, number);
}
