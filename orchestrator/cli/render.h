/* render.h - answers as people read them. The shapes are those of store_read_* and `status`, `slots` (docs/schema.md);
 * a member that is missing is left out of the picture, never an error.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_ORCHESTRATOR_CLI_RENDER_H
#define FLEXP_ORCHESTRATOR_CLI_RENDER_H

#include "common/json.h"
#include "orchestrator/cli/term.h"

/* suffix: what commands to type next end with (" --home DIR" where it was given, else ""). */
void render_list(FILE *out, const struct term *term, const json_t *answer, bool all);
void render_describe(FILE *out, const struct term *term, const json_t *answer, const char *home, const char *suffix);
void render_trial(FILE *out, const struct term *term, const json_t *answer, const char *home);

/* The best trial, its metrics, hyperparameters, test metrics and where its model is: also the end of a follow. */
void render_best(FILE *out, const struct term *term, const json_t *answer, const char *home);
/* One table of metrics by row and split; either may be NULL. */
void render_metrics(FILE *out, const struct term *term, const json_t *validation, const json_t *test);
void render_hyperparameters(FILE *out, const struct term *term, const json_t *hyperparameters);
/* "3 running, 5 stopped": a map of counts in a fixed order; colours where the stream has them. The caller frees. */
char *render_counts(const struct term *term, const json_t *counts);
/* How many trials a map of counts holds, and how many of them have ended. */
void count_trials(const json_t *counts, int64_t *ret_all, int64_t *ret_ended);
/* "[#####-----]" of so many columns in all. The caller frees. */
char *render_bar(const struct term *term, double share, int columns);
/* The name of one unit: "round" for "rounds". Static text. */
const char *unit_singular(const char *unit);

#endif
