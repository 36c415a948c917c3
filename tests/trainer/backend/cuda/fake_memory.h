/* fake_memory.h - memory of fake devices: poisoned (NaN), with guards, each block one device's; and pinned memory.
 * Included by fake.h.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_TESTS_CUDA_FAKE_MEMORY_H
#define FLEXP_TESTS_CUDA_FAKE_MEMORY_H

struct fake_block { /* behind it 256 bytes after its start: the memory */
    size_t bytes;
    const struct device *device;
    bool pinned; /* memory of the host */
    struct fake_block *next;
};
static struct fake_block *fake_blocks;

static const struct device *fake_owner(const void *memory)
{
    const struct device *owner = NULL;

    pthread_mutex_lock(&fake_lock);
    for (const struct fake_block *b = fake_blocks; b && !owner; b = b->next)
        if (!b->pinned && (const char *)memory >= (const char *)b + 256 &&
            (const char *)memory < (const char *)b + 256 + b->bytes)
            owner = b->device;
    pthread_mutex_unlock(&fake_lock);
    return owner;
}

static bool fake_is_pinned(const struct device *device, const void *memory, size_t bytes)
{
    bool found = false;

    pthread_mutex_lock(&fake_lock);
    for (const struct fake_block *b = fake_blocks; b && !found; b = b->next)
        found = b->pinned && b->device == device && (const char *)memory >= (const char *)b + 256 &&
                (const char *)memory + bytes <= (const char *)b + 256 + b->bytes;
    pthread_mutex_unlock(&fake_lock);
    return found;
}

/* Copies that are as late, or as early, as a GPU's can be: what goes out arrives when the host waits, and until then
 * what went in may not be written again. */
struct fake_held {
    struct fake_held *next;
    bool out;
    void *pinned;
    size_t bytes;
    char data[];
};

static void fake_hold(struct device *device, bool out, void *pinned, void *memory, size_t bytes)
{
    struct fake_held *held = malloc(sizeof *held + bytes), **last = &device->held;

    assert(fake_is_pinned(device, pinned, bytes) && (!bytes || fake_owner(memory) == device));
    while (*last)
        last = &(*last)->next;
    *held = (struct fake_held){.out = out, .pinned = pinned, .bytes = bytes};
    *last = held;
    memcpy(held->data, out ? memory : pinned, bytes);
    if (out)
        memset(pinned, 0xff, bytes);
    else
        memcpy(memory, pinned, bytes);
}

static void fake_release_held(struct device *device)
{
    while (device->held) {
        struct fake_held *held = device->held;
        device->held = held->next;
        if (held->out)
            memcpy(held->pinned, held->data, held->bytes);
        else if (memcmp(held->pinned, held->data, held->bytes) != 0) {
            fprintf(stderr, "fake GPU: pinned memory was written before it was copied\n");
            abort();
        }
        free(held);
    }
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
    fake.calls++;
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
static int fake_new(struct device *device, size_t bytes, bool pinned, void **ret, struct error *err)
{
    size_t whole = (bytes + 255) / 256 * 256 + 256 + FAKE_GUARD;
    struct fake_block *block = aligned_alloc(256, (whole + 255) / 256 * 256);
    bool fits;

    assert(!device->capturing);
    pthread_mutex_lock(&fake_lock);
    fits = pinned || fake.of[device->index].used + fake.of[device->index].others + bytes <= fake_capacity(device);
    fake.calls++;
    if (fits) {
        memset(block, 0xff, whole);
        *block = (struct fake_block){bytes, device, pinned, fake_blocks};
        fake_blocks = block;
        fake.of[device->index].used += pinned ? 0 : bytes;
        fake.used += pinned ? 0 : bytes;
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

static int fake_alloc(struct device *device, size_t bytes, void **ret, struct error *err)
{
    return fake_new(device, bytes, false, ret, err);
}

static int fake_pin(struct device *device, size_t bytes, void **ret, struct error *err)
{
    return fake_new(device, bytes, true, ret, err);
}

static void fake_free(struct device *device, void *memory, bool pinned)
{
    struct fake_block *block, **at = &fake_blocks;
    const char *guard;

    if (!memory)
        return;
    block = (struct fake_block *)(void *)((char *)memory - 256);
    guard = (const char *)block + 256;
    assert(block->device == device && block->pinned == pinned);
    for (size_t i = 0; i < FAKE_GUARD; i++)
        if (guard[block->bytes + i] != (char)0xff || guard[-1 - (ptrdiff_t)(i % 128)] != (char)0xff) {
            fprintf(stderr, "fake GPU: written past a block of %zu bytes\n", block->bytes);
            abort();
        }
    pthread_mutex_lock(&fake_lock);
    while (*at != block)
        at = &(*at)->next;
    *at = block->next;
    fake.of[device->index].used -= pinned ? 0 : block->bytes;
    fake.used -= pinned ? 0 : block->bytes;
    fake.blocks--;
    fake.calls++;
    pthread_mutex_unlock(&fake_lock);
    free(block);
}

static void fake_release(struct device *device, void *memory)
{
    fake_free(device, memory, false);
}

static void fake_unpin(struct device *device, void *pinned)
{
    fake_release_held(device); /* as the driver, which waits */
    fake_free(device, pinned, true);
}

#endif
