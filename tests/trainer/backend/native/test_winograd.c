/* test_winograd.c - Winograd convolutions of every instruction set, held against the definition in double and against
 * plain sums in float. SPDX-License-Identifier: Apache-2.0 */
#include "conv_check.h"

#include <stdio.h>

#define COUNT(x) (sizeof(x) / sizeof *(x))

/* Of every set, the kernels by name. */
static const struct conv_kernel *kernel_of(const struct native *native, const char *name)
{
    for (size_t i = 0; native->convs[i]; i++)
        if (!strcmp(native->convs[i]->name, name))
            return native->convs[i];
    fail_msg("%s has no %s", native->name, name);
    return NULL;
}

/* limit: of errors; most: times those of a direct sum. */
static const struct {
    const char *name;
    int side;
    double limit, most;
} KERNELS[] = {{"winograd_f4", 3, 1e-5, 6}, {"winograd_f2", 3, 2e-6, 1.5}, {"winograd_f2_5x5", 5, 1e-5, 6}};

struct shape {
    int h, w, c, k, pad_top, pad_left, p, q; /* p, q: 0: as a pad of the same size on the other side gives */
    bool relu, pool, bias, need_dx;
    size_t n, chunk;
    int stride, side; /* side: of the kernel */
};

static const struct shape SHAPES[] = {
    {4, 4, 1, 1, 1, 1, 0, 0, false, false, true, true, 1, 1, 1, 3},
    {3, 3, 3, 5, 0, 0, 0, 0, true, false, true, true, 2, 1, 1, 3},      /* one output */
    {5, 7, 3, 17, 1, 1, 0, 0, true, true, true, true, 7, 4, 1, 3},      /* odd, pooled */
    {8, 8, 33, 48, 1, 1, 0, 0, true, true, true, true, 10, 10, 1, 3},
    {9, 6, 5, 33, 0, 0, 0, 0, true, true, true, true, 33, 10, 1, 3},
    {13, 11, 17, 3, 1, 0, 0, 0, true, false, true, true, 2, 2, 1, 3},
    {7, 7, 16, 32, 2, 2, 0, 0, false, false, true, true, 2, 1, 1, 3},
    {6, 10, 4, 8, 2, 1, 0, 0, true, true, false, true, 7, 3, 1, 3},
    {10, 10, 16, 16, 0, 2, 9, 10, true, true, true, true, 2, 2, 1, 3},  /* pads unlike each other */
    {12, 12, 8, 8, 1, 1, 9, 7, true, false, true, true, 2, 2, 1, 3},    /* an output cut short: dx has rows of zeros */
    {15, 15, 20, 24, 1, 1, 0, 0, true, true, true, false, 3, 2, 1, 3},
    {40, 36, 17, 33, 1, 1, 0, 0, true, true, true, true, 2, 1, 1, 3},   /* an image is more than a block */
    {4, 4, 130, 129, 1, 1, 0, 0, false, false, false, true, 2, 2, 1, 3},
    /* wide: blocks of channels and filters with tails, of tiles that end inside an image, zeros above the dx of one */
    {10, 18, 98, 81, 1, 1, 0, 0, true, true, true, true, 5, 5, 1, 3},
    {5, 4, 68, 270, 0, 1, 0, 0, true, false, true, true, 3, 2, 1, 3},
    {9, 9, 200, 97, 1, 1, 4, 3, false, false, true, true, 2, 2, 1, 3},
    {4, 5, 97, 200, 1, 1, 0, 0, true, false, true, false, 1, 1, 1, 3},
    {1, 1, 3, 4, 1, 1, 0, 0, true, false, true, true, 2, 1, 1, 3},
    {2, 3, 2, 2, 2, 2, 0, 0, true, true, true, true, 2, 1, 1, 3},
    /* of stride 2, which only F4 has */
    {8, 8, 3, 5, 1, 1, 0, 0, false, false, true, true, 2, 1, 2, 3},
    {7, 9, 17, 33, 1, 1, 0, 0, true, false, true, true, 5, 3, 2, 3},     /* odd */
    {11, 8, 16, 32, 0, 2, 0, 0, false, false, false, true, 7, 4, 2, 3},  /* pads unlike each other */
    {1, 2, 3, 4, 1, 1, 0, 0, true, false, true, true, 2, 1, 2, 3},       /* one output */
    {14, 21, 20, 24, 2, 0, 0, 0, true, true, true, true, 3, 2, 2, 3},    /* pooled */
    {17, 16, 8, 8, 1, 1, 4, 3, true, false, true, true, 2, 2, 2, 3},     /* cut short */
    {30, 33, 9, 16, 1, 1, 0, 0, true, false, true, false, 2, 2, 2, 3},
    {70, 64, 17, 33, 1, 1, 0, 0, true, false, true, true, 2, 1, 2, 3},   /* an image is more than a block */
    {8, 8, 130, 33, 1, 1, 0, 0, false, false, false, true, 3, 3, 2, 3},  /* wide, from here on */
    {20, 18, 98, 81, 1, 1, 0, 0, true, true, true, true, 5, 5, 2, 3},
    {9, 7, 68, 270, 0, 1, 0, 0, true, false, true, true, 3, 2, 2, 3},
    {13, 12, 200, 97, 1, 1, 4, 3, false, false, true, true, 2, 2, 2, 3},
    {4, 5, 97, 200, 1, 1, 0, 0, true, false, true, false, 1, 1, 2, 3},
    /* of 5x5 kernels */
    {6, 6, 1, 1, 2, 2, 0, 0, false, false, true, true, 1, 1, 1, 5},
    {5, 5, 3, 5, 0, 0, 0, 0, true, false, true, true, 2, 1, 1, 5},       /* one output */
    {14, 14, 6, 16, 0, 0, 0, 0, true, true, true, true, 7, 4, 1, 5},
    {7, 9, 17, 33, 2, 2, 0, 0, true, true, true, true, 5, 3, 1, 5},      /* odd, pooled */
    {9, 8, 33, 48, 4, 4, 0, 0, true, false, true, true, 3, 2, 1, 5},
    {10, 10, 16, 16, 0, 3, 9, 10, true, true, true, true, 2, 2, 1, 5},   /* pads unlike each other */
    {12, 12, 8, 8, 2, 2, 9, 7, true, false, true, true, 2, 2, 1, 5},     /* cut short */
    {13, 11, 20, 24, 1, 1, 0, 0, false, false, false, false, 3, 2, 1, 5},
    {40, 36, 17, 33, 2, 2, 0, 0, true, true, true, true, 2, 1, 1, 5},    /* an image is more than a block */
    {1, 1, 3, 4, 2, 2, 0, 0, true, false, true, true, 2, 1, 1, 5},
    {2, 3, 2, 2, 4, 4, 0, 0, true, true, true, true, 2, 1, 1, 5},
    {10, 18, 98, 81, 2, 2, 0, 0, true, true, true, true, 2, 2, 1, 5},    /* wide, from here on */
    {5, 4, 68, 270, 0, 1, 0, 0, true, false, true, true, 3, 2, 1, 5},
    {9, 9, 200, 97, 2, 2, 4, 3, false, false, true, true, 2, 2, 1, 5},
};

static struct conv conv_of(const struct shape *s)
{
    return (struct conv){.h = s->h, .w = s->w, .c = s->c, .k = s->k, .r = s->side, .s = s->side, .stride = s->stride,
                         .pad_top = s->pad_top, .pad_left = s->pad_left,
                         .p = s->p ? s->p : (s->h + 2 * s->pad_top - s->side) / s->stride + 1,
                         .q = s->q ? s->q : (s->w + 2 * s->pad_left - s->side) / s->stride + 1, .groups = 1,
                         .bias = s->bias, .relu = s->relu, .pool = s->pool, .need_dx = s->need_dx, .batch = s->n};
}

/* A float has 6e-8; sums of up to 9 * 270 or 25 * 270 products of unit numbers, and the transforms' factors of up to 2.6 * 2.6
 * ahead of differences, leave 1e-6 of F4 and of F2(5x5) and 5e-7 of F2. What is looked for here is a value in the wrong
 * place: 1e-2 and up. */
static void matches_the_definition(void **state)
{
    (void)state;
    for (const struct native *const *native = native_all(); *native; native++)
        for (size_t name = 0; name < COUNT(KERNELS); name++)
            for (size_t i = 0; i < COUNT(SHAPES); i++) {
                const struct conv_kernel *kernel = kernel_of(*native, KERNELS[name].name);
                struct conv c = conv_of(&SHAPES[i]);
                double limit = KERNELS[name].limit;
                struct conv_errors e;

                if (!kernel->covers(&c))
                    continue;
                e = conv_check(kernel, &c, SHAPES[i].n, SHAPES[i].chunk);
                if (!(e.y.rms < limit && e.dx.rms < limit && e.dw.rms < limit && e.db.rms < limit) ||
                    !(e.y.max < 20 * limit && e.dx.max < 20 * limit && e.dw.max < 20 * limit && e.db.max < 20 * limit))
                    fail_msg("%s %s shape %zu: y %g %g dx %g %g dw %g %g db %g %g", (*native)->name, KERNELS[name].name, i,
                             e.y.rms, e.y.max, e.dx.rms, e.dx.max, e.dw.rms, e.dw.max, e.db.rms, e.db.max);
            }
}

static void dropout_in_the_epilogue_is_that_of_a_pass_of_its_own(void **state)
{
    (void)state;
    for (const struct native *const *native = native_all(); *native; native++)
        for (size_t name = 0; name < COUNT(KERNELS); name++)
            for (size_t i = 0; i < COUNT(SHAPES); i++) {
                struct conv c = conv_of(&SHAPES[i]);
                if (c.relu && kernel_of(*native, KERNELS[name].name)->covers(&c))
                    conv_check_dropout(kernel_of(*native, KERNELS[name].name), &c, SHAPES[i].n, SHAPES[i].chunk);
            }
}

/* A gradient that stands there already: the sum of both, however the work is cut up. */
static void the_gradient_of_the_input_is_added_to(void **state)
{
    (void)state;
    for (const struct native *const *native = native_all(); *native; native++)
        for (size_t name = 0; name < COUNT(KERNELS); name++)
            for (size_t i = 0; i < COUNT(SHAPES); i++) {
                const struct conv_kernel *kernel = kernel_of(*native, KERNELS[name].name);
                struct conv c = conv_of(&SHAPES[i]);
                struct conv_case alone, added, again;
                size_t n = SHAPES[i].n;

                if (!kernel->covers(&c) || !c.need_dx)
                    continue;
                assert_true(kernel->adds);
                case_new(&alone, kernel, &c, n, 3);
                case_run(&alone, n, SHAPES[i].chunk);
                c.add_dx = true;
                case_new(&added, kernel, &c, n, 3);
                case_new(&again, kernel, &c, n, 3);
                memcpy(added.dx, added.x, added.x_size * 4); /* any values */
                memcpy(again.dx, added.x, added.x_size * 4);
                case_run(&added, n, SHAPES[i].chunk);
                case_run_parts(&again, 1, SHAPES[i].chunk, 3);
                case_same(&added, &again);
                assert_memory_equal(added.dw, alone.dw, alone.weights_size * 4);
                for (size_t k = 0; k < alone.x_size; k++) {
                    double want = (double)alone.x[k] + (double)alone.dx[k];
                    if (!(fabs((double)added.dx[k] - want) < 1e-5 * (1 + fabs(want))))
                        fail_msg("%s %s shape %zu, dx %zu: %g, not %g", (*native)->name, KERNELS[name].name, i, k,
                                 (double)added.dx[k], want);
                }
                case_free(&alone);
                case_free(&added);
                case_free(&again);
            }
}

/* Blocks follow the cache, and sums do not follow blocks. */
static void bits_do_not_depend_on_the_cache(void **state)
{
    static const size_t CACHES[] = {1 << 16, 1 << 18, 1 << 20, 1 << 24};

    (void)state;
    for (const struct native *const *native = native_all(); *native; native++)
        for (size_t name = 0; name < COUNT(KERNELS); name++)
            for (size_t i = 0; i < COUNT(SHAPES); i++) {
                struct conv c = conv_of(&SHAPES[i]);
                struct conv_case usual, other;

                if (!kernel_of(*native, KERNELS[name].name)->covers(&c))
                    continue;
                case_new(&usual, kernel_of(*native, KERNELS[name].name), &c, SHAPES[i].n, 3);
                case_run(&usual, usual.n, usual.n);
                for (size_t k = 0; k < COUNT(CACHES); k++) {
                    c.l2_bytes = CACHES[k];
                    case_new(&other, kernel_of(*native, KERNELS[name].name), &c, SHAPES[i].n, 3);
                    case_run(&other, other.n, other.n);
                    case_same(&usual, &other);
                    case_free(&other);
                }
                case_free(&usual);
            }
}

/* Sums in float, one product after the other, as a direct kernel has them; without ReLU. */
static void direct(const struct conv_case *k, float *y, float *dx, float *dw)
{
    const struct conv *c = &k->c;

    for (size_t n = 0; n < k->n; n++)
        for (int f = 0; f < c->k; f++)
            for (int p = 0; p < c->p; p++)
                for (int q = 0; q < c->q; q++) {
                    size_t out = check_at(false, n, f, p, q, c->k, c->p, c->q);
                    float sum = k->bias[f];

                    for (int r = 0; r < c->r; r++)
                        for (int s = 0; s < c->s; s++) {
                            int row = p * c->stride - c->pad_top + r, column = q * c->stride - c->pad_left + s;

                            if (row < 0 || column < 0 || row >= c->h || column >= c->w)
                                continue;
                            for (int ci = 0; ci < c->c; ci++) {
                                size_t in = check_at(false, n, ci, row, column, c->c, c->h, c->w);
                                size_t at = check_weight(k->kernel, c, f, ci, r, s);

                                sum = fmaf(k->x[in], k->weights[at], sum);
                                dx[in] = fmaf(k->dy[out], k->weights[at], dx[in]);
                                dw[at] = fmaf(k->dy[out], k->x[in], dw[at]);
                            }
                        }
                    y[out] = sum;
                }
}

/* SGD's step in the place of a gradient: of the same dw, from the weights as dx saw them, and with any last filters. */
static void a_step_is_that_of_the_gradient(void **state)
{
    static const struct native_sgd SGD[] = {
        {.lr = .5f}, {.lr = .5f, .decay = .1f}, {.lr = .5f, .decay = .1f, .momentum = .9f},
        {.lr = .5f, .momentum = .9f, .nesterov = true}};
    size_t stepping = 0;

    (void)state;
    for (const struct native *const *native = native_all(); *native; native++)
        for (size_t name = 0; name < COUNT(KERNELS); name++)
            for (size_t i = 0; i < COUNT(SHAPES) * COUNT(SGD); i++) {
                const struct conv_kernel *kernel = kernel_of(*native, KERNELS[name].name);
                struct native_step step = {.sgd = SGD[i % COUNT(SGD)]};
                struct conv c = conv_of(&SHAPES[i / COUNT(SGD)]);
                struct conv_case plain, stepped;
                struct conv_args a;
                size_t n = SHAPES[i / COUNT(SGD)].n, bytes, at = 0;

                c.batch = n;
                if (!kernel->covers(&c) || !kernel->by_parts(&c))
                    continue;
                stepping++;
                case_new(&plain, kernel, &c, n, 3);
                case_new(&stepped, kernel, &c, n, 3);
                case_run(&plain, n, n);
                bytes = plain.weights_size * 4;
                step.w = check_new(bytes);
                memcpy(step.w, stepped.weights, bytes);
                step.state = step.sgd.momentum > 0 ? check_new(bytes) : NULL;
                for (size_t k = 0; step.state && k < plain.weights_size; k++)
                    step.state[k] = stepped.weights[k] * .01f; /* padding stays 0 */
                a = (struct conv_args){.weights = step.w, .bias = c.bias ? stepped.bias : NULL, .x = stepped.x,
                                       .y = stepped.y, .aux = stepped.aux, .dy = stepped.dy,
                                       .dx = c.need_dx ? stepped.dx : NULL, .partial = stepped.partial,
                                       .scratch = stepped.scratch, .step = &step};
                memset(stepped.partial, 0x7f, kernel->partial_floats(&c) * 4);
                kernel->forward(&c, &a, 0, n, true);
                kernel->backward(&c, &a, 0, n);
                kernel->finish(&c, stepped.partial, NULL, c.bias ? stepped.db : NULL, (struct conv_part){0});
                assert_memory_equal(stepped.dx, plain.dx, plain.x_size * 4);
                assert_memory_equal(stepped.db, plain.db, (size_t)c.k * 4);
                for (; at < plain.weights_size; at++) {
                    double w = (double)plain.weights[at], m = (double)step.sgd.momentum;
                    double g = (double)plain.dw[at] + (double)step.sgd.decay * w;
                    double v = step.state ? m * w * .01 + g : g;
                    double want = w - (double)step.sgd.lr * (step.sgd.nesterov ? g + m * v : v);
                    if (!(fabs((double)step.w[at] - want) < 1e-6 * (1 + fabs(want))) ||
                        (step.state && !(fabs((double)step.state[at] - v) < 1e-6 * (1 + fabs(v)))))
                        fail_msg("%s %s case %zu, weight %zu: %g, not %g", (*native)->name, KERNELS[name].name, i, at,
                                 (double)step.w[at], want);
                }
                check_free(step.w, bytes, "stepped weights");
                if (step.state)
                    check_free(step.state, bytes, "momentum");
                case_free(&plain);
                case_free(&stepped);
            }
    assert_true(stepping >= 2 * COUNT(SGD));
}

/* The figures that the planner's words rest on: fp32 allows F4 and F2(5x5), fp32_strict F2. */
static void errors_are_bounded_multiples_of_a_direct_sum(void **state)
{
    static const struct shape shapes[] = {{16, 16, 32, 64, 1, 1, 0, 0, false, false, true, true, 4, 4, 1, 3},
                                          {12, 12, 64, 48, 0, 0, 0, 0, false, false, true, true, 4, 4, 1, 3},
                                          {16, 16, 64, 48, 1, 1, 0, 0, false, false, true, true, 4, 4, 2, 3},
                                          {9, 9, 96, 64, 1, 1, 0, 0, false, false, true, true, 8, 8, 2, 3},
                                          {16, 16, 32, 64, 2, 2, 0, 0, false, false, true, true, 4, 4, 1, 5},
                                          {14, 14, 6, 16, 0, 0, 0, 0, false, false, true, true, 8, 8, 1, 5},
                                          {12, 12, 64, 48, 0, 0, 0, 0, false, false, true, true, 4, 4, 1, 5}};

    (void)state;
    for (const struct native *const *native = native_all(); *native; native++)
        for (size_t i = 0; i < COUNT(shapes); i++)
            for (size_t name = 0; name < COUNT(KERNELS); name++) {
                struct conv c = conv_of(&shapes[i]);
                struct conv_case k;
                struct truth t;
                double most = KERNELS[name].most;
                double ratio[3];
                float *y, *dx, *dw;

                if (!kernel_of(*native, KERNELS[name].name)->covers(&c))
                    continue;
                case_new(&k, kernel_of(*native, KERNELS[name].name), &c, shapes[i].n, 3);
                truth_new(&t, &k);
                y = calloc(k.y_size, 4);
                dx = calloc(k.x_size, 4);
                dw = calloc(k.weights_size, 4);
                direct(&k, y, dx, dw);
                case_run(&k, k.n, k.n);
                ratio[0] = check_error(t.y, k.y, k.y_size).rms / check_error(t.y, y, k.y_size).rms;
                ratio[1] = check_error(t.dx, k.dx, k.x_size).rms / check_error(t.dx, dx, k.x_size).rms;
                ratio[2] = check_error(t.dw, k.dw, k.weights_size).rms / check_error(t.dw, dw, k.weights_size).rms;
                print_message("%s %s: error over a direct sum's: y %.2f dx %.2f dw %.2f\n", (*native)->name,
                              KERNELS[name].name, ratio[0], ratio[1], ratio[2]);
                assert_true(ratio[0] <= most && ratio[1] <= most && ratio[2] <= most);
                free(y);
                free(dx);
                free(dw);
                truth_free(&t);
                case_free(&k);
            }
}

/* A value that is no number or infinite, put into x, the weights or dy: what depends on it by the definition must not
 * be finite (a tile's other values may go with it, other rows may not). Bias is large, so that ReLU lets through. */
static void passes_on_what_is_no_number(void **state)
{
    static const float bad[] = {NAN, INFINITY, -INFINITY};

    (void)state;
    for (const struct native *const *native = native_all(); *native; native++)
        for (size_t name = 0; name < COUNT(KERNELS); name++)
            for (size_t b = 0; b < COUNT(bad); b++)
                for (int pool = 0; pool < 2; pool++)
                    for (int i = 0; i < 25; i++) {
                        const int across = KERNELS[name].side, half = across / 2;
                        struct conv c = check_conv(8, 5, 7, across, 1, half, true, pool);
                        struct conv_case k;
                        int place = i * 3 % 64, y0 = place / 8, x0 = place % 8, side = pool ? 4 : 8;

                        case_new(&k, kernel_of(*native, KERNELS[name].name), &c, 2, 5);
                        for (int f = 0; f < c.k; f++)
                            k.bias[f] = 100;
                        k.x[check_at(false, 0, 2, y0, x0, 5, 8, 8)] = bad[b];
                        case_run(&k, 2, 2);
                        for (int f = 0; f < c.k; f++)
                            for (int p = 0; p < 8; p++)
                                for (int q = 0; q < 8; q++) {
                                    int yp = pool ? p / 2 : p, xp = pool ? q / 2 : q;
                                    float v = k.y[check_at(false, 0, f, yp, xp, 7, side, side)];

                                    if (isnan(bad[b]) && abs(p - y0) <= half && abs(q - x0) <= half)
                                        assert_true(isnan(v));
                                    /* infinities of either sign: ReLU makes 0 of the wrong one; transforms mix them */
                                    if (!isnan(bad[b]) && p == y0 && q == x0)
                                        assert_true(!isfinite(v) || v == 0);
                                    assert_true(isfinite(k.y[check_at(false, 1, f, yp, xp, 7, side, side)]));
                                }
                        for (int f = 0; f < c.k; f++)
                            assert_true(!isfinite(k.dw[check_weight(k.kernel, &c, f, 2, half, half)]));
                        case_free(&k);

                        case_new(&k, kernel_of(*native, KERNELS[name].name), &c, 2, 5);
                        for (int f = 0; f < c.k; f++)
                            k.bias[f] = 100;
                        k.dy[check_at(false, 0, 3, y0 * side / 8, x0 * side / 8, 7, side, side)] = bad[b];
                        case_run(&k, 2, 2);
                        assert_true(!isfinite(k.db[3]));
                        for (int ci = 0; ci < c.c; ci++) {
                            bool found = false;
                            for (int j = 0; j < 4; j++) { /* of a pool's four, the one that won */
                                int y = y0 / 2 * 2 + j / 2, x = x0 / 2 * 2 + j % 2;
                                found |= !isfinite(k.dx[check_at(false, 0, ci, y, x, 5, 8, 8)]);
                            }
                            assert_true(found);
                            assert_true(!isfinite(k.dw[check_weight(k.kernel, &c, 3, ci, half, half)]));
                        }
                        case_free(&k);
                        if (i >= across * across)
                            continue;
                        case_new(&k, kernel_of(*native, KERNELS[name].name), &c, 2, 5);
                        for (int f = 0; f < c.k; f++)
                            k.bias[f] = 100;
                        k.weights[check_weight(k.kernel, &c, 6, 4, i / across, i % across)] = bad[b];
                        case_run(&k, 2, 2);
                        for (int j = 0; j < side * side; j++)
                            if (isnan(bad[b])) {
                                assert_true(isnan(k.y[check_at(false, 1, 6, j / side, j % side, 7, side, side)]));
                                assert_true(isfinite(k.y[check_at(false, 1, 5, j / side, j % side, 7, side, side)]));
                            }
                        case_free(&k);
                    }
}

static void refuses_what_it_cannot_do(void **state)
{
    (void)state;
    for (const struct native *const *native = native_all(); *native; native++)
        for (size_t name = 0; name < COUNT(KERNELS); name++) {
            const struct conv_kernel *kernel = kernel_of(*native, KERNELS[name].name);
            const int side = KERNELS[name].side;
            struct conv c = check_conv(8, 16, 16, side, 1, side / 2, true, true), d;

            assert_true(kernel->covers(&c));
            d = c, d.stride = 2;
            assert_true(kernel->covers(&d) == !name);
            d = c, d.stride = 3;
            assert_false(kernel->covers(&d));
            d = c, d.r = side == 3 ? 5 : 3;
            assert_false(kernel->covers(&d));
            d = c, d.groups = 2;
            assert_false(kernel->covers(&d));
            d = c, d.pad_left = side;
            assert_false(kernel->covers(&d));
            d = c, d.x_batched = true;
            assert_false(kernel->covers(&d));
            d = c, d.p = 1;
            assert_false(kernel->covers(&d));
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(matches_the_definition),
        cmocka_unit_test(dropout_in_the_epilogue_is_that_of_a_pass_of_its_own),
        cmocka_unit_test(the_gradient_of_the_input_is_added_to),
        cmocka_unit_test(bits_do_not_depend_on_the_cache),
        cmocka_unit_test(a_step_is_that_of_the_gradient),
        cmocka_unit_test(errors_are_bounded_multiples_of_a_direct_sum),
        cmocka_unit_test(passes_on_what_is_no_number),
        cmocka_unit_test(refuses_what_it_cannot_do),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
