/* messages.c - what workers say, and their end.
 * A message is checked as a whole before it changes anything, so that one which is refused leaves no trace.
 * SPDX-License-Identifier: Apache-2.0 */
#include "common/keys.h"
#include "orchestrator/experiment/experiment_private.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int unit_of(const struct experiment *experiment, const json_t *units, const char *op, double *ret,
                   struct error *err)
{
    const char *name = UNIT_NAMES[experiment->config->time_metric];
    double unit;

    if (!json_to_double(json_object_get(units, name), &unit))
        return fail(err, -EINVAL, "operation %s: units needs \"%s\", the experiment's time_metric", op, name);
    if (!isfinite(unit) || unit < 0)
        return fail(err, -EINVAL, "operation %s: units.%s must be a finite number from 0", op, name);
    *ret = unit;
    return 0;
}

static size_t steps_n(const json_t *body)
{
    const json_t *steps = json_object_get(body, "steps");

    return steps ? json_array_size(steps) : 1;
}

static const json_t *step_at(const json_t *body, size_t i)
{
    const json_t *steps = json_object_get(body, "steps");

    return steps ? json_array_get(steps, i) : body;
}

/* --- report ------------------------------------------------------------------------------------------------------ */

static int check_report(const struct experiment *experiment, bool evaluation, const json_t *body, struct error *err)
{
    const char *kind = json_string_or(body, "kind", "");
    double ignored;
    int rc = 0;

    if (evaluation != !strcmp(kind, "test"))
        return fail(err, -EINVAL, "operation report: kind \"%s\" from a run that %s", kind,
                    evaluation ? "evaluates (test)" : "trains (training or validation)");
    for (size_t i = 0; i < steps_n(body) && !rc; i++)
        rc = unit_of(experiment, json_object_get(step_at(body, i), "units"), "report", &ignored, err);
    return rc;
}

/* The validation came after the checkpoint of its unit: judge that now. */
static void judge_late(struct experiment *experiment, struct trial *trial, double unit, struct turn *turn)
{
    struct checkpoint *latest = trial_latest(trial);

    if (!latest || latest->run != trial->run->id || latest->unit != unit || latest->has_value)
        return;
    best_judge(experiment, trial, latest, run_validation(trial->run, unit)->metrics, turn);
    retention_while_active(experiment, trial, turn);
}

static void metric_is_missing(struct experiment *experiment, struct trial *trial, double unit, const json_t *metrics,
                              struct turn *turn)
{
    const struct experiment_config *config = experiment->config;
    char had[400] = "", text[800];
    const char *name;
    json_t *value;

    json_object_foreach ((json_t *)metrics, name, value) {
        size_t used = strlen(had);
        snprintf(had + used, sizeof had - used, "%s%s", used ? ", " : "", name);
    }
    snprintf(text, sizeof text, "the validation at %g %s has no %.100s, which the searcher needs; it has %s", unit,
             UNIT_NAMES[config->time_metric], config->metric, *had ? had : "no metrics");
    turn_effect(turn, EFFECT_KILL, trial->run->id);
    trial_end_run(experiment, trial, "metric_missing", text, turn);
    trial_fail(experiment, trial, "metric_missing", text, false, true, turn);
}

static void tell_validation(struct experiment *experiment, const struct trial *trial, double unit, double value,
                            struct turn *turn)
{
    search_tell(experiment,
                &(struct searcher_event){
                    .type = EVENT_VALIDATION, .trial = trial->number, .unit = unit, .value = value},
                turn);
}

static void on_validation(struct experiment *experiment, struct trial *trial, const json_t *step, struct turn *turn)
{
    const json_t *metrics = json_object_get(step, "metrics");
    double unit = 0, value;

    unit_of(experiment, json_object_get(step, "units"), "report", &unit, NULL);
    run_note_validation(trial->run, unit, metrics);
    judge_late(experiment, trial, unit, turn);
    if (experiment->ending || trial->verdict != VERDICT_TRAIN || unit < trial->until)
        return;
    if (json_to_double(json_object_get(metrics, experiment->config->metric), &value))
        tell_validation(experiment, trial, unit, value, turn);
    else
        metric_is_missing(experiment, trial, unit, metrics, turn);
}

static void on_test(struct experiment *experiment, const struct trial *trial, const json_t *body, struct turn *turn)
{
    json_t *metrics = must(json_object());

    for (size_t i = 0; i < steps_n(body); i++)
        json_object_update(metrics, json_object_get(step_at(body, i), "metrics"));
    store_put_test(turn->writes, trial_ref(experiment, trial), experiment->evaluation->id, trial->best_unit, metrics,
                   "best", turn->now_us);
    json_decref(metrics);
    experiment->evaluated = true;
}

/* For people: nothing depends on it. */
static void note_trained(const struct experiment *experiment, struct trial *trial, const json_t *step)
{
    double unit;

    if (!unit_of(experiment, json_object_get(step, "units"), "progress", &unit, NULL))
        trial->run->trained = unit;
}

static int on_report(struct experiment *experiment, struct trial *trial, bool evaluation,
                     const struct message *message, struct turn *turn, struct error *err)
{
    const json_t *body = message->body;
    int rc = check_report(experiment, evaluation, body, err);

    if (rc)
        return rc;
    store_put_report(turn->writes, trial_ref(experiment, trial), message->run, message->seq, body,
                     UNIT_NAMES[experiment->config->time_metric], turn->now_us);
    turn_ack(turn, message->run, message->seq);
    if (evaluation) {
        on_test(experiment, trial, body, turn);
        return 0;
    }
    note_trained(experiment, trial, step_at(body, steps_n(body) - 1));
    for (size_t i = 0; i < steps_n(body) && trial->run && !strcmp(json_string_or(body, "kind", ""), "validation"); i++)
        on_validation(experiment, trial, step_at(body, i), turn);
    search_note_progress(experiment, turn);
    return 0;
}

/* --- checkpoint --------------------------------------------------------------------------------------------------- */

/* Relative, each part a name: no empty one, no "." and no "..". */
static bool stays_inside(const char *path)
{
    for (size_t n;; path += n + 1) {
        n = strcspn(path, "/");
        if (!n || (n <= 2 && !strncmp(path, "..", n)))
            return false;
        if (!path[n])
            return true;
    }
}

/* The name of no other checkpoint, kept or deleted under the run's feet: deleting one must not take the other away. */
static int check_path(const struct experiment *experiment, const struct trial *trial, const char *path,
                      struct error *err)
{
    if (!stays_inside(path))
        return fail(err, -EINVAL, "operation checkpoint: path must be relative to trial_dir and stay in it, not \"%.200s\"",
                    path);
    if (run_has_spent(trial->run, path))
        return fail(err, -EINVAL, "operation checkpoint: path \"%.200s\" was that of an earlier checkpoint, which is"
                                  " deleted; each needs its own", path);
    for (size_t i = 0; i < trial->checkpoints_n; i++)
        if (!strcmp(trial->checkpoints[i].path, path))
            return fail(err, -EINVAL,
                        "operation checkpoint: path \"%.200s\" already holds the checkpoint of %g %s; each needs its own",
                        path, trial->checkpoints[i].unit, UNIT_NAMES[experiment->config->time_metric]);
    return 0;
}

static int on_checkpoint(struct experiment *experiment, struct trial *trial, bool evaluation,
                         const struct message *message, struct turn *turn, struct error *err)
{
    const json_t *units = json_object_get(message->body, "units");
    struct validation *validation;
    struct checkpoint *checkpoint;
    double unit;
    const char *path = json_string_or(message->body, "path", "");
    int rc;

    if (evaluation)
        return fail(err, -EINVAL, "operation checkpoint from a run that evaluates");
    if ((rc = unit_of(experiment, units, "checkpoint", &unit, err)) ||
        (rc = check_path(experiment, trial, path, err)))
        return rc;
    checkpoint = trial_add_checkpoint(trial);
    *checkpoint = (struct checkpoint){.id = experiment->ids.next_checkpoint(experiment->ids.arg),
                                      .run = message->run,
                                      .unit = unit,
                                      .units = json_incref((json_t *)units),
                                      .path = must(strdup(path))};
    store_put_checkpoint(turn->writes, checkpoint->id, trial_ref(experiment, trial), message->run, message->seq, unit,
                         units, path, json_int_or(message->body, "bytes", 0), turn->now_us);
    turn_ack(turn, message->run, message->seq);
    if (unit > trial->run->unit)
        trial->run->unit = unit;
    validation = run_validation(trial->run, unit);
    if (validation)
        best_judge(experiment, trial, checkpoint, validation->metrics, turn);
    retention_while_active(experiment, trial, turn);
    return 0;
}

/* --- done, failed, gone ------------------------------------------------------------------------------------------- */

/* The value that stands for a converged trial: its last validation, or after a resume that of its latest checkpoint. */
static bool last_value(const struct experiment *experiment, const struct trial *trial, double *ret_unit,
                       double *ret_value)
{
    const struct checkpoint *latest = trial_latest(trial);

    for (size_t i = trial->run->seen_n; i-- > 0;)
        if (json_to_double(json_object_get(trial->run->seen[i].metrics, experiment->config->metric), ret_value)) {
            *ret_unit = trial->run->seen[i].unit;
            return true;
        }
    if (latest && latest->has_value) {
        *ret_unit = latest->unit;
        *ret_value = latest->value;
    }
    return latest && latest->has_value;
}

static void on_converged(struct experiment *experiment, struct trial *trial, struct turn *turn)
{
    double unit = 0, value = 0;
    bool known = last_value(experiment, trial, &unit, &value);

    if (!experiment->ending && trial->verdict == VERDICT_TRAIN && !known && trial->told < 0) {
        trial_end_run(experiment, trial, "error", "converged before any validation", turn);
        trial_fail(experiment, trial, "error", "converged before any validation", true, true, turn);
        return;
    }
    trial_end_run(experiment, trial, "converged", NULL, turn);
    trial->converged = trial->excused = true;
    if (trial->verdict == VERDICT_TRAIN && known && unit > trial->told)
        tell_validation(experiment, trial, unit, value, turn);
}

static void on_length(struct experiment *experiment, struct trial *trial, struct turn *turn)
{
    char text[200];

    if (experiment->ending || trial->verdict != VERDICT_TRAIN) {
        trial->excused = true;
        trial_end_run(experiment, trial, "length", NULL, turn);
        return;
    }
    snprintf(text, sizeof text, "the run ended by itself (length) before it had validated at %g %s", trial->until,
             UNIT_NAMES[experiment->config->time_metric]);
    trial_end_run(experiment, trial, "error", text, turn);
    trial_fail(experiment, trial, "error", text, true, true, turn);
}

static int on_done(struct experiment *experiment, struct trial *trial, bool evaluation, const struct message *message,
                   struct turn *turn, struct error *err)
{
    static const char *const REASONS[] = {"length", "converged", "stopped", "preempted", "evaluated"};
    const char *reason = json_string_or(message->body, "reason", "");
    const struct run *run = evaluation ? experiment->evaluation : trial->run;
    size_t i = 0;

    while (i < 5 && strcmp(REASONS[i], reason))
        i++;
    if (i == 5)
        return fail(err, -EINVAL,
                    "operation done: reason must be length, converged, stopped, preempted or evaluated, not \"%.40s\"",
                    reason);
    if ((i == 2 && run->told != TOLD_STOP) || (i == 3 && run->told != TOLD_PREEMPT))
        return fail(err, -EINVAL, "operation done: reason \"%s\" from a run that was not told to", reason);
    if (evaluation != (i == 4) && i != 2 && i != 3)
        return fail(err, -EINVAL, "operation done: reason \"%s\" from a run that %s", reason,
                    evaluation ? "evaluates" : "trains");
    if (i == 4 && !experiment->evaluated)
        return fail(err, -EINVAL, "operation done: evaluated, but no report of kind test came before");
    turn_ack(turn, message->run, message->seq);
    turn_effect(turn, EFFECT_FREE_SLOTS, message->run);
    if (evaluation) {
        evaluation_over(experiment, reason, NULL, true, false, turn);
    } else if (i == 0) {
        on_length(experiment, trial, turn);
    } else if (i == 1) {
        on_converged(experiment, trial, turn);
    } else {
        trial->excused = run->unit >= trial->told; /* one that was preempted on its way there still owes it */
        trial_end_run(experiment, trial, reason, NULL, turn);
    }
    return 0;
}

static void on_failed(struct experiment *experiment, struct trial *trial, bool evaluation,
                      const struct message *message, struct turn *turn)
{
    const char *reason = json_string_or(message->body, "reason", "error");
    const char *text = json_string_or(message->body, "text", "");
    char *shown = NULL;
    bool retry = strcmp(reason, "bad_configuration") && strcmp(reason, "non_finite"); /* these would fail the same way */
    /* Not the trial's fault, and there are only so many checkpoints to lose: that costs no restart. */
    bool crowded = !evaluation && trial->run->shares && !strcmp(reason, "out_of_memory"); /* it may fit alone */
    bool squeezed = !strcmp(reason, "memory_in_use"); /* by other programs, which go some time */
    bool damage = !strcmp(reason, "bad_checkpoint") &&
                  damage_note(experiment, trial, message->run, evaluation, json_string_or(message->body, "path", ""), text,
                              turn);

    if (squeezed) /* what a trial waits for is shown again and again */
        text = shown = must(keys_shown_text(text));
    turn_ack(turn, message->run, message->seq);
    turn_effect(turn, EFFECT_FREE_SLOTS, message->run);
    if (evaluation) {
        evaluation_over(experiment, reason, text, retry && !damage, !squeezed, turn);
        free(shown);
        return;
    }
    if (!strcmp(reason, "out_of_memory")) /* which it might be again at any moment */
        trial_isolate(experiment, trial, INFINITY, turn);
    else if (squeezed && trial->run->alone) /* it has shown nothing */
        trial_isolate(experiment, trial, trial->run->proven, turn);
    trial->squeezed = squeezed;
    trial_end_run(experiment, trial, reason, text, turn);
    trial_fail(experiment, trial, reason, text, retry, !damage && !crowded && !squeezed, turn);
    free(shown);
}

static int handle(struct experiment *experiment, struct trial *trial, bool evaluation, const struct message *message,
                  struct turn *turn, struct error *err)
{
    switch (message->op) {
    case MSG_REPORT:
        return on_report(experiment, trial, evaluation, message, turn, err);
    case MSG_CHECKPOINT:
        return on_checkpoint(experiment, trial, evaluation, message, turn, err);
    case MSG_DONE:
        return on_done(experiment, trial, evaluation, message, turn, err);
    case MSG_FAILED:
        on_failed(experiment, trial, evaluation, message, turn);
        return 0;
    case MSG_LOG:
        store_put_log(turn->writes, trial_ref(experiment, trial), message->run,
                      json_string_or(message->body, "level", "info"), json_string_or(message->body, "text", ""),
                      turn->now_us);
        return 0;
    case MSG_PROGRESS:
        if (!evaluation) {
            note_trained(experiment, trial, message->body);
            search_note_progress(experiment, turn);
        }
        return 0;
    default:
        return fail(err, -EINVAL, "operation %s is not about a run", message_op_name(message->op));
    }
}

int experiment_message(struct experiment *experiment, const struct message *message, struct turn *turn,
                       struct error *err)
{
    bool evaluation;
    struct trial *trial = run_find(experiment, message->run, &evaluation);
    struct run *run;
    int rc;

    if (!trial) {
        turn_tell(turn, message->run, "release");
        return 0;
    }
    run = evaluation ? experiment->evaluation : trial->run;
    if (message->op == MSG_LOG || message->op == MSG_PROGRESS)
        return handle(experiment, trial, evaluation, message, turn, err);
    if (message->seq < 1)
        return fail(err, -EINVAL, "operation %s: seq must be from 1, not %lld", message_op_name(message->op),
                    (long long)message->seq);
    if (message->seq <= run->seq) { /* sent again because an acknowledgement was lost */
        turn_ack(turn, message->run, run->seq);
        return 0;
    }
    if (message->seq != run->seq + 1)
        return fail(err, -EINVAL, "operation %s: seq %lld after %lld: messages between them are missing",
                    message_op_name(message->op), (long long)message->seq, (long long)run->seq);
    run->seq++;
    rc = handle(experiment, trial, evaluation, message, turn, err);
    if (rc) {
        run->seq--;
        return rc;
    }
    experiment->changed = true;
    experiment_settle(experiment, turn);
    return 0;
}

void experiment_note_company(struct experiment *experiment, int64_t run, bool shares)
{
    bool evaluation;
    const struct trial *trial = run_find(experiment, run, &evaluation);

    if (trial)
        (evaluation ? experiment->evaluation : trial->run)->shares = shares;
}

void experiment_run_ended(struct experiment *experiment, int64_t run_id, const char *reason, const char *text,
                          struct turn *turn)
{
    bool evaluation, counts;
    const struct run *run;
    bool lost = !strcmp(reason, "orchestrator_lost") || !strcmp(reason, "preempted") || !strcmp(reason, "disk_full");
    struct trial *trial = run_find(experiment, run_id, &evaluation);

    if (!trial)
        return;
    run = evaluation ? experiment->evaluation : trial->run;
    /* A run that dies while it makes room costs nothing; one that owes its last checkpoint does, or it might die for ever. Of
     * several that die together any may be guilty: that shows when each goes on alone. */
    counts = !lost && !run->shares && (run->told != TOLD_PREEMPT || (!evaluation && trial->verdict != VERDICT_TRAIN));
    if (evaluation) {
        evaluation_over(experiment, reason, text, true, counts, turn);
    } else {
        if (!lost)
            trial_isolate(experiment, trial, run->unit > run->trained ? run->unit : run->trained, turn);
        else if (run->alone && run->unit <= run->proven) /* it has shown nothing */
            trial_isolate(experiment, trial, run->proven, turn);
        trial_end_run(experiment, trial, reason, text, turn);
        trial_fail(experiment, trial, reason, text, true, counts, turn);
    }
    experiment_settle(experiment, turn);
}

void experiment_log(struct experiment *experiment, int64_t run, const char *level, const char *text, struct turn *turn)
{
    bool evaluation;
    const struct trial *trial = run_find(experiment, run, &evaluation);

    if (trial)
        store_put_log(turn->writes, trial_ref(experiment, trial), run, level, text, turn->now_us);
}
