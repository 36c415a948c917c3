/* winograd_weights.c - weights to frequencies, and gradients back. All are walked panel by panel, so that what is read
 * and each frequency of what is written are streams: they can be many times the second-level cache.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cpu/native/sgd.h"
#include "trainer/backend/cpu/native/transpose.h"
#include "trainer/backend/cpu/native/winograd_private.h"
#include "trainer/backend/cpu/native/winograd_transform.h"

/* Weights come from far, and are read in pieces too short for the processor to see them coming. */
#define AHEAD 4 /* channels */

VEC_INLINE void forth(size_t m, const vec *g, size_t gs, float *o, size_t point)
{
    size_t a = m + 2;
    vec half[18], out[6];

    point = winograd_hide(point);
    VEC_UNROLL
    for (size_t s = 0; s < 3; s++)
        winograd_g(m, g + s * gs, 3 * gs, half + s, 3);
    VEC_UNROLL
    for (size_t r = 0; r < a; r++) {
        winograd_g(m, half + 3 * r, 1, out, 1);
        VEC_UNROLL
        for (size_t i = 0; i < a; i++, o += point)
            vec_store(o, out[i]);
    }
}

/* The taps of a channel and a vector of filters. */
VEC_INLINE void fetch(const float *taps)
{
    VEC_UNROLL
    for (size_t i = 0; i < 9 * VEC_N; i += 16)
        __builtin_prefetch(taps + i);
}

/* The weights of VEC_N x VEC_N channels and filters, vectors of channels: [tap][filter]. */
VEC_INLINE void turn(const struct winograd *w, const float *weights, size_t cv, size_t kv, vec g[9][VEC_N])
{
    for (size_t s = 0; s < 9; s++) {
        for (size_t i = 0; i < VEC_N; i++) {
            size_t c = cv * VEC_N + i;
            g[s][i] = c < w->c ? vec_load(weights + ((kv * w->c + c) * 9 + s) * VEC_N) : vec_zero();
        }
        vec_transpose(g[s]);
    }
}

VEC_INLINE void weights_transposed(size_t m, const struct winograd *w, const float *weights, float *o)
{
    size_t c_lo = w->c_lo / VEC_N, c_hi = winograd_vecs(w->c_hi), k_lo = w->k_lo / VEC_N, k_hi = winograd_vecs(w->k_hi);
    vec g[2][9][VEC_N];

    for (size_t panel = c_lo; panel < c_hi; panel += 2)
        for (size_t kv = k_lo; kv < k_hi; kv++) {
            size_t width = panel + 1 < c_hi ? 2 : 1;
            size_t next = kv + 1 < k_hi ? kv + 1 : k_lo, channel = (kv + 1 < k_hi ? panel : panel + 2) * VEC_N;

            for (size_t v = 0; v < width; v++)
                turn(w, weights, panel + v, kv, g[v]);
            for (size_t i = 0; i < VEC_N && kv * VEC_N + i < w->k_hi; i++)
                for (size_t v = 0; v < width; v++) {
                    fetch(weights + (next * w->c + channel + v * VEC_N + i) * 9 * VEC_N);
                    forth(m, &g[v][0][i], VEC_N,
                          o + winograd_panel(panel + v - c_lo, (kv - k_lo) * VEC_N + i, w->k_hi - w->k_lo, c_hi - c_lo),
                          w->ut_point);
                }
        }
}

VEC_INLINE void weights_as_they_are(size_t m, const struct winograd *w, const float *weights, float *o)
{
    size_t k_lo = w->k_lo / VEC_N, k_hi = winograd_vecs(w->k_hi);

    for (size_t panel = k_lo; panel < k_hi; panel += 2)
        for (size_t c = w->c_lo; c < w->c_hi; c++)
            for (size_t v = panel; v < panel + 2 && v < k_hi; v++) {
                vec g[9];

                fetch(weights + (v * w->c + c + AHEAD) * 9 * VEC_N);
                VEC_UNROLL
                for (size_t s = 0; s < 9; s++)
                    g[s] = vec_load(weights + ((v * w->c + c) * 9 + s) * VEC_N);
                forth(m, g, 1, o + winograd_panel(v - k_lo, c - w->c_lo, w->c_hi - w->c_lo, k_hi - k_lo), w->u_point);
            }
}

/* What becomes of dw's sums. */
enum result { STORED, ADDED, STEPPED, ADDED_AND_STEPPED };

VEC_INLINE void back(size_t m, const float *s, size_t point, size_t lanes, float *dw, size_t at, enum result result,
                     const struct native_step *step, bool momentum)
{
    size_t a = m + 2;
    vec x[6], half[18], out[3];

    point = winograd_hide(point);
    VEC_UNROLL
    for (size_t r = 0; r < a; r++) {
        VEC_UNROLL
        for (size_t i = 0; i < a; i++, s += point)
            x[i] = vec_load(s);
        winograd_gt(m, x, 1, half + r * 3, 1);
    }
    VEC_UNROLL
    for (size_t c = 0; c < 3; c++) {
        winograd_gt(m, half + c, 3, out, 1);
        VEC_UNROLL
        for (size_t r = 0; r < 3; r++) {
            size_t tap = at + (r * 3 + c) * VEC_N;
            if (lanes < VEC_N)
                out[r] = vec_where(vec_mask_from((uint16_t)((1u << lanes) - 1)), out[r]);
            if (result == ADDED || result == ADDED_AND_STEPPED)
                out[r] += vec_load(dw + tap);
            if (result == STORED || result == ADDED)
                vec_store(dw + tap, out[r]);
            else
                sgd_vec(&step->sgd, out[r], step->w + tap, step->w + tap, momentum ? step->state + tap : NULL, VEC_N,
                        momentum, momentum && step->sgd.nesterov);
        }
    }
}

VEC_INLINE void weights_back(size_t m, const struct winograd *w, const float *du, float *dw, enum result result,
                             const struct native_step *step, bool momentum)
{
    size_t k_lo = w->k_lo / VEC_N, k_hi = winograd_vecs(w->k_hi);

    for (size_t panel = k_lo; panel < k_hi; panel += 2)
        for (size_t c = w->c_lo; c < w->c_hi; c++)
            for (size_t v = panel; v < panel + 2 && v < k_hi; v++) {
                size_t at = (v * w->c + c) * 9 * VEC_N;
                if (result == STEPPED || result == ADDED_AND_STEPPED) {
                    fetch(step->w + at + AHEAD * 9 * VEC_N);
                    if (momentum)
                        fetch(step->state + at + AHEAD * 9 * VEC_N);
                }
                back(m, du + winograd_panel(v - k_lo, c - w->c_lo, w->c_hi - w->c_lo, k_hi - k_lo), w->u_point,
                     w->k_hi - v * VEC_N, dw, at, result, step, momentum);
            }
}

#define BACK(m, result, momentum)                                                                                      \
    static void back_##m##_##result##_##momentum(const struct winograd *w, const float *du, float *dw,                 \
                                                 const struct native_step *step)                                       \
    {                                                                                                                  \
        weights_back(m, w, du, dw, result, step, momentum);                                                            \
    }
#define BACKS(m)                                                                                                       \
    BACK(m, STORED, false)                                                                                             \
    BACK(m, ADDED, false)                                                                                              \
    BACK(m, STEPPED, false)                                                                                            \
    BACK(m, STEPPED, true)                                                                                             \
    BACK(m, ADDED_AND_STEPPED, false)                                                                                  \
    BACK(m, ADDED_AND_STEPPED, true)
#define ROW(m)                                                                                                         \
    {                                                                                                                  \
        {back_##m##_STORED_false}, {back_##m##_ADDED_false}, {back_##m##_STEPPED_false, back_##m##_STEPPED_true},      \
            {back_##m##_ADDED_AND_STEPPED_false, back_##m##_ADDED_AND_STEPPED_true},                                   \
    }
BACKS(2)
BACKS(4)

void NATIVE(winograd_weights)(const struct winograd *w, const float *weights, float *u, float *transposed)
{
    if (w->m == 4) {
        if (u)
            weights_as_they_are(4, w, weights, u);
        if (transposed)
            weights_transposed(4, w, weights, transposed);
    } else {
        if (u)
            weights_as_they_are(2, w, weights, u);
        if (transposed)
            weights_transposed(2, w, weights, transposed);
    }
}

void NATIVE(winograd_weights_back)(const struct winograd *w, const float *du, float *dw, bool add,
                                   const struct native_step *step)
{
    static void (*const BY[2][4][2])(const struct winograd *, const float *, float *, const struct native_step *) = {
        ROW(2), ROW(4)};
    enum result result = step ? add ? ADDED_AND_STEPPED : STEPPED : add ? ADDED : STORED;

    BY[w->m == 4][result][step && step->sgd.momentum > 0](w, du, dw, step);
}

/* The frequency of point 1 in both directions is the sum of a tile. */
void NATIVE(winograd_bias_back)(const struct winograd *w, const float *d, size_t tiles, float *db)
{
    for (size_t k = w->k_lo; k < w->k_hi; k += VEC_N) {
        vec sum = vec_load(db + k);

        for (size_t t = 0; t < tiles; t++)
            sum += vec_load(d + (w->a + 1) * w->d_point + t * w->k_tile + (k - w->k_lo));
        vec_store(db + k, sum);
    }
}
