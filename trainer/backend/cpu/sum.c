/* sum.c - the weighted sums of a call: each training's replicas are added in order, whoever finishes first. Who finishes
 * replica i adds it when all before it are added; until then its weights wait in one of a few spare buffers, so that the
 * thread goes on; where none is left it waits. Sums are taken in the working layout, element by element the same as in the
 * canonical one. SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cpu/cpu_private.h"

#include <stdlib.h>
#include <string.h>

static bool is_summed(const struct training *t)
{
    return t->reduction.type == REDUCE_WEIGHTED_SUM && t->n > 1;
}

/* A sum for each training, kept with the plan. */
static int grow_values(struct plan *p, size_t n)
{
    double **grown = n > p->sums_n ? realloc(p->sums, n * sizeof *grown) : p->sums;

    if (n && !grown)
        return -ENOMEM;
    p->sums = grown;
    for (; p->sums_n < n; p->sums_n++)
        if (!(p->sums[p->sums_n] = buffer_new(p->weights_n * sizeof(double))))
            return -ENOMEM;
    return 0;
}

int sums_init(struct sums *s, struct plan *p, struct training *trainings, size_t n, size_t teams, struct error *err)
{
    size_t replicas = backend_replicas(trainings, n), spares = teams > 1 ? teams : 0, summed = 0;

    *s = (struct sums){.plan = p, .n = n};
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->moved, NULL);
    s->of = calloc(n, sizeof *s->of);
    s->ready = calloc(replicas, sizeof *s->ready);
    s->spares = calloc(replicas + spares, sizeof *s->spares);
    for (size_t k = 0; k < n; k++)
        summed += is_summed(&trainings[k]);
    if (!s->of || !s->ready || !s->spares || grow_values(p, summed))
        return fail(err, -ENOMEM, "out of memory for %zu replicas", replicas);
    if (!p->waiting && !(p->waiting = calloc(crew_size(p->backend->crew), sizeof *p->waiting)))
        return fail(err, -ENOMEM, "out of memory");
    for (size_t i = 0; summed && i < spares; i++) {
        if (!p->waiting[i] && !(p->waiting[i] = buffer_new(p->weights_n * sizeof(float))))
            return fail(err, -ENOMEM, "out of memory for %zu replicas at once", teams);
        s->spares[s->spares_n++] = p->waiting[i];
    }
    for (size_t k = 0, at = 0, used = 0; k < n; at += trainings[k++].n)
        s->of[k] = (struct sum){.training = &trainings[k],
                                .values = is_summed(&trainings[k]) ? p->sums[used++] : NULL,
                                .ready = s->ready + at};
    return 0;
}

void sums_done(struct sums *s)
{
    pthread_cond_destroy(&s->moved);
    pthread_mutex_destroy(&s->lock);
    free(s->of);
    free(s->ready);
    free(s->spares);
}

void sums_stop(struct sums *s)
{
    pthread_mutex_lock(&s->lock);
    s->stopped = true;
    pthread_cond_broadcast(&s->moved);
    pthread_mutex_unlock(&s->lock);
}

void sums_give_up(struct sums *s, size_t k)
{
    struct sum *sum = &s->of[k];

    pthread_mutex_lock(&s->lock);
    sum->training->canceled = true;
    for (size_t i = 0; i < sum->training->n; i++)
        if (sum->ready[i] && !(sum->adding && i == sum->next)) {
            s->spares[s->spares_n++] = sum->ready[i];
            sum->ready[i] = NULL;
        }
    pthread_cond_broadcast(&s->moved);
    pthread_mutex_unlock(&s->lock);
}

/* Under the lock, which it leaves for the arithmetic: the sum's next replica. */
static void add_next(struct sums *s, struct sum *sum, const float *weights)
{
    const struct replica *r = &sum->training->replicas[sum->next];

    sum->adding = true;
    pthread_mutex_unlock(&s->lock);
    (sum->next ? kernel_add_scaled : kernel_scaled)(weights, r->weight, sum->values, s->plan->weights_n);
    pthread_mutex_lock(&s->lock);
    sum->adding = false;
    sum->next++;
    pthread_cond_broadcast(&s->moved);
}

/* Under the lock: adds what is ready, in order. Only one thread at a time is here past the first line. */
static void add_ready(struct sums *s, struct sum *sum)
{
    while (!sum->adding && !sum->training->canceled && sum->next < sum->training->n && sum->ready[sum->next]) {
        size_t i = sum->next;
        add_next(s, sum, sum->ready[i]);
        s->spares[s->spares_n++] = sum->ready[i];
        sum->ready[i] = NULL;
    }
}

void sums_deliver(struct sums *s, size_t k, size_t i, const float *weights)
{
    struct sum *sum = &s->of[k];
    const struct plan *p = s->plan;
    float *spare;

    if (!sum->values) {
        plan_scatter_scaled(p, weights, sum->training->replicas[i].weight, sum->training->reduction.sum);
        return;
    }
    pthread_mutex_lock(&s->lock);
    while (sum->next != i && !s->spares_n && !s->stopped && !sum->training->canceled)
        pthread_cond_wait(&s->moved, &s->lock);
    if (!sum->training->canceled && sum->next == i) { /* its turn: no copy */
        add_next(s, sum, weights);
    } else if (!sum->training->canceled && s->spares_n) {
        spare = s->spares[--s->spares_n];
        pthread_mutex_unlock(&s->lock);
        memcpy(spare, weights, p->weights_n * sizeof *spare);
        pthread_mutex_lock(&s->lock);
        if (sum->training->canceled)
            s->spares[s->spares_n++] = spare;
        else
            sum->ready[i] = spare;
    }
    add_ready(s, sum);
    pthread_mutex_unlock(&s->lock);
}

void sums_finish(const struct sums *s)
{
    for (size_t k = 0; k < s->n; k++)
        if (s->of[k].values && !s->of[k].training->canceled)
            plan_scatter_sum(s->plan, s->of[k].values, s->of[k].training->reduction.sum);
}
