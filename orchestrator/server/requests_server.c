/* requests_server.c - handlers that change something or ask the running orchestrator. Each makes one turn at most; its
 * answer leaves when that turn is on disk.
 * SPDX-License-Identifier: Apache-2.0 */
#include "common/failpoint.h"
#include "common/log.h"
#include "common/version.h"
#include "orchestrator/server/server_private.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int refuse_when_unable(const struct server *server, struct error *err)
{
    if (server->state == SERVER_RUNS)
        return space_refuse(server, err);
    return fail(err, -ESHUTDOWN, "the orchestrator is going down; `flexp up` starts it again");
}

/* --- create ----------------------------------------------------------------------------------------------------- */

static int check_capacity(const struct server *server, const struct experiment_config *config, struct error *err)
{
    size_t cpu = launcher_capacity(server->launcher, SLOT_KIND_CPU);
    size_t cuda = launcher_capacity(server->launcher, SLOT_KIND_CUDA);
    bool wants_cuda = config->slot_type == SLOT_CUDA || (config->slot_type == SLOT_AUTO && cuda);
    size_t capacity = wants_cuda ? cuda : cpu;

    if (config->slot_type == SLOT_CUDA && !cuda)
        return fail(err, -EINVAL,
                    "resources.slot_type: cuda, but this orchestrator has no cuda slot (it has %zu cpu slot%s)",
                    cpu, cpu == 1 ? "" : "s");
    if (!config->trials_per_slot)
        return fail(err, -EINVAL, "resources.trials_per_slot: the orchestrator wants a number; `flexp create` asks the trainer"
                                  " what auto comes to");
    if (config->slots_per_trial < 0 || (size_t)config->slots_per_trial > capacity)
        return fail(err, -EINVAL,
                    "resources.slots_per_trial: a trial wants %lld slots, but this orchestrator has %zu %s slot%s",
                    (long long)config->slots_per_trial, capacity, wants_cuda ? "cuda" : "cpu",
                    capacity == 1 ? "" : "s");
    return 0;
}

/* The resolved form, with the folder in which the caller's own program is to run. */
static json_t *with_folder(const json_t *arguments)
{
    json_t *resolved = json_deep_copy(json_object_get(arguments, "resolved"));
    const char *caller = json_string_or(arguments, "folder", "");
    const char *wanted = json_string_or(resolved, "working_directory", "");

    if (*caller != '/' || *wanted == '/' || !json_is_array(json_object_get(resolved, "entrypoint")))
        return resolved;
    json_object_set_new(resolved, "working_directory", json_sprintf("%s%s%s", caller, *wanted ? "/" : "", wanted));
    return resolved;
}

static int start_experiment(struct server *server, struct experiment_config *config, bool paused, int64_t *ret_id,
                            struct error *err)
{
    struct id_source ids = server_ids(server);
    struct experiment *experiment = NULL;
    int64_t now = clock_us(), id = server->last_experiment + 1;
    struct turn turn;
    int rc;

    turn_init(&turn, now);
    rc = experiment_new(id, config, server->home, &ids, paused, &turn, &experiment, err);
    failpoint("during_create");
    if (!rc && !entry_add(server, id, now, experiment)) {
        experiment_free(experiment);
        rc = fail(err, -ENOMEM, "out of memory");
    }
    if (rc) {
        turn_done(&turn);
        return rc;
    }
    server->last_experiment = id;
    server_submit(server, id, &turn);
    *ret_id = id;
    return 0;
}

int request_create(struct server *server, struct store *store, const json_t *arguments, json_t **ret, struct error *err)
{
    json_t *resolved = NULL;
    struct experiment_config *config = NULL;
    int64_t id;
    int rc = refuse_when_unable(server, err);

    (void)store;
    if (rc)
        return rc;
    resolved = with_folder(arguments);
    rc = config_from_resolved(resolved, &config, err);
    json_decref(resolved);
    if (rc)
        return rc;
    config->text = strdup(json_string_or(arguments, "text", ""));
    rc = check_capacity(server, config, err);
    if (rc) {
        config_free(config);
        return rc;
    }
    rc = start_experiment(server, config, json_bool_or(arguments, "paused", false), &id, err);
    if (rc)
        return rc;
    log_info("experiment %lld is created", (long long)id);
    *ret = json_pack("{s:I}", "experiment", (json_int_t)id);
    return 0;
}

/* --- verbs on one experiment ------------------------------------------------------------------------------------ */

/* Its place among those that could not be restored; their number where it is none of them. */
static size_t find_broken(const struct server *server, int64_t experiment)
{
    size_t i = 0, n = json_array_size(server->problems);

    while (i < n && json_int_or(json_array_get(server->problems, i), "experiment", 0) != experiment)
        i++;
    return i;
}

int refuse_broken(const struct server *server, int64_t experiment, struct error *err)
{
    const json_t *problem = json_array_get(server->problems, find_broken(server, experiment));

    if (!problem)
        return 0;
    return fail(err, -EBUSY, "experiment %lld cannot go on: %s. `flexp kill %lld` ends it, and then it can be deleted",
                (long long)experiment, json_string_or(problem, "text", ""), (long long)experiment);
}

/* One that has ended, or cannot be restored, can only be read. */
static int find_living(struct server *server, struct store *store, const json_t *arguments, struct entry **ret,
                       struct error *err)
{
    int64_t id = json_int_or(arguments, "experiment", 0);
    json_t *described = NULL;
    int rc = refuse_when_unable(server, err);

    if (rc)
        return rc;
    *ret = entry_find(server, id);
    if (*ret)
        return 0;
    rc = refuse_broken(server, id, err);
    if (!rc)
        rc = store_read_describe(store, id, &described, err);
    if (rc)
        return rc;
    rc = fail(err, -EBUSY, "experiment %lld is %s", (long long)id, json_string_or(described, "state", "over"));
    json_decref(described);
    return rc;
}

typedef int verb(struct experiment *experiment, struct turn *turn, struct error *err);

static int finish_verb(struct server *server, struct entry *entry, struct turn *turn, int rc, json_t **ret,
                       struct error *err)
{
    if (rc) {
        turn_done(turn);
        if (rc == -EINVAL && err) /* not in this state */
            rc = err->code = -EBUSY;
        return rc;
    }
    *ret = json_pack("{s:I, s:s}", "experiment", (json_int_t)entry->id, "state",
                     EXPERIMENT_STATE_NAMES[experiment_get_state(entry->experiment)]);
    server_submit(server, entry->id, turn);
    return 0;
}

static int run_verb(verb *change, struct server *server, struct store *store, const json_t *arguments, json_t **ret,
                    struct error *err)
{
    struct entry *entry;
    struct turn turn;
    int rc = find_living(server, store, arguments, &entry, err);

    if (rc)
        return rc;
    turn_init(&turn, clock_us());
    return finish_verb(server, entry, &turn, change(entry->experiment, &turn, err), ret, err);
}

int request_pause(struct server *server, struct store *store, const json_t *arguments, json_t **ret, struct error *err)
{
    return run_verb(experiment_pause, server, store, arguments, ret, err);
}

int request_activate(struct server *server, struct store *store, const json_t *arguments, json_t **ret,
                     struct error *err)
{
    return run_verb(experiment_activate, server, store, arguments, ret, err);
}

/* One that cannot be restored has no runs to wait for: it is ended in the store. */
static int end(verb *change, struct server *server, struct store *store, const json_t *arguments, json_t **ret,
               struct error *err)
{
    int64_t id = json_int_or(arguments, "experiment", 0);
    size_t at = find_broken(server, id);
    struct turn turn;
    int rc;

    if (at == json_array_size(server->problems))
        return run_verb(change, server, store, arguments, ret, err);
    rc = refuse_when_unable(server, err);
    if (rc)
        return rc;
    turn_init(&turn, clock_us());
    store_put_abandoned(turn.writes, id, turn.now_us);
    server_submit(server, id, &turn);
    json_array_remove(server->problems, at);
    log_info("experiment %lld, which could not be restored, is canceled", (long long)id);
    *ret = json_pack("{s:I, s:s}", "experiment", (json_int_t)id, "state", EXPERIMENT_STATE_NAMES[EXPERIMENT_CANCELED]);
    return 0;
}

int request_cancel(struct server *server, struct store *store, const json_t *arguments, json_t **ret, struct error *err)
{
    return end(experiment_cancel, server, store, arguments, ret, err);
}

int request_kill(struct server *server, struct store *store, const json_t *arguments, json_t **ret, struct error *err)
{
    return end(experiment_kill, server, store, arguments, ret, err);
}

int request_kill_trial(struct server *server, struct store *store, const json_t *arguments, json_t **ret,
                       struct error *err)
{
    struct entry *entry;
    struct turn turn;
    int rc = find_living(server, store, arguments, &entry, err);

    if (rc)
        return rc;
    turn_init(&turn, clock_us());
    rc = experiment_kill_trial(entry->experiment, json_int_or(arguments, "trial", 0), &turn, err);
    return finish_verb(server, entry, &turn, rc, ret, err);
}

/* --- about the orchestrator ------------------------------------------------------------------------------------- */

/* {experiment, trial, run}, where it has one. */
static void add_attempt(json_t *row, const struct attempt *attempt)
{
    json_object_set_new(row, "experiment", attempt ? json_integer(attempt->experiment) : json_null());
    json_object_set_new(row, "trial", attempt ? json_integer(attempt->trial) : json_null());
    json_object_set_new(row, "run", attempt ? json_integer(attempt->run) : json_null());
}

/* Of the latest sample; null before the first. */
static void add_use(json_t *row, const struct attempt *attempt)
{
    const struct usage *use = attempt && attempt->use.memory_bytes ? &attempt->use : NULL;

    json_object_set_new(row, "unit", attempt ? json_from_double(attempt->unit) : json_null());
    json_object_set_new(row, "until", attempt ? json_from_double(attempt->until) : json_null());
    json_object_set_new(row, "cpu_cores", use ? json_real(use->cpu_cores) : json_null());
    json_object_set_new(row, "memory_bytes", use ? json_integer(use->memory_bytes) : json_null());
    json_object_set_new(row, "gpu", use && use->gpu >= 0 ? json_real(use->gpu) : json_null());
    json_object_set_new(row, "gpu_memory_bytes", use && use->gpu >= 0 ? json_integer(use->gpu_memory_bytes) : json_null());
}

static json_t *run_row(const struct attempt *attempt)
{
    json_t *row = json_object();

    add_attempt(row, attempt);
    add_use(row, attempt);
    return row;
}

static json_t *list_workers(const struct server *server, json_t *pids)
{
    const struct slot_info *slots;
    json_t *rows = json_array();

    launcher_slots(server->launcher, &slots);
    for (const struct hand *hand = server->hands; hand; hand = hand->next) {
        const size_t *held;
        size_t n = worker_slots(hand->worker, &held);
        json_t *row = json_pack("{s:I, s:s, s:[]}", "pid", (json_int_t)worker_pid(hand->worker), "state",
                                hand->leaving ? "leaving" : hand_first(hand) ? "busy" : "warm", "slots");
        for (size_t i = 0; i < n; i++)
            json_array_append_new(json_object_get(row, "slots"), json_string(slots[held[i]].name));
        add_attempt(row, hand_first(hand)); /* of several the first; all are in runs */
        json_object_set_new(row, "runs", json_array());
        for (struct attempt *one = hand_first(hand); one; one = hand_next(hand, one->next))
            json_array_append_new(json_object_get(row, "runs"), run_row(one));
        json_array_append_new(rows, row);
        json_array_append_new(pids, json_integer(worker_pid(hand->worker)));
    }
    return rows;
}

static int count_states(struct store *store, json_t **ret, struct error *err)
{
    json_t *list = NULL, *row, *counts = json_object();
    size_t i;
    int rc = store_read_list(store, true, &list, err);

    json_array_foreach (json_object_get(list, "experiments"), i, row) {
        const char *state = json_string_or(row, "state", "?");
        json_object_set_new(counts, state, json_integer(json_int_or(counts, state, 0) + 1));
    }
    json_decref(list);
    if (rc)
        json_decref(counts);
    else
        *ret = counts;
    return rc;
}

int request_status(struct server *server, struct store *store, const json_t *arguments, json_t **ret, struct error *err)
{
    json_t *states = NULL, *pids, *workers;
    const struct slot_info *slots;
    size_t n, leased = 0;
    int rc = count_states(store, &states, err);

    (void)arguments;
    if (rc)
        return rc;
    n = launcher_slots(server->launcher, &slots);
    for (size_t i = 0; i < n; i++)
        leased += slots[i].ours;
    pids = json_array();
    workers = list_workers(server, pids);
    *ret = json_pack("{s:i, s:I, s:s, s:s, s:f, s:I, s:I, s:o, s:o, s:o, s:o, s:b, s:s?, s:b}", "schema_version",
                     SERVER_SCHEMA_VERSION, "pid", (json_int_t)getpid(), "home", server->home, "version", FLEXP_VERSION,
                     "uptime_s", (double)(clock_us() - server->started_us) / 1e6, "slots",
                     (json_int_t)(launcher_capacity(server->launcher, SLOT_KIND_CPU) +
                                  launcher_capacity(server->launcher, SLOT_KIND_CUDA)),
                     "slots_leased", (json_int_t)leased, "workers", workers, "worker_pids", pids, "experiments", states,
                     "problems", problems_of(server), "waiting_for_slots", *server->waiting != 0, "waiting",
                     *server->waiting ? server->waiting : NULL, "stopping",
                     server->state != SERVER_RUNS);
    return *ret ? 0 : fail(err, -ENOMEM, "out of memory");
}

/* The attempts that hold this slot, from one on. */
static struct attempt *next_on(size_t slot, struct attempt *attempt)
{
    for (; attempt; attempt = attempt->next)
        for (size_t i = 0; i < attempt->slots_n; i++)
            if (attempt->slots[i] == slot)
                return attempt;
    return NULL;
}

/* What the self-check said when the orchestrator started. */
static void add_check(const struct server *server, json_t *row, const char *uuid)
{
    static const char *const VERDICTS[] = {
        [SELF_CHECK_PASSED] = "passed", [SELF_CHECK_FULL] = "full", [SELF_CHECK_FAILED] = "failed"};
    const struct gpu_check *checks;
    size_t n = launcher_checks(server->launcher, &checks), i = 0;

    while (i < n && strcmp(checks[i].uuid, uuid))
        i++;
    json_object_set_new(row, "self_check", i < n ? json_string(VERDICTS[checks[i].verdict]) : json_null());
    json_object_set_new(row, "self_check_text", json_string(i < n ? checks[i].text : ""));
}

static json_t *gpus_json(const struct server *server)
{
    struct gpu_info *gpus;
    size_t n = gpu_list(&gpus);
    json_t *rows = json_array();

    for (size_t i = 0; i < n; i++) {
        json_t *users = json_array(), *row;
        for (size_t k = 0; k < gpus[i].processes_n; k++)
            json_array_append_new(users, json_pack("{s:i, s:o}", "pid", gpus[i].processes[k].pid, "memory_bytes",
                                                   gpus[i].processes[k].bytes < 0
                                                       ? json_null()
                                                       : json_integer(gpus[i].processes[k].bytes)));
        row = json_pack("{s:i, s:s, s:s, s:I, s:I, s:o}", "index", gpus[i].index, "uuid", gpus[i].uuid, "name", gpus[i].name,
                        "memory_bytes", (json_int_t)gpus[i].total_bytes, "memory_used_bytes",
                        (json_int_t)gpus[i].used_bytes, "used_by", users);
        add_check(server, row, gpus[i].uuid);
        json_array_append_new(rows, row);
    }
    free(gpus);
    return rows;
}

int request_slots(struct server *server, struct store *store, const json_t *arguments, json_t **ret, struct error *err)
{
    static const char *const KINDS[] = {[SLOT_KIND_CPU] = "cpu", [SLOT_KIND_CUDA] = "cuda"};
    const struct slot_info *slots;
    size_t n = launcher_slots(server->launcher, &slots);
    json_t *rows = json_array();

    (void)store, (void)arguments;
    for (size_t i = 0; i < n; i++) {
        struct attempt *attempt = next_on(i, server->attempts);
        json_t *row = json_pack("{s:s, s:s, s:i, s:s, s:b, s:s}", "name", slots[i].name, "kind", KINDS[slots[i].kind],
                                "index", slots[i].index, "state",
                                attempt              ? "busy"
                                : *slots[i].holder   ? "taken"
                                                     : "free",
                                "leased", slots[i].ours, "holder", slots[i].holder);
        add_attempt(row, attempt); /* of several the first; all are in runs */
        add_use(row, attempt);
        json_object_set_new(row, "runs", json_array());
        for (struct attempt *one = attempt; one; one = next_on(i, one->next))
            json_array_append_new(json_object_get(row, "runs"), run_row(one));
        json_array_append_new(rows, row);
    }
    *ret = json_pack("{s:i, s:I, s:o, s:o}", "schema_version", SERVER_SCHEMA_VERSION, "capacity",
                     (json_int_t)(launcher_capacity(server->launcher, SLOT_KIND_CPU) +
                                  launcher_capacity(server->launcher, SLOT_KIND_CUDA)),
                     "slots", rows, "gpus", gpus_json(server));
    return *ret ? 0 : fail(err, -ENOMEM, "out of memory");
}

int request_down(struct server *server, struct store *store, const json_t *arguments, json_t **ret, struct error *err)
{
    (void)store, (void)arguments, (void)err;
    *ret = json_pack("{s:I, s:b}", "pid", (json_int_t)getpid(), "stopping", 1);
    log_info("going down on request");
    server_stop(server);
    return 0;
}

/* --- subscribe -------------------------------------------------------------------------------------------------- */

/* As the store has it: a run whose slots already went to the next one is in it until its end is committed. */
static json_t *running_rows(const struct server *server, int64_t experiment)
{
    json_t *rows = json_array();

    for (const struct attempt *attempt = server ? server->attempts : NULL; attempt; attempt = attempt->next)
        if (attempt->experiment == experiment && attempt->phase == ATTEMPT_RUNS)
            json_array_append_new(rows, json_pack("{s:I, s:I, s:o, s:o, s:o}", "trial", (json_int_t)attempt->trial,
                                                  "run", (json_int_t)attempt->run, "unit",
                                                  json_from_double(attempt->unit), "until",
                                                  json_from_double(attempt->until), "slots",
                                                  attempt_slot_names(server, attempt)));
    return rows;
}

int request_summary(struct server *server, struct store *store, int64_t experiment, json_t **ret, struct error *err)
{
    int rc = store_read_describe(store, experiment, ret, err);

    if (rc)
        return rc;
    absolute_paths(store, *ret);
    json_object_set_new(*ret, "running", running_rows(server, experiment));
    if (server)
        json_object_set_new(*ret, "waiting", waiting_of(server, experiment));
    return 0;
}

int request_subscribe(struct server *server, struct store *store, const json_t *arguments, json_t **ret,
                      struct error *err)
{
    return request_summary(server, store, json_int_or(arguments, "experiment", 0), ret, err);
}
