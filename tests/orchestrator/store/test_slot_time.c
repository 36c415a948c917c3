/* test_slot_time.c - the time of slots that runs share: each has its part of every moment, and the parts add up.
 * SPDX-License-Identifier: Apache-2.0 */
#include "store_test.h"
#include "orchestrator/store/store_private.h"

static void begin_on(struct store_batch *batch, int64_t trial, int64_t run, int64_t attempt, const char *slots, int at_s)
{
    json_t *value = json_of(slots);

    store_put_run(batch, run, (struct trial_ref){1, trial}, attempt, value, 4711, "avx2", 0, T0 + at_s * SECOND);
    json_decref(value);
}

static void report_at(struct store_batch *batch, int64_t trial, int64_t run, int64_t seq, int at_s)
{
    json_t *body = json_of("{'kind':'training','units':{'rounds':1},'metrics':{'train_loss':1}}");

    store_put_report(batch, (struct trial_ref){1, trial}, run, seq, body, "rounds", T0 + at_s * SECOND);
    json_decref(body);
}

/* Runs 1, 2 and 3 share a slot: 1 from 0 to 100 s, 2 from 20 to 60, 3 from 40 to 120. Run 4 has another for 100 s, run 5 two for
 * 50 s, and run 6 comes to the first after all. */
#define SHARED "1|56.667\n2|16.667\n3|46.667\n4|100.0\n5|100.0\n6|10.0"
static const char RUNS_SQL[] = "SELECT run, round(slot_seconds, 3) FROM v_runs ORDER BY run";

static void put_shared(struct store *store)
{
    struct store_batch *batch = store_batch_new();

    put_experiment(batch, 1);
    for (int64_t trial = 1; trial <= 5; trial++)
        put_trial(batch, 1, trial, "{}");
    begin_on(batch, 1, 1, 1, "['cuda:0']", 0);
    begin_on(batch, 4, 4, 1, "['cuda:1']", 0);
    begin_on(batch, 5, 5, 1, "['cuda:2','cuda:3']", 0);
    begin_on(batch, 2, 2, 1, "['cuda:0']", 20);
    begin_on(batch, 3, 3, 1, "['cuda:0']", 40);
    commit(store, batch);
    batch = store_batch_new();
    store_put_run_end(batch, 5, "length", NULL, T0 + 50 * SECOND);
    store_put_run_end(batch, 2, "length", NULL, T0 + 60 * SECOND);
    store_put_run_end(batch, 1, "preempted", NULL, T0 + 100 * SECOND);
    store_put_run_end(batch, 4, "length", NULL, T0 + 100 * SECOND);
    store_put_run_end(batch, 3, "length", NULL, T0 + 120 * SECOND);
    begin_on(batch, 1, 6, 2, "['cuda:0']", 120);
    store_put_run_end(batch, 6, "length", NULL, T0 + 130 * SECOND);
    store_put_run_end(batch, 6, "exit", NULL, T0 + 500 * SECOND); /* told twice */
    commit(store, batch);
}

static void runs_that_share_a_slot_have_parts_of_it_that_add_up(void **state)
{
    struct home *home = *state;
    struct store *store = open_store(home->path, NULL);

    put_shared(store);
    store_close(store);
    assert_query(home->path, RUNS_SQL, SHARED);
    assert_query(home->path, "SELECT trial, round(slot_seconds, 3), run_seconds FROM v_trials ORDER BY trial",
                 "1|66.667|110.0\n2|16.667|40.0\n3|46.667|80.0\n4|100.0|100.0\n5|100.0|50.0");
    assert_query(home->path, "SELECT round(slot_seconds, 3), run_seconds FROM v_experiments", "330.0|380.0");
}

static double slot_seconds(const json_t *answer)
{
    return json_double_or(answer, "slot_seconds", -1);
}

/* One that has reported nothing yet has none, and yet the others share with it. */
static void runs_that_go_on_share_until_their_latest_report(void **state)
{
    struct home *home = *state;
    struct store *store = open_store(home->path, NULL);
    struct store_batch *batch = store_batch_new();
    json_t *answer;
    struct error err;

    put_experiment(batch, 1);
    for (int64_t trial = 1; trial <= 3; trial++)
        put_trial(batch, 1, trial, "{}");
    begin_on(batch, 1, 1, 1, "['cuda:0']", 0);
    begin_on(batch, 2, 2, 1, "['cuda:0']", 50);
    begin_on(batch, 3, 3, 1, "['cuda:0']", 90);
    report_at(batch, 1, 1, 1, 90);
    report_at(batch, 2, 2, 1, 102);
    commit(store, batch);
    assert_int_equal(store_read_describe(store, 1, &answer, &err), 0);
    assert_true(slot_seconds(json_object_get(answer, "timings")) == 50 + 20 + 20 + 4);
    json_decref(answer);
    assert_int_equal(store_read_trials(store, 1, &answer, &err), 0);
    assert_true(slot_seconds(json_array_get(json_object_get(answer, "trials"), 0)) == 50 + 20);
    assert_true(slot_seconds(json_array_get(json_object_get(answer, "trials"), 1)) == 20 + 4);
    assert_true(slot_seconds(json_array_get(json_object_get(answer, "trials"), 2)) == 0);
    json_decref(answer);
    batch = store_batch_new();
    store_put_abandoned(batch, 1, T0 + 900 * SECOND);
    commit(store, batch);
    store_close(store);
    assert_query(home->path, "SELECT slot_seconds FROM v_runs ORDER BY run", "70.0\n24.0\n0.0");
    assert_query(home->path, "SELECT slot_seconds, run_seconds FROM v_experiments", "94.0|142.0");
}

/* Each counted the slot whole before. */
static void what_schema_6_knew_is_counted_anew(void **state)
{
    static const char *const BEFORE =
        "DROP INDEX runs_by_slots; UPDATE experiments SET slot_us = 1; UPDATE trials SET slot_us = 2;"
        " DROP VIEW v_runs; ALTER TABLE runs DROP COLUMN slot_us; PRAGMA user_version = 6";
    struct home *home = *state;
    struct store *store = open_store(home->path, NULL);
    sqlite3 *db;

    put_shared(store);
    store_close(store);
    assert_int_equal(sqlite3_open(home->path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, BEFORE, NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
    store_close(open_store(home->path, NULL));
    assert_query(home->path, RUNS_SQL, SHARED);
    assert_query(home->path, "SELECT round(slot_seconds, 3) FROM v_trials ORDER BY trial",
                 "66.667\n16.667\n46.667\n100.0\n100.0");
    assert_query(home->path, "SELECT round(slot_seconds, 3) FROM v_experiments", "330.0");
}

/* The end of a run does not go through all runs. */
static void who_stood_beside_a_run_is_found_by_keys_alone(void **state)
{
    struct home *home = *state;
    char *plan;

    store_close(open_store(home->path, NULL));
    plan = query(home->path, "EXPLAIN QUERY PLAN UPDATE runs SET slot_us = " RUN_SLOT_US("runs", "5") " WHERE id = 1");
    if (strstr(plan, "SCAN o") || !strstr(plan, "SEARCH o USING INDEX runs_by_slots (experiment=? AND slots=? AND <expr>>?)"))
        fail_msg("%s", plan);
    free(plan);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        test_in_home(runs_that_share_a_slot_have_parts_of_it_that_add_up),
        test_in_home(runs_that_go_on_share_until_their_latest_report),
        test_in_home(what_schema_6_knew_is_counted_anew),
        test_in_home(who_stood_beside_a_run_is_found_by_keys_alone),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
