/* ask.c - one way for verbs to ask, whoever answers; and what a word names: experiments and trials.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/cli/cli_private.h"

#include "orchestrator/cli/client.h"
#include "orchestrator/cli/home.h"

#include <stdlib.h>
#include <string.h>

#define TRIES 3
#define GONE_MS 30000 /* trials get 10 s to checkpoint */

/* Connects where not connected yet. *ret_none: nothing listens. */
static int reach(struct cli *cli, bool *ret_none, struct error *err)
{
    int code;

    *ret_none = false;
    if (cli->client)
        return 0;
    code = client_open(cli->home, false, &cli->client, err);
    *ret_none = code == -ECONNREFUSED;
    return code;
}

static void leave(struct cli *cli)
{
    client_close(cli->client);
    cli->client = NULL;
}

static void tell_waiting(struct cli *cli)
{
    char *waiting = NULL, owner[64];

    if (cli->told_waiting)
        return;
    cli->told_waiting = true;
    if (home_is_anothers(cli->home, owner, sizeof owner)) {
        cli_note(cli, "%s belongs to %s; this is what is stored", cli->home, owner);
        return;
    }
    if (start_lock_is_held(cli->home)) {
        cli_note(cli, "the orchestrator takes no connections at the moment (see `flexp status`); this is what is stored");
        return;
    }
    local_waiting(cli->home, &waiting);
    if (waiting)
        cli_note(cli, "no orchestrator is running: experiment%s %s wait%s for `flexp up`",
                 strchr(waiting, ',') ? "s" : "", waiting, strchr(waiting, ',') ? "" : "s");
    free(waiting);
}

int cli_read(struct cli *cli, const char *request, json_t *arguments, json_t **ret, struct error *err)
{
    bool none;
    int code = reach(cli, &none, err);

    if (code == 0)
        code = client_request(cli->client, request, arguments, ret, err);
    if (code == -ESHUTDOWN || code == -ECONNRESET) { /* it was just going down: what is stored can be read without it */
        leave(cli);
        none = true;
    }
    if (none) {
        code = local_request(cli->home, request, arguments, ret, err);
        if (code == 0 || code == -ENOENT)
            tell_waiting(cli);
    }
    json_decref(arguments);
    return code;
}

int cli_ask(struct cli *cli, bool start, const char *request, json_t *arguments, json_t **ret, struct error *err)
{
    bool none, started;
    int code, tries = 0;

    do {
        if (tries) { /* one that was going down: the next one does it */
            client_wait_gone(cli->client, GONE_MS);
            leave(cli);
        }
        code = reach(cli, &none, err);
        if (none && start) {
            code = start_orchestrator(cli->home, NULL, &started, err);
            if (code == 0)
                code = reach(cli, &none, err);
        }
        if (code == 0)
            code = client_request(cli->client, request, arguments, ret, err);
    } while (code == -ESHUTDOWN && start && cli->client && ++tries < TRIES);
    json_decref(arguments);
    return code;
}

static bool parse_number(const char *text, int64_t *ret)
{
    char *end;

    if (*text < '0' || *text > '9')
        return false;
    errno = 0;
    *ret = strtoll(text, &end, 10);
    return !*end && errno == 0 && *ret > 0;
}

static int by_name(struct cli *cli, const char *name, int64_t *ret, struct error *err)
{
    json_t *answer = NULL, *row;
    const char *near, **names;
    int64_t found = 0;
    size_t i, n = 0;
    int code = cli_read(cli, "list", json_pack("{s:b}", "all", 1), &answer, err);

    if (code)
        return code;
    names = calloc(json_array_size(json_object_get(answer, "experiments")) + 1, sizeof *names);
    json_array_foreach(json_object_get(answer, "experiments"), i, row) {
        const char *known = json_string_or(row, "name", "");
        int64_t id = json_int_or(row, "id", 0);
        if (names && *known)
            names[n++] = known;
        if (strcmp(known, name) != 0)
            continue;
        if (found && code == 0)
            code = fail(err, -EINVAL, "experiments %lld and %lld are both called '%s': give the number",
                        (long long)(id < found ? id : found), (long long)(id < found ? found : id), name);
        found = id;
    }
    if (code == 0 && !found) {
        near = names ? nearest_word(names, name) : NULL;
        if (near)
            code = fail(err, -ENOENT, "there is no experiment '%s': did you mean '%s'?", name, near);
        else
            code = fail(err, -ENOENT, "there is no experiment '%s'; `flexp list --all` shows them", name);
    }
    free(names);
    json_decref(answer);
    if (code == 0)
        *ret = found;
    return code;
}

static int latest(struct cli *cli, int64_t *ret, struct error *err)
{
    json_t *answer = NULL, *row;
    int64_t id = 0;
    size_t i;
    int code = cli_read(cli, "list", json_pack("{s:b}", "all", 1), &answer, err);

    if (code)
        return code;
    json_array_foreach(json_object_get(answer, "experiments"), i, row)
        if (json_int_or(row, "id", 0) > id)
            id = json_int_or(row, "id", 0);
    json_decref(answer);
    if (!id)
        return fail(err, -ENOENT, "there is no experiment in %s yet; `flexp create FILE` makes one", cli->home);
    cli_note(cli, "experiment %lld, the latest", (long long)id);
    *ret = id;
    return 0;
}

int cli_experiment(struct cli *cli, const char *text, int64_t *ret, struct error *err)
{
    if (!text)
        return latest(cli, ret, err);
    if (parse_number(text, ret))
        return 0;
    if (!*text || *text == '-' || strchr(text, '/') || strspn(text, "0123456789") == strlen(text))
        return fail(err, -EINVAL, "'%s' is no experiment: want a number such as 1, or its name", text);
    return by_name(cli, text, ret, err);
}

int cli_existing(struct cli *cli, const char *text, int64_t *ret, json_t **ret_described, struct error *err)
{
    int code = cli_experiment(cli, text, ret, err);

    cli->told_waiting = true;
    return code ? code : cli_read(cli, "describe", json_pack("{s:I}", "experiment", (json_int_t)*ret), ret_described, err);
}

int cli_trial(struct cli *cli, const char *text, int64_t *ret_experiment, int64_t *ret_trial, struct error *err)
{
    const char *slash = strrchr(text, '/');
    char *name;
    int code;

    if (!slash || slash == text || !parse_number(slash + 1, ret_trial))
        return fail(err, -EINVAL, "'%s' is no trial: want EXPERIMENT/TRIAL, as in 1/3", text);
    name = strndup(text, (size_t)(slash - text));
    code = name ? cli_experiment(cli, name, ret_experiment, err) : fail(err, -ENOMEM, "out of memory");
    free(name);
    return code;
}
