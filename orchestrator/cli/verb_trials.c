/* verb_trials.c - trials: the table of an experiment's trials.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/cli/cli_private.h"
#include "orchestrator/cli/render.h"

/* The table is sorted as the metric points, which the experiment knows. */
static void add_direction(struct cli *cli, int64_t id, json_t *answer)
{
    json_t *describe = NULL;

    if (json_object_get(answer, "smaller_is_better") ||
        cli_read(cli, "describe", json_pack("{s:I}", "experiment", (json_int_t)id), &describe, NULL))
        return;
    json_object_set_new(answer, "smaller_is_better", json_boolean(json_bool_or(describe, "smaller_is_better", false)));
    json_decref(describe);
}

int verb_trials(struct cli *cli)
{
    struct error err = {0};
    json_t *answer = NULL;
    int64_t id;
    int code = cli_experiment(cli, cli->options.arguments[0], &id, &err);

    if (code == 0)
        code = cli_read(cli, "trials", json_pack("{s:I}", "experiment", (json_int_t)id), &answer, &err);
    if (code)
        return cli_fail_error(&err);
    if (cli_json(cli))
        return cli_print_json(cli, answer);
    add_direction(cli, id, answer);
    render_trials(stdout, &cli->out, answer);
    json_decref(answer);
    return CLI_OK;
}
