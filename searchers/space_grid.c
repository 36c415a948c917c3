/* space_grid.c - the grid over a space. Points are Determined AI's: `count` evenly spaced points with both ends in; an
 * int axis rounds halves away from zero and never has more points than values; count 1 is the midpoint (log: of the
 * exponents). Deviation: a double or log axis with minval = maxval has one point, so that no configuration comes twice.
 * SPDX-License-Identifier: Apache-2.0 */
#include "searchers/space_private.h"

#include <string.h>

/* 0 when the axis lacks count. */
static uint64_t points(const struct axis *axis)
{
    uint64_t count = (uint64_t)axis->count, size = axis_size(axis);

    if (axis->values || !count)
        return axis->values ? size : 0;
    return size && count > size ? size : count;
}

/* (a / b) rounded, halves away from zero; b > 0. In integers: doubles would misplace halves beyond 2^53. */
static int64_t divide(__int128 a, __int128 b)
{
    __int128 twice = 2 * (a < 0 ? -a : a) + b;

    return (int64_t)(a < 0 ? -(twice / (2 * b)) : twice / (2 * b));
}

static json_t *point(const struct axis *axis, uint64_t index)
{
    uint64_t n = points(axis);

    if (axis->values)
        return json_deep_copy(json_array_get(axis->values, index));
    if (axis->type == AXIS_INT) {
        int64_t min = (int64_t)axis->min, max = (int64_t)axis->max;
        if (n == 1)
            return json_integer(divide((__int128)min + max, 2));
        return json_integer(
            divide((__int128)min * (__int128)(n - 1) + (__int128)index * (max - min), (__int128)(n - 1)));
    }
    if (n == 1)
        return axis_number(axis, axis->min + (axis->max - axis->min) / 2);
    if (index == n - 1) /* not a rounding error away from it */
        return axis_number(axis, axis->max);
    return axis_number(axis, axis->min + (double)index * (axis->max - axis->min) / (double)(n - 1));
}

int space_grid_size(const struct space *space, uint64_t *ret, struct error *err)
{
    static const char *const NAMES[] = {"const", "int", "double", "log", "categorical"};
    uint64_t size = 1;

    for (size_t i = 0; i < space->n; i++) {
        const struct axis *axis = &space->axes[i];
        uint64_t n = points(axis);
        if (!n)
            return fail(err, -EINVAL, "hyperparameters.%s: grid needs `count`, the number of points on this %s axis",
                        axis->path, NAMES[axis->type]);
        if (__builtin_mul_overflow(size, n, &size) || size > INT64_MAX)
            return fail(err, -EINVAL, "hyperparameters: the grid has more than 2^63 points at %s; lower a count",
                        axis->path);
    }
    *ret = size;
    return 0;
}

json_t *space_grid_point(const struct space *space, uint64_t index)
{
    uint64_t below;
    json_t *configuration;

    if (space_grid_size(space, &below, NULL) || index >= below)
        return NULL;
    configuration = json_object();
    for (size_t i = 0; configuration && i < space->n; i++) {
        below /= points(&space->axes[i]);
        if (space_put(configuration, space->axes[i].path, point(&space->axes[i], index / below))) {
            json_decref(configuration);
            return NULL;
        }
        index %= below;
    }
    return configuration;
}
