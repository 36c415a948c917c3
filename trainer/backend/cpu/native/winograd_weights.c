/* winograd_weights.c - weights to frequencies, and gradients back. All are walked panel by panel, so that what is read
 * and each frequency of what is written are streams: they can be many times the second-level cache.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cpu/native/winograd_private.h"
#include "trainer/backend/cpu/native/winograd_transform.h"

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

/* VEC_N x VEC_N by exchanging ever larger blocks. */
VEC_INLINE void transpose(vec *x)
{
    VEC_UNROLL
    for (size_t step = 1; step < VEC_N; step *= 2) {
        veci low, high;

        VEC_UNROLL
        for (int i = 0; i < VEC_N; i++) {
            low[i] = i & (int)step ? VEC_N + i - (int)step : i;
            high[i] = i & (int)step ? VEC_N + i : i + (int)step;
        }
        VEC_UNROLL
        for (size_t i = 0; i < VEC_N; i++)
            if (!(i & step)) {
                vec a = x[i], b = x[i + step];
                x[i] = __builtin_shuffle(a, b, low);
                x[i + step] = __builtin_shuffle(a, b, high);
            }
    }
}

/* The weights of VEC_N x VEC_N channels and filters, vectors of channels: [tap][filter]. */
VEC_INLINE void turn(const struct winograd *w, const float *weights, size_t cv, size_t kv, vec g[9][VEC_N])
{
    for (size_t s = 0; s < 9; s++) {
        for (size_t i = 0; i < VEC_N; i++) {
            size_t c = cv * VEC_N + i;
            g[s][i] = c < w->c ? vec_load(weights + ((kv * w->c + c) * 9 + s) * VEC_N) : vec_zero();
        }
        transpose(g[s]);
    }
}

VEC_INLINE void weights_transposed(size_t m, const struct winograd *w, const float *weights, float *o)
{
    vec g[2][9][VEC_N];

    for (size_t panel = 0; panel < w->c_vecs; panel += 2)
        for (size_t kv = 0; kv < w->k_vecs; kv++) {
            size_t width = panel + 1 < w->c_vecs ? 2 : 1;

            for (size_t v = 0; v < width; v++)
                turn(w, weights, panel + v, kv, g[v]);
            for (size_t i = 0; i < VEC_N && kv * VEC_N + i < w->k; i++)
                for (size_t v = 0; v < width; v++)
                    forth(m, &g[v][0][i], VEC_N, o + winograd_panel(panel + v, kv * VEC_N + i, w->k, w->c_vecs),
                          w->ut_point);
        }
}

VEC_INLINE void weights_as_they_are(size_t m, const struct winograd *w, const float *weights, float *o)
{
    for (size_t panel = 0; panel < w->k_vecs; panel += 2)
        for (size_t c = 0; c < w->c; c++)
            for (size_t v = panel; v < panel + 2 && v < w->k_vecs; v++) {
                vec g[9];

                VEC_UNROLL
                for (size_t s = 0; s < 9; s++)
                    g[s] = vec_load(weights + ((v * w->c + c) * 9 + s) * VEC_N);
                forth(m, g, 1, o + winograd_panel(v, c, w->c, w->k_vecs), w->u_point);
            }
}

VEC_INLINE void back(size_t m, const float *s, size_t point, size_t lanes, float *dw)
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
            if (lanes < VEC_N)
                out[r] = vec_where(vec_mask_from((uint16_t)((1u << lanes) - 1)), out[r]);
            vec_store(dw + (r * 3 + c) * VEC_N, out[r]);
        }
    }
}

VEC_INLINE void weights_back(size_t m, const struct winograd *w, const float *du, float *dw)
{
    for (size_t panel = 0; panel < w->k_vecs; panel += 2)
        for (size_t c = 0; c < w->c; c++)
            for (size_t v = panel; v < panel + 2 && v < w->k_vecs; v++)
                back(m, du + winograd_panel(v, c, w->c, w->k_vecs), w->u_point, w->k - v * VEC_N,
                     dw + (v * w->c + c) * 9 * VEC_N);
}

void NATIVE(winograd_weights)(const struct winograd *w, const float *weights, float *u, float *transposed)
{
    if (w->m == 4) {
        weights_as_they_are(4, w, weights, u);
        if (transposed)
            weights_transposed(4, w, weights, transposed);
    } else {
        weights_as_they_are(2, w, weights, u);
        if (transposed)
            weights_transposed(2, w, weights, transposed);
    }
}

void NATIVE(winograd_weights_back)(const struct winograd *w, const float *du, float *dw)
{
    if (w->m == 4)
        weights_back(4, w, du, dw);
    else
        weights_back(2, w, du, dw);
}
