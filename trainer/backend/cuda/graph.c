/* graph.c - a model as operations on buffers.
 * A ReLU that alone reads a layer's output is computed by that layer; a dropout that drops nothing and a flatten whose
 * order nobody sees are no operations at all. Gradients of a tensor with several readers are added up in the order of
 * the backward pass. SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cuda/cuda_private.h"

#include <stdlib.h>
#include <string.h>

static size_t values_of(const struct shape *s)
{
    return (size_t)s->c * (size_t)s->h * (size_t)s->w;
}

struct builder {
    struct program *p;
    const struct model *m;
    int *root;       /* tensor -> the tensor whose buffer it is */
    int *act, *grad; /* root -> buffer; -1: none yet */
    bool *relu;      /* root: its gradient is wanted from before a ReLU */
    bool *wanted;    /* tensor: its gradient */
    int *aux, *aux2; /* layer -> buffer */
    enum precision precision;
    bool failed;
};

static int add_space(struct builder *b, size_t row, size_t fixed)
{
    struct program *p = b->p;
    struct space *grown = realloc(p->spaces, (p->spaces_n + 1) * sizeof *grown);

    if (!grown) {
        b->failed = true;
        return 0;
    }
    p->spaces = grown;
    p->spaces[p->spaces_n] = (struct space){.row = row, .fixed = fixed, .first = -1};
    return (int)p->spaces_n++;
}

uint32_t program_dropouts(const struct model *m, size_t end)
{
    uint32_t n = 0;

    for (size_t i = 0; i < end; i++)
        n += m->layers[i].type == LAYER_DROPOUT && m->layers[i].rate > 0;
    return n;
}

static struct op *add_op(struct builder *b, enum op_type type, int layer)
{
    static struct op nowhere;
    struct program *p = b->p;
    struct op *grown = realloc(p->ops, (p->ops_n + 1) * sizeof *grown);

    if (!grown) {
        b->failed = true;
        return &nowhere;
    }
    p->ops = grown;
    p->ops[p->ops_n] = (struct op){.type = type,
                                   .layer = layer,
                                   .dropout = layer > 0 ? program_dropouts(b->m, (size_t)layer) : 0,
                                   .x = -1,
                                   .x2 = -1,
                                   .y = -1,
                                   .dy = -1,
                                   .dx = -1,
                                   .aux = -1,
                                   .aux2 = -1,
                                   .parts = -1,
                                   .mask = -1,
                                   .gram = -1};
    return &p->ops[p->ops_n++];
}

static bool can_fuse_relu(enum layer_type type)
{
    return type != LAYER_DROPOUT && type != LAYER_FLATTEN && type != LAYER_RELU;
}

static bool fused_relu(const struct model *m, size_t i)
{
    const struct layer *l = &m->layers[i];

    return l->type == LAYER_RELU && l->input >= 0 && i + 1 < m->layers_n && can_fuse_relu(m->layers[l->input].type) &&
           model_sole_reader(m, l->input + 1) == (int)i;
}

/* Whether the order of the values in tensor t, made by a flatten, shows nowhere but in dense layers; these are told it.
 */
static bool order_is_hidden(struct builder *b, int t, const struct shape *image, bool mark)
{
    const struct model *m = b->m;

    if (t == (int)m->layers_n)
        return false;
    for (size_t i = 0; i < m->layers_n; i++) {
        const struct layer *l = &m->layers[i];
        if (l->type == LAYER_ADD && (l->from + 1 == t || l->input + 1 == t))
            return false;
        if (l->input + 1 != t)
            continue;
        if (l->type == LAYER_DENSE) {
            if (mark)
                b->p->permuted[i] = *image;
        } else if (l->type == LAYER_RELU || l->type == LAYER_DROPOUT || l->type == LAYER_FLATTEN) {
            if (!order_is_hidden(b, (int)i + 1, image, mark))
                return false;
        } else {
            return false;
        }
    }
    return true;
}

static bool is_alias(struct builder *b, size_t i)
{
    const struct layer *l = &b->m->layers[i];

    if (i + 1 == b->m->layers_n)
        return false; /* the loss writes the gradient of its own tensor, unmasked */
    if (l->type == LAYER_DROPOUT)
        return !b->p->training || !(l->rate > 0);
    if (l->type == LAYER_RELU)
        return fused_relu(b->m, i);
    if (l->type != LAYER_FLATTEN)
        return false;
    if (l->in.h * l->in.w == 1 || l->in.c == 1)
        return true;
    if (!order_is_hidden(b, (int)i + 1, &l->in, false))
        return false;
    order_is_hidden(b, (int)i + 1, &l->in, true);
    return true;
}

static int activation(struct builder *b, int tensor)
{
    return b->act[b->root[tensor]];
}

static void add_aux(struct builder *b, size_t i, struct op *op)
{
    const struct layer *l = &b->m->layers[i];
    size_t c = (size_t)l->in.c;

    switch (l->type) {
    case LAYER_MAX_POOL2D:
        op->aux = add_space(b, values_of(&l->out) * sizeof(uint16_t), 0);
        break;
    case LAYER_DROPOUT:
        op->aux = add_space(b, values_of(&l->out), 0);
        break;
    case LAYER_BATCH_NORM: /* statistics; sums (twice) and what is made of them (three times) */
        op->aux = add_space(b, 0, 2 * c * sizeof(float));
        op->aux2 = add_space(b, 2 * c * sizeof(double), 3 * c * sizeof(double));
        break;
    case LAYER_GROUP_NORM:
        op->aux = add_space(b, 2 * (size_t)l->norm_groups * sizeof(float), 0);
        op->aux2 = add_space(b, 5 * c * sizeof(double), 0);
        break;
    default:
        break;
    }
    b->aux[i] = op->aux;
    b->aux2[i] = op->aux2;
}

static void add_forward(struct builder *b, size_t i)
{
    const struct layer *l = &b->m->layers[i];
    int out = (int)i + 1, reader = model_sole_reader(b->m, out);
    struct op *op;

    b->root[out] = out;
    b->wanted[out] = l->weight >= 0 || b->wanted[l->input + 1] || (l->type == LAYER_ADD && b->wanted[l->from + 1]);
    if (is_alias(b, i)) {
        b->root[out] = b->root[l->input + 1];
        if (l->type == LAYER_RELU)
            b->relu[b->root[out]] = true;
        return;
    }
    b->act[out] = add_space(b, values_of(&l->out) * sizeof(float), 0);
    op = add_op(b, OP_LAYER, (int)i);
    op->x = activation(b, l->input + 1);
    op->x2 = l->type == LAYER_ADD ? activation(b, l->from + 1) : -1;
    op->y = b->act[out];
    op->relu = reader >= 0 && fused_relu(b->m, (size_t)reader);
    add_aux(b, i, op);
}

/* The gradient of tensor t is written, or added to, by this operation. */
static void gradient_of(struct builder *b, struct op *op, int t)
{
    int root = b->root[t];

    op->add = b->grad[root] >= 0;
    if (!op->add)
        b->grad[root] = add_space(b, b->p->spaces[b->act[root]].row, 0);
    op->dx = b->grad[root];
    if (b->relu[root])
        op->mask = b->act[root];
}

static void add_backward(struct builder *b, size_t i)
{
    const struct layer *l = &b->m->layers[i];
    int out = (int)i + 1;
    struct op *op;

    if (b->root[out] != out || !b->wanted[out])
        return;
    op = add_op(b, OP_BACKWARD, (int)i);
    if (l->type == LAYER_CONV2D || l->type == LAYER_DENSE || l->type == LAYER_BATCH_NORM || l->type == LAYER_GROUP_NORM)
        op->x = activation(b, l->input + 1);
    if (l->type == LAYER_RELU)
        op->y = b->act[out];
    op->dy = b->grad[out];
    op->aux = b->aux[i];
    op->aux2 = b->aux2[i];
    if (b->wanted[l->input + 1])
        gradient_of(b, op, l->input + 1);
    if (l->type == LAYER_MAX_POOL2D && op->mask >= 0) {
        op->arg_mask = true;
        op->y = b->act[out];
        op->mask = -1;
    }
    if (l->type == LAYER_ADD && b->wanted[l->from + 1]) {
        int dy = op->dy;
        op = add_op(b, OP_BACKWARD, (int)i);
        op->dy = dy;
        gradient_of(b, op, l->from + 1);
    }
}

/* A dense layer whose replicas may share the start. */
static int add_factors(struct builder *b, const struct layer *l, struct op *op, size_t *parts_bytes)
{
    bool backward = op->type == OP_BACKWARD;

    op->rank = b->p->training ? shared_rank(l, b->p->rows, b->precision) : 0;
    if (!op->rank || (backward && op->dx < 0))
        return 0;
    op->gram = add_space(b, op->rank * sizeof(float), 0);
    return shared_spaces(l, backward, op->rank, b->p->rows, b->precision, parts_bytes);
}

/* Room for the parts of products that are cut. */
static int add_parts(struct builder *b, struct error *err)
{
    for (size_t i = 0; i < b->p->ops_n; i++) {
        struct op *op = &b->p->ops[i];
        const struct layer *l = op->layer >= 0 ? &b->m->layers[op->layer] : NULL;
        struct gemm_args forward, data, weights;
        size_t bytes = 0, other = 0;
        int rc;
        if (!l || (l->type != LAYER_CONV2D && l->type != LAYER_DENSE))
            continue;
        rc = gemm_of(l, GEMM_FORWARD, gemm_precision(b->precision), b->p->rows, &forward);
        rc = rc ? rc : gemm_of(l, GEMM_DATA, gemm_precision(b->precision), b->p->rows, &data);
        rc = rc ? rc : gemm_of(l, GEMM_WEIGHTS, gemm_precision(b->precision), b->p->rows, &weights);
        rc = rc ? rc : add_factors(b, l, op, &bytes);
        if (rc)
            return fail(err, rc, "layer %d: a batch of %zu is too large for the CUDA backend", op->layer, b->p->rows);
        if (op->type == OP_LAYER) {
            other = gemm_parts_bytes(&forward);
        } else {
            other = gemm_parts_bytes(&weights);
            bytes = other > bytes ? other : bytes;
            other = op->dx >= 0 ? gemm_parts_bytes(&data) : 0;
        }
        bytes = other > bytes ? other : bytes;
        if (bytes)
            op->parts = add_space(b, 0, bytes);
    }
    return 0;
}

static bool builder_init(struct builder *b, size_t tensors)
{
    b->root = calloc(tensors, sizeof *b->root);
    b->act = calloc(tensors, sizeof *b->act);
    b->grad = calloc(tensors, sizeof *b->grad);
    b->aux = calloc(tensors, sizeof *b->aux);
    b->aux2 = calloc(tensors, sizeof *b->aux2);
    b->relu = calloc(tensors, sizeof *b->relu);
    b->wanted = calloc(tensors, sizeof *b->wanted);
    b->p->permuted = calloc(tensors, sizeof *b->p->permuted);
    if (!b->root || !b->act || !b->grad || !b->aux || !b->aux2 || !b->relu || !b->wanted || !b->p->permuted)
        return false;
    memset(b->act, -1, tensors * sizeof *b->act);
    memset(b->grad, -1, tensors * sizeof *b->grad);
    return true;
}

static void builder_done(struct builder *b)
{
    free(b->root);
    free(b->act);
    free(b->grad);
    free(b->aux);
    free(b->aux2);
    free(b->relu);
    free(b->wanted);
}

int program_new(const struct model *m, size_t rows, bool training, enum precision precision, struct program *ret,
                struct error *err)
{
    struct program p = {.model = m, .rows = rows, .training = training};
    struct builder b = {.p = &p, .m = m, .precision = precision};
    size_t last = m->layers_n;
    struct op *loss;
    int rc = 0;

    if (!builder_init(&b, m->layers_n + 1)) {
        b.failed = true;
        goto out;
    }
    b.act[0] = p.image = add_space(&b, values_of(&m->input) * sizeof(float), 0);
    add_op(&b, OP_ASSEMBLE, -1)->y = p.image;
    for (size_t i = 0; i < m->layers_n; i++)
        add_forward(&b, i);
    p.logits = activation(&b, (int)last);
    p.dlogits = -1;
    loss = add_op(&b, OP_LOSS, -1);
    loss->x = p.logits;
    if (training && !b.failed) {
        gradient_of(&b, loss, (int)last);
        p.dlogits = loss->dx;
        for (size_t i = m->layers_n; i-- > 0;)
            add_backward(&b, i);
    }
    rc = b.failed ? 0 : add_parts(&b, err);
    if (!rc && !b.failed)
        rc = program_place(&p);
out:
    builder_done(&b);
    if (b.failed || rc == -ENOMEM)
        rc = fail(err, -ENOMEM, "out of memory");
    if (rc)
        program_done(&p);
    else
        *ret = p;
    return rc;
}

void program_done(struct program *program)
{
    free(program->ops);
    free(program->spaces);
    free(program->permuted);
    *program = (struct program){0};
}
