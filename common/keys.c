/* keys.c - reading values by tables of keys: references, defaults, rows by path, substitution. See keys.h.
 * Checking is in keys_check.c, suggestions are in keys_nearest.c.
 * SPDX-License-Identifier: Apache-2.0 */
#include "common/keys.h"
#include "common/keys_private.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- values ----------------------------------------------------------------------------------------------------- */

void keys_number_text(double value, char *ret, size_t room)
{
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(ret, room, "%.*g", digits, value);
        if (strtod(ret, NULL) == value)
            break;
    }
}

/* 16.0 and not 16: which of the two it is matters in an error. */
static void real_text(double value, char *ret, size_t room)
{
    keys_number_text(value, ret, room);
    if (strspn(ret, "-0123456789") == strlen(ret) && strlen(ret) + 3 <= room)
        strcat(ret, ".0");
}

void keys_clean_text(char *text)
{
    const unsigned char *from = (const unsigned char *)text;
    char *to = text;

    while (*from) {
        size_t length = *from < 0x80 ? 1 : *from >= 0xf0 ? 4 : *from >= 0xe0 ? 3 : *from >= 0xc0 ? 2 : 0, have = 1;
        while (have < length && (from[have] & 0xc0) == 0x80)
            have++;
        if (have == length) {
            if (iscntrl(*from) || (from[0] == 0xc2 && from[1] < 0xa0)) { /* U+0080 to U+009F are some, too */
                *to++ = ' ';
            } else {
                memmove(to, from, length);
                to += length;
            }
        }
        from += have;
    }
    *to = 0;
}

char *keys_shown_text(const char *text)
{
    char *shown = strndup(text, KEYS_SHOWN_MAX);

    if (shown)
        keys_clean_text(shown);
    return shown;
}

/* As a file has it, when it is not finite. */
static const char *special_text(const json_t *value)
{
    double number;

    if (!json_is_string(value) || !json_to_double(value, &number))
        return NULL;
    return isnan(number) ? ".nan" : number > 0 ? ".inf" : "-.inf";
}

void keys_value_text(const json_t *value, char *ret, size_t room)
{
    if (special_text(value))
        snprintf(ret, room, "%s", special_text(value));
    else if (json_is_string(value) && strlen(json_string_value(value)) > 60)
        snprintf(ret, room, "\"%.60s...\"", json_string_value(value));
    else if (json_is_string(value))
        snprintf(ret, room, "\"%s\"", json_string_value(value));
    else if (json_is_integer(value))
        snprintf(ret, room, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
    else if (json_is_real(value))
        real_text(json_real_value(value), ret, room);
    else
        snprintf(ret, room, "%s",
                 json_is_true(value)     ? "true"
                 : json_is_false(value)  ? "false"
                 : json_is_object(value) ? "a map"
                 : json_is_array(value)  ? "a list"
                                         : "nothing");
    keys_clean_text(ret);
}

bool keys_is_quoted_number(const json_t *value)
{
    const char *text = json_string_value(value);
    char *end;

    return text && *text && !text[strspn(text, "+-.0123456789eE")] && isfinite(strtod(text, &end)) && !*end;
}

bool keys_is_whole(const json_t *value)
{
    double number = json_real_value(value);

    return json_is_real(value) && number == floor(number) && fabs(number) <= 9007199254740992.0;
}

/* --- references ------------------------------------------------------------------------------------------------- */

const char *keys_reference(const json_t *value)
{
    const char *text = json_string_value(value);

    if (!text || text[0] != '$' || !(isalpha((unsigned char)text[1]) || text[1] == '_'))
        return NULL;
    for (const char *c = text + 1; *c; c++)
        if (!isalnum((unsigned char)*c) && !strchr("_-.", *c))
            return NULL;
    return text[strlen(text) - 1] == '.' ? NULL : text + 1;
}

const json_t *keys_hyperparameter(const json_t *hyperparameters, const char *name)
{
    const json_t *at = hyperparameters, *whole = json_object_get(hyperparameters, name);

    if (whole)
        return whole;
    while (at && *name) {
        char part[256];
        size_t length = strcspn(name, ".");
        if (!length || length >= sizeof part)
            return NULL;
        memcpy(part, name, length);
        part[length] = 0;
        at = json_object_get(at, part);
        name += length + (name[length] == '.');
    }
    return at;
}

/* A map without a type is a nested group. */
bool keys_is_group(const json_t *description)
{
    return json_is_object(description) && !json_object_get(description, "type");
}

struct nearest_name {
    const char *wanted;
    size_t best;
    char found[256];
};

static void find_nearest_hyperparameter(const json_t *group, const char *prefix, int depth,
                                        struct nearest_name *nearest)
{
    const char *key;
    json_t *value;

    json_object_foreach ((json_t *)group, key, value) {
        char path[256];
        size_t distance;
        snprintf(path, sizeof path, "%s%s%s", prefix, *prefix ? "." : "", key);
        if (keys_is_group(value) && depth < 16) {
            find_nearest_hyperparameter(value, path, depth + 1, nearest);
            continue;
        }
        distance = keys_distance(nearest->wanted, path, nearest->best);
        if (!strcmp(nearest->wanted, key)) /* the name without its group */
            distance = 0;
        if (distance < nearest->best || (distance == nearest->best && !*nearest->found)) {
            nearest->best = distance;
            snprintf(nearest->found, sizeof nearest->found, "%s", path);
        }
    }
}

bool keys_nearest_hyperparameter(const json_t *hyperparameters, const char *name, char *ret, size_t room)
{
    struct nearest_name nearest = {.wanted = name, .best = keys_distance_allowed(name)};

    find_nearest_hyperparameter(hyperparameters, "", 0, &nearest);
    snprintf(ret, room, "%s", nearest.found);
    return *nearest.found;
}

/* --- defaults -------------------------------------------------------------------------------------------------- */

static json_t *resolve_value(const struct key *key, const json_t *value);

static json_t *resolve_tag(const struct key *key, const json_t *value)
{
    const char *name = json_string_value(value);
    const json_t *member = NULL;
    const struct key *row;
    json_t *ret, *empty = NULL;

    if (!name && json_object_size(value) == 1) {
        name = json_object_iter_key(json_object_iter((json_t *)value));
        member = json_object_get(value, name);
    }
    row = name ? keys_row(key->sub, name, strlen(name)) : NULL;
    if (!row)
        return json_deep_copy(value);
    if (!member || json_is_null(member))
        member = empty = json_object();
    ret = json_object();
    json_object_set_new(ret, name, resolve_value(row, member));
    json_decref(empty);
    return ret;
}

static json_t *resolve_list(const struct key *key, const json_t *value)
{
    json_t *ret = json_array();
    const json_t *element;
    size_t i;

    json_array_foreach ((json_t *)value, i, element)
        json_array_append_new(ret, resolve_value(&key->sub[0], element));
    return ret;
}

static json_t *resolve_shorthand(const struct key *key, const json_t *value)
{
    json_t *map = json_object(), *ret;

    json_object_set_new(map, key->shorthand, json_deep_copy(value));
    ret = keys_resolve(key->sub, map);
    json_decref(map);
    return ret;
}

static json_t *resolve_value(const struct key *key, const json_t *value)
{
    bool scalar = !json_is_object(value) && !json_is_array(value) && !json_is_null(value);

    if (key->type == KEY_MAP && json_is_object(value))
        return keys_resolve(key->sub, value);
    if (key->type == KEY_MAP && key->shorthand && scalar)
        return resolve_shorthand(key, value);
    if (key->type == KEY_LIST && json_is_array(value))
        return resolve_list(key, value);
    if (key->type == KEY_TAGGED)
        return resolve_tag(key, value);
    if (key->type == KEY_INT && keys_is_whole(value))
        return json_integer((json_int_t)json_real_value(value));
    return json_deep_copy(value);
}

json_t *keys_resolve(const struct key *table, const json_t *value)
{
    json_t *ret = json_object();

    for (; table->name; table++) {
        const json_t *member = json_object_get(value, table->name);
        json_t *def = NULL;
        if (table->type == KEY_IGNORED)
            continue;
        if (!member && table->def)
            member = def = json_loads(table->def, JSON_DECODE_ANY, NULL);
        if (member)
            json_object_set_new(ret, table->name, resolve_value(table, member));
        json_decref(def);
    }
    return ret;
}

/* --- rows by path ---------------------------------------------------------------------------------------------- */

const struct key *keys_find(const struct key *table, const char *path)
{
    const struct key *row = NULL;

    while (*path) {
        size_t length = strcspn(path, ".[");
        if (*path == '[') {
            if (!row || row->type != KEY_LIST || !strchr(path, ']'))
                return NULL;
            row = &row->sub[0];
            path = strchr(path, ']') + 1;
        } else {
            if (row && row->type == KEY_LIST) /* layers.conv2d says enough */
                row = &row->sub[0];
            if (row && row->type != KEY_MAP && row->type != KEY_TAGGED)
                return NULL;
            row = keys_row(row ? row->sub : table, path, length);
            path += length;
        }
        if (!row)
            return NULL;
        path += *path == '.';
    }
    return row;
}

/* --- substitution ---------------------------------------------------------------------------------------------- */

static int substitute(const json_t *value, const json_t *hyperparameters, json_t **ret, struct error *err)
{
    const char *name = keys_reference(value), *key;
    json_t *copy, *member, *replaced;
    const json_t *found;
    char near[256];
    size_t i;
    int rc;

    if (name) {
        found = keys_hyperparameter(hyperparameters, name);
        if (!found && keys_nearest_hyperparameter(hyperparameters, name, near, sizeof near))
            return fail(err, -EINVAL, "$%s is not a hyperparameter; did you mean $%s?", name, near);
        if (!found)
            return fail(err, -EINVAL, "$%s is not a hyperparameter", name);
        *ret = json_deep_copy(found);
        return 0;
    }
    if (json_is_object(value)) {
        copy = json_object();
        json_object_foreach ((json_t *)value, key, member) {
            if ((rc = substitute(member, hyperparameters, &replaced, err)))
                goto failed;
            json_object_set_new(copy, key, replaced);
        }
    } else if (json_is_array(value)) {
        copy = json_array();
        json_array_foreach ((json_t *)value, i, member) {
            if ((rc = substitute(member, hyperparameters, &replaced, err)))
                goto failed;
            json_array_append_new(copy, replaced);
        }
    } else {
        copy = json_deep_copy(value);
    }
    *ret = copy;
    return 0;
failed:
    json_decref(copy);
    return rc;
}

int keys_substitute(const json_t *value, const json_t *hyperparameters, json_t **ret, struct error *err)
{
    return substitute(value, hyperparameters, ret, err);
}
