/* winograd_weights.c - weights to frequencies, and gradients back. All are walked panel by panel, so that what is read
 * and each frequency of what is written are streams: they can be many times the second-level cache.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cpu/native/sgd.h"
#include "trainer/backend/cpu/native/transpose.h"
#include "trainer/backend/cpu/native/winograd_private.h"

/* Weights come from far, and are read in pieces too short for the processor to see them coming. */
#define AHEAD 4 /* channels */

/* The taps of a phase in one direction; which of the kernel's rows or columns the i-th is. */
VEC_INLINE size_t taps(enum winograd_form form, size_t n)
{
    return n - winograd_m(form) + 1;
}

VEC_INLINE size_t tap(enum winograd_form form, size_t n, size_t i)
{
    return winograd_side(form) - n + i * winograd_stride(form);
}

VEC_INLINE size_t tap_of(enum winograd_form form, size_t height, size_t width, size_t r, size_t s)
{
    return tap(form, height, r) * winograd_kernel(form) + tap(form, width, s);
}

/* g: a phase's taps, [row][column], gs apart. */
VEC_INLINE void forth(enum winograd_form form, size_t height, size_t width, const vec *g, size_t gs, float *o,
                      size_t point)
{
    size_t ts = taps(form, width);
    vec half[30], out[6];

    point = winograd_hide(point);
    VEC_UNROLL
    for (size_t s = 0; s < ts; s++)
        winograd_g(form, height, g + s * gs, ts * gs, half + s, ts);
    VEC_UNROLL
    for (size_t r = 0; r < height; r++) {
        winograd_g(form, width, half + ts * r, 1, out, 1);
        VEC_UNROLL
        for (size_t i = 0; i < width; i++, o += point)
            vec_store(o, out[i]);
    }
}

/* A phase's taps of a channel and a vector of filters. */
VEC_INLINE void fetch(enum winograd_form form, size_t height, size_t width, const float *weights)
{
    size_t tr = taps(form, height), ts = taps(form, width);

    VEC_UNROLL
    for (size_t r = 0; r < tr; r++) {
        VEC_UNROLL
        for (size_t s = 0; s < ts; s++)
            __builtin_prefetch(weights + tap_of(form, height, width, r, s) * VEC_N);
    }
}

/* The weights of VEC_N x VEC_N channels and filters, vectors of channels: [tap][filter]. */
VEC_INLINE void turn(enum winograd_form form, size_t height, size_t width, const struct winograd *w,
                     const float *weights, size_t cv, size_t kv, vec g[25][VEC_N])
{
    size_t tr = taps(form, height), ts = taps(form, width);

    for (size_t t = 0; t < tr * ts; t++) {
        size_t at = tap_of(form, height, width, t / ts, t % ts);

        for (size_t i = 0; i < VEC_N; i++) {
            size_t c = cv * VEC_N + i;
            g[t][i] = c < w->c ? vec_load(weights + ((kv * w->c + c) * w->taps + at) * VEC_N) : vec_zero();
        }
        vec_transpose(g[t]);
    }
}

VEC_INLINE void weights_transposed(enum winograd_form form, size_t height, size_t width, const struct winograd *w,
                                   const float *weights, float *o)
{
    size_t c_lo = w->c_lo / VEC_N, c_hi = winograd_vecs(w->c_hi), k_lo = w->k_lo / VEC_N, k_hi = winograd_vecs(w->k_hi);
    vec g[2][25][VEC_N];

    for (size_t panel = c_lo; panel < c_hi; panel += 2)
        for (size_t kv = k_lo; kv < k_hi; kv++) {
            size_t vecs = panel + 1 < c_hi ? 2 : 1;
            size_t next = kv + 1 < k_hi ? kv + 1 : k_lo, channel = (kv + 1 < k_hi ? panel : panel + 2) * VEC_N;

            for (size_t v = 0; v < vecs; v++)
                turn(form, height, width, w, weights, panel + v, kv, g[v]);
            for (size_t i = 0; i < VEC_N && kv * VEC_N + i < w->k_hi; i++)
                for (size_t v = 0; v < vecs; v++) {
                    fetch(form, height, width, weights + (next * w->c + channel + v * VEC_N + i) * w->taps * VEC_N);
                    forth(form, height, width, &g[v][0][i], VEC_N,
                          o + winograd_panel(panel + v - c_lo, (kv - k_lo) * VEC_N + i, w->k_hi - w->k_lo, c_hi - c_lo),
                          w->ut_point);
                }
        }
}

VEC_INLINE void weights_as_they_are(enum winograd_form form, size_t height, size_t width, const struct winograd *w,
                                    const float *weights, float *o)
{
    size_t k_lo = w->k_lo / VEC_N, k_hi = winograd_vecs(w->k_hi), tr = taps(form, height), ts = taps(form, width);

    for (size_t panel = k_lo; panel < k_hi; panel += 2)
        for (size_t c = w->c_lo; c < w->c_hi; c++)
            for (size_t v = panel; v < panel + 2 && v < k_hi; v++) {
                const float *from = weights + (v * w->c + c) * w->taps * VEC_N;
                vec g[25];

                fetch(form, height, width, from + AHEAD * w->taps * VEC_N);
                VEC_UNROLL
                for (size_t t = 0; t < tr * ts; t++)
                    g[t] = vec_load(from + tap_of(form, height, width, t / ts, t % ts) * VEC_N);
                forth(form, height, width, g, 1,
                      o + winograd_panel(v - k_lo, c - w->c_lo, w->c_hi - w->c_lo, k_hi - k_lo), w->u_point);
            }
}

/* What becomes of dw's sums. */
enum result { STORED, ADDED, STEPPED, ADDED_AND_STEPPED };

VEC_INLINE void back(enum winograd_form form, size_t height, size_t width, const float *s, size_t point, size_t lanes,
                     float *dw, size_t at, enum result result, const struct native_step *step, bool momentum)
{
    size_t tr = taps(form, height), ts = taps(form, width);
    vec x[6], half[30], out[5];

    point = winograd_hide(point);
    VEC_UNROLL
    for (size_t r = 0; r < height; r++) {
        VEC_UNROLL
        for (size_t i = 0; i < width; i++, s += point)
            x[i] = vec_load(s);
        winograd_gt(form, width, x, 1, half + r * ts, 1);
    }
    VEC_UNROLL
    for (size_t c = 0; c < ts; c++) {
        winograd_gt(form, height, half + c, ts, out, 1);
        VEC_UNROLL
        for (size_t r = 0; r < tr; r++) {
            size_t to = at + tap_of(form, height, width, r, c) * VEC_N;
            if (lanes < VEC_N)
                out[r] = vec_where(vec_mask_from((uint16_t)((1u << lanes) - 1)), out[r]);
            if (result == ADDED || result == ADDED_AND_STEPPED)
                out[r] += vec_load(dw + to);
            if (result == STORED || result == ADDED)
                vec_store(dw + to, out[r]);
            else
                sgd_vec(&step->sgd, out[r], step->w + to, step->w + to, momentum ? step->state + to : NULL, VEC_N,
                        momentum, momentum && step->sgd.nesterov);
        }
    }
}

VEC_INLINE void weights_back(enum winograd_form form, size_t height, size_t width, const struct winograd *w,
                             const float *du, float *dw, enum result result, const struct native_step *step,
                             bool momentum)
{
    size_t k_lo = w->k_lo / VEC_N, k_hi = winograd_vecs(w->k_hi);

    for (size_t panel = k_lo; panel < k_hi; panel += 2)
        for (size_t c = w->c_lo; c < w->c_hi; c++)
            for (size_t v = panel; v < panel + 2 && v < k_hi; v++) {
                size_t at = (v * w->c + c) * w->taps * VEC_N;
                if (result == STEPPED || result == ADDED_AND_STEPPED) {
                    fetch(form, height, width, step->w + at + AHEAD * w->taps * VEC_N);
                    if (momentum)
                        fetch(form, height, width, step->state + at + AHEAD * w->taps * VEC_N);
                }
                back(form, height, width,
                     du + winograd_panel(v - k_lo, c - w->c_lo, w->c_hi - w->c_lo, k_hi - k_lo), w->u_point,
                     w->k_hi - v * VEC_N, dw, at, result, step, momentum);
            }
}

#define WEIGHTS_BACK(form, height, width) weights_back(form, height, width, w, du, dw, result, step, momentum)
VEC_INLINE void back_each(const struct winograd *w, const float *du, float *dw, enum result result,
                          const struct native_step *step, bool momentum)
{
    WINOGRAD_EACH(w, WEIGHTS_BACK);
}

#define BACK(result, momentum)                                                                                         \
    static void back_##result##_##momentum(const struct winograd *w, const float *du, float *dw,                       \
                                           const struct native_step *step)                                             \
    {                                                                                                                  \
        back_each(w, du, dw, result, step, momentum);                                                                  \
    }
BACK(STORED, false)
BACK(ADDED, false)
BACK(STEPPED, false)
BACK(STEPPED, true)
BACK(ADDED_AND_STEPPED, false)
BACK(ADDED_AND_STEPPED, true)

void NATIVE(winograd_weights)(const struct winograd *w, const float *weights, float *u, float *transposed)
{
#define AS_THEY_ARE(form, height, width) weights_as_they_are(form, height, width, w, weights, u)
#define TRANSPOSED(form, height, width) weights_transposed(form, height, width, w, weights, transposed)
    if (u)
        WINOGRAD_EACH(w, AS_THEY_ARE);
    if (transposed)
        WINOGRAD_EACH(w, TRANSPOSED);
}

void NATIVE(winograd_weights_back)(const struct winograd *w, const float *du, float *dw, bool add,
                                   const struct native_step *step)
{
    static void (*const BY[4][2])(const struct winograd *, const float *, float *, const struct native_step *) = {
        [STORED] = {back_STORED_false},
        [ADDED] = {back_ADDED_false},
        [STEPPED] = {back_STEPPED_false, back_STEPPED_true},
        [ADDED_AND_STEPPED] = {back_ADDED_AND_STEPPED_false, back_ADDED_AND_STEPPED_true},
    };
    enum result result = step ? add ? ADDED_AND_STEPPED : STEPPED : add ? ADDED : STORED;

    BY[result][step && step->sgd.momentum > 0](w, du, dw, step);
}
