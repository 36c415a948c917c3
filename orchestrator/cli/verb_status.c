/* verb_status.c - status: the orchestrator, or that none runs (exit code 3).
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/cli/cli_private.h"

#include "orchestrator/cli/client.h"
#include "orchestrator/cli/home.h"
#include "orchestrator/cli/format.h"

#include <stdlib.h>
#include <string.h>

static int not_running(struct cli *cli)
{
    char *waiting = NULL, owner[64];
    json_t *answer;

    if (cli_json(cli)) {
        answer = cli_json_answer();
        json_object_set_new(answer, "running", json_false());
        json_object_set_new(answer, "pid", json_null());
        json_object_set_new(answer, "home", json_string(cli->home));
        json_object_set_new(answer, "slots", json_integer(0));
        json_object_set_new(answer, "workers", json_array());
        json_object_set_new(answer, "worker_pids", json_array());
        cli_print_json(cli, answer);
        return CLI_LOST;
    }
    if (home_is_anothers(cli->home, owner, sizeof owner))
        return cli_fail(CLI_LOST, "%s belongs to %s, and an orchestrator answers its owner alone", cli->home, owner);
    if (start_lock_is_held(cli->home))
        return cli_fail(CLI_LOST, "an orchestrator holds %s/lock but takes no connections: it is starting, going down, or has"
                                  " no descriptors left; see %s/orchestrator.log", cli->home, cli->home);
    local_waiting(cli->home, &waiting);
    cli_fail(CLI_LOST, "no orchestrator is running for %s; `flexp up` starts it", cli->home);
    if (waiting)
        cli_note(cli, "experiment%s %s wait%s for it", strchr(waiting, ',') ? "s" : "", waiting,
                 strchr(waiting, ',') ? "" : "s");
    free(waiting);
    return CLI_LOST;
}

/* One without an experiment is what all wait for, which was said. */
static void problem(const json_t *row)
{
    long long experiment = json_int_or(row, "experiment", 0), trial = json_int_or(row, "trial", 0);
    char *text = text_clean(json_string_or(row, "text", "?"));

    if (trial)
        printf("trial %lld/%lld waits: %s\n", experiment, trial, text ? text : "");
    else if (experiment)
        printf("experiment %lld cannot go on: %s\n", experiment, text ? text : "");
    free(text);
}

int verb_status(struct cli *cli)
{
    const json_t *workers, *counts;
    const char *state;
    struct error err = {0};
    json_t *answer = NULL, *row;
    char *waiting;
    size_t i;
    int code = client_open(cli->home, true, &cli->client, &err);

    if (code == -ECONNREFUSED)
        return not_running(cli);
    if (code == 0)
        code = client_request(cli->client, "status", NULL, &answer, &err);
    if (code)
        return cli_fail_error(&err);
    if (cli_json(cli)) {
        if (!json_object_get(answer, "schema_version"))
            json_object_set_new(answer, "schema_version", json_integer(CLI_SCHEMA_VERSION));
        json_object_set_new(answer, "running", json_true());
        return cli_print_json(cli, answer);
    }
    workers = json_object_get(answer, "workers");
    printf("orchestrator  pid %lld, flexp %s\nhome          %s\nslots         %lld\nworkers       %zu",
           (long long)json_int_or(answer, "pid", client_pid(cli->client)), json_string_or(answer, "version", "?"),
           cli->home, (long long)json_int_or(answer, "slots", 0), json_array_size(workers));
    json_array_foreach((json_t *)workers, i, row) {
        printf("%s%lld", i ? ", " : "  pid ", (long long)json_int_or(row, "pid", 0));
        if (json_array_size(json_object_get(row, "runs")) > 1)
            printf(" (%zu runs)", json_array_size(json_object_get(row, "runs")));
    }
    putchar('\n');
    counts = json_object_get(answer, "experiments");
    if (json_object_size(counts))
        printf("experiments  ");
    json_object_foreach((json_t *)counts, state, row)
        printf(" %lld %s", (long long)json_integer_value(row), state);
    if (json_object_size(counts))
        putchar('\n');
    waiting = text_clean(json_string_or(answer, "waiting", ""));
    if (waiting && *waiting)
        printf("waiting       %s\n", waiting);
    free(waiting);
    json_array_foreach(json_object_get(answer, "problems"), i, row)
        problem(row);
    json_decref(answer);
    return CLI_OK;
}
