/* plan.c - can this be trained? The answer to `plan`, and the check that every run starts with.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/worker/run.h"

#include "common/keys.h"
#include "trainer/backend/cuda/cuda.h"

#include <stdlib.h>
#include <string.h>

static void add_problem(json_t *problems, const char *path, const char *text)
{
    json_array_append_new(problems, json_pack("{s:s, s:s}", "path", path, "text", text));
}

static void note_problem(void *arg, bool warning, const char *path, const char *text)
{
    if (!warning)
        add_problem(arg, path, text);
}

void sections_resolve(const json_t *sections, json_t **ret_sections, json_t **ret_problems)
{
    json_t *problems = json_array();

    *ret_sections = NULL;
    if (!keys_check(SECTION_KEYS, sections, "", false, NULL, note_problem, problems))
        *ret_sections = keys_resolve(SECTION_KEYS, sections);
    *ret_problems = problems;
}

/* "model.layers[2]: text" was made for people; the path apart lets the file's line be found. */
static void add_error(json_t *problems, const char *section, const struct error *err)
{
    const char *colon = strstr(err->text, ": ");
    char path[256];

    if (colon && !strncmp(err->text, section, strlen(section)) && (size_t)(colon - err->text) < sizeof path &&
        !memchr(err->text, ' ', (size_t)(colon - err->text))) {
        memcpy(path, err->text, (size_t)(colon - err->text));
        path[colon - err->text] = 0;
        add_problem(problems, path, colon + 2);
    } else {
        add_problem(problems, section, err->text);
    }
}

static void check_federation(const json_t *sections, const struct data_shape *shape, json_t *problems)
{
    const json_t *federation = json_object_get(sections, "federation");
    int64_t clients = json_int_or(federation, "clients", 1), cohort = json_int_or(federation, "clients_per_round", 1);
    double kept = 1 - json_double_or(json_object_get(sections, "data"), "validation_fraction", 0);
    char text[200];

    if (!federation || !json_bool_or(federation, "enabled", true))
        return;
    if (cohort > clients) {
        snprintf(text, sizeof text, "must be at most federation.clients (%lld), got %lld", (long long)clients,
                 (long long)cohort);
        add_problem(problems, "federation.clients_per_round", text);
    }
    if ((double)clients > kept * (double)shape->train_n) {
        snprintf(text, sizeof text, "must be at most the number of training samples (%.0f), got %lld",
                 kept * (double)shape->train_n, (long long)clients);
        add_problem(problems, "federation.clients", text);
    }
}

static bool wants(const json_t *list, const char *what)
{
    const json_t *item;
    size_t i;

    json_array_foreach ((json_t *)list, i, item)
        if (json_is_string(item) && !strcmp(json_string_value(item), what))
            return true;
    return false;
}

/* Opens the data as a run would. */
static void describe_data(const json_t *sections, uint64_t data_seed, const char *cache_dir, json_t *answer, json_t *problems)
{
    const json_t *data = json_object_get(sections, "data");
    struct federation_data *split = NULL;
    struct dataset *dataset = NULL;
    struct error err = {0};

    if (dataset_open(data, data_seed, cache_dir, &dataset, &err) ||
        split_make(dataset, data, json_object_get(sections, "federation"), data_seed, &split, &err)) {
        add_error(problems, "data", &err);
    } else {
        dataset_normalise(dataset, split->train.list, split->train.n);
        json_object_set_new(answer, "data", dataset_json(dataset, split));
    }
    split_free(split);
    dataset_close(dataset);
}

void planner_done(struct planner *planner)
{
    if (planner->gpu)
        BACKEND_CUDA.close(planner->gpu);
    *planner = (struct planner){0};
}

static struct backend *gpu_of(struct planner *planner)
{
    if (!planner->asked &&
        BACKEND_CUDA.open(&(struct backend_options){.planning = true}, &planner->gpu, &planner->why))
        planner->gpu = NULL;
    planner->asked = true;
    return planner->gpu;
}

/* tf32 and bf16 are a GPU's; it is opened to see that there is one. What would compile it. */
static const struct backend_ops *backend_for(struct planner *planner, const struct plan_options *options,
                                             json_t *problems)
{
    struct error err = {0};

    if (options->precision < PRECISION_TF32)
        return &BACKEND_CPU;
    if (!gpu_of(planner)) {
        fail(&err, -EINVAL, "training.precision: %s needs a GPU: %s", PRECISION_NAMES[options->precision],
             planner->why.text);
        add_error(problems, "training", &err);
    }
    return &BACKEND_CUDA;
}

/* What can never fit on the GPU. One is looked at where trials are to have one, or where it was opened already. */
static void check_memory(struct planner *planner, const char *slot_type, const struct model *model,
                         const struct plan_options *options, size_t *mem_bytes, json_t *problems)
{
    struct error err = {0};
    bool wanted = !strcmp(slot_type, "cuda") ? gpu_of(planner) != NULL : planner->gpu && strcmp(slot_type, "cpu");

    if (wanted && BACKEND_CUDA.compile(planner->gpu, model, options, NULL, mem_bytes, &err))
        add_error(problems, "model", &err);
}

/* Of trials like this one on a slot of the type that is asked about. A CPU core gains nothing by several. */
static size_t trials_per_slot(struct planner *planner, const char *slot_type, const json_t *sections,
                              const struct data_shape *shape, const struct model *model,
                              const struct plan_options *options)
{
    const json_t *federation = json_object_get(sections, "federation");
    bool federated = federation && json_bool_or(federation, "enabled", true);
    int64_t clients = federated ? json_int_or(federation, "clients", 1) : 1;
    int64_t cohort = federated ? json_int_or(federation, "clients_per_round", 0) : 0;
    struct dataset data = {.channels = shape->channels,
                           .height = shape->height,
                           .width = shape->width,
                           .classes = shape->classes,
                           .train = {.n = shape->train_n},
                           .test = {.n = shape->test_n}};
    size_t trials = 1;

    if ((strcmp(slot_type, "cuda") && strcmp(slot_type, "auto")) || !gpu_of(planner) ||
        BACKEND_CUDA.fit(planner->gpu, model, options, &data, (size_t)(cohort > 0 ? cohort : clients), &trials, NULL))
        return 1;
    return trials < PACK_MOST ? trials : PACK_MOST;
}

#define STEP_FLOPS 2e11

/* Which kernels a trial would run on one core of this machine, and what they take there: of a batch that one step takes
 * some seconds for at most, and in fp32 where the precision is a GPU's. */
static void describe_kernels(const struct model *model, const struct plan_options *options, json_t *answer, json_t *problems)
{
    const struct backend_options one = {.cores = (const int[]){-1}, .cores_n = 1};
    const struct backend_ops *ops = &BACKEND_CPU;
    float *weights = malloc(model->weights_n * sizeof *weights);
    struct plan_options cpu = *options;
    struct backend *backend = NULL;
    struct plan *plan = NULL;
    struct error err = {0};
    json_t *profile = NULL;

    while (cpu.batch > 1 && 3 * model->flops_forward * (double)cpu.batch > STEP_FLOPS)
        cpu.batch /= 2;
    if (cpu.precision != PRECISION_FP32_STRICT)
        cpu.precision = PRECISION_FP32;
    if (!weights) {
        fail(&err, -ENOMEM, "out of memory");
    } else if (!ops->open(&one, &backend, &err) && !ops->compile(backend, model, &cpu, &plan, NULL, &err)) {
        model_init_weights(model, 1, 1, weights);
        profile = ops->profile(plan, weights, &err);
    }
    if (profile)
        json_object_set_new(answer, "kernels", profile);
    else
        add_error(problems, "model", &err);
    ops->release_plan(plan);
    ops->close(backend);
    free(weights);
}

void plan_refuse(struct connection *connection, const struct message *message, const char *why)
{
    connection_send(connection, json_pack("{s:s, s:I, s:b, s:s}", "op", "plan", "id",
                                          (json_int_t)json_int_or(message->body, "id", 0), "ok", 0, "text", why));
}

void plan_answer(struct planner *planner, struct connection *connection, const struct message *message)
{
    const char *slot_type = json_string_or(message->body, "slot_type", "");
    const char *cache_dir = json_string_or(message->body, "cache_dir", "/tmp");
    uint64_t data_seed = (uint64_t)json_int_or(message->body, "data_seed", 0);
    const json_t *describe = json_object_get(message->body, "describe");
    json_t *sections, *problems, *answer = json_object();
    struct data_shape shape;
    struct model *model = NULL;
    struct plan_options options = {0};
    size_t mem_bytes = 0;
    struct error err = {0};

    sections_resolve(json_object_get(message->body, "sections"), &sections, &problems);
    if (sections) {
        const json_t *data = json_object_get(sections, "data");
        options = plan_options_from(json_object_get(sections, "training"));
        if (dataset_shape(data, data_seed, cache_dir, &shape, &err)) {
            add_error(problems, "data", &err);
        } else {
            check_federation(sections, &shape, problems);
            if (model_new(json_object_get(sections, "model"), &shape, &model, &err))
                add_error(problems, "model", &err);
            else if (backend_for(planner, &options, problems)->compile(NULL, model, &options, NULL, &mem_bytes, &err))
                add_error(problems, "model", &err);
            else
                check_memory(planner, slot_type, model, &options, &mem_bytes, problems);
        }
    }
    if (sections && wants(describe, "data") && !json_array_size(problems))
        describe_data(sections, data_seed, cache_dir, answer, problems);
    if (model && wants(describe, "kernels") && !json_array_size(problems))
        describe_kernels(model, &options, answer, problems);
    if (model && wants(describe, "model"))
        json_object_set_new(answer, "model", model_json(model));
    json_object_set_new(answer, "op", json_string("plan"));
    json_object_set_new(answer, "id", json_integer(json_int_or(message->body, "id", 0)));
    json_object_set_new(answer, "ok", json_boolean(json_array_size(problems) == 0));
    if (json_array_size(problems)) {
        json_object_set(answer, "errors", problems);
    } else {
        char *pack_key = session_pack_key(sections, data_seed, model);
        size_t trials = trials_per_slot(planner, slot_type, sections, &shape, model, &options);
        json_object_set_new(answer, "mem_bytes", json_integer((json_int_t)mem_bytes));
        json_object_set_new(answer, "pack_key", json_string(pack_key ? pack_key : ""));
        json_object_set_new(answer, "trials_per_slot", json_integer((json_int_t)trials));
        free(pack_key);
    }
    connection_send(connection, answer);
    model_free(model);
    json_decref(sections);
    json_decref(problems);
}
