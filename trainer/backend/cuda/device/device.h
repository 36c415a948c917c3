/* device.h - what the files of flexp-cuda.so share.
 *
 *   kernels.cu   own kernels
 *   driver.c     the table of driver.h over the CUDA runtime
 *   capture.c    captured work: executable graphs
 *   cudnn.c      convolutions, through cuDNN's backend graph API; the library is opened at run time
 *   cublas.c     dense layers through cuBLASLt; likewise
 *   nccl.c       what several GPUs send each other, through NCCL; likewise
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_TRAINER_CUDA_DEVICE_H
#define FLEXP_TRAINER_CUDA_DEVICE_H

#include "trainer/backend/cuda/device/launch.h"

struct block {
    void *memory;
    size_t bytes;
};

struct device {
    int index;
    cudaStream_t stream;
    cudaEvent_t events[2];
    struct {
        cudaGraph_t graph;    /* with a loop: what was captured before it, then all */
        cudaGraphNode_t node; /* the loop */
        unsigned long long handle;
    } loop;
    struct cudaDeviceProp prop;
    struct device_info info;
    void *cudnn, *cublas; /* handles; NULL: not there */
    struct link *link;    /* to other GPUs */
    struct block *blocks; /* allocated; some dozens, so they are looked for one by one */
    size_t blocks_n, blocks_room, own_bytes;
};

struct library {
    int (*run)(struct device *device, struct library *library, const struct gemm_args *args, void *workspace,
               struct error *err);
    void (*free)(struct library *library);
};

/* Which GPU a call is for is a property of the calling thread; any thread may call, one at a time for each device. */
static inline void enter(const struct device *d)
{
    cudaSetDevice(d->index);
}

/* One translator for each library. Out of memory becomes -ENOMEM, all else -EIO. */
int cuda_fail(struct error *err, cudaError_t status, const char *what);

/* dlopen and a list of symbols into a table of pointers. -ENOTSUP: err says why it cannot be used. */
struct symbol {
    const char *name;
    void *to; /* of a function pointer */
};
int open_library(const char *const *names, const struct symbol *symbols, struct error *err);

/* capture.c */
int capture_begin(struct device *device, struct error *err);
int capture_end(struct device *device, struct captured **ret, struct error *err);
int capture_loop_begin(struct device *device, struct error *err);
int capture_loop_end(struct device *device, uint32_t *left, struct error *err);
int capture_replay(struct device *device, struct captured *captured, struct error *err);
void captured_free(struct device *device, struct captured *captured);

int cudnn_open(struct device *device, struct error *err);
void cudnn_close(struct device *device);
int cudnn_library(struct device *device, const struct gemm_args *args, struct library **ret, size_t *ret_workspace,
                  struct error *err);

int cublas_open(struct device *device, struct error *err);
void cublas_close(struct device *device);
int cublas_library(struct device *device, const struct gemm_args *args, struct library **ret, size_t *ret_workspace,
                   struct error *err);

/* nccl.c; what is not in driver.h comes and goes with the device */
int link_new(struct device *device, struct error *err);
void link_free(struct device *device);
int link_id(unsigned char *ret, struct error *err);
int link_open(struct device *device, const unsigned char *id, size_t rank, size_t ranks, double timeout_s,
              struct error *err);
void link_abort(struct device *device);
int link_fork(struct device *device, struct error *err);
int link_join(struct device *device, struct error *err);
int link_sum(struct device *device, void *memory, size_t n, enum link_type type, struct error *err);
int link_send(struct device *device, const void *memory, size_t bytes, size_t to, struct error *err);
int link_receive(struct device *device, void *memory, size_t bytes, size_t from, struct error *err);
int link_broadcast(struct device *device, void *memory, size_t bytes, size_t root, struct error *err);

/* What the libraries leave to own kernels: rows past a lane's own become zeros, before they enter a sum; masks. */
int clear_dead_rows(struct device *device, const struct gemm_args *args, struct error *err);
/* The bias's gradient, in order; workspace: bias_gradient_bytes. */
size_t bias_gradient_bytes(const struct gemm_args *args);
int bias_gradient(struct device *device, const struct gemm_args *args, void *workspace, struct error *err);
int mask_gradient(struct device *device, const struct gemm_args *args, struct error *err);

#endif
