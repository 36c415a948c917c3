/* kernels.h - what the files that are compiled for each instruction set give table.c.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_TRAINER_CPU_NATIVE_KERNELS_H
#define FLEXP_TRAINER_CPU_NATIVE_KERNELS_H

#include "common/rng.h"
#include "trainer/backend/cpu/native/native.h"
#include "trainer/backend/cpu/native/vec.h"

extern const struct conv_kernel NATIVE(conv_winograd_f4), NATIVE(conv_winograd_f2), NATIVE(conv_direct),
    NATIVE(conv_depthwise), NATIVE(conv_batched);

size_t NATIVE(dense_stride)(size_t out);
void NATIVE(dense_forward)(const struct dense *d, const float *w, const float *bias, const float *x, float *y, size_t lo,
                           size_t hi);
void NATIVE(dense_mask)(const struct dense *d, const float *y, float *dy, float *db, size_t rows);
void NATIVE(dense_backward)(const struct dense *d, const float *w, const float *x, const float *dy, float *dx, float *dw,
                            size_t rows, size_t i0, size_t i1, void *scratch);
void NATIVE(dense_backward_sgd)(const struct dense *d, const struct native_sgd *sgd, const float *from, float *w,
                                float *state, const float *x, const float *dy, float *dx, size_t rows, size_t i0,
                                size_t i1, void *scratch);
size_t NATIVE(dense_scratch_bytes)(const struct dense *d, size_t rows);

/* dropout.c: values [lo, hi) of a tensor, lo a multiple of 64; rng stands at value 0 and is not moved: behind the whole
 * tensor the caller advances it by ceil(n / 2). Decisions as kernel_dropout's. kept: a bit for each value, value i at bit
 * i % 64 of word i / 64. y may be x, dx may be dy. */
void NATIVE(dropout)(double rate, const struct pcg32 *rng, const float *x, float *y, uint64_t *kept, size_t lo,
                     size_t hi);
void NATIVE(dropout_backward)(double rate, const uint64_t *kept, const float *dy, float *dx, size_t lo, size_t hi);

/* norm.c: group normalisation of rows [lo, hi), y = relu(gamma (x - mean) / sqrt(var + eps) + beta + skip); skip: NULL or
 * as y. stats: for each row, groups means and groups times 1 / sqrt(var + eps). Batch normalisation: one row of all
 * pixels, groups = channels. */
struct native_norm {
    size_t pixels, channels, groups; /* of a row; groups divides channels */
    double eps;
    bool relu;
};
/* One for each thread; contents need not last. */
size_t NATIVE(norm_scratch_bytes)(const struct native_norm *n);
/* ret_var: NULL, or the biased variances of the last row's groups. y may be x or skip. */
void NATIVE(norm_forward)(const struct native_norm *n, const float *x, const float *skip, float *y, const float *gamma,
                          const float *beta, float *stats, double *ret_var, void *scratch, size_t lo, size_t hi);
/* With statistics that are given, the same for all rows (groups values each): batch normalisation when evaluating. */
void NATIVE(norm_apply)(const struct native_norm *n, const float *x, const float *skip, float *y, const float *gamma,
                        const float *beta, const float *mean, const float *rstd, void *scratch, size_t lo, size_t hi);
/* dx (NULL: not wanted) is overwritten and may be dy or dmasked, but not x. y is read with relu alone. dmasked: NULL, or
 * where dy behind ReLU's mask goes, which is the gradient of skip; may be dy. partial: 2 x channels, dgamma and dbeta,
 * added to, a row at a time. */
void NATIVE(norm_backward)(const struct native_norm *n, const float *x, const float *y, const float *dy, float *dx,
                           float *dmasked, const float *gamma, const float *stats, float *partial, void *scratch,
                           size_t lo, size_t hi);

#endif
