/* convert.h - images to the size and channels that the file asks for (data.resize, data.channels), with integer arithmetic
 * whose results are equal on every machine.
 * Size: the triangle filter, widened where an image shrinks (antialiased bilinear), the width first, then the height, each pass
 * rounded to 8 bits; coefficients are computed in double precision and rounded to 22 bits. This is what Pillow's
 * Image.resize(..., BILINEAR) gives, byte for byte where one axis changes; where both do, Pillow may take rows first, and a level
 * of difference is left. torchvision's Resize(antialias=True) differs by rounding. The aspect
 * ratio is not kept, as with torchvision's Resize((height, width)).
 * Grey from RGB: ITU-R BT.601 luma, (19595 R + 38470 G + 7471 B + 32768) / 65536, as in Pillow's "L". RGB from grey: three times
 * the same.
 * Threads: a converter belongs to one thread.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_TRAINER_CONVERT_H
#define FLEXP_TRAINER_CONVERT_H

#include "trainer/data/dataset.h"

/* 0: as it is. */
struct conversion {
    int height, width, channels;
};

/* -EINVAL with the key that is wrong. */
int conversion_from(const json_t *data, struct conversion *ret, struct error *err);
bool conversion_is_needed(const struct conversion *conversion, int height, int width, int channels);
/* "64x64x3" with 0 for what stays; the caller frees. */
char *conversion_text(const struct conversion *conversion);
void conversion_shape(const struct conversion *conversion, struct data_shape *shape);

/* Buffers and coefficients, kept from one image to the next. */
struct converter {
    struct conversion to;
    uint8_t *pixels, *rows, *grey; /* result; between the passes; after the channels */
    size_t pixels_room, rows_room, grey_room;
    struct axis {
        int from, to, taps;
        int *first, *n;
        int32_t *weights; /* to x taps */
    } across, down;
};

/* pixels: height x width x channels (1 or 3). The result is converter->pixels, of to.height x to.width x to.channels with 0
 * replaced by what the image has. -ENOMEM. */
int convert(struct converter *converter, const uint8_t *pixels, int height, int width, int channels);
void converter_done(struct converter *converter);

#endif
