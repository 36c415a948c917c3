/* test_augment.c - batch assembly against a slow one that pads, crops, flips and normalises pixel by pixel.
 * SPDX-License-Identifier: Apache-2.0 */
#include "common/json.h"
#include "trainer/data/augment.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define IMAGES 23
#define BATCH 64
#define SIDE_MAX 12
#define PIXELS_MAX (SIDE_MAX * SIDE_MAX * 3)

static uint8_t images[IMAGES * PIXELS_MAX];
static uint16_t labels[IMAGES];
static uint32_t samples[BATCH];
static float fast[BATCH * PIXELS_MAX], slow[BATCH * PIXELS_MAX], other[BATCH * PIXELS_MAX];
static uint16_t fast_labels[BATCH];

static struct dataset dataset_of(int channels, int height, int width)
{
    struct pcg32 rng;

    pcg32_seed(&rng, 5, 1);
    for (size_t p = 0; p < sizeof images; p++)
        images[p] = (uint8_t)rng_below(&rng, 256);
    for (size_t i = 0; i < IMAGES; i++)
        labels[i] = (uint16_t)(i * 3);
    for (size_t i = 0; i < BATCH; i++)
        samples[i] = rng_below(&rng, IMAGES);
    return (struct dataset){.channels = channels,
                            .height = height,
                            .width = width,
                            .classes = 100,
                            .train = {IMAGES, images, labels},
                            .mean = {0.49f, 0.47f, 0.41f},
                            .std = {0.25f, 0.24f, 0.26f}};
}

/* As the header says it: the image amid `padding` black pixels all around, cut at (dy, dx), then flipped. */
static void reference(const struct dataset *dataset, int padding, bool flips, struct pcg32 *rng,
                      enum tensor_layout layout, float *out)
{
    const int c_n = dataset->channels, height = dataset->height, width = dataset->width;
    const int wide = width + 2 * padding, high = height + 2 * padding;
    uint8_t *padded = malloc((size_t)(wide * high * c_n));

    assert_non_null(padded);
    for (size_t i = 0; i < BATCH; i++) {
        const uint8_t *image = images + samples[i] * (size_t)(height * width * c_n);
        int dy = padding ? (int)rng_below(rng, (uint32_t)(2 * padding + 1)) : 0;
        int dx = padding ? (int)rng_below(rng, (uint32_t)(2 * padding + 1)) : 0;
        int flip = flips ? (int)rng_below(rng, 2) : 0;
        memset(padded, 0, (size_t)(wide * high * c_n));
        for (int y = 0; y < height; y++)
            memcpy(padded + ((y + padding) * wide + padding) * c_n, image + y * width * c_n, (size_t)(width * c_n));
        for (int y = 0; y < height; y++)
            for (int x = 0; x < width; x++)
                for (int c = 0; c < c_n; c++) {
                    int from = flip ? width - 1 - x : x;
                    uint8_t v = padded[((y + dy) * wide + from + dx) * c_n + c];
                    int to = layout == LAYOUT_NHWC ? (y * width + x) * c_n + c : (c * height + y) * width + x;
                    out[i * (size_t)(height * width * c_n) + (size_t)to] =
                        ((float)v / 255.0f - dataset->mean[c]) / dataset->std[c];
                }
    }
    free(padded);
}

static void check(int channels, int height, int width, struct augment augment, enum tensor_layout layout)
{
    struct dataset dataset = dataset_of(channels, height, width);
    size_t bytes = (size_t)(BATCH * channels * height * width) * sizeof(float);
    struct pcg32 a, b;

    pcg32_seed(&a, 99, 7);
    pcg32_seed(&b, 99, 7);
    memset(fast, 0xff, sizeof fast);
    batch_assemble(&dataset, &dataset.train, samples, BATCH, &augment, &a, layout, fast, fast_labels);
    reference(&dataset, augment.crop_padding, augment.horizontal_flip, &b, layout, slow);
    assert_memory_equal(fast, slow, bytes);
    assert_memory_equal(&a, &b, sizeof a); /* and not a draw more */
    for (size_t i = 0; i < BATCH; i++)
        assert_int_equal(fast_labels[i], 3 * samples[i]);
    if (layout == LAYOUT_NHWC) { /* and in two parts */
        struct augment_choice choices[BATCH];
        pcg32_seed(&a, 99, 7);
        batch_choose(&augment, &a, BATCH, choices);
        assert_memory_equal(&a, &b, sizeof a);
        memset(other, 0, bytes);
        for (size_t lo = 0; lo < BATCH; lo += 24)
            batch_fill(&dataset, &dataset.train, samples, choices, lo, lo + 24 < BATCH ? lo + 24 : BATCH, layout, other,
                       fast_labels);
        assert_memory_equal(other, slow, bytes);
    }
    for (size_t p = bytes; p < sizeof fast; p++)
        assert_int_equal(((const uint8_t *)fast)[p], 0xff);
}

static void every_setting_equals_the_slow_reference(void **state)
{
    static const int SHAPES[][3] = {{1, 8, 8}, {3, 8, 8},  {3, 5, 12},  {3, 12, 7}, {1, 1, 1},
                                    {2, 3, 2}, {3, 3, 37}, {1, 3, 139}, {2, 3, 65}};
    static const int PADDINGS[] = {0, 1, 4, 15}; /* the last moves whole images out of sight */

    (void)state;
    for (size_t s = 0; s < sizeof SHAPES / sizeof *SHAPES; s++)
        for (size_t p = 0; p < sizeof PADDINGS / sizeof *PADDINGS; p++)
            for (int flip = 0; flip < 2; flip++)
                for (int layout = 0; layout < 2; layout++)
                    check(SHAPES[s][0], SHAPES[s][1], SHAPES[s][2], (struct augment){PADDINGS[p], flip},
                          layout ? LAYOUT_NHWC : LAYOUT_NCHW);
}

static void nchw_and_nhwc_hold_the_same_values(void **state)
{
    struct dataset dataset = dataset_of(3, 6, 9);
    struct augment augment = {2, true};
    struct pcg32 a, b;

    (void)state;
    pcg32_seed(&a, 1, 2);
    pcg32_seed(&b, 1, 2);
    batch_assemble(&dataset, &dataset.train, samples, BATCH, &augment, &a, LAYOUT_NCHW, fast, fast_labels);
    batch_assemble(&dataset, &dataset.train, samples, BATCH, &augment, &b, LAYOUT_NHWC, other, fast_labels);
    for (size_t i = 0; i < BATCH; i++)
        for (size_t p = 0; p < 54; p++)
            for (size_t c = 0; c < 3; c++)
                assert_memory_equal(&fast[i * 162 + c * 54 + p], &other[i * 162 + p * 3 + c], sizeof *fast);
}

static void without_a_stream_nothing_is_augmented(void **state)
{
    struct dataset dataset = dataset_of(3, 8, 8);
    struct augment augment = {4, true};

    (void)state;
    reference(&dataset, 0, false, NULL, LAYOUT_NCHW, slow);
    batch_assemble(&dataset, &dataset.train, samples, BATCH, &augment, NULL, LAYOUT_NCHW, fast, fast_labels);
    assert_memory_equal(fast, slow, BATCH * 192 * sizeof *fast);
    batch_assemble(&dataset, &dataset.train, samples, BATCH, NULL, NULL, LAYOUT_NCHW, other, fast_labels);
    assert_memory_equal(other, slow, BATCH * 192 * sizeof *fast);
}

static void normalised_samples_have_mean_0_and_deviation_1(void **state)
{
    struct dataset dataset = dataset_of(3, 8, 8);
    uint32_t part[] = {0, 3, 4, 9, 17};

    (void)state;
    dataset_normalise(&dataset, part, 5);
    batch_assemble(&dataset, &dataset.train, part, 5, NULL, NULL, LAYOUT_NCHW, fast, fast_labels);
    for (size_t c = 0; c < 3; c++) {
        double sum = 0, squares = 0, bytes = 0;
        for (size_t i = 0; i < 5; i++)
            for (size_t p = 0; p < 64; p++) {
                double v = (double)fast[i * 192 + c * 64 + p];
                sum += v;
                squares += v * v;
                bytes += images[part[i] * 192 + p * 3 + c];
            }
        assert_true(fabs(sum / 320) < 1e-5);
        assert_true(fabs(squares / 320 - 1) < 1e-5);
        assert_true(fabs(bytes / 320 / 255 - (double)dataset.mean[c]) < 1e-6);
    }
}

static void a_channel_of_one_value_keeps_a_deviation_of_1(void **state)
{
    struct dataset dataset = dataset_of(2, 4, 4);
    uint32_t part[] = {0, 1};

    (void)state;
    for (size_t p = 0; p < 32; p++)
        images[2 * p] = 77;
    dataset_normalise(&dataset, part, 2);
    assert_true(fabs((double)dataset.mean[0] - 77.0 / 255) < 1e-7);
    assert_true(fabs((double)dataset.std[0] - 1) < 1e-12);
    assert_true((double)dataset.std[1] > 0.2 && (double)dataset.std[1] < 0.4);
}

static void augment_section(const char *text, int padding, bool flip)
{
    json_t *data = NULL;
    struct augment augment;

    assert_int_equal(json_parse(text, strlen(text), &data, NULL), 0);
    augment = augment_from(data);
    assert_int_equal(augment.crop_padding, padding);
    assert_int_equal(augment.horizontal_flip, flip);
    json_decref(data);
}

static void section_says_what_is_on(void **state)
{
    (void)state;
    augment_section("{}", 0, false);
    augment_section("{\"augment\": {\"horizontal_flip\": true}}", 0, true);
    augment_section("{\"augment\": {\"random_crop\": {\"padding\": 3}, \"horizontal_flip\": false}}", 3, false);
    augment_section("{\"augment\": {\"random_crop\": 2}}", 2, false);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_setting_equals_the_slow_reference),
        cmocka_unit_test(nchw_and_nhwc_hold_the_same_values),
        cmocka_unit_test(without_a_stream_nothing_is_augmented),
        cmocka_unit_test(normalised_samples_have_mean_0_and_deviation_1),
        cmocka_unit_test(a_channel_of_one_value_keeps_a_deviation_of_1),
        cmocka_unit_test(section_says_what_is_on),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
