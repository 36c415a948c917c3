/* test_choose.c - which kernel the rule picks, on both sides of its bounds, as tests/bench/cpu/rule.py found them the
 * quickest. SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cpu/cpu_private.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#define COUNT(x) (sizeof(x) / sizeof *(x))

static const struct {
    enum precision precision;
    int side, stride, c, k, groups;
    bool need_dx;
    size_t batch;
    const char *wide, *narrow; /* vectors of sixteen, and of less */
} CASES[] = {
    {PRECISION_FP32, 3, 1, 32, 64, 1, true, 32, "winograd_f4", "winograd_f4"},
    {PRECISION_FP32, 3, 1, 3, 32, 1, false, 32, "direct", "direct"},
    {PRECISION_FP32, 3, 1, 8, 8, 1, true, 32, "batched", "winograd_f4"},
    {PRECISION_FP32, 3, 1, 8, 8, 1, true, 4, "direct", "winograd_f4"},
    {PRECISION_FP32, 3, 2, 16, 16, 1, true, 32, "direct", "direct"},
    {PRECISION_FP32, 3, 2, 32, 64, 1, true, 32, "winograd_f4", "winograd_f4"},
    {PRECISION_FP32, 3, 1, 24, 24, 24, true, 32, "depthwise", "depthwise"},
    {PRECISION_FP32, 1, 1, 64, 64, 1, true, 32, "direct", "direct"},
    {PRECISION_FP32_STRICT, 3, 1, 32, 64, 1, true, 32, "winograd_f2", "winograd_f2"},
    {PRECISION_FP32_STRICT, 3, 2, 32, 64, 1, true, 32, "direct", "direct"},
    {PRECISION_FP32, 5, 1, 32, 64, 1, true, 32, "winograd_f2_5x5", "winograd_f2_5x5"},
    {PRECISION_FP32, 5, 1, 12, 12, 1, true, 32, "batched", "winograd_f2_5x5"},
    {PRECISION_FP32, 5, 1, 6, 16, 1, true, 32, "batched", "winograd_f2_5x5"},
    {PRECISION_FP32, 5, 1, 4, 64, 1, true, 32, "batched", "winograd_f2_5x5"},
    {PRECISION_FP32, 5, 1, 7, 48, 1, true, 32, "winograd_f2_5x5", "winograd_f2_5x5"},
    {PRECISION_FP32, 5, 1, 3, 32, 1, false, 32, "direct", "direct"},
    {PRECISION_FP32, 5, 2, 4, 32, 1, true, 32, "direct", "direct"},
    {PRECISION_FP32, 7, 2, 3, 64, 1, false, 32, "direct", "direct"},
    {PRECISION_FP32_STRICT, 5, 1, 32, 64, 1, true, 32, "direct", "direct"},
};

static void each_shape_gets_the_kernel_that_is_quickest_for_it(void **state)
{
    (void)state;
    for (const struct native *const *native = native_all(); *native; native++)
        for (size_t i = 0; i < COUNT(CASES); i++) {
            struct choose_rules rules = choose_rules(*native, NULL, CASES[i].batch, CASES[i].precision);
            int pad = CASES[i].side / 2, out = (16 + 2 * pad - CASES[i].side) / CASES[i].stride + 1;
            struct conv c = {.h = 16,
                             .w = 16,
                             .c = CASES[i].c,
                             .k = CASES[i].k,
                             .r = CASES[i].side,
                             .s = CASES[i].side,
                             .stride = CASES[i].stride,
                             .pad_top = pad,
                             .pad_left = pad,
                             .p = out,
                             .q = out,
                             .groups = CASES[i].groups,
                             .bias = true,
                             .relu = true,
                             .need_dx = CASES[i].need_dx,
                             .batch = CASES[i].batch};
            const struct conv_kernel *kernel = choose_conv(&rules, &c);
            const char *wanted = (*native)->lanes == NATIVE_LANES ? CASES[i].wide : CASES[i].narrow;

            if (!kernel || strcmp(kernel->name, wanted))
                fail_msg("%s, case %zu: %s, not %s", (*native)->name, i, kernel ? kernel->name : "oneDNN", wanted);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(each_shape_gets_the_kernel_that_is_quickest_for_it)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
