/* verb_up.c - up: start the orchestrator, in the background or, with --foreground, as this process. The hidden
 * --ready-fd is how start.c hears when it answers.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/cli/cli_private.h"

#include "common/file.h"
#include "common/log.h"
#include "orchestrator/cli/client.h"
#include "orchestrator/server/server.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool slots_are_right(const char *slots)
{
    char *end;
    long n;

    if (!strcmp(slots, "cpu") || !strcmp(slots, "gpu"))
        return true;
    n = strtol(slots, &end, 10);
    return *slots >= '0' && *slots <= '9' && !*end && n >= 1 && n <= 100000;
}

static int foreground(struct cli *cli, const char *slots)
{
    const char *fd_text = cli->options.value[OPT_READY_FD];
    int ready = fd_text ? (int)strtol(fd_text, NULL, 10) : -1;
    struct error err = {0};
    int code = file_make_folder(cli->home, &err);

    if (ready >= 0)
        fcntl(ready, F_SETFD, FD_CLOEXEC);
    if (code == 0)
        code = server_run(cli->home, slots, ready, &err);
    if (code == 0)
        return CLI_OK;
    if (fd_text)
        log_error("%s", err.text);
    else
        cli_fail(CLI_LOST, "%s", err.text);
    return code == -EINVAL ? CLI_USAGE : CLI_LOST;
}

/* Of GPUs that are full or no slots. */
static void say_gpus(struct cli *cli)
{
    json_t *answer = NULL, *row;
    struct error err;
    size_t i;

    if (cli_ask(cli, false, "slots", NULL, &answer, &err))
        return;
    json_array_foreach(json_object_get(answer, "gpus"), i, row)
        if (*json_string_or(row, "self_check_text", ""))
            printf("cuda:%lld: %s\n", (long long)json_int_or(row, "index", 0), json_string_or(row, "self_check_text", ""));
    json_decref(answer);
}

static int report(struct cli *cli, bool started, const char *slots)
{
    json_t *status = NULL, *answer;
    struct error err = {0};
    int code = cli_ask(cli, false, "status", NULL, &status, &err);
    int64_t pid;
    size_t have;

    if (code)
        return cli_fail_error(&err);
    pid = json_int_or(status, "pid", 0);
    have = json_is_array(json_object_get(status, "slots")) ? json_array_size(json_object_get(status, "slots"))
                                                           : (size_t)json_int_or(status, "slots", 0);
    json_decref(status);
    if (!started && slots && strtol(slots, NULL, 10) != (long)have)
        return cli_fail(CLI_USAGE, "an orchestrator (pid %lld) is running already with %zu slot%s: `flexp down`, then "
                                   "`flexp up --slots %s`", (long long)pid, have, have == 1 ? "" : "s", slots);
    if (cli_json(cli)) {
        answer = cli_json_answer();
        json_object_set_new(answer, "pid", json_integer(pid));
        json_object_set_new(answer, "home", json_string(cli->home));
        json_object_set_new(answer, "started", json_boolean(started));
        return cli_print_json(cli, answer);
    }
    if (!cli->options.given[OPT_QUIET])
        printf("%s (pid %lld, %zu slot%s, home %s)\n", started ? "Started the orchestrator" : "It is running already",
               (long long)pid, have, have == 1 ? "" : "s", cli->home);
    if (!cli->options.given[OPT_QUIET] && started)
        say_gpus(cli);
    return CLI_OK;
}

int verb_up(struct cli *cli)
{
    const char *slots = cli->options.value[OPT_SLOTS];
    struct error err = {0};
    bool started;

    if (slots && !slots_are_right(slots))
        return cli_fail(CLI_USAGE, "--slots %s: want cpu, gpu, or how many, such as 4", slots);
    if (cli->options.given[OPT_FOREGROUND])
        return foreground(cli, slots);
    if (start_orchestrator(cli->home, slots, &started, &err))
        return cli_fail(CLI_LOST, "%s", err.text);
    return report(cli, started, slots);
}
