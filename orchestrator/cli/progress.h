/* progress.h - how an experiment is doing, as a frame for the live screen or as one plain line. Takes the summaries
 * that a subscription streams; pure but for the times it is given.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_ORCHESTRATOR_CLI_PROGRESS_H
#define FLEXP_ORCHESTRATOR_CLI_PROGRESS_H

#include "common/json.h"
#include "orchestrator/cli/rate.h"
#include "orchestrator/cli/term.h"

struct progress {
    json_t *describe; /* the whole answer from the start: name, config */
    json_t *summary;  /* the last event */
    double units_trained, units_total; /* NaN where not known */
    const char *metric, *unit; /* borrowed from describe */
    struct rate rate_units, rate_done;
    double started; /* when the experiment was created, on the caller's clock */
};

/* describe is borrowed. now: seconds on any steady clock. */
void progress_init(struct progress *progress, const json_t *describe, double now);
void progress_done(struct progress *progress);
void progress_event(struct progress *progress, const json_t *event, double now);
/* How much was trained in all, where events do not say. */
void progress_units(struct progress *progress, double units, double now);
const char *progress_state(const struct progress *progress);

/* Lines for a terminal of term->width columns. The caller frees. */
char *progress_frame(const struct progress *progress, const struct term *term, double now);
/* One line without its newline and without the elapsed time, so that equal text means nothing changed. The caller
 * frees. */
char *progress_line(const struct progress *progress);
/* "   [  1m05s]" before it, rate and ETA behind it, are what changes by itself. The caller frees. */
char *progress_line_timed(const struct progress *progress, const char *line, double now);

#endif
