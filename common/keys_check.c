/* keys_check.c - checking a JSON tree against tables of keys. See keys.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "common/keys.h"
#include "common/keys_private.h"

#include <ctype.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Looking for what was meant is slow beside the rest, and nobody reads so many. */
#define MAX_SUGGESTIONS 200

struct check {
    const struct key *root;
    const json_t *hyperparameters;
    keys_report_fn *report;
    void *arg;
    int errors;
    bool references;  /* here, "$name" may stand for a scalar */
    bool substituted; /* the value stands for a reference: it reaches the program as it is */
    const char *via;  /* "takes $lr, which can be 0, but " while such a value is checked */
    char path[KEYS_PATH_ROOM];
};

static void check_value(struct check *c, const struct key *key, const json_t *value);

/* --- small helpers --------------------------------------------------------------------------------------------- */

static void say(struct check *c, bool warning, const char *format, ...) __attribute__((format(printf, 3, 4)));
static void say(struct check *c, bool warning, const char *format, ...)
{
    char text[1000], *got;
    size_t used = 0;
    va_list args;

    if (c->via)
        used = (size_t)snprintf(text, sizeof text, "%.400s", c->via);
    va_start(args, format);
    vsnprintf(text + used, sizeof text - used, format, args);
    va_end(args);
    if (c->via && (got = strstr(text + used, ", got "))) /* via has said it */
        *got = 0;
    keys_clean_text(text);
    if (!warning)
        c->errors++;
    if (c->report)
        c->report(c->arg, warning, c->path, text);
}

/* Both return the old length, for path_cut. */
static size_t path_add_key(struct check *c, const char *name)
{
    size_t length = strlen(c->path);

    snprintf(c->path + length, sizeof c->path - length, "%s%s", length ? "." : "", name);
    return length;
}

static size_t path_add_index(struct check *c, size_t index)
{
    size_t length = strlen(c->path);

    snprintf(c->path + length, sizeof c->path - length, "[%zu]", index);
    return length;
}

static void path_cut(struct check *c, size_t length)
{
    c->path[length] = 0;
}

static bool is_word(const char *words, const char *text)
{
    size_t length = strlen(text);

    for (const char *at = words; at && length && (at = strstr(at, text)); at += length)
        if ((at == words || at[-1] == ' ') && (at[length] == ' ' || !at[length]))
            return true;
    return false;
}

/* "a b c" to "a, b or c" */
static void list_words(const char *words, char *ret, size_t room)
{
    size_t used = 0;

    *ret = 0;
    while (*words && used < room) {
        size_t length = strcspn(words, " ");
        const char *next = words + length + strspn(words + length, " ");
        const char *between = !used ? "" : *next ? ", " : " or ";
        used += (size_t)snprintf(ret + used, room - used, "%s%.*s", between, (int)length, words);
        words = next;
    }
}

/* --- references ------------------------------------------------------------------------------------------------ */

static void check_candidate(struct check *c, const struct key *key, const char *name, const json_t *value)
{
    char shown[100], via[300];

    keys_value_text(value, shown, sizeof shown);
    snprintf(via, sizeof via, "takes $%.100s, which can be %s, but ", name, shown);
    c->via = via;
    c->references = false;
    c->substituted = true;
    check_value(c, key, value);
    c->via = NULL;
    c->references = true;
    c->substituted = false;
}

/* The lowest and highest value of an int, double or log hyperparameter must fit the key. */
static void check_range(struct check *c, const struct key *key, const char *name, const char *type,
                        const json_t *description)
{
    bool is_int = !strcmp(type, "int"), is_log = !strcmp(type, "log");
    const json_t *ends[2] = {json_object_get(description, "minval"), json_object_get(description, "maxval")};
    const json_t *base = json_object_get(description, "base");

    while (key->type == KEY_MAP && key->shorthand)
        key = keys_row(key->sub, key->shorthand, strlen(key->shorthand));
    if (key->type == KEY_FREE)
        return;
    if (key->type != KEY_NUMBER && !(key->type == KEY_INT && is_int)) {
        say(c, false, "takes $%.100s, which is of type %s, but must be %s", name, type,
            key->type == KEY_INT      ? "an integer (type: int, or categorical with integers)"
            : key->type == KEY_BOOL   ? "true or false (type: categorical with vals [true, false])"
            : key->type == KEY_CHOICE ? "one of a few words (type: categorical)"
                                      : "a string (type: categorical)");
        return;
    }
    for (int i = 0; i < 2; i++) {
        json_t *value;
        double end = json_number_value(ends[i]);
        if (!json_is_number(ends[i]))
            return; /* said where the hyperparameter is */
        if (is_log)
            end = pow(base ? json_number_value(base) : 10.0, end);
        if (!isfinite(end))
            return;
        value = is_log ? json_real(end) : json_incref((json_t *)ends[i]);
        check_candidate(c, key, name, value);
        json_decref(value);
    }
}

static void check_reference(struct check *c, const struct key *key, const char *name)
{
    const json_t *description = keys_hyperparameter(c->hyperparameters, name), *list, *value;
    const char *type;
    char near[256];
    size_t i;

    if (!c->hyperparameters)
        return;
    if (!description && c->errors < MAX_SUGGESTIONS &&
        keys_nearest_hyperparameter(c->hyperparameters, name, near, sizeof near)) {
        say(c, false, "takes $%.100s, which is not a hyperparameter; did you mean $%s?", name, near);
        return;
    }
    if (!description) {
        say(c, false, "takes $%.100s, which is not a hyperparameter of this file", name);
        return;
    }
    if (keys_is_group(description)) {
        say(c, false, "takes $%.100s, which is a group of hyperparameters; name one of them, as in $%.100s.NAME", name,
            name);
        return;
    }
    if (!json_is_object(description)) {
        check_candidate(c, key, name, description);
        return;
    }
    type = json_string_or(description, "type", "");
    if (!strcmp(type, "int") || !strcmp(type, "double") || !strcmp(type, "log"))
        check_range(c, key, name, type, description);
    else if (!strcmp(type, "const") && (value = json_object_get(description, "val")))
        check_candidate(c, key, name, value);
    list = strcmp(type, "categorical") ? NULL : json_object_get(description, "vals");
    json_array_foreach ((json_t *)list, i, value)
        check_candidate(c, key, name, value);
}

/* --- one value ------------------------------------------------------------------------------------------------- */

static void wrong_type(struct check *c, const struct key *key, const char *wanted, const json_t *value)
{
    const char *text = json_string_value(value);
    char shown[100], words[300], hint[200] = "";
    double number;

    if (key->type == KEY_NUMBER && text && json_to_double(value, &number))
        wanted = "a finite number";
    keys_value_text(value, shown, sizeof shown);
    list_words(key->choices ? key->choices : "", words, sizeof words);
    if (text && *text == '$')
        snprintf(hint, sizeof hint,
                 c->references ? " (a reference is $ and a hyperparameter's name)"
                 : c->via      ? ""
                               : " (hyperparameters can stand in data, model, training and federation only)");
    else if ((key->type == KEY_INT || key->type == KEY_NUMBER) && keys_is_quoted_number(value))
        snprintf(hint, sizeof hint, "; leave out the quotes");
    else if (text && (key->type == KEY_INT || key->type == KEY_NUMBER) && strchr(text, '_') &&
             isdigit((unsigned char)*text))
        snprintf(hint, sizeof hint, "; write the digits without _");
    else if (json_is_number(value) && key->type == KEY_STRING)
        snprintf(hint, sizeof hint, "; put it in quotes");
    else if (json_is_array(value) && key->type < KEY_MAP)
        snprintf(hint, sizeof hint, "%s",
                 c->references ? "; to try several values, make it a hyperparameter of type categorical" : "");
    if (!*hint && key->example)
        snprintf(hint, sizeof hint, "; for example %.150s", key->example);
    say(c, false, "must be %s%s%s, got %s%s", wanted, *words ? " or " : "", words, shown, hint);
}

static void check_bounds(struct check *c, const struct key *key, const json_t *value)
{
    double number = json_number_value(value);
    char bound[40], shown[60];

    if (key->min == 0 && key->max == 0)
        return;
    keys_value_text(value, shown, sizeof shown);
    if (number < key->min || (key->exclusive_min && number <= key->min)) {
        keys_number_text(key->min, bound, sizeof bound);
        say(c, false, "must be %s %s, got %s", key->exclusive_min ? "greater than" : "at least", bound, shown);
    } else if (!(number <= key->max)) {
        keys_number_text(key->max, bound, sizeof bound);
        say(c, false, "must be at most %s, got %s", bound, shown);
    }
}

static bool is_choice_word(struct check *c, const struct key *key, const json_t *value)
{
    const char *text = json_string_value(value);
    char near[64];

    if (!text || !key->choices)
        return false;
    if (is_word(key->choices, text))
        return true;
    if (!keys_nearest_word(key->choices, text, near, sizeof near))
        return false;
    say(c, false, "cannot be \"%.60s\"; did you mean %s?", text, near);
    return true;
}

static void check_int(struct check *c, const struct key *key, const json_t *value)
{
    if (is_choice_word(c, key, value))
        return;
    if (!json_is_integer(value) && (c->substituted || !keys_is_whole(value)))
        wrong_type(c, key, "an integer", value);
    else
        check_bounds(c, key, value);
}

static void check_number(struct check *c, const struct key *key, const json_t *value)
{
    if (is_choice_word(c, key, value))
        return;
    if (!json_is_number(value))
        wrong_type(c, key, "a number", value);
    else
        check_bounds(c, key, value);
}

static void check_bool(struct check *c, const struct key *key, const json_t *value)
{
    const char *text = json_string_value(value);

    if (json_is_boolean(value))
        return;
    if (text && is_word("yes Yes YES y Y on On ON t T", text))
        say(c, false, "must be true or false; write true, not %.20s", text);
    else if (text && is_word("no No NO n N off Off OFF f F", text))
        say(c, false, "must be true or false; write false, not %.20s", text);
    else if (text && is_word("true false", text))
        say(c, false, "must be true or false; leave out the quotes");
    else
        wrong_type(c, key, "true or false", value);
}

static void check_string(struct check *c, const struct key *key, const json_t *value)
{
    const char *text = json_string_value(value);

    if (!text)
        wrong_type(c, key, "a string", value);
    else if (!*text)
        say(c, false, "must not be empty");
    else if (c->references && *text == '$')
        wrong_type(c, key, "a string that does not begin with $", value);
}

static void check_choice(struct check *c, const struct key *key, const json_t *value)
{
    const char *text = json_string_value(value);
    char shown[100], words[500], near[64];

    if (text && is_word(key->choices, text))
        return;
    keys_value_text(value, shown, sizeof shown);
    list_words(key->choices, words, sizeof words);
    if (text && keys_nearest_word(key->choices, text, near, sizeof near))
        say(c, false, "must be %s, got %s; did you mean %s?", words, shown, near);
    else
        say(c, false, "must be %s, got %s", words, shown);
}

static void list_known(const struct key *table, char *ret, size_t room)
{
    size_t used = 0;

    *ret = 0;
    for (; table->name && used < room; table++)
        if (table->type != KEY_IGNORED)
            used += (size_t)snprintf(ret + used, room - used, "%s%s", used ? ", " : "", table->name);
}

/* A name that this table does not have. what: "key" or "layer". */
static void unknown_key(struct check *c, const struct key *table, const char *name, const char *what)
{
    const struct key *row = keys_same(table, name);
    char other[300];
    bool near_root = strcspn(c->path, "[") == strlen(c->path);

    if (!row && near_root && keys_elsewhere(c->root, name, other, sizeof other)) {
        say(c, false, "is not a known %s here; did you mean %s?", what, other);
        return;
    }
    if (!row)
        row = keys_similar(table, name);
    if (row) {
        say(c, false, "is not a known %s; did you mean %s?", what, row->name);
        return;
    }
    list_known(table, other, sizeof other);
    say(c, false, *other ? "is not a known %s; known here: %s" : "is not a known %s; none is expected here%s", what,
        other);
}

static void check_keys(struct check *c, const struct key *table, const json_t *value)
{
    const char *name;
    json_t *member;

    json_object_foreach ((json_t *)value, name, member) {
        const struct key *row = keys_row(table, name, strlen(name));
        size_t cut = path_add_key(c, name);
        if (!row)
            unknown_key(c, table, name, "key");
        else if (row->type == KEY_IGNORED)
            say(c, true, "%s", row->doc);
        else
            check_value(c, row, member);
        path_cut(c, cut);
    }
    for (; table->name; table++)
        if (table->required && !json_object_get(value, table->name)) {
            size_t cut = path_add_key(c, table->name);
            if (table->example)
                say(c, false, "is missing; for example %s", table->example);
            else
                say(c, false, "is missing");
            path_cut(c, cut);
        }
}

static void check_map(struct check *c, const struct key *key, const json_t *value)
{
    const struct key *row = key->shorthand ? keys_row(key->sub, key->shorthand, strlen(key->shorthand)) : NULL;
    const struct key *other;

    if (json_is_object(value)) {
        check_keys(c, key->sub, value);
        return;
    }
    if (!row || json_is_array(value)) {
        wrong_type(c, key, "a map", value);
        return;
    }
    check_value(c, row, value);
    for (other = key->sub; other->name; other++) /* a shorthand cannot give the others */
        if (other->required && other != row)
            say(c, false, "needs %s too: write a map, as in %s", other->name, key->example ? key->example : key->name);
}

static void check_list(struct check *c, const struct key *key, const json_t *value)
{
    const json_t *element;
    size_t i;

    if (!json_is_array(value)) {
        wrong_type(c, key, "a list", value);
        return;
    }
    json_array_foreach ((json_t *)value, i, element) {
        size_t cut = path_add_index(c, i);
        check_value(c, &key->sub[0], element);
        path_cut(c, cut);
    }
}

static void check_one_tag(struct check *c, const struct key *tags, const char *name, const json_t *value)
{
    const struct key *row = keys_row(tags, name, strlen(name));
    json_t *nothing = NULL;
    size_t cut;

    if (!row && json_is_null(value)) { /* a bare name */
        char near[64] = "", known[500];
        const struct key *nearest = keys_same(tags, name);
        if (!nearest)
            nearest = keys_similar(tags, name);
        if (nearest)
            snprintf(near, sizeof near, "; did you mean %s?", nearest->name);
        list_known(tags, known, sizeof known);
        say(c, false, "cannot be %.60s%s%s", name, *near ? near : "; known are ", *near ? "" : known);
        return;
    }
    cut = path_add_key(c, name);
    if (!row)
        unknown_key(c, tags, name, "layer");
    else if (json_is_null(value))
        check_value(c, row, nothing = json_object()); /* flatten: and nothing is as good as flatten */
    else
        check_value(c, row, value);
    json_decref(nothing);
    path_cut(c, cut);
}

static void check_tagged(struct check *c, const struct key *key, const json_t *value)
{
    const char *first = NULL, *name;
    json_t *member;

    if (json_is_string(value) && *json_string_value(value)) {
        json_t *null = json_null();
        check_one_tag(c, key->sub, json_string_value(value), null);
        return;
    }
    if (!json_is_object(value) || !json_object_size(value)) {
        wrong_type(c, key, "a layer's name or a map with one key, the layer's name", value);
        return;
    }
    json_object_foreach ((json_t *)value, name, member)
        if (!first && keys_row(key->sub, name, strlen(name)))
            first = name;
    if (json_object_size(value) == 1) {
        name = json_object_iter_key(json_object_iter((json_t *)value));
        check_one_tag(c, key->sub, name, json_object_get(value, name));
    } else if (first && json_is_null(json_object_get(value, first))) {
        say(c, false, "has %zu keys; indent what belongs to %s further than %s", json_object_size(value), first, first);
    } else {
        say(c, false, "has %zu keys; a layer is a map with one key, its name, and each layer begins with a dash",
            json_object_size(value));
    }
}

static void check_free(struct check *c, const struct key *key, const json_t *value)
{
    (void)c, (void)key, (void)value;
}

static void (*const CHECKS[])(struct check *, const struct key *, const json_t *) = {
    [KEY_INT] = check_int,       [KEY_NUMBER] = check_number, [KEY_BOOL] = check_bool, [KEY_STRING] = check_string,
    [KEY_CHOICE] = check_choice, [KEY_MAP] = check_map,       [KEY_LIST] = check_list, [KEY_TAGGED] = check_tagged,
    [KEY_FREE] = check_free,     [KEY_IGNORED] = check_free,
};

static bool takes_reference(const struct key *key)
{
    return key->type != KEY_FREE && key->type != KEY_LIST && (key->type != KEY_MAP || key->shorthand);
}

static void check_value(struct check *c, const struct key *key, const json_t *value)
{
    bool outside = c->references;
    const char *name;

    c->references = outside || (key->references && !c->substituted);
    name = c->references ? keys_reference(value) : NULL;
    if (json_is_null(value) && key->type != KEY_FREE)
        say(c, false, "has no value; give it one%s%s, or remove the key", key->example ? ", for example " : "",
            key->example ? key->example : "");
    else if (name && takes_reference(key))
        check_reference(c, key, name);
    else
        CHECKS[key->type](c, key, value);
    c->references = outside;
}

int keys_check(const struct key *table, const json_t *value, const char *path, bool references,
               const json_t *hyperparameters, keys_report_fn *report, void *arg)
{
    struct check c = {.root = table, .hyperparameters = hyperparameters, .report = report, .arg = arg};

    c.references = references;
    snprintf(c.path, sizeof c.path, "%s", path ? path : "");
    if (json_is_object(value))
        check_keys(&c, table, value);
    else
        wrong_type(&c, &(struct key){.type = KEY_MAP}, "a map", value);
    return c.errors;
}
