/* grid.c - every point of the grid once, in the order of space_grid_point (the last key varies fastest).
 * SPDX-License-Identifier: Apache-2.0 */
#include "searchers/searcher_private.h"

static int limit(const struct space *space, int64_t *ret, struct error *err)
{
    uint64_t size;
    int rc = space_grid_size(space, &size, err);

    if (!rc)
        *ret = (int64_t)size;
    return rc;
}

static int open_grid(const struct searcher_config *config, const struct space *space, void **ret)
{
    (void)config;
    *ret = (void *)space; /* its only state */
    return 0;
}

static void close_grid(void *self)
{
    (void)self;
}

static json_t *propose(void *self, int64_t trial)
{
    return space_grid_point(self, (uint64_t)trial - 1);
}

const struct sampler_row SAMPLER_GRID = {
    .name = "grid", .limit = limit, .open = open_grid, .close = close_grid, .propose = propose};
