/* verb_down.c - down: stop the orchestrator and wait until it is gone. That none runs is no error: it is what was asked
 * for.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/cli/cli_private.h"

#include "orchestrator/cli/client.h"
#include "orchestrator/cli/home.h"

#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#define GONE_MS 30000 /* trials get 10 s to checkpoint */

static int finish(struct cli *cli, int64_t pid)
{
    json_t *answer;
    char text[32];

    if (cli_json(cli)) {
        answer = cli_json_answer();
        json_object_set_new(answer, "stopped", pid ? json_integer(pid) : json_null());
        json_object_set_new(answer, "home", json_string(cli->home));
        return cli_print_json(cli, answer);
    }
    snprintf(text, sizeof text, " (pid %lld)", (long long)pid);
    if (!cli->options.given[OPT_QUIET])
        printf(pid ? "Stopped the orchestrator%s of %s\n" : "No orchestrator%s is running for %s\n", pid ? text : "",
               cli->home);
    return CLI_OK;
}

int verb_down(struct cli *cli)
{
    struct error err = {0};
    json_t *answer = NULL;
    char owner[64];
    int64_t pid;
    int process;
    int code = client_open(cli->home, true, &cli->client, &err);

    if (code == -ECONNREFUSED && start_lock_is_held(cli->home) && home_is_anothers(cli->home, owner, sizeof owner))
        return cli_fail(CLI_LOST, "the orchestrator of %s is %s's, and answers nobody else", cli->home, owner);
    if (code == -ECONNREFUSED)
        return finish(cli, 0);
    if (code)
        return cli_fail_error(&err);
    pid = client_pid(cli->client);
    process = (int)syscall(SYS_pidfd_open, (pid_t)pid, 0);
    if (!cli->options.given[OPT_QUIET] && cli->err.tty)
        fprintf(stderr, "flexp: waiting for running trials to checkpoint\n");
    code = client_request(cli->client, "down", NULL, &answer, &err);
    json_decref(answer);
    if (code == -ESHUTDOWN) /* it is going already */
        code = 0;
    if (code == 0 && client_wait_gone(cli->client, GONE_MS))
        code = fail(&err, -ETIMEDOUT, "the orchestrator (pid %lld) has not ended within %d s", (long long)pid,
                    GONE_MS / 1000);
    if (code && code != -ECONNRESET) {
        close(process);
        return cli_fail_error(&err);
    }
    /* The connection closes a moment before the process ends: what follows this verb should find nothing of it. */
    if (process >= 0)
        poll(&(struct pollfd){.fd = process, .events = POLLIN}, 1, GONE_MS);
    close(process);
    return finish(cli, pid);
}
