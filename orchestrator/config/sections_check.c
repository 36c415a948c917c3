/* sections_check.c - what no table can say about data, model, training and federation, and about the keys around them.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/config/config_private.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* --- hyperparameters that nothing takes ------------------------------------------------------------------------- */

static void collect_references(const json_t *value, json_t *names)
{
    const char *name = keys_reference(value), *key;
    json_t *member;
    size_t i;

    if (name)
        json_object_set_new(names, name, json_true());
    json_object_foreach ((json_t *)value, key, member)
        collect_references(member, names);
    json_array_foreach ((json_t *)value, i, member)
        collect_references(member, names);
}

static void say_unused(struct config_check *check, const json_t *group, const char *prefix, const json_t *names,
                       int depth)
{
    const char *key;
    json_t *value;

    json_object_foreach ((json_t *)group, key, value) {
        char name[1000], path[1100];
        snprintf(name, sizeof name, "%.700s%s%.200s", prefix, *prefix ? "." : "", key);
        if (json_is_object(value) && !json_object_get(value, "type") && !config_lacks_type(value) && depth < 16) {
            say_unused(check, value, name, names, depth + 1);
        } else if (!json_object_get(names, name)) {
            snprintf(path, sizeof path, "hyperparameters.%s", name);
            config_say(check, true, path, "is used nowhere: write $%s where its value belongs", name);
        }
    }
}

static void check_unused(struct config_check *check)
{
    static const char *const SECTIONS[] = {"data", "model", "training", "federation"};
    json_t *names = json_object();

    for (size_t i = 0; i < sizeof SECTIONS / sizeof *SECTIONS; i++)
        collect_references(json_object_get(check->resolved, SECTIONS[i]), names);
    say_unused(check, json_object_get(check->resolved, "hyperparameters"), "", names, 0);
    json_decref(names);
}

/* --- the sections ----------------------------------------------------------------------------------------------- */

static const json_t *at(const struct config_check *check, const char *path)
{
    return json_at(check->resolved, path);
}

static bool given(const struct config_check *check, const char *path)
{
    return json_at(check->tree, path) != NULL;
}

static bool is_text(const struct config_check *check, const char *path, const char *text)
{
    const char *value = json_string_value(at(check, path));

    return value && !strcmp(value, text);
}

static void check_data(struct config_check *check)
{
    const char *source = json_string_value(at(check, "data.source"));
    bool made = is_text(check, "data.source", "synthetic");

    if (keys_reference(at(check, "data.seed")))
        config_say(check, false, "data.seed",
                   "must be the same for all trials, not a hyperparameter: they are compared on the same data");
    if (!source || keys_reference(at(check, "data.source")))
        return;
    if (!made && !given(check, "data.path"))
        config_say(check, false, "data.path", "is missing: where the %s data are", source);
    if (made && given(check, "data.path"))
        config_say(check, true, "data.path", "means nothing to source: synthetic and is ignored");
    if (!made && given(check, "data.synthetic"))
        config_say(check, true, "data.synthetic", "means nothing to source: %s and is ignored", source);
}

static void check_model(struct config_check *check)
{
    bool preset = given(check, "model.preset"), layers = given(check, "model.layers");

    if (!json_is_object(at(check, "model")))
        return;
    if (preset && layers)
        config_say(check, false, "model.preset", "and layers exclude each other: the network is one or the other");
    if (!preset && !layers)
        config_say(check, false, "model", "needs a preset or layers, as in preset: seed_cnn");
    if (layers && json_is_array(at(check, "model.layers")) && !json_array_size(at(check, "model.layers")))
        config_say(check, false, "model.layers", "must have at least one layer");
}

static const struct {
    const char *key, *optimizers;
} OPTIMIZER_KEYS[] = {
    {"momentum", "sgd"}, {"nesterov", "sgd"}, {"beta1", "adam adamw"}, {"beta2", "adam adamw"}, {"eps", "adam adamw"}};

static void check_training(struct config_check *check)
{
    const json_t *hyperparameters = at(check, "hyperparameters");
    const char *optimizer = json_string_value(at(check, "training.optimizer"));
    double lowest, highest;

    if (json_is_true(at(check, "training.nesterov")) && optimizer && !strcmp(optimizer, "sgd") &&
        config_range(at(check, "training.momentum"), hyperparameters, &lowest, &highest) && lowest <= 0)
        config_say(check, false, "training.nesterov", "needs a momentum greater than 0");
    for (size_t i = 0; optimizer && *optimizer != '$' && i < sizeof OPTIMIZER_KEYS / sizeof *OPTIMIZER_KEYS; i++) {
        char path[100];
        snprintf(path, sizeof path, "training.%s", OPTIMIZER_KEYS[i].key);
        if (given(check, path) && !strstr(OPTIMIZER_KEYS[i].optimizers, optimizer))
            config_say(check, true, path, "means nothing to the optimizer %s and is ignored", optimizer);
    }
}

static bool is_of_gpus(const json_t *precision)
{
    const char *text = json_string_value(precision);

    return text && (!strcmp(text, "tf32") || !strcmp(text, "bf16"));
}

/* Whether it, or anything that the hyperparameter it refers to can be, is a GPU's; which. */
static const char *precision_of_gpus(const struct config_check *check)
{
    const json_t *value = at(check, "training.precision"), *element;
    const char *name = keys_reference(value);
    size_t i;

    if (name)
        value = keys_hyperparameter(at(check, "hyperparameters"), name);
    if (json_is_object(value) && json_object_get(value, "val"))
        value = json_object_get(value, "val");
    json_array_foreach (json_object_get(value, "vals"), i, element)
        if (is_of_gpus(element))
            return json_string_value(element);
    return is_of_gpus(value) ? json_string_value(value) : NULL;
}

/* The built-in trainer's, of what trials run on. */
static void check_slots(struct config_check *check)
{
    int64_t slots = json_int_or(at(check, "resources"), "slots_per_trial", 1);
    const char *precision = precision_of_gpus(check);

    if (is_text(check, "resources.slot_type", "cpu") && precision)
        config_say(check, false, "training.precision", "cannot be %s with slot_type: cpu: it is a GPU's; a CPU has fp32 and fp32_strict",
                   precision);
    if (is_text(check, "resources.slot_type", "cuda") && slots > GPUS_MOST)
        config_say(check, false, "resources.slots_per_trial", "must be at most %d with slot_type: cuda, got %lld", GPUS_MOST,
                   (long long)slots);
}

static void check_metric_needs(struct config_check *check, const char *path)
{
    const char *metric = json_string_value(json_at(check->resolved, path));
    bool client = metric && !strncmp(metric, "client_validation_", 18);
    bool central = metric && !strncmp(metric, "validation_", 11);
    const json_t *fraction = at(check, client ? "federation.client_validation_fraction" : "data.validation_fraction");

    if (client && (!json_is_object(at(check, "federation")) || json_is_false(at(check, "federation.enabled"))))
        config_say(check, false, path, "cannot be %s without a federation; did you mean %.*s?", metric,
                   (int)strcspn(metric + 18, "_") + 11, metric + 7);
    else if ((client || (central && is_text(check, "data.validation", "split"))) && json_is_number(fraction) &&
             json_number_value(fraction) == 0)
        config_say(check, false, path, "cannot be %s while %s is 0", metric,
                   client ? "federation.client_validation_fraction" : "data.validation_fraction");
}

static void check_convergence(struct config_check *check)
{
    const char *metric = json_string_value(at(check, "federation.convergence.metric"));

    if (!json_is_object(at(check, "federation.convergence")))
        return;
    if (!given(check, "federation.convergence.patience") && !given(check, "federation.convergence.target"))
        config_say(check, false, "federation.convergence", "needs patience or target, as in patience: 5");
    if (!metric || *metric == '$')
        return;
    if (!config_metric_is_known(metric, NULL))
        config_say_unknown_metric(check, "federation.convergence.metric", metric);
    else if (!strncmp(metric, "test_", 5))
        config_say(check, false, "federation.convergence.metric",
                   "cannot be %s: the test split is read once, for the best trial; did you mean validation_%s?", metric,
                   metric + 5);
    else
        check_metric_needs(check, "federation.convergence.metric");
}

/* Halving compares trials at equal units; under rounds, 4 local epochs are 4 times the steps at each rung. */
static void check_local_epochs(struct config_check *check)
{
    const char *name = keys_reference(at(check, "federation.local_epochs"));
    double lowest, highest;

    if (name && config_range(at(check, "federation.local_epochs"), at(check, "hyperparameters"), &lowest, &highest) &&
        lowest < highest && lowest > 0 && is_text(check, "searcher.time_metric", "rounds"))
        config_say(
            check, true, "federation.local_epochs",
            "takes $%s under time_metric: rounds: a trial with %g epochs has had %g times the steps of one with %g at "
            "each rung; time_metric: batches compares equal work",
            name, highest, highest / lowest, lowest);
}

static void check_federation(struct config_check *check)
{
    const json_t *hyperparameters = at(check, "hyperparameters");
    double clients[2], cohort[2];

    if (!json_is_object(at(check, "federation")) || json_is_false(at(check, "federation.enabled")))
        return;
    if (config_range(at(check, "federation.clients"), hyperparameters, &clients[0], &clients[1]) &&
        config_range(at(check, "federation.clients_per_round"), hyperparameters, &cohort[0], &cohort[1]) &&
        cohort[1] > clients[0])
        config_say(check, false, "federation.clients_per_round", "must not be greater than clients, got %g of %g",
                   cohort[1], clients[0]);
    if (is_text(check, "federation.partition.scheme", "iid") && given(check, "federation.partition.alpha"))
        config_say(check, true, "federation.partition.alpha", "means nothing to scheme: iid and is ignored");
    check_local_epochs(check);
}

void config_check_sections(struct config_check *check)
{
    if (check->own_program)
        return;
    check_data(check);
    check_model(check);
    check_training(check);
    check_slots(check);
    check_federation(check);
    check_convergence(check);
    if (config_metric_is_known(json_string_or(json_object_get(check->resolved, "searcher"), "metric", ""), NULL))
        check_metric_needs(check, "searcher.metric");
    check_unused(check);
}

/* --- the rest --------------------------------------------------------------------------------------------------- */

/* Determined's older form, a class in a module: "model_def:MNistTrial". */
static bool is_trial_class(const char *text)
{
    const char *colon = strchr(text, ':');

    for (const char *c = text; *c; c++)
        if (!isalnum((unsigned char)*c) && !strchr("_.:", *c))
            return false;
    return colon && isupper((unsigned char)colon[1]);
}

static void check_entrypoint(struct config_check *check)
{
    const json_t *entrypoint = json_object_get(check->resolved, "entrypoint"), *word;
    const char *text = json_string_value(entrypoint);
    size_t i;

    if (!entrypoint && given(check, "working_directory"))
        config_say(check, true, "working_directory", "means nothing without an entrypoint and is ignored");
    if (!entrypoint)
        return;
    if (json_is_null(entrypoint)) {
        config_say(check, false, "entrypoint",
                   "has no value; give it one, for example [python3, train.py], or remove the key");
        return;
    }
    if (text && is_trial_class(text))
        config_say(check, false, "entrypoint",
                   "is a trial class; flexp runs a program that speaks the trial protocol (docs/protocol.md), as in "
                   "[python3, train.py]");
    else if ((text && !*text) || (!text && (!json_is_array(entrypoint) || !json_array_size(entrypoint))))
        config_say(check, false, "entrypoint",
                   "must be a command: a string, or a list of words as in [python3, train.py]");
    else if (text)
        json_object_set_new(check->resolved, "entrypoint", json_pack("[sss]", "/bin/sh", "-c", text));
    if (text)
        return;
    json_array_foreach ((json_t *)entrypoint, i, word) {
        char path[60], shown[100];
        snprintf(path, sizeof path, "entrypoint[%zu]", i);
        keys_value_text(word, shown, sizeof shown);
        if (!json_is_string(word) || (!i && !*json_string_value(word)))
            config_say(check, false, path, "must be a string%s, got %s", i ? "" : " that names a program", shown);
    }
}

static void check_checkpoint_period(struct config_check *check)
{
    const json_t *value = json_object_get(check->resolved, "min_checkpoint_period");
    const char *unit, *metric = json_string_value(at(check, "searcher.time_metric"));
    double period;

    if (!value || !config_length(check, "min_checkpoint_period", value, 0, &period, &unit))
        return;
    if (unit && metric && strcmp(unit, metric)) {
        config_say(check, false, "min_checkpoint_period", "is in %s, but searcher.time_metric is %s", unit, metric);
        return;
    }
    json_object_set_new(check->resolved, "min_checkpoint_period", json_integer((json_int_t)period));
}

static void check_resources(struct config_check *check)
{
    const json_t *packed = at(check, "resources.trials_per_slot");
    int64_t slots = json_int_or(at(check, "resources"), "slots_per_trial", 1);
    int64_t most = json_int_or(at(check, "resources"), "max_slots", 0);
    double most_packed = keys_find(CONFIG_KEYS, "resources.trials_per_slot")->max;
    char shown[60];

    /* of what the table accepts */
    if (slots > 1 && (is_text(check, "resources.trials_per_slot", "auto") ||
                      (json_integer_value(packed) > 1 && (double)json_integer_value(packed) <= most_packed))) {
        keys_value_text(packed, shown, sizeof shown);
        config_say(check, false, "resources.trials_per_slot",
                   "must be 1 where slots_per_trial is %lld, got %s: trials of several slots share none of them; with slots_per_trial: 1"
                   " each slot has trials of its own that share it", (long long)slots, shown);
    }
    if (most > 0 && most < slots)
        config_say(check, false, "resources.max_slots",
                   "must be at least slots_per_trial, got %lld of %lld: no trial could ever start", (long long)most,
                   (long long)slots);
}

void config_check_rest(struct config_check *check)
{
    check_entrypoint(check);
    check_checkpoint_period(check);
    check_resources(check);
}
