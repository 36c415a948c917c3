/* verb_trial_test.c - trial test: a trial's best model on the test split, on request. A worker beside the orchestrator's
 * computes it, at a low priority: it holds no slot, and is over in the time of one evaluation. What comes out is recorded
 * by the orchestrator.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/cli/cli_private.h"
#include "orchestrator/cli/render.h"

#include "common/file.h"
#include "orchestrator/config/config.h"
#include "orchestrator/launcher/launcher.h"

#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

/* What was computed at the unit of the best checkpoint; NULL: nothing. Borrowed. */
static const json_t *known_result(const json_t *trial, double unit)
{
    json_t *row;
    size_t i;

    json_array_foreach (json_object_get(trial, "tests"), i, row)
        if (json_double_or(row, "unit", -1) == unit)
            return json_object_get(row, "metrics");
    return NULL;
}

/* The message `evaluate` for a trial's checkpoint. */
static int build(struct cli *cli, const struct experiment_config *config, int64_t id, const json_t *trial,
                 const json_t *checkpoint, json_t **ret, struct error *err)
{
    const json_t *values = json_object_get(trial, "hyperparameters");
    const char *unit = UNIT_NAMES[config->time_metric];
    char *folder = format_text("%s/experiments/%lld/trials/%lld", cli->home, (long long)id,
                               (long long)json_int_or(trial, "id", 0));
    char *cache = format_text("%s/cache", cli->home);
    json_t *sections = NULL;
    double at = json_double_or(checkpoint, "unit", 0);
    int code = 0;

    if (config->entrypoint)
        sections = json_deep_copy(config->sections);
    else
        code = keys_substitute(config->sections, values, &sections, err);
    if (code == 0)
        *ret = json_pack("{s:s, s:i, s:I, s:I, s:I, s:I, s:O, s:o, s:s, s:f, s:f, s:s, s:b, s:s, s:s, s:s, s:[], s:s, s:s}",
                         "op", "evaluate", "run", 1, "experiment", (json_int_t)id, "trial", json_int_or(trial, "id", 0),
                         "seed", (json_int_t)config->experiment_seed, "data_seed", (json_int_t)config->data_seed,
                         "hyperparameters", values, "sections", sections, "time_metric", unit, "train_until", at,
                         "max_units", at, "metric", config->metric, "smaller_is_better", config->smaller_is_better,
                         "trial_dir", folder, "run_dir", folder, "cache_dir", cache, "slots", "split", "test",
                         "checkpoint", json_string_or(checkpoint, "path", ""));
    if (code == 0 && !*ret)
        code = fail(err, -ENOMEM, "out of memory");
    free(folder);
    free(cache);
    return code;
}

static int evaluate(struct cli *cli, const json_t *described, const json_t *trial, const json_t *checkpoint, json_t **ret,
                    struct error *err)
{
    struct experiment_config *config = NULL;
    json_t *message = NULL;
    const char **argv = NULL;
    int64_t id = json_int_or(described, "id", 0);
    int code = config_from_resolved(json_object_get(described, "config"), &config, err);

    if (code)
        return code;
    code = build(cli, config, id, trial, checkpoint, &message, err);
    if (code == 0 && config->entrypoint) {
        size_t n = json_array_size(config->entrypoint);
        argv = calloc(n + 1, sizeof *argv);
        for (size_t i = 0; argv && i < n; i++)
            argv[i] = json_string_value(json_array_get(config->entrypoint, i));
        code = argv ? 0 : fail(err, -ENOMEM, "out of memory");
    }
    if (code == 0) {
        setpriority(PRIO_PROCESS, 0, 10); /* those that hold slots go first; our child inherits it */
        code = launcher_ask_evaluate(argv, json_string_or(config->resolved, "working_directory", NULL), message, ret, err);
    }
    free(argv);
    json_decref(message);
    config_free(config);
    return code;
}

static int record(struct cli *cli, int64_t id, int64_t trial, double unit, json_t *metrics, struct error *err)
{
    char text[40];
    json_t *answer = NULL;
    int code;

    snprintf(text, sizeof text, "%.17g", unit);
    code = cli_ask(cli, true, "record_test",
                   json_pack("{s:I, s:I, s:s, s:O}", "experiment", (json_int_t)id, "trial", (json_int_t)trial, "unit",
                             text, "metrics", metrics),
                   &answer, err);
    json_decref(answer);
    return code;
}

static int show(struct cli *cli, int64_t id, int64_t trial, double unit, const json_t *metrics, bool computed)
{
    json_t *answer;

    if (cli_json(cli)) {
        answer = cli_json_answer();
        json_object_set_new(answer, "experiment", json_integer(id));
        json_object_set_new(answer, "trial", json_integer(trial));
        json_object_set_new(answer, "unit", json_real(unit));
        json_object_set_new(answer, "computed", json_boolean(computed));
        json_object_set(answer, "test_metrics", (json_t *)metrics);
        return cli_print_json(cli, answer);
    }
    if (!computed)
        cli_note(cli, "this model was evaluated before; these are the recorded values");
    printf("Trial %lld/%lld at %g on the test split\n", (long long)id, (long long)trial, unit);
    render_metrics(stdout, &cli->out, NULL, metrics);
    return CLI_OK;
}

static int test(struct cli *cli, int64_t id, int64_t number, const json_t *described, const json_t *trial)
{
    const json_t *checkpoint = json_object_get(trial, "best_checkpoint"), *known;
    double unit = json_double_or(checkpoint, "unit", 0);
    struct error err = {0};
    json_t *metrics = NULL;
    int code;

    if (!json_is_object(checkpoint))
        return cli_fail(CLI_USAGE, json_is_null(json_object_get(trial, "best_metric"))
                                       ? "trial %lld/%lld has no validated checkpoint to test"
                                       : "trial %lld/%lld: its best checkpoint was not kept"
                                         " (checkpoint_storage.save_trial_best: 1 keeps it)",
                        (long long)id, (long long)number);
    known = known_result(trial, unit);
    if (known)
        return show(cli, id, number, unit, known, false);
    code = evaluate(cli, described, trial, checkpoint, &metrics, &err);
    if (code == 0)
        code = record(cli, id, number, unit, metrics, &err);
    code = code ? cli_fail_error(&err) : show(cli, id, number, unit, metrics, true);
    json_decref(metrics);
    return code;
}

int verb_trial_test(struct cli *cli)
{
    struct error err = {0};
    json_t *trial = NULL, *described = NULL;
    int64_t id, number;
    int code = cli_trial(cli, cli->options.arguments[0], &id, &number, &err);

    if (code == 0)
        code = cli_read(cli, "trial", json_pack("{s:I, s:I}", "experiment", (json_int_t)id, "trial", (json_int_t)number),
                        &trial, &err);
    if (code == 0)
        code = cli_read(cli, "describe", json_pack("{s:I}", "experiment", (json_int_t)id), &described, &err);
    code = code ? cli_fail_error(&err) : test(cli, id, number, described, trial);
    json_decref(trial);
    json_decref(described);
    return code;
}
