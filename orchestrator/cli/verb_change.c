/* verb_change.c - pause, activate, cancel, kill: one request each, named like the verb.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/cli/cli_private.h"

#include <string.h>

static const struct {
    const char *verb, *said;
} SAID[] = {
    {"pause", "Pausing experiment %lld: its trials checkpoint at the end of their round\n"},
    {"activate", "Experiment %lld goes on\n"},
    {"cancel", "Canceling experiment %lld: its trials end with their round\n"},
    {"kill", "Killed experiment %lld\n"},
};

int verb_change(struct cli *cli)
{
    const char *name = cli->verb->name;
    struct error err = {0};
    json_t *answer = NULL;
    int64_t id;
    int code = cli_existing(cli, cli->options.arguments[0], &id, &answer, &err);

    json_decref(answer);
    answer = NULL;
    if (code == 0)
        code = cli_ask(cli, true, name, json_pack("{s:I}", "experiment", (json_int_t)id), &answer, &err);
    json_decref(answer);
    if (code)
        return cli_fail_error(&err);
    if (cli_json(cli)) {
        answer = cli_json_answer();
        json_object_set_new(answer, "id", json_integer(id));
        return cli_print_json(cli, answer);
    }
    for (size_t i = 0; i < sizeof SAID / sizeof *SAID && !cli->options.given[OPT_QUIET]; i++)
        if (!strcmp(SAID[i].verb, name))
            printf(SAID[i].said, (long long)id);
    return CLI_OK;
}
