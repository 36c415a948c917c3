/* client.c - see client.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/cli/client.h"

#include "common/lines.h"
#include "common/version.h"
#include "orchestrator/server/server.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define ANSWER_MS 60000   /* what a busy orchestrator is given */
#define GREETING_MS 15000

struct client {
    int fd;
    int64_t pid, last_id;
    struct lines lines;
    json_t *events; /* a list: those that came while an answer was awaited */
};

static int64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static int gone(struct error *err)
{
    return fail(err, -ECONNRESET, "lost the orchestrator: it was stopped or has died. What it acknowledged is stored; "
                                  "`flexp up` goes on from there");
}

/* Waits for one line: 1 and *ret (a new reference), 0 at the deadline, or an error. */
static int next_line(struct client *client, int64_t deadline, json_t **ret, struct error *err)
{
    char bytes[16384];
    size_t length;
    char *line;
    int code;

    for (;;) {
        struct pollfd wait = {.fd = client->fd, .events = POLLIN};
        int64_t left;
        ssize_t n;
        line = client->lines.bytes ? lines_next(&client->lines, &length) : NULL;
        if (line) {
            code = json_parse(line, length, ret, err);
            return code ? fail_prefix(err, "the orchestrator's answer makes no sense") : 1;
        }
        left = deadline - now_ms();
        code = poll(&wait, 1, left < 0 ? 0 : (int)left);
        if (code == 0)
            return 0;
        if (code < 0 && errno != EINTR)
            return fail(err, -errno, "waiting for the orchestrator: %s", strerror(errno));
        if (code < 0)
            continue;
        n = recv(client->fd, bytes, sizeof bytes, MSG_DONTWAIT);
        if (n < 0 && (errno == EINTR || errno == EAGAIN))
            continue;
        if (n <= 0)
            return gone(err);
        if (lines_push(&client->lines, bytes, (size_t)n))
            return fail(err, -EPROTO, "the orchestrator's answer is too long");
    }
}

static int send_all(struct client *client, const char *text, struct error *err)
{
    size_t left = strlen(text);
    int64_t deadline = now_ms() + ANSWER_MS;

    while (left) {
        struct pollfd wait = {.fd = client->fd, .events = POLLOUT};
        ssize_t n = send(client->fd, text, left, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n >= 0) {
            text += n;
            left -= (size_t)n;
        } else if (errno == EAGAIN) {
            if (now_ms() > deadline)
                return fail(err, -ETIMEDOUT, "the orchestrator (pid %lld) takes no requests", (long long)client->pid);
            poll(&wait, 1, 1000);
        } else if (errno != EINTR) {
            return gone(err);
        }
    }
    return 0;
}

static int none_runs(const char *home, struct error *err)
{
    return fail(err, -ECONNREFUSED, "no orchestrator is running for %s; `flexp up` starts it", home);
}

static int greet(struct client *client, const char *home, bool any_version, struct error *err)
{
    json_t *hello = NULL;
    const char *version, *lock;
    int code = next_line(client, now_ms() + GREETING_MS, &hello, err);

    if (code == 0)
        return fail(err, -ETIMEDOUT, "the orchestrator of %s does not answer (is it stopped by a signal?)", home);
    if (code < 0)
        return code;
    client->pid = json_int_or(hello, "pid", 0);
    version = json_string_or(hello, "flexp", "");
    lock = json_string_or(hello, "lock", NULL);
    code = 0;
    if (lock && !server_serves(home, lock)) /* this home's lock file is a copy of the other's, which it serves */
        code = none_runs(home, err);
    else if (!any_version && strcmp(version, FLEXP_VERSION) != 0)
        code = fail(err, -EPROTO, "the orchestrator (pid %lld) is flexp %s and this program is flexp " FLEXP_VERSION
                                  ": `flexp down`, then `flexp up`, and it goes on with this version",
                    (long long)client->pid, *version ? version : "of an unknown version");
    json_decref(hello);
    return code;
}

int client_open(const char *home, bool any_version, struct client **ret, struct error *err)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct client *client;
    int code = server_socket_path(home, address.sun_path, sizeof address.sun_path, err);

    if (code)
        return code;
    client = calloc(1, sizeof *client);
    if (!client)
        return fail(err, -ENOMEM, "out of memory");
    lines_init(&client->lines);
    client->events = json_array();
    client->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (client->fd < 0 || connect(client->fd, (struct sockaddr *)&address, sizeof address)) {
        if (errno == ECONNREFUSED || errno == ENOENT || errno == ENOTDIR)
            code = none_runs(home, err);
        else
            code = fail(err, -errno, "cannot reach the orchestrator at %s: %s", address.sun_path, strerror(errno));
    } else {
        code = greet(client, home, any_version, err);
        if (code == -ECONNRESET) /* it was just going down */
            code = none_runs(home, err);
    }
    if (code) {
        client_close(client);
        return code;
    }
    *ret = client;
    return 0;
}

void client_close(struct client *client)
{
    if (!client)
        return;
    if (client->fd >= 0)
        close(client->fd);
    lines_done(&client->lines);
    json_decref(client->events);
    free(client);
}

int64_t client_pid(const struct client *client)
{
    return client->pid;
}

int client_fd(const struct client *client)
{
    return client->fd;
}

static int server_error(const json_t *line, struct error *err)
{
    static const struct {
        const char *name;
        int code;
    } CODES[] = {{"usage", -EINVAL}, {"bad_input", -EINVAL}, {"not_found", -ENOENT}, {"conflict", -EBUSY},
                 {"version", -EPROTO}, {"stopping", -ESHUTDOWN}};
    const json_t *error = json_object_get(line, "error");
    const char *name = json_string_or(error, "code", "internal");

    for (size_t i = 0; i < sizeof CODES / sizeof *CODES; i++)
        if (!strcmp(CODES[i].name, name))
            return fail(err, CODES[i].code, "%s", json_string_or(error, "text", "the orchestrator refused"));
    return fail(err, -EIO, "%s", json_string_or(error, "text", "the orchestrator failed"));
}

int client_request(struct client *client, const char *name, const json_t *arguments, json_t **ret, struct error *err)
{
    json_t *message = json_pack("{s:I, s:s}", "id", (json_int_t)++client->last_id, "request", name), *line = NULL;
    char *text = NULL, *both;
    int64_t deadline;
    int code;

    if (message)
        json_object_set_new(message, "arguments", arguments ? json_deep_copy(arguments) : json_object());
    text = message ? json_line(message) : NULL;
    json_decref(message);
    both = text ? realloc(text, strlen(text) + 2) : NULL;
    if (!both) {
        free(text);
        return fail(err, -ENOMEM, "out of memory");
    }
    strcat(both, "\n");
    code = send_all(client, both, err);
    free(both);
    deadline = now_ms() + ANSWER_MS;
    while (code == 0) {
        code = next_line(client, deadline, &line, err);
        if (code == 0)
            return fail(err, -ETIMEDOUT, "the orchestrator (pid %lld) has not answered `%s` within %d s",
                        (long long)client->pid, name, ANSWER_MS / 1000);
        if (code < 0)
            return code;
        code = 0;
        if (json_object_get(line, "closing")) {
            code = fail(err, -ESHUTDOWN, "the orchestrator is going down; `flexp up` starts it again");
        } else if (json_object_get(line, "event")) {
            json_array_append(client->events, json_object_get(line, "event"));
        } else if (json_is_false(json_object_get(line, "ok"))) {
            code = server_error(line, err);
        } else if (json_int_or(line, "id", 0) == client->last_id) {
            *ret = json_incref(json_object_get(line, "answer"));
            if (!*ret)
                *ret = json_object();
            json_decref(line);
            return 0;
        }
        json_decref(line);
    }
    return code;
}

int client_event(struct client *client, int timeout_ms, json_t **ret, struct error *err)
{
    int64_t deadline = now_ms() + timeout_ms;
    json_t *line = NULL;
    int code;

    if (json_array_size(client->events)) {
        *ret = json_incref(json_array_get(client->events, 0));
        json_array_remove(client->events, 0);
        return 1;
    }
    while ((code = next_line(client, deadline, &line, err)) > 0) {
        json_t *event = json_incref(json_object_get(line, "event"));
        json_decref(line);
        if (event) {
            *ret = event;
            return 1;
        }
    }
    return code;
}

int client_wait_gone(struct client *client, int timeout_ms)
{
    int64_t deadline = now_ms() + timeout_ms;
    json_t *line = NULL;
    int code;

    while ((code = next_line(client, deadline, &line, NULL)) > 0)
        json_decref(line);
    return code == 0 ? -ETIMEDOUT : 0;
}
