/* winograd_input.c - the input's side of a Winograd convolution: x to V, dV to dx.
 * The input has no border of zeros: where a tile sticks out, rows point at zeros (or, for dx, at a place to drop what
 * falls off), and columns are left out. SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cpu/native/winograd_private.h"
#include "trainer/backend/cpu/native/winograd_transform.h"

/* Where a tile stands: its rows and columns [row0, row1) x [column0, column1) are in the input. */
struct place {
    size_t row0, row1, column0, column1;
};

static void cut(size_t tile, size_t m, int pad, int size, size_t *ret_lo, size_t *ret_hi)
{
    ptrdiff_t first = (ptrdiff_t)(tile * m) - pad, end = (ptrdiff_t)size - first;

    *ret_lo = first < 0 ? (size_t)-first : 0;
    *ret_hi = end <= 0 ? 0 : end < (ptrdiff_t)m + 2 ? (size_t)end : m + 2;
}

/* rows: at the tile's first column, be it in the input or not. */
VEC_INLINE void input_tile(size_t m, bool edge, const float *const *rows, const struct place *at, size_t channels, float *v,
                           size_t point)
{
    size_t a = m + 2;

    for (size_t c = 0; c < channels; c += VEC_N) {
        vec x[6], half[36];
        float *o = v + c;

        VEC_UNROLL
        for (size_t s = 0; s < a; s++) {
            if (edge && (s < at->column0 || s >= at->column1)) {
                VEC_UNROLL
                for (size_t r = 0; r < a; r++)
                    half[r * a + s] = vec_zero();
                continue;
            }
            VEC_UNROLL
            for (size_t r = 0; r < a; r++)
                x[r] = vec_load(rows[r] + s * channels + c);
            winograd_bt(m, x, 1, half + s, a);
        }
        VEC_UNROLL
        for (size_t r = 0; r < a; r++) {
            winograd_bt(m, half + r * a, 1, x, 1);
            VEC_UNROLL
            for (size_t s = 0; s < a; s++) {
                vec_store(o, x[s]);
                o += point;
            }
        }
    }
}

VEC_INLINE void input(size_t m, const struct winograd *w, const struct conv *c, const float *x, size_t lo, size_t hi,
                      float *v, const float *zeros)
{
    size_t a = m + 2, pitch = (size_t)c->w * w->c;

    for (size_t row = lo; row < hi; row++) {
        size_t n = row / w->tile_rows, i = row % w->tile_rows;
        struct place at;

        cut(i, m, c->pad_top, c->h, &at.row0, &at.row1);
        for (size_t j = 0; j < w->tile_columns; j++, v += w->c_tile) {
            const float *rows[6];
            ptrdiff_t column = (ptrdiff_t)(j * m) - c->pad_left;

            cut(j, m, c->pad_left, c->w, &at.column0, &at.column1);
            for (size_t r = 0; r < a; r++)
                rows[r] = r >= at.row0 && r < at.row1
                              ? x + (ptrdiff_t)((n * (size_t)c->h + i * m + r - (size_t)c->pad_top) * pitch) +
                                    column * (ptrdiff_t)w->c
                              : zeros;
            if (at.column0 == 0 && at.column1 == a)
                input_tile(m, false, rows, &at, w->c, v, w->v_point);
            else
                input_tile(m, true, rows, &at, w->c, v, w->v_point);
        }
    }
}

/* A tile's first two rows and columns were written by the tiles above (above) and to the left of it (left): added to.
 * lanes: VEC_N, or less at the end of the channels. */
VEC_INLINE void spread_lanes(size_t m, bool edge, float *const *rows, const struct place *at, bool above, bool left,
                             size_t channels, const float *v, size_t point, size_t c, size_t lanes)
{
    size_t a = m + 2;
    vec x[6], half[36];

    VEC_UNROLL
    for (size_t s = 0; s < a; s++) {
        VEC_UNROLL
        for (size_t r = 0; r < a; r++)
            x[r] = vec_load(v + (r * a + s) * point + c);
        winograd_b(m, x, 1, half + s, a);
    }
    VEC_UNROLL
    for (size_t r = 0; r < a; r++) {
        winograd_b(m, half + r * a, 1, x, 1);
        VEC_UNROLL
        for (size_t s = 0; s < a; s++) {
            float *o = rows[r] + s * channels + c;

            if (edge && (s < at->column0 || s >= at->column1))
                continue;
            if ((r < 2 && above) || (s < 2 && left))
                x[s] += lanes == VEC_N ? vec_load(o) : vec_load_n(o, lanes);
            if (lanes == VEC_N)
                vec_store(o, x[s]);
            else
                vec_store_n(o, x[s], lanes);
        }
    }
}

VEC_INLINE void spread_tile(size_t m, bool edge, float *const *rows, const struct place *at, bool above, bool left,
                            size_t channels, const float *v, size_t point)
{
    size_t c = 0;

    for (; c + VEC_N <= channels; c += VEC_N)
        spread_lanes(m, edge, rows, at, above, left, channels, v, point, c, VEC_N);
    if (c < channels)
        spread_lanes(m, edge, rows, at, above, left, channels, v, point, c, channels - c);
}

VEC_INLINE void spread(size_t m, const struct winograd *w, const struct conv *c, float *dx, size_t lo, size_t hi,
                       const float *dv, float *dump)
{
    size_t a = m + 2, pitch = (size_t)c->w * w->c, image = (size_t)c->h * pitch;
    /* Tiles need not reach the input's end: a pool that drops the last row, or an output cut short. */
    bool all = w->tile_rows * m + 2 >= (size_t)(c->h + c->pad_top) &&
               w->tile_columns * m + 2 >= (size_t)(c->w + c->pad_left);

    for (size_t row = lo; row < hi; row++) {
        size_t n = row / w->tile_rows, i = row % w->tile_rows;
        struct place at;

        if (!i && !all)
            memset(dx + n * image, 0, image * 4);
        cut(i, m, c->pad_top, c->h, &at.row0, &at.row1);
        for (size_t j = 0; j < w->tile_columns; j++, dv += w->c_tile) {
            float *rows[6];
            ptrdiff_t column = (ptrdiff_t)(j * m) - c->pad_left;

            cut(j, m, c->pad_left, c->w, &at.column0, &at.column1);
            for (size_t r = 0; r < a; r++)
                rows[r] = r >= at.row0 && r < at.row1
                              ? dx + (ptrdiff_t)(n * image + (i * m + r - (size_t)c->pad_top) * pitch) +
                                    column * (ptrdiff_t)w->c
                              : dump;
            if (i && j && at.column0 == 0 && at.column1 == a)
                spread_tile(m, false, rows, &at, true, true, w->c, dv, w->v_point);
            else
                spread_tile(m, true, rows, &at, i > 0, j > 0, w->c, dv, w->v_point);
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
