/* evaluate.c - a run that evaluates a checkpoint on the test split: on request, and once for an experiment's best.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/worker/run_private.h"

#include "trainer/artifact/checkpoint.h"
#include "trainer/artifact/result.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct test {
    float *weights, *scores;
    uint32_t *samples;
    size_t n;
    json_t *units; /* of the checkpoint */
};

static void test_done(struct test *test)
{
    free(test->weights);
    free(test->scores);
    free(test->samples);
    json_decref(test->units);
}

static int test_init(struct run *run, struct test *test, struct error *err)
{
    const struct dataset *dataset = run->loan.dataset;

    test->n = dataset->test.n;
    if (!test->n)
        return fail(err, -EINVAL, "data.source %s has no test split here", dataset->source);
    test->weights = malloc(run->loan.model->weights_n * sizeof *test->weights);
    test->samples = malloc(test->n * sizeof *test->samples);
    test->scores = malloc(test->n * (size_t)dataset->classes * sizeof *test->scores);
    if (!test->weights || !test->samples || !test->scores || evaluation_init(&run->validation, dataset->classes))
        return fail(err, -ENOMEM, "out of memory for %zu test samples", test->n);
    for (size_t i = 0; i < test->n; i++)
        test->samples[i] = (uint32_t)i;
    return 0;
}

static int read_weights(struct run *run, struct test *test, struct error *err)
{
    struct checkpoint checkpoint = {.model = run->loan.model, .seed = run->seed, .trial = run->trial,
                                    .weights = test->weights};
    const char *file = json_string_or(run->assign, "checkpoint", "");
    int rc = checkpoint_read(file, &checkpoint, err);

    if (rc == -EUCLEAN)
        run->bad_checkpoint = file;
    if (rc)
        return rc;
    test->units = json_incref(json_object_get(checkpoint.state, "units"));
    json_decref(checkpoint.state);
    return 0;
}

static int leave_numbers(struct run *run, const struct test *test, struct error *err)
{
    struct result result = {.split = "test",
                            .model_file = "model.safetensors",
                            .dataset = run->loan.dataset,
                            .evaluation = &run->validation,
                            .scores = test->scores,
                            .samples = test->samples,
                            .data = &run->loan.dataset->test,
                            .n = test->n,
                            .hyperparameters = json_object_get(run->assign, "hyperparameters"),
                            .units = test->units};
    char path[4096];
    int rc;

    snprintf(path, sizeof path, "%s/result_test.json", run->trial_dir);
    do
        rc = result_write(path, &result, err);
    while (run_try_again(run, &rc, err));
    return rc;
}

static int evaluate_test(struct run *run, struct test *test, struct error *err)
{
    int rc = run_read_assign(run, err);

    if (!rc && strcmp(json_string_or(run->assign, "split", ""), "test"))
        rc = fail(err, -EINVAL, "split must be \"test\"");
    if (rc || (rc = run_prepare(run, err)) || (rc = test_init(run, test, err)) || (rc = read_weights(run, test, err)) ||
        (rc = seat_evaluate(run->loan.seat, test->weights, &run->loan.dataset->test, test->samples, test->n,
                            &run->validation, test->scores, err)))
        return rc;
    return leave_numbers(run, test, err);
}

void run_evaluate(struct run *run)
{
    json_t *metrics = json_object();
    struct error err = {0};
    struct test test = {0};
    int rc = evaluate_test(run, &test, &err);

    if (!rc) {
        struct scores values = evaluation_scores(&run->validation);
        scores_put(metrics, "test", &values);
    }
    rc = session_blame(&run->loan, run->sections, rc, &err);
    run_tear_down(run);
    if (!rc) {
        run_send(run, "report", json_pack("{s:s, s:O, s:O}", "kind", "test", "units", test.units, "metrics", metrics));
        run_send(run, "done", json_pack("{s:s, s:O}", "reason", "evaluated", "units", test.units));
    } else if (rc != -ECANCELED) {
        run_failed(run, rc, &err);
    }
    json_decref(metrics);
    test_done(&test);
}
