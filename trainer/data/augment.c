/* augment.c - see augment.h.
 * The value of each of the 256 levels of a channel is worked out once per call, by the formula itself. Channels-last
 * rows are computed anew, many values at a time, with products in double where the formula divides; that gives the same
 * bits, which the table of levels is asked for each call. Otherwise the inner loops are loads from that table, which
 * stays in the first-level cache. Rows inside the image need no test for the border.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/data/augment.h"

#include <string.h>

#define CHANNELS_MAX 4
#define PIXELS 32 /* of a row that are computed together */

struct augment augment_from(const json_t *data)
{
    const json_t *section = json_object_get(data, "augment");
    const json_t *crop = json_object_get(section, "random_crop");

    return (struct augment){
        .crop_padding = json_is_integer(crop) ? (int)json_integer_value(crop)
                        : crop                ? (int)json_int_or(crop, "padding", 4)
                                              : 0,
        .horizontal_flip = json_bool_or(section, "horizontal_flip", false),
    };
}

struct levels {
    float value[CHANNELS_MAX][256]; /* the black one always, the others unless quick */
    bool quick;                     /* normalise() gives the same bits, and is fast on this processor */
    /* what the values of PIXELS pixels are made with */
    _Alignas(64) float mean[PIXELS * CHANNELS_MAX], std[PIXELS * CHANNELS_MAX], inverse[PIXELS * CHANNELS_MAX];
};

/* Not by target_clones: that knows no avx2 with fma. */
#ifdef __x86_64__
#define NORMALISE_TARGET __attribute__((target("avx2,fma")))
#else
#define NORMALISE_TARGET
#endif

static bool has_target(void)
{
#ifdef __x86_64__
    return __builtin_cpu_supports("fma") && __builtin_cpu_supports("avx2");
#else
    return true;
#endif
}

/* (value / 255 - mean) / std. A quotient is a product with the inverse and one correction (Markstein 1990). */
NORMALISE_TARGET static void normalise(const uint8_t *restrict bytes, const float *restrict mean,
                                       const float *restrict std, const float *restrict inverse, float *restrict out,
                                       size_t n)
{
    for (size_t i = 0; i < n; i++) {
        float v = (float)(int32_t)bytes[i], q = v * (1 / 255.0f), x;
        q = __builtin_fmaf(__builtin_fmaf(-q, 255, v), 1 / 255.0f, q);
        x = q - mean[i];
        q = x * inverse[i];
        out[i] = __builtin_fmaf(__builtin_fmaf(-q, std[i], x), inverse[i], q);
    }
}

/* Whether normalise() makes of all levels what the formula makes of them. */
NORMALISE_TARGET static bool agrees(const struct levels *l, size_t channels)
{
    const size_t n = PIXELS * channels;
    uint8_t bytes[PIXELS * CHANNELS_MAX];
    float got[PIXELS * CHANNELS_MAX], expected[PIXELS * CHANNELS_MAX];

    for (int v = 0; v < 256; v += PIXELS) {
        for (size_t i = 0, k = 0; i < PIXELS; i++)
            for (size_t c = 0; c < channels; c++, k++)
                bytes[k] = (uint8_t)((size_t)v + i);
        normalise(bytes, l->mean, l->std, l->inverse, got, n);
        for (size_t i = 0; i < n; i++)
            expected[i] = ((float)(int32_t)bytes[i] / 255.0f - l->mean[i]) / l->std[i];
        if (memcmp(got, expected, n * sizeof *got))
            return false;
    }
    return true;
}

static void levels_init(struct levels *l, const struct dataset *dataset, enum tensor_layout layout)
{
    const size_t channels = (size_t)dataset->channels;

    for (size_t i = 0, k = 0; i < PIXELS; i++)
        for (size_t c = 0; c < channels; c++, k++) {
            l->mean[k] = dataset->mean[c];
            l->std[k] = dataset->std[c];
            l->inverse[k] = 1 / dataset->std[c];
        }
    l->quick = layout == LAYOUT_NHWC && has_target() && agrees(l, channels);
    for (size_t c = 0; c < channels; c++)
        for (int v = 0; v < (l->quick ? 1 : 256); v++)
            l->value[c][v] = ((float)v / 255.0f - dataset->mean[c]) / dataset->std[c];
}

/* Where a row of the output comes from: columns [from, to) lie inside the source, the rest is black. */
struct row {
    const uint8_t *source; /* of the whole row */
    int dx;                /* output column x shows source column x + dx, before the flip */
    int from, to;          /* in output columns, before the flip */
    bool flip;
};

/* One row of one channel; step is the distance between two output pixels. */
static void row_channel(const struct row *row, int width, int channels, int c, const float *levels, float *out,
                        size_t step)
{
    const uint8_t *source = row->source + c;
    ptrdiff_t forward = row->flip ? -(ptrdiff_t)step : (ptrdiff_t)step;
    float *at = row->flip ? out + (size_t)(width - 1) * step : out;

    for (int x = 0; x < row->from; x++)
        at[x * forward] = levels[0];
    if (channels == 1)
        for (int x = row->from; x < row->to; x++)
            at[x * forward] = levels[source[x + row->dx]];
    else
        for (int x = row->from; x < row->to; x++)
            at[x * forward] = levels[source[(x + row->dx) * channels]];
    for (int x = row->to; x < width; x++)
        at[x * forward] = levels[0];
}

/* Pixels in the opposite order. */
static void turn(const uint8_t *restrict from, uint8_t *restrict to, size_t n, size_t channels)
{
    if (channels == 3) /* most are */
        for (size_t i = 0; i < n; i++) {
            to[3 * i] = from[3 * (n - 1 - i)];
            to[3 * i + 1] = from[3 * (n - 1 - i) + 1];
            to[3 * i + 2] = from[3 * (n - 1 - i) + 2];
        }
    else
        for (size_t i = 0; i < n; i++)
            for (size_t c = 0; c < channels; c++)
                to[i * channels + c] = from[(n - 1 - i) * channels + c];
}

static void black(const struct levels *l, float *out, int n, size_t channels)
{
    for (int x = 0; x < n; x++)
        for (size_t c = 0; c < channels; c++)
            *out++ = l->value[c][0];
}

/* One row, channels-last. */
static void row_quick(const struct row *row, int width, size_t channels, const struct levels *l, float *out)
{
    const int left = row->flip ? width - row->to : row->from, right = row->flip ? row->from : width - row->to;
    const size_t n = (size_t)(row->to - row->from);
    const uint8_t *source = row->source + (ptrdiff_t)(row->from + row->dx) * (ptrdiff_t)channels;
    uint8_t turned[PIXELS * CHANNELS_MAX];

    black(l, out, left, channels);
    out += (size_t)left * channels;
    for (size_t x = 0, m; x < n; x += m, out += m * channels) {
        const uint8_t *bytes = source + x * channels;
        m = n - x < PIXELS ? n - x : PIXELS;
        if (row->flip) {
            turn(source + (n - x - m) * channels, turned, m, channels);
            bytes = turned;
        }
        normalise(bytes, l->mean, l->std, l->inverse, out, m * channels);
    }
    black(l, out, right, channels);
}

static int clamp(int value, int low, int high)
{
    return value < low ? low : value > high ? high : value;
}

void batch_choose(const struct augment *augment, struct pcg32 *rng, size_t n, struct augment_choice *choices)
{
    const int padding = augment->crop_padding;

    for (size_t i = 0; i < n; i++)
        choices[i] = (struct augment_choice){
            .dy = padding ? (int)rng_below(rng, (uint32_t)(2 * padding + 1)) - padding : 0,
            .dx = padding ? (int)rng_below(rng, (uint32_t)(2 * padding + 1)) - padding : 0,
            .flip = augment->horizontal_flip && rng_below(rng, 2),
        };
}

/* Sample i, out at its place. */
static void fill(const struct dataset *dataset, const struct levels *levels, const uint8_t *image,
                 const struct augment_choice *choice, enum tensor_layout layout, float *out)
{
    const int channels = dataset->channels, height = dataset->height, width = dataset->width;
    const size_t plane = (size_t)height * (size_t)width;
    const size_t step = layout == LAYOUT_NHWC ? (size_t)channels : 1;

    for (int y = 0; y < height; y++) {
        const int dy = choice->dy, dx = choice->dx;
        bool inside = y + dy >= 0 && y + dy < height;
        struct row row = {
            .source = inside ? image + (size_t)(y + dy) * (size_t)(width * channels) : image,
            .dx = dx,
            .from = inside ? clamp(-dx, 0, width) : width,
            .to = inside ? clamp(width - dx, 0, width) : width,
            .flip = choice->flip,
        };
        float *line = out + (size_t)y * (size_t)width * step;
        if (levels->quick) {
            row_quick(&row, width, (size_t)channels, levels, line);
            continue;
        }
        for (int c = 0; c < channels; c++)
            row_channel(&row, width, channels, c, levels->value[c],
                        layout == LAYOUT_NHWC ? line + c : line + (size_t)c * plane, step);
    }
}

void batch_fill(const struct dataset *dataset, const struct data_split *split, const uint32_t *samples,
                const struct augment_choice *choices, size_t lo, size_t hi, enum tensor_layout layout, float *out,
                uint16_t *labels_out)
{
    static const struct augment_choice NONE = {0};
    const size_t size = (size_t)dataset->channels * (size_t)dataset->height * (size_t)dataset->width;
    struct levels levels;

    levels_init(&levels, dataset, layout);
    for (size_t i = lo; i < hi; i++) {
        labels_out[i] = split->labels[samples[i]];
        fill(dataset, &levels, split->images + samples[i] * size, choices ? &choices[i] : &NONE, layout,
             out + i * size);
    }
}

void batch_assemble(const struct dataset *dataset, const struct data_split *split, const uint32_t *samples, size_t n,
                    const struct augment *augment, struct pcg32 *rng, enum tensor_layout layout, float *out,
                    uint16_t *labels_out)
{
    const size_t size = (size_t)dataset->channels * (size_t)dataset->height * (size_t)dataset->width;
    struct levels levels;

    levels_init(&levels, dataset, layout);
    for (size_t i = 0; i < n; i++) {
        struct augment_choice choice = {0};
        if (rng && augment)
            batch_choose(augment, rng, 1, &choice);
        labels_out[i] = split->labels[samples[i]];
        fill(dataset, &levels, split->images + samples[i] * size, &choice, layout, out + i * size);
    }
}
