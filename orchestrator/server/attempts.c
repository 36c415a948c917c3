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

int attempt_add(struct server *server, const struct sched_start *start, const size_t *slots)
{
    struct attempt *attempt = calloc(1, sizeof *attempt + start->slots * sizeof *slots), **at = &server->attempts;
    struct entry *entry = entry_find(server, start->experiment);

    if (!attempt)
        return -ENOMEM;
    attempt->run = ++server->last_run; /* given out now, so that the worker can be started in the run's folder */
    attempt->experiment = start->experiment;
    attempt->trial = start->trial;
    attempt->alone = start->alone;
    attempt->order = ++server->orders;
    if (entry)
        entry->last_start = attempt->order;
    attempt->slots_n = start->slots;
    memcpy(attempt->slots, slots, start->slots * sizeof *slots);
    while (*at)
        at = &(*at)->next;
    *at = attempt;
    return 0;
}

void attempt_free(struct server *server, struct attempt *attempt)
{
    struct attempt **at = &server->attempts;
    struct hand *hand = attempt->hand;

    while (*at != attempt)
        at = &(*at)->next;
    *at = attempt->next;
    if (hand && !attempt->freed)
        hand_note_company(hand);
    squeeze_wake(server, attempt);
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

/* What stands on its slots is right for it: a warm worker, or one that carries others of its experiment and may carry more. */
static bool may_join(const struct hand *hand, const struct attempt *attempt, const char *program)
{
    const struct attempt *first = hand_first(hand);

    if (hand->leaving || strcmp(hand->program, program))
        return false;
    return first ? first->experiment == attempt->experiment && (!hand->greeted || hand->packs) : hand->greeted;
}

/* It was to share the slot of a worker that turned out to carry one run at a time. */
static bool shares_in_vain(const struct hand *hand, const struct attempt *attempt)
{
    const struct attempt *first = hand_first(hand);

    return first && first->experiment == attempt->experiment && first->phase == ATTEMPT_RUNS && !first->ending &&
           hand->greeted && !hand->packs && !hand->leaving;
}

static void join(struct server *server, struct attempt *attempt, struct hand *hand)
{
    attempt->hand = hand;
    attempt->phase = ATTEMPT_STARTS;
    hand_note_company(hand);
    if (hand->greeted)
        attempt_begin(server, attempt);
}

/* Looks at what stands on its slots: *ret_right may carry it. False where it is gone: it could not be had as was decided. */
static bool look_around(struct server *server, struct attempt *attempt, const char *program, struct hand **ret_right,
                        bool *ret_occupied)
{
    bool exactly;

    for (struct hand *hand = server->hands; hand; hand = hand->next) {
        if (!hand_covers(hand, attempt->slots, attempt->slots_n, &exactly))
            continue;
        if (exactly && may_join(hand, attempt, program)) {
            *ret_right = hand;
            continue;
        }
        if (shares_in_vain(hand, attempt)) {
            hand_cannot_pack(hand, entry_find(server, attempt->experiment));
            attempt_free(server, attempt);
            return false;
        }
        *ret_occupied = true;
        if (!hand_first(hand))
            hand_dismiss(hand);
    }
    return true;
}

void attempt_advance(struct server *server, struct attempt *attempt)
{
    char *program;
    struct hand *right = NULL;
    struct error err = {0};
    bool occupied = false, stays;

    if (attempt->phase != ATTEMPT_WAITS || server->state != SERVER_RUNS)
        return;
    program = program_of(server, attempt->experiment);
    if (!program) { /* the experiment has ended meanwhile */
        attempt_free(server, attempt);
        return;
    }
    stays = look_around(server, attempt, program, &right, &occupied);
    free(program);
    if (!stays || occupied)
        return;
    if (right) {
        join(server, attempt, right);
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
    hand_note_company(hand);
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
    bool asked = attempt->why && (!strcmp(attempt->why, "killed") || !strcmp(attempt->why, "preempted"));
    char name[96];
    struct turn turn;
    int rc = 0;

    char *full = NULL;

    if (attempt->over || attempt->dropped) { /* how its run ended is in a turn: its worker may go */
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
        experiment_note_company(entry->experiment, attempt->run, attempt->shares);
        log_warning("%s: %s: %s", attempt_name(attempt, name, sizeof name), reason, text);
        experiment_run_ended(entry->experiment, attempt->run, reason, text, &turn);
    }
    if (!rc && !asked && !attempt->told_ms)
        delay_add(server, experiment, attempt->trial, true);
    attempt_free(server, attempt);
    server_submit(server, experiment, &turn);
    free(full);
}

void attempt_cancel(struct server *server, struct attempt *attempt)
{
    attempt->ending = true;
    if (attempt->hand && hand_load(attempt->hand) == 1)
        hand_kill(attempt->hand, attempt, "killed", "preempted before it began");
    else
        attempt_free(server, attempt);
}

/* Some other run on its worker goes on. */
static bool is_needed(const struct attempt *attempt)
{
    for (struct attempt *one = hand_first(attempt->hand); one; one = hand_next(attempt->hand, one->next))
        if (!one->dropped && !one->over)
            return true;
    return false;
}

void attempt_drop(struct server *server, struct attempt *attempt)
{
    json_t *message;

    if (attempt->freed)
        return;
    attempt->dropped = attempt->ending = true;
    if (!attempt->hand) {
        attempt_free(server, attempt);
        return;
    }
    if (attempt->hand->leaving)
        return;
    if (!is_needed(attempt)) {
        hand_kill(attempt->hand, NULL, "killed", "killed on request");
        return;
    }
    if (!attempt->told_ms)
        attempt->told_ms = clock_ms();
    message = json_pack("{s:s, s:I}", "op", "stop", "run", (json_int_t)attempt->run);
    worker_send(attempt->hand->worker, message);
    json_decref(message);
}
