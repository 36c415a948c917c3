/* test_layers.c - what layers do with values that are no numbers: as the CPU backend, which lets them through, so that
 * a diverged run is seen to diverge. SPDX-License-Identifier: Apache-2.0 */
#include "tests/trainer/backend/cuda/fake.h"
#include "trainer/backend/cuda/selftest.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#define CONV "{\"conv2d\": {\"filters\": 4, \"kernel\": 3, \"padding\": \"same\", \"activation\": \"relu\"}}"
#define LAST "\"flatten\", {\"dense\": {\"units\": \"classes\"}}]"

/* A weight of filter 1 is no number: which gradients are none, and which are? */
static void what_is_no_number_passes_back_as_on_the_cpu(void **state)
{
    static const char *const NETS[] = {
        "[" CONV ", " LAST,
        "[" CONV ", {\"max_pool2d\": {\"size\": 2}}, " LAST,
        "[" CONV ", {\"avg_pool2d\": {\"size\": 2}}, " LAST,
        "[" CONV ", {\"dropout\": {\"rate\": 0.5}}, \"relu\", " LAST,
        "[" CONV ", {\"residual\": {\"layers\": [" CONV "], \"activation\": \"relu\"}}, " LAST,
    };
    uint32_t samples[5] = {0, 1, 2, 3, 4};

    (void)state;
    for (size_t k = 0; k < sizeof NETS / sizeof *NETS; k++) {
        struct bed b;
        struct error err = {0};
        float *grads[2];
        double losses[2];
        size_t none = 0;
        if (bed_init(&b, NETS[k], 3, 8, 6, 4, 20, 5, PRECISION_FP32_STRICT, &err))
            fail_msg("%s: %s", NETS[k], err.text);
        b.weights[30] = NAN;
        for (int which = 0; which < 2; which++) {
            const struct backend_ops *ops = which ? &BACKEND_CUDA : &BACKEND_CPU;
            grads[which] = calloc(b.model->trainable_n, sizeof(float));
            assert_int_equal(ops->gradients(which ? b.gpu_plan : b.cpu_plan, b.weights, &b.data.train, samples, 5,
                                            grads[which], &losses[which], &err),
                             0);
            assert_true(isnan(losses[which]));
        }
        for (size_t i = 0; i < b.model->trainable_n; i++) {
            none += isnan(grads[0][i]) != 0;
            if (isnan(grads[0][i]) != isnan(grads[1][i]))
                fail_msg("%s: gradient %zu: %g on the CPU, %g on the GPU", NETS[k], i, (double)grads[0][i],
                         (double)grads[1][i]);
        }
        assert_true(none > 3 * 9 && isnan(grads[0][30])); /* of the filter's own, too */
        free(grads[0]);
        free(grads[1]);
        bed_done(&b);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_no_number_passes_back_as_on_the_cpu),
    };
    return cmocka_run_group_tests(tests, fake_use, NULL);
}
