/* shared.c - dense layers of plain SGD replicas that share the round's start: kernels_shared.h has the algebra. Which
 * layers may, in which rounds they do, and their operations as launches.
 *
 * A lane's factors stand where its own weights of the layer would: A, then H. A layer may share where both fit with
 * at least a batch, thus rank <= in out / (in + out): they are then never larger than the weights, and a step moves
 * rank (in + out) values in the mean, instead of four times in x out. Which products are cut, and into how many parts,
 * is a rule over the shape alone, so that bits depend on neither the number of lanes nor on turns; they are not those
 * of replicas with weights of their own, and a round shares as a whole or not at all: wherefore fp32_strict, whose bits
 * do not depend on what else is trained, never shares. SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cuda/cuda_private.h"

#include <stdlib.h>

#define LEAST_WEIGHTS ((size_t)1 << 18) /* a smaller layer's weights stay in the caches */
#define LEAST_REPLICAS 8
#define MOST_DECAY 0.5 /* lr x decay x steps: what is left of the start must not vanish */
#define CUT_LANES 32   /* the product with the start is cut as for so many */
#define ALIGN 64       /* floats */

/* FLEXP_CUDA_SHARED: 0 never, 1 wherever it is right; -1: by rule. */
static int wanted(void)
{
    const char *value = getenv("FLEXP_CUDA_SHARED");

    return value && (!strcmp(value, "0") || !strcmp(value, "1")) ? value[0] - '0' : -1;
}

size_t shared_rank(const struct layer *l, size_t rows, enum precision precision)
{
    size_t in = (size_t)l->in.c, out = (size_t)l->out.c, rank;

    if (l->type != LAYER_DENSE || precision == PRECISION_FP32_STRICT || !wanted() || in * out < ALIGN)
        return 0;
    rank = (in * out - ALIGN) / (in + out);
    return rank >= rows && (wanted() == 1 || in * out >= LEAST_WEIGHTS) ? rank : 0;
}

static size_t samples_of(const struct replica *r)
{
    double samples = (double)r->samples_n * (double)r->epochs, most = (double)r->max_batches * (double)r->batch;

    return (size_t)(r->max_batches > 0 && most < samples ? most : samples);
}

static bool can_share(const struct plan *p, const struct replica *r)
{
    double samples = (double)samples_of(r), decay = (double)r->lr * (double)r->optimizer.weight_decay;

    /* No batch has less than one sample: as many steps at most. */
    return r->optimizer.type == OPTIMIZER_SGD && !(r->optimizer.momentum > 0) && !(r->proximal_mu > 0) &&
           !r->correction && samples <= (double)p->rank && decay >= 0 && decay * samples <= MOST_DECAY;
}

bool shared_pays(const struct plan *p, const struct training *trainings, size_t n)
{
    if (!p->rank || !wanted())
        return false;
    for (size_t k = 0; k < n; k++) {
        if (wanted() < 0 && trainings[k].n < LEAST_REPLICAS)
            return false;
        for (size_t i = 0; i < trainings[k].n; i++)
            if (trainings[k].reduction.type == REDUCE_EACH || !can_share(p, &trainings[k].replicas[i]))
                return false;
    }
    return true;
}

/* products */

/* Without pointers, for one lane. FORWARD: x w^T; DATA: dy w. */
int shared_shape(const struct layer *l, enum shared_product which, size_t rank, size_t rows, enum precision precision,
                 struct gemm_args *ret)
{
    bool forward = which <= SHARED_FORWARD_FACTORS;
    int wide = forward ? l->in.c : l->out.c, narrow = forward ? l->out.c : l->in.c;
    struct layer dense = {.type = LAYER_DENSE, .in = l->in, .out = l->out};
    uint32_t mode = forward ? GEMM_FORWARD : GEMM_DATA;
    int rc;

    if (which == SHARED_FORWARD_GRAM || which == SHARED_BACKWARD_GRAM) {
        dense.in.c = wide;
        dense.out.c = (int)rank;
        mode = GEMM_FORWARD;
    } else if (which == SHARED_FORWARD_FACTORS || which == SHARED_BACKWARD_FACTORS) {
        dense.in.c = narrow;
        dense.out.c = (int)rank;
        mode = GEMM_DATA;
    }
    if (which != SHARED_FORWARD_START && which != SHARED_BACKWARD_START)
        return gemm_of(&dense, mode, gemm_precision(precision), rows, ret);
    rc = gemm_of(&dense, mode, gemm_precision(precision), rows * CUT_LANES, ret);
    ret->rows = ret->m = (uint32_t)rows;
    return rc;
}

int shared_spaces(const struct layer *l, bool backward, size_t rank, size_t rows, enum precision precision,
                  size_t *ret_parts_bytes)
{
    size_t first = backward ? SHARED_BACKWARD_START : SHARED_FORWARD_START;

    for (size_t which = first; which < first + 3; which++) {
        struct gemm_args a;
        int rc = shared_shape(l, (enum shared_product)which, rank, rows, precision, &a);
        if (rc)
            return rc;
        if (gemm_parts_bytes(&a) > *ret_parts_bytes)
            *ret_parts_bytes = gemm_parts_bytes(&a);
    }
    return 0;
}

static size_t offset_of(const struct lanes *l, const struct op *op)
{
    return l->plan->places[l->program->model->layers[op->layer].weight].offset;
}

static float *factor_a(const struct lanes *l, const struct op *op)
{
    return l->weights + offset_of(l, op);
}

static float *factor_h(const struct lanes *l, const struct op *op)
{
    size_t in = (size_t)l->program->model->layers[op->layer].in.c;

    return factor_a(l, op) + (op->rank * in + ALIGN - 1) / ALIGN * ALIGN;
}

/* The replicas of one start as one replica of many rows. */
static void of_starts(const struct lanes *l, const struct op *op, struct gemm_args *a)
{
    a->steps = l->in.start_steps;
    a->lanes = (uint32_t)l->starts;
    a->rows = a->m = a->rows * (uint32_t)l->per_start;
    a->x_stride = (uint64_t)a->rows * a->in_c;
    a->dy_stride = (uint64_t)a->rows * a->out_c;
    a->w = l->start + offset_of(l, op);
    a->weights_stride = l->start_stride * l->per_start;
}

static void of_lanes(const struct lanes *l, const float *factor, struct gemm_args *a)
{
    a->steps = l->steps;
    a->seen = l->in.lanes;
    a->lanes = (uint32_t)l->n;
    a->w = factor;
    a->weights_stride = l->plan->weights_n;
    /* Rows of the Gram matrix end at the samples seen, which need not be four. */
    a->vector_out = a->mode == GEMM_FORWARD ? a->vector_out : 0;
}

bool shared_product(const struct lanes *l, const struct op *op, enum shared_product which, struct gemm_args *ret)
{
    const struct layer *layer = op->layer >= 0 ? &l->program->model->layers[op->layer] : NULL;
    bool forward = which <= SHARED_FORWARD_FACTORS;
    bool gram = which == SHARED_FORWARD_GRAM || which == SHARED_BACKWARD_GRAM;
    bool start = which == SHARED_FORWARD_START || which == SHARED_BACKWARD_START;
    float *in = lanes_space(l, forward ? op->x : op->dy), *out = lanes_space(l, forward ? op->y : op->dx);

    if (!op->rank || (op->type == OP_LAYER) != forward || (!forward && op->dx < 0))
        return false;
    shared_shape(layer, which, op->rank, l->program->rows, l->plan->precision, ret);
    if (start)
        of_starts(l, op, ret);
    else
        of_lanes(l, gram == forward ? factor_a(l, op) : factor_h(l, op), ret);
    ret->parts = lanes_space(l, op->parts);
    ret->count = (uint64_t)ret->lanes * ret->m * ret->n;
    *(ret->mode == GEMM_FORWARD ? &ret->x : &ret->dy) = gram || start ? in : lanes_space(l, op->gram);
    ret->out = gram ? lanes_space(l, op->gram) : out;
    if (!gram) {
        ret->add = !start || (!forward && op->add);
        ret->mask = forward ? NULL : lanes_space(l, op->mask);
    }
    return true;
}

static int queue(struct lanes *l, const struct op *op, enum shared_product which, struct error *err)
{
    struct gemm_args a;

    if (!shared_product(l, op, which, &a))
        return 0;
    return gemm_queue(l, library_of_shared(l, op, which), &a, err);
}

/* operations */

int shared_forward(struct lanes *l, const struct op *op, struct error *err)
{
    const struct layer *layer = &l->program->model->layers[op->layer];
    struct shared_output_args a = {
        .live = {l->steps, (uint32_t)l->program->rows, (uint32_t)layer->out.c},
        .bias = layer->bias_param < 0 ? NULL : l->weights + l->plan->places[layer->bias_param].offset,
        .y = lanes_space(l, op->y),
        .weights_stride = l->plan->weights_n,
        .relu = op->relu,
    };
    int rc;

    a.count = l->n * (uint64_t)a.live.rows * a.live.values;
    if ((rc = queue(l, op, SHARED_FORWARD_START, err)) || (rc = queue(l, op, SHARED_FORWARD_GRAM, err)) ||
        (rc = queue(l, op, SHARED_FORWARD_FACTORS, err)))
        return rc;
    return LAUNCH(l, shared_output, &a, err);
}

int shared_backward(struct lanes *l, const struct op *op, struct error *err)
{
    const struct layer *layer = &l->program->model->layers[op->layer];
    uint32_t rows = (uint32_t)l->program->rows, in = (uint32_t)layer->in.c, out = (uint32_t)layer->out.c;
    struct keep_gradients_args gradients = {
        .count = l->n * (uint64_t)out,
        .lanes = l->in.lanes,
        .steps = l->steps,
        .dy = lanes_space(l, op->dy),
        .factor = factor_h(l, op),
        .stride = l->plan->weights_n,
        .update = lanes_update(l),
        .bias = layer->bias_param >= 0,
        .bias_first = layer->bias_param < 0 ? 0 : l->plan->places[layer->bias_param].offset,
        .rows = rows,
        .out = out,
    };
    struct keep_inputs_args inputs = {
        .count = l->n * (uint64_t)rows * in,
        .live = {l->steps, rows, in},
        .lanes = l->in.lanes,
        .x = lanes_space(l, op->x),
        .factor = factor_a(l, op),
        .stride = l->plan->weights_n,
    };
    int rc;

    if ((rc = LAUNCH(l, keep_gradients, &gradients, err)) || (rc = queue(l, op, SHARED_BACKWARD_START, err)) ||
        (rc = queue(l, op, SHARED_BACKWARD_GRAM, err)) || (rc = queue(l, op, SHARED_BACKWARD_FACTORS, err)))
        return rc;
    return LAUNCH(l, keep_inputs, &inputs, err);
}

/* rounds */

/* Replicas of a turn that start alike: how many in a row, if all starts have equally many; else each has its own. */
static size_t per_start(const struct turn *t)
{
    size_t first = 0, run;

    if (!t->lanes->start_stride)
        return t->lanes->n;
    while (first < t->n && turn_same_start(&t->members[first], &t->members[0]))
        first++;
    if (first == t->n)
        return t->lanes->n;
    for (size_t i = 0; i < t->n; i += run) {
        for (run = 0; i + run < t->n && turn_same_start(&t->members[i + run], &t->members[i]); run++)
            ;
        if (run != first)
            return 1;
    }
    return first;
}

void shared_begin(struct turn *t)
{
    struct lanes *l = t->lanes;
    size_t per = per_start(t), starts = per == l->n ? 1 : t->n / per;

    if (l->starts != starts || l->per_start != per)
        lanes_forget_graphs(l);
    l->starts = starts;
    l->per_start = per;
    for (size_t i = 0; i < starts; i++)
        l->host.start_steps[i] = (struct lane_step){.rows = (uint32_t)(per * l->program->rows)};
}

size_t shared_partials(const struct program *p)
{
    size_t n = 0;

    for (size_t i = 0; i < p->ops_n; i++)
        if (p->ops[i].type == OP_LAYER && p->ops[i].rank)
            n += shared_sum_partials((uint32_t)p->model->layers[p->ops[i].layer].out.c,
                                     (uint32_t)p->model->layers[p->ops[i].layer].in.c);
    return n;
}

/* Lanes first to end - 1; partials: how many of a lane other layers have taken. */
static int sum_layer(struct turn *t, const struct op *op, size_t first, size_t end, size_t partials, struct error *err)
{
    const struct plan *p = t->plan;
    struct lanes *l = t->lanes;
    const struct layer *layer = &p->model->layers[op->layer];
    const struct shape *image = &p->train.permuted[op->layer];
    struct layer dense = {.type = LAYER_DENSE, .in = layer->in, .out = layer->out};
    struct shared_sum_args a = {
        .lanes = l->in.lanes,
        .totals = l->totals,
        .start = l->start + offset_of(l, op),
        .start_stride = l->start_stride,
        .sum = p->d_sums + t->members[first].k * p->model->weights_n + p->model->params[layer->weight].offset,
        .partial = l->shared_partial + partials,
        .partial_stride = shared_partials(l->program),
        .first = (uint32_t)first,
        .end = (uint32_t)end,
        .by_channels = divisor_of(image->c ? (uint32_t)image->c : (uint32_t)layer->in.c),
        .pixels = image->c ? (uint32_t)image->h * (uint32_t)image->w : 1,
    };
    int rc = gemm_of(&dense, GEMM_WEIGHTS, gemm_precision(p->precision), op->rank, &a.product);

    if (rc)
        return fail(err, rc, "layer %d is too large for the CUDA backend", op->layer);
    a.product.splits = 1;
    a.product.steps = l->steps;
    a.product.dy = factor_h(l, op);
    a.product.x = factor_a(l, op);
    a.product.x_stride = a.product.dy_stride = p->weights_n;
    return p->backend->driver->shared_sum(p->backend->device, &a, err);
}

int shared_sums(struct turn *t, struct error *err)
{
    const struct program *program = t->lanes->program;
    size_t end, partials;
    int rc = 0;

    for (size_t first = 0; first < t->n; first = end) {
        end = turn_same_training(t, first);
        partials = 0;
        for (size_t i = 0; i < program->ops_n && !rc; i++) {
            const struct op *op = &program->ops[i];
            if (op->type != OP_LAYER || !op->rank)
                continue;
            rc = sum_layer(t, op, first, end, partials, err);
            partials += shared_sum_partials((uint32_t)program->model->layers[op->layer].out.c,
                                            (uint32_t)program->model->layers[op->layer].in.c);
        }
    }
    return rc;
}
