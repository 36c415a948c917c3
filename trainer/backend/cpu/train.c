/* train.c - replicas on threads: those of all trainings of a call are claimed in order, one after another.
 * SPDX-License-Identifier: Apache-2.0 */
#include "common/failpoint.h"
#include "trainer/backend/cpu/cpu_private.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

struct claim {
    struct training *training;
    struct replica *replica;
    size_t k, i; /* which training of the call, which replica of that */
};

struct round {
    struct plan *plan;
    struct claim *claims;
    size_t n, threads;
    struct team *teams; /* of team_size threads each */
    size_t team_size;
    atomic_size_t next;
    atomic_bool stopped; /* an error somewhere */
    const float *shared; /* the start that plan->start holds */
    struct sums sums;
};

/* one replica */

struct filling {
    struct worker *w;
    const uint32_t *samples;
    size_t n;
};

static void fill_share(void *arg, size_t rank)
{
    const struct filling *f = arg;
    const struct dataset *data = f->w->plan->backend->dataset;
    size_t lo, hi;

    own_share(f->w->team, rank, f->n, 1, &lo, &hi);
    if (lo < hi)
        batch_fill(data, &data->train, f->samples, f->w->choices, lo, hi, LAYOUT_NHWC, f->w->act[0], f->w->labels);
}

static const struct augment NO_AUGMENT;

static int train_batch(struct worker *w, const struct claim *c, const uint32_t *samples, size_t n,
                       struct pcg32 *augment, struct pcg32 *dropout, const float *start)
{
    struct plan *p = w->plan;
    const struct model *m = p->model;
    struct replica *r = c->replica;
    const float *correction = r->correction;
    size_t variant;
    uint64_t correct;
    int rc;

    if (!plan_find(p, n, true, &variant))
        return fail(&w->err, -EINVAL, "no plan for a batch of %zu", n);
    *w->update = (struct update){.optimizer = r->optimizer,
                                 .lr = r->lr,
                                 .proximal_mu = correction ? 0 : r->proximal_mu,
                                 .t = r->optimizer_steps + 1,
                                 .start = start,
                                 .early = !correction};
    batch_choose(c->training->augment ? c->training->augment : &NO_AUGMENT, augment, n, w->choices);
    team_run(w->team, fill_share, &(struct filling){w, samples, n});
    if ((rc = step_forward(w, variant, n, MODE_TRAIN, dropout)))
        return rc;
    r->loss_sum +=
        loss_softmax(w->act[m->layers_n], w->labels, n, (size_t)m->classes, w->grad[m->layers_n], &correct, NULL, NULL);
    memset(w->grad[m->layers_n] + n * (size_t)m->classes, 0,
           (p->variants[variant]->rows - n) * (size_t)m->classes * sizeof(float));
    if ((rc = step_backward(w, variant, n)))
        return rc;
    if (correction && r->proximal_mu > 0)
        kernel_proximal(r->proximal_mu, w->weights, start, w->grads, p->trainable_n);
    if (correction)
        plan_add_trainable(p, correction, w->grads);
    own_update_rest(w);
    r->optimizer_steps++;
    r->correct += correct;
    r->samples_seen += n;
    r->batches++;
    return 0;
}

/* Optimizer state has one or two parts, each like the trainable weights. */
static void move_state(const struct plan *p, const struct replica *r, float *working, bool in)
{
    size_t n = p->model->trainable_n, parts = optimizer_state_floats(&r->optimizer, n) / (n ? n : 1);

    for (size_t k = 0; k < parts; k++) {
        if (in)
            plan_gather_trainable(p, r->optimizer_state + k * n, working + k * p->trainable_n);
        else
            plan_scatter_trainable(p, working + k * p->trainable_n, r->optimizer_state + k * n);
    }
}

static int train_replica(struct round *round, struct worker *w, const struct claim *c)
{
    struct plan *p = round->plan;
    struct replica *r = c->replica;
    const float *start = p->start;
    double began = clock_seconds();
    int64_t steps = r->optimizer_steps;
    struct update update;
    int rc = 0;

    w->rates = (r->model ? r->model : p->model)->layers;
    w->update = &update;
    w->prepared = PREPARED_NOT;
    r->loss_sum = 0;
    r->samples_seen = r->correct = 0;
    r->batches = 0;
    if (!r->optimizer_state)
        r->optimizer_steps = 0;
    if (r->start != round->shared) {
        plan_gather(p, r->start, w->own_start);
        start = w->own_start;
    }
    memcpy(w->weights, start, p->weights_n * sizeof *w->weights);
    memset(w->state, 0, optimizer_state_floats(&r->optimizer, p->trainable_n) * sizeof *w->state);
    if (r->optimizer_state)
        move_state(p, r, w->state, true);
    for (int64_t epoch = 0; epoch < r->epochs && !rc; epoch++) {
        uint64_t who = r->client << 16 | (uint64_t)epoch;
        struct pcg32 shuffle = rng_key(r->seed, RNG_SHUFFLE, r->trial, r->round, who);
        struct pcg32 augment = rng_key(r->seed, RNG_AUGMENT, r->trial, r->round, who);
        struct pcg32 dropout = rng_key(r->seed, RNG_DROPOUT, r->trial, r->round, who);

        memcpy(w->order, r->samples, r->samples_n * sizeof *w->order);
        rng_shuffle_u32(&shuffle, w->order, r->samples_n);
        for (size_t i = 0; i < r->samples_n && !rc; i += r->batch) {
            size_t n = r->samples_n - i < r->batch ? r->samples_n - i : r->batch;
            if (r->max_batches > 0 && r->batches >= r->max_batches)
                goto trained;
            failpoint("worker_mid_round");
            if (backend_canceled(c->training))
                rc = fail(&w->err, -ECANCELED, "canceled");
            else if (atomic_load_explicit(&round->stopped, memory_order_relaxed))
                rc = fail(&w->err, -ECANCELED, "stopped");
            else
                rc = train_batch(w, c, w->order + i, n, &augment, &dropout, start);
        }
    }
trained:
    w->update = NULL;
    if (rc)
        return rc;
    r->update_norm = sqrt(kernel_distance(w->weights, start, p->trainable_n));
    r->finite = isfinite(r->loss_sum) && kernel_finite(w->weights, p->weights_n);
    if (r->optimizer_state)
        move_state(p, r, w->state, false);
    else
        r->optimizer_steps = steps;
    r->seconds = clock_seconds() - began;
    return 0;
}

/* The leader of a team: replica after replica. A training that is canceled leaves the others going on. */
static void train_replicas(struct round *round, struct worker *w)
{
    size_t at;

    w->rc = 0;
    while (!atomic_load(&round->stopped) && (at = atomic_fetch_add(&round->next, 1)) < round->n) {
        const struct claim *c = &round->claims[at];
        int rc = train_replica(round, w, c);
        if (rc == -ECANCELED && backend_canceled(c->training)) {
            sums_give_up(&round->sums, c->k);
        } else if (rc) {
            w->rc = rc;
            atomic_store(&round->stopped, true);
            sums_stop(&round->sums);
            return;
        } else if (c->training->reduction.type == REDUCE_WEIGHTED_SUM) {
            sums_deliver(&round->sums, c->k, c->i, w->weights);
        } else {
            plan_scatter(round->plan, w->weights, c->training->reduction.each[c->i]);
        }
    }
}

static void train_thread(void *arg, size_t thread)
{
    struct round *round = arg;
    struct team *team = &round->teams[thread / round->team_size];
    struct worker *w;

    if (thread % round->team_size) {
        team_follow(team, thread % round->team_size);
        return;
    }
    w = round->plan->workers[thread];
    w->team = team;
    train_replicas(round, w);
    w->team = NULL;
    team_dismiss(team);
}

/* set-up: everything that is allocated */

struct setup {
    struct round *round;
    struct error *err;
    int rc;
};

static void setup_thread(void *arg, size_t thread)
{
    struct setup *s = arg;
    struct round *round = s->round;

    (void)thread;
    for (size_t i = 0; i < round->n && !s->rc; i++) {
        const struct replica *r = round->claims[i].replica;
        size_t last = r->samples_n % r->batch, index;
        if (r->samples_n >= r->batch)
            s->rc = plan_variant(round->plan, r->batch, true, &index, s->err);
        if (last && !s->rc)
            s->rc = plan_variant(round->plan, last, true, &index, s->err);
    }
}

static int grow(void **buffer, size_t *size, size_t wanted, size_t item)
{
    if (*buffer && *size >= wanted)
        return 0;
    buffer_free(*buffer);
    *size = wanted;
    *buffer = buffer_new(wanted * item);
    return *buffer ? 0 : -ENOMEM;
}

/* What the largest of the replicas needs, made by the thread that works in it. */
struct needs {
    const struct round *round;
    size_t state, order;
    bool own_start;
};

static bool is_enough(const struct needs *n, const struct worker *w)
{
    return w->state && w->state_n >= n->state && w->order && w->order_n >= n->order && (w->own_start || !n->own_start);
}

static int grow_worker(void *arg, size_t thread, struct error *err)
{
    const struct needs *n = arg;
    struct plan *p = n->round->plan;
    struct worker *w = p->workers[thread];
    void *state, *order;
    int rc;

    if (thread % n->round->team_size)
        return 0;
    state = w->state, order = w->order;
    rc = grow(&state, &w->state_n, n->state, sizeof *w->state);
    w->state = state;
    if (!rc)
        rc = grow(&order, &w->order_n, n->order, sizeof *w->order);
    w->order = order;
    if (!rc && n->own_start && !w->own_start && !(w->own_start = buffer_new(p->weights_n * sizeof(float))))
        rc = -ENOMEM;
    return rc ? fail(err, rc, "out of memory for %zu replicas at once", n->round->threads) : 0;
}

static int setup_workers(struct round *round, struct error *err)
{
    struct plan *p = round->plan;
    struct needs needs = {.round = round};
    bool enough = true;
    int rc = plan_workers(p, round->threads, round->team_size, err);

    for (size_t i = 0; i < round->n; i++) {
        const struct replica *r = round->claims[i].replica;
        size_t floats = optimizer_state_floats(&r->optimizer, p->trainable_n);
        needs.state = floats > needs.state ? floats : needs.state;
        needs.order = r->samples_n > needs.order ? r->samples_n : needs.order;
        needs.own_start |= r->start != round->shared;
    }
    for (size_t i = 0; i < round->threads && !rc; i += round->team_size)
        enough &= is_enough(&needs, p->workers[i]);
    return rc || enough ? rc : crew_try(p->backend->crew, round->threads, grow_worker, &needs, err);
}

static int check_trainings(const struct plan *p, const struct training *trainings, size_t n, struct error *err)
{
    for (size_t k = 0; k < n; k++)
        if (trainings[k].reduction.type == REDUCE_MODEL)
            return fail(err, -EINVAL, "the CPU backend keeps no models");
    return backend_check_trainings(p->model, p->backend->dataset, p->batch, trainings, n, err);
}

/* The claims in order, and teams for them. */
static int round_init(struct round *round, struct training *trainings, size_t n, struct error *err)
{
    size_t crew = crew_size(round->plan->backend->crew), teams_n = crew < round->n ? crew : round->n, at = 0;

    round->team_size = crew / teams_n;
    round->threads = teams_n * round->team_size;
    round->claims = calloc(round->n, sizeof *round->claims);
    round->teams = calloc(teams_n, sizeof *round->teams);
    if (!round->claims || !round->teams)
        return fail(err, -ENOMEM, "out of memory for %zu replicas", round->n);
    for (size_t k = 0; k < n; k++) {
        trainings[k].canceled = false;
        for (size_t i = 0; i < trainings[k].n; i++)
            round->claims[at++] = (struct claim){&trainings[k], &trainings[k].replicas[i], k, i};
    }
    for (size_t i = 0; i < teams_n; i++)
        round->teams[i] = (struct team){.n = round->team_size, .first = i * round->team_size};
    round->shared = round->claims[0].replica->start;
    return sums_init(&round->sums, round->plan, trainings, n, teams_n, err);
}

static void round_done(struct round *round)
{
    sums_done(&round->sums);
    free(round->claims);
    free(round->teams);
}

int cpu_train(struct plan *p, struct training *trainings, size_t n, struct error *err)
{
    struct round round = {.plan = p, .n = backend_replicas(trainings, n)};
    struct setup setup = {.round = &round, .err = err};
    int rc = check_trainings(p, trainings, n, err);

    if (rc || !round.n)
        return rc;
    if ((rc = round_init(&round, trainings, n, err)))
        goto out;
    crew_run(p->backend->crew, 1, setup_thread, &setup);
    if ((rc = setup.rc) || (rc = setup_workers(&round, err)))
        goto out;
    plan_gather(p, round.shared, p->start);
    crew_run(p->backend->crew, round.threads, train_thread, &round);
    for (size_t i = 0; i < round.threads; i += round.team_size) /* the error that stopped the others, not their being stopped */
        if (p->workers[i]->rc && (!rc || rc == -ECANCELED))
            rc = fail(err, p->workers[i]->rc, "%s", p->workers[i]->err.text);
    if (!rc && backend_all_canceled(trainings, n))
        rc = fail(err, -ECANCELED, "canceled");
    if (!rc)
        sums_finish(&round.sums);
out:
    round_done(&round);
    return rc;
}

/* gradients of one batch */

struct gradients {
    struct plan *plan;
    const struct data_split *split;
    const uint32_t *samples;
    size_t n, variant;
    double loss;
    struct error *err;
    int rc;
};

static void gradients_setup(void *arg, size_t thread)
{
    struct gradients *g = arg;

    (void)thread;
    g->rc = plan_variant(g->plan, g->n, true, &g->variant, g->err);
}

static void gradients_thread(void *arg, size_t thread)
{
    struct gradients *g = arg;
    struct plan *p = g->plan;
    struct worker *w = p->workers[thread];
    struct team alone = {.n = 1, .first = thread};
    size_t classes = (size_t)p->model->classes;
    float *top = w->grad[p->model->layers_n];

    w->team = &alone;
    w->prepared = PREPARED_NOT;
    memcpy(w->weights, p->start, p->weights_n * sizeof *w->weights);
    batch_assemble(p->backend->dataset, g->split, g->samples, g->n, &(struct augment){0}, NULL, LAYOUT_NHWC, w->act[0],
                   w->labels);
    if ((g->rc = step_forward(w, g->variant, g->n, MODE_GRADIENTS, NULL)))
        return;
    g->loss = loss_softmax(w->act[p->model->layers_n], w->labels, g->n, classes, top, NULL, NULL, NULL) / (double)g->n;
    memset(top + g->n * classes, 0, (p->variants[g->variant]->rows - g->n) * classes * sizeof *top);
    g->rc = step_backward(w, g->variant, g->n);
}

int cpu_gradients(struct plan *p, const float *weights, const struct data_split *split, const uint32_t *samples,
                  size_t n, float *ret_gradients, double *ret_loss, struct error *err)
{
    struct gradients g = {.plan = p, .split = split, .samples = samples, .n = n, .err = err};
    int rc = cpu_check_samples(p, split, samples, n, err);

    if (rc)
        return rc;
    if (!n || n > p->batch)
        return fail(err, -EINVAL, "a batch of %zu, but the plan is for 1 to %zu", n, p->batch);
    crew_run(p->backend->crew, 1, gradients_setup, &g);
    if ((rc = g.rc) || (rc = plan_workers(p, 1, 1, err)))
        return rc;
    plan_gather(p, weights, p->start);
    crew_run(p->backend->crew, 1, gradients_thread, &g);
    if (g.rc)
        return fail(err, g.rc, "%s", p->workers[0]->err.text);
    plan_scatter_trainable(p, p->workers[0]->grads, ret_gradients);
    *ret_loss = g.loss;
    return 0;
}
