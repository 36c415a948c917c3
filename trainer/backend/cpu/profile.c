/* profile.c - which kernel each layer of a plan has, and how long it takes here: whole steps on one core over noise, the
 * quickest time of each layer. SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cpu/cpu_private.h"

#include "common/json.h"

#include <stdlib.h>
#include <string.h>

#define SECONDS 0.5
#define STEPS 4 /* at least, where there is time: the first meets memory that nobody has touched */
#define MOST_SECONDS 5
#define PEAK_SECONDS 0.02

struct job {
    struct plan *plan;
    struct layer_times *times; /* layers_n */
    double peak;
    struct error *err;
    int rc;
};

static void noise(struct worker *w)
{
    const struct plan *p = w->plan;
    struct pcg32 rng = rng_key(1, RNG_SYNTHETIC, 0, 0, 0);
    size_t values = p->batch * p->graph.tensors[0].values;

    for (size_t i = 0; i < values; i++)
        w->act[0][i] = 2 * rng_float(&rng) - 1;
    for (size_t i = 0; i < p->batch; i++)
        w->labels[i] = (uint16_t)rng_below(&rng, (uint32_t)p->model->classes);
}

static int step(struct worker *w, size_t variant, const float *weights, struct pcg32 *rng)
{
    const struct plan *p = w->plan;
    float *top = w->grad[p->model->layers_n];
    uint64_t correct;
    int rc;

    *w->update = (struct update){.lr = 1e-6f, .t = 1, .start = weights, .early = true};
    if ((rc = step_forward(w, variant, p->batch, MODE_TRAIN, rng)))
        return rc;
    loss_softmax(w->act[p->model->layers_n], w->labels, p->batch, (size_t)p->model->classes, top, &correct, NULL, NULL);
    if ((rc = step_backward(w, variant, p->batch)))
        return rc;
    own_update_rest(w);
    return 0;
}

static void profile_thread(void *arg, size_t thread)
{
    struct job *job = arg;
    struct plan *p = job->plan;
    struct worker *w = p->workers[thread];
    struct team alone = {.n = 1, .first = thread};
    struct update update;
    struct pcg32 rng = rng_key(1, RNG_DROPOUT, 0, 0, 0);
    double began = clock_seconds();
    size_t variant;

    plan_find(p, p->batch, true, &variant);
    w->team = &alone;
    w->update = &update;
    w->times = job->times;
    w->prepared = PREPARED_NOT;
    memcpy(w->weights, p->start, p->weights_n * sizeof *w->weights);
    noise(w);
    for (int steps = 0; !job->rc && clock_seconds() - began < (steps < STEPS ? MOST_SECONDS : SECONDS); steps++)
        if ((job->rc = step(w, variant, p->start, &rng)))
            fail(job->err, job->rc, "%s", w->err.text);
    w->times = NULL;
    w->update = NULL;
    w->team = NULL;
    job->peak = p->backend->native->peak_flops(PEAK_SECONDS);
}

static double values_of(const struct shape *s)
{
    return (double)s->c * s->h * s->w;
}

/* The layers that node i computes: itself and what it has absorbed. */
static size_t last_of(const struct plan *p, size_t i)
{
    size_t last = i;

    while (last + 1 < p->model->layers_n && p->graph.nodes[last + 1].absorbed)
        last++;
    return last;
}

static const char *kernel_of(const struct plan *p, size_t i)
{
    const struct node *n = &p->graph.nodes[i];

    if (n->kernel)
        return n->kernel->name;
    if (n->own_dense)
        return "dense";
    if (plan_is_onednn(p, i))
        return "onednn";
    return n->skip_forward ? "nothing" : "loop";
}

/* One row: counts are of a whole step on a batch. Bytes: what must be read and written at least, weights and their
 * gradients included. */
static json_t *row_json(const struct job *job, size_t i)
{
    const struct plan *p = job->plan;
    const struct layer *l = &p->model->layers[i], *last = &p->model->layers[last_of(p, i)];
    const struct node *n = &p->graph.nodes[i];
    double rows = (double)p->batch, in = values_of(&l->in), out = values_of(&last->out), weights = 0, flops = 0;
    double seconds = job->times[i].forward + job->times[i].backward;
    int passes = 1 + (l->weight >= 0) + n->need_in;
    json_t *types = json_array();

    if (l->weight >= 0)
        weights = (double)p->model->params[l->weight].size;
    if (l->type == LAYER_CONV2D)
        flops = 2 * weights * l->out.h * l->out.w * rows * passes;
    else if (l->type == LAYER_DENSE)
        flops = 2 * weights * rows * passes;
    for (size_t k = i; k <= last_of(p, i); k++)
        json_array_append_new(types, json_string(layer_type_name(p->model->layers[k].type)));
    return json_pack("{s:I, s:I, s:o, s:s, s:f, s:f, s:f, s:f, s:f}", "first", (json_int_t)i, "last",
                     (json_int_t)last_of(p, i), "types", types, "kernel", kernel_of(p, i), "flops", flops, "bytes",
                     n->skip_forward ? 0.0
                                     : 4 * (rows * (in + out) * 2 + (n->need_in ? rows * in : 0) + 4 * weights),
                     "forward_us", 1e6 * job->times[i].forward, "backward_us", 1e6 * job->times[i].backward, "peak_share",
                     seconds > 0 ? flops / seconds / job->peak : 0.0);
}

json_t *cpu_profile(struct plan *p, const float *weights, struct error *err)
{
    struct job job = {.plan = p, .err = err};
    json_t *rows;
    double sum = 0;

    job.times = calloc(p->model->layers_n + 1, sizeof *job.times);
    if (!job.times || plan_workers(p, 1, 1, err)) {
        free(job.times);
        return NULL;
    }
    plan_gather(p, weights, p->start);
    crew_run(p->backend->crew, 1, profile_thread, &job);
    rows = json_array();
    for (size_t i = 0; i < p->model->layers_n; i++) {
        sum += job.times[i].forward + job.times[i].backward;
        if (!p->graph.nodes[i].absorbed)
            json_array_append_new(rows, row_json(&job, i));
    }
    free(job.times);
    if (job.rc) {
        json_decref(rows);
        return NULL;
    }
    return json_pack("{s:s, s:I, s:f, s:f, s:o}", "isa", p->backend->isa, "batch", (json_int_t)p->batch,
                     "peak_flops", job.peak, "step_us", 1e6 * sum, "rows", rows);
}
