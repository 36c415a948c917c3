/* verb_trials.c - trials: the table of an experiment's trials, sorted, grouped, for people, programs or spreadsheets.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/cli/cli_private.h"
#include "orchestrator/cli/trial_rows.h"

static int sorted_json(struct cli *cli, const struct trial_rows *rows, const json_t *answer)
{
    json_t *whole = json_copy((json_t *)answer), *list = json_array();

    for (size_t i = 0; i < rows->n; i++)
        json_array_append(list, (json_t *)rows->rows[i]);
    json_object_set_new(whole, "trials", list);
    return cli_print_json(cli, whole);
}

static int groups(struct cli *cli, const struct trial_rows *rows, int64_t id, const char *name, struct error *err)
{
    json_t *list, *answer;
    int code = trial_groups(rows, name, &list, err);

    if (code)
        return cli_fail_error(err);
    if (cli_json(cli)) {
        answer = cli_json_answer();
        json_object_set_new(answer, "experiment", json_integer(id));
        json_object_set_new(answer, "metric", rows->metric ? json_string(rows->metric) : json_null());
        json_object_set_new(answer, "smaller_is_better", json_boolean(rows->smaller_is_better));
        json_object_set_new(answer, "group_by", json_string(name));
        json_object_set_new(answer, "groups", list);
        return cli_print_json(cli, answer);
    }
    if (cli->options.given[OPT_CSV])
        trial_groups_csv(stdout, name, list);
    else
        trial_groups_table(stdout, &cli->out, rows, name, list);
    json_decref(list);
    return CLI_OK;
}

static int show(struct cli *cli, int64_t id, const json_t *answer)
{
    const struct options *options = &cli->options;
    struct error err = {0};
    struct trial_rows rows;
    int code = CLI_OK;

    if (trial_rows_init(&rows, answer))
        return cli_fail(CLI_LOST, "out of memory");
    if (options->given[OPT_SORT_BY] && trial_rows_sort(&rows, options->value[OPT_SORT_BY], &err))
        code = cli_fail_error(&err);
    else if (options->given[OPT_GROUP_BY])
        code = groups(cli, &rows, id, options->value[OPT_GROUP_BY], &err);
    else if (cli_json(cli))
        code = options->given[OPT_SORT_BY] ? sorted_json(cli, &rows, answer)
                                           : cli_print_json(cli, json_incref((json_t *)answer));
    else if (options->given[OPT_CSV])
        trial_rows_csv(stdout, &rows);
    else
        trial_rows_table(stdout, &cli->out, &rows);
    trial_rows_done(&rows);
    return code;
}

int verb_trials(struct cli *cli)
{
    struct error err = {0};
    json_t *answer = NULL;
    int64_t id;
    int code;

    if (cli->options.given[OPT_CSV] && cli_json(cli))
        return cli_fail(CLI_USAGE, "--csv and --json: choose one");
    if (cli->options.given[OPT_SORT_BY] && cli->options.given[OPT_GROUP_BY])
        return cli_fail(CLI_USAGE, "--sort-by and --group-by: choose one; groups stand in the order of their values");
    code = cli_experiment(cli, cli->options.arguments[0], &id, &err);
    if (code == 0)
        code = cli_read(cli, "trials", json_pack("{s:I}", "experiment", (json_int_t)id), &answer, &err);
    if (code)
        return cli_fail_error(&err);
    code = show(cli, id, answer);
    json_decref(answer);
    return code;
}
