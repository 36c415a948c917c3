/* format.h - how numbers, times and states read everywhere on the screen, so that one thing looks the same in every
 * table: shares (accuracy, f1, precision, recall) as percent with two decimals, other metrics with four significant
 * digits, hyperparameters with three, whole numbers as they are. JSON output has all digits and does not come through
 * here. Results are fresh text that the caller frees, or NULL when out of memory.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_ORCHESTRATOR_CLI_FORMAT_H
#define FLEXP_ORCHESTRATOR_CLI_FORMAT_H

#include "common/json.h"
#include "orchestrator/cli/term.h"

#include <stdbool.h>

/* A value of the metric; null or absent: "-". */
char *format_metric(const char *metric, const json_t *value);
/* A hyperparameter or other JSON value in a few characters. */
char *format_value(const json_t *value);
/* The words of a list: "cpu:0 cpu:1". */
char *format_words(const json_t *list);
/* The trials of a list of {experiment, trial}, which are of one experiment: "1/3", "1/3-6,9"; none: "-". */
char *format_trials(const json_t *runs);
/* "lr=0.01, batch=32": nested groups by dotted names. */
char *format_hyperparameters(const json_t *object);
/* A length or count: 12, 12.5, 1.2e+06. */
char *format_units(double units);
/* Seconds: 0.4s, 12s, 3m05s, 2h07m, 3d04h. */
char *format_seconds(double seconds);
/* An ISO text in UTC, or microseconds since 1970, in local time: "2026-11-21 01:02:03"; null: "-". */
char *format_time(const json_t *value);
/* Bytes: 812 B, 3.1 MB. */
char *format_bytes(double bytes);

/* Colour of an experiment's or trial's state. */
enum style state_style(const char *state);
/* The experiment goes on no more. */
bool state_has_ended(const char *state);

/* Hyperparameters flattened: called for every leaf with its dotted name. */
typedef void leaf_fn(void *arg, const char *name, const json_t *value);
void each_leaf(const json_t *object, const char *prefix, leaf_fn *call, void *arg);

#endif
