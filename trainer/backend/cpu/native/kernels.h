/* kernels.h - what the files that are compiled for each instruction set give table.c.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_TRAINER_CPU_NATIVE_KERNELS_H
#define FLEXP_TRAINER_CPU_NATIVE_KERNELS_H

#include "common/rng.h"
#include "trainer/backend/cpu/native/native.h"
#include "trainer/backend/cpu/native/vec.h"

extern const struct conv_kernel NATIVE(conv_winograd_f4), NATIVE(conv_winograd_f2), NATIVE(conv_winograd_f2_5x5),
    NATIVE(conv_direct), NATIVE(conv_depthwise), NATIVE(conv_batched);

size_t NATIVE(dense_stride)(size_t out);
void NATIVE(dense_forward)(const struct dense *d, const float *w, const float *bias, const float *x, float *y,
                           const struct native_drop *drop, size_t lo, size_t hi, size_t from, size_t to);
void NATIVE(dense_mask)(const struct dense *d, const float *y, float *dy, float *db, const struct native_drop *drop,
                        size_t rows);
void NATIVE(dense_backward)(const struct dense *d, const float *w, const float *x, const float *dy, float *dx, float *dw,
                            size_t rows, size_t i0, size_t i1, void *scratch);
void NATIVE(dense_backward_sgd)(const struct dense *d, const struct native_sgd *sgd, const float *from, float *w,
                                float *state, const float *x, const float *dy, float *dx, size_t rows, size_t i0,
                                size_t i1, void *scratch);
size_t NATIVE(dense_scratch_bytes)(const struct dense *d, size_t rows);

void NATIVE(dropout_keep)(double rate, const struct pcg32 *rng, uint64_t *kept, size_t lo, size_t hi);
void NATIVE(dropout)(double rate, const struct pcg32 *rng, const float *x, float *y, uint64_t *kept, size_t lo,
                     size_t hi);
void NATIVE(dropout_backward)(double rate, const uint64_t *kept, const float *dy, float *dx, size_t lo, size_t hi);

size_t NATIVE(norm_scratch_bytes)(const struct native_norm *n);
void NATIVE(norm_forward)(const struct native_norm *n, const float *x, const float *skip, float *y, const float *gamma,
                          const float *beta, float *stats, double *ret_var, void *scratch, size_t lo, size_t hi);
void NATIVE(norm_apply)(const struct native_norm *n, const float *x, const float *skip, float *y, const float *gamma,
                        const float *beta, const float *mean, const float *rstd, void *scratch, size_t lo, size_t hi);
void NATIVE(norm_backward)(const struct native_norm *n, const float *x, const float *y, const float *dy, float *dx,
                           float *dmasked, const float *gamma, const float *stats, float *partial, void *scratch,
                           size_t lo, size_t hi);

#endif
