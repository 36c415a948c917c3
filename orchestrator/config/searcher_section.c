/* searcher_section.c - the `searcher` section: names to scheduler and sampler, lengths, the metric, and what goes
 * together.
 * What follows from other keys (sampler, time_metric, smaller_is_better, stop_once) is written into the resolved tree,
 * so that a stored file says all of it.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/config/config_private.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_UNITS 1e12

/* Keys that only some schedulers have a use for. */
static const struct {
    const char *key, *schedulers;
} USED_BY[] = {
    {"divisor", "async_halving adaptive_asha"},
    {"stop_once", "async_halving adaptive_asha"},
    {"num_rungs", "async_halving"},
    {"max_rungs", "adaptive_asha"},
    {"mode", "adaptive_asha"},
    {"bracket_rungs", "adaptive_asha"},
};

static const char *find_name(const char *const *names, const char *name)
{
    for (; name && *names; names++)
        if (!strcmp(*names, name))
            return *names;
    return NULL;
}

static bool is_halving(const char *scheduler)
{
    return scheduler && strstr(USED_BY[0].schedulers, scheduler);
}

/* "single, async_halving or grid", and the same with blanks for keys_nearest_word. */
static void list_names(const char *const *const *lists, size_t lists_n, char *ret, char *ret_words, size_t room)
{
    size_t used = 0, words = 0;

    for (size_t i = 0; i < lists_n; i++)
        for (const char *const *name = lists[i]; *name && used < room && words < room; name++) {
            const char *between = !used ? "" : i + 1 == lists_n && !name[1] ? " or " : ", ";
            used += (size_t)snprintf(ret + used, room - used, "%s%s", between, *name);
            words += (size_t)snprintf(ret_words + words, room - words, "%s%s", words ? " " : "", *name);
        }
}

void config_searcher_names(const json_t *searcher, const char **ret_scheduler, const char **ret_sampler)
{
    const char *name = json_string_or(searcher, "name", NULL), *sampler = json_string_or(searcher, "sampler", NULL);

    *ret_scheduler = find_name(searcher_schedulers(), name);
    *ret_sampler = find_name(searcher_samplers(), sampler);
    if (!*ret_scheduler && find_name(searcher_samplers(), name)) {
        *ret_scheduler = "single";
        *ret_sampler = find_name(searcher_samplers(), name);
    } else if (!sampler) {
        *ret_sampler = "random";
    }
}

/* What other tools call them. */
static const struct {
    const char *theirs, *ours;
} SYNONYMS[] = {
    {"asha", "adaptive_asha"},
    {"async_adaptive", "adaptive_asha"},
    {"adaptive", "adaptive_asha"},
    {"adaptive_simple", "adaptive_asha"},
    {"hyperband", "adaptive_asha"},
    {"bohb", "adaptive_asha"},
    {"ASHAScheduler", "adaptive_asha"},
    {"AsyncHyperBandScheduler", "adaptive_asha"},
    {"sync_halving", "async_halving"},
    {"successive_halving", "async_halving"},
    {"sha", "async_halving"},
    {"SuccessiveHalvingPruner", "async_halving"},
    {"fifo", "random"},
    {"RandomSampler", "random"},
    {"GridSampler", "grid"},
    {"grid_search", "grid"},
};

/* A sampler's name is one of the last list, a searcher's one of both. */
static void say_unknown_name(struct config_check *check, const char *path, const char *name, bool sampler_only)
{
    const char *const *lists[2] = {searcher_schedulers(), searcher_samplers()};
    char known[300], words[300], near[64] = "";

    list_names(lists + sampler_only, sampler_only ? 1 : 2, known, words, sizeof known);
    for (size_t i = 0; i < sizeof SYNONYMS / sizeof *SYNONYMS; i++)
        if (!strcasecmp(name, SYNONYMS[i].theirs) && strstr(words, SYNONYMS[i].ours))
            snprintf(near, sizeof near, "%s", SYNONYMS[i].ours);
    if (!*near)
        keys_nearest_word(words, name, near, sizeof near);
    config_say(check, false, path, "must be %s, got \"%.60s\"%s%s%s", known, name, *near ? "; did you mean " : "", near,
               *near ? "?" : "");
}

/* True when scheduler and sampler are known and go together. */
static bool check_names(struct config_check *check, json_t *searcher, const char **ret_scheduler,
                        const char **ret_sampler)
{
    const char *name = json_string_or(searcher, "name", NULL), *sampler = json_string_or(searcher, "sampler", NULL);

    config_searcher_names(searcher, ret_scheduler, ret_sampler);
    if (name && !*ret_scheduler)
        say_unknown_name(check, "searcher.name", name, false);
    if (sampler && !find_name(searcher_samplers(), sampler))
        say_unknown_name(check, "searcher.sampler", sampler, true);
    else if (sampler && *ret_sampler && strcmp(sampler, *ret_sampler)) {
        config_say(check, false, "searcher.sampler", "is %s, but the name %s is a sampler already; give one of them",
                   sampler, name);
        return false;
    }
    if (!name || !*ret_scheduler || !*ret_sampler)
        return false;
    if (!searcher_pair_is_legal(*ret_scheduler, *ret_sampler)) {
        char legal[300] = "";
        size_t used = 0;
        for (const char *const *s = searcher_samplers(); *s && used < sizeof legal; s++)
            if (searcher_pair_is_legal(*ret_scheduler, *s))
                used += (size_t)snprintf(legal + used, sizeof legal - used, "%s%s", used ? " or " : "", *s);
        config_say(check, false, "searcher.sampler", "cannot be %s with the scheduler %s; %s can", *ret_sampler,
                   *ret_scheduler, legal);
        return false;
    }
    json_object_set_new(searcher, "sampler", json_string(*ret_sampler));
    return true;
}

static void check_unused(struct config_check *check, json_t *searcher, const char *scheduler)
{
    const json_t *given = json_object_get(check->tree, "searcher");

    for (size_t i = 0; i < sizeof USED_BY / sizeof *USED_BY; i++) {
        char path[100];
        if (strstr(USED_BY[i].schedulers, scheduler))
            continue;
        snprintf(path, sizeof path, "searcher.%s", USED_BY[i].key);
        if (json_object_get(given, USED_BY[i].key))
            config_say(check, true, path, "means nothing to %s and is ignored",
                       json_string_or(searcher, "name", scheduler));
        json_object_del(searcher, USED_BY[i].key);
    }
}

bool config_length(struct config_check *check, const char *path, const json_t *value, double least, double *ret,
                   const char **ret_unit)
{
    const char *unit = NULL, *name;
    char shown[100], near[32], at[200];
    enum unit_kind kind;
    double number;

    snprintf(at, sizeof at, "%s", path);
    if (json_is_object(value) && json_object_size(value) == 1) {
        name = json_object_iter_key(json_object_iter((json_t *)value));
        if (unit_kind_parse(name, &kind)) {
            snprintf(at, sizeof at, "%s.%.60s", path, name);
            if (keys_nearest_word("rounds epochs batches samples seconds", name, near, sizeof near))
                config_say(check, false, at, "is not a known unit; did you mean %s?", near);
            else
                config_say(check, false, at,
                           "is not a known unit; known are rounds, epochs, batches, samples and seconds");
            return false;
        }
        unit = UNIT_NAMES[kind];
        value = json_object_get(value, name);
        snprintf(at, sizeof at, "%s.%s", path, unit);
    }
    number = json_number_value(value);
    keys_value_text(value, shown, sizeof shown);
    if (!json_is_number(value))
        config_say(check, false, at, "must be a number, or a map such as {rounds: 64}, got %s", shown);
    else if (number < least)
        config_say(check, false, at, "must be at least %g, got %s", least, shown);
    else if (number > MAX_UNITS || number != floor(number))
        config_say(check, false, at, "must be a whole number up to %g, got %s", MAX_UNITS, shown);
    else {
        *ret = number;
        *ret_unit = unit;
        return true;
    }
    return false;
}

/* max_time or max_length, as a number; time_metric by name. */
static void check_length(struct config_check *check, json_t *searcher, const char *scheduler)
{
    const json_t *time = json_object_get(searcher, "max_time"), *length = json_object_get(searcher, "max_length");
    const char *given = json_string_or(searcher, "time_metric", NULL), *unit = NULL,
               *key = length ? "max_length" : "max_time";
    char path[40];
    double units;

    if (time && length)
        config_say(
            check, false, "searcher.max_length",
            "and max_time exclude each other: max_time with absolute rung lengths, or the older max_length, whose "
            "rung lengths add up");
    if (!time && !length)
        config_say(check, false, "searcher.max_time", "is missing: the length of a whole trial, as in max_time: 64");
    if (!time == !length)
        return;
    snprintf(path, sizeof path, "searcher.%s", key);
    if (!config_length(check, path, time ? time : length, 1, &units, &unit))
        return;
    if (given && unit && strcmp(given, unit)) {
        config_say(check, false, "searcher.time_metric", "is %s, but %s is in %s", given, key, unit);
        return;
    }
    if (!given && !unit && check->own_program) {
        config_say(check, false, "searcher.time_metric",
                   "is missing: with an entrypoint, say what %s counts (rounds, epochs, batches, samples or seconds)",
                   key);
        return;
    }
    json_object_set_new(searcher, key, json_integer((json_int_t)units));
    json_object_set_new(searcher, "time_metric", json_string(given ? given : unit ? unit : "rounds"));
    if (is_halving(scheduler) && !json_object_get(searcher, "stop_once"))
        json_object_set_new(searcher, "stop_once", json_boolean(time != NULL));
}

static void check_metric(struct config_check *check, json_t *searcher)
{
    const char *metric = json_string_or(searcher, "metric", NULL);
    const json_t *given = json_object_get(searcher, "smaller_is_better");
    bool smaller, known;

    if (!metric)
        return;
    known = config_metric_is_known(metric, &smaller);
    if (!check->own_program && !known) {
        config_say_unknown_metric(check, "searcher.metric", metric);
        return;
    }
    if (!check->own_program && !strncmp(metric, "train_", 6)) {
        config_say(check, false, "searcher.metric",
                   "cannot be %s: trials are compared on data they were not trained on; did you mean validation_%s?",
                   metric, metric + 6);
        return;
    }
    if (!check->own_program && !strncmp(metric, "test_", 5)) {
        config_say(check, false, "searcher.metric",
                   "cannot be %s: the test split is read once, for the best trial; did you mean validation_%s?", metric,
                   metric + 5);
        return;
    }
    if (!given && check->own_program) {
        config_say(check, false, "searcher.smaller_is_better",
                   "is missing: with an entrypoint, say whether a smaller %s is better", metric);
        return;
    }
    if (json_is_boolean(given) && known && json_is_true(given) != smaller)
        config_say(check, true, "searcher.smaller_is_better",
                   "is %s, but a %s %s is better by its name; the file is obeyed",
                   json_is_true(given) ? "true" : "false", smaller ? "smaller" : "greater", metric);
    if (!given)
        json_object_set_new(searcher, "smaller_is_better", json_boolean(smaller));
}

static void check_grid_counts(struct config_check *check, const json_t *group, const char *path, int depth)
{
    const char *name;
    json_t *value;

    json_object_foreach ((json_t *)group, name, value) {
        const char *type = json_string_or(value, "type", "");
        char at[1024];
        snprintf(at, sizeof at, "%.700s.%.200s", path, name);
        if (json_is_object(value) && !json_object_get(value, "type") && depth < 16)
            check_grid_counts(check, value, at, depth + 1);
        if ((strcmp(type, "int") && strcmp(type, "double") && strcmp(type, "log")) || json_object_get(value, "count"))
            continue;
        strcat(at, ".count");
        config_say(check, false, at, "is missing: a grid needs the number of points, as in count: 3");
    }
}

static void check_trials(struct config_check *check, json_t *searcher, const char *scheduler, const char *sampler)
{
    const char *name = json_string_or(searcher, "name", "");
    int64_t trials = json_int_or(searcher, "max_trials", 0);

    if (!strcmp(sampler, "grid"))
        check_grid_counts(check, json_object_get(check->resolved, "hyperparameters"), "hyperparameters", 0);
    else if (!json_object_get(searcher, "max_trials") && !strcmp(name, "single"))
        json_object_set_new(searcher, "max_trials", json_integer(1));
    else if (!json_object_get(searcher, "max_trials"))
        config_say(check, false, "searcher.max_trials", "is missing; for example max_trials: 16");
    else if (trials > 1 && json_is_object(json_object_get(check->resolved, "hyperparameters")) &&
             !json_object_size(json_object_get(check->resolved, "hyperparameters")))
        config_say(check, true, "searcher.max_trials",
                   "is %lld, but there are no hyperparameters: the trials differ by their random draws alone",
                   (long long)trials);
    if (!strcmp(scheduler, "async_halving") && !json_object_get(searcher, "num_rungs"))
        config_say(check, false, "searcher.num_rungs", "is missing; for example num_rungs: 3");
}

void config_check_searcher(struct config_check *check)
{
    json_t *searcher = json_object_get(check->resolved, "searcher");
    const char *scheduler, *sampler;
    bool named;

    if (!json_is_object(searcher))
        return;
    named = check_names(check, searcher, &scheduler, &sampler);
    if (named)
        check_unused(check, searcher, scheduler);
    check_length(check, searcher, scheduler);
    check_metric(check, searcher);
    if (named)
        check_trials(check, searcher, scheduler, sampler);
}

int config_searcher_from(const json_t *searcher, uint64_t seed, struct searcher_config *ret, int64_t **ret_rungs)
{
    static const char *const MODES[] = {
        [MODE_AGGRESSIVE] = "aggressive", [MODE_STANDARD] = "standard", [MODE_CONSERVATIVE] = "conservative"};
    const json_t *rungs = json_object_get(searcher, "bracket_rungs"), *length = json_object_get(searcher, "max_length");
    const char *mode = json_string_or(searcher, "mode", "standard");
    size_t n = json_array_size(rungs);

    *ret = (struct searcher_config){.seed = seed, .bracket_rungs_n = n, .accumulate_rungs = length != NULL};
    config_searcher_names(searcher, &ret->scheduler, &ret->sampler);
    ret->smaller_is_better = json_bool_or(searcher, "smaller_is_better", false);
    ret->max_units = json_number_value(length ? length : json_object_get(searcher, "max_time"));
    ret->max_trials = json_int_or(searcher, "max_trials", 0);
    ret->max_concurrent_trials = json_int_or(searcher, "max_concurrent_trials", 16);
    ret->divisor = json_double_or(searcher, "divisor", 4);
    ret->max_rungs = json_int_or(searcher, "max_rungs", 5);
    ret->num_rungs = json_int_or(searcher, "num_rungs", 0);
    ret->stop_once = json_bool_or(searcher, "stop_once", !length);
    ret->logical_order = !strcmp(json_string_or(searcher, "order", "arrival"), "logical");
    for (int i = 0; i < 3; i++)
        if (!strcmp(MODES[i], mode))
            ret->mode = (enum halving_mode)i;
    if (!n)
        return 0;
    if (!(*ret_rungs = calloc(n, sizeof **ret_rungs)))
        return -ENOMEM;
    for (size_t i = 0; i < n; i++)
        (*ret_rungs)[i] = json_integer_value(json_array_get(rungs, i));
    ret->bracket_rungs = *ret_rungs;
    return 0;
}
