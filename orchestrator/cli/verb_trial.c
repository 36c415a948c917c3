/* verb_trial.c - trial describe and trial kill.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/cli/cli_private.h"
#include "orchestrator/cli/render.h"

static json_t *arguments(int64_t experiment, int64_t trial)
{
    return json_pack("{s:I, s:I}", "experiment", (json_int_t)experiment, "trial", (json_int_t)trial);
}

int verb_trial_describe(struct cli *cli)
{
    struct error err = {0};
    json_t *answer = NULL;
    int64_t id, trial;
    int code = cli_trial(cli, cli->options.arguments[0], &id, &trial, &err);

    if (code == 0)
        code = cli_read(cli, "trial", arguments(id, trial), &answer, &err);
    if (code)
        return cli_fail_error(&err);
    if (cli_json(cli))
        return cli_print_json(cli, answer);
    render_trial(stdout, &cli->out, answer, cli->home);
    json_decref(answer);
    return CLI_OK;
}

int verb_trial_kill(struct cli *cli)
{
    struct error err = {0};
    json_t *answer = NULL;
    int64_t id, trial;
    int code = cli_trial(cli, cli->options.arguments[0], &id, &trial, &err);

    /* An unknown trial must not start an orchestrator. */
    if (code == 0)
        code = cli_read(cli, "trial", arguments(id, trial), &answer, &err);
    json_decref(answer);
    answer = NULL;
    if (code == 0)
        code = cli_ask(cli, true, "kill_trial", arguments(id, trial), &answer, &err);
    json_decref(answer);
    if (code)
        return cli_fail_error(&err);
    if (cli_json(cli)) {
        answer = cli_json_answer();
        json_object_set_new(answer, "experiment", json_integer(id));
        json_object_set_new(answer, "trial", json_integer(trial));
        return cli_print_json(cli, answer);
    }
    if (!cli->options.given[OPT_QUIET])
        printf("Killed trial %lld/%lld; the search goes on\n", (long long)id, (long long)trial);
    return CLI_OK;
}
