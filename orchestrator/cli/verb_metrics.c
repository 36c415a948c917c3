/* verb_metrics.c - metrics: what a trial reported, a line for each unit (and client), a column for each metric.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/cli/cli_private.h"
#include "orchestrator/cli/csv.h"
#include "orchestrator/cli/format.h"
#include "orchestrator/cli/table.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define TABLE_METRICS 16 /* columns of a table for people; --csv has all */

struct line {
    double unit;
    int64_t client;
    json_t *values; /* {name: value}; owned */
};

static int compare(const void *left, const void *right)
{
    const struct line *a = left, *b = right;

    if (a->unit != b->unit)
        return a->unit < b->unit ? -1 : 1;
    return (a->client > b->client) - (a->client < b->client);
}

static size_t rank_of(const char *name)
{
    static const char *const BEGINNINGS[] = {"validation_", "train_", "client_"};
    static const size_t RANKS[] = {0, 1, 3};

    for (size_t i = 0; i < 3; i++)
        if (!strncmp(name, BEGINNINGS[i], strlen(BEGINNINGS[i])))
            return RANKS[i];
    return 2;
}

/* The first columns are the last that a narrow terminal gives up. New reference. */
static json_t *in_order(const json_t *names)
{
    json_t *ordered = json_object(), *ignored;
    const char *name;

    for (size_t rank = 0; rank < 4; rank++)
        json_object_foreach ((json_t *)names, name, ignored)
            if (rank_of(name) == rank)
                json_object_set_new(ordered, name, json_true());
    return ordered;
}

/* Rows come metric by metric, each in the order of unit and client; lines hold them side by side. */
static struct line *make_lines(const json_t *rows, bool clients, json_t *names, size_t *ret_n)
{
    struct line *lines = calloc(json_array_size(rows) + 1, sizeof *lines);
    json_t *places = json_object(), *row;
    size_t i, n = 0;

    json_array_foreach ((json_t *)rows, i, row) {
        int64_t client = json_int_or(row, "client", -1);
        double unit = json_double_or(row, "unit", -1);
        const char *name = json_string_or(row, "name", "");
        char key[64];
        size_t place;
        if (!lines || (client >= 0) != clients)
            continue;
        snprintf(key, sizeof key, "%.17g %lld", unit, (long long)client);
        place = (size_t)json_int_or(places, key, -1);
        if (place == (size_t)-1) {
            place = n++;
            json_object_set_new(places, key, json_integer((json_int_t)place));
            lines[place] = (struct line){unit, client, json_object()};
        }
        json_object_set(lines[place].values, name, json_object_get(row, "value"));
        json_object_set_new(names, name, json_true());
    }
    json_decref(places);
    if (lines)
        qsort(lines, n, sizeof *lines, compare);
    *ret_n = n;
    return lines;
}

static void lines_free(struct line *lines, size_t n)
{
    for (size_t i = 0; lines && i < n; i++)
        json_decref(lines[i].values);
    free(lines);
}

static void write_csv(const struct line *lines, size_t n, bool clients, json_t *names)
{
    const char *name;
    json_t *ignored;

    csv_text(stdout, "unit", true);
    if (clients)
        csv_text(stdout, "client", false);
    json_object_foreach (names, name, ignored)
        csv_text(stdout, name, false);
    csv_end(stdout);
    for (size_t i = 0; i < n; i++) {
        csv_number(stdout, lines[i].unit, true);
        if (clients)
            csv_number(stdout, (double)lines[i].client, false);
        json_object_foreach (names, name, ignored)
            csv_value(stdout, json_object_get(lines[i].values, name), false);
        csv_end(stdout);
    }
}

static void write_table(const struct term *term, const struct line *lines, size_t n, bool clients, json_t *names)
{
    struct table *table = table_new();
    size_t shown = 0, left_out = 0;
    const char *name;
    json_t *ignored;

    table_column(table, "UNIT", TABLE_RIGHT);
    if (clients)
        table_column(table, "CLIENT", TABLE_RIGHT);
    json_object_foreach (names, name, ignored) {
        if (shown == TABLE_METRICS) {
            left_out++;
            continue;
        }
        table_column(table, name, TABLE_RIGHT | (shown++ ? TABLE_OPTIONAL : 0u));
    }
    for (size_t i = 0; i < n; i++) {
        size_t column = 0;
        char *unit = format_units(lines[i].unit);
        table_cell(table, STYLE_NONE, "%s", unit ? unit : "");
        free(unit);
        if (clients)
            table_cell(table, STYLE_NONE, "%lld", (long long)lines[i].client);
        json_object_foreach (names, name, ignored) {
            const json_t *value = json_object_get(lines[i].values, name);
            char *text;
            if (column++ >= TABLE_METRICS)
                break;
            text = value ? format_metric(name, value) : NULL;
            table_cell(table, STYLE_NONE, "%s", text ? text : "");
            free(text);
        }
    }
    table_write(table, stdout, term, 0);
    if (left_out)
        printf("%zu more metrics: --csv has all, --name METRIC shows one\n", left_out);
    table_free(table);
}

/* Nothing to show; with a name, of clients, other metrics may have what this one lacks. */
static void say_nothing(struct cli *cli, int64_t id, int64_t trial, bool clients, const char *only)
{
    json_t *arguments = json_pack("{s:I, s:I}", "experiment", (json_int_t)id, "trial", (json_int_t)trial);
    json_t *answer = NULL, *names = json_object(), *ignored;
    struct line *lines = NULL;
    const char *name, *comma = "";
    size_t n = 0;

    if (!clients || !only)
        json_decref(arguments);
    else if (!cli_read(cli, "metrics", arguments, &answer, NULL))
        lines = make_lines(json_object_get(answer, "metrics"), true, names, &n);
    if (!n) {
        printf("Trial %lld/%lld has reported nothing%s yet\n", (long long)id, (long long)trial,
               clients ? " about clients" : "");
    } else {
        printf("Trial %lld/%lld has no values of clients for %s; it has them for ", (long long)id, (long long)trial,
               only);
        json_object_foreach (names, name, ignored) {
            printf("%s%s", comma, name);
            comma = ", ";
        }
        putchar('\n');
    }
    lines_free(lines, n);
    json_decref(names);
    json_decref(answer);
}

int verb_metrics(struct cli *cli)
{
    bool clients = cli->options.given[OPT_CLIENT];
    const char *only = cli->options.value[OPT_NAME];
    struct error err = {0};
    json_t *answer = NULL, *arguments, *names, *found;
    struct line *lines;
    int64_t id, trial;
    size_t n;
    int code = cli_trial(cli, cli->options.arguments[0], &id, &trial, &err);

    if (cli->options.given[OPT_CSV] && cli_json(cli))
        return cli_fail(CLI_USAGE, "--csv and --json: choose one");
    if (code == 0) {
        arguments = json_pack("{s:I, s:I, s:s*}", "experiment", (json_int_t)id, "trial", (json_int_t)trial, "name", only);
        if (!clients)
            json_object_set_new(arguments, "client", json_integer(-1));
        code = cli_read(cli, "metrics", arguments, &answer, &err);
    }
    if (code)
        return cli_fail_error(&err);
    if (cli_json(cli) && !clients)
        return cli_print_json(cli, answer);
    found = json_object();
    lines = make_lines(json_object_get(answer, "metrics"), clients, found, &n);
    names = in_order(found);
    json_decref(found);
    if (cli_json(cli)) {
        json_t *rows = json_array(), *row;
        size_t i;
        json_array_foreach (json_object_get(answer, "metrics"), i, row)
            if (json_int_or(row, "client", -1) >= 0)
                json_array_append(rows, row);
        json_object_set_new(answer, "metrics", rows);
        cli_print_json(cli, json_incref(answer));
    } else if (cli->options.given[OPT_CSV]) {
        write_csv(lines, n, clients, names);
    } else if (!n) {
        say_nothing(cli, id, trial, clients, only);
    } else {
        write_table(&cli->out, lines, n, clients, names);
    }
    lines_free(lines, n);
    json_decref(names);
    json_decref(answer);
    return CLI_OK;
}
