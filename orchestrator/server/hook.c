/* hook.c - on_complete: a command that is run when an experiment has ended. That it is due is committed with the end, that it
 * is done when it has ended; one that the orchestrator's end interrupts is run again at the next start, once.
 * Each has a thread of its own, for it may take minutes: libuv's few would be missed by what deletes files.
 * SPDX-License-Identifier: Apache-2.0 */
#include "common/file.h"
#include "common/log.h"
#include "orchestrator/server/server_private.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LINES_MAX_KEPT 1000
#define VARIABLES 10
#define TRIES 2

struct hook {
    uv_thread_t thread;
    uv_async_t ended; /* sent by the thread, last */
    struct server *server;
    int64_t experiment;
    char *command, *folder, *env[VARIABLES + 1];
    long long limit_ms;
    json_t *lines; /* of the thread while it works */
    int rc;
    char *text;
};

static void hook_free(struct hook *hook)
{
    if (!hook)
        return;
    for (size_t i = 0; i < VARIABLES; i++)
        free(hook->env[i]);
    free(hook->command);
    free(hook->folder);
    free(hook->text);
    json_decref(hook->lines);
    free(hook);
}

static void on_line(void *arg, const char *line)
{
    struct hook *hook = arg;
    json_t *text;

    if (json_array_size(hook->lines) >= LINES_MAX_KEPT)
        return;
    text = json_string(line);
    json_array_append_new(hook->lines, text ? text : json_string("(a line that is no UTF-8)"));
}

static void on_closed(uv_handle_t *handle)
{
    hook_free(handle->data);
}

static void run(void *arg)
{
    struct hook *hook = arg;

    hook->rc = launcher_run_command(hook->command, (const char *const *)hook->env, hook->folder, hook->limit_ms,
                                    &hook->server->hooks_stop, on_line, hook, &hook->text);
    uv_async_send(&hook->ended);
}

static void on_ran(uv_async_t *ended)
{
    struct hook *hook = ended->data;
    struct server *server = hook->server;
    struct turn turn;
    json_t *line;
    size_t i;

    uv_thread_join(&hook->thread);
    uv_close((uv_handle_t *)ended, on_closed);
    if (server->state != SERVER_RUNS)
        return; /* it is run again at the next start */
    log_info("experiment %lld: on_complete: %s", (long long)hook->experiment, hook->text ? hook->text : "");
    turn_init(&turn, clock_us());
    json_array_foreach (hook->lines, i, line)
        store_put_log(turn.writes, (struct trial_ref){hook->experiment, 0}, 0, "on_complete", json_string_value(line),
                      turn.now_us);
    store_put_hook(turn.writes, hook->experiment, hook->rc ? "failed" : "done", hook->text);
    server_submit(server, hook->experiment, &turn);
}

static char *variable(const char *name, const json_t *value)
{
    char *text = NULL, *entry;

    if (json_is_string(value))
        return format_text("%s=%s", name, json_string_value(value));
    if (value && !json_is_null(value))
        text = json_dumps(value, JSON_ENCODE_ANY | JSON_REAL_PRECISION(17));
    entry = format_text("%s=%s", name, text ? text : "");
    free(text);
    return entry;
}

/* The result as a file, and what is in it that a script wants at hand. */
static void fill(struct hook *hook, const json_t *described, const char *home)
{
    const struct {
        const char *name;
        const json_t *value;
    } from[] = {
        {"FLEXP_EXPERIMENT_ID", json_object_get(described, "id")},
        {"FLEXP_EXPERIMENT_NAME", json_object_get(described, "name")},
        {"FLEXP_STATE", json_object_get(described, "state")},
        {"FLEXP_METRIC", json_object_get(described, "metric")},
        {"FLEXP_BEST_TRIAL", json_object_get(described, "best_trial_id")},
        {"FLEXP_BEST_VALUE", json_object_get(json_object_get(described, "best_validation_metrics"),
                                             json_string_or(described, "metric", ""))},
        {"FLEXP_BEST_MODEL", json_object_get(described, "best_model")},
        {"FLEXP_BEST_CHECKPOINT", json_object_get(json_object_get(described, "best_checkpoint"), "path")},
    };
    char *result = format_text("%s/result.json", hook->folder);
    struct error err = {0};
    size_t n = sizeof from / sizeof *from;

    if (result && (file_make_folder(hook->folder, &err) || json_write_file(result, described, &err)))
        log_warning("experiment %lld: on_complete: %s", (long long)hook->experiment, err.text);
    for (size_t i = 0; i < n; i++)
        hook->env[i] = variable(from[i].name, from[i].value);
    hook->env[n++] = format_text("FLEXP_RESULT=%s", result ? result : "");
    hook->env[n] = format_text("FLEXP_HOME=%s", home);
    free(result);
}

void hook_run(struct server *server, int64_t experiment)
{
    struct hook *hook;
    json_t *described = NULL;
    struct error err = {0};
    const char *command;

    if (server->state != SERVER_RUNS)
        return; /* it is run at the next start */
    hook = calloc(1, sizeof *hook);
    if (!hook || request_summary(server, server->store, experiment, &described, &err)) {
        log_warning("experiment %lld: on_complete cannot be run: %s", (long long)experiment, err.text);
        free(hook);
        return;
    }
    command = json_string_or(json_object_get(described, "config"), "on_complete", "true");
    hook->ended.data = hook;
    hook->server = server;
    hook->experiment = experiment;
    hook->limit_ms = (long long)server->limits.hook;
    hook->lines = json_array();
    hook->command = strdup(command);
    hook->folder = format_text("%s/experiments/%lld", server->home, (long long)experiment);
    if (hook->folder)
        fill(hook, described, server->home);
    json_decref(described);
    if (!hook->command || !hook->folder || uv_async_init(&server->loop, &hook->ended, on_ran))
        hook_free(hook);
    else if (uv_thread_create(&hook->thread, run, hook))
        uv_close((uv_handle_t *)&hook->ended, on_closed);
}

void hook_begin(struct server *server, int64_t experiment)
{
    struct turn turn;

    turn_init(&turn, clock_us());
    turn_add_hook(&turn, experiment);
    server_submit(server, experiment, &turn);
}

/* A command that ends the orchestrator, or always outlives it, must not do so at every start. */
static void give_up(struct server *server, int64_t experiment)
{
    static const char TEXT[] = "given up: the orchestrator ended twice before the command did";
    struct turn turn;

    log_warning("experiment %lld: on_complete: %s", (long long)experiment, TEXT);
    turn_init(&turn, clock_us());
    store_put_hook(turn.writes, experiment, "failed", TEXT);
    server_submit(server, experiment, &turn);
}

static void begin_again(struct server *server, int64_t experiment)
{
    struct turn turn;

    turn_init(&turn, clock_us());
    store_put_hook(turn.writes, experiment, "due", NULL);
    turn_add_hook(&turn, experiment);
    server_submit(server, experiment, &turn);
}

int hooks_restore(struct server *server, struct error *err)
{
    json_t *list = NULL, *row;
    size_t i;
    int rc = store_read_hooks(server->store, &list, err);

    json_array_foreach (list, i, row) {
        int64_t experiment = json_integer_value(json_array_get(row, 0));
        if (entry_find(server, experiment))
            continue; /* its end was found only now, and its command begins when it is dropped */
        if (json_integer_value(json_array_get(row, 1)) >= TRIES)
            give_up(server, experiment);
        else
            begin_again(server, experiment);
    }
    json_decref(list);
    return rc;
}
