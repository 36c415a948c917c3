/* turn.c - what one call puts down: writes for the store, effects for afterwards.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/experiment/experiment_private.h"

#include <math.h>
#include <stdlib.h>

void *must(void *pointer)
{
    if (!pointer)
        abort();
    return pointer;
}

void turn_init(struct turn *turn, int64_t now_us)
{
    *turn = (struct turn){.now_us = now_us, .writes = must(store_batch_new())};
}

void turn_done(struct turn *turn)
{
    for (size_t i = 0; i < turn->n; i++) {
        json_decref(turn->effects[i].message);
        free(turn->effects[i].path);
    }
    free(turn->effects);
    if (turn->writes)
        store_batch_free(turn->writes);
    *turn = (struct turn){0};
}

static struct effect *add(struct turn *turn, enum effect_type type, int64_t run)
{
    if (turn->n == turn->room) {
        turn->room = turn->room ? 2 * turn->room : 8;
        turn->effects = must(realloc(turn->effects, turn->room * sizeof *turn->effects));
    }
    turn->effects[turn->n] = (struct effect){.type = type, .run = run};
    return &turn->effects[turn->n++];
}

void turn_effect(struct turn *turn, enum effect_type type, int64_t run)
{
    add(turn, type, run);
}

void turn_send(struct turn *turn, int64_t run, json_t *message)
{
    add(turn, EFFECT_SEND, run)->message = must(message);
}

void turn_tell(struct turn *turn, int64_t run, const char *op)
{
    turn_send(turn, run, json_pack("{s:s, s:I}", "op", op, "run", (json_int_t)run));
}

json_t *unit_json(double unit)
{
    if (unit == floor(unit) && fabs(unit) < 9e15)
        return json_integer((json_int_t)unit);
    return json_from_double(unit);
}

void turn_train_until(struct turn *turn, int64_t run, double unit)
{
    turn_send(turn, run,
              json_pack("{s:s, s:I, s:o}", "op", "train_until", "run", (json_int_t)run, "unit", unit_json(unit)));
}

void turn_ack(struct turn *turn, int64_t run, int64_t seq)
{
    add(turn, EFFECT_ACK, run)->seq = seq;
}

void turn_delete(struct turn *turn, char *path)
{
    add(turn, EFFECT_DELETE, 0)->path = must(path);
}

void turn_add_erase(struct turn *turn, int64_t experiment)
{
    add(turn, EFFECT_ERASE, experiment);
}

void turn_add_hook(struct turn *turn, int64_t experiment)
{
    add(turn, EFFECT_HOOK, experiment);
}
