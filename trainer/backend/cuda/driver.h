/* driver.h - the boundary to the GPU: everything that needs the toolkit is behind this table, and flexp-cuda.so is one
 * that fills it. What plans, schedules and counts (the files beside this one) is plain C and is tested with a small
 * fake of this table that runs the same kernel bodies on the host.
 * Work is queued in order on one stream; upload, download and wait are the points where the host waits. What copy_in
 * reads and copy_out writes is pinned memory: until the next of these points it is the device's.
 * Threads: one caller at a time for each device, link_abort excepted. SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_TRAINER_CUDA_DRIVER_H
#define FLEXP_TRAINER_CUDA_DRIVER_H

#include "common/error.h"
#include "trainer/backend/cuda/kernels_norm.h"
#include "trainer/backend/cuda/kernels_shared.h"
#include "trainer/backend/cuda/kernels_train.h"

#ifdef __cplusplus
extern "C" {
#endif

#define DRIVER_API_VERSION 5
#define DRIVER_SYMBOL "flexp_cuda_driver"

/* Kernels that take an index each: name, and the struct of their arguments. The matrix products are apart. */
#define KERNELS(X)                                                                                                     \
    X(schedule, schedule_args)                                                                                         \
    X(begin_step, begin_step_args)                                                                                     \
    X(begin_chunk, begin_chunk_args)                                                                                   \
    X(assemble, assemble_args)                                                                                         \
    X(gather, gather_args)                                                                                             \
    X(scatter, scatter_args)                                                                                           \
    X(spread, spread_args)                                                                                             \
    X(max_pool, pool_args)                                                                                             \
    X(max_pool_backward, pool_args)                                                                                    \
    X(avg_pool, pool_args)                                                                                             \
    X(avg_pool_backward, pool_args)                                                                                    \
    X(global_pool, pool_args)                                                                                          \
    X(global_pool_backward, pool_args)                                                                                 \
    X(add, add_args)                                                                                                   \
    X(pass, pass_args)                                                                                                 \
    X(dead, dead_args)                                                                                                 \
    X(bias, bias_args)                                                                                                 \
    X(bias_gradient, bias_gradient_args)                                                                               \
    X(bias_gradient_sum, bias_gradient_args)                                                                           \
    X(transpose, transpose_args)                                                                                       \
    X(dropout, dropout_args)                                                                                           \
    X(dropout_backward, dropout_backward_args)                                                                         \
    X(norm_sums, norm_args)                                                                                            \
    X(norm_batch_mean, norm_args)                                                                                      \
    X(norm_batch_stats, norm_args)                                                                                     \
    X(norm_group_mean, norm_args)                                                                                      \
    X(norm_group_stats, norm_args)                                                                                     \
    X(norm_apply, norm_args)                                                                                           \
    X(norm_batch_backward, norm_args)                                                                                  \
    X(norm_group_backward, norm_args)                                                                                  \
    X(norm_group_params, norm_args)                                                                                    \
    X(norm_gradient, norm_args)                                                                                        \
    X(gemm_finish, gemm_args)                                                                                          \
    X(keep_inputs, keep_inputs_args)                                                                                   \
    X(keep_gradients, keep_gradients_args)                                                                             \
    X(shared_output, shared_output_args)                                                                               \
    X(loss, loss_args)                                                                                                 \
    X(totals, totals_args)                                                                                             \
    X(optimize, optimize_args)                                                                                         \
    X(accumulate, accumulate_args)                                                                                     \
    X(aggregate, aggregate_args)                                                                                       \
    X(apply, apply_args)                                                                                               \
    X(distance, distance_args)                                                                                         \
    X(distance_sum, distance_args)

#define KERNEL_ID(name, args) KERNEL_##name,
enum kernel { KERNELS(KERNEL_ID) KERNELS_N };
#undef KERNEL_ID

struct device;
struct captured; /* work that was recorded once and can be queued again as one */
struct library;  /* a layer's operation that a library computes, made ready */

#define LINK_ID_BYTES 128
enum link_type { LINK_FLOAT, LINK_DOUBLE };

struct device_info {
    char name[128], uuid[48], isa[64]; /* isa: "sm_90, cuDNN 9.19.0, ...": what bits depend on */
    size_t total_bytes;
    int runtime_version, driver_version; /* 13000 is 13.0 */
    bool has_cudnn, has_cublas;
};

struct driver {
    int api_version;
    /* index: among the visible GPUs; -1 counts as 0. uuid (may be NULL) has priority. -ENODEV: err says in one line why
     * no GPU can be used. */
    int (*open)(int index, const char *uuid, struct device **ret, struct error *err);
    void (*close)(struct device *device);
    void (*info)(const struct device *device, struct device_info *ret);
    /* What is known of a GPU without a context, so also where others hold all its memory: nothing of the libraries. index and
     * uuid as in open. -ENODEV: it is not there. */
    int (*look)(int index, const char *uuid, struct device_info *ret, struct error *err);
    int (*memory)(struct device *device, size_t *ret_free, size_t *ret_total, struct error *err);
    size_t (*own)(const struct device *device); /* bytes that alloc gave and release has not taken back */
    /* Of the device, aligned to 256. -ENOMEM. */
    int (*alloc)(struct device *device, size_t bytes, void **ret, struct error *err);
    void (*release)(struct device *device, void *memory);
    int (*upload)(struct device *device, void *to, const void *from, size_t bytes, struct error *err);
    int (*download)(struct device *device, void *to, const void *from, size_t bytes, struct error *err);
    /* Memory of the host that copies of captured work may name. -ENOMEM. */
    int (*pin)(struct device *device, size_t bytes, void **ret, struct error *err);
    void (*unpin)(struct device *device, void *pinned);
    /* These six can be captured. */
    int (*copy_in)(struct device *device, void *to, const void *pinned, size_t bytes, struct error *err);
    int (*copy_out)(struct device *device, void *pinned, const void *from, size_t bytes, struct error *err);
    int (*clear)(struct device *device, void *memory, size_t bytes, struct error *err);
    int (*launch)(struct device *device, enum kernel kernel, const void *args, size_t size, struct error *err);
    int (*gemm)(struct device *device, const struct gemm_args *args, struct error *err);
    int (*shared_sum)(struct device *device, const struct shared_sum_args *args, struct error *err);
    int (*wait)(struct device *device, struct error *err);
    /* A capture that fails, at its end or before, has queued nothing; the device has failed where wait fails, too. */
    int (*capture_begin)(struct device *device, struct error *err);
    int (*capture_end)(struct device *device, struct captured **ret, struct error *err); /* ret NULL: throws it away */
    /* In a capture: what is queued between the two is run until *left, in device memory, is 0; once at least. What is sent
     * to other GPUs may not be in it. One for each capture. -ENOTSUP, from capture_end too: this toolkit or GPU has no
     * loops, or not of this work. */
    int (*loop_begin)(struct device *device, struct error *err);
    int (*loop_end)(struct device *device, uint32_t *left, struct error *err); /* takes 1 off *left */
    int (*replay)(struct device *device, struct captured *captured, struct error *err);
    void (*captured_free)(struct device *device, struct captured *captured);
    /* Seconds of the device's clock, queued: mark(0) ... mark(1), then seconds(). */
    int (*mark)(struct device *device, int which, struct error *err);
    int (*seconds)(struct device *device, double *ret, struct error *err);
    /* Optional: a library's form of args (cuDNN for a convolution of one lane, cuBLASLt for dense layers). Made ready
     * once; -ENOTSUP where the library has none, with the reason. Run with the pointers of its args. */
    int (*library_new)(struct device *device, const struct gemm_args *args, struct library **ret, size_t *ret_workspace,
                       struct error *err);
    int (*library_run)(struct device *device, struct library *library, const struct gemm_args *args, void *workspace,
                       struct error *err);
    void (*library_free)(struct device *device, struct library *library);
    /* Optional: what several GPUs send each other (NCCL); a thread for each. -ENOTSUP from link_id, which one of them
     * calls: it cannot be had, with the reason. link_open is called by all with that id; what was open before is
     * given up. What is sent goes on a stream of its own, which can be captured: it waits for what was queued before
     * link_fork, and what is queued after link_join waits for it. link_abort, from any thread: what waits for another
     * GPU ends, with an error; of a process's devices the last returns when what was captured with the link is freed. */
    int (*link_id)(unsigned char ret[LINK_ID_BYTES], struct error *err);
    int (*link_open)(struct device *device, const unsigned char *id, size_t rank, size_t ranks, double timeout_s,
                     struct error *err);
    void (*link_abort)(struct device *device);
    int (*link_fork)(struct device *device, struct error *err);
    int (*link_join)(struct device *device, struct error *err);
    /* In place; in whatever order NCCL has. */
    int (*link_sum)(struct device *device, void *memory, size_t n, enum link_type type, struct error *err);
    int (*link_send)(struct device *device, const void *memory, size_t bytes, size_t to, struct error *err);
    int (*link_receive)(struct device *device, void *memory, size_t bytes, size_t from, struct error *err);
    int (*link_broadcast)(struct device *device, void *memory, size_t bytes, size_t root, struct error *err);
};

#ifdef __cplusplus
}
#endif

#endif
