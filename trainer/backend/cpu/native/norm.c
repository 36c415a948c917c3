/* norm.c - group normalisation of rows of (pixels, channels), with what follows it: a sum with another tensor, ReLU.
 * Wu, He 2018 (arXiv:1803.08494). Batch normalisation is this with one row of all pixels and a group for each channel.
 * Statistics take one pass, of differences from a value near the mean, with a second one where it was not near.
 * Values are summed in float over SPAN pixels at most, and these sums in double. Few channels are seen as more of them,
 * with fewer pixels, so that vectors are full. SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cpu/native/kernels.h"

#include <math.h>

#define SPAN 32 /* pixels that are summed in float */
#define WIDE 64 /* channels that a pixel should have at least */
#define VECS 4  /* vectors of channels that are held in registers */
#define AHEAD 1024 /* floats: the processor's own prefetching stops at each page */

typedef double vec_double __attribute__((vector_size(4 * VEC_N), may_alias));
typedef float vec_half __attribute__((vector_size(2 * VEC_N), may_alias));

/* sum[0 .. VEC_N - 1] += v. By way of memory that the compiler does not see through: it would keep v itself there, for its
 * halves, and load and store it for every pixel. */
VEC_INLINE void add_double(double *sum, vec v)
{
    float values[VEC_N] __attribute__((aligned(64)));

    vec_store(values, v);
    __asm__("" : "+m"(values));
    VEC_UNROLL for (int i = 0; i < 2; i++)
    {
        vec_half half;
        vec_double d;
        memcpy(&half, values + i * (VEC_N / 2), sizeof half);
        memcpy(&d, sum + i * (VEC_N / 2), sizeof d);
        d = d + __builtin_convertvector(half, vec_double);
        memcpy(sum + i * (VEC_N / 2), &d, sizeof d);
    }
}

/* What the passes work on; arrays of `wide` values, and room for a vector more. */
struct job {
    size_t pixels, wide; /* as seen */
    bool relu;
    const float *x, *y, *dy, *skip;
    float *out, *masked;
    float *mean, *a, *b, *d; /* by channel */
    double *sum, *product;
};

enum pass { STATISTICS, APPLY, GRADIENTS, COMBINE };

VEC_INLINE vec load(const float *p, size_t n)
{
    return n == VEC_N ? vec_load(p) : vec_load_n(p, n);
}

VEC_INLINE void store(float *p, vec v, size_t n)
{
    if (n == VEC_N)
        vec_store(p, v);
    else
        vec_store_n(p, v, n);
}

/* ReLU's mask, which lets a gradient through where the output is no number. */
VEC_INLINE vec masked(vec y, vec dy)
{
    return vec_where(vec_mask_or(vec_gt(y, vec_zero()), vec_unordered(y)), dy);
}

/* What the first pass over a row brings from far, and what APPLY writes first. */
VEC_INLINE void fetch(const struct job *j, enum pass pass, bool relu, bool other, size_t at)
{
    at += AHEAD;
    if (pass == STATISTICS || pass == GRADIENTS)
        __builtin_prefetch(j->x + at);
    if (pass == GRADIENTS)
        __builtin_prefetch(j->dy + at);
    if (pass == GRADIENTS && relu)
        __builtin_prefetch(j->y + at);
    if (pass == GRADIENTS && other)
        __builtin_prefetch(j->masked + at, 1);
    if (pass == APPLY)
        __builtin_prefetch(j->out + at, 1);
    if (pass == APPLY && other)
        __builtin_prefetch(j->skip + at);
}

/* Pixels [p, end) of `vecs` vectors of channels from c on; n: values of each vector, VEC_N if there are several. other:
 * there is a skip, or masked. What is decided here is decided by the compiler: a branch in the loop would cost it the
 * registers that hold the sums. */
VEC_INLINE void pass_block(const struct job *job, enum pass pass, bool relu, bool other, size_t p, size_t end, size_t c,
                           int vecs, size_t n)
{
    const struct job j = *job; /* which stores cannot change */
    vec sum[VECS], product[VECS], mean[VECS], a[VECS], b[VECS], d[VECS];

    VEC_UNROLL for (int i = 0; i < vecs; i++)
    {
        size_t at = c + (size_t)i * VEC_N;
        sum[i] = product[i] = vec_zero();
        mean[i] = vec_load(j.mean + at);
        if (pass == APPLY || pass == COMBINE) {
            a[i] = vec_load(j.a + at);
            b[i] = vec_load(j.b + at);
        }
        if (pass == COMBINE)
            d[i] = vec_load(j.d + at);
    }
    for (; p < end; p++)
        VEC_UNROLL for (int i = 0; i < vecs; i++)
        {
            size_t at = p * j.wide + c + (size_t)i * VEC_N;
            vec x = load(j.x + at, n) - mean[i], dy;
            fetch(&j, pass, relu, other, at);
            if (pass == STATISTICS) {
                sum[i] = sum[i] + x;
                product[i] = vec_fma(x, x, product[i]);
                continue;
            }
            if (pass == APPLY) {
                x = vec_fma(x, a[i], b[i]);
                if (other)
                    x = x + load(j.skip + at, n);
                store(j.out + at, relu ? vec_max(vec_zero(), x) : x, n);
                continue;
            }
            if (pass == COMBINE && other) {
                dy = load(j.masked + at, n);
            } else {
                dy = load(j.dy + at, n);
                if (relu)
                    dy = masked(load(j.y + at, n), dy);
            }
            if (pass == COMBINE) {
                store(j.out + at, vec_fma(a[i], dy, vec_fma(b[i], x, d[i])), n);
                continue;
            }
            if (other)
                store(j.masked + at, dy, n);
            sum[i] = sum[i] + dy;
            product[i] = vec_fma(dy, x, product[i]);
        }
    VEC_UNROLL for (int i = 0; i < vecs; i++)
    {
        if (pass == STATISTICS || pass == GRADIENTS) {
            add_double(j.sum + c + (size_t)i * VEC_N, sum[i]);
            add_double(j.product + c + (size_t)i * VEC_N, product[i]);
        }
    }
}

VEC_INLINE void run(const struct job *j, enum pass pass, bool relu, bool other)
{
    for (size_t p = 0; p < j->pixels; p += SPAN) {
        size_t end = p + SPAN < j->pixels ? p + SPAN : j->pixels, c = 0;
        for (; c + VECS * VEC_N <= j->wide; c += VECS * VEC_N)
            pass_block(j, pass, relu, other, p, end, c, VECS, VEC_N);
        for (; c + VEC_N <= j->wide; c += VEC_N)
            pass_block(j, pass, relu, other, p, end, c, 1, VEC_N);
        if (c < j->wide)
            pass_block(j, pass, relu, other, p, end, c, 1, j->wide - c);
    }
}

#define RUN(pass, relu, other)                                                                                         \
    static void pass##_##relu##_##other(const struct job *j)                                                           \
    {                                                                                                                  \
        run(j, pass, relu, other);                                                                                     \
    }
#define RUNS(pass) RUN(pass, false, false) RUN(pass, false, true) RUN(pass, true, false) RUN(pass, true, true)
#define PICK(pass, relu, other)                                                                                        \
    ((relu) ? (other) ? pass##_true_true : pass##_true_false : (other) ? pass##_false_true : pass##_false_false)
RUN(STATISTICS, false, false)
RUNS(APPLY)
RUNS(GRADIENTS)
RUNS(COMBINE)

static void clear_sums(const struct job *j)
{
    memset(j->sum, 0, j->wide * sizeof *j->sum);
    memset(j->product, 0, j->wide * sizeof *j->product);
}

static void run_statistics(const struct job *j)
{
    clear_sums(j);
    STATISTICS_false_false(j);
}

static void run_apply(const struct job *j)
{
    PICK(APPLY, j->relu, j->skip)(j);
}

static void run_gradients(const struct job *j)
{
    clear_sums(j);
    PICK(GRADIENTS, j->relu, j->masked)(j);
}

static void run_combine(const struct job *j)
{
    PICK(COMBINE, j->relu, j->masked)(j);
}

static size_t wide_of(const struct native_norm *n)
{
    size_t k = 1;

    while (k * n->channels < WIDE && n->pixels % (2 * k) == 0)
        k *= 2;
    return k * n->channels;
}

/* An array of the scratch: `wide` values and a vector more, whole lines. */
static size_t array_bytes(size_t wide, size_t value)
{
    return ((wide + VEC_N) * value + 63) / 64 * 64;
}

size_t NATIVE(norm_scratch_bytes)(const struct native_norm *n)
{
    size_t wide = wide_of(n);

    return 4 * array_bytes(wide, sizeof(float)) + 2 * array_bytes(wide, sizeof(double));
}

static struct job job_of(const struct native_norm *n, void *scratch)
{
    struct job j = {.wide = wide_of(n), .relu = n->relu};
    size_t floats = array_bytes(j.wide, sizeof(float)), doubles = array_bytes(j.wide, sizeof(double));
    char *at = scratch;

    j.pixels = n->pixels * n->channels / j.wide;
    j.sum = (double *)(void *)at;
    j.product = (double *)(void *)(at + doubles);
    at += 2 * doubles;
    j.mean = (float *)(void *)at;
    j.a = (float *)(void *)(at + floats);
    j.b = (float *)(void *)(at + 2 * floats);
    j.d = (float *)(void *)(at + 3 * floats);
    return j;
}

/* Sums of what is seen as further channels, to the first ones'. */
static void fold(double *sum, size_t wide, size_t channels)
{
    for (size_t i = channels; i < wide; i++)
        sum[i % channels] += sum[i];
}

static void spread(float *values, size_t wide, size_t channels)
{
    for (size_t i = channels; i < wide; i++)
        values[i] = values[i - channels];
}

/* Mean and variance of each group; mean: at first a value near each channel's. */
static void statistics(const struct native_norm *n, const struct job *j, float *mean, float *rstd, double *ret_var)
{
    const size_t c = n->channels, width = c / n->groups;
    const double count = (double)(n->pixels * width);

    for (int again = 0; again < 2; again++) {
        bool far = false;
        spread(j->mean, j->wide, c);
        run_statistics(j);
        fold(j->sum, j->wide, c);
        fold(j->product, j->wide, c);
        for (size_t g = 0, k = 0; g < n->groups; g++, k += width) {
            double sum = 0, product = 0, from = (double)j->mean[k], var;
            for (size_t i = k; i < k + width; i++) {
                sum += j->sum[i];
                product += j->product[i];
            }
            sum /= count;
            var = product / count - sum * sum;
            var = var < 0 ? 0 : var; /* NaN stays */
            far |= sum * sum > 16 * var;
            mean[g] = (float)(from + sum);
            rstd[g] = (float)(1 / sqrt(var + n->eps));
            if (ret_var)
                ret_var[g] = var;
            for (size_t i = k; i < k + width; i++)
                j->mean[i] = mean[g];
        }
        if (!far)
            break;
    }
    spread(j->mean, j->wide, c);
}

void NATIVE(norm_forward)(const struct native_norm *n, const float *x, const float *skip, float *y, const float *gamma,
                          const float *beta, float *stats, double *ret_var, void *scratch, size_t lo, size_t hi)
{
    const size_t c = n->channels, row = n->pixels * c, width = c / n->groups;
    struct job j = job_of(n, scratch);

    memcpy(j.b, beta, c * sizeof *beta);
    spread(j.b, j.wide, c);
    for (size_t r = lo; r < hi; r++) {
        float *mean = stats + r * 2 * n->groups, *rstd = mean + n->groups;
        j.x = x + r * row;
        j.skip = skip ? skip + r * row : NULL;
        j.out = y + r * row;
        for (size_t k = 0; k < c; k += width) {
            float sum = 0; /* of the first pixel */
            for (size_t i = k; i < k + width; i++)
                sum += j.x[i];
            for (size_t i = k; i < k + width; i++)
                j.mean[i] = sum / (float)width;
        }
        statistics(n, &j, mean, rstd, ret_var);
        for (size_t g = 0, k = 0; g < n->groups; g++)
            for (size_t i = 0; i < width; i++, k++)
                j.a[k] = (float)((double)rstd[g] * (double)gamma[k]);
        spread(j.a, j.wide, c);
        run_apply(&j);
    }
}

void NATIVE(norm_apply)(const struct native_norm *n, const float *x, const float *skip, float *y, const float *gamma,
                        const float *beta, const float *mean, const float *rstd, void *scratch, size_t lo, size_t hi)
{
    const size_t c = n->channels, row = n->pixels * c;
    struct job j = job_of(n, scratch);

    for (size_t k = 0; k < c; k++) {
        size_t g = k / (c / n->groups);
        j.mean[k] = mean[g];
        j.a[k] = (float)((double)rstd[g] * (double)gamma[k]);
        j.b[k] = beta[k];
    }
    spread(j.mean, j.wide, c);
    spread(j.a, j.wide, c);
    spread(j.b, j.wide, c);
    for (size_t r = lo; r < hi; r++) {
        j.x = x + r * row;
        j.skip = skip ? skip + r * row : NULL;
        j.out = y + r * row;
        run_apply(&j);
    }
}

void NATIVE(norm_backward)(const struct native_norm *n, const float *x, const float *y, const float *dy, float *dx,
                           float *dmasked, const float *gamma, const float *stats, float *partial, void *scratch,
                           size_t lo, size_t hi)
{
    const size_t c = n->channels, row = n->pixels * c, width = c / n->groups;
    const double count = (double)(n->pixels * width);
    float *dgamma = partial, *dbeta = partial + c;
    struct job j = job_of(n, scratch);

    for (size_t r = lo; r < hi; r++) {
        const float *mean = stats + r * 2 * n->groups, *rstd = mean + n->groups;
        j.x = x + r * row;
        j.y = y + r * row;
        j.dy = dy + r * row;
        j.masked = dmasked ? dmasked + r * row : NULL;
        for (size_t g = 0, k = 0; g < n->groups; g++)
            for (size_t i = 0; i < width; i++, k++)
                j.mean[k] = mean[g];
        spread(j.mean, j.wide, c);
        run_gradients(&j);
        fold(j.sum, j.wide, c);
        fold(j.product, j.wide, c);
        for (size_t g = 0; g < n->groups; g++) {
            const size_t first = g * width, end = first + width;
            double inverse = (double)rstd[g], sum = 0, product = 0;
            float b, d;
            for (size_t k = first; k < end; k++) {
                dgamma[k] += (float)(j.product[k] * inverse);
                dbeta[k] += (float)j.sum[k];
                sum += (double)gamma[k] * j.sum[k];
                product += (double)gamma[k] * j.product[k];
            }
            /* dx = rstd (gamma dy - mean(gamma dy) - xhat mean(gamma dy xhat)) */
            b = (float)(-inverse * inverse * inverse * product / count);
            d = (float)(-inverse * sum / count);
            for (size_t k = first; k < end; k++) {
                j.a[k] = (float)((double)gamma[k] * inverse);
                j.b[k] = b;
                j.d[k] = d;
            }
        }
        if (!dx)
            continue;
        spread(j.a, j.wide, c);
        spread(j.b, j.wide, c);
        spread(j.d, j.wide, c);
        j.out = dx + r * row;
        run_combine(&j);
    }
}
