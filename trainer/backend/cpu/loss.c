/* loss.c - softmax cross-entropy in double, from + - * / alone.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cpu/cpu_private.h"

#include <math.h>
#include <string.h>

#define CLASSES 128 /* whose exponentials are kept */

/* e^x for x = logit - top <= 0, relative error below 1e-15: 2^k e^r, |r| <= ln 2 / 2, by the series of e^r. */
static void exponentials(const float *restrict logits, double top, double *restrict out, size_t n)
{
    static const double INVERSE[] = {1.0 / 13, 1.0 / 12, 1.0 / 11, 1.0 / 10, 1.0 / 9, 1.0 / 8, 1.0 / 7,
                                     1.0 / 6,  1.0 / 5,  1.0 / 4,  1.0 / 3,  1.0 / 2, 1.0};

    for (size_t i = 0; i < n; i++) {
        double x = (double)logits[i] - top, all = x, scale, sum = 1;
        int32_t k;
        uint64_t bits;

        x = x < -700 ? -700 : x;
        k = (int32_t)(x * 1.44269504088896340736 - 0.5);
        x -= (double)k * 0.693147180369123816490;
        x -= (double)k * 1.90821492927058770002e-10;
        for (size_t t = 0; t < sizeof INVERSE / sizeof INVERSE[0]; t++)
            sum = 1 + sum * x * INVERSE[t];
        bits = (uint64_t)(int64_t)(k + 1023) << 52;
        memcpy(&scale, &bits, sizeof scale);
        out[i] = all < -700 ? 0 : sum * scale;
    }
}

double loss_softmax(const float *logits, const uint16_t *labels, size_t n, size_t classes, float *grad,
                    uint64_t *ret_correct, uint64_t *confusion, float *scores)
{
    double loss = 0, e[CLASSES];
    uint64_t correct = 0;

    for (size_t i = 0; i < n; i++, logits += classes) {
        size_t best = 0, label = labels[i];
        double sum = 0, top, inverse;
        bool finite = true;

        for (size_t k = 0; k < classes; k++) {
            if (logits[k] > logits[best] || (isnan(logits[best]) && !isnan(logits[k])))
                best = k;
            finite &= isfinite(logits[k]) != 0;
        }
        correct += best == label;
        if (confusion)
            confusion[label * classes + best]++;
        if (!finite) { /* diverged: to be seen, not mended */
            loss = NAN;
            for (size_t k = 0; k < classes; k++) {
                if (grad)
                    grad[i * classes + k] = NAN;
                if (scores)
                    scores[i * classes + k] = NAN;
            }
            continue;
        }
        top = (double)logits[best];
        for (size_t from = 0, m; from < classes; from += m) {
            m = classes - from < CLASSES ? classes - from : CLASSES;
            exponentials(logits + from, top, e, m);
            for (size_t k = 0; k < m; k++)
                sum += e[k];
        }
        loss += rng_log(sum) - ((double)logits[label] - top);
        inverse = 1 / sum;
        for (size_t from = 0, m; (grad || scores) && from < classes; from += m) {
            m = classes - from < CLASSES ? classes - from : CLASSES;
            if (classes > CLASSES)
                exponentials(logits + from, top, e, m);
            for (size_t k = 0; k < m; k++) {
                double p = e[k] * inverse;
                if (grad)
                    grad[i * classes + from + k] = (float)((p - (from + k == label)) / (double)n);
                if (scores)
                    scores[i * classes + from + k] = (float)p;
            }
        }
    }
    if (ret_correct)
        *ret_correct = correct;
    return loss;
}
