/* validation.c - what validation costs: its share of a round at the defaults, on one core and on all that are allowed.
 *   validation             a row for each network; MISS where the validation split takes more than a tenth of a round
 * A round is 5 of 10 clients for one local epoch, and then the whole validation split, a tenth of the training data; "with
 * clients" adds what each client of the cohort evaluates on its own held-out tenth. Times are the quickest of several
 * rounds: processor time on one core, wall clock on all.
 * SPDX-License-Identifier: Apache-2.0 */
#include "common/buffer.h"
#include "common/keys.h"
#include "trainer/backend/backend.h"
#include "trainer/data/split.h"
#include "trainer/federation/cohort.h"

#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { CLIENTS = 10, COHORT = 5, GOAL_PERCENT = 10, CORES_MAX = 1024 };

#define CONV(n) "{\"conv2d\": {\"filters\": " #n ", \"kernel\": 3, \"padding\": \"same\", \"activation\": \"relu\"}}"
#define POOL(n) "{\"max_pool2d\": {\"size\": " #n "}}"
#define DENSE(n) "{\"dense\": {\"units\": " #n ", \"activation\": \"relu\"}}"
#define LAST "{\"dense\": {\"units\": \"classes\"}}"
#define QUICKSTART(f, u)                                                                                               \
    "{\"layers\": [" CONV(f) ", " POOL(4) ", " CONV(f) ", " POOL(2) ", \"flatten\", " DENSE(u) ", " LAST "]}"
#define BLOCK CONV(32) ", " POOL(2)
#define CIFAR10(blocks)                                                                                                \
    "{\"layers\": [" blocks ", \"flatten\", {\"dropout\": {\"rate\": 0.25}}, " DENSE(128) ", " LAST "]}"
#define PRESET(name) "{\"preset\": \"" name "\"}"

static const struct row {
    const char *name, *model;
    int samples, batch;
    bool augment;
} ROWS[] = {
    {"quickstart, 8 filters", QUICKSTART(8, 16), 10000, 64, false},
    {"quickstart, 16 filters", QUICKSTART(16, 64), 10000, 16, false},
    {"cifar10_fedavg_asha, 1 block", CIFAR10(BLOCK), 10000, 64, true},
    {"cifar10_fedavg_asha, 3 blocks", CIFAR10(BLOCK ", " BLOCK ", " BLOCK), 10000, 32, true},
    {"bench_cnn", PRESET("bench_cnn"), 10000, 32, true},
    {"seed_cnn", PRESET("seed_cnn"), 4000, 64, true},
    {"pfl_cnn", PRESET("pfl_cnn"), 4000, 10, false},
    {"lenet", PRESET("lenet"), 10000, 50, true},
};

struct bench {
    struct dataset *dataset;
    struct federation_data *split;
    struct model *model;
    struct backend *backend;
    struct plan *plan;
    struct augment augment;
    struct evaluation evaluation;
    struct replica replicas[COHORT];
    uint32_t cohort[COHORT];
    float *weights, *scores;
    double *sum;
    bool alone; /* one core: processor time counts */
};

struct times {
    double train, validate, clients;
};

static double now(const struct bench *b)
{
    struct timespec t;

    clock_gettime(b->alone ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static json_t *sections_of(const struct row *row, struct error *err)
{
    json_t *model, *written, *sections;
    int rc = json_parse(row->model, strlen(row->model), &model, err);

    if (rc)
        return NULL;
    written = json_pack("{s:{s:s, s:{s:i}}, s:o, s:{s:f, s:f, s:i}, s:{s:i, s:i, s:{s:s, s:f}}}", "data", "source",
                        "synthetic", "synthetic", "samples", row->samples, "model", model, "training", "learning_rate",
                        0.01, "momentum", 0.9, "batch_size", row->batch, "federation", "clients", CLIENTS,
                        "clients_per_round", COHORT, "partition", "scheme", "dirichlet", "alpha", 0.5);
    if (row->augment)
        json_object_set_new(json_object_get(written, "data"), "augment",
                            json_pack("{s:{s:i}, s:b}", "random_crop", "padding", 4, "horizontal_flip", 1));
    sections = keys_resolve(SECTION_KEYS, written);
    json_decref(written);
    return sections;
}

static int set_up(struct bench *b, const struct row *row, const json_t *sections, const int *cores, size_t cores_n,
                  struct error *err)
{
    const json_t *data = json_object_get(sections, "data"), *training = json_object_get(sections, "training");
    struct plan_options options = plan_options_from(training);
    struct data_shape shape;
    struct optimizer optimizer;
    size_t mem_bytes;
    int rc;

    b->alone = cores_n == 1;
    if ((rc = optimizer_from(training, &optimizer, err)) ||
        (rc = dataset_open(data, 1, "build/bench/cache", &b->dataset, err)) ||
        (rc = split_make(b->dataset, data, json_object_get(sections, "federation"), 1, &b->split, err)))
        return rc;
    dataset_normalise(b->dataset, b->split->train.list, b->split->train.n);
    shape = (struct data_shape){b->dataset->channels, b->dataset->height,  b->dataset->width,
                                b->dataset->classes,  b->dataset->train.n, b->dataset->test.n};
    if ((rc = model_new(json_object_get(sections, "model"), &shape, &b->model, err)) ||
        (rc = BACKEND_CPU.open(&(struct backend_options){.cores = cores, .cores_n = cores_n}, &b->backend, err)) ||
        (rc = BACKEND_CPU.load_dataset(b->backend, b->dataset, err)) ||
        (rc = BACKEND_CPU.compile(b->backend, b->model, &options, &b->plan, &mem_bytes, err)) ||
        (rc = evaluation_init(&b->evaluation, b->dataset->classes)))
        return rc;
    b->augment = augment_from(data);
    b->weights = calloc(b->model->weights_n, sizeof *b->weights);
    b->sum = buffer_new(b->model->weights_n * sizeof *b->sum);
    b->scores = calloc(b->split->validation.n * (size_t)b->dataset->classes, sizeof *b->scores);
    if (!b->weights || !b->sum || !b->scores)
        return fail(err, -ENOMEM, "out of memory");
    model_init_weights(b->model, 1, 1, b->weights);
    cohort_draw(1, 1, 1, CLIENTS, COHORT, b->cohort);
    for (size_t i = 0; i < COHORT; i++)
        b->replicas[i] = (struct replica){.start = b->weights,
                                          .samples = b->split->clients[b->cohort[i]].train.list,
                                          .samples_n = b->split->clients[b->cohort[i]].train.n,
                                          .epochs = 1,
                                          .batch = (size_t)row->batch,
                                          .lr = 0.01f,
                                          .optimizer = optimizer,
                                          .seed = 1,
                                          .client = b->cohort[i],
                                          .weight = 1.0 / COHORT};
    return 0;
}

static void bench_done(struct bench *b)
{
    if (b->plan)
        BACKEND_CPU.release_plan(b->plan);
    BACKEND_CPU.close(b->backend);
    model_free(b->model);
    split_free(b->split);
    dataset_close(b->dataset);
    evaluation_done(&b->evaluation);
    free(b->weights);
    buffer_free(b->sum);
    free(b->scores);
}

static int evaluate(struct bench *b, const struct indices *samples, float *scores, struct error *err)
{
    evaluation_clear(&b->evaluation);
    return BACKEND_CPU.evaluate(b->plan, b->weights, &b->dataset->train, samples->list, samples->n, &b->evaluation, scores,
                                err);
}

static int round_once(struct bench *b, struct times *ret, struct error *err)
{
    struct training training = {b->replicas, COHORT, .augment = &b->augment,
                                .reduction = {.type = REDUCE_WEIGHTED_SUM, .sum = b->sum}};
    double began = now(b);
    int rc = BACKEND_CPU.train(b->plan, &training, 1, err);

    ret->train = now(b) - began;
    began = now(b);
    if (rc || (rc = evaluate(b, &b->split->validation, b->scores, err)))
        return rc;
    ret->validate = now(b) - began;
    began = now(b);
    for (size_t i = 0; i < COHORT && !rc; i++)
        rc = evaluate(b, &b->split->clients[b->cohort[i]].held_out, NULL, err);
    ret->clients = now(b) - began;
    return rc;
}

/* The quickest of each part, of rounds for about so many seconds and three at least. */
static int measure(struct bench *b, double seconds, struct times *ret, struct error *err)
{
    struct times t;
    int rc = round_once(b, &t, err); /* touches memory for the first time */

    *ret = (struct times){INFINITY, INFINITY, INFINITY};
    for (int i = 0; !rc && (i < 3 || seconds > 0); i++) {
        if ((rc = round_once(b, &t, err)))
            return rc;
        ret->train = fmin(ret->train, t.train);
        ret->validate = fmin(ret->validate, t.validate);
        ret->clients = fmin(ret->clients, t.clients);
        seconds -= t.train + t.validate + t.clients;
    }
    return rc;
}

static int bench_row(const struct row *row, const int *cores, size_t cores_n, struct error *err)
{
    struct bench b = {0};
    struct times t;
    json_t *sections = sections_of(row, err);
    int rc = sections ? set_up(&b, row, sections, cores, cores_n, err) : -EINVAL;

    if (!rc && !(rc = measure(&b, 1.0, &t, err))) {
        double share = 100 * t.validate / (t.train + t.validate), whole = t.train + t.validate + t.clients;
        printf("%-30s %2zu core%s  round %8.1f ms  validation %5.1f%% of it%s, with clients %5.1f%%\n", row->name, cores_n,
               cores_n > 1 ? "s" : " ", 1e3 * (t.train + t.validate), share, share > GOAL_PERCENT ? " MISS" : "",
               100 * (t.validate + t.clients) / whole);
        fflush(stdout);
    }
    bench_done(&b);
    json_decref(sections);
    return rc;
}

int main(void)
{
    struct error err = {0};
    cpu_set_t allowed;
    int cores[CORES_MAX], rc = 0;
    size_t n = 0;

    sched_getaffinity(0, sizeof allowed, &allowed);
    for (int i = 0; i < CORES_MAX; i++)
        if (CPU_ISSET((size_t)i, &allowed))
            cores[n++] = i;
    for (size_t i = 0; i < sizeof ROWS / sizeof ROWS[0] && !rc; i++)
        for (size_t all = 0; all < (n > 1 ? 2 : 1) && !rc; all++)
            rc = bench_row(&ROWS[i], cores, all ? n : 1, &err);
    if (rc)
        fprintf(stderr, "validation: %s\n", err.text);
    return rc ? 1 : 0;
}
