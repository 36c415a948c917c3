/* check.h - an experiment file through config/ and the trainer's `plan`: what create, validate and preview share.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_ORCHESTRATOR_CLI_CHECK_H
#define FLEXP_ORCHESTRATOR_CLI_CHECK_H

#include "orchestrator/cli/cli_private.h"
#include "orchestrator/config/config.h"

struct checked {
    const char *file; /* as it is called in messages; borrowed */
    char *text;
    size_t length;
    struct experiment_config *config; /* NULL when the file has errors */
    struct config_problems problems;
};

/* Reads FILE (or standard input) with the options --config and --data, checks it, and with ask_trainer asks whether
 * every choice can be trained. Problems are printed to stderr unless --json is given. Returns CLI_OK, or the exit code
 * with everything said; the caller calls checked_done in either case. */
int check_file(struct cli *cli, bool ask_trainer, struct checked *ret);
void checked_done(struct checked *checked);

/* Adds what the trainer says about the file's configurations to problems, and puts its word in the place of
 * resources.trials_per_slot: auto. 0, or an error when it could not be asked. */
int plan_check(struct experiment_config *config, const char *home, struct config_problems *problems,
               struct error *err);

/* What the trainer knows of "model" or "data": {hyperparameters (those it was asked with: each numeric one at its lower end,
 * each choice the first), WHAT: ...}. What it refuses goes to problems. */
int plan_describe(const struct experiment_config *config, const char *home, const char *what, json_t **ret,
                  struct config_problems *problems, struct error *err);
/* check_file and plan_describe with everything said; CLI_OK and *ret, or the exit code. */
int check_describe(struct cli *cli, const char *what, json_t **ret);

/* model --kernels: the verb's exit code. */
int model_kernels(struct cli *cli);

#endif
