/* launch.h - what kernels.cu gives to driver.c. SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_TRAINER_CUDA_LAUNCH_H
#define FLEXP_TRAINER_CUDA_LAUNCH_H

#include "trainer/backend/cuda/driver.h"

#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Loops of captured work. */
#define HAS_LOOPS (CUDART_VERSION >= 13000)

cudaError_t cuda_launch(cudaStream_t stream, enum kernel kernel, const void *args, size_t size);
cudaError_t cuda_gemm(cudaStream_t stream, const struct gemm_args *args);
cudaError_t cuda_shared_sum(cudaStream_t stream, const struct shared_sum_args *args);
#if HAS_LOOPS
/* At a loop's end. */
cudaError_t cuda_count_down(cudaStream_t stream, cudaGraphConditionalHandle handle, uint32_t *left);
#endif
/* Kernels are loaded when they are first used, which a capture may not wait for; that one is not used outside. */
cudaError_t cuda_load_count_down(void);

#ifdef __cplusplus
}
#endif

#endif
