/* rate.c - see rate.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/cli/rate.h"

#include <string.h>

#define SEEN_AT_LEAST 1.0 /* seconds */

void rate_init(struct rate *rate, double window)
{
    memset(rate, 0, sizeof *rate);
    rate->window = window;
}

static size_t at(const struct rate *rate, size_t i)
{
    return (rate->first + i) % RATE_SAMPLES;
}

void rate_add(struct rate *rate, double now, double value)
{
    size_t last = at(rate, rate->n ? rate->n - 1 : 0);

    if (rate->n && value < rate->values[last])
        rate->n = 0;
    if (rate->n >= 2 && now - rate->times[at(rate, rate->n - 2)] < rate->window / RATE_SAMPLES) {
        rate->times[last] = now;
        rate->values[last] = value;
        return;
    }
    if (rate->n == RATE_SAMPLES) {
        rate->first = at(rate, 1);
        rate->n--;
    }
    rate->times[at(rate, rate->n)] = now;
    rate->values[at(rate, rate->n)] = value;
    rate->n++;
    while (rate->n > 2 && now - rate->times[at(rate, 1)] >= rate->window) {
        rate->first = at(rate, 1);
        rate->n--;
    }
}

double rate_get(const struct rate *rate, double now)
{
    double seen;

    if (rate->n < 2)
        return -1;
    /* Up to now, not to the last sample: a stand-still shows as a falling rate. */
    seen = now - rate->times[at(rate, 0)];
    return seen < SEEN_AT_LEAST ? -1 : (rate->values[at(rate, rate->n - 1)] - rate->values[at(rate, 0)]) / seen;
}
