/* Normalisation by the native kernels of every instruction set against its definition in double precision.
 * Errors are relative to the root mean square of the true values. What is kept as a float, and the few operations on
 * each value, round by 2^-25 in the mean; gradients are sums of terms that cancel in part.
 * SPDX-License-Identifier: Apache-2.0 */
#pragma GCC diagnostic ignored "-Wunused-function" /* of what conv_check.h has, only the buffers are wanted */
#include "tests/trainer/backend/native/conv_check.h"
#define NATIVE_ISA portable
#include "trainer/backend/cpu/native/kernels.h"

#define RMS_MOST 1e-6

typedef size_t bytes_fn(const struct native_norm *n);
typedef void forward_fn(const struct native_norm *n, const float *x, const float *skip, float *y, const float *gamma,
                        const float *beta, float *stats, double *ret_var, void *scratch, size_t lo, size_t hi);
typedef void apply_fn(const struct native_norm *n, const float *x, const float *skip, float *y, const float *gamma,
                      const float *beta, const float *mean, const float *rstd, void *scratch, size_t lo, size_t hi);
typedef void backward_fn(const struct native_norm *n, const float *x, const float *y, const float *dy, float *dx,
                         float *dmasked, const float *gamma, const float *stats, float *partial, void *scratch,
                         size_t lo, size_t hi);
#ifdef __x86_64__
bytes_fn norm_scratch_bytes_avx512, norm_scratch_bytes_avx2;
forward_fn norm_forward_avx512, norm_forward_avx2;
apply_fn norm_apply_avx512, norm_apply_avx2;
backward_fn norm_backward_avx512, norm_backward_avx2;
#endif

#define ROW(isa)                                                                                                       \
    {                                                                                                                  \
#isa, norm_scratch_bytes_##isa, norm_forward_##isa, norm_apply_##isa, norm_backward_##isa                      \
    }
static const struct set {
    const char *name;
    bytes_fn *bytes;
    forward_fn *forward;
    apply_fn *apply;
    backward_fn *backward;
} SETS[] = {
#ifdef __x86_64__
    ROW(avx512), ROW(avx2),
#endif
    ROW(portable)};

static const struct set *set_of(size_t i)
{
    for (size_t s = 0; native_all()[i] && s < sizeof SETS / sizeof SETS[0]; s++)
        if (!strcmp(SETS[s].name, native_all()[i]->name))
            return &SETS[s];
    return NULL;
}

struct norm_case {
    struct native_norm n;
    size_t rows, all, bytes;
    float *x, *skip, *y, *dy, *dx, *masked, *gamma, *beta, *stats, *partial;
    void *scratch;
};

static void norm_new(struct norm_case *k, const struct set *set, struct native_norm n, size_t rows, float offset)
{
    struct pcg32 rng = rng_key(5, RNG_SYNTHETIC, 0, 0, 0);

    *k = (struct norm_case){.n = n, .rows = rows, .all = rows * n.pixels * n.channels, .bytes = set->bytes(&n)};
    k->x = check_new(k->all * 4);
    k->skip = check_new(k->all * 4);
    k->y = check_new(k->all * 4);
    k->dy = check_new(k->all * 4);
    k->dx = check_new(k->all * 4);
    k->masked = check_new(k->all * 4);
    k->gamma = check_new(n.channels * 4);
    k->beta = check_new(n.channels * 4);
    k->stats = check_new(rows * n.groups * 8);
    k->partial = check_new(n.channels * 8);
    k->scratch = check_new(k->bytes);
    memset(k->scratch, 0x7f, k->bytes);
    for (size_t i = 0; i < k->all; i++) {
        k->x[i] = check_random(&rng) * 2 + offset;
        k->skip[i] = check_random(&rng);
        k->dy[i] = check_random(&rng);
    }
    for (size_t i = 0; i < n.channels; i++) {
        k->gamma[i] = check_random(&rng);
        k->beta[i] = check_random(&rng);
    }
}

static void norm_free(struct norm_case *k)
{
    check_free(k->x, k->all * 4, "x");
    check_free(k->skip, k->all * 4, "skip");
    check_free(k->y, k->all * 4, "y");
    check_free(k->dy, k->all * 4, "dy");
    check_free(k->dx, k->all * 4, "dx");
    check_free(k->masked, k->all * 4, "masked");
    check_free(k->gamma, k->n.channels * 4, "gamma");
    check_free(k->beta, k->n.channels * 4, "beta");
    check_free(k->stats, k->rows * k->n.groups * 8, "stats");
    check_free(k->partial, k->n.channels * 8, "partial");
    check_free(k->scratch, k->bytes, "scratch");
}

static void norm_run(struct norm_case *k, const struct set *set, size_t piece, bool skip)
{
    for (size_t lo = 0; lo < k->rows; lo += piece) {
        size_t hi = lo + piece < k->rows ? lo + piece : k->rows;
        set->forward(&k->n, k->x, skip ? k->skip : NULL, k->y, k->gamma, k->beta, k->stats, NULL, k->scratch, lo, hi);
        set->backward(&k->n, k->x, k->y, k->dy, k->dx, skip ? k->masked : NULL, k->gamma, k->stats, k->partial,
                      k->scratch, lo, hi);
    }
}

/* xhat, and the gradients with it. The mask is taken from y. */
static void check_definition(const struct set *set, struct native_norm n, size_t rows, bool skip, float offset)
{
    struct norm_case k, cut;
    double *y, *dx, *dgamma, *dbeta, *xhat, *dyhat;
    size_t row = n.pixels * n.channels, width = n.channels / n.groups;

    norm_new(&k, set, n, rows, offset);
    norm_new(&cut, set, n, rows, offset);
    norm_run(&k, set, rows, skip);
    norm_run(&cut, set, 1, skip);
    assert_memory_equal(k.y, cut.y, k.all * 4);
    assert_memory_equal(k.dx, cut.dx, k.all * 4);
    assert_memory_equal(k.masked, cut.masked, k.all * 4);
    assert_memory_equal(k.partial, cut.partial, n.channels * 8);
    y = calloc(6 * k.all, sizeof *y);
    assert_non_null(y);
    dx = y + k.all;
    dgamma = dx + k.all;
    dbeta = dgamma + k.all;
    xhat = dbeta + k.all;
    dyhat = xhat + k.all;
    for (size_t r = 0; r < rows; r++)
        for (size_t g = 0; g < n.groups; g++) {
            double sum = 0, squares = 0, a = 0, b = 0, count = (double)(n.pixels * width), mean, rstd;
            for (int round = 0; round < 4; round++) {
                mean = sum / count;
                rstd = 1 / sqrt(squares / count + n.eps);
                for (size_t p = 0; p < n.pixels; p++)
                    for (size_t c = g * width; c < (g + 1) * width; c++) {
                        size_t at = r * row + p * n.channels + c;
                        double x = (double)k.x[at], dy = (double)k.dy[at];
                        if (round == 0) {
                            sum += x;
                        } else if (round == 1) {
                            squares += (x - mean) * (x - mean);
                        } else if (round == 2) {
                            xhat[at] = (x - mean) * rstd;
                            y[at] = xhat[at] * (double)k.gamma[c] + (double)k.beta[c];
                            y[at] += skip ? (double)k.skip[at] : 0;
                            if (n.relu && !(k.y[at] > 0)) {
                                assert_true(y[at] < 1e-4);
                                y[at] = dy = 0;
                            }
                            if (skip)
                                assert_true(k.masked[at] == (float)dy);
                            dgamma[c] += dy * xhat[at];
                            dbeta[c] += dy;
                            dyhat[at] = dy * (double)k.gamma[c];
                            a += dyhat[at];
                            b += dyhat[at] * xhat[at];
                        } else {
                            dx[at] = rstd * (dyhat[at] - a / count - xhat[at] * b / count);
                        }
                    }
            }
        }
    assert_true(check_error(y, k.y, k.all).rms < RMS_MOST);
    /* with one value in a group, the true dx is 0 */
    if (n.pixels * width > 1)
        assert_true(check_error(dx, k.dx, k.all).rms < 2 * RMS_MOST);
    assert_true(check_error(dgamma, k.partial, n.channels).rms < RMS_MOST);
    assert_true(check_error(dbeta, k.partial + n.channels, n.channels).rms < RMS_MOST);
    free(y);
    norm_free(&k);
    norm_free(&cut);
}

static void agrees_with_its_definition(void **state)
{
    static const struct {
        size_t pixels, channels, groups, rows;
    } SHAPES[] = {{1024, 64, 32, 2}, {256, 128, 32, 3}, {64, 256, 32, 2}, {16, 512, 32, 2},
                  {1, 64, 2, 7},     {49, 48, 3, 2},    {9, 17, 1, 10},   {25, 33, 11, 2},
                  {100, 5, 5, 3},    {64, 3, 1, 33},    {7, 1, 1, 2},     {3000, 24, 24, 1}};

    (void)state;
    for (size_t i = 0; set_of(i); i++)
        for (size_t s = 0; s < sizeof SHAPES / sizeof SHAPES[0]; s++)
            for (int how = 0; how < 4; how++) {
                struct native_norm n = {SHAPES[s].pixels, SHAPES[s].channels, SHAPES[s].groups, 1e-5, how & 1};
                check_definition(set_of(i), n, SHAPES[s].rows, how & 2, how ? 0 : 1);
            }
}

/* A mean that is far from 0 costs no digits of the variance. */
static void variance_does_not_suffer_from_the_mean(void **state)
{
    (void)state;
    for (size_t i = 0; set_of(i); i++) {
        struct norm_case k;
        struct native_norm n = {400, 20, 20, 0, false};
        double var[20];
        norm_new(&k, set_of(i), n, 1, 1000);
        set_of(i)->forward(&n, k.x, NULL, k.y, k.gamma, k.beta, k.stats, var, k.scratch, 0, 1);
        for (size_t c = 0; c < 20; c++) {
            double mean = 0, exact = 0;
            for (size_t p = 0; p < 400; p++)
                mean += (double)k.x[p * 20 + c] / 400;
            for (size_t p = 0; p < 400; p++)
                exact += ((double)k.x[p * 20 + c] - mean) * ((double)k.x[p * 20 + c] - mean) / 400;
            assert_true(fabs(var[c] / exact - 1) < 1e-6);
            assert_true(fabs((double)k.stats[20 + c] * sqrt(exact) - 1) < 1e-6);
        }
        /* and the same statistics, handed over, give the same values */
        set_of(i)->apply(&n, k.x, NULL, k.dx, k.gamma, k.beta, k.stats, k.stats + 20, k.scratch, 0, 1);
        for (size_t at = 0; at < k.all; at++)
            assert_true(fabsf(k.dx[at] - k.y[at]) < 1e-5f);
        norm_free(&k);
    }
}

static void no_number_spoils_its_group_alone(void **state)
{
    static const float VALUES[] = {NAN, INFINITY, -INFINITY};

    (void)state;
    for (size_t i = 0; set_of(i); i++)
        for (size_t v = 0; v < 3; v++) {
            struct norm_case k;
            struct native_norm n = {10, 12, 3, 1e-5, true};
            norm_new(&k, set_of(i), n, 3, 0);
            k.x[1 * 120 + 7 * 12 + 5] = VALUES[v];
            norm_run(&k, set_of(i), 3, false);
            for (size_t at = 0; at < k.all; at++)
                assert_int_equal(isnan(k.y[at]) != 0, at / 120 == 1 && at % 12 / 4 == 1);
            for (size_t at = 0; at < k.all; at++)
                assert_int_equal(isfinite(k.dx[at]) == 0, at / 120 == 1 && at % 12 / 4 == 1);
            for (size_t c = 0; c < 12; c++)
                assert_int_equal(isfinite(k.partial[c]) == 0, c / 4 == 1);
            norm_free(&k);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(agrees_with_its_definition),
        cmocka_unit_test(variance_does_not_suffer_from_the_mean),
        cmocka_unit_test(no_number_spoils_its_group_alone),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
