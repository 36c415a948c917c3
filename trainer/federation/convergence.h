/* convergence.h - when a trial ends by itself: its watched metric reached a target, or has not improved by at least
 * min_delta for `patience` rounds in a row. Which way is better follows the metric's name (loss: down). A value that is not
 * finite never improves. The state is part of a checkpoint.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_TRAINER_CONVERGENCE_H
#define FLEXP_TRAINER_CONVERGENCE_H

#include "common/json.h"

struct convergence {
    const char *metric; /* borrowed from the section; NULL: no rule */
    bool smaller_is_better, has_target;
    double min_delta, target;
    int64_t patience; /* 0: no patience rule */
    /* state */
    bool has_best;
    double best;
    int64_t rounds_without;
};

/* section: resolved `federation.convergence` or NULL; it must outlive the result. */
void convergence_init(struct convergence *convergence, const json_t *section);
/* A round's value of the metric; true: converged. */
bool convergence_observe(struct convergence *convergence, double value);

/* "loss" in the last part of the name means smaller is better. */
bool metric_smaller_is_better(const char *metric);

#endif
