/* test_config.c - an experiment file of hostile bytes.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/config/config.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct experiment_config *config = NULL, *again = NULL;
    struct config_problems problems;
    struct error err = {0};
    char *shown;
    int rc = config_read((const char *)data, size, NULL, 0, "/data", &config, &problems);

    for (size_t i = 0; i < problems.n; i++) {
        must(problems.list[i].line > 0 && problems.list[i].column > 0);
        must_be_text(problems.list[i].text);
    }
    if (rc) {
        must(rc == -EINVAL && !config && problems.errors);
    } else {
        must(config && !problems.errors);
        must(!config_from_resolved(config->resolved, &again, &err));
        must(json_equal(config->resolved, again->resolved));
    }
    shown = config_problems_text(&problems, "x.yaml");
    must(shown);
    free(shown);
    config_problems_done(&problems);
    config_free(config);
    config_free(again);
    return 0;
}
