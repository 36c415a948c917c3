/* config_private.h - what the files of config/ share: places in the file, the list of problems, one check's context.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_ORCHESTRATOR_CONFIG_PRIVATE_H
#define FLEXP_ORCHESTRATOR_CONFIG_PRIVATE_H

#include "orchestrator/config/config.h"

/* Where a key path stands in the text. Lines and columns count from 1; 0: not in the text (--config). */
struct config_mark {
    char *path;
    int key_line, key_column; /* of the key; a list's element has its value's */
    int line, column;         /* of the value */
    bool scalar;
};

struct config_marks {
    struct config_mark *list; /* sorted by path once config_marks_sort was called */
    size_t n, room;
};

void config_marks_free(struct config_marks *marks);
int config_marks_add(struct config_marks *marks, const struct config_mark *mark); /* copies mark->path */
void config_marks_sort(struct config_marks *marks);
/* Forgets the places of path and of all below it, and says that path was given on the command line. */
int config_marks_override(struct config_marks *marks, const char *path);
/* The place of a path, or of the nearest part of it that is there: of the value where that is a scalar and known_key is
 * set, else of the key. */
void config_marks_place(const struct config_marks *marks, const char *path, bool known_key, int *ret_line,
                        int *ret_column);

/* Adds a problem; text is copied. Out of memory is silent but for the count of errors. */
void config_problems_add(struct config_problems *problems, bool warning, const char *path, int line, int column,
                         const char *text);
/* By place, then as they came; the same text at the same path only once. */
void config_problems_sort(struct config_problems *problems);

/* YAML to JSON with marks. Problems that leave a tree (a key given twice) are reported and the tree is returned;
 * -EINVAL with a problem where there is none; -ENOMEM. The tree of a whole file is a map. */
int yaml_json(const char *text, size_t length, bool whole_file, json_t **ret, struct config_marks *marks,
              struct config_problems *problems);

/* Applies "key.path=value" to the tree; wrong ones become problems. */
void config_override(json_t *tree, struct config_marks *marks, const char *const *overrides, size_t n,
                     struct config_problems *problems);

struct config_check {
    const json_t *tree;     /* as read */
    json_t *resolved;       /* with defaults; checks put what they derive (names' defaults) into it */
    const struct config_marks *marks; /* NULL: a stored file */
    struct config_problems *problems;
    bool own_program;       /* entrypoint is given */
};

void config_say(struct config_check *check, bool warning, const char *path, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* The rows of CONFIG_KEYS as they are for this tree: with an entrypoint, data is free and the other sections mean
 * nothing. ret has room for CONFIG_KEYS_ROOM rows. */
#define CONFIG_KEYS_ROOM 96
void config_keys_for(bool own_program, struct key *ret);

/* The checks that no table can make, on check->resolved; each is careful about values of a wrong type. */
void config_check_hyperparameters(struct config_check *check);
void config_check_searcher(struct config_check *check);
void config_check_sections(struct config_check *check);
void config_check_rest(struct config_check *check);

/* A length: a whole number of at least `least`, or a map such as {rounds: 64}. *ret_unit is NULL or a UNIT_NAMES;
 * false: it was reported. */
bool config_length(struct config_check *check, const char *path, const json_t *value, double least, double *ret,
                   const char **ret_unit);

/* Which rows searcher.name and searcher.sampler mean; NULL where they mean none. */
void config_searcher_names(const json_t *searcher, const char **ret_scheduler, const char **ret_sampler);
/* From a resolved section without problems. *ret_rungs is written when there are bracket_rungs; the caller frees it. */
int config_searcher_from(const json_t *searcher, uint64_t seed, struct searcher_config *ret, int64_t **ret_rungs);

/* loss, accuracy ... with a prefix: what the built-in trainer reports. ret_smaller_is_better may be NULL. */
bool config_metric_is_known(const char *name, bool *ret_smaller_is_better);
/* Says what is wrong with the name of a metric, with the nearest right one. */
void config_say_unknown_metric(struct config_check *check, const char *path, const char *name);

/* A group that has the keys of a description most likely lacks its type. */
bool config_lacks_type(const json_t *group);

/* The lowest and highest number that a value, or what it refers to, can be. */
bool config_range(const json_t *value, const json_t *hyperparameters, double *ret_lowest, double *ret_highest);

/* A struct from a resolved tree without problems; takes ownership of resolved and marks, on failure too. */
int config_build(json_t *resolved, struct config_marks *marks, struct experiment_config **ret, struct error *err);

#endif
