/* test_direct.c - direct and depthwise convolutions of every instruction set against their definition in double,
 * with dropout against dropout behind them. SPDX-License-Identifier: Apache-2.0 */
#include "conv_check.h"

#include <stdio.h>

#define EACH(i, table) for (size_t i = 0; i < sizeof(table) / sizeof *(table); i++)

static const struct conv_kernel *find(const struct native *set, const char *name)
{
    for (size_t i = 0; set->convs[i]; i++)
        if (!strcmp(set->convs[i]->name, name))
            return set->convs[i];
    fail_msg("%s: no kernel %s", set->name, name);
    return NULL;
}

/* fp32 sums of n terms: their errors are about sqrt(n) roundings of 6e-8 of a value as large as the sum, and the worst
 * of some thousand values five times that. The gradient of weights sums images x outputs terms, tile by tile. */
static void expect_near(const char *set, const struct conv *c, size_t n, struct conv_errors e)
{
    double taps = (double)(c->r * c->s) * (c->c > c->k ? c->c : c->k) / c->groups;
    double most = 6e-8 * 5 * (2 + sqrt(taps)), most_w = 6e-8 * 5 * (2 + sqrt((double)n * c->p * c->q));

    if (!(e.y.max < most) || !(e.dx.max < most) || !(e.dw.max < most_w) || !(e.db.max < 5 * most_w))
        fail_msg("%s %dx%dx%d -> %d %dx%d stride %d pad %d,%d groups %d pool %d: y %g dx %g (%g) dw %g db %g (%g)", set,
                 c->h, c->w, c->c, c->k, c->r, c->s, c->stride, c->pad_top, c->pad_left, c->groups, c->pool, e.y.max,
                 e.dx.max, most, e.dw.max, e.db.max, most_w);
}

static void check_all(const char *kernel, const struct conv *c, size_t n, size_t chunk)
{
    for (const struct native *const *set = native_all(); *set; set++) {
        expect_near((*set)->name, c, n, conv_check(find(*set, kernel), c, n, chunk));
        if (c->relu)
            conv_check_dropout(find(*set, kernel), c, n, chunk);
    }
}

struct shape_row {
    int side, channels, filters, kernel, stride, pad;
    bool relu, pool;
    size_t n, chunk;
};

static void direct_is_right_for_any_shape(void **state)
{
    static const struct shape_row ROWS[] = {
        {8, 16, 32, 3, 1, 1, true, true, 2, 1},    {8, 32, 64, 3, 1, 1, true, false, 1, 1},
        {8, 3, 32, 3, 1, 1, true, true, 7, 3},     {9, 3, 33, 3, 1, 0, true, true, 2, 2},
        {7, 5, 17, 3, 1, 1, true, true, 2, 2},     {7, 1, 1, 3, 1, 1, false, false, 10, 4},
        {12, 3, 6, 5, 1, 0, true, true, 10, 5},    {11, 6, 16, 5, 1, 0, true, true, 2, 2},
        {11, 1, 32, 5, 1, 2, true, true, 3, 2},    {6, 16, 48, 5, 1, 2, true, true, 1, 1},
        {8, 48, 33, 1, 1, 0, false, false, 2, 2},  {9, 17, 48, 1, 2, 0, false, false, 2, 1},
        {8, 33, 5, 3, 2, 1, false, false, 2, 2},   {9, 16, 40, 3, 2, 1, true, false, 3, 2},
        {9, 5, 16, 5, 2, 2, true, true, 2, 2},     {16, 3, 20, 7, 2, 3, true, false, 2, 1},
        {10, 4, 8, 3, 3, 0, false, false, 2, 2},   {11, 4, 8, 2, 3, 1, false, false, 2, 2},
        {3, 2, 3, 3, 1, 2, true, false, 2, 2},     {4, 3, 4, 1, 1, 2, false, false, 2, 2},
        {5, 3, 3, 5, 1, 0, true, false, 33, 10},   {1, 7, 9, 1, 1, 0, true, false, 7, 7},
        {30, 5, 5, 3, 1, 0, true, false, 1, 1},    {13, 2, 17, 3, 1, 1, true, false, 2, 2},
        {3, 130, 70, 3, 1, 1, true, false, 4, 3},  {4, 70, 60, 3, 2, 1, false, false, 11, 11},
    };

    (void)state;
    EACH(i, ROWS)
    {
        const struct shape_row *r = &ROWS[i];
        struct conv c = check_conv(r->side, r->channels, r->filters, r->kernel, r->stride, r->pad, r->relu, r->pool);
        check_all("direct", &c, r->n, r->chunk);
        c.need_dx = false;
        c.bias = i % 2;
        check_all("direct", &c, r->n, r->chunk);
    }
}

static void direct_is_right_for_groups_and_uneven_sides(void **state)
{
    struct conv c = check_conv(8, 12, 20, 3, 1, 1, true, true);

    (void)state;
    c.groups = 4;
    check_all("direct", &c, 3, 2);
    c.groups = 2, c.need_dx = false;
    check_all("direct", &c, 3, 2);
    c = check_conv(9, 6, 6, 3, 2, 1, true, false);
    c.groups = 6;
    check_all("direct", &c, 2, 2);
    /* "same" with an even kernel and a stride pads below and to the right alone; another height than width */
    c = (struct conv){.h = 10, .w = 7, .c = 3, .k = 18, .r = 4, .s = 3, .stride = 2, .pad_top = 1, .pad_left = 0,
                      .p = 5, .q = 4, .groups = 1, .bias = true, .relu = true, .need_dx = true};
    check_all("direct", &c, 3, 2);
    c.stride = 1, c.pad_left = 2, c.p = 10, c.q = 7, c.pool = true;
    check_all("direct", &c, 3, 2);
    /* outputs that read nothing but padding; inputs that no output reads */
    c = (struct conv){.h = 3, .w = 4, .c = 2, .k = 3, .r = 2, .s = 2, .stride = 2, .pad_top = 3, .pad_left = 2, .p = 6,
                      .q = 5, .groups = 1, .bias = true, .relu = true, .need_dx = true};
    check_all("direct", &c, 2, 2);
    c = (struct conv){.h = 12, .w = 11, .c = 2, .k = 3, .r = 2, .s = 2, .stride = 2, .p = 3, .q = 2, .groups = 1,
                      .need_dx = true};
    check_all("direct", &c, 2, 2);
}

static void depthwise_is_right_for_any_shape(void **state)
{
    static const struct shape_row ROWS[] = {
        {8, 32, 32, 3, 1, 1, true, false, 2, 1},   {9, 17, 17, 3, 2, 1, true, false, 7, 3},
        {10, 48, 48, 5, 1, 2, false, false, 2, 2}, {10, 5, 5, 5, 2, 2, true, false, 10, 4},
        {19, 1, 1, 3, 1, 0, false, false, 33, 10}, {15, 33, 33, 3, 1, 1, true, false, 2, 2},
        {7, 6, 12, 3, 1, 1, true, false, 2, 2},    {8, 5, 15, 3, 2, 0, true, false, 3, 2},
        {9, 20, 20, 7, 1, 3, true, false, 2, 2},   {9, 3, 3, 4, 3, 1, false, false, 2, 2},
        {6, 16, 16, 1, 2, 0, false, false, 2, 2},  {5, 16, 16, 2, 1, 0, true, false, 2, 2},
        {3, 4, 4, 2, 2, 3, true, false, 2, 2},     {14, 16, 16, 6, 1, 2, false, false, 2, 2},
    };

    (void)state;
    EACH(i, ROWS)
    {
        const struct shape_row *r = &ROWS[i];
        struct conv c = check_conv(r->side, r->channels, r->filters, r->kernel, r->stride, r->pad, r->relu, r->pool);
        c.groups = r->channels;
        check_all("depthwise", &c, r->n, r->chunk);
        c.need_dx = false;
        c.bias = i % 2;
        check_all("depthwise", &c, r->n, r->chunk);
    }
}

/* A value of x makes every output that reads it so, and with a pool its block; one in dy all that depends on it. */
static void no_numbers_pass_through(const char *name, struct conv c, float bad)
{
    for (const struct native *const *set = native_all(); *set; set++) {
        struct conv_case k;
        size_t per_y, hit = 0;
        case_new(&k, find(*set, name), &c, 2, 5);
        per_y = k.y_size / 2;
        for (int ch = 0; ch < c.c; ch++)
            k.x[check_at(false, 1, ch, 2, 3, c.c, c.h, c.w)] = bad;
        case_run(&k, 2, 2);
        for (size_t i = 0; i < per_y; i++)
            assert_true(isfinite(k.y[i]));
        for (size_t i = 0; i < per_y; i++)
            hit += isfinite(k.y[per_y + i]) ? 0 : 1;
        if (isnan(bad)) /* an infinity may fall to ReLU; 3x3 outputs, or the 2x2 blocks that they touch */
            assert_int_equal(hit, (c.pool ? 4 : 9) * c.k);
        else
            assert_true(hit > 0);
        case_free(&k);

        case_new(&k, find(*set, name), &c, 2, 5);
        for (int f = 0; f < c.k; f++)
            k.dy[check_at(false, 0, f, 1, 1, c.k, k.yh, k.yw)] = bad;
        if (c.relu) /* so that the block is not all 0 */
            for (int f = 0; f < c.k; f++)
                k.bias[f] = 20;
        case_run(&k, 2, 2);
        hit = 0;
        for (size_t i = 0; i < k.x_size / 2; i++)
            hit += isfinite(k.dx[i]) ? 0 : 1;
        assert_true(hit >= (size_t)(c.pool ? 9 * c.c / 2 : 9 * c.c));
        for (size_t i = k.x_size / 2; i < k.x_size; i++)
            assert_true(isfinite(k.dx[i]));
        for (int f = 0; f < c.k; f++) {
            assert_true(!isfinite(k.db[f]));
            for (int r = 0; r < 9; r++)
                assert_true(!isfinite(k.dw[check_weight(k.kernel, &k.c, f, 0, r / 3, r % 3)]));
        }
        case_free(&k);
    }
}

static void direct_passes_nan_and_inf_on(void **state)
{
    (void)state;
    for (int bad = 0; bad < 2; bad++) {
        no_numbers_pass_through("direct", check_conv(8, 5, 33, 3, 1, 1, false, false), bad ? NAN : INFINITY);
        no_numbers_pass_through("direct", check_conv(8, 5, 33, 3, 1, 1, true, false), bad ? NAN : INFINITY);
        no_numbers_pass_through("direct", check_conv(8, 5, 33, 3, 1, 1, true, true), bad ? NAN : INFINITY);
    }
}

static void depthwise_passes_nan_and_inf_on(void **state)
{
    struct conv c = check_conv(8, 17, 17, 3, 1, 1, false, false);

    (void)state;
    c.groups = 17;
    for (int relu = 0; relu < 2; relu++, c.relu = true) {
        no_numbers_pass_through("depthwise", c, NAN);
        no_numbers_pass_through("depthwise", c, INFINITY);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(direct_is_right_for_any_shape),
        cmocka_unit_test(direct_is_right_for_groups_and_uneven_sides),
        cmocka_unit_test(direct_passes_nan_and_inf_on),
        cmocka_unit_test(depthwise_is_right_for_any_shape),
        cmocka_unit_test(depthwise_passes_nan_and_inf_on),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
