/* requests.c - the table, and the check of arguments that stands before every handler.
 * SPDX-License-Identifier: Apache-2.0 */
#include "common/file.h"
#include "orchestrator/server/server_private.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- paths ------------------------------------------------------------------------------------------------------ */

/* The store knows files relative to the home; answers name them from the root. What the user wrote is left alone. */
static void make_absolute(const char *home, json_t *value)
{
    static const char *const USERS[] = {"config", "config_text", "hyperparameters", "best_hyperparameters", "name",
                                        "description", "labels", "text", "reason", NULL};
    const char *name, *path;
    char *whole;
    json_t *item;
    size_t i;

    if (json_is_array(value)) {
        json_array_foreach (value, i, item)
            make_absolute(home, item);
        return;
    }
    json_object_foreach (value, name, item) {
        for (i = 0; USERS[i] && strcmp(USERS[i], name); i++)
            ;
        if (USERS[i])
            continue;
        path = json_string_value(item);
        whole = path && !strncmp(path, "experiments/", 12) ? format_text("%s/%s", home, path) : NULL;
        if (whole)
            json_string_set(item, whole);
        free(whole);
        make_absolute(home, item);
    }
}

void absolute_paths(const struct store *store, json_t *answer)
{
    char home[PATH_MAX], *slash;

    if (!realpath(store_path(store), home))
        return;
    slash = strrchr(home, '/');
    if (slash)
        *slash = 0;
    make_absolute(home, answer);
}

/* --- handlers that need the store alone ------------------------------------------------------------------------- */

static int64_t experiment_of(const json_t *arguments)
{
    return json_int_or(arguments, "experiment", 0);
}

static struct trial_ref trial_of(const json_t *arguments)
{
    return (struct trial_ref){experiment_of(arguments), json_int_or(arguments, "trial", 0)};
}

static int list(struct server *server, struct store *store, const json_t *arguments, json_t **ret, struct error *err)
{
    (void)server;
    return store_read_list(store, json_bool_or(arguments, "all", false), ret, err);
}

static int describe(struct server *server, struct store *store, const json_t *arguments, json_t **ret,
                    struct error *err)
{
    return request_summary(server, store, experiment_of(arguments), ret, err);
}

static int trials(struct server *server, struct store *store, const json_t *arguments, json_t **ret, struct error *err)
{
    (void)server;
    return store_read_trials(store, experiment_of(arguments), ret, err);
}

static int trial(struct server *server, struct store *store, const json_t *arguments, json_t **ret, struct error *err)
{
    int rc = store_read_trial(store, trial_of(arguments), ret, err);

    (void)server;
    if (!rc)
        absolute_paths(store, *ret);
    return rc;
}

static int metrics(struct server *server, struct store *store, const json_t *arguments, json_t **ret,
                   struct error *err)
{
    (void)server;
    return store_read_metrics(store, trial_of(arguments), json_string_or(arguments, "name", NULL),
                              json_int_or(arguments, "client", -2), ret, err);
}

static int logs(struct server *server, struct store *store, const json_t *arguments, json_t **ret, struct error *err)
{
    int64_t limit = json_int_or(arguments, "limit", 1000);

    (void)server;
    if (limit < 1 || limit > 100000)
        return fail(err, -EINVAL, "logs: limit must be from 1 to 100000, got %lld", (long long)limit);
    return store_read_logs(store, trial_of(arguments), json_int_or(arguments, "after", 0), limit, ret, err);
}

const struct request REQUESTS[] = {
    {"list", REQUEST_READ, "all:bool?", list, "Experiments that have not ended; with all, every one"},
    {"describe", REQUEST_READ, "experiment:int", describe, "One experiment with its best trial"},
    {"trials", REQUEST_READ, "experiment:int", trials, "All trials of an experiment"},
    {"trial", REQUEST_READ, "experiment:int trial:int", trial, "One trial with its runs and checkpoints"},
    {"metrics", REQUEST_READ, "experiment:int trial:int name:string? client:int?", metrics,
     "Values over time; client -1: global ones, absent: all"},
    {"logs", REQUEST_READ, "experiment:int trial:int? after:int? limit:int?", logs, "Log lines after a row id"},
    {"create", REQUEST_SERVER, "text:string resolved:object paused:bool? folder:string?", request_create,
     "Stores and starts an experiment; folder: in which an entrypoint runs. Answers {experiment}"},
    {"pause", REQUEST_SERVER, "experiment:int", request_pause, "Checkpoints the trials and gives their slots back"},
    {"activate", REQUEST_SERVER, "experiment:int", request_activate, "Lets a paused experiment go on"},
    {"cancel", REQUEST_SERVER, "experiment:int", request_cancel, "Ends an experiment at the rounds' ends"},
    {"kill", REQUEST_SERVER, "experiment:int", request_kill, "Ends an experiment now"},
    {"kill_trial", REQUEST_SERVER, "experiment:int trial:int", request_kill_trial, "Ends one trial now"},
    {"archive", REQUEST_SERVER, "experiment:int archived:bool", request_archive,
     "Leaves one that has ended out of list, or takes it in again"},
    {"delete", REQUEST_SERVER, "experiment:int", request_delete,
     "Deletes one that has ended: at once out of every answer, then its files and rows"},
    {"set", REQUEST_SERVER, "experiment:int key:string value:string", request_set,
     "Changes resources.priority, resources.weight, resources.max_slots or description; value as in the file"},
    {"record_test", REQUEST_SERVER, "experiment:int trial:int unit:string metrics:object", request_record_test,
     "Keeps what a trial's model reached on the test split at this unit, computed on request"},
    {"status", REQUEST_SERVER, "", request_status, "Pid, home, version, slots, workers, experiments by state"},
    {"slots", REQUEST_SERVER, "", request_slots, "Every slot and what holds it"},
    {"down", REQUEST_SERVER, "", request_down,
     "Preempts all runs and ends the orchestrator; the connection closes when it is gone"},
    {"subscribe", REQUEST_SERVER, "experiment:int", request_subscribe, "The summary now and at each change"},
    {NULL, REQUEST_READ, NULL, NULL, NULL},
};

/* --- arguments -------------------------------------------------------------------------------------------------- */

static const struct argument_type {
    const char *name, *what;
    json_type type, or_type;
} TYPES[] = {
    {"int", "an integer", JSON_INTEGER, JSON_INTEGER},
    {"bool", "true or false", JSON_TRUE, JSON_FALSE},
    {"string", "a string", JSON_STRING, JSON_STRING},
    {"object", "an object", JSON_OBJECT, JSON_OBJECT},
};

struct argument {
    char name[32];
    const struct argument_type *type;
    bool optional;
};

/* The next of "experiment:int trial:int?"; false at the end. */
static bool next_argument(const char **at, struct argument *ret)
{
    char type[32];
    int n = 0;

    if (sscanf(*at, " %31[a-z_]:%31[a-z]%n", ret->name, type, &n) != 2)
        return false;
    *at += n;
    ret->optional = **at == '?';
    *at += ret->optional;
    ret->type = TYPES;
    while (strcmp(ret->type->name, type))
        ret->type++;
    return true;
}

static int check_present(const struct request *request, const json_t *arguments, struct error *err)
{
    const char *at = request->arguments;
    struct argument argument;

    while (next_argument(&at, &argument)) {
        const json_t *value = json_object_get(arguments, argument.name);
        if (!value || json_is_null(value)) {
            if (!argument.optional)
                return fail(err, -EINVAL, "%s: the argument %s (%s) is missing", request->name, argument.name,
                            argument.type->what);
            continue;
        }
        if (json_typeof(value) != argument.type->type && json_typeof(value) != argument.type->or_type)
            return fail(err, -EINVAL, "%s: the argument %s must be %s", request->name, argument.name,
                        argument.type->what);
        if ((!strcmp(argument.name, "experiment") || !strcmp(argument.name, "trial")) && json_integer_value(value) < 0)
            return fail(err, -EINVAL, "%s: the argument %s must not be negative", request->name, argument.name);
    }
    return 0;
}

static int check_unknown(const struct request *request, const json_t *arguments, struct error *err)
{
    const char *name;
    json_t *value;

    json_object_foreach ((json_t *)arguments, name, value) {
        const char *at = request->arguments;
        struct argument argument;
        bool known = false;
        while (!known && next_argument(&at, &argument))
            known = !strcmp(argument.name, name);
        if (!known)
            return fail(err, -EINVAL, "%s: no argument is called \"%.40s\"; it takes %s", request->name, name,
                        *request->arguments ? request->arguments : "none");
    }
    return 0;
}

int request_run(struct server *server, struct store *store, const char *name, const json_t *arguments, json_t **ret,
                struct error *err)
{
    const struct request *request = REQUESTS;
    int rc;

    while (request->name && strcmp(request->name, name))
        request++;
    if (!request->name)
        return fail(err, -ENOSYS, "there is no request \"%.40s\"", name);
    rc = check_present(request, arguments, err);
    if (!rc)
        rc = check_unknown(request, arguments, err);
    if (rc)
        return rc;
    if (request->need == REQUEST_SERVER && !server)
        return fail(err, -ENOTCONN, "%s needs a running orchestrator; `flexp up` starts it", name);
    return request->handle(server, store, arguments, ret, err);
}

const char *request_error_code(int code)
{
    static const struct {
        int code;
        const char *name;
    } CODES[] = {{-ENOENT, "not_found"}, {-EINVAL, "bad_input"}, {-EBUSY, "conflict"}, {-ENOSYS, "usage"},
                 {-EPROTO, "version"}, {-ESHUTDOWN, "stopping"}};

    for (size_t i = 0; i < sizeof CODES / sizeof *CODES; i++)
        if (CODES[i].code == code)
            return CODES[i].name;
    return "internal";
}
