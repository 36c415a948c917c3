/* convert.c - see convert.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/data/convert.h"

#include "common/file.h"
#include "trainer/data/data_private.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define WEIGHT_BITS 22 /* 8 bits of pixel and 2 of head room below 32 */

int conversion_from(const json_t *data, struct conversion *ret, struct error *err)
{
    const json_t *resize = json_object_get(data, "resize");

    *ret = (struct conversion){.channels = (int)json_int_or(data, "channels", 0)};
    if (ret->channels == 2)
        return fail(err, -EINVAL, "data.channels must be 1 (grey) or 3 (RGB), got 2");
    if (resize) {
        ret->height = (int)json_int_or(resize, "height", 0);
        ret->width = (int)json_int_or(resize, "width", ret->height);
    }
    return 0;
}

bool conversion_is_needed(const struct conversion *conversion, int height, int width, int channels)
{
    return (conversion->height && conversion->height != height) || (conversion->width && conversion->width != width) ||
           (conversion->channels && conversion->channels != channels);
}

char *conversion_text(const struct conversion *conversion)
{
    return format_text("%dx%dx%d", conversion->height, conversion->width, conversion->channels);
}

void conversion_shape(const struct conversion *conversion, struct data_shape *shape)
{
    shape->height = conversion->height ? conversion->height : shape->height;
    shape->width = conversion->width ? conversion->width : shape->width;
    shape->channels = conversion->channels ? conversion->channels : shape->channels;
}

static int make_room(uint8_t **buffer, size_t *room, size_t wanted)
{
    uint8_t *grown;

    if (wanted <= *room)
        return 0;
    grown = realloc(*buffer, wanted);
    if (!grown)
        return -ENOMEM;
    *buffer = grown;
    *room = wanted;
    return 0;
}

/* --- size ------------------------------------------------------------------------------------------------------- */

static double triangle(double x)
{
    x = fabs(x);
    return x < 1 ? 1 - x : 0;
}

/* The pixels that output i is made of, and their shares. */
static void tap_weights(struct axis *axis, int i, double scale, double *shares)
{
    double filter_scale = scale > 1 ? scale : 1, center = (i + 0.5) * scale, sum = 0;
    int first = (int)(center - filter_scale + 0.5), end = (int)(center + filter_scale + 0.5);

    first = first < 0 ? 0 : first;
    end = end > axis->from ? axis->from : end;
    axis->first[i] = first;
    axis->n[i] = end - first;
    for (int k = 0; k < end - first; k++) {
        shares[k] = triangle((k + first - center + 0.5) * (1 / filter_scale));
        sum += shares[k];
    }
    for (int k = 0; k < end - first; k++) {
        double share = sum != 0 ? shares[k] / sum : shares[k];
        axis->weights[(size_t)i * (size_t)axis->taps + (size_t)k] = (int32_t)(share * (1 << WEIGHT_BITS) + 0.5);
    }
}

static void axis_done(struct axis *axis)
{
    free(axis->first);
    free(axis->n);
    free(axis->weights);
    *axis = (struct axis){0};
}

static int axis_set(struct axis *axis, int from, int to)
{
    double scale = (double)from / to, *shares;

    if (axis->from == from && axis->to == to)
        return 0;
    axis_done(axis);
    axis->taps = (int)ceil(scale > 1 ? scale : 1) * 2 + 1;
    axis->first = calloc((size_t)to, sizeof *axis->first);
    axis->n = calloc((size_t)to, sizeof *axis->n);
    axis->weights = calloc((size_t)to * (size_t)axis->taps, sizeof *axis->weights);
    shares = calloc((size_t)axis->taps, sizeof *shares);
    if (!axis->first || !axis->n || !axis->weights || !shares) {
        free(shares);
        axis_done(axis);
        return -ENOMEM;
    }
    axis->from = from;
    axis->to = to;
    for (int i = 0; i < to; i++)
        tap_weights(axis, i, scale, shares);
    free(shares);
    return 0;
}

static uint8_t rounded(int32_t sum)
{
    sum >>= WEIGHT_BITS;
    return (uint8_t)(sum < 0 ? 0 : sum > 255 ? 255 : sum);
}

/* in: n pixels that are step apart; out likewise. */
static void resample(const struct axis *axis, const uint8_t *in, size_t in_step, uint8_t *out, size_t out_step)
{
    for (int i = 0; i < axis->to; i++) {
        const int32_t *weights = axis->weights + (size_t)i * (size_t)axis->taps;
        const uint8_t *at = in + (size_t)axis->first[i] * in_step;
        int32_t sum = 1 << (WEIGHT_BITS - 1);
        for (int k = 0; k < axis->n[i]; k++, at += in_step)
            sum += *at * weights[k];
        out[(size_t)i * out_step] = rounded(sum);
    }
}

static int resize(struct converter *converter, const uint8_t *in, int height, int width, int channels, int new_height,
                  int new_width)
{
    size_t c_n = (size_t)channels, in_row = (size_t)width * c_n, out_row = (size_t)new_width * c_n;
    const uint8_t *rows = in;

    if (width != new_width) {
        if (axis_set(&converter->across, width, new_width) ||
            make_room(&converter->rows, &converter->rows_room, (size_t)height * out_row))
            return -ENOMEM;
        for (int y = 0; y < height; y++)
            for (size_t c = 0; c < c_n; c++)
                resample(&converter->across, in + (size_t)y * in_row + c, c_n, converter->rows + (size_t)y * out_row + c, c_n);
        rows = converter->rows;
    }
    if (height == new_height) {
        memcpy(converter->pixels, rows, (size_t)height * out_row);
        return 0;
    }
    if (axis_set(&converter->down, height, new_height))
        return -ENOMEM;
    for (size_t x = 0; x < out_row; x++)
        resample(&converter->down, rows + x, out_row, converter->pixels + x, out_row);
    return 0;
}

/* --- channels --------------------------------------------------------------------------------------------------- */

static void to_grey(const uint8_t *in, size_t n, uint8_t *out)
{
    for (size_t i = 0; i < n; i++, in += 3)
        out[i] = (uint8_t)((in[0] * 19595u + in[1] * 38470u + in[2] * 7471u + 32768u) >> 16);
}

static void to_rgb(const uint8_t *in, size_t n, uint8_t *out)
{
    for (size_t i = 0; i < n; i++)
        memset(out + 3 * i, in[i], 3);
}

int convert(struct converter *converter, const uint8_t *pixels, int height, int width, int channels)
{
    const struct conversion *to = &converter->to;
    int new_height = to->height ? to->height : height, new_width = to->width ? to->width : width;
    int new_channels = to->channels ? to->channels : channels;
    size_t n = (size_t)height * (size_t)width;

    if (make_room(&converter->pixels, &converter->pixels_room,
                  (size_t)new_height * (size_t)new_width * (size_t)new_channels) ||
        make_room(&converter->grey, &converter->grey_room, n * (size_t)new_channels))
        return -ENOMEM;
    if (channels != new_channels) {
        if (new_channels == 1)
            to_grey(pixels, n, converter->grey);
        else
            to_rgb(pixels, n, converter->grey);
        pixels = converter->grey;
    }
    return resize(converter, pixels, height, width, new_channels, new_height, new_width);
}

void converter_done(struct converter *converter)
{
    free(converter->pixels);
    free(converter->rows);
    free(converter->grey);
    axis_done(&converter->across);
    axis_done(&converter->down);
    *converter = (struct converter){0};
}
