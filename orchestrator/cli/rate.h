/* rate.h - how fast something grows, over a sliding window: rounds per second, and from progress the time left. The
 * clock is the caller's.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_ORCHESTRATOR_CLI_RATE_H
#define FLEXP_ORCHESTRATOR_CLI_RATE_H

#include <stddef.h>

#define RATE_SAMPLES 128

struct rate {
    double times[RATE_SAMPLES], values[RATE_SAMPLES]; /* a ring, times rising */
    size_t first, n;
    double window; /* seconds that are looked at; what is older is dropped, but two samples are kept */
};

void rate_init(struct rate *rate, double window);
/* A value that falls starts anew. Samples closer than a RATE_SAMPLES-th of the window replace the last one. */
void rate_add(struct rate *rate, double now, double value);
/* Growth per second up to now, or a negative number while nothing can be said (less than a second seen). */
double rate_get(const struct rate *rate, double now);

#endif
