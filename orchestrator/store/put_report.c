/* put_report.c - a report message into a batch: its head, then for each step its units, its global values and its
 * clients. message_parse has checked the body. What it lets pass and no row can hold is left out: a value that is no
 * number, a client below 0. A step that lacks the experiment's unit keeps its values at unit -1.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/store/batch_private.h"
#include "common/protocol.h"

#include <math.h>
#include <string.h>

static int64_t kind_number(const char *kind)
{
    return !strcmp(kind, "training") ? 0 : !strcmp(kind, "validation") ? 1 : 2;
}

static void put_values(struct store_batch *batch, const json_t *values)
{
    const char *name;
    json_t *entry;
    double value;
    int64_t n = 0;

    json_object_foreach ((json_t *)values, name, entry)
        n += json_to_double(entry, &value);
    batch_int(batch, n);
    json_object_foreach ((json_t *)values, name, entry)
        if (json_to_double(entry, &value)) {
            batch_text(batch, name);
            batch_value(batch, value);
        }
}

/* A number that no 64 bits hold is none. */
static void put_count(struct store_batch *batch, const json_t *value)
{
    if (json_is_integer(value))
        batch_int(batch, json_integer_value(value));
    else if (json_is_real(value) && fabs(json_real_value(value)) < 9e18)
        batch_int(batch, (int64_t)json_real_value(value));
    else
        batch_id(batch, 0);
}

static void put_clients(struct store_batch *batch, const json_t *clients)
{
    const json_t *row;
    int64_t n = 0;
    size_t i;

    json_array_foreach ((json_t *)clients, i, row)
        n += json_int_or(row, "client", -1) >= 0;
    batch_int(batch, n);
    json_array_foreach ((json_t *)clients, i, row) {
        if (json_int_or(row, "client", -1) < 0)
            continue;
        batch_int(batch, json_int_or(row, "client", -1));
        put_count(batch, json_object_get(row, "samples"));
        batch_real(batch, json_double_or(row, "seconds", NAN));
        batch_text(batch, json_string_or(row, "status", NULL));
        put_values(batch, json_object_get(row, "metrics"));
    }
}

static void put_step(struct store_batch *batch, const json_t *step, const char *time_metric)
{
    const json_t *units = json_object_get(step, "units");
    double unit = json_double_or(units, time_metric ? time_metric : UNIT_NAMES[UNIT_ROUNDS], NAN);

    batch_real(batch, isfinite(unit) ? unit : -1);
    for (int kind = 0; kind < UNIT_KINDS; kind++)
        batch_real(batch, json_double_or(units, UNIT_NAMES[kind], NAN));
    put_values(batch, json_object_get(step, "metrics"));
    put_clients(batch, json_object_get(step, "clients"));
}

void store_put_report(struct store_batch *batch, struct trial_ref trial, int64_t run, int64_t seq, const json_t *body,
                      const char *time_metric, int64_t time_us)
{
    const json_t *steps = json_object_get(body, "steps"), *step;
    size_t i;

    if (!batch_op(batch, OP_REPORT))
        return;
    batch_int(batch, trial.experiment);
    batch_int(batch, trial.number);
    batch_int(batch, run);
    batch_int(batch, seq);
    batch_int(batch, kind_number(json_string_or(body, "kind", "training")));
    batch_int(batch, time_us);
    batch_int(batch, json_is_array(steps) ? (int64_t)json_array_size(steps) : 1);
    if (!json_is_array(steps))
        put_step(batch, body, time_metric);
    else
        json_array_foreach ((json_t *)steps, i, step)
            put_step(batch, step, time_metric);
}
