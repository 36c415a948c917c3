/* verb_archive.c - archive, unarchive: all that are named, or none.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/cli/cli_private.h"
#include "orchestrator/cli/format.h"

#include <string.h>

static int look(struct cli *cli, const char *text, int64_t *ret, struct error *err)
{
    json_t *described = NULL;
    int code = cli_existing(cli, text, ret, &described, err);

    if (code == 0 && !state_has_ended(json_string_or(described, "state", "")))
        code = fail(err, -EBUSY, "experiment %lld is %s: it can be %sd when it has ended (`flexp cancel %lld` or"
                                 " `flexp kill %lld` ends it)", (long long)*ret, json_string_or(described, "state", ""),
                    cli->verb->name, (long long)*ret, (long long)*ret);
    json_decref(described);
    return code;
}

static int change(struct cli *cli, int64_t id, bool archive, struct error *err)
{
    json_t *answer = NULL;
    int code = cli_ask(cli, true, "archive", json_pack("{s:I, s:b}", "experiment", (json_int_t)id, "archived", archive),
                       &answer, err);

    json_decref(answer);
    if (code == 0 && !cli_json(cli) && !cli->options.given[OPT_QUIET])
        printf(archive ? "Archived experiment %lld: `flexp list --all` shows it\n" : "Experiment %lld is in the list again\n",
               (long long)id);
    return code;
}

int verb_archive(struct cli *cli)
{
    bool archive = !strcmp(cli->verb->name, "archive");
    size_t n = cli->options.arguments_n;
    json_t *ids = json_array(), *answer;
    struct error err = {0};
    int code = CLI_OK;
    int64_t id;

    for (size_t i = 0; i < n; i++)
        if (look(cli, cli->options.arguments[i], &id, &err))
            code = cli_fail_error(&err);
        else
            json_array_append_new(ids, json_integer(id));
    if (code && n > 1)
        cli_note(cli, "nothing was %sd", cli->verb->name);
    for (size_t i = 0; i < n && !code; i++)
        if (change(cli, json_integer_value(json_array_get(ids, i)), archive, &err))
            code = cli_fail_error(&err);
    if (code || !cli_json(cli)) {
        json_decref(ids);
        return code;
    }
    answer = cli_json_answer();
    json_object_set_new(answer, archive ? "archived" : "unarchived", ids);
    return cli_print_json(cli, answer);
}
