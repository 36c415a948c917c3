/* conv_check.h - holds a convolution kernel against its definition in double precision: forward, gradients, ranges of
 * rows (bits equal however a batch is cut), canaries behind every buffer that is written.
 * Errors are relative to the root mean square of the true values of the tensor. SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_TESTS_CONV_CHECK_H
#define FLEXP_TESTS_CONV_CHECK_H

#include "common/rng.h"
#include "trainer/backend/cpu/native/native.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* Where weight [k][c of its group][r][s] stands. */
static size_t check_weight(const struct conv_kernel *kernel, const struct conv *c, int k, int ci, int r, int s)
{
    struct conv_place at = kernel->place(c, k);

    return at.first + (size_t)ci * at.channel + (size_t)(r * c->s + s) * at.tap;
}

struct conv_error {
    double max, rms;
};

struct conv_errors {
    struct conv_error y, dx, dw, db;
};

#define CHECK_CANARY 0x5a
#define CHECK_CANARIES 256

static void *check_new(size_t bytes)
{
    char *p = aligned_alloc(64, (bytes + CHECK_CANARIES + 63) / 64 * 64);

    assert_non_null(p);
    memset(p, 0, bytes);
    memset(p + bytes, CHECK_CANARY, CHECK_CANARIES);
    return p;
}

static void check_free(void *buffer, size_t bytes, const char *what)
{
    const unsigned char *p = buffer;

    for (size_t i = 0; i < CHECK_CANARIES; i++)
        if (p[bytes + i] != CHECK_CANARY)
            fail_msg("%s: written %zu bytes past its end", what, i);
    free(buffer);
}

static float check_random(struct pcg32 *rng)
{
    double sum = 0;

    for (int i = 0; i < 12; i++)
        sum += pcg32_next(rng) / 4294967296.0;
    return (float)(sum - 6);
}

/* Where value (row, channel, y, x) of an activation stands. */
static size_t check_at(bool batched, size_t row, int ch, int y, int x, int channels, int height, int width)
{
    size_t c = (size_t)ch, h = (size_t)y, w = (size_t)x, cs = (size_t)channels, hs = (size_t)height, ws = (size_t)width;

    if (batched)
        return (((row / NATIVE_LANES * cs + c) * hs + h) * ws + w) * NATIVE_LANES + row % NATIVE_LANES;
    return ((row * hs + h) * ws + w) * cs + c;
}

static struct conv_error check_error(const double *truth, const float *got, size_t n)
{
    double most = 0, sum = 0, norm = 0, scale;

    for (size_t i = 0; i < n; i++) {
        double e = fabs(truth[i] - (double)got[i]);
        most = e > most || isnan(e) ? e : most;
        sum += e * e;
        norm += truth[i] * truth[i];
    }
    scale = sqrt(norm / (double)(n ? n : 1));
    if (!(scale > 0))
        scale = 1;
    return (struct conv_error){.max = most / scale, .rms = sqrt(sum / (double)(n ? n : 1)) / scale};
}

/* A convolution's sizes from the usual words. */
static struct conv check_conv(int side, int channels, int filters, int kernel, int stride, int pad, bool relu, bool pool)
{
    struct conv c = {.h = side, .w = side, .c = channels, .k = filters, .r = kernel, .s = kernel, .stride = stride,
                     .pad_top = pad, .pad_left = pad, .groups = 1, .bias = true, .relu = relu, .pool = pool,
                     .need_dx = true};

    c.p = c.q = (side + 2 * pad - kernel) / stride + 1;
    return c;
}

struct conv_case {
    const struct conv_kernel *kernel;
    struct conv c;
    size_t n, rows; /* rows: rounded up to whole groups */
    int yh, yw;
    size_t x_size, y_size, weights_size, dx_size; /* floats of storage */
    float *x, *y, *weights, *bias, *dy, *dx, *dw, *db;
    void *aux, *prepared, *scratch;
    float *partial, *sum;
    const struct native_drop *drop; /* NULL: nothing is dropped */
};

static void case_new(struct conv_case *k, const struct conv_kernel *kernel, const struct conv *c, size_t n, uint64_t seed)
{
    struct pcg32 rng = rng_key(seed, RNG_SYNTHETIC, 0, 0, 0);
    int per = c->c / c->groups;

    *k = (struct conv_case){.kernel = kernel, .c = *c, .n = n};
    k->c.batch = n;
    c = &k->c;
    k->rows = (n + NATIVE_LANES - 1) / NATIVE_LANES * NATIVE_LANES;
    k->yh = c->pool ? c->p / 2 : c->p;
    k->yw = c->pool ? c->q / 2 : c->q;
    k->x_size = (c->x_batched ? k->rows : n) * (size_t)(c->h * c->w * c->c);
    k->y_size = (c->y_batched ? k->rows : n) * (size_t)(k->yh * k->yw * c->k);
    k->weights_size = kernel->weights_floats(c);
    k->x = check_new(k->x_size * 4 + 64);
    k->y = check_new(k->y_size * 4);
    k->weights = check_new(k->weights_size * 4 + 64);
    k->bias = check_new((size_t)c->k * 4 + 64);
    k->dy = check_new(k->y_size * 4 + 64);
    k->dx = check_new(k->x_size * 4);
    k->dw = check_new(k->weights_size * 4);
    k->db = check_new((size_t)c->k * 4);
    k->aux = check_new(k->rows * kernel->aux_row_bytes(c));
    k->prepared = check_new(kernel->prepared_bytes(c));
    k->scratch = check_new(kernel->scratch_bytes(c));
    k->partial = check_new(kernel->partial_floats(c) * 4);
    k->sum = check_new(kernel->partial_floats(c) * 4);
    memset(k->scratch, 0x7f, kernel->scratch_bytes(c)); /* large numbers: what is read before it is written shows */
    for (size_t i = 0; i < k->x_size; i++)
        k->x[i] = check_random(&rng);
    for (size_t i = 0; i < k->y_size; i++)
        k->dy[i] = check_random(&rng) * .01f;
    for (int f = 0; f < c->k; f++) {
        k->bias[f] = c->bias ? check_random(&rng) : 0;
        for (int ci = 0; ci < per; ci++)
            for (int r = 0; r < c->r; r++)
                for (int s = 0; s < c->s; s++) {
                    size_t at = check_weight(kernel, c, f, ci, r, s);
                    assert_true(at < k->weights_size);
                    assert_true(k->weights[at] == 0);
                    k->weights[at] = check_random(&rng) / sqrtf((float)(c->r * c->s * per));
                }
    }
}

static void case_free(struct conv_case *k)
{
    const struct conv *c = &k->c;

    check_free(k->x, k->x_size * 4 + 64, "x");
    check_free(k->y, k->y_size * 4, "y");
    check_free(k->weights, k->weights_size * 4 + 64, "weights");
    check_free(k->bias, (size_t)c->k * 4 + 64, "bias");
    check_free(k->dy, k->y_size * 4 + 64, "dy");
    check_free(k->dx, k->x_size * 4, "dx");
    check_free(k->dw, k->weights_size * 4, "dw");
    check_free(k->db, (size_t)c->k * 4, "db");
    check_free(k->aux, k->rows * k->kernel->aux_row_bytes(c), "aux");
    check_free(k->prepared, k->kernel->prepared_bytes(c), "prepared");
    check_free(k->scratch, k->kernel->scratch_bytes(c), "scratch");
    check_free(k->partial, k->kernel->partial_floats(c) * 4, "partial");
    check_free(k->sum, k->kernel->partial_floats(c) * 4, "sum");
}

static bool case_by_parts(const struct conv_case *k)
{
    return k->kernel->by_parts && k->kernel->by_parts(&k->c);
}

/* One step: ranges of `piece` rows (forward), partials of `chunk` rows (backward), each shared by so many parts. */
static void case_run_parts(struct conv_case *k, size_t piece, size_t chunk, size_t parts)
{
    const struct conv_kernel *kernel = k->kernel;
    const struct conv *c = &k->c;
    size_t partial_n = kernel->partial_floats(c), shared;
    struct conv_args a = {.weights = k->weights, .bias = c->bias ? k->bias : NULL, .prepared = k->prepared, .x = k->x,
                          .y = k->y, .aux = k->aux, .dy = k->dy, .dx = c->need_dx ? k->dx : NULL, .partial = k->partial,
                          .scratch = k->scratch, .drop = k->drop};

    for (a.part.n = parts; a.part.index < parts; a.part.index++)
        kernel->prepare(c, &a, true);
    shared = case_by_parts(k) ? parts : 1;
    for (size_t lo = 0; lo < k->n; lo += piece)
        for (a.part = (struct conv_part){0, shared}; a.part.index < shared; a.part.index++)
            kernel->forward(c, &a, lo, lo + piece < k->n ? lo + piece : k->n, true);
    memset(k->sum, 0, partial_n * 4);
    for (size_t lo = 0; lo < k->n; lo += chunk) {
        memset(k->partial, 0x7f, partial_n * 4);
        for (a.part = (struct conv_part){0, shared}; a.part.index < shared; a.part.index++)
            kernel->backward(c, &a, lo, lo + chunk < k->n ? lo + chunk : k->n);
        for (size_t i = 0; i < partial_n; i++)
            k->sum[i] += k->partial[i];
    }
    for (size_t i = 0; i < parts; i++)
        kernel->finish(c, k->sum, k->dw, c->bias ? k->db : NULL, (struct conv_part){i, parts});
}

static void case_run(struct conv_case *k, size_t piece, size_t chunk)
{
    case_run_parts(k, piece, chunk, 1);
}

/* The definition, in double. Which of a 2x2 block wins, and where ReLU lets through, is taken from it; where a value is
 * within 1e-3 of a tie, k->dy is made 0, so that rounding cannot decide. */
struct truth {
    double *conv, *y, *dy, *dx, *dw, *db; /* conv: before ReLU and pool; (row, k, p, q) order; dy: of conv */
};

static double truth_x(const struct conv_case *k, size_t n, int ch, int y, int x)
{
    const struct conv *c = &k->c;

    if (y < 0 || x < 0 || y >= c->h || x >= c->w)
        return 0;
    return (double)k->x[check_at(c->x_batched, n, ch, y, x, c->c, c->h, c->w)];
}

static void truth_new(struct truth *t, struct conv_case *k)
{
    const struct conv *c = &k->c;
    size_t plane = (size_t)(c->p * c->q), outs = k->n * (size_t)c->k * plane;
    int per = c->c / c->groups, kper = c->k / c->groups;

    t->conv = calloc(outs, sizeof(double));
    t->dy = calloc(outs, sizeof(double));
    t->y = calloc(k->y_size, sizeof(double));
    t->dx = calloc(k->x_size, sizeof(double));
    t->dw = calloc(k->weights_size, sizeof(double));
    t->db = calloc((size_t)c->k, sizeof(double));
    for (size_t n = 0; n < k->n; n++)
        for (int f = 0; f < c->k; f++)
            for (int p = 0; p < c->p; p++)
                for (int q = 0; q < c->q; q++) {
                    double sum = c->bias ? (double)k->bias[f] : 0;
                    for (int ci = 0; ci < per; ci++)
                        for (int r = 0; r < c->r; r++)
                            for (int s = 0; s < c->s; s++)
                                sum += (double)k->weights[check_weight(k->kernel, c, f, ci, r, s)] *
                                       truth_x(k, n, f / kper * per + ci, p * c->stride - c->pad_top + r,
                                               q * c->stride - c->pad_left + s);
                    t->conv[(n * (size_t)c->k + (size_t)f) * plane + (size_t)(p * c->q + q)] = sum;
                }
    /* outputs, and where gradients go */
    for (size_t n = 0; n < k->n; n++)
        for (int f = 0; f < c->k; f++)
            for (int y = 0; y < k->yh; y++)
                for (int x = 0; x < k->yw; x++) {
                    size_t at = check_at(c->y_batched, n, f, y, x, c->k, k->yh, k->yw);
                    int side = c->pool ? 2 : 1, won = 0;
                    double best = 0, second = -1e300;
                    for (int i = 0; i < side * side; i++) {
                        double v = t->conv[(n * (size_t)c->k + (size_t)f) * plane +
                                           (size_t)((y * side + i / side) * c->q + x * side + i % side)];
                        if (!i || v > best) {
                            second = i ? best : second;
                            best = v;
                            won = i;
                        } else if (v > second) {
                            second = v;
                        }
                    }
                    if (c->relu && (fabs(best) < 1e-3 || (c->pool && best - second < 1e-3)))
                        k->dy[at] = 0;
                    t->y[at] = c->relu && best < 0 ? 0 : best;
                    if (!c->relu || best > 0)
                        t->dy[(n * (size_t)c->k + (size_t)f) * plane +
                              (size_t)((y * side + won / side) * c->q + x * side + won % side)] = (double)k->dy[at];
                }
    for (size_t n = 0; n < k->n; n++)
        for (int f = 0; f < c->k; f++)
            for (int p = 0; p < c->p; p++)
                for (int q = 0; q < c->q; q++) {
                    double dy = t->dy[(n * (size_t)c->k + (size_t)f) * plane + (size_t)(p * c->q + q)];
                    t->db[f] += dy;
                    for (int ci = 0; ci < per && dy != 0; ci++)
                        for (int r = 0; r < c->r; r++)
                            for (int s = 0; s < c->s; s++) {
                                int ch = f / kper * per + ci, y = p * c->stride - c->pad_top + r,
                                    x = q * c->stride - c->pad_left + s;
                                size_t at = check_weight(k->kernel, c, f, ci, r, s);
                                if (y < 0 || x < 0 || y >= c->h || x >= c->w)
                                    continue;
                                t->dw[at] += dy * truth_x(k, n, ch, y, x);
                                t->dx[check_at(c->x_batched, n, ch, y, x, c->c, c->h, c->w)] +=
                                    dy * (double)k->weights[at];
                            }
                }
}

static void truth_free(struct truth *t)
{
    free(t->conv);
    free(t->y);
    free(t->dy);
    free(t->dx);
    free(t->dw);
    free(t->db);
}

/* Values of rows past the end of a batched tensor are any. */
static void case_mute(struct conv_case *k)
{
    const struct conv *c = &k->c;

    for (size_t n = k->n; n < k->rows; n++) {
        for (int i = 0; c->x_batched && i < c->c * c->h * c->w; i++)
            k->dx[check_at(true, n, 0, 0, i, 1, 1, c->c * c->h * c->w)] = 0;
        for (int i = 0; c->y_batched && i < c->k * k->yh * k->yw; i++)
            k->y[check_at(true, n, 0, 0, i, 1, 1, c->k * k->yh * k->yw)] = 0;
    }
}

static void case_same(struct conv_case *a, struct conv_case *b)
{
    case_mute(a);
    case_mute(b);
    assert_memory_equal(a->y, b->y, a->y_size * 4);
    assert_memory_equal(a->dx, b->dx, a->x_size * 4);
    assert_memory_equal(a->dw, b->dw, a->weights_size * 4);
    assert_memory_equal(a->db, b->db, (size_t)a->c.k * 4);
}

/* Rows that a range can begin at. */
static size_t case_piece(const struct conv_kernel *kernel, const struct conv *c)
{
    return c->x_batched || c->y_batched || !strcmp(kernel->name, "batched") ? NATIVE_LANES : 1;
}

/* Runs it whole and cut up, by rows and by parts; asserts equal bits of y and dx, and of dw for equal chunks; returns the
 * errors. */
static struct conv_errors conv_check(const struct conv_kernel *kernel, const struct conv *c, size_t n, size_t chunk)
{
    struct conv_case whole, cut, parts;
    struct truth t;
    struct conv_errors e;
    size_t piece = case_piece(kernel, c);

    assert_true(kernel->covers(c));
    case_new(&whole, kernel, c, n, 7);
    case_new(&cut, kernel, c, n, 7);
    case_new(&parts, kernel, c, n, 7);
    truth_new(&t, &whole);
    memcpy(cut.dy, whole.dy, whole.y_size * 4);
    memcpy(parts.dy, whole.dy, whole.y_size * 4);
    case_run(&whole, n, chunk);
    case_run(&cut, piece, chunk);
    case_same(&whole, &cut);
    for (size_t shares = 3; shares <= 9; shares += 6) { /* of nine some have nothing to do */
        case_run_parts(&parts, n, chunk, shares);
        case_same(&whole, &parts);
    }
    e.y = check_error(t.y, whole.y, whole.y_size);
    e.dx = c->need_dx ? check_error(t.dx, whole.dx, whole.x_size) : (struct conv_error){0};
    e.dw = check_error(t.dw, whole.dw, whole.weights_size);
    e.db = c->bias ? check_error(t.db, whole.db, (size_t)c->k) : (struct conv_error){0};
    truth_free(&t);
    case_free(&whole);
    case_free(&cut);
    case_free(&parts);
    return e;
}

/* Dropout behind it, in its epilogue: the bits of one that is a pass of its own. */
static inline void conv_check_dropout(const struct conv_kernel *kernel, const struct conv *c, size_t n, size_t chunk)
{
    struct conv_case apart, fused;
    struct pcg32 rng = rng_key(3, RNG_DROPOUT, 0, 0, 0);
    size_t words, piece = case_piece(kernel, c);
    uint64_t *kept;
    struct native_drop drop = {.scale = 1.6f};

    assert_true(kernel->drops && kernel->covers(c) && c->relu);
    case_new(&apart, kernel, c, n, 7);
    case_new(&fused, kernel, c, n, 7);
    words = (apart.y_size + 63) / 64;
    kept = check_new((words + 1) * sizeof *kept);
    for (size_t i = 0; i < words; i++)
        kept[i] = (uint64_t)pcg32_next(&rng) << 32 | pcg32_next(&rng);
    drop.kept = kept;
    drop.first = fused.y;
    fused.drop = &drop;
    for (size_t i = 0; i < apart.y_size; i++)
        apart.dy[i] = kept[i / 64] >> i % 64 & 1 ? apart.dy[i] * drop.scale : 0;
    case_run(&apart, n, chunk);
    for (size_t i = 0; i < apart.y_size; i++)
        apart.y[i] = kept[i / 64] >> i % 64 & 1 ? apart.y[i] * drop.scale : 0;
    case_run(&fused, n, chunk);
    case_same(&apart, &fused);
    case_run_parts(&fused, piece, chunk, 3);
    case_same(&apart, &fused);
    check_free(kept, (words + 1) * sizeof *kept, "kept");
    case_free(&apart);
    case_free(&fused);
}

#endif
