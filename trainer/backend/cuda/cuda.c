/* cuda.c - the CUDA backend's table of functions.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cuda/cuda_private.h"
#include "trainer/backend/cuda/selftest.h"

#include <stdlib.h>

static const struct driver *chosen;

void cuda_use_driver(const struct driver *driver)
{
    chosen = driver;
}

int gpu_open(const struct driver *driver, int index, struct backend **ret, struct error *err)
{
    struct backend *b = calloc(1, sizeof *b);
    int rc;

    if (!b)
        return fail(err, -ENOMEM, "out of memory");
    b->driver = driver;
    if ((rc = driver->open(index, NULL, &b->device, err))) {
        free(b);
        return rc == -ENOMEM ? fail(err, -ENOBUFS, "other processes hold its memory: there is none for a context (GPU %d)", index)
                             : rc;
    }
    driver->info(b->device, &b->info);
    *ret = b;
    return 0;
}

/* The first that opens, or would if others left it any memory: the same one whoever uses which GPU at the moment. */
static int planning_open(const struct driver *driver, struct backend **ret, struct error *err)
{
    struct backend *b = calloc(1, sizeof *b);
    int rc = b ? device_any(driver, true, &b->device, &b->info, err) : fail(err, -ENOMEM, "out of memory");

    if (rc && rc != -ENOBUFS) {
        free(b);
        return rc;
    }
    b->driver = driver;
    *ret = b;
    return 0;
}

/* Cores are the CPU's; leases of GPUs make them those that CUDA_VISIBLE_DEVICES shows. */
static int cuda_open(const struct backend_options *options, struct backend **ret, struct error *err)
{
    const struct driver *driver = chosen;
    int rc = cuda_settings(err);

    if (!rc && !driver)
        rc = cuda_driver(&driver, err);
    if (rc)
        return rc;
    if (options->planning)
        return planning_open(driver, ret, err);
    if (options->gpus_n > RANKS_MOST)
        return fail(err, -EINVAL, "a trial trains on at most %d GPUs, got %zu", RANKS_MOST, options->gpus_n);
    return options->gpus_n > 1 ? parallel_open(driver, options->gpus_n, ret, err) : gpu_open(driver, 0, ret, err);
}

static void drop_data(struct backend *b)
{
    for (size_t i = 0; i < 2; i++) {
        b->driver->release(b->device, b->images[i]);
        b->driver->release(b->device, b->labels[i]);
        b->images[i] = b->labels[i] = NULL;
    }
    b->dataset = NULL;
}

void gpu_close(struct backend *b)
{
    if (!b)
        return;
    if (b->device) {
        drop_data(b);
        b->driver->close(b->device);
    }
    free(b);
}

static void cuda_close(struct backend *b)
{
    if (b && b->peers)
        parallel_close(b);
    else
        gpu_close(b);
}

static struct backend_info cuda_info(const struct backend *b)
{
    return (struct backend_info){.name = "cuda", .isa = b->info.isa};
}

int gpu_load_dataset(struct backend *b, const struct dataset *d, struct error *err)
{
    const struct data_split *splits[] = {&d->train, &d->test};
    size_t image = (size_t)d->channels * (size_t)d->height * (size_t)d->width;
    int rc = 0;

    if (d->channels < 1 || d->channels > 4)
        return fail(err, -EINVAL, "images of %d channels: the CUDA backend takes 1 to 4", d->channels);
    if ((rc = b->driver->wait(b->device, err)))
        return rc;
    drop_data(b);
    for (size_t i = 0; i < 2 && !rc; i++) {
        size_t n = splits[i]->n;
        if (!n)
            continue;
        (void)((rc = b->driver->alloc(b->device, n * image, &b->images[i], err)) ||
               (rc = b->driver->alloc(b->device, n * sizeof(uint16_t), &b->labels[i], err)) ||
               (rc = b->driver->upload(b->device, b->images[i], splits[i]->images, n * image, err)) ||
               (rc = b->driver->upload(b->device, b->labels[i], splits[i]->labels, n * sizeof(uint16_t), err)));
    }
    if (rc) {
        drop_data(b);
        return fail_prefix(err, "loading the data set");
    }
    b->dataset = d;
    b->uploaded++;
    return 0;
}

static int cuda_load_dataset(struct backend *b, const struct dataset *d, struct error *err)
{
    return (b->peers ? parallel_load_dataset : gpu_load_dataset)(b, d, err);
}

static int cuda_compile(struct backend *b, const struct model *model, const struct plan_options *options,
                        struct plan **ret, size_t *ret_mem_bytes, struct error *err)
{
    int rc = cuda_check_memory(b, model, options, ret_mem_bytes, err);

    if (rc || !ret)
        return rc;
    return (b->peers ? parallel_plan_new : cuda_plan_new)(b, model, options, ret, err);
}

void selftest_device(struct backend *b, const struct driver **ret_driver, struct device **ret_device)
{
    *ret_driver = b->driver;
    *ret_device = b->device;
}

const struct backend_ops BACKEND_CUDA = {
    .api_version = BACKEND_API_VERSION,
    .open = cuda_open,
    .close = cuda_close,
    .info = cuda_info,
    .load_dataset = cuda_load_dataset,
    .compile = cuda_compile,
    .fit = cuda_fit,
    .squeezed = cuda_squeezed,
    .release_plan = cuda_plan_free,
    .trim = cuda_trim,
    .train = cuda_train,
    .put_model = cuda_put_model,
    .get_model = cuda_get_model,
    .drop_model = cuda_drop_model,
    .evaluate_model = cuda_evaluate_model,
    .evaluate = cuda_evaluate,
    .gradients = cuda_gradients,
};
