/* launcher_private.h - what the files of launcher/ share.
 * slots.c finds cores, gpu.c GPUs and self_check.c which of them can be used, leases.c leases them, processes.c knows
 * /proc and control groups, environment.c makes the workers' environment, worker.c carries one worker's pipes, plan.c asks
 * without a loop.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_ORCHESTRATOR_LAUNCHER_PRIVATE_H
#define FLEXP_ORCHESTRATOR_LAUNCHER_PRIVATE_H

#include "common/lines.h"
#include "common/topology.h"
#include "orchestrator/launcher/launcher.h"

#include <sys/types.h>

#define LAST_LINES 10
#define LAST_LINE_LENGTH 200

/* The last lines that a program wrote, for the text of its end. */
struct tail {
    char lines[LAST_LINES][LAST_LINE_LENGTH + 1];
    size_t n; /* lines ever added */
};
void tail_add(struct tail *tail, const char *line);
/* Its last words are that it found no memory. */
bool tail_tells_memory(const struct tail *tail);
/* HEAD, then "\n  LINE" for each; the caller frees. */
char *tail_text(const struct tail *tail, const char *head);

struct slot {
    struct slot_info info;
    int cpu;   /* the core to pin to */
    int lease; /* descriptor, or -1 */
    unsigned workers;
};

struct launcher {
    uv_loop_t *loop;
    char *home, *lease_folder;
    char mark[48]; /* "FLEXP_WORKER=" and the home's hash: begins the mark of every worker of this home */
    struct launcher_events events;
    void *arg;
    struct slot *slots;
    struct slot_info *infos; /* what launcher_slots shows, kept equal to slots[].info */
    size_t slots_n, limit; /* limit: of cores to hold */
    size_t gpus_n;         /* the last of the slots */
    struct gpu_check *checks;
    size_t checks_n;
    struct worker *workers;
    uint64_t started; /* workers ever started */
    bool closing, held;
    void (*closed)(void *arg);
    void *closed_arg;
};
/* After a worker's last close callback. */
void launcher_worker_gone(struct launcher *launcher);

/* --- slots.c --- */
struct core {
    int cpu;
    struct cpu_place place;
};
/* The cores this process may use: one thread of every core first, neighbours together. The caller frees. */
int cores_find(struct core **ret, size_t *ret_n, struct error *err);
/* The control group's cpu quota in whole cores, at least 1; 0 when there is none. */
size_t cores_quota(void);

/* --- leases.c --- */
const char *lease_folder(void);
/* 0, or -EBUSY with holder filled ("pid 12, home /x"), or an error. */
int lease_take(const char *folder, const char *name, const char *home, int *ret_fd, char *holder, size_t room,
               struct error *err);
void lease_give(int fd);

/* --- processes.c --- */
/* SIGKILL to every descendant of process root (not itself). Returns how many were found. */
size_t kill_descendants(pid_t root);
/* Kills and reaps children of this process that are of a session or whose environment has the entry MARK
 * ("NAME=VALUE"): what a supervisor that was itself killed left behind. */
void kill_marked_children(const char *mark, pid_t session);
/* SIGKILL to every process whose environment has an entry that begins with mark. Returns how many there were. */
size_t kill_leftovers(const char *mark);
/* Processes killed for want of memory so far, in this control group or, where that cannot be read, on the machine. */
long long oom_kills(void);
/* Reads a file of this process's control group (level 0) or of that so many levels above it; controller "": the unified
 * hierarchy. False where that cannot be read; ret_root: there is none above it. */
bool cgroup_read_at(const char *controller, const char *file, unsigned level, char *ret, size_t room, bool *ret_root);

/* --- gpu.c --- */
bool gpu_is_visible(const char *visible, unsigned index, const char *uuid);

/* --- self_check.c --- */
/* Of each of these GPUs; the caller frees. Returns how many: n, or 0 when out of memory. */
size_t gpus_check(const struct gpu_info *gpus, size_t n, struct gpu_check **ret);

/* --- worker.c --- */
void launcher_kill_all(struct launcher *launcher);

/* --- environment.c --- */
/* NULL-terminated; the caller frees with environment_free. extra (or NULL) comes last and wins. */
char **environment_new(const char *const *extra);
void environment_free(char **environment);
/* The program to run as supervisor, and the built-in trainer. */
const char *supervisor_path(void);
int trainer_path(char *ret, size_t room, struct error *err);

#endif
