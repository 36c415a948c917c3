/* fake_memory.h - memory of fake devices: poisoned (NaN), with guards, each block one device's. Included by fake.h.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_TESTS_CUDA_FAKE_MEMORY_H
#define FLEXP_TESTS_CUDA_FAKE_MEMORY_H

struct fake_block { /* behind it 256 bytes after its start: the memory */
    size_t bytes;
    const struct device *device;
    struct fake_block *next;
};
static struct fake_block *fake_blocks;

static const struct device *fake_owner(const void *memory)
{
    const struct device *owner = NULL;

    pthread_mutex_lock(&fake_lock);
    for (const struct fake_block *b = fake_blocks; b && !owner; b = b->next)
        if ((const char *)memory >= (const char *)b + 256 && (const char *)memory < (const char *)b + 256 + b->bytes)
            owner = b->device;
    pthread_mutex_unlock(&fake_lock);
    return owner;
}

/* No argument may point into another device's memory. */
static void fake_check_pointers(const struct device *device, const void *args, size_t size)
{
    if (fake.opened < 2)
        return;
    for (size_t i = 0; i + sizeof(void *) <= size; i += sizeof(void *)) {
        const struct device *owner;
        void *pointer;
        memcpy(&pointer, (const char *)args + i, sizeof pointer);
        owner = fake_owner(pointer);
        assert(!owner || owner == device);
    }
}

static size_t fake_capacity(const struct device *device)
{
    return fake.of[device->index].capacity ? fake.of[device->index].capacity : fake.capacity;
}

static int fake_memory(struct device *device, size_t *ret_free, size_t *ret_total, struct error *err)
{
    (void)err;
    pthread_mutex_lock(&fake_lock);
    *ret_total = fake_capacity(device);
    *ret_free = *ret_total - fake.of[device->index].used - fake.of[device->index].others;
    pthread_mutex_unlock(&fake_lock);
    return 0;
}

static size_t fake_own(const struct device *device)
{
    size_t used;

    pthread_mutex_lock(&fake_lock);
    used = fake.of[device->index].used;
    pthread_mutex_unlock(&fake_lock);
    return used;
}

/* what is known of it, guard, memory, guard */
static int fake_alloc(struct device *device, size_t bytes, void **ret, struct error *err)
{
    size_t whole = (bytes + 255) / 256 * 256 + 256 + FAKE_GUARD;
    struct fake_block *block = aligned_alloc(256, (whole + 255) / 256 * 256);
    bool fits;

    assert(!device->capturing);
    pthread_mutex_lock(&fake_lock);
    fits = fake.of[device->index].used + fake.of[device->index].others + bytes <= fake_capacity(device);
    if (fits) {
        memset(block, 0xff, whole);
        *block = (struct fake_block){bytes, device, fake_blocks};
        fake_blocks = block;
        fake.of[device->index].used += bytes;
        fake.used += bytes;
        fake.peak = fake.used > fake.peak ? fake.used : fake.peak;
        fake.blocks++;
        fake.allocations++;
    }
    pthread_mutex_unlock(&fake_lock);
    if (!fits) {
        free(block);
        return fail(err, -ENOMEM, "out of GPU memory");
    }
    *ret = (char *)block + 256;
    return 0;
}

static void fake_release(struct device *device, void *memory)
{
    struct fake_block *block, **at = &fake_blocks;
    const char *guard;

    if (!memory)
        return;
    block = (struct fake_block *)(void *)((char *)memory - 256);
    guard = (const char *)block + 256;
    assert(block->device == device);
    for (size_t i = 0; i < FAKE_GUARD; i++)
        if (guard[block->bytes + i] != (char)0xff || guard[-1 - (ptrdiff_t)(i % 128)] != (char)0xff) {
            fprintf(stderr, "fake GPU: written past a block of %zu bytes\n", block->bytes);
            abort();
        }
    pthread_mutex_lock(&fake_lock);
    while (*at != block)
        at = &(*at)->next;
    *at = block->next;
    fake.of[device->index].used -= block->bytes;
    fake.used -= block->bytes;
    fake.blocks--;
    pthread_mutex_unlock(&fake_lock);
    free(block);
}

#endif
