/* verb_slots.c - slots: what there is to run on and what runs there.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/cli/cli_private.h"

#include "orchestrator/cli/format.h"
#include "orchestrator/cli/table.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void print_rows(struct cli *cli, const json_t *rows)
{
    struct table *table = table_new();
    json_t *row;
    size_t i;

    table_column(table, "SLOT", TABLE_LEFT);
    table_column(table, "STATE", TABLE_LEFT);
    table_column(table, "TRIAL", TABLE_LEFT);
    table_column(table, "HOLDER", TABLE_SHRINK);
    json_array_foreach((json_t *)rows, i, row)
    {
        const char *holder = json_string_or(row, "holder", "");
        char *trials = format_trials(json_object_get(row, "runs"));
        const char *state = json_string_or(row, "state", "?");
        enum style style = !strcmp(state, "busy") ? STYLE_CYAN : !strcmp(state, "taken") ? STYLE_YELLOW : STYLE_DIM;
        table_cell(table, STYLE_BOLD, "%s", json_string_or(row, "name", "?"));
        table_cell(table, style, "%s", state);
        table_cell(table, STYLE_NONE, "%s", trials ? trials : "");
        free(trials);
        table_cell(table, STYLE_NONE, "%s", *holder ? holder : "-");
    }
    table_write(table, stdout, &cli->out, 0);
    table_free(table);
}

static void print_gpus(struct cli *cli, const json_t *rows)
{
    struct table *table;
    json_t *row, *user;
    size_t i, k;

    if (!json_array_size(rows))
        return;
    table = table_new();
    table_column(table, "GPU", TABLE_LEFT);
    table_column(table, "NAME", TABLE_LEFT);
    table_column(table, "MEMORY", TABLE_LEFT);
    table_column(table, "USED BY", TABLE_LEFT);
    table_column(table, "UUID", TABLE_SHRINK);
    json_array_foreach((json_t *)rows, i, row)
    {
        char users[200] = "";
        size_t at = 0;
        json_array_foreach(json_object_get(row, "used_by"), k, user) if (at < sizeof users - 40) at += (size_t)snprintf(
            users + at, sizeof users - at, "%spid %lld (%.1f GiB)", at ? ", " : "",
            (long long)json_int_or(user, "pid", 0), (double)json_int_or(user, "memory_bytes", 0) / (1 << 30));
        table_cell(table, STYLE_BOLD, "cuda:%lld", (long long)json_int_or(row, "index", 0));
        table_cell(table, STYLE_NONE, "%s", json_string_or(row, "name", "?"));
        table_cell(table, STYLE_NONE, "%.1f of %.1f GiB used",
                   (double)json_int_or(row, "memory_used_bytes", 0) / (1 << 30),
                   (double)json_int_or(row, "memory_bytes", 0) / (1 << 30));
        table_cell(table, STYLE_NONE, "%s", *users ? users : "-");
        table_cell(table, STYLE_NONE, "%s", json_string_or(row, "uuid", "?"));
    }
    putchar('\n');
    table_write(table, stdout, &cli->out, 0);
    table_free(table);
    json_array_foreach((json_t *)rows, i, row) if (strcmp(json_string_or(row, "self_check", "passed"), "passed"))
        printf("At the start, of cuda:%lld: %s\n", (long long)json_int_or(row, "index", 0), json_string_or(row, "self_check_text", ""));
}

int verb_slots(struct cli *cli)
{
    struct error err = {0};
    json_t *answer = NULL;

    if (cli_ask(cli, false, "slots", NULL, &answer, &err))
        return cli_fail_error(&err);
    if (cli_json(cli)) {
        if (!json_object_get(answer, "schema_version"))
            json_object_set_new(answer, "schema_version", json_integer(CLI_SCHEMA_VERSION));
        return cli_print_json(cli, answer);
    }
    print_rows(cli, json_object_get(answer, "slots"));
    if (json_int_or(answer, "capacity", 0) < (json_int_t)json_array_size(json_object_get(answer, "slots")))
        printf("Runs take at most %lld of these at a time (flexp up --slots)\n",
               (long long)json_int_or(answer, "capacity", 0));
    print_gpus(cli, json_object_get(answer, "gpus"));
    json_decref(answer);
    return CLI_OK;
}
