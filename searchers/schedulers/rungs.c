/* rungs.c - see rungs.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "searchers/schedulers/rungs.h"

#include <math.h>

int64_t rungs_log(double base, double x)
{
    int64_t n = 0;

    /* whole numbers below 2^53 multiply exactly */
    for (double power = base; power <= x && n < RUNGS_MAX; power *= base)
        n++;
    return n;
}

static double power(double base, int64_t n)
{
    double product = 1;

    for (; n > 0; n--)
        product *= base;
    return product;
}

void rungs_units(int64_t rungs, double divisor, double max_units, bool accumulate, double *ret)
{
    for (int64_t i = 0; i < rungs; i++) {
        double units = i == rungs - 1 ? max_units : fmax(floor(max_units / power(divisor, rungs - 1 - i)), 1);
        ret[i] = units + (accumulate && i ? ret[i - 1] : 0);
    }
}

void rungs_share_trials(int64_t max_trials, double divisor, const int64_t *rungs, size_t n, int64_t *ret)
{
    double sum = 0;
    int64_t left = max_trials;

    for (size_t i = 0; i < n; i++)
        sum += power(divisor, rungs[i] - 1) / (double)rungs[i];
    for (size_t i = 0; i < n; i++) {
        double weight = power(divisor, rungs[i] - 1) / (double)rungs[i];
        double share = weight / sum * (double)max_trials;
        ret[i] = (int64_t)fmax(floor(share * (1 + 0x1p-50)), 1);
        left -= ret[i];
    }
    if (left > 0)
        ret[0] += left;
}

void rungs_share_lanes(int64_t max_concurrent, double divisor, const int64_t *trials, size_t n, int64_t *ret)
{
    int64_t all = max_concurrent > (int64_t)n ? max_concurrent : (int64_t)n;

    for (size_t i = 0; i < n; i++)
        if (max_concurrent)
            ret[i] = all / (int64_t)n + ((int64_t)i < all % (int64_t)n);
        else
            ret[i] = trials[n - 1] > (int64_t)divisor ? trials[n - 1] : (int64_t)divisor;
}
