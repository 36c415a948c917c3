/* layers.c - an operation becomes launches.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cuda/cuda_private.h"

static uint32_t values_of(const struct shape *s)
{
    return (uint32_t)s->c * (uint32_t)s->h * (uint32_t)s->w;
}

static float *weights_of(const struct lanes *l, int param)
{
    return param < 0 ? NULL : l->weights + l->plan->places[param].offset;
}

static float *grads_of(const struct lanes *l, int param)
{
    return param < 0 || !l->grads ? NULL : l->grads + l->plan->places[param].offset;
}

static struct live live_of(const struct lanes *l, const struct shape *s)
{
    return (struct live){.steps = l->steps, .rows = (uint32_t)l->program->rows, .values = values_of(s)};
}

static uint64_t count_of(const struct lanes *l, const struct shape *s)
{
    return (uint64_t)l->n * l->program->rows * values_of(s);
}

static int queue_assemble(struct lanes *l, const struct op *op, struct error *err)
{
    const struct dataset *d = l->plan->backend->dataset;
    struct assemble_args a = {
        .steps = l->steps,
        .entries = l->update ? l->entries : NULL,
        .list = l->samples,
        .images = (const uint8_t *const *)l->in.pointers,
        .labels = (const uint16_t *const *)(l->in.pointers + 1),
        .x = lanes_space(l, op->y),
        .labels_out = l->labels,
        .rows = (uint32_t)l->program->rows,
        .height = (uint32_t)d->height,
        .width = (uint32_t)d->width,
        .channels = (uint32_t)d->channels,
    };

    a.count = (uint64_t)l->n * a.rows * a.height * a.width;
    for (int c = 0; c < 4; c++) {
        a.mean[c] = d->mean[c];
        a.std[c] = d->std[c];
    }
    return LAUNCH(l, assemble, &a, err);
}

static int queue_loss(struct lanes *l, const struct op *op, struct error *err)
{
    struct loss_args a = {
        .count = l->n * l->program->rows,
        .steps = l->steps,
        .logits = lanes_space(l, op->x),
        .labels = l->labels,
        .grad = lanes_space(l, op->dx),
        .losses = l->losses,
        .predictions = l->predictions,
        .scores = l->scores,
        .rows = (uint32_t)l->program->rows,
        .classes = (uint32_t)l->program->model->classes,
        .at_first = !l->training,
    };
    struct totals_args totals = {
        .count = l->n,
        .steps = l->steps,
        .totals = l->totals,
        .losses = l->losses,
        .predictions = l->predictions,
        .labels = l->labels,
        .rows = a.rows,
    };
    int rc = LAUNCH(l, loss, &a, err);

    return rc || !l->training ? rc : LAUNCH(l, totals, &totals, err);
}

/* Whether the operation has this product; its arguments. */
bool layer_product(const struct lanes *l, const struct op *op, uint32_t mode, struct gemm_args *ret)
{
    const struct model *m = l->program->model;
    const struct layer *layer = op->layer >= 0 ? &m->layers[op->layer] : NULL;

    if (!layer || (layer->type != LAYER_CONV2D && layer->type != LAYER_DENSE) ||
        (op->type == OP_LAYER) != (mode == GEMM_FORWARD) || (mode == GEMM_DATA && op->dx < 0))
        return false;
    gemm_of(layer, mode, gemm_precision(l->plan->precision), l->program->rows, ret);
    ret->steps = l->steps;
    ret->lanes = (uint32_t)l->n;
    ret->x = lanes_space(l, op->x);
    ret->w = weights_of(l, layer->weight);
    ret->weights_stride = l->plan->weights_n;
    ret->dy = lanes_space(l, op->dy);
    ret->parts = lanes_space(l, op->parts);
    ret->count = (uint64_t)l->n * ret->groups * ret->m * ret->n;
    if (mode == GEMM_FORWARD) {
        ret->bias = weights_of(l, layer->bias_param);
        ret->out = lanes_space(l, op->y);
        ret->relu = op->relu;
    } else if (mode == GEMM_DATA) {
        ret->out = lanes_space(l, op->dx);
        ret->mask = lanes_space(l, op->mask);
        ret->add = op->add;
    } else {
        ret->out = grads_of(l, layer->weight);
        ret->bias_out = grads_of(l, layer->bias_param);
        ret->out_stride = l->plan->trainable_n;
        ret->updates = l->update && !l->parallel;
        ret->update = lanes_update(l);
        ret->weight_first = l->plan->places[layer->weight].offset;
        ret->bias_first = layer->bias_param >= 0 ? l->plan->places[layer->bias_param].offset : 0;
    }
    return true;
}

int gemm_queue(struct lanes *l, struct library *library, const struct gemm_args *a, struct error *err)
{
    const struct driver *d = l->plan->backend->driver;
    struct device *device = l->plan->backend->device;
    int rc;

    if (library)
        return d->library_run(device, library, a, l->workspace, err);
    rc = d->gemm(device, a, err);
    return rc || a->splits == 1 ? rc : LAUNCH(l, gemm_finish, a, err);
}

static int queue_product(struct lanes *l, const struct op *op, uint32_t mode, struct error *err)
{
    struct gemm_args a;

    return layer_product(l, op, mode, &a) ? gemm_queue(l, library_of(l, op, mode), &a, err) : 0;
}

static struct pool_args pool_of(const struct lanes *l, const struct op *op, bool backward)
{
    const struct layer *layer = &l->program->model->layers[op->layer];
    const struct shape *s = backward ? &layer->in : &layer->out;

    return (struct pool_args){
        .count = count_of(l, s),
        .live = live_of(l, s),
        .shape = {(uint32_t)layer->in.h, (uint32_t)layer->in.w, (uint32_t)layer->out.h, (uint32_t)layer->out.w,
                  (uint32_t)layer->in.c, (uint32_t)layer->kernel_h, (uint32_t)layer->kernel_w, (uint32_t)layer->stride,
                  layer->pad_top, layer->pad_left},
        .x = lanes_space(l, op->x),
        .y = lanes_space(l, op->y),
        .dy = lanes_space(l, op->dy),
        .out = backward ? lanes_space(l, op->dx) : lanes_space(l, op->y),
        .arg = lanes_space(l, op->aux),
        .relu = op->relu,
        .mask = op->arg_mask,
        .add = op->add,
        .mask_x = lanes_space(l, op->mask),
    };
}

static int queue_dropout(struct lanes *l, const struct op *op, struct error *err)
{
    const struct layer *layer = &l->program->model->layers[op->layer];
    uint32_t values = values_of(&layer->in), rows = (uint32_t)l->program->rows;
    struct dropout_args a = {
        .steps = l->steps,
        .x = lanes_space(l, op->x),
        .y = lanes_space(l, op->y),
        .kept = lanes_space(l, op->aux),
        .draws = l->plan->d_draws,
        .drops = l->in.drops + op->dropout,
        .drops_stride = l->plan->draws_n,
        .before = op->dropout,
        .rows = rows,
        .values = values,
        .runs = (uint32_t)(((uint64_t)rows * values + 2 * DROP_RUN) / (2 * DROP_RUN)), /* one value more: see there */
        .off = !l->drop,
    };

    a.count = (uint64_t)l->n * a.runs;
    return LAUNCH(l, dropout, &a, err);
}

static struct norm_args norm_of(const struct lanes *l, const struct op *op)
{
    const struct layer *layer = &l->program->model->layers[op->layer];
    uint64_t rows = l->n * l->program->rows, c = (uint64_t)layer->in.c;
    struct norm_args a = {
        .steps = l->steps,
        .rows = (uint32_t)l->program->rows,
        .c = (uint32_t)c,
        .pixels = (uint32_t)layer->in.h * (uint32_t)layer->in.w,
        .groups = layer->type == LAYER_GROUP_NORM ? (uint32_t)layer->norm_groups : 0,
        .x = lanes_space(l, op->x),
        .dy = lanes_space(l, op->dy),
        .y = op->type == OP_BACKWARD ? lanes_space(l, op->dx) : lanes_space(l, op->y),
        .sums = lanes_space(l, op->aux2),
        .stats = lanes_space(l, op->aux),
        .gamma = weights_of(l, layer->weight),
        .beta = weights_of(l, layer->bias_param),
        .running_mean = weights_of(l, layer->running_mean),
        .running_var = weights_of(l, layer->running_var),
        .dgamma = grads_of(l, layer->weight),
        .dbeta = grads_of(l, layer->bias_param),
        .weights_stride = l->plan->weights_n,
        .grads_stride = l->plan->trainable_n,
        .eps = layer->eps,
        .momentum = layer->momentum,
        .training = l->training,
        .update = l->update,
        .relu = op->relu,
        .add = op->add,
        .mask = lanes_space(l, op->mask),
    };

    a.coefs = a.sums + 2 * rows * c;
    return a;
}

static int launch_norm(struct lanes *l, enum kernel kernel, struct norm_args *a, uint64_t count, struct error *err)
{
    a->count = count;
    return l->plan->backend->driver->launch(l->plan->backend->device, kernel, a, sizeof *a, err);
}

static int queue_norm(struct lanes *l, const struct op *op, struct error *err)
{
    struct norm_args a = norm_of(l, op);
    uint64_t rows = (uint64_t)l->n * a.rows, by_channel = l->n * (uint64_t)a.c, by_group = rows * a.groups;
    bool sums = a.groups || a.training;
    int rc = 0;

    a.what = NORM_VALUES;
    if (sums && (rc = launch_norm(l, KERNEL_norm_sums, &a, rows * a.c, err)))
        return rc;
    if (sums && (rc = a.groups ? launch_norm(l, KERNEL_norm_group_mean, &a, by_group, err)
                               : launch_norm(l, KERNEL_norm_batch_mean, &a, by_channel, err)))
        return rc;
    a.what = NORM_SQUARES;
    if (sums && (rc = launch_norm(l, KERNEL_norm_sums, &a, rows * a.c, err)))
        return rc;
    rc = a.groups ? launch_norm(l, KERNEL_norm_group_stats, &a, by_group, err)
                  : launch_norm(l, KERNEL_norm_batch_stats, &a, by_channel, err);
    return rc ? rc : launch_norm(l, KERNEL_norm_apply, &a, rows * a.c * a.pixels, err);
}

static int queue_norm_backward(struct lanes *l, const struct op *op, struct error *err)
{
    struct norm_args a = norm_of(l, op);
    uint64_t rows = (uint64_t)l->n * a.rows, by_channel = l->n * (uint64_t)a.c;
    int rc;

    a.what = NORM_GRADIENTS;
    if ((rc = launch_norm(l, KERNEL_norm_sums, &a, rows * a.c, err)))
        return rc;
    if (a.groups) {
        if ((rc = launch_norm(l, KERNEL_norm_group_params, &a, by_channel, err)) ||
            (rc = launch_norm(l, KERNEL_norm_group_backward, &a, rows * a.groups, err)))
            return rc;
    } else if ((rc = launch_norm(l, KERNEL_norm_batch_backward, &a, by_channel, err))) {
        return rc;
    }
    return op->dx < 0 ? 0 : launch_norm(l, KERNEL_norm_gradient, &a, rows * a.c * a.pixels, err);
}

static int queue_forward(struct lanes *l, const struct op *op, struct error *err)
{
    const struct layer *layer = &l->program->model->layers[op->layer];
    struct pool_args pool = pool_of(l, op, false);

    switch (layer->type) {
    case LAYER_CONV2D:
    case LAYER_DENSE:
        return l->shared && op->rank ? shared_forward(l, op, err) : queue_product(l, op, GEMM_FORWARD, err);
    case LAYER_MAX_POOL2D:
        return LAUNCH(l, max_pool, &pool, err);
    case LAYER_AVG_POOL2D:
        return LAUNCH(l, avg_pool, &pool, err);
    case LAYER_GLOBAL_AVG_POOL2D:
        return LAUNCH(l, global_pool, &pool, err);
    case LAYER_BATCH_NORM:
    case LAYER_GROUP_NORM:
        return queue_norm(l, op, err);
    case LAYER_DROPOUT:
        if (l->training && layer->rate > 0)
            return queue_dropout(l, op, err);
        break;
    case LAYER_FLATTEN: {
        struct transpose_args a = {.count = count_of(l, &layer->in),
                                   .live = live_of(l, &layer->in),
                                   .x = lanes_space(l, op->x),
                                   .y = lanes_space(l, op->y),
                                   .c = (uint32_t)layer->in.c,
                                   .pixels = (uint32_t)layer->in.h * (uint32_t)layer->in.w};
        return LAUNCH(l, transpose, &a, err);
    }
    default:
        break;
    }
    struct add_args a = {.count = count_of(l, &layer->out),
                         .live = live_of(l, &layer->out),
                         .x = lanes_space(l, op->x),
                         .x2 = lanes_space(l, op->x2),
                         .y = lanes_space(l, op->y),
                         .relu = op->relu || layer->type == LAYER_RELU};
    return LAUNCH(l, add, &a, err);
}

static int queue_backward(struct lanes *l, const struct op *op, struct error *err)
{
    const struct layer *layer = &l->program->model->layers[op->layer];
    struct pool_args pool;
    int rc;

    if (l->shared && op->rank)
        return shared_backward(l, op, err);
    if (layer->type == LAYER_CONV2D || layer->type == LAYER_DENSE) {
        rc = queue_product(l, op, GEMM_DATA, err); /* first: the other steps the weights */
        return rc ? rc : queue_product(l, op, GEMM_WEIGHTS, err);
    }
    if (layer->type == LAYER_BATCH_NORM || layer->type == LAYER_GROUP_NORM)
        return queue_norm_backward(l, op, err);
    if (op->dx < 0)
        return 0;
    pool = pool_of(l, op, true);
    switch (layer->type) {
    case LAYER_MAX_POOL2D:
        return LAUNCH(l, max_pool_backward, &pool, err);
    case LAYER_AVG_POOL2D:
        return LAUNCH(l, avg_pool_backward, &pool, err);
    case LAYER_GLOBAL_AVG_POOL2D:
        return LAUNCH(l, global_pool_backward, &pool, err);
    case LAYER_DROPOUT: {
        struct dropout_backward_args a = {.count = count_of(l, &layer->in),
                                          .live = live_of(l, &layer->in),
                                          .dy = lanes_space(l, op->dy),
                                          .mask = lanes_space(l, op->mask),
                                          .kept = lanes_space(l, op->aux),
                                          .dx = lanes_space(l, op->dx),
                                          .drops = l->in.drops + op->dropout,
                                          .drops_stride = l->plan->draws_n,
                                          .off = !l->drop,
                                          .add = op->add};
        if (op->aux >= 0 && layer->rate > 0)
            return LAUNCH(l, dropout_backward, &a, err);
        break;
    }
    case LAYER_FLATTEN: {
        struct transpose_args a = {.count = count_of(l, &layer->in),
                                   .live = live_of(l, &layer->in),
                                   .x = lanes_space(l, op->dy),
                                   .mask = lanes_space(l, op->mask),
                                   .y = lanes_space(l, op->dx),
                                   .c = (uint32_t)layer->in.c,
                                   .pixels = (uint32_t)layer->in.h * (uint32_t)layer->in.w,
                                   .back = 1,
                                   .add = op->add};
        return LAUNCH(l, transpose, &a, err);
    }
    default:
        break;
    }
    struct pass_args a = {.count = count_of(l, &layer->in),
                          .live = live_of(l, &layer->in),
                          .dy = lanes_space(l, op->dy),
                          .y = lanes_space(l, op->y),
                          .mask = lanes_space(l, op->mask),
                          .dx = lanes_space(l, op->dx),
                          .add = op->add};
    return LAUNCH(l, pass, &a, err);
}

int layer_queue(struct lanes *l, const struct op *op, struct error *err)
{
    switch (op->type) {
    case OP_ASSEMBLE:
        return queue_assemble(l, op, err);
    case OP_LAYER:
        return queue_forward(l, op, err);
    case OP_LOSS:
        return queue_loss(l, op, err);
    default:
        return queue_backward(l, op, err);
    }
}
