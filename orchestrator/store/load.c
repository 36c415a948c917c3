/* load.c - what a restart needs: every experiment that goes on, with its trials, kept checkpoints and journal.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/store/read_private.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static void free_checkpoints(struct stored_checkpoint *list, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        json_decref(list[i].units);
        free(list[i].path);
    }
    free(list);
}

static void free_trials(struct stored_trial *list, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        json_decref(list[i].hyperparameters);
        free(list[i].state);
        free(list[i].reason);
        free_checkpoints(list[i].checkpoints, list[i].checkpoints_n);
    }
    free(list);
}

void stored_experiments_free(struct stored_experiment *list, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        free(list[i].state);
        json_decref(list[i].resolved);
        free_trials(list[i].trials, list[i].trials_n);
        for (size_t j = 0; j < list[i].journal_n; j++) {
            free(list[i].journal[j].kind);
            json_decref(list[i].journal[j].body);
        }
        free(list[i].journal);
    }
    free(list);
}

/* Room for one more, zeroed: the array grows when its number is a power of two. NULL when out of memory. */
static void *one_more(void **list, size_t n, size_t size)
{
    if ((n & (n - 1)) == 0) {
        void *grown = realloc(*list, (n ? 2 * n : 1) * size);
        if (!grown)
            return NULL;
        *list = grown;
    }
    return memset((char *)*list + n * size, 0, size);
}

static char *copy_text(sqlite3_stmt *statement, int column)
{
    const char *text = (const char *)sqlite3_column_text(statement, column);

    return text ? strdup(text) : NULL;
}

/* As column_json, but what is not JSON is a failure: a restart must not go on from half of the truth. */
static int need_json(struct store *store, sqlite3_stmt *statement, int column, const char *what, json_t **ret,
                     struct error *err)
{
    const char *text = (const char *)sqlite3_column_text(statement, column);
    int rc = json_parse(text ? text : "", (size_t)sqlite3_column_bytes(statement, column), ret, err);

    if (rc)
        fail_prefix(err, "%s: %s", store->path, what);
    return rc;
}

static int out_of_memory(struct error *err)
{
    return fail(err, -ENOMEM, "out of memory while experiments are loaded");
}

static int load_checkpoints(struct store *store, int64_t experiment, int64_t trial, struct stored_trial *ret,
                            struct error *err)
{
    sqlite3_stmt *statement = read_bound(store, READ_LOAD_CHECKPOINTS, INTS(trial, experiment), err);
    int rc, row_rc = 0;

    while (!row_rc && read_row(store, statement, &rc, err)) {
        struct stored_checkpoint *one = one_more((void **)&ret->checkpoints, ret->checkpoints_n, sizeof *one);
        if (!one) {
            row_rc = out_of_memory(err);
            break;
        }
        ret->checkpoints_n++;
        one->id = sqlite3_column_int64(statement, 0);
        one->run = sqlite3_column_int64(statement, 1);
        one->unit = sqlite3_column_double(statement, 2);
        row_rc = need_json(store, statement, 3, "units of a checkpoint", &one->units, err);
        one->path = copy_text(statement, 4);
        one->bytes = sqlite3_column_int64(statement, 5);
        one->has_value = sqlite3_column_type(statement, 7) != SQLITE_NULL;
        one->value = one->has_value ? value_from_column(statement, 6, 7) : 0;
    }
    sqlite3_reset(statement);
    return row_rc ? row_rc : rc;
}

static int load_trials(struct store *store, struct stored_experiment *ret, struct error *err)
{
    sqlite3_stmt *statement = read_bound(store, READ_LOAD_TRIALS, INTS(ret->id), err);
    int rc, row_rc = 0;

    while (!row_rc && read_row(store, statement, &rc, err)) {
        struct stored_trial *one = one_more((void **)&ret->trials, ret->trials_n, sizeof *one);
        if (!one) {
            row_rc = out_of_memory(err);
            break;
        }
        ret->trials_n++;
        one->number = sqlite3_column_int64(statement, 0);
        row_rc = need_json(store, statement, 1, "hyperparameters of a trial", &one->hyperparameters, err);
        one->state = copy_text(statement, 2);
        one->reason = copy_text(statement, 3);
        one->restarts = sqlite3_column_int64(statement, 4);
        one->attempts = sqlite3_column_int64(statement, 5);
        one->has_best = sqlite3_column_type(statement, 8) != SQLITE_NULL;
        one->best_value = value_from_column(statement, 6, 7);
        one->best_unit = sqlite3_column_double(statement, 8);
        one->best_checkpoint = sqlite3_column_int64(statement, 9);
        one->open_run = sqlite3_column_int64(statement, 10);
        one->alone = sqlite3_column_int(statement, 12);
        one->alone_past = sqlite3_column_type(statement, 13) == SQLITE_NULL ? INFINITY : sqlite3_column_double(statement, 13);
        if (!row_rc)
            row_rc = load_checkpoints(store, ret->id, sqlite3_column_int64(statement, 11), one, err);
    }
    sqlite3_reset(statement);
    return row_rc ? row_rc : rc;
}

static int load_journal(struct store *store, struct stored_experiment *ret, struct error *err)
{
    sqlite3_stmt *statement = read_bound(store, READ_LOAD_JOURNAL, INTS(ret->id), err);
    int rc, row_rc = 0;

    while (!row_rc && read_row(store, statement, &rc, err)) {
        struct stored_journal *one = one_more((void **)&ret->journal, ret->journal_n, sizeof *one);
        if (!one) {
            row_rc = out_of_memory(err);
            break;
        }
        ret->journal_n++;
        one->index = sqlite3_column_int64(statement, 0);
        one->answers = sqlite3_column_int64(statement, 1);
        one->kind = copy_text(statement, 2);
        row_rc = need_json(store, statement, 3, "a record of the journal", &one->body, err);
    }
    sqlite3_reset(statement);
    return row_rc ? row_rc : rc;
}

static int load(struct store *store, const struct read_arguments *arguments, json_t **ret, struct error *err)
{
    sqlite3_stmt *statement = read_statement(store, READ_LOAD_EXPERIMENTS, err);
    struct stored_experiment *list = NULL;
    size_t n = 0;
    int rc, row_rc = 0;

    (void)ret; /* the answer is not JSON */
    while (!row_rc && read_row(store, statement, &rc, err)) {
        struct stored_experiment *one = one_more((void **)&list, n, sizeof *one);
        if (!one) {
            row_rc = out_of_memory(err);
            break;
        }
        n++;
        one->id = sqlite3_column_int64(statement, 0);
        one->created_us = sqlite3_column_int64(statement, 1);
        one->state = copy_text(statement, 2);
        row_rc = need_json(store, statement, 3, "the configuration of an experiment", &one->resolved, err);
        one->best_trial = sqlite3_column_int64(statement, 4);
        one->tested = sqlite3_column_int(statement, 5);
        if (!row_rc)
            row_rc = load_trials(store, one, err);
        if (!row_rc)
            row_rc = load_journal(store, one, err);
    }
    sqlite3_reset(statement);
    rc = row_rc ? row_rc : rc;
    if (rc) {
        stored_experiments_free(list, n);
        return rc;
    }
    *arguments->ret_experiments = list;
    *arguments->ret_n = n;
    return 0;
}

int store_load(struct store *store, struct stored_experiment **ret, size_t *ret_n, struct error *err)
{
    struct stored_experiment *list = NULL;
    size_t n = 0;
    int rc = read_run(store, load, &(struct read_arguments){.ret_experiments = &list, .ret_n = &n}, NULL, err);

    if (rc)
        return rc;
    *ret = list;
    *ret_n = n;
    return 0;
}

static int deleting(struct store *store, const struct read_arguments *arguments, json_t **ret, struct error *err)
{
    sqlite3_stmt *statement = read_bound(store, READ_DELETING, NULL, 0, err);
    int rc;

    (void)arguments;
    *ret = json_array();
    while (read_row(store, statement, &rc, err))
        json_array_append_new(*ret, json_pack("[o, o]", column_int(statement, 0), column_int(statement, 1)));
    return rc;
}

int store_read_deleting(struct store *store, json_t **ret, struct error *err)
{
    return read_run(store, deleting, &(struct read_arguments){0}, ret, err);
}

static int deleted_files(struct store *store, const struct read_arguments *arguments, json_t **ret, struct error *err)
{
    sqlite3_stmt *statement = read_bound(store, READ_DELETED_FILES, NULL, 0, err);
    int rc;

    (void)arguments;
    *ret = json_array();
    while (read_row(store, statement, &rc, err))
        json_array_append_new(*ret, json_sprintf("experiments/%lld/trials/%lld/%s",
                                                 (long long)sqlite3_column_int64(statement, 0),
                                                 (long long)sqlite3_column_int64(statement, 1),
                                                 (const char *)sqlite3_column_text(statement, 2)));
    return rc;
}

int store_read_deleted_files(struct store *store, json_t **ret, struct error *err)
{
    return read_run(store, deleted_files, &(struct read_arguments){0}, ret, err);
}

static int hooks(struct store *store, const struct read_arguments *arguments, json_t **ret, struct error *err)
{
    sqlite3_stmt *statement = read_bound(store, READ_HOOKS, NULL, 0, err);
    int rc;

    (void)arguments;
    *ret = json_array();
    while (read_row(store, statement, &rc, err))
        json_array_append_new(*ret, json_pack("[o, o]", column_int(statement, 0), column_int(statement, 1)));
    return rc;
}

int store_read_hooks(struct store *store, json_t **ret, struct error *err)
{
    return read_run(store, hooks, &(struct read_arguments){0}, ret, err);
}
