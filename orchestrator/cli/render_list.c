/* render_list.c - the tables of `list` and `trials`.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/cli/format.h"
#include "orchestrator/cli/render.h"
#include "orchestrator/cli/table.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

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
