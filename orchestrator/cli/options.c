/* options.c - the table of options, and taking a command line apart with getopt_long driven by it. Global options are
 * accepted before and after the verb; a verb's own after it.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/cli/cli_private.h"

#include <getopt.h>
#include <stdlib.h>
#include <string.h>

const struct option_row OPTION_ROWS[OPT_COUNT] = {
    [OPT_HOME] = {"home", 0, "DIR",
                  "where experiments live (else FLEXP_HOME, the nearest results/flexp.db upwards, ./results)"},
    [OPT_DATA] = {"data", 0, "DIR", "the folder that a relative data.path is looked for in (else FLEXP_DATA)"},
    [OPT_JSON] = {"json", 0, NULL, "print one JSON document and nothing else on standard output"},
    [OPT_NO_COLOR] = {"no-color", 0, NULL, "no colours (NO_COLOR in the environment does the same)"},
    [OPT_QUIET] = {"quiet", 'q', NULL, "no notes, only results and errors"},
    [OPT_HELP] = {"help", 'h', NULL, "help on this verb"},
    [OPT_VERSION] = {"version", 'V', NULL, "print the version"},
    [OPT_FOLLOW] = {"follow", 'f', NULL, "show live progress until the end"},
    [OPT_CONFIG] = {"config", 0, "KEY=VALUE", "set a key of the file, as searcher.max_trials=8 (may be repeated)"},
    [OPT_PAUSED] = {"paused", 0, NULL, "create it paused; `flexp activate` starts it"},
    [OPT_ALL] = {"all", 'a', NULL, "every experiment, however old"},
    [OPT_TIMEOUT] = {"timeout", 0, "SECONDS", "give up waiting after this long"},
    [OPT_SLOTS] = {"slots", 0, "cpu|gpu|N", "which slots to lease, or how many (default: all that are free)"},
    [OPT_FOREGROUND] = {"foreground", 0, NULL, "stay in this terminal and log to it"},
    [OPT_SORT_BY] = {"sort-by", 0, "KEY", "a column, a hyperparameter or the metric; -KEY: the other way round"},
    [OPT_GROUP_BY] = {"group-by", 0, "NAME", "one row for each value, or range, of a hyperparameter"},
    [OPT_CSV] = {"csv", 0, NULL, "comma-separated values with a head line (RFC 4180), all columns, all digits"},
    [OPT_CLIENT] = {"client", 0, NULL, "the values of each client"},
    [OPT_NAME] = {"name", 0, "METRIC", "this metric alone"},
    [OPT_YES] = {"yes", 'y', NULL, "do not ask"},
    [OPT_OUTPUT] = {"output", 'o', "FILE", "where the picture goes (default: experiment-ID.svg here; -: standard output)"},
    [OPT_SVG] = {"svg", 0, "FILE", "a drawing of the network, too; -: that alone, on standard output"},
    [OPT_KERNELS] = {"kernels", 0, NULL, "what computes each layer on this machine, and how fast (takes a second)"},
    [OPT_READY_FD] = {"ready-fd", 0, "FD", NULL},
};

/* What getopt_long wants, for the global options and those of verb. Values: 256 + id for every option. */
static void build(const struct verb *verb, struct option *longs, char *shorts)
{
    size_t n = 0, s = 0;

    shorts[s++] = verb ? ':' : '+';
    if (!verb)
        shorts[s++] = ':';
    for (int i = 0; i < OPT_COUNT; i++) {
        const struct option_row *row = &OPTION_ROWS[i];
        if (i >= OPT_GLOBALS && !(verb && verb->options & 1u << i))
            continue;
        longs[n++] = (struct option){row->name, row->argument ? required_argument : no_argument, NULL, 256 + i};
        if (row->letter) {
            shorts[s++] = row->letter;
            if (row->argument)
                shorts[s++] = ':';
        }
    }
    longs[n] = (struct option){0};
    shorts[s] = 0;
}

static int id_of(int found)
{
    if (found >= 256)
        return found - 256;
    for (int i = 0; i < OPT_COUNT; i++)
        if (OPTION_ROWS[i].letter == found)
            return i;
    return -1;
}

/* What is wrong with the word, in one sentence. */
static int complain(const struct verb *verb, const struct option *longs, int found, const char *word, struct error *err)
{
    const char *names[OPT_COUNT + 1], *near;
    const char *where = verb ? verb->name : "flexp";
    char bare[64];
    size_t n = 0, length;

    if (found == ':' && optopt >= 256)
        return fail(err, -EINVAL, "--%s wants a value: --%s %s", OPTION_ROWS[optopt - 256].name,
                    OPTION_ROWS[optopt - 256].name, OPTION_ROWS[optopt - 256].argument);
    if (found == ':')
        return fail(err, -EINVAL, "-%c wants a value", optopt);
    if (optopt >= 256)
        return fail(err, -EINVAL, "--%s takes no value", OPTION_ROWS[optopt - 256].name);
    if (optopt >= '0' && optopt <= '9' && verb && !strncmp(verb->name, "set ", 4))
        return fail(err, -EINVAL, "%s takes no negative number (before a text that begins with - write --)", where);
    if (optopt)
        return fail(err, -EINVAL, "%s has no option -%c; see `flexp %s%s--help`", where, optopt, verb ? verb->name : "",
                    verb ? " " : "");
    for (const struct option *row = longs; row->name; row++)
        if (OPTION_ROWS[row->val - 256].doc)
            names[n++] = row->name;
    names[n] = NULL;
    length = strcspn(word + 2, "=");
    snprintf(bare, sizeof bare, "%.*s", (int)(length < sizeof bare ? length : sizeof bare - 1), word + 2);
    for (const struct option *row = longs; row->name; row++)
        if (!strncmp(row->name, bare, strlen(bare)))
            return fail(err, -EINVAL, "--%s could mean several options; see `flexp %s%s--help`", bare,
                        verb ? verb->name : "", verb ? " " : "");
    near = nearest_word(names, bare);
    if (near)
        return fail(err, -EINVAL, "%s has no option --%s: did you mean --%s?", where, bare, near);
    return fail(err, -EINVAL, "%s has no option --%s; see `flexp %s%s--help`", where, bare, verb ? verb->name : "",
                verb ? " " : "");
}

static int take(struct options *ret, int id, const char *value, struct error *err)
{
    const char **grown;

    ret->given[id] = true;
    ret->value[id] = value;
    if (id != OPT_CONFIG)
        return 0;
    if (!strchr(value, '=') || value[0] == '=')
        return fail(err, -EINVAL, "--config %s: want KEY=VALUE, as in --config searcher.max_trials=8", value);
    grown = realloc(ret->config, (ret->config_n + 1) * sizeof *grown);
    if (!grown)
        return fail(err, -ENOMEM, "out of memory");
    ret->config = grown;
    ret->config[ret->config_n++] = value;
    return 0;
}

/* Runs getopt_long over argv (argv[0] is skipped); optind is then the first word that is no option. */
static int scan(int argc, char **argv, const struct verb *verb, struct options *ret, struct error *err)
{
    struct option longs[OPT_COUNT + 1];
    char shorts[2 * OPT_COUNT + 3];
    int found, code, at;

    build(verb, longs, shorts);
    opterr = 0;
    optind = 0; /* glibc: start anew */
    for (;;) {
        at = optind ? optind : 1;
        optopt = 0;
        found = getopt_long(argc, argv, shorts, longs, NULL);
        if (found == -1)
            return 0;
        if (found == '?' || found == ':') {
            /* A permuted scan passes arguments by: the word that was refused is the one before optind. */
            const char *word = optind > at ? argv[optind - 1] : argv[at];
            return complain(verb, longs, found, word, err);
        }
        code = take(ret, id_of(found), optarg, err);
        if (code)
            return code;
    }
}

static int check_count(const struct verb *verb, size_t n, const char *extra, struct error *err)
{
    if (n < verb->min)
        return fail(err, -EINVAL, "%s wants %s: flexp %s %s", verb->name, verb->arguments, verb->name, verb->arguments);
    if (n > verb->max && verb->max == 0)
        return fail(err, -EINVAL, "%s takes no argument, got '%s'", verb->name, extra);
    if (n > verb->max)
        return fail(err, -EINVAL, "%s takes %s%s, and '%s' is too much", verb->name, verb->max == 1 ? "one " : "",
                    verb->arguments, extra);
    return 0;
}

static int unknown_verb(const char *name, struct error *err)
{
    const char *names[64], *near = verb_synonym(name);
    size_t n = 0, length = strlen(name);

    for (const struct verb *verb = VERBS; verb->name && n < 63; verb++) {
        if (!near && !strncmp(verb->name, name, length) && verb->name[length] == ' ')
            return fail(err, -EINVAL, "%s what? `flexp help %s` lists its verbs: %s", name, name, verb->example);
        if (!verb->hidden)
            names[n++] = verb->name;
    }
    names[n] = NULL;
    if (!near)
        near = nearest_word(names, name);
    if (near)
        return fail(err, -EINVAL, "there is no verb '%s': did you mean '%s'?", name, near);
    return fail(err, -EINVAL, "there is no verb '%s'; `flexp help` lists them all", name);
}

/* "trial --help", of a word that begins several verbs: help on that word. */
static bool asks_for_help(char **words, int n, bool given)
{
    size_t length = strlen(words[0]);
    bool begins = false;

    for (const struct verb *verb = VERBS; verb->name; verb++)
        begins = begins || (!strncmp(verb->name, words[0], length) && verb->name[length] == ' ');
    for (int i = 1; i < n; i++)
        given = given || !strcmp(words[i], "--help") || !strcmp(words[i], "-h");
    return begins && given;
}

int options_parse(int argc, char **argv, const struct verb **ret_verb, struct options *ret, struct error *err)
{
    const struct verb *verb;
    char **rest;
    size_t words, n;
    int code, left;

    *ret_verb = NULL;
    memset(ret, 0, sizeof *ret);
    code = scan(argc, argv, NULL, ret, err);
    if (code)
        return code;
    if (optind >= argc)
        return 0;
    rest = argv + optind;
    left = argc - optind;
    verb = verb_find((const char *const *)rest, (size_t)left, &words);
    if (!verb && asks_for_help(rest, left, ret->given[OPT_HELP])) {
        ret->given[OPT_HELP] = true;
        ret->arguments = calloc(2, sizeof *ret->arguments);
        if (!ret->arguments)
            return fail(err, -ENOMEM, "out of memory");
        ret->arguments[ret->arguments_n++] = rest[0];
        return 0;
    }
    if (!verb)
        return unknown_verb(rest[0], err);
    *ret_verb = verb;
    /* getopt_long skips its first word, which is here the last word of the verb, and puts options before the rest. */
    rest += words - 1;
    left -= (int)words - 1;
    code = scan(left, rest, verb, ret, err);
    if (code)
        return code;
    n = (size_t)(left - optind);
    ret->arguments = calloc(n + 1, sizeof *ret->arguments);
    if (!ret->arguments)
        return fail(err, -ENOMEM, "out of memory");
    for (size_t i = 0; i < n; i++)
        ret->arguments[i] = rest[(size_t)optind + i];
    ret->arguments_n = n;
    if (ret->given[OPT_HELP] || ret->given[OPT_VERSION])
        return 0;
    return check_count(verb, n, n ? ret->arguments[n - 1] : "", err);
}

void options_done(struct options *options)
{
    free(options->config);
    free(options->arguments);
    memset(options, 0, sizeof *options);
}
