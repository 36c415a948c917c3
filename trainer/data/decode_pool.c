/* decode_pool.c - see decode_pool.h.
 * Images travel in batches, so that the queue's lock is taken once for a hundred of them.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/data/decode_pool.h"
#include "trainer/data/image.h"

#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define THREADS_MAX 8
#define BATCH_IMAGES 128
#define BATCH_BYTES ((size_t)4 << 20)
#define QUEUE_MAX 8

struct batch {
    struct batch *next_queued, *next;
    uint8_t *bytes;
    size_t used, room, n;
    size_t end[BATCH_IMAGES]; /* of each image in bytes */
    struct decoded items[BATCH_IMAGES];
};

struct decode_pool {
    int scratch;
    struct conversion conversion;
    pthread_t threads[THREADS_MAX];
    int threads_n;
    pthread_mutex_t lock;
    pthread_cond_t work, room; /* something to do; less to do */
    struct batch *queue, *queue_end;
    size_t queued;
    bool ended;
    size_t sample_bytes; /* of the image that was decoded first; 0 before */
    int failure;         /* negative errno of the first failure that is no image's */
    /* the adder's alone: */
    struct batch *all, *open;
    size_t added;
    const struct decoded **list;
};

static bool keep_size(struct decode_pool *pool, size_t bytes)
{
    bool same;

    pthread_mutex_lock(&pool->lock);
    if (!pool->sample_bytes)
        pool->sample_bytes = bytes;
    same = pool->sample_bytes == bytes;
    pthread_mutex_unlock(&pool->lock);
    return same;
}

static void note_failure(struct decode_pool *pool, int code)
{
    pthread_mutex_lock(&pool->lock);
    if (!pool->failure)
        pool->failure = code;
    pthread_mutex_unlock(&pool->lock);
}

static int store(int fd, const uint8_t *bytes, size_t n, size_t at)
{
    while (n) {
        ssize_t written = pwrite(fd, bytes, n, (off_t)at);
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0)
            return -errno;
        bytes += written;
        n -= (size_t)written;
        at += (size_t)written;
    }
    return 0;
}

/* What a thread keeps from one image to the next. */
struct decoder {
    struct image image;
    struct converter converter;
};

static int decode_one(struct decode_pool *pool, struct decoder *decoder, struct decoded *item, const uint8_t *bytes, size_t n)
{
    struct image *image = &decoder->image;
    const uint8_t *pixels;
    struct data_shape shape;
    int rc = image_decode(image, bytes, n);
    size_t size;

    if (rc == -EINVAL) {
        item->problem = strdup(image->problem);
        return item->problem ? 0 : -ENOMEM;
    }
    if (rc)
        return rc;
    shape = (struct data_shape){.height = image->height, .width = image->width, .channels = image->channels};
    pixels = image->pixels;
    if (conversion_is_needed(&pool->conversion, image->height, image->width, image->channels)) {
        decoder->converter.to = pool->conversion;
        if (convert(&decoder->converter, image->pixels, image->height, image->width, image->channels))
            return -ENOMEM;
        conversion_shape(&pool->conversion, &shape);
        pixels = decoder->converter.pixels;
    }
    item->height = shape.height;
    item->width = shape.width;
    item->channels = shape.channels;
    size = (size_t)shape.height * (size_t)shape.width * (size_t)shape.channels;
    return keep_size(pool, size) ? store(pool->scratch, pixels, size, item->slot * size) : 0;
}

static void decode_batch(struct decode_pool *pool, struct decoder *decoder, struct batch *batch)
{
    for (size_t i = 0; i < batch->n; i++) {
        size_t from = i ? batch->end[i - 1] : 0;
        int rc = decode_one(pool, decoder, &batch->items[i], batch->bytes + from, batch->end[i] - from);
        if (rc)
            note_failure(pool, rc);
    }
    free(batch->bytes);
    batch->bytes = NULL;
}

static void *work(void *arg)
{
    struct decode_pool *pool = arg;
    struct decoder decoder = {0};

    pthread_mutex_lock(&pool->lock);
    for (;;) {
        struct batch *batch;
        while (!pool->queue && !pool->ended)
            pthread_cond_wait(&pool->work, &pool->lock);
        batch = pool->queue;
        if (!batch)
            break;
        pool->queue = batch->next_queued;
        if (!pool->queue)
            pool->queue_end = NULL;
        pool->queued--;
        pthread_cond_signal(&pool->room);
        pthread_mutex_unlock(&pool->lock);
        decode_batch(pool, &decoder, batch);
        pthread_mutex_lock(&pool->lock);
    }
    pthread_mutex_unlock(&pool->lock);
    image_done(&decoder.image);
    converter_done(&decoder.converter);
    return NULL;
}

int decode_pool_new(int scratch, const struct conversion *conversion, struct decode_pool **ret, struct error *err)
{
    struct decode_pool *pool = calloc(1, sizeof *pool);
    cpu_set_t cores;
    int threads = sched_getaffinity(0, sizeof cores, &cores) ? 1 : CPU_COUNT(&cores), code = 0;

    if (!pool)
        return fail(err, -ENOMEM, "out of memory");
    pool->scratch = scratch;
    pool->conversion = *conversion;
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->work, NULL);
    pthread_cond_init(&pool->room, NULL);
    while (!code && pool->threads_n < threads && pool->threads_n < THREADS_MAX) {
        code = pthread_create(&pool->threads[pool->threads_n], NULL, work, pool);
        pool->threads_n += !code;
    }
    if (!pool->threads_n) {
        decode_pool_free(pool);
        return fail(err, -code, "no thread can be started: %s", strerror(code));
    }
    *ret = pool;
    return 0;
}

static void submit(struct decode_pool *pool)
{
    struct batch *batch = pool->open;

    pool->open = NULL;
    if (!batch)
        return;
    pthread_mutex_lock(&pool->lock);
    while (pool->queued >= QUEUE_MAX)
        pthread_cond_wait(&pool->room, &pool->lock);
    if (pool->queue_end)
        pool->queue_end->next_queued = batch;
    else
        pool->queue = batch;
    pool->queue_end = batch;
    pool->queued++;
    pthread_cond_signal(&pool->work);
    pthread_mutex_unlock(&pool->lock);
}

static int open_batch(struct decode_pool *pool)
{
    if (pool->open)
        return 0;
    pool->open = calloc(1, sizeof *pool->open);
    if (!pool->open)
        return -ENOMEM;
    pool->open->next = pool->all;
    pool->all = pool->open;
    return 0;
}

int decode_pool_add(struct decode_pool *pool, const char *name, const uint8_t *bytes, size_t n, struct error *err)
{
    struct batch *batch;
    char *copy = strdup(name);

    if (!copy || open_batch(pool)) {
        free(copy);
        return fail(err, -ENOMEM, "out of memory");
    }
    batch = pool->open;
    if (!batch->bytes || batch->used + n > batch->room) { /* the first may be an empty file */
        size_t room = 2 * batch->room > batch->used + n ? 2 * batch->room : batch->used + n + 65536;
        uint8_t *grown = realloc(batch->bytes, room);
        if (!grown) {
            free(copy);
            return fail(err, -ENOMEM, "out of memory");
        }
        batch->bytes = grown;
        batch->room = room;
    }
    memcpy(batch->bytes + batch->used, bytes, n);
    batch->used += n;
    batch->end[batch->n] = batch->used;
    batch->items[batch->n++] = (struct decoded){.name = copy, .slot = pool->added++};
    if (batch->n == BATCH_IMAGES || batch->used >= BATCH_BYTES)
        submit(pool);
    return 0;
}

static void end(struct decode_pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    pool->ended = true;
    pthread_cond_broadcast(&pool->work);
    pthread_mutex_unlock(&pool->lock);
    while (pool->threads_n)
        pthread_join(pool->threads[--pool->threads_n], NULL);
}

int decode_pool_finish(struct decode_pool *pool, const struct decoded *const **ret_list, size_t *ret_n, struct error *err)
{
    submit(pool);
    end(pool);
    if (pool->failure)
        return fail(err, pool->failure, "decoded images cannot be kept: %s", strerror(-pool->failure));
    pool->list = calloc(pool->added + 1, sizeof *pool->list);
    if (!pool->list)
        return fail(err, -ENOMEM, "out of memory");
    for (struct batch *batch = pool->all; batch; batch = batch->next)
        for (size_t i = 0; i < batch->n; i++)
            pool->list[batch->items[i].slot] = &batch->items[i];
    *ret_list = pool->list;
    *ret_n = pool->added;
    return 0;
}

void decode_pool_free(struct decode_pool *pool)
{
    if (!pool)
        return;
    end(pool);
    while (pool->all) {
        struct batch *batch = pool->all;
        pool->all = batch->next;
        for (size_t i = 0; i < batch->n; i++) {
            free(batch->items[i].name);
            free(batch->items[i].problem);
        }
        free(batch->bytes);
        free(batch);
    }
    pthread_mutex_destroy(&pool->lock);
    pthread_cond_destroy(&pool->work);
    pthread_cond_destroy(&pool->room);
    free(pool->list);
    free(pool);
}
