/* batched_sweep.c - convolution of images in lanes: forward, and with turned weights the gradient of x.
 * A tile is 2x2 pixels, which are one block of the pool, times a few filters: each loaded weight is used by all pixels,
 * each pixel by all filters. Where rows or columns are odd in number, the last tile stands over the one before it and
 * writes the same bits again.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cpu/native/batched.h"

#define FILTERS (VEC_REGISTERS == 32 ? 6 : 3) /* of a tile */

void NATIVE(batched_pack)(const struct conv *c, const float *weights, bool turned, float *packed)
{
    int taps = c->r * c->s, filters = turned ? c->c : c->k, channels = turned ? c->k : c->c;

    for (int b = 0; b < block_count(filters, FILTERS); b++)
        for (int ch = 0; ch < channels; ch++)
            for (int tap = 0; tap < taps; tap++)
                for (int f = block_begin(filters, FILTERS, b); f < block_begin(filters, FILTERS, b + 1); f++)
                    *packed++ = turned ? weights[(ch * c->c + f) * taps + taps - 1 - tap]
                                       : weights[(f * c->c + ch) * taps + tap];
}

/* masks: which of a block of the pool is let through: the first of the largest; where one is no number, the first. */
VEC_INLINE vec pool_of(const vec *a, lane_bits *masks)
{
    vec top = vec_max(vec_max(a[0], a[1]), vec_max(a[2], a[3]));
    vec sum = (a[0] + a[1]) + (a[2] + a[3]); /* no number if one of them is none, but also of inf - inf */
    vec_mask odd = vec_unordered(sum), alive;

    if (__builtin_expect(vec_mask_bits(odd) != 0, 0)) {
        VEC_UNROLL for (int i = 0; i < 4; i++)
            top = vec_select(vec_unordered(a[i]), a[i], top);
    }
    top = vec_max(vec_zero(), top);
    if (!masks)
        return top;
    alive = vec_mask_or(vec_gt(top, vec_zero()), odd);
    VEC_UNROLL for (int i = 0; i < 3; i++) {
        vec_mask less = vec_gt(top, a[i]);
        masks[i * PARTS] = (lane_bits)vec_mask_bits(vec_mask_andnot(alive, less));
        alive = vec_mask_and(alive, less);
    }
    masks[3 * PARTS] = (lane_bits)vec_mask_bits(alive);
    return top;
}

struct taps {
    int r0, r1, s0, s1;
};

/* acc += the taps of all channels at tr x tn pixels. ss: width of the kernel if all columns of it count, or 0. */
VEC_INLINE void tile_sum(const struct sweep *t, const float *x, const float *weights, struct taps k, vec *acc,
                         const int no, const int ss, const int tr, const int tn)
{
    ptrdiff_t down = t->x_pitch * t->stride, across = (ptrdiff_t)LANES * t->stride;

    for (int ch = 0; ch < t->channels; ch++)
        for (int r = k.r0; r < k.r1; r++) {
            const float *from = x + ch * t->x_plane + r * t->x_pitch + k.s0 * LANES;
            const float *w = weights + ((ptrdiff_t)(ch * t->r + r) * t->s + k.s0) * no;
#define TAP(at)                                                                                                        \
    do {                                                                                                               \
        vec v[4];                                                                                                      \
        VEC_UNROLL for (int i = 0; i < tr * tn; i++)                                                                   \
            v[i] = held(vec_load(from + (i / tn) * down + (i % tn) * across + (at) * LANES));                          \
        VEC_UNROLL for (int f = 0; f < no; f++) {                                                                      \
            vec b = vec_splat(w[(at) * no + f]);                                                                       \
            VEC_UNROLL for (int i = 0; i < tr * tn; i++)                                                               \
                acc[f * tr * tn + i] = vec_fma(b, v[i], acc[f * tr * tn + i]);                                         \
        }                                                                                                              \
    } while (0)
            if (ss) {
                VEC_UNROLL for (int s = 0; s < ss; s++)
                    TAP(s);
            } else {
                for (int s = 0; s < k.s1 - k.s0; s++)
                    TAP(s);
            }
#undef TAP
        }
}

/* One row of tiles, filters [first, first + no). */
VEC_INLINE void sweep_row(const struct sweep *t, int y, int first, const float *weights, const int no, const int ss,
                          const int tr, const int tn)
{
    int out_cols = t->pool ? t->q / 2 : t->q, out_rows = t->pool ? t->p / 2 : t->p, sides = t->pool ? 4 : 1;
    struct taps k = {.r0 = t->top - (tr - 1) - y, .r1 = t->bottom - y};

    k.r0 = k.r0 > 0 ? k.r0 : 0;
    k.r1 = k.r1 < t->r ? k.r1 : t->r;
    for (int j = 0; j < (t->pool ? 2 * out_cols : t->q); j += tn) {
        int col = j + tn <= t->q ? j : t->q - tn;
        const float *x = t->x + (y * t->x_pitch + (ptrdiff_t)col * LANES) * t->stride;
        k.s0 = t->left - (tn - 1) - col > 0 ? t->left - (tn - 1) - col : 0;
        k.s1 = t->right - col < t->s ? t->right - col : t->s;
        for (int part = 0; part < PARTS; part++) {
            vec acc[FILTERS * 4];
            VEC_UNROLL for (int i = 0; i < no * tr * tn; i++)
                acc[i] = vec_splat(t->bias ? t->bias[first + i / (tr * tn)] : 0.0f);
            if (ss && k.s1 - k.s0 == ss)
                tile_sum(t, x + part * VEC_N, weights, k, acc, no, ss, tr, tn);
            else
                tile_sum(t, x + part * VEC_N, weights, k, acc, no, 0, tr, tn);
            if (tr == 2 && tn == 2 && t->pool) {
                VEC_UNROLL for (int f = 0; f < no; f++) {
                    ptrdiff_t at = (((ptrdiff_t)(first + f) * out_rows + y / 2) * out_cols + j / 2) * 4 * PARTS + part;
                    vec v = pool_of(acc + 4 * f, t->masks ? t->masks + at : NULL);
                    vec_store(t->y + (first + f) * t->y_plane + y / 2 * t->y_pitch + j / 2 * LANES + part * VEC_N, v);
                }
                continue;
            }
            VEC_UNROLL for (int i = 0; i < no * tr * tn; i++) {
                int f = first + i / (tr * tn), py = y + i % (tr * tn) / tn, px = col + i % tn;
                vec v = acc[i];
                if (t->relu)
                    v = vec_max(vec_zero(), v);
                if (t->masks)
                    t->masks[(((ptrdiff_t)f * out_rows + py) * out_cols + px) * sides * PARTS + part] =
                        (lane_bits)vec_mask_bits(vec_mask_or(vec_gt(v, vec_zero()), vec_unordered(v)));
                vec_store(t->y + f * t->y_plane + py * t->y_pitch + px * LANES + part * VEC_N, v);
            }
        }
    }
}

typedef void row_fn(const struct sweep *t, int y, int first, const float *weights);

#define ROW(no)                                                                                                        \
    static void row_##no##_5(const struct sweep *t, int y, int first, const float *w)                                  \
    {                                                                                                                  \
        sweep_row(t, y, first, w, no, 5, 2, 2);                                                                        \
    }                                                                                                                  \
    static void row_##no##_3(const struct sweep *t, int y, int first, const float *w)                                  \
    {                                                                                                                  \
        sweep_row(t, y, first, w, no, 3, 2, 2);                                                                        \
    }                                                                                                                  \
    static void row_##no##_any(const struct sweep *t, int y, int first, const float *w)                                \
    {                                                                                                                  \
        sweep_row(t, y, first, w, no, 0, 2, 2);                                                                        \
    }                                                                                                                  \
    static void row_##no##_pixel(const struct sweep *t, int y, int first, const float *w)                              \
    {                                                                                                                  \
        sweep_row(t, y, first, w, no, 0, 1, 1);                                                                        \
    }
ROW(1)
ROW(2)
ROW(3)
#if VEC_REGISTERS == 32
ROW(4)
ROW(5)
ROW(6)
#endif

enum { ROW_5, ROW_3, ROW_ANY, ROW_PIXEL };

static row_fn *const ROWS[FILTERS][4] = {
    {row_1_5, row_1_3, row_1_any, row_1_pixel}, {row_2_5, row_2_3, row_2_any, row_2_pixel},
    {row_3_5, row_3_3, row_3_any, row_3_pixel},
#if VEC_REGISTERS == 32
    {row_4_5, row_4_3, row_4_any, row_4_pixel}, {row_5_5, row_5_3, row_5_any, row_5_pixel},
    {row_6_5, row_6_3, row_6_any, row_6_pixel},
#endif
};

void NATIVE(batched_sweep)(const struct sweep *t)
{
    bool pixels = t->p == 1 || t->q == 1;
    int kind = pixels ? ROW_PIXEL : t->s == 5 ? ROW_5 : t->s == 3 ? ROW_3 : ROW_ANY;
    int step = pixels ? 1 : 2, end = t->pool ? t->p / 2 * 2 : t->p, blocks = block_count(t->filters, FILTERS);

    for (int y = 0; y < end; y += step)
        for (int b = 0; b < blocks; b++) {
            int first = block_begin(t->filters, FILTERS, b), no = block_begin(t->filters, FILTERS, b + 1) - first;
            ROWS[no - 1][kind](t, y + step <= t->p ? y : t->p - step, first,
                               t->weights + (ptrdiff_t)first * t->channels * t->r * t->s);
        }
}
