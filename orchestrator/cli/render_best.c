/* render_best.c - the best trial: metrics as one table (a row for loss, accuracy ..., a column for each split they were
 * computed on), hyperparameters, and where its model is.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/cli/format.h"
#include "orchestrator/cli/render.h"
#include "orchestrator/cli/table.h"

#include "common/file.h"

#include <stdlib.h>
#include <string.h>

/* --- metrics ---------------------------------------------------------------------------------------------------- */

/* A metric's name is prefix, row, suffix. The first column takes what has neither, as an own program's "score". From
 * left to right; those that did not fit the terminal go from the right. */
static const struct column {
    const char *title, *prefix, *suffix;
} COLUMNS[] = {
    {"VALUE", "", ""},
    {"VALIDATION", "validation_", ""},
    {"TEST", "test_", ""},
    {"CLIENTS", "client_validation_", ""},
    {"CLIENT MEAN", "client_validation_", "_mean"},
    {"CLIENT WORST", "client_validation_", "_worst"},
    {"TRAINING", "train_", ""},
};
#define COLUMNS_N (sizeof COLUMNS / sizeof *COLUMNS)
#define ALWAYS 3 /* the first ones are never left out */

/* Said elsewhere. */
static bool is_metric(const char *name)
{
    static const char *const OTHERS[] = {"trial_id", "unit", "round", "by"};

    for (size_t i = 0; i < sizeof OTHERS / sizeof *OTHERS; i++)
        if (!strcmp(OTHERS[i], name))
            return false;
    return true;
}

static bool ends_with(const char *name, size_t length, const char *suffix)
{
    size_t n = strlen(suffix);

    return length > n && !strncmp(name + length - n, suffix, n);
}

/* The column of a metric, and its row's name between *ret_start and *ret_length. */
static size_t column_of(const char *name, const char **ret_start, size_t *ret_length)
{
    size_t length = strlen(name), best = 0, best_taken = 0;

    *ret_start = name;
    *ret_length = length;
    for (size_t i = 0; i < COLUMNS_N; i++) {
        size_t prefix = strlen(COLUMNS[i].prefix), suffix = strlen(COLUMNS[i].suffix);
        if (strncmp(name, COLUMNS[i].prefix, prefix) || length <= prefix + suffix ||
            (suffix && !ends_with(name, length, COLUMNS[i].suffix)) || prefix + suffix <= best_taken)
            continue;
        best = i;
        best_taken = prefix + suffix;
        *ret_start = name + prefix;
        *ret_length = length - prefix - suffix;
    }
    return best;
}

/* rows: {row name: {column title: text}}, in the order in which rows come up. */
static void collect(json_t *rows, bool *used, const json_t *metrics)
{
    const char *name;
    json_t *value;

    json_object_foreach((json_t *)metrics, name, value) {
        const char *start;
        size_t length, column;
        char *row, *shown;
        if (!is_metric(name))
            continue;
        column = column_of(name, &start, &length);
        row = strndup(start, length);
        shown = format_metric(name, value);
        if (row && shown) {
            if (!json_object_get(rows, row))
                json_object_set_new(rows, row, json_object());
            json_object_set_new(json_object_get(rows, row), COLUMNS[column].title, json_string(shown));
            used[column] = true;
        }
        free(row);
        free(shown);
    }
}

void render_metrics(FILE *out, const struct term *term, const json_t *validation, const json_t *test)
{
    bool used[COLUMNS_N] = {false};
    json_t *rows = json_object(), *cells;
    struct table *table = table_new();
    const char *row;

    collect(rows, used, validation);
    collect(rows, used, test);
    table_column(table, "METRIC", TABLE_LEFT);
    for (size_t i = 0; i < COLUMNS_N; i++)
        if (used[i])
            table_column(table, COLUMNS[i].title, TABLE_RIGHT | (i >= ALWAYS ? TABLE_OPTIONAL : 0u));
    json_object_foreach(rows, row, cells) {
        table_cell(table, STYLE_NONE, "%s", row);
        for (size_t i = 0; i < COLUMNS_N; i++)
            if (used[i])
                table_cell(table, STYLE_NONE, "%s", json_string_or(cells, COLUMNS[i].title, ""));
    }
    if (table_rows(table))
        table_write(table, out, term, 2);
    table_free(table);
    json_decref(rows);
}

/* --- hyperparameters -------------------------------------------------------------------------------------------- */

static void leaf_row(void *arg, const char *name, const json_t *value)
{
    char *shown = format_value(value);

    table_cell(arg, STYLE_NONE, "%s", name);
    table_cell(arg, STYLE_NONE, "%s", shown ? shown : "");
    free(shown);
}

void render_hyperparameters(FILE *out, const struct term *term, const json_t *hyperparameters)
{
    struct table *table;

    if (!json_object_size(hyperparameters))
        return;
    table = table_new();
    table_column(table, "HYPERPARAMETER", TABLE_LEFT);
    table_column(table, "VALUE", TABLE_LEFT);
    each_leaf(hyperparameters, "", leaf_row, table);
    table_write(table, out, term, 2);
    table_free(table);
}

/* --- the whole -------------------------------------------------------------------------------------------------- */

/* Never cut: a path is there to be copied. */
static void where_line(FILE *out, const struct term *term, const char *title, const char *home, const char *path)
{
    char *whole = format_text(path[0] == '/' ? "%.0s%s" : "%s/%s", home, path);

    if (*path && whole && file_exists(whole))
        fprintf(out, "  %s%-11s%s %s\n", term_on(term, STYLE_BOLD), title, term_off(term, STYLE_BOLD), whole);
    free(whole);
}

void render_best(FILE *out, const struct term *term, const json_t *answer, const char *home)
{
    const json_t *metrics = json_object_get(answer, "best_validation_metrics");
    int64_t trial = json_int_or(answer, "best_trial_id", json_int_or(metrics, "trial_id", 0));
    double unit;

    if (!trial) {
        fprintf(out, "No best trial%s: none has reported a validation with a checkpoint\n",
                state_has_ended(json_string_or(answer, "state", "")) ? "" : " yet");
        return;
    }
    fprintf(out, "%sBest trial %lld/%lld%s", term_on(term, STYLE_BOLD), (long long)json_int_or(answer, "id", 0),
            (long long)trial, term_off(term, STYLE_BOLD));
    if (json_to_double(json_object_get(metrics, "unit"), &unit)) {
        char *text = format_units(unit);
        fprintf(out, ", at %s %s", unit_singular(json_string_or(answer, "time_metric", "rounds")), text ? text : "");
        free(text);
    }
    fputc('\n', out);
    render_hyperparameters(out, term, json_object_get(answer, "best_hyperparameters"));
    fputc('\n', out);
    render_metrics(out, term, metrics, json_object_get(answer, "test_metrics"));
    if (!strcmp(json_string_or(json_at(answer, "config.data"), "validation", ""), "official_test"))
        fputs("  Validation is the official test split here (data.validation: official_test).\n", out);
    fputc('\n', out);
    where_line(out, term, "Model", home, json_string_or(answer, "best_model", ""));
    where_line(out, term, "Checkpoint", home, json_string_or(json_object_get(answer, "best_checkpoint"), "path", ""));
}
