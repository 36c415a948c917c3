/* run_private.h - a run's state, shared by run.c (the life), round.c (training and validation) and finish.c (what is left).
 * evaluate.c is the life of another kind of run.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_TRAINER_RUN_PRIVATE_H
#define FLEXP_TRAINER_RUN_PRIVATE_H

#include "trainer/federation/convergence.h"
#include "trainer/federation/pool.h"
#include "trainer/federation/strategy.h"
#include "trainer/worker/run.h"

#include <pthread.h>
#include <stdatomic.h>

struct best {
    bool has;
    bool in_memory;      /* scores and evaluation below are of it, as the weights are */
    double value, unit;
    char path[4096];     /* of its checkpoint */
    float *weights, *scores;
    struct evaluation evaluation;
};

/* One of the files of a run's result, being written. */
#define RESULT_FILES 2
struct leaving {
    struct run *run;
    int (*write)(struct run *run, struct error *err);
    bool begun, threaded;
    pthread_t thread;
    int rc;
    struct error err;
};

struct run {
    struct connection *connection;
    struct session *session;
    struct inbox *inbox;
    const json_t *assign;
    json_t *sections; /* checked and resolved */
    struct session_loan loan;
    int64_t id, seq;
    uint64_t seed, trial;
    const char *metric, *trial_dir, *run_dir;
    bool smaller_is_better;
    enum unit_kind kind;
    double until, max_units, checkpoint_period;
    const volatile int *released;
    atomic_bool no_space;              /* waits for space, and has said so */
    const char *bad_checkpoint; /* the file that could not be used, where that is why the run fails */

    struct schedule schedule;
    struct pool *pool;
    uint32_t *cohort;
    size_t cohort_n;
    int64_t validation_period;
    bool evaluates_clients;

    uint64_t round;
    double units[UNIT_KINDS];
    struct convergence convergence;
    bool converged;           /* it has ended by its own rule, and its checkpoint says so */
    bool observed;            /* the watched metric has a value of this round */
    double observed_value;
    struct best best;
    double checkpoint_unit;   /* of the last checkpoint; -1: none */
    int64_t checkpoint_ms;    /* when, monotonic */
    double validation_unit;   /* of the last validation; -1: none */

    struct leaving leaving[RESULT_FILES];

    const struct data_split *validation_split;
    struct evaluation validation, client, clients;
    float *scores; /* of the validation samples */
};

#define run_unit(run) ((run)->units[(run)->kind])

/* run.c */
int run_read_assign(struct run *run, struct error *err);
/* Borrows what the run trains with. */
int run_prepare(struct run *run, struct error *err);
/* Gives back everything but the sections; nothing is heard any more. */
void run_tear_down(struct run *run);
void run_failed(struct run *run, int code, const struct error *err);

/* evaluate.c */
void run_evaluate(struct run *run);

/* round.c. -ECANCELED: released. */
int run_round(struct run *run, struct error *err);
/* Reports a validation at the present unit unless there was one; *ret_improved: it is the best so far. */
int run_validate(struct run *run, bool *ret_improved, struct error *err);

/* finish.c */
int run_checkpoint(struct run *run, struct error *err);
/* resume: as in the assign message. */
int run_resume(struct run *run, const json_t *resume, struct error *err);
/* A trial's last checkpoint and its result are three files whose way to the disk is waited for: where nothing can better
 * the best any more, the result is begun beside the checkpoint. */
void run_begin_result(struct run *run);
/* Writes it, or waits for what was begun. */
int run_leave_result(struct run *run, struct error *err);

/* `do rc = WRITE; while (run_try_again(run, &rc, err));` waits for space on the disk where there is none: what was trained
 * must not be lost because others filled it. Said once, and when there is space again. -ECANCELED: released meanwhile. */
bool run_try_again(struct run *run, int *rc, struct error *err);

json_t *run_units(const struct run *run);
void run_send(struct run *run, const char *op, json_t *fields); /* takes ownership; adds op, run, seq */

#endif
