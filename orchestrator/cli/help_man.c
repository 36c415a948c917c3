/* help_man.c - flexp.1 in man(7), and the completion of bash, both from the tables of verbs and options.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/cli/cli_private.h"
#include "orchestrator/fetch/catalog.h"

#include "common/version.h"

#include <stdlib.h>
#include <string.h>

/* --- man -------------------------------------------------------------------------------------------------------- */

/* Text of a page: a hyphen is a minus, as it is typed; a backslash is itself; no line begins with a request. */
static void man_text(FILE *out, const char *text)
{
    bool begins = true;

    for (; *text; text++) {
        if (begins && (*text == '.' || *text == '\''))
            fputs("\\&", out);
        begins = *text == '\n';
        if (*text == '-')
            fputs("\\-", out);
        else if (*text == '\\')
            fputs("\\e", out);
        else
            fputc(*text, out);
    }
    fputc('\n', out);
}

static void man_option(FILE *out, const struct option_row *row)
{
    fputs(".TP\n", out);
    if (row->letter)
        fprintf(out, ".BR \\-%c \", \" \\-\\-", row->letter);
    else
        fputs(".B \\-\\-", out);
    for (const char *at = row->name; *at; at++)
        fprintf(out, *at == '-' ? "\\-" : "%c", *at);
    fprintf(out, "%s%s\n", row->argument ? " " : "", row->argument ? row->argument : "");
    man_text(out, row->doc);
}

static void man_verb(FILE *out, const struct verb *verb)
{
    fprintf(out, ".SS flexp %s %s\n", verb->name, verb->arguments);
    man_text(out, verb->doc);
    if (verb->more) {
        fputs(".PP\n", out);
        man_text(out, verb->more);
    }
    for (int i = OPT_GLOBALS; i < OPT_COUNT; i++)
        if (verb->options & 1u << i && OPTION_ROWS[i].doc)
            man_option(out, &OPTION_ROWS[i]);
    fputs(".PP\n.nf\n.RS 4\n", out);
    man_text(out, verb->example);
    fputs(".RE\n.fi\n", out);
}

void help_man(FILE *out)
{
    fprintf(out, ".TH FLEXP 1 \"\" \"flexp " FLEXP_VERSION "\" \"User Commands\"\n"
                 ".SH NAME\nflexp \\- hyperparameter search over federated training\n"
                 ".SH SYNOPSIS\n.B flexp\n.I VERB\n[\\fIARGUMENTS\\fR] [\\fIOPTIONS\\fR]\n.SH DESCRIPTION\n");
    man_text(out, "An experiment file names hyperparameters, a searcher, data, a model and a federation of clients. flexp create "
                  "checks it and hands it to the orchestrator, which runs in the background, trains trial after trial on the "
                  "slots of this machine and keeps every number in HOME/flexp.db; flexp describe names the best trial. What "
                  "is killed goes on from its last checkpoint.");
    fputs(".SH VERBS\n", out);
    for (const struct verb *verb = VERBS; verb->name; verb++)
        if (!verb->hidden)
            man_verb(out, verb);
    fputs(".SH GLOBAL OPTIONS\nBefore or after the verb.\n", out);
    for (int i = 0; i < OPT_GLOBALS; i++)
        man_option(out, &OPTION_ROWS[i]);
    fputs(".SH EXIT STATUS\n", out);
    for (const struct exit_code *row = EXIT_CODES; row->code; row++) {
        fprintf(out, ".TP\n.B %s\n", row->code);
        man_text(out, row->meaning);
    }
    fputs(".SH ENVIRONMENT\n", out);
    for (const struct environment_row *row = ENVIRONMENT; row->name; row++) {
        fprintf(out, ".TP\n.B %s\n", row->name);
        man_text(out, row->meaning);
    }
    fputs(".SH FILES\n.TP\n.I HOME/flexp.db\n", out);
    man_text(out, "every experiment, trial, run and number (SQLite; docs/schema.md)");
    fputs(".TP\n.I HOME/experiments/ID/trials/N/\n", out);
    man_text(out, "model.safetensors, result.json, and the logs and checkpoints of each run");
    fputs(".TP\n.I HOME/orchestrator.log\n", out);
    man_text(out, "what the orchestrator did");
}

/* --- completion --------------------------------------------------------------------------------------------------- */

/* The second words of "trial describe", "trial logs" ... */
static void second_words(FILE *out, const char *first, size_t length)
{
    for (const struct verb *verb = VERBS; verb->name; verb++)
        if (!verb->hidden && !strncmp(verb->name, first, length) && verb->name[length] == ' ')
            fprintf(out, " %s", verb->name + length + 1);
}

static bool first_of_its_kind(const struct verb *verb)
{
    size_t length = strcspn(verb->name, " ");

    for (const struct verb *row = VERBS; row != verb; row++)
        if (!row->hidden && strcspn(row->name, " ") == length && !strncmp(row->name, verb->name, length))
            return false;
    return true;
}

static void option_words(FILE *out, const struct verb *verb)
{
    for (int i = 0; i < OPT_COUNT; i++)
        if ((i < OPT_GLOBALS || (verb && verb->options & 1u << i)) && OPTION_ROWS[i].doc)
            fprintf(out, " --%s", OPTION_ROWS[i].name);
}

/* What is offered for an argument, by its name in the tables: a line of bash that sets words or files. */
static const struct {
    const char *argument, *line;
} VALUES[] = {
    {"FILE", "files=1"},
    {"EXP/N", "words=$(_flexp_trials); [[ $current == */* ]] || compopt -o nospace 2>/dev/null"},
    {"ID", "words=$(_flexp_ids)"},
    {"VERB", "words=$verbs"},
    {"bash", "words=bash"},
    {"[KEY]", "words=$(_flexp_keys)"},
    {"cpu|gpu|N", "words='cpu gpu'"},
    {"DIR", "COMPREPLY=($(compgen -d -- \"$current\")); return"},
};

static const char *values_of(const char *argument)
{
    for (size_t i = 0; i < sizeof VALUES / sizeof *VALUES; i++)
        if (strstr(argument, VALUES[i].argument))
            return VALUES[i].line;
    return "";
}

static void verb_case(FILE *out, const struct verb *verb)
{
    fprintf(out, "    '%s')\n        options='", verb->name);
    option_words(out, verb);
    fputs("'\n", out);
    if (!strcmp(verb->name, "data fetch")) {
        fputs("        words='", out);
        for (const struct catalog_row *row = CATALOG; row->name; row++)
            fprintf(out, " %s", row->name);
        fputs("'\n", out);
    } else if (*values_of(verb->arguments)) {
        fprintf(out, "        %s\n", values_of(verb->arguments));
    }
    fputs("        ;;\n", out);
}

/* "--home|--data|...": those that take a value, so that it is not taken for a verb's argument. */
static void valued_options(FILE *out)
{
    bool any = false;

    for (int i = 0; i < OPT_COUNT; i++)
        if (OPTION_ROWS[i].argument && OPTION_ROWS[i].doc) {
            fprintf(out, "%s--%s", any ? "|" : "", OPTION_ROWS[i].name);
            if (OPTION_ROWS[i].letter)
                fprintf(out, "|-%c", OPTION_ROWS[i].letter);
            any = true;
        }
}

/* The word before decides: what follows an option is its value. */
static void option_cases(FILE *out)
{
    for (int i = 0; i < OPT_COUNT; i++) {
        const struct option_row *row = &OPTION_ROWS[i];
        const char *line = i == OPT_SORT_BY    ? "words=$(_flexp_columns)"
                           : i == OPT_GROUP_BY ? "words=$(_flexp_columns | sed '1,/^ended$/d')"
                           : i == OPT_NAME     ? "words=$(_flexp_metrics)"
                           : row->argument     ? values_of(row->argument)
                                               : "";
        if (!row->argument || !row->doc)
            continue;
        fprintf(out, "    --%s", row->name);
        if (row->letter)
            fprintf(out, "|-%c", row->letter);
        fprintf(out, ")\n        %s\n        ;;\n", *line ? line : ":");
    }
}

static void write_bash(FILE *out)
{
    fputs("# bash completion for flexp, printed by `flexp completion bash`\n"
          "_flexp_ids()\n{\n    flexp \"${home[@]}\" list --all --json 2>/dev/null | tr '{},' '\\n\\n\\n' |\n"
          "        sed -n 's/^ *\"id\": *\\([0-9]*\\)$/\\1/p'\n}\n"
          "_flexp_trials()\n{\n    case $current in\n"
          "    */*) flexp \"${home[@]}\" trials \"${current%%/*}\" --csv 2>/dev/null |\n"
          "        sed -n \"2,\\$s|^\\([0-9]*\\),.*|${current%%/*}/\\1|p\" ;;\n"
          "    *) _flexp_ids | sed 's|$|/|' ;;\n    esac\n}\n"
          "_flexp_columns()\n{\n"
          "    flexp \"${home[@]}\" trials $second --csv 2>/dev/null | head -n 1 | tr ',' '\\n' | tr -d '\\r'\n}\n"
          "_flexp_metrics()\n{\n"
          "    flexp \"${home[@]}\" metrics \"$second\" --csv 2>/dev/null | head -n 1 | tr ',' '\\n' | tr -d '\\r' |\n"
          "        sed 1d\n}\n"
          "_flexp_keys()\n{\n    local above=${current%.*}\n    [[ $current == *.* ]] || above=''\n"
          "    flexp explain $above --json 2>/dev/null | tr '{},' '\\n\\n\\n' |\n"
          "        sed -n 's/^ *\"key\": *\"\\([^\"]*\\)\"$/\\1/p'\n}\n"
          "_flexp()\n{\n    local verbs='",
          out);
    for (const struct verb *verb = VERBS; verb->name; verb++)
        if (!verb->hidden && first_of_its_kind(verb))
            fprintf(out, "%s%.*s", verb == VERBS ? "" : " ", (int)strcspn(verb->name, " "), verb->name);
    fputs("'\n    local current=${COMP_WORDS[COMP_CWORD]} verb='' second='' words='' options='' files='' home=() i\n"
          "    for ((i = 1; i < COMP_CWORD; i++)); do\n"
          "        [[ ${COMP_WORDS[i]} != --home ]] || home=(--home \"${COMP_WORDS[i+1]}\")\n"
          "        case ${COMP_WORDS[i]} in\n        ",
          out);
    valued_options(out);
    fputs(") ((i++)) ;;\n"
          "        -*) ;;\n"
          "        *) if [[ -z $verb ]]; then verb=${COMP_WORDS[i]}; elif [[ -z $second ]]; then second=${COMP_WORDS[i]}; fi ;;\n"
          "        esac\n    done\n"
          "    case $verb in\n",
          out);
    for (const struct verb *verb = VERBS; verb->name; verb++) {
        size_t length = strcspn(verb->name, " ");
        if (verb->hidden || verb->name[length] != ' ' || !first_of_its_kind(verb))
            continue;
        fprintf(out, "    %.*s)\n        if [[ -z $second ]]; then words='", (int)length, verb->name);
        second_words(out, verb->name, length);
        fprintf(out, "'; else verb=\"%.*s $second\"; fi\n        ;;\n", (int)length, verb->name);
    }
    fputs("    esac\n    case ${COMP_WORDS[COMP_CWORD-1]} in\n", out);
    option_cases(out);
    fputs("    *)\n    case $verb in\n    '')\n        words=$verbs options='", out);
    option_words(out, NULL);
    fputs("'\n        ;;\n", out);
    for (const struct verb *verb = VERBS; verb->name; verb++)
        if (!verb->hidden)
            verb_case(out, verb);
    fputs("    esac\n    ;;\n    esac\n"
          "    if [[ $current == -* ]]; then\n        COMPREPLY=($(compgen -W \"$options\" -- \"$current\"))\n"
          "    elif [[ -n $files ]]; then\n        compopt -o filenames 2>/dev/null\n"
          "        COMPREPLY=($(compgen -f -- \"$current\"))\n"
          "    else\n        COMPREPLY=($(compgen -W \"$words\" -- \"$current\"))\n    fi\n}\ncomplete -F _flexp flexp\n",
          out);
}

int verb_completion(struct cli *cli)
{
    char *text = NULL;
    size_t length;
    json_t *answer;
    FILE *out;

    if (strcmp(cli->options.arguments[0], "bash"))
        return cli_fail(CLI_USAGE, "completion is for bash, not for '%s': flexp completion bash", cli->options.arguments[0]);
    if (!cli_json(cli)) {
        write_bash(stdout);
        return CLI_OK;
    }
    out = open_memstream(&text, &length);
    if (!out)
        return cli_fail(CLI_LOST, "out of memory");
    write_bash(out);
    fclose(out);
    answer = cli_json_answer();
    json_object_set_new(answer, "shell", json_string("bash"));
    json_object_set_new(answer, "script", json_string(text));
    free(text);
    return cli_print_json(cli, answer);
}
