/* test_store.c - writing and what comes back: batches, callbacks, reports, runs that overlap, values that are not
 * finite.
 * SPDX-License-Identifier: Apache-2.0 */
#include "store_test.h"

#include <poll.h>

struct told {
    int order[64], statuses[64], n;
};
struct told_one {
    struct told *told;
    int number;
};

static void note(void *arg, int status)
{
    struct told_one *one = arg;

    one->told->statuses[one->told->n] = status;
    one->told->order[one->told->n++] = one->number;
}

static void creates_a_database_and_finds_it_again(void **state)
{
    struct home *home = *state;
    struct store_high high = {-1, -1, -1};
    struct store *store = open_store(home->path, &high);

    assert_int_equal(high.experiment + high.run + high.checkpoint, 0);
    store_close(store);
    assert_query(home->path, "PRAGMA application_id; PRAGMA user_version; PRAGMA journal_mode; PRAGMA quick_check",
                 "1718384752\n7\nwal\nok");
    store = open_store(home->path, &high);
    struct store_batch *batch = store_batch_new();
    put_experiment(batch, 7);
    put_trial(batch, 7, 1, "{}");
    put_run(batch, 7, 1, 12, 1, 0);
    put_checkpoint(batch, 7, 1, 31, 12, 1, 1);
    commit(store, batch);
    store_close(store);
    store_close(open_store(home->path, &high));
    assert_int_equal(high.experiment, 7);
    assert_int_equal(high.run, 12);
    assert_int_equal(high.checkpoint, 31);
}

static void callbacks_come_in_the_order_of_submission(void **state)
{
    struct home *home = *state;
    struct store *store = open_store(home->path, NULL);
    struct told told = {0};
    struct told_one ones[40];

    for (int i = 0; i < 40; i++) {
        struct store_batch *batch = store_batch_new();
        if (i % 7 != 3) /* an empty batch waits its turn too */
            put_experiment(batch, i + 1);
        ones[i] = (struct told_one){&told, i};
        store_submit(store, batch, note, &ones[i]);
    }
    assert_int_equal(told.n, 0); /* nothing runs before we ask for it */
    store_flush(store);
    assert_int_equal(told.n, 40);
    for (int i = 0; i < 40; i++) {
        assert_int_equal(told.order[i], i);
        assert_int_equal(told.statuses[i], 0);
    }
    store_close(store);
    assert_query(home->path, "SELECT count(*) FROM experiments", "34");
}

static void submit_again(void *arg, int status)
{
    void **pair = arg;
    int *left = pair[1];

    assert_int_equal(status, 0);
    if (--*left > 0) {
        struct store_batch *batch = store_batch_new();
        put_experiment(batch, *left);
        store_submit(pair[0], batch, submit_again, arg);
    }
}

static void a_callback_may_submit_and_flush_waits_for_that_too(void **state)
{
    struct home *home = *state;
    struct store *store = open_store(home->path, NULL);
    int left = 5;
    void *pair[2] = {store, &left};

    store_submit(store, store_batch_new(), submit_again, pair);
    store_flush(store);
    assert_int_equal(left, 0);
    store_close(store);
    assert_query(home->path, "SELECT count(*) FROM experiments", "4");
}

static void wake_pipe(void *arg)
{
    assert_int_equal(write(*(int *)arg, "", 1), 1);
}

static void wakes_the_loop_when_there_is_something_to_poll(void **state)
{
    struct home *home = *state;
    struct error err = {0};
    struct told told = {0};
    struct told_one one = {&told, 5};
    struct store_batch *batch = store_batch_new();
    struct store *store;
    int ends[2];

    assert_int_equal(pipe(ends), 0);
    assert_int_equal(store_open(home->path, false, wake_pipe, &ends[1], &store, NULL, &err), 0);
    put_experiment(batch, 1);
    store_submit(store, batch, note, &one);
    struct pollfd wait = {.fd = ends[0], .events = POLLIN};
    assert_int_equal(poll(&wait, 1, 60000), 1);
    store_poll(store);
    assert_int_equal(told.n, 1);
    store_close(store);
    close(ends[0]);
    close(ends[1]);
}

static void close_commits_and_reports_what_was_submitted(void **state)
{
    struct home *home = *state;
    struct store *store = open_store(home->path, NULL);
    struct told told = {0};
    struct told_one one = {&told, 1};
    struct store_batch *batch = store_batch_new();

    put_experiment(batch, 3);
    store_submit(store, batch, note, &one);
    store_close(store);
    assert_int_equal(told.n, 1);
    assert_int_equal(told.statuses[0], 0);
    assert_query(home->path, "SELECT name FROM experiments WHERE id = 3", "night");
}

static void batches_can_be_thrown_away_or_be_missing(void **state)
{
    struct home *home = *state;
    struct store *store = open_store(home->path, NULL);
    struct told told = {0};
    struct told_one ones[2] = {{&told, 0}, {&told, 1}};
    struct store_batch *batch = store_batch_new();

    assert_true(store_batch_is_empty(batch));
    assert_true(store_batch_is_empty(NULL));
    put_experiment(batch, 1);
    assert_false(store_batch_is_empty(batch));
    store_batch_free(batch);
    store_batch_free(NULL);
    put_experiment(NULL, 1); /* out of memory: nothing happens ... */
    store_submit(store, NULL, note, &ones[0]); /* ... until it is submitted, which fails for good */
    store_submit(store, store_batch_new(), note, &ones[1]);
    store_flush(store);
    assert_int_equal(told.statuses[0], -ENOMEM);
    assert_int_equal(told.statuses[1], -ENOMEM);
    assert_non_null(strstr(store_failure(store), "out of memory"));
    store_close(store);
}

static void a_batch_that_cannot_be_carried_out_fails_alone_with_all_after_it(void **state)
{
    struct home *home = *state;
    struct store *store = open_store(home->path, NULL);
    struct told told = {0};
    struct told_one ones[4];

    for (int i = 0; i < 4; i++) {
        struct store_batch *batch = store_batch_new();
        put_experiment(batch, i + 1);
        if (i == 2)
            put_trial(batch, 99, 5, "{}"); /* an experiment that is not there */
        ones[i] = (struct told_one){&told, i};
        store_submit(store, batch, note, &ones[i]);
    }
    store_flush(store);
    assert_int_equal(told.n, 4);
    assert_int_equal(told.statuses[0], 0);
    assert_int_equal(told.statuses[1], 0);
    assert_int_equal(told.statuses[2], -EINVAL);
    assert_int_equal(told.statuses[3], -EINVAL);
    assert_non_null(strstr(store_failure(store), "put_trial of 99, 5"));
    assert_non_null(strstr(store_failure(store), "FOREIGN KEY"));
    store_close(store);
    assert_query(home->path, "SELECT group_concat(id) FROM experiments", "1,2");
}

static void names_the_row_whose_deferred_key_is_broken(void **state)
{
    struct home *home = *state;
    struct store *store = open_store(home->path, NULL);
    struct store_batch *batch = store_batch_new();

    put_experiment(batch, 1);
    put_trial(batch, 1, 1, "{}");
    store_put_trial_best(batch, (struct trial_ref){1, 1}, 0.5, 4, 77); /* no such checkpoint */
    store_submit(store, batch, NULL, NULL);
    store_flush(store);
    assert_non_null(strstr(store_failure(store), "row 1 of trials names a row of checkpoints that is not there"));
    store_close(store);
}

static void a_change_of_what_is_not_there_is_an_error(void **state)
{
    struct home *home = *state;
    struct store *store = open_store(home->path, NULL);
    struct store_batch *batch = store_batch_new();

    store_put_trial_state(batch, (struct trial_ref){4, 2}, "running", NULL, NULL, 0, T0);
    store_submit(store, batch, NULL, NULL);
    store_flush(store);
    assert_non_null(strstr(store_failure(store), "put_trial_state of 4, 2: trial_state: there is no such row"));
    store_close(store);
}

static struct store *filled(struct home *home)
{
    struct store *store = open_store(home->path, NULL);
    struct store_batch *batch = store_batch_new();

    put_experiment(batch, 1);
    put_trial(batch, 1, 1, "{'lr':0.1}");
    put_run(batch, 1, 1, 1, 1, 0);
    commit(store, batch);
    return store;
}

static void keeps_a_report_with_its_clients(void **state)
{
    struct home *home = *state;
    struct store *store = filled(home);
    struct store_batch *batch = store_batch_new();

    put_report(batch, 1, 1, 1, 1,
               "{'kind':'training','units':{'rounds':1,'epochs':0.5,'batches':80},'metrics':{'train_loss':2.1},"
               "'clients':[{'client':4,'samples':900,'seconds':0.25,'metrics':{'train_loss':2.0}},"
               "{'client':7,'samples':100,'seconds':0.5,'status':'dropped','metrics':{}},"
               "{'client':-3,'samples':1}]}");
    put_report(batch, 1, 1, 1, 2,
               "{'kind':'validation','units':{'rounds':1},'metrics':{'validation_accuracy':0.25},'clients':["
               "{'client':4,'metrics':{'client_validation_accuracy':0.75,'own':3}}]}");
    commit(store, batch);
    store_close(store);
    assert_query(home->path, "SELECT seq, kind, unit, rounds, epochs, batches, samples, time FROM v_reports",
                 "1|training|1.0|1.0|0.5|80.0|NULL|2026-05-28T20:26:51.000Z\n"
                 "2|validation|1.0|1.0|NULL|NULL|NULL|2026-05-28T20:26:52.000Z");
    assert_query(home->path, "SELECT trial, unit, name, value, status, run, seq, time FROM v_metrics ORDER BY name",
                 "1|1.0|train_loss|2.1|finite|1|1|2026-05-28T20:26:51.000Z\n"
                 "1|1.0|validation_accuracy|0.25|finite|1|2|2026-05-28T20:26:52.000Z");
    assert_query(home->path, "SELECT client, name, value FROM v_client_metrics ORDER BY name",
                 "4|client_validation_accuracy|0.75\n4|own|3.0\n4|train_loss|2.0");
    /* both messages of the round, in one row; the client that dropped has one too */
    assert_query(home->path,
                 "SELECT round, client, samples, seconds, status, train_loss, validation_accuracy FROM v_client_rounds",
                 "1.0|4|900|0.25|NULL|2.0|0.75\n1.0|7|100|0.5|dropped|NULL|NULL");
    assert_query(home->path, "SELECT unit, latest_value, latest_unit FROM v_trials", "1.0|0.25|1.0");
}

static void keeps_every_step_of_a_report_of_many(void **state)
{
    struct home *home = *state;
    struct store *store = filled(home);
    struct store_batch *batch = store_batch_new();

    put_report(batch, 1, 1, 1, 1,
               "{'kind':'validation','steps':[{'units':{'rounds':1},'metrics':{'validation_accuracy':0.1}},"
               "{'units':{'rounds':2},'metrics':{'validation_accuracy':0.2}},"
               "{'units':{'rounds':3},'metrics':{'validation_accuracy':0.3}}]}");
    commit(store, batch);
    store_close(store);
    assert_query(home->path, "SELECT unit, value FROM v_metrics ORDER BY unit", "1.0|0.1\n2.0|0.2\n3.0|0.3");
    assert_query(home->path, "SELECT count(*), max(step) FROM v_reports", "3|2");
    assert_query(home->path, "SELECT unit, latest_value FROM v_trials", "3.0|0.3");
}

static void a_report_that_comes_twice_changes_nothing(void **state)
{
    struct home *home = *state;
    struct store *store = filled(home);
    const char *first = "{'kind':'validation','units':{'rounds':1},'metrics':{'validation_accuracy':0.5},'clients':"
                        "[{'client':1,'samples':10,'metrics':{'train_loss':1.5}}]}";

    for (int i = 0; i < 3; i++) {
        struct store_batch *batch = store_batch_new();
        put_report(batch, 1, 1, 1, 1, first);
        if (i == 0)
            put_report(batch, 1, 1, 1, 2,
                       "{'kind':'validation','units':{'rounds':2},'metrics':{'validation_accuracy':0.6}}");
        put_checkpoint(batch, 1, 1, 5, 1, 3, 1);
        commit(store, batch);
    }
    store_close(store);
    assert_query(home->path,
                 "SELECT count(*) FROM metrics; SELECT count(*) FROM client_rounds; SELECT count(*) FROM reports;"
                 "SELECT count(*) FROM checkpoints; SELECT last_seq FROM v_runs",
                 "3\n1\n2\n1\n3");
    /* an old message that comes again does not turn the clock back */
    assert_query(home->path, "SELECT unit, latest_value, latest_unit FROM v_trials", "2.0|0.6|2.0");
}

static void the_first_value_of_a_unit_stands_within_a_run(void **state)
{
    struct home *home = *state;
    struct store *store = filled(home);
    struct store_batch *batch = store_batch_new();

    put_report(batch, 1, 1, 1, 1, "{'kind':'validation','units':{'rounds':1},'metrics':{'validation_accuracy':0.5}}");
    put_report(batch, 1, 1, 1, 2, "{'kind':'validation','units':{'rounds':1},'metrics':{'validation_accuracy':0.9}}");
    commit(store, batch);
    store_close(store);
    assert_query(home->path, "SELECT value FROM v_metrics", "0.5");
}

static void views_show_the_latest_run_where_runs_overlap(void **state)
{
    struct home *home = *state;
    struct store *store = filled(home);
    struct store_batch *batch = store_batch_new();
    char body[200];

    for (int unit = 1; unit <= 4; unit++) {
        snprintf(body, sizeof body,
                 "{'kind':'validation','units':{'rounds':%d},'metrics':{'validation_accuracy':%g},"
                 "'clients':[{'client':2,'samples':1,'metrics':{'train_loss':%g}}]}",
                 unit, unit / 10.0, 1.0 / unit);
        put_report(batch, 1, 1, 1, unit, body);
    }
    put_checkpoint(batch, 1, 1, 1, 1, 5, 2);
    store_put_run_end(batch, 1, "exit", "killed", T0 + 20 * SECOND);
    put_run(batch, 1, 1, 2, 2, 1);
    for (int unit = 3; unit <= 3; unit++) { /* resumed after 2; so far it has come to 3 */
        snprintf(body, sizeof body,
                 "{'kind':'validation','units':{'rounds':%d},'metrics':{'validation_accuracy':%g},"
                 "'clients':[{'client':2,'samples':2,'metrics':{'train_loss':%g}}]}",
                 unit, unit / 100.0, 10.0 * unit);
        put_report(batch, 1, 1, 2, unit - 2, body);
    }
    commit(store, batch);
    assert_query(home->path, "SELECT unit, value, run FROM v_metrics ORDER BY unit",
                 "1.0|0.1|1\n2.0|0.2|1\n3.0|0.03|2\n4.0|0.4|1");
    assert_query(home->path, "SELECT unit, value, run FROM v_client_metrics ORDER BY unit",
                 "1.0|1.0|1\n2.0|0.5|1\n3.0|30.0|2\n4.0|0.25|1");
    assert_query(home->path, "SELECT round, samples FROM v_client_rounds ORDER BY round", "1.0|1\n2.0|1\n3.0|2\n4.0|1");
    assert_query(home->path, "SELECT count(*) FROM metrics", "10"); /* nothing of the first run is lost */
    json_t *answer;
    struct error err = {0};
    assert_int_equal(store_read_metrics(store, (struct trial_ref){1, 1}, "validation_accuracy", -1, &answer, &err), 0);
    assert_json(at(answer, "metrics[2]"),
                "{'name':'validation_accuracy','unit':3,'client':-1,'value':0.03,'run':2,'time':'2026-05-28T20:27:01.000Z'}");
    assert_int_equal(json_array_size(at(answer, "metrics")), 4);
    json_decref(answer);
    store_close(store);
}

static void values_that_are_not_finite_come_back(void **state)
{
    struct home *home = *state;
    struct store *store = filled(home);
    struct store_batch *batch = store_batch_new();
    struct error err = {0};
    json_t *answer;

    put_report(batch, 1, 1, 1, 1,
               "{'kind':'training','units':{'rounds':1},'metrics':{'a':'NaN','b':'Infinity','c':'-Infinity','d':1e308},"
               "'clients':[{'client':0,'samples':5,'metrics':{'train_loss':'NaN','train_accuracy':0.5,"
               "'client_validation_loss':'Infinity'}}]}");
    put_report(batch, 1, 1, 1, 2, "{'kind':'validation','units':{'rounds':1},'metrics':{'validation_accuracy':'NaN'}}");
    put_checkpoint(batch, 1, 1, 1, 1, 3, 1);
    store_put_trial_best(batch, (struct trial_ref){1, 1}, -INFINITY, 1, 1);
    commit(store, batch);
    assert_query(home->path, "SELECT name, value, status FROM v_metrics ORDER BY name",
                 "a|NULL|NaN\nb|NULL|Infinity\nc|NULL|-Infinity\nd|1.0e+308|finite\nvalidation_accuracy|NULL|NaN");
    assert_query(home->path, "SELECT train_loss, train_accuracy, validation_loss, non_finite FROM v_client_rounds",
                 "NULL|0.5|NULL|5");
    assert_query(home->path, "SELECT latest_value, latest_status FROM v_trials", "NULL|NaN");
    assert_int_equal(store_read_metrics(store, (struct trial_ref){1, 1}, NULL, -1, &answer, &err), 0);
    assert_json(at(answer, "metrics[0].value"), "'NaN'");
    assert_json(at(answer, "metrics[1].value"), "'Infinity'");
    assert_json(at(answer, "metrics[2].value"), "'-Infinity'");
    json_decref(answer);
    assert_int_equal(store_read_trial(store, (struct trial_ref){1, 1}, &answer, &err), 0);
    assert_json(at(answer, "latest_metric"), "'NaN'");
    assert_json(at(answer, "best_metric"), "'-Infinity'");
    json_decref(answer);
    store_close(store);
}

static void a_report_without_the_experiments_unit_is_kept_at_minus_one(void **state)
{
    struct home *home = *state;
    struct store *store = filled(home);
    struct store_batch *batch = store_batch_new();

    put_report(batch, 1, 1, 1, 1, "{'kind':'training','units':{'batches':9},'metrics':{'train_loss':1}}");
    commit(store, batch);
    store_close(store);
    assert_query(home->path, "SELECT unit, value FROM v_metrics; SELECT batches FROM v_reports; SELECT unit FROM"
                             " v_trials",
                 "-1.0|1.0\n9.0\nNULL");
}

static void text_that_is_not_utf8_is_kept_readable(void **state)
{
    struct home *home = *state;
    struct store *store = filled(home);
    struct store_batch *batch = store_batch_new();
    struct error err = {0};
    json_t *answer;

    store_put_log(batch, (struct trial_ref){1, 1}, 1, "info", "gr\xc3\xbc\xdf \xff\xc0\x80 \xed\xa0\x80"
                                                              " \xf0\x9f\x98\x80 \xe2\x82", T0);
    commit(store, batch);
    assert_int_equal(store_read_logs(store, (struct trial_ref){1, 1}, 0, 10, &answer, &err), 0);
    assert_string_equal(json_string_value(at(answer, "lines[0].text")),
                        "gr\xc3\xbc\xef\xbf\xbd \xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"
                        " \xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd "
                        "\xf0\x9f\x98\x80 \xef\xbf\xbd\xef\xbf\xbd");
    json_decref(answer);
    store_close(store);
}

static void the_journal_is_append_only_and_has_no_gaps(void **state)
{
    struct home *home = *state;
    struct store *store = filled(home);
    struct store_batch *batch = store_batch_new();
    sqlite3 *db;

    store_put_journal(batch, 1, 1, "event", 0, NULL, T0);
    store_put_journal(batch, 1, 2, "operations", 1, NULL, T0);
    commit(store, batch);
    assert_int_equal(sqlite3_open(home->path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, "UPDATE journal SET body = '1'", NULL, NULL, NULL), SQLITE_CONSTRAINT);
    assert_int_equal(sqlite3_exec(db, "DELETE FROM journal", NULL, NULL, NULL), SQLITE_CONSTRAINT);
    sqlite3_close(db);
    batch = store_batch_new();
    store_put_journal(batch, 1, 4, "event", 0, NULL, T0);
    store_submit(store, batch, NULL, NULL);
    store_flush(store);
    assert_non_null(strstr(store_failure(store), "the journal has no gaps"));
    assert_non_null(strstr(store_failure(store), "put_journal of 1, 4"));
    store_close(store);
}

static void a_large_batch_is_one_transaction(void **state)
{
    struct home *home = *state;
    struct store *store = filled(home);
    struct store_batch *batch = store_batch_new();
    char body[160];

    for (int i = 1; i <= 50000; i++) {
        snprintf(body, sizeof body,
                 "{'kind':'training','units':{'rounds':%d},'metrics':{'train_loss':%g,'grad_norm':1}}", i, 1.0 / i);
        put_report(batch, 1, 1, 1, i, body);
    }
    char *big = malloc(3000001);
    memset(big, 'x', 3000000);
    big[3000000] = 0;
    store_put_log(batch, (struct trial_ref){1, 1}, 1, "info", big, T0);
    free(big);
    commit(store, batch);
    store_close(store);
    assert_query(home->path, "SELECT count(*) FROM metrics; SELECT length(text) FROM logs", "100000\n3000000");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        test_in_home(creates_a_database_and_finds_it_again),
        test_in_home(callbacks_come_in_the_order_of_submission),
        test_in_home(a_callback_may_submit_and_flush_waits_for_that_too),
        test_in_home(wakes_the_loop_when_there_is_something_to_poll),
        test_in_home(close_commits_and_reports_what_was_submitted),
        test_in_home(batches_can_be_thrown_away_or_be_missing),
        test_in_home(a_batch_that_cannot_be_carried_out_fails_alone_with_all_after_it),
        test_in_home(names_the_row_whose_deferred_key_is_broken),
        test_in_home(a_change_of_what_is_not_there_is_an_error),
        test_in_home(keeps_a_report_with_its_clients),
        test_in_home(keeps_every_step_of_a_report_of_many),
        test_in_home(a_report_that_comes_twice_changes_nothing),
        test_in_home(the_first_value_of_a_unit_stands_within_a_run),
        test_in_home(views_show_the_latest_run_where_runs_overlap),
        test_in_home(values_that_are_not_finite_come_back),
        test_in_home(a_report_without_the_experiments_unit_is_kept_at_minus_one),
        test_in_home(text_that_is_not_utf8_is_kept_readable),
        test_in_home(the_journal_is_append_only_and_has_no_gaps),
        test_in_home(a_large_batch_is_one_transaction),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
