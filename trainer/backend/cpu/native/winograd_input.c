/* winograd_input.c - the input's side of a Winograd convolution: x to V, dV to dx.
 * The input has no border of zeros: where a tile sticks out, rows point at zeros (or, for dx, at a place to drop what
 * falls off), and columns are left out. SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cpu/native/winograd_private.h"
#include "trainer/backend/cpu/native/winograd_transform.h"

/* Which of a tile's rows, or columns, are in the input: [ret_lo, ret_hi). */
static void cut(size_t tile, size_t m, int pad, int size, size_t *ret_lo, size_t *ret_hi)
{
    ptrdiff_t first = (ptrdiff_t)(tile * m) - pad, end = (ptrdiff_t)size - first;

    *ret_lo = first < 0 ? (size_t)-first : 0;
    *ret_hi = end <= 0 ? 0 : end < (ptrdiff_t)m + 2 ? (size_t)end : m + 2;
}

/* The rows of the leftmost tile of a row of tiles, at that tile's first column, be it in the input or not, and by how
 * much they move on from tile to tile; off: what stands in for rows outside. */
VEC_INLINE void start(size_t m, const struct winograd *w, const struct conv *c, float *x, size_t row, float *off,
                      float **rows, size_t *steps)
{
    size_t n = row / w->tile_rows, i = row % w->tile_rows, lo, hi;
    ptrdiff_t pitch = (ptrdiff_t)c->w * c->c;
    float *first = x + ((ptrdiff_t)n * c->h + (ptrdiff_t)(i * m) - c->pad_top) * pitch - (ptrdiff_t)c->pad_left * c->c;

    cut(i, m, c->pad_top, c->h, &lo, &hi);
    for (size_t r = 0; r < m + 2; r++) {
        bool in = r >= lo && r < hi;

        rows[r] = in ? first + (ptrdiff_t)r * pitch : off;
        steps[r] = in ? m * w->c : 0;
    }
}

/* Its columns [lo, hi) are in the input. */
VEC_INLINE void input_tile(size_t m, const struct winograd *w, bool edge, float *const *rows, size_t lo, size_t hi,
                           float *v)
{
    size_t a = m + 2;

    for (size_t c = w->c_lo; c < w->c_hi; c += VEC_N) {
        vec x[6], half[36];
        float *o = v + (c - w->c_lo);
        size_t point = winograd_hide(w->v_point);

        VEC_UNROLL
        for (size_t s = 0; s < a; s++) {
            if (edge && (s < lo || s >= hi)) {
                VEC_UNROLL
                for (size_t r = 0; r < a; r++)
                    half[r * a + s] = vec_zero();
                continue;
            }
            VEC_UNROLL
            for (size_t r = 0; r < a; r++)
                x[r] = vec_load(rows[r] + s * w->c + c);
            winograd_bt(m, x, 1, half + s, a);
        }
        VEC_UNROLL
        for (size_t r = 0; r < a; r++) {
            winograd_bt(m, half + r * a, 1, x, 1);
            VEC_UNROLL
            for (size_t s = 0; s < a; s++, o += point)
                vec_store(o, x[s]);
        }
    }
}

VEC_INLINE void input(size_t m, const struct winograd *w, const struct conv *c, const float *x, size_t lo, size_t hi,
                      float *v, const float *zeros)
{
    size_t a = m + 2;

    for (size_t row = lo; row < hi; row++) {
        float *rows[6];
        size_t steps[6];

        start(m, w, c, (float *)(uintptr_t)x, row, (float *)(uintptr_t)zeros, rows, steps); /* only read */
        for (size_t j = 0; j < w->tile_columns; j++, v += w->c_tile) {
            size_t first, end;

            cut(j, m, c->pad_left, c->w, &first, &end);
            if (first == 0 && end == a)
                input_tile(m, w, false, rows, first, end, v);
            else
                input_tile(m, w, true, rows, first, end, v);
            for (size_t r = 0; r < a; r++)
                rows[r] += steps[r];
        }
    }
}

/* A tile's first two rows and columns were written by the tiles above (above) and to the left of it (left): added to.
 * lanes: VEC_N, or less at the end of the channels. */
VEC_INLINE void spread_lanes(size_t m, const struct winograd *w, bool edge, float *const *rows, size_t lo, size_t hi,
                             bool above, bool left, const float *v, size_t c, size_t lanes)
{
    size_t a = m + 2, point = winograd_hide(w->v_point);
    vec x[6], half[36];

    v += c - w->c_lo;
    VEC_UNROLL
    for (size_t r = 0; r < a; r++) {
        VEC_UNROLL
        for (size_t s = 0; s < a; s++, v += point)
            x[s] = vec_load(v);
        winograd_b(m, x, 1, half + r * a, 1);
    }
    VEC_UNROLL
    for (size_t s = 0; s < a; s++) {
        if (edge && (s < lo || s >= hi))
            continue;
        winograd_b(m, half + s, a, x, 1);
        VEC_UNROLL
        for (size_t r = 0; r < a; r++) {
            float *o = rows[r] + s * w->c + c;

            if ((r < 2 && above) || (s < 2 && left))
                x[r] += lanes == VEC_N ? vec_load(o) : vec_load_n(o, lanes);
            if (lanes == VEC_N)
                vec_store(o, x[r]);
            else
                vec_store_n(o, x[r], lanes);
        }
    }
}

VEC_INLINE void spread_tile(size_t m, const struct winograd *w, bool edge, float *const *rows, size_t lo, size_t hi,
                            bool above, bool left, const float *v)
{
    size_t c = w->c_lo;

    for (; c + VEC_N <= w->c_hi; c += VEC_N)
        spread_lanes(m, w, edge, rows, lo, hi, above, left, v, c, VEC_N);
    if (c < w->c_hi)
        spread_lanes(m, w, edge, rows, lo, hi, above, left, v, c, w->c_hi - c);
}

VEC_INLINE void spread(size_t m, const struct winograd *w, const struct conv *c, float *dx, size_t lo, size_t hi,
                       const float *dv, float *dump)
{
    size_t a = m + 2, image = (size_t)c->h * (size_t)c->w * w->c;
    /* Tiles need not reach the input's end: a pool that drops the last row, or an output cut short. */
    bool all = w->tile_rows * m + 2 >= (size_t)(c->h + c->pad_top) &&
               w->tile_columns * m + 2 >= (size_t)(c->w + c->pad_left);

    for (size_t row = lo; row < hi; row++) {
        bool above = row % w->tile_rows;
        float *rows[6];
        size_t steps[6];

        for (size_t i = w->c_lo; i < image && !above && !all; i += w->c)
            memset(dx + row / w->tile_rows * image + i, 0, (w->c_hi - w->c_lo) * 4);
        start(m, w, c, dx, row, dump, rows, steps);
        for (size_t j = 0; j < w->tile_columns; j++, dv += w->c_tile) {
            size_t first, end;

            cut(j, m, c->pad_left, c->w, &first, &end);
            if (above && j && first == 0 && end == a)
                spread_tile(m, w, false, rows, first, end, true, true, dv);
            else
                spread_tile(m, w, true, rows, first, end, above, j > 0, dv);
            for (size_t r = 0; r < a; r++)
                rows[r] += steps[r];
        }
    }
}

void NATIVE(winograd_input)(const struct winograd *w, const struct conv *c, const float *x, size_t lo, size_t hi,
                            float *v, const float *zeros)
{
    if (w->m == 4)
        input(4, w, c, x, lo, hi, v, zeros);
    else
        input(2, w, c, x, lo, hi, v, zeros);
}

void NATIVE(winograd_spread)(const struct winograd *w, const struct conv *c, float *dx, size_t lo, size_t hi,
                             const float *dv, float *dump)
{
    if (w->m == 4)
        spread(4, w, c, dx, lo, hi, dv, dump);
    else
        spread(2, w, c, dx, lo, hi, dv, dump);
}
