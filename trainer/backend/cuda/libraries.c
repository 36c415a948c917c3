/* libraries.c - which products of a program cuDNN or cuBLASLt computes.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cuda/cuda_private.h"

#include <stdlib.h>

#define DRIVER(l) ((l)->plan->backend->driver)
#define DEVICE_OF(l) ((l)->plan->backend->device)

#define SLOTS 4 /* of an operation: by mode, then its product with the shared start */
#define SHARED_SLOT 3

static struct library **slot_of(const struct lanes *l, const struct op *op, uint32_t slot)
{
    return &l->libraries[SLOTS * (size_t)(op - l->program->ops) + slot];
}

struct library *library_of(const struct lanes *l, const struct op *op, uint32_t mode)
{
    return l->libraries ? *slot_of(l, op, mode) : NULL;
}

struct library *library_of_shared(const struct lanes *l, const struct op *op, enum shared_product which)
{
    bool whole = which == SHARED_FORWARD_START || which == SHARED_BACKWARD_START;

    return l->libraries && whole && l->starts == 1 ? *slot_of(l, op, SHARED_SLOT) : NULL;
}

/* What the slot is for; false: nothing, or the own kernel's. */
static bool product_of(const struct lanes *l, const struct op *op, uint32_t slot, struct gemm_args *ret)
{
    if (slot == SHARED_SLOT)
        return shared_product(l, op, op->type == OP_LAYER ? SHARED_FORWARD_START : SHARED_BACKWARD_START, ret);
    return layer_product(l, op, slot, ret) && (l->n == 1 || l->program->model->layers[op->layer].type != LAYER_CONV2D);
}

/* fp32_strict is the own kernels' alone, and so are bf16's operands; else the libraries compute dense layers, and
 * convolutions of a lone replica. Which engine or algorithm they take is asked once, here. */
int libraries_new(struct lanes *l, struct error *err)
{
    const struct program *p = l->program;
    enum precision precision = l->plan->precision;
    size_t most = 0;

    if ((precision != PRECISION_FP32 && precision != PRECISION_TF32) || !DRIVER(l)->library_new)
        return 0;
    l->libraries = calloc(SLOTS * p->ops_n + 1, sizeof *l->libraries);
    if (!l->libraries)
        return fail(err, -ENOMEM, "out of memory");
    for (size_t i = 0; i < SLOTS * p->ops_n; i++) {
        struct gemm_args a;
        size_t workspace = 0;
        int rc = product_of(l, &p->ops[i / SLOTS], (uint32_t)(i % SLOTS), &a)
                     ? DRIVER(l)->library_new(DEVICE_OF(l), &a, &l->libraries[i], &workspace, err)
                     : 0;
        if (rc && rc != -ENOTSUP)
            return rc;
        most = !rc && workspace > most ? workspace : most;
    }
    return most ? DRIVER(l)->alloc(DEVICE_OF(l), most, &l->workspace, err) : 0;
}

void libraries_free(struct lanes *l)
{
    for (size_t i = 0; l->libraries && i < SLOTS * l->program->ops_n; i++)
        if (l->libraries[i])
            DRIVER(l)->library_free(DEVICE_OF(l), l->libraries[i]);
    free(l->libraries);
    l->libraries = NULL;
    DRIVER(l)->release(DEVICE_OF(l), l->workspace);
    l->workspace = NULL;
}
