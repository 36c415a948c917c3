/* plan.c - asks a program's `plan`, or for one evaluation, or runs a command, synchronously: a fresh process under a
 * supervisor, as for a run, and poll(2) with a deadline that starts anew with each thing a program says.
 * SPDX-License-Identifier: Apache-2.0 */
#include "common/file.h"
#include "common/protocol.h"
#include "common/version.h"
#include "orchestrator/launcher/launcher_private.h"
#include "orchestrator/launcher/supervise.h"

#include <fcntl.h>
#include <limits.h>
#include <linux/close_range.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { OUTPUT, PROTOCOL, STATUS, COMMANDS, ENDS };

struct asking {
    int ours[ENDS];
    pid_t supervisor;
    struct lines output, protocol, status;
    struct tail tail;
    const char *program;
    long long patience_ms;
};

static long long now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

static void close_end(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

/* Our ends and the supervisor's, the latter above every number that they are moved to. */
static int make_pipes(struct asking *a, int theirs[ENDS])
{
    for (int i = 0; i < ENDS; i++) {
        int pair[2];
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair))
            return -errno;
        a->ours[i] = pair[0];
        theirs[i] = fcntl(pair[1], F_DUPFD_CLOEXEC, SUPERVISE_LEASES + 4);
        close(pair[1]);
        if (theirs[i] < 0)
            return -errno;
    }
    return 0;
}

/* env: added to a worker's environment; NULL: the number of its socket. */
static int start(struct asking *a, const char *const *argv, const char *const *env, const char *cwd, struct error *err)
{
    static const int PLACES[ENDS] = {SUPERVISE_OUTPUT, SUPERVISE_PROTOCOL, SUPERVISE_STATUS, SUPERVISE_COMMANDS};
    char trainer[PATH_MAX], fd_text[32];
    const char *extra[] = {fd_text, NULL};
    int theirs[ENDS] = {-1, -1, -1, -1}, argc = 0, rc;
    char **environment = NULL, **arguments = NULL;

    while (argv && argv[argc])
        argc++;
    if (!argc && (rc = trainer_path(trainer, sizeof trainer, err)) != 0)
        return rc;
    snprintf(fd_text, sizeof fd_text, "FLEXP_FD=%d", SUPERVISE_PROTOCOL);
    environment = environment_new(env ? env : extra);
    arguments = calloc((size_t)(argc ? argc : 1) + 6, sizeof *arguments);
    rc = environment && arguments ? make_pipes(a, theirs) : -ENOMEM;
    if (rc) {
        fail(err, rc, "the program cannot be asked for its plan: %s", strerror(-rc));
        goto out;
    }
    arguments[0] = (char *)"flexp";
    arguments[1] = (char *)"supervise";
    arguments[2] = arguments[3] = (char *)"-";
    arguments[4] = (char *)(cwd ? cwd : "-");
    arguments[5] = trainer;
    for (int i = 0; i < argc; i++)
        arguments[5 + i] = (char *)argv[i];
    a->supervisor = fork();
    if (a->supervisor == 0) {
        int null = open("/dev/null", O_RDWR | O_CLOEXEC);
        setsid();
        dup2(null, 0);
        for (int i = 0; i < ENDS; i++)
            dup2(theirs[i], PLACES[i]);
        close_range(SUPERVISE_LEASES, ~0U, CLOSE_RANGE_CLOEXEC);
        execve(supervisor_path(), arguments, environment);
        _exit(127);
    }
    if (a->supervisor < 0)
        rc = fail(err, -errno, "the program cannot be asked for its plan: %s", strerror(errno));
out:
    for (int i = 0; i < ENDS; i++)
        close_end(&theirs[i]);
    environment_free(environment);
    free(arguments);
    return rc;
}

/* Reads what has come; false at the end of that pipe. */
static bool take(int *fd, struct lines *lines)
{
    char bytes[16384];
    ssize_t n = recv(*fd, bytes, sizeof bytes, MSG_DONTWAIT);

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return true;
    if (n > 0 && lines_push(lines, bytes, (size_t)n) == 0)
        return true;
    close_end(fd);
    return false;
}

static void take_output(struct asking *a)
{
    char *line;

    while ((line = lines_next(&a->output, NULL)) != NULL)
        tail_add(&a->tail, line);
}

static bool lines_waiting(int fd)
{
    struct pollfd one = {.fd = fd, .events = POLLIN};

    return fd >= 0 && poll(&one, 1, 0) > 0 && one.revents & POLLIN;
}

/* The text of a failure with the program's last lines behind it, in one line. */
static int fail_with_tail(struct asking *a, struct error *err, const char *what)
{
    char *text;
    int rc;

    take_output(a);
    text = tail_text(&a->tail, what);
    for (char *at = text; at && *at; at++)
        if ((unsigned char)*at < ' ')
            *at = *at == '\n' ? '|' : ' ';
    rc = fail(err, -EIO, "%s: %s", a->program, text ? text : what);
    free(text);
    return rc;
}

/* What the supervisor says of the end, where it has said it. */
static void describe_end(struct asking *a, char *ret, size_t room)
{
    char *line;
    size_t length;

    snprintf(ret, room, "it ended without an answer");
    while ((line = lines_next(&a->status, &length)) != NULL) {
        json_t *status;
        if (json_parse(line, length, &status, NULL))
            continue;
        if (json_object_get(status, "exec"))
            snprintf(ret, room, "it could not be started: %s", json_string_or(status, "exec", ""));
        else if (json_object_get(status, "exit"))
            snprintf(ret, room, "it ended with exit code %d and gave no answer", (int)json_int_or(status, "exit", 0));
        else if (json_object_get(status, "signal"))
            snprintf(ret, room, "it died of signal %d and gave no answer", (int)json_int_or(status, "signal", 0));
        json_decref(status);
    }
}

/* The next message of the program, heartbeats left out. */
static int next_message(struct asking *a, struct message *ret, struct error *err)
{
    long long limit = now_ms() + a->patience_ms;
    char what[800];

    for (;;) {
        size_t length;
        char *line = lines_next(&a->protocol, &length);
        long long left = limit - now_ms();
        struct pollfd fds[] = {{.fd = a->ours[PROTOCOL], .events = POLLIN},
                               {.fd = a->ours[OUTPUT], .events = POLLIN},
                               {.fd = a->ours[STATUS], .events = POLLIN}};
        if (line) {
            struct error why = {0};
            if (message_parse(line, length, true, ret, &why)) {
                snprintf(what, sizeof what, "it sent what is no message of the trial protocol: %.600s", why.text);
                return fail_with_tail(a, err, what);
            }
            if (ret->op != MSG_HEARTBEAT)
                return 0;
            message_done(ret);
            continue;
        }
        if (a->ours[STATUS] < 0) {
            describe_end(a, what, sizeof what);
            return fail_with_tail(a, err, what);
        }
        if (left <= 0) {
            snprintf(what, sizeof what, "it has said nothing for %lld s", a->patience_ms / 1000);
            return fail_with_tail(a, err, what);
        }
        if (poll(fds, 3, (int)left) <= 0)
            continue;
        if (fds[0].revents)
            take(&a->ours[PROTOCOL], &a->protocol);
        if (fds[1].revents) {
            take(&a->ours[OUTPUT], &a->output);
            take_output(a);
        }
        if (fds[2].revents)
            take(&a->ours[STATUS], &a->status);
    }
}

/* ret: of the hello, its body. */
static int hear_hello(struct asking *a, json_t **ret, struct error *err)
{
    struct message hello;
    int64_t version;
    int rc = next_message(a, &hello, err);

    if (rc)
        return rc;
    version = json_int_or(hello.body, "version", 0);
    if (hello.op != MSG_HELLO)
        rc = fail(err, -EIO, "%s: its first message must be hello, not %s", a->program, message_op_name(hello.op));
    else if (version != FLEXP_PROTOCOL_VERSION)
        rc = fail(err, -EIO, "%s: it speaks version %lld of the trial protocol, this flexp speaks %d", a->program,
                  (long long)version, FLEXP_PROTOCOL_VERSION);
    if (!rc)
        *ret = json_incref(hello.body);
    message_done(&hello);
    return rc;
}

/* Takes ownership of message. */
static int send_message(struct asking *a, json_t *message)
{
    char *line = json_line(message);
    int rc = -ENOMEM;

    json_decref(message);
    for (size_t sent = 0, n = line ? strlen(line) + 1 : 0; line && sent < n;) {
        ssize_t put;
        line[n - 1] = '\n';
        put = send(a->ours[PROTOCOL], line + sent, n - sent, MSG_NOSIGNAL);
        if (put < 0 && errno == EINTR)
            continue;
        rc = put < 0 ? -errno : 0;
        if (rc)
            break;
        sent += (size_t)put;
    }
    free(line);
    return rc;
}

static int ask_one(struct asking *a, const json_t *request, size_t id, json_t *answers, struct error *err)
{
    struct message answer;
    json_t *message;
    int rc;

    /* Where it cannot be sent the program is gone, which the wait for its answer explains. */
    message = json_copy((json_t *)request);
    json_object_set_new(message, "op", json_string("plan"));
    json_object_set_new(message, "id", json_integer((json_int_t)id));
    (void)send_message(a, message);
    for (;;) {
        rc = next_message(a, &answer, err);
        if (rc)
            return rc;
        if (answer.op == MSG_PLAN_ANSWER && json_int_or(answer.body, "id", 0) == (int64_t)id)
            break;
        message_done(&answer);
    }
    if (!json_bool_or(answer.body, "ok", true) && *json_string_or(answer.body, "text", ""))
        rc = fail(err, -EINVAL, "%s", json_string_or(answer.body, "text", ""));
    else
        rc = json_array_append(answers, answer.body) ? fail(err, -ENOMEM, "out of memory") : 0;
    message_done(&answer);
    return rc;
}

static void end_asking(struct asking *a)
{
    for (int i = 0; i < ENDS; i++)
        close_end(&a->ours[i]); /* the end of its commands: the supervisor kills all and ends */
    if (a->supervisor > 0)
        while (waitpid(a->supervisor, NULL, 0) < 0 && errno == EINTR)
            ;
    lines_done(&a->output);
    lines_done(&a->protocol);
    lines_done(&a->status);
}

/* A started program that has said hello, which the caller gets to own. end_asking() in either case. */
static int open_asking(struct asking *a, const char *const *argv, const char *cwd, json_t **ret_hello, struct error *err)
{
    const char *patience = getenv("FLEXP_HELLO_MS");
    struct timeval limit;
    int rc;

    for (int end = 0; end < ENDS; end++)
        a->ours[end] = -1;
    a->program = argv && argv[0] ? argv[0] : "flexp-trainer";
    a->patience_ms = patience && atoll(patience) > 0 ? atoll(patience) : 30000;
    rc = start(a, argv, NULL, cwd, err);
    if (rc)
        return rc;
    limit = (struct timeval){.tv_sec = a->patience_ms / 1000, .tv_usec = a->patience_ms % 1000 * 1000};
    setsockopt(a->ours[PROTOCOL], SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit); /* one that reads nothing */
    return hear_hello(a, ret_hello, err);
}

int launcher_ask_plan(const char *const *argv, const char *cwd, const json_t *requests, bool *ret_packs, json_t **ret,
                      struct error *err)
{
    struct asking *a = calloc(1, sizeof *a);
    json_t *answers = json_array(), *request, *hello = NULL;
    size_t i;
    int rc;

    if (!a || !answers) {
        free(a);
        json_decref(answers);
        return fail(err, -ENOMEM, "out of memory");
    }
    rc = open_asking(a, argv, cwd, &hello, err);
    json_array_foreach ((json_t *)requests, i, request)
        if (!rc && hello_can(hello, "plan"))
            rc = ask_one(a, request, i + 1, answers, err);
        else if (!rc)
            json_array_append_new(answers, json_null());
    if (ret_packs)
        *ret_packs = hello_can(hello, "pack");
    json_decref(hello);
    end_asking(a);
    free(a);
    if (rc) {
        json_decref(answers);
        return rc;
    }
    *ret = answers;
    return 0;
}

static int hear_evaluation(struct asking *a, json_t *metrics, struct error *err)
{
    for (;;) {
        struct message message;
        const json_t *body;
        bool done;
        int rc = next_message(a, &message, err);
        if (rc)
            return rc;
        body = message.body;
        done = message.op == MSG_DONE;
        if (message.op == MSG_FAILED)
            rc = fail(err, -EIO, "%s: %s: %s", a->program, json_string_or(body, "reason", "failed"),
                      json_string_or(body, "text", ""));
        else if (message.op == MSG_REPORT && !strcmp(json_string_or(body, "kind", ""), "test"))
            json_object_update(metrics, json_object_get(body, "metrics"));
        if (!rc && message.seq) /* our answer lies with whoever asked us: nothing is lost with it */
            (void)send_message(a, json_pack("{s:s, s:I, s:I}", "op", "ack", "run", (json_int_t)message.run, "seq",
                                            (json_int_t)message.seq));
        if (!rc && done && !json_object_size(metrics))
            rc = fail(err, -EIO, "%s: it is done without a report of kind test", a->program);
        message_done(&message);
        if (rc || done)
            return rc;
    }
}

int launcher_ask_evaluate(const char *const *argv, const char *cwd, const json_t *message, json_t **ret,
                          struct error *err)
{
    struct asking *a = calloc(1, sizeof *a);
    json_t *metrics = json_object(), *hello = NULL;
    int rc;

    if (!a || !metrics) {
        free(a);
        json_decref(metrics);
        return fail(err, -ENOMEM, "out of memory");
    }
    rc = open_asking(a, argv, cwd, &hello, err);
    if (!rc && !hello_can(hello, "evaluate"))
        rc = fail(err, -ENOTSUP, "%s cannot evaluate a checkpoint: its hello lacks the capability \"evaluate\"", a->program);
    if (!rc)
        rc = send_message(a, json_deep_copy(message));
    if (!rc)
        rc = hear_evaluation(a, metrics, err);
    json_decref(hello);
    end_asking(a);
    free(a);
    if (rc) {
        json_decref(metrics);
        return rc;
    }
    *ret = metrics;
    return 0;
}

/* --- a command ---------------------------------------------------------------------------------------------------- */

static void pass_lines(struct asking *a, void (*on_line)(void *arg, const char *line), void *arg)
{
    char *line;

    while ((line = lines_next(&a->output, NULL)) != NULL)
        on_line(arg, line);
}

/* "exit code 3" or "signal 9", from what the supervisor said; 0 for exit code 0. */
static int command_end(struct asking *a, char **ret_text)
{
    size_t length;
    char *line;
    int rc = -EIO;

    *ret_text = NULL;
    while ((line = lines_next(&a->status, &length)) != NULL) {
        json_t *status;
        if (json_parse(line, length, &status, NULL))
            continue;
        if (json_object_get(status, "exit")) {
            rc = json_int_or(status, "exit", 1) ? -EIO : 0;
            free(*ret_text);
            *ret_text = format_text("exit code %d", (int)json_int_or(status, "exit", 1));
        } else if (json_object_get(status, "signal")) {
            free(*ret_text);
            *ret_text = format_text("signal %d", (int)json_int_or(status, "signal", 0));
        }
        json_decref(status);
    }
    if (!*ret_text)
        *ret_text = strdup("it ended without a word");
    return rc;
}

#define STOP_MS 100 /* how often a command's caller may change its mind */

int launcher_run_command(const char *command, const char *const *env, const char *cwd, long long limit_ms,
                         const atomic_bool *stop, void (*on_line)(void *arg, const char *line), void *arg, char **ret_text)
{
    const char *argv[] = {"/bin/sh", "-c", command, NULL};
    struct asking *a = calloc(1, sizeof *a);
    struct error err = {0};
    long long limit = now_ms() + limit_ms;
    int rc;

    *ret_text = NULL;
    if (!a)
        return -ENOMEM;
    for (int end = 0; end < ENDS; end++)
        a->ours[end] = -1;
    rc = start(a, argv, env, cwd, &err);
    while (!rc && a->ours[STATUS] >= 0 && now_ms() < limit && !atomic_load(stop)) {
        struct pollfd fds[] = {{.fd = a->ours[OUTPUT], .events = POLLIN}, {.fd = a->ours[STATUS], .events = POLLIN}};
        if (poll(fds, 2, limit - now_ms() > STOP_MS ? STOP_MS : 1) <= 0)
            continue;
        if (fds[0].revents)
            take(&a->ours[OUTPUT], &a->output);
        if (fds[1].revents)
            take(&a->ours[STATUS], &a->status);
        pass_lines(a, on_line, arg);
    }
    if (rc) {
        *ret_text = strdup(err.text);
    } else if (a->ours[STATUS] >= 0 && atomic_load(stop)) {
        rc = -ECANCELED;
        *ret_text = strdup("killed because the orchestrator goes down");
    } else if (a->ours[STATUS] >= 0) {
        rc = -ETIMEDOUT;
        *ret_text = format_text("killed after %lld s", limit_ms / 1000);
    } else {
        while (a->ours[OUTPUT] >= 0 && take(&a->ours[OUTPUT], &a->output) && lines_waiting(a->ours[OUTPUT]))
            ;
        if (a->output.used > a->output.taken)
            lines_push(&a->output, "\n", 1);
        pass_lines(a, on_line, arg);
        rc = command_end(a, ret_text);
    }
    end_asking(a);
    free(a);
    return rc;
}
