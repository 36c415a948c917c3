/* put.c - the operations of a batch but for reports (put_report.c). Values stand in the order of the parameters in
 * apply.c.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/store/batch_private.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static void put_trial_ref(struct store_batch *batch, struct trial_ref trial)
{
    batch_int(batch, trial.experiment);
    batch_int(batch, trial.number);
}

/* Where the file does not say it, built-in metrics point by their name. */
static bool smaller_is_better(const json_t *searcher)
{
    const char *metric = json_string_or(searcher, "metric", "");
    size_t n = strlen(metric);

    return json_bool_or(searcher, "smaller_is_better", n >= 4 && !strcmp(metric + n - 4, "loss"));
}

void store_put_experiment(struct store_batch *batch, int64_t id, const char *name, const char *text,
                          const json_t *resolved, const char *state, int64_t time_us)
{
    const json_t *searcher = json_object_get(resolved, "searcher"), *labels = json_object_get(resolved, "labels");
    json_t *none = json_array();

    if (batch_op(batch, OP_EXPERIMENT)) {
        batch_int(batch, id);
        batch_text(batch, name);
        batch_text(batch, json_string_or(resolved, "description", NULL));
        batch_json(batch, json_is_array(labels) ? labels : none);
        batch_text(batch, json_string_or(searcher, "name", NULL));
        batch_text(batch, json_string_or(searcher, "metric", NULL));
        batch_int(batch, smaller_is_better(searcher));
        batch_text(batch, json_string_or(searcher, "time_metric", NULL));
        batch_json(batch, resolved);
        batch_text(batch, text ? text : "");
        batch_text(batch, state);
        batch_int(batch, time_us);
    }
    json_decref(none);
}

void store_put_experiment_state(struct store_batch *batch, int64_t id, const char *state, const char *reason,
                                int64_t ended_us)
{
    if (!batch_op(batch, OP_EXPERIMENT_STATE))
        return;
    batch_int(batch, id);
    batch_text(batch, state);
    batch_text(batch, reason);
    batch_id(batch, ended_us);
}

void store_put_experiment_progress(struct store_batch *batch, int64_t id, double progress)
{
    if (!batch_op(batch, OP_EXPERIMENT_PROGRESS))
        return;
    batch_int(batch, id);
    batch_real(batch, progress > 0 ? fmin(progress, 1) : 0);
}

void store_put_trial(struct store_batch *batch, struct trial_ref trial, const json_t *hyperparameters, int64_t time_us)
{
    if (!batch_op(batch, OP_TRIAL))
        return;
    put_trial_ref(batch, trial);
    if (hyperparameters)
        batch_json(batch, hyperparameters);
    else
        batch_text(batch, "{}");
    batch_int(batch, time_us);
}

void store_put_trial_state(struct store_batch *batch, struct trial_ref trial, const char *state, const char *reason,
                           const char *text, int64_t restarts, int64_t time_us)
{
    if (!batch_op(batch, OP_TRIAL_STATE))
        return;
    put_trial_ref(batch, trial);
    batch_text(batch, state);
    batch_text(batch, reason);
    batch_text(batch, text);
    batch_int(batch, restarts);
    batch_int(batch, time_us);
}

void store_put_trial_alone(struct store_batch *batch, struct trial_ref trial, bool alone, double past)
{
    if (!batch_op(batch, OP_TRIAL_ALONE))
        return;
    put_trial_ref(batch, trial);
    batch_int(batch, alone);
    batch_real(batch, past);
}

void store_put_trial_best(struct store_batch *batch, struct trial_ref trial, double value, double unit,
                          int64_t checkpoint)
{
    if (!batch_op(batch, OP_TRIAL_BEST))
        return;
    put_trial_ref(batch, trial);
    batch_real(batch, value);
    batch_int(batch, isnan(unit) ? VALUE_FINITE : value_status(value)); /* no unit: there is none, and no reason why */
    batch_real(batch, unit);
    batch_id(batch, checkpoint);
}

void store_put_experiment_best(struct store_batch *batch, int64_t experiment, int64_t trial, double unit,
                               const json_t *metrics, int64_t checkpoint)
{
    if (!batch_op(batch, OP_EXPERIMENT_BEST))
        return;
    batch_int(batch, experiment);
    batch_id(batch, trial);
    batch_real(batch, unit);
    batch_json(batch, metrics);
    batch_id(batch, checkpoint);
}

/* "cpu" of "cpu:0": slots of one run are of one kind. */
static void put_slot_kind(struct store_batch *batch, const json_t *slots)
{
    const char *first = json_string_value(json_array_get(slots, 0));
    char kind[32];

    snprintf(kind, sizeof kind, "%.*s", first ? (int)strcspn(first, ":") : 0, first ? first : "");
    batch_text(batch, *kind ? kind : NULL);
}

void store_put_run(struct store_batch *batch, int64_t run, struct trial_ref trial, int64_t attempt, const json_t *slots,
                   int64_t pid, const char *isa, int64_t resume_checkpoint, int64_t time_us)
{
    json_t *none = json_array();

    if (batch_op(batch, OP_RUN)) {
        put_trial_ref(batch, trial);
        batch_int(batch, run);
        batch_int(batch, attempt);
        put_slot_kind(batch, slots);
        batch_int(batch, (int64_t)json_array_size(slots));
        batch_json(batch, json_is_array(slots) ? slots : none);
        batch_id(batch, pid);
        batch_text(batch, isa);
        batch_id(batch, resume_checkpoint);
        batch_int(batch, time_us);
    }
    json_decref(none);
}

void store_put_run_end(struct store_batch *batch, int64_t run, const char *reason, const char *text, int64_t time_us)
{
    if (!batch_op(batch, OP_RUN_END))
        return;
    batch_int(batch, run);
    batch_text(batch, reason);
    batch_text(batch, text);
    batch_int(batch, time_us);
}

void store_put_checkpoint(struct store_batch *batch, int64_t id, struct trial_ref trial, int64_t run, int64_t seq,
                          double unit, const json_t *units, const char *path, int64_t bytes, int64_t time_us)
{
    if (!batch_op(batch, OP_CHECKPOINT))
        return;
    put_trial_ref(batch, trial);
    batch_int(batch, id);
    batch_int(batch, run);
    batch_int(batch, seq);
    batch_real(batch, unit);
    if (units)
        batch_json(batch, units);
    else
        batch_text(batch, "{}");
    batch_text(batch, path);
    batch_int(batch, bytes);
    batch_int(batch, time_us);
}

void store_put_checkpoint_deleted(struct store_batch *batch, int64_t id, int64_t time_us)
{
    if (!batch_op(batch, OP_CHECKPOINT_DELETED))
        return;
    batch_int(batch, id);
    batch_int(batch, time_us);
}

void store_put_test(struct store_batch *batch, struct trial_ref trial, int64_t run, double unit, const json_t *metrics,
                    const char *by, int64_t time_us)
{
    if (!batch_op(batch, OP_TEST))
        return;
    put_trial_ref(batch, trial);
    batch_id(batch, run);
    batch_real(batch, unit);
    if (metrics)
        batch_json(batch, metrics);
    else
        batch_text(batch, "{}");
    batch_text(batch, by);
    batch_int(batch, time_us);
}

void store_put_journal(struct store_batch *batch, int64_t experiment, int64_t index, const char *kind, int64_t answers,
                       const json_t *body, int64_t time_us)
{
    if (!batch_op(batch, OP_JOURNAL))
        return;
    batch_int(batch, experiment);
    batch_int(batch, index);
    batch_text(batch, kind);
    batch_id(batch, answers);
    if (body)
        batch_json(batch, body);
    else
        batch_text(batch, "null");
    batch_int(batch, time_us);
}

void store_put_log(struct store_batch *batch, struct trial_ref trial, int64_t run, const char *level, const char *text,
                   int64_t time_us)
{
    if (!batch_op(batch, OP_LOG))
        return;
    put_trial_ref(batch, trial);
    batch_id(batch, run);
    batch_text(batch, level ? level : "info");
    batch_text(batch, text ? text : "");
    batch_int(batch, time_us);
}

void store_put_experiment_archived(struct store_batch *batch, int64_t id, bool archived)
{
    if (!batch_op(batch, OP_EXPERIMENT_ARCHIVED))
        return;
    batch_int(batch, id);
    batch_int(batch, archived);
}

void store_put_experiment_config(struct store_batch *batch, int64_t id, const json_t *resolved)
{
    if (!batch_op(batch, OP_EXPERIMENT_CONFIG))
        return;
    batch_int(batch, id);
    batch_text(batch, json_string_or(resolved, "description", NULL));
    batch_json(batch, resolved);
}

void store_put_abandoned(struct store_batch *batch, int64_t id, int64_t time_us)
{
    if (!batch_op(batch, OP_ABANDONED))
        return;
    batch_int(batch, id);
    batch_int(batch, time_us);
}

void store_put_deleting(struct store_batch *batch, int64_t id, int64_t time_us)
{
    if (!batch_op(batch, OP_DELETING))
        return;
    batch_int(batch, id);
    batch_int(batch, time_us);
}

void store_put_delete_trial(struct store_batch *batch, struct trial_ref trial)
{
    if (!batch_op(batch, OP_DELETE_TRIAL))
        return;
    batch->deletes = true;
    put_trial_ref(batch, trial);
}

void store_put_delete_experiment(struct store_batch *batch, int64_t id)
{
    if (!batch_op(batch, OP_DELETE_EXPERIMENT))
        return;
    batch->deletes = true;
    batch_int(batch, id);
}

void store_put_usage(struct store_batch *batch, int64_t run, const struct usage *usage, int64_t time_us)
{
    if (!batch_op(batch, OP_USAGE))
        return;
    batch_int(batch, run);
    batch_int(batch, time_us);
    batch_real(batch, isfinite(usage->cpu_cores) ? usage->cpu_cores : 0);
    batch_int(batch, usage->memory_bytes);
    batch_real(batch, usage->gpu);
    batch_id(batch, usage->gpu_memory_bytes);
}

void store_put_hook(struct store_batch *batch, int64_t experiment, const char *state, const char *text)
{
    if (!batch_op(batch, OP_HOOK))
        return;
    batch_int(batch, experiment);
    batch_text(batch, state);
    batch_text(batch, text);
}
