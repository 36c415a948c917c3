/* preview.c - what a search would do without metrics: at each rung the plan's share goes on.
 * SPDX-License-Identifier: Apache-2.0 */
#include "searchers/searcher_private.h"

#include <stdlib.h>

static void add_row(struct preview_row *rows, size_t *n, int64_t trials, double units)
{
    size_t at = 0;

    if (!trials)
        return;
    while (at < *n && rows[at].units < units)
        at++;
    if (at < *n && rows[at].units == units) {
        rows[at].trials += trials;
        return;
    }
    for (size_t i = (*n)++; i > at; i--)
        rows[i] = rows[i - 1];
    rows[at] = (struct preview_row){.trials = trials, .units = units};
}

int searcher_preview(const struct searcher_config *config, const struct space *space, struct preview_row **ret_rows,
                     size_t *ret_n, double *ret_total_units, struct error *err)
{
    struct preview_row *rows = NULL;
    struct plan plan;
    double total = 0;
    size_t n = 0, most = 1;
    int rc = searcher_plan(config, space, &plan, err);

    if (rc)
        goto done;
    for (size_t b = 0; b < plan.n; b++)
        most += (size_t)plan.brackets[b].rungs;
    rows = calloc(most, sizeof *rows);
    if (!rows) {
        rc = fail(err, -ENOMEM, "preview: out of memory");
        goto done;
    }
    for (size_t b = 0; b < plan.n; b++) {
        const struct bracket_plan *bracket = &plan.brackets[b];
        int64_t trials = bracket->trials;
        for (int64_t r = 0; r < bracket->rungs; r++) {
            int64_t go_on = r + 1 < bracket->rungs ? plan_survivors(&plan, trials) : 0;
            add_row(rows, &n, trials - go_on, bracket->units[r]);
            total += (double)(trials - go_on) * bracket->units[r];
            trials = go_on;
        }
    }
    *ret_rows = rows;
    *ret_n = n;
    *ret_total_units = total;
done:
    plan_done(&plan);
    return rc;
}
