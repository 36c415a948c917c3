/* verb_logs.c - logs and trial logs: what the workers wrote.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/cli/follow.h"
#include "orchestrator/cli/format.h"

#include <stdlib.h>
#include <string.h>

#define PAGE 1000

static int page(struct cli *cli, int64_t id, int64_t trial, int64_t after, json_t **ret, struct error *err)
{
    json_t *arguments = json_pack("{s:I, s:I, s:i}", "experiment", (json_int_t)id, "after", (json_int_t)after, "limit",
                                  PAGE);

    if (trial)
        json_object_set_new(arguments, "trial", json_integer(trial));
    return cli_read(cli, "logs", arguments, ret, err);
}

static void print_line(struct cli *cli, FILE *out, bool with_trial, const json_t *row)
{
    const struct term *term = &cli->out;
    const char *level = json_string_or(row, "level", "info"), *raw = json_string_or(row, "text", "");
    enum style style = !strcmp(level, "error") ? STYLE_RED : !strcmp(level, "warning") ? STYLE_YELLOW : STYLE_NONE;
    char *time = format_time(json_object_get(row, "time")), *text = text_clean(raw);

    if (cli_json(cli)) { /* with -f alone: one document a line */
        json_dumpf(row, out, JSON_COMPACT | JSON_REAL_PRECISION(17));
        fputc('\n', out);
    } else {
        fprintf(out, "%s%s%s ", term_on(term, STYLE_DIM), time ? time : "", term_off(term, STYLE_DIM));
        if (with_trial)
            fprintf(out, json_int_or(row, "trial", 0) ? "trial %-3lld " : "experiment ", (long long)json_int_or(row, "trial", 0));
        fprintf(out, "%s%-7s %s%s\n", term_on(term, style), level, term->tty && text ? text : raw,
                term_off(term, style));
    }
    free(time);
    free(text);
}

int logs_print(struct cli *cli, FILE *out, int64_t id, int64_t trial, int64_t *last, struct error *err)
{
    json_t *answer = NULL, *row;
    size_t i, n;
    int code;

    do {
        code = page(cli, id, trial, *last, &answer, err);
        if (code)
            return code;
        json_array_foreach(json_object_get(answer, "lines"), i, row)
            print_line(cli, out, !trial, row);
        n = json_array_size(json_object_get(answer, "lines"));
        if (n)
            *last = json_int_or(answer, "last", *last);
        json_decref(answer);
    } while (n == PAGE);
    return 0;
}

/* All pages as one document. */
static int logs_json(struct cli *cli, int64_t id, int64_t trial)
{
    json_t *whole = cli_json_answer(), *lines = json_array(), *answer = NULL;
    struct error err = {0};
    int64_t last = 0;
    size_t n;
    int code;

    do {
        code = page(cli, id, trial, last, &answer, &err);
        if (code) {
            json_decref(whole);
            json_decref(lines);
            return cli_fail_error(&err);
        }
        n = json_array_size(json_object_get(answer, "lines"));
        json_array_extend(lines, json_object_get(answer, "lines"));
        if (n)
            last = json_int_or(answer, "last", last);
        json_decref(answer);
    } while (n == PAGE);
    json_object_set_new(whole, "lines", lines);
    json_object_set_new(whole, "last", json_integer(last));
    return cli_print_json(cli, whole);
}

static int logs(struct cli *cli, int64_t id, int64_t trial)
{
    struct follow how = {.progress = !cli_json(cli) && !cli->options.given[OPT_QUIET] && cli->out.tty, .logs = true,
                         .trial = trial};
    struct error err = {0};
    int64_t last = 0;

    if (cli->options.given[OPT_FOLLOW])
        return follow_experiment(cli, id, &how);
    if (cli_json(cli))
        return logs_json(cli, id, trial);
    return logs_print(cli, stdout, id, trial, &last, &err) ? cli_fail_error(&err) : CLI_OK;
}

int verb_logs(struct cli *cli)
{
    const char *text = cli->options.arguments[0];
    struct error err = {0};
    int64_t id = 0, trial = 0;
    int code = text && strchr(text, '/') ? cli_trial(cli, text, &id, &trial, &err)
                                         : cli_experiment(cli, text, &id, &err);

    return code ? cli_fail_error(&err) : logs(cli, id, trial);
}

int verb_trial_logs(struct cli *cli)
{
    struct error err = {0};
    int64_t id, trial;

    if (cli_trial(cli, cli->options.arguments[0], &id, &trial, &err))
        return cli_fail_error(&err);
    return logs(cli, id, trial);
}
