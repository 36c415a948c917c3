/* protocol.c - one table of operations: direction, name, required fields.
 * SPDX-License-Identifier: Apache-2.0 */
#include "common/protocol.h"

#include "common/keys.h"

#include <string.h>

const char *const UNIT_NAMES[UNIT_KINDS] = {"rounds", "epochs", "batches", "samples", "seconds"};

enum field_type { INTEGER, NUMBER, STRING, BOOLEAN, OBJECT, ARRAY, ANY };
static const char *const TYPE_NAMES[] = {"an integer", "a number", "a string", "true or false", "an object", "a list", "a value"};

struct field {
    const char *name;
    enum field_type type;
};

static const struct {
    const char *name;
    bool from_worker, has_run, has_seq;
    struct field required[8];
} OPS[MSG_OP_COUNT] = {
    [MSG_HELLO] = {"hello", true, false, false, {{"version", INTEGER}, {"pid", INTEGER}}},
    [MSG_PLAN_ANSWER] = {"plan", true, false, false, {{"id", INTEGER}, {"ok", BOOLEAN}}},
    [MSG_REPORT] = {"report", true, true, true, {{"kind", STRING}}},
    [MSG_PROGRESS] = {"progress", true, true, false, {{"units", OBJECT}}},
    [MSG_CHECKPOINT] = {"checkpoint", true, true, true, {{"units", OBJECT}, {"path", STRING}}},
    [MSG_LOG] = {"log", true, true, false, {{"text", STRING}}},
    [MSG_DONE] = {"done", true, true, true, {{"reason", STRING}}},
    [MSG_FAILED] = {"failed", true, true, true, {{"reason", STRING}, {"text", STRING}}},
    [MSG_HEARTBEAT] = {"heartbeat", true, false, false, {{0}}},
    [MSG_PLAN] = {"plan", false, false, false, {{"id", INTEGER}, {"hyperparameters", OBJECT}, {"sections", OBJECT}}},
    [MSG_ASSIGN] = {"assign", false, true, false,
                    {{"experiment", INTEGER}, {"trial", INTEGER}, {"seed", INTEGER}, {"hyperparameters", OBJECT},
                     {"time_metric", STRING}, {"train_until", NUMBER}, {"trial_dir", STRING}, {"run_dir", STRING}}},
    [MSG_TRAIN_UNTIL] = {"train_until", false, true, false, {{"unit", NUMBER}}},
    [MSG_CHECKPOINT_NOW] = {"checkpoint_now", false, true, false, {{0}}},
    [MSG_EVALUATE] = {"evaluate", false, true, false, {{"split", STRING}, {"checkpoint", STRING}}},
    [MSG_PREEMPT] = {"preempt", false, true, false, {{0}}},
    [MSG_STOP] = {"stop", false, true, false, {{0}}},
    [MSG_RELEASE] = {"release", false, true, false, {{0}}},
    [MSG_ACK] = {"ack", false, true, true, {{0}}},
};

static bool has_type(const json_t *value, enum field_type type)
{
    double ignored;

    switch (type) {
    case INTEGER:
        return json_is_integer(value);
    case NUMBER:
        return json_to_double(value, &ignored);
    case STRING:
        return json_is_string(value);
    case BOOLEAN:
        return json_is_boolean(value);
    case OBJECT:
        return json_is_object(value);
    case ARRAY:
        return json_is_array(value);
    case ANY:
        break;
    }
    return value != NULL;
}

static int check_field(const json_t *body, const char *op, struct field field, struct error *err)
{
    const json_t *value = json_object_get(body, field.name);

    if (!value)
        return fail(err, -EINVAL, "operation %s needs the field \"%s\" (%s)", op, field.name, TYPE_NAMES[field.type]);
    if (!has_type(value, field.type))
        return fail(err, -EINVAL, "operation %s: field \"%s\" must be %s", op, field.name, TYPE_NAMES[field.type]);
    return 0;
}

static int find_op(const char *name, bool from_worker)
{
    for (int op = 0; op < MSG_OP_COUNT; op++)
        if (OPS[op].from_worker == from_worker && !strcmp(OPS[op].name, name))
            return op;
    return -1;
}

static int check_values(const json_t *object, const char *op, const char *field, struct error *err)
{
    const char *name;
    json_t *value;
    double ignored;

    if (object && !json_is_object(object))
        return fail(err, -EINVAL, "operation %s: field \"%s\" must be an object", op, field);
    json_object_foreach ((json_t *)object, name, value) {
        if (!json_to_double(value, &ignored))
            return fail(err, -EINVAL,
                        "operation %s: %s.%s must be a number or one of \"NaN\", \"Infinity\", \"-Infinity\"", op, field,
                        name);
    }
    return 0;
}

/* One step of a report, or the report itself. */
static int check_step(const json_t *step, struct error *err)
{
    const json_t *clients = json_object_get(step, "clients"), *row;
    size_t i;
    int rc;

    if (!json_is_object(json_object_get(step, "units")))
        return fail(err, -EINVAL, "operation report needs the field \"units\" (an object such as {\"rounds\": 3})");
    if ((rc = check_values(json_object_get(step, "units"), "report", "units", err)) ||
        (rc = check_values(json_object_get(step, "metrics"), "report", "metrics", err)))
        return rc;
    if (clients && !json_is_array(clients))
        return fail(err, -EINVAL, "operation report: field \"clients\" must be a list");
    json_array_foreach ((json_t *)clients, i, row) {
        if (!json_is_integer(json_object_get(row, "client")))
            return fail(err, -EINVAL, "operation report: clients[%zu].client must be an integer", i);
        if ((rc = check_values(json_object_get(row, "metrics"), "report", "clients[].metrics", err)))
            return rc;
    }
    return 0;
}

static int check_report(const json_t *body, struct error *err)
{
    const char *kind = json_string_value(json_object_get(body, "kind"));
    const json_t *steps = json_object_get(body, "steps"), *step;
    size_t i;

    if (strcmp(kind, "training") && strcmp(kind, "validation") && strcmp(kind, "test"))
        return fail(err, -EINVAL, "operation report: kind must be training, validation or test, not \"%.40s\"", kind);
    if (!steps)
        return check_step(body, err);
    if (!json_is_array(steps))
        return fail(err, -EINVAL, "operation report: field \"steps\" must be a list");
    json_array_foreach ((json_t *)steps, i, step) {
        int rc = check_step(step, err);
        if (rc)
            return rc;
    }
    return 0;
}

static int check_body(json_t *body, bool from_worker, struct message *ret, struct error *err)
{
    const char *name = json_string_value(json_object_get(body, "op"));
    int op, rc = 0;

    if (!name)
        return fail(err, -EINVAL, "a message is an object with a string \"op\"");
    op = find_op(name, from_worker);
    if (op < 0)
        return fail(err, -EINVAL, "unknown operation \"%.40s\"", name);
    if (OPS[op].has_run)
        rc = check_field(body, name, (struct field){"run", INTEGER}, err);
    if (!rc && OPS[op].has_seq)
        rc = check_field(body, name, (struct field){"seq", INTEGER}, err);
    for (int i = 0; !rc && i < 8 && OPS[op].required[i].name; i++)
        rc = check_field(body, name, OPS[op].required[i], err);
    if (!rc && op == MSG_REPORT)
        rc = check_report(body, err);
    if (!rc && (op == MSG_PROGRESS || op == MSG_CHECKPOINT))
        rc = check_values(json_object_get(body, "units"), name, "units", err);
    if (rc)
        return rc;
    ret->op = (enum message_op)op;
    ret->run = json_int_or(body, "run", 0);
    ret->seq = json_int_or(body, "seq", 0);
    ret->body = body;
    return 0;
}

int message_parse(const char *line, size_t length, bool from_worker, struct message *ret, struct error *err)
{
    json_t *body;
    int rc = json_parse(line, length, &body, err);

    if (rc)
        return rc;
    rc = check_body(body, from_worker, ret, err);
    if (rc)
        json_decref(body);
    return rc;
}

void message_done(struct message *message)
{
    json_decref(message->body);
    message->body = NULL;
}

bool hello_can(const json_t *hello, const char *capability)
{
    json_t *item;
    size_t i;

    json_array_foreach (json_object_get(hello, "capabilities"), i, item)
        if (json_is_string(item) && !strcmp(json_string_value(item), capability))
            return true;
    return false;
}

bool message_reason_misspelt(const char *reason, char *ret, size_t room)
{
    static const char REASONS[] = "out_of_memory memory_in_use non_finite bad_configuration bad_checkpoint error";

    return keys_nearest_word(REASONS, reason, ret, room) && strcmp(reason, ret) != 0;
}

const char *message_op_name(enum message_op op)
{
    return OPS[op].name;
}

int unit_kind_parse(const char *name, enum unit_kind *ret)
{
    for (int kind = 0; kind < UNIT_KINDS; kind++)
        if (!strcmp(name, UNIT_NAMES[kind])) {
            *ret = (enum unit_kind)kind;
            return 0;
        }
    return -EINVAL;
}
