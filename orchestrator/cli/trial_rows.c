/* trial_rows.c - sorting and writing. See trial_rows.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/cli/trial_rows.h"

#include "orchestrator/cli/cli_private.h"
#include "orchestrator/cli/csv.h"
#include "orchestrator/cli/format.h"
#include "orchestrator/cli/table.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* What a person calls it, and what the answer does; in the order of --csv. */
static const struct column {
    const char *name, *field;
} COLUMNS[] = {
    {"trial", "id"},           {"state", "state"},       {"reason", "reason"},      {"best", "best_metric"},
    {"best_unit", "best_unit"}, {"latest", "latest_metric"}, {"latest_unit", "latest_unit"}, {"trained", "units"},
    {"restarts", "restarts"},  {"runs", "runs"},         {"slots", "slots"},        {"seconds", "trained_seconds"},
    {"slot_seconds", "slot_seconds"}, {"created", "created"}, {"started", "started"}, {"ended", "ended"},
};
#define COLUMNS_N (sizeof COLUMNS / sizeof *COLUMNS)

/* --- values ----------------------------------------------------------------------------------------------------- */

const json_t *trial_hyperparameter(const json_t *row, const char *name)
{
    return json_at(json_object_get(row, "hyperparameters"), name);
}

static void add_leaf(void *arg, const char *name, const json_t *value)
{
    (void)value;
    json_object_set_new(arg, name, json_true());
}

/* The names of all trials' hyperparameters, in the order in which they come up. New reference. */
static json_t *leaf_names(const struct trial_rows *rows)
{
    json_t *names = json_object();

    for (size_t i = 0; i < rows->n; i++)
        each_leaf(json_object_get(rows->rows[i], "hyperparameters"), "", add_leaf, names);
    return names;
}

int no_such_hyperparameter(const struct trial_rows *rows, const char *name, bool columns, struct error *err)
{
    json_t *names = leaf_names(rows), *ignored;
    const char *candidates[COLUMNS_N + 256], *near, *leaf, *what = columns ? "column or hyperparameter" : "hyperparameter";
    struct words known = {0}, titles = {0};
    size_t n = 0;

    json_object_foreach (names, leaf, ignored) {
        if (n < 250)
            candidates[n++] = leaf;
        words_add(&known, leaf);
    }
    for (size_t i = 0; columns && i < COLUMNS_N; i++) {
        candidates[n++] = COLUMNS[i].name;
        words_add(&titles, COLUMNS[i].name);
    }
    candidates[n] = NULL;
    near = nearest_word(candidates, name);
    if (near)
        fail(err, -EINVAL, "there is no %s '%s': did you mean '%s'?", what, name, near);
    else
        fail(err, -EINVAL, "there is no %s '%s'; %s%s%s%s%s", what, name, columns ? "columns are " : "", titles.text,
             columns ? "; " : "", known.used ? "the hyperparameters are " : "this experiment has no hyperparameters",
             words_text(&known));
    json_decref(names);
    return -EINVAL;
}

/* --- sorting ---------------------------------------------------------------------------------------------------- */

struct ranked {
    const json_t *row;
    const char *text; /* NULL: a number, or nothing */
    double value;
    int64_t number;
    bool has, descending;
};

static int compare(const void *left, const void *right)
{
    const struct ranked *a = left, *b = right;
    int order;

    if (a->has != b->has)
        return a->has ? -1 : 1;
    if (a->has && (a->text != NULL) != (b->text != NULL))
        return a->text ? 1 : -1; /* numbers before words */
    order = !a->has ? 0 : a->text ? strcmp(a->text, b->text) : (a->value > b->value) - (a->value < b->value);
    if (order)
        return a->descending ? -order : order;
    return a->number < b->number ? -1 : a->number > b->number;
}

static void sort_by(struct trial_rows *rows, const char *field, const char *hyperparameter, bool descending)
{
    struct ranked *list = calloc(rows->n + 1, sizeof *list);

    for (size_t i = 0; list && i < rows->n; i++) {
        const json_t *row = rows->rows[i],
                     *value = field ? json_object_get(row, field) : trial_hyperparameter(row, hyperparameter);
        struct ranked *at = &list[i];
        at->row = row;
        at->number = json_int_or(row, "id", 0);
        at->descending = descending;
        at->has = json_to_double(value, &at->value) && isfinite(at->value);
        if (!at->has && json_is_boolean(value)) {
            at->has = true;
            at->value = json_is_true(value);
        } else if (!at->has && json_is_string(value) && !(field && !strcmp(field, "best_metric"))) {
            at->has = true;
            at->text = json_string_value(value);
        }
    }
    if (list) {
        qsort(list, rows->n, sizeof *list, compare);
        for (size_t i = 0; i < rows->n; i++)
            rows->rows[i] = list[i].row;
    }
    free(list);
}

int trial_rows_init(struct trial_rows *ret, const json_t *answer)
{
    const json_t *list = json_object_get(answer, "trials");

    *ret = (struct trial_rows){.answer = answer,
                               .n = json_array_size(list),
                               .metric = json_string_or(answer, "metric", NULL),
                               .smaller_is_better = json_bool_or(answer, "smaller_is_better", false)};
    ret->rows = calloc(ret->n + 1, sizeof *ret->rows);
    if (!ret->rows)
        return -ENOMEM;
    for (size_t i = 0; i < ret->n; i++)
        ret->rows[i] = json_array_get(list, i);
    sort_by(ret, "best_metric", NULL, !ret->smaller_is_better);
    return 0;
}

void trial_rows_done(struct trial_rows *rows)
{
    free(rows->rows);
}

int trial_rows_sort(struct trial_rows *rows, const char *key, struct error *err)
{
    bool turn = *key == '-';
    const char *name = key + turn, *field = NULL;

    for (size_t i = 0; i < COLUMNS_N; i++)
        if (!strcmp(COLUMNS[i].name, name) || !strcmp(COLUMNS[i].field, name))
            field = COLUMNS[i].field;
    if (rows->metric && !strcmp(name, rows->metric))
        field = "best_metric";
    if (!field && rows->n) {
        size_t i = 0;
        while (i < rows->n && !trial_hyperparameter(rows->rows[i], name))
            i++;
        if (i == rows->n)
            return no_such_hyperparameter(rows, name, true, err);
    }
    if (field && (!strcmp(field, "best_metric") || !strcmp(field, "latest_metric")))
        sort_by(rows, field, NULL, turn == rows->smaller_is_better);
    else
        sort_by(rows, field, name, turn);
    return 0;
}

/* --- writing ---------------------------------------------------------------------------------------------------- */

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

void trial_rows_table(FILE *out, const struct term *term, const struct trial_rows *rows)
{
    struct table *table = table_new();

    if (!rows->n)
        fputs("No trials yet\n", out);
    table_column(table, "TRIAL", TABLE_RIGHT);
    table_column(table, "STATE", TABLE_LEFT);
    table_column(table, "BEST", TABLE_RIGHT);
    table_column(table, "AT", TABLE_RIGHT | TABLE_OPTIONAL);
    table_column(table, "TRAINED", TABLE_RIGHT);
    table_column(table, "RESTARTS", TABLE_RIGHT | TABLE_OPTIONAL);
    table_column(table, "REASON", TABLE_SHRINK | TABLE_OPTIONAL);
    table_column(table, "HYPERPARAMETERS", TABLE_SHRINK);
    for (size_t i = 0; i < rows->n; i++) {
        const json_t *row = rows->rows[i];
        const char *state = json_string_or(row, "state", "?");
        table_cell(table, STYLE_NONE, "%lld", (long long)json_int_or(row, "id", 0));
        table_cell(table, state_style(state), "%s", state);
        text_cell(table, STYLE_BOLD, format_metric(rows->metric, json_object_get(row, "best_metric")));
        number_cell(table, json_object_get(row, "best_unit"));
        number_cell(table, json_object_get(row, "units"));
        number_cell(table, json_object_get(row, "restarts"));
        table_cell(table, STYLE_NONE, "%s", json_string_or(row, "reason", "-"));
        text_cell(table, STYLE_NONE, format_hyperparameters(json_object_get(row, "hyperparameters")));
    }
    if (rows->n)
        table_write(table, out, term, 0);
    table_free(table);
}

void trial_rows_csv(FILE *out, const struct trial_rows *rows)
{
    json_t *names = leaf_names(rows), *ignored;
    const char *name;

    for (size_t i = 0; i < COLUMNS_N; i++)
        csv_text(out, COLUMNS[i].name, i == 0);
    json_object_foreach (names, name, ignored)
        csv_text(out, name, false);
    csv_end(out);
    for (size_t i = 0; i < rows->n; i++) {
        for (size_t c = 0; c < COLUMNS_N; c++)
            csv_value(out, json_object_get(rows->rows[i], COLUMNS[c].field), c == 0);
        json_object_foreach (names, name, ignored)
            csv_value(out, trial_hyperparameter(rows->rows[i], name), false);
        csv_end(out);
    }
    json_decref(names);
}
