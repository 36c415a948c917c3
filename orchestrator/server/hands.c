/* hands.c - workers as the server sees them: what they say is checked, handed on to their run's experiment, and
 * committed.
 * SPDX-License-Identifier: Apache-2.0 */
#include "common/failpoint.h"
#include "common/file.h"
#include "common/log.h"
#include "common/version.h"
#include "orchestrator/server/server_private.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Lines that a worker may print at once, and each second, before the rest is only in output.log. */
#define OUTPUT_BURST 2000
#define OUTPUT_RATE 100

/* --- which program ---------------------------------------------------------------------------------------------- */

/* Equal for equal programs; NULL when the experiment is gone. The caller frees. */
char *program_of(const struct server *server, int64_t experiment)
{
    struct entry *entry = entry_find(server, experiment);
    const struct experiment_config *config = entry ? experiment_get_config(entry->experiment) : NULL;
    char *text, *all;

    if (!config)
        return NULL;
    if (!config->entrypoint)
        return strdup("");
    text = json_canonical(config->entrypoint);
    all = format_text("%s %s", json_string_or(config->resolved, "working_directory", ""), text ? text : "");
    free(text);
    return all;
}

/* NULL for the built-in trainer; borrowed words in a list that the caller frees. */
static const char **make_argv(const json_t *entrypoint)
{
    size_t n = json_array_size(entrypoint);
    const char **argv = n ? calloc(n + 1, sizeof *argv) : NULL;

    for (size_t i = 0; argv && i < n; i++)
        argv[i] = json_string_value(json_array_get(entrypoint, i));
    return argv;
}

struct hand *hand_start(struct server *server, struct attempt *attempt, struct error *err)
{
    struct entry *entry = entry_find(server, attempt->experiment);
    const struct experiment_config *config = experiment_get_config(entry->experiment);
    struct hand *hand = calloc(1, sizeof *hand);
    const char **argv = make_argv(config->entrypoint);
    char folder[PATH_MAX];
    int rc;

    snprintf(folder, sizeof folder, "%s/experiments/%lld/trials/%lld/runs/%lld", server->home,
             (long long)attempt->experiment, (long long)attempt->trial, (long long)attempt->run);
    rc = hand ? file_make_folder(folder, err) : fail(err, -ENOMEM, "out of memory");
    if (!rc && !(hand->program = program_of(server, attempt->experiment)))
        rc = fail(err, -ENOMEM, "out of memory");
    if (!rc)
        rc = launcher_start(server->launcher, attempt->slots, attempt->slots_n, argv, NULL, folder,
                            config->entrypoint ? json_string_or(config->resolved, "working_directory", NULL) : NULL,
                            hand, &hand->worker, err);
    free(argv);
    if (rc) {
        if (hand)
            free(hand->program);
        free(hand);
        return NULL;
    }
    hand->server = server;
    hand->attempt = attempt;
    hand->started_ms = hand->heard_ms = hand->output_ms = clock_ms();
    hand->output_credit = OUTPUT_BURST;
    hand->next = server->hands;
    server->hands = hand;
    return hand;
}

void hand_free(struct server *server, struct hand *hand)
{
    struct hand **at = &server->hands;

    while (*at != hand)
        at = &(*at)->next;
    *at = hand->next;
    for (struct attempt *attempt = server->attempts; attempt; attempt = attempt->next)
        if (attempt->hand == hand)
            attempt->hand = NULL;
    free(hand->program);
    free(hand->isa);
    free(hand);
}

bool hand_covers(const struct hand *hand, const size_t *slots, size_t n, bool *ret_exactly)
{
    const size_t *held;
    size_t held_n = worker_slots(hand->worker, &held), common = 0;

    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < held_n; j++)
            common += slots[i] == held[j];
    *ret_exactly = common == n && n == held_n;
    return common > 0;
}

void hand_dismiss(struct hand *hand)
{
    if (hand->leaving)
        return;
    hand->leaving = true;
    worker_dismiss(hand->worker);
}

void hand_release(struct server *server, struct hand *hand)
{
    if (hand->attempt)
        return; /* it has gone on to another already */
    hand->idle_ms = clock_ms();
    server->schedule_wanted = true;
    if (!hand->reuses || server->state != SERVER_RUNS)
        hand_dismiss(hand);
}

/* --- what they say ---------------------------------------------------------------------------------------------- */

/* It cannot be trusted any more. */
static void blame(struct hand *hand, const char *text)
{
    if (hand->attempt) {
        attempt_kill(hand->server, hand->attempt, "lost_protocol", text);
        return;
    }
    log_warning("worker %lld is killed: %s", (long long)worker_pid(hand->worker), text);
    hand->leaving = true;
    worker_kill(hand->worker);
}

static void on_hello(struct hand *hand, const struct message *message)
{
    int64_t version = json_int_or(message->body, "version", 0);
    char text[200];

    if (hand->greeted) {
        blame(hand, "it said hello twice");
        return;
    }
    if (version != FLEXP_PROTOCOL_VERSION) {
        snprintf(text, sizeof text, "it speaks version %lld of the trial protocol, this flexp speaks %d",
                 (long long)version, FLEXP_PROTOCOL_VERSION);
        blame(hand, text);
        return;
    }
    hand->greeted = true;
    hand->isa = json_object_get(message->body, "isa") ? strdup(json_string_or(message->body, "isa", "")) : NULL;
    hand->reuses = hello_can(message->body, "reuse");
    if (hand->attempt)
        attempt_begin(hand->server, hand->attempt);
}

static void release_stranger(struct hand *hand, int64_t run)
{
    json_t *message = json_pack("{s:s, s:I}", "op", "release", "run", (json_int_t)run);

    worker_send(hand->worker, message);
    json_decref(message);
}

/* What a person sees of a run that is under way; and how long its rounds are. */
static void note_progress(struct server *server, struct attempt *attempt, const struct experiment *experiment,
                          const struct message *message)
{
    const char *unit = UNIT_NAMES[experiment_get_config(experiment)->time_metric];
    const json_t *steps = json_object_get(message->body, "steps");
    const json_t *step = json_array_size(steps) ? json_array_get(steps, json_array_size(steps) - 1) : message->body;
    uint64_t now = clock_ms();

    attempt->unit = json_double_or(json_object_get(step, "units"), unit, attempt->unit);
    if (message->op == MSG_REPORT) {
        if (now - attempt->reported_ms > attempt->longest_ms)
            attempt->longest_ms = now - attempt->reported_ms;
        attempt->reported_ms = now;
        delay_remove(server, attempt->experiment, attempt->trial);
    }
    subscriptions_changed(server, attempt->experiment);
}

/* Turns commit in order, so the next run's may follow this end's into the same commit: the worker gets it a commit
 * earlier. The attempt stays, without slots, for the acknowledgement. */
static void free_early(struct server *server, struct hand *hand, struct attempt *attempt)
{
    if (!hand->reuses || server->state != SERVER_RUNS)
        return;
    attempt->slots_n = 0;
    attempt->ending = attempt->freed = true;
    hand->attempt = NULL;
    hand_release(server, hand);
    schedule(server);
}

static void on_run_message(struct hand *hand, const struct message *message)
{
    struct server *server = hand->server;
    struct attempt *attempt = hand->attempt;
    struct entry *entry = attempt ? entry_find(server, attempt->experiment) : NULL;
    struct error err = {0};
    struct turn turn;
    char text[sizeof err.text + 64], name[96];

    if (!entry || attempt->run != message->run || attempt->phase != ATTEMPT_RUNS || attempt->over) {
        release_stranger(hand, message->run);
        return;
    }
    turn_init(&turn, clock_us());
    if (experiment_message(entry->experiment, message, &turn, &err)) {
        turn_done(&turn);
        snprintf(text, sizeof text, "it sent what makes no sense: %s", err.text);
        blame(hand, text);
        return;
    }
    note_progress(server, attempt, entry->experiment, message);
    if (message->op == MSG_LOG)
        attempt_note_waits(attempt, message->body);
    attempt->over = message->op == MSG_DONE || message->op == MSG_FAILED;
    if (message->op == MSG_FAILED) {
        log_warning("%s: %s: %s", attempt_name(attempt, name, sizeof name), json_string_or(message->body, "reason", ""),
                    json_string_or(message->body, "text", ""));
        delay_add(server, attempt->experiment, attempt->trial, true);
    }
    if (message->op == MSG_REPORT && !strcmp(json_string_or(message->body, "kind", ""), "validation"))
        failpoint("in_journal");
    if (attempt->over)
        usage_end(server, attempt, clock_ms());
    if (message->op == MSG_DONE) {
        store_hold(server->store);
        server_submit(server, attempt->experiment, &turn);
        free_early(server, hand, attempt);
        store_go(server->store);
    } else if (turn.n || !store_batch_is_empty(turn.writes)) {
        server_submit(server, attempt->experiment, &turn);
    } else {
        turn_done(&turn);
    }
}

static void on_message(void *arg, struct worker *worker, char *line, size_t length)
{
    struct hand *hand = worker_data(worker);
    struct message message;
    struct error err = {0};
    char text[sizeof err.text + 64];

    (void)arg;
    if (hand->leaving && !hand->attempt)
        return;
    hand->heard_ms = clock_ms();
    if (hand->attempt && hand->attempt->why)
        return; /* it is being killed */
    if (message_parse(line, length, true, &message, &err)) {
        snprintf(text, sizeof text, "it sent what is no message: %s", err.text);
        blame(hand, text);
        return;
    }
    if (message.op == MSG_HELLO)
        on_hello(hand, &message);
    else if (!hand->greeted)
        blame(hand, "its first message must be hello");
    else if (message.op != MSG_HEARTBEAT && message.op != MSG_PLAN_ANSWER)
        on_run_message(hand, &message);
    message_done(&message);
}

/* --- what they print -------------------------------------------------------------------------------------------- */

static void log_output(struct hand *hand, const char *level, const char *line)
{
    struct attempt *attempt = hand->attempt;
    struct entry *entry = attempt ? entry_find(hand->server, attempt->experiment) : NULL;
    struct turn turn;

    if (!entry || attempt->phase != ATTEMPT_RUNS)
        return; /* it is in output.log, and in the text of its end */
    turn_init(&turn, clock_us());
    experiment_log(entry->experiment, attempt->run, level, line, &turn);
    server_submit(hand->server, attempt->experiment, &turn);
}

/* A program that prints for ever must not fill the store: after a burst, so many lines a second. */
static void on_output(void *arg, struct worker *worker, const char *line)
{
    struct hand *hand = worker_data(worker);
    uint64_t now = clock_ms(), earned = (now - hand->output_ms) * OUTPUT_RATE / 1000;
    char text[100];

    (void)arg;
    if (earned) {
        hand->output_ms = now;
        hand->output_credit += (int64_t)earned;
        if (hand->output_credit > OUTPUT_BURST)
            hand->output_credit = OUTPUT_BURST;
    }
    if (hand->output_credit <= 0) {
        hand->output_dropped++;
        return;
    }
    hand->output_credit--;
    if (hand->output_dropped) {
        snprintf(text, sizeof text, "(%lld lines left out here; output.log has them)", (long long)hand->output_dropped);
        hand->output_dropped = 0;
        log_output(hand, "warning", text);
    }
    log_output(hand, "output", line);
}

static void on_ended(void *arg, struct worker *worker, const char *reason, const char *text)
{
    struct server *server = arg;
    struct hand *hand = worker_data(worker);
    struct attempt *attempt = hand->attempt;

    hand_free(server, hand);
    server->schedule_wanted = true;
    if (attempt) {
        attempt->hand = NULL;
        attempt_lost(server, attempt, reason, text);
    }
    if (server->schedule_wanted)
        schedule(server);
    server_check_stopped(server);
}

const struct launcher_events HAND_EVENTS = {on_message, on_output, on_ended};
