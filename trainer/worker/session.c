/* session.c - see session.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/worker/session.h"

#include "common/file.h"
#include "trainer/backend/cuda/cuda.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct kept { /* a data set, a split or a plan */
    struct kept *next;
    char *key;
    atomic_size_t users;
    uint64_t used; /* rising: the smallest is dropped first */
    struct dataset *dataset;
    bool normalised;
    struct federation_data *split;
    struct model *model;
    struct plan *plan;
};

struct session {
    pthread_mutex_t preparing; /* all below */
    struct pack *pack;
    const struct backend_ops *ops;
    struct backend *backend;
    int cores[1024];
    size_t cores_n, gpus_n;
    json_t *slots; /* that the backend was opened for */
    struct kept *data, *splits, *plans;
    uint64_t uses;
};

int session_new(struct session **ret, struct error *err)
{
    struct session *session = calloc(1, sizeof *session);
    int rc;

    if (!session)
        return fail(err, -ENOMEM, "out of memory");
    if ((rc = pack_new(&session->pack, err))) {
        free(session);
        return rc;
    }
    pthread_mutex_init(&session->preparing, NULL);
    *ret = session;
    return 0;
}

/* --- what is kept ------------------------------------------------------------------------------------------------ */

static void drop(struct session *session, struct kept *kept)
{
    pack_enter(session->pack);
    if (kept->plan)
        session->ops->release_plan(kept->plan);
    if (kept->dataset)
        pack_forget(session->pack, kept->dataset);
    pack_leave(session->pack);
    model_free(kept->model);
    split_free(kept->split);
    dataset_close(kept->dataset);
    free(kept->key);
    free(kept);
}

/* All that no run uses, but for those `keep` that were used last. */
static void drop_unused(struct session *session, struct kept **list, size_t keep)
{
    for (;;) {
        struct kept **oldest = NULL, *found;
        size_t unused = 0;
        for (struct kept **at = list; *at; at = &(*at)->next) {
            if (atomic_load(&(*at)->users))
                continue;
            unused++;
            if (!oldest || (*at)->used < (*oldest)->used)
                oldest = at;
        }
        if (unused <= keep)
            return;
        found = *oldest;
        *oldest = found->next;
        drop(session, found);
    }
}

static struct kept *find(struct session *session, struct kept *list, const char *key)
{
    for (; list; list = list->next)
        if (!strcmp(list->key, key)) {
            list->used = ++session->uses;
            atomic_fetch_add(&list->users, 1);
            return list;
        }
    return NULL;
}

/* Room for one more, which the caller fills and puts on its list with keep(). Takes ownership of key. */
static struct kept *fresh(char *key)
{
    struct kept *kept = calloc(1, sizeof *kept);

    if (kept)
        kept->key = key;
    else
        free(key);
    return kept;
}

static void keep(struct session *session, struct kept **list, struct kept *kept)
{
    kept->used = ++session->uses;
    kept->users = 1;
    kept->next = *list;
    *list = kept;
}

static bool is_used(const struct kept *list)
{
    for (; list; list = list->next)
        if (atomic_load(&list->users))
            return true;
    return false;
}

/* --- keys -------------------------------------------------------------------------------------------------------- */

static char *key_of(const json_t *section, const char *const *parts, size_t n, const char *before)
{
    json_t *object = json_object();
    char *text, *key;

    for (size_t i = 0; section && i < n; i++)
        json_object_set(object, parts[i], json_object_get(section, parts[i]));
    text = json_canonical(object);
    key = text ? format_text("%s%s", before, text) : NULL;
    free(text);
    json_decref(object);
    return key;
}

/* What of the data section decides the pixels, and how they are normalised: by the training split. The rest (augmentation)
 * is not part of it. */
static char *key_of_data(const json_t *data, uint64_t seed)
{
    static const char *const PARTS[] = {"source", "path", "synthetic", "label_pattern", "test_fraction", "resize",
                                        "channels", "validation", "validation_fraction"};
    char before[32];

    snprintf(before, sizeof before, "%llu ", (unsigned long long)seed);
    return key_of(data, PARTS, sizeof PARTS / sizeof *PARTS, before);
}

static char *key_of_split(const char *data_key, const json_t *federation)
{
    static const char *const PARTS[] = {"enabled", "clients", "partition", "client_validation_fraction"};
    char *before = format_text("%s ", data_key), *key = NULL;

    if (before)
        key = key_of(federation, PARTS, sizeof PARTS / sizeof *PARTS, before);
    free(before);
    return key;
}

static char *key_of_plan(const json_t *sections, const struct model *model)
{
    struct plan_options options = plan_options_from(json_object_get(sections, "training"));

    return format_text("%zu %s %s", options.batch, PRECISION_NAMES[options.precision], model->key);
}

char *session_pack_key(const json_t *sections, uint64_t data_seed, const struct model *model)
{
    char *data = key_of_data(json_object_get(sections, "data"), data_seed), *plan = key_of_plan(sections, model);
    char *key = data && plan ? format_text("%s %s", data, plan) : NULL;

    free(data);
    free(plan);
    return key;
}

/* --- preparing --------------------------------------------------------------------------------------------------- */

static const char *slot_name(const struct session *session, size_t gpu)
{
    const char *name = json_string_value(json_array_get(session->slots, gpu));

    return name ? name : "the GPU";
}

static int open_backend(struct session *session, const json_t *slots, struct error *err)
{
    const struct backend_ops *ops = &BACKEND_CPU;
    int cores[1024], rc;
    size_t n = 0, gpus = 0, i;
    json_t *slot;

    json_array_foreach ((json_t *)slots, i, slot) {
        int core;
        if (json_is_string(slot) && !strncmp(json_string_value(slot), "cuda:", 5)) {
            ops = &BACKEND_CUDA; /* which GPUs: CUDA_VISIBLE_DEVICES, as the launcher set it */
            gpus++;
        }
        if (n < 1024 && json_is_string(slot) && sscanf(json_string_value(slot), "cpu:%d", &core) == 1)
            cores[n++] = core;
    }
    if (!n)
        cores[n++] = -1;
    if (session->backend && ops == session->ops && gpus == session->gpus_n && n == session->cores_n &&
        !memcmp(cores, session->cores, n * sizeof *cores))
        return 0;
    if (is_used(session->data))
        return fail(err, -EBUSY, "this worker holds runs on other slots");
    drop_unused(session, &session->plans, 0);
    drop_unused(session, &session->splits, 0);
    drop_unused(session, &session->data, 0);
    pack_enter(session->pack);
    if (session->backend)
        session->ops->close(session->backend);
    session->backend = NULL;
    session->ops = ops;
    memcpy(session->cores, cores, n * sizeof *cores);
    session->cores_n = n;
    session->gpus_n = gpus;
    json_decref(session->slots);
    session->slots = json_deep_copy(slots);
    rc = ops->open(&(struct backend_options){.cores = session->cores, .cores_n = n, .gpus_n = gpus}, &session->backend,
                   err);
    pack_use(session->pack, ops, session->backend);
    pack_leave(session->pack);
    return rc == -ENOBUFS && gpus == 1 ? fail_prefix(err, "%s", slot_name(session, 0)) : rc;
}

static int open_data(struct session *session, const json_t *data, uint64_t data_seed, const char *cache_dir,
                     struct kept **ret, struct error *err)
{
    char *key = key_of_data(data, data_seed);
    struct kept *kept;
    int rc;

    if (!key)
        return fail(err, -ENOMEM, "out of memory");
    if ((*ret = find(session, session->data, key))) {
        free(key);
        return 0;
    }
    drop_unused(session, &session->splits, 0);
    drop_unused(session, &session->data, 0);
    if (!(kept = fresh(key)))
        return fail(err, -ENOMEM, "out of memory");
    rc = dataset_open(data, data_seed, cache_dir, &kept->dataset, err);
    if (rc) {
        drop(session, kept);
        return rc;
    }
    keep(session, &session->data, kept);
    *ret = kept;
    return 0;
}

static int open_split(struct session *session, const json_t *sections, uint64_t data_seed, struct kept *data,
                      struct kept **ret, struct error *err)
{
    const json_t *federation = json_object_get(sections, "federation");
    char *key = key_of_split(data->key, federation);
    struct kept *kept;
    int rc;

    if (!key)
        return fail(err, -ENOMEM, "out of memory");
    if ((*ret = find(session, session->splits, key))) {
        free(key);
        return 0;
    }
    drop_unused(session, &session->splits, 0);
    if (!(kept = fresh(key)))
        return fail(err, -ENOMEM, "out of memory");
    rc = split_make(data->dataset, json_object_get(sections, "data"), federation, data_seed, &kept->split, err);
    if (rc) {
        drop(session, kept);
        return rc;
    }
    if (!data->normalised) /* by the training part, which is the same in all splits of this data set */
        dataset_normalise(data->dataset, kept->split->train.list, kept->split->train.n);
    data->normalised = true;
    keep(session, &session->splits, kept);
    *ret = kept;
    return 0;
}

static int open_model(const json_t *sections, const struct dataset *dataset, struct model **ret, struct error *err)
{
    struct data_shape shape = {dataset->channels, dataset->height, dataset->width, dataset->classes, dataset->train.n,
                               dataset->test.n};

    return model_new(json_object_get(sections, "model"), &shape, ret, err);
}

static int open_plan(struct session *session, const json_t *sections, const struct dataset *dataset,
                     const struct model *model, struct kept **ret, struct error *err)
{
    struct plan_options options = plan_options_from(json_object_get(sections, "training"));
    char *key = key_of_plan(sections, model);
    struct kept *kept;
    size_t mem_bytes;
    bool tried = false;
    int rc;

    if (!key)
        return fail(err, -ENOMEM, "out of memory");
    if ((*ret = find(session, session->plans, key))) {
        free(key);
        return 0;
    }
    drop_unused(session, &session->plans, PLANS_KEPT - 1);
    if (!(kept = fresh(key)))
        return fail(err, -ENOMEM, "out of memory");
    rc = open_model(sections, dataset, &kept->model, err);
    if (!rc) {
        pack_enter(session->pack);
        do
            rc = session->ops->compile(session->backend, kept->model, &options, &kept->plan, &mem_bytes, err);
        while (pack_makes_room(session->pack, rc, &tried));
        pack_leave(session->pack);
    }
    if (rc) {
        drop(session, kept);
        return rc;
    }
    keep(session, &session->plans, kept);
    *ret = kept;
    return 0;
}

static int load(struct session *session, const struct dataset *dataset, struct error *err)
{
    bool tried = false;
    int rc;

    pack_enter(session->pack);
    do
        rc = pack_load(session->pack, dataset, err);
    while (pack_makes_room(session->pack, rc, &tried));
    pack_leave(session->pack);
    return rc;
}

static int say_squeezed(const struct session *session, const struct squeeze *s, struct error *err)
{
    return fail(err, -ENOBUFS, "%s (%s): a trial needs %zu MiB of GPU memory, %zu of %zu MiB are free; other processes hold about"
                " %zu MiB", slot_name(session, s->gpu), s->name, s->needed_bytes >> 20, s->free_bytes >> 20, s->total_bytes >> 20,
                s->others_bytes >> 20);
}

int session_blame(const struct session_loan *loan, const json_t *sections, int rc, struct error *err)
{
    struct session *session = loan->session;
    struct plan_options options = plan_options_from(json_object_get(sections, "training"));
    struct squeeze squeeze;
    bool squeezed;

    if (rc != -ENOMEM || !loan->model || !session->ops->squeezed)
        return rc;
    pack_enter(session->pack);
    squeezed = session->ops->squeezed(session->backend, loan->model, &options, loan->data->dataset, &squeeze);
    pack_leave(session->pack);
    return squeezed ? say_squeezed(session, &squeeze, err) : rc;
}

int session_prepare(struct session *session, const json_t *sections, uint64_t data_seed, const char *cache_dir,
                    const json_t *slots, struct session_loan *ret, struct error *err)
{
    struct session_loan loan = {.session = session};
    int rc;

    pthread_mutex_lock(&session->preparing);
    if ((rc = open_backend(session, slots, err)) ||
        (rc = open_data(session, json_object_get(sections, "data"), data_seed, cache_dir, &loan.data, err)) ||
        (rc = open_split(session, sections, data_seed, loan.data, &loan.kept_split, err)) ||
        (rc = open_model(sections, loan.data->dataset, &loan.model, err)) ||
        (rc = load(session, loan.data->dataset, err)) ||
        (rc = open_plan(session, sections, loan.data->dataset, loan.model, &loan.plan, err)) ||
        (rc = seat_take(session->pack, loan.plan->plan, loan.data->dataset, &loan.seat, err))) {
        rc = session_blame(&loan, sections, rc, err);
        session_return(&loan);
    } else {
        loan.dataset = loan.data->dataset;
        loan.split = loan.kept_split->split;
        *ret = loan;
    }
    pthread_mutex_unlock(&session->preparing);
    return rc;
}

void session_return(struct session_loan *loan)
{
    struct kept *parts[] = {loan->plan, loan->kept_split, loan->data};

    seat_leave(loan->seat);
    model_free(loan->model);
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (parts[i])
            atomic_fetch_sub(&parts[i]->users, 1);
    memset(loan, 0, sizeof *loan);
}
