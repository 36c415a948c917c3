/* pack.h - where runs meet in front of their backend. A backend has one caller at a time, and on a GPU the replicas of
 * several trials train together in the time of one; so each run has a seat, hands in its training there, and the calls of
 * seats of one plan and data set go to the backend as one (backend.h: trainings). Seats of different plans take turns, the
 * longest waiting first; what is no training (evaluations, set-up) goes before, for a run that does it cannot hand in.
 *
 * Who waits for whom: a call goes when every seat of its plan has handed in. A seat that has not is waited for only so
 * long after it last left the backend as its last call took, 10 ms to 1 s. So runs stay in lockstep over reports,
 * validations and short writes between their rounds; and one that waits for a verdict costs the others no more, once, than
 * a call of its own would have.
 *
 * One run's failure is its own: where a call of several fails, each hands in again (-EAGAIN) and goes with fewer others, half as
 * many where memory was short, else alone, until a seat is left. Memory that idle plans hold is given back first; what is
 * no training may take that of all plans.
 * Threads: a seat is one thread's; everything is safe beside the others.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_TRAINER_PACK_H
#define FLEXP_TRAINER_PACK_H

#include "trainer/backend/backend.h"

#define PACK_MOST 64 /* trials of one call */

struct pack;
struct seat;

int pack_new(struct pack **ret, struct error *err);
/* Nobody is seated. */
void pack_free(struct pack *pack);

/* Enters the backend alone, waiting until it is free. */
void pack_enter(struct pack *pack);
void pack_leave(struct pack *pack);
/* Within these: which backend it is from now on (ops NULL: none); has the backend load the data set, unless it has; the
 * data set is about to be closed. */
void pack_use(struct pack *pack, const struct backend_ops *ops, struct backend *backend);
int pack_load(struct pack *pack, const struct dataset *dataset, struct error *err);
void pack_forget(struct pack *pack, const struct dataset *dataset);
/* Whether what ended with rc is to be tried again, once: it was out of memory, and plans that wait for their next training
 * had some to give back. */
bool pack_makes_room(struct pack *pack, int rc, bool *tried);

/* plan and dataset are borrowed until seat_leave. */
int seat_take(struct pack *pack, struct plan *plan, const struct dataset *dataset, struct seat **ret, struct error *err);
void seat_leave(struct seat *seat); /* NULL: nothing */

/* Waits until it is trained. -ECANCELED: given up (training.cancel). -EAGAIN: nothing was trained; put every in-out field as
 * it was and hand it in again. Else as backend.train. */
int seat_train(struct seat *seat, struct training *training, struct error *err);

/* As the backend's own, of the seat's plan. */
int seat_evaluate(struct seat *seat, const float *weights, const struct data_split *split, const uint32_t *samples,
                  size_t n, struct evaluation *ret, float *predictions, struct error *err);
/* Resident models: only where seat_keeps_models. */
bool seat_keeps_models(const struct seat *seat);
int seat_put_model(struct seat *seat, struct resident **model, const float *weights, struct error *err);
int seat_get_model(struct seat *seat, const struct resident *model, float *weights, struct error *err);
void seat_drop_model(struct seat *seat, struct resident *model);
int seat_evaluate_model(struct seat *seat, const struct resident *model, const struct data_split *split,
                        const uint32_t *samples, size_t n, struct evaluation *ret, float *predictions,
                        struct error *err);

#endif
