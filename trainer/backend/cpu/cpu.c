/* cpu.c - the CPU backend's table of functions.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cpu/cpu_private.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* oneDNN gets what our own kernels get and no more, so that the set's name says of it too what bits depend on. Holds before
 * oneDNN's first use; later calls change nothing. */
static void limit_onednn(const struct native *native)
{
    dnnl_set_max_cpu_isa(!strcmp(native->name, "avx512") ? dnnl_cpu_isa_avx512_core
                         : !strcmp(native->name, "avx2") ? dnnl_cpu_isa_avx2
                                                         : dnnl_cpu_isa_sse41);
}

static int cpu_open(const struct backend_options *options, struct backend **ret, struct error *err)
{
    struct backend *b = calloc(1, sizeof *b);
    dnnl_status_t status;
    int rc;

    if (!b)
        return fail(err, -ENOMEM, "out of memory");
    if ((rc = choose_kernels(&b->native, &b->only, err))) {
        free(b);
        return rc;
    }
    limit_onednn(b->native);
    if (!options->cores_n) {
        free(b);
        return fail(err, -EINVAL, "the CPU backend needs at least one core");
    }
    snprintf(b->isa, sizeof b->isa, "%s%s%s", b->native->name, b->only ? " " : "", b->only ? b->only : "");
    b->topology = topology_new();
    b->l2_bytes = topology_l2_bytes(b->topology, options->cores, options->cores_n);
    rc = crew_new(options->cores, options->cores_n, b->topology, &b->crew, err);
    if (!rc && (status = dnnl_engine_create(&b->engine, dnnl_cpu, 0)) != dnnl_success)
        rc = dnnl_fail(err, status, "opening the CPU");
    if (rc) {
        crew_free(b->crew);
        topology_free(b->topology);
        free(b);
        return rc;
    }
    *ret = b;
    return 0;
}

static void cpu_close(struct backend *b)
{
    if (!b)
        return;
    crew_free(b->crew);
    dnnl_engine_destroy(b->engine);
    topology_free(b->topology);
    free(b);
}

static struct backend_info cpu_info(const struct backend *b)
{
    return (struct backend_info){.name = "cpu", .isa = b->isa};
}

static int cpu_load_dataset(struct backend *b, const struct dataset *dataset, struct error *err)
{
    (void)err;
    b->dataset = dataset;
    return 0;
}

struct compiling {
    struct backend *backend;
    const struct model *model;
    const struct plan_options *options;
    struct plan **ret;
    struct error *err;
    int rc;
};

static void compile_thread(void *arg, size_t thread)
{
    struct compiling *c = arg;

    (void)thread;
    c->rc = plan_compile(c->backend, c->model, c->options, c->ret, c->err);
}

static int cpu_compile(struct backend *b, const struct model *model, const struct plan_options *options,
                       struct plan **ret, size_t *ret_mem_bytes, struct error *err)
{
    struct compiling c = {.backend = b, .model = model, .options = options, .ret = ret, .err = err};

    if (!options->batch)
        return fail(err, -EINVAL, "a batch has at least 1 sample");
    if (options->precision >= PRECISION_TF32)
        return fail(err, -EINVAL, "training.precision: %s needs a GPU, and CPU cores compute in fp32",
                    PRECISION_NAMES[options->precision]);
    if (ret_mem_bytes)
        *ret_mem_bytes = plan_mem_bytes(model, options->batch, b ? crew_size(b->crew) : 1);
    if (!ret)
        return 0;
    crew_run(b->crew, 1, compile_thread, &c);
    return c.rc;
}

const struct backend_ops BACKEND_CPU = {
    .api_version = BACKEND_API_VERSION,
    .open = cpu_open,
    .close = cpu_close,
    .info = cpu_info,
    .load_dataset = cpu_load_dataset,
    .compile = cpu_compile,
    .release_plan = plan_free,
    .train = cpu_train,
    .evaluate = cpu_evaluate,
    .gradients = cpu_gradients,
    .profile = cpu_profile,
};
