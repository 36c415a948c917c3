/* dense.c - dense layers.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cpu/native/kernels.h"

size_t NATIVE(dense_stride)(size_t out)
{
    return out;
}

void NATIVE(dense_forward)(const struct dense *d, const float *w, const float *bias, const float *x, float *y, size_t lo,
                           size_t hi)
{
    (void)d, (void)w, (void)bias, (void)x, (void)y, (void)lo, (void)hi;
}

void NATIVE(dense_mask)(const struct dense *d, const float *y, float *dy, float *db, size_t rows)
{
    (void)d, (void)y, (void)dy, (void)db, (void)rows;
}

void NATIVE(dense_backward)(const struct dense *d, const float *w, const float *x, const float *dy, float *dx, float *dw,
                            size_t rows, size_t i0, size_t i1, void *scratch)
{
    (void)d, (void)w, (void)x, (void)dy, (void)dx, (void)dw, (void)rows, (void)i0, (void)i1, (void)scratch;
}

size_t NATIVE(dense_scratch_bytes)(const struct dense *d, size_t rows)
{
    (void)d, (void)rows;
    return 0;
}
