/* memory.c - what a trial needs of a GPU's memory, and what there is: refused, as many as fit, or to be waited for.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cuda/cuda_private.h"

#define OVERHEAD_MOST ((size_t)2 << 30) /* beside what is allocated, a process has no more: context, libraries, graphs */

static size_t gpus_of(const struct backend *b)
{
    return b->peers ? ranks_n(b->ranks) : 1;
}

static const struct backend *gpu_of(const struct backend *b, size_t i)
{
    return b->peers ? b->peers[i] : b;
}

/* Of one GPU. A trial gets by with one lane. */
static int needed(const struct backend *b, const struct model *model, const struct plan_options *options,
                  const struct dataset *dataset, size_t *ret, struct error *err)
{
    size_t shared, lane;
    int rc = cuda_plan_bytes(model, options->batch, options->precision, dataset, &shared, &lane, err);

    if (!rc)
        *ret = shared + lane + (b && b->peers ? NCCL_BYTES : 0);
    return rc;
}

/* Refuses what can never fit; what does not fit at the moment fails when it is made. */
int cuda_check_memory(const struct backend *b, const struct model *model, const struct plan_options *options,
                      size_t *ret_bytes, struct error *err)
{
    size_t bytes;
    int rc;

    if (!options->batch)
        return fail(err, -EINVAL, "a batch has at least 1 sample");
    if ((rc = needed(b, model, options, b ? b->dataset : NULL, &bytes, err)))
        return rc;
    if (ret_bytes)
        *ret_bytes = bytes;
    for (size_t i = 0; b && i < gpus_of(b); i++) {
        const struct device_info *info = &gpu_of(b, i)->info;
        if (bytes > info->total_bytes)
            return fail(err, -ENOMEM, "needs %zu MiB of GPU memory for batches of %zu, but %s has %zu MiB", bytes >> 20,
                        options->batch, info->name, info->total_bytes >> 20);
    }
    return 0;
}

/* A trial's own: its lanes, its sum and its resident model. A tenth of the memory serves tables. */
int cuda_fit(struct backend *b, const struct model *m, const struct plan_options *options,
             const struct dataset *dataset, size_t replicas, size_t *ret_trials, struct error *err)
{
    size_t shared, lane, trial, memory = b->info.total_bytes / 10 * 9;
    int rc = cuda_plan_bytes(m, options->batch, options->precision, dataset, &shared, &lane, err);

    if (rc)
        return rc;
    trial = replicas * lane + m->weights_n * (sizeof(double) + sizeof(float));
    *ret_trials = memory > shared + trial ? (memory - shared) / trial : 1;
    return 0;
}

static bool fits(size_t needed_bytes, size_t free_bytes)
{
    return needed_bytes <= free_bytes / 10 * 9;
}

/* Free or this process's own is what the trial could have. Only where more is gone than this process can account for do
 * others hold it: else a trial that the whole GPU is too small for would wait for ever. */
static bool is_squeezed(const struct backend *b, size_t bytes, size_t link_bytes, struct squeeze *ret)
{
    size_t most = (b->info.total_bytes / 8 < OVERHEAD_MOST ? b->info.total_bytes / 8 : OVERHEAD_MOST) + link_bytes;
    size_t free_bytes, total, own = b->driver->own(b->device), had;

    if (b->driver->memory(b->device, &free_bytes, &total, NULL))
        return false;
    had = free_bytes + own;
    *ret = (struct squeeze){.name = b->info.name,
                            .needed_bytes = bytes,
                            .free_bytes = had,
                            .total_bytes = total,
                            .others_bytes = had + CONTEXT_BYTES < total ? total - had - CONTEXT_BYTES : 0};
    return had + most < total && !fits(bytes - CONTEXT_BYTES, had) && fits(bytes - CONTEXT_BYTES, total - CONTEXT_BYTES);
}

bool cuda_squeezed(struct backend *b, const struct model *model, const struct plan_options *options,
                   const struct dataset *dataset, struct squeeze *ret)
{
    size_t bytes;

    if (needed(b, model, options, dataset, &bytes, NULL))
        return false;
    for (size_t i = 0; i < gpus_of(b); i++)
        if (is_squeezed(gpu_of(b, i), bytes, b->peers ? NCCL_BYTES : 0, ret)) {
            ret->gpu = i;
            return true;
        }
    return false;
}

int device_any(const struct driver *driver, bool full_too, struct device **ret, struct device_info *ret_info, struct error *err)
{
    struct error first = {0}, why;
    struct device_info info;
    bool full = false;
    int rc = driver->look(0, NULL, &info, err);

    if (rc)
        return rc;
    for (int i = 0; !(full && full_too) && !driver->look(i, NULL, &info, NULL); i++) {
        rc = driver->open(i, NULL, ret, &why);
        if (!rc || (rc == -ENOMEM && !full))
            *ret_info = info;
        if (!rc)
            return 0;
        full = full || rc == -ENOMEM;
        if (!i)
            first = why;
    }
    if (full)
        return fail(err, -ENOBUFS, "other processes hold the memory of every GPU that can be used: there is none for a context");
    return fail(err, first.code, "%s", first.text);
}
