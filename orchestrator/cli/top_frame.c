/* top_frame.c - see top_frame.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/cli/top_frame.h"

#include "orchestrator/cli/format.h"
#include "orchestrator/cli/render.h"
#include "orchestrator/cli/table.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define CURVE_COLUMNS 24

char *sparkline(const json_t *values, int width, bool utf8)
{
    static const char *const BARS[] = {"\u2581", "\u2582", "\u2583", "\u2584", "\u2585", "\u2586", "\u2587", "\u2588"};
    static const char *const PLAIN[] = {"_", ".", "-", "~", "=", "+", "*", "#"};
    size_t n = json_array_size(values), columns = width > 0 ? (size_t)width : 1;
    double low = INFINITY, high = -INFINITY, value;
    char *text = NULL;
    size_t length;
    FILE *out = open_memstream(&text, &length);

    if (!out)
        return NULL;
    columns = n < columns ? n : columns;
    for (size_t i = 0; i < n; i++)
        if (json_to_double(json_array_get(values, i), &value) && isfinite(value)) {
            low = fmin(low, value);
            high = fmax(high, value);
        }
    for (size_t c = 0; c < columns; c++) {
        size_t at = (c + 1) * n / columns - 1;
        int height = 0;
        if (!json_to_double(json_array_get(values, at), &value) || !isfinite(value)) {
            fputc(' ', out);
            continue;
        }
        if (high > low)
            height = (int)((value - low) / (high - low) * 7.999);
        fputs(utf8 ? BARS[height] : PLAIN[height], out);
    }
    fclose(out);
    return text;
}

static void text_cell(struct table *table, enum style style, char *text)
{
    table_cell(table, style, "%s", text ? text : "-");
    free(text);
}

static char *bytes_or_null(const json_t *value)
{
    return json_is_integer(value) ? format_bytes(json_number_value(value)) : NULL;
}

/* --- experiments -------------------------------------------------------------------------------------------------- */

static bool is_shown(const json_t *row, int64_t only)
{
    int64_t id = json_int_or(row, "id", 0);

    return only ? id == only : !state_has_ended(json_string_or(row, "state", ""));
}

static void experiments(FILE *out, const struct term *term, const json_t *list, int64_t only)
{
    struct table *table = table_new();
    json_t *row;
    size_t i;

    table_column(table, "ID", TABLE_RIGHT);
    table_column(table, "NAME", TABLE_SHRINK);
    table_column(table, "STATE", TABLE_LEFT);
    table_column(table, "DONE", TABLE_LEFT);
    table_column(table, "TRIALS", TABLE_SHRINK | TABLE_OPTIONAL);
    table_column(table, "BEST", TABLE_RIGHT);
    table_column(table, "METRIC", TABLE_OPTIONAL);
    json_array_foreach (json_object_get(list, "experiments"), i, row) {
        const char *state = json_string_or(row, "state", "?"), *metric = json_string_or(row, "metric", NULL);
        double progress = json_double_or(row, "progress", 0);
        char *bar;
        if (!is_shown(row, only))
            continue;
        bar = render_bar(&(struct term){.utf8 = term->utf8}, progress, 12); /* a cell has one style */
        table_cell(table, STYLE_BOLD, "%lld", (long long)json_int_or(row, "id", 0));
        table_cell(table, STYLE_NONE, "%s", json_string_or(row, "name", ""));
        table_cell(table, state_style(state), "%s", state);
        table_cell(table, STYLE_NONE, "%s %3.0f%%", bar ? bar : "", progress * 100);
        text_cell(table, STYLE_NONE, render_counts(&(struct term){0}, json_object_get(row, "trials")));
        text_cell(table, STYLE_BOLD, format_metric(metric, json_object_get(row, "best_metric")));
        table_cell(table, STYLE_NONE, "%s", metric ? metric : "-");
        free(bar);
    }
    if (table_rows(table))
        table_write(table, out, term, 0);
    else
        fputs(only ? "There is no such experiment\n" : "No experiment is going on\n", out);
    table_free(table);
}

/* --- slots -------------------------------------------------------------------------------------------------------- */

static const json_t *describe_of(const json_t *describes, int64_t experiment)
{
    char key[32];

    snprintf(key, sizeof key, "%lld", (long long)experiment);
    return json_object_get(describes, key);
}

size_t top_slot_lines(const json_t *slots)
{
    json_t *row;
    size_t i, n = 0;

    json_array_foreach (json_object_get(slots, "slots"), i, row) {
        size_t runs = json_array_size(json_object_get(row, "runs"));
        n += runs ? runs : 1;
    }
    return n;
}

static void busy_row(struct table *table, const struct term *term, const json_t *row, const json_t *describes,
                     const json_t *curves)
{
    int64_t experiment = json_int_or(row, "experiment", 0), trial = json_int_or(row, "trial", 0);
    const char *metric = json_string_or(describe_of(describes, experiment), "metric", NULL);
    char key[48], *unit, *until, *curve;
    const json_t *values;
    double cores;

    snprintf(key, sizeof key, "%lld/%lld", (long long)experiment, (long long)trial);
    values = json_object_get(curves, key);
    unit = format_units(json_double_or(row, "unit", 0));
    until = format_units(json_double_or(row, "until", 0));
    curve = sparkline(values, CURVE_COLUMNS, term->utf8);
    table_cell(table, STYLE_CYAN, "%s", key);
    table_cell(table, STYLE_NONE, "%s of %s", unit ? unit : "", until ? until : "");
    text_cell(table, STYLE_BOLD,
              json_array_size(values) ? format_metric(metric, json_array_get(values, json_array_size(values) - 1)) : NULL);
    if (json_to_double(json_object_get(row, "cpu_cores"), &cores))
        table_cell(table, STYLE_NONE, "%.2f", cores);
    else
        table_cell(table, STYLE_DIM, "-");
    text_cell(table, STYLE_NONE, bytes_or_null(json_object_get(row, "memory_bytes")));
    table_cell(table, STYLE_GREEN, "%s", curve ? curve : "");
    free(unit);
    free(until);
    free(curve);
}

static void slots_table(FILE *out, const struct term *term, const json_t *slots, const json_t *describes, const json_t *curves,
                        int64_t only, size_t skip)
{
    struct table *table = table_new();
    json_t *row, *run;
    size_t i, k, line = 0;

    table_column(table, "SLOT", TABLE_LEFT);
    table_column(table, "TRIAL", TABLE_LEFT);
    table_column(table, "UNIT", TABLE_LEFT);
    table_column(table, "LATEST", TABLE_RIGHT);
    table_column(table, "CORES", TABLE_RIGHT | TABLE_OPTIONAL);
    table_column(table, "MEMORY", TABLE_RIGHT | TABLE_OPTIONAL);
    table_column(table, "CURVE", TABLE_LEFT);
    json_array_foreach (json_object_get(slots, "slots"), i, row) {
        const json_t *runs = json_object_get(row, "runs");
        bool hidden = only && json_int_or(row, "experiment", 0) != only;
        json_array_foreach ((json_t *)runs, k, run) {
            if (line++ < skip || hidden)
                continue;
            table_cell(table, STYLE_BOLD, "%s", !k || line == skip + 1 ? json_string_or(row, "name", "?") : "");
            busy_row(table, term, run, describes, curves);
        }
        if (json_array_size(runs) || line++ < skip || hidden)
            continue;
        table_cell(table, STYLE_BOLD, "%s", json_string_or(row, "name", "?"));
        table_cell(table, STYLE_DIM, "%s", json_string_or(row, "state", "free"));
        for (int rest = 0; rest < 5; rest++)
            table_cell(table, STYLE_DIM, "%s", "");
    }
    if (table_rows(table))
        table_write(table, out, term, 0);
    table_free(table);
}

/* --- best trials -------------------------------------------------------------------------------------------------- */

static void best_of(FILE *out, const struct term *term, const json_t *describe)
{
    const char *metric = json_string_or(describe, "metric", NULL);
    struct table *table = table_new();
    json_t *row;
    size_t i;

    table_column(table, "BEST", TABLE_RIGHT);
    table_column(table, "TRIAL", TABLE_LEFT);
    table_column(table, "AT", TABLE_RIGHT);
    table_column(table, "STATE", TABLE_LEFT);
    table_column(table, "HYPERPARAMETERS", TABLE_SHRINK);
    json_array_foreach (json_object_get(describe, "top"), i, row) {
        const char *state = json_string_or(row, "state", "?");
        text_cell(table, STYLE_BOLD, format_metric(metric, json_object_get(row, "best_metric")));
        table_cell(table, STYLE_NONE, "%lld/%lld", (long long)json_int_or(describe, "id", 0),
                   (long long)json_int_or(row, "id", 0));
        text_cell(table, STYLE_NONE, format_value(json_object_get(row, "best_unit")));
        table_cell(table, state_style(state), "%s", state);
        text_cell(table, STYLE_NONE, format_hyperparameters(json_object_get(row, "hyperparameters")));
    }
    if (table_rows(table)) {
        fputc('\n', out);
        table_write(table, out, term, 0);
    }
    table_free(table);
}

char *top_frame(const struct term *term, const json_t *status, const json_t *slots, const json_t *list, const json_t *describes,
                const json_t *curves, int64_t only, size_t skip, const char *now)
{
    char *text = NULL;
    const char *id;
    json_t *row, *describe;
    size_t length, i, busy = 0;
    FILE *out = open_memstream(&text, &length);

    if (!out)
        return NULL;
    json_array_foreach (json_object_get(slots, "slots"), i, row)
        busy += json_int_or(row, "trial", 0) > 0;
    fprintf(out, "%sflexp top%s  %s  %zu of %lld slots busy  %s", term_on(term, STYLE_BOLD), term_off(term, STYLE_BOLD), now, busy,
            (long long)json_int_or(status, "slots", 0), json_string_or(status, "home", ""));
    if (json_bool_or(status, "waiting_for_slots", false))
        fprintf(out, "  waiting %s", json_string_or(status, "waiting", ""));
    fputs("\n\n", out);
    experiments(out, term, list, only);
    fputc('\n', out);
    slots_table(out, term, slots, describes, curves, only, skip);
    json_object_foreach ((json_t *)describes, id, describe)
        best_of(out, term, describe);
    fclose(out);
    return text;
}
