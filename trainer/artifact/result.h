/* result.h - what a trial leaves for whoever comes after: model.safetensors with the weights of its best validation, and
 * result.json: model (file), split (which data the numbers are of), unit, loss, num_classes, class_names, accuracy, avg_f1,
 * avg_precision, avg_recall (macro), confusion (rows: labels), prediction_scores (one list of softmax scores a sample, in
 * the order of `samples`, rounded to 6 digits), labels, hyperparameters.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_TRAINER_RESULT_H
#define FLEXP_TRAINER_RESULT_H

#include "common/error.h"
#include "trainer/data/dataset.h"
#include "trainer/metrics/metrics.h"
#include "trainer/model/model.h"

struct result {
    const char *split;       /* "validation", "official test split as validation", "test" */
    const char *model_file;  /* relative to the folder */
    const struct dataset *dataset;
    const struct evaluation *evaluation;
    const float *scores;     /* n x classes */
    const uint32_t *samples; /* n */
    const struct data_split *data;
    size_t n;
    const json_t *hyperparameters, *units;
};

int result_write(const char *path, const struct result *result, struct error *err);

#endif
