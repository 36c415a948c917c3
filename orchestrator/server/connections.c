/* connections.c - clients on the Unix socket. Each line is one request; its answer leaves when what it changed is on
 * disk. A client that does not read is not read from either, and past a bound it is let go; one that breaks off in the
 * middle of a line, or leaves before its answer, does no harm.
 * SPDX-License-Identifier: Apache-2.0 */
#include "common/file.h"
#include "common/log.h"
#include "common/version.h"
#include "orchestrator/server/server_private.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define THROTTLE_BYTES (1u << 20)  /* waiting to be read: no more requests are taken */
#define QUEUE_BYTES_MAX (64u << 20) /* waiting to be read: the client is let go */
#define REQUEST_BYTES_MAX (8u << 20)

struct sending {
    uv_write_t request;
    char *text;
};

static void take_requests(struct connection *connection);

/* --- the end ---------------------------------------------------------------------------------------------------- */

static void free_if_done(struct connection *connection)
{
    if (!connection->closed || connection->waiting)
        return;
    lines_done(&connection->lines);
    free(connection);
}

static void on_closed(uv_handle_t *handle)
{
    struct connection *connection = handle->data, **at = &connection->server->connections;

    while (*at != connection)
        at = &(*at)->next;
    *at = connection->next;
    connection->server->connections_n--;
    connection->closed = true;
    free_if_done(connection);
}

static void close_connection(struct connection *connection)
{
    if (connection->closing)
        return;
    connection->closing = true;
    subscriptions_free(connection);
    uv_close((uv_handle_t *)&connection->pipe, on_closed);
}

/* --- sending ---------------------------------------------------------------------------------------------------- */

static size_t queued(const struct connection *connection)
{
    return uv_stream_get_write_queue_size((const uv_stream_t *)&connection->pipe);
}

bool connection_is_slow(const struct connection *connection)
{
    return queued(connection) > 0;
}

static void on_sent(uv_write_t *request, int status)
{
    struct sending *sending = (struct sending *)(void *)request; /* its first member */
    struct connection *connection = request->handle->data;

    free(sending->text);
    free(sending);
    if (connection->closing)
        return;
    if (status) {
        close_connection(connection);
        return;
    }
    if (!queued(connection))
        subscriptions_retry(connection);
    if (connection->throttled && queued(connection) < THROTTLE_BYTES)
        take_requests(connection);
}

static void send_text(struct connection *connection, char *text)
{
    struct sending *sending = text ? calloc(1, sizeof *sending) : NULL;
    uv_buf_t buffer;

    if (!sending || connection->closing) {
        free(sending);
        free(text);
        return;
    }
    sending->text = text;
    buffer = uv_buf_init(text, (unsigned)strlen(text));
    if (uv_write(&sending->request, (uv_stream_t *)&connection->pipe, &buffer, 1, on_sent)) {
        free(sending);
        free(text);
        close_connection(connection);
        return;
    }
    if (queued(connection) > QUEUE_BYTES_MAX) {
        log_warning("a client does not read its answers and is let go");
        close_connection(connection);
    }
}

void connection_send(struct connection *connection, json_t *line)
{
    char *text = line ? json_line(line) : NULL;

    json_decref(line);
    send_text(connection, text ? format_text("%s\n", text) : NULL);
    free(text);
}

static json_t *error_line(int64_t id, const struct error *err)
{
    return json_pack("{s:I, s:b, s:{s:s, s:s}}", "id", (json_int_t)id, "ok", 0, "error", "code",
                     request_error_code(err->code), "text", err->text);
}

static json_t *answer_line(int64_t id, json_t *answer)
{
    return json_pack("{s:I, s:b, s:o}", "id", (json_int_t)id, "ok", 1, "answer", answer);
}

/* --- answers that wait for a commit ----------------------------------------------------------------------------- */

static void answer_after_commit(struct connection *connection, int64_t id, json_t *line)
{
    struct server *server = connection->server;
    struct answer *answer = calloc(1, sizeof *answer);

    if (!answer) {
        json_decref(line);
        close_connection(connection);
        return;
    }
    answer->turn = server->submitted;
    answer->connection = connection;
    answer->id = id;
    answer->line = line;
    connection->waiting++;
    *server->answers_end = answer;
    server->answers_end = &answer->next;
    answers_deliver(server);
}

static json_t *no_space_line(const struct server *server, int64_t id)
{
    struct error err = {0};

    fail(&err, -ENOSPC, "no space is left on the disk of %s: what you asked for is not stored yet; it is carried out as "
                        "soon as there is space, unless the orchestrator ends before", server->home);
    return error_line(id, &err);
}

void answers_deliver(struct server *server)
{
    while (server->answers &&
           (server->answers->turn <= server->committed || server->failure.code || server->no_space)) {
        struct answer *answer = server->answers;
        struct connection *connection = answer->connection;
        server->answers = answer->next;
        if (!server->answers)
            server->answers_end = &server->answers;
        if (answer->turn > server->committed) {
            json_decref(answer->line);
            answer->line = server->failure.code ? error_line(answer->id, &server->failure)
                                                : no_space_line(server, answer->id);
        }
        connection->waiting--;
        if (connection->closing)
            json_decref(answer->line);
        else
            connection_send(connection, answer->line);
        free_if_done(connection);
        free(answer);
    }
}

/* --- requests --------------------------------------------------------------------------------------------------- */

/* An orchestrator of another version can be asked how it is and be told to go. */
static int check_version(const json_t *request, const char *name, struct error *err)
{
    const char *version = json_string_or(request, "flexp", FLEXP_VERSION);

    if (!strcmp(version, FLEXP_VERSION) || !strcmp(name, "status") || !strcmp(name, "down"))
        return 0;
    return fail(err, -EPROTO, "this orchestrator is flexp %s, the request of flexp %s: `flexp down`, then `flexp up`",
                FLEXP_VERSION, version);
}

static int check_request(const json_t *request, const char **ret_name, const json_t **ret_arguments, struct error *err)
{
    const char *name = json_string_value(json_object_get(request, "request"));

    *ret_arguments = json_object_get(request, "arguments");
    if (!name)
        return fail(err, -EINVAL, "a request is an object, as {\"id\": 1, \"request\": \"list\", \"arguments\": {}}");
    if (*ret_arguments && !json_is_object(*ret_arguments))
        return fail(err, -EINVAL, "%s: arguments must be an object", name);
    *ret_name = name;
    return check_version(request, name, err);
}

static void handle(struct connection *connection, const json_t *request)
{
    struct server *server = connection->server;
    int64_t id = json_int_or(request, "id", 0);
    uint64_t before = server->submitted;
    const json_t *arguments = NULL;
    const char *name = NULL;
    struct error err = {0};
    json_t *answer = NULL;
    int rc = check_request(request, &name, &arguments, &err);

    if (!rc && strcmp(name, "down") != 0)
        rc = server_check_home(server, &err);
    if (!rc)
        rc = request_run(server, server->store, name, arguments, &answer, &err);
    if (rc) {
        if (!err.code)
            fail(&err, rc, "%s: %s", name ? name : "request", strerror(-rc));
        connection_send(connection, error_line(id, &err));
        return;
    }
    if (server->submitted != before && server->state == SERVER_RUNS) /* `down` is heard at once */
        answer_after_commit(connection, id, answer_line(id, answer));
    else
        connection_send(connection, answer_line(id, answer));
    if (!strcmp(name, "subscribe") && !connection->closing)
        subscription_add(connection, id, json_int_or(arguments, "experiment", 0));
}

/* Says why and lets the client go; so short a text is with the kernel before the close. */
static void refuse(struct connection *connection, const char *text)
{
    struct error err = {0};

    fail(&err, -EINVAL, "%s", text);
    uv_read_stop((uv_stream_t *)&connection->pipe);
    connection_send(connection, error_line(0, &err));
    close_connection(connection);
}

static void on_read(uv_stream_t *pipe, ssize_t n, const uv_buf_t *buffer);

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buffer)
{
    (void)handle;
    buffer->base = malloc(suggested);
    buffer->len = buffer->base ? suggested : 0;
}

static void take_requests(struct connection *connection)
{
    bool was_throttled = connection->throttled;
    size_t length;
    char *line;

    while (!connection->closing) {
        struct error err = {0};
        json_t *request;
        connection->throttled = queued(connection) > THROTTLE_BYTES;
        if (connection->throttled) {
            uv_read_stop((uv_stream_t *)&connection->pipe);
            return;
        }
        line = connection->lines.bytes ? lines_next(&connection->lines, &length) : NULL;
        if (!line)
            break;
        if (json_parse(line, length, &request, &err)) {
            fail_prefix(&err, "the request is");
            connection_send(connection, error_line(0, &err));
            continue;
        }
        handle(connection, request);
        json_decref(request);
    }
    if (was_throttled && !connection->closing)
        uv_read_start((uv_stream_t *)&connection->pipe, on_alloc, on_read);
}

static void on_read(uv_stream_t *pipe, ssize_t n, const uv_buf_t *buffer)
{
    struct connection *connection = pipe->data;
    int rc = n > 0 ? lines_push(&connection->lines, buffer->base, (size_t)n) : 0;

    free(buffer->base);
    if (n < 0) {
        close_connection(connection);
        return;
    }
    if (rc == -ENOMEM) {
        close_connection(connection);
        return;
    }
    take_requests(connection);
    if (!connection->closing && connection->lines.used - connection->lines.taken > REQUEST_BYTES_MAX &&
        !connection->throttled)
        refuse(connection, "a request of more than 8 MiB");
}

static void on_connection(uv_stream_t *listener, int status)
{
    struct server *server = listener->data;
    struct connection *connection;
    char mark[HOME_MARK_ROOM];

    if (status < 0)
        return;
    connection = calloc(1, sizeof *connection);
    if (!connection)
        return;
    connection->server = server;
    lines_init(&connection->lines);
    uv_pipe_init(&server->loop, &connection->pipe, 0);
    connection->pipe.data = connection;
    connection->next = server->connections;
    server->connections = connection;
    server->connections_n++;
    if (uv_accept(listener, (uv_stream_t *)&connection->pipe)) {
        close_connection(connection);
        return;
    }
    if (server->connections_n > clients_max(server)) {
        refuse(connection, "too many clients are connected");
        return;
    }
    home_mark(server->lock_fd, mark);
    connection_send(connection, json_pack("{s:s, s:I, s:s, s:s}", "flexp", FLEXP_VERSION, "pid", (json_int_t)getpid(),
                                          "home", server->home, "lock", mark));
    if (!connection->closing)
        uv_read_start((uv_stream_t *)&connection->pipe, on_alloc, on_read);
}

/* --- listening -------------------------------------------------------------------------------------------------- */

int connections_listen(struct server *server, struct error *err)
{
    mode_t mask;
    int rc;

    if (unlink(server->socket) && errno != ENOENT) /* left by one that was killed: we hold the lock */
        return fail(err, -errno, "%s: %s", server->socket, strerror(errno));
    uv_pipe_init(&server->loop, &server->listener, 0);
    server->listener.data = server;
    server->listening = true;
    mask = umask(0177);
    rc = uv_pipe_bind(&server->listener, server->socket);
    umask(mask);
    if (!rc)
        rc = uv_listen((uv_stream_t *)&server->listener, 64, on_connection);
    return rc ? fail(err, rc, "%s: cannot listen there: %s", server->socket, uv_strerror(rc)) : 0;
}

void connections_close(struct server *server)
{
    if (server->listening)
        uv_close((uv_handle_t *)&server->listener, NULL);
    server->listening = false;
    for (struct connection *connection = server->connections; connection; connection = connection->next) {
        connection_send(connection, json_pack("{s:b}", "closing", 1)); /* what fits is with the kernel before the close */
        close_connection(connection);
    }
}
