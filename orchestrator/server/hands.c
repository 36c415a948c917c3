/* hands.c - workers as the server sees them: what they say is checked, handed on to their run's experiment, and
 * committed.
 * SPDX-License-Identifier: Apache-2.0 */
#include "common/failpoint.h"
#include "common/file.h"
#include "common/keys.h"
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

struct attempt *hand_next(const struct hand *hand, struct attempt *from)
{
    while (from && (from->hand != hand || from->freed))
        from = from->next;
    return from;
}

struct attempt *hand_first(const struct hand *hand)
{
    return hand_next(hand, hand->server->attempts);
}

size_t hand_load(const struct hand *hand)
{
    size_t n = 0;

    for (struct attempt *one = hand_first(hand); one; one = hand_next(hand, one->next))
        n++;
    return n;
}

/* Who was there when it died stays known: that is who died together. */
void hand_note_company(struct hand *hand)
{
    size_t n = hand->leaving ? 0 : hand_load(hand);

    for (struct attempt *one = n ? hand_first(hand) : NULL; one; one = hand_next(hand, one->next)) {
        struct entry *entry = entry_find(hand->server, one->experiment);
        one->shares = n > 1;
        if (entry)
            experiment_note_company(entry->experiment, one->run, one->shares);
    }
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
    if (hand_first(hand))
        return; /* it has others, or has gone on to another already */
    hand->idle_ms = clock_ms();
    server->schedule_wanted = true;
    if (!hand->reuses || server->state != SERVER_RUNS)
        hand_dismiss(hand);
}

static void set_why(struct attempt *attempt, const char *why, const char *text)
{
    attempt->ending = true;
    if (attempt->why)
        return;
    attempt->why = strdup(why);
    attempt->why_text = strdup(text);
}

void hand_kill(struct hand *hand, struct attempt *guilty, const char *why, const char *text)
{
    char name[96], *others = guilty ? format_text("its worker was killed because of %s: %s",
                                                  attempt_name(guilty, name, sizeof name), text)
                                    : NULL;

    for (struct attempt *one = hand_first(hand); one; one = hand_next(hand, one->next))
        if (!guilty || one == guilty)
            set_why(one, why, text);
        else
            set_why(one, "preempted", others ? others : text);
    free(others);
    hand->leaving = true;
    worker_kill(hand->worker);
}

void hand_cannot_pack(const struct hand *hand, struct entry *entry)
{
    if (!entry->unpacked)
        log_warning("experiment %lld: resources.trials_per_slot is %lld, but its program carries one run at a time (the hello of"
                    " worker %lld lacks the capability \"pack\"): each trial gets its own slot", (long long)entry->id,
                    (long long)experiment_get_config(entry->experiment)->trials_per_slot,
                    (long long)worker_pid(hand->worker));
    entry->unpacked = true;
}

/* --- what they say ---------------------------------------------------------------------------------------------- */

/* It cannot be trusted any more. */
static void blame(struct hand *hand, const char *text)
{
    if (!hand_first(hand))
        log_warning("worker %lld is killed: %s", (long long)worker_pid(hand->worker), text);
    hand_kill(hand, NULL, "lost_protocol", text);
}

static struct attempt *first_to_begin(const struct hand *hand)
{
    struct attempt *one = hand_first(hand);

    while (one && one->phase != ATTEMPT_STARTS)
        one = hand_next(hand, one->next);
    return one;
}

/* All that waited for its hello; only one of them where it carries no more, the others are decided on again. */
static void begin_all(struct hand *hand)
{
    struct server *server = hand->server;
    struct attempt *attempt;
    bool begun = false;

    while ((attempt = first_to_begin(hand)) != NULL) {
        struct entry *entry = entry_find(server, attempt->experiment);
        if (!begun || hand->packs || !entry) {
            attempt_begin(server, attempt);
        } else {
            hand_cannot_pack(hand, entry);
            attempt_free(server, attempt);
        }
        begun = hand_first(hand) && hand_first(hand)->phase == ATTEMPT_RUNS;
    }
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
    hand->packs = hello_can(message->body, "pack");
    begin_all(hand);
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
        squeeze_clear(server, attempt);
    }
    subscriptions_changed(server, attempt->experiment);
}

/* Turns commit in order, so the next run's may follow this end's into the same commit: the worker gets it a commit
 * earlier. The attempt stays, without slots, for the acknowledgement. */
static void free_early(struct server *server, struct hand *hand, struct attempt *attempt)
{
    if ((!hand->reuses && hand_load(hand) == 1) || server->state != SERVER_RUNS)
        return;
    squeeze_wake(server, attempt);
    attempt->slots_n = 0;
    attempt->ending = attempt->freed = true;
    hand_note_company(hand);
    hand_release(server, hand);
    schedule(server);
}

/* Nothing of a run that was given up is kept; its last word gives its share of the worker back. */
static void on_dropped_message(struct hand *hand, struct attempt *attempt, const struct message *message)
{
    struct server *server = hand->server;

    if (message->op != MSG_DONE && message->op != MSG_FAILED)
        return;
    attempt->ack = message->seq;
    attempt_acknowledge(attempt);
    attempt_free(server, attempt);
    hand_release(server, hand);
    schedule(server);
}

static void note_failure(struct server *server, struct attempt *attempt, const struct message *message)
{
    char *reason = keys_shown_text(json_string_or(message->body, "reason", "")), name[96], meant[40];
    char *text = keys_shown_text(json_string_or(message->body, "text", ""));

    if (reason && !strcmp(reason, "memory_in_use")) {
        squeeze_note(server, attempt, text ? text : "");
    } else {
        log_warning("%s: %s: %s", attempt_name(attempt, name, sizeof name), reason ? reason : "", text ? text : "");
        if (reason && message_reason_misspelt(reason, meant, sizeof meant))
            log_warning("%s: \"%s\" is no reason of the trial protocol and is taken as error; did you mean %s?", name, reason, meant);
        delay_add(server, attempt->experiment, attempt->trial, true);
    }
    free(reason);
    free(text);
}

static struct attempt *attempt_on(const struct hand *hand, int64_t run)
{
    struct attempt *attempt = attempt_find(hand->server, run);

    return attempt && attempt->hand == hand && attempt->phase == ATTEMPT_RUNS && !attempt->over ? attempt : NULL;
}

static void on_run_message(struct hand *hand, const struct message *message)
{
    struct server *server = hand->server;
    struct attempt *attempt = attempt_on(hand, message->run);
    struct entry *entry = attempt ? entry_find(server, attempt->experiment) : NULL;
    struct error err = {0};
    struct turn turn;
    char text[sizeof err.text + 64];

    if (attempt && attempt->dropped) {
        on_dropped_message(hand, attempt, message);
        return;
    }
    if (!entry) {
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
    if (message->op == MSG_FAILED)
        note_failure(server, attempt, message);
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
    if (hand->leaving)
        return; /* it is being killed, or has nothing more to say */
    hand->heard_ms = clock_ms();
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

/* Which of several runs a line is about nobody knows: it goes into the log of each. What comes while there is none is in
 * output.log, and in the text of its end. */
static void log_output(struct hand *hand, const char *level, const char *line)
{
    for (struct attempt *one = hand_first(hand); one; one = hand_next(hand, one->next)) {
        struct entry *entry = entry_find(hand->server, one->experiment);
        struct turn turn;
        if (!entry || one->phase != ATTEMPT_RUNS || one->dropped)
            continue;
        turn_init(&turn, clock_us());
        experiment_log(entry->experiment, one->run, level, line, &turn);
        server_submit(hand->server, one->experiment, &turn);
        hand->output_credit--;
    }
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
    size_t n = hand_load(hand);
    char *shared = n > 1 ? format_text("a worker of %zu runs: %s", n, text) : NULL;
    struct attempt *attempt;

    server->schedule_wanted = true;
    while ((attempt = hand_first(hand)) != NULL) {
        attempt->hand = NULL;
        attempt_lost(server, attempt, reason, shared ? shared : text);
    }
    hand_free(server, hand);
    free(shared);
    if (server->schedule_wanted)
        schedule(server);
    server_check_stopped(server);
}

const struct launcher_events HAND_EVENTS = {on_message, on_output, on_ended};
