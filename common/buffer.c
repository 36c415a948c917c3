/* buffer.c - memory for arrays of numbers. Large buffers come from the kernel as zeros that nobody has touched: a page is
 * made when it is first written, by the thread that writes it and so on its NUMA node, and never where nothing is.
 * Before every buffer stands how to give it back. SPDX-License-Identifier: Apache-2.0 */
#include "common/buffer.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define ALIGN 64
#define HUGE_PAGE ((size_t)2 << 20)

struct head {
    void *base;
    size_t mapped; /* 0: from malloc */
};
_Static_assert(sizeof(struct head) <= ALIGN, "fits before the buffer");

static struct head *head_of(void *buffer)
{
    return (struct head *)(void *)((char *)buffer - ALIGN);
}

static char *align_up(char *at, size_t alignment)
{
    return at + (alignment - (uintptr_t)at % alignment) % alignment;
}

void *buffer_new(size_t bytes)
{
    bool large = bytes >= 2 * HUGE_PAGE;
    size_t alignment = large ? HUGE_PAGE : ALIGN, room = (bytes + alignment - 1) / alignment * alignment;
    size_t whole = room + ALIGN + alignment;
    char *base = whole < bytes ? NULL
                 : large       ? mmap(NULL, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
                               : malloc(whole);
    char *buffer;

    if (!base || base == MAP_FAILED)
        return NULL;
    buffer = align_up(base + ALIGN, alignment);
    if (large)
        madvise(buffer, room, MADV_HUGEPAGE); /* advice: may be refused */
    else
        memset(buffer, 0, room);
    *head_of(buffer) = (struct head){base, large ? whole : 0};
    return buffer;
}

void buffer_free(void *buffer)
{
    struct head head;

    if (!buffer)
        return;
    head = *head_of(buffer);
    if (head.mapped)
        munmap(head.base, head.mapped);
    else
        free(head.base);
}
