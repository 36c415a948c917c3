/* parity_dump.c - what the CPU backend computes, as bytes for test_parity.py to compare: the loss and gradients of one batch of
 * all samples, then the weights after some steps on that batch.
 * usage: parity_dump REQUEST.json WEIGHTS OUT. REQUEST: {sections, steps, init_only}. WEIGHTS, OUT: float32, canonical layout.
 * OUT gets gradients, then weights after the steps; standard output gets JSON: loss, params. With init_only OUT gets initial
 * weights.
 * SPDX-License-Identifier: Apache-2.0 */
#include "common/file.h"
#include "common/keys.h"
#include "trainer/backend/backend.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void report(void *arg, bool warning, const char *path, const char *text)
{
    (void)arg;
    fprintf(stderr, "%s%s: %s\n", warning ? "warning: " : "", path, text);
}

struct setup {
    json_t *request, *sections;
    struct dataset *dataset;
    struct model *model;
    struct backend *backend;
    struct plan *plan;
    uint32_t *samples;
    size_t n;
};

static int set_up(struct setup *s, const char *request, struct error *err)
{
    struct data_shape shape;
    struct plan_options options;
    size_t mem_bytes;
    int rc = json_read_file(request, &s->request, err);

    if (rc)
        return rc;
    if (keys_check(SECTION_KEYS, json_object_get(s->request, "sections"), "", false, NULL, report, NULL))
        return fail(err, -EINVAL, "the sections are wrong");
    s->sections = keys_resolve(SECTION_KEYS, json_object_get(s->request, "sections"));
    rc = dataset_open(json_object_get(s->sections, "data"), 1, json_string_or(s->request, "cache", "."), &s->dataset, err);
    if (rc)
        return rc;
    s->n = s->dataset->train.n;
    s->samples = malloc(s->n * sizeof *s->samples);
    for (uint32_t i = 0; i < s->n; i++)
        s->samples[i] = i;
    dataset_normalise(s->dataset, s->samples, s->n);
    shape = (struct data_shape){s->dataset->channels, s->dataset->height, s->dataset->width, s->dataset->classes, s->n, 0};
    if ((rc = model_new(json_object_get(s->sections, "model"), &shape, &s->model, err)) ||
        (rc = BACKEND_CPU.open(&(struct backend_options){.cores = (const int[]){-1}, .cores_n = 1}, &s->backend, err)) ||
        (rc = BACKEND_CPU.load_dataset(s->backend, s->dataset, err)))
        return rc;
    options = plan_options_from(json_object_get(s->sections, "training"));
    options.batch = s->n;
    return BACKEND_CPU.compile(s->backend, s->model, &options, &s->plan, &mem_bytes, err);
}

static int train(struct setup *s, float *weights, struct error *err)
{
    const json_t *training = json_object_get(s->sections, "training");
    struct augment augment = augment_from(json_object_get(s->sections, "data"));
    struct replica replica = {.start = weights, .samples = s->samples, .samples_n = s->n, .batch = s->n, .weight = 1,
                              .epochs = json_int_or(s->request, "steps", 20),
                              .lr = (float)json_double_or(training, "learning_rate", 0.01)};
    float *trained = malloc(s->model->weights_n * sizeof *trained);
    struct reduction each = {.type = REDUCE_EACH, .each = &trained};
    int rc = optimizer_from(training, &replica.optimizer, err);

    if (!rc)
        rc = backend_train(&BACKEND_CPU, s->plan, &replica, 1, &augment, &each, NULL, err);
    if (!rc)
        memcpy(weights, trained, s->model->weights_n * sizeof *trained);
    free(trained);
    return rc;
}

static json_t *params_of(const struct model *model)
{
    json_t *list = json_array();

    for (size_t i = 0; i < model->params_n; i++) {
        const struct param *param = &model->params[i];
        json_t *shape = json_array();
        for (int d = 0; d < param->dims; d++)
            json_array_append_new(shape, json_integer(param->shape[d]));
        json_array_append_new(list, json_pack("{s:s, s:I, s:I, s:b, s:o}", "name", param->name, "offset",
                                              (json_int_t)param->offset, "size", (json_int_t)param->size, "trainable",
                                              param->trainable, "shape", shape));
    }
    return list;
}

static int dump(struct setup *s, const char *weights_path, const char *out, struct error *err)
{
    size_t n = s->model->weights_n, length;
    float *gradients = calloc(n, sizeof *gradients), *weights = calloc(n, sizeof *weights);
    char *bytes = NULL;
    double loss = 0;
    int rc = 0;

    if (json_bool_or(s->request, "init_only", false)) {
        model_init_weights(s->model, 1, 1, weights);
        rc = file_write(out, weights, n * sizeof *weights, err);
        goto done;
    }
    rc = file_read(weights_path, &bytes, &length, err);
    if (!rc && length != n * sizeof *weights)
        rc = fail(err, -EINVAL, "%s has %zu bytes, the model wants %zu", weights_path, length, n * sizeof *weights);
    if (rc)
        goto done;
    memcpy(weights, bytes, length);
    rc = BACKEND_CPU.gradients(s->plan, weights, &s->dataset->train, s->samples, s->n, gradients, &loss, err);
    if (!rc)
        rc = train(s, weights, err);
    if (!rc)
        rc = file_write_pieces(out, (struct file_piece[]){{gradients, s->model->trainable_n * sizeof *gradients},
                                                          {weights, n * sizeof *weights}}, 2, err);
done:
    if (!rc) {
        json_t *answer = json_pack("{s:o, s:o}", "loss", json_from_double(loss), "params", params_of(s->model));
        char *text = json_line(answer);
        puts(text);
        free(text);
        json_decref(answer);
    }
    free(bytes);
    free(gradients);
    free(weights);
    return rc;
}

int main(int argc, char **argv)
{
    struct setup s = {0};
    struct error err = {0};
    int rc = argc == 4 ? set_up(&s, argv[1], &err) : fail(&err, -EINVAL, "usage: parity_dump REQUEST WEIGHTS OUT");

    if (!rc)
        rc = dump(&s, argv[2], argv[3], &err);
    if (rc)
        fprintf(stderr, "parity_dump: %s\n", err.text);
    if (s.plan)
        BACKEND_CPU.release_plan(s.plan);
    if (s.backend)
        BACKEND_CPU.close(s.backend);
    model_free(s.model);
    dataset_close(s.dataset);
    free(s.samples);
    json_decref(s.sections);
    json_decref(s.request);
    return rc ? 1 : 0;
}
