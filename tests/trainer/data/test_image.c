/* test_image.c - decoding from memory: exact pixels, every cut refused, promises that cannot be kept refused,
 * mutations never crash.
 * SPDX-License-Identifier: Apache-2.0 */
#include "common/rng.h"
#include "trainer/data/image.h"
/* After them: cmocka has a macro fail. */
#include "tests/trainer/data/made_files.h"

#define WIDTH 19
#define HEIGHT 13

/* In a block of exactly this length, so that a read past its end is seen by the sanitizer. */
static int decode_copy(struct image *image, const char *bytes, size_t n)
{
    uint8_t *copy = malloc(n ? n : 1);
    int rc;

    assert_non_null(copy);
    memcpy(copy, bytes, n);
    *image->problem = 0;
    rc = image_decode(image, copy, n);
    assert_true(rc ? *image->problem : image->height > 0);
    free(copy);
    return rc;
}

static void png_pixels_are_exact(void **state)
{
    struct image image = {0};
    char *bytes;
    size_t n;

    (void)state;
    for (int channels = 1; channels <= 3; channels += 2) {
        made_png("a.png", WIDTH, HEIGHT, channels, 31);
        made_read("a.png", &bytes, &n);
        assert_int_equal(decode_copy(&image, bytes, n), 0);
        assert_int_equal(image.width, WIDTH);
        assert_int_equal(image.height, HEIGHT);
        assert_int_equal(image.channels, channels);
        for (size_t p = 0; p < (size_t)(WIDTH * HEIGHT * channels); p++)
            assert_int_equal(image.pixels[p], 31 + p % 7);
        free(bytes);
    }
    image_done(&image);
}

static void every_cut_is_refused_and_size_is_told_from_the_header(void **state)
{
    static const char *const NAMES[] = {"a.png", "a.jpg"};
    struct image image = {0};
    char *bytes;
    size_t n;

    (void)state;
    made_png("a.png", WIDTH, HEIGHT, 3, 31);
    made_jpeg("a.jpg", WIDTH, HEIGHT, 3, 31);
    for (int i = 0; i < 2; i++) {
        made_read(NAMES[i], &bytes, &n);
        assert_int_equal(decode_copy(&image, bytes, n), 0);
        for (size_t cut = 0; cut < n; cut++)
            assert_int_equal(decode_copy(&image, bytes, cut), -EINVAL);
        image.width = image.height = 0;
        assert_int_equal(image_size(&image, (const uint8_t *)bytes, n), 0);
        assert_int_equal(image.width, WIDTH);
        assert_int_equal(image.height, HEIGHT);
        free(bytes);
    }
    image_done(&image);
}

#define FLAT 2048

/* One colour in as few bytes as can be. kind: 0 PNG, 1 JPEG, 2 progressive JPEG. */
static void flat(int kind, char **ret, size_t *ret_n)
{
    png_image png = {.version = PNG_IMAGE_VERSION, .width = FLAT, .height = FLAT, .format = PNG_FORMAT_GRAY};
    uint8_t *pixels = calloc(FLAT, FLAT), *bytes = NULL;
    struct jpeg_compress_struct info;
    struct jpeg_error_mgr errors;
    unsigned long n = FLAT * FLAT;
    JSAMPROW line = pixels;

    assert_non_null(pixels);
    if (kind == 0) {
        bytes = malloc(n);
        assert_non_null(bytes);
        assert_true(png_image_write_to_memory(&png, bytes, &n, 0, pixels, 0, NULL));
    } else {
        info.err = jpeg_std_error(&errors);
        jpeg_create_compress(&info);
        jpeg_mem_dest(&info, &bytes, &n);
        info.image_width = info.image_height = FLAT;
        info.input_components = 1;
        info.in_color_space = JCS_GRAYSCALE;
        jpeg_set_defaults(&info);
        info.optimize_coding = TRUE;
        if (kind == 2)
            jpeg_simple_progression(&info);
        jpeg_start_compress(&info, TRUE);
        while (info.next_scanline < FLAT)
            jpeg_write_scanlines(&info, &line, 1);
        jpeg_finish_compress(&info);
        jpeg_destroy_compress(&info);
    }
    free(pixels);
    *ret = (char *)bytes;
    *ret_n = n;
}

static void must_promise_too_much(struct image *image, const char *bytes, size_t n)
{
    assert_int_equal(image_size(image, (const uint8_t *)bytes, n), -EINVAL);
    assert_string_equal(image->problem, "a premature end: 8192x8192 pixels are more than its bytes can hold");
    assert_int_equal(decode_copy(image, bytes, n), -EINVAL);
    assert_string_equal(image->problem, "a premature end: 8192x8192 pixels are more than its bytes can hold");
    assert_null(image->pixels);
}

static void a_header_that_promises_more_than_the_bytes_can_hold_is_refused_before_memory_is_taken(void **state)
{
    const uint32_t side[] = {8192, 8192};
    struct image image = {0};
    char *bytes, *frame;
    size_t n;
    uint8_t sum[4];

    (void)state;
    made_png("promise.png", WIDTH, HEIGHT, 3, 7);
    made_read("promise.png", &bytes, &n);
    made_big_endian((uint8_t *)bytes + 16, side, 2);
    made_big_endian(sum, (const uint32_t[]){(uint32_t)crc32(0, (const uint8_t *)bytes + 12, 17)}, 1);
    memcpy(bytes + 29, sum, sizeof sum);
    must_promise_too_much(&image, bytes, n);
    free(bytes);

    made_jpeg("promise.jpg", WIDTH, HEIGHT, 3, 7);
    made_read("promise.jpg", &bytes, &n);
    frame = memmem(bytes, n, "\xff\xc0", 2);
    assert_non_null(frame);
    memcpy(frame + 5, "\x20\x00\x20\x00", 4);
    must_promise_too_much(&image, bytes, n);
    free(bytes);

    for (int i = 0; i < 3; i++) { /* what is whole is never refused, however small it is */
        flat(i, &bytes, &n);
        assert_in_range(n, 100, FLAT * FLAT / 64);
        assert_int_equal(decode_copy(&image, bytes, n), 0);
        assert_int_equal(image.width, FLAT);
        free(bytes);
    }
    image_done(&image);
}

static void mutations_never_crash(void **state)
{
    static const char *const NAMES[] = {"a.png", "a.jpg"};
    struct image image = {0};
    struct pcg32 rng;
    char *bytes, *copy;
    size_t n;

    (void)state;
    made_png("a.png", WIDTH, HEIGHT, 3, 31);
    made_jpeg("a.jpg", WIDTH, HEIGHT, 1, 31);
    pcg32_seed(&rng, 8, 8);
    for (int i = 0; i < 2; i++) {
        made_read(NAMES[i], &bytes, &n);
        copy = malloc(n);
        assert_non_null(copy);
        for (int k = 0; k < 3000; k++) {
            int rc;
            memcpy(copy, bytes, n);
            for (uint32_t left = 1 + rng_below(&rng, 3); left; left--)
                copy[rng_below(&rng, (uint32_t)n)] = (char)rng_below(&rng, 256);
            rc = decode_copy(&image, copy, n);
            assert_true(!rc || rc == -EINVAL);
        }
        free(copy);
        free(bytes);
    }
    image_done(&image);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, made_setup, made_teardown)
int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(png_pixels_are_exact),
        TEST(every_cut_is_refused_and_size_is_told_from_the_header),
        TEST(a_header_that_promises_more_than_the_bytes_can_hold_is_refused_before_memory_is_taken),
        TEST(mutations_never_crash),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
