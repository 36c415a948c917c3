/* render_list.c - the table of `list`.
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
        fprintf(out, "%lld older or archived: flexp list --all\n",
                (long long)(json_int_or(answer, "total", 0) - (json_int_t)table_rows(table)));
    table_free(table);
}
