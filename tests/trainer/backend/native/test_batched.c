/* test_batched.c - the kernel `batched` against the definition: sizes with tails, any number of rows in the last group,
 * rows and lanes on either side; what is no number passes through.
 * SPDX-License-Identifier: Apache-2.0 */
#include "tests/trainer/backend/native/conv_check.h"

#define COUNT(a) (sizeof(a) / sizeof *(a))

static const struct conv_kernel *batched_of(const struct native *set)
{
    for (size_t i = 0; set->convs[i]; i++)
        if (!strcmp(set->convs[i]->name, "batched"))
            return set->convs[i];
    fail_msg("%s: no kernel batched", set->name);
    return NULL;
}

struct shape {
    int side, channels, filters, kernel, stride, pad;
    bool relu, pool;
};

static const struct shape SHAPES[] = {
    {14, 3, 6, 5, 1, 0, true, true},  /* as lenet's first */
    {14, 6, 16, 5, 1, 0, true, true}, /* and its second */
    {12, 1, 5, 5, 1, 2, true, true},
    {9, 8, 16, 3, 1, 1, true, false},
    {8, 16, 8, 3, 1, 1, true, true},
    {7, 5, 17, 3, 1, 1, true, true}, /* the pool drops a row and a column */
    {5, 3, 33, 3, 1, 0, false, false},
    {6, 15, 48, 3, 1, 1, true, false},
    {1, 3, 5, 1, 1, 0, true, false},
    {7, 2, 9, 1, 1, 0, false, false},
    {9, 3, 7, 7, 1, 3, true, true},
    {6, 5, 4, 2, 1, 1, true, false},
    {9, 4, 7, 4, 1, 0, true, true},
    {11, 3, 8, 3, 2, 1, true, false},
    {12, 3, 5, 5, 2, 2, true, true},
    {10, 2, 3, 1, 3, 0, false, false},
    {3, 4, 3, 3, 1, 0, true, false}, /* one pixel is left */
    {4, 5, 6, 3, 1, 0, true, true},
};

/* Sums in fp32: each of up to a few hundred terms adds a rounding of 6e-8 of a sum of size 1, in random directions; the
 * largest of thousands is some 10 times the usual one, and where lanes are empty, the tensor's zeros make the rms to
 * which it is relative up to 4 times smaller. */
static void check(const struct conv_kernel *kernel, const struct conv *c, size_t n, size_t chunk)
{
    struct conv_errors e = conv_check(kernel, c, n, chunk);

    if (!(e.y.max < 1.5e-5 && e.y.rms < 4e-7 && e.dx.max < 1.5e-5 && e.dx.rms < 6e-7 && e.dw.max < 1e-5 &&
          e.dw.rms < 2e-6 && e.db.max < 6e-6))
        fail_msg("%dx%dx%d -> %d, %dx%d, stride %d, pad %d, lanes %d %d, %zu rows: y %.1e %.1e dx %.1e %.1e dw %.1e "
                 "%.1e db %.1e", c->h, c->w, c->c, c->k, c->r, c->s, c->stride, c->pad_top, c->x_batched, c->y_batched,
                 n, e.y.max, e.y.rms, e.dx.max, e.dx.rms, e.dw.max, e.dw.rms, e.db.max);
}

static struct conv conv_of(const struct shape *s)
{
    return check_conv(s->side, s->channels, s->filters, s->kernel, s->stride, s->pad, s->relu, s->pool);
}

static void matches_the_definition_for_any_shape_and_layout(void **state)
{
    static const size_t BATCHES[] = {1, 2, 7, 10, 33};

    (void)state;
    for (const struct native *const *set = native_all(); *set; set++)
        for (size_t i = 0; i < COUNT(SHAPES); i++)
            for (int layout = 0; layout < 4; layout++) {
                struct conv c = conv_of(&SHAPES[i]);
                c.x_batched = layout & 1;
                c.y_batched = layout & 2;
                check(batched_of(*set), &c, BATCHES[(i + (size_t)layout) % COUNT(BATCHES)], 16);
            }
}

static void any_number_of_rows_may_be_missing_in_the_last_group(void **state)
{
    static const struct shape SHAPE[] = {{12, 3, 5, 5, 1, 0, true, true}, {9, 4, 3, 3, 1, 1, true, false},
                                         {20, 1, 2, 3, 1, 1, true, true}};

    (void)state;
    for (const struct native *const *set = native_all(); *set; set++)
        for (size_t i = 0; i < COUNT(SHAPE); i++)
            for (size_t n = 1; n <= 17; n++) {
                struct conv c = conv_of(&SHAPE[i]);
                c.x_batched = n & 1;
                c.y_batched = n & 2;
                check(batched_of(*set), &c, n, 32);
            }
}

static void sides_and_paddings_may_differ(void **state)
{
    (void)state;
    for (const struct native *const *set = native_all(); *set; set++)
        for (int pool = 0; pool < 2; pool++) {
            struct conv c = {.h = 9, .w = 12, .c = 3, .k = 7, .r = 5, .s = 3, .stride = 1, .pad_top = 2, .pad_left = 0,
                             .p = 8, .q = 11, .groups = 1, .relu = true, .pool = pool, .need_dx = true};
            check(batched_of(*set), &c, 19, 16);
            c.need_dx = false;
            c.bias = true;
            check(batched_of(*set), &c, 19, 16);
            c.s = 1; /* and columns of x that no output reads */
            c.q = 9;
            c.need_dx = true;
            check(batched_of(*set), &c, 3, 16);
            c.q = 1;
            c.pool = false;
            check(batched_of(*set), &c, 3, 16);
        }
}

/* One bad value in row 3's middle (2 and 4 keep apart from it), first in x, then in a weight, then in dy. */
static void what_is_no_number_or_infinite_passes_through(void **state)
{
    static const float BAD[] = {NAN, INFINITY, -INFINITY};

    (void)state;
    for (const struct native *const *set = native_all(); *set; set++)
        for (int at = 0; at < 2 * 3 * 4; at++) {
            const struct conv_kernel *kernel = batched_of(*set);
            struct conv c = check_conv(8, 2, 4, 3, 1, 1, true, at & 1);
            float bad = BAD[at / 2 % 3];
            int where = at / 6;
            struct conv_case k;
            size_t pixels, image;
            bool y_bad = false, dw_bad = false, dx_bad = false;
            c.x_batched = c.y_batched = where & 1;
            case_new(&k, kernel, &c, 6, 3);
            pixels = (size_t)(k.yh * k.yw);
            if (where < 2)
                k.x[check_at(c.x_batched, 3, 1, 4, 4, c.c, c.h, c.w)] = bad;
            else if (where == 2)
                k.weights[check_weight(kernel, &c, 2, 1, 1, 1)] = bad;
            else
                for (size_t i = 0; i < pixels; i++) /* ReLU lets one of them through */
                    k.dy[check_at(c.y_batched, 3, 2, (int)i / k.yw, (int)i % k.yw, c.k, k.yh, k.yw)] = bad;
            case_run(&k, 16, 16);
            for (size_t row = 0; row < 6; row++) {
                bool here = false;
                for (int f = 0; f < c.k; f++)
                    for (size_t i = 0; i < pixels; i++)
                        here |= !isfinite(k.y[check_at(c.y_batched, row, f, (int)i / k.yw, (int)i % k.yw, c.k, k.yh,
                                                       k.yw)]);
                assert_true(where == 2 || !here || (row == 3 && where < 2));
                y_bad |= here;
                here = false;
                for (int ch = 0; ch < c.c; ch++)
                    for (int i = 0; i < c.h * c.w; i++)
                        here |= !isfinite(k.dx[check_at(c.x_batched, row, ch, i / c.w, i % c.w, c.c, c.h, c.w)]);
                assert_true(where == 2 || !here || row == 3);
                dx_bad |= here;
            }
            for (size_t i = 0; i < k.weights_size; i++)
                dw_bad |= !isfinite(k.dw[i]);
            image = where == 3;
            assert_true(y_bad || image);
            assert_true(dw_bad || where == 2);
            assert_true(dx_bad || where < 2);
            if (isnan(bad) && where < 2) /* all nine outputs around it, or the blocks of the pool that they are in */
                for (int f = 0; f < c.k; f++)
                    for (int y = 3; y <= 5; y++)
                        for (int x = 3; x <= 5; x++)
                            assert_true(isnan(k.y[check_at(c.y_batched, 3, f, c.pool ? y / 2 : y, c.pool ? x / 2 : x,
                                                           c.k, k.yh, k.yw)]));
            case_free(&k);
        }
}

/* Lanes of no row hold anything, and it must not get into sums. */
static void lanes_past_the_end_stay_out_of_sums(void **state)
{
    (void)state;
    for (const struct native *const *set = native_all(); *set; set++)
        for (size_t n = 1; n < 2 * NATIVE_LANES; n++) {
            struct conv c = check_conv(8, 2, 3, 3, 1, n & 1, true, n & 2);
            struct conv_case clean, dirty;
            c.x_batched = c.y_batched = true;
            case_new(&clean, batched_of(*set), &c, n, 3);
            case_new(&dirty, batched_of(*set), &c, n, 3);
            for (size_t row = n; row < dirty.rows; row++) {
                for (int i = 0; i < c.c * c.h * c.w; i++)
                    dirty.x[check_at(true, row, 0, 0, i, 1, 1, c.c * c.h * c.w)] = NAN;
                for (int i = 0; i < c.k * dirty.yh * dirty.yw; i++)
                    dirty.dy[check_at(true, row, 0, 0, i, 1, 1, c.k * dirty.yh * dirty.yw)] = NAN;
            }
            case_run(&clean, 16, 16);
            case_run(&dirty, 16, 16);
            case_mute(&clean);
            case_mute(&dirty);
            assert_memory_equal(clean.y, dirty.y, clean.y_size * 4);
            assert_memory_equal(clean.dx, dirty.dx, clean.x_size * 4);
            assert_memory_equal(clean.dw, dirty.dw, clean.weights_size * 4);
            assert_memory_equal(clean.db, dirty.db, (size_t)c.k * 4);
            case_free(&clean);
            case_free(&dirty);
        }
}

/* A row's bits are the same in a group of its own and among others. */
static void a_row_does_not_depend_on_its_neighbours(void **state)
{
    (void)state;
    for (const struct native *const *set = native_all(); *set; set++)
        for (size_t i = 0; i < COUNT(SHAPES); i++) {
            struct conv c = conv_of(&SHAPES[i]);
            struct conv_case many, few;
            case_new(&many, batched_of(*set), &c, 16, 3);
            for (size_t n = 1; n < 16; n += 4) {
                case_new(&few, batched_of(*set), &c, n, 4);
                memcpy(few.x, many.x, few.x_size * 4);
                memcpy(few.dy, many.dy, few.y_size * 4);
                memcpy(few.weights, many.weights, few.weights_size * 4);
                memcpy(few.bias, many.bias, (size_t)c.k * 4);
                case_run(&many, 16, 16);
                case_run(&few, 16, 16);
                assert_memory_equal(many.y, few.y, few.y_size * 4);
                assert_memory_equal(many.dx, few.dx, few.x_size * 4);
                case_free(&few);
            }
            case_free(&many);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(matches_the_definition_for_any_shape_and_layout),
        cmocka_unit_test(any_number_of_rows_may_be_missing_in_the_last_group),
        cmocka_unit_test(sides_and_paddings_may_differ),
        cmocka_unit_test(what_is_no_number_or_infinite_passes_through),
        cmocka_unit_test(lanes_past_the_end_stay_out_of_sums),
        cmocka_unit_test(a_row_does_not_depend_on_its_neighbours),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
