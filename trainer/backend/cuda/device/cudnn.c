/* cudnn.c - convolutions of one replica through cuDNN's backend graph API. The library is opened at run time.
 * Forward is tried as one graph of convolution, bias and ReLU; where no engine has that, as the convolution alone with
 * an own kernel behind it. Gradients: backward data (with beta 1 where it is added), backward filter; the bias's by an
 * own kernel. Tensors are NHWC, filters KRSC, fp32; arithmetic fp32, or tf32 where asked. Engines come from heuristics
 * mode A, then the fallback list, in their order; the first that is deterministic, of the precision, and finalises is
 * taken, so the choice follows from shape, GPU and version. Every attribute's status is looked at: a graph finalises
 * with success after one was refused. Source: cuDNN documentation, "Backend API". SPDX-License-Identifier: Apache-2.0
 */
#include "trainer/backend/cuda/device/device.h"

#include <cudnn.h>
#include <stdio.h>
#include <stdlib.h>

#define WORKSPACE ((int64_t)64 << 20)
#define CONFIGS 64
#define DESCRIPTORS 40

static struct {
    cudnnStatus_t (*create)(cudnnHandle_t *);
    cudnnStatus_t (*destroy)(cudnnHandle_t);
    cudnnStatus_t (*set_stream)(cudnnHandle_t, cudaStream_t);
    cudnnStatus_t (*make)(cudnnBackendDescriptorType_t, cudnnBackendDescriptor_t *);
    cudnnStatus_t (*drop)(cudnnBackendDescriptor_t);
    cudnnStatus_t (*set)(cudnnBackendDescriptor_t, cudnnBackendAttributeName_t, cudnnBackendAttributeType_t, int64_t,
                         const void *);
    cudnnStatus_t (*get)(cudnnBackendDescriptor_t const, cudnnBackendAttributeName_t, cudnnBackendAttributeType_t,
                         int64_t, int64_t *, void *);
    cudnnStatus_t (*finalize)(cudnnBackendDescriptor_t);
    cudnnStatus_t (*execute)(cudnnHandle_t, cudnnBackendDescriptor_t, cudnnBackendDescriptor_t);
    const char *(*text)(cudnnStatus_t);
    void (*last)(char *, size_t);
    size_t (*version)(void);
} dnn;

static const struct symbol SYMBOLS[] = {{"cudnnCreate", &dnn.create},
                                        {"cudnnDestroy", &dnn.destroy},
                                        {"cudnnSetStream", &dnn.set_stream},
                                        {"cudnnBackendCreateDescriptor", &dnn.make},
                                        {"cudnnBackendDestroyDescriptor", &dnn.drop},
                                        {"cudnnBackendSetAttribute", &dnn.set},
                                        {"cudnnBackendGetAttribute", &dnn.get},
                                        {"cudnnBackendFinalize", &dnn.finalize},
                                        {"cudnnBackendExecute", &dnn.execute},
                                        {"cudnnGetErrorString", &dnn.text},
                                        {"cudnnGetLastErrorString", &dnn.last},
                                        {"cudnnGetVersion", &dnn.version},
                                        {NULL, NULL}};

static int cudnn_fail(struct error *err, cudnnStatus_t status, const char *what)
{
    char last[300] = "";
    int code = -EIO;

    if (status == CUDNN_STATUS_SUCCESS)
        return 0;
    dnn.last(last, sizeof last);
    if (status / 1000 == CUDNN_STATUS_NOT_SUPPORTED / 1000)
        code = -ENOTSUP;
    if (status == CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED ||
        status == CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED)
        code = -ENOMEM;
    return fail(err, code, "cuDNN: %s (%s)%s%s", dnn.text(status), what, *last ? ": " : "", last);
}

int cudnn_open(struct device *d, struct error *err)
{
    static const char *const NAMES[] = {"libcudnn.so.9", NULL};
    int rc = open_library(NAMES, SYMBOLS, err);
    size_t length = strlen(d->info.isa);
    cudnnHandle_t handle = NULL;

    if (rc || (rc = cudnn_fail(err, dnn.create(&handle), "opening")))
        return rc;
    if ((rc = cudnn_fail(err, dnn.set_stream(handle, d->stream), "stream"))) {
        dnn.destroy(handle);
        return rc;
    }
    d->cudnn = handle;
    snprintf(d->info.isa + length, sizeof d->info.isa - length, ", cuDNN %zu", dnn.version());
    return 0;
}

void cudnn_close(struct device *d)
{
    if (d->cudnn)
        dnn.destroy(d->cudnn);
    d->cudnn = NULL;
}

/* Descriptors of one operation; an error sticks, so that a list of calls is looked at once. */
struct graph {
    cudnnBackendDescriptor_t list[DESCRIPTORS];
    size_t n;
    int rc;
    struct error *err;
};

static cudnnBackendDescriptor_t add(struct graph *g, cudnnBackendDescriptorType_t type, const char *what)
{
    cudnnBackendDescriptor_t made = NULL;

    if (!g->rc && g->n == DESCRIPTORS)
        g->rc = fail(g->err, -EIO, "too many cuDNN descriptors");
    if (!g->rc)
        g->rc = cudnn_fail(g->err, dnn.make(type, &made), what);
    if (!g->rc)
        g->list[g->n++] = made;
    return made;
}

static void put(struct graph *g, cudnnBackendDescriptor_t d, cudnnBackendAttributeName_t name,
                cudnnBackendAttributeType_t type, int64_t n, const void *values, const char *what)
{
    if (!g->rc)
        g->rc = cudnn_fail(g->err, dnn.set(d, name, type, n, values), what);
}

static void done(struct graph *g, cudnnBackendDescriptor_t d, const char *what)
{
    if (!g->rc)
        g->rc = cudnn_fail(g->err, dnn.finalize(d), what);
}

static void drop_all(struct graph *g)
{
    while (g->n)
        dnn.drop(g->list[--g->n]);
}

#define INT64 CUDNN_TYPE_INT64
#define DESCRIPTOR CUDNN_TYPE_BACKEND_DESCRIPTOR

enum { UID_X = 1, UID_W, UID_Y, UID_BIAS, UID_CONV, UID_SUM };

/* c fastest, then w, h, n: of tensors and of filters alike. */
static cudnnBackendDescriptor_t tensor(struct graph *g, int64_t uid, int64_t n, int64_t c, int64_t h, int64_t w,
                                       bool inner)
{
    cudnnBackendDescriptor_t t = add(g, CUDNN_BACKEND_TENSOR_DESCRIPTOR, "tensor");
    cudnnDataType_t type = CUDNN_DATA_FLOAT;
    int64_t sizes[] = {n, c, h, w}, strides[] = {c * h * w, 1, c * w, c};
    int64_t alignment = 16; /* of its first value: buffers and parameters start at multiples of 256 */

    put(g, t, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type, "tensor's type");
    put(g, t, CUDNN_ATTR_TENSOR_DIMENSIONS, INT64, 4, sizes, "tensor's sizes");
    put(g, t, CUDNN_ATTR_TENSOR_STRIDES, INT64, 4, strides, "tensor's strides");
    put(g, t, CUDNN_ATTR_TENSOR_UNIQUE_ID, INT64, 1, &uid, "tensor's number");
    put(g, t, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, INT64, 1, &alignment, "tensor's alignment");
    if (inner)
        put(g, t, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, &inner, "tensor's kind");
    done(g, t, "tensor");
    return t;
}

static cudnnBackendDescriptor_t convolution(struct graph *g, const struct gemm_args *a)
{
    cudnnBackendDescriptor_t c = add(g, CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR, "convolution");
    cudnnDataType_t type = CUDNN_DATA_FLOAT;
    cudnnConvolutionMode_t mode = CUDNN_CROSS_CORRELATION;
    int64_t dims = 2, stride[] = {a->stride, a->stride}, dilation[] = {1, 1}, before[] = {a->pad_top, a->pad_left};
    /* what the last window needs past the image, negative where it ends before the image does */
    int64_t after[] = {((int64_t)a->out_h - 1) * a->stride + a->kernel_h - a->in_h - a->pad_top,
                       ((int64_t)a->out_w - 1) * a->stride + a->kernel_w - a->in_w - a->pad_left};

    for (int i = 0; i < 2; i++)
        after[i] = after[i] < 0 ? 0 : after[i];
    put(g, c, CUDNN_ATTR_CONVOLUTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type, "convolution's type");
    put(g, c, CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_TYPE_CONVOLUTION_MODE, 1, &mode, "convolution's mode");
    put(g, c, CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, INT64, 1, &dims, "convolution's dimensions");
    put(g, c, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, INT64, 2, stride, "stride");
    put(g, c, CUDNN_ATTR_CONVOLUTION_DILATIONS, INT64, 2, dilation, "dilation");
    put(g, c, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, INT64, 2, before, "pads before");
    put(g, c, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, INT64, 2, after, "pads after");
    done(g, c, "convolution");
    return c;
}

static cudnnBackendDescriptor_t convolve(struct graph *g, const struct gemm_args *a, cudnnBackendDescriptor_t x,
                                         cudnnBackendDescriptor_t w, cudnnBackendDescriptor_t y)
{
    static const struct {
        cudnnBackendDescriptorType_t type;
        cudnnBackendAttributeName_t conv, x, w, y, alpha, beta;
    } FORMS[] = {
        [GEMM_FORWARD] = {CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR,
                          CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC,
                          CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W,
                          CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA,
                          CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA},
        [GEMM_DATA] = {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR,
                       CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC,
                       CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W,
                       CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA,
                       CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA},
        [GEMM_WEIGHTS] = {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR,
                          CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC,
                          CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW,
                          CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY,
                          CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA,
                          CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA},
    };
    cudnnBackendDescriptor_t c = convolution(g, a), op = add(g, FORMS[a->mode].type, "operation");
    float alpha = 1, beta = a->mode == GEMM_DATA && a->add ? 1 : 0;

    put(g, op, FORMS[a->mode].conv, DESCRIPTOR, 1, &c, "operation's convolution");
    put(g, op, FORMS[a->mode].x, DESCRIPTOR, 1, &x, "operation's x");
    put(g, op, FORMS[a->mode].w, DESCRIPTOR, 1, &w, "operation's w");
    put(g, op, FORMS[a->mode].y, DESCRIPTOR, 1, &y, "operation's y");
    put(g, op, FORMS[a->mode].alpha, CUDNN_TYPE_FLOAT, 1, &alpha, "alpha");
    put(g, op, FORMS[a->mode].beta, CUDNN_TYPE_FLOAT, 1, &beta, "beta");
    done(g, op, "operation");
    return op;
}

static cudnnBackendDescriptor_t pointwise(struct graph *g, cudnnPointwiseMode_t mode, cudnnBackendDescriptor_t x,
                                          cudnnBackendDescriptor_t b, cudnnBackendDescriptor_t y)
{
    cudnnBackendDescriptor_t p = add(g, CUDNN_BACKEND_POINTWISE_DESCRIPTOR, "pointwise"), op;
    cudnnDataType_t type = CUDNN_DATA_FLOAT;
    cudnnNanPropagation_t nan = CUDNN_PROPAGATE_NAN; /* a diverged run must be seen to diverge */

    put(g, p, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &mode, "pointwise mode");
    put(g, p, CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, 1, &type, "pointwise type");
    if (!b)
        put(g, p, CUDNN_ATTR_POINTWISE_NAN_PROPAGATION, CUDNN_TYPE_NAN_PROPOGATION, 1, &nan, "pointwise NaN");
    done(g, p, "pointwise");
    op = add(g, CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR, "pointwise operation");
    put(g, op, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, DESCRIPTOR, 1, &p, "pointwise operation's kind");
    put(g, op, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, DESCRIPTOR, 1, &x, "pointwise operation's x");
    if (b)
        put(g, op, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, DESCRIPTOR, 1, &b, "pointwise operation's b");
    put(g, op, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, DESCRIPTOR, 1, &y, "pointwise operation's y");
    done(g, op, "pointwise operation");
    return op;
}

/* fused: with bias and ReLU. */
static cudnnBackendDescriptor_t operations(struct graph *g, cudnnHandle_t handle, const struct gemm_args *a, bool fused)
{
    int64_t n = a->rows, out_c = a->out_c, out_h = a->out_h, out_w = a->out_w, count = 0;
    cudnnBackendDescriptor_t ops[3], graph, y, next;
    cudnnBackendDescriptor_t x = tensor(g, UID_X, n, a->in_c, a->in_h, a->in_w, false);
    cudnnBackendDescriptor_t w = tensor(g, UID_W, out_c, a->in_cg, a->kernel_h, a->kernel_w, false);
    bool bias = fused && a->bias, relu = fused && a->relu;

    y = tensor(g, bias || relu ? UID_CONV : UID_Y, n, out_c, out_h, out_w, bias || relu);
    ops[count++] = convolve(g, a, x, w, y);
    if (bias) {
        cudnnBackendDescriptor_t b = tensor(g, UID_BIAS, 1, out_c, 1, 1, false);
        next = tensor(g, relu ? UID_SUM : UID_Y, n, out_c, out_h, out_w, relu);
        ops[count++] = pointwise(g, CUDNN_POINTWISE_ADD, y, b, next);
        y = next;
    }
    if (relu)
        ops[count++] = pointwise(g, CUDNN_POINTWISE_RELU_FWD, y, NULL, tensor(g, UID_Y, n, out_c, out_h, out_w, false));
    graph = add(g, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR, "graph");
    put(g, graph, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &handle, "graph's handle");
    put(g, graph, CUDNN_ATTR_OPERATIONGRAPH_OPS, DESCRIPTOR, count, ops, "graph's operations");
    done(g, graph, "graph");
    return graph;
}

/* Deterministic, and in the precision asked for. */
static bool acceptable(struct graph *g, cudnnBackendDescriptor_t config, bool tf32)
{
    cudnnBackendDescriptor_t engine = NULL;
    cudnnBackendNumericalNote_t notes[CUDNN_NUMERICAL_NOTE_TYPE_COUNT];
    int64_t found = 0;
    bool good = true;

    if (dnn.make(CUDNN_BACKEND_ENGINE_DESCRIPTOR, &engine) != CUDNN_STATUS_SUCCESS)
        return false;
    (void)g;
    if (dnn.get(config, CUDNN_ATTR_ENGINECFG_ENGINE, DESCRIPTOR, 1, &found, &engine) != CUDNN_STATUS_SUCCESS ||
        found != 1 ||
        dnn.get(engine, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_TYPE_NUMERICAL_NOTE, CUDNN_NUMERICAL_NOTE_TYPE_COUNT,
                &found, notes) != CUDNN_STATUS_SUCCESS ||
        found > CUDNN_NUMERICAL_NOTE_TYPE_COUNT) /* how many there are: of a later library, more than were written */
        good = false;
    for (int64_t i = 0; good && i < found; i++) {
        if (notes[i] == CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC ||
            notes[i] == CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION)
            good = false;
        if (!tf32 &&
            (notes[i] == CUDNN_NUMERICAL_NOTE_TENSOR_CORE || notes[i] == CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS))
            good = false;
    }
    dnn.drop(engine);
    return good;
}

struct convolution {
    struct library library;
    struct graph graph;
    cudnnBackendDescriptor_t plan, pack;
    bool fused;
};

static cudnnBackendDescriptor_t finish_plan(struct device *d, cudnnBackendDescriptor_t config, int64_t *ret_workspace)
{
    cudnnBackendDescriptor_t plan = NULL;
    cudnnHandle_t handle = d->cudnn;
    int64_t found = 0;

    if (dnn.make(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, &plan) != CUDNN_STATUS_SUCCESS)
        return NULL;
    if (dnn.set(plan, CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1, &handle) == CUDNN_STATUS_SUCCESS &&
        dnn.set(plan, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, DESCRIPTOR, 1, &config) == CUDNN_STATUS_SUCCESS &&
        dnn.finalize(plan) == CUDNN_STATUS_SUCCESS &&
        dnn.get(plan, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, INT64, 1, &found, ret_workspace) ==
            CUDNN_STATUS_SUCCESS &&
        *ret_workspace <= WORKSPACE)
        return plan;
    dnn.drop(plan);
    return NULL;
}

/* The first acceptable engine of a heuristic that makes a plan. */
static void ask(struct device *d, struct convolution *c, cudnnBackendDescriptor_t graph, cudnnBackendHeurMode_t mode,
                bool tf32, int64_t *ret_workspace)
{
    struct graph *g = &c->graph;
    cudnnBackendDescriptor_t heuristic = add(g, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR, "heuristic"), configs[CONFIGS];
    int64_t made = 0, found = 0;

    put(g, heuristic, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, DESCRIPTOR, 1, &graph, "heuristic's graph");
    put(g, heuristic, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode, "heuristic's mode");
    done(g, heuristic, "heuristic");
    while (!g->rc && made < CONFIGS &&
           dnn.make(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, &configs[made]) == CUDNN_STATUS_SUCCESS)
        made++;
    if (!g->rc)
        g->rc = cudnn_fail(g->err, dnn.get(heuristic, CUDNN_ATTR_ENGINEHEUR_RESULTS, DESCRIPTOR, made, &found, configs),
                           "heuristic's results");
    for (int64_t i = 0; i < found && i < made && !g->rc && !c->plan; i++) /* found counts those that had no room, too */
        if (acceptable(g, configs[i], tf32))
            c->plan = finish_plan(d, configs[i], ret_workspace);
    while (made)
        dnn.drop(configs[--made]);
}

static void convolution_free(struct library *library)
{
    struct convolution *c = (struct convolution *)library;

    if (c->pack)
        dnn.drop(c->pack);
    if (c->plan)
        dnn.drop(c->plan);
    drop_all(&c->graph);
    free(c);
}

static int convolution_run(struct device *d, struct library *library, const struct gemm_args *a, void *workspace,
                           struct error *err)
{
    struct convolution *c = (struct convolution *)library;
    struct bias_args bias = {.count = (uint64_t)a->rows * a->out_h * a->out_w * a->out_c,
                             .live = {a->steps, a->rows, a->out_h * a->out_w * a->out_c},
                             .bias = a->bias,
                             .y = a->out,
                             .weights_stride = a->weights_stride,
                             .c = a->out_c,
                             .relu = a->relu};
    int rc = a->mode == GEMM_WEIGHTS ? clear_dead_rows(d, a, err) : 0;

    if (!c->pack) { /* the pointers are the same in every run: they belong to the lanes that this was made for */
        struct graph g = {.err = err};
        int64_t uids[] = {UID_X, UID_W, UID_Y, UID_BIAS}, n = c->fused && a->bias ? 4 : 3;
        const void *pointers[] = {a->mode == GEMM_DATA ? a->out : a->x, a->mode == GEMM_WEIGHTS ? a->out : a->w,
                                  a->mode == GEMM_FORWARD ? a->out : a->dy, a->bias};
        c->pack = add(&g, CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, "pack");
        put(&g, c->pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, INT64, n, uids, "pack's numbers");
        put(&g, c->pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, n, pointers, "pack's pointers");
        put(&g, c->pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &workspace, "pack's workspace");
        done(&g, c->pack, "pack");
        if (g.rc)
            return g.rc;
    }
    rc = rc ? rc : cudnn_fail(err, dnn.execute(d->cudnn, c->plan, c->pack), "convolution");
    if (!rc && a->mode == GEMM_FORWARD && !c->fused && (a->bias || a->relu))
        rc = cuda_fail(err, cuda_launch(d->stream, KERNEL_bias, &bias, sizeof bias), "bias");
    if (!rc && a->mode == GEMM_WEIGHTS && a->bias_out)
        rc = bias_gradient(d, a, workspace, err);
    return rc || a->mode != GEMM_DATA ? rc : mask_gradient(d, a, err);
}

static int make_convolution(struct device *d, const struct gemm_args *a, bool fused, struct library **ret,
                            size_t *ret_workspace, struct error *err)
{
    struct convolution *c = calloc(1, sizeof *c);
    cudnnBackendDescriptor_t graph;
    bool tf32 = a->precision == GEMM_TF32;
    int64_t workspace = 0;
    int rc;

    if (!c)
        return fail(err, -ENOMEM, "out of memory");
    c->library = (struct library){convolution_run, convolution_free};
    c->graph.err = err;
    c->fused = fused;
    graph = operations(&c->graph, d->cudnn, a, fused);
    if (!c->graph.rc)
        ask(d, c, graph, CUDNN_HEUR_MODE_A, tf32, &workspace);
    if (!c->plan && (!c->graph.rc || c->graph.rc == -ENOTSUP)) {
        c->graph.rc = 0;
        ask(d, c, graph, CUDNN_HEUR_MODE_FALLBACK, tf32, &workspace);
    }
    rc = c->graph.rc;
    c->graph.err = NULL; /* the caller's */
    if (!rc && !c->plan)
        rc = fail(err, -ENOTSUP, "cuDNN has no deterministic engine for it");
    if (rc) {
        convolution_free(&c->library);
        return rc;
    }
    *ret = &c->library;
    *ret_workspace = (size_t)workspace;
    return 0;
}

int cudnn_library(struct device *d, const struct gemm_args *a, struct library **ret, size_t *ret_workspace,
                  struct error *err)
{
    bool fused = a->mode == GEMM_FORWARD && (a->bias || a->relu);
    int rc = make_convolution(d, a, fused, ret, ret_workspace, err);

    if (rc && rc != -ENOMEM && fused)
        rc = make_convolution(d, a, false, ret, ret_workspace, err);
    if (!rc && a->mode == GEMM_WEIGHTS && a->bias_out && bias_gradient_bytes(a) > *ret_workspace)
        *ret_workspace = bias_gradient_bytes(a);
    return rc == -EIO ? -ENOTSUP : rc; /* the own kernel does it then */
}
