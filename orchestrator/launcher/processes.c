/* processes.c - what /proc and the control group say: descendants, marked children, kills for want of memory.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/launcher/launcher_private.h"

#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

struct process {
    pid_t pid, parent, session;
    unsigned long long started; /* in ticks since the boot: pid and this name one process for ever */
    bool below; /* a descendant of the root asked for */
};

/* Up to room - 1 bytes of a small file, 0-terminated. Negative when it cannot be read. */
static ssize_t read_small(const char *path, char *ret, size_t room)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    size_t used = 0;
    ssize_t n = -1;

    if (fd < 0)
        return -1;
    while (used < room - 1 && (n = read(fd, ret + used, room - 1 - used)) > 0)
        used += (size_t)n;
    close(fd);
    ret[used] = 0;
    return n < 0 && !used ? -1 : (ssize_t)used;
}

/* By /proc/PID/stat; the name in it may hold anything, parentheses too. False when the process is gone. */
static bool read_process(pid_t pid, struct process *ret)
{
    char path[64], text[512];
    const char *end;
    int parent, group, session;
    unsigned long long started;
    char state;

    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    if (read_small(path, text, sizeof text) <= 0)
        return false;
    end = strrchr(text, ')');
    if (!end || sscanf(end + 1, " %c %d %d %d %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %llu", &state, &parent,
                       &group, &session, &started) != 5)
        return false;
    *ret = (struct process){.pid = pid, .parent = parent, .session = session, .started = started};
    return true;
}

static size_t list_processes(struct process **ret)
{
    struct process *list = NULL;
    size_t n = 0, room = 0;
    DIR *proc = opendir("/proc");
    struct dirent *entry;

    while (proc && (entry = readdir(proc)) != NULL) {
        pid_t pid = isdigit((unsigned char)entry->d_name[0]) ? (pid_t)atoi(entry->d_name) : 0;
        struct process process;
        if (pid <= 0 || !read_process(pid, &process))
            continue;
        if (n == room) {
            struct process *grown = realloc(list, (room = room ? 2 * room : 256) * sizeof *list);
            if (!grown)
                break;
            list = grown;
        }
        list[n++] = process;
    }
    if (proc)
        closedir(proc);
    *ret = list;
    return n;
}

/* The process may have ended since it was listed, and its number may be another's: the descriptor holds whoever has the number
 * now, and only then it is looked at who that is. */
static void kill_listed(const struct process *process)
{
    int fd = (int)syscall(SYS_pidfd_open, process->pid, 0);
    struct process now;

    if (read_process(process->pid, &now) && now.started == process->started) {
        if (fd < 0)
            kill(process->pid, SIGKILL); /* no descriptor is left for it: nothing better can be done */
        else
            syscall(SYS_pidfd_send_signal, fd, SIGKILL, NULL, 0);
    }
    if (fd >= 0)
        close(fd);
}

size_t kill_descendants(pid_t root)
{
    struct process *list;
    size_t n = list_processes(&list), found = 0;
    bool more = true;

    while (more) { /* one level of the tree a pass, or more */
        more = false;
        for (size_t i = 0; i < n; i++) {
            bool below = list[i].parent == root;
            for (size_t j = 0; !list[i].below && !below && j < n; j++)
                below = list[j].below && list[j].pid == list[i].parent;
            if (below && !list[i].below)
                list[i].below = more = true;
        }
    }
    for (size_t i = 0; i < n; i++)
        if (list[i].below) {
            kill_listed(&list[i]);
            found++;
        }
    free(list);
    return found;
}

/* An entry that is the mark, or begins with it. */
static bool has_mark(pid_t pid, const char *mark, bool whole)
{
    static const size_t ROOM = 128 << 10;
    char path[64], *text = malloc(ROOM);
    bool found = false;
    ssize_t n;

    snprintf(path, sizeof path, "/proc/%d/environ", (int)pid);
    n = text ? read_small(path, text, ROOM) : -1;
    for (ssize_t at = 0; at < n && !found; at += (ssize_t)strlen(text + at) + 1)
        found = whole ? !strcmp(text + at, mark) : !strncmp(text + at, mark, strlen(mark));
    free(text);
    return found;
}

void kill_marked_children(const char *mark, pid_t session)
{
    /* Each pass may bring up grandchildren; a process that cannot be killed must not hold us for ever. */
    for (int pass = 0; pass < 100; pass++) {
        struct process *list;
        size_t n = list_processes(&list), found = 0;
        for (size_t i = 0; i < n; i++)
            if (list[i].parent == getpid() && (list[i].session == session || has_mark(list[i].pid, mark, true))) {
                kill_descendants(list[i].pid);
                if (kill(list[i].pid, SIGKILL) == 0)
                    waitpid(list[i].pid, NULL, 0);
                found++;
            }
        free(list);
        if (!found)
            return;
    }
}

/* "flexp supervise ..." */
static bool is_supervisor(pid_t pid)
{
    char path[64], text[64] = "";

    snprintf(path, sizeof path, "/proc/%d/cmdline", (int)pid);
    return read_small(path, text, sizeof text) > 0 && !strcmp(text + strlen(text) + 1, "supervise");
}

size_t kill_leftovers(const char *mark)
{
    size_t killed = 0;

    /* Passes, for one may have started another meanwhile; one that cannot be killed must not hold us for ever. A supervisor that
     * lives is at work on the same thing, and finds what hides its mark: it has some passes' time to end by itself. */
    for (int pass = 0; pass < 100; pass++) {
        struct process *list;
        size_t n = list_processes(&list), found = 0;
        for (size_t i = 0; i < n; i++)
            if (list[i].pid != getpid() && has_mark(list[i].pid, mark, false)) {
                if (pass >= 80 || !is_supervisor(list[i].pid))
                    kill_listed(&list[i]);
                found++;
            }
        free(list);
        if (!found)
            break;
        killed = found > killed ? found : killed;
        poll(NULL, 0, 2);
    }
    return killed;
}

/* Our path in the hierarchy of a controller; "" is the unified one. */
static bool cgroup_path(const char *controller, char *ret, size_t room)
{
    char text[8192], *line, *rest = text;

    if (read_small("/proc/self/cgroup", text, sizeof text) <= 0)
        return false;
    while ((line = strsep(&rest, "\n")) != NULL) {
        char *names = strchr(line, ':'), *path = names ? strchr(names + 1, ':') : NULL, *name;
        if (!path)
            continue;
        *path++ = 0;
        names++;
        if (!*controller && !*names) {
            snprintf(ret, room, "%s", path);
            return true;
        }
        while (*controller && (name = strsep(&names, ",")) != NULL)
            if (!strcmp(name, controller)) {
                snprintf(ret, room, "%s", path);
                return true;
            }
    }
    return false;
}

bool cgroup_read_at(const char *controller, const char *file, unsigned level, char *ret, size_t room, bool *ret_root)
{
    char path[PATH_MAX / 2], full[PATH_MAX];

    *ret_root = true;
    if (!cgroup_path(controller, path, sizeof path))
        return false;
    while (level--) {
        char *slash = strrchr(path, '/');
        if (!slash || !path[1])
            return false;
        *(slash == path ? slash + 1 : slash) = 0;
    }
    *ret_root = !strrchr(path, '/') || !path[1];
    snprintf(full, sizeof full, "/sys/fs/cgroup/%s%s%s/%s", controller, *controller ? "/" : "", path, file);
    return read_small(full, ret, room) > 0;
}

static bool cgroup_read(const char *controller, const char *file, char *ret, size_t room)
{
    bool root = false;

    for (unsigned level = 0; !root; level++)
        if (cgroup_read_at(controller, file, level, ret, room, &root))
            return true;
    return false;
}

static bool find_counter(const char *text, const char *name, long long *ret)
{
    size_t length = strlen(name);

    for (const char *at = text; at && *at; at = strchr(at, '\n') ? strchr(at, '\n') + 1 : NULL)
        if (!strncmp(at, name, length) && at[length] == ' ') {
            *ret = atoll(at + length + 1);
            return true;
        }
    return false;
}

/* The kernel counts a kill in the victim's own group (and, in the unified hierarchy, in all above it). */
long long oom_kills(void)
{
    char text[32 << 10];
    long long count;

    if (cgroup_read("", "memory.events", text, sizeof text) && find_counter(text, "oom_kill", &count))
        return count;
    if (cgroup_read("memory", "memory.oom_control", text, sizeof text) && find_counter(text, "oom_kill", &count))
        return count;
    if (read_small("/proc/vmstat", text, sizeof text) > 0 && find_counter(text, "oom_kill", &count))
        return count;
    return 0;
}

/* --- what they use ------------------------------------------------------------------------------------------------ */

/* user and system time, of itself and of children it has waited for, in ticks; resident pages. */
static bool read_use(pid_t pid, unsigned long long *ret_ticks, unsigned long long *ret_started, long long *ret_pages)
{
    unsigned long long user, system, started;
    long long waited_user, waited_system, pages;
    char path[64], text[512];
    const char *end;

    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    if (read_small(path, text, sizeof text) <= 0 || !(end = strrchr(text, ')')) ||
        sscanf(end + 1, " %*c %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %llu %llu %lld %lld %*s %*s %*s %*s %llu %*s %lld", &user,
               &system, &waited_user, &waited_system, &started, &pages) != 6)
        return false;
    *ret_ticks = user + system + (unsigned long long)(waited_user + waited_system);
    *ret_started = started;
    *ret_pages = pages;
    return true;
}

/* Adds pid and its descendants, by the lists of children that the kernel keeps for each thread. */
static void add_use(pid_t pid, struct process_use *use, int depth)
{
    unsigned long long ticks, started;
    long long pages;
    char path[64], text[4096];
    struct dirent *entry;
    DIR *tasks;

    if (!read_use(pid, &ticks, &started, &pages))
        return;
    if (!depth)
        use->started = started;
    use->cpu_seconds += (double)ticks / (double)sysconf(_SC_CLK_TCK);
    use->memory_bytes += pages * sysconf(_SC_PAGESIZE);
    if (use->pids_n < PROCESS_USE_PIDS)
        use->pids[use->pids_n++] = pid;
    snprintf(path, sizeof path, "/proc/%d/task", (int)pid);
    tasks = depth < 16 ? opendir(path) : NULL;
    while (tasks && (entry = readdir(tasks)) != NULL) {
        char *at = text;
        if (entry->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, "/proc/%d/task/%.20s/children", (int)pid, entry->d_name);
        if (read_small(path, text, sizeof text) <= 0)
            continue;
        for (long child; (child = strtol(at, &at, 10)) > 0;)
            add_use((pid_t)child, use, depth + 1);
    }
    if (tasks)
        closedir(tasks);
}

bool process_use(pid_t pid, struct process_use *ret)
{
    *ret = (struct process_use){0};
    if (pid > 0)
        add_use(pid, ret, 0);
    return ret->pids_n > 0;
}
