/* sgd.h - SGD's step for a vector of weights whose gradient is in a register.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_TRAINER_CPU_NATIVE_SGD_H
#define FLEXP_TRAINER_CPU_NATIVE_SGD_H

#include "trainer/backend/cpu/native/native.h"
#include "trainer/backend/cpu/native/vec.h"

/* g: the gradient. from may be w; state is read with momentum alone. n: of VEC_N values. */
VEC_INLINE void sgd_vec(const struct native_sgd *sgd, vec g, const float *from, float *w, float *state, size_t n,
                        bool momentum, bool nesterov)
{
    vec x = vec_load(from);

    if (sgd->decay > 0)
        g = vec_fma(vec_splat(sgd->decay), x, g);
    if (momentum) {
        vec m = vec_splat(sgd->momentum), v = vec_fma(m, vec_load(state), g);
        g = nesterov ? vec_fma(m, v, g) : v;
        if (n == VEC_N)
            vec_store(state, v);
        else
            vec_store_n(state, v, n);
    }
    x = vec_fnma(vec_splat(sgd->lr), g, x);
    if (n == VEC_N)
        vec_store(w, x);
    else
        vec_store_n(w, x, n);
}

#endif
