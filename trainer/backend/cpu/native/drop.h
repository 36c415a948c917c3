/* drop.h - dropout in an epilogue: where a value is stored its place says whether it stays.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_TRAINER_CPU_NATIVE_DROP_H
#define FLEXP_TRAINER_CPU_NATIVE_DROP_H

#include "trainer/backend/cpu/native/native.h"
#include "trainer/backend/cpu/native/vec.h"

/* Bits of the VEC_N values from `at` on. */
VEC_INLINE uint16_t drop_bits(const struct native_drop *d, const float *at)
{
    size_t i = (size_t)(at - d->first), from = i % 64;
    const uint64_t *word = d->kept + i / 64;

    return (uint16_t)((word[0] >> from | word[1] << 1 << (63 - from)) & ((1u << VEC_N) - 1));
}

VEC_INLINE vec drop_vec(const struct native_drop *d, const float *at, vec v)
{
    return vec_where(vec_mask_from(drop_bits(d, at)), v * vec_splat(d->scale));
}

/* What backward multiplies dy by. */
VEC_INLINE vec drop_scale(const struct native_drop *d)
{
    return vec_splat(d ? d->scale : 1);
}

/* The pool's masks of a vector of its outputs. */
VEC_INLINE void drop_masks(const struct native_drop *d, const float *at, uint16_t *masks)
{
    const uint16_t bits = drop_bits(d, at);

    for (int i = 0; i < 4; i++)
        masks[i] &= bits;
}

#endif
