/* fake.h - a device that is the host: the table of driver.h over malloc, with the kernels' bodies in plain loops. It
 * checks what a GPU would not forgive: memory is poisoned (NaN) and has guards, captured work may not copy or allocate,
 * leaks are counted, memory can be made small. SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_TESTS_CUDA_FAKE_H
#define FLEXP_TESTS_CUDA_FAKE_H

#include "trainer/backend/cuda/driver.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#define FAKE_GUARD 64

static struct {
    size_t capacity, used, blocks, peak, allocations;
    size_t launches, replays, captures, uploads; /* counted */
    int opened;
    bool tiles; /* products by the tile kernel's phases */
    bool capturing;
    int fail_launch; /* counts down to a failure; 0: never */
} fake = {.capacity = (size_t)4 << 30};

struct device {
    int none;
};
struct fake_work {
    enum kernel kernel; /* KERNELS_N: a product; KERNELS_N + 1: a clear */
    void *args;
    size_t size;
    void *memory;
};
struct captured {
    struct fake_work *work;
    size_t n;
};
static struct captured *fake_recording;

#define FAKE_LOOP(name, type)                                                                                          \
    static void fake_##name(const void *args)                                                                          \
    {                                                                                                                  \
        const struct type *a = args;                                                                                   \
        for (uint64_t i = 0; i < a->count; i++)                                                                        \
            name##_body(a, i);                                                                                         \
    }
KERNELS(FAKE_LOOP)
#define FAKE_ROW(name, type) {fake_##name, sizeof(struct type)},
static const struct {
    void (*run)(const void *args);
    size_t size;
} FAKE_TABLE[] = {KERNELS(FAKE_ROW)};

/* By the definition: sums in order of k. */
static void fake_product(const struct gemm_args *a)
{
    for (uint32_t which = 0; which < a->lanes * a->groups * a->splits; which++) {
        struct gemm_block b = {which / a->splits / a->groups, which / a->splits % a->groups, which % a->splits};
        uint32_t k = gemm_k(a, b.lane), begin = b.split * a->split_k;
        uint32_t end = begin + a->split_k < k ? begin + a->split_k : k;
        if (begin >= end)
            continue;
        for (uint32_t m = 0; m < gemm_m(a, b.lane); m++)
            for (uint32_t n = 0; n < a->n; n++) {
                float sum = 0;
                for (uint32_t i = begin; i < end; i++)
                    sum = fmaf(round_for(a->precision, gemm_a(a, b, m, i)), round_for(a->precision, gemm_b(a, b, i, n)),
                               sum);
                gemm_store(a, b, m, n, sum);
            }
    }
}

/* By the phases of a block, thread after thread. */
static void fake_tiles(const struct gemm_args *a, uint32_t bm, uint32_t bn)
{
    struct tile_shared *shared = malloc(sizeof *shared);
    struct tile_thread *t = malloc(TILE_THREADS * sizeof *t);

    for (uint32_t which = 0; which < a->lanes * a->groups * a->splits; which++)
        for (uint32_t tm = 0; tm < (a->m + bm - 1) / bm; tm++)
            for (uint32_t tn = 0; tn < (a->n + bn - 1) / bn; tn++) {
                bool works = false;
                uint32_t buffer = 0;
                memset(shared, 0xff, sizeof *shared);
                memset(t, 0xff, TILE_THREADS * sizeof *t);
                for (uint32_t i = 0; i < TILE_THREADS; i++)
                    works = tile_begin(a, a->mode, bm, bn, i, tm, tn, which, &t[i]);
                for (uint32_t k = works ? t[0].k_begin : 1; works && k < t[0].k_end; k += TILE_K, buffer ^= 1) {
                    for (uint32_t i = 0; i < TILE_THREADS; i++) {
                        fetch_a(a, a->mode, bm, i, k, &t[i]);
                        fetch_b(a, a->mode, bn, i, k, &t[i]);
                        tile_share(a->mode, a->precision, bm, bn, i, buffer, &t[i], shared);
                    }
                    for (uint32_t i = 0; i < TILE_THREADS; i++)
                        tile_multiply(bm, bn, i, buffer, &t[i], shared);
                }
                for (uint32_t i = 0; works && i < TILE_THREADS; i++)
                    tile_store(a, GEMM_FP32, bm, bn, i, &t[i]); /* tile_multiply has that one's places */
            }
    free(shared);
    free(t);
}

static void fake_do(const struct fake_work *w)
{
    if (w->kernel == KERNELS_N + 1)
        memset(w->memory, 0, w->size);
    else if (w->kernel < KERNELS_N)
        FAKE_TABLE[w->kernel].run(w->args);
    else if (fake.tiles) {
        static const uint32_t SIZES[][2] = {{128, 64}, {64, 32}, {16, 128}, {128, 32}};
        static uint32_t turn;
        uint32_t bm = SIZES[turn % 4][0], bn = SIZES[turn % 4][1];
        if (turn++ % 8 > 3) /* now each in turn, now what the device takes */
            tile_size(w->args, &bm, &bn);
        fake_tiles(w->args, bm, bn);
    } else
        fake_product(w->args);
}

static int fake_queue(enum kernel kernel, const void *args, size_t size, void *memory, struct error *err)
{
    struct fake_work w = {.kernel = kernel, .size = size, .memory = memory};

    if (fake.fail_launch && !--fake.fail_launch)
        return fail(err, -EIO, "the fake GPU fell off the bus");
    fake.launches++;
    if (args) {
        w.args = malloc(size);
        memcpy(w.args, args, size);
    }
    if (fake.capturing) {
        struct captured *c = fake_recording;
        c->work = realloc(c->work, (c->n + 1) * sizeof *c->work);
        c->work[c->n++] = w;
        return 0;
    }
    fake_do(&w);
    free(w.args);
    return 0;
}

static int fake_open(int index, const char *uuid, struct device **ret, struct error *err)
{
    (void)index;
    if (uuid && strcmp(uuid, "GPU-fake"))
        return fail(err, -ENODEV, "there is no GPU %s", uuid);
    fake.opened++;
    *ret = malloc(sizeof **ret);
    return 0;
}

static void fake_close(struct device *device)
{
    fake.opened--;
    free(device);
}

static void fake_info(const struct device *device, struct device_info *ret)
{
    (void)device;
    *ret = (struct device_info){.name = "Fake GPU", .uuid = "GPU-fake", .isa = "host", .total_bytes = fake.capacity};
}

static int fake_memory(struct device *device, size_t *ret_free, size_t *ret_total, struct error *err)
{
    (void)device, (void)err;
    *ret_free = fake.capacity - fake.used;
    *ret_total = fake.capacity;
    return 0;
}

/* size, guard, memory, guard */
static int fake_alloc(struct device *device, size_t bytes, void **ret, struct error *err)
{
    size_t whole = (bytes + 255) / 256 * 256 + 256 + FAKE_GUARD;
    char *block;

    (void)device;
    assert(!fake.capturing);
    if (fake.used + bytes > fake.capacity)
        return fail(err, -ENOMEM, "out of GPU memory");
    block = aligned_alloc(256, (whole + 255) / 256 * 256);
    memset(block, 0xff, whole);
    memcpy(block, &bytes, sizeof bytes);
    fake.used += bytes;
    fake.peak = fake.used > fake.peak ? fake.used : fake.peak;
    fake.blocks++;
    fake.allocations++;
    *ret = block + 256;
    return 0;
}

static void fake_release(struct device *device, void *memory)
{
    char *block = memory ? (char *)memory - 256 : NULL;
    size_t bytes;

    (void)device;
    if (!memory)
        return;
    memcpy(&bytes, block, sizeof bytes);
    for (size_t i = 0; i < FAKE_GUARD; i++)
        if (block[256 + bytes + i] != (char)0xff || block[255 - i % 128] != (char)0xff) {
            fprintf(stderr, "fake GPU: written past a block of %zu bytes\n", bytes);
            abort();
        }
    fake.used -= bytes;
    fake.blocks--;
    free(block);
}

static int fake_upload(struct device *device, void *to, const void *from, size_t bytes, struct error *err)
{
    (void)device, (void)err;
    assert(!fake.capturing);
    fake.uploads++;
    memcpy(to, from, bytes);
    return 0;
}

static int fake_download(struct device *device, void *to, const void *from, size_t bytes, struct error *err)
{
    return fake_upload(device, to, from, bytes, err);
}

static int fake_clear(struct device *device, void *memory, size_t bytes, struct error *err)
{
    (void)device;
    return fake_queue(KERNELS_N + 1, NULL, bytes, memory, err);
}

static int fake_launch(struct device *device, enum kernel kernel, const void *args, size_t size, struct error *err)
{
    (void)device;
    assert(kernel < KERNELS_N && FAKE_TABLE[kernel].size == size);
    return fake_queue(kernel, args, size, NULL, err);
}

static int fake_gemm(struct device *device, const struct gemm_args *args, struct error *err)
{
    (void)device;
    return fake_queue(KERNELS_N, args, sizeof *args, NULL, err);
}

static int fake_wait(struct device *device, struct error *err)
{
    (void)device, (void)err;
    assert(!fake.capturing);
    return 0;
}

static void fake_captured_free(struct device *device, struct captured *c)
{
    (void)device;
    for (size_t i = 0; i < c->n; i++)
        free(c->work[i].args);
    free(c->work);
    free(c);
}

static int fake_capture_begin(struct device *device, struct error *err)
{
    (void)device, (void)err;
    assert(!fake.capturing);
    fake.capturing = true;
    fake_recording = calloc(1, sizeof *fake_recording);
    return 0;
}

static int fake_capture_end(struct device *device, struct captured **ret, struct error *err)
{
    (void)err;
    assert(fake.capturing);
    fake.capturing = false;
    fake.captures++;
    if (ret)
        *ret = fake_recording;
    else
        fake_captured_free(device, fake_recording);
    return 0;
}

static int fake_replay(struct device *device, struct captured *c, struct error *err)
{
    (void)device, (void)err;
    fake.replays++;
    for (size_t i = 0; i < c->n; i++)
        fake_do(&c->work[i]);
    return 0;
}

static int fake_mark(struct device *device, int which, struct error *err)
{
    (void)device, (void)which, (void)err;
    return 0;
}

static int fake_seconds(struct device *device, double *ret, struct error *err)
{
    (void)device, (void)err;
    *ret = 1;
    return 0;
}

static const struct driver FAKE_DRIVER = {
    .api_version = DRIVER_API_VERSION,
    .open = fake_open,
    .close = fake_close,
    .info = fake_info,
    .memory = fake_memory,
    .alloc = fake_alloc,
    .release = fake_release,
    .upload = fake_upload,
    .download = fake_download,
    .clear = fake_clear,
    .launch = fake_launch,
    .gemm = fake_gemm,
    .wait = fake_wait,
    .capture_begin = fake_capture_begin,
    .capture_end = fake_capture_end,
    .replay = fake_replay,
    .captured_free = fake_captured_free,
    .mark = fake_mark,
    .seconds = fake_seconds,
};

#endif
