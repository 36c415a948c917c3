/* turns.c - nothing leaves before its commit: a turn goes to the store, and when it is on disk its effects are carried
 * out in order. Turns commit in the order in which they were submitted, so what one sends can rely on what an earlier
 * one stored.
 * SPDX-License-Identifier: Apache-2.0 */
#include "common/failpoint.h"
#include "common/file.h"
#include "common/log.h"
#include "orchestrator/server/server_private.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct submitted {
    struct server *server;
    int64_t experiment;
    uint64_t number;
    struct turn turn;
};

struct deletion {
    uv_work_t work;
    char *path;
    struct error err;
};

/* --- deleting, on another thread -------------------------------------------------------------------------------- */

static void do_delete(uv_work_t *work)
{
    struct deletion *deletion = work->data;

    failpoint("before_delete");
    file_remove_tree(deletion->path, &deletion->err);
    failpoint("after_delete");
}

static void on_deleted(uv_work_t *work, int status)
{
    struct deletion *deletion = work->data;

    (void)status;
    if (deletion->err.code)
        log_warning("%s", deletion->err.text);
    free(deletion->path);
    free(deletion);
}

bool may_delete(const struct server *server, const char *path)
{
    size_t home = strlen(server->home);
    bool below = !strncmp(path, server->home, home) && path[home] == '/' && path[home + 1] && !strstr(path, "/../") &&
                 (strlen(path) <= 3 || strcmp(path + strlen(path) - 3, "/.."));

    if (!below)
        log_error("refused to delete %s: it is not below %s", path, server->home);
    return below;
}

/* Where the file is now. Deleting takes time, and the trial's next run may use its name again: it is out of the way
 * before that run is told to begin. */
static char *set_aside(struct server *server, const char *path)
{
    char *folder = format_text("%s/deleted", server->home), *aside = NULL;

    if (folder && !file_make_folder(folder, NULL))
        aside = format_text("%s/%llu", folder, (unsigned long long)++server->deletions);
    free(folder);
    if (aside && !rename(path, aside))
        return aside;
    free(aside);
    return strdup(path);
}

static void start_deletion(struct server *server, const char *path)
{
    struct deletion *deletion;

    if (!may_delete(server, path))
        return;
    deletion = calloc(1, sizeof *deletion);
    if (!deletion || !(deletion->path = set_aside(server, path))) {
        free(deletion);
        return; /* the file stays; nothing depends on its absence */
    }
    deletion->work.data = deletion;
    if (uv_queue_work(&server->loop, &deletion->work, do_delete, on_deleted)) {
        free(deletion->path);
        free(deletion);
    }
}

/* --- effects ---------------------------------------------------------------------------------------------------- */

/* A commit may hold hundreds of a run's messages: one acknowledgement, of the last, says it for all. */
void attempt_acknowledge(struct attempt *attempt)
{
    json_t *message;

    if (attempt->ack && attempt->hand && !attempt->hand->leaving) {
        message = json_pack("{s:s, s:I, s:I}", "op", "ack", "run", (json_int_t)attempt->run, "seq",
                            (json_int_t)attempt->ack);
        worker_send(attempt->hand->worker, message);
        json_decref(message);
    }
    attempt->ack = 0;
}

/* A delivery may end the attempt, so it is looked up each time. */
static void send_effect(struct server *server, const struct effect *effect)
{
    struct attempt *attempt = attempt_find(server, effect->run);
    const char *op = json_string_or(effect->message, "op", "");

    if (!attempt || !attempt->hand || attempt->hand->leaving || attempt->dropped)
        return; /* it is gone: its end says the rest */
    if (!strcmp(op, "assign") || !strcmp(op, "evaluate"))
        attempt->until = json_double_or(effect->message, "train_until", 0);
    else if (!strcmp(op, "train_until"))
        attempt->until = json_double_or(effect->message, "unit", attempt->until);
    if (!strcmp(op, "preempt") || !strcmp(op, "stop")) {
        attempt->ending = true;
        if (!attempt->told_ms)
            attempt->told_ms = clock_ms();
    }
    attempt_acknowledge(attempt);
    worker_send(attempt->hand->worker, effect->message);
    if (!strcmp(op, "assign"))
        failpoint("after_assign");
}

static void carry_out(struct server *server, int64_t experiment, const struct effect *effect)
{
    struct attempt *attempt = attempt_find(server, effect->run);

    switch (effect->type) {
    case EFFECT_SEND:
        send_effect(server, effect);
        break;
    case EFFECT_ACK:
        if (attempt && effect->seq > attempt->ack)
            attempt->ack = effect->seq;
        break;
    case EFFECT_KILL:
        if (attempt)
            attempt_drop(server, attempt);
        break;
    case EFFECT_FREE_SLOTS:
        if (attempt) {
            struct hand *hand = attempt->hand;
            attempt_acknowledge(attempt);
            attempt_free(server, attempt);
            if (hand)
                hand_release(server, hand);
        }
        break;
    case EFFECT_DELETE:
        start_deletion(server, effect->path);
        break;
    case EFFECT_ERASE:
        erase_go_on(server, effect->run);
        break;
    case EFFECT_HOOK:
        hook_run(server, effect->run);
        break;
    case EFFECT_CHANGED:
        subscriptions_changed(server, experiment);
        break;
    }
}

static void on_committed(void *arg, int status)
{
    struct submitted *submitted = arg;
    struct server *server = submitted->server;

    if (status) {
        const char *text = store_failure(server->store);
        server_fail(server, status, text ? text : "the store failed");
    } else {
        failpoint("after_commit_before_effects");
        server->committed = submitted->number;
        server->schedule_wanted = true;
        for (size_t i = 0; i < submitted->turn.n; i++)
            carry_out(server, submitted->experiment, &submitted->turn.effects[i]);
    }
    turn_done(&submitted->turn);
    free(submitted);
}

void server_submit(struct server *server, int64_t experiment, struct turn *turn)
{
    struct submitted *submitted = calloc(1, sizeof *submitted);
    struct store_batch *writes = turn->writes;

    if (!submitted) {
        server_fail(server, -ENOMEM, "out of memory");
        turn_done(turn);
        return;
    }
    turn->writes = NULL;
    submitted->server = server;
    submitted->experiment = experiment;
    submitted->number = ++server->submitted;
    submitted->turn = *turn;
    *turn = (struct turn){0};
    failpoint("before_commit");
    store_submit(server->store, writes, on_committed, submitted);
}

void server_on_wake(uv_async_t *wake)
{
    struct server *server = wake->data;

    store_poll(server->store);
    for (struct attempt *attempt = server->attempts; attempt; attempt = attempt->next)
        attempt_acknowledge(attempt);
    if (server->state <= SERVER_STOPS && store_failure(server->store))
        server_fail(server, -EUCLEAN, store_failure(server->store));
    if (server->state <= SERVER_STOPS)
        space_check(server);
    answers_deliver(server);
    if (server->schedule_wanted)
        schedule(server);
    server_check_stopped(server);
}
