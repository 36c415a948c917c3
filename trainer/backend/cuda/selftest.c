/* selftest.c - see selftest.h.
 * Tolerances. fp32: sums of a few hundred products of size one in another order differ by about 1e-6 of the largest
 * value, through up to eight layers and norms that divide by small deviations: 4e-5 of a tensor's largest gradient, as
 * the CPU backend is held to; 1e-4 for weights after 20 steps. tf32 has 11 bits of significand and bf16 8: an operand
 * is off by at most 2^-11 or 2^-9, sums of them by less, gradients through several layers by some times that; where a
 * ReLU or a maximum tips over, single values are off by much, so that all of a network's are compared in the mean (l2
 * norms). SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cuda/selftest.h"
#include "trainer/backend/shape_table.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    double gradients, loss, training;
} PRECISIONS[] = {
    [PRECISION_FP32] = {"fp32", 4e-5, 1e-5, 1e-4},
    [PRECISION_FP32_STRICT] = {"fp32_strict", 4e-5, 1e-5, 1e-4},
    [PRECISION_TF32] = {"tf32", 1e-2, 4e-3, 2e-2},
    [PRECISION_BF16] = {"bf16", 8e-2, 3e-2, 1e-1},
};

void selftest_init(struct selftest *t)
{
    *t = (struct selftest){.checks = json_array(), .timings = json_object(), .profiles = json_object()};
}

void selftest_done(struct selftest *t)
{
    json_decref(t->checks);
    json_decref(t->timings);
    json_decref(t->profiles);
}

static void record(struct selftest *t, const char *name, bool ok, double value, double limit, const char *text)
{
    *(ok ? &t->passed : &t->failed) += 1;
    json_array_append_new(t->checks,
                          json_pack("{s:s, s:b, s:o, s:o, s:s*}", "name", name, "ok", ok, "value",
                                    json_from_double(value), "limit", json_from_double(limit), "text", text));
    if (!t->quiet && (!ok || text))
        printf("%s %s: %s%s%.3g (at most %.3g)\n", ok ? "ok" : "FAILED", name, text ? text : "", text ? " " : "", value,
               limit);
    fflush(stdout);
}

void selftest_check(struct selftest *t, const char *name, double value, double limit)
{
    record(t, name, value <= limit, value, limit, NULL);
}

void selftest_error(struct selftest *t, const char *name, const char *text)
{
    record(t, name, false, NAN, NAN, text);
}

double selftest_difference(const float *expected, const float *got, size_t n)
{
    double top = 0, worst = 0;

    for (size_t i = 0; i < n; i++) {
        double off = fabs((double)expected[i] - (double)got[i]);
        top = fmax(top, fabs((double)expected[i]));
        worst = off <= worst ? worst : off; /* NaN stays */
    }
    return n ? worst / (top + 2.5e-2) : 0; /* 1e-6 / 4e-5: for tensors whose gradient is zero by construction */
}

static void free_bed(struct bed *b)
{
    if (b->cpu_plan)
        BACKEND_CPU.release_plan(b->cpu_plan);
    if (b->gpu_plan)
        BACKEND_CUDA.release_plan(b->gpu_plan);
    BACKEND_CPU.close(b->cpu);
    BACKEND_CUDA.close(b->gpu);
    model_free(b->model);
    free(b->weights);
    free(b->images);
    free(b->labels);
}

int bed_init(struct bed *b, const char *layers, int channels, int height, int width, int classes, size_t n,
             size_t batch, enum precision precision, struct error *err)
{
    size_t pixels = (size_t)channels * (size_t)height * (size_t)width;
    struct data_shape shape = {channels, height, width, classes, n, n};
    const struct plan_options on_cpu = {.batch = batch, .precision = PRECISION_FP32_STRICT};
    const struct plan_options on_gpu = {.batch = batch, .precision = precision};
    struct backend_options options = {.cores = (const int[]){-1, -1, -1, -1}, .cores_n = 4};
    struct pcg32 rng = rng_key(11, RNG_SYNTHETIC, 0, 0, 0);
    json_t *section = json_object(), *list = NULL;
    int rc = 0;

    memset(b, 0, sizeof *b);
    if (layers[0] == '[')
        rc = json_parse(layers, strlen(layers), &list, err);
    json_object_set_new(section, list ? "layers" : "preset", list ? list : json_string(layers));
    b->images = malloc(n * pixels);
    b->labels = malloc(n * sizeof *b->labels);
    if (!b->images || !b->labels)
        rc = fail(err, -ENOMEM, "out of memory");
    for (size_t i = 0; i < n && !rc; i++) {
        b->labels[i] = (uint16_t)(i % (size_t)classes);
        for (size_t k = 0; k < pixels; k++)
            b->images[i * pixels + k] = (uint8_t)rng_below(&rng, 200);
        for (size_t k = b->labels[i]; k < pixels; k += (size_t)classes)
            b->images[i * pixels + k] = (uint8_t)(200 + rng_below(&rng, 56));
    }
    b->data = (struct dataset){.channels = channels,
                               .height = height,
                               .width = width,
                               .classes = classes,
                               .train = {n, b->images, b->labels},
                               .test = {n, b->images, b->labels},
                               .mean = {.45f, .5f, .4f, .5f},
                               .std = {.25f, .3f, .2f, .25f}};
    if (rc || (rc = model_new(section, &shape, &b->model, err)) || (rc = BACKEND_CPU.open(&options, &b->cpu, err)) ||
        (rc = BACKEND_CPU.load_dataset(b->cpu, &b->data, err)) ||
        (rc = BACKEND_CPU.compile(b->cpu, b->model, &on_cpu, &b->cpu_plan, NULL, err)) ||
        (rc = BACKEND_CUDA.open(&options, &b->gpu, err)) || (rc = BACKEND_CUDA.load_dataset(b->gpu, &b->data, err)) ||
        (rc = BACKEND_CUDA.compile(b->gpu, b->model, &on_gpu, &b->gpu_plan, NULL, err)))
        goto out;
    b->weights = malloc(b->model->weights_n * sizeof *b->weights);
    model_init_weights(b->model, 5, 1, b->weights);
    /* Biases, gammas and buffers off their starting values, so that a mix-up shows. */
    rng = rng_key(12, RNG_SYNTHETIC, 0, 0, 0);
    for (size_t k = 0; k < b->model->params_n; k++) {
        const struct param *p = &b->model->params[k];
        for (size_t i = 0; p->init_bound <= 0 && i < p->size; i++)
            b->weights[p->offset + i] += 0.4f * (rng_float(&rng) - 0.5f);
    }
out:
    json_decref(section);
    if (rc)
        free_bed(b);
    return rc;
}

void bed_done(struct bed *b)
{
    free_bed(b);
}

/* operations */

static double mean_difference(const float *expected, const float *got, size_t n)
{
    double all = 0, off = 0;

    for (size_t i = 0; i < n; i++) {
        double d = (double)expected[i] - (double)got[i];
        all += (double)expected[i] * (double)expected[i];
        off += d * d;
    }
    return sqrt(off / (all > 0 ? all : 1));
}

static double worst_gradient(const struct model *m, const float *expected, const float *got, char *where, size_t size)
{
    double worst = 0;

    for (size_t k = 0; k < m->params_n; k++) {
        const struct param *p = &m->params[k];
        double off = p->trainable ? selftest_difference(expected + p->offset, got + p->offset, p->size) : 0;
        if (!(off <= worst)) {
            worst = off;
            snprintf(where, size, "%s", p->name);
        }
    }
    return worst;
}

static void evaluate_both(struct selftest *t, struct bed *b, const char *name, double limit)
{
    struct evaluation cpu, gpu;
    struct error err = {0};
    size_t n = 37;
    uint32_t samples[37];
    float *scores = calloc(2 * n * (size_t)b->model->classes, sizeof *scores),
          *other = scores + n * (size_t)b->model->classes;
    char text[200];

    for (size_t i = 0; i < n; i++)
        samples[i] = (uint32_t)(i * 7 % 40);
    if (evaluation_init(&cpu, b->model->classes) || evaluation_init(&gpu, b->model->classes))
        abort();
    snprintf(text, sizeof text, "%s: evaluation", name);
    if (BACKEND_CPU.evaluate(b->cpu_plan, b->weights, &b->data.test, samples, n, &cpu, scores, &err) ||
        BACKEND_CUDA.evaluate(b->gpu_plan, b->weights, &b->data.test, samples, n, &gpu, other, &err))
        selftest_error(t, text, err.text);
    else
        selftest_check(t, text,
                       fabs(cpu.loss_sum - gpu.loss_sum) / (1 + fabs(cpu.loss_sum)) + (cpu.n != gpu.n) +
                           selftest_difference(scores, other, n * (size_t)b->model->classes),
                       limit);
    free(scores);
    evaluation_done(&cpu);
    evaluation_done(&gpu);
}

static void check_net(struct selftest *t, const struct selftest_net *net, size_t batch, size_t n,
                      enum precision precision)
{
    struct bed b;
    struct error err = {0};
    uint32_t samples[16];
    double cpu_loss = 0, gpu_loss = 0, worst;
    float *cpu, *gpu;
    char text[300], where[64] = "";

    snprintf(text, sizeof text, "%s: %s, %zu of %zu", PRECISIONS[precision].name, net->name, n, batch);
    if (bed_init(&b, net->layers, net->channels, net->height, net->width, 4, 40, batch, precision, &err)) {
        selftest_error(t, text, err.text);
        return;
    }
    cpu = calloc(b.model->trainable_n, sizeof *cpu);
    gpu = calloc(b.model->trainable_n, sizeof *gpu);
    for (size_t i = 0; i < n; i++)
        samples[i] = (uint32_t)(i * 3 % 40);
    if (BACKEND_CPU.gradients(b.cpu_plan, b.weights, &b.data.train, samples, n, cpu, &cpu_loss, &err) ||
        BACKEND_CUDA.gradients(b.gpu_plan, b.weights, &b.data.train, samples, n, gpu, &gpu_loss, &err)) {
        selftest_error(t, text, err.text);
    } else {
        worst = precision == PRECISION_TF32 || precision == PRECISION_BF16
                    ? mean_difference(cpu, gpu, b.model->trainable_n)
                    : worst_gradient(b.model, cpu, gpu, where, sizeof where);
        snprintf(text, sizeof text, "%s: %s, %zu of %zu: gradient of %s", PRECISIONS[precision].name, net->name, n,
                 batch, where);
        selftest_check(t, text, worst, PRECISIONS[precision].gradients);
        snprintf(text, sizeof text, "%s: %s, %zu of %zu: loss", PRECISIONS[precision].name, net->name, n, batch);
        selftest_check(t, text, fabs(cpu_loss - gpu_loss) / (1 + fabs(cpu_loss)), PRECISIONS[precision].loss);
    }
    snprintf(text, sizeof text, "%s: %s", PRECISIONS[precision].name, net->name);
    evaluate_both(t, &b, text, PRECISIONS[precision].gradients);
    free(cpu);
    free(gpu);
    bed_done(&b);
}

void selftest_operations(struct selftest *t, enum precision precision)
{
    for (size_t i = 0; i < NETS_N; i++) {
        check_net(t, &NETS[i], 5, 5, precision);
        if (precision == PRECISION_FP32_STRICT)
            check_net(t, &NETS[i], 16, 7, precision);
    }
}

/* training */

#define DRAWS                                                                                                          \
    "[" CONV(9, 3, SAME) ", {\"batch_norm\": {\"activation\": \"relu\"}}, {\"max_pool2d\": {\"size\": 2}}, "           \
                         "{\"residual\": {\"layers\": [" CONV(                                                         \
                             9, 3, SAME RELU) "]}}, {\"dropout\": {\"rate\": 0.25}}, \"flatten\", "                    \
                                              "{\"dense\": {\"units\": 20, \"activation\": \"relu\"}}, {\"dropout\": " \
                                              "{\"rate\": 0.5}}, " LAST "]"
#define REPLICAS 6
#define SAMPLES 120

/* Clients of different sizes, rates, optimizers and batches. */
static void make_replicas(struct replica *r, const float *start, const uint32_t *samples)
{
    static const size_t SIZES[REPLICAS] = {60, 5, 17, 1, 40, 29}, BATCHES[REPLICAS] = {8, 8, 5, 8, 3, 8};
    static const enum optimizer_type TYPES[REPLICAS] = {OPTIMIZER_SGD, OPTIMIZER_SGD,   OPTIMIZER_ADAM,
                                                        OPTIMIZER_SGD, OPTIMIZER_ADAMW, OPTIMIZER_SGD};

    for (size_t i = 0; i < REPLICAS; i++) {
        bool adam = TYPES[i] != OPTIMIZER_SGD;
        r[i] = (struct replica){.start = start,
                                .samples = samples + 3 * i,
                                .samples_n = SIZES[i],
                                .epochs = 1 + (int64_t)i % 3,
                                .max_batches = 20,
                                .batch = BATCHES[i],
                                .lr = adam ? 0.003f : 0.02f / (float)(i + 1),
                                .optimizer = {.type = TYPES[i],
                                              .momentum = i == 1 ? 0 : 0.9f,
                                              .weight_decay = 1e-3f,
                                              .beta1 = 0.9f,
                                              .beta2 = 0.99f,
                                              .eps = 1e-4f,
                                              .nesterov = i == 5},
                                .seed = 7 + i % 2,
                                .trial = 2,
                                .round = 4,
                                .client = i,
                                .weight = (double)(i + 1) / 21,
                                .proximal_mu = i == 4 ? 0.1f : 0};
    }
}

static int train(const struct backend_ops *ops, struct plan *plan, struct replica *r, size_t n, float **each,
                 struct error *err)
{
    struct augment augment = {.crop_padding = 2, .horizontal_flip = true};
    struct reduction reduction = {.type = REDUCE_EACH, .each = each};

    return backend_train(ops, plan, r, n, &augment, &reduction, NULL, err);
}

static void number(uint32_t *samples)
{
    for (uint32_t i = 0; i < SAMPLES; i++)
        samples[i] = i;
}

void selftest_training(struct selftest *t, enum precision precision)
{
    struct bed b;
    struct error err = {0};
    uint32_t samples[SAMPLES];
    struct replica cpu[REPLICAS], gpu[REPLICAS];
    float *weights, *each[2][REPLICAS];
    char text[200];
    size_t n;

    if (bed_init(&b, DRAWS, 3, 10, 8, 4, SAMPLES, 8, precision, &err)) {
        selftest_error(t, "training", err.text);
        return;
    }
    n = b.model->weights_n;
    weights = calloc(2 * REPLICAS * n, sizeof *weights);
    for (size_t i = 0; i < 2 * REPLICAS; i++)
        each[i / REPLICAS][i % REPLICAS] = weights + i * n;
    number(samples);
    make_replicas(cpu, b.weights, samples);
    make_replicas(gpu, b.weights, samples);
    if (train(&BACKEND_CPU, b.cpu_plan, cpu, REPLICAS, each[0], &err) ||
        train(&BACKEND_CUDA, b.gpu_plan, gpu, REPLICAS, each[1], &err))
        selftest_error(t, "training", err.text);
    for (size_t i = 0; i < REPLICAS && !err.code; i++) {
        snprintf(text, sizeof text, "%s: weights of replica %zu after %lld steps", PRECISIONS[precision].name, i,
                 (long long)cpu[i].batches);
        selftest_check(t, text, selftest_difference(each[0][i], each[1][i], n), PRECISIONS[precision].training);
        snprintf(text, sizeof text, "%s: loss, norm and counts of replica %zu", PRECISIONS[precision].name, i);
        selftest_check(t, text,
                       fabs(cpu[i].loss_sum - gpu[i].loss_sum) / (1 + fabs(cpu[i].loss_sum)) +
                           fabs(cpu[i].update_norm - gpu[i].update_norm) / (1 + cpu[i].update_norm) +
                           (cpu[i].samples_seen != gpu[i].samples_seen) + (cpu[i].batches != gpu[i].batches) +
                           (cpu[i].finite != gpu[i].finite),
                       PRECISIONS[precision].training);
    }
    free(weights);
    bed_done(&b);
}

/* bits */

static double unequal(const void *a, const void *b, size_t bytes)
{
    return memcmp(a, b, bytes) ? 1 : 0;
}

void selftest_bits(struct selftest *t, enum precision precision)
{
    struct bed b;
    struct error err = {0};
    uint32_t samples[SAMPLES];
    struct replica r[REPLICAS];
    float *weights, *each[3][REPLICAS];
    char text[100];
    size_t n;

    if (bed_init(&b, DRAWS, 3, 10, 8, 4, SAMPLES, 8, precision, &err)) {
        selftest_error(t, "bits", err.text);
        return;
    }
    n = b.model->weights_n;
    weights = calloc(3 * REPLICAS * n, sizeof *weights);
    for (size_t i = 0; i < 3 * REPLICAS; i++)
        each[i / REPLICAS][i % REPLICAS] = weights + i * n;
    number(samples);
    for (size_t i = 0; i < REPLICAS && !err.code; i++) { /* alone */
        make_replicas(r, b.weights, samples);
        train(&BACKEND_CUDA, b.gpu_plan, r + i, 1, &each[0][i], &err);
    }
    for (size_t k = 1; k < 3 && !err.code; k++) {
        make_replicas(r, b.weights, samples);
        train(&BACKEND_CUDA, b.gpu_plan, r, REPLICAS, each[k], &err);
    }
    if (err.code) {
        selftest_error(t, "bits", err.text);
    } else {
        snprintf(text, sizeof text, "%s: packed or not, equal bits", PRECISIONS[precision].name);
        selftest_check(t, text, unequal(each[0][0], each[1][0], REPLICAS * n * sizeof(float)), 0);
        snprintf(text, sizeof text, "%s: run to run, equal bits", PRECISIONS[precision].name);
        selftest_check(t, text, unequal(each[1][0], each[2][0], REPLICAS * n * sizeof(float)), 0);
    }
    free(weights);
    bed_done(&b);
}

/* memory */

void selftest_memory(struct selftest *t, int rounds)
{
    struct bed b;
    struct error err = {0};
    uint32_t samples[SAMPLES];
    struct replica r[REPLICAS];
    struct reduction reduction = {.type = REDUCE_WEIGHTED_SUM};
    const struct driver *driver;
    struct device *device;
    size_t before = 0, after = 0, total;

    if (bed_init(&b, DRAWS, 3, 10, 8, 4, SAMPLES, 8, PRECISION_FP32, &err)) {
        selftest_error(t, "memory", err.text);
        return;
    }
    selftest_device(b.gpu, &driver, &device);
    reduction.sum = calloc(b.model->weights_n, sizeof(double));
    number(samples);
    for (int i = 0; i < rounds && !err.code; i++) {
        make_replicas(r, b.weights, samples);
        if (backend_train(&BACKEND_CUDA, b.gpu_plan, r, i == 1 ? 3 : REPLICAS, NULL, &reduction, NULL, &err))
            break;
        if (i == 2)
            driver->memory(device, &before, &total, &err);
    }
    if (err.code || driver->memory(device, &after, &total, &err))
        selftest_error(t, "memory", err.text);
    else
        selftest_check(t, "memory taken after the third round, bytes", (double)before - (double)after, 0);
    free(reduction.sum);
    bed_done(&b);
}
