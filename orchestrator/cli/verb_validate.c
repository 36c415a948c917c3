/* verb_validate.c - validate: everything that create checks, and nothing created.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/cli/check.h"
#include "orchestrator/cli/format.h"

#include <stdlib.h>

static json_t *problems_json(const struct config_problems *problems)
{
    json_t *list = json_array();

    for (size_t i = 0; i < problems->n; i++) {
        const struct config_problem *row = &problems->list[i];
        json_array_append_new(list, json_pack("{s:s, s:s, s:i, s:i, s:s}", "severity",
                                              row->warning ? "warning" : "error", "path", row->path ? row->path : "",
                                              "line", row->line, "column", row->column, "text", row->text));
    }
    return list;
}

static int64_t trials_of(const struct experiment_config *config, double *ret_units)
{
    struct preview_row *rows = NULL;
    struct error err = {0};
    int64_t trials = 0;
    size_t n = 0;

    *ret_units = 0;
    if (searcher_preview(&config->searcher, config->space, &rows, &n, ret_units, &err))
        return config->searcher.max_trials;
    for (size_t i = 0; i < n; i++)
        trials += rows[i].trials;
    free(rows);
    return trials;
}

int verb_validate(struct cli *cli)
{
    struct checked checked;
    int code = check_file(cli, true, &checked);
    double units = 0;
    int64_t trials = code == CLI_OK ? trials_of(checked.config, &units) : 0;

    if (cli_json(cli) && (code == CLI_OK || checked.problems.n)) {
        json_t *answer = cli_json_answer();
        json_object_set_new(answer, "valid", json_boolean(code == CLI_OK));
        json_object_set_new(answer, "file", json_string(checked.file));
        if (code == CLI_OK) {
            json_object_set_new(answer, "name", json_string(checked.config->name));
            json_object_set_new(answer, "trials", json_integer(trials));
            json_object_set_new(answer, "total_units", json_real(units));
            json_object_set_new(answer, "trials_per_slot", json_integer(checked.config->trials_per_slot));
            json_object_set_new(answer, "time_metric", json_string(UNIT_NAMES[checked.config->time_metric]));
        }
        json_object_set_new(answer, "problems", problems_json(&checked.problems));
        cli_print_json(cli, answer);
    } else if (code == CLI_OK) {
        const struct experiment_config *config = checked.config;
        char *total = format_units(units), *each = format_units(config->searcher.max_units);
        printf("%s: valid: %lld trial%s, up to %s %s each", checked.file, (long long)trials, trials == 1 ? "" : "s",
               each, UNIT_NAMES[config->time_metric]);
        if (units > 0)
            printf(", %s in all", total);
        if (config->slots_per_trial != 1)
            printf(", %lld slots per trial", (long long)config->slots_per_trial);
        if (config->trials_per_slot != 1 || config->trials_per_slot_auto)
            printf(", %lld trial%s per slot%s", (long long)config->trials_per_slot, config->trials_per_slot == 1 ? "" : "s",
                   config->trials_per_slot_auto ? " (auto)" : "");
        putchar('\n');
        free(total);
        free(each);
    }
    checked_done(&checked);
    return code;
}
