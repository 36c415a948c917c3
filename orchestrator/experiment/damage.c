/* damage.c - a checkpoint that a worker could not use: torn, altered, gone. Nobody is to train on from it or to be shown
 * it, so its row is marked as deleted. The file is left where it is, for whoever wants to know what happened; the next start
 * of the orchestrator removes it with others of deleted rows. The trial goes on from the checkpoint before, or from its
 * beginning, and gets the same values there again.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/experiment/experiment_private.h"
#include "common/file.h"

#include <stdlib.h>
#include <string.h>

static size_t find(const struct experiment *experiment, const struct trial *trial, const char *path)
{
    size_t i = 0;

    for (; i < trial->checkpoints_n; i++) {
        char *one = trial_path(experiment, trial, trial->checkpoints[i].path);
        bool same = !strcmp(one, path);
        free(one);
        if (same)
            break;
    }
    return i;
}

static void tell(const struct experiment *experiment, const struct trial *trial, int64_t run, bool evaluation,
                 const struct checkpoint *damaged, const char *text, struct turn *turn)
{
    const char *unit = UNIT_NAMES[experiment->config->time_metric];
    const struct checkpoint *latest = trial_latest(trial);
    char *next, *line;

    if (evaluation)
        next = must(strdup("its value stands, but it cannot be evaluated"));
    else if (latest)
        next = must(format_text("the trial goes on from %g %s", latest->unit, unit));
    else
        next = must(strdup("the trial begins anew"));
    line = must(format_text("the checkpoint of %g %s cannot be used and is given up; %s. %s", damaged->unit, unit, next,
                            text));
    store_put_log(turn->writes, trial_ref(experiment, trial), run, "error", line, turn->now_us);
    free(line);
    free(next);
}

bool damage_note(struct experiment *experiment, struct trial *trial, int64_t run, bool evaluation, const char *path,
                 const char *text, struct turn *turn)
{
    size_t i = find(experiment, trial, path);
    struct checkpoint damaged;
    bool was_best;

    if (i == trial->checkpoints_n)
        return false;
    damaged = trial->checkpoints[i];
    damaged.units = json_incref(damaged.units);
    damaged.path = NULL;
    was_best = trial->has_best && trial->best_checkpoint == damaged.id;
    trial_drop_checkpoint(trial, i);
    if (was_best && evaluation) { /* the search is over: what was best stays so, without its file */
        trial->best_checkpoint = 0;
        store_put_trial_best(turn->writes, trial_ref(experiment, trial), trial->best_value, trial->best_unit, 0);
        store_put_experiment_best(turn->writes, experiment->id, trial->number, trial->best_unit, NULL, 0);
    } else if (was_best) {
        best_of_kept(experiment, trial, turn);
    }
    store_put_checkpoint_deleted(turn->writes, damaged.id, turn->now_us);
    tell(experiment, trial, run, evaluation, &damaged, text, turn);
    json_decref(damaged.units);
    return true;
}
