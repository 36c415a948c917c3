/* hyperparameters.c - checking the `hyperparameters` of a file: each description, and the traps that people fall into.
 * space_new (searchers/) reads what passes here.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/config/config_private.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PATH_ROOM 1024
#define MAX_GROUPS 16
#define MAX_WHOLE 9007199254740992.0 /* 2^53: beyond it doubles skip integers */

#define RANGE_KEYS                                                                                                     \
    {"type", KEY_STRING, .doc = ""}, {"minval", KEY_FREE, .doc = ""}, {"maxval", KEY_FREE, .doc = ""},                 \
    {                                                                                                                  \
        "count", KEY_FREE, .doc = ""                                                                                   \
    }

static const struct key CONST_KEYS[] = {{"type", KEY_STRING, .doc = ""}, {"val", KEY_FREE, .doc = ""}, {.name = NULL}};
static const struct key RANGE[] = {RANGE_KEYS, {.name = NULL}};
static const struct key LOG_KEYS[] = {RANGE_KEYS, {"base", KEY_FREE, .doc = ""}, {.name = NULL}};
static const struct key CATEGORICAL_KEYS[] = {
    {"type", KEY_STRING, .doc = ""}, {"vals", KEY_FREE, .doc = ""}, {.name = NULL}};

static void check_const(struct config_check *check, const json_t *description, const char *path);
static void check_range(struct config_check *check, const json_t *description, const char *path);
static void check_categorical(struct config_check *check, const json_t *description, const char *path);

static const struct {
    const char *name;
    const struct key *keys;
    void (*check)(struct config_check *check, const json_t *description, const char *path);
} TYPES[] = {
    {"const", CONST_KEYS, check_const},
    {"int", RANGE, check_range},
    {"double", RANGE, check_range},
    {"log", LOG_KEYS, check_range},
    {"categorical", CATEGORICAL_KEYS, check_categorical},
};
#define TYPES_N (sizeof TYPES / sizeof *TYPES)

/* What other tools call the types. */
static const struct {
    const char *theirs, *ours;
} TYPE_SYNONYMS[] = {
    {"float", "double"},
    {"real", "double"},
    {"uniform", "double"},
    {"number", "double"},
    {"loguniform", "log"},
    {"log_uniform", "log"},
    {"integer", "int"},
    {"randint", "int"},
    {"suggest_int", "int"},
    {"suggest_float", "double"},
    {"choice", "categorical"},
    {"grid", "categorical"},
    {"list", "categorical"},
    {"grid_search", "categorical"},
    {"constant", "const"},
    {"fixed", "const"},
    {"suggest_categorical", "categorical"},
};

static void child(char *ret, const char *path, const char *key)
{
    snprintf(ret, PATH_ROOM, "%.600s.%.200s", path, key);
}

static void check_const(struct config_check *check, const json_t *description, const char *path)
{
    char at[PATH_ROOM];

    child(at, path, "val");
    if (!json_object_get(description, "val"))
        config_say(check, false, at, "is missing; for example {type: const, val: 0.9}, or the bare value");
}

static bool is_scalar(const json_t *value)
{
    return value && !json_is_object(value) && !json_is_array(value);
}

static void check_repeated(struct config_check *check, const json_t *vals, const char *path)
{
    json_t *seen = json_object();
    const json_t *value;
    size_t i;

    json_array_foreach ((json_t *)vals, i, value) {
        char *text = json_canonical(value), element[PATH_ROOM + 32];
        const json_t *first = text ? json_object_get(seen, text) : NULL;
        snprintf(element, sizeof element, "%s[%zu]", path, i);
        if (first)
            config_say(check, false, element, "is given twice: it is element %d too", (int)json_integer_value(first));
        else if (text)
            json_object_set_new(seen, text, json_integer((json_int_t)i));
        free(text);
    }
    json_decref(seen);
}

static void check_categorical(struct config_check *check, const json_t *description, const char *path)
{
    const json_t *vals = json_object_get(description, "vals");
    char at[PATH_ROOM];

    child(at, path, "vals");
    if (!vals)
        config_say(check, false, at, "is missing; for example {type: categorical, vals: [16, 32, 64]}");
    else if (!json_is_array(vals) || !json_array_size(vals))
        config_say(check, false, at, "must be a list of at least one value, as in vals: [16, 32, 64]");
    check_repeated(check, vals, at);
}

/* False: it was reported. */
static bool read_number(struct config_check *check, const json_t *description, const char *path, const char *key,
                        bool whole, double *ret)
{
    const json_t *value = json_object_get(description, key);
    char at[PATH_ROOM], shown[100];

    child(at, path, key);
    keys_value_text(value, shown, sizeof shown);
    *ret = json_number_value(value);
    if (!value)
        config_say(check, false, at, "is missing");
    else if (!json_is_number(value))
        config_say(check, false, at, "must be %s, got %s%s", whole ? "an integer" : "a number", shown,
                   keys_is_quoted_number(value) ? "; leave out the quotes" : "");
    else if (whole && !json_is_integer(value))
        config_say(check, false, at, "must be an integer, got %s; for fractions use type: double", shown);
    else if (whole && fabs(*ret) > MAX_WHOLE)
        config_say(check, false, at, "must be an integer of at most 2^53, got %s", shown);
    else
        return true;
    return false;
}

static void check_log(struct config_check *check, const json_t *description, const char *path, double min, double max)
{
    double base = 10;
    char at[PATH_ROOM];

    if (json_object_get(description, "base") && !read_number(check, description, path, "base", false, &base))
        return;
    child(at, path, "base");
    if (!(base > 0) || base == 1) {
        config_say(check, false, at, "must be greater than 0 and not 1, got %g", base);
        return;
    }
    child(at, path, "minval");
    if (!isfinite(pow(base, min)) || pow(base, min) <= 0 || !isfinite(pow(base, max)) || pow(base, max) <= 0)
        config_say(check, false, at, "and maxval are exponents: %g to the power of %g and of %g is out of range", base,
                   min, max);
    else if (min > 0 && max <= 1 && base > 1 && max / min >= 2)
        config_say(
            check, true, at,
            "and maxval are exponents: this draws from %.6g to %.6g; for %g to %g write minval: %.6g, maxval: %.6g",
            pow(base, min), pow(base, max), min, max, log(min) / log(base), log(max) / log(base));
}

static void check_range(struct config_check *check, const json_t *description, const char *path)
{
    const char *type = json_string_value(json_object_get(description, "type"));
    const json_t *count = json_object_get(description, "count");
    bool whole = !strcmp(type, "int"), both;
    double min, max;
    char at[PATH_ROOM], shown[100];

    both = read_number(check, description, path, "minval", whole, &min);
    both = read_number(check, description, path, "maxval", whole, &max) && both;
    child(at, path, "count");
    keys_value_text(count, shown, sizeof shown);
    if (count && (!json_is_integer(count) || json_integer_value(count) < 1))
        config_say(check, false, at, "must be an integer of at least 1, got %s", shown);
    child(at, path, "minval");
    if (both && min > max)
        config_say(check, false, at, "must not be greater than maxval, got %g and %g", min, max);
    else if (both && !isfinite(max - min))
        config_say(check, false, at, "and maxval are too far apart");
    else if (both && !strcmp(type, "log"))
        check_log(check, description, path, min, max);
}

static void report_key(void *arg, bool warning, const char *path, const char *text)
{
    struct config_check *check = arg;
    int line, column;

    /* Only unknown keys come from here: the place is the key's. */
    config_marks_place(check->marks, path, false, &line, &column);
    config_problems_add(check->problems, warning, path, line, column, text);
}

static void check_description(struct config_check *check, const json_t *description, const char *path)
{
    const json_t *type = json_object_get(description, "type");
    const char *name = json_string_value(type), *meant = NULL;
    char at[PATH_ROOM], shown[100], near[32];

    for (size_t i = 0; name && i < TYPES_N; i++)
        if (!strcmp(name, TYPES[i].name)) {
            keys_check(TYPES[i].keys, description, path, false, NULL, report_key, check);
            TYPES[i].check(check, description, path);
            return;
        }
    for (size_t i = 0; name && i < sizeof TYPE_SYNONYMS / sizeof *TYPE_SYNONYMS; i++)
        if (!strcmp(name, TYPE_SYNONYMS[i].theirs))
            meant = TYPE_SYNONYMS[i].ours;
    if (name && !meant && keys_nearest_word("const int double log categorical", name, near, sizeof near))
        meant = near;
    child(at, path, "type");
    keys_value_text(type, shown, sizeof shown);
    config_say(check, false, at, "must be const, int, double, log or categorical, got %s%s%s%s", shown,
               meant ? "; did you mean " : "", meant ? meant : "", meant ? "?" : "");
}

/* A group that has the keys of a description most likely lacks its type. */
bool config_lacks_type(const json_t *group)
{
    return is_scalar(json_object_get(group, "minval")) || is_scalar(json_object_get(group, "maxval")) ||
           is_scalar(json_object_get(group, "min")) || is_scalar(json_object_get(group, "max")) ||
           json_is_array(json_object_get(group, "vals")) || json_is_array(json_object_get(group, "values")) ||
           json_is_array(json_object_get(group, "choices"));
}

static bool name_is_good(const char *name)
{
    if (!isalpha((unsigned char)*name) && *name != '_')
        return false;
    while (*name && (isalnum((unsigned char)*name) || strchr("_-", *name)))
        name++;
    return !*name;
}

static void check_group(struct config_check *check, const json_t *group, const char *path, int depth)
{
    const char *name;
    json_t *value;

    json_object_foreach ((json_t *)group, name, value) {
        char at[PATH_ROOM];
        child(at, path, name);
        if (!name_is_good(name))
            config_say(
                check, false, at,
                "must be named by a letter or _ and then letters, digits, _ or -, so that $%.60s can stand for it",
                name);
        if (json_is_object(value) && json_object_get(value, "type"))
            check_description(check, value, at);
        else if (json_is_object(value) && config_lacks_type(value))
            config_say(check, false, at, "needs a type: %s",
                       json_object_get(value, "minval") || json_object_get(value, "min") ? "int, double or log"
                                                                                         : "categorical");
        else if (json_is_object(value) && !json_object_size(value))
            config_say(check, false, at, "is an empty group");
        else if (json_is_object(value) && depth == MAX_GROUPS)
            config_say(check, false, at, "is nested more than %d groups deep", MAX_GROUPS);
        else if (json_is_object(value))
            check_group(check, value, at, depth + 1);
        else if (json_is_array(value))
            config_say(
                check, false, at,
                "is a bare list; to try each element write {type: categorical, vals: [...]}, for a constant list "
                "{type: const, val: [...]}");
        else if (json_is_null(value))
            config_say(check, false, at, "has no value; for example {type: log, minval: -4, maxval: -1}");
    }
}

void config_check_hyperparameters(struct config_check *check)
{
    const json_t *hyperparameters = json_object_get(check->resolved, "hyperparameters");
    char shown[100];

    if (json_is_object(hyperparameters)) {
        check_group(check, hyperparameters, "hyperparameters", 0);
        return;
    }
    keys_value_text(hyperparameters, shown, sizeof shown);
    config_say(check, false, "hyperparameters", "must be a map of names, got %s", shown);
}

bool config_range(const json_t *value, const json_t *hyperparameters, double *ret_lowest, double *ret_highest)
{
    const char *name = keys_reference(value), *type;
    const json_t *element, *list;
    bool any = false;
    size_t i;

    if (!name && !json_is_number(value))
        return false;
    *ret_lowest = *ret_highest = json_number_value(value);
    if (!name)
        return true;
    value = keys_hyperparameter(hyperparameters, name);
    if (!json_is_object(value))
        return json_is_number(value) && config_range(value, NULL, ret_lowest, ret_highest);
    type = json_string_or(value, "type", "");
    if (!strcmp(type, "const"))
        return config_range(json_object_get(value, "val"), NULL, ret_lowest, ret_highest) &&
               !keys_reference(json_object_get(value, "val"));
    if (!strcmp(type, "int") || !strcmp(type, "double")) {
        *ret_lowest = json_number_value(json_object_get(value, "minval"));
        *ret_highest = json_number_value(json_object_get(value, "maxval"));
        return true;
    }
    if (!strcmp(type, "log")) {
        double base = json_double_or(value, "base", 10);
        *ret_lowest = pow(base, json_number_value(json_object_get(value, "minval")));
        *ret_highest = pow(base, json_number_value(json_object_get(value, "maxval")));
        return true;
    }
    list = json_object_get(value, "vals");
    json_array_foreach ((json_t *)list, i, element) {
        double number = json_number_value(element);
        if (!json_is_number(element))
            return false;
        *ret_lowest = any ? fmin(*ret_lowest, number) : number;
        *ret_highest = any ? fmax(*ret_highest, number) : number;
        any = true;
    }
    return any;
}
