/* winograd.c - 3x3 convolutions by Winograd's F(4x4), of stride 1 and 2, and F(2x2), 5x5 ones by F(2x2);
 * winograd_private.h has the plan of it. partial: dU, then db. Weights: [filter / VEC_N][channel][taps][VEC_N], filters
 * padded to whole vectors.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cpu/native/winograd_private.h"

/* Of a block's V and M: not half of a second-level cache, for U or dU, x and y want room too. */
static size_t block_bytes(const struct conv *c)
{
    return (c->l2_bytes ? c->l2_bytes : (size_t)2 << 20) / 16 * 7;
}

/* Floats from tile to tile: rows of a power of two would share a few cache sets. */
static size_t padded(size_t channels)
{
    size_t n = (channels + VEC_N - 1) / VEC_N * VEC_N;

    return n >= 128 && n % 32 == 0 ? n + 16 : n;
}

struct winograd NATIVE(winograd_plan)(const struct conv *c, enum winograd_form form)
{
    struct winograd w = {.form = form, .stride = (size_t)c->stride, .c = (size_t)c->c, .k = (size_t)c->k};
    size_t m = winograd_m(form), tiles, least;

    w.a = winograd_side(form);
    w.taps = winograd_kernel(form) * winograd_kernel(form);
    w.points = w.a * w.a;
    w.phases = w.stride * w.stride;
    w.products = w.phases == 1 ? w.points : (2 * w.a - 1) * (2 * w.a - 1);
    winograd_take_phase(&w, 0);
    w.p = (size_t)(c->pool ? c->p / 2 * 2 : c->p);
    w.q = (size_t)(c->pool ? c->q / 2 * 2 : c->q);
    w.tile_rows = (w.p + m - 1) / m;
    w.tile_columns = (w.q + m - 1) / m;
    w.c_vecs = (w.c + VEC_N - 1) / VEC_N;
    w.k_vecs = (w.k + VEC_N - 1) / VEC_N;
    w.c_tile = padded(w.c);
    w.k_tile = padded(w.k);
    tiles = block_bytes(c) / 4 / w.points / (w.c_tile + w.k_tile);
    least = w.c < w.k ? w.c / 2 : w.k / 2;
    least = least > 64 ? least : 64;
    tiles = tiles > least ? tiles : least;
    w.block = tiles / w.tile_columns ? tiles / w.tile_columns : 1;
    if (w.block > w.tile_rows * c->batch)
        w.block = w.tile_rows * c->batch;
    tiles = w.block * w.tile_columns;
    /* + 16: frequencies are not to share cache sets either. */
    w.v_point = tiles * w.c_tile + 16;
    w.d_point = tiles * w.k_tile + 16;
    w.u_point = w.c * w.k_vecs * VEC_N + 16;
    w.ut_point = w.k * w.c_vecs * VEC_N + 16;
    w.c_hi = w.c;
    w.k_hi = w.k;
    NATIVE(winograd_wide_plan)(&w, c);
    return w;
}

/* zeros, or what falls off the input; then V, then M or D */
static size_t edge_floats(const struct winograd *w)
{
    return (((w->a - 1) * w->stride + 1) * w->c + 2 * VEC_N + 15) / 16 * 16;
}

static bool covers(const struct conv *c, int side)
{
    return c->r == side && c->s == side && c->groups == 1 && c->pad_top >= 0 && c->pad_top < side &&
           c->pad_left >= 0 && c->pad_left < side && !c->x_batched && !c->y_batched && (c->relu || !c->pool) &&
           c->p > c->pool && c->q > c->pool;
}

static bool covers_f4(const struct conv *c)
{
    return covers(c, 3) && (c->stride == 1 || c->stride == 2);
}

static bool covers_f2(const struct conv *c)
{
    return covers(c, 3) && c->stride == 1;
}

static bool covers_f2_5x5(const struct conv *c)
{
    return covers(c, 5) && c->stride == 1;
}

static size_t taps(const struct conv *c)
{
    return (size_t)c->r * (size_t)c->s;
}

static size_t weights_floats(const struct conv *c)
{
    return (size_t)c->c * taps(c) * (((size_t)c->k + VEC_N - 1) / VEC_N * VEC_N);
}

static struct conv_place place(const struct conv *c, int k)
{
    size_t vector = (size_t)k / VEC_N, lane = (size_t)k % VEC_N;

    return (struct conv_place){vector * (size_t)c->c * taps(c) * VEC_N + lane, taps(c) * VEC_N, VEC_N};
}

static size_t aux_row_bytes(const struct conv *c) /* four masks for each pooled pixel and vector of filters */
{
    return c->pool ? (size_t)(c->p / 2) * (size_t)(c->q / 2) * (((size_t)c->k + VEC_N - 1) / VEC_N) * 8 : 0;
}

static size_t prepared_bytes(const struct winograd *w, bool need_dx)
{
    return w->wide ? 0 : w->products * (w->u_point + (need_dx ? w->ut_point : 0)) * 4;
}

static size_t scratch_bytes(const struct winograd *w)
{
    return (edge_floats(w) + (w->wide ? NATIVE(winograd_wide_scratch)(w) : w->points * (w->v_point + w->d_point))) * 4;
}

/* Of dU, or dw. */
static size_t gradient_floats(const struct winograd *w)
{
    return w->wide ? w->c * w->taps * w->k_vecs * VEC_N : w->products * w->u_point;
}

static size_t partial_floats(const struct winograd *w)
{
    return gradient_floats(w) + w->k_vecs * VEC_N;
}

static void prepare(const struct winograd *w, const struct conv *c, const struct conv_args *a, bool training)
{
    float *u = a->prepared, *ut = u + w->products * w->u_point;
    struct winograd filters = *w, channels = *w;

    if (w->wide)
        return;
    winograd_share(a->part, w->k, &filters.k_lo, &filters.k_hi);
    winograd_share(a->part, w->c, &channels.c_lo, &channels.c_hi);
    for (size_t i = 0; i < w->phases; i++) {
        winograd_take_phase(&filters, i);
        winograd_take_phase(&channels, i);
        if (filters.k_lo < filters.k_hi)
            NATIVE(winograd_weights)(&filters, a->weights, u + filters.before * w->u_point + filters.k_lo * w->c, NULL);
        if (training && c->need_dx && channels.c_lo < channels.c_hi)
            NATIVE(winograd_weights)(&channels, a->weights, NULL,
                                     ut + channels.before * w->ut_point + channels.c_lo * w->k);
    }
}

static void forward(const struct winograd *w, const struct conv *c, const struct conv_args *a, size_t lo, size_t hi,
                    bool training)
{
    float *zeros = a->scratch, *v = zeros + edge_floats(w), *m = v + w->points * w->v_point;
    size_t end = hi * w->tile_rows, next;
    struct winograd part = *w;

    memset(zeros, 0, edge_floats(w) * 4);
    if (w->wide) {
        NATIVE(winograd_wide_forward)(w, c, a, lo, hi, training, zeros, v);
        return;
    }
    for (size_t row = lo * w->tile_rows; row < end; row = next) {
        next = row + w->block < end ? row + w->block : end;
        for (size_t i = 0; i < w->phases; i++) {
            const float *u;

            winograd_take_phase(&part, i);
            u = (const float *)a->prepared + part.before * w->u_point;
            NATIVE(winograd_input)(&part, c, a->x, row, next, v, zeros);
            for (size_t f = 0; f < part.rows * part.columns; f++)
                NATIVE(winograd_gemm)(v + f * w->v_point, w->c_tile, u + f * w->u_point,
                                      m + winograd_frequency(&part, f) * w->d_point, w->k_tile,
                                      (next - row) * w->tile_columns, w->c, w->k_vecs, i > 0,
                                      v + (f + 1) * w->v_point);
        }
        NATIVE(winograd_output)(w, c, a, row, next, m, training);
    }
}

/* Of a block of tiles: from x and D to dU and dx. add: to dU. */
static void backward_phase(const struct winograd *w, const struct conv *c, const struct conv_args *a, size_t row,
                           size_t next, float *v, const float *d, float *edge, bool add)
{
    size_t tiles = (next - row) * w->tile_columns;
    const float *ut = (const float *)a->prepared + w->products * w->u_point + w->before * w->ut_point;
    float *du = a->partial + w->before * w->u_point;

    NATIVE(winograd_input)(w, c, a->x, row, next, v, edge);
    for (size_t f = 0; f < w->rows * w->columns; f++) {
        float *vf = v + f * w->v_point;
        const float *df = d + winograd_frequency(w, f) * w->d_point;

        NATIVE(winograd_gemm_weights)(vf, w->c_tile, df, w->k_tile, du + f * w->u_point, w->c, tiles, w->k_vecs, add,
                                      vf + w->v_point);
        if (a->dx) /* V of this frequency has had its use: dV takes its place */
            NATIVE(winograd_gemm)(df, w->k_tile, ut + f * w->ut_point, vf, w->c_tile, tiles, w->k, w->c_vecs, false,
                                  df + w->d_point);
    }
    if (a->dx)
        NATIVE(winograd_spread)(w, c, a->dx, row, next, v, edge);
}

static void backward(const struct winograd *w, const struct conv *c, const struct conv_args *a, size_t lo, size_t hi)
{
    float *edge = a->scratch, *v = edge + edge_floats(w), *d = v + w->points * w->v_point;
    float *db = a->partial + gradient_floats(w);
    size_t begin = lo * w->tile_rows, end = hi * w->tile_rows, next;
    struct winograd part = *w;

    if (w->wide) {
        NATIVE(winograd_wide_backward)(w, c, a, lo, hi, edge, edge_floats(w), v, db);
        return;
    }
    memset(db, 0, w->k_vecs * VEC_N * 4);
    for (size_t row = begin; row < end; row = next) {
        next = row + w->block < end ? row + w->block : end;
        NATIVE(winograd_gradient)(w, c, a, row, next, d, c->bias ? db : NULL);
        for (size_t i = 0; i < w->phases; i++) {
            winograd_take_phase(&part, i);
            memset(edge, 0, edge_floats(w) * 4);
            backward_phase(&part, c, a, row, next, v, d, edge, row > begin);
        }
    }
}

static void finish(const struct winograd *w, const float *partial, float *dw, float *db, struct conv_part share)
{
    struct winograd part = *w;
    size_t filter = w->c * w->taps; /* floats */

    winograd_share(share, w->k, &part.k_lo, &part.k_hi);
    if (w->wide && dw && part.k_lo < part.k_hi)
        memcpy(dw + part.k_lo * filter, partial + part.k_lo * filter,
               winograd_vecs(part.k_hi - part.k_lo) * VEC_N * filter * 4);
    for (size_t i = 0; i < w->phases && !w->wide && part.k_lo < part.k_hi; i++) {
        winograd_take_phase(&part, i);
        NATIVE(winograd_weights_back)(&part, partial + part.before * w->u_point + part.k_lo * w->c, dw, false, NULL);
    }
    if (db && !share.index)
        memcpy(db, partial + gradient_floats(w), w->k * 4);
}

#define KERNEL(name_, form)                                                                                            \
    static size_t prepared_bytes_##name_(const struct conv *c)                                                         \
    {                                                                                                                  \
        struct winograd w = NATIVE(winograd_plan)(c, form);                                                            \
        return prepared_bytes(&w, c->need_dx);                                                                         \
    }                                                                                                                  \
    static size_t scratch_bytes_##name_(const struct conv *c)                                                          \
    {                                                                                                                  \
        struct winograd w = NATIVE(winograd_plan)(c, form);                                                            \
        return scratch_bytes(&w);                                                                                      \
    }                                                                                                                  \
    static size_t partial_floats_##name_(const struct conv *c)                                                         \
    {                                                                                                                  \
        struct winograd w = NATIVE(winograd_plan)(c, form);                                                            \
        return partial_floats(&w);                                                                                     \
    }                                                                                                                  \
    static void prepare_##name_(const struct conv *c, const struct conv_args *a, bool training)                        \
    {                                                                                                                  \
        struct winograd w = NATIVE(winograd_plan)(c, form);                                                            \
        prepare(&w, c, a, training);                                                                                   \
    }                                                                                                                  \
    static void forward_##name_(const struct conv *c, const struct conv_args *a, size_t lo, size_t hi, bool training)  \
    {                                                                                                                  \
        struct winograd w = NATIVE(winograd_plan)(c, form);                                                            \
        forward(&w, c, a, lo, hi, training);                                                                           \
    }                                                                                                                  \
    static void backward_##name_(const struct conv *c, const struct conv_args *a, size_t lo, size_t hi)                \
    {                                                                                                                  \
        struct winograd w = NATIVE(winograd_plan)(c, form);                                                            \
        backward(&w, c, a, lo, hi);                                                                                    \
    }                                                                                                                  \
    static void finish_##name_(const struct conv *c, const float *partial, float *dw, float *db, struct conv_part part)\
    {                                                                                                                  \
        struct winograd w = NATIVE(winograd_plan)(c, form);                                                            \
        finish(&w, partial, dw, db, part);                                                                             \
    }                                                                                                                  \
    static bool by_parts_##name_(const struct conv *c)                                                                 \
    {                                                                                                                  \
        return NATIVE(winograd_plan)(c, form).wide;                                                                    \
    }                                                                                                                  \
    const struct conv_kernel NATIVE(conv_winograd_##name_) = {                                                         \
        .name = "winograd_" #name_,                                                                                    \
        .drops = true,                                                                                                 \
        .adds = true,                                                                                                  \
        .covers = covers_##name_,                                                                                      \
        .weights_floats = weights_floats,                                                                              \
        .place = place,                                                                                                \
        .prepared_bytes = prepared_bytes_##name_,                                                                      \
        .scratch_bytes = scratch_bytes_##name_,                                                                        \
        .aux_row_bytes = aux_row_bytes,                                                                                \
        .partial_floats = partial_floats_##name_,                                                                      \
        .by_parts = by_parts_##name_,                                                                                  \
        .prepare = prepare_##name_,                                                                                    \
        .forward = forward_##name_,                                                                                    \
        .backward = backward_##name_,                                                                                  \
        .finish = finish_##name_,                                                                                      \
    };

KERNEL(f4, c->stride == 2 ? WINOGRAD_F42 : WINOGRAD_F43)
KERNEL(f2, WINOGRAD_F23)
KERNEL(f2_5x5, WINOGRAD_F25)
