/* winograd_output.c - the output's side of a Winograd convolution: M to y with bias, ReLU, pool and
 * dropout, dy to D.
 * Pooled, aux has four masks of VEC_N bits for each pixel and vector of filters: whose gradient which of the four gets.
 * The next tile's y and dy are fetched. SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cpu/native/drop.h"
#include "trainer/backend/cpu/native/winograd_private.h"

enum kind { PLAIN, RELU, POOL };

/* b, where it is larger or the first that is no number. */
VEC_INLINE vec_mask beats(vec b, vec a)
{
    return vec_mask_or(vec_gt(b, a), vec_mask_andnot(vec_unordered(b), vec_unordered(a)));
}

VEC_INLINE vec pool_max(vec v0, vec v1, vec v2, vec v3, uint16_t *masks)
{
    vec zero = vec_zero(), a, b, most;
    vec_mask second, fourth, lower, positive, upper;

    if (vec_mask_bits(vec_unordered(v0 + v1 + (v2 + v3)))) {
        second = beats(v1, v0);
        a = vec_select(second, v1, v0);
        fourth = beats(v3, v2);
        b = vec_select(fourth, v3, v2);
        lower = beats(b, a);
        most = vec_select(lower, b, a);
        positive = vec_mask_or(vec_gt(most, zero), vec_unordered(most));
    } else {
        a = vec_max(v0, v1);
        b = vec_max(v2, v3);
        most = vec_max(a, b);
        if (!masks)
            return vec_max(zero, most);
        second = vec_gt(v1, v0);
        fourth = vec_gt(v3, v2);
        lower = vec_gt(b, a);
        positive = vec_gt(most, zero);
    }
    if (masks) {
        upper = vec_mask_andnot(positive, lower);
        lower = vec_mask_and(positive, lower);
        masks[0] = vec_mask_bits(vec_mask_andnot(upper, second));
        masks[1] = vec_mask_bits(vec_mask_and(upper, second));
        masks[2] = vec_mask_bits(vec_mask_andnot(lower, fourth));
        masks[3] = vec_mask_bits(vec_mask_and(lower, fourth));
    }
    return vec_max(zero, most);
}

VEC_INLINE void store_lanes(float *y, vec v, size_t lanes)
{
    if (lanes == VEC_N)
        vec_store(y, v);
    else
        vec_store_n(y, v, lanes);
}

/* What a tile's outputs are: its top left corner of y and of aux, how far apart, and how many are there. */
struct corner {
    float *y;
    const float *dy;
    uint16_t *aux;
    const struct native_drop *drop; /* NULL, or of y */
    float *db;                      /* NULL, or what the sums of dy, behind ReLU and pool, are added to */
    size_t pitch, pixel, aux_pitch, aux_pixel, rows, columns;
};

VEC_INLINE void output_lanes(enum winograd_form form, enum kind kind, bool edge, const struct corner *at,
                             const float *s, size_t point, vec bias, size_t k, size_t lanes, bool training)
{
    size_t m = winograd_m(form), side = winograd_side(form);
    vec x[6], half[24], out[16];

    point = winograd_hide(point);
    VEC_UNROLL
    for (size_t r = 0; r < side; r++) {
        VEC_UNROLL
        for (size_t c = 0; c < side; c++, s += point)
            x[c] = vec_load(s);
        winograd_at(form, x, 1, half + r * m, 1);
    }
    VEC_UNROLL
    for (size_t c = 0; c < m; c++) {
        winograd_at(form, half + c, m, out + c, m);
        VEC_UNROLL
        for (size_t r = 0; r < m; r++)
            out[r * m + c] += bias;
        if (edge && c >= at->columns)
            continue;
        if (kind != POOL) {
            VEC_UNROLL
            for (size_t r = 0; r < m; r++)
                if (!edge || r < at->rows) {
                    float *to = at->y + r * at->pitch + c * at->pixel + k;
                    vec v = kind == RELU ? vec_max(vec_zero(), out[r * m + c]) : out[r * m + c];
                    store_lanes(to, kind == RELU && at->drop ? drop_vec(at->drop, to, v) : v, lanes);
                    if (!edge)
                        __builtin_prefetch(to + m * at->pixel, 1, 3);
                }
        } else if (c % 2) {
            VEC_UNROLL
            for (size_t r = 0; r < m; r += 2)
                if (!edge || r < at->rows) {
                    const vec *v = out + r * m + c - 1;
                    uint16_t *aux = at->aux + r / 2 * at->aux_pitch + c / 2 * at->aux_pixel + k / VEC_N * 4;
                    float *to = at->y + r / 2 * at->pitch + c / 2 * at->pixel + k;
                    vec most = pool_max(v[0], v[1], v[m], v[m + 1], training ? aux : NULL);
                    if (at->drop) {
                        most = drop_vec(at->drop, to, most);
                        drop_masks(at->drop, to, aux);
                    }
                    store_lanes(to, most, lanes);
                }
        }
    }
}

VEC_INLINE void output_tile(enum winograd_form form, enum kind kind, bool edge, const struct corner *at,
                            const struct winograd *w, const float *s, const float *bias, bool training)
{
    size_t k = w->k_lo, rest;

    for (; k + VEC_N <= w->k_hi; k += VEC_N, s += VEC_N)
        output_lanes(form, kind, edge, at, s, w->d_point, bias ? vec_load(bias + k) : vec_zero(), k, VEC_N, training);
    rest = w->k_hi - k;
    if (rest)
        output_lanes(form, kind, edge, at, s, w->d_point, bias ? vec_load_n(bias + k, rest) : vec_zero(), k, rest,
                     training);
}

VEC_INLINE void gradient_tile(enum winograd_form form, enum kind kind, bool edge, const struct corner *at,
                              const struct winograd *w, float *d)
{
    const vec scale = drop_scale(at->drop);
    size_t m = winograd_m(form), side = winograd_side(form);

    for (size_t k = w->k_lo; k < w->k_hi; k += VEC_N) {
        vec y[16], half[24], x[6];
        float *o = d + (k - w->k_lo);
        size_t point = winograd_hide(w->d_point);

        if (kind == POOL) {
            VEC_UNROLL
            for (size_t r = 0; r < m; r += 2) {
                VEC_UNROLL
                for (size_t c = 0; c < m; c += 2) {
                    vec dy, *to = y + r * m + c;
                    const uint16_t *aux = at->aux + r / 2 * at->aux_pitch + c / 2 * at->aux_pixel + k / VEC_N * 4;

                    if (edge && (r >= at->rows || c >= at->columns)) {
                        to[0] = to[1] = to[m] = to[m + 1] = vec_zero();
                        continue;
                    }
                    dy = vec_load(at->dy + r / 2 * at->pitch + c / 2 * at->pixel + k) * scale;
                    to[0] = vec_where(vec_mask_from(aux[0]), dy);
                    to[1] = vec_where(vec_mask_from(aux[1]), dy);
                    to[m] = vec_where(vec_mask_from(aux[2]), dy);
                    to[m + 1] = vec_where(vec_mask_from(aux[3]), dy);
                }
            }
        } else {
            VEC_UNROLL
            for (size_t r = 0; r < m; r++) {
                VEC_UNROLL
                for (size_t c = 0; c < m; c++) {
                    size_t from = r * at->pitch + c * at->pixel + k;

                    if (edge && (r >= at->rows || c >= at->columns)) {
                        y[r * m + c] = vec_zero();
                        continue;
                    }
                    y[r * m + c] = vec_load(at->dy + from);
                    if (!edge)
                        __builtin_prefetch(at->dy + from + m * at->pixel, 0, 3);
                    if (kind == RELU) {
                        vec through = vec_load(at->y + from);
                        y[r * m + c] = vec_where(vec_mask_or(vec_gt(through, vec_zero()), vec_unordered(through)),
                                                 y[r * m + c] * scale);
                    }
                }
            }
        }
        if (at->db) {
            vec sum = vec_load(at->db + k);
            VEC_UNROLL
            for (size_t r = 0; r < m; r++) {
                sum += y[r * m] + y[r * m + 1];
                if (m == 4)
                    sum += y[r * m + 2] + y[r * m + 3];
            }
            vec_store(at->db + k, sum);
        }
        VEC_UNROLL
        for (size_t c = 0; c < m; c++)
            winograd_a(form, y + c, m, half + c, m);
        VEC_UNROLL
        for (size_t r = 0; r < side; r++) {
            winograd_a(form, half + m * r, 1, x, 1);
            VEC_UNROLL
            for (size_t c = 0; c < side; c++, o += point)
                vec_store(o, x[c]);
        }
    }
}

/* Both walk the same tiles. */
VEC_INLINE void walk(enum winograd_form form, enum kind kind, bool backward, const struct winograd *w,
                     const struct conv *c, const struct conv_args *args, size_t lo, size_t hi, float *d, float *db,
                     bool training)
{
    size_t m = winograd_m(form), side = kind == POOL ? 2 : 1;
    struct corner at = {.pixel = w->k, .aux_pixel = w->k_vecs * 4, .drop = args->drop, .db = db};
    size_t height = (size_t)c->p / side, width = (size_t)c->q / side;

    at.pitch = width * at.pixel;
    at.aux_pitch = width * at.aux_pixel;
    for (size_t row = lo; row < hi; row++) {
        size_t n = row / w->tile_rows, i = row % w->tile_rows;

        at.rows = w->p - i * m < m ? w->p - i * m : m;
        for (size_t j = 0; j < w->tile_columns; j++, d += w->k_tile) {
            size_t first = n * height * width + i * (m / side) * width + j * (m / side);

            at.columns = w->q - j * m < m ? w->q - j * m : m;
            at.y = args->y + first * at.pixel;
            at.dy = backward ? args->dy + first * at.pixel : NULL;
            at.aux = kind == POOL && (training || backward) ? (uint16_t *)args->aux + first * at.aux_pixel : NULL;
            if (at.rows == m && at.columns == m) {
                if (backward)
                    gradient_tile(form, kind, false, &at, w, d);
                else
                    output_tile(form, kind, false, &at, w, d, args->bias, training);
            } else {
                if (backward)
                    gradient_tile(form, kind, true, &at, w, d);
                else
                    output_tile(form, kind, true, &at, w, d, args->bias, training);
            }
        }
    }
}

#define EACH_KIND(form, backward, d, db, training)                                                                     \
    do {                                                                                                               \
        if (c->pool)                                                                                                   \
            walk(form, POOL, backward, w, c, a, lo, hi, d, db, training);                                              \
        else if (c->relu)                                                                                              \
            walk(form, RELU, backward, w, c, a, lo, hi, d, db, training);                                              \
        else                                                                                                           \
            walk(form, PLAIN, backward, w, c, a, lo, hi, d, db, training);                                             \
    } while (0)

#define EACH_FORM(backward, d, db, training)                                                                           \
    do {                                                                                                               \
        if (w->form == WINOGRAD_F43)                                                                                   \
            EACH_KIND(WINOGRAD_F43, backward, d, db, training);                                                        \
        else if (w->form == WINOGRAD_F23)                                                                              \
            EACH_KIND(WINOGRAD_F23, backward, d, db, training);                                                        \
        else if (w->form == WINOGRAD_F42)                                                                              \
            EACH_KIND(WINOGRAD_F42, backward, d, db, training);                                                        \
        else                                                                                                           \
            EACH_KIND(WINOGRAD_F25, backward, d, db, training);                                                        \
    } while (0)

void NATIVE(winograd_output)(const struct winograd *w, const struct conv *c, const struct conv_args *a, size_t lo,
                             size_t hi, const float *m, bool training)
{
    float *d = (float *)(uintptr_t)m; /* only read */

    EACH_FORM(false, d, NULL, training);
}

void NATIVE(winograd_gradient)(const struct winograd *w, const struct conv *c, const struct conv_args *a, size_t lo,
                               size_t hi, float *d, float *db)
{
    EACH_FORM(true, d, db, true);
}
