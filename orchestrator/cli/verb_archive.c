/* verb_archive.c - archive, unarchive.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/cli/cli_private.h"

#include <string.h>

static int one(struct cli *cli, const char *text, bool archive, int64_t *ret, struct error *err)
{
    json_t *answer = NULL;
    int code = cli_existing(cli, text, ret, &answer, err);

    json_decref(answer);
    answer = NULL;
    if (code == 0)
        code = cli_ask(cli, true, "archive", json_pack("{s:I, s:b}", "experiment", (json_int_t)*ret, "archived", archive),
                       &answer, err);
    json_decref(answer);
    return code;
}

int verb_archive(struct cli *cli)
{
    bool archive = !strcmp(cli->verb->name, "archive");
    json_t *done = json_array(), *answer;
    struct error err = {0};
    int code = CLI_OK;

    for (size_t i = 0; i < cli->options.arguments_n; i++) {
        int64_t id = 0;
        if (one(cli, cli->options.arguments[i], archive, &id, &err)) {
            code = cli_fail_error(&err); /* the others are done all the same */
            continue;
        }
        json_array_append_new(done, json_integer(id));
        if (!cli_json(cli) && !cli->options.given[OPT_QUIET])
            printf(archive ? "Archived experiment %lld: `flexp list --all` shows it\n" : "Experiment %lld is in the list again\n",
                   (long long)id);
    }
    if (!cli_json(cli)) {
        json_decref(done);
        return code;
    }
    answer = cli_json_answer();
    json_object_set_new(answer, archive ? "archived" : "unarchived", done);
    cli_print_json(cli, answer);
    return code;
}
