/* experiments.c - the experiments that have not ended, in the order of their numbers.
 * SPDX-License-Identifier: Apache-2.0 */
#include "common/file.h"
#include "common/log.h"
#include "orchestrator/server/server_private.h"

#include <stdlib.h>

struct entry *entry_find(const struct server *server, int64_t experiment)
{
    struct entry *entry = server->entries;

    while (entry && entry->id != experiment)
        entry = entry->next;
    return entry;
}

struct entry *entry_add(struct server *server, int64_t id, int64_t created_us, struct experiment *experiment)
{
    struct entry *entry = calloc(1, sizeof *entry), **at = &server->entries;

    if (!entry)
        return NULL;
    while (*at && (*at)->id < id)
        at = &(*at)->next;
    entry->id = id;
    entry->created_us = created_us < clock_us() ? created_us : clock_us(); /* the clock was set back since */
    entry->experiment = experiment;
    entry->next = *at;
    *at = entry;
    return entry;
}

static void entry_free(struct entry *entry)
{
    experiment_free(entry->experiment);
    free(entry->delays);
    squeezes_free(entry);
    free(entry);
}

static bool has_attempts(const struct server *server, int64_t experiment)
{
    for (const struct attempt *attempt = server->attempts; attempt; attempt = attempt->next)
        if (attempt->experiment == experiment)
            return true;
    return false;
}

void entries_drop_ended(struct server *server)
{
    for (struct entry **at = &server->entries; *at;) {
        struct entry *entry = *at;
        if (!experiment_has_ended(entry->experiment) || has_attempts(server, entry->id)) {
            at = &entry->next;
            continue;
        }
        log_info("experiment %lld is %s", (long long)entry->id,
                 EXPERIMENT_STATE_NAMES[experiment_get_state(entry->experiment)]);
        *at = entry->next;
        if (experiment_get_config(entry->experiment)->on_complete)
            hook_begin(server, entry->id);
        entry_free(entry);
    }
}

void entries_free(struct server *server)
{
    while (server->entries) {
        struct entry *entry = server->entries;
        server->entries = entry->next;
        entry_free(entry);
    }
}

static int64_t next_run(void *arg)
{
    struct server *server = arg;
    int64_t run = server->reserved_run;

    server->reserved_run = 0;
    return run ? run : ++server->last_run;
}

static int64_t next_checkpoint(void *arg)
{
    struct server *server = arg;

    return ++server->last_checkpoint;
}

struct id_source server_ids(struct server *server)
{
    return (struct id_source){next_run, next_checkpoint, server};
}

/* One that cannot be restored is left as it is in the store and named in the status; the others go on. */
static void restore_one(struct server *server, const struct stored_experiment *stored)
{
    struct id_source ids = server_ids(server);
    struct experiment *experiment = NULL;
    struct error err = {0};
    struct turn turn;

    turn_init(&turn, clock_us());
    if (experiment_restore(stored, server->home, &ids, &turn, &experiment, &err)) {
        log_error("experiment %lld cannot go on and stays as it is: %s", (long long)stored->id, err.text);
        json_array_append_new(server->problems,
                              json_pack("{s:I, s:s}", "experiment", (json_int_t)stored->id, "text", err.text));
        turn_done(&turn);
        return;
    }
    if (!entry_add(server, stored->id, stored->created_us, experiment)) {
        experiment_free(experiment);
        turn_done(&turn);
        server_fail(server, -ENOMEM, "out of memory");
        return;
    }
    server_submit(server, stored->id, &turn);
}

int entries_restore(struct server *server, struct error *err)
{
    struct stored_experiment *list;
    size_t n;
    int rc = store_load(server->store, &list, &n, err);

    if (rc)
        return rc;
    for (size_t i = 0; i < n; i++)
        restore_one(server, &list[i]);
    stored_experiments_free(list, n);
    if (n)
        log_info("%zu experiment%s restored", n, n == 1 ? "" : "s");
    store_flush(server->store);
    return server->failure.code ? fail(err, server->failure.code, "%s", server->failure.text) : 0;
}
