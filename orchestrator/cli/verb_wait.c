/* verb_wait.c - wait: until an experiment ends; with -f the live screen.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/cli/follow.h"

#include <math.h>
#include <stdlib.h>

int verb_wait(struct cli *cli)
{
    const struct options *options = &cli->options;
    struct follow how = {.progress = options->given[OPT_FOLLOW] && !options->given[OPT_QUIET], .outcome = true,
                         .summary = options->given[OPT_FOLLOW] || cli_json(cli)};
    struct error err = {0};
    int64_t id;

    if (options->given[OPT_TIMEOUT]) {
        char *end;
        how.timeout_s = strtod(options->value[OPT_TIMEOUT], &end);
        if (*end || end == options->value[OPT_TIMEOUT] || !isfinite(how.timeout_s) || how.timeout_s <= 0)
            return cli_fail(CLI_USAGE, "--timeout %s: want seconds above 0, as in --timeout 3600",
                            options->value[OPT_TIMEOUT]);
    }
    if (cli_experiment(cli, options->arguments[0], &id, &err))
        return cli_fail_error(&err);
    return follow_experiment(cli, id, &how);
}
