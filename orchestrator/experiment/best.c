/* best.c - the best validation at a unit whose checkpoint is kept, of each trial and of the experiment.
 * Ties go to the earlier unit, then to the lower trial, so that the answer does not depend on the order of arrival. A value
 * that is not finite is never best. A trial's best only ever improves, so the experiment's is kept up step by step.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/experiment/experiment_private.h"

#include <math.h>

static bool leads(const struct experiment *experiment, const struct trial *trial)
{
    const struct trial *best = experiment_trial(experiment, experiment->best_trial);

    if (!trial->has_best || trial == best)
        return trial->has_best;
    if (!best || searcher_better(experiment->config->smaller_is_better, trial->best_value, best->best_value))
        return true;
    return trial->best_value == best->best_value && trial->number < best->number;
}

void best_judge(struct experiment *experiment, struct trial *trial, struct checkpoint *checkpoint,
                const json_t *metrics, struct turn *turn)
{
    const struct experiment_config *config = experiment->config;
    double value;

    if (!json_to_double(json_object_get(metrics, config->metric), &value))
        return;
    checkpoint->has_value = true;
    checkpoint->value = value;
    if (!isfinite(value))
        return;
    if (trial->has_best && !searcher_better(config->smaller_is_better, value, trial->best_value) &&
        !(value == trial->best_value && checkpoint->unit < trial->best_unit))
        return;
    trial->has_best = true;
    trial->best_value = value;
    trial->best_unit = checkpoint->unit;
    trial->best_checkpoint = checkpoint->id;
    store_put_trial_best(turn->writes, trial_ref(experiment, trial), value, checkpoint->unit, checkpoint->id);
    if (leads(experiment, trial)) {
        experiment->best_trial = trial->number;
        store_put_experiment_best(turn->writes, experiment->id, trial->number, checkpoint->unit, metrics,
                                  checkpoint->id);
    }
}

void best_find(struct experiment *experiment)
{
    experiment->best_trial = 0;
    for (size_t i = 0; i < experiment->trials_n; i++)
        if (leads(experiment, experiment->trials[i]))
            experiment->best_trial = experiment->trials[i]->number;
}
