/* test_arithmetic.c - the host's compilation of what the kernels compute with, against the CPU backend: the
 * same optimizer steps and losses, divisions, roundings. Random decisions are common/rng_steps.h's for both.
 * SPDX-License-Identifier: Apache-2.0 */
#include "tests/trainer/backend/cuda/fake.h"
#include "trainer/backend/cpu/cpu_private.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static void divisions_are_exact(void **state)
{
    struct pcg32 rng = rng_key(3, RNG_SEARCH, 0, 0, 0);

    (void)state;
    for (uint32_t d = 1; d < 5000; d += d < 300 ? 1 : 37) {
        struct divisor by = divisor_of(d);
        for (int i = 0; i < 300; i++) {
            uint32_t n = pcg32_next(&rng) >> (1 + i % 31), near = n / d * d;
            assert_int_equal(divide(n, by), n / d);
            assert_int_equal(divide(near, by), near / d);
            if (near)
                assert_int_equal(divide(near - 1, by), (near - 1) / d);
        }
        assert_int_equal(divide(0x7fffffff, by), 0x7fffffff / d);
    }
    assert_int_equal(divide(0x7fffffff, divisor_of(0x7fffffff)), 1);
    assert_int_equal(divide(0x7ffffffe, divisor_of(0x7fffffff)), 0);
}

static void exponentials_and_logarithms_are_near_libm(void **state)
{
    (void)state;
    for (double x = 0; x > -60; x -= 0.37)
        assert_true(fabs(d_exp_negative(x) / exp(x) - 1) < 1e-14);
    for (double x = 1; x < 1e6; x *= 1.37)
        assert_true(fabs(d_log(x) - log(x)) < 1e-13);
}

/* A batch as the CPU makes it, epoch after epoch, against the entries and assemble. */
static void shuffles_crops_and_flips_are_the_cpus(void **state)
{
    enum { N = 23, BATCH = 5, H = 7, W = 6, C = 3, IMAGE = H * W * C };
    uint8_t images[N * IMAGE];
    uint16_t labels[N];
    uint32_t samples[N], order[N];
    struct pcg32 rng = rng_key(1, RNG_SYNTHETIC, 0, 0, 0);
    struct lane lane = {
        .seed = 9, .trial = 3, .round = 11, .client = 6, .samples_n = N, .batch = BATCH, .epochs = 3, .steps = 15,
        .padding = 2, .flips = 1};
    struct entry entries[3 * N];
    struct dataset data = {.channels = C,
                           .height = H,
                           .width = W,
                           .classes = 4,
                           .train = {N, images, labels},
                           .mean = {.4f, .5f, .6f},
                           .std = {.2f, .3f, .25f}};
    struct augment augment = {.crop_padding = 2, .horizontal_flip = true};
    struct lane_step step = {0};
    const uint8_t *image_pointer = images;
    const uint16_t *label_pointer = labels;
    float expected[BATCH * IMAGE], got[BATCH * IMAGE];
    uint16_t expected_labels[BATCH], got_labels[BATCH];
    struct assemble_args a = {.steps = &step,
                              .entries = entries,
                              .images = &image_pointer,
                              .labels = &label_pointer,
                              .x = got,
                              .labels_out = got_labels,
                              .rows = BATCH,
                              .height = H,
                              .width = W,
                              .channels = C};

    (void)state;
    for (size_t i = 0; i < sizeof images; i++)
        images[i] = (uint8_t)rng_below(&rng, 256);
    for (uint32_t i = 0; i < N; i++) {
        labels[i] = (uint16_t)(i % 4);
        samples[i] = N - 1 - i;
    }
    memcpy(a.mean, data.mean, sizeof a.mean);
    memcpy(a.std, data.std, sizeof a.std);
    a.count = BATCH * H * W;
    for (uint32_t epoch = 0; epoch < 3; epoch++)
        make_entries(&lane, epoch, samples, entries + epoch * N);
    for (uint32_t epoch = 0; epoch < 3; epoch++) {
        uint64_t who = lane.client << 16 | epoch;
        struct pcg32 shuffle = rng_key(9, RNG_SHUFFLE, 3, 11, who), place = rng_key(9, RNG_AUGMENT, 3, 11, who);
        memcpy(order, samples, sizeof order);
        rng_shuffle_u32(&shuffle, order, N);
        for (size_t i = 0; i < N; i += BATCH) {
            size_t n = N - i < BATCH ? N - i : BATCH;
            struct begin_step_args begin = {.count = 1, .lanes = &lane, .steps = &step, .shares = 1};
            begin_step_body(&begin, 0);
            assert_int_equal(step.rows, n);
            batch_assemble(&data, &data.train, order + i, n, &augment, &place, LAYOUT_NHWC, expected, expected_labels);
            for (uint64_t k = 0; k < a.count; k++)
                assemble_body(&a, k);
            assert_memory_equal(expected, got, n * IMAGE * sizeof(float));
            assert_memory_equal(expected_labels, got_labels, n * sizeof *labels);
        }
    }
    begin_step_body(&(struct begin_step_args){.count = 1, .lanes = &lane, .steps = &step, .shares = 1}, 0);
    assert_int_equal(step.rows, 0); /* no batch is left */
}

/* As the CPU's kernels have it: a number of the stream for two values, the low half for the first. */
static void drop(double rate, struct pcg32 *rng, const float *x, float *y, uint8_t *kept, size_t n)
{
    uint32_t draw = 0;

    for (size_t i = 0; i < n; i++) {
        draw = i % 2 ? draw >> 16 : pcg32_next(rng);
        kept[i] = (double)(draw & 0xffff) >= floor(rate * 65536 + 0.5);
        y[i] = kept[i] ? x[i] * (float)(1 / (1 - rate)) : 0;
    }
}

/* Of a batch that 1, 2, 3 or 8 GPUs share, each drops in its rows what the CPU drops there. */
static void drop_in_shares(const struct lane *lane, const struct lane_step *before, const uint32_t *draws,
                           uint32_t layer, const float *x, const float *expected, const uint8_t *expected_kept,
                           size_t rows)
{
    static const uint32_t SHARES[] = {1, 2, 3, 8};
    uint32_t values = draws[layer];
    double rate = layer ? 0.5 : 0.25;
    float y[5 * 33];
    uint8_t kept[5 * 33];

    for (size_t k = 0; k < 4; k++) {
        size_t covered = 0;
        for (uint32_t share = 0; share < SHARES[k]; share++) {
            struct lane_step step = *before;
            struct begin_step_args begin = {.count = 1,
                                            .lanes = lane,
                                            .steps = &step,
                                            .draws = draws,
                                            .draws_n = 2,
                                            .share = share,
                                            .shares = SHARES[k]};
            struct drop of_rate = {(uint32_t)(rate * 65536 + 0.5), (float)(1 / (1 - rate))};
            struct dropout_args a = {.steps = &step,
                                     .x = x + covered * values,
                                     .y = y,
                                     .kept = kept,
                                     .draws = draws,
                                     .before = layer,
                                     .rows = 5,
                                     .values = values,
                                     .runs = (5 * values + 2 * DROP_RUN) / (2 * DROP_RUN),
                                     .drops = &of_rate};
            begin_step_body(&begin, 0);
            assert_int_equal(step.row, covered);
            assert_int_equal(step.whole, rows);
            for (uint64_t i = 0; i < a.runs; i++)
                dropout_body(&a, i);
            assert_memory_equal(expected + covered * values, y, step.rows * values * sizeof(float));
            assert_memory_equal(expected_kept + covered * values, kept, step.rows * values);
            covered += step.rows;
        }
        assert_int_equal(covered, rows);
    }
}

/* Two dropout layers with odd sizes, batch after batch with a small last one. */
static void dropout_drops_what_the_cpu_drops(void **state)
{
    enum { N = 13, BATCH = 5, A = 7, B = 33 };
    uint32_t draws[] = {A, B};
    struct lane lane = {
        .seed = 4, .trial = 1, .round = 2, .client = 8, .samples_n = N, .batch = BATCH, .epochs = 2, .steps = 6};
    struct lane_step step = {0};
    struct begin_step_args begin = {.count = 1, .lanes = &lane, .steps = &step, .shares = 1};
    float x[BATCH * B], expected[BATCH * B];
    uint8_t expected_kept[BATCH * B];

    (void)state;
    for (size_t i = 0; i < BATCH * B; i++)
        x[i] = (float)i + 1;
    for (uint32_t epoch = 0; epoch < 2; epoch++) {
        struct pcg32 rng = rng_key(4, RNG_DROPOUT, 1, 2, lane.client << 16 | epoch);
        for (size_t i = 0; i < N; i += BATCH) {
            size_t n = N - i < BATCH ? N - i : BATCH;
            for (uint32_t layer = 0; layer < 2; layer++) {
                drop(layer ? 0.5 : 0.25, &rng, x, expected, expected_kept, n * draws[layer]);
                drop_in_shares(&lane, &step, draws, layer, x, expected, expected_kept, n);
            }
            begin_step_body(&begin, 0);
        }
    }
}

static void optimizers_step_as_the_cpus(void **state)
{
    enum { N = 37 };
    static const struct optimizer OPTIMIZERS[] = {
        {.type = OPTIMIZER_SGD, .weight_decay = 1e-2f},
        {.type = OPTIMIZER_SGD, .momentum = 0.9f, .weight_decay = 1e-2f},
        {.type = OPTIMIZER_SGD, .momentum = 0.9f, .nesterov = true},
        {.type = OPTIMIZER_ADAM, .weight_decay = 1e-2f, .beta1 = 0.9f, .beta2 = 0.99f, .eps = 1e-6f},
        {.type = OPTIMIZER_ADAMW, .weight_decay = 1e-2f, .beta1 = 0.8f, .beta2 = 0.99f, .eps = 1e-6f}};

    (void)state;
    for (size_t k = 0; k < sizeof OPTIMIZERS / sizeof *OPTIMIZERS; k++) {
        const struct optimizer *o = &OPTIMIZERS[k];
        float w[N], other[N], g[N], s[2 * N] = {0}, t[2 * N] = {0};
        struct lane lane = {.samples_n = 10,
                            .batch = 2,
                            .epochs = 1,
                            .steps = 5,
                            .optimizer = (uint32_t)o->type,
                            .nesterov = o->nesterov,
                            .lr = 0.05f,
                            .momentum = o->momentum,
                            .decay = o->weight_decay,
                            .beta1 = o->beta1,
                            .beta2 = o->beta2,
                            .eps = o->eps,
                            .t = 3};
        struct lane_step step = {0};
        struct optimize_args a = {
            .count = N, .lanes = &lane, .steps = &step, .weights = other, .grads = g, .state = t, .count_n = N, .n = N};
        for (int i = 0; i < N; i++)
            w[i] = other[i] = (float)(i - 18) / 7;
        for (int i = 0; i < 5; i++) {
            for (int j = 0; j < N; j++)
                g[j] = (float)((j * 31 + i * 17) % 23 - 11) / 10;
            optimizer_step(o, 0.05f, 4 + i, w, g, s, N);
            begin_step_body(&(struct begin_step_args){.count = 1, .lanes = &lane, .steps = &step, .shares = 1}, 0);
            for (uint64_t j = 0; j < N; j++)
                optimize_body(&a, j);
        }
        assert_memory_equal(w, other, sizeof w);
        assert_memory_equal(s, t, sizeof s);
    }
}

static void losses_are_the_cpus(void **state)
{
    enum { N = 6, CLASSES = 7 };
    float logits[N * CLASSES], grad[N * CLASSES], expected[N * CLASSES];
    uint16_t labels[N], predictions[N];
    double losses[N], sum = 0;
    uint64_t correct = 0, expected_correct;
    struct lane_step step = {.rows = N, .whole = N};
    struct loss_args a = {.count = N,
                          .steps = &step,
                          .logits = logits,
                          .labels = labels,
                          .grad = grad,
                          .losses = losses,
                          .predictions = predictions,
                          .rows = N,
                          .classes = CLASSES};

    (void)state;
    for (int i = 0; i < N * CLASSES; i++)
        logits[i] = (float)((i * 37) % 29 - 14) * (i < 14 ? 0.1f : 3);
    for (int i = 0; i < N; i++)
        labels[i] = (uint16_t)(i * 3 % CLASSES);
    assert_true(fabs(loss_softmax(logits, labels, N, CLASSES, expected, &expected_correct, NULL, NULL)) > 0);
    for (uint64_t i = 0; i < N; i++) {
        loss_body(&a, i);
        sum += losses[i];
        correct += predictions[i] == labels[i];
    }
    assert_memory_equal(grad, expected, sizeof grad);
    assert_int_equal(correct, expected_correct);
    assert_true(sum == loss_softmax(logits, labels, N, CLASSES, NULL, NULL, NULL, NULL));
    logits[3] = NAN; /* seen in that row alone */
    loss_body(&a, 0);
    assert_true(isnan(losses[0]) && isnan(grad[0]) && isfinite(losses[1]));
}

static void roundings_are_those_of_the_formats(void **state)
{
    (void)state;
    assert_true(d_round_bf16(1.0f) == 1.0f && d_round_tf32(-3.5f) == -3.5f);
    assert_true(d_round_bf16(1 + 0x1p-8f) == 1.0f);            /* a tie, to even */
    assert_true(d_round_bf16(1 + 3 * 0x1p-8f) == 1 + 0x1p-6f); /* likewise */
    assert_true(d_round_bf16(1 + 0x1.02p-8f) == 1 + 0x1p-7f);
    assert_true(d_round_tf32(1 + 0x1p-11f) == 1 + 0x1p-10f); /* a tie, away from zero */
    assert_true(d_round_tf32(1 + 0x1.fp-12f) == 1.0f);
    assert_true(isnan(d_round_bf16(NAN)) && isnan(d_round_tf32(NAN)) && isinf(d_round_bf16(INFINITY)));
    assert_true(isinf(d_round_tf32(-INFINITY)));
}

/* What a thread of a warp holds after mma.sync covers each value of a tile once. */
static void places_of_sums_cover_a_tile(void **state)
{
    static const uint32_t TILES[][2] = {{128, 64}, {64, 32}, {16, 128}, {128, 32}};

    (void)state;
    for (uint32_t precision = GEMM_FP32; precision <= GEMM_BF16; precision++)
        for (size_t k = 0; k < 4; k++) {
            uint32_t bm = TILES[k][0], bn = TILES[k][1];
            uint8_t seen[128 * 64] = {0};
            for (uint32_t thread = 0; thread < TILE_THREADS; thread++)
                for (uint32_t i = 0; i < bm * bn / TILE_THREADS; i++) {
                    uint32_t m, n;
                    tile_place(precision, bm, bn, thread, i, &m, &n);
                    assert_true(m < bm && n < bn);
                    seen[m * bn + n]++;
                }
            for (uint32_t i = 0; i < bm * bn; i++)
                assert_int_equal(seen[i], 1);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(divisions_are_exact),
        cmocka_unit_test(exponentials_and_logarithms_are_near_libm),
        cmocka_unit_test(shuffles_crops_and_flips_are_the_cpus),
        cmocka_unit_test(dropout_drops_what_the_cpu_drops),
        cmocka_unit_test(optimizers_step_as_the_cpus),
        cmocka_unit_test(losses_are_the_cpus),
        cmocka_unit_test(roundings_are_those_of_the_formats),
        cmocka_unit_test(places_of_sums_cover_a_tile),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
