/* metric_names.c - the names of the built-in trainer's metrics, which way each points, and what a wrong name meant.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/config/config_private.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

static const struct {
    const char *name, *hint; /* hint: enough to recognise it by */
    bool smaller_is_better;
} METRICS[] = {
    {"loss", "loss", true},       {"accuracy", "acc", false}, {"f1", "f1", false},
    {"precision", "prec", false}, {"recall", "rec", false},   {"accuracy", "err", false},
};
#define METRICS_N (sizeof METRICS / sizeof *METRICS)

/* The longest prefix first: validation_ is an end of client_validation_. */
static const char *const PREFIXES[] = {"client_validation_", "validation_", "train_", "test_"};
static const char *const SUFFIXES[] = {"", "_mean", "_worst"}; /* of client_validation_ metrics */

bool config_metric_is_known(const char *name, bool *ret_smaller_is_better)
{
    for (size_t p = 0; p < sizeof PREFIXES / sizeof *PREFIXES; p++)
        for (size_t m = 0; m < METRICS_N; m++)
            for (size_t s = 0; s < (p ? 1 : 3); s++) {
                char whole[100];
                snprintf(whole, sizeof whole, "%s%s%s", PREFIXES[p], METRICS[m].name, SUFFIXES[s]);
                if (strcmp(name, whole))
                    continue;
                if (ret_smaller_is_better)
                    *ret_smaller_is_better = METRICS[m].smaller_is_better;
                return true;
            }
    return false;
}

void config_say_unknown_metric(struct config_check *check, const char *path, const char *name)
{
    const char *suffix = strcasestr(name, "worst") ? "_worst" : strcasestr(name, "mean") ? "_mean" : "";
    bool client = strcasestr(name, "client") || *suffix;
    const char *prefix = client ? "client_validation_" : strcasestr(name, "train") ? "train_" : "validation_";

    for (size_t m = 0; m < METRICS_N; m++)
        if (strcasestr(name, METRICS[m].hint)) {
            config_say(check, false, path, "cannot be \"%.60s\"; did you mean %s%s%s?", name, prefix, METRICS[m].name,
                       suffix);
            return;
        }
    config_say(
        check, false, path,
        "cannot be \"%.60s\": a metric is validation_ or client_validation_ and loss, accuracy, f1, precision or "
        "recall, as in validation_accuracy",
        name);
}
