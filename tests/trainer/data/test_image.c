/* test_image.c - decoding from memory: exact pixels, every cut refused, mutations never crash.
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
        TEST(mutations_never_crash),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
