/* Dropout of every instruction set: the decisions are those of the plain loop, value by value, wherever it is cut.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cpu/cpu_private.h"
#include "trainer/backend/cpu/native/native.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define DECLARE(isa)                                                                                                   \
    void dropout_##isa(double rate, const struct pcg32 *rng, const float *x, float *y, uint64_t *kept, size_t lo,      \
                       size_t hi);                                                                                     \
    void dropout_keep_##isa(double rate, const struct pcg32 *rng, uint64_t *kept, size_t lo, size_t hi);                \
    void dropout_backward_##isa(double rate, const uint64_t *kept, const float *dy, float *dx, size_t lo, size_t hi);
#define ROW(isa) {#isa, dropout_##isa, dropout_keep_##isa, dropout_backward_##isa},
#ifdef __x86_64__
DECLARE(avx512)
DECLARE(avx2)
#endif
DECLARE(portable)

static const struct set {
    const char *name;
    void (*forward)(double rate, const struct pcg32 *rng, const float *x, float *y, uint64_t *kept, size_t lo,
                    size_t hi);
    void (*keep)(double rate, const struct pcg32 *rng, uint64_t *kept, size_t lo, size_t hi);
    void (*backward)(double rate, const uint64_t *kept, const float *dy, float *dx, size_t lo, size_t hi);
} SETS[] = {
#ifdef __x86_64__
    ROW(avx512) ROW(avx2)
#endif
        ROW(portable)};

static bool has(const char *name)
{
    for (size_t i = 0; native_all()[i]; i++)
        if (!strcmp(native_all()[i]->name, name))
            return true;
    return false;
}

enum { MOST = 3000 };

/* Two values from each draw, in order, the low half first. */
static void plain_dropout(double rate, struct pcg32 *rng, const float *x, float *y, uint8_t *kept, size_t n)
{
    uint32_t draw = 0;
    float scale = (float)(1 / (1 - rate));

    for (size_t i = 0; i < n; i++) {
        draw = i & 1 ? draw >> 16 : pcg32_next(rng);
        kept[i] = !((double)(draw & 0xffff) < floor(rate * 65536 + 0.5));
        y[i] = kept[i] ? x[i] * scale : 0;
    }
}

static void check(const struct set *set, double rate, size_t n, size_t piece)
{
    float x[MOST], y[MOST + 1], expected[MOST], dx[MOST + 1];
    uint64_t kept[MOST / 64 + 2];
    uint8_t kept_expected[MOST];
    struct pcg32 rng = rng_key(3, RNG_DROPOUT, n, piece, 1), plain = rng;

    for (size_t i = 0; i < n; i++)
        x[i] = i % 97 == 5 ? NAN : i % 89 == 7 ? INFINITY : (float)i - 700.25f;
    y[n] = dx[n] = 17;
    memset(kept, 0, sizeof kept);
    kept[(n + 63) / 64] = 17;
    plain_dropout(rate, &plain, x, expected, kept_expected, n);
    for (size_t lo = 0; lo < n; lo += piece)
        set->forward(rate, &rng, x, y, kept, lo, lo + piece < n ? lo + piece : n);
    assert_memory_equal(y, expected, n * sizeof *y);
    for (size_t i = 0; i < n; i++)
        assert_int_equal(kept[i / 64] >> (i % 64) & 1, kept_expected[i]);
    memset(kept, 0, sizeof kept);
    kept[(n + 63) / 64] = 17;
    for (size_t lo = 0; lo < n; lo += piece)
        set->keep(rate, &rng, kept, lo, lo + piece < n ? lo + piece : n);
    for (size_t i = 0; i < n; i++)
        assert_int_equal(kept[i / 64] >> (i % 64) & 1, kept_expected[i]);
    pcg32_advance(&rng, (n + 1) / 2);
    assert_true(rng.state == plain.state);
    for (size_t i = 0; i < n; i++)
        expected[i] = kept_expected[i] ? x[i] * (float)(1 / (1 - rate)) : 0;
    for (size_t lo = 0; lo < n; lo += piece)
        set->backward(rate, kept, x, dx, lo, lo + piece < n ? lo + piece : n);
    assert_memory_equal(dx, expected, n * sizeof *dx);
    memcpy(dx, x, n * sizeof *dx);
    set->backward(rate, kept, dx, dx, 0, n);
    assert_memory_equal(dx, expected, n * sizeof *dx);
    assert_true(y[n] == 17 && dx[n] == 17 && kept[(n + 63) / 64] == 17);
}

static void decides_as_the_plain_loop_does(void **state)
{
    static const size_t COUNTS[] = {1, 2, 15, 31, 63, 64, 65, 127, 128, 130, 1000, 1280, 2999};
    static const double RATES[] = {0.25, 0.5, 0, 1e-6, 0.1, 0.999, 0.99999999, 0.2};

    (void)state;
    for (size_t s = 0; s < sizeof SETS / sizeof SETS[0]; s++)
        for (size_t i = 0; has(SETS[s].name) && i < sizeof COUNTS / sizeof COUNTS[0]; i++)
            for (size_t r = 0; r < sizeof RATES / sizeof RATES[0]; r++) {
                check(&SETS[s], RATES[r], COUNTS[i], MOST);
                check(&SETS[s], RATES[r], COUNTS[i], 64);
                check(&SETS[s], RATES[r], COUNTS[i], 192);
            }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(decides_as_the_plain_loop_does)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
