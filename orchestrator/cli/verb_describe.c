/* verb_describe.c - describe: an experiment with its best trial.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/cli/follow.h"
#include "orchestrator/cli/render.h"

#include <stdlib.h>

int verb_describe(struct cli *cli)
{
    struct error err = {0};
    json_t *answer = NULL;
    char *suffix;
    int64_t id;
    int code = cli_experiment(cli, cli->options.arguments[0], &id, &err);

    if (code == 0)
        code = cli_read(cli, "describe", json_pack("{s:I}", "experiment", (json_int_t)id), &answer, &err);
    if (code)
        return cli_fail_error(&err);
    if (cli_json(cli))
        return cli_print_json(cli, answer);
    suffix = home_suffix(cli);
    render_describe(stdout, &cli->out, answer, cli->home, suffix ? suffix : "");
    free(suffix);
    json_decref(answer);
    return CLI_OK;
}
