/* augment.h - batch assembly: uint8 NHWC samples to normalised float, with random crop and flip, in one pass.
 * Random decisions come from the stream handed over: per sample, in order, first the crop's dy and dx (rng_below(2 *
 * padding + 1) each), then the flip (rng_below(2)); nothing is drawn for what is off. Threads: any. Allocates nothing.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_TRAINER_AUGMENT_H
#define FLEXP_TRAINER_AUGMENT_H

#include "common/rng.h"
#include "trainer/data/dataset.h"

struct augment {
    int crop_padding; /* 0: off; zero padding after normalisation's mean (the padded pixel is black, as in
                         torchvision) */
    bool horizontal_flip;
};

/* From the resolved `data` section. */
struct augment augment_from(const json_t *data);

enum tensor_layout { LAYOUT_NCHW, LAYOUT_NHWC };

/* out: n * channels * height * width floats: (value / 255 - mean) / std. labels_out: n. rng NULL: no augmentation. */
void batch_assemble(const struct dataset *dataset, const struct data_split *split, const uint32_t *samples, size_t n,
                    const struct augment *augment, struct pcg32 *rng, enum tensor_layout layout, float *out,
                    uint16_t *labels_out);

/* The same in two parts, so that threads can share a batch: all choices first, then samples [lo, hi). choices NULL:
 * none. */
struct augment_choice {
    int dy, dx;
    bool flip;
};
void batch_choose(const struct augment *augment, struct pcg32 *rng, size_t n, struct augment_choice *choices);
void batch_fill(const struct dataset *dataset, const struct data_split *split, const uint32_t *samples,
                const struct augment_choice *choices, size_t lo, size_t hi, enum tensor_layout layout, float *out,
                uint16_t *labels_out);

#endif
