/* options.c - what an experiment's sections say about plans. SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/backend.h"

#include "common/json.h"

#include <string.h>

const char *const PRECISION_NAMES[] = {"fp32", "fp32_strict", "tf32", "bf16", NULL};

struct plan_options plan_options_from(const json_t *training)
{
    const char *name = json_string_or(training, "precision", "fp32");
    int precision = 0;

    for (int i = 0; PRECISION_NAMES[i]; i++)
        if (!strcmp(PRECISION_NAMES[i], name))
            precision = i;
    return (struct plan_options){.batch = (size_t)json_int_or(training, "batch_size", 32),
                                 .precision = (enum precision)precision};
}
