/* tiny.h - small data sets and models for tests of a backend.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_TESTS_TINY_H
#define FLEXP_TESTS_TINY_H

#include "common/rng.h"
#include "trainer/backend/backend.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct tiny {
    struct dataset data;
    uint8_t *images;
    uint16_t *labels;
    struct backend *backend;
    struct model *model;
    struct plan *plan;
    float *weights;
};

/* n images, of noise with a stripe that tells the class; the same split serves as train and test. */
static void tiny_init(struct tiny *t, const char *layers, int channels, int height, int width, int classes, size_t n,
                      size_t batch, size_t threads)
{
    size_t pixels = (size_t)channels * (size_t)height * (size_t)width;
    struct data_shape shape = {channels, height, width, classes, n, n};
    struct pcg32 rng = rng_key(11, RNG_SYNTHETIC, 0, 0, 0);
    int cores[16];
    struct error err = {0};
    json_t *section = NULL;
    char text[4000];

    memset(t, 0, sizeof *t);
    t->images = malloc(n * pixels);
    t->labels = malloc(n * sizeof *t->labels);
    for (size_t i = 0; i < n; i++) {
        t->labels[i] = (uint16_t)(i % (size_t)classes);
        for (size_t k = 0; k < pixels; k++)
            t->images[i * pixels + k] = (uint8_t)rng_below(&rng, 200);
        for (size_t k = t->labels[i]; k < pixels; k += (size_t)classes)
            t->images[i * pixels + k] = (uint8_t)(200 + rng_below(&rng, 56));
    }
    t->data = (struct dataset){.channels = channels,
                               .height = height,
                               .width = width,
                               .classes = classes,
                               .train = {n, t->images, t->labels},
                               .test = {n, t->images, t->labels},
                               .mean = {.45f, .5f, .4f, .5f},
                               .std = {.25f, .3f, .2f, .25f}};
    for (int i = 0; i < 16; i++)
        cores[i] = -1;
    snprintf(text, sizeof text, layers[0] == '[' ? "{\"layers\": %s}" : "{\"preset\": \"%s\"}", layers);
    if (json_parse(text, strlen(text), &section, &err) ||
        BACKEND_CPU.open(&(struct backend_options){.cores = cores, .cores_n = threads}, &t->backend, &err) ||
        BACKEND_CPU.load_dataset(t->backend, &t->data, &err) || model_new(section, &shape, &t->model, &err) ||
        BACKEND_CPU.compile(t->backend, t->model, &(struct plan_options){.batch = batch}, &t->plan, NULL, &err)) {
        fprintf(stderr, "%s: %s\n", text, err.text);
        abort();
    }
    json_decref(section);
    t->weights = malloc(t->model->weights_n * sizeof *t->weights);
    model_init_weights(t->model, 5, 1, t->weights);
    /* Biases, gammas and buffers off their starting values, so that a mix-up shows. */
    rng = rng_key(12, RNG_SYNTHETIC, 0, 0, 0);
    for (size_t k = 0; k < t->model->params_n; k++) {
        const struct param *p = &t->model->params[k];
        for (size_t i = 0; p->init_bound <= 0 && i < p->size; i++)
            t->weights[p->offset + i] += 0.4f * (rng_float(&rng) - 0.5f);
    }
}

static void tiny_done(struct tiny *t)
{
    BACKEND_CPU.release_plan(t->plan);
    BACKEND_CPU.close(t->backend);
    model_free(t->model);
    free(t->weights);
    free(t->images);
    free(t->labels);
}

#endif
