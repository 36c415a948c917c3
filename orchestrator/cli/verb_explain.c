/* verb_explain.c - explain: keys of the experiment file, from the tables that check it.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/cli/cli_private.h"
#include "orchestrator/cli/table.h"
#include "orchestrator/config/config_docs.h"

#include <stdlib.h>
#include <string.h>

/* "integer, 1 to 64": what docs/config.md says; the caller frees. */
static char *made_by(void (*write)(FILE *out, const struct key *key), const struct key *key)
{
    char *text = NULL;
    size_t length;
    FILE *out = open_memstream(&text, &length);

    if (!out)
        return NULL;
    write(out, key);
    fclose(out);
    for (char *at = text, *to = text; at && (*to = *at) != 0; at++) /* it is no Markdown here */
        to += *at != '`' && *at != '*';
    return text;
}

static const struct key *keys_below(const struct key *key)
{
    if (key->type == KEY_MAP || key->type == KEY_TAGGED)
        return key->sub;
    if (key->type == KEY_LIST && key->sub->type == KEY_TAGGED)
        return key->sub->sub;
    if (key->type == KEY_LIST && key->sub->type == KEY_MAP)
        return key->sub->sub;
    return NULL;
}

static json_t *key_json(const struct key *key, const char *path)
{
    char *type = made_by(config_write_type, key);
    json_t *row = json_pack("{s:s, s:s, s:b, s:s}", "key", path, "type", type ? type : "", "required", key->required, "doc",
                            key->doc ? key->doc : "");

    free(type);
    if (key->def && key->type != KEY_MAP)
        json_object_set_new(row, "default", json_loads(key->def, JSON_DECODE_ANY, NULL));
    if (key->max != 0 || key->min != 0) {
        json_object_set_new(row, "min", json_real(key->min));
        json_object_set_new(row, "max", json_real(key->max));
    }
    if (key->example)
        json_object_set_new(row, "example", json_string(key->example));
    return row;
}

static char *path_of(const char *path, const char *name)
{
    size_t room = strlen(path) + strlen(name) + 2;
    char *whole = malloc(room);

    if (whole)
        snprintf(whole, room, "%s%s%s", path, *path ? "." : "", name);
    return whole;
}

static json_t *list_json(const struct key *keys, const char *path)
{
    json_t *rows = json_array();

    for (; keys && keys->name; keys++) {
        char *whole = keys->type == KEY_IGNORED ? NULL : path_of(path, keys->name);
        if (whole)
            json_array_append_new(rows, key_json(keys, whole));
        free(whole);
    }
    return rows;
}

static void list_keys(struct cli *cli, const struct key *keys)
{
    struct table *table = table_new();

    table_column(table, "KEY", TABLE_LEFT);
    table_column(table, "VALUE", TABLE_SHRINK);
    table_column(table, "DEFAULT", TABLE_SHRINK);
    table_column(table, "MEANING", TABLE_SHRINK);
    for (; keys->name; keys++) {
        char *type, *def;
        if (keys->type == KEY_IGNORED)
            continue;
        type = made_by(config_write_type, keys);
        def = made_by(config_write_default, keys);
        table_cell(table, STYLE_BOLD, "%s", keys->name);
        table_cell(table, STYLE_NONE, "%s", type ? type : "");
        table_cell(table, keys->required ? STYLE_YELLOW : STYLE_NONE, "%s", def ? def : "");
        table_cell(table, STYLE_NONE, "%s", keys->doc ? keys->doc : "");
        free(type);
        free(def);
    }
    table_write(table, stdout, &cli->out, 0);
    table_free(table);
}

static void show_key(struct cli *cli, const struct key *key, const char *path)
{
    const char *on = term_on(&cli->out, STYLE_BOLD), *off = term_off(&cli->out, STYLE_BOLD);
    char *type = made_by(config_write_type, key), *def = made_by(config_write_default, key);

    printf("%s%s%s\n  %s\n", on, path, off, key->doc ? key->doc : "");
    if (type && *type)
        printf("  value    %s\n", type);
    if (def && *def && !key->required)
        printf("  default  %s\n", def);
    if (key->required)
        puts("  required");
    if (key->references)
        puts("  Any value in it can be a hyperparameter by name: $lr");
    if (key->example)
        printf("  example  %s\n", key->example);
    free(type);
    free(def);
}

/* The error names the part of the path that is wrong, and what is near it. */
static int not_a_key(const char *path, struct error *err)
{
    const struct key *table = CONFIG_KEYS, *key;
    char known[200] = "";

    for (const char *at = path; table; at += strcspn(at, ".") + 1) {
        char name[80];
        const char *near;
        snprintf(name, sizeof name, "%.*s", (int)strcspn(at, "."), at);
        snprintf(known, sizeof known, "%.*s", (int)(at - path), path);
        key = keys_find(table, name);
        if (!key) {
            near = keys_nearest(table, name);
            if (near)
                return fail(err, -EINVAL, "there is no key '%s': did you mean '%s%s'?", path, known, near);
            break;
        }
        table = keys_below(key);
    }
    if (*known)
        return fail(err, -EINVAL, "there is no key '%s'; `flexp explain %.*s` lists those that are there", path,
                    (int)strlen(known) - 1, known);
    return fail(err, -EINVAL, "there is no key '%s'; `flexp explain` lists them", path);
}

/* "hyperparameters" has what its members say, and a layer can be named alone: conv2d.filters. */
static const struct key *find(const char *path)
{
    static const char *const PLACES[] = {"", "model.layers.", "searcher.", "training.", "federation.", "data."};
    const struct key *key = NULL;
    char whole[256];

    for (size_t i = 0; i < sizeof PLACES / sizeof *PLACES && !key; i++) {
        snprintf(whole, sizeof whole, "%s%s", PLACES[i], path);
        key = keys_find(CONFIG_KEYS, whole);
    }
    return key && key->type != KEY_IGNORED ? key : NULL;
}

int verb_explain(struct cli *cli)
{
    const char *path = cli->options.arguments_n ? cli->options.arguments[0] : "";
    const struct key *key = *path ? find(path) : NULL, *below = key ? keys_below(key) : CONFIG_KEYS;
    struct error err = {0};
    json_t *answer;

    if (*path && !key) {
        not_a_key(path, &err);
        return cli_fail_error(&err);
    }
    if (cli_json(cli)) {
        answer = key ? key_json(key, path) : json_object();
        json_object_set_new(answer, "schema_version", json_integer(CLI_SCHEMA_VERSION));
        if (below)
            json_object_set_new(answer, "keys", list_json(below, path));
        return cli_print_json(cli, answer);
    }
    if (key)
        show_key(cli, key, path);
    if (key && below && below->name)
        putchar('\n');
    if (below && below->name)
        list_keys(cli, below);
    return CLI_OK;
}
