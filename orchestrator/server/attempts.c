/* attempts.c - from a decision of the scheduler to the end of a run.
 * The worker comes first: it is started on its slots and says hello, and only then is the run made and stored, with pid
 * and instruction set. A worker that dies before its hello makes a run too, which ends at once and says why.
 * SPDX-License-Identifier: Apache-2.0 */
#include "common/file.h"
#include "common/log.h"
#include "orchestrator/server/server_private.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct attempt *attempt_find(const struct server *server, int64_t run)
{
    struct attempt *attempt = server->attempts;

    while (attempt && attempt->run != run)
        attempt = attempt->next;
    return run ? attempt : NULL;
}

struct attempt *attempt_of_trial(const struct server *server, int64_t experiment, int64_t trial)
{
    struct attempt *attempt = server->attempts;

    while (attempt && (attempt->experiment != experiment || attempt->trial != trial || attempt->phase == ATTEMPT_RUNS))
        attempt = attempt->next;
    return attempt;
}

const char *attempt_name(const struct attempt *attempt, char *ret, size_t room)
{
    snprintf(ret, room, "trial %lld/%lld, run %lld", (long long)attempt->experiment, (long long)attempt->trial,
             (long long)attempt->run);
    return ret;
}

json_t *attempt_slot_names(const struct server *server, const struct attempt *attempt)
{
    const struct slot_info *slots;
    json_t *names = json_array();

    launcher_slots(server->launcher, &slots);
    for (size_t i = 0; i < attempt->slots_n; i++)
        json_array_append_new(names, json_string(slots[attempt->slots[i]].name));
    return names;
}

int attempt_add(struct server *server, int64_t experiment, int64_t trial, const size_t *slots, size_t n)
{
    struct attempt *attempt = calloc(1, sizeof *attempt + n * sizeof *slots), **at = &server->attempts;
    struct entry *entry = entry_find(server, experiment);

    if (!attempt)
        return -ENOMEM;
    attempt->run = ++server->last_run; /* given out now, so that the worker can be started in the run's folder */
    attempt->experiment = experiment;
    attempt->trial = trial;
    attempt->order = ++server->orders;
    if (entry)
        entry->last_start = attempt->order;
    attempt->slots_n = n;
    memcpy(attempt->slots, slots, n * sizeof *slots);
    while (*at)
        at = &(*at)->next;
    *at = attempt;
    return 0;
}

void attempt_free(struct server *server, struct attempt *attempt)
{
    struct attempt **at = &server->attempts;

    while (*at != attempt)
        at = &(*at)->next;
    *at = attempt->next;
    if (attempt->hand && attempt->hand->attempt == attempt)
        attempt->hand->attempt = NULL;
    free(attempt->why);
    free(attempt->why_text);
    free(attempt->waits);
    free(attempt);
    server->schedule_wanted = true;
}

/* No worker could be started because the machine lacks something: tried again in a while. Said once. */
static void postpone(struct server *server, struct attempt *attempt, const char *text)
{
    char name[96];

    if (!server->scarce[0])
        log_warning("%s is put off: %s", attempt_name(attempt, name, sizeof name), text);
    snprintf(server->scarce, sizeof server->scarce, "%s", text);
    delay_add(server, attempt->experiment, attempt->trial, false);
    attempt_free(server, attempt);
}

void attempt_advance(struct server *server, struct attempt *attempt)
{
    char *program;
    struct hand *warm = NULL;
    struct error err = {0};
    bool occupied = false, exactly;

    if (attempt->phase != ATTEMPT_WAITS || server->state != SERVER_RUNS)
        return;
    program = program_of(server, attempt->experiment);
    if (!program) { /* the experiment has ended meanwhile */
        attempt_free(server, attempt);
        return;
    }
    for (struct hand *hand = server->hands; hand; hand = hand->next) {
        if (!hand_covers(hand, attempt->slots, attempt->slots_n, &exactly))
            continue;
        if (exactly && !hand->attempt && !hand->leaving && hand->greeted && !strcmp(hand->program, program)) {
            warm = hand;
        } else {
            occupied = true;
            if (!hand->attempt)
                hand_dismiss(hand);
        }
    }
    free(program);
    if (occupied)
        return;
    if (warm) {
        attempt->hand = warm;
        warm->attempt = attempt;
        attempt->phase = ATTEMPT_STARTS;
        attempt_begin(server, attempt);
        return;
    }
    attempt->phase = ATTEMPT_STARTS;
    attempt->hand = hand_start(server, attempt, &err);
    if (attempt->hand)
        server->scarce[0] = 0;
    else if (is_scarcity(err.code))
        postpone(server, attempt, err.text);
    else
        attempt_lost(server, attempt, "not_started", err.text);
}

static int make_run(struct server *server, struct attempt *attempt, struct turn *turn)
{
    struct entry *entry = entry_find(server, attempt->experiment);
    const struct hand *hand = attempt->hand;
    json_t *slots;
    int64_t run;

    if (!entry)
        return -ENOENT;
    slots = attempt_slot_names(server, attempt);
    server->reserved_run = attempt->run;
    run = experiment_start_run(entry->experiment, attempt->trial, slots, hand ? worker_pid(hand->worker) : 0,
                               hand ? hand->isa : NULL, turn);
    server->reserved_run = 0;
    json_decref(slots);
    return run < 0 ? (int)run : 0;
}

/* The trial may have been paused or killed since the decision: then its worker is free again. */
void attempt_begin(struct server *server, struct attempt *attempt)
{
    struct hand *hand = attempt->hand;
    char folder[PATH_MAX], name[96];
    struct error err = {0};
    struct turn turn;

    turn_init(&turn, clock_us());
    if (make_run(server, attempt, &turn)) {
        server_submit(server, attempt->experiment, &turn); /* where it failed over bad configuration, that is in it */
        attempt_free(server, attempt);
        hand_release(server, hand);
        return;
    }
    attempt->phase = ATTEMPT_RUNS;
    attempt->began_ms = attempt->reported_ms = hand->heard_ms = clock_ms();
    snprintf(folder, sizeof folder, "%s/experiments/%lld/trials/%lld/runs/%lld", server->home,
             (long long)attempt->experiment, (long long)attempt->trial, (long long)attempt->run);
    if (file_make_folder(folder, &err))
        log_warning("%s", err.text); /* the worker will say so too */
    else
        worker_set_folder(hand->worker, folder);
    log_info("%s begins, pid %lld", attempt_name(attempt, name, sizeof name), (long long)worker_pid(hand->worker));
    server_submit(server, attempt->experiment, &turn);
}

void attempt_lost(struct server *server, struct attempt *attempt, const char *reason, const char *text)
{
    struct entry *entry = entry_find(server, attempt->experiment);
    int64_t experiment = attempt->experiment;
    bool asked = attempt->why && !strcmp(attempt->why, "killed");
    char name[96];
    struct turn turn;
    int rc = 0;

    char *full = NULL;

    if (attempt->over) { /* it has said how its run ended, and that is in a turn: its worker may go */
        attempt_free(server, attempt);
        return;
    }
    if (attempt->why) {
        reason = attempt->why;
        text = attempt->why_text ? attempt->why_text : text;
    } else if (strcmp(reason, "out_of_memory") && space_is_short(server)) {
        full = format_text("the disk of the home was full when this happened: %s", text);
        reason = "disk_full";
        text = full ? full : text;
    }
    if (server->state >= SERVER_CLOSES || !entry || (asked && attempt->phase != ATTEMPT_RUNS)) {
        attempt_free(server, attempt);
        free(full);
        return; /* at the next start its run ends as one whose orchestrator was lost */
    }
    turn_init(&turn, clock_us());
    if (attempt->phase != ATTEMPT_RUNS)
        rc = make_run(server, attempt, &turn);
    if (!rc) {
        log_warning("%s: %s: %s", attempt_name(attempt, name, sizeof name), reason, text);
        experiment_run_ended(entry->experiment, attempt->run, reason, text, &turn);
    }
    if (!rc && !asked && !attempt->told_ms)
        delay_add(server, experiment, attempt->trial, true);
    attempt_free(server, attempt);
    server_submit(server, experiment, &turn);
    free(full);
}

void attempt_kill(struct server *server, struct attempt *attempt, const char *why, const char *text)
{
    if (attempt->freed)
        return;
    if (!attempt->why) {
        attempt->why = strdup(why);
        attempt->why_text = strdup(text);
    }
    attempt->ending = true;
    if (!attempt->hand) {
        attempt_lost(server, attempt, why, text);
        return;
    }
    attempt->hand->leaving = true;
    worker_kill(attempt->hand->worker);
}
