/* overrides.c - `--config key.path=value`: changes to the tree before it is checked.
 * The value is YAML; missing maps are made; `null` removes the key; a shorthand such as `strategy: fedavg` becomes a
 * map when one of its other keys is set. What is set here has no place in the file: its problems are shown with
 * --config.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/config/config_private.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PATH_ROOM 1024

struct part {
    char name[201]; /* "" for a list's element */
    size_t index;
};

static void refuse(struct config_problems *problems, const char *override, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static void refuse(struct config_problems *problems, const char *override, const char *format, ...)
{
    char text[500], whole[700];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    snprintf(whole, sizeof whole, "\"%.150s\" %s", override, text);
    config_problems_add(problems, false, "", 0, 0, whole);
}

/* Takes the next part off "a.b[2].c" (first: nothing was taken yet); false when it is not such a path. */
static bool take_part(const char **path, bool first, struct part *ret)
{
    const char *at = *path;
    size_t length;

    memset(ret, 0, sizeof *ret);
    if (*at == '[' && !first) {
        char *end;
        ret->index = strtoul(at + 1, &end, 10);
        if (end == at + 1 || *end != ']')
            return false;
        *path = end + 1;
        return true;
    }
    at += !first && *at == '.';
    if (at == *path && !first)
        return false;
    length = strcspn(at, ".[");
    if (!length || length >= sizeof ret->name)
        return false;
    memcpy(ret->name, at, length);
    *path = at + length;
    return true;
}

static json_t *get(json_t *at, const struct part *part)
{
    return *part->name ? json_object_get(at, part->name) : json_array_get(at, part->index);
}

/* Takes ownership of value. */
static void set(json_t *at, const struct part *part, json_t *value)
{
    if (*part->name)
        json_object_set_new(at, part->name, value);
    else
        json_array_set_new(at, part->index, value);
}

static void erase(json_t *at, const struct part *part)
{
    if (*part->name)
        json_object_del(at, part->name);
    else
        json_array_remove(at, part->index);
}

/* The member as a map: made where it is missing, or where a scalar is short for one. Otherwise as it is. */
static json_t *make_map(json_t *at, const struct part *part, const char *path)
{
    json_t *value = get(at, part), *map;
    const struct key *row = keys_find(CONFIG_KEYS, path);
    bool absent = !value || json_is_null(value);

    if (!absent && (json_is_object(value) || json_is_array(value) || !row || row->type != KEY_MAP || !row->shorthand))
        return value;
    map = json_object();
    if (!absent)
        json_object_set(map, row->shorthand, value);
    set(at, part, map);
    return map;
}

/* Whether part can be reached in at. */
static bool fits(const json_t *at, const struct part *part)
{
    return *part->name ? json_is_object(at) : json_is_array(at) && part->index < json_array_size(at);
}

static bool is_path(const char *path)
{
    const char *rest = path;
    struct part part;

    while (take_part(&rest, rest == path, &part))
        if (!*rest)
            return strlen(path) < PATH_ROOM - 64;
    return false;
}

/* False: it was refused. */
static bool apply(json_t *tree, const char *path, json_t *value, const char *override, struct config_problems *problems)
{
    char at_path[PATH_ROOM] = "";
    const char *rest = path;
    json_t *at = tree;
    struct part part;

    if (!is_path(path)) {
        refuse(problems, override, "needs a key path before =, such as searcher.max_trials=8");
        return false;
    }
    while (take_part(&rest, rest == path, &part)) {
        size_t used = strlen(at_path);
        if (!fits(at, &part)) {
            refuse(problems, override,
                   *part.name ? "cannot be set: %s is not a map" : "cannot be set: %s has no such element", at_path);
            return false;
        }
        if (*part.name)
            snprintf(at_path + used, sizeof at_path - used, "%s%s", used ? "." : "", part.name);
        else
            snprintf(at_path + used, sizeof at_path - used, "[%zu]", part.index);
        if (!*rest && json_is_null(value))
            erase(at, &part);
        else if (!*rest)
            set(at, &part, json_incref(value));
        if (!*rest)
            return true;
        at = *rest == '[' ? get(at, &part) : make_map(at, &part, at_path);
    }
    return false;
}

static void override_one(json_t *tree, struct config_marks *marks, const char *override,
                         struct config_problems *problems)
{
    const char *equals = strchr(override, '=');
    struct config_marks *ignored = calloc(1, sizeof *ignored);
    struct config_problems inner = {0};
    char path[PATH_ROOM];
    json_t *value = NULL, *text;

    if (!ignored)
        goto out;
    text = json_string(override); /* NULL where it is no UTF-8, and then it can be put into no tree */
    json_decref(text);
    if (!text) {
        refuse(problems, override, "is not UTF-8 text");
        goto out;
    }
    if (!equals || (size_t)(equals - override) >= sizeof path) {
        refuse(problems, override, "must be KEY.PATH=VALUE, such as searcher.max_trials=8");
        goto out;
    }
    snprintf(path, sizeof path, "%.*s", (int)(equals - override), override);
    if (!equals[1])
        refuse(problems, override, "has no value; to remove the key write %.100s=null", path);
    else if (yaml_json(equals + 1, strlen(equals + 1), false, &value, ignored, &inner) || inner.errors)
        refuse(problems, override, "has a value that is not YAML: %s", inner.n ? inner.list[0].text : "out of memory");
    else if (apply(tree, path, value, override, problems))
        config_marks_override(marks, path);
out:
    json_decref(value);
    config_marks_free(ignored);
    config_problems_done(&inner);
}

void config_override(json_t *tree, struct config_marks *marks, const char *const *overrides, size_t n,
                     struct config_problems *problems)
{
    for (size_t i = 0; i < n; i++)
        override_one(tree, marks, overrides[i], problems);
}
