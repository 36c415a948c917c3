/* set.c - changing the file in force while an experiment goes on.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/experiment/experiment_private.h"

#include <string.h>

/* Sets the value at "resources.priority" or "description". */
static void put_at(json_t *resolved, const char *path, const json_t *value)
{
    const char *dot = strchr(path, '.');
    char section[64];
    json_t *map = resolved;

    if (dot) {
        snprintf(section, sizeof section, "%.*s", (int)(dot - path), path);
        if (!json_object_get(resolved, section))
            json_object_set_new(resolved, section, json_object());
        map = json_object_get(resolved, section);
        path = dot + 1;
    }
    json_object_set(map, path, (json_t *)value);
}

static int fields(struct experiment_config *config, const char *path, const json_t *value, struct error *err)
{
    if (!strcmp(path, "resources.priority"))
        config->priority = json_integer_value(value);
    else if (!strcmp(path, "resources.max_slots"))
        config->max_slots = json_integer_value(value);
    else if (!strcmp(path, "resources.weight"))
        config->weight = json_number_value(value);
    else if (!strcmp(path, "description"))
        config->description = json_string_value(value);
    else
        return fail(err, -EINVAL, "%s cannot be changed while an experiment goes on", path);
    return 0;
}

int experiment_set(struct experiment *experiment, const char *path, const json_t *value, struct turn *turn,
                   struct error *err)
{
    struct experiment_config *config = experiment->config;
    json_t *body;
    int rc;

    if (experiment_is_final(experiment))
        return fail(err, -EINVAL, "experiment %lld is %s: nothing of it can be changed", (long long)experiment->id,
                    EXPERIMENT_STATE_NAMES[experiment->state]);
    rc = fields(config, path, value, err);
    if (rc)
        return rc;
    put_at(config->resolved, path, value);
    body = must(json_pack("{s:s, s:O}", "key", path, "value", value));
    store_put_journal(turn->writes, experiment->id, ++experiment->journal, "config_changed", 0, body, turn->now_us);
    json_decref(body);
    store_put_experiment_config(turn->writes, experiment->id, config->resolved);
    experiment->changed = true;
    experiment_settle(experiment, turn);
    return 0;
}
