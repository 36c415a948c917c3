/* verb_slots.c - slots: what there is to run on and what runs there.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/cli/cli_private.h"

#include "orchestrator/cli/format.h"
#include "orchestrator/cli/table.h"

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
    json_array_foreach((json_t *)rows, i, row) {
        const char *holder = json_string_or(row, "holder", "");
        int64_t experiment = json_int_or(row, "experiment", 0), trial = json_int_or(row, "trial", 0);
        const char *state = json_string_or(row, "state", "?");
        enum style style = !strcmp(state, "busy") ? STYLE_CYAN : !strcmp(state, "taken") ? STYLE_YELLOW : STYLE_DIM;
        table_cell(table, STYLE_BOLD, "%s", json_string_or(row, "name", "?"));
        table_cell(table, style, "%s", state);
        if (trial)
            table_cell(table, STYLE_NONE, "%lld/%lld", (long long)experiment, (long long)trial);
        else
            table_cell(table, STYLE_NONE, "-");
        table_cell(table, STYLE_NONE, "%s", *holder ? holder : "-");
    }
    table_write(table, stdout, &cli->out, 0);
    table_free(table);
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
    json_decref(answer);
    return CLI_OK;
}
