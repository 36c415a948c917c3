/* winograd_input.c - the input's side of a Winograd convolution: x to V, dV to dx.
 * The input has no border of zeros: where a tile sticks out, rows point at zeros (or, for dx, at a place to drop what
 * falls off), and columns are left out. What the next tile reads or writes beyond this one is fetched: in pieces this
 * short the processor does not see it coming. SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cpu/native/winograd_private.h"

/* Where a tile's first row, or column, of n is; it may be outside the input. */
VEC_INLINE ptrdiff_t first_of(enum winograd_form form, size_t n, size_t tile, int pad)
{
    return (ptrdiff_t)(tile * winograd_m(form) * winograd_stride(form) + (winograd_side(form) - n)) - pad;
}

/* Which of them are in the input: [ret_lo, ret_hi). */
VEC_INLINE void cut(enum winograd_form form, size_t n, size_t tile, int pad, int size, size_t *ret_lo, size_t *ret_hi)
{
    ptrdiff_t stride = (ptrdiff_t)winograd_stride(form), first = first_of(form, n, tile, pad), in = size - first;

    *ret_lo = first < 0 ? (size_t)((stride - 1 - first) / stride) : 0;
    in = (in + stride - 1) / stride;
    *ret_hi = size <= first ? 0 : in < (ptrdiff_t)n ? (size_t)in : n;
}

/* The rows of the leftmost tile of a row of tiles, at that tile's first column, be it in the input or not, and by how
 * much they move on from tile to tile; off: what stands in for rows outside. */
VEC_INLINE void start(enum winograd_form form, size_t height, size_t width, const struct winograd *w,
                      const struct conv *c, float *x, size_t row, float *off, float **rows, size_t *steps)
{
    size_t n = row / w->tile_rows, i = row % w->tile_rows, stride = winograd_stride(form), lo, hi;
    ptrdiff_t pitch = (ptrdiff_t)c->w * c->c;
    float *first = x + ((ptrdiff_t)n * c->h + first_of(form, height, i, c->pad_top)) * pitch +
                   first_of(form, width, 0, c->pad_left) * c->c;

    cut(form, height, i, c->pad_top, c->h, &lo, &hi);
    for (size_t r = 0; r < height; r++) {
        bool in = r >= lo && r < hi;

        rows[r] = in ? first + (ptrdiff_t)(r * stride) * pitch : off;
        steps[r] = in ? winograd_m(form) * stride * w->c : 0;
    }
}

/* Its columns [lo, hi) are in the input. */
VEC_INLINE void input_tile(enum winograd_form form, size_t height, size_t width, const struct winograd *w, bool edge,
                           float *const *rows, size_t lo, size_t hi, float *v)
{
    for (size_t c = w->c_lo; c < w->c_hi; c += VEC_N) {
        vec x[6], half[36];
        float *o = v + (c - w->c_lo);
        size_t m = winograd_m(form), point = winograd_hide(w->v_point);

        VEC_UNROLL
        for (size_t s = 0; s < width; s++) {
            if (edge && (s < lo || s >= hi)) {
                VEC_UNROLL
                for (size_t r = 0; r < height; r++)
                    half[r * width + s] = vec_zero();
                continue;
            }
            VEC_UNROLL
            for (size_t r = 0; r < height; r++) {
                const float *from = rows[r] + s * winograd_stride(form) * w->c + c;

                x[r] = vec_load(from);
                if (!edge && s + m >= width)
                    __builtin_prefetch(from + m * winograd_stride(form) * w->c, 0, 3);
            }
            winograd_bt(form, height, x, 1, half + s, width);
        }
        VEC_UNROLL
        for (size_t r = 0; r < height; r++) {
            winograd_bt(form, width, half + r * width, 1, x, 1);
            VEC_UNROLL
            for (size_t s = 0; s < width; s++, o += point)
                vec_store(o, x[s]);
        }
    }
}

VEC_INLINE void input(enum winograd_form form, size_t height, size_t width, const struct winograd *w,
                      const struct conv *c, const float *x, size_t lo, size_t hi, float *v, const float *zeros)
{
    for (size_t row = lo; row < hi; row++) {
        float *rows[6];
        size_t steps[6];

        /* only read */
        start(form, height, width, w, c, (float *)(uintptr_t)x, row, (float *)(uintptr_t)zeros, rows, steps);
        for (size_t j = 0; j < w->tile_columns; j++, v += w->c_tile) {
            size_t first, end;

            cut(form, width, j, c->pad_left, c->w, &first, &end);
            if (first == 0 && end == width)
                input_tile(form, height, width, w, false, rows, first, end, v);
            else
                input_tile(form, height, width, w, true, rows, first, end, v);
            for (size_t r = 0; r < height; r++)
                rows[r] += steps[r];
        }
    }
}

/* A tile's first rows and columns, by which tiles overlap, were written by the tiles above (above) and to the left of
 * it (left): added to; add: and so is all. lanes: VEC_N, or less at the end of the channels. */
VEC_INLINE void spread_lanes(enum winograd_form form, size_t height, size_t width, const struct winograd *w, bool edge,
                             bool add, float *const *rows, size_t lo, size_t hi, bool above, bool left, const float *v,
                             size_t c, size_t lanes)
{
    size_t m = winograd_m(form), point = winograd_hide(w->v_point);
    vec x[6], half[36];

    v += c - w->c_lo;
    VEC_UNROLL
    for (size_t r = 0; r < height; r++) {
        VEC_UNROLL
        for (size_t s = 0; s < width; s++, v += point)
            x[s] = vec_load(v);
        winograd_b(form, width, x, 1, half + r * width, 1);
    }
    VEC_UNROLL
    for (size_t s = 0; s < width; s++) {
        if (edge && (s < lo || s >= hi))
            continue;
        winograd_b(form, height, half + s, width, x, 1);
        VEC_UNROLL
        for (size_t r = 0; r < height; r++) {
            float *o = rows[r] + s * winograd_stride(form) * w->c + c;

            if (!edge && s + m >= width)
                __builtin_prefetch(o + m * winograd_stride(form) * w->c, 1, 3);
            if (add || (r + m < height && above) || (s + m < width && left))
                x[r] += lanes == VEC_N ? vec_load(o) : vec_load_n(o, lanes);
            if (lanes == VEC_N)
                vec_store(o, x[r]);
            else
                vec_store_n(o, x[r], lanes);
        }
    }
}

VEC_INLINE void spread_tile(enum winograd_form form, size_t height, size_t width, const struct winograd *w, bool edge,
                            bool add, float *const *rows, size_t lo, size_t hi, bool above, bool left, const float *v)
{
    size_t c = w->c_lo;

    for (; c + VEC_N <= w->c_hi; c += VEC_N)
        spread_lanes(form, height, width, w, edge, add, rows, lo, hi, above, left, v, c, VEC_N);
    if (c < w->c_hi)
        spread_lanes(form, height, width, w, edge, add, rows, lo, hi, above, left, v, c, w->c_hi - c);
}

/* Tiles need not reach the input's end: a pool that drops the last row, or an output cut short. */
VEC_INLINE bool reach(enum winograd_form form, size_t n, size_t tiles, int pad, int size)
{
    return first_of(form, n, tiles - 1, pad) + (ptrdiff_t)(n * winograd_stride(form)) >= size;
}

/* The channels of a phase's pixels. */
VEC_INLINE void clear(enum winograd_form form, size_t height, size_t width, const struct winograd *w,
                      const struct conv *c, float *image)
{
    size_t stride = winograd_stride(form);

    for (size_t i = (winograd_side(form) - height + (size_t)c->pad_top) % stride; i < (size_t)c->h; i += stride)
        for (size_t j = (winograd_side(form) - width + (size_t)c->pad_left) % stride; j < (size_t)c->w; j += stride)
            memset(image + (i * (size_t)c->w + j) * w->c + w->c_lo, 0, (w->c_hi - w->c_lo) * 4);
}

VEC_INLINE void spread(enum winograd_form form, size_t height, size_t width, const struct winograd *w,
                       const struct conv *c, bool add, float *dx, size_t lo, size_t hi, const float *dv, float *dump)
{
    size_t image = (size_t)c->h * (size_t)c->w * w->c;
    bool all =
        reach(form, height, w->tile_rows, c->pad_top, c->h) && reach(form, width, w->tile_columns, c->pad_left, c->w);

    for (size_t row = lo; row < hi; row++) {
        bool above = row % w->tile_rows;
        float *rows[6];
        size_t steps[6];

        if (!above && !all && !add)
            clear(form, height, width, w, c, dx + row / w->tile_rows * image);
        start(form, height, width, w, c, dx, row, dump, rows, steps);
        for (size_t j = 0; j < w->tile_columns; j++, dv += w->c_tile) {
            size_t first, end;

            cut(form, width, j, c->pad_left, c->w, &first, &end);
            if (above && j && first == 0 && end == width)
                spread_tile(form, height, width, w, false, add, rows, first, end, true, true, dv);
            else
                spread_tile(form, height, width, w, true, add, rows, first, end, above, j > 0, dv);
            for (size_t r = 0; r < height; r++)
                rows[r] += steps[r];
        }
    }
}

void NATIVE(winograd_input)(const struct winograd *w, const struct conv *c, const float *x, size_t lo, size_t hi,
                            float *v, const float *zeros)
{
#define INPUT(form, height, width) input(form, height, width, w, c, x, lo, hi, v, zeros)
    WINOGRAD_EACH(w, INPUT);
}

void NATIVE(winograd_spread)(const struct winograd *w, const struct conv *c, float *dx, size_t lo, size_t hi,
                             const float *dv, float *dump)
{
#define SPREAD(form, height, width) spread(form, height, width, w, c, false, dx, lo, hi, dv, dump)
#define SPREAD_ADDED(form, height, width) spread(form, height, width, w, c, true, dx, lo, hi, dv, dump)
    if (c->add_dx)
        WINOGRAD_EACH(w, SPREAD_ADDED);
    else
        WINOGRAD_EACH(w, SPREAD);
}
