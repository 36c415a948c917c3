/* plan.c - asking the trainer before anything is stored: every categorical choice and both ends of every numeric axis,
 * put into the trainer's sections. What it refuses becomes a problem of the file, once for each place and text; where
 * only some configurations are refused the first such is named.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/cli/check.h"

#include "common/file.h"
#include "common/keys.h"
#include "orchestrator/cli/format.h"
#include "orchestrator/launcher/launcher.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TRIALS_PER_SLOT_MAX 64 /* as the table of keys has it */

/* The home's cache tells shapes that would else be read out of a whole archive. */
static int build_requests(const struct experiment_config *config, const char *home, const json_t *points, json_t **ret,
                          struct error *err)
{
    json_t *list = json_array(), *point, *sections;
    char *cache = format_text("%s/cache", home);
    size_t i;
    /* a look at the GPU costs time: asked for where it must be one, or how many trials a slot takes is to be known */
    const char *slot_type = json_string_or(json_object_get(config->resolved, "resources"), "slot_type", "auto");
    bool look = !config->trials_per_slot || config->slot_type == SLOT_CUDA;

    json_array_foreach((json_t *)points, i, point) {
        int code = 0;
        sections = NULL;
        if (config->entrypoint)
            sections = json_deep_copy(config->sections);
        else
            code = keys_substitute(config->sections, point, &sections, err);
        if (code) {
            json_decref(list);
            free(cache);
            return code;
        }
        json_array_append_new(list, json_pack("{s:O, s:o, s:I, s:s*, s:I, s:s*}", "hyperparameters", point, "sections", sections,
                                              "slots", (json_int_t)config->slots_per_trial, "cache_dir", cache,
                                              "data_seed", (json_int_t)config->data_seed, "slot_type",
                                              look ? slot_type : NULL));
    }
    free(cache);
    *ret = list;
    return 0;
}

/* NULL-terminated program, borrowing from the config; NULL for the built-in trainer. */
static int program(const struct experiment_config *config, const char ***ret, struct error *err)
{
    size_t n = json_array_size(config->entrypoint);
    const char **argv;

    *ret = NULL;
    if (!config->entrypoint)
        return 0;
    argv = calloc(n + 1, sizeof *argv);
    if (!argv)
        return fail(err, -ENOMEM, "out of memory");
    for (size_t i = 0; i < n; i++)
        argv[i] = json_string_value(json_array_get(config->entrypoint, i));
    *ret = argv;
    return 0;
}

static bool same(const json_t *a, const json_t *b)
{
    return !strcmp(json_string_or(a, "path", ""), json_string_or(b, "path", "")) &&
           !strcmp(json_string_or(a, "text", ""), json_string_or(b, "text", ""));
}

/* How many answers hold this error, and whether an answer before `before` does. */
static size_t count(const json_t *answers, const json_t *error, size_t before, bool *ret_seen)
{
    json_t *answer, *other;
    size_t i, j, n = 0;

    *ret_seen = false;
    json_array_foreach((json_t *)answers, i, answer) {
        bool here = false;
        json_array_foreach(json_object_get(answer, "errors"), j, other)
            here = here || same(error, other);
        n += here;
        if (here && i < before)
            *ret_seen = true;
    }
    return n;
}

static void add_errors(const struct experiment_config *config, const json_t *points, const json_t *answers,
                       struct config_problems *problems)
{
    json_t *answer, *error, *before;
    size_t i, j, k;

    json_array_foreach((json_t *)answers, i, answer) {
        json_t *errors = json_object_get(answer, "errors");
        if (!answer || json_is_null(answer) || json_bool_or(answer, "ok", true))
            continue;
        if (!json_array_size(errors))
            config_add_problem(problems, config, false, "", "the trainer refuses it and does not say why");
        json_array_foreach(errors, j, error) {
            const char *path = json_string_or(error, "path", ""), *text = json_string_or(error, "text", "refused");
            bool seen, twice = false;
            size_t n = count(answers, error, i, &seen);
            json_array_foreach(errors, k, before)
                twice = twice || (k < j && same(before, error));
            if (seen || twice)
                continue;
            if (n < json_array_size(answers)) {
                char *shown = format_hyperparameters(json_array_get(points, i));
                char *longer = format_text("%s (with %s)", text, shown ? shown : "");
                config_add_problem(problems, config, false, path, longer ? longer : text);
                free(longer);
                free(shown);
            } else {
                config_add_problem(problems, config, false, path, text);
            }
        }
    }
}

/* So many trials of each of these configurations fit on a slot and pay there; 1 where the program does not say. */
static int64_t least_per_slot(const json_t *answers)
{
    int64_t least = TRIALS_PER_SLOT_MAX;
    json_t *answer;
    size_t i;

    json_array_foreach((json_t *)answers, i, answer) {
        int64_t here = json_int_or(answer, "trials_per_slot", 1);
        least = here < least ? here : least;
    }
    return json_array_size(answers) && least > 1 ? least : 1;
}

static int settle_trials_per_slot(struct experiment_config *config, bool packs, const json_t *answers,
                                  struct config_problems *problems)
{
    char text[200];

    if (!config->trials_per_slot)
        return config_set_trials_per_slot(config, packs ? least_per_slot(answers) : 1);
    if (config->trials_per_slot > 1 && !packs) {
        snprintf(text, sizeof text, "must be 1, got %lld: the program carries one run at a time (its hello lacks the capability"
                 " \"pack\")", (long long)config->trials_per_slot);
        config_add_problem(problems, config, false, "resources.trials_per_slot", text);
    }
    return 0;
}

int plan_check(struct experiment_config *config, const char *home, struct config_problems *problems, struct error *err)
{
    json_t *points = space_extremes(config->space), *requests = NULL, *answers = NULL;
    const char **argv = NULL;
    bool packs = false;
    int code = points ? build_requests(config, home, points, &requests, err) : fail(err, -ENOMEM, "out of memory");

    if (code == 0)
        code = program(config, &argv, err);
    if (code == 0)
        code = launcher_ask_plan(argv, json_string_or(config->resolved, "working_directory", NULL), requests,
                                 &packs, &answers, err);
    if (code == 0) {
        add_errors(config, points, answers, problems);
        if (settle_trials_per_slot(config, packs, answers, problems))
            code = fail(err, -ENOMEM, "out of memory");
    } else if (err && config->entrypoint) { /* the user's own program: its place is in the file */
        config_add_problem(problems, config, false, "entrypoint", err->text);
        code = 0;
    }
    free(argv);
    json_decref(points);
    json_decref(requests);
    json_decref(answers);
    return code;
}

int plan_describe(const struct experiment_config *config, const char *home, const char *what, json_t **ret,
                  struct config_problems *problems, struct error *err)
{
    json_t *points = space_extremes(config->space), *one = json_array(), *requests = NULL, *answers = NULL, *answer;
    int code;

    if (config->entrypoint) {
        json_decref(points);
        json_decref(one);
        return fail(err, -EINVAL, "the experiment has an entrypoint: its %s is the program's own", what);
    }
    json_array_append(one, json_array_get(points, 0));
    code = build_requests(config, home, one, &requests, err);
    if (code == 0) {
        json_object_set_new(json_array_get(requests, 0), "describe", json_pack("[s]", what));
        code = launcher_ask_plan(NULL, NULL, requests, NULL, &answers, err);
    }
    if (code == 0) {
        add_errors(config, one, answers, problems);
        answer = json_object_get(json_array_get(answers, 0), what);
        *ret = json_pack("{s:O, s:O*}", "hyperparameters", json_array_get(one, 0), what, answer);
    }
    json_decref(points);
    json_decref(one);
    json_decref(requests);
    json_decref(answers);
    return code;
}
