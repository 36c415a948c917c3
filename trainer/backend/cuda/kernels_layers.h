/* kernels_layers.h - pools, ReLU, dropout, sums, transposition. x and y: lanes x rows x values, channels-last; a row
 * past its lane's rows is neither read nor written. A ReLU whose input nobody else reads is computed by the layer
 * before it; what writes the gradient of such a tensor masks it (`mask`: that tensor, or NULL), so that the layer
 * before gets the gradient before the ReLU. add: dx is added to. Gradients of windows are gathered, never scattered: no
 * atomics. SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_TRAINER_CUDA_KERNELS_LAYERS_H
#define FLEXP_TRAINER_CUDA_KERNELS_LAYERS_H

#include "trainer/backend/cuda/kernels_data.h"

struct live { /* is element i of lanes x rows x values to be computed? */
    const struct lane_step *steps;
    uint32_t rows, values;
};

DEVICE bool is_live(const struct live *l, uint64_t i)
{
    uint64_t row = quotient(i, l->values), lane = quotient(row, l->rows);

    return row - lane * l->rows < l->steps[lane].rows;
}

struct window_shape {
    uint32_t in_h, in_w, out_h, out_w, c, kernel_h, kernel_w, stride;
    int32_t top, left; /* pads */
};

struct window_at {
    int top, bottom, left, right; /* clipped */
};

struct pixel_at { /* of a value among images: which image, where in it */
    uint64_t row;
    uint32_t h, w, c;
};

DEVICE struct pixel_at pixel_of(uint64_t i, uint32_t height, uint32_t width, uint32_t channels)
{
    uint64_t pixel = quotient(i, channels);
    struct pixel_at p;
    uint32_t at;

    p.row = quotient(pixel, height * width);
    p.c = (uint32_t)(i - pixel * channels);
    at = (uint32_t)(pixel - p.row * height * width);
    p.h = at / width;
    p.w = at - p.h * width;
    return p;
}

DEVICE struct window_at window_of(const struct window_shape *s, uint32_t oh, uint32_t ow)
{
    int top = (int)(oh * s->stride) - s->top, left = (int)(ow * s->stride) - s->left;
    struct window_at w;

    w.top = top < 0 ? 0 : top;
    w.left = left < 0 ? 0 : left;
    w.bottom = top + (int)s->kernel_h < (int)s->in_h ? top + (int)s->kernel_h : (int)s->in_h;
    w.right = left + (int)s->kernel_w < (int)s->in_w ? left + (int)s->kernel_w : (int)s->in_w;
    return w;
}

struct pool_args {
    uint64_t count; /* forward: values of y; backward: of x */
    struct live live;
    struct window_shape shape;
    const float *x, *y, *dy;
    float *out;
    uint16_t *arg;
    uint32_t relu; /* forward: ReLU behind the pool */
    uint32_t mask; /* backward of the max pool: its input is a ReLU's output */
    uint32_t add;
    const float *mask_x; /* backward of the others: likewise, the input */
};

DEVICE void max_pool_body(const struct pool_args *a, uint64_t i)
{
    const struct window_shape *s = &a->shape;
    struct pixel_at p = pixel_of(i, s->out_h, s->out_w, s->c);
    struct window_at w;
    const float *x;
    float top = 0;
    uint32_t place = 0, best = 0;

    if (!is_live(&a->live, i))
        return;
    w = window_of(s, p.h, p.w);
    x = a->x + p.row * s->in_h * s->in_w * s->c + p.c;
    for (int h = w.top; h < w.bottom; h++)
        for (int v = w.left; v < w.right; v++, place++) {
            float value = x[((uint64_t)h * s->in_w + (uint32_t)v) * s->c];
            if (!place || value > top || value != value) { /* a NaN wins, so that it is seen */
                top = value;
                best = place;
            }
        }
    a->arg[i] = (uint16_t)best;
    a->out[i] = a->relu && top < 0 ? 0 : top;
}

/* The windows that hold input line h: from (h + pad - kernel + 1) / stride, rounded up, to (h + pad) / stride. */
DEVICE uint32_t first_window(uint32_t h, uint32_t kernel, uint32_t stride, int pad)
{
    int from = (int)h + pad - (int)kernel + 1;

    return from <= 0 ? 0 : ((uint32_t)from + stride - 1) / stride;
}

DEVICE uint32_t last_window(uint32_t h, uint32_t stride, int pad, uint32_t out) /* one past */
{
    uint32_t last = ((uint32_t)((int)h + pad)) / stride + 1;

    return last < out ? last : out;
}

DEVICE void put_gradient(float *dx, float value, const float *mask, uint32_t add)
{
    if (mask && *mask <= 0) /* what is no number passes */
        value = 0;
    *dx = add ? *dx + value : value;
}

DEVICE void max_pool_backward_body(const struct pool_args *a, uint64_t i)
{
    const struct window_shape *s = &a->shape;
    struct pixel_at p = pixel_of(i, s->in_h, s->in_w, s->c);
    uint64_t base = p.row * s->out_h * s->out_w * s->c + p.c;
    float sum = 0;

    if (!is_live(&a->live, i))
        return;
    for (uint32_t oh = first_window(p.h, s->kernel_h, s->stride, s->top);
         oh < last_window(p.h, s->stride, s->top, s->out_h); oh++)
        for (uint32_t ow = first_window(p.w, s->kernel_w, s->stride, s->left);
             ow < last_window(p.w, s->stride, s->left, s->out_w); ow++) {
            struct window_at w = window_of(s, oh, ow);
            uint64_t o = base + (uint64_t)(oh * s->out_w + ow) * s->c;
            uint32_t place = (uint32_t)(((int)p.h - w.top) * (w.right - w.left) + (int)p.w - w.left);
            if (a->arg[o] == place && !(a->mask && a->y[o] <= 0))
                sum += a->dy[o];
        }
    put_gradient(&a->out[i], sum, NULL, a->add);
}

DEVICE void avg_pool_body(const struct pool_args *a, uint64_t i)
{
    const struct window_shape *s = &a->shape;
    struct pixel_at p = pixel_of(i, s->out_h, s->out_w, s->c);
    struct window_at w;
    const float *x;
    float sum = 0;

    if (!is_live(&a->live, i))
        return;
    w = window_of(s, p.h, p.w);
    x = a->x + p.row * s->in_h * s->in_w * s->c + p.c;
    for (int h = w.top; h < w.bottom; h++)
        for (int v = w.left; v < w.right; v++)
            sum += x[((uint64_t)h * s->in_w + (uint32_t)v) * s->c];
    sum *= 1.0f / (float)((w.bottom - w.top) * (w.right - w.left));
    a->out[i] = a->relu && sum < 0 ? 0 : sum;
}

DEVICE void avg_pool_backward_body(const struct pool_args *a, uint64_t i)
{
    const struct window_shape *s = &a->shape;
    struct pixel_at p = pixel_of(i, s->in_h, s->in_w, s->c);
    uint64_t base = p.row * s->out_h * s->out_w * s->c + p.c;
    float sum = 0;

    if (!is_live(&a->live, i))
        return;
    for (uint32_t oh = first_window(p.h, s->kernel_h, s->stride, s->top);
         oh < last_window(p.h, s->stride, s->top, s->out_h); oh++)
        for (uint32_t ow = first_window(p.w, s->kernel_w, s->stride, s->left);
             ow < last_window(p.w, s->stride, s->left, s->out_w); ow++) {
            struct window_at w = window_of(s, oh, ow);
            float scale = 1.0f / (float)((w.bottom - w.top) * (w.right - w.left));
            sum += a->dy[base + (uint64_t)(oh * s->out_w + ow) * s->c] * scale;
        }
    put_gradient(&a->out[i], sum, a->mask_x ? &a->mask_x[i] : NULL, a->add);
}

DEVICE void global_pool_body(const struct pool_args *a, uint64_t i)
{
    uint32_t c = a->shape.c, pixels = a->shape.in_h * a->shape.in_w;
    uint64_t row = quotient(i, c);
    const float *x = a->x + row * pixels * c + (i - row * c);
    double sum = 0;
    float mean;

    if (!is_live(&a->live, i))
        return;
    for (uint32_t p = 0; p < pixels; p++)
        sum += (double)x[(uint64_t)p * c];
    mean = (float)(sum / (double)pixels);
    a->out[i] = a->relu && mean < 0 ? 0 : mean;
}

DEVICE void global_pool_backward_body(const struct pool_args *a, uint64_t i)
{
    uint32_t c = a->shape.c, pixels = a->shape.in_h * a->shape.in_w;
    uint64_t pixel = quotient(i, c);

    if (is_live(&a->live, i))
        put_gradient(&a->out[i], a->dy[quotient(pixel, pixels) * c + (i - pixel * c)] * (1.0f / (float)pixels),
                     a->mask_x ? &a->mask_x[i] : NULL, a->add);
}

/* y = x, ReLU of it, or ReLU of x + x2 */
struct add_args {
    uint64_t count;
    struct live live;
    const float *x, *x2; /* x2 may be NULL */
    float *y;
    uint32_t relu;
};

DEVICE void add_body(const struct add_args *a, uint64_t i)
{
    float value;

    if (!is_live(&a->live, i))
        return;
    value = a->x2 ? a->x[i] + a->x2[i] : a->x[i];
    a->y[i] = a->relu && value < 0 ? 0 : value; /* NaN stays */
}

/* dx = dy, but 0 where a mask is 0 or below. y: the ReLU's own output, where it is a layer of its own; mask: see above. */
struct pass_args {
    uint64_t count;
    struct live live;
    const float *dy, *y, *mask;
    float *dx;
    uint32_t add;
};

DEVICE void pass_body(const struct pass_args *a, uint64_t i)
{
    if (is_live(&a->live, i))
        put_gradient(&a->dx[i], a->y && a->y[i] <= 0 ? 0 : a->dy[i], a->mask ? &a->mask[i] : NULL, a->add);
}

/* Rows past a lane's own become zeros: before a library sums over all rows. */
struct dead_args {
    uint64_t count;
    struct live live;
    float *x;
};

DEVICE void dead_body(const struct dead_args *a, uint64_t i)
{
    if (!is_live(&a->live, i))
        a->x[i] = 0;
}

/* y + bias, ReLU of it: where a library has left that. */
struct bias_args {
    uint64_t count;
    struct live live;
    const float *bias;
    float *y;
    uint64_t weights_stride;
    uint32_t c, relu;
};

DEVICE void bias_body(const struct bias_args *a, uint64_t i)
{
    float value;

    if (!is_live(&a->live, i))
        return;
    value = a->y[i];
    if (a->bias)
        value +=
            a->bias[quotient(quotient(i, a->live.values), a->live.rows) * a->weights_stride + remainder_of(i, a->c)];
    a->y[i] = a->relu && value < 0 ? 0 : value;
}

/* Sums of dy over rows and pixels, by channel: parts of BIAS_RUN pixels, then of the parts. */
#define BIAS_RUN 64

struct bias_gradient_args {
    uint64_t count; /* lanes x parts x c; then lanes x c */
    const struct lane_step *steps;
    const float *dy;
    float *parts, *out;
    uint64_t out_stride;
    uint32_t rows, pixels, c, parts_n;
};

DEVICE void bias_gradient_body(const struct bias_gradient_args *a, uint64_t i)
{
    uint64_t lane = i / a->c / a->parts_n, part = i / a->c % a->parts_n,
             end = (uint64_t)a->steps[lane].rows * a->pixels;
    const float *dy = a->dy + lane * a->rows * a->pixels * a->c + i % a->c;
    float sum = 0;

    if (end > (part + 1) * BIAS_RUN)
        end = (part + 1) * BIAS_RUN;
    for (uint64_t p = part * BIAS_RUN; p < end; p++)
        sum += dy[p * a->c];
    a->parts[i] = sum;
}

DEVICE void bias_gradient_sum_body(const struct bias_gradient_args *a, uint64_t i)
{
    uint64_t lane = i / a->c;
    float sum = 0;

    for (uint64_t part = 0; part < a->parts_n; part++)
        sum += a->parts[(lane * a->parts_n + part) * a->c + i % a->c];
    a->out[lane * a->out_stride + i % a->c] = sum;
}

/* H, W, C to C, H, W or back (as a gradient, masked and added where wanted). */
struct transpose_args {
    uint64_t count;
    struct live live;
    const float *x, *mask;
    float *y;
    uint32_t c, pixels, back, add;
};

DEVICE void transpose_body(const struct transpose_args *a, uint64_t i)
{
    uint64_t values = (uint64_t)a->c * a->pixels, row = quotient(i, values), k = i - row * values;
    uint64_t from = a->back ? remainder_of(k, a->c) * a->pixels + quotient(k, a->c)
                            : remainder_of(k, a->pixels) * a->c + quotient(k, a->pixels);

    if (is_live(&a->live, i))
        put_gradient(&a->y[i], a->x[row * values + from], a->mask ? &a->mask[i] : NULL, a->add);
}

/* Dropout: an index for each DROP_RUN draws, thus 2 * DROP_RUN values, of a lane; jumps ahead to them. Where the batch
 * begins on another GPU, the first value here may be the second of its draw. */
#define DROP_RUN 8

struct dropout_args {
    uint64_t count; /* lanes x runs */
    const struct lane_step *steps;
    const float *x;
    float *y;
    uint8_t *kept;
    const uint32_t *draws; /* see begin_step */
    const struct drop *drops; /* of this layer; lanes are drops_stride apart */
    uint32_t before;       /* dropout layers in front of this one */
    uint32_t rows, values, runs, drops_stride;
    uint32_t off; /* copies */
};

DEVICE void dropout_body(const struct dropout_args *a, uint64_t i)
{
    uint64_t lane = quotient(i, a->runs), run = i - lane * a->runs, n = (uint64_t)a->steps[lane].rows * a->values;
    uint64_t first = run * 2 * DROP_RUN, base = lane * a->rows * a->values;
    uint64_t ahead = (uint64_t)a->steps[lane].row * a->values, odd = ahead & 1;
    struct pcg32 rng = a->steps[lane].dropout;
    struct drop drop = a->drops[lane * a->drops_stride];

    if (first >= n + odd)
        return;
    if (!a->off)
        pcg32_jump(&rng, draws_before(a->draws, a->before, a->steps[lane].whole) + ahead / 2 + run * DROP_RUN);
    for (uint32_t k = 0; k < DROP_RUN; k++) {
        uint32_t draw = a->off ? 0 : pcg32_step(&rng);
        for (uint32_t half = 0; half < 2; half++, draw >>= 16) {
            uint64_t at = first + 2 * k + half;
            bool keep = a->off || (draw & 0xffff) >= drop.threshold;
            if (at < odd)
                continue;
            at -= odd;
            if (at >= n)
                return;
            a->kept[base + at] = keep;
            a->y[base + at] = !keep ? 0 : a->off ? a->x[base + at] : a->x[base + at] * drop.scale;
        }
    }
}

struct dropout_backward_args {
    uint64_t count;
    struct live live;
    const float *dy, *mask;
    const uint8_t *kept;
    const struct drop *drops; /* see dropout */
    float *dx;
    uint32_t drops_stride, off, add;
};

DEVICE void dropout_backward_body(const struct dropout_backward_args *a, uint64_t i)
{
    uint64_t lane = quotient(i, (uint64_t)a->live.rows * a->live.values);
    float scale = a->off ? 1 : a->drops[lane * a->drops_stride].scale;

    if (is_live(&a->live, i))
        put_gradient(&a->dx[i], a->kept[i] ? a->dy[i] * scale : 0, a->mask ? &a->mask[i] : NULL, a->add);
}

#endif
