/* help.c - `help` and `--help`, made from the tables of verbs and options; and the verbs help and version.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/cli/cli_private.h"

#include "common/version.h"

#include <string.h>

const struct exit_code EXIT_CODES[] = {
    {"0", "done"},
    {"1", "an experiment that was awaited did not complete"},
    {"2", "usage or bad input"},
    {"3", "no orchestrator, or it was lost, or the machine refused"},
    {"130", "Ctrl-C while following: the experiment goes on"},
    {NULL, NULL},
};

const struct environment_row ENVIRONMENT[] = {
    {"FLEXP_HOME", "where experiments live, when --home is not given"},
    {"FLEXP_DATA", "the folder that a relative data.path is looked for in, when --data is not given"},
    {"FLEXP_ISA", "instructions that trials on cores use: avx512, avx2, portable (default: the best here)"},
    {"FLEXP_CPU_KERNELS", "for comparisons, the one convolution kernel on cores: onednn, winograd_f4, winograd_f2,"
                          " winograd_f2_5x5, direct, depthwise, batched"},
    {"NO_COLOR", "when set and not empty: no colours"},
    {NULL, NULL},
};

static void write_option(FILE *out, const struct option_row *row)
{
    char left[64], letter[8] = "    ";

    if (row->letter)
        snprintf(letter, sizeof letter, "-%c, ", row->letter);
    snprintf(left, sizeof left, "%s--%s%s%s", letter, row->name, row->argument ? " " : "",
             row->argument ? row->argument : "");
    fprintf(out, "  %-24s %s\n", left, row->doc);
}

static void write_globals(FILE *out, const struct term *term)
{
    fprintf(out, "\n%sGlobal options%s, before or after the verb:\n", term_on(term, STYLE_BOLD),
            term_off(term, STYLE_BOLD));
    for (int i = 0; i < OPT_GLOBALS; i++)
        write_option(out, &OPTION_ROWS[i]);
}

static void write_environment(FILE *out, const struct term *term)
{
    fprintf(out, "\n%sEnvironment%s\n", term_on(term, STYLE_BOLD), term_off(term, STYLE_BOLD));
    for (const struct environment_row *row = ENVIRONMENT; row->name; row++)
        fprintf(out, "  %-18s %s\n", row->name, row->meaning);
}

static void write_exit_codes(FILE *out, const struct term *term)
{
    fprintf(out, "\n%sExit codes%s\n", term_on(term, STYLE_BOLD), term_off(term, STYLE_BOLD));
    for (const struct exit_code *row = EXIT_CODES; row->code; row++)
        fprintf(out, "  %-3s  %s\n", row->code, row->meaning);
}

/* Each line of text, indented. */
static void write_lines(FILE *out, const char *text)
{
    while (*text) {
        size_t n = strcspn(text, "\n");
        fprintf(out, "  %.*s\n", (int)n, text);
        text += n + (text[n] == '\n');
    }
}

void help_overview(FILE *out, const struct term *term)
{
    const char *on = term_on(term, STYLE_BOLD), *off = term_off(term, STYLE_BOLD);

    fprintf(out, "flexp runs hyperparameter searches over federated training.\n\n"
                 "%sUsage%s\n  flexp VERB [ARGUMENTS] [OPTIONS]\n\n%sStart here%s\n"
                 "  flexp create -f configs/quickstart.yaml     start an experiment and follow it\n"
                 "  flexp describe 1                            its best trial\n\n%sVerbs%s\n",
            on, off, on, off, on, off);
    for (const struct verb *verb = VERBS; verb->name; verb++) {
        char left[64];
        if (verb->hidden)
            continue;
        snprintf(left, sizeof left, "%s %s", verb->name, verb->arguments);
        fprintf(out, "  %-22s %s\n", left, verb->doc);
    }
    write_globals(out, term);
    write_environment(out, term);
    write_exit_codes(out, term);
    fprintf(out, "\n`flexp VERB --help` shows a verb's options and an example.\n");
}

void help_verb(FILE *out, const struct term *term, const struct verb *verb)
{
    const char *on = term_on(term, STYLE_BOLD), *off = term_off(term, STYLE_BOLD);
    bool any = false;

    fprintf(out, "%s.\n\n%sUsage%s\n  flexp %s%s%s [OPTIONS]\n", verb->doc, on, off, verb->name,
            *verb->arguments ? " " : "", verb->arguments);
    if (verb->more)
        fprintf(out, "\n%s\n", verb->more);
    for (int i = OPT_GLOBALS; i < OPT_COUNT; i++) {
        if (!(verb->options & 1u << i) || !OPTION_ROWS[i].doc)
            continue;
        if (!any)
            fprintf(out, "\n%sOptions%s\n", on, off);
        any = true;
        write_option(out, &OPTION_ROWS[i]);
    }
    write_globals(out, term);
    fprintf(out, "\n%sExample%s\n", on, off);
    write_lines(out, verb->example);
    write_exit_codes(out, term);
}

static int help_json(struct cli *cli)
{
    json_t *answer = cli_json_answer(), *list = json_array();

    for (const struct verb *verb = VERBS; verb->name; verb++) {
        json_t *options = json_array();
        for (int i = 0; i < OPT_COUNT; i++)
            if ((i < OPT_GLOBALS || verb->options & 1u << i) && OPTION_ROWS[i].doc)
                json_array_append_new(options, json_pack("{s:s, s:s*, s:s}", "name", OPTION_ROWS[i].name, "argument",
                                                         OPTION_ROWS[i].argument, "doc", OPTION_ROWS[i].doc));
        json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:s, s:o}", "name", verb->name, "arguments",
                                              verb->arguments, "doc", verb->doc, "example", verb->example, "options",
                                              options));
    }
    json_object_set_new(answer, "verbs", list);
    return cli_print_json(cli, answer);
}

int verb_help(struct cli *cli)
{
    const struct options *options = &cli->options;
    const char *near;
    const char *names[64];
    size_t words, n = 0;
    const struct verb *verb;

    if (cli_json(cli))
        return help_json(cli);
    if (!options->arguments_n) {
        help_overview(stdout, &cli->out);
        return CLI_OK;
    }
    if (options->arguments_n == 1 && !strcmp(options->arguments[0], "man")) {
        help_man(stdout);
        return CLI_OK;
    }
    verb = verb_find(options->arguments, options->arguments_n, &words);
    if (verb && words == options->arguments_n) {
        help_verb(stdout, &cli->out, verb);
        return CLI_OK;
    }
    if (options->arguments_n == 1) { /* the first word of several verbs */
        size_t length = strlen(options->arguments[0]);
        for (const struct verb *row = VERBS; row->name; row++)
            if (!strncmp(row->name, options->arguments[0], length) && row->name[length] == ' ')
                n++, printf("flexp %s %s\n  %s\n", row->name, row->arguments, row->doc);
        if (n)
            return CLI_OK;
    }
    for (const struct verb *row = VERBS; row->name && n < 63; row++)
        names[n++] = row->name;
    names[n] = NULL;
    near = verb_synonym(options->arguments[0]);
    if (!near)
        near = nearest_word(names, options->arguments[0]);
    if (near)
        return cli_fail(CLI_USAGE, "there is no verb '%s': did you mean '%s'?", options->arguments[0], near);
    return cli_fail(CLI_USAGE, "there is no verb '%s'; `flexp help` lists them all", options->arguments[0]);
}

int verb_version(struct cli *cli)
{
    json_t *answer;

    if (!cli_json(cli)) {
        puts("flexp " FLEXP_VERSION);
        return CLI_OK;
    }
    answer = cli_json_answer();
    json_object_set_new(answer, "version", json_string(FLEXP_VERSION));
    json_object_set_new(answer, "protocol_version", json_integer(FLEXP_PROTOCOL_VERSION));
    return cli_print_json(cli, answer);
}
