/* trial_rows.h - the trials of an experiment as rows that can be sorted by any of their columns, grouped by a
 * hyperparameter, and written for people, as JSON or as comma-separated values. Rows are borrowed from the answer to
 * `trials` (docs/schema.md).
 * Sorting 10,000 trials takes some milliseconds; reading them is what costs.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_ORCHESTRATOR_CLI_TRIAL_ROWS_H
#define FLEXP_ORCHESTRATOR_CLI_TRIAL_ROWS_H

#include "common/error.h"
#include "common/json.h"
#include "orchestrator/cli/term.h"

#include <stdbool.h>

struct trial_rows {
    const json_t *answer;
    const json_t **rows;
    size_t n;
    const char *metric;
    bool smaller_is_better;
};

/* Best first: as the metric points, those without a value last, ties by number. */
int trial_rows_init(struct trial_rows *ret, const json_t *answer);
void trial_rows_done(struct trial_rows *rows);
/* key: a column, a hyperparameter or the metric, "-" before it turns the order round; those without a value stay last. The
 * metric is sorted best first, everything else ascending. -EINVAL with what can be named. */
int trial_rows_sort(struct trial_rows *rows, const char *key, struct error *err);

void trial_rows_table(FILE *out, const struct term *term, const struct trial_rows *rows);
void trial_rows_csv(FILE *out, const struct trial_rows *rows);

/* [{value, or from and to; trials, with_value, best, mean, worst, best_trial}], by value. -EINVAL for what is no
 * hyperparameter. New reference. */
int trial_groups(const struct trial_rows *rows, const char *name, json_t **ret, struct error *err);
void trial_groups_table(FILE *out, const struct term *term, const struct trial_rows *rows, const char *name,
                        const json_t *groups);
void trial_groups_csv(FILE *out, const char *name, const json_t *groups);

/* trial_rows.c: the hyperparameter's value in a row, NULL where the trial has none; what can be named. */
const json_t *trial_hyperparameter(const json_t *row, const char *name);
int no_such_hyperparameter(const struct trial_rows *rows, const char *name, bool columns, struct error *err);

#endif
