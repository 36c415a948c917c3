/* verb_create.c - create: check the file, hand it to the orchestrator (started where none runs), and with -f follow.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/cli/check.h"
#include "orchestrator/cli/follow.h"
#include "orchestrator/server/server.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int hand_over(struct cli *cli, const struct checked *checked, int64_t *ret_id)
{
    bool paused = cli->options.given[OPT_PAUSED];
    struct error err = {0};
    json_t *answer = NULL, *text = json_stringn(checked->text, checked->length);
    char *folder = getcwd(NULL, 0); /* where an entrypoint is to run */
    int code;

    if (!text) { /* config_read refuses what is not UTF-8, so this is a 0 byte or no memory */
        free(folder);
        return cli_fail(CLI_USAGE, "%s cannot be stored: it is not text", checked->file);
    }
    code = cli_ask(cli, true, "create",
                   json_pack("{s:o, s:O, s:b, s:s*}", "text", text, "resolved", checked->config->resolved, "paused",
                             paused, "folder", folder), &answer, &err);
    free(folder);
    if (code == -EINVAL || code == -ENOENT || code == -EBUSY)
        return cli_fail(CLI_USAGE, "%s: %s", checked->file, err.text);
    if (code)
        return cli_fail(CLI_LOST, "%s", err.text);
    *ret_id = json_int_or(answer, "experiment", json_int_or(answer, "id", 0));
    json_decref(answer);
    return CLI_OK;
}

static void tell(struct cli *cli, const char *name, int64_t id)
{
    bool paused = cli->options.given[OPT_PAUSED], follow = cli->options.given[OPT_FOLLOW];
    char *suffix = home_suffix(cli), *clean = text_clean(name);
    const char *with = suffix ? suffix : "";
    FILE *out = cli_json(cli) ? stderr : stdout;

    if (!cli->options.given[OPT_QUIET]) {
        fprintf(out, "Created experiment %lld (%s)%s\n", (long long)id, clean ? clean : "", paused ? ", paused" : "");
        if (paused)
            fprintf(out, "  flexp activate %lld%s    start it\n", (long long)id, with);
        if (!follow && !cli_json(cli))
            fprintf(out, "  flexp wait %lld -f%s     follow it\n  flexp describe %lld%s    its best trial\n",
                    (long long)id, with, (long long)id, with);
        fflush(out);
    } else if (!cli_json(cli)) {
        fprintf(out, "%lld\n", (long long)id);
    }
    free(suffix);
    free(clean);
}

int verb_create(struct cli *cli)
{
    struct follow how = {.progress = !cli->options.given[OPT_QUIET], .outcome = true, .summary = true};
    struct checked checked;
    struct error err = {0};
    int64_t id = 0;
    int code;

    if (server_raise_descriptors(&err)) /* not the file's fault, so said before it is looked at */
        return cli_fail(CLI_LOST, "%s", err.text);
    code = check_file(cli, true, &checked);
    if (code == CLI_OK)
        code = hand_over(cli, &checked, &id);
    if (code == CLI_OK) {
        tell(cli, checked.config->name, id);
        if (cli->options.given[OPT_FOLLOW]) {
            code = follow_experiment(cli, id, &how);
        } else if (cli_json(cli)) {
            json_t *answer = cli_json_answer();
            json_object_set_new(answer, "id", json_integer(id));
            code = cli_print_json(cli, answer);
        }
    }
    checked_done(&checked);
    return code;
}
