/* verb_preview.c - preview: how many trials of which length the search would train, without metrics.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/cli/check.h"
#include "orchestrator/cli/format.h"
#include "orchestrator/cli/table.h"

#include <stdlib.h>

static void print_table(struct cli *cli, const struct experiment_config *config, const struct preview_row *rows,
                        size_t n, double total)
{
    const char *unit = UNIT_NAMES[config->time_metric];
    struct table *table = table_new();
    int64_t trials = 0;
    char *text;

    table_column(table, "TRIALS", TABLE_RIGHT);
    table_column(table, "TRAINED TO", TABLE_RIGHT);
    table_column(table, "UNITS IN ALL", TABLE_RIGHT);
    for (size_t i = 0; i < n; i++) {
        char *units = format_units(rows[i].units), *sum = format_units(rows[i].units * (double)rows[i].trials);
        table_cell(table, STYLE_NONE, "%lld", (long long)rows[i].trials);
        table_cell(table, STYLE_NONE, "%s", units);
        table_cell(table, STYLE_NONE, "%s", sum);
        trials += rows[i].trials;
        free(units);
        free(sum);
    }
    table_write(table, stdout, &cli->out, 0);
    table_free(table);
    text = format_units(total);
    printf("\n%s (%s sampling): %lld trial%s, %s %s in all", config->searcher.scheduler, config->searcher.sampler,
           (long long)trials, trials == 1 ? "" : "s", text, unit);
    if (config->searcher.max_concurrent_trials)
        printf(", at most %lld at a time", (long long)config->searcher.max_concurrent_trials);
    putchar('\n');
    free(text);
}

int verb_preview(struct cli *cli)
{
    struct checked checked;
    struct preview_row *rows = NULL;
    struct error err = {0};
    double total = 0;
    size_t n = 0;
    int code = check_file(cli, false, &checked);

    if (code == CLI_OK && searcher_preview(&checked.config->searcher, checked.config->space, &rows, &n, &total, &err))
        code = cli_fail(CLI_USAGE, "%s: %s", checked.file, err.text);
    if (code == CLI_OK && cli_json(cli)) {
        json_t *answer = cli_json_answer(), *list = json_array();
        for (size_t i = 0; i < n; i++)
            json_array_append_new(list, json_pack("{s:I, s:f}", "trials", (json_int_t)rows[i].trials, "units",
                                                  rows[i].units));
        json_object_set_new(answer, "trials_by_length", list);
        json_object_set_new(answer, "total_units", json_real(total));
        json_object_set_new(answer, "time_metric", json_string(UNIT_NAMES[checked.config->time_metric]));
        code = cli_print_json(cli, answer);
    } else if (code == CLI_OK) {
        print_table(cli, checked.config, rows, n, total);
    }
    free(rows);
    checked_done(&checked);
    return code;
}
