/* fake.h - devices that are the host: the table of driver.h over malloc, with the kernels' bodies in plain loops. They
 * check what a GPU would not forgive: memory is poisoned (NaN), has guards and belongs to one device; captured work may
 * not allocate, and copies pinned memory alone, which is the device's until the host waits; leaks are counted, memory
 * can be made small. SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_TESTS_CUDA_FAKE_H
#define FLEXP_TESTS_CUDA_FAKE_H

#include "tests/trainer/backend/cuda/fake_sum.h"
#include "trainer/backend/cuda/cuda.h"
#include "trainer/backend/cuda/driver.h"

#include <assert.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#define FAKE_GUARD 64
#define FAKE_DEVICES 8

static struct {
    size_t capacity, used, blocks, peak, allocations;
    size_t calls;                                /* of the table's functions that a GPU's driver sees */
    size_t launches, replays, captures, uploads; /* counted, among these */
    int opened;
    bool tiles; /* products by the tile kernel's phases */
    int capturing;
    int fail_launch, fail_device; /* counts the launches of a device down to a failure; 0: never */
    int fail_graph;               /* what the next end of a capture returns */
    bool fail_stays;              /* from then on all launches of that device fail, and so does waiting for it */
    int devices;                  /* that are visible; 0: 1 */
    struct {
        size_t used, capacity; /* capacity 0: as the others */
        size_t others;         /* what other processes hold */
        bool broken;           /* does not open */
        bool lost;             /* by fail_stays */
    } of[FAKE_DEVICES];
    bool no_nccl;
    int hangs;     /* 1 + the device that never answers the others */
    bool no_loops; /* as an old driver */
} fake = {.capacity = (size_t)4 << 30};

struct fake_work {
    int kernel; /* enum kernel, or one of these */
    void *args;
    size_t size;
    void *memory, *pinned; /* pinned: of a copy */
};
enum {
    FAKE_GEMM = KERNELS_N,
    FAKE_SHARED_SUM,
    FAKE_CLEAR,
    FAKE_COPY_IN,
    FAKE_COPY_OUT,
    FAKE_LOOP_BEGIN,
    FAKE_LOOP_END, /* memory: what is left */
    FAKE_FORK,
    FAKE_JOIN,
    FAKE_LINK
};
struct captured {
    struct fake_work *work;
    size_t n;
    struct fake_group *group; /* whose communicator it uses; NULL: none (fake_link.h) */
};
struct device {
    int index;
    bool capturing;
    struct captured *recording;
    bool loop, loop_ended;  /* in what is recorded */
    struct fake_held *held; /* fake_memory.h */
    struct fake_link *link; /* fake_link.h */
};

/* Counters and the list of blocks are all devices'. */
static pthread_mutex_t fake_lock = PTHREAD_MUTEX_INITIALIZER;

static void fake_called(void)
{
    pthread_mutex_lock(&fake_lock);
    fake.calls++;
    pthread_mutex_unlock(&fake_lock);
}

#include "tests/trainer/backend/cuda/fake_memory.h"

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
            for (uint32_t n = 0; n < gemm_n(a, b.lane); n++) {
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

/* fake_link.h: what goes between devices */
static int fake_link_do(struct device *device, const struct fake_work *work, struct error *err);
static void fake_link_queued(struct device *device, int kernel);
static void fake_link_captured(struct device *device, struct captured *captured);
static void fake_link_replayed(const struct device *device, const struct captured *captured);
static void fake_link_forgotten(struct captured *captured);

static int fake_do(struct device *device, const struct fake_work *w, struct error *err)
{
    if (w->kernel >= FAKE_FORK)
        return fake_link_do(device, w, err);
    if (w->kernel == FAKE_CLEAR)
        memset(w->memory, 0, w->size);
    else if (w->kernel == FAKE_COPY_IN || w->kernel == FAKE_COPY_OUT)
        fake_hold(device, w->kernel == FAKE_COPY_OUT, w->pinned, w->memory, w->size);
    else if (w->kernel == FAKE_SHARED_SUM)
        fake_shared_sum(w->args);
    else if (w->kernel < (int)KERNELS_N)
        FAKE_TABLE[w->kernel].run(w->args);
    else if (fake.tiles) {
        static const uint32_t SIZES[][2] = {{128, 64}, {64, 32}, {16, 128}, {128, 32}};
        static __thread uint32_t turn;
        uint32_t bm = SIZES[turn % 4][0], bn = SIZES[turn % 4][1];
        if (turn++ % 8 > 3) /* now each in turn, now what the device takes */
            tile_size(w->args, &bm, &bn);
        fake_tiles(w->args, bm, bn);
    } else
        fake_product(w->args);
    return 0;
}

static int fake_queue_copy(struct device *device, int kernel, const void *args, size_t size, void *memory, void *pinned,
                           struct error *err)
{
    struct fake_work w = {.kernel = kernel, .size = size, .memory = memory, .pinned = pinned};
    bool fails;
    int rc;

    pthread_mutex_lock(&fake_lock);
    fails =
        fake.of[device->index].lost || (fake.fail_launch && fake.fail_device == device->index && !--fake.fail_launch);
    fake.of[device->index].lost = fails && fake.fail_stays;
    fake.launches++;
    fake.calls++;
    pthread_mutex_unlock(&fake_lock);
    if (fails)
        return fail(err, -EIO, "the fake GPU fell off the bus");
    assert(kernel < FAKE_FORK || !device->capturing || device->loop == device->loop_ended);
    assert(!pinned || fake_is_pinned(device, pinned, size));
    fake_check_pointers(device, &memory, sizeof memory);
    fake_link_queued(device, kernel);
    if (args) {
        fake_check_pointers(device, args, size);
        w.args = malloc(size);
        memcpy(w.args, args, size);
    }
    if (device->capturing) {
        struct captured *c = device->recording;
        c->work = realloc(c->work, (c->n + 1) * sizeof *c->work);
        c->work[c->n++] = w;
        if (kernel == FAKE_LINK)
            fake_link_captured(device, c);
        return 0;
    }
    rc = fake_do(device, &w, err);
    free(w.args);
    return rc;
}

/* Other processes hold so much of a GPU from now on. */
__attribute__((unused)) static void fake_others(int index, size_t bytes)
{
    pthread_mutex_lock(&fake_lock);
    fake.of[index].others = bytes;
    pthread_mutex_unlock(&fake_lock);
}

static int fake_queue(struct device *device, int kernel, const void *args, size_t size, void *memory, struct error *err)
{
    return fake_queue_copy(device, kernel, args, size, memory, NULL, err);
}

static void fake_info(const struct device *device, struct device_info *ret)
{
    *ret = (struct device_info){
        .name = "Fake GPU", .uuid = "GPU-fake", .isa = "host", .total_bytes = fake_capacity(device)};
}

static int fake_look(int index, const char *uuid, struct device_info *ret, struct error *err)
{
    int visible = fake.devices ? fake.devices : 1;

    if (uuid && strcmp(uuid, "GPU-fake"))
        return fail(err, -ENODEV, "there is no GPU %s", uuid);
    if (index >= visible)
        return fail(err, -ENODEV, "there is no GPU %d: %d are visible", index, visible);
    fake_info(&(struct device){.index = index < 0 ? 0 : index}, ret);
    return 0;
}

static int fake_open(int index, const char *uuid, struct device **ret, struct error *err)
{
    struct device_info info;
    struct device *d;
    bool full;
    int rc = fake_look(index, uuid, &info, err);

    if (rc)
        return rc;
    index = index < 0 ? 0 : index;
    if (fake.of[index].broken)
        return fail(err, -ENODEV, "%s %d does not pass the self-check", info.name, index);
    pthread_mutex_lock(&fake_lock);
    full = fake.of[index].others && fake.of[index].others == fake.capacity; /* not even for a context */
    pthread_mutex_unlock(&fake_lock);
    if (full)
        return fail(err, -ENOMEM, "out of GPU memory");
    d = calloc(1, sizeof *d);
    d->index = index;
    pthread_mutex_lock(&fake_lock);
    fake.opened++;
    pthread_mutex_unlock(&fake_lock);
    *ret = d;
    return 0;
}

static void fake_link_free(struct device *device);

static void fake_close(struct device *device)
{
    fake_link_free(device);
    fake_release_held(device);
    pthread_mutex_lock(&fake_lock);
    fake.opened--;
    pthread_mutex_unlock(&fake_lock);
    free(device);
}

static int fake_copy(struct device *device, void *to, const void *from, size_t bytes, const void *own)
{
    assert(!device->capturing && (!bytes || fake_owner(own) == device));
    pthread_mutex_lock(&fake_lock);
    fake.uploads++;
    fake.calls++;
    pthread_mutex_unlock(&fake_lock);
    if (bytes)
        memcpy(to, from, bytes);
    return 0;
}

static int fake_upload(struct device *device, void *to, const void *from, size_t bytes, struct error *err)
{
    (void)err;
    return fake_copy(device, to, from, bytes, to);
}

static int fake_download(struct device *device, void *to, const void *from, size_t bytes, struct error *err)
{
    (void)err;
    fake_release_held(device);
    return fake_copy(device, to, from, bytes, from);
}

static int fake_copy_in(struct device *device, void *to, const void *pinned, size_t bytes, struct error *err)
{
    return fake_queue_copy(device, FAKE_COPY_IN, NULL, bytes, to, (void *)pinned, err);
}

static int fake_copy_out(struct device *device, void *pinned, const void *from, size_t bytes, struct error *err)
{
    return fake_queue_copy(device, FAKE_COPY_OUT, NULL, bytes, (void *)from, pinned, err);
}

static int fake_clear(struct device *device, void *memory, size_t bytes, struct error *err)
{
    return fake_queue(device, FAKE_CLEAR, NULL, bytes, memory, err);
}

static int fake_launch(struct device *device, enum kernel kernel, const void *args, size_t size, struct error *err)
{
    assert(kernel < KERNELS_N && FAKE_TABLE[kernel].size == size);
    return fake_queue(device, (int)kernel, args, size, NULL, err);
}

static int fake_gemm(struct device *device, const struct gemm_args *args, struct error *err)
{
    return fake_queue(device, FAKE_GEMM, args, sizeof *args, NULL, err);
}

static int fake_sum(struct device *device, const struct shared_sum_args *args, struct error *err)
{
    return fake_queue(device, FAKE_SHARED_SUM, args, sizeof *args, NULL, err);
}

static int fake_wait(struct device *device, struct error *err)
{
    fake_called();
    assert(!device->capturing);
    fake_release_held(device);
    return fake.of[device->index].lost ? fail(err, -EIO, "the fake GPU fell off the bus") : 0;
}

static void fake_captured_free(struct device *device, struct captured *c)
{
    (void)device;
    fake_link_forgotten(c);
    for (size_t i = 0; i < c->n; i++)
        free(c->work[i].args);
    free(c->work);
    free(c);
}

static int fake_capture_begin(struct device *device, struct error *err)
{
    (void)err;
    assert(!device->capturing);
    device->capturing = true;
    device->loop = device->loop_ended = false;
    device->recording = calloc(1, sizeof *device->recording);
    pthread_mutex_lock(&fake_lock);
    fake.capturing++;
    fake.calls++;
    pthread_mutex_unlock(&fake_lock);
    return 0;
}

static int fake_capture_end(struct device *device, struct captured **ret, struct error *err)
{
    int rc = ret ? fake.fail_graph : 0;

    assert(device->capturing && (!ret || device->loop == device->loop_ended));
    device->capturing = false;
    pthread_mutex_lock(&fake_lock);
    fake.capturing--;
    fake.captures++;
    fake.calls++;
    fake.fail_graph = ret ? 0 : fake.fail_graph;
    pthread_mutex_unlock(&fake_lock);
    if (ret && !rc)
        *ret = device->recording;
    else
        fake_captured_free(device, device->recording);
    return rc ? fail(err, rc, "the fake GPU makes no graph of this") : 0;
}

/* As real conditional nodes: nothing that goes to other devices. */
static int fake_loop_begin(struct device *device, struct error *err)
{
    assert(device->capturing && !device->loop);
    if (fake.no_loops)
        return fail(err, -ENOTSUP, "this fake GPU has no loops");
    device->loop = true;
    return fake_queue(device, FAKE_LOOP_BEGIN, NULL, 0, NULL, err);
}

static int fake_loop_end(struct device *device, uint32_t *left, struct error *err)
{
    assert(device->loop && !device->loop_ended && fake_owner(left) == device);
    device->loop_ended = true;
    return fake_queue(device, FAKE_LOOP_END, NULL, 0, left, err);
}

static int fake_replay(struct device *device, struct captured *c, struct error *err)
{
    size_t again = 0;
    int rc = 0;

    pthread_mutex_lock(&fake_lock);
    fake.replays++;
    fake.calls++;
    pthread_mutex_unlock(&fake_lock);
    fake_link_replayed(device, c);
    for (size_t i = 0; i < c->n && !rc; i++) {
        uint32_t *left = c->work[i].memory;
        if (c->work[i].kernel == FAKE_LOOP_BEGIN)
            again = i;
        else if (c->work[i].kernel != FAKE_LOOP_END)
            rc = fake_do(device, &c->work[i], err);
        else if (*left && --*left)
            i = again;
    }
    return rc;
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

#include "tests/trainer/backend/cuda/fake_link.h"

static const struct driver FAKE_DRIVER = {
    .api_version = DRIVER_API_VERSION,
    .open = fake_open,
    .close = fake_close,
    .info = fake_info,
    .look = fake_look,
    .memory = fake_memory,
    .own = fake_own,
    .alloc = fake_alloc,
    .release = fake_release,
    .upload = fake_upload,
    .download = fake_download,
    .pin = fake_pin,
    .unpin = fake_unpin,
    .copy_in = fake_copy_in,
    .copy_out = fake_copy_out,
    .clear = fake_clear,
    .launch = fake_launch,
    .gemm = fake_gemm,
    .shared_sum = fake_sum,
    .wait = fake_wait,
    .capture_begin = fake_capture_begin,
    .capture_end = fake_capture_end,
    .loop_begin = fake_loop_begin,
    .loop_end = fake_loop_end,
    .replay = fake_replay,
    .captured_free = fake_captured_free,
    .mark = fake_mark,
    .seconds = fake_seconds,
    .link_id = fake_link_id,
    .link_open = fake_link_open,
    .link_abort = fake_link_abort,
    .link_fork = fake_link_fork,
    .link_join = fake_link_join,
    .link_sum = fake_link_sum,
    .link_send = fake_link_send,
    .link_receive = fake_link_receive,
    .link_broadcast = fake_link_broadcast,
};

/* Set-up of a group of tests. */
__attribute__((unused)) static int fake_use(void **state)
{
    (void)state;
    cuda_use_driver(&FAKE_DRIVER);
    return 0;
}

#endif
