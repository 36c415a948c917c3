/* optim.c - SGD, Adam and AdamW over flat arrays.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/optim/optim.h"
#include "trainer/optim/vector.h"

#include <math.h>
#include <string.h>

int optimizer_from(const json_t *training, struct optimizer *ret, struct error *err)
{
    const char *name = json_string_or(training, "optimizer", "sgd");
    struct optimizer o = {
        .momentum = (float)json_double_or(training, "momentum", 0),
        .weight_decay = (float)json_double_or(training, "weight_decay", 0),
        .beta1 = (float)json_double_or(training, "beta1", 0.9),
        .beta2 = (float)json_double_or(training, "beta2", 0.999),
        .eps = (float)json_double_or(training, "eps", 1e-8),
        .nesterov = json_bool_or(training, "nesterov", false),
    };

    if (!strcmp(name, "sgd"))
        o.type = OPTIMIZER_SGD;
    else if (!strcmp(name, "adam"))
        o.type = OPTIMIZER_ADAM;
    else if (!strcmp(name, "adamw"))
        o.type = OPTIMIZER_ADAMW;
    else
        return fail(err, -EINVAL, "training.optimizer: must be sgd, adam or adamw, got \"%s\"", name);
    if (o.type == OPTIMIZER_SGD && o.nesterov && !(o.momentum > 0))
        return fail(err, -EINVAL, "training.nesterov: needs training.momentum above 0");
    *ret = o;
    return 0;
}

size_t optimizer_state_floats(const struct optimizer *o, size_t n)
{
    if (o->type != OPTIMIZER_SGD)
        return 2 * n;
    return o->momentum > 0 ? n : 0;
}

VECTOR_CLONES static void sgd_plain(float lr, float decay, float *restrict w, const float *restrict g, size_t n)
{
    for (size_t i = 0; i < n; i++)
        w[i] -= lr * (g[i] + decay * w[i]);
}

VECTOR_CLONES static void sgd_momentum(float lr, float decay, float momentum, float *restrict w,
                                       const float *restrict g, float *restrict v, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        v[i] = momentum * v[i] + (g[i] + decay * w[i]);
        w[i] -= lr * v[i];
    }
}

VECTOR_CLONES static void sgd_nesterov(float lr, float decay, float momentum, float *restrict w,
                                       const float *restrict g, float *restrict v, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        float d = g[i] + decay * w[i];
        v[i] = momentum * v[i] + d;
        w[i] -= lr * (d + momentum * v[i]);
    }
}

/* shrink: AdamW's factor on the weight, 1 for Adam; decay: Adam's, added to the gradient. As PyTorch computes it:
 * w -= lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + eps). */
VECTOR_CLONES static void adam(float rate, float root, float eps, float shrink, float decay, float beta1, float beta2,
                               float *restrict w, const float *restrict g, float *restrict m, float *restrict v,
                               size_t n)
{
    for (size_t i = 0; i < n; i++) {
        float d = g[i] + decay * w[i];
        m[i] = beta1 * m[i] + (1 - beta1) * d;
        v[i] = beta2 * v[i] + (1 - beta2) * (d * d);
        w[i] = shrink * w[i] - rate * (m[i] / (sqrtf(v[i]) / root + eps));
    }
}

/* beta^t by squaring: pow() differs between machines. */
static double power(double beta, int64_t t)
{
    double result = 1;

    for (; t > 0; t >>= 1, beta *= beta)
        if (t & 1)
            result *= beta;
    return result;
}

void optimizer_step_part(const struct optimizer *o, float lr, int64_t t, float *weights, const float *gradients,
                         float *state, size_t n, size_t from, size_t to)
{
    float *w = weights + from, *first = state ? state + from : NULL;
    size_t count = to - from;

    if (o->type == OPTIMIZER_SGD) {
        if (!(o->momentum > 0))
            sgd_plain(lr, o->weight_decay, w, gradients, count);
        else if (o->nesterov)
            sgd_nesterov(lr, o->weight_decay, o->momentum, w, gradients, first, count);
        else
            sgd_momentum(lr, o->weight_decay, o->momentum, w, gradients, first, count);
        return;
    }
    bool decoupled = o->type == OPTIMIZER_ADAMW;
    double rate = (double)lr / (1 - power((double)o->beta1, t)), root = sqrt(1 - power((double)o->beta2, t));
    float shrink = decoupled ? (float)(1 - (double)lr * (double)o->weight_decay) : 1;
    adam((float)rate, (float)root, o->eps, shrink, decoupled ? 0 : o->weight_decay, o->beta1, o->beta2, w, gradients,
         first, first + n, count);
}

void optimizer_step(const struct optimizer *o, float lr, int64_t t, float *weights, const float *gradients,
                    float *state, size_t n)
{
    optimizer_step_part(o, lr, t, weights, gradients, state, n, 0, n);
}
