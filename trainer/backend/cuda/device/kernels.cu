/* kernels.cu - the kernels: a body of kernels_*.h for each index, and the tiled matrix products of gemm_tile.h
 * and kernels_shared.h. Compiled without contraction (-fmad=false; where a fused multiply-add is meant it is written), so that the host's
 * compilation of the same bodies gives the same bits. SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cuda/device/launch.h"

#define THREADS 256

#define DEFINE(name, args)                                                                                             \
    __global__ void __launch_bounds__(THREADS) kernel_##name(const __grid_constant__ struct args a)                    \
    {                                                                                                                  \
        uint64_t i = (uint64_t)blockIdx.x * THREADS + threadIdx.x;                                                     \
        if (i < a.count)                                                                                               \
            name##_body(&a, i);                                                                                        \
    }
KERNELS(DEFINE)

#define ROW(name, args) {(const void *)kernel_##name, sizeof(struct args)},
static const struct {
    const void *function;
    size_t size;
} TABLE[] = {KERNELS(ROW)};

static_assert(sizeof(struct shared_sum_args) <= 4096 && sizeof(struct norm_args) <= 4096, "kernel arguments");

cudaError_t cuda_launch(cudaStream_t stream, enum kernel kernel, const void *args, size_t size)
{
    uint64_t count = *(const uint64_t *)args, blocks = (count + THREADS - 1) / THREADS;
    void *list[] = {(void *)args};

    if (size != TABLE[kernel].size || blocks > 0x7fffffff)
        return cudaErrorInvalidValue;
    if (!blocks)
        return cudaSuccess;
    return cudaLaunchKernel(TABLE[kernel].function, dim3((unsigned)blocks), dim3(THREADS), list, 0, stream);
}

/* loops */

#if HAS_LOOPS
__global__ void kernel_count_down(cudaGraphConditionalHandle handle, uint32_t *left)
{
    const uint32_t n = *left ? *left - 1 : 0;

    *left = n;
    cudaGraphSetConditional(handle, n > 0);
}

cudaError_t cuda_count_down(cudaStream_t stream, cudaGraphConditionalHandle handle, uint32_t *left)
{
    kernel_count_down<<<1, 1, 0, stream>>>(handle, left);
    return cudaGetLastError();
}
#endif

cudaError_t cuda_load_count_down(void)
{
#if HAS_LOOPS
    cudaFuncAttributes ignored;

    return cudaFuncGetAttributes(&ignored, (const void *)kernel_count_down);
#else
    return cudaSuccess;
#endif
}

/* the matrix product */

__device__ static __forceinline__ void mma_tf32(float *sum, const uint32_t *a, const uint32_t *b)
{
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ static __forceinline__ void mma_bf16(float *sum, const uint32_t *a, const uint32_t *b)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* Two neighbours along k, both rounded to bf16 already: the lower one in the lower half. */
__device__ static __forceinline__ uint32_t pair(float low, float high)
{
    return __float_as_uint(low) >> 16 | (__float_as_uint(high) & 0xffff0000u);
}

template <uint32_t PRECISION, uint32_t BM, uint32_t BN>
__device__ static __forceinline__ void warp_multiply(uint32_t thread, uint32_t buffer, struct tile_thread *t,
                                                     const struct tile_shared *shared)
{
    const uint32_t WARPS_M = TILE_WARPS_M(BM), WARPS_N = 8 / WARPS_M;
    const uint32_t PIECES_M = BM / WARPS_M / 16, PIECES_N = BN / WARPS_N / 8;
    const uint32_t warp = thread / 32, group = thread % 32 / 4, in_group = thread % 4;
    const uint32_t m0 = warp / WARPS_N * (BM / WARPS_M), n0 = warp % WARPS_N * (BN / WARPS_N);
    const uint32_t step = PRECISION == GEMM_TF32 ? 8 : 16;

#pragma unroll
    for (uint32_t k0 = 0; k0 < TILE_K; k0 += step) {
        uint32_t b[PIECES_N][2];
#pragma unroll
        for (uint32_t j = 0; j < PIECES_N; j++) {
            const uint32_t n = n0 + j * 8 + group;
            if (PRECISION == GEMM_TF32) {
                b[j][0] = __float_as_uint(shared->b[buffer][k0 + in_group][n]);
                b[j][1] = __float_as_uint(shared->b[buffer][k0 + in_group + 4][n]);
            } else {
                const uint32_t k = k0 + 2 * in_group;
                b[j][0] = pair(shared->b[buffer][k][n], shared->b[buffer][k + 1][n]);
                b[j][1] = pair(shared->b[buffer][k + 8][n], shared->b[buffer][k + 9][n]);
            }
        }
#pragma unroll
        for (uint32_t i = 0; i < PIECES_M; i++) {
            const uint32_t m = m0 + i * 16 + group;
            uint32_t a[4];
            if (PRECISION == GEMM_TF32) {
                a[0] = __float_as_uint(shared->a[buffer][k0 + in_group][m]);
                a[1] = __float_as_uint(shared->a[buffer][k0 + in_group][m + 8]);
                a[2] = __float_as_uint(shared->a[buffer][k0 + in_group + 4][m]);
                a[3] = __float_as_uint(shared->a[buffer][k0 + in_group + 4][m + 8]);
            } else {
                const uint32_t k = k0 + 2 * in_group;
                a[0] = pair(shared->a[buffer][k][m], shared->a[buffer][k + 1][m]);
                a[1] = pair(shared->a[buffer][k][m + 8], shared->a[buffer][k + 1][m + 8]);
                a[2] = pair(shared->a[buffer][k + 8][m], shared->a[buffer][k + 9][m]);
                a[3] = pair(shared->a[buffer][k + 8][m + 8], shared->a[buffer][k + 9][m + 8]);
            }
#pragma unroll
            for (uint32_t j = 0; j < PIECES_N; j++) {
                if (PRECISION == GEMM_TF32)
                    mma_tf32(t->sum + (i * PIECES_N + j) * 4, a, b[j]);
                else
                    mma_bf16(t->sum + (i * PIECES_N + j) * 4, a, b[j]);
            }
        }
    }
}

template <uint32_t MODE, uint32_t PRECISION, uint32_t BM, uint32_t BN>
__global__ void __launch_bounds__(TILE_THREADS)
    kernel_gemm(const __grid_constant__ struct gemm_args a, uint32_t first_z)
{
    __shared__ struct tile_shared shared;
    struct tile_thread t;
    uint32_t buffer = 0;

    /* The same for all threads of a block, so that leaving here is no divergence at a barrier. */
    if (!tile_begin(&a, MODE, BM, BN, threadIdx.x, blockIdx.x, blockIdx.y, first_z + blockIdx.z, &t))
        return;
    fetch_a(&a, MODE, BM, threadIdx.x, t.k_begin, &t);
    fetch_b(&a, MODE, BN, threadIdx.x, t.k_begin, &t);
    for (uint32_t k = t.k_begin; k < t.k_end; k += TILE_K, buffer ^= 1) {
        tile_share(MODE, PRECISION, BM, BN, threadIdx.x, buffer, &t, &shared);
        /* One barrier a step: who writes a buffer again has passed the barrier after its last reading. */
        __syncthreads();
        if (k + TILE_K < t.k_end) {
            fetch_a(&a, MODE, BM, threadIdx.x, k + TILE_K, &t);
            fetch_b(&a, MODE, BN, threadIdx.x, k + TILE_K, &t);
        }
        if (PRECISION == GEMM_FP32)
            tile_multiply(BM, BN, threadIdx.x, buffer, &t, &shared);
        else
            warp_multiply<PRECISION, BM, BN>(threadIdx.x, buffer, &t, &shared);
    }
    tile_store(&a, PRECISION, BM, BN, threadIdx.x, &t);
}

template <uint32_t MODE, uint32_t PRECISION, uint32_t BM, uint32_t BN>
static cudaError_t launch_tiles(cudaStream_t stream, const struct gemm_args *a)
{
    uint32_t blocks = a->lanes * a->groups * a->splits;

    for (uint32_t z = 0; z < blocks; z += 65535) { /* the grid's limit along z */
        dim3 grid((a->m + BM - 1) / BM, (a->n + BN - 1) / BN, blocks - z < 65535 ? blocks - z : 65535);
        if (grid.y > 65535)
            return cudaErrorInvalidValue;
        kernel_gemm<MODE, PRECISION, BM, BN><<<grid, TILE_THREADS, 0, stream>>>(*a, z);
    }
    return cudaGetLastError();
}

template <uint32_t MODE, uint32_t PRECISION>
static cudaError_t launch_mode(cudaStream_t stream, const struct gemm_args *a)
{
    uint32_t bm, bn;

    tile_size(a, &bm, &bn);
    if (bm == 16)
        return launch_tiles<MODE, PRECISION, 16, 128>(stream, a);
    if (bm == 64)
        return launch_tiles<MODE, PRECISION, 64, 32>(stream, a);
    if (bn == 32)
        return launch_tiles<MODE, PRECISION, 128, 32>(stream, a);
    return launch_tiles<MODE, PRECISION, 128, 64>(stream, a);
}

template <uint32_t MODE> static cudaError_t launch_precision(cudaStream_t stream, const struct gemm_args *a)
{
    if (a->precision == GEMM_TF32)
        return launch_mode<MODE, GEMM_TF32>(stream, a);
    if (a->precision == GEMM_BF16)
        return launch_mode<MODE, GEMM_BF16>(stream, a);
    return launch_mode<MODE, GEMM_FP32>(stream, a);
}

cudaError_t cuda_gemm(cudaStream_t stream, const struct gemm_args *a)
{
    if (a->mode == GEMM_FORWARD)
        return launch_precision<GEMM_FORWARD>(stream, a);
    if (a->mode == GEMM_DATA)
        return launch_precision<GEMM_DATA>(stream, a);
    return launch_precision<GEMM_WEIGHTS>(stream, a);
}

/* the weighted sum over factors: kernels_shared.h */

template <uint32_t PRECISION>
__global__ void __launch_bounds__(TILE_THREADS) kernel_shared_sum(const __grid_constant__ struct shared_sum_args a)
{
    __shared__ struct tile_shared shared;
    struct tile_thread t;
    struct sum_thread s;
    const uint32_t tiles_n = (a.product.n + SUM_BN - 1) / SUM_BN;
    uint32_t buffer = 0;

    for (uint32_t lane = a.first; lane < a.end; lane++) {
        sum_begin_lane(&a, PRECISION, threadIdx.x, lane, blockIdx.x / tiles_n, blockIdx.x % tiles_n, &t, &s);
        fetch_a(&a.product, GEMM_WEIGHTS, SUM_BM, threadIdx.x, 0, &t);
        fetch_b(&a.product, GEMM_WEIGHTS, SUM_BN, threadIdx.x, 0, &t);
        for (uint32_t k = 0; k < t.k_end; k += TILE_K, buffer ^= 1) {
            tile_share(GEMM_WEIGHTS, PRECISION, SUM_BM, SUM_BN, threadIdx.x, buffer, &t, &shared);
            __syncthreads(); /* as in kernel_gemm; the buffers go on in turn over the lanes */
            fetch_a(&a.product, GEMM_WEIGHTS, SUM_BM, threadIdx.x, k + TILE_K, &t);
            fetch_b(&a.product, GEMM_WEIGHTS, SUM_BN, threadIdx.x, k + TILE_K, &t);
            if (PRECISION == GEMM_FP32)
                tile_multiply(SUM_BM, SUM_BN, threadIdx.x, buffer, &t, &shared);
            else
                warp_multiply<PRECISION, SUM_BM, SUM_BN>(threadIdx.x, buffer, &t, &shared);
        }
        sum_end_lane(&a, PRECISION, threadIdx.x, &t, &s);
#pragma unroll
        for (uint32_t half = 16; half; half /= 2)
            s.distance += __shfl_down_sync(0xffffffffu, s.distance, half);
        if (threadIdx.x % 32 == 0)
            sum_put_distance(&a, threadIdx.x, blockIdx.x, lane, s.distance);
    }
    sum_store(&a, PRECISION, threadIdx.x, &t, &s);
}

cudaError_t cuda_shared_sum(cudaStream_t stream, const struct shared_sum_args *a)
{
    const uint32_t tiles =
        ((a->product.m + SUM_BM - 1) / SUM_BM) * ((a->product.n + SUM_BN - 1) / SUM_BN);

    if (a->end <= a->first)
        return cudaSuccess;
    if (a->product.precision == GEMM_TF32)
        kernel_shared_sum<GEMM_TF32><<<tiles, TILE_THREADS, 0, stream>>>(*a);
    else if (a->product.precision == GEMM_BF16)
        kernel_shared_sum<GEMM_BF16><<<tiles, TILE_THREADS, 0, stream>>>(*a);
    else
        kernel_shared_sum<GEMM_FP32><<<tiles, TILE_THREADS, 0, stream>>>(*a);
    return cudaGetLastError();
}
