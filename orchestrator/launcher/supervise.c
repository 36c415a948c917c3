/* supervise.c - see supervise.h. One thread, one poll(2); no library that could fail under it.
 * It must not die before what it watches, so it ignores what a terminal sends, offers the worker to the kernel first
 * when memory runs out, and never waits for the orchestrator: output that is not taken up stays in the worker's pipe,
 * commands are still heard.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/launcher/supervise.h"
#include "common/file.h"
#include "orchestrator/launcher/launcher_private.h"

#include <fcntl.h>
#include <limits.h>
#include <linux/close_range.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define LOG_BYTES_MAX (64LL << 20) /* of output.log: a program that prints for ever must not fill the disk */
#define KILL_LIMIT_MS 10000
#define DRAIN_LIMIT_MS 5000

struct supervisor {
    pid_t worker;
    int wait_status;
    bool worker_over, told_to_kill, forward_over;
    long long oom_before;
    int signals, output, log; /* -1: closed */
    long long log_bytes, log_lost; /* lost: for want of space, since the last that was kept */
    char pending[64 << 10]; /* read from the worker, not yet forwarded */
    size_t pending_at, pending_n;
    char command[PATH_MAX + 16];
    size_t command_n;
};

static long long now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

static void open_log(struct supervisor *s, const char *folder)
{
    char path[PATH_MAX];
    int fd;

    if (!strcmp(folder, "-") || (size_t)snprintf(path, sizeof path, "%s/output.log", folder) >= sizeof path)
        return;
    fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (fd < 0) {
        fprintf(stderr, "flexp: %s: %s\n", path, strerror(errno));
        return;
    }
    if (s->log >= 0)
        close(s->log);
    s->log = fd;
    s->log_bytes = lseek(fd, 0, SEEK_END);
}

static void keep(struct supervisor *s, const char *data, size_t n)
{
    static const char FULL[] = "\n(flexp: output.log is full; what follows is not kept)\n";
    char lost[100] = "";
    int rc = 0;

    if (s->log < 0 || s->log_bytes > LOG_BYTES_MAX)
        return;
    if (s->log_lost)
        snprintf(lost, sizeof lost, "\n(flexp: the disk was full; up to %lld bytes are missing here)\n", s->log_lost);
    if (*lost)
        rc = fd_write_all(s->log, lost, strlen(lost));
    if (!rc) {
        s->log_lost = 0;
        rc = fd_write_all(s->log, data, n);
    }
    if (rc == -ENOSPC || rc == -EDQUOT) { /* the run goes on, and its log when there is space */
        s->log_lost += (long long)n;
        return;
    }
    s->log_bytes = rc ? LOG_BYTES_MAX + 1 : s->log_bytes + (long long)n;
    if (!rc && s->log_bytes > LOG_BYTES_MAX)
        fd_write_all(s->log, FULL, sizeof FULL - 1);
}

/* Takes what the worker printed, unless the last lot is not forwarded yet. False when there is nothing more for now. */
static bool take_output(struct supervisor *s)
{
    ssize_t n;

    if (s->output < 0 || s->pending_n)
        return false;
    n = read(s->output, s->pending, sizeof s->pending);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return false;
    if (n <= 0) {
        close(s->output);
        s->output = -1;
        return false;
    }
    keep(s, s->pending, (size_t)n);
    s->pending_at = 0;
    s->pending_n = s->forward_over ? 0 : (size_t)n;
    return true;
}

static void forward(struct supervisor *s)
{
    ssize_t n = write(SUPERVISE_OUTPUT, s->pending + s->pending_at, s->pending_n);

    if (n > 0) {
        s->pending_at += (size_t)n;
        s->pending_n -= (size_t)n;
    } else if (n < 0 && errno != EAGAIN && errno != EINTR) {
        s->forward_over = true; /* nobody listens */
        s->pending_n = 0;
    }
}

static void reap(struct supervisor *s)
{
    int status;
    pid_t pid;

    while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
        if (pid == s->worker) {
            s->worker_over = true;
            s->wait_status = status;
        }
}

static void hear_commands(struct supervisor *s)
{
    char *end;
    ssize_t n = read(SUPERVISE_COMMANDS, s->command + s->command_n, sizeof s->command - 1 - s->command_n);

    if (n < 0 && (errno == EINTR || errno == EAGAIN))
        return;
    if (n <= 0) {
        s->told_to_kill = true;
        return;
    }
    s->command_n += (size_t)n;
    s->command[s->command_n] = 0;
    while ((end = strchr(s->command, '\n')) != NULL) {
        *end = 0;
        if (!strncmp(s->command, "folder ", 7))
            open_log(s, s->command + 7);
        s->command_n -= (size_t)(end + 1 - s->command);
        memmove(s->command, end + 1, s->command_n + 1);
    }
    if (s->command_n == sizeof s->command - 1)
        s->command_n = 0; /* no command is so long */
}

/* Until no child is left, for orphans of the whole tree become our children. A process that cannot be killed (it
 * changed its user) is given up after a while. */
static void kill_all(struct supervisor *s)
{
    long long limit = now_ms() + KILL_LIMIT_MS;

    while (now_ms() < limit) {
        int status;
        pid_t pid;
        size_t found = kill_descendants(getpid());
        while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
            if (pid == s->worker) {
                s->worker_over = true;
                s->wait_status = status;
            }
        if (pid < 0 && errno == ECHILD)
            return;
        poll(NULL, 0, found ? 2 : 1);
    }
    fprintf(stderr, "flexp: some processes of the worker %d could not be killed\n", (int)s->worker);
}

static void drain(struct supervisor *s)
{
    long long limit = now_ms() + DRAIN_LIMIT_MS;

    while (now_ms() < limit) {
        struct pollfd out = {.fd = SUPERVISE_OUTPUT, .events = POLLOUT};
        while (take_output(s))
            ;
        if (!s->pending_n)
            return;
        if (poll(&out, 1, 100) > 0)
            forward(s);
    }
}

static void write_status(const char *text)
{
    /* A status that nobody reads is no failure. */
    if (fd_write_all(SUPERVISE_STATUS, text, strlen(text)))
        errno = 0;
}

static int report_end(struct supervisor *s, bool killed)
{
    char text[128];

    if (WIFSIGNALED(s->wait_status)) {
        bool oom = !killed && WTERMSIG(s->wait_status) == SIGKILL && oom_kills() > s->oom_before;
        snprintf(text, sizeof text, "{\"signal\":%d,\"oom\":%s}\n", WTERMSIG(s->wait_status), oom ? "true" : "false");
    } else {
        snprintf(text, sizeof text, "{\"exit\":%d}\n", WEXITSTATUS(s->wait_status));
    }
    write_status(text);
    return WIFSIGNALED(s->wait_status) ? 128 + WTERMSIG(s->wait_status) : WEXITSTATUS(s->wait_status);
}

static int watch(struct supervisor *s)
{
    bool killed;

    while (!s->worker_over && !s->told_to_kill) {
        struct pollfd fds[] = {
            {.fd = s->signals, .events = POLLIN},
            {.fd = SUPERVISE_COMMANDS, .events = POLLIN},
            {.fd = s->pending_n ? -1 : s->output, .events = POLLIN},
            {.fd = s->pending_n ? SUPERVISE_OUTPUT : -1, .events = POLLOUT},
        };
        if (poll(fds, 4, -1) < 0)
            continue;
        if (fds[0].revents) {
            struct signalfd_siginfo info;
            if (read(s->signals, &info, sizeof info) == sizeof info && info.ssi_signo == SIGTERM)
                s->told_to_kill = true;
            reap(s);
        }
        if (fds[1].revents)
            hear_commands(s);
        if (fds[2].revents)
            take_output(s);
        if (fds[3].revents)
            forward(s);
    }
    killed = !s->worker_over;
    kill_all(s);
    drain(s);
    return report_end(s, killed);
}

static int pin(const char *cores)
{
    cpu_set_t *set;
    size_t size = CPU_ALLOC_SIZE(1 << 16);
    int rc = 0;

    if (!strcmp(cores, "-"))
        return 0;
    set = CPU_ALLOC(1 << 16);
    if (!set)
        return -ENOMEM;
    CPU_ZERO_S(size, set);
    for (const char *at = cores; *at; at += *at == ',') {
        char *end;
        unsigned long core = strtoul(at, &end, 10);
        if (end == at || core >= 1 << 16) {
            rc = -EINVAL;
            break;
        }
        CPU_SET_S(core, size, set);
        at = end;
    }
    if (!rc && sched_setaffinity(0, size, set))
        rc = -errno;
    CPU_FREE(set);
    return rc;
}

/* The first descriptor that is not meant for us: there is a lease for each core. */
static unsigned first_stranger(const char *cores)
{
    unsigned n = strcmp(cores, "-") != 0;

    for (const char *at = cores; *at; at++)
        n += *at == ',';
    return SUPERVISE_LEASES + n;
}

/* In the worker's process; says on failed why it did not become the program: errno, negative where the folder was
 * why. */
static void become(const char *cwd, char **argv, pid_t supervisor, int output, int failed)
{
    sigset_t none;
    char text[64];
    int score, code;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != supervisor)
        _exit(127);
    sigemptyset(&none);
    for (int number = 1; number < NSIG; number++)
        signal(number, SIG_DFL);
    sigprocmask(SIG_SETMASK, &none, NULL);
    score = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (score >= 0)
        fd_write_all(score, "300", 3);
    snprintf(text, sizeof text, "{\"pid\":%d}\n", (int)getpid());
    write_status(text); /* from here, so that it comes before all that the program says */
    dup2(output, 1);
    dup2(output, 2);
    fcntl(SUPERVISE_PROTOCOL, F_SETFD, 0);
    close_range(SUPERVISE_PROTOCOL + 1, ~0U, CLOSE_RANGE_CLOEXEC);
    if (strcmp(cwd, "-") && chdir(cwd)) {
        code = -errno;
    } else {
        execvp(argv[0], argv);
        code = errno;
    }
    fd_write_all(failed, &code, sizeof code);
    _exit(127);
}

static int report_no_start(const char *program, int code)
{
    char name[600], *text;
    size_t n = 0;

    for (const char *at = program; *at && n < sizeof name - 2; at++) { /* a JSON string */
        if (*at == '"' || *at == '\\')
            name[n++] = '\\';
        name[n++] = (unsigned char)*at < ' ' ? '?' : *at;
    }
    name[n] = 0;
    text = format_text("{\"exec\":\"%s: %s\"}\n", name, strerror(code));
    if (text)
        write_status(text);
    free(text);
    return 127;
}

static int start(struct supervisor *s, const char *cwd, char **argv)
{
    int output[2], failed[2], code = 0;
    pid_t self = getpid();

    if (pipe2(output, O_CLOEXEC) || pipe2(failed, O_CLOEXEC))
        return errno;
    s->worker = fork();
    if (s->worker < 0)
        return errno;
    if (s->worker == 0)
        become(cwd, argv, self, output[1], failed[1]);
    close(output[1]);
    close(failed[1]);
    close(SUPERVISE_PROTOCOL); /* so that its end is the worker's */
    while (read(failed[0], &code, sizeof code) < 0 && errno == EINTR)
        ;
    close(failed[0]);
    s->output = output[0];
    fcntl(s->output, F_SETFL, O_NONBLOCK);
    return code;
}

int supervise_main(int argc, char **argv)
{
    struct supervisor *s;
    sigset_t heard;
    int rc;

    if (argc < 6) {
        fprintf(stderr, "usage: flexp supervise CORES FOLDER CWD PROGRAM [ARGUMENT...] (flexp does so by itself)\n");
        return 2;
    }
    s = calloc(1, sizeof *s);
    if (!s)
        return report_no_start(argv[5], ENOMEM);
    s->log = -1;
    s->oom_before = oom_kills();
    signal(SIGPIPE, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    signal(SIGINT, SIG_IGN);
    sigemptyset(&heard);
    sigaddset(&heard, SIGCHLD);
    sigaddset(&heard, SIGTERM);
    sigprocmask(SIG_BLOCK, &heard, NULL);
    close_range(first_stranger(argv[2]), ~0U, 0);
    close_range(SUPERVISE_LEASES, ~0U, CLOSE_RANGE_CLOEXEC);
    for (int fd = SUPERVISE_STATUS; fd <= SUPERVISE_COMMANDS; fd++)
        fcntl(fd, F_SETFD, FD_CLOEXEC);
    fcntl(SUPERVISE_OUTPUT, F_SETFL, O_NONBLOCK);
    s->signals = signalfd(-1, &heard, SFD_CLOEXEC | SFD_NONBLOCK);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    rc = pin(argv[2]);
    if (rc)
        fprintf(stderr, "flexp: cannot pin to the cores %s: %s\n", argv[2], strerror(-rc));
    open_log(s, argv[3]);
    rc = s->signals < 0 ? errno : start(s, argv[4], argv + 5);
    if (rc) {
        rc = report_no_start(rc < 0 ? argv[4] : argv[5], abs(rc));
        kill_all(s);
    } else {
        rc = watch(s);
    }
    free(s);
    return rc;
}
