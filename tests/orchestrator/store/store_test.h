/* store_test.h - what the tests of the store share: a folder of their own, JSON by text, a small filled experiment.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_TESTS_STORE_TEST_H
#define FLEXP_TESTS_STORE_TEST_H

#include "common/file.h"
#include "orchestrator/store/store.h"

#include <math.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Last, for it has a macro fail(). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#define UNUSED __attribute__((unused))
#define T0 INT64_C(1780000000000000) /* 2026-05-28T20:26:40Z */
#define SECOND INT64_C(1000000)

struct home {
    char folder[64];
    char path[96]; /* of the database */
};

static UNUSED void home_make(struct home *home)
{
    snprintf(home->folder, sizeof home->folder, "/tmp/flexp-store-XXXXXX");
    assert_non_null(mkdtemp(home->folder));
    snprintf(home->path, sizeof home->path, "%s/flexp.db", home->folder);
}

static UNUSED void home_remove(struct home *home)
{
    assert_int_equal(file_remove_tree(home->folder, NULL), 0);
}

static UNUSED int home_setup(void **state)
{
    struct home *home = calloc(1, sizeof *home);

    home_make(home);
    *state = home;
    return 0;
}

static UNUSED int home_teardown(void **state)
{
    home_remove(*state);
    free(*state);
    return 0;
}

#define test_in_home(f) cmocka_unit_test_setup_teardown(f, home_setup, home_teardown)

/* JSON with ' for ". */
static UNUSED json_t *json_of(const char *text)
{
    char *copy = strdup(text);
    json_t *value;

    for (char *at = copy; *at; at++)
        if (*at == '\'')
            *at = '"';
    if (json_parse(copy, strlen(copy), &value, NULL))
        fail_msg("not JSON: %s", copy);
    free(copy);
    return value;
}

static UNUSED void assert_json(const json_t *got, const char *expected)
{
    json_t *value = json_of(expected);
    char *text = got ? json_canonical(got) : NULL;

    if (!got || !json_equal((json_t *)got, value))
        fail_msg("expected %s, got %s", expected, text ? text : "nothing");
    free(text);
    json_decref(value);
}

/* The value at a path, which must be there. */
static UNUSED const json_t *at(const json_t *value, const char *path)
{
    const json_t *found = json_at(value, path);
    char *text;

    if (!found) {
        text = json_canonical(value);
        fail_msg("nothing at %s in %s", path, text);
        free(text);
    }
    return found;
}

static UNUSED struct store *open_store(const char *path, struct store_high *high)
{
    struct error err = {0};
    struct store *store;

    if (store_open(path, false, NULL, NULL, &store, high, &err))
        fail_msg("%s", err.text);
    return store;
}

static UNUSED struct store *open_reader(const char *path)
{
    struct error err = {0};
    struct store *store;

    if (store_open(path, true, NULL, NULL, &store, NULL, &err))
        fail_msg("%s", err.text);
    return store;
}

static UNUSED void expect_success(void *arg, int status)
{
    (void)arg;
    if (status)
        fail_msg("the batch failed: %d", status);
}

static UNUSED void commit(struct store *store, struct store_batch *batch)
{
    store_submit(store, batch, expect_success, NULL);
    store_flush(store);
    if (store_failure(store))
        fail_msg("%s", store_failure(store));
}

#define CONFIG                                                                                                        \
    "{'name':'night','description':'a test','labels':['one','two'],'searcher':{'name':'adaptive_asha',"               \
    "'metric':'validation_accuracy','smaller_is_better':false,'time_metric':'rounds'}}"

static UNUSED void put_experiment(struct store_batch *batch, int64_t id)
{
    json_t *resolved = json_of(CONFIG);

    store_put_experiment(batch, id, "night", "name: night # as given\n", resolved, "active", T0);
    json_decref(resolved);
}

static UNUSED void put_trial(struct store_batch *batch, int64_t experiment, int64_t number, const char *hyperparameters)
{
    json_t *value = json_of(hyperparameters);

    store_put_trial(batch, (struct trial_ref){experiment, number}, value, T0 + number * SECOND);
    json_decref(value);
}

static UNUSED void put_run(struct store_batch *batch, int64_t experiment, int64_t trial, int64_t run, int64_t attempt,
                           int64_t resume)
{
    json_t *slots = json_of("['cpu:0','cpu:1']");

    store_put_run(batch, run, (struct trial_ref){experiment, trial}, attempt, slots, 4711, "avx2", resume,
                  T0 + run * 10 * SECOND);
    json_decref(slots);
}

static UNUSED void put_report(struct store_batch *batch, int64_t experiment, int64_t trial, int64_t run, int64_t seq,
                              const char *body)
{
    json_t *value = json_of(body);

    store_put_report(batch, (struct trial_ref){experiment, trial}, run, seq, value, "rounds",
                     T0 + run * 10 * SECOND + seq * SECOND);
    json_decref(value);
}

static UNUSED void put_checkpoint(struct store_batch *batch, int64_t experiment, int64_t trial, int64_t id, int64_t run,
                                  int64_t seq, double unit)
{
    json_t *units = json_pack("{s:f}", "rounds", unit);
    char path[64];

    snprintf(path, sizeof path, "runs/%lld/checkpoint-%g.safetensors", (long long)run, unit);
    store_put_checkpoint(batch, id, (struct trial_ref){experiment, trial}, run, seq, unit, units, path, 1000 + id,
                         T0 + run * 10 * SECOND + seq * SECOND);
    json_decref(units);
}

/* What a statement gives, on a connection of our own: columns by "|", rows by "\n". The caller frees. */
static UNUSED char *query(const char *path, const char *sql)
{
    char *text = NULL;
    size_t length = 0;
    FILE *out = open_memstream(&text, &length);
    sqlite3_stmt *statement = NULL;
    sqlite3 *db;

    assert_int_equal(sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE, NULL), SQLITE_OK);
    sqlite3_busy_timeout(db, 10000);
    while (*sql) {
        if (sqlite3_prepare_v2(db, sql, -1, &statement, &sql))
            fail_msg("%s", sqlite3_errmsg(db));
        while (sqlite3_step(statement) == SQLITE_ROW)
            for (int i = 0; i < sqlite3_column_count(statement); i++) {
                const char *value = (const char *)sqlite3_column_text(statement, i);
                fprintf(out, "%s%c", value ? value : "NULL", i + 1 < sqlite3_column_count(statement) ? '|' : '\n');
            }
        if (sqlite3_finalize(statement))
            fail_msg("%s", sqlite3_errmsg(db));
    }
    sqlite3_close(db);
    fclose(out);
    if (length)
        text[length - 1] = 0;
    return text;
}

static UNUSED void assert_query(const char *path, const char *sql, const char *expected)
{
    char *got = query(path, sql);

    if (strcmp(got, expected))
        fail_msg("%s\nexpected:\n%s\ngot:\n%s", sql, expected, got);
    free(got);
}

#endif
