/* parallel_train.c - rounds on several GPUs; see parallel.c.
 * Replicas are split by ranks in contiguous ranges, turn after turn where they do not all fit. The sums of a round are
 * added up by one all-reduce; in fp32_strict (and without NCCL) they go from rank to rank instead, each adding its
 * replicas, so that they are added in the order of replicas and have the bits of one GPU.
 * A lone replica (training without federation) is shared: each rank has a share of every batch (parallel_step.c),
 * weights stay equal everywhere, and rank 0 has the say about what is not trained: batch norm's running statistics.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cuda/cuda_private.h"

#include <stdlib.h>

#define DRIVER(p) ((p)->backend->driver)
#define DEVICE_OF(p) ((p)->backend->device)

struct range {
    size_t first, n; /* of the call's replicas */
};

struct call {
    struct plan **plans;
    struct ranks *ranks;
    size_t ranks_n;
    struct training *trainings; /* the caller's, n */
    size_t n;
    size_t replicas;
    bool lone, shared, in_order, sums; /* lone: one replica, whose batches are shared */
    size_t root;                       /* that has the sums */
    struct training *copies;           /* ranks_n x n: what is canceled is each rank's own, until all agree */
    struct member *members;            /* of all replicas; those of a range are its rank's to use */
    struct range *ranges;              /* turns_n x ranks_n */
    size_t turns_n;
    struct turn *turns; /* of a shared replica: ranks_n */
};

static struct training *copies_of(const struct call *c, size_t rank)
{
    return c->copies + rank * c->n;
}

static bool any(const struct call *c, enum reduction_type type)
{
    bool found = false;

    for (size_t k = 0; k < c->n; k++)
        found |= c->trainings[k].n && c->trainings[k].reduction.type == type;
    return found;
}

static int call_init(struct call *c, struct plan *p, struct training *trainings, size_t n, struct error *err)
{
    size_t ranks = ranks_n(p->backend->ranks);

    *c = (struct call){.plans = p->peers,
                       .ranks = p->backend->ranks,
                       .ranks_n = ranks,
                       .trainings = trainings,
                       .n = n,
                       .replicas = backend_replicas(trainings, n)};
    c->lone = c->replicas == 1;
    c->shared = !c->lone && shared_pays(p, trainings, n);
    c->in_order = p->precision == PRECISION_FP32_STRICT || !ranks_have_nccl(c->ranks);
    c->sums = any(c, REDUCE_WEIGHTED_SUM) || any(c, REDUCE_MODEL);
    c->root = c->lone ? 0 : ranks - 1;
    c->copies = calloc(ranks * n, sizeof *c->copies);
    c->members = calloc(c->lone ? ranks : c->replicas, sizeof *c->members);
    c->ranges = calloc(c->replicas * ranks, sizeof *c->ranges); /* each turn trains one at least */
    c->turns = calloc(ranks, sizeof *c->turns);
    if (!c->copies || !c->members || !c->ranges || !c->turns)
        return fail(err, -ENOMEM, "out of memory for %zu replicas", c->replicas);
    for (size_t i = 0; i < ranks * n; i++) {
        struct resident *model = trainings[i % n].reduction.model;
        c->copies[i] = trainings[i % n];
        if (model)
            c->copies[i].reduction.model = model->peers[i / n];
    }
    return 0;
}

static void call_done(struct call *c)
{
    free(c->copies);
    free(c->members);
    free(c->ranges);
    free(c->turns);
}

/* What one rank found canceled is so for all. */
static void agree(struct call *c)
{
    for (size_t i = 0; i < c->ranks_n * c->n; i++)
        c->trainings[i % c->n].canceled |= c->copies[i].canceled;
    for (size_t i = 0; i < c->ranks_n * c->n; i++)
        c->copies[i].canceled = c->trainings[i % c->n].canceled;
}

/* Lanes that share a batch begin with a step together: where a call before this one has left a rank without them, all
 * make them anew. */
static int agree_on_lanes(struct call *c, size_t rank, struct error *err)
{
    struct plan *p = c->plans[rank];
    bool there = p->training && p->training->parallel, anew = !there;
    int rc = ranks_meet(c->ranks, &anew, err);

    if (!rc && anew && there) {
        lanes_free(p->training);
        p->training = NULL;
    }
    return rc;
}

static int prepare_rank(void *arg, size_t rank, struct error *err)
{
    struct call *c = arg;
    struct plan *p = c->plans[rank];
    size_t n = c->lone ? 1 : (c->replicas + c->ranks_n - 1) / c->ranks_n;
    int rc = sums_grow(p, c->n, err);

    rc = rc ? rc : sums_clear(p, c->n, err);
    if (c->lone && !rc)
        rc = agree_on_lanes(c, rank, err);
    if (c->lone)
        rank_enter(c->ranks, rank);
    return rc ? rc : cuda_plan_training(p, n, c->lone, err);
}

/* Who trains what: in each turn the ranks have equal parts of what is left, as far as their memory goes. */
static void deal(struct call *c)
{
    size_t first = 0;

    for (; first < c->replicas; c->turns_n++) {
        struct range *ranges = c->ranges + c->turns_n * c->ranks_n;
        size_t left = c->replicas - first;
        for (size_t rank = 0; rank < c->ranks_n; rank++) {
            size_t n = left * (rank + 1) / c->ranks_n - left * rank / c->ranks_n, lanes = c->plans[rank]->training->n;
            ranges[rank] = (struct range){first, n < lanes ? n : lanes};
            first += ranges[rank].n;
        }
    }
}

/* Replicas of a range that nobody canceled. */
static void fill_turn(struct call *c, size_t rank, struct range range, struct member *members, struct turn *t)
{
    struct training *copies = copies_of(c, rank);
    size_t at = 0;

    *t = (struct turn){.plan = c->plans[rank],
                       .lanes = c->plans[rank]->training,
                       .members = members,
                       .trainings = copies,
                       .trainings_n = c->n,
                       .shared = c->shared,
                       .sums = !c->lone && !(c->in_order && c->sums)};
    for (size_t k = 0; k < c->n; k++)
        for (size_t i = 0; i < copies[k].n; i++, at++)
            if (at >= range.first && at < range.first + range.n && !copies[k].canceled)
                t->members[t->n++] = (struct member){&copies[k], &copies[k].replicas[i], k, i};
}

/* a cohort */

static size_t sums_bytes(const struct call *c)
{
    return c->n * c->plans[0]->model->weights_n * sizeof(double);
}

static int pass_on(struct call *c, size_t rank, size_t to, struct error *err)
{
    int rc = rank_send(c->ranks, rank, c->plans[rank]->d_sums, sums_bytes(c), to, err);

    return rc ? rc : rank_join(c->ranks, rank, err);
}

static int take_over(struct call *c, size_t rank, size_t from, struct error *err)
{
    int rc = rank_receive(c->ranks, rank, c->plans[rank]->d_sums, sums_bytes(c), from, err);

    return rc ? rc : rank_join(c->ranks, rank, err);
}

/* From rank to rank; what the last turn left goes from the last one to the first. */
static int sum_from_rank_to_rank(struct call *c, size_t rank, size_t turn, struct turn *t, struct error *err)
{
    size_t last = c->ranks_n - 1;
    int rc = 0;

    if (turn && rank == last)
        rc = pass_on(c, rank, 0, err);
    if (!rc && (turn || rank))
        rc = take_over(c, rank, rank ? rank - 1 : last, err);
    if (!rc && t->n)
        rc = turn_sum(t, err);
    return rc || rank == last ? rc : pass_on(c, rank, rank + 1, err);
}

/* Nobody waits for another's GPU before all have trained. */
static int sum_in_order(struct call *c, size_t rank, size_t turn, struct turn *t, struct error *err)
{
    struct plan *p = c->plans[rank];
    int rc = DRIVER(p)->wait(DEVICE_OF(p), err);

    if (rc || (rc = ranks_meet(c->ranks, NULL, err)))
        return rc;
    rank_enter(c->ranks, rank);
    if ((rc = sum_from_rank_to_rank(c, rank, turn, t, err)) || (rc = DRIVER(p)->wait(DEVICE_OF(p), err)))
        return rc;
    rank_leave(c->ranks, rank);
    return 0;
}

static int train_rank(void *arg, size_t rank, struct error *err)
{
    struct call *c = arg;
    int rc = 0;

    for (size_t turn = 0; turn < c->turns_n && !rc; turn++) {
        struct range range = c->ranges[turn * c->ranks_n + rank];
        struct turn t;
        fill_turn(c, rank, range, c->members + range.first, &t);
        rc = t.n ? turn_train(&t, err) : 0;
        if (!rc && !t.sums)
            rc = sum_in_order(c, rank, turn, &t, err);
        if (!rc && t.n)
            rc = turn_fetch(&t, err);
        if (rc)
            DRIVER(t.plan)->wait(DEVICE_OF(t.plan), NULL); /* what was queued is done before its memory goes */
        else
            turn_report(&t);
    }
    return rc;
}

/* a replica that is shared */

static int train_lone(void *arg, size_t rank, struct error *err)
{
    struct call *c = arg;
    struct turn *t = &c->turns[rank];
    int rc;

    rank_enter(c->ranks, rank);
    fill_turn(c, rank, (struct range){0, 1}, c->members + rank, t);
    rc = turn_train(t, err);
    rc = rc ? rc : ranks_meet(c->ranks, NULL, err); /* all have read the state that rank 0 writes */
    if (!rc && !rank) {
        rc = turn_sum(t, err);
        rc = rc ? rc : turn_fetch(t, err);
    } else if (!rc)
        rc = DRIVER(t->plan)->download(DEVICE_OF(t->plan), t->lanes->host_totals, t->lanes->totals,
                                       sizeof *t->lanes->totals, err);
    if (rc)
        DRIVER(t->plan)->wait(DEVICE_OF(t->plan), NULL);
    return rc;
}

/* Losses and counts are of each rank's rows; the weights, and so their distance, are the same everywhere. */
static void report_lone(struct call *c)
{
    struct lane_total *all = c->turns[0].lanes->host_totals;

    for (size_t rank = 1; rank < c->ranks_n; rank++) {
        const struct lane_total *total = c->turns[rank].lanes->host_totals;
        all->loss += total->loss;
        all->seen += total->seen;
        all->correct += total->correct;
    }
    turn_report(&c->turns[0]);
}

/* the end of a call */

static int finish_rank(void *arg, size_t rank, struct error *err)
{
    struct call *c = arg;
    struct plan *p = c->plans[rank];
    bool resident = any(c, REDUCE_MODEL);
    int rc = 0;

    rank_enter(c->ranks, rank);
    if (!c->lone && !c->in_order && c->sums)
        rc = rank_sum(c->ranks, rank, p->d_sums, sums_bytes(c) / sizeof(double), LINK_DOUBLE, err);
    else if (resident)
        rc = rank_broadcast(c->ranks, rank, p->d_sums, sums_bytes(c), c->root, err);
    rc = rc ? rc : rank_join(c->ranks, rank, err);
    rc = rc ? rc : models_step(p, copies_of(c, rank), c->n, err);
    if (!rc && rank == c->root)
        rc = sums_fetch(p, copies_of(c, rank), c->n, err);
    return rc ? rc : DRIVER(p)->wait(DEVICE_OF(p), err);
}

int parallel_train(struct plan *p, struct training *trainings, size_t n, struct error *err)
{
    struct call c;
    int rc = ranks_link(p->backend->ranks, err);

    if (rc)
        return rc;
    rc = call_init(&c, p, trainings, n, err);
    rc = rc ? rc : ranks_run(c.ranks, prepare_rank, &c, err);
    if (!rc && !c.lone)
        deal(&c);
    rc = rc ? rc : ranks_run(c.ranks, c.lone ? train_lone : train_rank, &c, err);
    if (c.copies)
        agree(&c);
    if (!rc && c.lone)
        report_lone(&c);
    rc = rc ? rc : ranks_run(c.ranks, finish_rank, &c, err);
    call_done(&c);
    return rc;
}
