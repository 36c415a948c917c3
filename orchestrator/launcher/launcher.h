/* launcher.h - supplies slots and makes workers connect. The local launcher: slots are cores (hwloc; those this process
 * may use) and GPUs on which the trainer's self-check passes; leased machine-wide by flock on a file per core, or per UUID of a
 * GPU, in /tmp/flexp-slots so that two homes never share one, while they are needed: the caller leases when something wants to run and gives back when all is
 * idle. A lease is inherited by the supervisors on it, so it outlasts an orchestrator that was killed until its
 * processes are gone. Workers run under a supervisor (`flexp` itself, by the hidden verb "supervise": a subreaper that
 * pins to the slots' cores, passes the protocol socket as FLEXP_FD, keeps stdout and stderr in run_dir/output.log while
 * forwarding lines, reports the exit status, and kills all descendants when the worker ends or the orchestrator is
 * gone). The environment of workers is made anew: PATH, HOME, LANG, TMPDIR, LD_LIBRARY_PATH, CUDA_VISIBLE_DEVICES,
 * FLEXP_*. For tests: FLEXP_CORES=N pretends that the machine has N cores, FLEXP_LEASES=FOLDER keeps the leases there,
 * FLEXP_SUPERVISOR=PROGRAM is run in place of /proc/self/exe, FLEXP_HELLO_MS replaces the 30 s of launcher_ask_plan.
 * A worker that was released stays warm on its slots and takes the next run there without a new process.
 * Handles are embedded; callbacks run on the loop's thread; a launcher_worker is freed in its last close callback.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_ORCHESTRATOR_LAUNCHER_H
#define FLEXP_ORCHESTRATOR_LAUNCHER_H

#include "common/error.h"
#include "common/json.h"
#include "orchestrator/scheduler/scheduler.h"

#include <stdatomic.h>
#include <sys/types.h>
#include <uv.h>

struct launcher;
struct worker;

struct slot_info {
    enum slot_kind kind;
    int index;        /* core number of the operating system, or GPU index */
    char name[16];    /* "cpu:3", "cuda:0" */
    char uuid[80];    /* of a GPU; "" of a core */
    char holder[96];  /* when it could not be leased: who holds it (pid and home); "" when it is ours */
    bool ours;        /* leased by this launcher */
    unsigned cache, node; /* of a core: which third-level cache and NUMA node it has (topology.h) */
};

/* Of a GPU, when the launcher was made: whether the trainer can use it. text: "", or what a person should know. */
enum self_check {
    SELF_CHECK_PASSED,
    SELF_CHECK_FULL, /* not made: other processes hold all its memory. It is a slot all the same. */
    SELF_CHECK_FAILED
};
struct gpu_check {
    int index;
    char uuid[80];
    enum self_check verdict;
    char text[256];
};

struct launcher_events {
    /* One whole line of the protocol. */
    void (*message)(void *arg, struct worker *worker, char *line, size_t length);
    /* A line of the worker's own output. */
    void (*output)(void *arg, struct worker *worker, const char *line);
    /* All over: exit status known, every pipe at its end. reason: exit, signal, out_of_memory, lost_protocol, lost;
     * text for a person: what happened, and in further lines the last lines of output. The worker must not be used
     * after this returns. */
    void (*ended)(void *arg, struct worker *worker, const char *reason, const char *text);
};

/* slots: how many at most ("" or NULL: all cores that this process may use, within the control group's quota; "cpu",
 * "gpu", or a number). home is written into the leases. Leases nothing yet. -EINVAL, -ENODEV. */
int launcher_new(uv_loop_t *loop, const char *home, const char *slots, const struct launcher_events *events, void *arg,
                 struct launcher **ret, struct error *err);
/* Kills what workers of this home left behind whose orchestrator and supervisor were killed at the same instant. Only while
 * the home's lock is held and before any worker is started: then nothing of this home may run. Returns how many there were. */
size_t launcher_kill_leftovers(struct launcher *launcher);
/* Kills what is left; closed() runs when the last worker is gone. */
void launcher_close(struct launcher *launcher, void (*closed)(void *arg), void *arg);

/* All slots there are, leased or not. */
size_t launcher_slots(const struct launcher *launcher, const struct slot_info **ret);
/* Of all GPUs that are visible, slots or not; none where slots were to be "cpu". */
size_t launcher_checks(const struct launcher *launcher, const struct gpu_check **ret);
/* How many it may hold at once when nobody else holds any. */
size_t launcher_capacity(const struct launcher *launcher, enum slot_kind kind);
/* Leases what is free, up to the capacity; returns how many slots are ours now. */
size_t launcher_lease(struct launcher *launcher);
/* Gives back every lease on which no worker stands. */
void launcher_unlease(struct launcher *launcher);

/* argv: the program (NULL-terminated; NULL for the built-in trainer beside this executable, or FLEXP_TRAINER). env:
 * extra "NAME=VALUE", or NULL. folder: where output.log goes; it exists. cwd: the working directory, NULL: folder. */
int launcher_start(struct launcher *launcher, const size_t *slots, size_t n, const char *const *argv,
                   const char *const *env, const char *folder, const char *cwd, void *data, struct worker **ret,
                   struct error *err);
/* Queues one message (compact JSON and a newline). */
void worker_send(struct worker *worker, const json_t *message);
/* While held, nothing that workers say or print is read: they wait when what lies between is full. Their ends are heard. */
void launcher_hold(struct launcher *launcher, bool hold);
void worker_kill(struct worker *worker); /* SIGKILL to all of it; ended() follows */
/* Closes the protocol socket: an idle worker then exits by itself; killed after 5 s. */
void worker_dismiss(struct worker *worker);
void *worker_data(struct worker *worker);
void worker_set_data(struct worker *worker, void *data);
/* From here on output.log is the one in this folder (the worker took another run). */
void worker_set_folder(struct worker *worker, const char *folder);
int64_t worker_pid(const struct worker *worker); /* 0 until it has started */
size_t worker_slots(const struct worker *worker, const size_t **ret);

/* What a process and all its descendants use now. */
#define PROCESS_USE_PIDS 64
struct process_use {
    unsigned long long started; /* of pid itself, in ticks since the boot: tells it from a later process of its number */
    double cpu_seconds;         /* so far, with that of children that have ended */
    int64_t memory_bytes;       /* resident; pages that several share are counted for each */
    pid_t pids[PROCESS_USE_PIDS];
    size_t pids_n;
};
/* False when it is gone. Takes some tens of microseconds a process. */
bool process_use(pid_t pid, struct process_use *ret);
/* GPUs on which these processes compute, by NVML (libnvidia-ml.so.1, or what FLEXP_NVML names), opened at run time: mean
 * utilisation 0..1 and memory of theirs. False where there is no such library, GPU or process. */
bool gpu_use(const pid_t *pids, size_t n, double *ret_utilisation, int64_t *ret_memory_bytes);

#define GPU_PROCESSES 16

struct gpu_info {
    int index;
    char uuid[80], name[96];
    int64_t total_bytes, used_bytes; /* 0: not known */
    size_t processes_n;
    struct {
        int pid;
        int64_t bytes; /* -1: not known */
    } processes[GPU_PROCESSES];
};
/* The GPUs that CUDA_VISIBLE_DEVICES lets this process see (all where it is not set), with what uses them, by NVML. The
 * caller frees. 0 where there is no such library. */
size_t gpu_list(struct gpu_info **ret);

/* Runs a command by /bin/sh -c under a supervisor, synchronously; everything it started is gone afterwards. env: added to a
 * worker's environment. on_line: each line it prints. *ret_text (the caller frees): how it ended, "exit code 0". 0 only for
 * exit code 0; -ETIMEDOUT after limit_ms; -ECANCELED soon after *stop became true; -EIO otherwise. */
int launcher_run_command(const char *command, const char *const *env, const char *cwd, long long limit_ms,
                         const atomic_bool *stop, void (*on_line)(void *arg, const char *line), void *arg, char **ret_text);

/* Asks a fresh worker's `plan` for each request, synchronously and without a loop (used by create and validate, in the
 * CLI's process). cwd: the working directory, NULL: ours. requests: list of {hyperparameters, sections, slots}; *ret:
 * list of answers in the same order. A program that does not have the capability answers null for each. *ret_packs (may be
 * NULL): it can carry several runs. -EIO with its last lines when it dies or is silent for 30 s; -EINVAL with its
 * words where it says that no request could be planned. */
int launcher_ask_plan(const char *const *argv, const char *cwd, const json_t *requests, bool *ret_packs, json_t **ret,
                      struct error *err);
/* Has a fresh worker evaluate a checkpoint, likewise: message is `evaluate` with all that belongs to it (docs/protocol.md),
 * *ret the metrics that it reported. -ENOTSUP where the program cannot. */
int launcher_ask_evaluate(const char *const *argv, const char *cwd, const json_t *message, json_t **ret,
                          struct error *err);

#endif
