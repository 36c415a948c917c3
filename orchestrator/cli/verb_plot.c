/* verb_plot.c - plot: an experiment as an SVG picture.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/cli/cli_private.h"
#include "orchestrator/cli/plot.h"

#include "common/file.h"

#include <stdlib.h>
#include <string.h>

static int ask_curves(struct cli *cli, int64_t id, const json_t *trials, const char *metric, json_t **ret, struct error *err)
{
    json_t *chosen = plot_choose(trials), *number;
    size_t i;
    int code = 0;

    *ret = json_object();
    json_array_foreach (chosen, i, number) {
        json_t *answer = NULL;
        char key[32];
        code = cli_read(cli, "metrics",
                        json_pack("{s:I, s:O, s:s, s:i}", "experiment", (json_int_t)id, "trial", number, "name", metric, "client",
                                  -1),
                        &answer, err);
        if (code == -ENOENT) { /* it has reported other metrics, and not this one */
            code = 0;
            continue;
        }
        if (code)
            break;
        snprintf(key, sizeof key, "%lld", (long long)json_integer_value(number));
        json_object_set(*ret, key, json_object_get(answer, "metrics"));
        json_decref(answer);
    }
    json_decref(chosen);
    return code;
}

/* The picture as text; the caller frees. */
static char *draw(const json_t *describe, const json_t *trials, const json_t *curves, size_t *ret_length)
{
    char *text = NULL;
    FILE *out = open_memstream(&text, ret_length);

    if (!out)
        return NULL;
    plot_write(out, describe, trials, curves);
    fclose(out);
    return text;
}

static int put(struct cli *cli, int64_t id, const char *text, size_t length, size_t curves, struct error *err)
{
    const char *wanted = cli->options.value[OPT_OUTPUT];
    char name[64];
    json_t *answer;

    snprintf(name, sizeof name, "experiment-%lld.svg", (long long)id);
    if (wanted && !strcmp(wanted, "-")) {
        fwrite(text, 1, length, stdout);
        return CLI_OK;
    }
    if (file_write(wanted ? wanted : name, text, length, err))
        return cli_fail(CLI_USAGE, "%s", err->text);
    if (cli_json(cli)) {
        answer = cli_json_answer();
        json_object_set_new(answer, "path", json_string(wanted ? wanted : name));
        json_object_set_new(answer, "bytes", json_integer((json_int_t)length));
        json_object_set_new(answer, "curves", json_integer((json_int_t)curves));
        return cli_print_json(cli, answer);
    }
    printf("%s\n", wanted ? wanted : name);
    return CLI_OK;
}

int verb_plot(struct cli *cli)
{
    struct error err = {0};
    json_t *describe = NULL, *trials = NULL, *curves = NULL;
    char *text = NULL;
    size_t length;
    int64_t id;
    int code;

    if (cli_json(cli) && cli->options.given[OPT_OUTPUT] && !strcmp(cli->options.value[OPT_OUTPUT], "-"))
        return cli_fail(CLI_USAGE, "--json and -o - are both for standard output: choose one");
    code = cli_experiment(cli, cli->options.arguments_n ? cli->options.arguments[0] : NULL, &id, &err);
    if (code == 0)
        code = cli_read(cli, "describe", json_pack("{s:I}", "experiment", (json_int_t)id), &describe, &err);
    if (code == 0)
        code = cli_read(cli, "trials", json_pack("{s:I}", "experiment", (json_int_t)id), &trials, &err);
    if (code == 0)
        code = ask_curves(cli, id, trials, json_string_or(describe, "metric", ""), &curves, &err);
    if (code)
        code = cli_fail_error(&err);
    else if (!json_object_size(curves))
        code = cli_fail(CLI_USAGE, "experiment %lld has no validation to draw yet", (long long)id);
    else if (!(text = draw(describe, trials, curves, &length)))
        code = cli_fail(CLI_LOST, "out of memory");
    else
        code = put(cli, id, text, length, json_object_size(curves), &err);
    free(text);
    json_decref(describe);
    json_decref(trials);
    json_decref(curves);
    return code;
}
