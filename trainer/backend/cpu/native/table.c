/* table.c - the kernels of one instruction set. SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cpu/native/kernels.h"

#include <time.h>

#define TEXT2(x) #x
#define TEXT(x) TEXT2(x)

static void add(const float *x, float *y, size_t n)
{
    size_t i = 0;

    for (; i + VEC_N <= n; i += VEC_N)
        vec_store(y + i, vec_load(x + i) + vec_load(y + i));
    for (; i < n; i++)
        y[i] += x[i];
}

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static double peak_flops(double seconds)
{
    enum { CHAINS = 10, TURNS = 20000 }; /* more than latency times throughput; each a register */
    double began = now(), best = 0;
    vec acc[CHAINS], a = vec_splat(0.999f), b = vec_splat(1e-3f);
    volatile float sink;

    for (int i = 0; i < CHAINS; i++)
        acc[i] = vec_splat((float)i);
    while (now() - began < seconds) {
        double start = now(), rate;
        for (int turn = 0; turn < TURNS; turn++)
            VEC_UNROLL for (int i = 0; i < CHAINS; i++)
                acc[i] = vec_fma(acc[i], a, b);
        rate = 2.0 * VEC_N * CHAINS * TURNS / (now() - start);
        best = rate > best ? rate : best;
    }
    for (int i = 1; i < CHAINS; i++)
        acc[0] = acc[0] + acc[i];
    sink = vec_sum(acc[0]);
    (void)sink;
    return best;
}

static const struct conv_kernel *const CONVS[] = {
    &NATIVE(conv_winograd_f4), &NATIVE(conv_winograd_f2), &NATIVE(conv_winograd_f2_5x5), &NATIVE(conv_direct),
    &NATIVE(conv_depthwise),   &NATIVE(conv_batched),     NULL,
};

extern const struct native NATIVE(native);
const struct native NATIVE(native) = {
    .name = TEXT(NATIVE_ISA),
    .lanes = VEC_N,
    .convs = CONVS,
    .dense_stride = NATIVE(dense_stride),
    .dense_forward = NATIVE(dense_forward),
    .dense_mask = NATIVE(dense_mask),
    .dense_backward = NATIVE(dense_backward),
    .dense_backward_sgd = NATIVE(dense_backward_sgd),
    .dense_scratch_bytes = NATIVE(dense_scratch_bytes),
    .dropout_keep = NATIVE(dropout_keep),
    .dropout = NATIVE(dropout),
    .dropout_backward = NATIVE(dropout_backward),
    .norm_scratch_bytes = NATIVE(norm_scratch_bytes),
    .norm_forward = NATIVE(norm_forward),
    .norm_apply = NATIVE(norm_apply),
    .norm_backward = NATIVE(norm_backward),
    .add = add,
    .peak_flops = peak_flops,
};
