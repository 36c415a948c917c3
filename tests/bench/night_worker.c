/* night_worker.c - a worker that costs nothing: it answers an assignment at once with as many reports as units and keeps
 * a window of them in flight. What is measured with it is the orchestrator.
 *     entrypoint: [night_worker, WINDOW, PER_UNIT, CHECKPOINT, COUNTERS]
 * WINDOW: reports that may wait for their acknowledgement; PER_UNIT: reports in each unit; CHECKPOINT: yes or no, at the
 * end of each rung; COUNTERS: a folder where the file PID holds, mapped, how many were acknowledged and when it began
 * and ended: it outlives every kill.
 * SPDX-License-Identifier: Apache-2.0 */
#include "common/lines.h"
#include "common/protocol.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define OUT_ROOM (1u << 16)

/* Read by night.py as four little-endian 64-bit numbers. */
struct counters {
    int64_t acknowledged; /* reports */
    int64_t first_ns, last_ns; /* CLOCK_MONOTONIC of the first report sent, of the last acknowledgement of a report */
    int64_t trials;
};

struct worker {
    int fd;
    struct lines lines;
    struct counters *counters;
    long window, per_unit;
    bool checkpoints;
    /* the run; 0: none */
    int64_t run, seq, acked, reported, reports_acked;
    double unit, until;
    double quality;
    bool told, waits;
    char trial_dir[4096];
    char out[OUT_ROOM];
    size_t used;
};

static int64_t now_ns(void)
{
    struct timespec at;

    clock_gettime(CLOCK_MONOTONIC, &at);
    return (int64_t)at.tv_sec * 1000000000 + at.tv_nsec;
}

static void flush(struct worker *worker)
{
    for (size_t at = 0; at < worker->used;) {
        ssize_t n = send(worker->fd, worker->out + at, worker->used - at, MSG_NOSIGNAL);
        if (n <= 0)
            _exit(0);
        at += (size_t)n;
    }
    worker->used = 0;
}

static void say(struct worker *worker, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void say(struct worker *worker, const char *format, ...)
{
    va_list args;

    if (worker->used + 1024 > OUT_ROOM)
        flush(worker);
    va_start(args, format);
    worker->used += (size_t)vsnprintf(worker->out + worker->used, 1023, format, args);
    va_end(args);
    worker->out[worker->used++] = '\n';
}

static void report(struct worker *worker)
{
    int64_t in_unit = worker->reported % worker->per_unit + 1;

    if (!worker->counters->first_ns)
        worker->counters->first_ns = now_ns();
    worker->reported++;
    if (in_unit == worker->per_unit)
        worker->unit++;
    if (in_unit < worker->per_unit) {
        say(worker,
            "{\"op\":\"report\",\"run\":%lld,\"seq\":%lld,\"kind\":\"training\",\"units\":{\"rounds\":%g,\"batches\":%lld},"
            "\"metrics\":{\"train_loss\":%.17g}}",
            (long long)worker->run, (long long)++worker->seq, worker->unit + (double)in_unit / (double)worker->per_unit,
            (long long)worker->reported, 1.0 / (double)worker->reported);
        return;
    }
    say(worker,
        "{\"op\":\"report\",\"run\":%lld,\"seq\":%lld,\"kind\":\"validation\",\"units\":{\"rounds\":%g},"
        "\"metrics\":{\"validation_accuracy\":%.17g}}",
        (long long)worker->run, (long long)++worker->seq, worker->unit,
        worker->quality * worker->unit / (worker->unit + 1));
}

/* At the unit it was sent to. */
static void arrive(struct worker *worker)
{
    char path[4200];
    int fd;

    worker->waits = true;
    if (!worker->checkpoints)
        return;
    snprintf(path, sizeof path, "%s/runs/%lld/checkpoint-%g", worker->trial_dir, (long long)worker->run, worker->unit);
    fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0 || write(fd, "weights\n", 8) != 8 || fsync(fd))
        say(worker, "{\"op\":\"log\",\"run\":%lld,\"level\":\"error\",\"text\":\"no checkpoint\"}", (long long)worker->run);
    if (fd >= 0)
        close(fd);
    say(worker,
        "{\"op\":\"checkpoint\",\"run\":%lld,\"seq\":%lld,\"units\":{\"rounds\":%g},\"path\":\"runs/%lld/checkpoint-%g\","
        "\"bytes\":8}",
        (long long)worker->run, (long long)++worker->seq, worker->unit, (long long)worker->run, worker->unit);
}

static void train(struct worker *worker)
{
    while (worker->run && !worker->told && !worker->waits && worker->seq - worker->acked < worker->window) {
        report(worker);
        if (worker->unit >= worker->until)
            arrive(worker);
    }
    if (worker->run && worker->told) {
        say(worker, "{\"op\":\"done\",\"run\":%lld,\"seq\":%lld,\"reason\":\"stopped\",\"units\":{\"rounds\":%g}}",
            (long long)worker->run, (long long)++worker->seq, worker->unit);
        worker->run = 0;
        worker->counters->trials++;
    }
    flush(worker);
}

static void begin(struct worker *worker, const json_t *body)
{
    snprintf(worker->trial_dir, sizeof worker->trial_dir, "%s", json_string_or(body, "trial_dir", ""));
    worker->run = json_int_or(body, "run", 0);
    worker->seq = worker->acked = worker->reported = worker->reports_acked = 0;
    worker->unit = 0;
    worker->until = json_double_or(body, "train_until", 0);
    worker->quality = json_double_or(json_object_get(body, "hyperparameters"), "lr", 0.5);
    worker->told = worker->waits = false;
}

static void hear(struct worker *worker, const char *line, size_t length)
{
    struct message message;
    struct error err = {0};

    if (message_parse(line, length, false, &message, &err)) {
        fprintf(stderr, "night_worker: %s\n", err.text);
        _exit(1);
    }
    if (message.op == MSG_PLAN) {
        say(worker, "{\"op\":\"plan\",\"id\":%lld,\"ok\":true,\"mem_bytes\":1,\"pack_key\":\"\"}",
            (long long)json_int_or(message.body, "id", 0));
    } else if (message.op == MSG_ASSIGN) {
        begin(worker, message.body);
    } else if (message.run == worker->run && message.op == MSG_TRAIN_UNTIL) {
        worker->until = json_double_or(message.body, "unit", 0);
        worker->waits = false;
    } else if (message.run == worker->run && (message.op == MSG_STOP || message.op == MSG_PREEMPT)) {
        worker->told = true;
    } else if (message.run == worker->run && message.op == MSG_ACK) {
        int64_t reports = message.seq < worker->reported ? message.seq : worker->reported;
        worker->acked = message.seq;
        worker->counters->acknowledged += reports - worker->reports_acked;
        worker->reports_acked = reports;
        worker->counters->last_ns = now_ns();
    }
    message_done(&message);
}

static struct counters *map_counters(const char *folder)
{
    char path[4200];
    void *map;
    int fd;

    snprintf(path, sizeof path, "%s/%ld", folder, (long)getpid());
    fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0 || ftruncate(fd, sizeof(struct counters)))
        return NULL;
    map = mmap(NULL, sizeof(struct counters), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    return map == MAP_FAILED ? NULL : map;
}

int main(int argc, char **argv)
{
    static struct worker worker;
    const char *fd = getenv("FLEXP_FD");
    static char buffer[1 << 16];

    if (argc != 5 || !fd || !(worker.counters = map_counters(argv[4]))) {
        fprintf(stderr, "usage, as an entrypoint: night_worker WINDOW PER_UNIT yes|no COUNTERS\n");
        return 2;
    }
    worker.fd = atoi(fd);
    worker.window = atol(argv[1]);
    worker.per_unit = atol(argv[2]);
    worker.checkpoints = !strcmp(argv[3], "yes");
    lines_init(&worker.lines);
    say(&worker, "{\"op\":\"hello\",\"version\":1,\"pid\":%ld,\"program\":\"night_worker\",\"rank\":0,\"size\":1,"
                 "\"isa\":\"none\",\"capabilities\":[\"reuse\",\"plan\"]}", (long)getpid());
    flush(&worker);
    for (;;) {
        ssize_t n = recv(worker.fd, buffer, sizeof buffer, 0);
        size_t length;
        char *line;
        if (n <= 0 || lines_push(&worker.lines, buffer, (size_t)n))
            return 0;
        while ((line = lines_next(&worker.lines, &length)) != NULL)
            hear(&worker, line, length);
        train(&worker);
    }
}
