/* cublas.c - dense layers of all lanes as one strided-batched product of cuBLASLt, with bias, ReLU and the bias's
 * gradient as epilogues. The library is opened at run time. cuBLASLt's matrices are column-major: our row-major (rows x
 * features) is its (features x rows). Source: cuBLAS library documentation, "Using the cuBLASLt API".
 *
 *   forward  y^T (out x rows) = w (in x out, transposed) x^T        epilogue: bias, ReLU
 *   data     dx^T (in x rows) = w (in x out) dy^T                   added to dx: beta 1
 *   weights  dw^T (in x out) = x^T dy^T (transposed)                epilogue: bias gradient of b
 *
 * The algorithm is the heuristic's first for the shape, asked once. SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cuda/device/device.h"

#include <cublasLt.h>
#include <stdio.h>
#include <stdlib.h>

#define WORKSPACE ((size_t)32 << 20)

static struct {
    cublasStatus_t (*create)(cublasLtHandle_t *);
    cublasStatus_t (*destroy)(cublasLtHandle_t);
    cublasStatus_t (*desc_create)(cublasLtMatmulDesc_t *, cublasComputeType_t, cudaDataType_t);
    cublasStatus_t (*desc_destroy)(cublasLtMatmulDesc_t);
    cublasStatus_t (*desc_set)(cublasLtMatmulDesc_t, cublasLtMatmulDescAttributes_t, const void *, size_t);
    cublasStatus_t (*layout_create)(cublasLtMatrixLayout_t *, cudaDataType, uint64_t, uint64_t, int64_t);
    cublasStatus_t (*layout_destroy)(cublasLtMatrixLayout_t);
    cublasStatus_t (*layout_set)(cublasLtMatrixLayout_t, cublasLtMatrixLayoutAttribute_t, const void *, size_t);
    cublasStatus_t (*preference_create)(cublasLtMatmulPreference_t *);
    cublasStatus_t (*preference_destroy)(cublasLtMatmulPreference_t);
    cublasStatus_t (*preference_set)(cublasLtMatmulPreference_t, cublasLtMatmulPreferenceAttributes_t, const void *,
                                     size_t);
    cublasStatus_t (*heuristic)(cublasLtHandle_t, cublasLtMatmulDesc_t, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
                                cublasLtMatrixLayout_t, cublasLtMatrixLayout_t, cublasLtMatmulPreference_t, int,
                                cublasLtMatmulHeuristicResult_t[], int *);
    cublasStatus_t (*matmul)(cublasLtHandle_t, cublasLtMatmulDesc_t, const void *, const void *, cublasLtMatrixLayout_t,
                             const void *, cublasLtMatrixLayout_t, const void *, const void *, cublasLtMatrixLayout_t,
                             void *, cublasLtMatrixLayout_t, const cublasLtMatmulAlgo_t *, void *, size_t,
                             cudaStream_t);
    const char *(*name)(cublasStatus_t);
    size_t (*version)(void);
} lt;

static const struct symbol SYMBOLS[] = {{"cublasLtCreate", &lt.create},
                                        {"cublasLtDestroy", &lt.destroy},
                                        {"cublasLtMatmulDescCreate", &lt.desc_create},
                                        {"cublasLtMatmulDescDestroy", &lt.desc_destroy},
                                        {"cublasLtMatmulDescSetAttribute", &lt.desc_set},
                                        {"cublasLtMatrixLayoutCreate", &lt.layout_create},
                                        {"cublasLtMatrixLayoutDestroy", &lt.layout_destroy},
                                        {"cublasLtMatrixLayoutSetAttribute", &lt.layout_set},
                                        {"cublasLtMatmulPreferenceCreate", &lt.preference_create},
                                        {"cublasLtMatmulPreferenceDestroy", &lt.preference_destroy},
                                        {"cublasLtMatmulPreferenceSetAttribute", &lt.preference_set},
                                        {"cublasLtMatmulAlgoGetHeuristic", &lt.heuristic},
                                        {"cublasLtMatmul", &lt.matmul},
                                        {"cublasLtGetStatusName", &lt.name},
                                        {"cublasLtGetVersion", &lt.version},
                                        {NULL, NULL}};

static int cublas_fail(struct error *err, cublasStatus_t status, const char *what)
{
    if (status == CUBLAS_STATUS_SUCCESS)
        return 0;
    if (status == CUBLAS_STATUS_NOT_SUPPORTED)
        return fail(err, -ENOTSUP, "cuBLASLt does not support it (%s)", what);
    return fail(err, status == CUBLAS_STATUS_ALLOC_FAILED ? -ENOMEM : -EIO, "cuBLASLt: %s (%s)", lt.name(status), what);
}

int cublas_open(struct device *d, struct error *err)
{
    static const char *const NAMES[] = {"libcublasLt.so.13", NULL};
    int rc = open_library(NAMES, SYMBOLS, err);
    size_t length = strlen(d->info.isa);

    if (!rc)
        rc = cublas_fail(err, lt.create((cublasLtHandle_t *)&d->cublas), "opening");
    if (rc) {
        d->cublas = NULL;
        return rc;
    }
    snprintf(d->info.isa + length, sizeof d->info.isa - length, ", cuBLASLt %zu", lt.version());
    return 0;
}

void cublas_close(struct device *d)
{
    if (d->cublas)
        lt.destroy(d->cublas);
    d->cublas = NULL;
}

struct product {
    struct library library;
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t a, b, c;
    cublasLtMatmulAlgo_t algo;
    size_t workspace;
    bool own_bias_gradient;
};

static void product_free(struct library *library)
{
    struct product *p = (struct product *)library;

    if (p->desc)
        lt.desc_destroy(p->desc);
    if (p->a)
        lt.layout_destroy(p->a);
    if (p->b)
        lt.layout_destroy(p->b);
    if (p->c)
        lt.layout_destroy(p->c);
    free(p);
}

static int product_run(struct device *d, struct library *library, const struct gemm_args *args, void *workspace,
                       struct error *err)
{
    struct product *p = (struct product *)library;
    const float one = 1, beta = args->mode == GEMM_DATA && args->add ? 1 : 0;
    const void *a = args->mode == GEMM_WEIGHTS ? args->x : args->w;
    const void *b = args->mode == GEMM_FORWARD ? args->x : args->dy;
    const void *bias = args->mode == GEMM_FORWARD ? (const void *)args->bias : args->bias_out;
    int rc = 0;

    if (args->mode == GEMM_WEIGHTS && (rc = clear_dead_rows(d, args, err)))
        return rc;
    if (bias && args->mode != GEMM_DATA && !p->own_bias_gradient &&
        (rc = cublas_fail(err, lt.desc_set(p->desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias), "bias")))
        return rc;
    rc = cublas_fail(err,
                     lt.matmul(d->cublas, p->desc, &one, a, p->a, b, p->b, &beta, args->out, p->c, args->out, p->c,
                               &p->algo, workspace, p->workspace, d->stream),
                     "dense layer");
    if (!rc && args->mode == GEMM_WEIGHTS && args->bias_out && p->own_bias_gradient)
        rc = bias_gradient(d, args, workspace, err);
    return rc || args->mode != GEMM_DATA ? rc : mask_gradient(d, args, err);
}

static int make_layout(cublasLtMatrixLayout_t *ret, uint64_t rows, uint64_t columns, uint32_t lanes, uint64_t stride,
                       struct error *err)
{
    int32_t batch = (int32_t)lanes;
    int64_t step = (int64_t)stride;
    int rc = cublas_fail(err, lt.layout_create(ret, CUDA_R_32F, rows, columns, (int64_t)rows), "layout");

    rc = rc ? rc
            : cublas_fail(err, lt.layout_set(*ret, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &batch, sizeof batch), "layout");
    return rc ? rc
              : cublas_fail(err, lt.layout_set(*ret, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &step, sizeof step),
                            "layout");
}

static int make_layouts(struct product *p, const struct gemm_args *a, struct error *err)
{
    uint64_t in = a->in_c, out = a->out_c, rows = a->rows;
    int rc;

    if (a->mode == GEMM_FORWARD)
        (void)((rc = make_layout(&p->a, in, out, a->lanes, a->weights_stride, err)) ||
               (rc = make_layout(&p->b, in, rows, a->lanes, rows * in, err)) ||
               (rc = make_layout(&p->c, out, rows, a->lanes, rows * out, err)));
    else if (a->mode == GEMM_DATA)
        (void)((rc = make_layout(&p->a, in, out, a->lanes, a->weights_stride, err)) ||
               (rc = make_layout(&p->b, out, rows, a->lanes, rows * out, err)) ||
               (rc = make_layout(&p->c, in, rows, a->lanes, rows * in, err)));
    else
        (void)((rc = make_layout(&p->a, in, rows, a->lanes, rows * in, err)) ||
               (rc = make_layout(&p->b, out, rows, a->lanes, rows * out, err)) ||
               (rc = make_layout(&p->c, in, out, a->lanes, a->out_stride, err)));
    return rc;
}

static int set_desc(struct product *p, const struct gemm_args *a, struct error *err)
{
    int32_t transposed = CUBLAS_OP_T;
    uint32_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
    const void *bias = a->mode == GEMM_FORWARD ? (const void *)a->bias : a->mode == GEMM_WEIGHTS ? a->bias_out : NULL;
    int64_t stride = (int64_t)(a->mode == GEMM_FORWARD ? a->weights_stride : a->out_stride);
    int rc = 0;

    if (p->own_bias_gradient)
        bias = NULL;
    if (a->mode == GEMM_FORWARD)
        epilogue = bias      ? a->relu ? CUBLASLT_EPILOGUE_RELU_BIAS : CUBLASLT_EPILOGUE_BIAS
                   : a->relu ? CUBLASLT_EPILOGUE_RELU
                             : CUBLASLT_EPILOGUE_DEFAULT;
    else if (bias)
        epilogue = CUBLASLT_EPILOGUE_BGRADB;
    if (a->mode == GEMM_FORWARD)
        rc = cublas_fail(err, lt.desc_set(p->desc, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed),
                         "transposition");
    if (!rc && a->mode == GEMM_WEIGHTS)
        rc = cublas_fail(err, lt.desc_set(p->desc, CUBLASLT_MATMUL_DESC_TRANSB, &transposed, sizeof transposed),
                         "transposition");
    if (!rc)
        rc = cublas_fail(err, lt.desc_set(p->desc, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue),
                         "epilogue");
    if (!rc && bias)
        rc = cublas_fail(err, lt.desc_set(p->desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias), "bias");
    if (!rc && bias)
        rc = cublas_fail(err, lt.desc_set(p->desc, CUBLASLT_MATMUL_DESC_BIAS_BATCH_STRIDE, &stride, sizeof stride),
                         "bias");
    return rc;
}

static int choose(struct device *d, struct product *p, struct error *err)
{
    cublasLtMatmulPreference_t preference = NULL;
    cublasLtMatmulHeuristicResult_t result;
    size_t most = WORKSPACE;
    uint32_t alignment = 16; /* of a lane's part of a buffer where rows are odd, less: the layouts tell that */
    int found = 0, rc;

    if ((rc = cublas_fail(err, lt.preference_create(&preference), "preference")))
        return rc;
    rc = cublas_fail(err, lt.preference_set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &most, sizeof most),
                     "preference");
    for (int i = 0; i < 4 && !rc; i++) {
        static const cublasLtMatmulPreferenceAttributes_t EACH[] = {
            CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
            CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
        rc = cublas_fail(err, lt.preference_set(preference, EACH[i], &alignment, sizeof alignment), "preference");
    }
    rc = rc ? rc
            : cublas_fail(err, lt.heuristic(d->cublas, p->desc, p->a, p->b, p->c, p->c, preference, 1, &result, &found),
                          "heuristic");
    lt.preference_destroy(preference);
    if (rc || !found || result.state != CUBLAS_STATUS_SUCCESS)
        return rc ? rc : fail(err, -ENOTSUP, "cuBLASLt has no algorithm for it");
    p->algo = result.algo;
    p->workspace = result.workspaceSize;
    return 0;
}

static int make_product(struct device *d, const struct gemm_args *a, bool own_bias_gradient, struct product **ret,
                        struct error *err)
{
    struct product *p = calloc(1, sizeof *p);
    cublasComputeType_t compute = a->precision == GEMM_TF32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
    int rc;

    if (!p)
        return fail(err, -ENOMEM, "out of memory");
    p->library = (struct library){product_run, product_free};
    p->own_bias_gradient = own_bias_gradient;
    if ((rc = cublas_fail(err, lt.desc_create(&p->desc, compute, CUDA_R_32F), "descriptor")) ||
        (rc = set_desc(p, a, err)) || (rc = make_layouts(p, a, err)) || (rc = choose(d, p, err))) {
        product_free(&p->library);
        return rc;
    }
    *ret = p;
    return 0;
}

int cublas_library(struct device *d, const struct gemm_args *a, struct library **ret, size_t *ret_workspace,
                   struct error *err)
{
    struct product *p = NULL;
    bool bias_gradient = a->mode == GEMM_WEIGHTS && a->bias_out;
    int rc = make_product(d, a, false, &p, err);

    if (rc && rc != -ENOMEM && bias_gradient)
        rc = make_product(d, a, true, &p, err);
    if (rc)
        return rc == -EIO ? -ENOTSUP : rc; /* the own kernel does it then */
    *ret = &p->library;
    *ret_workspace = p->workspace;
    if (p->own_bias_gradient && bias_gradient_bytes(a) > *ret_workspace)
        *ret_workspace = bias_gradient_bytes(a);
    return 0;
}
