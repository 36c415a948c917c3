/* backend.c - what all backends need: options from an experiment's sections, checks of what a caller hands over.
 * SPDX-License-Identifier: Apache-2.0 */
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

int backend_check_samples(const struct model *m, const struct dataset *d, const struct data_split *split,
                          const uint32_t *samples, size_t n, struct error *err)
{
    if (!d)
        return fail(err, -EINVAL, "no data set is loaded");
    if (d->channels != m->input.c || d->height != m->input.h || d->width != m->input.w || d->classes != m->classes)
        return fail(err, -EINVAL, "the model is for images of %dx%dx%d and %d classes, the data has %dx%dx%d and %d",
                    m->input.c, m->input.h, m->input.w, m->classes, d->channels, d->height, d->width, d->classes);
    for (size_t i = 0; i < n; i++)
        if (samples[i] >= split->n)
            return fail(err, -EINVAL, "sample %u is past the split's end at %zu", samples[i], split->n);
    return 0;
}
