/* kernels.c - ReLU, transposition and sums over flat arrays. SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cpu/cpu_private.h"
#include "trainer/optim/vector.h"

#include <math.h>
#include <string.h>

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
