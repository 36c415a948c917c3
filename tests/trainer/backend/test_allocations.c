/* test_allocations.c - what the CPU backend allocates while it trains: as much for 64 batches as for 16, that is nothing in a
 * step, where all layers have kernels of our own. The C library's allocators are replaced by ones that count.
 * SPDX-License-Identifier: Apache-2.0 */
#include "tests/trainer/backend/tiny.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#if defined __GLIBC__ && !defined __SANITIZE_ADDRESS__ && !defined __SANITIZE_THREAD__
#define COUNTS true

static atomic_size_t allocations;

/* The names under which glibc keeps its own for such replacements. */
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *old, size_t size);
void *__libc_memalign(size_t alignment, size_t size);

void *malloc(size_t size)
{
    atomic_fetch_add(&allocations, 1);
    return __libc_malloc(size);
}

void *calloc(size_t n, size_t size)
{
    atomic_fetch_add(&allocations, 1);
    return __libc_calloc(n, size);
}

void *realloc(void *old, size_t size)
{
    atomic_fetch_add(&allocations, 1);
    return __libc_realloc(old, size);
}

void *aligned_alloc(size_t alignment, size_t size)
{
    atomic_fetch_add(&allocations, 1);
    return __libc_memalign(alignment, size);
}

int posix_memalign(void **ret, size_t alignment, size_t size)
{
    atomic_fetch_add(&allocations, 1);
    *ret = __libc_memalign(alignment, size);
    return *ret ? 0 : ENOMEM;
}
#else
#define COUNTS false
static atomic_size_t allocations;
#endif

#define CONV(filters, more) "{\"conv2d\": {\"filters\": " #filters ", \"kernel\": 3, \"padding\": \"same\"" more "}}"
#define RELU ", \"activation\": \"relu\""
#define LAST "\"flatten\", {\"dense\": {\"units\": 20" RELU "}}, {\"dense\": {\"units\": \"classes\"}}"

#define SAMPLES 64
#define BATCH 8

/* Of training so many epochs of 8 batches each. */
static size_t count(struct tiny *t, int64_t epochs, double *sum)
{
    const struct augment augment = {.crop_padding = 1, .horizontal_flip = true};
    uint32_t samples[SAMPLES];
    struct replica replica = {.start = t->weights, .samples = samples, .samples_n = SAMPLES, .epochs = epochs, .batch = BATCH,
                              .lr = .01f, .seed = 1, .weight = 1, .optimizer = {.momentum = .9f}};
    struct training training = {&replica, 1, .augment = &augment, .reduction = {.type = REDUCE_WEIGHTED_SUM, .sum = sum}};
    struct error err = {0};
    size_t before;

    for (uint32_t i = 0; i < SAMPLES; i++)
        samples[i] = i;
    before = atomic_load(&allocations);
    if (BACKEND_CPU.train(t->plan, &training, 1, &err))
        fail_msg("%s", err.text);
    before = atomic_load(&allocations) - before;
    assert_int_equal(replica.batches, epochs * SAMPLES / BATCH);
    return before;
}

/* Of 64 batches, more than of 16; after a first training, which may set up what stays. */
static size_t more_for_more_batches(const char *layers, size_t threads)
{
    struct tiny t;
    size_t few, many;
    double *sum;

    tiny_init(&t, layers, 3, 12, 12, 5, SAMPLES, BATCH, threads);
    sum = calloc(t.model->weights_n, sizeof *sum);
    count(&t, 1, sum);
    few = count(&t, 2, sum);
    many = count(&t, 8, sum);
    free(sum);
    tiny_done(&t);
    assert_true(many >= few);
    return many - few;
}

static void skip_where_nothing_counts(void)
{
    if (!COUNTS) {
        printf("# because: a sanitizer or another C library has the allocators\n");
        skip();
    }
}

static void a_step_of_our_own_kernels_allocates_nothing(void **state)
{
    static const char *const NETWORKS[] = {
        "[" CONV(24, RELU) ", {\"dropout\": {\"rate\": 0.3}}, " CONV(24, RELU) ", {\"max_pool2d\": {\"size\": 2}}, " LAST "]",
        "[" CONV(16, "") ", {\"batch_norm\": {\"activation\": \"relu\"}}, {\"residual\": {\"layers\": [" CONV(16, "") ", "
        "{\"group_norm\": {\"groups\": 4}}]}}, " CONV(16, ", \"groups\": 16") ", " LAST "]",
        "[" CONV(32, ", \"stride\": 2" RELU) ", " CONV(32, RELU) ", {\"avg_pool2d\": {\"size\": 2}}, " LAST "]",
    };

    (void)state;
    skip_where_nothing_counts();
    for (size_t i = 0; i < sizeof NETWORKS / sizeof *NETWORKS; i++)
        for (size_t threads = 1; threads <= 3; threads += 2) {
            size_t more = more_for_more_batches(NETWORKS[i], threads);
            if (more)
                fail_msg("network %zu, %zu threads: %zu allocations in 48 steps", i, threads, more);
        }
}

/* As docs/architecture.md says; and the counter counts what libraries allocate. */
static void a_layer_of_onednn_allocates_in_each_step(void **state)
{
    (void)state;
    skip_where_nothing_counts();
    assert_true(more_for_more_batches("[" CONV(24, RELU) ", " CONV(24, ", \"groups\": 4" RELU) ", " LAST "]", 1) >= 48);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_step_of_our_own_kernels_allocates_nothing),
        cmocka_unit_test(a_layer_of_onednn_allocates_in_each_step),
    };
    unsetenv("FLEXP_CPU_KERNELS"); /* by rule */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
