/* connection.c - reader thread, queue, heartbeat.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/worker/connection.h"

#include "common/file.h"
#include "common/lines.h"
#include "common/log.h"
#include "common/version.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define HEARTBEAT_MS 10000

struct queued {
    struct queued *next;
    struct message message;
};

struct queue {
    struct queued *first, **last;
};

struct inbox {
    struct inbox *next;
    struct connection *connection;
    int64_t run;
    struct queue queue;
    volatile int released; /* read without the lock by the backend's threads */
};

struct connection {
    int fd, log_fd; /* log_fd: -1 or the protocol log */
    pthread_t reader;
    pthread_mutex_t lock; /* all below, and writing to fd */
    pthread_cond_t arrived;
    struct queue beginnings;
    struct inbox *inboxes;
    int64_t last_sent_ms;
};

static int64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* The orchestrator is gone or cannot be understood. No clean-up: everything worth keeping is on disk already. */
static void leave(int code)
{
    _exit(code);
}

static void log_text(const struct connection *connection, const char *mark, const char *text, size_t length)
{
    struct timespec now;
    char head[40];
    int n;

    if (connection->log_fd < 0)
        return;
    clock_gettime(CLOCK_MONOTONIC, &now);
    n = snprintf(head, sizeof head, "%lld.%06ld %s ", (long long)now.tv_sec, now.tv_nsec / 1000, mark);
    if (fd_write_all(connection->log_fd, head, (size_t)n) || fd_write_all(connection->log_fd, text, length))
        log_warning("the protocol log cannot be written");
}

static int open_log(void)
{
    const char *folder = getenv("FLEXP_PROTOCOL_LOG");
    char *path = folder ? format_text("%s/%ld.log", folder, (long)getpid()) : NULL;
    int fd = path ? open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644) : -1;

    free(path);
    return fd;
}

static void send_locked(struct connection *connection, const json_t *message)
{
    char *text = json_line(message);
    size_t length = text ? strlen(text) : 0;

    if (!text)
        leave(1);
    text[length] = '\n'; /* in place of the 0: written with its length */
    log_text(connection, ">", text, length + 1);
    if (fd_write_all(connection->fd, text, length + 1))
        leave(0);
    free(text);
    connection->last_sent_ms = now_ms();
}

void connection_send(struct connection *connection, json_t *message)
{
    pthread_mutex_lock(&connection->lock);
    send_locked(connection, message);
    pthread_mutex_unlock(&connection->lock);
    json_decref(message);
}

void connection_note(struct connection *connection, int64_t run, const char *what)
{
    char text[100];
    int n;

    if (connection->log_fd < 0)
        return;
    n = snprintf(text, sizeof text, "run %lld %.60s\n", (long long)run, what);
    pthread_mutex_lock(&connection->lock);
    log_text(connection, "=", text, (size_t)n);
    pthread_mutex_unlock(&connection->lock);
}

static struct inbox *find_inbox(const struct connection *connection, int64_t run)
{
    for (struct inbox *inbox = connection->inboxes; inbox; inbox = inbox->next)
        if (inbox->run == run)
            return inbox;
    return NULL;
}

/* By the reader, so that nothing that is said to the run right after is lost. */
static void open_inbox(struct connection *connection, int64_t run)
{
    struct inbox *inbox = calloc(1, sizeof *inbox);

    if (!inbox)
        leave(1);
    if (find_inbox(connection, run)) {
        log_error("the orchestrator gave run %lld twice", (long long)run);
        leave(1);
    }
    *inbox = (struct inbox){.next = connection->inboxes, .connection = connection, .run = run};
    inbox->queue.last = &inbox->queue.first;
    connection->inboxes = inbox;
}

/* Where the message goes; NULL: to nobody, for its run is over. */
static struct queue *queue_of(struct connection *connection, const struct message *message)
{
    struct inbox *inbox;

    if (message->op == MSG_ASSIGN || message->op == MSG_EVALUATE)
        open_inbox(connection, message->run);
    if (message->op == MSG_ASSIGN || message->op == MSG_EVALUATE || message->op == MSG_PLAN)
        return &connection->beginnings;
    inbox = find_inbox(connection, message->run);
    if (inbox && message->op == MSG_RELEASE)
        __atomic_store_n(&inbox->released, 1, __ATOMIC_RELEASE);
    return inbox ? &inbox->queue : NULL;
}

static void take_line(struct connection *connection, char *line, size_t length)
{
    struct queued *queued = calloc(1, sizeof *queued);
    struct queue *queue;
    struct error err;

    if (!queued)
        leave(1);
    if (message_parse(line, length, false, &queued->message, &err)) {
        log_error("the orchestrator sent what cannot be read: %s", err.text);
        leave(1);
    }
    pthread_mutex_lock(&connection->lock);
    line[length] = '\n'; /* the parser is done with it */
    log_text(connection, "<", line, length + 1);
    queue = queue_of(connection, &queued->message);
    if (queue) {
        *queue->last = queued;
        queue->last = &queued->next;
    } else {
        message_done(&queued->message);
        free(queued);
    }
    pthread_cond_broadcast(&connection->arrived);
    pthread_mutex_unlock(&connection->lock);
}

static void heartbeat_if_due(struct connection *connection)
{
    pthread_mutex_lock(&connection->lock);
    if (now_ms() - connection->last_sent_ms >= HEARTBEAT_MS) {
        json_t *message = json_pack("{s:s, s:i}", "op", "heartbeat", "rank", 0);
        send_locked(connection, message);
        json_decref(message);
    }
    pthread_mutex_unlock(&connection->lock);
}

static void *read_all(void *arg)
{
    struct connection *connection = arg;
    struct lines lines;
    char bytes[65536], *line;
    size_t length;

    lines_init(&lines);
    for (;;) {
        struct pollfd ready = {.fd = connection->fd, .events = POLLIN};
        ssize_t n;
        if (poll(&ready, 1, HEARTBEAT_MS / 4) <= 0) {
            heartbeat_if_due(connection);
            continue;
        }
        n = read(connection->fd, bytes, sizeof bytes);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0 || lines_push(&lines, bytes, (size_t)n))
            leave(0);
        while ((line = lines_next(&lines, &length)))
            take_line(connection, line, length);
        heartbeat_if_due(connection);
    }
    return NULL;
}

int connection_open(int fd, const char *isa, struct connection **ret, struct error *err)
{
    struct connection *connection = calloc(1, sizeof *connection);

    if (!connection)
        return fail(err, -ENOMEM, "out of memory");
    connection->fd = fd;
    connection->log_fd = open_log();
    connection->beginnings.last = &connection->beginnings.first;
    pthread_mutex_init(&connection->lock, NULL);
    pthread_cond_init(&connection->arrived, NULL);
    connection_send(connection, json_pack("{s:s, s:i, s:i, s:s, s:i, s:i, s:s*, s:[s,s,s,s]}", "op", "hello", "version",
                                          FLEXP_PROTOCOL_VERSION, "pid", (int)getpid(), "program",
                                          "flexp-trainer " FLEXP_VERSION, "rank", 0, "size", 1, "isa", isa,
                                          "capabilities", "reuse", "plan", "evaluate", "pack"));
    if (pthread_create(&connection->reader, NULL, read_all, connection)) {
        free(connection);
        return fail(err, -EAGAIN, "cannot start a thread");
    }
    *ret = connection;
    return 0;
}

/* Under the lock. */
static bool take(struct connection *connection, struct queue *queue, bool wait, struct message *ret)
{
    struct queued *queued;

    while (wait && !queue->first)
        pthread_cond_wait(&connection->arrived, &connection->lock);
    queued = queue->first;
    if (!queued)
        return false;
    queue->first = queued->next;
    if (!queue->first)
        queue->last = &queue->first;
    *ret = queued->message;
    free(queued);
    return true;
}

void connection_next(struct connection *connection, struct message *ret)
{
    pthread_mutex_lock(&connection->lock);
    take(connection, &connection->beginnings, true, ret);
    pthread_mutex_unlock(&connection->lock);
}

struct inbox *connection_inbox(struct connection *connection, int64_t run)
{
    struct inbox *inbox;

    pthread_mutex_lock(&connection->lock);
    inbox = find_inbox(connection, run);
    pthread_mutex_unlock(&connection->lock);
    return inbox;
}

bool inbox_next(struct inbox *inbox, bool wait, struct message *ret)
{
    bool any;

    pthread_mutex_lock(&inbox->connection->lock);
    any = take(inbox->connection, &inbox->queue, wait, ret);
    pthread_mutex_unlock(&inbox->connection->lock);
    return any;
}

const volatile int *inbox_released(const struct inbox *inbox)
{
    return &inbox->released;
}

void inbox_close(struct inbox *inbox)
{
    struct connection *connection = inbox->connection;
    struct message message;
    struct inbox **at;

    pthread_mutex_lock(&connection->lock);
    for (at = &connection->inboxes; *at != inbox;)
        at = &(*at)->next;
    *at = inbox->next;
    while (take(connection, &inbox->queue, false, &message))
        message_done(&message);
    pthread_mutex_unlock(&connection->lock);
    free(inbox);
}
