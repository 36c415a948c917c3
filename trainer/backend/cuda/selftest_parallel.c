/* selftest_parallel.c - several GPUs in one trial, held against one of them and against the CPU backend.
 * Tolerances: of training, as in selftest.c. SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cuda/selftest.h"
#include "trainer/backend/shape_table.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define NET(norm)                                                                                                      \
    "[" CONV(9, 3, SAME) ", " norm ", {\"max_pool2d\": {\"size\": 2}}, {\"residual\": {\"layers\": [" CONV(            \
        9, 3, SAME RELU) "]}}, {\"dropout\": {\"rate\": 0.25}}, \"flatten\", {\"dense\": {\"units\": 20, "             \
                         "\"activation\": \"relu\"}}, {\"dropout\": {\"rate\": 0.5}}, " LAST "]"
/* Statistics of a batch norm are those of a GPU's share of the batch: where a batch is shared, a net without. */
#define COHORT_NET NET("{\"batch_norm\": {\"activation\": \"relu\"}}")
#define SHARED_NET NET("{\"group_norm\": {\"groups\": 3, \"activation\": \"relu\"}}")
#define REPLICAS 7
#define SAMPLES 120
#define ROUNDS 2
#define LISTED 40   /* samples of an evaluation */
#define CHUNKS 1300 /* of one in three chunks */

/* What a trial of a few rounds leaves. */
struct outcome {
    float *model;
    double loss, evaluated;
    uint64_t seen;
    int64_t batches;
    double norm;
    float *scores;
};

struct check {
    struct selftest *t;
    struct bed bed;
    enum precision precision;
    size_t gpus;
    uint32_t samples[SAMPLES], listed[CHUNKS];
};

int bed_use_gpus(struct bed *b, size_t n, enum precision precision, size_t batch, struct error *err)
{
    const struct plan_options options = {.batch = batch, .precision = precision};
    int rc;

    BACKEND_CUDA.release_plan(b->gpu_plan);
    BACKEND_CUDA.close(b->gpu);
    b->gpu_plan = NULL;
    b->gpu = NULL;
    if ((rc = BACKEND_CUDA.open(&(struct backend_options){.gpus_n = n}, &b->gpu, err)) ||
        (rc = BACKEND_CUDA.load_dataset(b->gpu, &b->data, err)))
        return rc;
    return BACKEND_CUDA.compile(b->gpu, b->model, &options, &b->gpu_plan, NULL, err);
}

static void name_it(const struct check *c, char *text, size_t size, const char *what)
{
    snprintf(text, size, "%s: %zu GPUs: %s", PRECISION_NAMES[c->precision], c->gpus, what);
}

static void make(struct check *c, struct replica *r, size_t n, uint64_t round, const float *start)
{
    for (size_t i = 0; i < n; i++)
        r[i] = (struct replica){.start = start,
                                .samples = c->samples + 3 * i,
                                .samples_n = n == 1 ? 60 : 5 + 11 * i % 40,
                                .epochs = 1 + (int64_t)i % 2,
                                .batch = i % 3 == 2 ? 5 : 8,
                                .lr = 0.02f,
                                .optimizer = {.momentum = i == 1 ? 0 : 0.9f, .weight_decay = 1e-3f},
                                .seed = 7,
                                .trial = 2,
                                .round = round,
                                .client = i,
                                .weight = n == 1 ? 1 : (double)(i + 1) / 28};
}

/* Rounds whose sums come back, or whose model stays on the device; then an evaluation. */
static int live(struct check *c, const struct backend_ops *ops, struct plan *plan, size_t n, bool stays,
                struct outcome *ret, struct error *err)
{
    const struct augment augment = {.crop_padding = 2, .horizontal_flip = true};
    size_t weights_n = c->bed.model->weights_n, state_n = n == 1 ? c->bed.model->trainable_n : 0;
    double *sum = calloc(weights_n, sizeof *sum);
    float *state = calloc(state_n + 1, sizeof *state);
    struct reduction reduction = {.type = stays ? REDUCE_MODEL : REDUCE_WEIGHTED_SUM, .sum = sum, .rate = 1};
    struct evaluation e = {0};
    int64_t steps = 0;
    int rc = evaluation_init(&e, c->bed.model->classes);

    *ret = (struct outcome){.model = malloc(weights_n * sizeof(float)),
                            .scores = malloc(LISTED * (size_t)c->bed.model->classes * sizeof(float))};
    memcpy(ret->model, c->bed.weights, weights_n * sizeof(float));
    if (!rc && stays)
        rc = ops->put_model(plan, &reduction.model, ret->model, err);
    for (uint64_t round = 1; round <= ROUNDS && !rc; round++) {
        struct replica r[REPLICAS];
        make(c, r, n, round, stays ? NULL : ret->model);
        r[0].optimizer_state = state_n ? state : NULL;
        r[0].optimizer_steps = steps;
        rc = backend_train(ops, plan, r, n, &augment, &reduction, NULL, err);
        steps = r[0].optimizer_steps;
        for (size_t i = 0; i < weights_n && !rc && !stays; i++)
            ret->model[i] = (float)sum[i];
        for (size_t i = 0; i < n && !rc; i++) {
            ret->loss += r[i].loss_sum;
            ret->seen += r[i].samples_seen;
            ret->batches += r[i].batches;
            ret->norm += r[i].update_norm;
        }
    }
    if (!rc && stays)
        rc = ops->get_model(plan, reduction.model, ret->model, err);
    if (!rc)
        rc = stays ? ops->evaluate_model(plan, reduction.model, &c->bed.data.test, c->listed, LISTED, &e, ret->scores,
                                         err)
                   : ops->evaluate(plan, ret->model, &c->bed.data.test, c->listed, LISTED, &e, ret->scores, err);
    ret->evaluated = e.loss_sum;
    if (stays)
        ops->drop_model(plan, reduction.model);
    evaluation_done(&e);
    free(state);
    free(sum);
    return rc;
}

static void outcome_done(struct outcome *o)
{
    free(o->model);
    free(o->scores);
    *o = (struct outcome){0};
}

static double relative(double expected, double got)
{
    return fabs(expected - got) / (1 + fabs(expected));
}

/* 0: all bits are equal. */
static double unequal(const struct check *c, const struct outcome *a, const struct outcome *b)
{
    return memcmp(a->model, b->model, c->bed.model->weights_n * sizeof(float)) ||
                   memcmp(a->scores, b->scores, LISTED * (size_t)c->bed.model->classes * sizeof(float)) ||
                   a->evaluated != b->evaluated || a->loss != b->loss || a->seen != b->seen || a->batches != b->batches
               ? 1
               : 0;
}

static double difference(const struct check *c, const struct outcome *a, const struct outcome *b)
{
    return selftest_difference(a->model, b->model, c->bed.model->weights_n) + relative(a->loss, b->loss) +
           relative(a->norm, b->norm) + relative(a->evaluated, b->evaluated) / 10 + (a->seen != b->seen) +
           (a->batches != b->batches);
}

/* Against `expected`, by bits or within a limit; then the same once more. */
static void compare(struct check *c, size_t n, bool stays, const struct outcome *expected, double limit,
                    const char *what)
{
    struct outcome got[2] = {{0}};
    struct error err = {0};
    char text[200];

    name_it(c, text, sizeof text, what);
    for (int i = 0; i < 2 && !err.code; i++)
        live(c, &BACKEND_CUDA, c->bed.gpu_plan, n, stays, &got[i], &err);
    if (err.code) {
        selftest_error(c->t, text, err.text);
    } else {
        selftest_check(c->t, text, limit > 0 ? difference(c, expected, &got[0]) : unequal(c, expected, &got[0]), limit);
        if (c->precision == PRECISION_FP32_STRICT) {
            snprintf(text + strlen(text), sizeof text - strlen(text), ": run to run, equal bits");
            selftest_check(c->t, text, unequal(c, &got[0], &got[1]), 0);
        }
    }
    outcome_done(&got[0]);
    outcome_done(&got[1]);
}

static bool begin(struct check *c, const char *net)
{
    struct error err = {0};
    char text[200];

    name_it(c, text, sizeof text, "opening");
    if (!bed_init(&c->bed, net, 3, 10, 8, 4, SAMPLES, 8, c->precision, &err))
        return true;
    selftest_error(c->t, text, err.text);
    return false;
}

static bool widen(struct check *c)
{
    struct error err = {0};
    char text[200];

    name_it(c, text, sizeof text, "opening");
    if (!bed_use_gpus(&c->bed, c->gpus, c->precision, 8, &err))
        return true;
    selftest_error(c->t, text, err.text);
    return false;
}

/* A cohort has the bits of one GPU in fp32_strict; else sums are added in another order. */
static void check_cohort(struct check *c, double limit)
{
    bool strict = c->precision == PRECISION_FP32_STRICT;
    struct outcome one = {0};
    struct error err = {0};

    if (!begin(c, COHORT_NET))
        return;
    if (live(c, &BACKEND_CUDA, c->bed.gpu_plan, REPLICAS, false, &one, &err)) {
        selftest_error(c->t, "a cohort on one GPU", err.text);
    } else if (widen(c)) {
        compare(c, REPLICAS, false, &one, strict ? 0 : limit, strict ? "a cohort, the bits of one GPU" : "a cohort");
        compare(c, REPLICAS, true, &one, strict ? 0 : limit, "a cohort whose model stays on the GPUs");
    }
    outcome_done(&one);
    bed_done(&c->bed);
}

/* A batch that is shared: dropout, crops and flips are the CPU's, gradients are added in another order. Rounded
 * operands go another way than the CPU's soon: they are held against one GPU's. */
static void check_shared(struct check *c, double limit)
{
    bool rounded = c->precision == PRECISION_TF32 || c->precision == PRECISION_BF16;
    struct outcome one = {0};
    struct error err = {0};

    if (!begin(c, SHARED_NET))
        return;
    if (rounded ? live(c, &BACKEND_CUDA, c->bed.gpu_plan, 1, false, &one, &err)
                : live(c, &BACKEND_CPU, c->bed.cpu_plan, 1, false, &one, &err)) {
        selftest_error(c->t, "batches that are not shared", err.text);
    } else if (widen(c)) {
        compare(c, 1, false, &one, limit, "batches shared");
        compare(c, 1, true, &one, limit, "batches shared, the model stays");
    }
    outcome_done(&one);
    bed_done(&c->bed);
}

/* Chunk after chunk, whoever scores it: the bits of one GPU. */
static void check_evaluation(struct check *c)
{
    size_t scores_n = CHUNKS * 4;
    float *scores = calloc(2 * scores_n, sizeof *scores);
    struct evaluation e[2] = {{0}};
    struct error err = {0};
    char text[200];

    name_it(c, text, sizeof text, "an evaluation, the bits of one GPU");
    if (!scores || !begin(c, COHORT_NET)) {
        free(scores);
        return;
    }
    for (int i = 0; i < 2 && !err.code && (!i || widen(c)); i++)
        if (evaluation_init(&e[i], 4) ||
            BACKEND_CUDA.evaluate(c->bed.gpu_plan, c->bed.weights, &c->bed.data.test, c->listed, CHUNKS, &e[i],
                                  scores + (size_t)i * scores_n, &err))
            selftest_error(c->t, text, err.text);
    if (!err.code && e[1].n)
        selftest_check(c->t, text,
                       (e[0].loss_sum != e[1].loss_sum) + (e[0].n != e[1].n) +
                           (memcmp(scores, scores + scores_n, scores_n * sizeof *scores) != 0),
                       0);
    evaluation_done(&e[0]);
    evaluation_done(&e[1]);
    free(scores);
    bed_done(&c->bed);
}

void selftest_parallel(struct selftest *t, enum precision precision, size_t gpus)
{
    static const double LIMITS[] = {
        [PRECISION_FP32] = 1e-4, [PRECISION_FP32_STRICT] = 1e-4, [PRECISION_TF32] = 2e-2, [PRECISION_BF16] = 1e-1};
    struct check c = {.t = t, .precision = precision, .gpus = gpus};

    for (uint32_t i = 0; i < SAMPLES; i++)
        c.samples[i] = i;
    for (uint32_t i = 0; i < CHUNKS; i++)
        c.listed[i] = i * 7 % SAMPLES;
    check_cohort(&c, LIMITS[precision]);
    check_shared(&c, LIMITS[precision]);
    check_evaluation(&c);
}
