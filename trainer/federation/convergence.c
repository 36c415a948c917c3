/* convergence.c - see convergence.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/federation/convergence.h"

#include <math.h>
#include <string.h>

bool metric_smaller_is_better(const char *metric)
{
    return strstr(metric, "loss") != NULL;
}

void convergence_init(struct convergence *convergence, const json_t *section)
{
    memset(convergence, 0, sizeof *convergence);
    if (!section)
        return;
    convergence->metric = json_string_or(section, "metric", "train_loss");
    convergence->smaller_is_better = metric_smaller_is_better(convergence->metric);
    convergence->min_delta = json_double_or(section, "min_delta", 0);
    convergence->patience = json_int_or(section, "patience", 0);
    convergence->has_target = json_to_double(json_object_get(section, "target"), &convergence->target);
}

bool convergence_observe(struct convergence *convergence, double value)
{
    double gain;

    if (!isfinite(value)) {
        convergence->rounds_without++;
    } else {
        if (convergence->has_target &&
            (convergence->smaller_is_better ? value <= convergence->target : value >= convergence->target))
            return true;
        gain = convergence->smaller_is_better ? convergence->best - value : value - convergence->best;
        if (!convergence->has_best || (gain > 0 && gain >= convergence->min_delta)) {
            convergence->has_best = true;
            convergence->best = value;
            convergence->rounds_without = 0;
        } else {
            convergence->rounds_without++;
        }
    }
    return convergence->patience > 0 && convergence->rounds_without >= convergence->patience;
}
