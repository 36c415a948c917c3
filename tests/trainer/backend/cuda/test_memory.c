/* test_memory.c - whose fault it is that a trial has no memory on the fake GPU: the backend tells others from itself, also where
 * one of several GPUs is short, and never puts it on others that a trial does not fit at all.
 * SPDX-License-Identifier: Apache-2.0 */
#include "tests/trainer/backend/cuda/fake.h"
#include "trainer/backend/cuda/cuda_private.h"
#include "trainer/backend/cuda/selftest.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#define MIB ((size_t)1 << 20)
#define WHOLE (4096 * MIB) /* of which an eighth may be this process's own, beside what it has allocated */

static const char DENSE[] = "[\"flatten\", {\"dense\": {\"units\": 2048}}, {\"dense\": {\"units\": \"classes\"}}]";

static void must_open(struct bed *b, size_t gpus)
{
    struct error err = {0};

    if (bed_init(b, DENSE, 3, 8, 6, 4, 40, 8, PRECISION_FP32_STRICT, &err) ||
        (gpus > 1 && bed_use_gpus(b, gpus, PRECISION_FP32_STRICT, 8, &err)))
        fail_msg("%s", err.text);
}

static bool is_squeezed(struct bed *b, size_t batch, struct squeeze *ret)
{
    memset(ret, 0xff, sizeof *ret);
    return BACKEND_CUDA.squeezed(b->gpu, b->model, &(struct plan_options){batch, PRECISION_FP32_STRICT}, &b->data, ret);
}

static void others_are_told_from_what_is_its_own(void **state)
{
    struct squeeze squeeze;
    struct error err = {0};
    struct bed b;
    void *own;

    (void)state;
    must_open(&b, 1);
    assert_false(is_squeezed(&b, 8, &squeeze)); /* there is enough */
    fake_others(0, WHOLE - 8 * MIB);
    assert_true(is_squeezed(&b, 8, &squeeze));
    assert_int_equal(squeeze.gpu, 0);
    assert_string_equal(squeeze.name, "Fake GPU");
    assert_int_equal(squeeze.total_bytes, WHOLE);
    assert_int_equal(squeeze.free_bytes, 8 * MIB); /* what this backend holds of it included */
    assert_int_equal(squeeze.others_bytes, WHOLE - 8 * MIB - CONTEXT_BYTES);
    assert_true(squeeze.needed_bytes > CONTEXT_BYTES);
    fake_others(0, WHOLE / 8); /* no more than a driver might take for this process */
    assert_false(is_squeezed(&b, 8, &squeeze));
    fake_others(0, 0); /* all that is gone is its own: another run's, or an idle plan's */
    assert_int_equal(FAKE_DRIVER.alloc(b.gpu->device, WHOLE - fake.used - MIB, &own, &err), 0);
    assert_false(is_squeezed(&b, 8, &squeeze));
    FAKE_DRIVER.release(b.gpu->device, own);
    bed_done(&b);
}

/* There is more than enough for it where others are, or never. */
static void only_what_would_fit_without_them_waits(void **state)
{
    struct squeeze squeeze;
    struct error err = {0};
    size_t bytes = 0, batch = 1024;
    struct bed b;

    (void)state;
    must_open(&b, 1);
    fake_others(0, WHOLE / 2);
    assert_false(is_squeezed(&b, 8, &squeeze)); /* the other half will do */
    do
        batch *= 2; /* until it is more than the whole */
    while (!BACKEND_CUDA.compile(b.gpu, b.model, &(struct plan_options){batch, PRECISION_FP32_STRICT}, NULL, &bytes, &err));
    assert_int_equal(err.code, -ENOMEM);
    assert_true(bytes > WHOLE);
    assert_false(is_squeezed(&b, batch, &squeeze));
    assert_true(is_squeezed(&b, batch / 2, &squeeze));
    fake_others(0, 0);
    bed_done(&b);
}

static void the_gpu_that_is_short_is_named(void **state)
{
    struct squeeze squeeze;
    struct backend *backend;
    struct error err = {0};
    struct bed b;

    (void)state;
    must_open(&b, 3);
    assert_false(is_squeezed(&b, 8, &squeeze));
    fake_others(2, WHOLE - 8 * MIB);
    assert_true(is_squeezed(&b, 8, &squeeze));
    assert_int_equal(squeeze.gpu, 2);
    bed_done(&b);
    fake_others(2, WHOLE); /* not even a context */
    assert_int_equal(BACKEND_CUDA.open(&(struct backend_options){.gpus_n = 3}, &backend, &err), -ENOBUFS);
    assert_non_null(strstr(err.text, "other processes hold its memory: there is none for a context (GPU 2)"));
    assert_int_equal(BACKEND_CUDA.open(&(struct backend_options){.gpus_n = 2}, &backend, &err), 0);
    BACKEND_CUDA.close(backend);
    fake_others(2, 0);
    assert_int_equal(fake.opened, 0);
    assert_int_equal(fake.blocks, 0);
}

static void must_be_any(int index, size_t capacity)
{
    struct device_info info;
    struct device *device;
    struct error err = {0};

    assert_int_equal(device_any(&FAKE_DRIVER, false, &device, &info, &err), 0);
    assert_int_equal(device->index, index);
    assert_int_equal(info.total_bytes, capacity);
    FAKE_DRIVER.close(device);
}

static void must_be_none(int code, const char *text, size_t capacity)
{
    struct device_info info = {.total_bytes = 0};
    struct device *device;
    struct error err = {0};

    assert_int_equal(device_any(&FAKE_DRIVER, false, &device, &info, &err), code);
    assert_string_equal(err.text, text);
    assert_int_equal(info.total_bytes, capacity);
}

static void a_gpu_that_is_full_or_broken_does_not_hide_the_rest(void **state)
{
    static const char FULL[] = "other processes hold the memory of every GPU that can be used: there is none for a context";

    (void)state;
    for (int i = 0; i < 4; i++)
        fake.of[i].capacity = WHOLE + (size_t)i;
    must_be_any(0, WHOLE);
    fake.of[0].broken = true;
    fake_others(1, WHOLE);
    must_be_any(2, WHOLE + 2);
    fake_others(2, WHOLE);
    fake.of[3].broken = true;
    must_be_none(-ENOBUFS, FULL, WHOLE + 1); /* what trials can wait for */
    fake.of[1].broken = fake.of[2].broken = true;
    must_be_none(-ENODEV, "Fake GPU 0 does not pass the self-check", 0);
    memset(fake.of, 0, sizeof fake.of);
    assert_int_equal(fake.opened, 0);
}

static void must_plan_for(size_t capacity)
{
    struct backend *backend;
    struct error err = {0};

    if (BACKEND_CUDA.open(&(struct backend_options){.planning = true}, &backend, &err))
        fail_msg("%s", err.text);
    assert_int_equal(backend->info.total_bytes, capacity);
    BACKEND_CUDA.close(backend);
}

static void what_is_planned_for_does_not_hang_on_who_uses_which_gpu(void **state)
{
    struct backend *backend;
    struct error err = {0};

    (void)state;
    for (int i = 0; i < 4; i++)
        fake.of[i].capacity = WHOLE + (size_t)i;
    must_plan_for(WHOLE);
    fake_others(0, WHOLE);
    must_plan_for(WHOLE);
    fake.of[0].broken = true;
    must_plan_for(WHOLE + 1);
    fake_others(1, WHOLE);
    must_plan_for(WHOLE + 1);
    for (int i = 0; i < 4; i++)
        fake.of[i].broken = true;
    assert_int_equal(BACKEND_CUDA.open(&(struct backend_options){.planning = true}, &backend, &err), -ENODEV);
    memset(fake.of, 0, sizeof fake.of);
    assert_int_equal(fake.opened, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(others_are_told_from_what_is_its_own),
        cmocka_unit_test(only_what_would_fit_without_them_waits),
        cmocka_unit_test(the_gpu_that_is_short_is_named),
        cmocka_unit_test(a_gpu_that_is_full_or_broken_does_not_hide_the_rest),
        cmocka_unit_test(what_is_planned_for_does_not_hang_on_who_uses_which_gpu),
    };

    fake.capacity = WHOLE;
    fake.devices = 4;
    cuda_use_driver(&FAKE_DRIVER);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
