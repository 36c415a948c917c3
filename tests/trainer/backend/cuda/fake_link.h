/* fake_link.h - what fake devices send each other: threads that really meet. A device's stream for it is as lazy as one
 * can be: what is sent is taken when it is queued, and nothing of it is done before the device joins; until then the
 * memory it is in is poison. So a join or a fork that is missing shows. As with NCCL, what is aborted ends without an
 * error and leaves anything, later calls fail, and communicators go when all of a process are aborted and nothing is left
 * that was captured with them. Included by fake.h.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_TESTS_CUDA_FAKE_LINK_H
#define FLEXP_TESTS_CUDA_FAKE_LINK_H

#include <time.h>

enum fake_link_op { FAKE_SUM, FAKE_SEND, FAKE_RECEIVE, FAKE_BROADCAST };

struct fake_call {
    enum fake_link_op op;
    enum link_type type;
    void *memory;
    size_t bytes, peer;
};

struct fake_pending {
    struct fake_call call;
    void *taken; /* what stood there */
};

struct fake_group {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    size_t ranks, arrived, turns;
    bool aborted;
    size_t aborts, captured; /* calls; what was captured with it and is there */
    const void *parts[FAKE_DEVICES];             /* of a sum or broadcast */
    const void *box[FAKE_DEVICES][FAKE_DEVICES]; /* [from][to] */
};
#define FAKE_GROUPS 64
static struct fake_group fake_groups[FAKE_GROUPS];
static size_t fake_groups_n;
static size_t fake_sums; /* done, by all devices together */

struct fake_link {
    struct fake_group *group;
    size_t rank;
    bool forked; /* nothing was queued since */
    struct fake_pending *pending;
    size_t pending_n;
};

static int fake_link_id(unsigned char *ret, struct error *err)
{
    struct fake_group *g;

    if (fake.no_nccl)
        return fail(err, -ENOTSUP, "libnccl.so.2: cannot open shared object file");
    g = &fake_groups[fake_groups_n % FAKE_GROUPS];
    *g = (struct fake_group){.aborted = false};
    pthread_mutex_init(&g->lock, NULL);
    pthread_cond_init(&g->changed, NULL);
    memset(ret, 0, LINK_ID_BYTES);
    memcpy(ret, &fake_groups_n, sizeof fake_groups_n);
    fake_groups_n++;
    return 0;
}

static void fake_link_drop(struct fake_link *l)
{
    for (size_t i = 0; i < l->pending_n; i++)
        free(l->pending[i].taken);
    l->pending_n = 0;
}

static void fake_link_free(struct device *device)
{
    if (!device->link)
        return;
    fake_link_drop(device->link);
    free(device->link->pending);
    free(device->link);
    device->link = NULL;
}

static void fake_link_abort(struct device *device)
{
    struct fake_link *l = device->link;

    if (!l || !l->group)
        return;
    pthread_mutex_lock(&l->group->lock);
    l->group->aborted = true;
    pthread_cond_broadcast(&l->group->changed);
    if (++l->group->aborts == l->group->ranks)
        while (l->group->captured)
            pthread_cond_wait(&l->group->changed, &l->group->lock);
    pthread_mutex_unlock(&l->group->lock);
}

static void fake_link_captured(struct device *device, struct captured *c)
{
    if (c->group)
        return;
    c->group = device->link->group;
    pthread_mutex_lock(&c->group->lock);
    c->group->captured++;
    pthread_mutex_unlock(&c->group->lock);
}

static void fake_link_replayed(const struct device *device, const struct captured *c)
{
    assert(!c->group || c->group == device->link->group);
}

static void fake_link_forgotten(struct captured *c)
{
    if (!c->group)
        return;
    pthread_mutex_lock(&c->group->lock);
    c->group->captured--;
    pthread_cond_broadcast(&c->group->changed);
    pthread_mutex_unlock(&c->group->lock);
}

/* Locked. Until all have come, or it is given up. */
static int fake_meet(struct fake_group *g)
{
    size_t turn = g->turns;

    if (++g->arrived == g->ranks) {
        g->arrived = 0;
        g->turns++;
        pthread_cond_broadcast(&g->changed);
    }
    while (turn == g->turns && !g->aborted)
        pthread_cond_wait(&g->changed, &g->lock);
    return turn == g->turns ? -EIO : 0;
}

static int fake_link_open(struct device *device, const unsigned char *id, size_t rank, size_t ranks, double timeout_s,
                          struct error *err)
{
    struct fake_group *g;
    size_t which;
    int rc;

    (void)timeout_s;
    memcpy(&which, id, sizeof which);
    g = &fake_groups[which % FAKE_GROUPS];
    if (!device->link)
        device->link = calloc(1, sizeof *device->link);
    fake_link_drop(device->link);
    pthread_mutex_lock(&g->lock);
    g->ranks = ranks;
    device->link->group = g;
    device->link->rank = rank;
    rc = fake_meet(g);
    pthread_mutex_unlock(&g->lock);
    return rc ? fail(err, rc, "NCCL: given up (a communicator)") : 0;
}

/* Locked. */
static int fake_give(struct fake_group *g, const void **box, const void *sent)
{
    *box = sent;
    pthread_cond_broadcast(&g->changed);
    while (*box && !g->aborted)
        pthread_cond_wait(&g->changed, &g->lock);
    return *box ? -EIO : 0;
}

/* Locked. */
static int fake_take(struct fake_group *g, const void **box, void *received, size_t bytes)
{
    while (!*box && !g->aborted)
        pthread_cond_wait(&g->changed, &g->lock);
    if (!*box)
        return -EIO;
    memcpy(received, *box, bytes);
    *box = NULL;
    pthread_cond_broadcast(&g->changed);
    return 0;
}

/* Locked. Last rank first: not the order of a sum that is told to keep one. */
static int fake_reduce(struct fake_group *g, const struct fake_call *c)
{
    size_t n = c->bytes / (c->type == LINK_DOUBLE ? sizeof(double) : sizeof(float));
    int rc = fake_meet(g);

    for (size_t i = 0; i < n && !rc; i++) {
        double sum = 0;
        float single = 0;
        for (size_t k = g->ranks; k-- > 0;) {
            sum += c->type == LINK_DOUBLE ? ((const double *)g->parts[k])[i] : 0;
            single += c->type == LINK_FLOAT ? ((const float *)g->parts[k])[i] : 0;
        }
        if (c->type == LINK_DOUBLE)
            ((double *)c->memory)[i] = sum;
        else
            ((float *)c->memory)[i] = single;
    }
    return rc ? rc : fake_meet(g);
}

static int fake_pending_do(struct device *device, struct fake_pending *p, struct error *err)
{
    struct fake_link *l = device->link;
    struct fake_group *g = l->group;
    const struct fake_call *c = &p->call;
    int rc = 0;

    pthread_mutex_lock(&g->lock);
    while (fake.hangs == device->index + 1 && !g->aborted)
        pthread_cond_wait(&g->changed, &g->lock);
    rc = g->aborted ? -EIO : 0;
    g->parts[l->rank] = p->taken;
    if (rc) {
    } else if (c->op == FAKE_SUM) {
        rc = fake_reduce(g, c);
        fake_sums++;
    } else if (c->op == FAKE_SEND) {
        memcpy(c->memory, p->taken, c->bytes);
        rc = fake_give(g, &g->box[l->rank][c->peer], p->taken);
    } else if (c->op == FAKE_RECEIVE) {
        rc = fake_take(g, &g->box[c->peer][l->rank], c->memory, c->bytes);
    } else {
        rc = fake_meet(g);
        if (!rc)
            memcpy(c->memory, g->parts[c->peer], c->bytes);
        rc = rc ? rc : fake_meet(g);
    }
    pthread_mutex_unlock(&g->lock);
    free(p->taken);
    p->taken = NULL;
    (void)err;
    return 0;
}

static int fake_link_do(struct device *device, const struct fake_work *w, struct error *err)
{
    struct fake_link *l = device->link;
    bool aborted;
    int rc = 0;

    assert(l && l->group);
    pthread_mutex_lock(&l->group->lock);
    aborted = l->group->aborted;
    pthread_mutex_unlock(&l->group->lock);
    if (w->kernel == FAKE_LINK && aborted) {
        rc = fail(err, -EIO, "NCCL: given up");
    } else if (w->kernel == FAKE_FORK) {
        return 0;
    } else if (w->kernel == FAKE_JOIN) {
        for (size_t i = 0; i < l->pending_n && !rc; i++)
            rc = fake_pending_do(device, &l->pending[i], err);
        fake_link_drop(l);
    } else {
        struct fake_pending p = {.call = *(const struct fake_call *)w->args};
        assert(fake_owner(p.call.memory) == device);
        p.taken = malloc(p.call.bytes + 1);
        memcpy(p.taken, p.call.memory, p.call.bytes);
        memset(p.call.memory, 0xff, p.call.bytes);
        l->pending = realloc(l->pending, (l->pending_n + 1) * sizeof *l->pending);
        l->pending[l->pending_n++] = p;
    }
    return rc;
}

/* Each call comes right behind a fork, or a call that did. */
static void fake_link_queued(struct device *device, int kernel)
{
    if (!device->link)
        return;
    assert(kernel != FAKE_LINK || device->link->forked);
    device->link->forked = kernel == FAKE_FORK || (kernel == FAKE_LINK && device->link->forked);
}

static int fake_link_fork(struct device *device, struct error *err)
{
    return fake_queue(device, FAKE_FORK, NULL, 0, NULL, err);
}

static int fake_link_join(struct device *device, struct error *err)
{
    return fake_queue(device, FAKE_JOIN, NULL, 0, NULL, err);
}

static int fake_call(struct device *device, struct fake_call call, struct error *err)
{
    return fake_queue(device, FAKE_LINK, &call, sizeof call, NULL, err);
}

static int fake_link_sum(struct device *device, void *memory, size_t n, enum link_type type, struct error *err)
{
    size_t bytes = n * (type == LINK_DOUBLE ? sizeof(double) : sizeof(float));

    return fake_call(device, (struct fake_call){FAKE_SUM, type, memory, bytes, 0}, err);
}

static int fake_link_send(struct device *device, const void *memory, size_t bytes, size_t to, struct error *err)
{
    return fake_call(device, (struct fake_call){FAKE_SEND, LINK_FLOAT, (void *)memory, bytes, to}, err);
}

static int fake_link_receive(struct device *device, void *memory, size_t bytes, size_t from, struct error *err)
{
    return fake_call(device, (struct fake_call){FAKE_RECEIVE, LINK_FLOAT, memory, bytes, from}, err);
}

static int fake_link_broadcast(struct device *device, void *memory, size_t bytes, size_t root, struct error *err)
{
    return fake_call(device, (struct fake_call){FAKE_BROADCAST, LINK_FLOAT, memory, bytes, root}, err);
}

#endif
