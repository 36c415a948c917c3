/* verb_list.c - list: the table of experiments.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/cli/cli_private.h"
#include "orchestrator/cli/render.h"

int verb_list(struct cli *cli)
{
    bool all = cli->options.given[OPT_ALL];
    struct error err = {0};
    json_t *answer = NULL;

    if (cli_read(cli, "list", json_pack("{s:b}", "all", all), &answer, &err))
        return cli_fail_error(&err);
    if (cli_json(cli))
        return cli_print_json(cli, answer);
    render_list(stdout, &cli->out, answer, all);
    json_decref(answer);
    return CLI_OK;
}
