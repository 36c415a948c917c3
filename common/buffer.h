/* buffer.h - memory for arrays of numbers that a round or a step walks from end to end. SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_COMMON_BUFFER_H
#define FLEXP_COMMON_BUFFER_H

#include <stddef.h>

/* 64-byte aligned and zeroed; huge pages where large, each made by the thread that first writes to it. NULL: no memory.
 * Threads: any. */
void *buffer_new(size_t bytes);
void buffer_free(void *buffer); /* may be NULL */

#endif
