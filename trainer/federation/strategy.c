/* strategy.c - the table of strategies.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/federation/strategy.h"

#include <string.h>

static void weigh_mean(const struct strategy_settings *settings, struct replica *replicas, size_t n)
{
    double total = 0;

    for (size_t i = 0; i < n; i++)
        total += settings->uniform ? 1 : (double)replicas[i].samples_n;
    for (size_t i = 0; i < n; i++)
        replicas[i].weight = (settings->uniform ? 1 : (double)replicas[i].samples_n) / total;
}

static void apply_mean(const struct strategy_settings *settings, const double *sum, size_t trainable_n, size_t weights_n,
                       float *weights)
{
    double s = settings->server_learning_rate;

    /* s = 1 apart: w + (sum - w) rounds differently from sum. */
    for (size_t i = 0; i < trainable_n; i++)
        weights[i] = (float)(s == 1 ? sum[i] : weights[i] + s * (sum[i] - weights[i]));
    for (size_t i = trainable_n; i < weights_n; i++)
        weights[i] = (float)sum[i];
}

static const struct strategy STRATEGIES[] = {
    {.name = "fedavg", .reduction = REDUCE_WEIGHTED_SUM, .resident = true, .weigh = weigh_mean, .apply = apply_mean},
};

int strategy_from(const json_t *section, const struct strategy **ret, struct strategy_settings *ret_settings,
                  struct error *err)
{
    const char *name = json_string_or(section, "name", "fedavg");

    for (size_t i = 0; i < sizeof STRATEGIES / sizeof *STRATEGIES; i++) {
        if (strcmp(STRATEGIES[i].name, name))
            continue;
        ret_settings->server_learning_rate = json_double_or(section, "server_learning_rate", 1);
        ret_settings->uniform = !strcmp(json_string_or(section, "weighting", "samples"), "uniform");
        *ret = &STRATEGIES[i];
        return 0;
    }
    return fail(err, -EINVAL, "federation.strategy.name: no strategy \"%.40s\"", name);
}
