/* launch.h - what kernels.cu gives to driver.c. SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_TRAINER_CUDA_LAUNCH_H
#define FLEXP_TRAINER_CUDA_LAUNCH_H

#include "trainer/backend/cuda/driver.h"

#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif

cudaError_t cuda_launch(cudaStream_t stream, enum kernel kernel, const void *args, size_t size);
cudaError_t cuda_gemm(cudaStream_t stream, const struct gemm_args *args);
cudaError_t cuda_shared_sum(cudaStream_t stream, const struct shared_sum_args *args);

#ifdef __cplusplus
}
#endif

#endif
