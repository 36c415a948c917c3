/* follow.h - watching an experiment until it ends: create -f, wait, logs -f. On a terminal a live screen, else a plain
 * line when something changed, at most one a second. Ctrl-C, a closed terminal or SIGTERM end the watching and nothing
 * else.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_ORCHESTRATOR_CLI_FOLLOW_H
#define FLEXP_ORCHESTRATOR_CLI_FOLLOW_H

#include "orchestrator/cli/cli_private.h"

struct follow {
    bool progress;    /* show how it goes */
    bool logs;        /* print log lines */
    int64_t trial;    /* logs: of this trial alone, which also ends the watching; 0: all */
    double timeout_s; /* 0: none */
    bool outcome;     /* exit code and a message say whether it completed */
    bool summary;     /* print the best trial (with --json: the whole of describe) at the end */
};

/* Needs a running orchestrator unless the experiment has ended. Says all there is to say; returns the exit code. */
int follow_experiment(struct cli *cli, int64_t id, const struct follow *how);

/* Log lines after row *last, printed to out; *last moves on. 0 or an error. */
int logs_print(struct cli *cli, FILE *out, int64_t id, int64_t trial, int64_t *last, struct error *err);

/* " --home DIR", quoted for a shell, where --home was given, else "". The caller frees. */
char *home_suffix(const struct cli *cli);

#endif
