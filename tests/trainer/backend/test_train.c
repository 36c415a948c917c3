/* test_train.c - replicas: what a step does, equal bits for any threads, the ordered sum, small last batches,
 * divergence. SPDX-License-Identifier: Apache-2.0 */
#include "tests/trainer/backend/tiny.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#define CONV(f, k, more) "{\"conv2d\": {\"filters\": " #f ", \"kernel\": " #k ", \"padding\": \"same\"" more "}}"
#define RELU ", \"activation\": \"relu\""
#define LAST "{\"dense\": {\"units\": \"classes\"}}"
/* dropout, batch norm and a residual: all that draws or keeps something */
#define NET                                                                                                            \
    "[" CONV(                                                                                                          \
        9, 3,                                                                                                          \
        "") ", {\"batch_norm\": {\"activation\": \"relu\"}}, {\"max_pool2d\": {\"size\": 2}}, "                        \
            "{\"residual\": {\"layers\": [" CONV(                                                                      \
                9, 3,                                                                                                  \
                RELU) "]}}, {\"dropout\": {\"rate\": 0.25}}, \"flatten\", "                                            \
                      "{\"dense\": {\"units\": 20, \"activation\": \"relu\"}}, {\"dropout\": {\"rate\": 0.5}}, " LAST  \
                      "]"
#define PLAIN "[" CONV(9, 3, RELU) ", {\"max_pool2d\": {\"size\": 2}}, \"flatten\", " LAST "]"
#define SAMPLES 120

#define REPLICAS ((size_t)9)

/* Clients of very different sizes, so that they do not end in the order in which they began. */
static void make_replicas(struct replica *r, const float *start, const uint32_t *samples, size_t n)
{
    static const size_t SIZES[9] = {60, 5, 17, 1, 40, 8, 3, 29, 11};

    for (size_t i = 0; i < n; i++)
        r[i] = (struct replica){.start = start,
                                .samples = samples + 3 * i,
                                .samples_n = SIZES[i],
                                .epochs = 2,
                                .batch = 8,
                                .lr = 0.05f,
                                .optimizer = {.momentum = 0.9f, .weight_decay = 1e-3f},
                                .seed = 7,
                                .trial = 2,
                                .round = 4,
                                .client = i,
                                .weight = (double)SIZES[i] / 174};
}

static void number(uint32_t *samples, size_t n)
{
    for (size_t i = 0; i < n; i++)
        samples[i] = (uint32_t)i;
}

static void must_train(struct tiny *t, struct replica *r, size_t n, struct reduction *reduction)
{
    struct augment augment = {.crop_padding = 1, .horizontal_flip = true};
    struct error err = {0};

    if (backend_train(&BACKEND_CPU, t->plan, r, n, &augment, reduction, NULL, &err))
        fail_msg("%s", err.text);
}

static void bits_are_equal_for_any_number_of_threads_and_from_run_to_run(void **state)
{
    static const size_t THREADS[] = {1, 2, 4, 4, 16};
    struct replica first[9];
    double *sums = NULL;

    (void)state;
    for (size_t k = 0; k < sizeof THREADS / sizeof THREADS[0]; k++) {
        struct tiny t;
        struct replica r[9];
        uint32_t samples[SAMPLES];
        struct reduction reduction = {.type = REDUCE_WEIGHTED_SUM};
        size_t bytes;

        tiny_init(&t, NET, 3, 10, 8, 4, SAMPLES, 8, THREADS[k]);
        number(samples, SAMPLES);
        make_replicas(r, t.weights, samples, REPLICAS);
        bytes = t.model->weights_n * sizeof(double);
        reduction.sum = calloc(1, bytes);
        must_train(&t, r, REPLICAS, &reduction);
        if (!k) {
            sums = reduction.sum;
            memcpy(first, r, sizeof first);
        } else {
            assert_memory_equal(reduction.sum, sums, bytes);
            for (size_t i = 0; i < REPLICAS; i++) {
                assert_memory_equal(&r[i].loss_sum, &first[i].loss_sum, sizeof(double));
                assert_memory_equal(&r[i].update_norm, &first[i].update_norm, sizeof(double));
                assert_int_equal(r[i].correct, first[i].correct);
                assert_int_equal(r[i].batches, first[i].batches);
            }
            /* and once more with the same plan */
            must_train(&t, r, REPLICAS, &reduction);
            assert_memory_equal(reduction.sum, sums, bytes);
            free(reduction.sum);
        }
        tiny_done(&t);
    }
    free(sums);
}

static void the_weighted_sum_is_that_of_a_serial_loop(void **state)
{
    struct tiny t;
    struct replica r[9];
    uint32_t samples[SAMPLES];
    struct reduction sum = {.type = REDUCE_WEIGHTED_SUM}, each = {.type = REDUCE_EACH};
    double *serial;
    size_t n;

    (void)state;
    tiny_init(&t, NET, 3, 10, 8, 4, SAMPLES, 8, 3);
    number(samples, SAMPLES);
    make_replicas(r, t.weights, samples, REPLICAS);
    n = t.model->weights_n;
    sum.sum = calloc(n, sizeof(double));
    serial = calloc(n, sizeof(double));
    each.each = calloc(REPLICAS, sizeof(float *));
    for (size_t i = 0; i < REPLICAS; i++)
        each.each[i] = calloc(n, sizeof(float));
    for (size_t k = 0; k < n; k++)
        sum.sum[k] = 0.1 * (double)k; /* overwritten */
    must_train(&t, r, REPLICAS, &sum);
    must_train(&t, r, REPLICAS, &each);
    for (size_t i = 0; i < REPLICAS; i++)
        for (size_t k = 0; k < n; k++)
            serial[k] += r[i].weight * (double)each.each[i][k];
    assert_memory_equal(sum.sum, serial, n * sizeof(double));
    for (size_t i = 0; i < REPLICAS; i++) {
        double squares = 0;
        for (size_t k = 0; k < t.model->trainable_n; k++) {
            double d = (double)each.each[i][k] - (double)t.weights[k];
            squares += d * d;
        }
        /* The same squares in another order of addition. */
        assert_true(fabs(r[i].update_norm - sqrt(squares)) < 1e-12 * sqrt(squares));
        assert_true(r[i].finite);
        free(each.each[i]);
    }
    free(each.each);
    free(sum.sum);
    free(serial);
    tiny_done(&t);
}

static void replicas_may_start_from_weights_of_their_own(void **state)
{
    struct tiny t;
    struct replica r[3];
    uint32_t samples[SAMPLES];
    struct reduction each = {.type = REDUCE_EACH, .each = (float *[3]){0}};
    float *other, *alone;
    size_t bytes;

    (void)state;
    tiny_init(&t, PLAIN, 3, 10, 8, 4, SAMPLES, 8, 2);
    number(samples, SAMPLES);
    bytes = t.model->weights_n * sizeof(float);
    other = malloc(bytes);
    alone = malloc(bytes);
    model_init_weights(t.model, 99, 99, other);
    for (size_t i = 0; i < 3; i++)
        each.each[i] = malloc(bytes);
    make_replicas(r, t.weights, samples, 3);
    r[1].start = other;
    must_train(&t, r, 3, &each);
    memcpy(alone, each.each[1], bytes);
    must_train(&t, r + 1, 1, &each);
    assert_memory_equal(each.each[0], alone, bytes);
    for (size_t i = 0; i < 3; i++)
        free(each.each[i]);
    free(other);
    free(alone);
    tiny_done(&t);
}

/* One epoch by hand: the documented shuffle, gradients() of each batch, optimizer_step on canonical arrays. Bit for
 * bit, the last batch of 3 included. */
/* SGD's step within a dense layer's backward pass rounds once where optimizer_step rounds twice. */
static void assert_near(const float *a, const float *b, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (fabs((double)a[i] - (double)b[i]) > 1e-5 * (fabs((double)b[i]) + 0.1))
            fail_msg("%zu: %.9g, expected %.9g", i, (double)a[i], (double)b[i]);
}

static void an_epoch_is_shuffled_batches_of_gradients_and_steps(void **state)
{
    static const struct optimizer OPTIMIZERS[] = {
        {.type = OPTIMIZER_SGD},
        {.type = OPTIMIZER_SGD, .momentum = 0.9f, .weight_decay = 1e-2f},
        {.type = OPTIMIZER_SGD, .momentum = 0.9f, .nesterov = true},
        {.type = OPTIMIZER_ADAM, .beta1 = 0.9f, .beta2 = 0.999f, .eps = 1e-8f, .weight_decay = 1e-2f},
        {.type = OPTIMIZER_ADAMW, .beta1 = 0.9f, .beta2 = 0.999f, .eps = 1e-8f, .weight_decay = 1e-2f},
    };
    struct tiny t;
    uint32_t samples[19], order[19];
    size_t n, floats;
    float *weights, *gradients, *expected_state, *optimizer_state, *correction;
    struct error err = {0};

    (void)state;
    tiny_init(&t, PLAIN, 3, 10, 8, 4, SAMPLES, 8, 1);
    number(samples, 19);
    n = t.model->trainable_n;
    weights = malloc(n * sizeof *weights);
    gradients = malloc(n * sizeof *gradients);
    correction = malloc(n * sizeof *correction);
    expected_state = malloc(2 * n * sizeof *expected_state);
    optimizer_state = malloc(2 * n * sizeof *optimizer_state);
    for (size_t i = 0; i < n; i++)
        correction[i] = 0.001f * (float)(i % 7);
    for (size_t k = 0; k < 2 * sizeof OPTIMIZERS / sizeof OPTIMIZERS[0]; k++) {
        const struct optimizer *o = &OPTIMIZERS[k / 2];
        struct pcg32 rng = rng_key(7, RNG_SHUFFLE, 2, 4, 6 << 16);
        struct reduction each = {.type = REDUCE_EACH, .each = &(float *){NULL}};
        struct replica r = {.start = t.weights,
                            .samples = samples,
                            .samples_n = 19,
                            .epochs = 1,
                            .batch = 8,
                            .lr = 0.02f,
                            .optimizer = *o,
                            .seed = 7,
                            .trial = 2,
                            .round = 4,
                            .client = 6,
                            .optimizer_state = optimizer_state,
                            .optimizer_steps = 5,
                            .proximal_mu = k & 1 ? 0.3f : 0,
                            .correction = k & 1 ? correction : NULL};
        double loss, loss_sum = 0;

        floats = optimizer_state_floats(o, n);
        for (size_t i = 0; i < floats; i++)
            expected_state[i] = optimizer_state[i] = 0.01f * (float)(1 + i % 5);
        memcpy(weights, t.weights, n * sizeof *weights);
        memcpy(order, samples, sizeof order);
        rng_shuffle_u32(&rng, order, 19);
        for (size_t i = 0; i < 19; i += 8) {
            size_t m = 19 - i < 8 ? 19 - i : 8;
            if (BACKEND_CPU.gradients(t.plan, weights, &t.data.train, order + i, m, gradients, &loss, &err))
                fail_msg("%s", err.text);
            loss_sum += loss * (double)m;
            for (size_t j = 0; j < n; j++) {
                if (k & 1)
                    gradients[j] += r.proximal_mu * (weights[j] - t.weights[j]);
                if (k & 1)
                    gradients[j] += correction[j];
            }
            optimizer_step(o, r.lr, 6 + (int64_t)i / 8, weights, gradients, expected_state, n);
        }
        each.each[0] = malloc(n * sizeof(float));
        if (backend_train(&BACKEND_CPU, t.plan, &r, 1, NULL, &each, NULL, &err))
            fail_msg("%s", err.text);
        assert_near(each.each[0], weights, n);
        assert_near(optimizer_state, expected_state, floats);
        assert_int_equal(r.optimizer_steps, 8);
        assert_int_equal(r.batches, 3);
        assert_int_equal(r.samples_seen, 19);
        /* loss * m / m rounds */
        assert_true(fabs(r.loss_sum - loss_sum) < 1e-6 * loss_sum);
        free(each.each[0]);
    }
    free(weights);
    free(gradients);
    free(correction);
    free(expected_state);
    free(optimizer_state);
    tiny_done(&t);
}

static void state_that_is_not_kept_starts_as_zeros_each_time(void **state)
{
    struct tiny t;
    uint32_t samples[SAMPLES];
    struct replica r[2];
    float *a, *b;
    size_t bytes;

    (void)state;
    tiny_init(&t, PLAIN, 3, 10, 8, 4, SAMPLES, 8, 1);
    number(samples, SAMPLES);
    bytes = t.model->weights_n * sizeof(float);
    a = malloc(bytes);
    b = malloc(bytes);
    make_replicas(r, t.weights, samples, 2);
    r[1] = r[0];
    must_train(&t, r, 2, &(struct reduction){.type = REDUCE_EACH, .each = (float *[]){a, b}});
    assert_memory_equal(a, b, bytes);
    assert_int_equal(r[1].optimizer_steps, 0);
    free(a);
    free(b);
    tiny_done(&t);
}

static void training_lowers_the_loss_of_a_tiny_set(void **state)
{
    static const char *const NETS[] = {NET, PLAIN};
    struct error err = {0};

    (void)state;
    for (size_t k = 0; k < 2; k++) {
        struct tiny t;
        uint32_t samples[SAMPLES];
        struct evaluation before, after;
        double *sum;
        float *weights;

        tiny_init(&t, NETS[k], 3, 10, 8, 4, SAMPLES, 10, 2);
        number(samples, SAMPLES);
        sum = calloc(t.model->weights_n, sizeof *sum);
        weights = malloc(t.model->weights_n * sizeof *weights);
        struct replica r = {.start = t.weights,
                            .samples = samples,
                            .samples_n = SAMPLES,
                            .epochs = 20,
                            .batch = 10,
                            .lr = 0.02f,
                            .optimizer = {.momentum = 0.9f},
                            .weight = 1};
        /* not augmented: the class is told by where the bright pixels are */
        assert_int_equal(backend_train(&BACKEND_CPU, t.plan, &r, 1, NULL,
                                           &(struct reduction){.type = REDUCE_WEIGHTED_SUM, .sum = sum}, NULL, &err),
                         0);
        for (size_t i = 0; i < t.model->weights_n; i++)
            weights[i] = (float)sum[i];
        evaluation_init(&before, 4);
        evaluation_init(&after, 4);
        assert_int_equal(BACKEND_CPU.evaluate(t.plan, t.weights, &t.data.train, samples, SAMPLES, &before, NULL, &err),
                         0);
        assert_int_equal(BACKEND_CPU.evaluate(t.plan, weights, &t.data.train, samples, SAMPLES, &after, NULL, &err), 0);
        assert_true(evaluation_scores(&after).loss < 0.1 * evaluation_scores(&before).loss);
        assert_true(evaluation_scores(&after).accuracy > 0.95);
        evaluation_done(&before);
        evaluation_done(&after);
        free(sum);
        free(weights);
        tiny_done(&t);
    }
}

static void limits_of_batches_and_empty_clients_are_kept(void **state)
{
    struct tiny t;
    uint32_t samples[SAMPLES];
    struct replica r[3];
    double *sum;

    (void)state;
    tiny_init(&t, PLAIN, 3, 10, 8, 4, SAMPLES, 8, 2);
    number(samples, SAMPLES);
    make_replicas(r, t.weights, samples, 3);
    r[0].max_batches = 11; /* 8 in an epoch of 60 */
    r[1].samples_n = 0;
    r[2].epochs = 0;
    sum = calloc(t.model->weights_n, sizeof *sum);
    must_train(&t, r, 3, &(struct reduction){.type = REDUCE_WEIGHTED_SUM, .sum = sum});
    assert_int_equal(r[0].batches, 11);
    assert_int_equal(r[0].samples_seen, 60 + 24);
    assert_int_equal(r[1].batches, 0);
    assert_true(r[1].update_norm == 0 && r[2].update_norm == 0);
    assert_true(r[1].finite);
    free(sum);
    tiny_done(&t);
}

static void a_diverged_replica_is_added_and_flagged(void **state)
{
    struct tiny t;
    uint32_t samples[SAMPLES];
    struct replica r[3];
    double *sum;
    size_t bad = 0;
    struct evaluation e;
    struct error err = {0};
    float *weights;

    (void)state;
    tiny_init(&t, NET, 3, 10, 8, 4, SAMPLES, 8, 2);
    number(samples, SAMPLES);
    make_replicas(r, t.weights, samples, 3);
    r[0].lr = 1e30f;
    sum = calloc(t.model->weights_n, sizeof *sum);
    weights = malloc(t.model->weights_n * sizeof *weights);
    must_train(&t, r, 3, &(struct reduction){.type = REDUCE_WEIGHTED_SUM, .sum = sum});
    assert_false(r[0].finite);
    assert_true(r[1].finite);
    assert_true(r[2].finite);
    for (size_t i = 0; i < t.model->weights_n; i++) {
        bad += isfinite(sum[i]) ? 0 : 1;
        weights[i] = (float)sum[i];
    }
    assert_true(bad > 0);
    evaluation_init(&e, 4);
    assert_int_equal(BACKEND_CPU.evaluate(t.plan, weights, &t.data.train, samples, 40, &e, NULL, &err), 0);
    assert_true(isnan(e.loss_sum));
    assert_int_equal(e.n, 40);
    evaluation_done(&e);
    free(sum);
    free(weights);
    tiny_done(&t);
}

static void nan_in_any_parameter_is_seen_in_the_gradients_or_the_loss(void **state)
{
    struct tiny t;
    struct error err = {0};

    (void)state;
    tiny_init(&t, PLAIN, 3, 10, 8, 4, SAMPLES, 8, 1);
    for (size_t k = 0; k < t.model->params_n; k++) {
        const struct param *p = &t.model->params[k];
        uint32_t samples[8];
        double *sum = calloc(t.model->weights_n, sizeof *sum);
        struct replica r;
        float kept = t.weights[p->offset];
        number(samples, 8);
        t.weights[p->offset] = NAN;
        make_replicas(&r, t.weights, samples, 1);
        r.samples_n = 8;
        assert_int_equal(backend_train(&BACKEND_CPU, t.plan, &r, 1, NULL,
                                           &(struct reduction){.type = REDUCE_WEIGHTED_SUM, .sum = sum}, NULL, &err),
                         0);
        assert_false(r.finite);
        t.weights[p->offset] = kept;
        free(sum);
    }
    tiny_done(&t);
}

static void a_cancelled_round_ends_between_batches(void **state)
{
    struct tiny t;
    uint32_t samples[SAMPLES];
    struct replica r[9];
    double *sum;
    volatile int cancel = 1;
    struct error err = {0};

    (void)state;
    tiny_init(&t, PLAIN, 3, 10, 8, 4, SAMPLES, 8, 2);
    number(samples, SAMPLES);
    make_replicas(r, t.weights, samples, REPLICAS);
    for (size_t i = 0; i < REPLICAS; i++)
        r[i].epochs = 1000000; /* for ever, unless it is heard */
    sum = calloc(t.model->weights_n, sizeof *sum);
    assert_int_equal(backend_train(&BACKEND_CPU, t.plan, r, REPLICAS, NULL,
                                       &(struct reduction){.type = REDUCE_WEIGHTED_SUM, .sum = sum}, &cancel, &err),
                     -ECANCELED);
    for (size_t i = 0; i < t.model->weights_n; i++)
        assert_true(sum[i] == 0);
    free(sum);
    tiny_done(&t);
}

static void wrong_requests_are_refused_with_the_reason(void **state)
{
    struct tiny t;
    uint32_t samples[SAMPLES];
    struct replica r[2];
    double *sum;
    struct error err = {0};
    struct reduction reduction = {.type = REDUCE_WEIGHTED_SUM};
    struct dataset other;

    (void)state;
    tiny_init(&t, PLAIN, 3, 10, 8, 4, SAMPLES, 8, 1);
    number(samples, SAMPLES);
    sum = reduction.sum = calloc(t.model->weights_n, sizeof *sum);
    make_replicas(r, t.weights, samples, 2);
    r[1].batch = 9;
    assert_int_equal(backend_train(&BACKEND_CPU, t.plan, r, 2, NULL, &reduction, NULL, &err), -EINVAL);
    assert_string_equal(err.text, "replica 1: a batch of 9, but the plan is for 1 to 8");
    r[1].batch = 8;
    samples[4] = SAMPLES;
    assert_int_equal(backend_train(&BACKEND_CPU, t.plan, r, 2, NULL, &reduction, NULL, &err), -EINVAL);
    assert_string_equal(err.text, "replica 0: sample 120 is past the split's end at 120");
    other = t.data;
    other.width = 9;
    BACKEND_CPU.load_dataset(t.backend, &other, NULL);
    assert_int_equal(backend_train(&BACKEND_CPU, t.plan, r, 2, NULL, &reduction, NULL, &err), -EINVAL);
    assert_string_equal(err.text, "the model is for images of 3x10x8 and 4 classes, the data has 3x10x9 and 4");
    assert_int_equal(BACKEND_CPU.open(&(struct backend_options){.cores_n = 0}, &t.backend, &err), -EINVAL);
    assert_int_equal(BACKEND_CPU.compile(t.backend, t.model, &(struct plan_options){.batch = 0}, NULL, NULL, &err), -EINVAL);
    free(sum);
    tiny_done(&t);
}

static void memory_is_told_before_a_plan_is_made(void **state)
{
    struct tiny t;
    size_t small = 0, large = 0;

    (void)state;
    tiny_init(&t, "seed_cnn", 3, 32, 32, 10, 40, 1, 1);
    assert_int_equal(BACKEND_CPU.compile(NULL, t.model, &(struct plan_options){.batch = 32}, NULL, &small, NULL), 0);
    assert_int_equal(BACKEND_CPU.compile(NULL, t.model, &(struct plan_options){.batch = 512}, NULL, &large, NULL), 0);
    assert_true(small > 6 * t.model->weights_n * sizeof(float));
    assert_true(large > 4 * small);
    assert_true(large < (size_t)4 << 30);
    tiny_done(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bits_are_equal_for_any_number_of_threads_and_from_run_to_run),
        cmocka_unit_test(the_weighted_sum_is_that_of_a_serial_loop),
        cmocka_unit_test(replicas_may_start_from_weights_of_their_own),
        cmocka_unit_test(an_epoch_is_shuffled_batches_of_gradients_and_steps),
        cmocka_unit_test(state_that_is_not_kept_starts_as_zeros_each_time),
        cmocka_unit_test(training_lowers_the_loss_of_a_tiny_set),
        cmocka_unit_test(limits_of_batches_and_empty_clients_are_kept),
        cmocka_unit_test(a_diverged_replica_is_added_and_flagged),
        cmocka_unit_test(nan_in_any_parameter_is_seen_in_the_gradients_or_the_loss),
        cmocka_unit_test(a_cancelled_round_ends_between_batches),
        cmocka_unit_test(wrong_requests_are_refused_with_the_reason),
        cmocka_unit_test(memory_is_told_before_a_plan_is_made),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
