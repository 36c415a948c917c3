/* worker.c - one worker: its supervisor's process, its pipes, its end.
 * It is over when the supervisor's exit status and the end of protocol, output and status have all come, in whichever
 * order; then ended() is called once and the handles are closed; the last close callback frees it. Where an end does
 * not come (a descriptor leaked to a process that could not be killed), a timer makes it come.
 * SPDX-License-Identifier: Apache-2.0 */
#include "common/file.h"
#include "orchestrator/launcher/launcher_private.h"
#include "orchestrator/launcher/supervise.h"

#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define QUEUE_BYTES_MAX (64u << 20) /* to a worker that does not read */
#define CLOSED_LIMIT_MS 5000        /* it closed the socket, or was dismissed, and lives */
#define KILLED_LIMIT_MS 15000       /* longer than the supervisor takes to kill and drain */
#define LINE_SHOWN_MAX 2000

enum stream_kind { STREAM_PROTOCOL, STREAM_OUTPUT, STREAM_STATUS, STREAM_COMMANDS, STREAMS };

struct stream {
    uv_pipe_t pipe;
    struct lines lines;
    bool ended;
};

struct worker {
    struct launcher *launcher;
    struct worker *next;
    uv_process_t process;
    uv_timer_t timer;
    struct stream streams[STREAMS];
    int open_handles;
    bool exited, ended, status_known;
    bool killed;   /* nothing more can be done but wait, for no longer than the timer says */
    bool told_to_die;
    int exit_signal_of_supervisor;
    int exit_code, signal; /* the program's */
    bool oom;
    char exec_error[700];
    char refused[300]; /* why we killed it by ourselves */
    char mark[112];
    pid_t pid, supervisor;
    struct tail tail;
    void *data;
    size_t slots_n;
    size_t slots[];
};

struct sending {
    uv_write_t request;
    char *text;
};

/* --- the end ---------------------------------------------------------------------------------------------------- */

static void on_closed(uv_handle_t *handle)
{
    struct worker *worker = handle->data, **at;
    struct launcher *launcher = worker->launcher;

    if (--worker->open_handles)
        return;
    for (at = &launcher->workers; *at != worker; at = &(*at)->next)
        ;
    *at = worker->next;
    for (int i = 0; i < STREAMS; i++)
        lines_done(&worker->streams[i].lines);
    free(worker);
    launcher_worker_gone(launcher);
}

static void describe_end(const struct worker *worker, const char **ret_reason, char *text, size_t room)
{
    if (worker->exec_error[0]) {
        *ret_reason = "exit";
        snprintf(text, room, "the program could not be started: %s", worker->exec_error);
    } else if (!worker->status_known) {
        *ret_reason = "lost";
        snprintf(text, room, "its supervisor ended without a word (signal %d)", worker->exit_signal_of_supervisor);
    } else if (worker->oom) {
        *ret_reason = "out_of_memory";
        snprintf(text, room, "killed by the kernel because memory ran out");
    } else if (worker->signal) {
        *ret_reason = "signal";
        snprintf(text, room, "%s signal %d (%s)", worker->told_to_die ? "killed with" : "died of", worker->signal,
                 strsignal(worker->signal));
    } else {
        *ret_reason = "exit";
        snprintf(text, room, "exit code %d", worker->exit_code);
    }
    if (!worker->told_to_die && worker->status_known && (worker->signal || worker->exit_code) &&
        tail_tells_memory(&worker->tail))
        *ret_reason = "out_of_memory";
    if (worker->refused[0]) {
        *ret_reason = "lost_protocol";
        snprintf(text, room, "killed: %s", worker->refused);
    }
}

static void finish(struct worker *worker)
{
    struct launcher *launcher = worker->launcher;
    const char *reason;
    char head[1200], *text;

    worker->ended = true;
    if (!worker->status_known)
        kill_marked_children(worker->mark, worker->supervisor);
    for (size_t i = 0; i < worker->slots_n; i++)
        launcher->slots[worker->slots[i]].workers--;
    describe_end(worker, &reason, head, sizeof head);
    text = tail_text(&worker->tail, head);
    launcher->events.ended(launcher->arg, worker, reason, text ? text : head);
    free(text);
    for (int i = 0; i < STREAMS; i++)
        uv_close((uv_handle_t *)&worker->streams[i].pipe, on_closed);
    uv_close((uv_handle_t *)&worker->timer, on_closed);
    uv_close((uv_handle_t *)&worker->process, on_closed);
}

static void check_over(struct worker *worker)
{
    if (!worker->ended && worker->exited && worker->streams[STREAM_PROTOCOL].ended &&
        worker->streams[STREAM_OUTPUT].ended && worker->streams[STREAM_STATUS].ended)
        finish(worker);
}

static void on_time(uv_timer_t *timer)
{
    struct worker *worker = timer->data;

    if (!worker->killed) {
        worker_kill(worker);
        return;
    }
    if (!worker->exited) {
        kill(worker->supervisor, SIGKILL); /* it hangs; what it leaves comes to us */
        uv_timer_start(timer, on_time, KILLED_LIMIT_MS, 0);
        return;
    }
    for (int i = 0; i < STREAMS; i++) {
        uv_read_stop((uv_stream_t *)&worker->streams[i].pipe);
        worker->streams[i].ended = true;
    }
    check_over(worker);
}

static void on_supervisor_exit(uv_process_t *process, int64_t code, int signal_number)
{
    struct worker *worker = process->data;

    (void)code;
    worker->exited = true;
    worker->exit_signal_of_supervisor = signal_number;
    worker->killed = true; /* no more to kill; the timer now limits the wait for the pipes */
    if (signal_number)
        kill_marked_children(worker->mark, worker->supervisor);
    uv_timer_start(&worker->timer, on_time, CLOSED_LIMIT_MS, 0);
    check_over(worker);
}

/* --- what comes in ---------------------------------------------------------------------------------------------- */

static void on_status(struct worker *worker, const char *line, size_t length)
{
    json_t *status = NULL;
    const char *text;

    if (json_parse(line, length, &status, NULL))
        return;
    if (json_object_get(status, "pid")) {
        worker->pid = (pid_t)json_int_or(status, "pid", 0);
    } else {
        worker->status_known = true;
        worker->exit_code = (int)json_int_or(status, "exit", 0);
        worker->signal = (int)json_int_or(status, "signal", 0);
        worker->oom = json_bool_or(status, "oom", false);
        text = json_string_or(status, "exec", "");
        snprintf(worker->exec_error, sizeof worker->exec_error, "%s", text);
    }
    json_decref(status);
}

/* A program may print anything: what is shown and stored is UTF-8 without control characters. */
static void clean_line(char *line)
{
    size_t n = strlen(line);

    if (n > LINE_SHOWN_MAX)
        line[LINE_SHOWN_MAX] = 0;
    for (char *at = line; *at; at++)
        if ((unsigned char)*at < ' ' && *at != '\t')
            *at = ' ';
    json_t *text = json_string(line);
    for (char *at = line; !text && *at; at++)
        if ((unsigned char)*at >= 0x80)
            *at = '?';
    json_decref(text);
}

static void take_lines(struct worker *worker, enum stream_kind kind)
{
    struct launcher *launcher = worker->launcher;
    char *line;
    size_t length;

    while (!worker->ended && (line = lines_next(&worker->streams[kind].lines, &length)) != NULL) {
        if (kind == STREAM_STATUS) {
            on_status(worker, line, length);
        } else if (kind == STREAM_PROTOCOL) {
            if (!launcher->closing)
                launcher->events.message(launcher->arg, worker, line, length);
        } else {
            clean_line(line);
            tail_add(&worker->tail, line);
            if (!launcher->closing)
                launcher->events.output(launcher->arg, worker, line);
        }
    }
}

static void refuse(struct worker *worker, const char *why)
{
    if (!worker->refused[0])
        snprintf(worker->refused, sizeof worker->refused, "%s", why);
    worker_kill(worker);
}

static void on_end_of_stream(struct worker *worker, enum stream_kind kind)
{
    struct stream *stream = &worker->streams[kind];

    uv_read_stop((uv_stream_t *)&stream->pipe);
    stream->ended = true;
    if (kind == STREAM_OUTPUT && stream->lines.used > stream->lines.taken) {
        if (lines_push(&stream->lines, "\n", 1) == 0) /* a last line without a newline */
            take_lines(worker, kind);
    }
    if (kind == STREAM_PROTOCOL && !worker->exited && !worker->killed)
        uv_timer_start(&worker->timer, on_time, CLOSED_LIMIT_MS, 0);
    check_over(worker);
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buffer)
{
    (void)handle;
    buffer->base = malloc(suggested);
    buffer->len = buffer->base ? suggested : 0;
}

/* The worker's pid was written before its hello; that of two ready pipes may be read last. */
static void read_pid(struct worker *worker)
{
    struct stream *status = &worker->streams[STREAM_STATUS];
    char text[256];
    ssize_t n;
    int fd;

    if (worker->pid || status->ended || uv_fileno((uv_handle_t *)&status->pipe, &fd))
        return;
    n = read(fd, text, sizeof text);
    if (n > 0 && lines_push(&status->lines, text, (size_t)n) == 0)
        take_lines(worker, STREAM_STATUS);
}

static void on_read(uv_stream_t *pipe, ssize_t n, const uv_buf_t *buffer)
{
    struct worker *worker = pipe->data;
    struct stream *stream = (struct stream *)(void *)pipe; /* the pipe is its first member */
    enum stream_kind kind = (enum stream_kind)(stream - worker->streams);

    if (kind == STREAM_PROTOCOL)
        read_pid(worker);
    if (n > 0 && !(kind == STREAM_PROTOCOL && worker->refused[0])) { /* after nonsense, what follows means nothing */
        int rc = lines_push(&stream->lines, buffer->base, (size_t)n);
        take_lines(worker, kind);
        if (kind == STREAM_OUTPUT && stream->lines.used - stream->lines.taken > LINES_MAX / 256) {
            /* a progress bar that never ends its line: shown in pieces */
            rc = lines_push(&stream->lines, "\n", 1);
            take_lines(worker, kind);
        }
        if (rc == -EMSGSIZE)
            refuse(worker, "it sent a line of more than 16 MiB on the protocol socket");
        else if (rc)
            refuse(worker, "out of memory while reading from it");
    }
    free(buffer->base);
    if (n < 0)
        on_end_of_stream(worker, kind);
}

/* --- starting --------------------------------------------------------------------------------------------------- */

/* "0,2", the cores of the slots; the caller frees. */
static char *core_list(const struct launcher *launcher, const size_t *slots, size_t n)
{
    char *text = malloc(n * 12 + 2), *at = text;

    if (!text)
        return NULL;
    for (size_t i = 0; i < n; i++)
        at += sprintf(at, "%s%d", i ? "," : "", launcher->slots[slots[i]].cpu);
    if (!n)
        strcpy(text, "-");
    return text;
}

static int count(const char *const *list)
{
    int n = 0;

    while (list && list[n])
        n++;
    return n;
}

/* "CUDA_VISIBLE_DEVICES=GPU-...,GPU-..." of the slots that are GPUs; "" where none is. The caller frees. */
static char *gpu_environment(const struct worker *worker)
{
    static const char NAME[] = "CUDA_VISIBLE_DEVICES=";
    char *text = calloc(1, sizeof NAME + worker->slots_n * sizeof((struct slot_info *)0)->uuid), *at = text;

    for (size_t i = 0; text && i < worker->slots_n; i++) {
        const char *uuid = worker->launcher->slots[worker->slots[i]].info.uuid;
        if (*uuid)
            at += sprintf(at, "%s%s", at == text ? NAME : ",", uuid);
    }
    return text;
}

/* The worker's environment: what the caller adds, its GPUs, the protocol socket's number, and the mark. */
static char **make_environment(const struct worker *worker, const char *const *extra)
{
    int n = count(extra);
    const char **all = calloc((size_t)n + 4, sizeof *all);
    char fd[32], **environment, *gpus = gpu_environment(worker);

    if (!all || !gpus) {
        free(all);
        free(gpus);
        return NULL;
    }
    if (n)
        memcpy(all, extra, (size_t)n * sizeof *all);
    snprintf(fd, sizeof fd, "FLEXP_FD=%d", SUPERVISE_PROTOCOL);
    all[n] = fd;
    all[n + 1] = worker->mark;
    if (*gpus)
        all[n + 2] = gpus;
    environment = environment_new(all);
    free(all);
    free(gpus);
    return environment;
}

static int spawn(struct worker *worker, const char *const *argv, const char *const *env, const char *folder,
                 const char *cwd, struct error *err)
{
    static const struct {
        enum stream_kind stream;
        unsigned flags;
    } PIPES[] = {
        [SUPERVISE_OUTPUT] = {STREAM_OUTPUT, UV_WRITABLE_PIPE},
        [SUPERVISE_PROTOCOL] = {STREAM_PROTOCOL, UV_READABLE_PIPE | UV_WRITABLE_PIPE},
        [SUPERVISE_STATUS] = {STREAM_STATUS, UV_WRITABLE_PIPE},
        [SUPERVISE_COMMANDS] = {STREAM_COMMANDS, UV_READABLE_PIPE},
    };
    struct launcher *launcher = worker->launcher;
    char trainer[PATH_MAX], *cores = core_list(launcher, worker->slots, worker->slots_n), **environment = NULL;
    int argc = count(argv), rc;
    char **arguments = calloc((size_t)(argc ? argc : 1) + 6, sizeof *arguments);
    uv_stdio_container_t *stdio = calloc(SUPERVISE_LEASES + worker->slots_n, sizeof *stdio);
    uv_process_options_t options = {.exit_cb = on_supervisor_exit, .flags = UV_PROCESS_DETACHED}; /* its own session */

    environment = make_environment(worker, env);
    if (!cores || !arguments || !stdio || !environment) {
        rc = fail(err, -ENOMEM, "out of memory");
        goto out;
    }
    if (!argc && (rc = trainer_path(trainer, sizeof trainer, err)) != 0)
        goto out;
    arguments[0] = (char *)"flexp";
    arguments[1] = (char *)"supervise";
    arguments[2] = cores;
    arguments[3] = (char *)folder;
    arguments[4] = (char *)(cwd ? cwd : folder);
    arguments[5] = trainer;
    for (int i = 0; i < argc; i++)
        arguments[5 + i] = (char *)argv[i];
    stdio[0].flags = UV_IGNORE;
    stdio[2] = (uv_stdio_container_t){.flags = UV_INHERIT_FD, .data.fd = STDERR_FILENO};
    for (int fd = 1; fd <= SUPERVISE_COMMANDS; fd++)
        if (fd != 2) {
            stdio[fd].flags = (uv_stdio_flags)(UV_CREATE_PIPE | PIPES[fd].flags);
            stdio[fd].data.stream = (uv_stream_t *)&worker->streams[PIPES[fd].stream].pipe;
        }
    options.stdio_count = SUPERVISE_LEASES;
    for (size_t i = 0; i < worker->slots_n; i++) {
        int lease = launcher->slots[worker->slots[i]].lease;
        if (lease >= 0)
            stdio[options.stdio_count++] = (uv_stdio_container_t){.flags = UV_INHERIT_FD, .data.fd = lease};
    }
    options.file = supervisor_path();
    options.args = arguments;
    options.env = environment;
    options.stdio = stdio;
    rc = uv_spawn(launcher->loop, &worker->process, &options);
    if (rc)
        fail(err, rc, "%s: the supervisor cannot be started: %s", supervisor_path(), uv_strerror(rc));
out:
    environment_free(environment);
    free(stdio);
    free(arguments);
    free(cores);
    return rc;
}

int launcher_start(struct launcher *launcher, const size_t *slots, size_t n, const char *const *argv,
                   const char *const *env, const char *folder, const char *cwd, void *data, struct worker **ret,
                   struct error *err)
{
    struct worker *worker;
    int rc;

    for (size_t i = 0; i < n; i++)
        if (slots[i] >= launcher->slots_n || !launcher->slots[slots[i]].info.ours)
            return fail(err, -EPERM, "slot %zu is not leased", slots[i]);
    if (launcher->closing)
        return fail(err, -ESHUTDOWN, "the launcher is closing");
    worker = calloc(1, sizeof *worker + n * sizeof *slots);
    if (!worker)
        return fail(err, -ENOMEM, "out of memory");
    worker->launcher = launcher;
    worker->data = data;
    worker->slots_n = n;
    if (n)
        memcpy(worker->slots, slots, n * sizeof *slots);
    snprintf(worker->mark, sizeof worker->mark, "%s%ld.%llu", launcher->mark, (long)getpid(),
             (unsigned long long)++launcher->started);
    for (int i = 0; i < STREAMS; i++) {
        lines_init(&worker->streams[i].lines);
        uv_pipe_init(launcher->loop, &worker->streams[i].pipe, 0);
        worker->streams[i].pipe.data = worker;
    }
    uv_timer_init(launcher->loop, &worker->timer);
    worker->timer.data = worker->process.data = worker;
    worker->open_handles = STREAMS + 2;
    worker->next = launcher->workers;
    launcher->workers = worker;
    rc = spawn(worker, argv, env, folder, cwd, err);
    if (rc) { /* the loop must close the handles; that of the process is one where uv_spawn was reached */
        worker->ended = true;
        if (!uv_handle_get_type((uv_handle_t *)&worker->process))
            worker->open_handles--;
        else
            uv_close((uv_handle_t *)&worker->process, on_closed);
        for (int i = 0; i < STREAMS; i++)
            uv_close((uv_handle_t *)&worker->streams[i].pipe, on_closed);
        uv_close((uv_handle_t *)&worker->timer, on_closed);
        return rc;
    }
    worker->supervisor = worker->process.pid;
    for (size_t i = 0; i < n; i++)
        launcher->slots[slots[i]].workers++;
    for (int i = launcher->held ? STREAM_STATUS : 0; i < STREAM_COMMANDS; i++)
        uv_read_start((uv_stream_t *)&worker->streams[i].pipe, on_alloc, on_read);
    *ret = worker;
    return 0;
}

/* --- telling it ------------------------------------------------------------------------------------------------- */

static void on_sent(uv_write_t *request, int status)
{
    struct sending *sending = (struct sending *)(void *)request; /* its first member */

    (void)status; /* where it failed, the end of the stream follows */
    free(sending->text);
    free(sending);
}

/* Takes ownership of text. */
static void send_text(struct worker *worker, enum stream_kind kind, char *text)
{
    uv_stream_t *pipe = (uv_stream_t *)&worker->streams[kind].pipe;
    struct sending *sending = text ? calloc(1, sizeof *sending) : NULL;
    uv_buf_t buffer;

    if (!sending || worker->ended || !uv_is_writable(pipe)) {
        free(sending);
        free(text);
        return;
    }
    sending->text = text;
    buffer = uv_buf_init(text, (unsigned)strlen(text));
    if (uv_write(&sending->request, pipe, &buffer, 1, on_sent)) {
        free(text);
        free(sending);
    }
}

void worker_send(struct worker *worker, const json_t *message)
{
    char *line = json_line(message);

    send_text(worker, STREAM_PROTOCOL, line ? format_text("%s\n", line) : NULL);
    free(line);
    if (!worker->ended && uv_stream_get_write_queue_size((uv_stream_t *)&worker->streams[STREAM_PROTOCOL].pipe) >
                              QUEUE_BYTES_MAX)
        refuse(worker, "it does not read what it is sent");
}

void worker_set_folder(struct worker *worker, const char *folder)
{
    if (strlen(folder) < PATH_MAX && !strchr(folder, '\n'))
        send_text(worker, STREAM_COMMANDS, format_text("folder %s\n", folder));
}

static void on_shut(uv_shutdown_t *request, int status)
{
    (void)status;
    free(request);
}

static void shut(struct worker *worker, enum stream_kind kind)
{
    uv_shutdown_t *request = malloc(sizeof *request);

    if (!request || uv_shutdown(request, (uv_stream_t *)&worker->streams[kind].pipe, on_shut))
        free(request);
}

void worker_kill(struct worker *worker)
{
    if (worker->ended || worker->killed)
        return;
    worker->killed = worker->told_to_die = true;
    shut(worker, STREAM_COMMANDS); /* the supervisor sees the end and kills all */
    uv_timer_start(&worker->timer, on_time, KILLED_LIMIT_MS, 0);
}

void worker_dismiss(struct worker *worker)
{
    if (worker->ended || worker->killed)
        return;
    shut(worker, STREAM_PROTOCOL);
    uv_timer_start(&worker->timer, on_time, CLOSED_LIMIT_MS, 0);
}

void launcher_kill_all(struct launcher *launcher)
{
    for (struct worker *worker = launcher->workers; worker; worker = worker->next)
        worker_kill(worker);
}

void launcher_hold(struct launcher *launcher, bool hold)
{
    launcher->held = hold;
    for (struct worker *worker = launcher->workers; worker; worker = worker->next)
        for (int i = STREAM_PROTOCOL; i <= STREAM_OUTPUT && !worker->ended; i++) {
            uv_stream_t *pipe = (uv_stream_t *)&worker->streams[i].pipe;
            if (worker->streams[i].ended)
                continue;
            if (hold)
                uv_read_stop(pipe);
            else
                uv_read_start(pipe, on_alloc, on_read);
        }
}

void *worker_data(struct worker *worker)
{
    return worker->data;
}

void worker_set_data(struct worker *worker, void *data)
{
    worker->data = data;
}

int64_t worker_pid(const struct worker *worker)
{
    return worker->pid;
}

size_t worker_slots(const struct worker *worker, const size_t **ret)
{
    *ret = worker->slots;
    return worker->slots_n;
}
