/* table.c - the kernels of one instruction set. SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cpu/native/kernels.h"

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

static const struct conv_kernel *const CONVS[] = {
    &NATIVE(conv_winograd_f4), &NATIVE(conv_winograd_f2), &NATIVE(conv_direct),
    &NATIVE(conv_depthwise),   &NATIVE(conv_batched),     NULL,
};

extern const struct native NATIVE(native);
const struct native NATIVE(native) = {
    .name = TEXT(NATIVE_ISA),
    .convs = CONVS,
    .dense_stride = NATIVE(dense_stride),
    .dense_forward = NATIVE(dense_forward),
    .dense_mask = NATIVE(dense_mask),
    .dense_backward = NATIVE(dense_backward),
    .dense_scratch_bytes = NATIVE(dense_scratch_bytes),
    .add = add,
};
