/* cli_private.h - what the files of the command line share: one invocation, the table of verbs, the table of options.
 * A verb is a row in verbs.c: from it come the parser's options, `help`, `--help` and the checks on its arguments. It
 * gets a struct cli, asks (ask.c), prints, and returns an exit code.
 *
 * What is for a person goes to stderr where --json is given, so that stdout holds nothing but JSON.
 * Threads: one. struct cli owns all it points to; answers of the ask functions belong to the caller.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_ORCHESTRATOR_CLI_PRIVATE_H
#define FLEXP_ORCHESTRATOR_CLI_PRIVATE_H

#include "common/error.h"
#include "common/json.h"
#include "orchestrator/cli/term.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define CLI_SCHEMA_VERSION 1

enum cli_exit {
    CLI_OK = 0,
    CLI_INCOMPLETE = 1, /* an experiment that was awaited did not complete */
    CLI_USAGE = 2,      /* usage or bad input */
    CLI_LOST = 3,       /* no orchestrator, or lost, or the machine refuses */
    CLI_DETACHED = 130  /* Ctrl-C while following: the experiment goes on */
};

enum option_id {
    OPT_HOME, OPT_DATA, OPT_JSON, OPT_NO_COLOR, OPT_QUIET, OPT_HELP, OPT_VERSION, /* global, in this order */
    OPT_FOLLOW, OPT_CONFIG, OPT_PAUSED, OPT_ALL, OPT_TIMEOUT, OPT_SLOTS, OPT_FOREGROUND, OPT_READY_FD, OPT_SORT_BY,
    OPT_GROUP_BY, OPT_CSV, OPT_CLIENT, OPT_NAME, OPT_YES, OPT_OUTPUT, OPT_SVG, OPT_KERNELS,
    OPT_COUNT
};
#define OPT_GLOBALS OPT_FOLLOW /* ids below are accepted by every verb, before or after it */

struct option_row {
    const char *name;
    char letter;          /* 0: none */
    const char *argument; /* NULL: takes none */
    const char *doc;      /* NULL: hidden */
};
extern const struct option_row OPTION_ROWS[OPT_COUNT];

struct options {
    bool given[OPT_COUNT];
    const char *value[OPT_COUNT]; /* the last one given; borrowed from argv */
    const char **config;          /* all of --config */
    size_t config_n;
    const char **arguments;       /* what is neither verb nor option */
    size_t arguments_n;
};

struct cli;
struct client;

struct verb {
    const char *name;      /* "create", "trial logs" */
    const char *arguments; /* "FILE", "[ID]" */
    size_t min, max;       /* how many */
    uint32_t options;      /* 1u << OPT_...: beside the global ones */
    const char *doc;       /* one line */
    const char *more;      /* further lines of --help, or NULL */
    const char *example;   /* one or more lines */
    int (*run)(struct cli *cli);
    bool hidden;
};
extern const struct verb VERBS[]; /* ends with name NULL */

struct cli {
    const struct verb *verb;
    struct options options;
    struct term out, err; /* what stdout and stderr are */
    char *home;           /* set before a verb runs */
    struct client *client;
    bool told_waiting;    /* that experiments wait for `flexp up` */
};

/* --- verbs.c, options.c, help.c --- */

/* The row whose name is words[0], or words[0] and words[1]; *ret_words is how many were used. NULL: none. */
const struct verb *verb_find(const char *const *words, size_t n, size_t *ret_words);
/* Finds the verb and takes argv apart. -EINVAL with what is wrong. *ret_verb is NULL where there is no word at all.
 * The caller calls options_done in either case. */
int options_parse(int argc, char **argv, const struct verb **ret_verb, struct options *ret, struct error *err);
void options_done(struct options *options);
void help_overview(FILE *out, const struct term *term);
void help_verb(FILE *out, const struct term *term, const struct verb *verb);
void help_man(FILE *out); /* flexp.1, in man(7) */
extern const struct exit_code {
    const char *code, *meaning;
} EXIT_CODES[]; /* ends with code NULL */
extern const struct environment_row {
    const char *name, *meaning;
} ENVIRONMENT[]; /* ends with name NULL */

/* The word of a NULL-terminated list nearest to name, by edit distance up to a third of its length; NULL: none. */
const char *nearest_word(const char *const *words, const char *name);
/* What other programs call a verb of ours ("ls": "list"), or NULL. */
const char *verb_synonym(const char *name);

/* --- saying things (say.c) --- */

/* "flexp: TEXT" on stderr; returns code. */
int cli_fail(enum cli_exit code, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* The same from an error; its code decides the exit code. */
int cli_fail_error(const struct error *err);
/* "flexp: TEXT" on stderr, left out under -q. */
void cli_note(const struct cli *cli, const char *format, ...) __attribute__((format(printf, 2, 3)));
bool cli_json(const struct cli *cli);
/* One document on stdout, indented where stdout is a terminal. Takes ownership. */
int cli_print_json(const struct cli *cli, json_t *value);
/* {"schema_version": 1} to add to. */
json_t *cli_json_answer(void);

/* --- asking (ask.c, client.c, local.c, start.c) --- */

/* A read request: to the orchestrator where one runs, else in-process on a read-only store, with a note on what waits
 * for `flexp up`. arguments is taken over. */
int cli_read(struct cli *cli, const char *request, json_t *arguments, json_t **ret, struct error *err);
/* A request that needs the orchestrator; start: one is started where none runs. arguments is taken over. */
int cli_ask(struct cli *cli, bool start, const char *request, json_t *arguments, json_t **ret, struct error *err);
/* An experiment by number or unambiguous name; text NULL: the latest, with a note saying so. -ENOENT, -EINVAL. */
int cli_experiment(struct cli *cli, const char *text, int64_t *ret, struct error *err);
/* The same for a verb that changes it, with its description (which the caller frees): one that is not there must not start
 * an orchestrator. */
int cli_existing(struct cli *cli, const char *text, int64_t *ret, json_t **ret_described, struct error *err);
/* EXP/N. */
int cli_trial(struct cli *cli, const char *text, int64_t *ret_experiment, int64_t *ret_trial, struct error *err);

/* Opens the store of HOME read-only and runs the request; without a store an empty list, and -ENOENT for the rest. */
int local_request(const char *home, const char *request, const json_t *arguments, json_t **ret, struct error *err);
/* Experiments that go on only when an orchestrator runs: *ret_text "1, 4" or NULL. The caller frees. */
void local_waiting(const char *home, char **ret_text);

/* Makes sure that an orchestrator runs for home; slots NULL: its own choice. *ret_started says whether it is new. */
int start_orchestrator(const char *home, const char *slots, bool *ret_started, struct error *err);
/* Whether a process holds flock on HOME/lock. */
bool start_lock_is_held(const char *home);

/* --- verbs, one file each --- */

int verb_create(struct cli *cli);
int verb_list(struct cli *cli);
int verb_describe(struct cli *cli);
int verb_trials(struct cli *cli);
int verb_metrics(struct cli *cli);
int verb_data_fetch(struct cli *cli);
int verb_data_info(struct cli *cli);
int verb_model(struct cli *cli);
int verb_plot(struct cli *cli);
int verb_explain(struct cli *cli);
int verb_completion(struct cli *cli);
int verb_trial_describe(struct cli *cli);
int verb_trial_logs(struct cli *cli);
int verb_trial_test(struct cli *cli);
int verb_archive(struct cli *cli); /* archive, unarchive */
int verb_delete(struct cli *cli);
int verb_set(struct cli *cli); /* set priority, weight, max-slots, description */
int verb_trial_kill(struct cli *cli);
int verb_logs(struct cli *cli);
int verb_wait(struct cli *cli);
int verb_change(struct cli *cli); /* pause, activate, cancel, kill */
int verb_validate(struct cli *cli);
int verb_preview(struct cli *cli);
int verb_top(struct cli *cli);
int verb_slots(struct cli *cli);
int verb_up(struct cli *cli);
int verb_down(struct cli *cli);
int verb_status(struct cli *cli);
int verb_version(struct cli *cli);
int verb_help(struct cli *cli);

#endif
