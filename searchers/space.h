/* space.h - the space of hyperparameters: what may be drawn, and how a grid walks it.
 * Types are Determined AI's (0.2x to 0.38): const, int (both ends inclusive), double, log (base^[minval, maxval]),
 * categorical, nested groups, `count` for grid. Nested groups and keys are walked in the order of the file, which is
 * kept in the JSON object's insertion order. Pure: no clock, no I/O, no globals.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_SEARCHERS_SPACE_H
#define FLEXP_SEARCHERS_SPACE_H

#include "common/error.h"
#include "common/json.h"
#include "common/rng.h"

enum axis_type { AXIS_CONST, AXIS_INT, AXIS_DOUBLE, AXIS_LOG, AXIS_CATEGORICAL };

struct axis {
    char *path; /* dotted: "optimizer.lr" */
    enum axis_type type;
    double min, max, base; /* int, double: values; log: exponents and base */
    int64_t count;         /* grid points; 0 when not given */
    json_t *values;        /* categorical: a list; const: a list of one */
};

struct space {
    struct axis *axes; /* in file order */
    size_t n;
};

/* From the experiment file's `hyperparameters` (checked by config/; -EINVAL with the key path in err otherwise). A bare
 * scalar is a const; a map without `type` is a nested group. The caller frees. */
int space_new(const json_t *hyperparameters, struct space **ret, struct error *err);
void space_free(struct space *space);

/* Draws one configuration: nested JSON object as in the file. New reference. */
json_t *space_draw(const struct space *space, struct pcg32 *rng);
/* Number of distinct configurations, 0 when infinite. */
uint64_t space_size(const struct space *space);

/* Grid: -EINVAL names the first axis that lacks `count`. The last key varies fastest; an int axis with more count than
 * values has its values once; count 1 is the midpoint. */
int space_grid_size(const struct space *space, uint64_t *ret, struct error *err);
json_t *space_grid_point(const struct space *space, uint64_t index);

/* The configurations that `create` asks the trainer's plan for: every categorical choice and both ends of every numeric
 * axis appears in at least one. New reference to a list. */
json_t *space_extremes(const struct space *space);

#endif
