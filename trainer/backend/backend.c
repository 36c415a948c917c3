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

size_t backend_replicas(const struct training *trainings, size_t n)
{
    size_t sum = 0;

    for (size_t i = 0; i < n; i++)
        sum += trainings[i].n;
    return sum;
}

static int check_start(const struct training *t, const struct replica *r, size_t i, struct error *err)
{
    bool resident = t->reduction.type == REDUCE_MODEL;

    if (resident && !t->reduction.model)
        return fail(err, -EINVAL, "no model has been put");
    if (!r->start != resident)
        return fail(err, -EINVAL, "replica %zu: %s", i,
                    resident ? "starts from the resident model alone" : "has no start");
    return 0;
}

int backend_check_trainings(const struct model *model, const struct dataset *dataset, size_t batch,
                            const struct training *trainings, size_t n, struct error *err)
{
    int rc = backend_check_samples(model, dataset, NULL, NULL, 0, err);

    for (size_t k = 0; k < n; k++)
        for (size_t i = 0; i < trainings[k].n && !rc; i++) {
            const struct replica *r = &trainings[k].replicas[i];
            if (r->batch < 1 || r->batch > batch)
                return fail(err, -EINVAL, "replica %zu: a batch of %zu, but the plan is for 1 to %zu", i, r->batch, batch);
            if (r->model && strcmp(r->model->key, model->key))
                return fail(err, -EINVAL, "replica %zu: its model is not the plan's", i);
            rc = check_start(&trainings[k], r, i, err);
            if (rc)
                return rc;
            rc = backend_check_samples(model, dataset, &dataset->train, r->samples, r->samples_n, err);
            if (rc)
                fail_prefix(err, "replica %zu", i);
        }
    return rc;
}

bool backend_canceled(const struct training *t)
{
    return t->cancel && __atomic_load_n(t->cancel, __ATOMIC_ACQUIRE);
}

bool backend_all_canceled(const struct training *trainings, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (trainings[i].n && !trainings[i].canceled)
            return false;
    return true;
}

int backend_train(const struct backend_ops *ops, struct plan *plan, struct replica *replicas, size_t n,
                  const struct augment *augment, const struct reduction *reduction, const volatile int *cancel,
                  struct error *err)
{
    struct training one = {.replicas = replicas, .n = n, .augment = augment, .reduction = *reduction, .cancel = cancel};

    return ops->train(plan, &one, 1, err);
}
