/* space.c - reading a space from the experiment file; sizes, draws and extremes.
 * SPDX-License-Identifier: Apache-2.0 */
#include "searchers/space_private.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WHOLE_MAX 9007199254740992.0 /* 2^53 */

static const struct {
    const char *name;
    enum axis_type type;
    const char *keys; /* beside type, for a person */
} TYPES[] = {
    {"const", AXIS_CONST, "val"},
    {"int", AXIS_INT, "minval, maxval, count"},
    {"double", AXIS_DOUBLE, "minval, maxval, count"},
    {"log", AXIS_LOG, "base, minval, maxval, count"},
    {"categorical", AXIS_CATEGORICAL, "vals"},
};
#define TYPES_N (sizeof TYPES / sizeof TYPES[0])

/* What people write who come from elsewhere. */
static const struct {
    const char *theirs, *ours;
} SYNONYMS[] = {
    {"min", "minval"},   {"low", "minval"},  {"lower", "minval"}, {"max", "maxval"},   {"high", "maxval"},
    {"upper", "maxval"}, {"values", "vals"}, {"choices", "vals"}, {"options", "vals"}, {"categories", "vals"},
    {"value", "val"},    {"num", "count"},   {"n", "count"},      {"steps", "count"},  {"points", "count"},
};

static bool in_list(const char *list, const char *word)
{
    size_t n = strlen(word);

    for (const char *at = list; (at = strstr(at, word)); at += n)
        if ((at == list || at[-1] == ' ') && (!at[n] || at[n] == ','))
            return true;
    return false;
}

static int check_keys(const json_t *map, const char *path, size_t type, struct error *err)
{
    const char *key;
    json_t *value;

    json_object_foreach((json_t *)map, key, value)
    {
        const char *ours = NULL;
        if (!strcmp(key, "type") || in_list(TYPES[type].keys, key))
            continue;
        for (size_t i = 0; i < sizeof SYNONYMS / sizeof SYNONYMS[0]; i++)
            if (!strcmp(key, SYNONYMS[i].theirs) && in_list(TYPES[type].keys, SYNONYMS[i].ours))
                ours = SYNONYMS[i].ours;
        return fail(err, -EINVAL, "%s.%s: unknown key; %s%s%stype %s takes %s", path, key, ours ? "did you mean " : "",
                    ours ? ours : "", ours ? "? " : "", TYPES[type].name, TYPES[type].keys);
    }
    return 0;
}

static int read_number(const json_t *map, const char *path, const char *key, bool whole, double *ret, struct error *err)
{
    const json_t *value = json_object_get(map, key);
    double number;

    if (!value)
        return fail(err, -EINVAL, "%s: %s is missing", path, key);
    if (!json_is_number(value))
        return fail(err, -EINVAL, "%s.%s: must be %s", path, key, whole ? "a whole number" : "a number");
    number = json_number_value(value);
    if (!isfinite(number) || (whole && (floor(number) != number || fabs(number) > WHOLE_MAX)))
        return fail(err, -EINVAL, "%s.%s: must be %s, got %.17g", path, key,
                    whole ? "a whole number, at most 2^53 in size" : "finite", number);
    *ret = number;
    return 0;
}

static int read_range(struct axis *axis, const json_t *map, struct error *err)
{
    const json_t *count = json_object_get(map, "count");
    bool whole = axis->type == AXIS_INT;
    int rc = read_number(map, axis->path, "minval", whole, &axis->min, err);

    if (!rc)
        rc = read_number(map, axis->path, "maxval", whole, &axis->max, err);
    if (rc)
        return rc;
    if (axis->min > axis->max)
        return fail(err, -EINVAL, "%s: minval %.17g is greater than maxval %.17g", axis->path, axis->min, axis->max);
    if (!isfinite(axis->max - axis->min))
        return fail(err, -EINVAL, "%s: minval and maxval are too far apart", axis->path);
    if (count) {
        if (!json_is_integer(count) || json_integer_value(count) < 1)
            return fail(err, -EINVAL, "%s.count: must be a whole number, at least 1", axis->path);
        axis->count = json_integer_value(count);
    }
    if (axis->type != AXIS_LOG)
        return 0;
    axis->base = 10;
    if (json_object_get(map, "base"))
        rc = read_number(map, axis->path, "base", false, &axis->base, err);
    if (rc)
        return rc;
    if (axis->base <= 0 || axis->base == 1)
        return fail(err, -EINVAL, "%s.base: must be greater than 0 and not 1, got %.17g", axis->path, axis->base);
    for (int end = 0; end < 2; end++) {
        double value = axis_power(axis->base, end ? axis->max : axis->min);
        if (!isfinite(value) || value <= 0)
            return fail(err, -EINVAL,
                        "%s.%s: %.17g is an exponent, and %.17g to the power of it is %s; for 1e-5 write -5",
                        axis->path, end ? "maxval" : "minval", end ? axis->max : axis->min, axis->base,
                        value > 0 ? "infinite" : "zero");
    }
    return 0;
}

static int read_values(struct axis *axis, const json_t *map, struct error *err)
{
    const json_t *values = json_object_get(map, "vals");
    size_t n = json_array_size(values);
    json_t *seen;
    int rc = 0;

    if (!json_is_array(values) || !n)
        return fail(err, -EINVAL, "%s.vals: must be a list of at least one value", axis->path);
    seen = json_object();
    for (size_t i = 0; !rc && i < n; i++) {
        char *text = json_canonical(json_array_get(values, i));
        if (text && json_object_get(seen, text))
            rc = fail(err, -EINVAL, "%s.vals: %s is listed twice", axis->path, text);
        else if (!text || json_object_set_new(seen, text, json_true()))
            rc = -ENOMEM;
        free(text);
    }
    json_decref(seen);
    if (rc)
        return rc;
    axis->values = json_deep_copy(values);
    return axis->values ? 0 : -ENOMEM;
}

/* A map that has `type`. */
static int read_typed(struct axis *axis, const json_t *map, struct error *err)
{
    const char *name = json_string_value(json_object_get(map, "type"));
    size_t type = 0;
    int rc;

    while (type < TYPES_N && (!name || strcmp(TYPES[type].name, name)))
        type++;
    if (type == TYPES_N)
        return fail(err, -EINVAL, "%s.type: must be const, int, double, log or categorical%s%s", axis->path,
                    name ? ", got " : "", name ? name : "");
    axis->type = TYPES[type].type;
    rc = check_keys(map, axis->path, type, err);
    if (rc)
        return rc;
    if (axis->type == AXIS_CATEGORICAL)
        return read_values(axis, map, err);
    if (axis->type != AXIS_CONST)
        return read_range(axis, map, err);
    if (!json_object_get(map, "val"))
        return fail(err, -EINVAL, "%s: val is missing", axis->path);
    axis->values = json_pack("[o]", json_deep_copy(json_object_get(map, "val")));
    return axis->values ? 0 : -ENOMEM;
}

static struct axis *add_axis(struct space *space, const char *path)
{
    struct axis *axes = realloc(space->axes, (space->n + 1) * sizeof *axes);
    struct axis *axis;

    if (!axes)
        return NULL;
    space->axes = axes;
    axis = &axes[space->n];
    memset(axis, 0, sizeof *axis);
    axis->path = strdup(path);
    if (!axis->path)
        return NULL;
    space->n++;
    return axis;
}

static int read_group(struct space *space, const json_t *group, const char *prefix, int depth, struct error *err)
{
    const char *key;
    json_t *value;

    json_object_foreach((json_t *)group, key, value)
    {
        char path[512];
        struct axis *axis;
        int rc;

        if (snprintf(path, sizeof path, "%s%s%s", prefix, *prefix ? "." : "", key) >= (int)sizeof path || depth > 32)
            return fail(err, -EINVAL, "%.80s...: nested too deep", prefix);
        if (!*key || strchr(key, '.'))
            return fail(err, -EINVAL, "%s: a hyperparameter's name must not be empty or contain a dot; nest instead",
                        path);
        if (json_is_object(value) && !json_object_get(value, "type")) {
            if (!json_object_size(value))
                return fail(err, -EINVAL, "%s: the group is empty", path);
            rc = read_group(space, value, path, depth + 1, err);
            if (rc)
                return rc;
            continue;
        }
        if (json_is_array(value))
            return fail(err, -EINVAL,
                        "%s: a bare list; for choices write {type: categorical, vals: [...]}, for one fixed "
                        "list {type: const, val: [...]}",
                        path);
        if (json_is_null(value))
            return fail(err, -EINVAL, "%s: has no value", path);
        axis = add_axis(space, path);
        if (!axis)
            return fail(err, -ENOMEM, "%s: out of memory", path);
        if (json_is_object(value)) {
            rc = read_typed(axis, value, err);
            if (rc)
                return rc == -ENOMEM ? fail(err, rc, "%s: out of memory", path) : rc;
        } else {
            axis->type = AXIS_CONST;
            axis->values = json_pack("[O]", value);
            if (!axis->values)
                return fail(err, -ENOMEM, "%s: out of memory", path);
        }
    }
    return 0;
}

int space_new(const json_t *hyperparameters, struct space **ret, struct error *err)
{
    struct space *space;
    int rc;

    if (hyperparameters && !json_is_null(hyperparameters) && !json_is_object(hyperparameters))
        return fail(err, -EINVAL, "hyperparameters: must be a map from names to values");
    space = calloc(1, sizeof *space);
    if (!space)
        return fail(err, -ENOMEM, "hyperparameters: out of memory");
    rc = json_is_object(hyperparameters) ? read_group(space, hyperparameters, "hyperparameters", 0, err) : 0;
    if (rc) {
        space_free(space);
        return rc;
    }
    for (size_t i = 0; i < space->n; i++) { /* the prefix was for errors */
        char *path = space->axes[i].path;
        memmove(path, path + sizeof "hyperparameters", strlen(path + sizeof "hyperparameters") + 1);
    }
    *ret = space;
    return 0;
}

void space_free(struct space *space)
{
    if (!space)
        return;
    for (size_t i = 0; i < space->n; i++) {
        free(space->axes[i].path);
        json_decref(space->axes[i].values);
    }
    free(space->axes);
    free(space);
}

double axis_power(double base, double exponent)
{
    double times = fabs(exponent);

    if (floor(times) == times && times <= 64) {
        double product = 1;
        int i = 0;

        for (; i < (int)times && product <= WHOLE_MAX; i++)
            product *= base;
        if (i == (int)times && floor(product) == product && product <= WHOLE_MAX)
            return exponent < 0 ? 1 / product : product;
    }
    return rng_exp(exponent * rng_log(base));
}

uint64_t axis_below(struct pcg32 *rng, uint64_t bound)
{
    uint64_t limit, value;

    if (bound <= UINT32_MAX)
        return rng_below(rng, (uint32_t)bound);
    limit = UINT64_MAX - UINT64_MAX % bound; /* a multiple of bound */
    do {
        value = (uint64_t)pcg32_next(rng) << 32;
        value |= pcg32_next(rng);
    } while (value >= limit);
    return value % bound;
}

uint64_t axis_size(const struct axis *axis)
{
    switch (axis->type) {
    case AXIS_INT:
        return (uint64_t)(axis->max - axis->min) + 1;
    case AXIS_DOUBLE:
    case AXIS_LOG:
        return axis->min == axis->max ? 1 : 0;
    default:
        return json_array_size(axis->values);
    }
}

json_t *axis_number(const struct axis *axis, double value)
{
    if (axis->type == AXIS_INT)
        return json_integer((json_int_t)value);
    return json_real(axis->type == AXIS_LOG ? axis_power(axis->base, value) : value);
}

/* The index-th value of a finite axis. New reference. */
static json_t *axis_at(const struct axis *axis, uint64_t index)
{
    if (axis->values)
        return json_deep_copy(json_array_get(axis->values, index));
    return axis_number(axis, axis->min + (double)index);
}

static json_t *axis_draw(const struct axis *axis, struct pcg32 *rng)
{
    uint64_t size = axis_size(axis);

    /* an axis of one value draws nothing: making it const leaves the others as they were */
    if (size)
        return axis_at(axis, size == 1 ? 0 : axis_below(rng, size));
    return axis_number(axis, axis->min + rng_double(rng) * (axis->max - axis->min));
}

int space_put(json_t *root, const char *path, json_t *value)
{
    const char *dot;

    while ((dot = strchr(path, '.'))) {
        json_t *group = json_object_getn(root, path, (size_t)(dot - path));
        if (!group) {
            group = json_object();
            if (json_object_setn_new(root, path, (size_t)(dot - path), group)) {
                json_decref(value);
                return -ENOMEM;
            }
        }
        root = group;
        path = dot + 1;
    }
    return json_object_set_new(root, path, value) ? -ENOMEM : 0;
}

json_t *space_draw(const struct space *space, struct pcg32 *rng)
{
    json_t *configuration = json_object();

    for (size_t i = 0; configuration && i < space->n; i++)
        if (space_put(configuration, space->axes[i].path, axis_draw(&space->axes[i], rng))) {
            json_decref(configuration);
            configuration = NULL;
        }
    return configuration;
}

uint64_t space_size(const struct space *space)
{
    uint64_t size = 1;

    for (size_t i = 0; i < space->n; i++)
        if (__builtin_mul_overflow(size, axis_size(&space->axes[i]), &size))
            return 0;
    return size;
}

json_t *space_configuration(const struct space *space, uint64_t index)
{
    uint64_t below = space_size(space); /* configurations of the axes from i on */
    json_t *configuration = json_object();

    for (size_t i = 0; configuration && i < space->n; i++) {
        below /= axis_size(&space->axes[i]);
        if (space_put(configuration, space->axes[i].path, axis_at(&space->axes[i], index / below))) {
            json_decref(configuration);
            return NULL;
        }
        index %= below;
    }
    return configuration;
}

json_t *space_extremes(const struct space *space)
{
    json_t *list = json_array();
    size_t n = 1;

    for (size_t i = 0; i < space->n; i++) {
        const struct axis *axis = &space->axes[i];
        size_t ends = axis->values ? json_array_size(axis->values) : axis->min == axis->max ? 1 : 2;
        n = ends > n ? ends : n;
    }
    for (size_t k = 0; list && k < n; k++) {
        json_t *configuration = json_object();
        int rc = configuration ? 0 : -ENOMEM;

        for (size_t i = 0; !rc && i < space->n; i++) {
            const struct axis *axis = &space->axes[i];
            rc = space_put(configuration, axis->path,
                           axis->values ? axis_at(axis, k % json_array_size(axis->values))
                                        : axis_number(axis, k % 2 ? axis->max : axis->min));
        }
        if (rc || json_array_append_new(list, configuration)) {
            if (rc)
                json_decref(configuration);
            json_decref(list);
            list = NULL;
        }
    }
    return list;
}
