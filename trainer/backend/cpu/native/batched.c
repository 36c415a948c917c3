/* batched.c - convolutions with few channels, a lane for each sample: groups of rows one after the other, each brought
 * into lanes where it is not there yet, padding included. What is summed over rows is summed for each lane and over the
 * lanes once for each call.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cpu/native/batched.h"

#include <limits.h>

#define CHANNELS 16
#define FILTERS 64

static size_t floats(int a, int b, int c)
{
    return (size_t)a * (size_t)b * (size_t)c * LANES;
}

/* Of whole groups; a share with bands takes no more. */
struct sizes {
    int yh, yw;           /* of y */
    int used_p, used_q;   /* of the convolution's output: without the last row and column if the pool drops them */
    int x_rows, x_cols;   /* of x in lanes, with the padding */
    bool x_as_is;         /* x is in lanes and needs no padding */
    int wide_h, wide_w;   /* of dy, spread out by the stride, between the zeros that the gradient of x needs */
    size_t x, y, wide, dy, dx, weights, sums, masks; /* in floats; masks: lane_bits */
};

static struct sizes sizes_of(const struct conv *c)
{
    struct sizes s = {.yh = c->pool ? c->p / 2 : c->p, .yw = c->pool ? c->q / 2 : c->q,
                      .x_rows = (c->p - 1) * c->stride + c->r, .x_cols = (c->q - 1) * c->stride + c->s,
                      .wide_h = c->h + c->r - 1, .wide_w = c->w + c->s - 1};

    s.used_p = c->pool ? 2 * s.yh : c->p;
    s.used_q = c->pool ? 2 * s.yw : c->q;
    s.x_as_is = c->x_batched && !c->pad_top && !c->pad_left && s.x_rows <= c->h && s.x_cols <= c->w;
    s.x = floats(c->c, s.x_rows, s.x_cols);
    s.y = floats(c->k, s.yh, s.yw);
    s.wide = c->need_dx ? floats(c->k, s.wide_h, s.wide_w) : 0;
    s.dy = floats(c->k, s.used_p, s.used_q);
    s.dx = c->need_dx ? floats(c->c, c->h, c->w) : 0;
    s.weights = (size_t)(c->k * c->c * c->r * c->s);
    s.sums = (s.weights + (size_t)c->k) * LANES;
    s.masks = c->relu ? s.y / LANES * (c->pool ? 4 : 1) * PARTS : 0;
    return s;
}

static bool covers(const struct conv *c)
{
    return c->groups == 1 && c->c <= CHANNELS && c->k <= FILTERS && (!c->pool || (c->relu && c->p > 1 && c->q > 1)) &&
           c->pad_top >= 0 && c->pad_left >= 0 && c->pad_top < c->r && c->pad_left < c->s &&
           (c->p - 1) * c->stride - c->pad_top < c->h && (c->q - 1) * c->stride - c->pad_left < c->w;
}

static size_t weights_floats(const struct conv *c)
{
    return sizes_of(c).weights;
}

static struct conv_place place(const struct conv *c, int k)
{
    size_t taps = (size_t)(c->r * c->s);

    return (struct conv_place){(size_t)k * (size_t)c->c * taps, taps, 1};
}

static size_t prepared_bytes(const struct conv *c)
{
    return sizes_of(c).weights * (c->need_dx ? 2 : 1) * sizeof(float);
}

static size_t scratch_bytes(const struct conv *c)
{
    struct sizes s = sizes_of(c);

    return (s.x + s.y + s.wide + s.dy + s.dx + s.sums) * sizeof(float);
}

/* Of a group: x in lanes where it comes as rows, and which outputs were let through. */
static size_t group_masks_at(const struct conv *c, const struct sizes *s)
{
    return c->x_batched ? 0 : s->x * sizeof(float);
}

static size_t aux_row_bytes(const struct conv *c)
{
    struct sizes s = sizes_of(c);

    return (group_masks_at(c, &s) + s.masks * sizeof(lane_bits) + 63) / 64 * 64 / LANES;
}

static size_t partial_floats(const struct conv *c)
{
    return sizes_of(c).weights + (size_t)c->k;
}

static void prepare(const struct conv *c, const struct conv_args *a, bool training)
{
    float *packed = a->prepared;

    if (a->part.index)
        return;
    NATIVE(batched_pack)(c, a->weights, false, packed);
    if (training && c->need_dx)
        NATIVE(batched_pack)(c, a->weights, true, packed + sizes_of(c).weights);
}

/* A share of a group, and where its things stand. */
struct work {
    const struct conv *c;
    const struct conv_args *a;
    struct sizes z;
    struct share s;
    bool whole;       /* all 16 rows */
    size_t row;       /* of the batch, the group's first */
    int y_rows;       /* of y in a band */
    float *x_buffer;  /* in aux or scratch */
    lane_bits *masks; /* or NULL */
    float *y, *wide, *dy, *dx, *sums; /* scratch */
};

static struct work work_new(const struct conv *c, const struct conv_args *a, size_t row, const struct share *s,
                            bool training)
{
    struct work w = {.c = c, .a = a, .z = sizes_of(c), .s = *s, .whole = s->n == LANES, .row = row,
                     .y_rows = c->pool ? s->band_p / 2 : s->band_p, .x_buffer = a->scratch};
    char *aux = training ? (char *)a->aux + row * aux_row_bytes(c) : NULL;

    w.y = w.x_buffer + w.z.x;
    w.wide = w.y + w.z.y;
    w.dy = w.wide + w.z.wide;
    w.dx = w.dy + w.z.dy;
    w.sums = w.dx + w.z.dx;
    if (aux && !c->x_batched && s->bands == 1)
        w.x_buffer = (float *)(void *)aux;
    if (aux && c->relu)
        w.masks = (lane_bits *)(void *)(aux + group_masks_at(c, &w.z)) +
                  (ptrdiff_t)s->before * c->k * w.z.yw * (c->pool ? 4 : 1) * PARTS;
    return w;
}

/* x in lanes; *ret_rows and *ret_cols: of it. */
static const float *x_lanes(const struct work *w, bool as_is, bool there, int *ret_rows, int *ret_cols)
{
    const struct conv *c = w->c;
    const float *image = w->a->x + w->row * (size_t)(c->h * c->w * c->c);
    struct load l = {.image = image, .batched = c->x_batched, .h = c->h, .w = c->w, .c = c->c,
                     .step = w->s.band_p * c->stride, .first = -c->pad_top, .left = c->pad_left,
                     .rows = (w->s.band_p - 1) * c->stride + c->r, .cols = w->z.x_cols};

    if (as_is) {
        *ret_rows = c->h;
        *ret_cols = c->w;
        return image;
    }
    *ret_rows = l.rows;
    *ret_cols = l.cols;
    if (!there)
        NATIVE(batched_load)(&l, &w->s, w->x_buffer);
    return w->x_buffer;
}

static void forward_share(const struct work *w)
{
    const struct conv *c = w->c;
    float *y = w->a->y + w->row * (size_t)(w->z.yh * w->z.yw * c->k);
    bool y_as_is = c->y_batched && w->s.bands == 1;
    int rows, cols;
    const float *x = x_lanes(w, w->z.x_as_is && w->s.bands == 1, false, &rows, &cols);
    struct sweep t = {
        .x = x, .x_plane = (ptrdiff_t)rows * cols * LANES, .x_pitch = (ptrdiff_t)cols * LANES, .stride = c->stride,
        .channels = c->c, .r = c->r, .s = c->s, .bottom = INT_MAX / 2, .right = INT_MAX / 2,
        .filters = c->k, .p = w->s.band_p, .q = c->q, .weights = w->a->prepared, .bias = w->a->bias,
        .y = y_as_is ? y : w->y, .y_plane = (ptrdiff_t)w->y_rows * w->z.yw * LANES,
        .y_pitch = (ptrdiff_t)w->z.yw * LANES, .relu = c->relu, .pool = c->pool, .masks = w->masks,
    };

    NATIVE(batched_sweep)(&t);
    if (!y_as_is)
        NATIVE(batched_store)(y, c->y_batched, w->z.yh, w->z.yw, c->k, w->y_rows, &w->s, w->y);
}

static void forward(const struct conv *c, const struct conv_args *a, size_t lo, size_t hi, bool training)
{
    for (size_t row = lo; row < hi; row += LANES) {
        struct share shares[LANES];
        int n = NATIVE(batched_shares)(c, hi - row < LANES ? (int)(hi - row) : LANES, shares);
        for (int i = 0; i < n; i++) {
            struct work w = work_new(c, a, row, &shares[i], training);
            forward_share(&w);
        }
    }
}

/* The gradient of the convolution's output, rows [from, to) of y: what was let through, with distances `plane` between
 * filters, `pitch` between rows, `pixel` between pixels. db: sums for each lane. */
static void spread(const struct work *w, const float *dy, int from, int to, float *out, ptrdiff_t plane,
                   ptrdiff_t pitch, ptrdiff_t pixel, float *db)
{
    const struct conv *c = w->c;
    int side = c->pool ? 2 : 1, yw = w->z.yw;

    for (int k = 0; k < c->k; k++)
        for (int part = 0; part < PARTS; part++) {
            vec sum = vec_load(db + k * LANES + part * VEC_N);
            for (int y = from; y < to; y++) {
                ptrdiff_t at = ((ptrdiff_t)k * w->y_rows + y) * yw;
                const float *d = dy + at * LANES + part * VEC_N;
                const lane_bits *masks = w->masks + at * side * side * PARTS + part;
                float *o = out + k * plane + (y - from) * side * pitch + part * VEC_N;
                if (c->pool) {
                    for (int x = 0; x < yw; x++, d += LANES, o += 2 * pixel, masks += 4 * PARTS) {
                        vec v = vec_load(d);
                        vec_store(o, vec_where(vec_mask_from(masks[0]), v));
                        vec_store(o + pixel, vec_where(vec_mask_from(masks[PARTS]), v));
                        vec_store(o + pitch, vec_where(vec_mask_from(masks[2 * PARTS]), v));
                        vec_store(o + pitch + pixel, vec_where(vec_mask_from(masks[3 * PARTS]), v));
                        sum += vec_where(vec_mask_from((uint16_t)(masks[0] | masks[PARTS] | masks[2 * PARTS] |
                                                                  masks[3 * PARTS])),
                                         v);
                    }
                    continue;
                }
                for (int x = 0; x < yw; x++, d += LANES, o += pixel, masks += PARTS) {
                    vec v = vec_load(d);
                    if (c->relu)
                        v = vec_where(vec_mask_from(*masks), v);
                    vec_store(o, v);
                    sum += v;
                }
            }
            vec_store(db + k * LANES + part * VEC_N, sum);
        }
}

/* Zeros where spread will not write: tiles reach one row and one column past what taps they need. */
static void clear_wide(const struct work *w)
{
    const struct conv *c = w->c;
    int top = c->r - 1 - c->pad_top, left = c->s - 1 - c->pad_left, bottom = top + w->z.used_p,
        right = left + w->z.used_q, cols = w->z.wide_w;
    size_t pixel = LANES * sizeof(float);

    if (c->stride != 1) {
        memset(w->wide, 0, w->z.wide * sizeof(float));
        return;
    }
    for (int k = 0; k < c->k; k++)
        for (int v = top ? top - 1 : 0; v <= bottom && v < w->z.wide_h; v++) {
            float *row = w->wide + ((ptrdiff_t)k * w->z.wide_h + v) * cols * LANES;
            if (v < top || v >= bottom) {
                memset(row, 0, (size_t)cols * pixel);
                continue;
            }
            if (left)
                memset(row + (left - 1) * LANES, 0, pixel);
            if (right < cols)
                memset(row + right * LANES, 0, pixel);
        }
}

/* From bands of output rows to bands of rows of x with what these need of dy. */
static void widen_bands(const struct work *w, const float *dy, int rows)
{
    const struct conv *c = w->c;
    const struct share *s = &w->s;
    size_t bytes = (size_t)s->n * sizeof(float);
    int used_q = w->z.used_q;

    memset(w->wide, 0, floats(c->k, rows, w->z.wide_w) * sizeof(float));
    for (int k = 0; k < c->k; k++)
        for (int v = 0; v < rows; v++)
            for (int band = 0; band < s->bands; band++) {
                int at = band * s->band_h + v + c->pad_top - (c->r - 1), p = at / c->stride;
                if (at < 0 || at % c->stride || p >= w->z.used_p)
                    continue;
                const float *from = dy + ((ptrdiff_t)k * s->band_p + p % s->band_p) * used_q * LANES +
                                    p / s->band_p * s->lanes;
                float *to = w->wide + (((ptrdiff_t)k * rows + v) * w->z.wide_w + c->s - 1 - c->pad_left) * LANES +
                            band * s->lanes;
                for (int q = 0; q < used_q; q++)
                    memcpy(to + q * c->stride * LANES, from + q * LANES, bytes);
            }
}

static void dx_share(const struct work *w, int rows)
{
    const struct conv *c = w->c;
    float *dx = w->a->dx + w->row * (size_t)(c->h * c->w * c->c);
    bool dx_as_is = c->x_batched && w->s.bands == 1;
    int top = c->r - 1 - c->pad_top, left = c->s - 1 - c->pad_left;
    struct sweep t = {
        .x = w->wide, .x_plane = (ptrdiff_t)rows * w->z.wide_w * LANES, .x_pitch = (ptrdiff_t)w->z.wide_w * LANES,
        .stride = 1, .channels = c->k, .r = c->r, .s = c->s, .top = w->s.bands == 1 ? top : 0,
        .bottom = w->s.bands == 1 ? top + (w->z.used_p - 1) * c->stride + 1 : INT_MAX / 2, .left = left,
        .right = left + (w->z.used_q - 1) * c->stride + 1, .filters = c->c, .p = w->s.band_h, .q = c->w,
        .weights = (const float *)w->a->prepared + w->z.weights, .y = dx_as_is ? dx : w->dx,
        .y_plane = (ptrdiff_t)w->s.band_h * c->w * LANES, .y_pitch = (ptrdiff_t)c->w * LANES,
    };

    NATIVE(batched_sweep)(&t);
    if (!dx_as_is)
        NATIVE(batched_store)(dx, c->x_batched, c->h, c->w, c->c, w->s.band_h, &w->s, w->dx);
}

static void backward_share(const struct work *w)
{
    const struct conv *c = w->c;
    const float *dy = w->a->dy + w->row * (size_t)(w->z.yh * w->z.yw * c->k);
    float *db = w->sums + w->z.weights * LANES;
    int side = c->pool ? 2 : 1, rows = w->s.band_h + c->r - 1, x_rows, x_cols;
    int each = NATIVE(batched_sum_rows)(c, w->z.used_q);
    const float *x = x_lanes(w, w->z.x_as_is && w->whole, !c->x_batched && w->s.bands == 1, &x_rows, &x_cols);
    bool wide = w->a->dx && w->s.bands == 1; /* dy is spread straight to where the gradient of x needs it */
    struct weight_sums t = {
        .x = x, .x_plane = (ptrdiff_t)x_rows * x_cols * LANES, .x_pitch = (ptrdiff_t)x_cols * LANES,
        .dy = w->dy, .dy_pitch = (ptrdiff_t)w->z.used_q * LANES, .dy_pixel = LANES, .stride = c->stride,
        .channels = c->c, .filters = c->k, .r = c->r, .s = c->s, .cols = w->z.used_q, .dw = w->sums,
    };

    if (!(c->y_batched && w->whole)) {
        struct load l = {.image = dy, .batched = c->y_batched, .h = w->z.yh, .w = w->z.yw, .c = c->k,
                         .step = w->y_rows, .rows = w->y_rows, .cols = w->z.yw};
        NATIVE(batched_load)(&l, &w->s, w->y);
        dy = w->y;
    }
    if (wide) {
        t.dy = w->wide + ((ptrdiff_t)(c->r - 1 - c->pad_top) * w->z.wide_w + c->s - 1 - c->pad_left) * LANES;
        t.dy_pixel = (ptrdiff_t)c->stride * LANES;
        t.dy_pitch = (ptrdiff_t)c->stride * w->z.wide_w * LANES;
        t.dy_plane = (ptrdiff_t)rows * w->z.wide_w * LANES;
    } else if (w->a->dx) {
        t.dy_plane = (ptrdiff_t)w->s.band_p * w->z.used_q * LANES;
    }
    if (w->a->dx) {
        spread(w, dy, 0, w->y_rows, (float *)t.dy, t.dy_plane, t.dy_pitch, t.dy_pixel, db);
        if (!wide)
            widen_bands(w, t.dy, rows);
        dx_share(w, rows);
    }
    for (int p = 0; p < w->y_rows * side; p += each) {
        t.rows = w->y_rows * side - p < each ? w->y_rows * side - p : each;
        if (w->a->dx) {
            NATIVE(batched_weight_sums)(&t);
            t.dy += t.rows * t.dy_pitch;
        } else {
            t.dy_plane = t.rows * t.dy_pitch;
            spread(w, dy, p / side, (p + t.rows) / side, w->dy, t.dy_plane, t.dy_pitch, LANES, db);
            NATIVE(batched_weight_sums)(&t);
        }
        t.x += t.rows * c->stride * t.x_pitch;
    }
}

static void backward(const struct conv *c, const struct conv_args *a, size_t lo, size_t hi)
{
    struct work w;

    memset(a->partial, 0, partial_floats(c) * sizeof(float));
    for (size_t row = lo; row < hi; row += LANES) {
        struct share shares[LANES];
        int n = NATIVE(batched_shares)(c, hi - row < LANES ? (int)(hi - row) : LANES, shares);
        for (int i = 0; i < n; i++) {
            w = work_new(c, a, row, &shares[i], true);
            if (row == lo && !i) {
                memset(w.sums, 0, w.z.sums * sizeof(float));
                if (a->dx)
                    clear_wide(&w);
            }
            backward_share(&w);
        }
    }
    if (lo < hi)
        NATIVE(batched_sum_lanes)(w.sums, w.z.sums / LANES, a->partial);
}

static void finish(const struct conv *c, const float *partial, float *dw, float *db, struct conv_part part)
{
    size_t weights = sizes_of(c).weights;

    if (part.index)
        return;
    memcpy(dw, partial, weights * sizeof(float));
    if (db)
        memcpy(db, partial + weights, (size_t)c->k * sizeof(float));
}

const struct conv_kernel NATIVE(conv_batched) = {
    .name = "batched",
    .covers = covers,
    .weights_floats = weights_floats,
    .place = place,
    .prepared_bytes = prepared_bytes,
    .scratch_bytes = scratch_bytes,
    .aux_row_bytes = aux_row_bytes,
    .partial_floats = partial_floats,
    .prepare = prepare,
    .forward = forward,
    .backward = backward,
    .finish = finish,
};
