/* test_cpu.c - what backend.h promises, of the CPU backend: equal bits for any number of threads, the ordered sum, the last
 * batch, what diverges, what stops early, gradients. (test_parity.py holds its arithmetic against PyTorch.)
 * SPDX-License-Identifier: Apache-2.0 */
#include "common/file.h"
#include "trainer/backend/backend.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define CLIENTS 7
#define BATCH 8

static const char NET[] =
    "[{\"conv2d\": {\"filters\": 5, \"kernel\": 3, \"padding\": \"same\", \"stride\": 1, \"groups\": 1, \"bias\": true,"
    "   \"activation\": \"none\"}}, {\"batch_norm\": {\"eps\": 1e-5, \"momentum\": 0.1, \"activation\": \"relu\"}},"
    " {\"max_pool2d\": {\"size\": 2, \"padding\": 0}}, {\"flatten\": {}}, {\"dropout\": {\"rate\": 0.3}},"
    " {\"dense\": {\"units\": \"classes\", \"bias\": true, \"activation\": \"none\"}}]";
/* smooth everywhere, so that differences are derivatives */
static const char SMOOTH[] =
    "[{\"conv2d\": {\"filters\": 4, \"kernel\": 3, \"padding\": 1, \"stride\": 2, \"groups\": 1, \"bias\": true,"
    "   \"activation\": \"none\"}}, {\"group_norm\": {\"groups\": 2, \"eps\": 1e-5, \"activation\": \"none\"}},"
    " {\"avg_pool2d\": {\"size\": 2, \"padding\": 0}}, {\"flatten\": {}},"
    " {\"dense\": {\"units\": 6, \"bias\": true, \"activation\": \"none\"}},"
    " {\"dense\": {\"units\": \"classes\", \"bias\": true, \"activation\": \"none\"}}]";

struct rig {
    struct dataset *dataset;
    struct model *model;
    struct backend *backend;
    struct plan *plan;
    float *weights;
    uint32_t samples[60];
};

static char folder[] = "/tmp/flexp-backend-XXXXXX";
static struct dataset *dataset;

static int open_dataset(void **state)
{
    json_t *data = json_pack("{s:s, s:{s:i, s:i, s:i, s:i, s:i, s:f}}", "source", "synthetic", "synthetic", "samples", 60,
                             "test_samples", 30, "classes", 3, "channels", 2, "size", 9, "noise", 1.0);
    uint32_t all[60];
    int rc;

    (void)state;
    if (!mkdtemp(folder))
        return -1;
    rc = dataset_open(data, 3, folder, &dataset, NULL);
    json_decref(data);
    for (uint32_t i = 0; i < 60; i++)
        all[i] = i;
    if (!rc)
        dataset_normalise(dataset, all, 60);
    return rc;
}

static int close_dataset(void **state)
{
    (void)state;
    dataset_close(dataset);
    return file_remove_tree(folder, NULL);
}

static void rig_open(struct rig *rig, const char *layers, size_t threads)
{
    static const int CORES[] = {-1, -1, -1, -1};
    struct data_shape shape = {dataset->channels, dataset->height, dataset->width, dataset->classes, 60, 30};
    json_t *model = json_pack("{s:o}", "layers", json_loads(layers, 0, NULL));
    struct error err = {0};
    size_t mem_bytes;

    memset(rig, 0, sizeof *rig);
    if (model_new(model, &shape, &rig->model, &err))
        fail_msg("%s", err.text);
    assert_int_equal(BACKEND_CPU.open(&(struct backend_options){.cores = CORES, .cores_n = threads}, &rig->backend, &err), 0);
    assert_int_equal(BACKEND_CPU.load_dataset(rig->backend, dataset, &err), 0);
    if (BACKEND_CPU.compile(rig->backend, rig->model, &(struct plan_options){.batch = BATCH}, &rig->plan, &mem_bytes, &err))
        fail_msg("%s", err.text);
    assert_true(mem_bytes > 0);
    rig->weights = malloc(rig->model->weights_n * sizeof(float));
    model_init_weights(rig->model, 5, 1, rig->weights);
    for (uint32_t i = 0; i < 60; i++)
        rig->samples[i] = i;
    json_decref(model);
}

static void rig_close(struct rig *rig)
{
    BACKEND_CPU.release_plan(rig->plan);
    BACKEND_CPU.close(rig->backend);
    model_free(rig->model);
    free(rig->weights);
}

/* Clients of unequal size, the larger ones first, so that later ones finish before them. */
static void make_replicas(const struct rig *rig, struct replica *replicas)
{
    static const size_t SIZES[CLIENTS] = {20, 3, 9, 1, 13, 8, 5};
    size_t first = 0;

    for (size_t i = 0; i < CLIENTS; i++) {
        replicas[i] = (struct replica){.start = rig->weights, .samples = rig->samples + first, .samples_n = SIZES[i],
                                       .epochs = 3, .batch = BATCH, .lr = 0.05f, .seed = 9, .trial = 2, .round = 4,
                                       .client = i, .weight = (double)SIZES[i] / 59,
                                       .optimizer = {.type = OPTIMIZER_SGD, .momentum = 0.9f}};
        first += SIZES[i];
    }
}

static double *train_sum(const struct rig *rig, struct replica *replicas, size_t n)
{
    struct reduction sum = {.type = REDUCE_WEIGHTED_SUM, .sum = calloc(rig->model->weights_n, sizeof(double))};
    struct augment augment = {.crop_padding = 1, .horizontal_flip = true};
    struct error err = {0};

    if (backend_train(&BACKEND_CPU, rig->plan, replicas, n, &augment, &sum, NULL, &err))
        fail_msg("%s", err.text);
    return sum.sum;
}

static float *train_one(const struct rig *rig, struct replica *replica)
{
    float *trained = malloc(rig->model->weights_n * sizeof *trained);
    struct reduction each = {.type = REDUCE_EACH, .each = &trained};
    struct augment none = {0};
    struct error err = {0};

    if (backend_train(&BACKEND_CPU, rig->plan, replica, 1, &none, &each, NULL, &err))
        fail_msg("%s", err.text);
    return trained;
}

static void bits_are_equal_for_any_number_of_threads_and_from_run_to_run(void **state)
{
    double *first = NULL, losses[CLIENTS] = {0};

    (void)state;
    for (size_t threads = 1; threads <= 4; threads++)
        for (int again = 0; again < 3; again++) {
            struct replica replicas[CLIENTS];
            struct rig rig;
            double *sum;
            rig_open(&rig, NET, threads);
            make_replicas(&rig, replicas);
            sum = train_sum(&rig, replicas, CLIENTS);
            for (size_t i = 0; i < CLIENTS; i++) {
                if (!first)
                    losses[i] = replicas[i].loss_sum;
                assert_true(replicas[i].loss_sum == losses[i]);
                assert_int_equal(replicas[i].samples_seen, 3 * replicas[i].samples_n);
                assert_int_equal(replicas[i].batches, 3 * ((replicas[i].samples_n + BATCH - 1) / BATCH));
                assert_true(replicas[i].finite);
            }
            if (!first) {
                first = sum;
            } else {
                assert_memory_equal(sum, first, rig.model->weights_n * sizeof *sum);
                free(sum);
            }
            rig_close(&rig);
        }
    free(first);
}

static void the_sum_is_that_of_the_replicas_in_their_order(void **state)
{
    struct replica replicas[CLIENTS];
    struct rig rig;
    double *sum, *serial;
    float *each[CLIENTS];
    struct reduction reduction = {.type = REDUCE_EACH, .each = each};
    struct augment augment = {.crop_padding = 1, .horizontal_flip = true};

    (void)state;
    rig_open(&rig, NET, 3);
    make_replicas(&rig, replicas);
    sum = train_sum(&rig, replicas, CLIENTS);
    serial = calloc(rig.model->weights_n, sizeof *serial);
    for (int i = 0; i < CLIENTS; i++)
        each[i] = malloc(rig.model->weights_n * sizeof(float));
    make_replicas(&rig, replicas);
    assert_int_equal(backend_train(&BACKEND_CPU, rig.plan, replicas, CLIENTS, &augment, &reduction, NULL, NULL), 0);
    for (int i = 0; i < CLIENTS; i++)
        for (size_t k = 0; k < rig.model->weights_n; k++)
            serial[k] += replicas[i].weight * (double)each[i][k];
    assert_memory_equal(sum, serial, rig.model->weights_n * sizeof *sum);
    for (int i = 0; i < CLIENTS; i++) { /* the norm of the update, of the trainable part */
        double norm = 0;
        for (size_t k = 0; k < rig.model->trainable_n; k++) {
            double d = (double)each[i][k] - (double)rig.weights[k];
            norm += d * d;
        }
        assert_true(fabs(sqrt(norm) - replicas[i].update_norm) <= 1e-6 * sqrt(norm));
        free(each[i]);
    }
    free(sum);
    free(serial);
    rig_close(&rig);
}

static void the_last_batch_is_the_mean_of_its_own_samples(void **state)
{
    struct rig rig;
    struct replica replica;
    float *trained, *gradients;
    double loss;

    (void)state;
    rig_open(&rig, SMOOTH, 1);
    replica = (struct replica){.start = rig.weights, .samples = rig.samples, .samples_n = 3, .epochs = 1, .batch = BATCH,
                               .lr = 1, .weight = 1};
    trained = train_one(&rig, &replica);
    gradients = malloc(rig.model->trainable_n * sizeof *gradients);
    assert_int_equal(BACKEND_CPU.gradients(rig.plan, rig.weights, &dataset->train, rig.samples, 3, gradients, &loss, NULL), 0);
    assert_true(fabs(replica.loss_sum - 3 * loss) < 1e-5);
    for (size_t i = 0; i < rig.model->trainable_n; i++) /* one step of rate 1; the order of samples is another: rounding */
        assert_true(fabsf(rig.weights[i] - gradients[i] - trained[i]) < 1e-5f);
    free(trained);
    free(gradients);
    rig_close(&rig);
}

static double loss_at(const struct rig *rig, const float *weights)
{
    float *ignored = malloc(rig->model->trainable_n * sizeof *ignored);
    double loss;

    assert_int_equal(BACKEND_CPU.gradients(rig->plan, weights, &dataset->train, rig->samples, BATCH, ignored, &loss, NULL), 0);
    free(ignored);
    return loss;
}

/* Float32 losses near 1 have an error of 1e-7, so a difference over 2 * 1e-2 has one of 1e-5; the third derivative adds 1e-4. */
static void gradients_agree_with_central_differences(void **state)
{
    const float h = 1e-2f;
    struct rig rig;
    float *gradients;
    double loss, largest = 0;

    (void)state;
    rig_open(&rig, SMOOTH, 1);
    gradients = malloc(rig.model->trainable_n * sizeof *gradients);
    assert_int_equal(BACKEND_CPU.gradients(rig.plan, rig.weights, &dataset->train, rig.samples, BATCH, gradients, &loss, NULL), 0);
    for (size_t i = 0; i < rig.model->trainable_n; i++)
        largest = fmax(largest, fabs((double)gradients[i]));
    for (size_t i = 0; i < rig.model->trainable_n; i++) {
        float kept = rig.weights[i];
        double above, below;
        rig.weights[i] = kept + h;
        above = loss_at(&rig, rig.weights);
        rig.weights[i] = kept - h;
        below = loss_at(&rig, rig.weights);
        rig.weights[i] = kept;
        if (!(fabs((above - below) / (2 * (double)h) - (double)gradients[i]) < 2e-3 * fmax(largest, 1)))
            print_message("# %zu: %g for %g\n", i, (double)gradients[i], (above - below) / (2 * (double)h));
        assert_true(fabs((above - below) / (2 * (double)h) - (double)gradients[i]) < 2e-3 * fmax(largest, 1));
    }
    free(gradients);
    rig_close(&rig);
}

static void what_diverges_is_flagged_and_added_all_the_same(void **state)
{
    struct replica replicas[CLIENTS];
    struct rig rig;
    double *sum;
    bool bad = false;

    (void)state;
    rig_open(&rig, NET, 2);
    make_replicas(&rig, replicas);
    replicas[2].lr = 1e30f;
    sum = train_sum(&rig, replicas, CLIENTS);
    for (int i = 0; i < CLIENTS; i++)
        assert_true(replicas[i].finite == (i != 2));
    for (size_t i = 0; i < rig.model->weights_n; i++)
        bad |= !isfinite(sum[i]);
    assert_true(bad);
    free(sum);
    rig_close(&rig);
}

static void a_set_cancel_flag_ends_training(void **state)
{
    struct replica replicas[CLIENTS];
    struct rig rig;
    struct reduction sum = {.type = REDUCE_WEIGHTED_SUM};
    struct augment none = {0};
    const volatile int cancel = 1;

    (void)state;
    rig_open(&rig, NET, 2);
    make_replicas(&rig, replicas);
    sum.sum = calloc(rig.model->weights_n, sizeof(double));
    assert_int_equal(backend_train(&BACKEND_CPU, rig.plan, replicas, CLIENTS, &none, &sum, &cancel, NULL), -ECANCELED);
    free(sum.sum);
    sum.sum = train_sum(&rig, replicas, CLIENTS); /* and the plan can be used again */
    free(sum.sum);
    rig_close(&rig);
}

static void max_batches_ends_in_the_middle_of_an_epoch(void **state)
{
    struct rig rig;
    struct replica replica;

    (void)state;
    rig_open(&rig, SMOOTH, 1);
    replica = (struct replica){.start = rig.weights, .samples = rig.samples, .samples_n = 20, .epochs = 5, .batch = BATCH,
                               .lr = 0.1f, .max_batches = 4, .weight = 1};
    free(train_one(&rig, &replica));
    assert_int_equal(replica.batches, 4);
    assert_int_equal(replica.samples_seen, 20 + 8);
    rig_close(&rig);
}

static void optimizer_state_goes_on_where_it_was(void **state)
{
    struct optimizer adam = {.type = OPTIMIZER_ADAM, .beta1 = 0.9f, .beta2 = 0.99f, .eps = 1e-6f};
    struct rig rig;
    struct replica whole, part;
    float *together, *half, *memory;

    (void)state;
    rig_open(&rig, SMOOTH, 1);
    memory = calloc(2 * rig.model->trainable_n, sizeof *memory);
    whole = (struct replica){.start = rig.weights, .samples = rig.samples, .samples_n = BATCH, .epochs = 1, .batch = BATCH,
                             .lr = 0.01f, .optimizer = adam, .weight = 1, .optimizer_state = memory};
    /* one batch an epoch, so that the shuffle changes only rounding: the same epoch twice, with the state handed over */
    half = train_one(&rig, &whole);
    assert_int_equal(whole.optimizer_steps, 1);
    part = whole;
    part.start = half;
    part.optimizer_steps = 1;
    together = train_one(&rig, &part);
    assert_int_equal(part.optimizer_steps, 2);
    free(memory);
    whole.optimizer_state = NULL;
    whole.optimizer_steps = 0;
    whole.epochs = 2;
    free(half);
    half = train_one(&rig, &whole);
    for (size_t i = 0; i < rig.model->trainable_n; i++) /* Adam's step is 0.01: rounding of its direction */
        assert_true(fabsf(half[i] - together[i]) < 2e-4f);
    free(half);
    free(together);
    rig_close(&rig);
}

static void proximal_term_and_correction_enter_the_gradient(void **state)
{
    struct rig rig;
    struct replica plain, corrected, proximal;
    float *a, *b, *c, *correction;

    (void)state;
    rig_open(&rig, SMOOTH, 1);
    correction = malloc(rig.model->trainable_n * sizeof *correction);
    for (size_t i = 0; i < rig.model->trainable_n; i++)
        correction[i] = (float)(i % 5) - 2;
    plain = (struct replica){.start = rig.weights, .samples = rig.samples, .samples_n = BATCH, .epochs = 1, .batch = BATCH,
                             .lr = 0.1f, .weight = 1};
    corrected = proximal = plain;
    corrected.correction = correction;
    proximal.proximal_mu = 3;
    proximal.epochs = 2;
    a = train_one(&rig, &plain);
    b = train_one(&rig, &corrected);
    for (size_t i = 0; i < rig.model->trainable_n; i++)
        assert_true(fabsf(a[i] - 0.1f * correction[i] - b[i]) < 1e-5f);
    /* the first step is at the anchor, where the term is 0; the second pulls back by lr * mu * (w - start) */
    plain.epochs = 2;
    free(b);
    b = train_one(&rig, &plain);
    c = train_one(&rig, &proximal);
    for (size_t i = 0; i < rig.model->trainable_n; i++)
        assert_true(fabsf(b[i] - 0.1f * 3 * (a[i] - rig.weights[i]) - c[i]) < 1e-4f);
    free(a);
    free(b);
    free(c);
    free(correction);
    rig_close(&rig);
}

static void evaluation_is_the_same_for_any_number_of_threads(void **state)
{
    double loss = 0;

    (void)state;
    for (size_t threads = 1; threads <= 4; threads++) {
        struct rig rig;
        struct evaluation evaluation;
        float scores[30 * 3];
        rig_open(&rig, NET, threads);
        assert_int_equal(evaluation_init(&evaluation, 3), 0);
        assert_int_equal(BACKEND_CPU.evaluate(rig.plan, rig.weights, &dataset->test, rig.samples, 30, &evaluation, scores, NULL), 0);
        if (threads == 1)
            loss = evaluation.loss_sum;
        assert_true(evaluation.loss_sum == loss);
        assert_int_equal(evaluation.n, 30);
        for (int i = 0; i < 30; i++)
            assert_true(fabsf(scores[3 * i] + scores[3 * i + 1] + scores[3 * i + 2] - 1) < 1e-5f);
        evaluation_done(&evaluation);
        rig_close(&rig);
    }
}

static void memory_is_told_without_compiling(void **state)
{
    struct rig rig;
    size_t mem_bytes = 0;

    (void)state;
    rig_open(&rig, NET, 1);
    assert_int_equal(BACKEND_CPU.compile(NULL, rig.model, &(struct plan_options){.batch = BATCH}, NULL, &mem_bytes, NULL), 0);
    assert_true(mem_bytes >= rig.model->weights_n * sizeof(float));
    rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bits_are_equal_for_any_number_of_threads_and_from_run_to_run),
        cmocka_unit_test(the_sum_is_that_of_the_replicas_in_their_order),
        cmocka_unit_test(the_last_batch_is_the_mean_of_its_own_samples),
        cmocka_unit_test(gradients_agree_with_central_differences),
        cmocka_unit_test(what_diverges_is_flagged_and_added_all_the_same),
        cmocka_unit_test(a_set_cancel_flag_ends_training),
        cmocka_unit_test(max_batches_ends_in_the_middle_of_an_epoch),
        cmocka_unit_test(optimizer_state_goes_on_where_it_was),
        cmocka_unit_test(proximal_term_and_correction_enter_the_gradient),
        cmocka_unit_test(evaluation_is_the_same_for_any_number_of_threads),
        cmocka_unit_test(memory_is_told_without_compiling),
    };

    return cmocka_run_group_tests(tests, open_dataset, close_dataset);
}
