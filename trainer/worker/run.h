/* run.h - one run: one attempt of this worker at a trial, from `assign` to `done` or `failed` (docs/protocol.md).
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_TRAINER_RUN_H
#define FLEXP_TRAINER_RUN_H

#include "trainer/worker/connection.h"
#include "trainer/worker/session.h"

/* Begins a run on a thread of its own, which lives until the run is over; a worker may hold several (trials that are trained
 * packed: federation/pack.h). message: an assign or evaluate; takes ownership. */
void run_start(struct connection *connection, struct session *session, struct message *message);

/* What answers to plan share: the GPU, once one was asked about. All zeros to begin with. */
struct planner {
    bool asked;
    struct backend *gpu; /* NULL: there is none, or nobody has asked yet */
    struct error why;    /* there is none */
};

/* Answers one plan message: no file could be planned here, for this reason. */
void plan_refuse(struct connection *connection, const struct message *message, const char *why);
/* Answers one plan message. */
void plan_answer(struct planner *planner, struct connection *connection, const struct message *message);
/* Gives the GPU back. */
void planner_done(struct planner *planner);

/* sections (references replaced) checked against the tables and resolved; problems as [{path, text}] into *ret_problems
 * (empty when all is well, and only then *ret_sections). New references. */
void sections_resolve(const json_t *sections, json_t **ret_sections, json_t **ret_problems);

#endif
