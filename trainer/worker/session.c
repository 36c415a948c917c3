/* session.c - see session.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/worker/session.h"

#include "common/file.h"
#include "trainer/backend/cuda/cuda.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void session_init(struct session *session)
{
    memset(session, 0, sizeof *session);
    session->ops = &BACKEND_CPU;
}

static void drop_plan(struct session *session, struct kept_plan *kept)
{
    if (kept->plan)
        session->ops->release_plan(kept->plan);
    model_free(kept->model);
    free(kept->key);
    memset(kept, 0, sizeof *kept);
}

static void drop_data(struct session *session)
{
    split_free(session->split);
    dataset_close(session->dataset);
    free(session->split_key);
    free(session->data_key);
    session->split = NULL;
    session->dataset = NULL;
    session->split_key = session->data_key = NULL;
}

static void drop_backend(struct session *session)
{
    for (int i = 0; i < PLANS_KEPT; i++)
        drop_plan(session, &session->plans[i]);
    if (session->backend)
        session->ops->close(session->backend);
    session->backend = NULL;
}

void session_done(struct session *session)
{
    drop_backend(session);
    drop_data(session);
}

static int open_backend(struct session *session, const json_t *slots, struct error *err)
{
    const struct backend_ops *ops = &BACKEND_CPU;
    int cores[1024];
    size_t n = 0, i;
    json_t *slot;

    json_array_foreach ((json_t *)slots, i, slot) {
        int core;
        if (json_is_string(slot) && !strncmp(json_string_value(slot), "cuda:", 5) && ops == &BACKEND_CUDA)
            return fail(err, -EINVAL, "resources.slots_per_trial: several GPUs in one trial cannot be used yet; give 1");
        if (json_is_string(slot) && !strncmp(json_string_value(slot), "cuda:", 5))
            ops = &BACKEND_CUDA; /* which GPU: CUDA_VISIBLE_DEVICES, as the launcher set it */
        if (n < 1024 && json_is_string(slot) && sscanf(json_string_value(slot), "cpu:%d", &core) == 1)
            cores[n++] = core;
    }
    if (!n)
        cores[n++] = -1;
    if (session->backend && ops == session->ops && n == session->cores_n && !memcmp(cores, session->cores, n * sizeof *cores))
        return 0;
    drop_backend(session);
    drop_data(session);
    session->ops = ops;
    memcpy(session->cores, cores, n * sizeof *cores);
    session->cores_n = n;
    return session->ops->open(&(struct backend_options){.cores = session->cores, .cores_n = n}, &session->backend, err);
}

/* What of the data section decides the pixels; the rest (validation split, augmentation) is not part of it. */
static char *key_of_data(const json_t *data, uint64_t seed)
{
    static const char *const PARTS[] = {"source", "path", "synthetic", "label_pattern", "test_fraction", "resize", "channels"};
    json_t *parts = json_object();
    char *text, *key;

    for (size_t i = 0; i < sizeof PARTS / sizeof *PARTS; i++)
        json_object_set(parts, PARTS[i], json_object_get(data, PARTS[i]));
    text = json_canonical(parts);
    key = format_text("%s %llu", text, (unsigned long long)seed);
    free(text);
    json_decref(parts);
    return key;
}

static char *key_of_split(const char *data_key, const json_t *data, const json_t *federation)
{
    static const char *const PARTS[] = {"enabled", "clients", "partition", "client_validation_fraction"};
    json_t *parts = json_object();
    char *text, *key;

    json_object_set(parts, "validation", json_object_get(data, "validation"));
    json_object_set(parts, "validation_fraction", json_object_get(data, "validation_fraction"));
    for (size_t i = 0; federation && i < sizeof PARTS / sizeof *PARTS; i++)
        json_object_set(parts, PARTS[i], json_object_get(federation, PARTS[i]));
    text = json_canonical(parts);
    key = format_text("%s %s", data_key, text);
    free(text);
    json_decref(parts);
    return key;
}

static int open_data(struct session *session, const json_t *sections, uint64_t data_seed, const char *cache_dir,
                     struct error *err)
{
    const json_t *data = json_object_get(sections, "data"), *federation = json_object_get(sections, "federation");
    char *data_key = key_of_data(data, data_seed), *split_key = key_of_split(data_key, data, federation);
    int rc = 0;

    if (!session->data_key || strcmp(session->data_key, data_key)) {
        drop_data(session);
        rc = dataset_open(data, data_seed, cache_dir, &session->dataset, err);
        if (rc)
            goto out;
        session->data_key = data_key;
        data_key = NULL;
    }
    if (!session->split_key || strcmp(session->split_key, split_key)) {
        split_free(session->split);
        session->split = NULL;
        free(session->split_key);
        session->split_key = NULL;
        rc = split_make(session->dataset, data, federation, data_seed, &session->split, err);
        if (rc)
            goto out;
        dataset_normalise(session->dataset, session->split->train.list, session->split->train.n);
        rc = session->ops->load_dataset(session->backend, session->dataset, err);
        if (rc)
            goto out;
        session->split_key = split_key;
        split_key = NULL;
    }
out:
    free(data_key);
    free(split_key);
    return rc;
}

static int find_plan(struct session *session, const json_t *sections, struct kept_plan **ret, struct error *err)
{
    const struct dataset *dataset = session->dataset;
    struct data_shape shape = {dataset->channels, dataset->height, dataset->width, dataset->classes, dataset->train.n,
                               dataset->test.n};
    struct plan_options options = plan_options_from(json_object_get(sections, "training"));
    size_t mem_bytes;
    struct kept_plan fresh = {0}, *oldest = &session->plans[0];
    char *section;
    int rc = model_new(json_object_get(sections, "model"), &shape, &fresh.model, err);

    if (rc)
        return rc;
    section = json_canonical(json_object_get(sections, "model")); /* initialisation is not in the model's key */
    fresh.key = format_text("%zu %d %s %s", options.batch, (int)options.precision, fresh.model->key, section);
    free(section);
    for (int i = 0; i < PLANS_KEPT; i++) {
        struct kept_plan *kept = &session->plans[i];
        if (kept->key && !strcmp(kept->key, fresh.key)) {
            drop_plan(session, &fresh);
            kept->used = ++session->uses;
            *ret = kept;
            return 0;
        }
        if (kept->used < oldest->used)
            oldest = kept;
    }
    drop_plan(session, oldest);
    rc = session->ops->compile(session->backend, fresh.model, &options, &fresh.plan, &mem_bytes, err);
    if (rc) {
        drop_plan(session, &fresh);
        return rc;
    }
    fresh.used = ++session->uses;
    *oldest = fresh;
    *ret = oldest;
    return 0;
}

int session_prepare(struct session *session, const json_t *sections, uint64_t data_seed, const char *cache_dir,
                    const json_t *slots, struct session_loan *ret, struct error *err)
{
    struct kept_plan *kept;
    int rc;

    if ((rc = open_backend(session, slots, err)) || (rc = open_data(session, sections, data_seed, cache_dir, err)) ||
        (rc = find_plan(session, sections, &kept, err)))
        return rc;
    *ret = (struct session_loan){session->dataset, session->split, kept->model, kept->plan};
    return 0;
}
