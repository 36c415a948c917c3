/* config_docs.c - see config_docs.h. A test holds docs/config.md against what this writes.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/config/config_docs.h"

#include <string.h>

static const char INTRODUCTION[] =
    "# Experiment files\n"
    "\n"
    "<!-- Made from the tables of keys by config_write_docs(); do not edit. tests/orchestrator/config/test_docs.c "
    "checks it.\n"
    "     FLEXP_UPDATE_GOLDEN=1 with that test writes it again. -->\n"
    "\n"
    "One YAML file is one experiment. `flexp validate FILE` checks it without running anything and shows all that is "
    "wrong,\n"
    "each with line and column and what would be right; `flexp create FILE` does the same before it stores anything.\n"
    "`configs/` has examples. `--config KEY.PATH=VALUE` overrides a key from the command line (VALUE is YAML, `null`\n"
    "removes the key, missing maps are made): `--config searcher.max_trials=8 --config training.schedule=cosine`.\n"
    "\n"
    "YAML is read as version 1.2 has it: `1e-5` is a number, `yes` and `on` are strings (write `true`), a key given "
    "twice is\n"
    "an error. Anchors, aliases and merge keys (`<<`) work; what they expand to is bounded. A file is one document of "
    "at\n"
    "most 1 MiB.\n"
    "\n"
    "## Hyperparameters\n"
    "\n"
    "| type | keys | draws |\n"
    "|---|---|---|\n"
    "| `const` | `val` | always `val`; a bare value means the same |\n"
    "| `int` | `minval`, `maxval`, `count` | integers, both ends included |\n"
    "| `double` | `minval`, `maxval`, `count` | uniformly between them |\n"
    "| `log` | `base` (10), `minval`, `maxval`, `count` | base to the power of a uniform exponent: `minval: -4, "
    "maxval: -1` "
    "is 0.0001 to 0.1 |\n"
    "| `categorical` | `vals` | one of the list |\n"
    "\n"
    "`count` is the number of points of a grid, and needed there. A map without `type` is a group; its members are "
    "named\n"
    "`$group.name`.\n"
    "\n"
    "Anywhere in `data`, `model`, `training` and `federation`, `$name` stands for the value of hyperparameter `name`. "
    "All that\n"
    "it can be must fit the place: an `int` from 0 is refused as a batch size, a `double` as a number of filters. A\n"
    "hyperparameter that is used nowhere is a warning.\n"
    "\n"
    "    hyperparameters:\n"
    "      lr: {type: log, minval: -3, maxval: -1}\n"
    "      net: {width: {type: categorical, vals: [16, 32]}}\n"
    "    model: {layers: [flatten, {dense: {units: $net.width, activation: relu}}, {dense: classes}]}\n"
    "    training: {learning_rate: $lr}\n"
    "\n"
    "## Metrics\n"
    "\n"
    "`validation_`, `client_validation_` or (for `federation.convergence`) `train_`, before `loss`, `accuracy`, `f1`,\n"
    "`precision` or `recall`. `validation_` is central: a split of the training data. `client_validation_` comes from "
    "each\n"
    "client's own held-out share, weighted by samples; with `_mean` or `_worst` behind it, the plain mean and the "
    "worst over\n"
    "clients. The test split is read once, for the best trial.\n"
    "\n"
    "## Your own program\n"
    "\n"
    "With `entrypoint`, trials are runs of your program, which speaks the trial protocol (docs/protocol.md). It gets "
    "the\n"
    "hyperparameters and `data` as they stand; `model`, `training` and `federation` mean nothing then. "
    "`searcher.metric` is any\n"
    "name that it reports, and `searcher.smaller_is_better` and `searcher.time_metric` must be given.\n"
    "\n"
    "## Keys\n"
    "\n"
    "A key without a default is optional unless it says *required*. Where a map has a short form, a bare value stands "
    "for\n"
    "that one of its keys: `max_pool2d: 2` is `max_pool2d: {size: 2}`.\n";

static void write_number(FILE *out, double number)
{
    fprintf(out, "%.15g", number);
}

static void write_bounds(FILE *out, const struct key *key)
{
    if (key->min == 0 && key->max == 0)
        return;
    fprintf(out, key->exclusive_min ? ", above " : ", ");
    write_number(out, key->min);
    fprintf(out, " to ");
    write_number(out, key->max);
}

static void write_words(FILE *out, const char *words, const char *before)
{
    for (const char *between = before; words && *words; between = ", ") {
        size_t length = strcspn(words, " ");
        fprintf(out, "%s`%.*s`", between, (int)length, words);
        words += length + strspn(words + length, " ");
    }
}

void config_write_type(FILE *out, const struct key *key)
{
    static const char *const NAMES[] = {
        [KEY_INT] = "integer",    [KEY_NUMBER] = "number", [KEY_BOOL] = "true or false", [KEY_STRING] = "string",
        [KEY_CHOICE] = "",        [KEY_MAP] = "map",       [KEY_LIST] = "list",          [KEY_TAGGED] = "layer",
        [KEY_FREE] = "see meaning", [KEY_IGNORED] = ""};

    fputs(NAMES[key->type], out);
    if (key->type == KEY_INT || key->type == KEY_NUMBER)
        write_bounds(out, key);
    write_words(out, key->choices, key->type == KEY_CHOICE ? "" : ", or ");
    if (key->type == KEY_MAP && key->shorthand)
        fprintf(out, "; short for `%s`", key->shorthand);
}

/* A default of a map says what its keys' defaults say already. */
void config_write_default(FILE *out, const struct key *key)
{
    size_t length = key->def ? strlen(key->def) : 0;

    if (key->required)
        fputs("*required*", out);
    else if (length && key->type != KEY_MAP && key->def[0] == '"')
        fprintf(out, "`%.*s`", (int)length - 2, key->def + 1);
    else if (length && key->type != KEY_MAP)
        fprintf(out, "`%s`", key->def);
}

/* A | would end the cell. */
static void write_cell(FILE *out, const char *text)
{
    for (; *text; text++)
        fprintf(out, *text == '|' ? "\\|" : "%c", *text);
}

static void write_rows(FILE *out, const struct key *table)
{
    fprintf(out, "\n| key | value | default | meaning |\n|---|---|---|---|\n");
    for (; table->name; table++) {
        if (table->type == KEY_IGNORED)
            continue;
        fprintf(out, "| `%s` | ", table->name);
        config_write_type(out, table);
        fprintf(out, " | ");
        config_write_default(out, table);
        fprintf(out, " | ");
        write_cell(out, table->doc);
        if (table->example)
            fprintf(out, " `%s`", table->example);
        fprintf(out, " |\n");
    }
}

/* Each map once, under its path; the lists of layers nest, so their tags are written where they stand first. */
static void write_tables(FILE *out, const struct key *table, const char *path, int depth)
{
    fprintf(out, "\n### %s\n", depth ? path : "The file");
    write_rows(out, table);
    for (; table->name; table++) {
        char below[200];
        snprintf(below, sizeof below, "%s%s%s", path, *path ? "." : "", table->name);
        if (table->type == KEY_MAP && table->sub->name)
            write_tables(out, table->sub, below, depth + 1);
        else if (table->type == KEY_LIST && table->sub->type == KEY_TAGGED && depth < 2)
            write_tables(out, table->sub->sub, below, depth + 1);
    }
}

static void write_ignored(FILE *out, const struct key *table, const char *path)
{
    for (; table->name; table++) {
        char below[200];
        snprintf(below, sizeof below, "%s%s%s", path, *path ? "." : "", table->name);
        if (table->type == KEY_IGNORED) {
            fprintf(out, "| `%s` | ", below);
            write_cell(out, table->doc);
            fprintf(out, " |\n");
        } else if (table->type == KEY_MAP && !table->references) {
            write_ignored(out, table->sub, below);
        }
    }
}

void config_write_docs(FILE *out)
{
    fputs(INTRODUCTION, out);
    write_tables(out, CONFIG_KEYS, "", 0);
    fprintf(out, "\n## Keys of Determined AI's that are ignored, with a warning\n\n| key | what the warning says "
                 "|\n|---|---|\n");
    write_ignored(out, CONFIG_KEYS, "");
}
