/* verb_set.c - set priority, weight, max-slots, description.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/cli/cli_private.h"

#include <string.h>

static const struct {
    const char *verb, *key;
} KEYS[] = {
    {"set priority", "resources.priority"},
    {"set weight", "resources.weight"},
    {"set max-slots", "resources.max_slots"},
    {"set description", "description"},
};

int verb_set(struct cli *cli)
{
    const char *value = cli->options.arguments[1], *key = NULL;
    struct error err = {0};
    json_t *answer = NULL;
    int64_t id;
    int code = cli_existing(cli, cli->options.arguments[0], &id, &answer, &err);

    json_decref(answer);
    answer = NULL;
    for (size_t i = 0; i < sizeof KEYS / sizeof *KEYS; i++)
        if (!strcmp(KEYS[i].verb, cli->verb->name))
            key = KEYS[i].key;
    if (code == 0)
        code = cli_ask(cli, true, "set", json_pack("{s:I, s:s, s:s}", "experiment", (json_int_t)id, "key", key, "value",
                                                   value),
                       &answer, &err);
    if (code)
        return cli_fail_error(&err);
    if (cli_json(cli)) {
        json_object_set_new(answer, "schema_version", json_integer(CLI_SCHEMA_VERSION));
        return cli_print_json(cli, answer);
    }
    json_decref(answer);
    if (!cli->options.given[OPT_QUIET])
        printf("Experiment %lld: %s is %s\n", (long long)id, key, value);
    return CLI_OK;
}
