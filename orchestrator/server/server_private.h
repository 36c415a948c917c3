/* server_private.h - what the files of server/ share.
 * server.c starts and ends it, home.c holds the lock and names the socket, turns.c commits and then carries out,
 * experiments.c keeps what lives, attempts.c and hands.c bring runs and workers together, schedule.c gives out slots,
 * clock.c watches every deadline, scarcity.c gets it through a full disk and the like, squeeze.c past memory that others hold, connections.c and subscriptions.c serve clients, requests*.c answer them.
 *
 * One way through: an input (a message, a request, an end, a deadline) is handed to an experiment with a struct turn;
 * server_submit gives the turn to the store; when it is on disk its effects are carried out, the answers that waited
 * for it leave, and the scheduler is asked.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_ORCHESTRATOR_SERVER_PRIVATE_H
#define FLEXP_ORCHESTRATOR_SERVER_PRIVATE_H

#include "common/lines.h"
#include "orchestrator/experiment/experiment.h"
#include "orchestrator/launcher/launcher.h"
#include "orchestrator/server/requests.h"
#include "orchestrator/server/server.h"

#include <limits.h>
#include <stdatomic.h>
#include <uv.h>

#define SERVER_SCHEMA_VERSION 1
#define SERVER_CLIENTS_MAX 256

/* Milliseconds; tests set them by the environment variables in clock.c. */
struct limits {
    uint64_t hello, silent, grace, idle, backoff, down, tick, usage, hook;
};

/* A trial that was given slots, from the decision until its run is over and its slots are free. */
enum attempt_phase {
    ATTEMPT_WAITS,   /* for other workers to leave its slots */
    ATTEMPT_STARTS,  /* for its worker's hello */
    ATTEMPT_RUNS     /* the run is in the store */
};

struct attempt {
    struct attempt *next;
    int64_t run, experiment, trial, order;
    enum attempt_phase phase;
    struct hand *hand; /* NULL while it waits */
    bool alone;        /* shares its worker with none */
    bool shares;       /* its worker carries others, or did when it died */
    bool dropped;      /* its trial gave it up while others need its worker: nothing more of it is stored */
    bool ending;       /* told to preempt or stop, or killed */
    bool squeezed;     /* it has failed because other programs hold its memory */
    bool over;         /* it has said done or failed: nothing more is heard about it */
    bool freed;        /* its slots and its worker are another's already; it waits for the commit of its end */
    int64_t ack;       /* seq to acknowledge; 0: none */
    uint64_t told_ms;  /* when; 0: not yet */
    uint64_t reported_ms, longest_ms; /* last report, longest time between two: how long a round may take */
    char *waits;                      /* why it stands still, as its worker says; NULL: it does not */
    char *why, *why_text;             /* the reason for which we killed its worker; NULL: it ended by itself */
    double unit, until;
    uint64_t began_ms;
    struct process_use base; /* at the sample before; pids_n 0: none was taken yet */
    uint64_t base_ms;
    struct usage use; /* of the latest sample */
    size_t slots_n;
    size_t slots[];
};

/* A worker with its slots: busy with attempts (those that name it and are not freed), warm, or leaving. */
struct hand {
    struct hand *next;
    struct server *server;
    struct worker *worker;
    char *program; /* what it runs, as comparable text */
    char *isa;
    bool greeted, reuses, packs, leaving;
    uint64_t started_ms, heard_ms, idle_ms;
    int64_t output_credit, output_dropped; /* lines */
    uint64_t output_ms;
};

/* A trial whose worker died waits a while before it is started again. */
struct delay {
    int failures;
    uint64_t until_ms; /* 0: it does not wait */
};

/* A trial that lacks memory because other programs hold it, until it reports: slots where it failed are shut for it. */
struct squeeze {
    struct squeeze *next;
    int64_t trial;
    char *text; /* what its last run said */
    bool *shut; /* of slot i, by squeezed_slot.until_ms: for the scheduler */
    struct squeezed_slot {
        int failures;
        uint64_t until_ms; /* shut */
        size_t company;    /* it failed among so many other runs: with fewer it is tried at once */
    } slots[];
};

/* An experiment that has not ended. */
struct entry {
    struct entry *next;
    int64_t id, created_us;
    int64_t last_start; /* order of its latest attempt */
    struct experiment *experiment;
    bool time_is_up;
    bool unpacked; /* its program carries one run at a time, whatever the file says */
    struct delay *delays; /* of trial i + 1; those past the end have none */
    size_t delays_n;
    struct squeeze *squeezes; /* oldest first */
};

struct subscription {
    struct subscription *next;
    int64_t id, experiment; /* id: of the request */
    bool owed;              /* has not been told of the latest change */
};

struct connection {
    struct connection *next;
    struct server *server;
    uv_pipe_t pipe;
    struct lines lines;
    struct subscription *subscriptions;
    unsigned waiting; /* answers that wait for a commit */
    bool closing, closed, throttled;
};

/* An answer that may leave when the turn before it is on disk. */
struct answer {
    struct answer *next;
    uint64_t turn;
    struct connection *connection;
    int64_t id;
    json_t *line;
};

/* An experiment that is being deleted: its files first, then its rows, some trials a turn. */
struct erasing {
    struct erasing *next;
    struct server *server;
    int64_t experiment, trials, next_trial;
    bool files_gone;
    uv_work_t work;
    char *folder;
    struct error err;
};

struct server {
    uv_loop_t loop;
    char *home, *socket;
    int lock_fd, ready_fd;
    bool closed_well;
    struct store *store;
    struct launcher *launcher;
    uv_async_t wake;
    uv_timer_t tick, publish;
    uv_signal_t signals[2];
    uv_pipe_t listener;
    bool listening;
    struct limits limits;
    int64_t started_us, clock_off_us; /* off: how far the system's clock was set away from ours */
    int64_t last_experiment, last_run, last_checkpoint;
    int64_t reserved_run; /* the next run's number, given out before; 0: none */
    int64_t orders;
    struct entry *entries;
    struct attempt *attempts;
    struct hand *hands;
    uint64_t delayed_until_ms; /* when the last delay of all passes; 0: that was seen to */
    struct connection *connections;
    size_t connections_n;
    struct erasing *erasings;
    uint64_t deletions; /* so many files were set aside in HOME/deleted */
    atomic_bool hooks_stop; /* commands of on_complete are to end: they are run again at the next start */
    struct answer *answers, **answers_end;
    uint64_t submitted, committed; /* turns */
    bool schedule_wanted, slots_wanted;
    char waiting[400]; /* why nothing runs although something wants to; "" when that is not so */
    char scarce[300];  /* what this machine lacked when a worker was to be started last; "": nothing */
    bool no_descriptors;
    bool no_space;     /* the store waits for space on the disk: nothing is taken on */
    uint64_t no_space_ms, space_ms; /* since when, and since when no more */
    struct error no_space_why;
    uint64_t lease_ms, published_ms, publish_cost_ms;
    json_t *problems; /* experiments that could not be restored: [{experiment, text}] */
    enum { SERVER_RUNS, SERVER_STOPS, SERVER_CLOSES, SERVER_CLOSED } state;
    uint64_t stop_ms;
    struct error failure; /* why it ends, where that is an error */
};

/* --- home.c --- */
/* Takes the lock of home, or -EBUSY with the holder's pid. */
int home_lock(const char *home, int *ret_fd, struct error *err);
/* The one before us was killed: it has not emptied the lock's file. */
bool home_was_left(int fd);
int home_write_lock(int fd, const char *socket, struct error *err);
/* Which lock is held by fd, for server_serves. */
#define HOME_MARK_ROOM 40
void home_mark(int fd, char ret[HOME_MARK_ROOM]);
/* -ESHUTDOWN when HOME/lock is no longer the file that fd holds: the home was moved, removed or replaced. */
int home_check(const char *home, int fd, struct error *err);
/* A fresh place for the socket, its folder made and checked. */
int home_new_socket(const char *home, char *ret, size_t room, struct error *err);

/* --- clock.c --- */
int64_t clock_us(void); /* since 1970, and never backwards */
uint64_t clock_ms(void); /* monotonic */
void limits_read(struct limits *ret);
void clock_start(struct server *server);
/* Kept while a trial's worker dies again and again: 1 s, 2 s, ... 60 s; 1 s where it does not grow. Nothing for a trial
 * that has ended. */
void delay_add(struct server *server, int64_t experiment, int64_t trial, bool grows);
void delay_remove(struct server *server, int64_t experiment, int64_t trial);
/* The n-th pause (from 0) of those that double, up to a minute. */
uint64_t pause_ms(const struct server *server, int n);
bool delay_holds(const struct entry *entry, int64_t trial, uint64_t now);
size_t delays_hold(const struct entry *entry, uint64_t now); /* so many trials */
/* Some trial waits, or has ceased to since this was asked last: the scheduler is to be asked. */
bool delays_pending(struct server *server, uint64_t now);

/* --- turns.c --- */
/* Takes the turn over; experiment 0: of none. */
void server_submit(struct server *server, int64_t experiment, struct turn *turn);
void server_on_wake(uv_async_t *wake);
/* Sends the acknowledgement that the attempt's worker is owed. */
void attempt_acknowledge(struct attempt *attempt);
/* Only below the home, whatever the store or an effect says. */
bool may_delete(const struct server *server, const char *path);

/* --- erase.c --- */
/* Begins to delete an experiment that has ended, or goes on with it after a restart. */
int erase_begin(struct server *server, int64_t experiment, int64_t trials);
void erase_go_on(struct server *server, int64_t experiment); /* its last turn is on disk */
int erase_restore(struct server *server, struct error *err);
void erasings_free(struct server *server);

/* --- usage.c --- */
void usage_tick(struct server *server, uint64_t now);
/* A last row for a run that is over, where it was long enough to have had a first sample. */
void usage_end(struct server *server, struct attempt *attempt, uint64_t now);

/* --- hook.c --- */
void hook_begin(struct server *server, int64_t experiment); /* once what came before is on disk */
void hook_run(struct server *server, int64_t experiment);
int hooks_restore(struct server *server, struct error *err);

/* --- experiments.c --- */
struct entry *entry_find(const struct server *server, int64_t experiment);
struct entry *entry_add(struct server *server, int64_t id, int64_t created_us, struct experiment *experiment);
void entries_drop_ended(struct server *server);
void entries_free(struct server *server);
int entries_restore(struct server *server, struct error *err);
struct id_source server_ids(struct server *server);

/* --- attempts.c --- */
struct attempt *attempt_find(const struct server *server, int64_t run);
struct attempt *attempt_of_trial(const struct server *server, int64_t experiment, int64_t trial);
int attempt_add(struct server *server, const struct sched_start *start, const size_t *slots);
/* Finds or starts a worker for an attempt that waits; does nothing while its slots are occupied. */
void attempt_advance(struct server *server, struct attempt *attempt);
/* Its worker has said hello: the run begins. */
void attempt_begin(struct server *server, struct attempt *attempt);
/* Its worker is gone, or could not be started. */
void attempt_lost(struct server *server, struct attempt *attempt, const char *reason, const char *text);
void attempt_free(struct server *server, struct attempt *attempt);
/* It has not begun, and shall not: its trial goes on waiting, or has ended. */
void attempt_cancel(struct server *server, struct attempt *attempt);
/* Its trial has given the run up. The worker dies, unless others need it: then the run is told to stop. */
void attempt_drop(struct server *server, struct attempt *attempt);
json_t *attempt_slot_names(const struct server *server, const struct attempt *attempt);
/* "experiment 1, trial 3" for the log */
const char *attempt_name(const struct attempt *attempt, char *ret, size_t room);

/* --- hands.c --- */
extern const struct launcher_events HAND_EVENTS;
struct hand *hand_start(struct server *server, struct attempt *attempt, struct error *err);
void hand_free(struct server *server, struct hand *hand);
void hand_dismiss(struct hand *hand);
void hand_release(struct server *server, struct hand *hand); /* an attempt is over: without another it stays warm, or leaves */
/* The attempts on it: the first, and the next of them from here on (NULL: none). */
struct attempt *hand_first(const struct hand *hand);
struct attempt *hand_next(const struct hand *hand, struct attempt *from);
size_t hand_load(const struct hand *hand); /* how many they are */
/* They have become more or fewer. */
void hand_note_company(struct hand *hand);
/* It dies now, and its attempts end when it is gone; why: a reason for the store. guilty: whose fault it is, the others are
 * started again as if preempted; NULL: nobody knows. */
void hand_kill(struct hand *hand, struct attempt *guilty, const char *why, const char *text);
/* Said once: the program of this experiment carries one run at a time. */
void hand_cannot_pack(const struct hand *hand, struct entry *entry);
bool hand_covers(const struct hand *hand, const size_t *slots, size_t n, bool *ret_exactly);
char *program_of(const struct server *server, int64_t experiment);

/* --- schedule.c --- */
void schedule(struct server *server);

/* --- squeeze.c --- */
/* This run was kept from its memory by other programs: its slots are shut for its trial for 1 s, 2 s, ... 60 s. Said once. */
void squeeze_note(struct server *server, struct attempt *attempt, const char *text);
void squeeze_clear(struct server *server, const struct attempt *attempt); /* it has its memory */
/* It gives some back: trials that failed beside it may try again. */
void squeeze_wake(struct server *server, const struct attempt *attempt);
/* Which slots are shut for a trial; NULL: none. Holds until the next call for it. */
const bool *squeeze_shut(const struct server *server, const struct entry *entry, int64_t trial, uint64_t now);
size_t squeezes_n(const struct entry *entry);
/* The next of an experiment that wants slots, after this one (NULL: the first); NULL: there is none more. */
const struct squeeze *squeeze_next(const struct entry *entry, const struct squeeze *after);
/* Some trial waits so. */
bool squeeze_any(const struct server *server);
void squeezes_free(struct entry *entry);

/* --- scarcity.c --- */
/* Looks whether the store waits for space, and holds or lets go what depends on it. */
void space_check(struct server *server);
/* Keeps what a worker's log line says of its run's standing still, and says it in ours. */
void attempt_note_waits(struct attempt *attempt, const json_t *log);
/* What an experiment waits for: "for space on the disk of ...", "in trial 2: ..."; null: nothing. New reference. */
json_t *waiting_of(const struct server *server, int64_t experiment);
/* [{experiment, trial, text}]: experiments that could not be restored, runs that stand still, a full disk. New
 * reference. */
json_t *problems_of(const struct server *server);
/* -ENOSPC, with what to do about it, while the store waits. */
int space_refuse(const struct server *server, struct error *err);
/* True where the disk of the home is full or as good as: a worker that dies now may well have died of that. */
bool space_is_short(const struct server *server);
/* The machine lacks something (space, descriptors, memory): that is not the trial's fault and may pass. */
bool is_scarcity(int code);
/* Says when descriptors run out and when there are some again. */
void descriptors_check(struct server *server);
/* So many that workers' descriptors remain. */
size_t clients_max(const struct server *server);

/* --- connections.c --- */
int connections_listen(struct server *server, struct error *err);
void connections_close(struct server *server);
void connection_send(struct connection *connection, json_t *line); /* takes ownership */
bool connection_is_slow(const struct connection *connection);
/* Sends the answers whose turn is on disk; after a failed commit they become errors. */
void answers_deliver(struct server *server);

/* --- subscriptions.c --- */
void subscription_add(struct connection *connection, int64_t id, int64_t experiment);
void subscriptions_free(struct connection *connection);
void subscriptions_changed(struct server *server, int64_t experiment);
void subscriptions_retry(struct connection *connection); /* it can take more now */
void subscriptions_on_time(uv_timer_t *timer);

/* --- server.c --- */
void server_stop(struct server *server);
void server_fail(struct server *server, int code, const char *text);
/* Goes down, and refuses, when the home is not where it was. */
int server_check_home(struct server *server, struct error *err);
void server_check_stopped(struct server *server);

/* --- requests_server.c: handlers of requests that need a server --- */
typedef int request_handler(struct server *server, struct store *store, const json_t *arguments, json_t **ret,
                            struct error *err);
request_handler request_create, request_pause, request_activate, request_cancel, request_kill, request_kill_trial,
    request_archive, request_delete, request_set,
    request_record_test, request_status, request_slots, request_down, request_subscribe;
/* -EBUSY, with what is wrong, for an experiment that could not be restored. */
int refuse_broken(const struct server *server, int64_t experiment, struct error *err);
/* -EBUSY where nothing can be changed now. */
int refuse_when_unable(const struct server *server, struct error *err);
/* What describe answers and subscribers get: the store's description, and what runs now (server may be NULL:
 * nothing). */
int request_summary(struct server *server, struct store *store, int64_t experiment, json_t **ret, struct error *err);
void absolute_paths(const struct store *store, json_t *answer);

#endif
