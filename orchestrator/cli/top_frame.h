/* top_frame.h - one picture of `top`: experiments, the slots with what runs there, and curves, as text of so many columns and
 * lines; and sparklines.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_ORCHESTRATOR_CLI_TOP_FRAME_H
#define FLEXP_ORCHESTRATOR_CLI_TOP_FRAME_H

#include "common/json.h"
#include "orchestrator/cli/term.h"

/* status, slots, list: the answers of those requests; describes: {"1": describe's answer}; curves: {"1/3": [values of the
 * searcher's metric, oldest first]}; only: this experiment alone (0: all); skip: so many lines of slots (one for each run) are scrolled away;
 * now: the time to show. The caller frees. */
char *top_frame(const struct term *term, const json_t *status, const json_t *slots, const json_t *list, const json_t *describes,
                const json_t *curves, int64_t only, size_t skip, const char *now);

/* How many lines the slots take: one for each run, one for each slot without. */
size_t top_slot_lines(const json_t *slots);

/* Values as a line of eight heights, at most width columns: more values than columns are thinned out to the last of each
 * column. Values that are not finite are blanks. Where the terminal is not UTF-8: ASCII. The caller frees. */
char *sparkline(const json_t *values, int width, bool utf8);

#endif
