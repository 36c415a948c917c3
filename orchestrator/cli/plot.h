/* plot.h - an experiment as a picture: learning curves, the best so far against time, parallel coordinates.
 * However many trials there are, the file stays small: curves are drawn of PLOT_CURVES of them (the best, and others spread
 * evenly), each of at most PLOT_POINTS points, and parallel coordinates of PLOT_LINES; the picture says so.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_ORCHESTRATOR_CLI_PLOT_H
#define FLEXP_ORCHESTRATOR_CLI_PLOT_H

#include "common/json.h"

#include <stdio.h>

#define PLOT_CURVES 200
#define PLOT_POINTS 200
#define PLOT_LINES 1000

/* Numbers of the trials whose curves are wanted: [1, 7, ...], the best first. trials: the answer of that request. */
json_t *plot_choose(const json_t *trials);
/* describe, trials: the answers; curves: {"7": [{unit, value, time}, ...]} of the searcher's metric. */
void plot_write(FILE *out, const json_t *describe, const json_t *trials, const json_t *curves);

#endif
