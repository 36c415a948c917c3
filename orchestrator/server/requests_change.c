/* requests_change.c - handlers that change what is kept of an experiment: archive, delete, set, a test result.
 * SPDX-License-Identifier: Apache-2.0 */
#include "common/keys.h"
#include "common/log.h"
#include "orchestrator/server/server_private.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* -EBUSY unless it has ended, with its runs. verb: "archived". */
static int check_ended(struct server *server, struct store *store, int64_t id, const char *verb, json_t **ret,
                       struct error *err)
{
    static const char *const FINAL[] = {"completed", "canceled", "error"};
    const char *state;
    int rc = refuse_when_unable(server, err);

    if (!rc)
        rc = refuse_broken(server, id, err);
    if (!rc)
        rc = store_read_describe(store, id, ret, err);
    if (rc)
        return rc;
    state = json_string_or(*ret, "state", "");
    for (size_t i = 0; i < 3; i++)
        if (!strcmp(FINAL[i], state) && !entry_find(server, id))
            return 0;
    rc = fail(err, -EBUSY, "experiment %lld is %s: it can be %s when it has ended (`flexp cancel %lld` or `flexp kill %lld`"
                           " ends it)",
              (long long)id, state, verb, (long long)id, (long long)id);
    json_decref(*ret);
    *ret = NULL;
    return rc;
}

int request_archive(struct server *server, struct store *store, const json_t *arguments, json_t **ret, struct error *err)
{
    int64_t id = json_int_or(arguments, "experiment", 0);
    bool archived = json_bool_or(arguments, "archived", true);
    json_t *described = NULL;
    struct turn turn;
    int rc = check_ended(server, store, id, archived ? "archived" : "unarchived", &described, err);

    if (rc)
        return rc;
    json_decref(described);
    turn_init(&turn, clock_us());
    store_put_experiment_archived(turn.writes, id, archived);
    server_submit(server, id, &turn);
    *ret = json_pack("{s:I, s:b}", "experiment", (json_int_t)id, "archived", archived);
    return 0;
}

int request_delete(struct server *server, struct store *store, const json_t *arguments, json_t **ret, struct error *err)
{
    int64_t id = json_int_or(arguments, "experiment", 0), trials;
    json_t *described = NULL;
    int rc = check_ended(server, store, id, "deleted", &described, err);

    if (rc)
        return rc;
    if (!strcmp(json_string_or(json_object_get(described, "on_complete"), "state", ""), "due")) {
        json_decref(described);
        return fail(err, -EBUSY, "experiment %lld: its on_complete command is running; it can be deleted when that has ended",
                    (long long)id);
    }
    trials = json_int_or(json_object_get(described, "trials"), "total", 0);
    json_decref(described);
    rc = erase_begin(server, id, trials);
    if (rc)
        return fail(err, rc, "out of memory");
    *ret = json_pack("{s:I}", "experiment", (json_int_t)id);
    return 0;
}

/* --- set -------------------------------------------------------------------------------------------------------- */

static void first_problem(void *arg, bool warning, const char *path, const char *text)
{
    struct error *err = arg;

    if (!warning && !err->code)
        fail(err, -EINVAL, "%s %s", path, text);
}

/* The value as the file would have it, held against the table of keys. */
static int parse_value(const char *path, const char *text, json_t **ret, struct error *err)
{
    const char *name = strchr(path, '.') ? strchr(path, '.') + 1 : path;
    const struct key *key = keys_find(CONFIG_KEYS, path);
    struct error problem = {0};
    json_t *map = json_object(), *value = NULL;
    struct key table[2] = {{.name = NULL}, {.name = NULL}};

    if (!key) {
        json_decref(map);
        return fail(err, -EINVAL, "there is no key %s", path);
    }
    table[0] = *key;
    value = key->type == KEY_STRING ? json_string(text) : json_loads(text, JSON_DECODE_ANY, NULL);
    if (!value) {
        json_decref(map);
        return fail(err, -EINVAL, "%s must be %s, got %.100s", path,
                    key->type == KEY_INT ? "an integer" : "a number", text);
    }
    json_object_set_new(map, name, value);
    keys_check(table, map, name == path ? "" : "resources", false, NULL, first_problem, &problem);
    if (problem.code) {
        json_decref(map);
        return fail(err, -EINVAL, "%s", problem.text);
    }
    *ret = json_incref(json_object_get(map, name));
    json_decref(map);
    return 0;
}

/* One that has ended can get another description, and nothing else. */
static int describe_ended(struct server *server, struct store *store, int64_t id, const json_t *value, struct error *err)
{
    json_t *described = NULL, *config;
    struct turn turn;
    int rc = store_read_describe(store, id, &described, err);

    if (rc)
        return rc;
    config = json_object_get(described, "config");
    json_object_set(config, "description", (json_t *)value);
    turn_init(&turn, clock_us());
    store_put_experiment_config(turn.writes, id, config);
    server_submit(server, id, &turn);
    json_decref(described);
    return 0;
}

int request_set(struct server *server, struct store *store, const json_t *arguments, json_t **ret, struct error *err)
{
    int64_t id = json_int_or(arguments, "experiment", 0);
    const char *path = json_string_or(arguments, "key", "");
    struct entry *entry = entry_find(server, id);
    json_t *value = NULL;
    struct turn turn;
    int rc = refuse_when_unable(server, err);

    if (!rc)
        rc = parse_value(path, json_string_or(arguments, "value", ""), &value, err);
    if (rc)
        return rc;
    if (!entry && !strcmp(path, "description")) {
        rc = describe_ended(server, store, id, value, err);
    } else if (!entry) {
        rc = refuse_broken(server, id, err);
        if (!rc)
            rc = store_read_describe(store, id, ret, err);
        if (!rc)
            rc = fail(err, -EBUSY, "experiment %lld is %s: only its description can be changed", (long long)id,
                      json_string_or(*ret, "state", "over"));
        json_decref(*ret);
        *ret = NULL;
    } else {
        turn_init(&turn, clock_us());
        rc = experiment_set(entry->experiment, path, value, &turn, err);
        if (rc)
            turn_done(&turn);
        else
            server_submit(server, id, &turn);
    }
    if (!rc)
        *ret = json_pack("{s:I, s:s, s:O}", "experiment", (json_int_t)id, "key", path, "value", value);
    json_decref(value);
    return rc;
}

/* --- test results ----------------------------------------------------------------------------------------------- */

/* As text, so that it is the same number bit by bit. */
static int parse_unit(const char *text, double *ret, struct error *err)
{
    char *end;

    *ret = strtod(text, &end);
    if (end == text || *end || !isfinite(*ret) || *ret < 0)
        return fail(err, -EINVAL, "record_test: unit must be a finite number from 0, not \"%.40s\"", text);
    return 0;
}

int request_record_test(struct server *server, struct store *store, const json_t *arguments, json_t **ret,
                        struct error *err)
{
    struct trial_ref trial = {json_int_or(arguments, "experiment", 0), json_int_or(arguments, "trial", 0)};
    const json_t *metrics = json_object_get(arguments, "metrics");
    double unit = 0;
    json_t *found = NULL;
    struct turn turn;
    int rc = refuse_when_unable(server, err);

    if (!rc)
        rc = parse_unit(json_string_or(arguments, "unit", ""), &unit, err);
    if (!rc)
        rc = store_read_trial(store, trial, &found, err);
    json_decref(found);
    if (rc)
        return rc;
    turn_init(&turn, clock_us());
    store_put_test(turn.writes, trial, 0, unit, metrics, "request", turn.now_us);
    server_submit(server, trial.experiment, &turn);
    *ret = json_pack("{s:I, s:I}", "experiment", (json_int_t)trial.experiment, "trial", (json_int_t)trial.number);
    return 0;
}
