/* precision.c - training.precision.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/backend.h"

#include <string.h>

const char *const PRECISION_NAMES[] = {"fp32", "fp32_strict", "tf32", "bf16", NULL};

int precision_set(const struct backend_ops *ops, struct backend *backend, const json_t *training, struct error *err)
{
    const char *name = json_string_or(training, "precision", "fp32");
    int i = 0;

    while (PRECISION_NAMES[i] && strcmp(PRECISION_NAMES[i], name))
        i++;
    if (!PRECISION_NAMES[i])
        return fail(err, -EINVAL, "training.precision: must be fp32, fp32_strict, tf32 or bf16, got \"%.40s\"", name);
    if (!ops->precision && i >= PRECISION_TF32)
        return fail(err, -EINVAL, "training.precision: %s needs a GPU, and CPU cores compute in fp32", name);
    return ops->precision && backend ? ops->precision(backend, (enum precision)i, err) : 0;
}
