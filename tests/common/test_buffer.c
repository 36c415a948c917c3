/* test_buffer.c - buffers are aligned, zeroed to their end, and can be had again. SPDX-License-Identifier: Apache-2.0 */
#include "common/buffer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static void buffers_of_any_size_are_aligned_and_zeroed(void **state)
{
    static const size_t SIZES[] = {0, 1, 63, 64, 4097, 1 << 20, (4 << 20) - 1, 4 << 20, (6 << 20) + 5};

    (void)state;
    for (size_t turn = 0; turn < 3; turn++) /* memory that was used before comes back as zeros */
        for (size_t i = 0; i < sizeof SIZES / sizeof *SIZES; i++) {
            unsigned char *buffer = buffer_new(SIZES[i]);
            assert_non_null(buffer);
            assert_int_equal((uintptr_t)buffer % 64, 0);
            for (size_t k = 0; k < SIZES[i]; k++)
                assert_true(!buffer[k]);
            memset(buffer, 0xa5, SIZES[i]);
            buffer_free(buffer);
        }
    buffer_free(NULL);
}

static void what_cannot_be_had_is_null(void **state)
{
    static const size_t SIZES[] = {SIZE_MAX / 2, SIZE_MAX - (5 << 20), SIZE_MAX - 100, SIZE_MAX};

    (void)state;
    for (size_t i = 0; i < sizeof SIZES / sizeof *SIZES; i++)
        assert_null(buffer_new(SIZES[i]));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(buffers_of_any_size_are_aligned_and_zeroed),
        cmocka_unit_test(what_cannot_be_had_is_null),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
