/* evaluate.c - scores of weights on samples. Batches of a fixed size go to whichever thread is free and are added up in
 * order. SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cpu/cpu_private.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

int cpu_check_samples(const struct plan *p, const struct data_split *split, const uint32_t *samples, size_t n,
                      struct error *err)
{
    return backend_check_samples(p->model, p->backend->dataset, split, samples, n, err);
}

struct job {
    struct plan *plan;
    const struct data_split *split;
    const uint32_t *samples;
    size_t n, variant, chunks;
    double *losses;           /* by chunk */
    struct evaluation *parts; /* by thread: counts, whose order does not matter */
    float *predictions;
    atomic_size_t next;
};

static int evaluate_chunk(struct job *job, struct worker *w, size_t chunk, struct evaluation *part)
{
    const struct plan *p = job->plan;
    size_t classes = (size_t)p->model->classes, i = chunk * EVALUATE_ROWS;
    size_t n = job->n - i < EVALUATE_ROWS ? job->n - i : EVALUATE_ROWS;
    int rc;

    batch_assemble(p->backend->dataset, job->split, job->samples + i, n, &(struct augment){0}, NULL, LAYOUT_NHWC,
                   w->act[0], w->labels);
    if ((rc = step_forward(w, job->variant, n, MODE_EVALUATE, NULL)))
        return rc;
    job->losses[chunk] = loss_softmax(w->act[p->model->layers_n], w->labels, n, classes, NULL, NULL, part->confusion,
                                      job->predictions ? job->predictions + i * classes : NULL);
    part->n += n;
    return 0;
}

/* oneDNN's arguments are bound to the worker's own copy of the weights; all else reads the one that all threads have. */
static void evaluate_thread(void *arg, size_t thread)
{
    struct job *job = arg;
    const struct plan *p = job->plan;
    struct worker *w = p->workers[thread];
    struct team alone = {.n = 1, .first = thread};
    float *own = w->weights;
    size_t chunk;

    w->rc = 0;
    w->team = &alone;
    w->prepared = PREPARED_NOT;
    if (p->onednn)
        memcpy(own, p->start, p->weights_n * sizeof *own);
    else
        w->weights = p->start;
    while (!w->rc && (chunk = atomic_fetch_add(&job->next, 1)) < job->chunks)
        w->rc = evaluate_chunk(job, w, chunk, &job->parts[thread]);
    w->weights = own;
}

struct setup {
    struct plan *plan;
    size_t *variant;
    struct error *err;
    int rc;
};

static void setup_thread(void *arg, size_t thread)
{
    struct setup *s = arg;

    (void)thread;
    s->rc = plan_variant(s->plan, EVALUATE_ROWS, false, s->variant, s->err);
}

int cpu_evaluate(struct plan *p, const float *weights, const struct data_split *split, const uint32_t *samples,
                 size_t n, struct evaluation *ret, float *predictions, struct error *err)
{
    struct job job = {.plan = p, .split = split, .samples = samples, .n = n, .predictions = predictions};
    struct setup setup = {.plan = p, .variant = &job.variant, .err = err};
    size_t threads = crew_size(p->backend->crew);
    int rc = cpu_check_samples(p, split, samples, n, err);

    if (rc)
        return rc;
    if (ret->classes != p->model->classes)
        return fail(err, -EINVAL, "an evaluation of %d classes for a model of %d", ret->classes, p->model->classes);
    job.chunks = (n + EVALUATE_ROWS - 1) / EVALUATE_ROWS;
    if (threads > job.chunks)
        threads = job.chunks;
    if (!threads)
        return 0;
    crew_run(p->backend->crew, 1, setup_thread, &setup);
    if ((rc = setup.rc) || (rc = plan_workers(p, threads, 1, err)))
        return rc;
    job.losses = calloc(job.chunks, sizeof *job.losses);
    job.parts = calloc(threads, sizeof *job.parts);
    rc = job.losses && job.parts ? 0 : -ENOMEM;
    for (size_t i = 0; i < threads && !rc; i++)
        rc = evaluation_init(&job.parts[i], p->model->classes);
    if (rc) {
        fail(err, rc, "out of memory for an evaluation");
        goto out;
    }
    plan_gather(p, weights, p->start);
    crew_run(p->backend->crew, threads, evaluate_thread, &job);
    for (size_t i = 0; i < threads; i++)
        if (p->workers[i]->rc && !rc)
            rc = fail(err, p->workers[i]->rc, "%s", p->workers[i]->err.text);
    if (rc)
        goto out;
    for (size_t i = 0; i < threads; i++)
        evaluation_merge(ret, &job.parts[i]);
    for (size_t i = 0; i < job.chunks; i++)
        ret->loss_sum += job.losses[i];
out:
    for (size_t i = 0; job.parts && i < threads; i++)
        evaluation_done(&job.parts[i]);
    free(job.parts);
    free(job.losses);
    return rc;
}
