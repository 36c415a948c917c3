/* start.c - starting the orchestrator from a verb. It runs this same program as `flexp up --foreground`, executed anew
 * so that it keeps nothing of its caller: own session, forked twice, no terminal, no descriptors but the one it says
 * "ready" on, only the part of the environment below, stderr in HOME/orchestrator.log. Several callers may start at
 * once: one orchestrator gets the home's lock, the others' give up, and all callers wait for the one to answer.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/cli/cli_private.h"

#include "common/file.h"
#include "orchestrator/cli/client.h"
#include "orchestrator/cli/home.h"
#include "orchestrator/server/server.h"

#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define START_MS 30000
#define LOG_KEEP (8 << 20) /* a log longer than this is moved to orchestrator.log.1 first */

/* Names ending in '*' are prefixes. HOME locates the user's caches, XDG_RUNTIME_DIR the socket, TMPDIR the leases. */
static const char *const KEPT[] = {"PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "TZ", "TMPDIR",
                                   "XDG_RUNTIME_DIR", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "FLEXP_*",
                                   "ASAN_OPTIONS", "UBSAN_OPTIONS", "TSAN_OPTIONS", "LSAN_OPTIONS", NULL};
/* Meant for this caller alone. */
static const char *const DROPPED[] = {"FLEXP_HOME", "FLEXP_DATA", "FLEXP_FD", "FLEXP_WORKER", NULL};

extern char **environ;

static bool in_list(const char *const *list, const char *entry)
{
    size_t length = strcspn(entry, "=");

    for (; *list; list++) {
        size_t n = strlen(*list);
        if ((*list)[n - 1] == '*' ? !strncmp(*list, entry, n - 1) : n == length && !strncmp(*list, entry, n))
            return true;
    }
    return false;
}

/* Borrowed strings in a fresh list. */
static char **clean_environment(void)
{
    size_t n = 0;
    char **kept;

    while (environ[n])
        n++;
    kept = calloc(n + 1, sizeof *kept);
    n = 0;
    for (char **entry = environ; kept && *entry; entry++)
        if (in_list(KEPT, *entry) && !in_list(DROPPED, *entry))
            kept[n++] = *entry;
    return kept;
}

static int64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

bool start_lock_is_held(const char *home)
{
    char *path = format_text("%s/lock", home), line[256], kind[16];
    struct stat status;
    FILE *locks;
    bool held = false;

    /* Taking the lock to see whether it is free could make another one's start fail, so the kernel's list is read. */
    if (path && stat(path, &status) == 0 && (locks = fopen("/proc/locks", "re"))) {
        while (!held && fgets(line, sizeof line, locks)) {
            unsigned major_number, minor_number;
            unsigned long inode;
            if (sscanf(line, "%*s %15s %*s %*s %*s %x:%x:%lu", kind, &major_number, &minor_number, &inode) == 4)
                held = !strcmp(kind, "FLOCK") && inode == status.st_ino && major_number == major(status.st_dev) &&
                       minor_number == minor(status.st_dev);
        }
        fclose(locks);
    }
    free(path);
    return held;
}

/* In the grandchild; never returns. All memory was made before the fork. */
static void become(const char *path, char *const *argv, char *const *environment, int log_fd, int ready_fd)
{
    int null = open("/dev/null", O_RDWR);
    struct sigaction plain = {.sa_handler = SIG_DFL};
    sigset_t none;

    for (int number = 1; number < NSIG; number++)
        sigaction(number, &plain, NULL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    if (ready_fd == 0 || ready_fd == 1 || ready_fd == 2 || log_fd < 3)
        _exit(125); /* the caller moved both above 3 */
    dup2(null, 0);
    dup2(null, 1);
    dup2(log_fd, 2);
    dup2(ready_fd, 3);
    close_range(4, ~0u, 0);
    umask(022);
    execve(path, argv, environment);
    execve("/proc/self/exe", argv, environment); /* the file was replaced meanwhile */
    _exit(126);
}

static int open_log(const char *home, struct error *err)
{
    char *path = format_text("%s/orchestrator.log", home), *old = format_text("%s/orchestrator.log.1", home);
    struct stat status;
    int fd = -1, low;

    if (path && old) {
        if (stat(path, &status) == 0 && status.st_size > LOG_KEEP && !start_lock_is_held(home))
            rename(path, old);
        low = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
        fd = low < 0 ? -1 : fcntl(low, F_DUPFD_CLOEXEC, 10);
        if (fd < 0)
            fail(err, -errno, "cannot write %s: %s", path, strerror(errno));
        if (low >= 0)
            close(low);
    }
    free(path);
    free(old);
    return fd;
}

/* Starts one and waits for its word: 0 when ready; 1 when it gave up, with its text in err. */
static int launch(const char *home, const char *slots, int64_t deadline, struct error *err)
{
    const char *argv[] = {"flexp", "up", "--foreground", "--ready-fd", "3", "--home", home, slots ? "--slots" : NULL,
                          slots, NULL};
    char **environment = clean_environment(), word[sizeof err->text] = "", path[PATH_MAX] = "";
    int pipes[2] = {-1, -1}, log_fd = open_log(home, err), ready, code = 1;
    size_t used = 0;
    pid_t child;

    if (log_fd < 0 || !environment || pipe2(pipes, O_CLOEXEC)) {
        code = log_fd < 0 && err ? err->code : fail(err, -ENOMEM, "cannot start an orchestrator: out of memory");
        goto out;
    }
    if (readlink("/proc/self/exe", path, sizeof path - 1) < 0)
        path[0] = 0;
    ready = fcntl(pipes[1], F_DUPFD_CLOEXEC, 10);
    close(pipes[1]);
    pipes[1] = ready;
    fflush(NULL);
    child = fork();
    if (child == 0) {
        setsid();
        if (fork() == 0)
            become(path, (char *const *)argv, environment, log_fd, ready);
        _exit(0);
    }
    if (child < 0) {
        code = fail(err, -errno, "cannot start an orchestrator: %s", strerror(errno));
        goto out;
    }
    close(pipes[1]);
    pipes[1] = -1;
    while (waitpid(child, NULL, 0) < 0 && errno == EINTR)
        ;
    while (used < sizeof word - 1) {
        struct pollfd wait = {.fd = pipes[0], .events = POLLIN};
        int64_t left = deadline - now_ms();
        ssize_t n;
        if (poll(&wait, 1, left > 0 ? (int)left : 0) == 0) {
            code = fail(err, -ETIMEDOUT, "the orchestrator did not start within %d s; see %s/orchestrator.log",
                        START_MS / 1000, home);
            goto out;
        }
        n = read(pipes[0], word + used, sizeof word - 1 - used);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            break;
        used += (size_t)n;
        word[used] = 0;
        if (strchr(word, '\n'))
            break;
    }
    word[strcspn(word, "\n")] = 0;
    if (!strcmp(word, "ready"))
        code = 0;
    else if (*word)
        fail(err, -EIO, "%s", word);
    else
        fail(err, -EIO, "the orchestrator died while starting; see %s/orchestrator.log", home);
out:
    for (int i = 0; i < 2; i++)
        if (pipes[i] >= 0)
            close(pipes[i]);
    if (log_fd >= 0)
        close(log_fd);
    free(environment);
    return code;
}

int start_orchestrator(const char *home, const char *slots, bool *ret_started, struct error *err)
{
    int64_t deadline = now_ms() + START_MS;
    struct client *client = NULL;
    char owner[64];
    int code = server_raise_descriptors(err); /* for the one that is started; and here, that it is said in clear words */

    if (code == 0)
        code = file_make_folder(home, err);

    if (code == 0 && home_is_anothers(home, owner, sizeof owner))
        code = fail(err, -EPERM, "%s belongs to %s, and an orchestrator answers its owner alone: read there, or choose another"
                                 " --home", home, owner);
    while (code == 0) {
        code = client_open(home, true, &client, err);
        client_close(client);
        if (code == 0) {
            *ret_started = false;
            return 0;
        }
        if (code != -ECONNREFUSED)
            return code;
        /* One that holds the lock and does not answer is just starting or going down. */
        if (!start_lock_is_held(home)) {
            code = launch(home, slots, deadline, err);
            if (code == 0)
                *ret_started = true;
            if (code <= 0)
                return code;
            if (!start_lock_is_held(home)) { /* it did not lose a race: what it said stands */
                code = client_open(home, true, &client, NULL);
                client_close(client);
                if (code == 0)
                    *ret_started = false;
                return code == 0 ? 0 : err ? err->code : -EIO;
            }
        }
        if (now_ms() > deadline)
            return fail(err, -ETIMEDOUT, "an orchestrator holds %s/lock but does not answer; see %s/orchestrator.log",
                        home, home);
        poll(NULL, 0, 50);
        code = 0;
    }
    return code;
}
