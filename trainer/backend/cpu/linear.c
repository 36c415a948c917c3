/* linear.c - convolutions and dense layers as oneDNN primitives for one batch size.
 * The forward pass chooses the layout of the weights; each backward primitive may want another and then gets a reorder.
 * Algorithms are asked for as "direct", so that no choice depends on anything but shapes and instruction set.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cpu/cpu_private.h"

#include <string.h>

int dnnl_fail(struct error *err, dnnl_status_t status, const char *what)
{
    static const struct {
        dnnl_status_t status;
        int code;
        const char *text;
    } ROWS[] = {
        {dnnl_out_of_memory, -ENOMEM, "out of memory"},
        {dnnl_invalid_arguments, -EINVAL, "invalid arguments"},
        {dnnl_unimplemented, -ENOTSUP, "not supported for this shape"},
        {dnnl_runtime_error, -EIO, "failed while running"},
        {dnnl_not_required, -EINVAL, "not required"},
    };

    for (size_t i = 0; i < sizeof ROWS / sizeof ROWS[0]; i++)
        if (ROWS[i].status == status)
            return fail(err, ROWS[i].code, "oneDNN: %s: %s", what, ROWS[i].text);
    return fail(err, -EIO, "oneDNN: %s: status %d", what, (int)status);
}

#define TRY(call, what)                                                                                                \
    do {                                                                                                               \
        dnnl_status_t status_ = (call);                                                                                \
        if (status_ != dnnl_success) {                                                                                 \
            rc = dnnl_fail(err, status_, what);                                                                        \
            goto out;                                                                                                  \
        }                                                                                                              \
    } while (0)

struct shapes {
    dnnl_memory_desc_t src, dst, weights, bias;
    dnnl_dims_t strides, pad_before, pad_after;
};

static int describe(const struct layer *l, size_t rows, struct shapes *s, struct error *err)
{
    dnnl_dim_t n = (dnnl_dim_t)rows;
    dnnl_dims_t src = {n, l->in.c, l->in.h, l->in.w}, dst = {n, l->out.c, l->out.h, l->out.w}, bias = {l->out.c};
    int rc = 0;

    if (l->type == LAYER_DENSE) {
        dnnl_dims_t weights = {l->out.c, l->in.c};
        TRY(dnnl_memory_desc_init_by_tag(&s->src, 2, src, dnnl_f32, dnnl_ab), "dense input");
        TRY(dnnl_memory_desc_init_by_tag(&s->dst, 2, dst, dnnl_f32, dnnl_ab), "dense output");
        TRY(dnnl_memory_desc_init_by_tag(&s->weights, 2, weights, dnnl_f32, dnnl_format_tag_any), "dense weights");
    } else {
        int g = l->groups, o = l->out.c, in = l->in.c;
        dnnl_dims_t plain = {o, in, l->kernel_h, l->kernel_w}, grouped = {g, o / g, in / g, l->kernel_h, l->kernel_w};
        TRY(dnnl_memory_desc_init_by_tag(&s->src, 4, src, dnnl_f32, dnnl_nhwc), "convolution input");
        TRY(dnnl_memory_desc_init_by_tag(&s->dst, 4, dst, dnnl_f32, dnnl_nhwc), "convolution output");
        TRY(dnnl_memory_desc_init_by_tag(&s->weights, g > 1 ? 5 : 4, g > 1 ? grouped : plain, dnnl_f32,
                                         dnnl_format_tag_any),
            "convolution weights");
        s->strides[0] = s->strides[1] = l->stride;
        s->pad_before[0] = l->pad_top;
        s->pad_before[1] = l->pad_left;
        s->pad_after[0] = l->pad_bottom;
        s->pad_after[1] = l->pad_right;
    }
    TRY(dnnl_memory_desc_init_by_tag(&s->bias, 1, bias, dnnl_f32, dnnl_a), "bias");
out:
    return rc;
}

static dnnl_status_t forward_desc(const struct layer *l, bool training, const struct shapes *s,
                                  const_dnnl_primitive_attr_t attr, dnnl_engine_t engine, dnnl_primitive_desc_t *ret)
{
    dnnl_prop_kind_t kind = training ? dnnl_forward_training : dnnl_forward_inference;
    const dnnl_memory_desc_t *bias = l->bias ? &s->bias : NULL;
    dnnl_inner_product_desc_t dense;
    dnnl_convolution_desc_t conv;
    dnnl_status_t status;

    if (l->type == LAYER_DENSE) {
        status = dnnl_inner_product_forward_desc_init(&dense, kind, &s->src, &s->weights, bias, &s->dst);
        return status ? status : dnnl_primitive_desc_create(ret, &dense, attr, engine, NULL);
    }
    status = dnnl_convolution_forward_desc_init(&conv, kind, dnnl_convolution_direct, &s->src, &s->weights, bias,
                                                &s->dst, s->strides, s->pad_before, s->pad_after);
    return status ? status : dnnl_primitive_desc_create(ret, &conv, attr, engine, NULL);
}

static dnnl_status_t data_desc(const struct layer *l, const struct shapes *s, const_dnnl_primitive_attr_t attr,
                               dnnl_engine_t engine, const_dnnl_primitive_desc_t hint, dnnl_primitive_desc_t *ret)
{
    dnnl_inner_product_desc_t dense;
    dnnl_convolution_desc_t conv;
    dnnl_status_t status;

    if (l->type == LAYER_DENSE) {
        status = dnnl_inner_product_backward_data_desc_init(&dense, &s->src, &s->weights, &s->dst);
        return status ? status : dnnl_primitive_desc_create(ret, &dense, attr, engine, hint);
    }
    status = dnnl_convolution_backward_data_desc_init(&conv, dnnl_convolution_direct, &s->src, &s->weights, &s->dst,
                                                      s->strides, s->pad_before, s->pad_after);
    return status ? status : dnnl_primitive_desc_create(ret, &conv, attr, engine, hint);
}

static dnnl_status_t weights_desc(const struct layer *l, const struct shapes *s, const_dnnl_primitive_attr_t attr,
                                  dnnl_engine_t engine, const_dnnl_primitive_desc_t hint, dnnl_primitive_desc_t *ret)
{
    const dnnl_memory_desc_t *bias = l->bias ? &s->bias : NULL;
    dnnl_inner_product_desc_t dense;
    dnnl_convolution_desc_t conv;
    dnnl_status_t status;

    if (l->type == LAYER_DENSE) {
        status = dnnl_inner_product_backward_weights_desc_init(&dense, &s->src, &s->weights, bias, &s->dst);
        return status ? status : dnnl_primitive_desc_create(ret, &dense, attr, engine, hint);
    }
    status = dnnl_convolution_backward_weights_desc_init(&conv, dnnl_convolution_direct, &s->src, &s->weights, bias,
                                                         &s->dst, s->strides, s->pad_before, s->pad_after);
    return status ? status : dnnl_primitive_desc_create(ret, &conv, attr, engine, hint);
}

static int reorder(dnnl_engine_t engine, const dnnl_memory_desc_t *from, const dnnl_memory_desc_t *to,
                   dnnl_primitive_t *ret, struct error *err)
{
    dnnl_primitive_desc_t desc = NULL;
    int rc = 0;

    *ret = NULL;
    if (dnnl_memory_desc_equal(from, to))
        return 0;
    TRY(dnnl_reorder_primitive_desc_create(&desc, from, engine, to, engine, NULL), "reorder of weights");
    TRY(dnnl_primitive_create(ret, desc), "reorder of weights");
out:
    if (desc)
        dnnl_primitive_desc_destroy(desc);
    return rc;
}

int linear_create(dnnl_engine_t engine, const struct layer *l, const struct node *node, size_t rows, bool training,
                  dnnl_memory_desc_t *working, struct linear *ret, struct error *err)
{
    const char *name = l->type == LAYER_DENSE ? "dense" : "convolution";
    struct linear lin = {0};
    struct shapes s = {0};
    dnnl_primitive_desc_t forward = NULL, data = NULL, weights = NULL;
    dnnl_primitive_attr_t attr = NULL, fused = NULL;
    dnnl_post_ops_t ops = NULL;
    int rc = describe(l, rows, &s, err);

    if (rc)
        return rc;
    TRY(dnnl_primitive_attr_create(&attr), name);
    TRY(dnnl_primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user), name);
    TRY(dnnl_primitive_attr_create(&fused), name);
    TRY(dnnl_primitive_attr_set_scratchpad_mode(fused, dnnl_scratchpad_mode_user), name);
    if (node->relu) {
        TRY(dnnl_post_ops_create(&ops), name);
        TRY(dnnl_post_ops_append_eltwise(ops, 1, dnnl_eltwise_relu, 0, 0), name);
        TRY(dnnl_primitive_attr_set_post_ops(fused, ops), name);
    }
    TRY(forward_desc(l, training, &s, fused, engine, &forward), name);
    TRY(dnnl_primitive_create(&lin.forward, forward), name);
    lin.src = s.src;
    lin.dst = s.dst;
    lin.bias = s.bias;
    lin.weights = *dnnl_primitive_desc_query_md(forward, dnnl_query_weights_md, 0);
    lin.scratch[0] = *dnnl_primitive_desc_query_md(forward, dnnl_query_scratchpad_md, 0);
    if (!working->ndims)
        *working = lin.weights;
    if ((rc = reorder(engine, working, &lin.weights, &lin.to_forward, err)))
        goto out;
    if (training && node->need_in) {
        TRY(data_desc(l, &s, attr, engine, forward, &data), name);
        TRY(dnnl_primitive_create(&lin.backward_data, data), name);
        lin.weights_data = *dnnl_primitive_desc_query_md(data, dnnl_query_weights_md, 0);
        lin.scratch[1] = *dnnl_primitive_desc_query_md(data, dnnl_query_scratchpad_md, 0);
        if ((rc = reorder(engine, working, &lin.weights_data, &lin.to_backward_data, err)))
            goto out;
    }
    if (training) {
        TRY(weights_desc(l, &s, attr, engine, forward, &weights), name);
        TRY(dnnl_primitive_create(&lin.backward_weights, weights), name);
        lin.weights_grad = *dnnl_primitive_desc_query_md(weights, dnnl_query_diff_weights_md, 0);
        lin.scratch[2] = *dnnl_primitive_desc_query_md(weights, dnnl_query_scratchpad_md, 0);
        if ((rc = reorder(engine, &lin.weights_grad, working, &lin.from_backward_weights, err)))
            goto out;
    }
    *ret = lin;
    lin = (struct linear){0};
out:
    linear_destroy(&lin);
    if (ops)
        dnnl_post_ops_destroy(ops);
    if (fused)
        dnnl_primitive_attr_destroy(fused);
    if (attr)
        dnnl_primitive_attr_destroy(attr);
    if (forward)
        dnnl_primitive_desc_destroy(forward);
    if (data)
        dnnl_primitive_desc_destroy(data);
    if (weights)
        dnnl_primitive_desc_destroy(weights);
    return rc;
}

void linear_destroy(struct linear *l)
{
    dnnl_primitive_t all[] = {l->forward,    l->backward_data,    l->backward_weights,
                              l->to_forward, l->to_backward_data, l->from_backward_weights};

    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        if (all[i])
            dnnl_primitive_destroy(all[i]);
    *l = (struct linear){0};
}

/* oneDNN's "Understanding memory formats": inner blocks, last one fastest, then strides. */
size_t linear_offset(const dnnl_memory_desc_t *working, const struct layer *layer, const int64_t *index)
{
    const dnnl_blocking_desc_t *b = &working->format_desc.blocking;
    int64_t at[DNNL_MAX_NDIMS] = {0}, offset = working->offset0, stride = 1;

    if (working->ndims == 5) {
        int64_t per_group = layer->out.c / layer->groups;
        at[0] = index[0] / per_group;
        at[1] = index[0] % per_group;
        memcpy(at + 2, index + 1, 3 * sizeof *at);
    } else {
        memcpy(at, index, (size_t)working->ndims * sizeof *at);
    }
    for (int i = b->inner_nblks - 1; i >= 0; i--) {
        int64_t d = b->inner_idxs[i], block = b->inner_blks[i];
        offset += at[d] % block * stride;
        at[d] /= block;
        stride *= block;
    }
    for (int d = 0; d < working->ndims; d++)
        offset += at[d] * b->strides[d];
    return (size_t)offset;
}
