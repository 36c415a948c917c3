/* decode_pool.h - decoding many small images on as many threads as this process may run on (8 at most).
 * One thread adds encoded images (copied) in any order; the n-th added becomes slot n of the scratch file, sample_bytes each.
 * What went wrong with an image is kept with it, not reported at once, so that the caller can name the first by name whatever
 * the order of the archive and of the threads. Adding waits while much is queued: memory stays bounded.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_TRAINER_DECODE_POOL_H
#define FLEXP_TRAINER_DECODE_POOL_H

#include "common/error.h"

#include "trainer/data/convert.h"

#include <stddef.h>
#include <stdint.h>

struct decoded {
    char *name;
    size_t slot;
    int height, width, channels; /* 0 where it could not be decoded */
    char *problem;               /* NULL: it was. Images of another size than the pool's are decoded but not kept */
};

struct decode_pool;

/* scratch: a file descriptor, borrowed. Images are kept as conversion says. */
int decode_pool_new(int scratch, const struct conversion *conversion, struct decode_pool **ret, struct error *err);
int decode_pool_add(struct decode_pool *pool, const char *name, const uint8_t *bytes, size_t n, struct error *err);
/* Waits for all; *ret_list (of *ret_n, the pool's) is in the order of adding. */
int decode_pool_finish(struct decode_pool *pool, const struct decoded *const **ret_list, size_t *ret_n, struct error *err);
void decode_pool_free(struct decode_pool *pool);

#endif
