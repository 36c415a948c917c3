/* step.c - whole training steps on the CPU backend, for compare.py to hold against PyTorch, or by itself.
 *   step                           a table of images per second: the preset networks on one core, no PyTorch
 *   step serve  REQUEST            a line when it is ready, then one for each line of standard input:
 *                                    run SECONDS    trains for about so long
 *                                    peak SECONDS   the fp32 peak of the first core, by a loop of FMAs
 *   step first  REQUEST            a shape never seen before: compile and one step, then usual steps; by wall clock, or
 *                                  processor time where "clock" is "cpu_seconds"
 *   step weights REQUEST OUT       initial weights (float32, canonical layout), and on standard output their shapes
 *   step losses REQUEST WEIGHTS N  the losses of N steps on consecutive batches in order: no shuffle, no augmentation
 *   step data   REQUEST OUT        uint8 NHWC images, then one byte of label each: first train, then test
 * REQUEST is a file of JSON: {"sections": {data, model, training}, "batch", "cores": [0, ...], "mode": "clients" or
 * "model", "cache": FOLDER}. clients: many clients, one at a time on each core, added up as a round adds them; model:
 * one model on all of the cores. Answers are lines of JSON. What is timed is backend.h's train(): shuffle, batch
 * assembly with augmentation, forward, backward, optimizer, and what begins and ends a client.
 * SPDX-License-Identifier: Apache-2.0 */
#include "common/buffer.h"
#include "common/file.h"
#include "common/keys.h"
#include "trainer/backend/backend.h"
#include "trainer/backend/cpu/native/native.h"

#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { CORES_MAX = 1024, CLIENTS_PER_CORE = 6 };

struct bench {
    json_t *request, *sections;
    struct dataset *dataset;
    struct model *model;
    struct backend *backend;
    struct plan *plan;
    struct augment augment;
    struct optimizer optimizer;
    float lr, *weights;
    double *sum;
    uint32_t *samples;
    size_t samples_n, batch;
    int cores[CORES_MAX];
    size_t cores_n;
    bool clients;
    struct replica *replicas;
    double rate; /* images a second, of the last run */
};

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void report(void *arg, bool warning, const char *path, const char *text)
{
    (void)arg;
    fprintf(stderr, "%s%s: %s\n", warning ? "warning: " : "", path, text);
}

static void say(json_t *answer)
{
    char *text = json_line(answer);

    puts(text);
    fflush(stdout);
    free(text);
    json_decref(answer);
}

/* Forward, and two times that backward, but for the gradient of the image, which nobody wants. Counted as if every
 * convolution were direct. */
static double flops_step(const struct model *model)
{
    double image = 0;

    for (size_t i = 0; i < model->layers_n; i++) {
        const struct layer *l = &model->layers[i];
        if (l->input < 0 && l->weight >= 0)
            image += 2.0 * (double)model->params[l->weight].size * l->out.h * l->out.w;
    }
    return 3 * model->flops_forward - image;
}

/* set-up */

static int set_up(struct bench *b, json_t *request, struct error *err)
{
    const json_t *training, *cores = json_object_get(request, "cores");
    struct data_shape shape;
    int rc;

    b->request = request;
    if (keys_check(SECTION_KEYS, json_object_get(request, "sections"), "", false, NULL, report, NULL))
        return fail(err, -EINVAL, "the sections are wrong");
    b->sections = keys_resolve(SECTION_KEYS, json_object_get(request, "sections"));
    training = json_object_get(b->sections, "training");
    b->augment = augment_from(json_object_get(b->sections, "data"));
    b->lr = (float)json_double_or(training, "learning_rate", 0.01);
    b->batch = (size_t)json_int_or(request, "batch", 32);
    b->clients = !strcmp(json_string_or(request, "mode", "clients"), "clients");
    for (size_t i = 0; i < json_array_size(cores) && i < CORES_MAX; i++)
        b->cores[b->cores_n++] = (int)json_integer_value(json_array_get(cores, i));
    if (!b->cores_n)
        b->cores[b->cores_n++] = -1;
    if ((rc = optimizer_from(training, &b->optimizer, err)) ||
        (rc = dataset_open(json_object_get(b->sections, "data"), 1,
                           json_string_or(request, "cache", "build/bench/cache"), &b->dataset, err)))
        return rc;
    if (b->dataset->train.n < b->batch)
        return fail(err, -EINVAL, "%zu images are fewer than a batch", b->dataset->train.n);
    b->samples_n = b->dataset->train.n / b->batch * b->batch; /* whole batches alone */
    b->samples = malloc(b->dataset->train.n * sizeof *b->samples);
    for (uint32_t i = 0; i < b->dataset->train.n; i++)
        b->samples[i] = i;
    dataset_normalise(b->dataset, b->samples, b->dataset->train.n);
    shape = (struct data_shape){b->dataset->channels, b->dataset->height,  b->dataset->width,
                                b->dataset->classes,  b->dataset->train.n, b->dataset->test.n};
    if ((rc = model_new(json_object_get(b->sections, "model"), &shape, &b->model, err)) ||
        (rc = BACKEND_CPU.open(&(struct backend_options){.cores = b->cores, .cores_n = b->cores_n}, &b->backend, err)) ||
        (rc = BACKEND_CPU.load_dataset(b->backend, b->dataset, err)))
        return rc;
    b->weights = calloc(b->model->weights_n, sizeof *b->weights);
    b->sum = buffer_new(b->model->weights_n * sizeof *b->sum);
    b->replicas = calloc(b->cores_n * CLIENTS_PER_CORE, sizeof *b->replicas);
    model_init_weights(b->model, 1, 1, b->weights);
    return 0;
}

static int compile(struct bench *b, struct error *err)
{
    size_t mem_bytes;

    struct plan_options options = plan_options_from(json_object_get(b->sections, "training"));

    options.batch = b->batch;
    return BACKEND_CPU.compile(b->backend, b->model, &options, &b->plan, &mem_bytes, err);
}

static void bench_done(struct bench *b)
{
    if (b->plan)
        BACKEND_CPU.release_plan(b->plan);
    if (b->backend)
        BACKEND_CPU.close(b->backend);
    model_free(b->model);
    dataset_close(b->dataset);
    free(b->samples);
    free(b->weights);
    buffer_free(b->sum);
    free(b->replicas);
    json_decref(b->sections);
    json_decref(b->request);
}

/* measuring */

struct took {
    double seconds, cpu_seconds, images, loss;
};

static double cpu_now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int train(struct bench *b, size_t clients, int64_t batches, struct took *ret, struct error *err)
{
    struct reduction reduction = {.type = REDUCE_WEIGHTED_SUM, .sum = b->sum};
    double began, cpu_began;
    int rc;

    for (size_t i = 0; i < clients; i++)
        b->replicas[i] = (struct replica){.start = b->weights,
                                          .samples = b->samples,
                                          .samples_n = b->samples_n,
                                          .epochs = INT32_MAX,
                                          .max_batches = batches,
                                          .batch = b->batch,
                                          .lr = b->lr,
                                          .optimizer = b->optimizer,
                                          .seed = 1,
                                          .client = i,
                                          .weight = 1.0 / (double)clients};
    began = now();
    cpu_began = cpu_now();
    if ((rc = backend_train(&BACKEND_CPU, b->plan, b->replicas, clients, &b->augment, &reduction, NULL, err)))
        return rc;
    *ret = (struct took){.seconds = now() - began, .cpu_seconds = cpu_now() - cpu_began};
    for (size_t i = 0; i < clients; i++) {
        ret->images += (double)b->replicas[i].samples_seen;
        ret->loss += b->replicas[i].loss_sum;
    }
    ret->loss /= ret->images;
    b->rate = ret->images / ret->seconds;
    return 0;
}

/* Clients are handed out as threads become free, so several for each core: the last ones to end cost little then. Each
 * has four batches at least, where there are so many. */
static int run(struct bench *b, double seconds, struct took *ret, struct error *err)
{
    double batches = b->rate * seconds / (double)b->batch, each = batches / (double)b->cores_n / 4;
    size_t clients = !b->clients || b->cores_n == 1 ? 1
                     : each < 1                     ? b->cores_n
                     : each > CLIENTS_PER_CORE      ? b->cores_n * CLIENTS_PER_CORE
                                                    : b->cores_n * (size_t)each;

    return train(b, clients, (int64_t)fmax(1, round(batches / (double)clients)), ret, err);
}

static double peak(const struct bench *b, double seconds)
{
    cpu_set_t set, before;
    double gflops;

    if (b->cores[0] < 0)
        return native_all()[0]->peak_flops(seconds) / 1e9;
    sched_getaffinity(0, sizeof before, &before);
    CPU_ZERO(&set);
    CPU_SET((size_t)b->cores[0], &set);
    sched_setaffinity(0, sizeof set, &set);
    gflops = native_all()[0]->peak_flops(seconds) / 1e9;
    sched_setaffinity(0, sizeof before, &before);
    return gflops;
}

static int warm_up(struct bench *b, struct error *err)
{
    struct took took;
    int rc = train(b, b->clients ? b->cores_n : 1, 1, &took, err);

    return rc ? rc : train(b, b->clients ? b->cores_n : 1, 3, &took, err);
}

/* the verbs */

static int serve(struct bench *b, char **arguments, struct error *err)
{
    const char *kernels = getenv("FLEXP_CPU_KERNELS");
    char line[128];
    struct took took;
    double seconds;
    int rc;

    (void)arguments;
    if ((rc = compile(b, err)) || (rc = warm_up(b, err)))
        return rc;
    say(json_pack("{s:s, s:s, s:f, s:I, s:f}", "isa", BACKEND_CPU.info(b->backend).isa, "kernels",
                  kernels ? kernels : "", "mflop_per_image", flops_step(b->model) * 1e-6, "weights",
                  (json_int_t)b->model->weights_n, "images_per_s", b->rate));
    while (fgets(line, sizeof line, stdin)) {
        if (sscanf(line, "run %lf", &seconds) == 1) {
            if ((rc = run(b, seconds, &took, err)))
                return rc;
            say(json_pack("{s:f, s:f, s:f, s:o}", "images", took.images, "seconds", took.seconds, "cpu_seconds",
                          took.cpu_seconds, "loss", json_from_double(took.loss)));
        } else if (sscanf(line, "peak %lf", &seconds) == 1) {
            say(json_pack("{s:f}", "gflops", peak(b, seconds)));
        } else {
            return fail(err, -EINVAL, "what is \"%s\"?", line);
        }
    }
    return 0;
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static int first(struct bench *b, char **arguments, struct error *err)
{
    enum { USUAL = 7 };
    bool cpu_time = !strcmp(json_string_or(b->request, "clock", ""), "cpu_seconds");
    double (*tick)(void) = cpu_time ? cpu_now : now;
    double began = tick(), compiled, whole, usual[USUAL];
    struct took took;
    int rc = compile(b, err);
    size_t n = 0;

    (void)arguments;
    compiled = tick() - began;
    if (rc || (rc = train(b, 1, 1, &took, err)))
        return rc;
    whole = tick() - began;
    for (double left = 2; n < USUAL && (!n || left > 0) && !rc; left -= took.seconds)
        if (!(rc = train(b, 1, 1, &took, err)))
            usual[n++] = cpu_time ? took.cpu_seconds : took.seconds;
    qsort(usual, n, sizeof *usual, compare_doubles);
    if (!rc)
        say(json_pack("{s:f, s:f, s:f}", "compile_ms", compiled * 1e3, "first_ms", whole * 1e3, "usual_ms",
                      usual[n / 2] * 1e3));
    return rc;
}

static int weights(struct bench *b, char **arguments, struct error *err)
{
    json_t *list = json_array();
    int rc = file_write(arguments[0], b->weights, b->model->weights_n * sizeof *b->weights, err);

    for (size_t i = 0; i < b->model->params_n; i++) {
        const struct param *param = &b->model->params[i];
        json_t *shape = json_array();
        for (int d = 0; d < param->dims; d++)
            json_array_append_new(shape, json_integer(param->shape[d]));
        json_array_append_new(list, json_pack("{s:s, s:I, s:I, s:b, s:o}", "name", param->name, "offset",
                                              (json_int_t)param->offset, "size", (json_int_t)param->size, "trainable",
                                              param->trainable, "shape", shape));
    }
    if (rc)
        json_decref(list);
    else
        say(json_pack("{s:o}", "params", list));
    return rc;
}

static int losses(struct bench *b, char **arguments, struct error *err)
{
    size_t n = b->model->weights_n, length, state = optimizer_state_floats(&b->optimizer, b->model->trainable_n);
    long steps = strtol(arguments[1], NULL, 10);
    json_t *list = json_array();
    struct replica replica = {.batch = b->batch, .epochs = 1, .lr = b->lr, .optimizer = b->optimizer, .weight = 1};
    float *trained = malloc(n * sizeof *trained);
    struct reduction each = {.type = REDUCE_EACH, .each = &trained};
    char *bytes = NULL;
    int rc = file_read(arguments[0], &bytes, &length, err);

    if (!rc && length != n * sizeof *b->weights)
        rc = fail(err, -EINVAL, "%s has %zu bytes, the model wants %zu", arguments[0], length, n * sizeof *b->weights);
    if (rc || (rc = compile(b, err)))
        goto out;
    memcpy(b->weights, bytes, length);
    replica.start = b->weights;
    replica.optimizer_state = calloc(state + 1, sizeof *replica.optimizer_state);
    for (long step = 0; step < steps && !rc; step++) {
        replica.samples = b->samples + (size_t)step * b->batch % b->samples_n;
        replica.samples_n = b->batch;
        if (!(rc = backend_train(&BACKEND_CPU, b->plan, &replica, 1, NULL, &each, NULL, err))) {
            memcpy(b->weights, trained, n * sizeof *trained);
            json_array_append_new(list, json_from_double(replica.loss_sum / (double)b->batch));
        }
    }
    if (!rc)
        say(json_pack("{s:O}", "losses", list));
out:
    json_decref(list);
    free(bytes);
    free(trained);
    free(replica.optimizer_state);
    return rc;
}

static int data(struct bench *b, char **arguments, struct error *err)
{
    const struct data_split *splits[] = {&b->dataset->train, &b->dataset->test};
    size_t size = (size_t)b->dataset->channels * (size_t)b->dataset->height * (size_t)b->dataset->width;
    FILE *out = fopen(arguments[0], "wb");

    if (!out)
        return fail(err, -errno, "%s: %s", arguments[0], strerror(errno));
    for (size_t s = 0; s < 2; s++) {
        fwrite(splits[s]->images, size, splits[s]->n, out);
        for (size_t i = 0; i < splits[s]->n; i++)
            fputc(splits[s]->labels[i] & 0xff, out);
    }
    if (ferror(out) | fclose(out))
        return fail(err, -EIO, "%s: cannot be written", arguments[0]);
    say(json_pack("{s:I, s:I, s:[i, i, i], s:[f, f, f], s:[f, f, f]}", "train", (json_int_t)splits[0]->n, "test",
                  (json_int_t)splits[1]->n, "shape", b->dataset->height, b->dataset->width, b->dataset->channels,
                  "mean", b->dataset->mean[0], b->dataset->mean[1], b->dataset->mean[2], "std", b->dataset->std[0],
                  b->dataset->std[1], b->dataset->std[2]));
    return 0;
}

static int table(struct error *err)
{
    static const struct {
        const char *preset;
        int batch;
    } ROWS[] = {{"bench_cnn", 32}, {"bench_cnn", 64}, {"seed_cnn", 32}, {"seed_cnn", 64},
                {"pfl_cnn", 10},   {"lenet", 50},     {"lenet", 64}};
    int rc = 0;

    for (size_t i = 0; i < sizeof ROWS / sizeof ROWS[0] && !rc; i++) {
        struct bench b = {0};
        struct took took = {0}, best = {.seconds = 1};
        json_t *request =
            json_pack("{s:{s:{s:s, s:{s:i}, s:{s:i, s:b}}, s:{s:s}, s:{s:f, s:f, s:i}}, s:i, s:[i]}", "sections",
                      "data", "source", "synthetic", "synthetic", "samples", 4000, "augment", "random_crop", 4,
                      "horizontal_flip", 1, "model", "preset", ROWS[i].preset, "training", "learning_rate", 0.01,
                      "momentum", 0.9, "batch_size", ROWS[i].batch, "batch", ROWS[i].batch, "cores", -1);
        rc = set_up(&b, request, err);
        if (!rc && !(rc = compile(&b, err)))
            rc = warm_up(&b, err);
        for (int k = 0; k < 8 && !rc; k++)
            if (!(rc = run(&b, 0.25, &took, err)) && took.images / took.seconds > best.images / best.seconds)
                best = took;
        if (!rc) {
            double gflops = best.images / best.seconds * flops_step(b.model) * 1e-9;
            printf("%-12s batch %3d %9.0f images/s  %6.1f GFLOP/s, %3.0f%% of the core's peak  (%s)\n", ROWS[i].preset,
                   ROWS[i].batch, best.images / best.seconds, gflops, 100 * gflops / peak(&b, 0.1),
                   BACKEND_CPU.info(b.backend).isa);
        }
        bench_done(&b);
    }
    return rc;
}

static const struct {
    const char *name;
    int arguments;
    int (*run)(struct bench *b, char **arguments, struct error *err);
} VERBS[] = {
    {"serve", 0, serve}, {"first", 0, first}, {"weights", 1, weights}, {"losses", 2, losses}, {"data", 1, data},
};

int main(int argc, char **argv)
{
    struct error err = {0};
    int rc = -EINVAL;

    if (argc == 1)
        rc = table(&err);
    else
        fail(&err, rc, "usage: step [serve|first REQUEST | weights|data REQUEST OUT | losses REQUEST WEIGHTS N]");
    for (size_t i = 0; i < sizeof VERBS / sizeof VERBS[0]; i++)
        if (argc == VERBS[i].arguments + 3 && !strcmp(argv[1], VERBS[i].name)) {
            struct bench b = {0};
            json_t *request;
            if (!(rc = json_read_file(argv[2], &request, &err)) && !(rc = set_up(&b, request, &err)))
                rc = VERBS[i].run(&b, argv + 3, &err);
            bench_done(&b);
        }
    if (rc)
        fprintf(stderr, "step: %s\n", err.text);
    return rc ? 1 : 0;
}
