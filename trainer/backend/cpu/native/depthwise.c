/* depthwise.c - convolutions of each channel by itself, with one filter or more: filter k reads channel k / (k per
 * channel). As direct.c, with vectors of channels: an image in a frame (each channel as often as it has filters), the
 * gradient of the input by the phases of the stride. Weights: [kernel row][kernel column][filter, in whole vectors].
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cpu/native/frame.h"
#include "trainer/backend/cpu/native/kernels.h"

struct shape {
    size_t k, pad, each; /* filters, in whole vectors, and of a channel */
    struct frame x, d;
};

static struct shape shape_of(const struct conv *c)
{
    size_t stride = (size_t)c->stride, r = (size_t)c->r, s = (size_t)c->s;
    struct shape z = {.k = (size_t)c->k, .pad = whole_vectors((size_t)c->k), .each = (size_t)(c->k / c->c)};

    z.x = (struct frame){.rows = (size_t)(c->p - 1) * stride + r, .cols = (size_t)(c->q - 1) * stride + s,
                         .top = (size_t)c->pad_top, .left = (size_t)c->pad_left, .depth = z.k};
    z.x.bare = z.each == 1 && !c->pad_top && !c->pad_left && z.x.rows <= (size_t)c->h && z.x.cols <= (size_t)c->w;
    z.d = (struct frame){.rows = (size_t)c->p, .cols = (size_t)c->q, .depth = z.k};
    if (c->need_dx)
        frame_for_dx(&z.d, c);
    z.d.bare = !c->relu && z.d.rows == (size_t)c->p && z.d.cols == (size_t)c->q;
    frame_close(&z.x);
    frame_close(&z.d);
    return z;
}

static bool covers(const struct conv *c)
{
    return !c->x_batched && !c->y_batched && c->groups == c->c && c->k % c->c == 0 && !c->pool && c->p > 0 &&
           c->q > 0 && c->pad_top >= 0 && c->pad_left >= 0;
}

static size_t weights_floats(const struct conv *c)
{
    return (size_t)(c->r * c->s) * whole_vectors((size_t)c->k);
}

static struct conv_place place(const struct conv *c, int k)
{
    return (struct conv_place){(size_t)k, 0, whole_vectors((size_t)c->k)};
}

static size_t prepared_bytes(const struct conv *c)
{
    (void)c;
    return 0;
}

/* A frame of x, one of dy, and where channels have many filters the gradients of their copies of x; the last pixel of
 * each is read in whole vectors. */
static size_t scratch_bytes(const struct conv *c)
{
    struct shape z = shape_of(c);
    size_t copies = z.each > 1 && c->need_dx ? (size_t)(c->h * c->w) * z.k : 0;

    return 4 * (z.x.floats + z.d.floats + copies + 2 * VEC_N);
}

static size_t aux_row_bytes(const struct conv *c)
{
    (void)c;
    return 0;
}

static size_t partial_floats(const struct conv *c)
{
    return weights_floats(c) + whole_vectors((size_t)c->k);
}

static void prepare(const struct conv *c, const struct conv_args *a, bool training)
{
    (void)c, (void)a, (void)training;
}

/* y[row][col][channel] = bias + sum over taps; steps in floats, of weights backward for the gradient of the input. */
struct job {
    const float *x, *w, *bias;
    float *y;
    size_t x_row, x_col, kernel_row, y_row, y_col, rows, cols, p, q, channels;
    ptrdiff_t w_row, w_col;
    bool relu;
    const struct native_drop *drop;
};

/* n outputs of a row, a vector of channels. */
VEC_INLINE void outputs(const struct job *j, const float *x, const float *w, vec bias, float *y, size_t lanes, int n)
{
    size_t c1 = j->x_col, c3 = 3 * c1, c4 = 4 * c1, c5 = 5 * c1, c7 = 7 * c1, rows = j->rows;
    vec acc[8];

    /* So that each output's address is a base and a scaled register, and not a pointer of its own to be kept going. */
    __asm__("" : "+r"(c3), "+r"(c4), "+r"(c5), "+r"(c7));
    const size_t at[8] = {0, c1, 2 * c1, c3, c4, c5, 2 * c3, c7};
    VEC_UNROLL for (int i = 0; i < n; i++)
        acc[i] = bias;
    do {
        const float *from = x, *tap = w;
        size_t cols = j->cols;
        do {
            vec v = vec_load(tap);
            VEC_UNROLL for (int i = 0; i < n; i++)
                acc[i] = vec_fma(vec_load(from + at[i]), v, acc[i]);
            from += j->channels;
            tap += j->w_col;
        } while (--cols);
        x += j->kernel_row;
        w += j->w_row;
    } while (--rows);
    VEC_UNROLL for (int i = 0; i < n; i++) {
        float *to = y + (size_t)i * j->y_col;
        vec v = j->relu ? vec_max(vec_zero(), acc[i]) : acc[i];
        vec_store_some(to, j->drop ? drop_vec(j->drop, to, v) : v, lanes);
    }
}

static void job_run(const struct job *j)
{
    for (size_t row = 0; row < j->p; row++)
        for (size_t v = 0; v < j->channels; v += VEC_N) {
            size_t lanes = j->channels - v < VEC_N ? j->channels - v : VEC_N, q = j->q;
            const float *x = j->x + row * j->x_row + v, *w = j->w + v;
            float *y = j->y + row * j->y_row + v;
            vec bias = !j->bias ? vec_zero() : lanes == VEC_N ? vec_load(j->bias + v) : vec_load_n(j->bias + v, lanes);
            for (; q >= 8; q -= 8, x += 8 * j->x_col, y += 8 * j->y_col)
                outputs(j, x, w, bias, y, lanes, 8);
            if (q & 4) {
                outputs(j, x, w, bias, y, lanes, 4);
                x += 4 * j->x_col;
                y += 4 * j->y_col;
            }
            if (q & 2) {
                outputs(j, x, w, bias, y, lanes, 2);
                x += 2 * j->x_col;
                y += 2 * j->y_col;
            }
            if (q & 1)
                outputs(j, x, w, bias, y, lanes, 1);
        }
}

/* Image n with each channel `each` times. */
static const float *x_frame(const struct conv *c, const struct shape *z, const float *x, float *room)
{
    if (z->x.bare)
        return x;
    if (z->each == 1) {
        frame_fill(&z->x, room, x, (size_t)c->h, (size_t)c->w, z->k);
        return room;
    }
    for (size_t i = 0; i < (size_t)c->h && i + z->x.top < z->x.rows; i++)
        for (size_t j = 0; j < (size_t)c->w && j + z->x.left < z->x.cols; j++) {
            float *o = room + ((i + z->x.top) * z->x.cols + j + z->x.left) * z->k;
            const float *from = x + (i * (size_t)c->w + j) * (size_t)c->c;
            for (size_t ch = 0; ch < (size_t)c->c; ch++)
                for (size_t e = 0; e < z->each; e++)
                    *o++ = from[ch];
        }
    return room;
}

static void forward(const struct conv *c, const struct conv_args *a, size_t lo, size_t hi, bool training)
{
    struct shape z = shape_of(c);
    size_t pitch = (z.x.bare ? (size_t)c->w : z.x.cols) * z.k, stride = (size_t)c->stride;
    struct job j = {.w = a->weights, .bias = a->bias, .x_row = stride * pitch, .x_col = stride * z.k,
                    .kernel_row = pitch, .y_row = (size_t)c->q * z.k, .y_col = z.k, .rows = (size_t)c->r,
                    .cols = (size_t)c->s, .p = (size_t)c->p, .q = (size_t)c->q, .channels = z.k,
                    .w_row = c->s * (ptrdiff_t)z.pad, .w_col = (ptrdiff_t)z.pad, .relu = c->relu, .drop = a->drop};

    (void)training;
    frame_clear(&z.x, a->scratch, 1);
    for (; lo < hi; lo++) {
        j.x = x_frame(c, &z, a->x + lo * (size_t)(c->h * c->w * c->c), a->scratch);
        j.y = a->y + lo * (size_t)(c->p * c->q) * z.k;
        job_run(&j);
    }
}

static void input_gradient(const struct conv *c, const struct shape *z, const float *w, const float *d, float *dx)
{
    size_t s = (size_t)c->stride, width = (size_t)c->w, pitch = z->d.cols * z->k;
    struct job j = {.x_row = pitch, .x_col = z->k, .kernel_row = pitch, .y_row = s * width * z->k, .y_col = s * z->k,
                    .channels = z->k, .w_row = -c->s * c->stride * (ptrdiff_t)z->pad,
                    .w_col = -c->stride * (ptrdiff_t)z->pad};

    for (int phase = 0; phase < c->stride * c->stride; phase++) {
        struct phase f = phase_of(c, &z->d, phase / c->stride, phase % c->stride);
        if (!f.p || !f.q)
            continue;
        j.p = f.p;
        j.q = f.q;
        j.rows = f.taps_h;
        j.cols = f.taps_w;
        j.y = dx + (f.h0 * width + f.w0) * z->k;
        if (!f.taps_h || !f.taps_w) { /* between the taps */
            for (size_t i = 0; i < f.p * f.q; i++)
                memset(j.y + i / f.q * j.y_row + i % f.q * j.y_col, 0, z->k * sizeof(float));
            continue;
        }
        j.x = d + f.from * z->k;
        j.w = w + (((size_t)(phase / c->stride) + (f.taps_h - 1) * s) * (size_t)c->s + (size_t)(phase % c->stride) +
                   (f.taps_w - 1) * s) * z->pad;
        job_run(&j);
    }
}

/* Steps of x and d from pixel to pixel, and of x from tap to tap. */
struct steps {
    size_t x_row, x_col, tap_row, tap_col, d_row, d_col, rows, cols;
};

/* sum[r][s] += over rows, columns: x[r][s] * d, for a vector of channels; from 0, so that the error stays small. */
VEC_INLINE void taps_sum(const struct steps *t, const float *x, const float *d, float *sum, size_t sum_row,
                         size_t sum_col, int rows, int cols)
{
    size_t c1 = t->tap_col, c3 = 3 * c1, c4 = 4 * c1;
    vec acc[25];

    __asm__("" : "+r"(c3), "+r"(c4));
    const size_t at[5] = {0, c1, 2 * c1, c3, c4};
    VEC_UNROLL for (int i = 0; i < rows * cols; i++)
        acc[i] = vec_zero();
    for (size_t p = 0; p < t->rows; p++) {
        const float *xs[5], *from = d + p * t->d_row;
        size_t n = t->cols;
        VEC_UNROLL for (int r = 0; r < rows; r++)
            xs[r] = x + p * t->x_row + (size_t)r * t->tap_row;
        do {
            vec v = vec_load(from);
            VEC_UNROLL for (int r = 0; r < rows; r++) {
                VEC_UNROLL for (int s = 0; s < cols; s++)
                    acc[r * cols + s] = vec_fma(vec_load(xs[r] + at[s]), v, acc[r * cols + s]);
                xs[r] += t->x_col;
            }
            from += t->d_col;
        } while (--n);
    }
    VEC_UNROLL for (int i = 0; i < rows * cols; i++) {
        float *o = sum + (size_t)(i / cols) * sum_row + (size_t)(i % cols) * sum_col;
        vec_store(o, vec_load(o) + acc[i]);
    }
}

static void weights_gradient(const struct conv *c, const struct shape *z, const struct steps *t, const float *x,
                             const float *d, float *sum)
{
    size_t sum_col = z->pad, sum_row = (size_t)c->s * z->pad;
    int n = 1, m = 1;

    for (size_t v = 0; v < z->k; v += VEC_N)
        for (int r = 0; r < c->r; r += n)
            for (int s = 0; s < c->s; s += m) {
                const float *xs = x + (size_t)r * t->tap_row + (size_t)s * t->tap_col + v;
                float *o = sum + (size_t)r * sum_row + (size_t)s * sum_col + v;
                int left = c->s - s;
                n = 1;
                m = left < 5 ? left : 5;
#define SUM(rows, cols) taps_sum(t, xs, d + v, o, sum_row, sum_col, rows, cols)
                if (c->s == 3 && c->r - r >= 3) {
                    n = 3;
                    SUM(3, 3);
#if VEC_REGISTERS == 32
                } else if (c->s == 5 && c->r - r >= 5) {
                    n = 5;
                    SUM(5, 5);
#endif
                } else if (c->s == 5 && c->r - r >= 2) {
                    n = 2;
                    SUM(2, 5);
                } else if (m == 5) {
                    SUM(1, 5);
                } else if (m == 4) {
                    SUM(1, 4);
                } else if (m == 3) {
                    SUM(1, 3);
                } else if (m == 2) {
                    SUM(1, 2);
                } else {
                    SUM(1, 1);
                }
#undef SUM
            }
}

static void backward(const struct conv *c, const struct conv_args *a, size_t lo, size_t hi)
{
    struct shape z = shape_of(c);
    float *x_room = a->scratch, *d_room = x_room + z.x.floats + VEC_N, *copies = d_room + z.d.floats + VEC_N;
    float *db = a->partial + weights_floats(c);
    size_t pitch = (z.x.bare ? (size_t)c->w : z.x.cols) * z.k, stride = (size_t)c->stride, width = (size_t)c->q * z.k;
    size_t inside = (z.d.top * z.d.cols + z.d.left) * z.k, pixels = (size_t)(c->h * c->w), channels = (size_t)c->c;
    struct steps t = {.x_row = stride * pitch, .x_col = stride * z.k, .tap_row = pitch, .tap_col = z.k,
                      .d_row = z.d.cols * z.k, .d_col = z.k, .rows = (size_t)c->p, .cols = (size_t)c->q};

    memset(a->partial, 0, partial_floats(c) * sizeof(float));
    frame_clear(&z.x, x_room, 1);
    frame_clear(&z.d, d_room, 1);
    for (; lo < hi; lo++) {
        const float *x = x_frame(c, &z, a->x + lo * pixels * channels, x_room), *dy = a->dy + lo * (size_t)c->p * width;
        const float *y = a->y + lo * (size_t)c->p * width, *d = z.d.bare ? dy : d_room;
        for (size_t i = 0; i < (size_t)c->p && (c->bias || !z.d.bare); i++)
            if (z.d.bare)
                spread_row(dy + i * width, NULL, NULL, NULL, db, (size_t)c->q, z.k, z.k);
            else if (c->relu)
                spread_row(dy + i * width, y + i * width, a->drop, d_room + inside + i * t.d_row, db, (size_t)c->q, z.k,
                           z.k);
            else
                spread_row(dy + i * width, NULL, NULL, d_room + inside + i * t.d_row, db, (size_t)c->q, z.k, z.k);
        weights_gradient(c, &z, &t, x, d + inside, a->partial);
        if (!a->dx || !c->need_dx)
            continue;
        float *dx = a->dx + lo * pixels * channels;
        input_gradient(c, &z, a->weights, d, z.each > 1 ? copies : dx);
        for (size_t i = 0; z.each > 1 && i < pixels * channels; i++) {
            dx[i] = copies[i * z.each];
            for (size_t e = 1; e < z.each; e++)
                dx[i] += copies[i * z.each + e];
        }
    }
}

static void finish(const struct conv *c, const float *partial, float *dw, float *db, struct conv_part part)
{
    size_t k = (size_t)c->k, pad = whole_vectors(k);

    if (part.index)
        return;
    memcpy(dw, partial, weights_floats(c) * sizeof(float));
    for (size_t i = 0; k < pad && i < (size_t)(c->r * c->s); i++)
        memset(dw + i * pad + k, 0, (pad - k) * sizeof(float));
    if (db)
        memcpy(db, partial + weights_floats(c), k * sizeof(float));
}

const struct conv_kernel NATIVE(conv_depthwise) = {
    .name = "depthwise",
    .drops = true,
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
