/* store_bench.c - what the store sustains: reports a second with some batches in flight, each acknowledged from disk;
 * and how long each answer takes on a large experiment. Not a test: it prints, and claims nothing.
 *     store_bench FOLDER [SECONDS] [IN_FLIGHT] [TRIALS]     (FOLDER on the disk to be measured; TRIALS of 100 reports)
 * SPDX-License-Identifier: Apache-2.0 */
#include "common/file.h"
#include "orchestrator/store/store.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define REPORTS 100
#define CLIENTS 5

struct load {
    struct store *store;
    int64_t next, acknowledged, groups;
    double deadline;
    int in_flight;
};

static double now(void)
{
    struct timespec at;

    clock_gettime(CLOCK_MONOTONIC, &at);
    return (double)at.tv_sec + (double)at.tv_nsec / 1e9;
}

static void die(const char *text)
{
    fprintf(stderr, "store_bench: %s\n", text);
    _exit(1);
}

static json_t *report_body(int64_t unit, int clients)
{
    json_t *rows = json_array();

    for (int i = 0; i < clients; i++)
        json_array_append_new(rows, json_pack("{s:i, s:i, s:f, s:{s:f}}", "client", i, "samples", 900, "seconds", 0.2,
                                              "metrics", "train_loss", 1.0 / (double)(unit + i)));
    return json_pack("{s:s, s:{s:I}, s:{s:f, s:f}, s:o}", "kind", "validation", "units", "rounds", (json_int_t)unit,
                     "metrics",
                     "validation_accuracy", 1 - 1.0 / (double)unit, "train_loss", 1.0 / (double)unit, "clients", rows);
}

static void put_experiment(struct store_batch *batch, int64_t id)
{
    json_t *resolved = json_pack("{s:{s:s, s:s, s:b, s:s}}", "searcher", "name", "random", "metric",
                                 "validation_accuracy",
                                 "smaller_is_better", 0, "time_metric", "rounds");

    store_put_experiment(batch, id, "bench", "text", resolved, "active", 1);
    json_decref(resolved);
}

static void put_trial(struct store_batch *batch, struct trial_ref trial, int64_t run)
{
    json_t *values = json_pack("{s:f, s:i}", "lr", 1.0 / (double)trial.number, "batch", 32),
        *slots = json_pack("[s]", "cpu:0");

    store_put_trial(batch, trial, values, 1);
    store_put_run(batch, run, trial, 1, slots, 1, "avx2", 0, 1);
    store_put_trial_state(batch, trial, "running", NULL, NULL, 0, 1);
    json_decref(values);
    json_decref(slots);
}

/* --- writing ------------------------------------------------------------------------------------------------------ */

static void submit(struct load *load);

static void acknowledged(void *arg, int status)
{
    struct load *load = arg;

    if (status)
        die(store_failure(load->store));
    load->in_flight--;
    load->acknowledged++;
}

static void submit(struct load *load)
{
    struct store_batch *batch = store_batch_new();
    json_t *body = report_body(load->next, CLIENTS);

    store_put_report(batch, (struct trial_ref){1, 1}, 1, load->next, body, "rounds", load->next);
    json_decref(body);
    load->next++;
    load->in_flight++;
    store_submit(load->store, batch, acknowledged, load);
}

static int64_t groups;

static void count_group(void *arg)
{
    (void)arg;
    __atomic_add_fetch(&groups, 1, __ATOMIC_RELAXED);
}

static struct store *open_or_die(const char *path)
{
    struct error err = {0};
    struct store *store;

    if (store_open(path, false, count_group, NULL, &store, NULL, &err))
        die(err.text);
    return store;
}

static void measure_writing(const char *path, double seconds, int in_flight)
{
    struct load load = {.store = open_or_die(path), .next = 1};
    struct store_batch *batch = store_batch_new();
    double start;
    int64_t before;

    put_experiment(batch, 1);
    put_trial(batch, (struct trial_ref){1, 1}, 1);
    store_submit(load.store, batch, NULL, NULL);
    store_flush(load.store);
    before = __atomic_load_n(&groups, __ATOMIC_RELAXED);
    start = now();
    while (now() - start < seconds) {
        while (load.in_flight < in_flight)
            submit(&load);
        while (load.in_flight == in_flight) {
            store_poll(load.store);
            if (load.in_flight == in_flight)
                usleep(20);
        }
    }
    store_flush(load.store);
    seconds = now() - start;
    before = __atomic_load_n(&groups, __ATOMIC_RELAXED) - before;
    printf("writing: %.0f reports/s (of %d clients each), %.0f commits/s (an fsync each), %d batches in flight\n",
           (double)load.acknowledged / seconds, CLIENTS, (double)before / seconds, in_flight);
    store_close(load.store);
}

/* --- reading ------------------------------------------------------------------------------------------------------ */

static void fill(struct store *store, int64_t trials)
{
    for (int64_t trial = 1; trial <= trials; trial++) {
        struct trial_ref ref = {2, trial};
        struct store_batch *batch = store_batch_new();
        json_t *units = json_pack("{s:i}", "rounds", REPORTS);
        char path[64];

        if (trial == 1)
            put_experiment(batch, 2);
        put_trial(batch, ref, 1 + trial);
        for (int64_t unit = 1; unit <= REPORTS; unit++) {
            json_t *body = report_body(unit, 0);
            store_put_report(batch, ref, 1 + trial, unit, body, "rounds", unit);
            json_decref(body);
        }
        snprintf(path, sizeof path, "runs/%lld/checkpoint.safetensors", (long long)trial);
        store_put_checkpoint(batch, trial, ref, 1 + trial, REPORTS + 1, REPORTS, units, path, 1, 1);
        store_put_trial_best(batch, ref, 1.0 / (double)trial, REPORTS, trial);
        store_put_run_end(batch, 1 + trial, "length", NULL, 2);
        store_put_trial_state(batch, ref, trial % 10 ? "completed" : "error", "length", NULL, 0, 2);
        json_decref(units);
        store_submit(store, batch, NULL, NULL);
        if (trial % 100 == 0)
            store_flush(store);
    }
    store_flush(store);
    if (store_failure(store))
        die(store_failure(store));
}

static int one_read(struct store *store, int which, json_t **ret, struct error *err)
{
    switch (which) {
    case 0:
        return store_read_describe(store, 2, ret, err);
    case 1:
        return store_read_list(store, true, ret, err);
    case 2:
        return store_read_trials(store, 2, ret, err);
    case 3:
        return store_read_trial(store, (struct trial_ref){2, 7}, ret, err);
    default:
        return store_read_metrics(store, (struct trial_ref){2, 7}, "validation_accuracy", -1, ret, err);
    }
}

static void measure_reading(const char *path, int64_t trials)
{
    static const char *const NAMES[] = {"describe", "list", "trials", "trial", "metrics"};
    struct store *store = open_or_die(path);
    double start = now();

    fill(store, trials);
    printf("filling: %lld trials of %d reports in %.1f s\n", (long long)trials, REPORTS, now() - start);
    for (int which = 0; which < 5; which++) {
        double best = 1e9, first = 0;
        for (int i = 0; i < 7; i++) {
            struct error err = {0};
            json_t *answer;
            double took;
            start = now();
            if (one_read(store, which, &answer, &err))
                die(err.text);
            took = now() - start;
            first = i ? first : took;
            best = took < best ? took : best;
            json_decref(answer);
        }
        printf("reading: %-8s %7.2f ms (first time %.2f ms)\n", NAMES[which], 1e3 * best, 1e3 * first);
    }
    store_close(store);
}

int main(int argc, char **argv)
{
    char path[4096];

    if (argc < 2)
        die("store_bench FOLDER [SECONDS] [IN_FLIGHT] [TRIALS]");
    snprintf(path, sizeof path, "%s/store_bench.db", argv[1]);
    if (file_exists(path))
        die("FOLDER holds a store_bench.db already");
    measure_writing(path, argc > 2 ? atof(argv[2]) : 5, argc > 3 ? atoi(argv[3]) : 8);
    measure_reading(path, argc > 4 ? atoll(argv[4]) : 10000);
    unlink(path);
    return 0;
}
