/* synthetic.c - images made from the seed, for demos and tests: textures that a convolution tells apart and pixels do not.
 * A class is an orientation and a spatial frequency. An image of it holds small patches of such waves at random places, of
 * one of a few phases, of random strength and colour, among a few patches of other classes, over a smooth
 * background of random colours and noise. The mean image of every class is the same, so that a linear model of the pixels
 * learns next to nothing; the background dominates distances, so that nearest neighbours are of any class.
 * Image i of split s depends on (seed, s, i) alone. Only integers and rng.h, so equal bytes on every machine.
 * data.synthetic.noise scales background, noise and the number of foreign patches.
 * SPDX-License-Identifier: Apache-2.0 */
#include "common/file.h"
#include "common/rng.h"
#include "trainer/data/data_private.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Tried against the wishes of tests/trainer/data/test_synthetic.c: stronger background or more foreign patches make it hard
 * for a small network, weaker ones let the nearest neighbour see through; all phases learn too slowly, one is too easy. */
#define OWN 10            /* patches of the image's class */
#define FOREIGN 1.0       /* patches of other classes */
#define PHASES_USED 6
#define COLOUR 128        /* how much the strength differs between channels, of ONE */
#define STRENGTH 80       /* mean amplitude of a patch in grey levels */
#define NOISE_SD 12.0
#define BACK 40.0         /* amplitude of the background */
#define LAMBDA0 3.2       /* the two wavelengths, in pixels */
#define LAMBDA1 5.6
#define WINDOW 3.0        /* of a patch, in pixels */
#define RADIUS 4          /* patches of 9x9 pixels */
#define PATCH (2 * RADIUS + 1)
#define PHASES 16
#define FREQUENCIES 2
#define GRID 5            /* points of the background each way */
#define ONE 256           /* fixed point: 1 grey level */
#define AREA 1024         /* pixels that the counts of patches are for */

struct setting {
    int classes, channels, size;
    size_t n[SPLITS];
    double noise;
    int own, foreign; /* patches of an image */
    int32_t noise_scale, background;
};

static struct setting setting_from(const struct data_input *in)
{
    const json_t *section = json_object_get(in->data, "synthetic");
    struct setting s = {
        .classes = (int)json_int_or(section, "classes", 10), .channels = (int)json_int_or(section, "channels", 3),
        .size = (int)json_int_or(section, "size", 32),
        .n = {(size_t)json_int_or(section, "samples", 10000), (size_t)json_int_or(section, "test_samples", 2000)},
        .noise = json_double_or(section, "noise", 1.0)};
    double area = (double)(s.size * s.size) / AREA;

    s.own = (int)(OWN * area + 0.5);
    s.own = s.own < 2 ? 2 : s.own;
    s.foreign = (int)(FOREIGN * s.noise * area + 0.5);
    s.noise_scale = (int32_t)(NOISE_SD * s.noise * ONE / 147.8 * 256 + 0.5); /* 147.8: of the sum of four bytes */
    s.background = (int32_t)(BACK * s.noise * ONE + 0.5);
    return s;
}

/* sin(2 pi x) for 0 <= x < 1: Taylor's series about the nearest quarter, below 1e-12 off. */
static double sine(double x)
{
    double t, t2, sum = 0;

    x -= (double)(int64_t)x;
    if (x < 0)
        x += 1;
    if (x > 0.75)
        x -= 1;
    else if (x > 0.25)
        x = 0.5 - x;
    t = x * 6.283185307179586476925;
    t2 = t * t;
    for (int k = 17; k >= 3; k -= 2)
        sum = (1 - sum) * t2 / (k * (k - 1));
    return t * (1 - sum);
}

/* All patches: [class][phase][PATCH * PATCH], ONE at most. */
static int16_t *make_patches(const struct setting *s)
{
    int orientations = (s->classes + FREQUENCIES - 1) / FREQUENCIES;
    int16_t *patches = malloc((size_t)s->classes * PHASES * PATCH * PATCH * sizeof *patches), *at = patches;

    for (int k = 0; patches && k < s->classes; k++) {
        double turn = 0.5 * (k / FREQUENCIES) / orientations, wavelength = k % FREQUENCIES ? LAMBDA1 : LAMBDA0;
        double across = sine(turn + 0.25) / wavelength, down = sine(turn) / wavelength;
        for (int p = 0; p < PHASES; p++)
            for (int y = -RADIUS; y <= RADIUS; y++)
                for (int x = -RADIUS; x <= RADIUS; x++) {
                    double window = rng_exp(-(double)(x * x + y * y) / (2 * WINDOW * WINDOW / 2.0));
                    double wave = sine(across * x + down * y + (double)p / PHASES + 16);
                    *at++ = (int16_t)(int)(wave * window * ONE + 256.5) - 256;
                }
    }
    return patches;
}

/* Adds one patch to the planes of an image, cut at its edges. */
static void add_patch(const struct setting *s, const int16_t *patch, struct pcg32 *rng, int32_t *planes)
{
    int size = s->size, cy = (int)rng_below(rng, (uint32_t)size), cx = (int)rng_below(rng, (uint32_t)size);
    int strength = STRENGTH * ONE / 2 + (int)rng_below(rng, STRENGTH * ONE);
    int y0 = cy < RADIUS ? RADIUS - cy : 0, y1 = cy + RADIUS >= size ? size - cy + RADIUS : PATCH;
    int x0 = cx < RADIUS ? RADIUS - cx : 0, x1 = cx + RADIUS >= size ? size - cx + RADIUS : PATCH;

    for (int c = 0; c < s->channels; c++) {
        int colour = s->channels == 1 ? strength : strength / ONE * (ONE - COLOUR / 2 + (int)rng_below(rng, COLOUR));
        int32_t *plane = planes + (size_t)c * (size_t)(size * size);
        for (int y = y0; y < y1; y++) {
            int32_t *row = plane + (cy - RADIUS + y) * size + cx - RADIUS;
            for (int x = x0; x < x1; x++)
                row[x] += patch[y * PATCH + x] * colour / ONE;
        }
    }
}

/* A smooth field of random colours: a grid of random values, bilinear in between. */
static void paint_background(const struct setting *s, struct pcg32 *rng, int32_t *planes)
{
    int32_t grid[GRID][GRID];
    int size = s->size, cells = GRID - 1;

    for (int c = 0; c < s->channels; c++)
        for (int y = 0; y < GRID * GRID; y++) {
            grid[y / GRID][y % GRID] = 128 * ONE + (int32_t)rng_below(rng, (uint32_t)(2 * s->background + 1)) - s->background;
            if (y < GRID * GRID - 1)
                continue;
            for (int i = 0; i < size; i++) {
                int gy = i * cells / size, fy = i * cells % size;
                for (int j = 0; j < size; j++) {
                    int gx = j * cells / size, fx = j * cells % size;
                    int32_t upper = (grid[gy][gx] * (size - fx) + grid[gy][gx + 1] * fx) / size;
                    int32_t lower = (grid[gy + 1][gx] * (size - fx) + grid[gy + 1][gx + 1] * fx) / size;
                    *planes++ = (upper * (size - fy) + lower * fy) / size;
                }
            }
        }
}

static void make_image(const struct setting *s, const int16_t *patches, int label, struct pcg32 rng, int32_t *planes,
                       uint8_t *out)
{
    size_t plane = (size_t)s->size * (size_t)s->size, class_patches = (size_t)PHASES * PATCH * PATCH;

    paint_background(s, &rng, planes);
    for (int i = 0; i < s->own + s->foreign; i++) {
        int class = label;
        size_t phase;
        if (i >= s->own)
            class = (label + 1 + (int)rng_below(&rng, (uint32_t)s->classes - 1)) % s->classes;
        phase = (4 + rng_below(&rng, PHASES_USED)) % PHASES;
        add_patch(s, patches + (size_t)class * class_patches + phase * PATCH * PATCH, &rng, planes);
    }
    for (size_t p = 0; p < plane; p++)
        for (size_t c = 0; c < (size_t)s->channels; c++) {
            uint32_t bits = pcg32_next(&rng);
            int32_t sum = (int32_t)((bits & 255) + (bits >> 8 & 255) + (bits >> 16 & 255) + (bits >> 24)) - 510;
            int32_t value = (planes[c * plane + p] + sum * s->noise_scale / 256 + ONE / 2) / ONE;
            *out++ = (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
        }
}

static struct data_shape shape_of(const struct setting *s)
{
    return (struct data_shape){s->channels, s->size, s->size, s->classes, s->n[TRAIN], s->n[TEST]};
}

static char *synthetic_settings(const struct data_input *in)
{
    struct setting s = setting_from(in);

    return format_text("seed=%llu samples=%zu test_samples=%zu classes=%d channels=%d size=%d noise=%.17g",
                       (unsigned long long)in->seed, s.n[TRAIN], s.n[TEST], s.classes, s.channels, s.size, s.noise);
}

static int synthetic_shape(const struct data_input *in, struct data_shape *ret, struct error *err)
{
    struct setting s = setting_from(in);

    (void)err;
    *ret = shape_of(&s);
    return 0;
}

static int synthetic_load(const struct data_input *in, struct cache_build *build, struct error *err)
{
    struct setting s = setting_from(in);
    struct data_shape shape = shape_of(&s);
    size_t image = (size_t)s.channels * (size_t)s.size * (size_t)s.size;
    int16_t *patches = make_patches(&s);
    int32_t *planes = malloc(image * sizeof *planes);
    int rc = patches && planes ? cache_build_shape(build, &shape, NULL, err) : fail(err, -ENOMEM, "out of memory");

    for (int split = 0; split < SPLITS && !rc; split++)
        for (size_t i = 0; i < s.n[split]; i++) {
            int label = (int)(i % (size_t)s.classes);
            build->labels[split][i] = (uint16_t)label;
            make_image(&s, patches, label, rng_key(in->seed, RNG_SYNTHETIC, i, 1 + (uint64_t)split, 0), planes,
                       build->images[split] + i * image);
        }
    free(patches);
    free(planes);
    return rc;
}

const struct data_source SOURCE_SYNTHETIC = {.name = "synthetic", .version = 1, .settings = synthetic_settings,
                                             .shape = synthetic_shape, .load = synthetic_load};
