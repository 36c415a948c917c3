/* trial_groups.c - trials grouped by a hyperparameter. See trial_rows.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/cli/trial_rows.h"

#include "orchestrator/cli/csv.h"
#include "orchestrator/cli/format.h"
#include "orchestrator/cli/table.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define VALUES_MAX 12 /* more different numbers than this are put into ranges */
#define RANGES 5

struct member {
    const json_t *row, *value;
    double number; /* NaN: it is no number */
    char *text;    /* canonical JSON */
};

static int compare(const void *left, const void *right)
{
    const struct member *a = left, *b = right;

    if (isnan(a->number) != isnan(b->number))
        return isnan(a->number) ? 1 : -1;
    if (!isnan(a->number) && a->number != b->number)
        return a->number < b->number ? -1 : 1;
    return strcmp(a->text, b->text);
}

static json_t *group_of(const struct trial_rows *rows, const struct member *members, size_t n, bool range)
{
    double best = NAN, worst = NAN, sum = 0, value;
    int64_t best_trial = 0, with_value = 0;
    json_t *group = range ? json_pack("{s:f, s:f}", "from", members[0].number, "to", members[n - 1].number)
                          : json_pack("{s:O}", "value", members[0].value);

    for (size_t i = 0; i < n; i++) {
        if (!json_to_double(json_object_get(members[i].row, "best_metric"), &value) || !isfinite(value))
            continue;
        with_value++;
        sum += value;
        if (isnan(best) || (rows->smaller_is_better ? value < best : value > best)) {
            best = value;
            best_trial = json_int_or(members[i].row, "id", 0);
        }
        if (isnan(worst) || (rows->smaller_is_better ? value > worst : value < worst))
            worst = value;
    }
    json_object_set_new(group, "trials", json_integer((json_int_t)n));
    json_object_set_new(group, "with_value", json_integer(with_value));
    json_object_set_new(group, "best", with_value ? json_real(best) : json_null());
    json_object_set_new(group, "mean", with_value ? json_real(sum / (double)with_value) : json_null());
    json_object_set_new(group, "worst", with_value ? json_real(worst) : json_null());
    json_object_set_new(group, "best_trial", with_value ? json_integer(best_trial) : json_null());
    return group;
}

static json_t *group_values(const struct trial_rows *rows, const struct member *members, size_t n)
{
    json_t *groups = json_array();

    for (size_t i = 0, next; i < n; i = next) {
        for (next = i + 1; next < n && !strcmp(members[i].text, members[next].text); next++)
            ;
        json_array_append_new(groups, group_of(rows, members + i, next - i, false));
    }
    return groups;
}

/* Equal values stay together. */
static json_t *group_ranges(const struct trial_rows *rows, const struct member *members, size_t n)
{
    json_t *groups = json_array();
    size_t start = 0;

    for (int range = 1; range <= RANGES && start < n; range++) {
        size_t end = n * (size_t)range / RANGES;
        while (end < n && end > 0 && members[end].number == members[end - 1].number)
            end++;
        if (end > start)
            json_array_append_new(groups, group_of(rows, members + start, end - start, true));
        start = end > start ? end : start;
    }
    return groups;
}

int trial_groups(const struct trial_rows *rows, const char *name, json_t **ret, struct error *err)
{
    struct member *members = calloc(rows->n + 1, sizeof *members);
    size_t n = 0, different = 0;
    bool numbers = true;
    int rc = 0;

    if (!members)
        return fail(err, -ENOMEM, "out of memory");
    for (size_t i = 0; i < rows->n; i++) {
        const json_t *value = trial_hyperparameter(rows->rows[i], name);
        if (!value || json_is_object(value))
            continue;
        members[n] = (struct member){rows->rows[i], value, json_is_number(value) ? json_number_value(value) : NAN,
                                     json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT | JSON_SORT_KEYS)};
        numbers = numbers && json_is_number(value);
        if (!members[n++].text)
            rc = fail(err, -ENOMEM, "out of memory");
    }
    if (!rc && !n)
        rc = no_such_hyperparameter(rows, name, false, err);
    if (!rc) {
        qsort(members, n, sizeof *members, compare);
        for (size_t i = 0; i < n; i++)
            different += !i || strcmp(members[i].text, members[i - 1].text) != 0;
        *ret = numbers && different > VALUES_MAX ? group_ranges(rows, members, n) : group_values(rows, members, n);
    }
    for (size_t i = 0; i < n; i++)
        free(members[i].text);
    free(members);
    return rc;
}

/* --- writing ---------------------------------------------------------------------------------------------------- */

static char *label(const json_t *group)
{
    char *from, *to, *text;

    if (json_object_get(group, "value"))
        return format_value(json_object_get(group, "value"));
    from = format_value(json_object_get(group, "from"));
    to = format_value(json_object_get(group, "to"));
    text = from && to ? malloc(strlen(from) + strlen(to) + 8) : NULL;
    if (text)
        sprintf(text, "%s to %s", from, to);
    free(from);
    free(to);
    return text;
}

void trial_groups_table(FILE *out, const struct term *term, const struct trial_rows *rows, const char *name,
                        const json_t *groups)
{
    static const char *const VALUES[] = {"best", "mean", "worst"};
    struct table *table = table_new();
    json_t *group;
    size_t i;

    table_column(table, name, TABLE_LEFT);
    table_column(table, "TRIALS", TABLE_RIGHT);
    table_column(table, "BEST", TABLE_RIGHT);
    table_column(table, "MEAN", TABLE_RIGHT);
    table_column(table, "WORST", TABLE_RIGHT);
    table_column(table, "BEST TRIAL", TABLE_RIGHT);
    json_array_foreach ((json_t *)groups, i, group) {
        char *text = label(group);
        table_cell(table, STYLE_NONE, "%s", text ? text : "");
        free(text);
        table_cell(table, STYLE_NONE, "%lld", (long long)json_int_or(group, "trials", 0));
        for (size_t v = 0; v < 3; v++) {
            text = format_metric(rows->metric, json_object_get(group, VALUES[v]));
            table_cell(table, v ? STYLE_NONE : STYLE_BOLD, "%s", text ? text : "-");
            free(text);
        }
        text = format_value(json_object_get(group, "best_trial"));
        table_cell(table, STYLE_NONE, "%s", json_is_null(json_object_get(group, "best_trial")) || !text ? "-" : text);
        free(text);
    }
    table_write(table, out, term, 0);
    table_free(table);
}

void trial_groups_csv(FILE *out, const char *name, const json_t *groups)
{
    static const char *const REST[] = {"trials", "with_value", "best", "mean", "worst", "best_trial"};
    bool ranges = json_object_get(json_array_get(groups, 0), "from") != NULL;
    json_t *group;
    size_t i;

    if (ranges) {
        csv_text(out, "from", true);
        csv_text(out, "to", false);
    } else {
        csv_text(out, name, true);
    }
    for (size_t c = 0; c < sizeof REST / sizeof *REST; c++)
        csv_text(out, REST[c], false);
    csv_end(out);
    json_array_foreach ((json_t *)groups, i, group) {
        csv_value(out, json_object_get(group, ranges ? "from" : "value"), true);
        if (ranges)
            csv_value(out, json_object_get(group, "to"), false);
        for (size_t c = 0; c < sizeof REST / sizeof *REST; c++)
            csv_value(out, json_object_get(group, REST[c]), false);
        csv_end(out);
    }
}
