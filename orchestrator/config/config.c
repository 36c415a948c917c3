/* config.c - reading an experiment file, and the struct made from a checked one. See config.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/config/config.h"
#include "orchestrator/config/config_private.h"

#include "common/file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

/* --- checking --------------------------------------------------------------------------------------------------- */

struct report {
    struct config_check *check;
    const struct key *rows;
};

static void report_problem(void *arg, bool warning, const char *path, const char *text)
{
    struct report *report = arg;
    const struct key *row = keys_find(report->rows, path);
    int line, column;

    config_marks_place(report->check->marks, path, row && row->type != KEY_IGNORED, &line, &column);
    config_problems_add(report->check->problems, warning, path, line, column, text);
}

static const char *const SECTIONS[] = {"data", "model", "training", "federation"};

/* Without federation only `enabled` and `convergence` say anything; what else the file has there is for the day when
 * it is enabled again. */
static void strip_federation(json_t *resolved)
{
    json_t *federation = json_object_get(resolved, "federation"), *convergence, *stripped;

    if (federation && !json_is_false(json_object_get(federation, "enabled")))
        return;
    stripped = json_object();
    json_object_set_new(stripped, "enabled", json_false());
    if ((convergence = json_object_get(federation, "convergence")))
        json_object_set(stripped, "convergence", convergence);
    json_object_set_new(resolved, "federation", stripped);
}

/* The library's own checks, for what only it knows. */
static void check_with_searcher(struct config_check *check)
{
    struct searcher_config config = {0};
    struct searcher *searcher = NULL;
    struct space *space = NULL;
    struct error err = {0};
    int64_t *rungs = NULL;
    const char *path = "hyperparameters";
    int rc;

    rc = space_new(json_object_get(check->resolved, "hyperparameters"), &space, &err);
    if (!rc) {
        path = "searcher";
        rc = config_searcher_from(json_object_get(check->resolved, path), 0, &config, &rungs);
    }
    if (!rc)
        rc = searcher_new(&config, space, &searcher, &err);
    if (rc) { /* its texts begin with a path of their own, "searcher.divisor must ..." or "searcher: ..." */
        const char *text = *err.text ? err.text : "out of memory";
        size_t length = strlen(path);
        if (!strncmp(text, path, length) && text[length] == ':')
            text += length + 2;
        config_say(check, false, !strncmp(text, path, length) ? "" : path, "%s", text);
    }
    searcher_free(searcher);
    space_free(space);
    free(rungs);
}

/* Fills check->resolved and reports what is wrong with check->tree. */
static int check_tree(struct config_check *check)
{
    struct key rows[CONFIG_KEYS_ROOM];
    struct report report = {check, rows};
    const json_t *entrypoint = json_object_get(check->tree, "entrypoint");
    const json_t *hyperparameters = json_object_get(check->tree, "hyperparameters");
    json_t *none = json_object(); /* absent: every reference is wrong, where NULL would leave them unchecked */

    if (!none)
        return -ENOMEM;
    check->own_program = entrypoint && !json_is_null(entrypoint);
    config_keys_for(check->own_program, rows);
    keys_check(rows, check->tree, "", false, hyperparameters && !json_is_null(hyperparameters) ? hyperparameters : none,
               report_problem, &report);
    json_decref(none);
    if (!(check->resolved = keys_resolve(rows, check->tree)))
        return -ENOMEM;
    config_check_hyperparameters(check);
    config_check_searcher(check);
    config_check_sections(check);
    config_check_rest(check);
    if (check->problems->errors)
        return -EINVAL;
    check_with_searcher(check);
    if (!check->own_program)
        strip_federation(check->resolved);
    return check->problems->errors ? -EINVAL : 0;
}

/* --- from a checked tree to the struct --------------------------------------------------------------------------- */

static int pick_slot_type(const char *name)
{
    return !strcmp(name, "cuda") ? SLOT_CUDA : !strcmp(name, "cpu") ? SLOT_CPU : SLOT_AUTO;
}

static int build(struct experiment_config *config, struct error *err)
{
    const json_t *resolved = config->resolved, *searcher = json_object_get(resolved, "searcher");
    const json_t *resources = json_object_get(resolved, "resources"), *seed;
    const json_t *storage = json_object_get(resolved, "checkpoint_storage");
    json_t *sections;

    config->name = json_string_or(resolved, "name", "unnamed");
    config->description = json_string_or(resolved, "description", "");
    config->hyperparameters = json_object_get(resolved, "hyperparameters");
    config->metric = json_string_or(searcher, "metric", "");
    config->smaller_is_better = json_bool_or(searcher, "smaller_is_better", false);
    config->slots_per_trial = json_int_or(resources, "slots_per_trial", 1);
    config->trials_per_slot = json_int_or(resources, "trials_per_slot", json_object_get(resources, "trials_per_slot") ? 0 : 1);
    config->max_slots = json_int_or(resources, "max_slots", 0);
    config->priority = json_int_or(resources, "priority", 42);
    config->weight = json_double_or(resources, "weight", 1);
    config->slot_type = (enum slot_type)pick_slot_type(json_string_or(resources, "slot_type", "auto"));
    config->max_restarts = json_int_or(resolved, "max_restarts", 5);
    config->save_experiment_best = json_int_or(storage, "save_experiment_best", 0);
    config->save_trial_best = json_int_or(storage, "save_trial_best", 1);
    config->save_trial_latest = json_int_or(storage, "save_trial_latest", 1);
    config->time_limit_s = json_double_or(resolved, "time_limit", 0);
    config->min_checkpoint_period = json_double_or(resolved, "min_checkpoint_period", 0);
    config->on_complete = json_string_value(json_object_get(resolved, "on_complete"));
    config->entrypoint = json_object_get(resolved, "entrypoint");
    seed = json_object_get(json_object_get(resolved, "reproducibility"), "experiment_seed");
    if (!json_is_integer(seed))
        return fail(err, -EINVAL, "reproducibility.experiment_seed is missing from a stored file");
    config->experiment_seed = (uint64_t)json_integer_value(seed);
    config->data_seed = config->experiment_seed;
    if (!config->entrypoint)
        config->data_seed =
            (uint64_t)json_int_or(json_object_get(resolved, "data"), "seed", (int64_t)config->experiment_seed);
    if (unit_kind_parse(json_string_or(searcher, "time_metric", ""), &config->time_metric))
        return fail(err, -EINVAL, "searcher.time_metric is missing from a stored file");

    config->sections = sections = json_object();
    for (size_t i = 0; i < sizeof SECTIONS / sizeof *SECTIONS; i++)
        if (json_object_get(resolved, SECTIONS[i]))
            json_object_set(sections, SECTIONS[i], json_object_get(resolved, SECTIONS[i]));
    if (config_searcher_from(searcher, config->experiment_seed, &config->searcher, &config->bracket_rungs))
        return fail(err, -ENOMEM, "out of memory");
    return space_new(config->hyperparameters, &config->space, err);
}

int config_build(json_t *resolved, struct config_marks *marks, struct experiment_config **ret, struct error *err)
{
    struct experiment_config *config = calloc(1, sizeof *config);
    int rc;

    if (!config) {
        json_decref(resolved);
        config_marks_free(marks);
        return fail(err, -ENOMEM, "out of memory");
    }
    config->resolved = resolved;
    config->marks = marks;
    rc = build(config, err);
    if (rc)
        config_free(config);
    else
        *ret = config;
    return rc;
}

int config_set_trials_per_slot(struct experiment_config *config, int64_t trials)
{
    json_t *resources = json_object_get(config->resolved, "resources");

    config->trials_per_slot = trials;
    config->trials_per_slot_auto = true;
    return json_object_set_new(resources, "trials_per_slot", json_integer(trials)) ? -ENOMEM : 0;
}

void config_free(struct experiment_config *config)
{
    if (!config)
        return;
    space_free(config->space);
    json_decref((json_t *)config->sections);
    json_decref(config->resolved);
    config_marks_free(config->marks);
    free(config->bracket_rungs);
    free(config->text);
    free(config);
}

/* --- reading ----------------------------------------------------------------------------------------------------- */

/* data.path from data_root, else from the working directory; "~/" is the home folder. */
static int make_path_absolute(json_t *resolved, const char *data_root)
{
    json_t *data = json_object_get(resolved, "data");
    const json_t *value = json_object_get(data, "path");
    const char *path = json_string_value(value), *home = getenv("HOME");
    char *here = NULL, *whole, *root = NULL;

    if (!path || keys_reference(value) || *path == '/')
        return 0;
    if (!strncmp(path, "~/", 2) && home) {
        whole = format_text("%s/%s", home, path + 2);
    } else {
        here = getcwd(NULL, 0);
        if (data_root && *data_root == '/')
            root = strdup(data_root);
        else if (here)
            root = data_root ? format_text("%s/%s", here, data_root) : strdup(here);
        whole = root ? format_text("%s/%s", root, path) : NULL;
    }
    if (whole)
        json_object_set_new(data, "path", json_string(whole));
    free(root);
    free(here);
    if (!whole)
        return -ENOMEM;
    free(whole);
    return 0;
}

/* 31 bits, as Determined draws them: short enough to be typed again. */
static int draw_seed(json_t *resolved)
{
    json_t *reproducibility = json_object_get(resolved, "reproducibility");
    uint32_t seed;

    if (json_object_get(reproducibility, "experiment_seed"))
        return 0;
    if (getrandom(&seed, sizeof seed, 0) != sizeof seed)
        return -EIO;
    return json_object_set_new(reproducibility, "experiment_seed", json_integer(seed & 0x7fffffffu)) ? -ENOMEM : 0;
}

static int read_tree(const char *text, size_t length, const char *const *overrides, size_t n, const char *data_root,
                     struct config_check *check, struct config_marks *marks, json_t **ret_tree)
{
    int rc = yaml_json(text, length, true, ret_tree, marks, check->problems);

    if (rc)
        return rc;
    config_override(*ret_tree, marks, overrides, n, check->problems);
    check->tree = *ret_tree;
    check->marks = marks;
    rc = check_tree(check);
    if (!rc && !check->own_program)
        rc = make_path_absolute(check->resolved, data_root);
    return rc ? rc : draw_seed(check->resolved);
}

int config_read(const char *text, size_t length, const char *const *overrides, size_t n, const char *data_root,
                struct experiment_config **ret, struct config_problems *ret_problems)
{
    struct config_marks *marks = calloc(1, sizeof *marks);
    struct config_check check = {.problems = ret_problems};
    struct error err = {0};
    json_t *tree = NULL;
    char *copy = NULL;
    int rc = -ENOMEM;

    *ret_problems = (struct config_problems){0};
    if (marks)
        rc = read_tree(text, length, overrides, n, data_root, &check, marks, &tree);
    if (!rc && !(copy = strndup(text, length)))
        rc = -ENOMEM;
    if (!rc) {
        rc = config_build(check.resolved, marks, ret, &err);
        check.resolved = NULL;
        marks = NULL;
    }
    if (!rc) {
        (*ret)->text = copy;
        copy = NULL;
    }
    if (rc && !ret_problems->errors)
        config_problems_add(ret_problems, false, "", 1, 1, *err.text ? err.text : strerror(-rc));
    config_problems_sort(ret_problems);
    json_decref(tree);
    json_decref(check.resolved);
    config_marks_free(marks);
    free(copy);
    return rc;
}

int config_from_resolved(const json_t *resolved, struct experiment_config **ret, struct error *err)
{
    struct config_problems problems = {0};
    struct config_check check = {.tree = resolved, .problems = &problems};
    int rc = check_tree(&check);

    for (size_t i = 0; rc == -EINVAL && i < problems.n; i++)
        if (!problems.list[i].warning) {
            fail(err, rc, "the stored file is not one that this version wrote: %s: %s", problems.list[i].path,
                 problems.list[i].text);
            break;
        }
    config_problems_done(&problems);
    if (!rc)
        return config_build(check.resolved, NULL, ret, err);
    json_decref(check.resolved);
    return rc == -EINVAL ? rc : fail(err, rc, "out of memory");
}
