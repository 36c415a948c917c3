/* journal.c - events and operations as JSON, for the journal. What encoding gave decodes to the same bits; anything
 * else is refused with what is wrong.
 * SPDX-License-Identifier: Apache-2.0 */
#include "searchers/searcher.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum field { TRIAL = 1, UNIT = 2, VALUE = 4, EXIT = 8, UNTIL = 16, HYPERPARAMETERS = 32, OPTIONAL_VALUE = 64 };

struct form {
    const char *name;
    int fields;
};

static const struct form EVENTS[] = {
    [EVENT_START] = {"start", 0},
    [EVENT_VALIDATION] = {"validation", TRIAL | UNIT | VALUE},
    [EVENT_EXITED] = {"exited", TRIAL | EXIT | OPTIONAL_VALUE},
    [EVENT_CANCEL] = {"cancel", 0},
};

static const struct form OPS[] = {
    [OP_CREATE] = {"create", TRIAL | HYPERPARAMETERS},
    [OP_TRAIN] = {"train", TRIAL | UNTIL},
    [OP_PAUSE] = {"pause", TRIAL},
    [OP_STOP] = {"stop", TRIAL},
    [OP_COMPLETE] = {"complete", TRIAL},
    [OP_DONE] = {"done", 0},
};
#define EVENTS_N (sizeof EVENTS / sizeof EVENTS[0])
#define OPS_N (sizeof OPS / sizeof OPS[0])
static const char *const EXITS[] = {"converged", "error", "killed"};

/* Whole units as integers: they are what people read. */
static json_t *unit_encode(double unit)
{
    if (floor(unit) == unit && fabs(unit) < 0x1p53 && !(unit == 0 && signbit(unit)))
        return json_integer((json_int_t)unit);
    return json_from_double(unit);
}

static int put(json_t *object, const char *key, json_t *value)
{
    return json_object_set_new(object, key, value);
}

json_t *searcher_event_encode(const struct searcher_event *event)
{
    int fields = EVENTS[event->type].fields;
    json_t *object = json_object();
    int rc;

    if (fields & OPTIONAL_VALUE && event->unit > 0)
        fields |= UNIT | VALUE;
    rc = put(object, "event", json_string(EVENTS[event->type].name));
    if (fields & TRIAL)
        rc |= put(object, "trial", json_integer(event->trial));
    if (fields & EXIT)
        rc |= put(object, "exit", json_string(EXITS[event->exit]));
    if (fields & UNIT)
        rc |= put(object, "unit", unit_encode(event->unit));
    if (fields & VALUE)
        rc |= put(object, "value", json_from_double(event->value));
    if (!rc)
        return object;
    json_decref(object);
    return NULL;
}

static int read_trial(const json_t *object, int64_t *ret, struct error *err)
{
    const json_t *trial = json_object_get(object, "trial");

    if (!json_is_integer(trial) || json_integer_value(trial) < 1)
        return fail(err, -EINVAL, "journal: \"trial\" must be a whole number, at least 1");
    *ret = json_integer_value(trial);
    return 0;
}

static int read_double(const json_t *object, const char *key, double *ret, struct error *err)
{
    if (!json_to_double(json_object_get(object, key), ret))
        return fail(err, -EINVAL, "journal: \"%s\" must be a number", key);
    return 0;
}

int searcher_event_decode(const json_t *value, struct searcher_event *ret, struct error *err)
{
    const char *name = json_string_or(value, "event", NULL);
    struct searcher_event event = {0};
    size_t type = 0;
    int fields, rc = 0;

    while (name && type < EVENTS_N && strcmp(EVENTS[type].name, name))
        type++;
    if (!name || type == EVENTS_N)
        return fail(err, -EINVAL, "journal: unknown event \"%s\"", name ? name : "");
    event.type = (enum event_type)type;
    fields = EVENTS[type].fields;
    if (fields & OPTIONAL_VALUE && json_object_get(value, "unit"))
        fields |= UNIT | VALUE;
    if (fields & TRIAL)
        rc = read_trial(value, &event.trial, err);
    if (!rc && fields & UNIT)
        rc = read_double(value, "unit", &event.unit, err);
    if (!rc && fields & VALUE)
        rc = read_double(value, "value", &event.value, err);
    if (!rc && fields & EXIT) {
        const char *exit = json_string_or(value, "exit", "");
        size_t i = 0;
        while (i < 3 && strcmp(EXITS[i], exit))
            i++;
        if (i == 3)
            return fail(err, -EINVAL, "journal: \"exit\" must be converged, error or killed, got \"%s\"", exit);
        event.exit = (enum exit_kind)i;
    }
    if (!rc)
        *ret = event;
    return rc;
}

json_t *searcher_ops_encode(const struct searcher_ops *ops)
{
    json_t *list = json_array();
    int rc = list ? 0 : -1;

    for (size_t i = 0; !rc && i < ops->n; i++) {
        const struct searcher_op *op = &ops->list[i];
        int fields = OPS[op->type].fields;
        json_t *object = json_object();

        rc = put(object, "op", json_string(OPS[op->type].name));
        if (fields & TRIAL)
            rc |= put(object, "trial", json_integer(op->trial));
        if (fields & UNTIL)
            rc |= put(object, "until", unit_encode(op->until));
        if (fields & HYPERPARAMETERS)
            rc |= put(object, "hyperparameters", json_deep_copy(op->hyperparameters));
        rc |= json_array_append_new(list, object);
    }
    if (!rc)
        return list;
    json_decref(list);
    return NULL;
}

static int op_decode(const json_t *value, struct searcher_op *ret, struct error *err)
{
    const char *name = json_string_or(value, "op", NULL);
    struct searcher_op op = {0};
    size_t type = 0;
    int rc = 0;

    while (name && type < OPS_N && strcmp(OPS[type].name, name))
        type++;
    if (!name || type == OPS_N)
        return fail(err, -EINVAL, "journal: unknown operation \"%s\"", name ? name : "");
    op.type = (enum op_type)type;
    if (OPS[type].fields & TRIAL)
        rc = read_trial(value, &op.trial, err);
    if (!rc && OPS[type].fields & UNTIL)
        rc = read_double(value, "until", &op.until, err);
    if (!rc && OPS[type].fields & HYPERPARAMETERS) {
        json_t *hyperparameters = json_object_get(value, "hyperparameters");
        if (!json_is_object(hyperparameters))
            return fail(err, -EINVAL, "journal: \"hyperparameters\" must be a map");
        op.hyperparameters = json_deep_copy(hyperparameters);
        if (!op.hyperparameters)
            return fail(err, -ENOMEM, "journal: out of memory");
    }
    if (!rc)
        *ret = op;
    return rc;
}

int searcher_ops_decode(const json_t *value, struct searcher_ops *ret, struct error *err)
{
    struct searcher_ops ops = {0};
    size_t n = json_array_size(value);

    if (!json_is_array(value))
        return fail(err, -EINVAL, "journal: operations must be a list");
    ops.list = calloc(n ? n : 1, sizeof *ops.list);
    if (!ops.list)
        return fail(err, -ENOMEM, "journal: out of memory");
    ops.room = n;
    for (; ops.n < n; ops.n++) {
        int rc = op_decode(json_array_get(value, ops.n), &ops.list[ops.n], err);
        if (rc) {
            searcher_ops_done(&ops);
            return rc;
        }
    }
    *ret = ops;
    return 0;
}
