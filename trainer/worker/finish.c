/* finish.c - what a run leaves on disk: checkpoints, the best model, result.json.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/worker/run_private.h"

#include "common/failpoint.h"
#include "common/file.h"
#include "trainer/artifact/checkpoint.h"
#include "trainer/artifact/result.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#define SPACE_RETRY_MS 1000

static struct checkpoint checkpoint_of(struct run *run, float *weights, int64_t **ret_steps)
{
    struct checkpoint checkpoint = {.model = run->loan.model, .seed = run->seed, .trial = run->trial,
                                    .weights = weights};

    checkpoint.optimizer = pool_state(run->pool, &checkpoint.optimizer_n, ret_steps);
    return checkpoint;
}

static json_t *state_of(const struct run *run, int64_t optimizer_steps)
{
    json_t *state = json_pack("{s:o, s:I, s:I}", "units", run_units(run), "round", (json_int_t)run->round,
                              "optimizer_steps", (json_int_t)optimizer_steps);

    if (run->convergence.has_best)
        json_object_set_new(state, "convergence_best", json_real(run->convergence.best));
    json_object_set_new(state, "convergence_rounds", json_integer(run->convergence.rounds_without));
    json_object_set_new(state, "converged", json_boolean(run->converged));
    return state;
}

static void say(struct run *run, const char *level, bool waits, const char *text, const char *more)
{
    connection_send(run->connection, json_pack("{s:s, s:I, s:s, s:b, s:s+}", "op", "log", "run", (json_int_t)run->id,
                                               "level", level, "waits", waits, "text", text, more));
}

bool run_try_again(struct run *run, int *rc, struct error *err)
{
    bool no_space = *rc == -ENOSPC || *rc == -EDQUOT, was = atomic_exchange(&run->no_space, no_space);

    if (no_space && !was)
        say(run, "warning", true, err->text, "; the run waits until there is space");
    if (!*rc && was)
        say(run, "info", false, "there is space on the disk again", "");
    if (no_space)
        poll(NULL, 0, SPACE_RETRY_MS);
    if (no_space && *run->released)
        *rc = fail(err, -ECANCELED, "released while it waited for space");
    return no_space && *rc != -ECANCELED;
}

int run_checkpoint(struct run *run, struct error *err)
{
    char name[256], path[4096];
    struct checkpoint checkpoint;
    struct timespec now;
    struct stat st;
    int64_t *steps;
    float *weights;
    int rc;

    if (run->checkpoint_unit == run_unit(run))
        return 0;
    if ((rc = pool_weights(run->pool, &weights, err)))
        return rc;
    checkpoint = checkpoint_of(run, weights, &steps);
    snprintf(name, sizeof name, "runs/%lld/checkpoint-%llu.safetensors", (long long)run->id,
             (unsigned long long)run->round);
    snprintf(path, sizeof path, "%s/%s", run->trial_dir, name);
    if (run->best.has && run->best.unit == run_unit(run))
        snprintf(run->best.path, sizeof run->best.path, "%s", path);
    checkpoint.state = state_of(run, *steps);
    failpoint("worker_before_checkpoint");
    do
        rc = checkpoint_write(path, &checkpoint, err);
    while (run_try_again(run, &rc, err));
    json_decref(checkpoint.state);
    if (rc)
        return rc;
    failpoint("worker_after_checkpoint");
    clock_gettime(CLOCK_MONOTONIC, &now);
    run->checkpoint_ms = (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
    run->checkpoint_unit = run_unit(run);
    run_send(run, "checkpoint",
             json_pack("{s:o, s:s, s:I}", "units", run_units(run), "path", name, "bytes",
                       (json_int_t)(stat(path, &st) ? 0 : st.st_size)));
    return 0;
}

static int read_checkpoint(struct run *run, const char *path, struct checkpoint *checkpoint, struct error *err)
{
    int rc = checkpoint_read(path, checkpoint, err);

    if (rc == -EUCLEAN)
        run->bad_checkpoint = path;
    return rc;
}

/* The best so far is of an earlier run. The orchestrator says where it is, for it alone knows which files are still kept.
 * It is read now: that it cannot be used must not be found out when the run has done its work. */
static int resume_best(struct run *run, const char *path, const json_t *best, struct error *err)
{
    int64_t *steps;
    struct checkpoint checkpoint = checkpoint_of(run, run->best.weights, &steps);
    int rc;

    if (!json_is_object(best))
        return 0;
    run->best.value = json_double_or(best, "value", 0);
    run->best.unit = json_double_or(best, "unit", 0);
    snprintf(run->best.path, sizeof run->best.path, "%s", json_string_or(best, "path", ""));
    checkpoint.optimizer_n = 0; /* the weights alone */
    if (!strcmp(path, run->best.path)) {
        memcpy(run->best.weights, pool_start(run->pool), run->loan.model->weights_n * sizeof *run->best.weights);
    } else {
        rc = read_checkpoint(run, run->best.path, &checkpoint, err);
        if (rc)
            return rc;
        json_decref(checkpoint.state);
    }
    run->best.has = true;
    return 0;
}

int run_resume(struct run *run, const json_t *resume, struct error *err)
{
    const char *path = json_string_or(resume, "path", "");
    int64_t *steps;
    struct checkpoint checkpoint = checkpoint_of(run, pool_start(run->pool), &steps);
    int rc = read_checkpoint(run, path, &checkpoint, err);

    if (rc)
        return rc;
    for (int kind = 0; kind < UNIT_KINDS; kind++)
        run->units[kind] = json_double_or(json_object_get(checkpoint.state, "units"), UNIT_NAMES[kind], 0);
    run->round = (uint64_t)json_int_or(checkpoint.state, "round", 0);
    *steps = json_int_or(checkpoint.state, "optimizer_steps", 0);
    run->convergence.has_best = json_to_double(json_object_get(checkpoint.state, "convergence_best"),
                                               &run->convergence.best);
    run->convergence.rounds_without = json_int_or(checkpoint.state, "convergence_rounds", 0);
    run->converged = json_bool_or(checkpoint.state, "converged", false);
    run->checkpoint_unit = run_unit(run);
    json_decref(checkpoint.state);
    return resume_best(run, path, json_object_get(resume, "best"), err);
}

/* The best is of an earlier run: its weights were read at the start, its scores are computed again. */
static int recall_best(struct run *run, struct error *err)
{
    const struct indices *samples = &run->loan.split->validation;
    int rc;

    evaluation_clear(&run->best.evaluation);
    rc = seat_evaluate(run->loan.seat, run->best.weights, run->validation_split, samples->list, samples->n,
                       &run->best.evaluation, run->best.scores, err);
    run->best.in_memory = rc == 0;
    return rc;
}

static json_t *model_metadata(const struct run *run)
{
    const struct dataset *dataset = run->loan.dataset;
    char *model = json_canonical(json_object_get(run->sections, "model"));
    json_t *metadata, *mean = json_array(), *std = json_array(), *names = json_array();
    char *mean_text, *std_text, *names_text, shape[64];

    for (int c = 0; c < dataset->channels; c++) {
        json_array_append_new(mean, json_real((double)dataset->mean[c]));
        json_array_append_new(std, json_real((double)dataset->std[c]));
    }
    for (int c = 0; c < dataset->classes; c++)
        json_array_append_new(names, json_string(dataset->class_names[c]));
    mean_text = json_line(mean);
    std_text = json_line(std);
    names_text = json_line(names);
    snprintf(shape, sizeof shape, "[%d,%d,%d]", dataset->channels, dataset->height, dataset->width);
    metadata = json_pack("{s:s, s:s, s:s, s:s, s:s, s:s}", "format", "flexp-model-1", "model", model, "input_shape", shape,
                         "mean", mean_text, "std", std_text, "class_names", names_text);
    free(model);
    free(mean_text);
    free(std_text);
    free(names_text);
    json_decref(mean);
    json_decref(std);
    json_decref(names);
    return metadata;
}

static int leave_model(struct run *run, struct error *err)
{
    json_t *metadata = model_metadata(run);
    char path[4096];
    int rc;

    snprintf(path, sizeof path, "%s/model.safetensors", run->trial_dir);
    do
        rc = model_file_write(path, run->loan.model, run->best.weights, metadata, err);
    while (run_try_again(run, &rc, err));
    json_decref(metadata);
    return rc;
}

static int leave_numbers(struct run *run, struct error *err)
{
    const struct indices *samples = &run->loan.split->validation;
    bool official = run->validation_split == &run->loan.dataset->test;
    json_t *units = json_pack("{s:f}", UNIT_NAMES[run->kind], run->best.unit);
    struct result result;
    char path[4096];
    int rc;

    snprintf(path, sizeof path, "%s/result.json", run->trial_dir);
    result = (struct result){.split = official ? "official test split as validation" : "validation",
                             .model_file = "model.safetensors",
                             .dataset = run->loan.dataset,
                             .evaluation = &run->best.evaluation,
                             .scores = run->best.scores,
                             .samples = samples->list,
                             .data = run->validation_split,
                             .n = samples->n,
                             .hyperparameters = json_object_get(run->assign, "hyperparameters"),
                             .units = units};
    do
        rc = result_write(path, &result, err);
    while (run_try_again(run, &rc, err));
    json_decref(units);
    return rc;
}

static void *do_leave(void *arg)
{
    struct leaving *leaving = arg;

    leaving->rc = leaving->write(leaving->run, &leaving->err);
    return NULL;
}

void run_begin_result(struct run *run)
{
    static int (*const WRITE[])(struct run *run, struct error *err) = {leave_model, leave_numbers};

    if (!run->best.has || !run->best.in_memory)
        return;
    for (int i = 0; i < RESULT_FILES; i++) {
        struct leaving *leaving = &run->leaving[i];
        if (leaving->begun)
            continue;
        *leaving = (struct leaving){.run = run, .write = WRITE[i], .begun = true};
        leaving->threaded = pthread_create(&leaving->thread, NULL, do_leave, leaving) == 0;
        if (!leaving->threaded)
            do_leave(leaving);
    }
}

int run_leave_result(struct run *run, struct error *err)
{
    int rc = 0;

    if (!run->best.has)
        return 0; /* nothing was ever validated to a number */
    if (!run->best.in_memory && (rc = recall_best(run, err)))
        return rc;
    run_begin_result(run);
    for (int i = 0; i < RESULT_FILES; i++) {
        struct leaving *leaving = &run->leaving[i];
        if (leaving->threaded)
            pthread_join(leaving->thread, NULL);
        leaving->begun = leaving->threaded = false;
        if (leaving->rc && !rc) {
            rc = leaving->rc;
            if (err)
                *err = leaving->err;
        }
    }
    return rc;
}
