/* image.h - one JPEG or PNG in memory to 8-bit pixels, grey or RGB.
 * By content, not by name. JPEG: the slow integer transform and smooth upsampling, whose results libjpeg-turbo keeps equal on
 * every machine; whatever libjpeg warns of (a premature end, corrupt data) is an error here. PNG: palettes and 1, 2, 4
 * and 16 bit samples become 8 bit; transparency is dropped. Orientation tags and colour profiles are not applied.
 * Threads: any, each with a struct image of its own.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_TRAINER_IMAGE_H
#define FLEXP_TRAINER_IMAGE_H

#include <stddef.h>
#include <stdint.h>

struct image {
    int height, width, channels;
    uint8_t *pixels; /* height * width * channels; kept and grown from one decoding to the next */
    size_t room;
    char problem[200]; /* what was wrong, after a failure */
};

/* Height, width and channels alone. 0 or -EINVAL (-ENOMEM). */
int image_size(struct image *image, const uint8_t *bytes, size_t n);
int image_decode(struct image *image, const uint8_t *bytes, size_t n);
void image_done(struct image *image);

#endif
