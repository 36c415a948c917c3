/* main.c - flexp-trainer, the built-in worker: it takes run after run from the orchestrator that started it.
 * SPDX-License-Identifier: Apache-2.0 */
#include "common/log.h"
#include "common/version.h"
#include "trainer/backend/cuda/cuda.h"
#include "trainer/worker/run.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char HELP[] =
    "flexp-trainer: the worker that flexp starts to train trials.\n"
    "\n"
    "usage: flexp-trainer [--version] [--help]\n"
    "       flexp-trainer plan FILE    what computes each layer of an experiment's network here, and how fast:\n"
    "                                  the same as `flexp model FILE --kernels`\n"
    "       flexp-trainer selftest --backend cuda [--help]\n"
    "\n"
    "It speaks the trial protocol (docs/protocol.md) on the socket whose descriptor is in FLEXP_FD and ends when that\n"
    "socket does. To run an experiment, type `flexp create -f FILE`.\n";

/* The set that this process computes with, by opening the backend once, without threads' cores known. */
static int find_isa(char *ret, size_t room, struct error *err)
{
    const struct backend_options options = {.cores = (const int[]){-1}, .cores_n = 1};
    struct backend *backend;
    int rc = BACKEND_CPU.open(&options, &backend, err);

    if (rc)
        return rc;
    snprintf(ret, room, "%s", BACKEND_CPU.info(backend).isa);
    BACKEND_CPU.close(backend);
    return 0;
}

/* Where the environment says what cannot be (-EINVAL), whoever asks is told so: a run by the session, which opens the backend. */
static int serve(int fd)
{
    struct connection *connection;
    struct planner planner = {0};
    struct session *session;
    struct message message;
    struct error err, refused = {0};
    char isa[32] = "";

    if (find_isa(isa, sizeof isa, &refused) && refused.code != -EINVAL) {
        log_error("%s", refused.text);
        return 1;
    }
    if (!refused.code)
        (void)cuda_settings(&refused);
    if (session_new(&session, &err) || connection_open(fd, *isa ? isa : NULL, &connection, &err)) {
        log_error("%s", err.text);
        return 1;
    }
    for (;;) { /* the connection ends the process */
        connection_next(connection, &message);
        if (message.op == MSG_PLAN && refused.code) {
            plan_refuse(connection, &message, refused.text);
            message_done(&message);
        } else if (message.op == MSG_PLAN) {
            plan_answer(&planner, connection, &message);
            message_done(&message);
        } else {
            planner_done(&planner);
            run_start(connection, session, &message);
        }
    }
}

/* Experiment files are read by flexp, which asks this program through the protocol. */
static int show_plan(int argc, char **argv)
{
    char path[4096], *slash;
    ssize_t n = readlink("/proc/self/exe", path, sizeof path - sizeof "flexp");
    char **arguments = calloc((size_t)argc + 3, sizeof *arguments);
    int at = 0;
    bool named = false;

    for (int i = 2; i < argc; i++)
        named = named || argv[i][0] != '-' || !strcmp(argv[i], "-") || !strcmp(argv[i], "--help") || !strcmp(argv[i], "-h");
    if (!named) {
        fputs("flexp-trainer: plan wants FILE: flexp-trainer plan FILE\n", stderr);
        free(arguments);
        return 2;
    }
    path[n > 0 ? n : 0] = '\0';
    slash = strrchr(path, '/');
    if (!slash || !arguments) {
        fputs("flexp-trainer: cannot tell where this program is\n", stderr);
        return 2;
    }
    strcpy(slash + 1, "flexp");
    arguments[at++] = path;
    arguments[at++] = "model";
    arguments[at++] = "--kernels";
    for (int i = 2; i < argc; i++)
        arguments[at++] = argv[i];
    execv(path, arguments);
    fprintf(stderr, "flexp-trainer: cannot run %s: %s\n", path, strerror(errno));
    free(arguments);
    return 2;
}

int main(int argc, char **argv)
{
    const char *fd = getenv("FLEXP_FD");
    char *end;
    long number;

    if (argc > 1 && !strcmp(argv[1], "--version")) {
        puts("flexp-trainer " FLEXP_VERSION);
        return 0;
    }
    if (argc > 1 && !strcmp(argv[1], "plan"))
        return show_plan(argc, argv);
    if (argc > 1 && !strcmp(argv[1], "selftest"))
        return cuda_selftest(argc - 1, argv + 1);
    if (argc > 1) {
        bool help = !strcmp(argv[1], "--help") || !strcmp(argv[1], "-h");
        if (!help)
            fprintf(stderr, "flexp-trainer: unknown argument \"%s\"\n", argv[1]);
        fputs(HELP, help ? stdout : stderr);
        return help ? 0 : 2;
    }
    if (!fd) {
        fputs("flexp-trainer: FLEXP_FD is not set: this program is started by flexp (type `flexp help`)\n", stderr);
        return 2;
    }
    number = strtol(fd, &end, 10);
    if (*end || end == fd || number < 0 || number > 1 << 20) {
        fprintf(stderr, "flexp-trainer: FLEXP_FD must be a descriptor's number, got \"%s\"\n", fd);
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    return serve((int)number);
}
