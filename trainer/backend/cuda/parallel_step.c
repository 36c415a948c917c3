/* parallel_step.c - a step of data parallel training: each GPU has a share of every batch. Gradients are cleared in
 * front of it, for a GPU whose share of a small batch is empty, and summed over the GPUs while the backward pass makes
 * more: neighbours that are made, as soon as they are a bucket full; what is left, at the end. With incoming they are
 * added in the order of ranks, else in NCCL's. SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cuda/cuda_private.h"

#include <stdlib.h>

#define BUCKET ((size_t)1 << 20) /* values */

struct piece { /* a parameter's place, up to the next one's */
    size_t from, to;
    int param;
    enum { WANTED, MADE, SUMMED } state;
};

struct pieces {
    size_t n;
    struct piece all[]; /* by place */
};

static int by_place(const void *left, const void *right)
{
    const struct piece *a = left, *b = right;

    return a->from < b->from ? -1 : a->from > b->from;
}

int parallel_step_new(struct lanes *l, struct error *err)
{
    const struct model *m = l->program->model;
    const struct plan *p = l->plan;
    struct pieces *pieces = calloc(1, sizeof *pieces + m->params_n * sizeof *pieces->all);
    bool in_order = p->precision == PRECISION_FP32_STRICT || !ranks_have_nccl(p->backend->ranks);

    if (!pieces)
        return fail(err, -ENOMEM, "out of memory");
    l->pieces = pieces;
    for (size_t k = 0; k < m->params_n; k++)
        if (m->params[k].trainable)
            pieces->all[pieces->n++] = (struct piece){.from = p->places[k].offset, .param = (int)k};
    qsort(pieces->all, pieces->n, sizeof *pieces->all, by_place);
    for (size_t i = 0; i < pieces->n; i++)
        pieces->all[i].to = i + 1 < pieces->n ? pieces->all[i + 1].from : p->trainable_n;
    if (!in_order)
        return 0;
    return p->backend->driver->alloc(p->backend->device, (p->trainable_n + 1) * sizeof *l->incoming,
                                     (void **)&l->incoming, err);
}

void parallel_step_free(struct lanes *l)
{
    l->plan->backend->driver->release(l->plan->backend->device, l->incoming);
    free(l->pieces);
}

int parallel_step_begin(struct lanes *l, struct error *err)
{
    const struct backend *b = l->plan->backend;

    for (size_t i = 0; i < l->pieces->n; i++)
        l->pieces->all[i].state = WANTED;
    return b->driver->clear(b->device, l->grads, l->n * l->plan->trainable_n * sizeof *l->grads, err);
}

static int sum(struct lanes *l, size_t from, size_t to, struct error *err)
{
    const struct backend *b = l->plan->backend;

    if (l->incoming)
        return rank_sum_in_order(b->ranks, b->rank, l->grads + from, l->incoming, to - from, err);
    return rank_sum(b->ranks, b->rank, l->grads + from, to - from, LINK_FLOAT, err);
}

/* Runs of neighbours that are made, of so many values at least. */
static int sum_runs(struct lanes *l, size_t least, struct error *err)
{
    struct piece *all = l->pieces->all;
    size_t end;
    int rc = 0;

    for (size_t i = 0; i < l->pieces->n && !rc; i = end) {
        for (end = i; end < l->pieces->n && all[end].state == MADE;)
            end++;
        if (end > i && all[end - 1].to - all[i].from >= least) {
            rc = sum(l, all[i].from, all[end - 1].to, err);
            for (size_t k = i; k < end; k++)
                all[k].state = SUMMED;
        }
        end += end == i;
    }
    return rc;
}

int parallel_step_made(struct lanes *l, const struct op *op, struct error *err)
{
    const struct layer *layer = op->layer >= 0 ? &l->program->model->layers[op->layer] : NULL;

    if (op->type != OP_BACKWARD)
        return 0;
    for (size_t i = 0; i < l->pieces->n; i++) {
        struct piece *p = &l->pieces->all[i];
        if (p->state == WANTED && (p->param == layer->weight || p->param == layer->bias_param))
            p->state = MADE;
    }
    return sum_runs(l, BUCKET, err);
}

int parallel_step_end(struct lanes *l, struct error *err)
{
    int rc;

    for (size_t i = 0; i < l->pieces->n; i++)
        if (l->pieces->all[i].state == WANTED)
            l->pieces->all[i].state = MADE;
    rc = sum_runs(l, 0, err);
    return rc ? rc : rank_join(l->plan->backend->ranks, l->plan->backend->rank, err);
}
