/* kernels.c - pooling, ReLU and sums over flat arrays. The innermost loops run over channels, which lie
 * together. SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cpu/cpu_private.h"
#include "trainer/optim/vector.h"

#include <math.h>
#include <string.h>

/* pools */

struct window {
    int top, bottom, left, right; /* of the input, clipped */
};

static struct window window_at(const struct layer *l, int oh, int ow)
{
    int top = oh * l->stride - l->pad_top, left = ow * l->stride - l->pad_left;

    return (struct window){.top = top < 0 ? 0 : top,
                           .bottom = top + l->kernel_h < l->in.h ? top + l->kernel_h : l->in.h,
                           .left = left < 0 ? 0 : left,
                           .right = left + l->kernel_w < l->in.w ? left + l->kernel_w : l->in.w};
}

/* A NaN wins, so that it is seen. */
#define LARGER(x, m) ((x) > (m) || (x) != (x))

VECTOR_CLONES static void max_first(const float *restrict x, float *restrict y, uint16_t *restrict arg, size_t c)
{
    for (size_t i = 0; i < c; i++) {
        y[i] = x[i];
        arg[i] = 0;
    }
}

VECTOR_CLONES static void max_next(const float *restrict x, float *restrict y, uint16_t *restrict arg, uint16_t place,
                                   size_t c)
{
    for (size_t i = 0; i < c; i++) {
        bool larger = LARGER(x[i], y[i]);
        y[i] = larger ? x[i] : y[i];
        arg[i] = larger ? place : arg[i];
    }
}

VECTOR_CLONES static void max_2x2(const float *restrict a, const float *restrict b, float *restrict y,
                                  uint16_t *restrict arg, size_t c)
{
    for (size_t i = 0; i < c; i++) {
        float m = a[i], x;
        int32_t place = 0;
        x = a[c + i];
        place = LARGER(x, m) ? 1 : place;
        m = LARGER(x, m) ? x : m;
        x = b[i];
        place = LARGER(x, m) ? 2 : place;
        m = LARGER(x, m) ? x : m;
        x = b[c + i];
        place = LARGER(x, m) ? 3 : place;
        m = LARGER(x, m) ? x : m;
        y[i] = m;
        arg[i] = (uint16_t)place;
    }
}

VECTOR_CLONES static void max_2x2_backward(const float *restrict dy, const float *restrict y,
                                           const uint16_t *restrict arg, float *restrict a, float *restrict b, size_t c,
                                           float mask)
{
    for (size_t i = 0; i < c; i++) {
        float d = !(y[i] <= mask) ? dy[i] : 0;
        int32_t place = arg[i];
        a[i] = place == 0 ? d : 0;
        a[c + i] = place == 1 ? d : 0;
        b[i] = place == 2 ? d : 0;
        b[c + i] = place == 3 ? d : 0;
    }
}

/* Windows of 2 x 2 that cover the input without pads. */
static bool is_2x2(const struct layer *l)
{
    return l->kernel_h == 2 && l->kernel_w == 2 && l->stride == 2 && !l->pad_top && !l->pad_left && !(l->in.h & 1) &&
           !(l->in.w & 1);
}

void kernel_max_pool(const struct layer *l, const float *x, float *y, uint16_t *arg, size_t n)
{
    size_t c = (size_t)l->in.c, row = (size_t)l->in.w * c, image = (size_t)l->in.h * row;
    bool quick = is_2x2(l);

    for (size_t i = 0; i < n; i++, x += image)
        for (int oh = 0; oh < l->out.h; oh++)
            for (int ow = 0; ow < l->out.w; ow++, y += c, arg += c) {
                struct window w;
                bool first = true;
                if (quick) {
                    const float *a = x + (size_t)(2 * oh) * row + (size_t)(2 * ow) * c;
                    max_2x2(a, a + row, y, arg, c);
                    continue;
                }
                w = window_at(l, oh, ow);
                for (int h = w.top; h < w.bottom; h++)
                    for (int v = w.left; v < w.right; v++, first = false) {
                        const float *from = x + (size_t)h * row + (size_t)v * c;
                        uint16_t place = (uint16_t)((h - w.top) * (w.right - w.left) + v - w.left);
                        if (first)
                            max_first(from, y, arg, c);
                        else
                            max_next(from, y, arg, place, c);
                    }
            }
}

void kernel_max_pool_backward(const struct layer *l, const float *dy, const float *y, const uint16_t *arg, float *dx,
                              size_t n, bool relu_mask)
{
    size_t c = (size_t)l->in.c, row = (size_t)l->in.w * c, image = (size_t)l->in.h * row;
    bool quick = is_2x2(l);
    float mask = relu_mask ? 0 : NAN; /* nothing is at most NAN; what is no number passes ReLU */

    if (!quick)
        memset(dx, 0, n * image * sizeof *dx);
    for (size_t i = 0; i < n; i++, dx += image)
        for (int oh = 0; oh < l->out.h; oh++)
            for (int ow = 0; ow < l->out.w; ow++, y += c, dy += c, arg += c) {
                struct window w;
                if (quick) {
                    float *a = dx + (size_t)(2 * oh) * row + (size_t)(2 * ow) * c;
                    max_2x2_backward(dy, y, arg, a, a + row, c, mask);
                    continue;
                }
                w = window_at(l, oh, ow);
                for (size_t k = 0; k < c; k++) {
                    int h = w.top + arg[k] / (w.right - w.left), v = w.left + arg[k] % (w.right - w.left);
                    if (!(y[k] <= mask))
                        dx[(size_t)h * row + (size_t)v * c + k] += dy[k];
                }
            }
}

void kernel_avg_pool(const struct layer *l, const float *x, float *y, size_t n)
{
    size_t c = (size_t)l->in.c, row = (size_t)l->in.w * c, image = (size_t)l->in.h * row;

    for (size_t i = 0; i < n; i++, x += image)
        for (int oh = 0; oh < l->out.h; oh++)
            for (int ow = 0; ow < l->out.w; ow++, y += c) {
                struct window w = window_at(l, oh, ow);
                float scale = 1.0f / (float)((w.bottom - w.top) * (w.right - w.left));
                memset(y, 0, c * sizeof *y);
                for (int h = w.top; h < w.bottom; h++)
                    for (int v = w.left; v < w.right; v++)
                        for (size_t k = 0; k < c; k++)
                            y[k] += x[(size_t)h * row + (size_t)v * c + k];
                for (size_t k = 0; k < c; k++)
                    y[k] *= scale;
            }
}

void kernel_avg_pool_backward(const struct layer *l, const float *dy, float *dx, size_t n)
{
    size_t c = (size_t)l->in.c, row = (size_t)l->in.w * c, image = (size_t)l->in.h * row;

    memset(dx, 0, n * image * sizeof *dx);
    for (size_t i = 0; i < n; i++, dx += image)
        for (int oh = 0; oh < l->out.h; oh++)
            for (int ow = 0; ow < l->out.w; ow++, dy += c) {
                struct window w = window_at(l, oh, ow);
                float scale = 1.0f / (float)((w.bottom - w.top) * (w.right - w.left));
                for (int h = w.top; h < w.bottom; h++)
                    for (int v = w.left; v < w.right; v++)
                        for (size_t k = 0; k < c; k++)
                            dx[(size_t)h * row + (size_t)v * c + k] += dy[k] * scale;
            }
}

void kernel_global_avg_pool(const struct layer *l, const float *x, float *y, size_t n, double *sums)
{
    size_t c = (size_t)l->in.c, pixels = (size_t)l->in.h * (size_t)l->in.w;

    for (size_t i = 0; i < n; i++, y += c) {
        memset(sums, 0, c * sizeof *sums);
        for (size_t p = 0; p < pixels; p++, x += c)
            for (size_t k = 0; k < c; k++)
                sums[k] += (double)x[k];
        for (size_t k = 0; k < c; k++)
            y[k] = (float)(sums[k] / (double)pixels);
    }
}

void kernel_global_avg_pool_backward(const struct layer *l, const float *dy, float *dx, size_t n)
{
    size_t c = (size_t)l->in.c, pixels = (size_t)l->in.h * (size_t)l->in.w;
    float scale = 1.0f / (float)pixels;

    for (size_t i = 0; i < n; i++, dy += c)
        for (size_t p = 0; p < pixels; p++, dx += c)
            for (size_t k = 0; k < c; k++)
                dx[k] = dy[k] * scale;
}

/* ReLU; y is x's own storage where it may be */

VECTOR_CLONES void kernel_relu(const float *x, float *y, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] = x[i] < 0 ? 0 : x[i]; /* NaN stays */
}

VECTOR_CLONES void kernel_relu_backward(const float *y, const float *dy, float *dx, size_t n)
{
    for (size_t i = 0; i < n; i++)
        dx[i] = !(y[i] <= 0) ? dy[i] : 0;
}

/* sums */

VECTOR_CLONES void kernel_add(const float *a, const float *b, float *y, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] = a[i] + b[i];
}

VECTOR_CLONES void kernel_accumulate(const float *x, float *y, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] += x[i];
}

void kernel_transpose(const struct shape *image, const float *x, float *y, size_t n, bool back)
{
    size_t c = (size_t)image->c, pixels = (size_t)image->h * (size_t)image->w;
    size_t rows = back ? c : pixels, columns = back ? pixels : c;

    for (size_t i = 0; i < n; i++, x += c * pixels, y += c * pixels)
        for (size_t r = 0; r < rows; r++)
            for (size_t k = 0; k < columns; k++)
                y[k * rows + r] = x[r * columns + k];
}

VECTOR_CLONES void kernel_scaled(const float *x, double weight, double *sum, size_t n)
{
    for (size_t i = 0; i < n; i++)
        sum[i] = weight * (double)x[i];
}

VECTOR_CLONES void kernel_add_scaled(const float *x, double weight, double *sum, size_t n)
{
    for (size_t i = 0; i < n; i++)
        sum[i] += weight * (double)x[i];
}

VECTOR_CLONES void kernel_proximal(float mu, const float *w, const float *start, float *g, size_t n)
{
    for (size_t i = 0; i < n; i++)
        g[i] += mu * (w[i] - start[i]);
}

VECTOR_CLONES bool kernel_finite(const float *x, size_t n)
{
    uint32_t bad = 0;

    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &x[i], sizeof bits);
        bad |= (bits & 0x7f800000u) == 0x7f800000u;
    }
    return !bad;
}

/* Eight running sums, added up in fixed order. */
double kernel_distance(const float *a, const float *b, size_t n)
{
    double sums[8] = {0}, sum = 0;
    size_t i = 0;

    for (; i + 8 <= n; i += 8)
        for (size_t k = 0; k < 8; k++) {
            double d = (double)a[i + k] - (double)b[i + k];
            sums[k] += d * d;
        }
    for (; i < n; i++) {
        double d = (double)a[i] - (double)b[i];
        sums[0] += d * d;
    }
    for (size_t k = 0; k < 8; k++)
        sum += sums[k];
    return sum;
}
