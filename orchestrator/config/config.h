/* config.h - the experiment file: YAML text to struct experiment_config, all errors at once, each with its place.
 * Vocabulary and meaning: DESIGN.md's section "Experiment files" and docs/config.md, which is made from the tables of
 * keys. How: yaml_json.c turns the text into a JSON tree plus a map from key path to line and column (aliases
 * expanded, bounded in number, depth and total size; 1e-5 is a number; a key given twice is an error); keys_check
 * holds the tree against the tables; config.c then builds the structs and checks what no table can (references,
 * searcher pairs, metrics, grids).
 * Owns everything it returns. Threads: any.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_ORCHESTRATOR_CONFIG_H
#define FLEXP_ORCHESTRATOR_CONFIG_H

#include "common/error.h"
#include "common/json.h"
#include "common/keys.h"
#include "common/protocol.h"
#include "searchers/searcher.h"

enum slot_type { SLOT_AUTO, SLOT_CPU, SLOT_CUDA };

struct experiment_config {
    json_t *resolved; /* the whole file with defaults; what `describe` shows as config. Sections keep their "$name"s */
    char *text;       /* the file as given; NULL when made by config_from_resolved */
    /* all below borrow from resolved, except space */
    const char *name, *description;
    struct space *space;
    const json_t *hyperparameters; /* as in the file */
    const json_t *sections;        /* {data, model, training, federation}; with an entrypoint only data */
    struct searcher_config searcher; /* .seed is set, bracket_rungs owned by this struct */
    const char *metric;
    bool smaller_is_better;
    enum unit_kind time_metric;
    int64_t slots_per_trial, max_slots; /* max_slots 0: no limit */
    int64_t trials_per_slot;            /* 0: auto, until create has asked the trainer (config_set_trials_per_slot) */
    bool trials_per_slot_auto;          /* the file said so */
    int64_t priority;                   /* lower first; 42 */
    double weight;
    enum slot_type slot_type;
    int64_t max_restarts;
    int64_t save_experiment_best, save_trial_best, save_trial_latest; /* defaults 0, 1, 1; the winner is always kept */
    uint64_t experiment_seed, data_seed;
    double time_limit_s;           /* 0: none */
    double min_checkpoint_period;  /* in time_metric units; 0: on improvement and at decisions only */
    const char *on_complete;       /* NULL: nothing */
    const json_t *entrypoint;      /* list of strings; NULL: the built-in trainer */
    int64_t *bracket_rungs;
    struct config_marks *marks; /* places of keys, for config_add_problem; NULL when made by config_from_resolved */
};

struct config_problem {
    bool warning;
    char *path;       /* key path; "" for the whole file */
    int line, column; /* from 1; 0 where there is no place, as for --config */
    char *text;       /* what is wrong and what would be right */
};

struct config_problems {
    struct config_problem *list;
    size_t n, errors; /* errors: how many are not warnings */
};
void config_problems_done(struct config_problems *problems);
/* "FILE:LINE:COLUMN: error: PATH: TEXT\n" a line, in the order of the file; the caller frees. */
char *config_problems_text(const struct config_problems *problems, const char *file);

/* overrides: "key.path=value" strings (value is YAML), applied before checks; n may be 0. data_root (--data or
 * FLEXP_DATA; may be NULL) is the folder in which a relative data.path is looked for, else the working directory;
 * resolved has it absolute. A random experiment_seed is drawn and written into resolved when the file has none. 0 and
 * *ret when there are no errors (warnings may be in *ret_problems); -EINVAL otherwise. */
int config_read(const char *text, size_t length, const char *const *overrides, size_t n, const char *data_root,
                struct experiment_config **ret, struct config_problems *ret_problems);
/* From what was stored; -EINVAL only when the store was tampered with or is of a newer version. */
int config_from_resolved(const json_t *resolved, struct experiment_config **ret, struct error *err);
void config_free(struct experiment_config *config);

/* Adds a problem that the trainer's plan reported (paths as in the sections), with the place of that key. */
void config_add_problem(struct config_problems *problems, const struct experiment_config *config, bool warning,
                        const char *path, const char *text);

/* What auto came to, in the resolved form too. -ENOMEM. */
int config_set_trials_per_slot(struct experiment_config *config, int64_t trials);

/* The rows of the whole file, the four sections included: for explain, docs/config.md, completion. */
extern const struct key CONFIG_KEYS[];

#endif
