/* schedule.c - the learning rate over the whole length of a trial.
 * The exponent and the cosine are made from rng_exp, rng_log and + - * / so that rates are equal on every machine.
 * SPDX-License-Identifier: Apache-2.0 */
#include "common/rng.h"
#include "trainer/optim/optim.h"

#include <math.h>
#include <string.h>

#define PI 3.14159265358979323846

int schedule_from(const json_t *training, double length, struct schedule *ret, struct error *err)
{
    static const char *const NAMES[] = {"constant", "step", "exponential", "cosine"};
    const json_t *section = json_object_get(training, "schedule");
    const char *name = json_string_or(section, "type", "constant");
    struct schedule s = {
        .base = json_double_or(training, "learning_rate", -1),
        .every = json_double_or(section, "every", 10),
        .factor = json_double_or(section, "factor", 0.1),
        .decay = json_double_or(section, "decay", 0.99),
        .final_fraction = json_double_or(section, "final_fraction", 0),
        .warmup = json_double_or(section, "warmup", 0),
        .length = length,
    };
    size_t i;

    for (i = 0; i < 4 && strcmp(name, NAMES[i]); i++)
        ;
    if (i == 4)
        return fail(err, -EINVAL, "training.schedule.type: must be constant, step, exponential or cosine, got \"%s\"",
                    name);
    s.type = (int)i;
    if (!(s.base > 0) || !isfinite(s.base))
        return fail(err, -EINVAL, "training.learning_rate: must be a number above 0");
    if (!(s.every > 0))
        return fail(err, -EINVAL, "training.schedule.every: must be above 0");
    if (!(s.factor > 0) || !(s.decay > 0))
        return fail(err, -EINVAL, "training.schedule.%s: must be above 0", s.factor > 0 ? "decay" : "factor");
    if (s.warmup < 0 || (s.warmup >= length && s.warmup > 0))
        return fail(err, -EINVAL, "training.schedule.warmup: must be less than the trial's length of %g, got %g",
                    length, s.warmup);
    *ret = s;
    return 0;
}

/* cos(pi x) for x in [0, 1]: by its series about the nearer of 0 and 1/2, error below 1e-15. */
static double cos_pi(double x)
{
    double sign = 1, sum = 1, term = 1, y;

    if (x > 0.5) {
        x = 1 - x;
        sign = -1;
    }
    y = x * PI;
    if (x > 0.25) { /* sin(pi/2 - y) */
        y = (0.5 - x) * PI;
        sum = term = y;
        for (int k = 1; k <= 10; k++) {
            term *= -y * y / ((2 * k) * (2 * k + 1));
            sum += term;
        }
        return sign * sum;
    }
    for (int k = 1; k <= 10; k++) {
        term *= -y * y / ((2 * k - 1) * (2 * k));
        sum += term;
    }
    return sign * sum;
}

double schedule_rate(const struct schedule *s, double unit)
{
    double after, span;

    /* The round that starts at unit u trains with the rate of u + 1 warm-up steps: the first is not 0. */
    if (unit < s->warmup)
        return s->base * fmin(1, (unit + 1) / (s->warmup + 1));
    after = unit - s->warmup;
    span = s->length - s->warmup;
    switch (s->type) {
    case SCHEDULE_STEP: {
        double factor = 1, times = floor(after / s->every);
        for (double i = 0; i < times && factor > 0; i++)
            factor *= s->factor;
        return s->base * factor;
    }
    case SCHEDULE_EXPONENTIAL:
        return s->base * rng_exp(after * rng_log(s->decay));
    case SCHEDULE_COSINE: {
        double x = span > 0 ? fmin(1, fmax(0, after / span)) : 1;
        return s->base * (s->final_fraction + (1 - s->final_fraction) * 0.5 * (1 + cos_pi(x)));
    }
    default:
        return s->base;
    }
}
