/* metrics.h - loss, accuracy, macro F1, precision and recall from a confusion matrix.
 * Macro averages over all classes that occur in the labels or the predictions' range 0..classes-1; a class never predicted
 * has precision 0, one that never occurs has recall 0 and is left out of the mean; F1 of a class is 0 where its precision +
 * recall is 0. Same numbers as scikit-learn's average="macro", zero_division=0 over the labels that occur.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_TRAINER_METRICS_H
#define FLEXP_TRAINER_METRICS_H

#include "common/json.h"

#include <stdint.h>

struct evaluation {
    int classes;
    uint64_t n;
    double loss_sum;     /* of cross-entropy, natural logarithm */
    uint64_t *confusion; /* classes x classes, row: label, column: prediction */
};

int evaluation_init(struct evaluation *evaluation, int classes);
void evaluation_done(struct evaluation *evaluation);
void evaluation_clear(struct evaluation *evaluation);
void evaluation_merge(struct evaluation *into, const struct evaluation *from);

struct scores {
    double loss, accuracy, f1, precision, recall;
};
struct scores evaluation_scores(const struct evaluation *evaluation);
/* {"PREFIX_loss": ..., "PREFIX_accuracy": ..., "PREFIX_f1", "PREFIX_precision", "PREFIX_recall"} into object. */
void scores_put(json_t *object, const char *prefix, const struct scores *scores);
json_t *evaluation_confusion_json(const struct evaluation *evaluation);

#endif
