/* test_pool.c - rounds of trials on the fake GPU: where the backend keeps the model, the same bits and no weights on the
 * bus; packed, the same bits. SPDX-License-Identifier: Apache-2.0 */
#include "tests/trainer/backend/cuda/fake.h"
#include "trainer/backend/cuda/cuda_private.h"
#include "trainer/backend/cuda/selftest.h"
#include "trainer/federation/pool.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>

#include <cmocka.h>

#define SAMPLES 60
#define CLIENTS 5
#define ROUNDS 3
#define TRIALS 4

static const char NET[] =
    "[{\"conv2d\": {\"filters\": 8, \"kernel\": 3, \"padding\": \"same\", \"activation\": \"relu\"}}, \"batch_norm\", "
    "{\"max_pool2d\": {\"size\": 2}}, \"flatten\", {\"dropout\": {\"rate\": 0.5}}, {\"dense\": {\"units\": 32}}, "
    "{\"dense\": {\"units\": \"classes\"}}]";

/* The fake, with an eye on what crosses. */
static atomic_size_t largest_transfer;
static struct driver watched;

static void watch(size_t bytes)
{
    size_t before = atomic_load(&largest_transfer);

    if (bytes > before) /* one caller at a time */
        atomic_store(&largest_transfer, bytes);
}

static int watched_upload(struct device *device, void *to, const void *from, size_t bytes, struct error *err)
{
    watch(bytes);
    return FAKE_DRIVER.upload(device, to, from, bytes, err);
}

static int watched_download(struct device *device, void *to, const void *from, size_t bytes, struct error *err)
{
    watch(bytes);
    return FAKE_DRIVER.download(device, to, from, bytes, err);
}

static int watched_copy_in(struct device *device, void *to, const void *pinned, size_t bytes, struct error *err)
{
    watch(bytes);
    return FAKE_DRIVER.copy_in(device, to, pinned, bytes, err);
}

static int watched_copy_out(struct device *device, void *pinned, const void *from, size_t bytes, struct error *err)
{
    watch(bytes);
    return FAKE_DRIVER.copy_out(device, pinned, from, bytes, err);
}

static struct federation_data *split_of(size_t clients)
{
    struct federation_data *split = calloc(1, sizeof *split);

    split->clients_n = clients;
    split->clients = calloc(clients, sizeof *split->clients);
    for (size_t k = 0; k < clients; k++) {
        struct indices *train = &split->clients[k].train;
        train->n = clients == 1 ? SAMPLES : 11 + 4 * k;
        train->list = calloc(train->n, sizeof *train->list);
        for (size_t i = 0; i < train->n; i++)
            train->list[i] = (uint32_t)((7 * k + i) % SAMPLES);
    }
    return split;
}

/* What a trial leaves. */
struct outcome {
    float *weights;
    double loss[ROUNDS], validation;
    size_t largest_transfer; /* of the rounds after the first */
};

/* A trial on a worker's pack. Even ones are federated, with other rates of client and server. */
struct trial {
    struct bed *bed;
    struct pack *pack;
    uint64_t number;
    struct outcome outcome;
    pthread_t thread;
};

static struct pool_settings settings_of(const struct trial *t, struct seat *seat, struct federation_data *split)
{
    struct pool_settings settings = {.seat = seat,
                                     .model = t->bed->model,
                                     .split = split,
                                     .federated = t->number % 2 == 0,
                                     .optimizer = {.momentum = 0.9f},
                                     .augment = {.crop_padding = (int)t->number},
                                     .batch = 8,
                                     .local_epochs = 1 + (int64_t)t->number / 3,
                                     .seed = 7,
                                     .trial = t->number};

    if (strategy_from(NULL, &settings.strategy, &settings.strategy_settings, NULL))
        abort();
    settings.strategy_settings.server_learning_rate = t->number == 2 ? 0.5 : 1;
    return settings;
}

static void must(int rc, const struct error *err)
{
    if (rc) {
        fprintf(stderr, "%s\n", err->text);
        abort();
    }
}

static void *carry(void *arg)
{
    struct trial *t = arg;
    size_t clients = t->number % 2 ? 1 : CLIENTS, n = t->bed->model->weights_n;
    struct federation_data *split = split_of(clients);
    uint32_t cohort[CLIENTS] = {0, 1, 2, 3, 4};
    struct pool_settings settings;
    struct evaluation evaluation;
    struct error err = {0};
    struct seat *seat;
    struct pool *pool;
    float *weights;

    must(seat_take(t->pack, t->bed->gpu_plan, &t->bed->data, &seat, &err), &err);
    settings = settings_of(t, seat, split);
    must(pool_new(&settings, clients, &pool, &err), &err);
    memcpy(pool_start(pool), t->bed->weights, n * sizeof *weights);
    for (uint64_t round = 0; round < ROUNDS; round++) {
        struct pool_result result;
        if (round == 1)
            largest_transfer = 0;
        must(pool_train(pool,
                        &(struct pool_round){.round = round + 1,
                                             .cohort = cohort,
                                             .cohort_n = clients,
                                             .learning_rate = 0.01f * (float)(t->number + 1)},
                        &result, &err),
             &err);
        t->outcome.loss[round] = result.train_loss;
    }
    t->outcome.largest_transfer = largest_transfer;
    must(evaluation_init(&evaluation, t->bed->model->classes), &err);
    must(pool_evaluate(pool, &t->bed->data.test, split->clients[0].train.list, 11, &evaluation, NULL, &err), &err);
    t->outcome.validation = evaluation.loss_sum;
    must(pool_weights(pool, &weights, &err), &err);
    t->outcome.weights = memcpy(malloc(n * sizeof *weights), weights, n * sizeof *weights);
    evaluation_done(&evaluation);
    pool_free(pool);
    seat_leave(seat);
    split_free(split);
    return NULL;
}

static void must_open(struct bed *bed, struct pack **pack, const struct backend_ops *ops)
{
    struct error err = {0};

    must(bed_init(bed, NET, 3, 8, 6, 4, SAMPLES, 8, PRECISION_FP32_STRICT, &err), &err);
    must(pack_new(pack, &err), &err);
    pack_enter(*pack);
    pack_use(*pack, ops, bed->gpu);
    pack_leave(*pack);
}

static void must_close(struct bed *bed, struct pack *pack)
{
    pack_free(pack);
    bed_done(bed);
    assert_int_equal(fake.blocks, 0);
}

static void run_trials(const struct backend_ops *ops, bool together, struct outcome *ret, size_t *ret_weights_n)
{
    struct trial trials[TRIALS];
    struct pack *pack;
    struct bed bed;

    must_open(&bed, &pack, ops);
    for (uint64_t i = 0; i < TRIALS; i++) {
        trials[i] = (struct trial){.bed = &bed, .pack = pack, .number = i};
        if (!together)
            carry(&trials[i]);
        else if (pthread_create(&trials[i].thread, NULL, carry, &trials[i]))
            abort();
    }
    for (size_t i = 0; i < TRIALS; i++) {
        if (together)
            pthread_join(trials[i].thread, NULL);
        ret[i] = trials[i].outcome;
    }
    *ret_weights_n = bed.model->weights_n;
    must_close(&bed, pack);
}

static void check_equal(struct outcome *a, struct outcome *b, size_t weights_n)
{
    for (size_t i = 0; i < TRIALS; i++) {
        assert_memory_equal(a[i].weights, b[i].weights, weights_n * sizeof(float));
        assert_memory_equal(a[i].loss, b[i].loss, sizeof a[i].loss);
        assert_true(a[i].validation == b[i].validation && a[i].validation > 0);
    }
}

static void drop(struct outcome *outcomes)
{
    for (size_t i = 0; i < TRIALS; i++)
        free(outcomes[i].weights);
}

static void a_model_that_stays_is_trained_to_the_same_bits_and_never_crosses(void **state)
{
    struct backend_ops without = BACKEND_CUDA;
    struct outcome crossing[TRIALS], staying[TRIALS];
    size_t n;

    (void)state;
    without.put_model = NULL;
    run_trials(&without, false, crossing, &n);
    run_trials(&BACKEND_CUDA, false, staying, &n);
    check_equal(crossing, staying, n);
    for (size_t i = 0; i < TRIALS; i += 2) { /* the others' optimizer state crosses */
        assert_true(crossing[i].largest_transfer >= n * sizeof(float));
        assert_in_range(staying[i].largest_transfer, 1, n * sizeof(float) - 1);
    }
    drop(crossing);
    drop(staying);
}

static void packed_trials_end_as_if_alone(void **state)
{
    struct backend_ops without = BACKEND_CUDA;
    struct outcome alone[TRIALS], packed[TRIALS], crossing[TRIALS];
    size_t n;

    (void)state;
    without.put_model = NULL;
    run_trials(&BACKEND_CUDA, false, alone, &n);
    run_trials(&BACKEND_CUDA, true, packed, &n);
    check_equal(alone, packed, n);
    run_trials(&without, true, crossing, &n);
    check_equal(alone, crossing, n);
    drop(alone);
    drop(packed);
    drop(crossing);
}

/* Memory that holds some lanes of all: they go in turns, fewer trials together, and nobody fails. */
static void short_memory_packs_fewer(void **state)
{
    size_t whole = fake.capacity, n;
    struct outcome alone[TRIALS], packed[TRIALS];
    struct trial trials[TRIALS];
    struct error err = {0};
    size_t shared, lane;
    struct pack *pack;
    struct bed bed;

    (void)state;
    run_trials(&BACKEND_CUDA, false, alone, &n);
    must_open(&bed, &pack, &BACKEND_CUDA);
    must(cuda_plan_bytes(bed.model, 8, PRECISION_FP32_STRICT, NULL, &shared, &lane, &err), &err);
    fake.capacity = shared - CONTEXT_BYTES + bed.gpu->data_bytes + 7 * lane; /* of the 17 */
    for (uint64_t i = 0; i < TRIALS; i++) {
        trials[i] = (struct trial){.bed = &bed, .pack = pack, .number = i};
        if (pthread_create(&trials[i].thread, NULL, carry, &trials[i]))
            abort();
    }
    for (size_t i = 0; i < TRIALS; i++) {
        pthread_join(trials[i].thread, NULL);
        packed[i] = trials[i].outcome;
    }
    check_equal(alone, packed, n);
    assert_true(!bed.gpu_plan->training || bed.gpu_plan->training->n < 7);
    fake.capacity = whole;
    must_close(&bed, pack);
    drop(alone);
    drop(packed);
}

static int use_fake(void **state)
{
    (void)state;
    watched = FAKE_DRIVER;
    watched.upload = watched_upload;
    watched.download = watched_download;
    watched.copy_in = watched_copy_in;
    watched.copy_out = watched_copy_out;
    cuda_use_driver(&watched);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_model_that_stays_is_trained_to_the_same_bits_and_never_crosses),
        cmocka_unit_test(packed_trials_end_as_if_alone),
        cmocka_unit_test(short_memory_packs_fewer),
    };

    return cmocka_run_group_tests(tests, use_fake, NULL);
}
