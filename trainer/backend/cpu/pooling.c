/* pooling.c - max and average pools. The innermost loops run over channels, which lie together: eight at a time (comparing
 * sixteen takes more than AVX-512F has), then four, then one. Windows of max pools that do not overlap are written once by
 * the backward pass, place by place; those that do are added to value by value. SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cpu/cpu_private.h"
#include "trainer/optim/vector.h"

#include <math.h>
#include <string.h>

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

/* max */

typedef float floats8 __attribute__((vector_size(32)));
typedef float floats4 __attribute__((vector_size(16)));
typedef int32_t ints8 __attribute__((vector_size(32)));
typedef int32_t ints4 __attribute__((vector_size(16)));
typedef uint16_t places8 __attribute__((vector_size(16)));
typedef uint16_t places4 __attribute__((vector_size(8)));

#define SELECT(type, mask, a, b) ((type)(((mask) & (__typeof__(mask))(a)) | (~(mask) & (__typeof__(mask))(b))))

/* From channel k on, n at a time. The first of equals wins, and what is no number, so that it is seen. */
#define MAX_OF_WINDOW(n, keep)                                                                                         \
    for (; k + n <= c; k += n) {                                                                                       \
        floats##n m, v;                                                                                                \
        ints##n place = {0};                                                                                           \
        int32_t p = 0;                                                                                                 \
        memcpy(&m, from + k, sizeof m);                                                                                \
        for (size_t h = 0; h < height; h++)                                                                            \
            for (size_t at = 0; at < width; at++, p++) {                                                               \
                ints##n larger;                                                                                        \
                memcpy(&v, from + h * row + at * c + k, sizeof v);                                                     \
                larger = (v > m) | (v != v);                                                                           \
                m = SELECT(floats##n, larger, v, m);                                                                   \
                if (keep)                                                                                              \
                    place = SELECT(ints##n, larger, place * 0 + p, place);                                             \
            }                                                                                                          \
        memcpy(y + k, &m, sizeof m);                                                                                   \
        if (keep) {                                                                                                    \
            places##n narrow = __builtin_convertvector(place, places##n);                                              \
            memcpy(arg + k, &narrow, sizeof narrow);                                                                   \
        }                                                                                                              \
    }

VECTOR_CLONES void kernel_max_pool(const struct layer *l, const float *x, float *y, uint16_t *arg, size_t n)
{
    size_t c = (size_t)l->in.c, row = (size_t)l->in.w * c, image = (size_t)l->in.h * row;

    for (size_t i = 0; i < n; i++, x += image)
        for (int oh = 0; oh < l->out.h; oh++)
            for (int ow = 0; ow < l->out.w; ow++, y += c, arg = arg ? arg + c : NULL) {
                struct window w = window_at(l, oh, ow);
                const float *from = x + (size_t)w.top * row + (size_t)w.left * c;
                size_t height = (size_t)(w.bottom - w.top), width = (size_t)(w.right - w.left), k = 0;

                if (arg) {
                    MAX_OF_WINDOW(8, true)
                    MAX_OF_WINDOW(4, true)
                } else {
                    MAX_OF_WINDOW(8, false)
                    MAX_OF_WINDOW(4, false)
                }
                for (; k < c; k++) {
                    size_t place = 0;
                    float m = from[k];
                    for (size_t p = 1; p < height * width; p++) {
                        float v = from[p / width * row + p % width * c + k];
                        if (v > m || v != v) {
                            m = v;
                            place = p;
                        }
                    }
                    y[k] = m;
                    if (arg)
                        arg[k] = (uint16_t)place;
                }
            }
}

/* d to the place that won, 0 to the others. */
#define SPREAD_OVER_WINDOW(n)                                                                                          \
    for (; k + n <= c; k += n) {                                                                                       \
        floats##n d, v;                                                                                                \
        places##n narrow;                                                                                              \
        ints##n place;                                                                                                 \
        int32_t p = 0;                                                                                                 \
        memcpy(&d, dy + k, sizeof d);                                                                                  \
        memcpy(&v, y + k, sizeof v);                                                                                   \
        memcpy(&narrow, arg + k, sizeof narrow);                                                                       \
        place = __builtin_convertvector(narrow, ints##n);                                                              \
        d = (floats##n)(~(v <= mask) & (ints##n)d);                                                                    \
        for (size_t h = 0; h < height; h++)                                                                            \
            for (size_t at = 0; at < width; at++, p++) {                                                               \
                floats##n here = (floats##n)((place == p) & (ints##n)d);                                               \
                memcpy(to + h * row + at * c + k, &here, sizeof here);                                                 \
            }                                                                                                          \
    }

VECTOR_CLONES static void spread_window(const float *dy, const float *y, const uint16_t *arg, float *to, size_t row,
                                        size_t c, size_t height, size_t width, float mask)
{
    size_t k = 0;

    SPREAD_OVER_WINDOW(8)
    SPREAD_OVER_WINDOW(4)
    for (; k < c; k++)
        for (size_t p = 0; p < height * width; p++)
            to[p / width * row + p % width * c + k] = arg[k] == p && !(y[k] <= mask) ? dy[k] : 0;
}

/* No pixel of the input is in two windows; and whether each is in one. */
static bool windows_apart(const struct layer *l)
{
    return l->stride >= l->kernel_h && l->stride >= l->kernel_w;
}

static bool windows_cover(const struct layer *l)
{
    return l->stride == l->kernel_h && l->stride == l->kernel_w && !l->pad_top && !l->pad_left &&
           l->out.h * l->stride == l->in.h && l->out.w * l->stride == l->in.w;
}

void kernel_max_pool_backward(const struct layer *l, const float *dy, const float *y, const uint16_t *arg, float *dx,
                              size_t n, bool relu_mask)
{
    size_t c = (size_t)l->in.c, row = (size_t)l->in.w * c, image = (size_t)l->in.h * row;
    bool apart = windows_apart(l);
    float mask = relu_mask ? 0 : NAN; /* nothing is at most NAN; what is no number passes ReLU */

    if (!windows_cover(l))
        memset(dx, 0, n * image * sizeof *dx);
    for (size_t i = 0; i < n; i++, dx += image)
        for (int oh = 0; oh < l->out.h; oh++)
            for (int ow = 0; ow < l->out.w; ow++, y += c, dy += c, arg += c) {
                struct window w = window_at(l, oh, ow);
                size_t width = (size_t)(w.right - w.left);
                float *to = dx + (size_t)w.top * row + (size_t)w.left * c;

                if (apart) {
                    spread_window(dy, y, arg, to, row, c, (size_t)(w.bottom - w.top), width, mask);
                    continue;
                }
                for (size_t k = 0; k < c; k++)
                    if (!(y[k] <= mask))
                        to[arg[k] / width * row + arg[k] % width * c + k] += dy[k];
            }
}

/* averages */

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
