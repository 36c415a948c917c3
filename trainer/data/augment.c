/* augment.c - see augment.h.
 * The value of each of the 256 levels of a channel is worked out once per batch, by the formula itself; the inner loops are
 * loads from that table, which stays in the first-level cache. Rows inside the image need no test for the border.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/data/augment.h"

#define CHANNELS_MAX 4

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

/* Where a row of the output comes from: columns [from, to) lie inside the source, the rest is black. */
struct row {
    const uint8_t *source; /* of the whole row */
    int dx;                /* output column x shows source column x + dx, before the flip */
    int from, to;          /* in output columns, before the flip */
    bool flip;
};

/* One row of one channel; step is the distance between two output pixels. */
static void row_channel(const struct row *row, int width, int channels, int c, const float *levels, float *out, size_t step)
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

static int clamp(int value, int low, int high)
{
    return value < low ? low : value > high ? high : value;
}

void batch_assemble(const struct dataset *dataset, const struct data_split *split, const uint32_t *samples, size_t n,
                    const struct augment *augment, struct pcg32 *rng, enum tensor_layout layout, float *out,
                    uint16_t *labels_out)
{
    const int channels = dataset->channels, height = dataset->height, width = dataset->width;
    const size_t plane = (size_t)height * (size_t)width, size = plane * (size_t)channels;
    const int padding = rng && augment ? augment->crop_padding : 0;
    const bool may_flip = rng && augment && augment->horizontal_flip;
    const size_t step = layout == LAYOUT_NHWC ? (size_t)channels : 1;
    float levels[CHANNELS_MAX][256];

    for (int c = 0; c < channels; c++)
        for (int v = 0; v < 256; v++)
            levels[c][v] = ((float)v / 255.0f - dataset->mean[c]) / dataset->std[c];
    for (size_t i = 0; i < n; i++) {
        const uint8_t *image = split->images + samples[i] * size;
        int dy = padding ? (int)rng_below(rng, (uint32_t)(2 * padding + 1)) - padding : 0;
        int dx = padding ? (int)rng_below(rng, (uint32_t)(2 * padding + 1)) - padding : 0;
        bool flip = may_flip && rng_below(rng, 2);

        labels_out[i] = split->labels[samples[i]];
        for (int y = 0; y < height; y++) {
            bool inside = y + dy >= 0 && y + dy < height;
            struct row row = {
                .source = inside ? image + (size_t)(y + dy) * (size_t)(width * channels) : image,
                .dx = dx,
                .from = inside ? clamp(-dx, 0, width) : width,
                .to = inside ? clamp(width - dx, 0, width) : width,
                .flip = flip,
            };
            float *line = out + i * size + (size_t)y * (size_t)width * step;
            for (int c = 0; c < channels; c++)
                row_channel(&row, width, channels, c, levels[c],
                            layout == LAYOUT_NHWC ? line + c : line + (size_t)c * plane, step);
        }
    }
}
