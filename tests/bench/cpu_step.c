/* cpu_step.c - images per second of whole training steps on the CPU backend.
 *   cpu_step [PRESET] [BATCH] [THREADS] [SECONDS]; without arguments the table of ANCHORS' nets on one core.
 * Each thread trains one client of 8 batches, again and again; figures are of the best round, since a busy neighbour
 * only ever takes time away. SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/backend.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int fail_with(const struct error *err)
{
    fprintf(stderr, "cpu_step: %s\n", err->text);
    return 1;
}

static int measure(const char *preset, size_t batch, size_t threads, double seconds)
{
    enum { BATCHES = 8, CHANNELS = 3, SIDE = 32, CLASSES = 10 };
    size_t samples_n = batch * BATCHES, pixels = (size_t)CHANNELS * SIDE * SIDE;
    uint8_t *images = malloc(samples_n * pixels);
    uint16_t *labels = malloc(samples_n * sizeof *labels);
    uint32_t *samples = malloc(samples_n * sizeof *samples);
    struct dataset data = {.channels = CHANNELS,
                           .height = SIDE,
                           .width = SIDE,
                           .classes = CLASSES,
                           .train = {samples_n, images, labels},
                           .mean = {.5f, .5f, .5f, .5f},
                           .std = {.2f, .2f, .2f, .2f}};
    struct data_shape shape = {CHANNELS, SIDE, SIDE, CLASSES, samples_n, 0};
    json_t *section = json_pack("{s:s}", "preset", preset);
    struct pcg32 rng = rng_key(1, RNG_SYNTHETIC, 0, 0, 0);
    struct replica *replicas = calloc(threads, sizeof *replicas);
    int *cores = calloc(threads, sizeof *cores);
    const struct backend_ops *ops = &BACKEND_CPU;
    struct backend *backend = NULL;
    struct model *model = NULL;
    struct plan *plan = NULL;
    struct error err = {0};
    double best = 0, sum_seconds = 0, compile;
    size_t mem;
    float *weights;
    struct reduction reduction = {.type = REDUCE_WEIGHTED_SUM};

    for (size_t i = 0; i < samples_n * pixels; i++)
        images[i] = (uint8_t)pcg32_next(&rng);
    for (size_t i = 0; i < samples_n; i++) {
        labels[i] = (uint16_t)rng_below(&rng, CLASSES);
        samples[i] = (uint32_t)i;
    }
    for (size_t i = 0; i < threads; i++)
        cores[i] = (int)i;
    if (ops->open(&(struct backend_options){cores, threads}, &backend, &err) ||
        ops->load_dataset(backend, &data, &err) || model_new(section, &shape, &model, &err))
        return fail_with(&err);
    compile = now();
    if (ops->compile(backend, model, &(struct plan_options){.batch = batch}, &plan, &mem, &err))
        return fail_with(&err);
    compile = now() - compile;
    weights = malloc(model->weights_n * sizeof *weights);
    model_init_weights(model, 1, 1, weights);
    reduction.sum = calloc(model->weights_n, sizeof *reduction.sum);
    for (size_t i = 0; i < threads; i++)
        replicas[i] = (struct replica){.start = weights,
                                       .samples = samples,
                                       .samples_n = samples_n,
                                       .epochs = 1,
                                       .batch = batch,
                                       .lr = 0.01f,
                                       .optimizer = {.momentum = 0.9f},
                                       .client = i,
                                       .weight = 1.0 / (double)threads};
    while (sum_seconds < seconds) {
        double began = now(), took;
        memset(reduction.sum, 0, model->weights_n * sizeof *reduction.sum);
        if (ops->train(plan, replicas, threads, NULL, &reduction, NULL, &err))
            return fail_with(&err);
        took = now() - began;
        sum_seconds += took;
        if ((double)(samples_n * threads) / took > best)
            best = (double)(samples_n * threads) / took;
    }
    printf("%-12s batch %3zu  %zu thread%s  %9.0f images/s  (%.1f GFLOP/s forward and backward, %s, compiled in %.0f "
           "ms, %zu MB)\n",
           preset, batch, threads, threads == 1 ? " " : "s", best, best * 3 * model->flops_forward * 1e-9,
           ops->info(backend).isa, compile * 1e3, mem >> 20);
    ops->release_plan(plan);
    ops->close(backend);
    model_free(model);
    json_decref(section);
    free(images);
    free(labels);
    free(samples);
    free(weights);
    free(reduction.sum);
    free(replicas);
    free(cores);
    return 0;
}

int main(int argc, char **argv)
{
    static const struct {
        const char *preset;
        size_t batch;
    } ROWS[] = {{"bench_cnn", 32}, {"seed_cnn", 32}, {"seed_cnn", 64}, {"pfl_cnn", 10}, {"lenet", 64}, {"lenet", 50}};
    int rc = 0;

    if (argc > 1)
        return measure(argv[1], argc > 2 ? strtoul(argv[2], NULL, 10) : 32, argc > 3 ? strtoul(argv[3], NULL, 10) : 1,
                       argc > 4 ? strtod(argv[4], NULL) : 2);
    for (size_t i = 0; i < sizeof ROWS / sizeof ROWS[0] && !rc; i++)
        rc = measure(ROWS[i].preset, ROWS[i].batch, 1, 2);
    return rc;
}
