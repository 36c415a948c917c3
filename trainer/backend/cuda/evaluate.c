/* evaluate.c - scores of weights on samples. The device leaves loss and prediction of each sample; they are added up
 * here in the CPU backend's order. SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cuda/cuda_private.h"

#include <stdlib.h>

#define DRIVER(p) ((p)->backend->driver)
#define DEVICE_OF(p) ((p)->backend->device)
#define SUM_RUN 32 /* cpu_private.h: EVALUATE_ROWS */

static int grow(struct lanes *l, size_t n, bool scores, struct error *err)
{
    size_t classes = (size_t)l->program->model->classes, most = l->plan->backend->dataset->train.n, room;
    void *buffers[] = {l->samples, l->losses, l->predictions, l->scores};
    int rc = 0;

    most = l->plan->backend->dataset->test.n > most ? l->plan->backend->dataset->test.n : most;
    room = n <= l->samples_room ? l->samples_room : n > most ? n : most;
    if (n > l->samples_room || !l->samples) {
        const size_t items[] = {sizeof *l->samples, sizeof *l->losses, sizeof *l->predictions};
        for (size_t i = 0; i < 3 && !rc; i++) {
            size_t had = 0;
            rc = lanes_grow(l, &buffers[i], &had, room, items[i], err);
        }
        l->samples = buffers[0];
        l->losses = buffers[1];
        l->predictions = buffers[2];
        l->samples_room = rc ? 0 : room;
        DRIVER(l->plan)->release(DEVICE_OF(l->plan), l->scores);
        l->scores = NULL;
    }
    if (!rc && scores && !l->scores) {
        size_t had = 0;
        void *buffer = NULL;
        rc = lanes_grow(l, &buffer, &had, room * classes, sizeof *l->scores, err);
        l->scores = buffer;
    }
    return rc;
}

static void add_up(const double *losses, const uint16_t *predictions, const uint16_t *labels, const uint32_t *samples,
                   size_t n, struct evaluation *ret)
{
    size_t classes = (size_t)ret->classes;

    for (size_t run = 0; run < n; run += SUM_RUN) {
        double part = 0;
        for (size_t i = run; i < run + SUM_RUN && i < n; i++)
            part += losses[i];
        ret->loss_sum += part;
    }
    for (size_t i = 0; i < n; i++)
        ret->confusion[labels[samples[i]] * classes + predictions[i]]++;
    ret->n += n;
}

int cuda_score(struct plan *p, const float *weights, const struct resident *model, const struct data_split *split,
               const uint32_t *samples, size_t n, double *losses, uint16_t *predictions, float *scores,
               struct error *err)
{
    size_t classes = (size_t)p->model->classes;
    struct lanes *l;
    int rc;

    if (!p->evaluation && (rc = lanes_new(p, &p->evaluate, 1, &p->evaluation, err)))
        return rc;
    l = p->evaluation;
    cuda_plan_point(l, split, n);
    if ((rc = grow(l, n, scores != NULL, err)) ||
        (rc = DRIVER(p)->upload(DEVICE_OF(p), l->samples, samples, n * sizeof *samples, err)) ||
        (rc = DRIVER(p)->clear(DEVICE_OF(p), l->steps, sizeof *l->steps, err)) ||
        (rc = weights ? lanes_put_weights(l, weights, l->weights, p->model->weights_n, err)
                      : lanes_gather(l, model->weights, l->weights, p->model->weights_n, 1, err)) ||
        (rc = lanes_tell(l, err)) || (rc = lanes_run(l, (n + p->evaluate.rows - 1) / p->evaluate.rows, NULL, 0, err)) ||
        (rc = DRIVER(p)->download(DEVICE_OF(p), losses, l->losses, n * sizeof *losses, err)) ||
        (rc = DRIVER(p)->download(DEVICE_OF(p), predictions, l->predictions, n * sizeof *predictions, err)) ||
        (rc = scores ? DRIVER(p)->download(DEVICE_OF(p), scores, l->scores, n * classes * sizeof *scores, err) : 0))
        DRIVER(p)->wait(DEVICE_OF(p), NULL); /* what was queued is done before its memory is written again */
    return rc;
}

static int evaluate(struct plan *p, const float *weights, const struct resident *model, const struct data_split *split,
                    const uint32_t *samples, size_t n, struct evaluation *ret, float *scores, struct error *err)
{
    uint16_t *predictions;
    double *losses;
    int rc = cuda_plan_check_samples(p, split, samples, n, err);

    if (rc)
        return rc;
    if (ret->classes != p->model->classes)
        return fail(err, -EINVAL, "an evaluation of %d classes for a model of %d", ret->classes, p->model->classes);
    if (!n)
        return 0;
    losses = cuda_plan_host(p, n * (sizeof *losses + sizeof *predictions));
    if (!losses)
        return fail(err, -ENOMEM, "out of memory for an evaluation");
    predictions = (uint16_t *)(losses + n);
    rc = (p->peers ? parallel_score : cuda_score)(p, weights, model, split, samples, n, losses, predictions, scores,
                                                  err);
    if (!rc)
        add_up(losses, predictions, split->labels, samples, n, ret);
    return rc;
}

int cuda_evaluate(struct plan *p, const float *weights, const struct data_split *split, const uint32_t *samples,
                  size_t n, struct evaluation *ret, float *predictions, struct error *err)
{
    return evaluate(p, weights, NULL, split, samples, n, ret, predictions, err);
}

int cuda_evaluate_model(struct plan *p, const struct resident *model, const struct data_split *split,
                        const uint32_t *samples, size_t n, struct evaluation *ret, float *predictions,
                        struct error *err)
{
    return evaluate(p, NULL, model, split, samples, n, ret, predictions, err);
}
