/* test_convert.c - sizes and channels, byte for byte as Pillow has them; shapes; what is refused.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/data/convert.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static size_t unhex(const char *text, uint8_t *ret)
{
    size_t n = strlen(text) / 2;

    for (size_t i = 0; i < n; i++) {
        unsigned byte;
        assert_int_equal(sscanf(text + 2 * i, "%2x", &byte), 1);
        ret[i] = (uint8_t)byte;
    }
    return n;
}

static void gives_the_bytes_of_the_reference(void **state)
{
    static char line[65536], in_text[32768], out_text[32768];
    static uint8_t in[16384], out[16384];
    FILE *file = fopen("tests/golden/trainer/resize.txt", "r");
    struct converter converter = {0}; /* one for all: its buffers and coefficients are used again */
    int rows = 0;

    (void)state;
    assert_non_null(file);
    while (fgets(line, sizeof line, file)) {
        int h, w, c;
        struct conversion to;
        size_t n;
        if (*line == '#')
            continue;
        assert_int_equal(sscanf(line, "%d %d %d %d %d %d %32767s %32767s", &h, &w, &c, &to.height, &to.width, &to.channels,
                                in_text, out_text),
                         8);
        assert_int_equal(unhex(in_text, in), h * w * c);
        n = unhex(out_text, out);
        assert_int_equal(n, to.height * to.width * to.channels);
        converter.to = to;
        assert_int_equal(convert(&converter, in, h, w, c), 0);
        if (memcmp(converter.pixels, out, n))
            fail_msg("%dx%dx%d to %dx%dx%d differs", h, w, c, to.height, to.width, to.channels);
        rows++;
    }
    fclose(file);
    converter_done(&converter);
    assert_true(rows >= 10);
}

static void what_is_not_asked_for_stays(void **state)
{
    struct converter converter = {.to = {.height = 2}};
    const uint8_t pixels[4 * 3] = {0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110};
    struct data_shape shape = {.height = 4, .width = 3, .channels = 1};

    (void)state;
    assert_true(conversion_is_needed(&converter.to, 4, 3, 1));
    assert_false(conversion_is_needed(&converter.to, 2, 3, 1));
    conversion_shape(&converter.to, &shape);
    assert_int_equal(shape.height, 2);
    assert_int_equal(shape.width, 3);
    assert_int_equal(convert(&converter, pixels, 4, 3, 1), 0);
    assert_true(converter.pixels[0] < converter.pixels[1] && converter.pixels[1] < converter.pixels[3]);
    converter_done(&converter);
}

static void reads_the_section(void **state)
{
    static const struct {
        const char *data;
        int height, width, channels;
    } ROWS[] = {
        {"{}", 0, 0, 0},
        {"{\"resize\": {\"height\": 64}}", 64, 64, 0},
        {"{\"resize\": {\"height\": 48, \"width\": 64}, \"channels\": 1}", 48, 64, 1},
    };

    (void)state;
    for (size_t i = 0; i < sizeof ROWS / sizeof *ROWS; i++) {
        json_t *data = json_loads(ROWS[i].data, 0, NULL);
        struct conversion conversion;
        assert_int_equal(conversion_from(data, &conversion, NULL), 0);
        assert_int_equal(conversion.height, ROWS[i].height);
        assert_int_equal(conversion.width, ROWS[i].width);
        assert_int_equal(conversion.channels, ROWS[i].channels);
        json_decref(data);
    }
}

static void two_channels_are_refused(void **state)
{
    json_t *data = json_loads("{\"channels\": 2}", 0, NULL);
    struct conversion conversion;
    struct error err = {0};

    (void)state;
    assert_int_equal(conversion_from(data, &conversion, &err), -EINVAL);
    assert_string_equal(err.text, "data.channels must be 1 (grey) or 3 (RGB), got 2");
    json_decref(data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gives_the_bytes_of_the_reference),
        cmocka_unit_test(what_is_not_asked_for_stays),
        cmocka_unit_test(reads_the_section),
        cmocka_unit_test(two_channels_are_refused),
    };

    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
