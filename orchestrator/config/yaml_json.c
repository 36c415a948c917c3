/* yaml_json.c - YAML text to a JSON tree, and the place of every key and value.
 * libyaml's events become nodes; aliases stay references among the nodes. Then the nodes are copied out as JSON under
 * a budget of values, bytes and depth, so that nested aliases (a billion laughs) end in one error instead of a full
 * machine. Plain scalars follow YAML 1.2's core schema (true and false alone are booleans, 1e-5 is a number); .inf and
 * .nan become the strings that flexp uses for them everywhere.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/config/config_private.h"

#include <ctype.h>
#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#define MAX_TEXT (1u << 20)  /* bytes of a file */
#define MAX_DEPTH 64
#define MAX_VALUES 100000    /* after expansion */
#define MAX_BYTES (16u << 20) /* of strings and paths, after expansion */
#define MAX_KEY 200

enum node_kind { NODE_SCALAR, NODE_LIST, NODE_MAP, NODE_ALIAS };

struct node {
    enum node_kind kind;
    bool plain, open; /* open: its end has not come yet */
    int line, column;
    char *text, *tag; /* scalar */
    size_t length;
    struct node **items; /* list; map: key, value, key, value ... */
    size_t n, room;
    struct node *target; /* alias */
    char *anchor;
    struct node *next;   /* all nodes, for freeing */
};

struct reader {
    yaml_parser_t parser;
    const char *text;
    size_t length;
    struct node *nodes;
    size_t nodes_n;
    struct node *anchors[1000];
    size_t anchors_n;
    struct config_problems *problems;
    struct config_marks *marks;
    size_t values, bytes;     /* spent */
    const struct node *alias; /* the outermost one being expanded */
    char path[8192];
};

static int say(struct reader *r, int line, int column, const char *path, const char *format, ...)
    __attribute__((format(printf, 5, 6)));
static int say(struct reader *r, int line, int column, const char *path, const char *format, ...)
{
    char text[500];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    config_problems_add(r->problems, false, path, line, column, text);
    return -EINVAL;
}

/* --- events to nodes ------------------------------------------------------------------------------------------- */

/* libyaml's words for frequent mistakes, and ours. */
static const struct {
    const char *problem, *text;
} SYNTAX[] = {
    {"mapping values are not allowed in this context",
     "a \": \" where no key can stand: check the indentation, or put the value in quotes"},
    {"did not find expected key",
     "this line does not fit its surroundings: check the indentation and that quotes are closed"},
    {"could not find expected ':'", "a key without \": \" behind it"},
    {"did not find expected ',' or '}'", "a { that is not closed, or a missing comma"},
    {"did not find expected ',' or ']'", "a [ that is not closed, or a missing comma"},
    {"did not find expected '-' indicator", "a list's element must begin with \"- \": check the indentation"},
    {"found unexpected end of stream", "a quote that is not closed"},
    {"control characters are not allowed", "a control character; only tab and newline may stand in a file"},
    {"found undefined tag handle", "a tag with an unknown handle; flexp needs no tags: remove it"},
    {"found unknown escape character", "an unknown escape; inside double quotes write \\\\ for a backslash"},
    {"did not find expected <document start>", "more than one thing at the top of the file: a file is one map of keys"},
    {"block sequence entries are not allowed in this context",
     "a \"- \" where no list can stand: put it on a line of its own"},
    {"found duplicate %YAML directive", "two %YAML directives"},
};

static void place_of_offset(const struct reader *r, size_t offset, int *ret_line, int *ret_column)
{
    *ret_line = *ret_column = 1;
    for (size_t i = 0; i < offset && i < r->length; i++) {
        if (r->text[i] == '\n') {
            ++*ret_line;
            *ret_column = 1;
        } else if (((unsigned char)r->text[i] & 0xc0) != 0x80) {
            ++*ret_column;
        }
    }
}

static int say_syntax(struct reader *r)
{
    const yaml_parser_t *p = &r->parser;
    const char *problem = p->problem ? p->problem : "cannot be read", *text = NULL;
    int line = (int)p->problem_mark.line + 1, column = (int)p->problem_mark.column + 1;
    size_t at = p->problem_mark.index;

    if (p->error == YAML_MEMORY_ERROR)
        return -ENOMEM;
    if (p->error == YAML_READER_ERROR) {
        place_of_offset(r, p->problem_offset, &line, &column);
        if (strstr(problem, "UTF-8") || strstr(problem, "octet") || strstr(problem, "code point"))
            return say(r, line, column, "", "this is not UTF-8 text: %s", problem);
    }
    for (size_t i = 0; i < sizeof SYNTAX / sizeof *SYNTAX && !text; i++)
        if (!strcmp(problem, SYNTAX[i].problem))
            text = SYNTAX[i].text;
    if (strstr(problem, "cannot start any token")) {
        char c = at < r->length ? r->text[at] : 0;
        if (c == '\t')
            return say(r, line, column, "", "a tab cannot indent in YAML; use spaces");
        if (c == '@' || c == '`' || c == '%')
            return say(r, line, column, "", "a value that begins with %c must be in quotes", c);
    }
    if (p->context && p->context_mark.line != p->problem_mark.line)
        return say(r, line, column, "", "%s (%s that began at line %zu)", text ? text : problem,
                   strncmp(p->context, "while ", 6) ? p->context : p->context + 6, p->context_mark.line + 1);
    return say(r, line, column, "", "%s", text ? text : problem);
}

static int next_event(struct reader *r, yaml_event_t *event)
{
    return yaml_parser_parse(&r->parser, event) ? 0 : say_syntax(r);
}

static struct node *node_new(struct reader *r, enum node_kind kind, const yaml_mark_t *mark)
{
    struct node *node = calloc(1, sizeof *node);

    if (!node)
        return NULL;
    node->kind = kind;
    node->line = (int)mark->line + 1;
    node->column = (int)mark->column + 1;
    node->next = r->nodes;
    r->nodes = node;
    r->nodes_n++;
    return node;
}

static void nodes_free(struct node *node)
{
    while (node) {
        struct node *next = node->next;
        free(node->text);
        free(node->tag);
        free(node->items);
        free(node->anchor);
        free(node);
        node = next;
    }
}

static int node_append(struct node *list, struct node *item)
{
    if (list->n == list->room) {
        size_t room = list->room ? 2 * list->room : 8;
        struct node **grown = realloc(list->items, room * sizeof(*grown));
        if (!grown)
            return -ENOMEM;
        list->items = grown;
        list->room = room;
    }
    list->items[list->n++] = item;
    return 0;
}

/* A later anchor of the same name hides an earlier one, as YAML has it. */
static int anchor_add(struct reader *r, struct node *node, const yaml_char_t *name)
{
    if (!name)
        return 0;
    if (r->anchors_n == sizeof r->anchors / sizeof *r->anchors)
        return say(r, node->line, node->column, "", "more than %zu anchors", r->anchors_n);
    if (!(node->anchor = strdup((const char *)name)))
        return -ENOMEM;
    r->anchors[r->anchors_n++] = node;
    return 0;
}

static int compose_alias(struct reader *r, const yaml_event_t *event, struct node **ret)
{
    const char *name = (const char *)event->data.alias.anchor;
    struct node *node = node_new(r, NODE_ALIAS, &event->start_mark);

    if (!node)
        return -ENOMEM;
    for (size_t i = r->anchors_n; i-- && !node->target;)
        if (!strcmp(r->anchors[i]->anchor, name))
            node->target = r->anchors[i];
    if (!node->target)
        return say(r, node->line, node->column, "", "*%.60s names no anchor above it; an anchor is written &%.60s",
                   name, name);
    if (node->target->open)
        return say(r, node->line, node->column, "", "*%.60s contains itself", name);
    *ret = node;
    return 0;
}

static int check_tag(struct reader *r, const struct node *node, const yaml_char_t *tag)
{
    static const char *const KNOWN[] = {YAML_STR_TAG, YAML_INT_TAG, YAML_FLOAT_TAG, YAML_BOOL_TAG, YAML_NULL_TAG,
                                        YAML_MAP_TAG, YAML_SEQ_TAG, "tag:yaml.org,2002:merge", "!"};

    for (size_t i = 0; tag && i < sizeof KNOWN / sizeof *KNOWN; i++)
        if (!strcmp((const char *)tag, KNOWN[i]))
            return 0;
    if (!tag)
        return 0;
    return say(r, node->line, node->column, "", "the tag %.60s means nothing here; remove it", (const char *)tag);
}

static int compose_scalar(struct reader *r, const yaml_event_t *event, struct node **ret)
{
    struct node *node = node_new(r, NODE_SCALAR, &event->start_mark);
    const yaml_char_t *tag = event->data.scalar.tag;
    int rc;

    if (!node)
        return -ENOMEM;
    node->length = event->data.scalar.length;
    node->plain = event->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
    node->text = malloc(node->length + 1);
    if (!node->text || (tag && !(node->tag = strdup((const char *)tag))))
        return -ENOMEM;
    memcpy(node->text, event->data.scalar.value, node->length);
    node->text[node->length] = 0;
    if (memchr(node->text, 0, node->length))
        return say(r, node->line, node->column, "", "a text must not contain a zero byte");
    if ((rc = check_tag(r, node, tag)) || (rc = anchor_add(r, node, event->data.scalar.anchor)))
        return rc;
    *ret = node;
    return 0;
}

static int compose(struct reader *r, yaml_event_t *event, int depth, struct node **ret);

static int compose_items(struct reader *r, struct node *node, yaml_event_type_t end, int depth)
{
    int rc = 0;
    bool ended = false;

    node->open = true;
    while (!rc && !ended) {
        yaml_event_t event;
        struct node *item;
        if ((rc = next_event(r, &event)))
            break;
        ended = event.type == end;
        if (!ended && !(rc = compose(r, &event, depth + 1, &item)))
            rc = node_append(node, item);
        yaml_event_delete(&event);
    }
    node->open = false;
    return rc;
}

/* Both places of a key that is given twice. */
static void check_duplicates(struct reader *r, const struct node *map)
{
    json_t *seen = json_object();

    for (size_t i = 0; i + 1 < map->n; i += 2) {
        const struct node *key = map->items[i];
        json_int_t first;
        if (key->kind != NODE_SCALAR || (key->plain && !strcmp(key->text, "<<")))
            continue;
        first = json_integer_value(json_object_get(seen, key->text));
        if (first)
            say(r, key->line, key->column, "", "the key %.100s is given twice; first at line %d, column %d", key->text,
                map->items[first - 1]->line, map->items[first - 1]->column);
        else
            json_object_set_new(seen, key->text, json_integer((json_int_t)i + 1));
    }
    json_decref(seen);
}

static int compose(struct reader *r, yaml_event_t *event, int depth, struct node **ret)
{
    const yaml_char_t *anchor, *tag;
    bool is_map = event->type == YAML_MAPPING_START_EVENT;
    struct node *node;
    int rc;

    if (depth > MAX_DEPTH)
        return say(r, (int)event->start_mark.line + 1, (int)event->start_mark.column + 1, "",
                   "nested more than %d deep", MAX_DEPTH);
    if (r->nodes_n > MAX_VALUES)
        return say(r, (int)event->start_mark.line + 1, (int)event->start_mark.column + 1, "",
                   "the file has more than %d values", MAX_VALUES);
    if (event->type == YAML_ALIAS_EVENT)
        return compose_alias(r, event, ret);
    if (event->type == YAML_SCALAR_EVENT)
        return compose_scalar(r, event, ret);
    anchor = is_map ? event->data.mapping_start.anchor : event->data.sequence_start.anchor;
    tag = is_map ? event->data.mapping_start.tag : event->data.sequence_start.tag;
    node = node_new(r, is_map ? NODE_MAP : NODE_LIST, &event->start_mark);
    if (!node)
        return -ENOMEM;
    if ((rc = check_tag(r, node, tag)) || (rc = anchor_add(r, node, anchor)) ||
        (rc = compose_items(r, node, is_map ? YAML_MAPPING_END_EVENT : YAML_SEQUENCE_END_EVENT, depth)))
        return rc;
    if (is_map)
        check_duplicates(r, node);
    *ret = node;
    return 0;
}

/* The one document of the text. */
static int compose_document(struct reader *r, struct node **ret)
{
    struct node *root = NULL;
    bool done = false;
    int rc = 0;

    while (!rc && !done) {
        yaml_event_t event;
        if ((rc = next_event(r, &event)))
            break;
        done = event.type == YAML_STREAM_END_EVENT;
        if (event.type == YAML_DOCUMENT_START_EVENT && root)
            rc = say(r, (int)event.start_mark.line + 1, (int)event.start_mark.column + 1, "",
                     "a second document begins here; a file is one experiment");
        else if (event.type == YAML_SCALAR_EVENT || event.type == YAML_ALIAS_EVENT ||
                 event.type == YAML_SEQUENCE_START_EVENT || event.type == YAML_MAPPING_START_EVENT)
            rc = compose(r, &event, 1, &root);
        yaml_event_delete(&event);
    }
    if (!rc && !root)
        rc = say(r, 1, 1, "", "the file is empty; an experiment needs at least searcher, data, model and training");
    *ret = root;
    return rc;
}

/* --- nodes to JSON --------------------------------------------------------------------------------------------- */

static const char *const NULLS[] = {"", "~", "null", "Null", "NULL", NULL};
static const char *const TRUES[] = {"true", "True", "TRUE", NULL};
static const char *const FALSES[] = {"false", "False", "FALSE", NULL};

static bool is_one_of(const char *const *words, const char *text)
{
    for (; *words; words++)
        if (!strcmp(*words, text))
            return true;
    return false;
}

/* [-+]?digits, or 0x and 0o: false when text is not an integer or needs more than 64 bits. */
static bool parse_integer(const char *text, json_int_t *ret)
{
    const char *digits = text + (*text == '-' || *text == '+');
    int base = !strncmp(text, "0x", 2) ? 16 : !strncmp(text, "0o", 2) ? 8 : 10;
    const char *from = base == 10 ? digits : text + 2;
    char *end;

    if (!isxdigit((unsigned char)*from))
        return false;
    errno = 0;
    *ret = strtoll(base == 10 ? text : from, &end, base);
    return !*end && !errno;
}

/* [-+]? ( .digits | digits [ .digits ] ) [ e[-+]digits ], as 1e-5 */
static bool parse_real(const char *text, double *ret)
{
    const char *at = text + (*text == '-' || *text == '+');
    size_t before = strspn(at, "0123456789"), after = 0;

    at += before;
    if (*at == '.')
        at += 1 + (after = strspn(at + 1, "0123456789"));
    if (!before && !after)
        return false;
    if (*at == 'e' || *at == 'E') {
        at += 1 + (at[1] == '-' || at[1] == '+');
        if (!isdigit((unsigned char)*at))
            return false;
        at += strspn(at, "0123456789");
    }
    if (*at)
        return false;
    *ret = strtod(text, NULL);
    return isfinite(*ret);
}

static const char *special_number(const char *text)
{
    const char *plain = text + (*text == '-' || *text == '+');

    if (!strcmp(plain, ".inf") || !strcmp(plain, ".Inf") || !strcmp(plain, ".INF"))
        return *text == '-' ? "-Infinity" : "Infinity";
    return !strcmp(text, ".nan") || !strcmp(text, ".NaN") || !strcmp(text, ".NAN") ? "NaN" : NULL;
}

static json_t *scalar_json(const struct node *node)
{
    const char *text = node->text;
    json_int_t integer;
    double real;

    if (node->tag ? !strcmp(node->tag, YAML_STR_TAG) || !strcmp(node->tag, "!") : !node->plain)
        return json_stringn(text, node->length);
    if (is_one_of(NULLS, text))
        return json_null();
    if (is_one_of(TRUES, text))
        return json_true();
    if (is_one_of(FALSES, text))
        return json_false();
    if (parse_integer(text, &integer))
        return node->tag && !strcmp(node->tag, YAML_FLOAT_TAG) ? json_real((double)integer) : json_integer(integer);
    if (parse_real(text, &real))
        return json_real(real);
    if (special_number(text))
        return json_string(special_number(text));
    return json_stringn(text, node->length);
}

static int convert(struct reader *r, const struct node *node, int depth, json_t **ret);

static int spend(struct reader *r, const struct node *node, int depth)
{
    const struct node *at = r->alias ? r->alias : node;

    r->values++;
    r->bytes += node->length + strlen(r->path);
    if (depth > MAX_DEPTH)
        return say(r, at->line, at->column, "", "nested more than %d deep once its aliases are expanded", MAX_DEPTH);
    if (r->values > MAX_VALUES || r->bytes > MAX_BYTES)
        return say(r, at->line, at->column, "", "the file's aliases expand to more than %d values or %u MiB",
                   MAX_VALUES, MAX_BYTES >> 20);
    return 0;
}

static const struct node *follow(const struct node *node)
{
    return node->kind == NODE_ALIAS ? node->target : node; /* an alias never points to an alias */
}

static int convert_list(struct reader *r, const struct node *node, int depth, json_t *ret)
{
    for (size_t i = 0; i < node->n; i++) {
        const struct node *item = node->items[i];
        size_t cut = strlen(r->path);
        struct config_mark mark = {r->path, item->line, item->column, item->line, item->column,
                                   follow(item)->kind == NODE_SCALAR};
        json_t *value;
        int rc;
        snprintf(r->path + cut, sizeof r->path - cut, "[%zu]", i);
        if ((rc = config_marks_add(r->marks, &mark)) || (rc = convert(r, item, depth + 1, &value)))
            return rc;
        json_array_append_new(ret, value);
        r->path[cut] = 0;
    }
    return 0;
}

static int convert_pair(struct reader *r, const struct node *key, const struct node *value, int depth, json_t *ret)
{
    size_t cut = strlen(r->path);
    struct config_mark mark = {r->path, key->line, key->column, value->line, value->column,
                               follow(value)->kind == NODE_SCALAR};
    json_t *converted;
    int rc;

    snprintf(r->path + cut, sizeof r->path - cut, "%s%s", cut ? "." : "", key->text);
    if (mark.scalar && !follow(value)->length && follow(value)->plain) { /* nothing there: the key is the place */
        mark.line = mark.key_line;
        mark.column = mark.key_column;
    }
    if ((rc = config_marks_add(r->marks, &mark)) || (rc = convert(r, value, depth + 1, &converted)))
        return rc;
    rc = json_object_set_new(ret, key->text, converted) ? -ENOMEM : 0;
    r->path[cut] = 0;
    return rc;
}

static bool is_merge(const struct node *key)
{
    return key->kind == NODE_SCALAR && key->plain && !strcmp(key->text, "<<");
}

static int convert_map(struct reader *r, const struct node *node, const json_t *own, int depth, json_t *ret);

/* "<<": *map, or a list of such, the first one winning. What the map itself says wins over both. */
static int convert_merge(struct reader *r, const struct node *value, const json_t *own, int depth, json_t *ret)
{
    const struct node *source = follow(value);
    int rc = 0;

    if (source->kind == NODE_MAP) {
        const struct node *outer = r->alias;
        if (!outer && value->kind == NODE_ALIAS)
            r->alias = value;
        if (!(rc = spend(r, source, depth)))
            rc = convert_map(r, source, own, depth + 1, ret);
        r->alias = outer;
        return rc;
    }
    for (size_t i = 0; source->kind == NODE_LIST && i < source->n && !rc; i++) {
        if (follow(source->items[i])->kind != NODE_MAP)
            return say(r, source->items[i]->line, source->items[i]->column, "", "a merge key (<<) takes maps only");
        rc = convert_merge(r, source->items[i], own, depth, ret);
    }
    if (source->kind != NODE_LIST)
        rc = say(r, value->line, value->column, "", "a merge key (<<) takes a map or a list of maps");
    return rc;
}

/* own: where node is merged into another map, the names which that map gives itself; NULL otherwise. */
static int convert_map(struct reader *r, const struct node *node, const json_t *own, int depth, json_t *ret)
{
    int rc = 0;

    if (own && (rc = spend(r, node, depth))) /* also for what is merged in vain */
        return rc;
    for (size_t i = 0; i + 1 < node->n && !rc; i += 2) {
        json_t *names = NULL;
        if (!is_merge(node->items[i]))
            continue;
        if (!own) {
            names = json_object();
            for (size_t j = 0; j + 1 < node->n; j += 2)
                if (node->items[j]->kind == NODE_SCALAR && !is_merge(node->items[j]))
                    json_object_set_new(names, node->items[j]->text, json_true());
        }
        rc = convert_merge(r, node->items[i + 1], own ? own : names, depth, ret);
        json_decref(names);
    }
    for (size_t i = 0; i + 1 < node->n && !rc; i += 2) {
        const struct node *key = follow(node->items[i]);
        if (is_merge(node->items[i]))
            continue;
        if (key->kind != NODE_SCALAR || !key->length)
            return say(r, node->items[i]->line, node->items[i]->column, "", "a key that is not a word");
        if (key->length > MAX_KEY)
            return say(r, key->line, key->column, "", "a key longer than %d bytes", MAX_KEY);
        if (json_object_get(ret, key->text) || (own && json_object_get(own, key->text)))
            rc = spend(r, key, depth); /* a duplicate, or a merged key that something nearer gives */
        else
            rc = convert_pair(r, key, node->items[i + 1], depth, ret);
    }
    return rc;
}

static int convert(struct reader *r, const struct node *node, int depth, json_t **ret)
{
    const struct node *outer = r->alias;
    json_t *value;
    int rc = 0;

    if (node->kind == NODE_ALIAS && !outer)
        r->alias = node;
    node = follow(node);
    value = node->kind == NODE_SCALAR ? scalar_json(node) : node->kind == NODE_LIST ? json_array() : json_object();
    rc = value ? spend(r, node, depth) : -ENOMEM;
    if (!rc && node->kind == NODE_LIST)
        rc = convert_list(r, node, depth, value);
    else if (!rc && node->kind == NODE_MAP)
        rc = convert_map(r, node, NULL, depth, value);
    r->alias = outer;
    if (rc)
        json_decref(value);
    else
        *ret = value;
    return rc;
}

/* --- the whole ------------------------------------------------------------------------------------------------- */

int yaml_json(const char *text, size_t length, bool whole_file, json_t **ret, struct config_marks *marks,
              struct config_problems *problems)
{
    struct reader *r;
    struct node *root;
    int rc;

    if (!(r = calloc(1, sizeof *r)))
        return -ENOMEM;
    *r = (struct reader){.text = text, .length = length, .problems = problems, .marks = marks};
    if (length > MAX_TEXT) {
        rc = say(r, 1, 1, "", "the file is %zu bytes long; an experiment file may have %u", length, MAX_TEXT);
        goto out_early;
    }
    if (!yaml_parser_initialize(&r->parser)) {
        rc = -ENOMEM;
        goto out_early;
    }
    yaml_parser_set_encoding(&r->parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&r->parser, (const unsigned char *)text, length);
    rc = compose_document(r, &root);
    if (!rc && whole_file && root->kind != NODE_MAP)
        rc = say(r, root->line, root->column, "", "the file must be a map of keys, as in searcher: {...}");
    if (!rc)
        rc = convert(r, root, 1, ret);
    if (!rc)
        config_marks_sort(marks);
    yaml_parser_delete(&r->parser);
out_early:
    nodes_free(r->nodes);
    free(r);
    return rc;
}
