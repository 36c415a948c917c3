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

void best_of_kept(struct experiment *experiment, struct trial *trial, struct turn *turn)
{
    const struct checkpoint *best = NULL;
    bool led = experiment->best_trial == trial->number;

    for (size_t i = 0; i < trial->checkpoints_n; i++) {
        const struct checkpoint *one = &trial->checkpoints[i];
        if (one->has_value && isfinite(one->value) &&
            (!best || searcher_better(experiment->config->smaller_is_better, one->value, best->value)))
            best = one;
    }
    trial->has_best = best != NULL;
    trial->best_value = best ? best->value : NAN;
    trial->best_unit = best ? best->unit : NAN;
    trial->best_checkpoint = best ? best->id : 0;
    store_put_trial_best(turn->writes, trial_ref(experiment, trial), trial->best_value, trial->best_unit,
                         trial->best_checkpoint);
    if (!led)
        return;
    best_find(experiment);
    trial = experiment_trial(experiment, experiment->best_trial);
    store_put_experiment_best(turn->writes, experiment->id, experiment->best_trial, trial ? trial->best_unit : NAN, NULL,
                              trial ? trial->best_checkpoint : 0);
}

void best_find(struct experiment *experiment)
{
    experiment->best_trial = 0;
    for (size_t i = 0; i < experiment->trials_n; i++)
        if (leads(experiment, experiment->trials[i]))
            experiment->best_trial = experiment->trials[i]->number;
}
