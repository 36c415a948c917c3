/* keys.h - tables of keys: what an experiment file may say, checked in one place.
 * config/ has such a table for the whole file; the four trainer sections (data, model, training, federation) are here
 * in sections.c because the trainer reads them too. From the same rows come errors, defaults, `flexp explain` and
 * docs/config.md. A value anywhere below a section marked so may be a reference, the string "$name" of a
 * hyperparameter.
 * Threads: any (tables are const).
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_COMMON_KEYS_H
#define FLEXP_COMMON_KEYS_H

#include "common/error.h"
#include "common/json.h"

#include <stddef.h>

#define GPUS_MOST 16 /* that the built-in trainer trains one trial on */

enum key_type {
    KEY_INT, KEY_NUMBER, KEY_BOOL, KEY_STRING, KEY_CHOICE,
    KEY_MAP,      /* a map of the keys in sub */
    KEY_LIST,     /* a list whose elements are like sub[0] (its name is NULL) */
    KEY_TAGGED,   /* one-key maps or a bare name: the layers; sub are the tags */
    KEY_FREE,     /* anything: handed on untouched */
    KEY_IGNORED   /* known elsewhere, means nothing here: a warning with doc as its text */
};

struct key {
    const char *name;       /* NULL ends a table */
    enum key_type type;
    const char *def;        /* JSON text of the default; NULL: none; required says whether it must then be given */
    bool required;
    double min, max;        /* KEY_INT, KEY_NUMBER; both 0: no bounds */
    bool exclusive_min;     /* min itself is refused */
    const char *choices;    /* KEY_CHOICE: "sgd adam adamw"; KEY_INT and KEY_NUMBER: words accepted beside numbers */
    const struct key *sub;
    const char *shorthand;  /* KEY_MAP: a scalar x means {shorthand: x}, as in `max_pool2d: 2` */
    const char *doc;        /* one sentence */
    const char *example;    /* YAML, one line */
    bool references;        /* from here down any scalar may be "$name" */
};

/* Calls back once for each thing that is wrong or, with warning set, odd. path is as json_at takes it. */
typedef void keys_report_fn(void *arg, bool warning, const char *path, const char *text);

/* Checks value against a table (value is a map). references: "$name" is accepted in place of any scalar (also below a
 * row marked so), and name must be a key (dotted for nested groups) of hyperparameters (NULL: any name), either values
 * or an experiment file's descriptions of them: then all that the hyperparameter can be must fit the key. Returns the
 * number of errors. A text goes on the sentence that the path begins ("must be at least 1, got 0"). */
int keys_check(const struct key *table, const json_t *value, const char *path, bool references,
               const json_t *hyperparameters, keys_report_fn *report, void *arg);

/* A deep copy with defaults filled in, shorthands and bare names spelled out, in the order of the table. What
 * keys_check would refuse is copied as it is. Resolving twice changes nothing, except that a bare name which was a
 * reference (a layer "$norm") is only spelled out once it has been substituted. New reference. */
json_t *keys_resolve(const struct key *table, const json_t *value);

/* The known key nearest to name (edit distance up to a third of its length, and a list of synonyms of Determined's,
 * Flower's, Optuna's and Ray's names), or NULL. */
const char *keys_nearest(const struct key *table, const char *name);

/* The word of a list such as "sgd adam adamw" that is nearest to name, by the same measure, or is called so elsewhere; false when none is near. */
bool keys_nearest_word(const char *words, const char *name, char *ret, size_t room);

/* The row at a dotted path ("training.learning_rate", "model.layers[2].conv2d.filters"), or NULL. */
const struct key *keys_find(const struct key *table, const char *path);

/* The four trainer sections: a table with the rows data, model, training, federation, each a KEY_MAP. */
extern const struct key SECTION_KEYS[];
extern const struct key DATA_KEYS[], MODEL_KEYS[], TRAINING_KEYS[], FEDERATION_KEYS[];

/* The name in a reference "$name"; NULL when value is anything else. Borrowed from value. */
const char *keys_reference(const json_t *value);

/* The hyperparameter (description or value) of a dotted name, or NULL. Borrowed. */
const json_t *keys_hyperparameter(const json_t *hyperparameters, const char *name);

/* Makes one line of UTF-8 out of text, in place: control characters become blanks, and characters that a cut left
 * incomplete go. */
void keys_clean_text(char *text);
/* What a program says, as one short line for people: a clean copy, which the caller frees; NULL when out of memory. */
#define KEYS_SHOWN_MAX 400 /* bytes */
char *keys_shown_text(const char *text);

/* How errors show a value: 0.5, "text", .nan, a map ... One line. */
void keys_value_text(const json_t *value, char *ret, size_t room);
/* A string that a file would have as a finite number without its quotes: "0.1". */
bool keys_is_quoted_number(const json_t *value);

/* Replaces every "$name" below value by the hyperparameter's value. -EINVAL for an unknown name. New reference. */
int keys_substitute(const json_t *value, const json_t *hyperparameters, json_t **ret, struct error *err);

#endif
