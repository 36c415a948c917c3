/* options.c - what an experiment's sections say about plans. SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/backend.h"

#include "common/json.h"

#include <string.h>

struct plan_options plan_options_from(const json_t *training)
{
    const char *precision = json_string_or(training, "precision", "fp32");

    return (struct plan_options){
        .batch = (size_t)json_int_or(training, "batch_size", 32),
        .precision = strcmp(precision, "fp32_strict") ? PRECISION_FP32 : PRECISION_FP32_STRICT,
    };
}
