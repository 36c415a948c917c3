/* test_read.c - the answers to read verbs, field by field; and reading while a writer is at work.
 * SPDX-License-Identifier: Apache-2.0 */
#include "store_test.h"
#include "orchestrator/store/store_private.h"

#include <pthread.h>

#define REF(e, n) ((struct trial_ref){e, n})

static json_t *describe(struct store *store, int64_t experiment)
{
    struct error err = {0};
    json_t *answer = NULL;

    if (store_read_describe(store, experiment, &answer, &err))
        fail_msg("%s", err.text);
    assert_int_equal(json_int_or(answer, "schema_version", 0), 1);
    return answer;
}

static void a_fresh_experiment_describes_itself_with_nulls(void **state)
{
    struct home *home = *state;
    struct store *store = open_store(home->path, NULL);
    struct store_batch *batch = store_batch_new();
    json_t *answer;

    put_experiment(batch, 1);
    commit(store, batch);
    answer = describe(store, 1);
    assert_json(at(answer, "id"), "1");
    assert_json(at(answer, "name"), "'night'");
    assert_json(at(answer, "description"), "'a test'");
    assert_json(at(answer, "labels"), "['one','two']");
    assert_json(at(answer, "state"), "'active'");
    assert_json(at(answer, "progress"), "0");
    assert_json(at(answer, "metric"), "'validation_accuracy'");
    assert_json(at(answer, "smaller_is_better"), "false");
    assert_json(at(answer, "time_metric"), "'rounds'");
    assert_json(at(answer, "searcher"), "'adaptive_asha'");
    static const char *const NULLS[] = {"reason", "best_trial_id", "best_validation_metrics", "best_hyperparameters",
                                        "best_checkpoint", "best_model", "test_metrics"};
    for (size_t i = 0; i < sizeof NULLS / sizeof *NULLS; i++)
        assert_true(json_is_null(at(answer, NULLS[i])));
    assert_json(at(answer, "trials"), "{'queued':0,'running':0,'waiting':0,'paused':0,'completed':0,'stopped':0,"
                                      "'canceled':0,'error':0,'total':0}");
    assert_json(at(answer, "failures"), "{}");
    assert_json(at(answer, "top"), "[]");
    assert_json(at(answer, "isa"), "[]");
    assert_json(at(answer, "timings.created"), "'2026-05-28T20:26:40.000Z'");
    assert_json(at(answer, "timings.started"), "null");
    assert_json(at(answer, "timings.trained_seconds"), "0.0");
    assert_json(at(answer, "config"), CONFIG);
    assert_json(at(answer, "config_text"), "'name: night # as given\\n'");
    json_decref(answer);
    store_close(store);
}

/* Seven trials; 3 is best; 5 and 6 failed; 7 runs. */
static void put_seven(struct store *store)
{
    struct store_batch *batch = store_batch_new();
    json_t *metrics = json_of("{'validation_accuracy':0.875,'validation_loss':0.25}"),
        *test = json_of("{'test_accuracy':0.75}");
    char body[200];

    put_experiment(batch, 1);
    for (int i = 1; i <= 7; i++) {
        snprintf(body, sizeof body, "{'lr':%d}", i);
        put_trial(batch, 1, i, body);
        put_run(batch, 1, i, i, 1, 0);
        store_put_trial_state(batch, REF(1, i), "running", NULL, NULL, 0, T0 + i * 10 * SECOND);
        if (i == 5 || i == 6)
            continue;
        snprintf(body, sizeof body, "{'kind':'validation','units':{'rounds':4},'metrics':{'validation_accuracy':%g}}",
                 i == 3 ? 0.875 : i / 16.0);
        put_report(batch, 1, i, i, 1, body);
        put_checkpoint(batch, 1, i, i, i, 2, 4);
        store_put_trial_best(batch, REF(1, i), i == 3 ? 0.875 : i / 16.0, 4, i);
    }
    for (int i = 1; i <= 6; i++) {
        store_put_run_end(batch, i, i < 5 ? "length" : "exit", i < 5 ? NULL : "exit status 1",
                          T0 + i * 10 * SECOND + 4 * SECOND);
        store_put_trial_state(batch, REF(1, i), i < 5 ? "completed" : "error", i < 5 ? "length" : "exit", NULL, 0,
                              T0 + i * 10 * SECOND + 4 * SECOND);
    }
    store_put_experiment_best(batch, 1, 3, 4, metrics, 3);
    store_put_test(batch, REF(1, 3), 3, 4, test, "best", T0 + 100 * SECOND);
    store_put_experiment_progress(batch, 1, 0.5);
    commit(store, batch);
    json_decref(metrics);
    json_decref(test);
}

static void describes_the_best_trial_the_top_five_and_the_failures(void **state)
{
    struct home *home = *state;
    struct store *store = open_store(home->path, NULL);
    json_t *answer;
    int order[] = {3, 7, 4, 2, 1};

    put_seven(store);
    answer = describe(store, 1);
    assert_json(at(answer, "best_trial_id"), "3");
    assert_json(at(answer, "best_validation_metrics"),
                "{'validation_accuracy':0.875,'validation_loss':0.25,'round':4,'unit':4,'trial_id':3}");
    assert_json(at(answer, "best_hyperparameters"), "{'lr':3}");
    assert_json(at(answer, "best_checkpoint"), "{'path':'experiments/1/trials/3/runs/3/checkpoint-4.safetensors',"
                                               "'unit':4,'trial_id':3,'checkpoint':3,'bytes':1003}");
    assert_json(at(answer, "best_model"), "'experiments/1/trials/3/model.safetensors'");
    assert_json(at(answer, "test_metrics"), "{'test_accuracy':0.75,'trial_id':3,'unit':4,'by':'best'}");
    assert_json(at(answer, "trials"), "{'queued':0,'running':1,'waiting':0,'paused':0,'completed':4,'stopped':0,"
                                      "'canceled':0,'error':2,'total':7}");
    assert_json(at(answer, "failures"), "{'exit':2}");
    assert_json(at(answer, "runs_by_reason"), "{'length':4,'exit':2,'running':1}");
    assert_json(at(answer, "isa"), "['avx2']");
    assert_int_equal(json_array_size(at(answer, "top")), 5);
    for (int i = 0; i < 5; i++)
        assert_int_equal(json_int_or(json_array_get(at(answer, "top"), (size_t)i), "id", 0), order[i]);
    assert_json(at(answer, "top[0].hyperparameters"), "{'lr':3}");
    assert_json(at(answer, "top[0].best_metric"), "0.875");
    /* 6 runs of 4 s on 2 slots, and the open one until its latest report, 2 s */
    assert_json(at(answer, "timings.trained_seconds"), "26.0");
    assert_json(at(answer, "timings.slot_seconds"), "52.0");
    assert_json(at(answer, "timings.started"), "'2026-05-28T20:26:50.000Z'");
    assert_json(at(answer, "timings.ended"), "null");
    json_decref(answer);
    store_close(store);
}

static void smaller_is_better_turns_the_top_around(void **state)
{
    struct home *home = *state;
    struct store *store = open_store(home->path, NULL);
    json_t *answer;

    put_seven(store);
    free(query(home->path, "UPDATE experiments SET smaller_is_better = 1"));
    answer = describe(store, 1);
    assert_json(at(answer, "top[0].id"), "1");
    assert_json(at(answer, "top[4].id"), "3");
    json_decref(answer);
    store_close(store);
}

static void the_round_of_the_best_is_told_where_units_are_not_rounds(void **state)
{
    struct home *home = *state;
    struct store *store = open_store(home->path, NULL);
    struct store_batch *batch = store_batch_new();
    json_t *resolved = json_of("{'searcher':{'name':'random','metric':'validation_loss','time_metric':'batches'}}");
    json_t *body = json_of("{'kind':'validation','units':{'rounds':3,'batches':240},"
                           "'metrics':{'validation_loss':0.5}}"), *answer;

    store_put_experiment(batch, 1, "x", "", resolved, "active", T0);
    put_trial(batch, 1, 1, "{}");
    put_run(batch, 1, 1, 1, 1, 0);
    store_put_report(batch, REF(1, 1), 1, 1, body, "batches", T0);
    put_checkpoint(batch, 1, 1, 1, 1, 2, 240);
    store_put_trial_best(batch, REF(1, 1), 0.5, 240, 1);
    store_put_experiment_best(batch, 1, 1, 240, json_object_get(body, "metrics"), 1);
    commit(store, batch);
    answer = describe(store, 1);
    assert_json(at(answer, "best_validation_metrics"), "{'validation_loss':0.5,'round':3,'unit':240,'trial_id':1}");
    assert_json(at(answer, "smaller_is_better"), "true"); /* by its name, where the file does not say */
    assert_query(home->path, "SELECT best_value FROM v_experiments", "0.5");
    json_decref(answer);
    json_decref(body);
    json_decref(resolved);
    store_close(store);
}

static void a_finished_experiment_has_its_times(void **state)
{
    struct home *home = *state;
    struct store *store = open_store(home->path, NULL);
    struct store_batch *batch = store_batch_new();
    json_t *answer;

    put_experiment(batch, 1);
    put_trial(batch, 1, 1, "{'lr':0.1}");
    put_run(batch, 1, 1, 1, 1, 0);
    put_report(batch, 1, 1, 1, 1, "{'kind':'training','units':{'rounds':1},'metrics':{'train_loss':1}}");
    store_put_run_end(batch, 1, "stopped", NULL, T0 + 80 * SECOND);
    store_put_experiment_state(batch, 1, "canceled", "by request", T0 + 90 * SECOND);
    commit(store, batch);
    answer = describe(store, 1);
    assert_json(at(answer, "state"), "'canceled'");
    assert_json(at(answer, "reason"), "'by request'");
    assert_json(at(answer, "timings.ended"), "'2026-05-28T20:28:10.000Z'");
    assert_json(at(answer, "timings.elapsed_seconds"), "90.0");
    assert_json(at(answer, "timings.latest_report"), "'2026-05-28T20:26:51.000Z'");
    json_decref(answer);
    store_close(store);
}

static void lists_what_goes_on_and_the_newest(void **state)
{
    struct home *home = *state;
    struct store *store = open_store(home->path, NULL);
    struct store_batch *batch = store_batch_new();
    json_t *answer;

    for (int i = 1; i <= 60; i++) {
        put_experiment(batch, i);
        if (i != 2)
            store_put_experiment_state(batch, i, "completed", NULL, T0 + SECOND);
    }
    put_trial(batch, 2, 1, "{}");
    commit(store, batch);
    assert_int_equal(store_read_list(store, false, &answer, NULL), 0);
    assert_int_equal(json_array_size(at(answer, "experiments")), 51); /* 2, and 11 to 60 */
    assert_json(at(answer, "experiments[0].id"), "2");
    assert_json(at(answer, "experiments[0].trials.queued"), "1");
    assert_json(at(answer, "experiments[0].trials.total"), "1");
    assert_json(at(answer, "experiments[1].id"), "11");
    assert_json(at(answer, "total"), "60");
    json_decref(answer);
    assert_int_equal(store_read_list(store, true, &answer, NULL), 0);
    assert_int_equal(json_array_size(at(answer, "experiments")), 60);
    assert_json(at(answer, "experiments[59].best_metric"), "null");
    json_decref(answer);
    store_close(store);
}

static void trials_are_told_in_the_order_of_their_numbers(void **state)
{
    struct home *home = *state;
    struct store *store = open_store(home->path, NULL);
    json_t *answer;

    put_seven(store);
    assert_int_equal(store_read_trials(store, 1, &answer, NULL), 0);
    assert_json(at(answer, "metric"), "'validation_accuracy'");
    assert_json(at(answer, "smaller_is_better"), "false");
    assert_int_equal(json_array_size(at(answer, "trials")), 7);
    assert_json(at(answer, "trials[3]"),
                "{'id':4,'state':'completed','reason':'length','text':null,'hyperparameters':{'lr':4},'restarts':0,"
                "'runs':1,'slots':2,'units':4,'best_metric':0.25,'best_unit':4,'latest_metric':0.25,'latest_unit':4,"
                "'created':'2026-05-28T20:26:44.000Z','started':'2026-05-28T20:27:20.000Z',"
                "'ended':'2026-05-28T20:27:24.000Z','trained_seconds':4.0,'slot_seconds':8.0}");
    assert_json(at(answer, "trials[4].best_metric"), "null");
    assert_json(at(answer, "trials[6].trained_seconds"), "2.0"); /* it goes on: until its latest report */
    assert_json(at(answer, "trials[6].slot_seconds"), "4.0");
    json_decref(answer);
    store_close(store);
}

static void a_trial_tells_all_of_itself(void **state)
{
    struct home *home = *state;
    struct store *store = open_store(home->path, NULL);
    struct store_batch *batch = store_batch_new();
    json_t *answer;

    put_seven(store);
    put_report(batch, 1, 7, 7, 3, "{'kind':'training','units':{'rounds':5},'metrics':{'train_loss':'Infinity'}}");
    put_run(batch, 1, 7, 8, 2, 7);
    put_report(batch, 1, 7, 8, 1, "{'kind':'validation','units':{'rounds':6},'metrics':{'validation_accuracy':0.5}}");
    store_put_checkpoint_deleted(batch, 7, T0 + 200 * SECOND);
    commit(store, batch);
    assert_int_equal(store_read_trial(store, REF(1, 7), &answer, NULL), 0);
    assert_json(at(answer, "schema_version"), "1");
    assert_json(at(answer, "experiment"), "1");
    assert_json(at(answer, "id"), "7");
    assert_json(at(answer, "runs"), "2");
    assert_json(at(answer, "metric"), "'validation_accuracy'");
    assert_json(at(answer, "best_checkpoint"), "null"); /* its file is gone */
    assert_json(at(answer, "run_list[0]"),
                "{'run':7,'attempt':1,'slots':['cpu:0','cpu:1'],'pid':4711,'isa':'avx2','resumed_from':null,"
                "'started':'2026-05-28T20:27:50.000Z','ended':null,'reason':null,'text':null,"
                "'cpu_cores_mean':null,'memory_bytes_peak':null,'gpu_mean':null,'gpu_memory_bytes_peak':null,"
                "'log':'experiments/1/trials/7/runs/7/output.log'}");
    assert_json(at(answer, "run_list[1].resumed_from"), "7");
    assert_json(at(answer, "checkpoints"),
                "[{'checkpoint':7,'run':7,'unit':4,'path':'experiments/1/trials/7/runs/7/checkpoint-4.safetensors',"
                "'bytes':1007,'created':'2026-05-28T20:27:52.000Z','deleted':'2026-05-28T20:30:00.000Z'}]");
    assert_json(at(answer, "metrics"),
                "{'train_loss':{'value':'Infinity','unit':5},'validation_accuracy':{'value':0.5,'unit':6}}");
    assert_json(at(answer, "curve"), "[{'unit':4,'value':0.4375,'run':7},{'unit':6,'value':0.5,'run':8}]");
    assert_json(at(answer, "tests"), "[]");
    json_decref(answer);
    assert_int_equal(store_read_trial(store, REF(1, 3), &answer, NULL), 0);
    assert_json(at(answer, "tests"), "[{'metrics':{'test_accuracy':0.75},'unit':4,'by':'best',"
                                     "'time':'2026-05-28T20:28:20.000Z'}]");
    json_decref(answer);
    store_close(store);
}

static void metrics_are_told_for_the_federation_a_client_or_all(void **state)
{
    struct home *home = *state;
    struct store *store = open_store(home->path, NULL);
    struct store_batch *batch = store_batch_new();
    struct error err = {0};
    json_t *answer;

    put_experiment(batch, 1);
    put_trial(batch, 1, 1, "{}");
    put_run(batch, 1, 1, 1, 1, 0);
    commit(store, batch);
    /* nothing reported yet: no rows, no error */
    assert_int_equal(store_read_metrics(store, REF(1, 1), "train_loss", -1, &answer, NULL), 0);
    assert_json(at(answer, "metrics"), "[]");
    json_decref(answer);
    batch = store_batch_new();
    put_report(batch, 1, 1, 1, 1,
               "{'kind':'training','units':{'rounds':0.5},'metrics':{'train_loss':3},'clients':["
               "{'client':0,'metrics':{'train_loss':1}},{'client':5,'metrics':{'train_loss':2,'own':9}}]}");
    commit(store, batch);
    assert_int_equal(store_read_metrics(store, REF(1, 1), "train_loss", -1, &answer, NULL), 0);
    assert_json(at(answer, "metrics"), "[{'name':'train_loss','unit':0.5,'client':-1,'value':3.0,'run':1,'time':'2026-05-28T20:26:51.000Z'}]");
    json_decref(answer);
    assert_int_equal(store_read_metrics(store, REF(1, 1), "train_loss", 5, &answer, NULL), 0);
    assert_json(at(answer, "metrics"), "[{'name':'train_loss','unit':0.5,'client':5,'value':2.0,'run':1,'time':'2026-05-28T20:26:51.000Z'}]");
    json_decref(answer);
    assert_int_equal(store_read_metrics(store, REF(1, 1), NULL, -2, &answer, NULL), 0);
    assert_json(at(answer, "metrics"), "[{'name':'own','unit':0.5,'client':5,'value':9.0,'run':1,'time':'2026-05-28T20:26:51.000Z'},"
                                       "{'name':'train_loss','unit':0.5,'client':0,'value':1.0,'run':1,'time':'2026-05-28T20:26:51.000Z'},"
                                       "{'name':'train_loss','unit':0.5,'client':5,'value':2.0,'run':1,'time':'2026-05-28T20:26:51.000Z'}]");
    json_decref(answer);
    assert_int_equal(store_read_metrics(store, REF(1, 1), "train_los", -1, &answer, &err), -ENOENT);
    assert_string_equal(err.text, "trial 1/1 has no metric \"train_los\": it has own, train_loss");
    store_close(store);
}

static void logs_go_on_after_the_last_line(void **state)
{
    struct home *home = *state;
    struct store *store = open_store(home->path, NULL);
    struct store_batch *batch = store_batch_new();
    json_t *answer;

    put_experiment(batch, 1);
    put_experiment(batch, 2);
    put_trial(batch, 1, 1, "{}");
    put_trial(batch, 1, 2, "{}");
    put_run(batch, 1, 1, 1, 1, 0);
    store_put_log(batch, REF(1, 0), 0, "info", "about the experiment", T0);
    store_put_log(batch, REF(1, 1), 1, "error", "one", T0 + 1000);
    store_put_log(batch, REF(2, 0), 0, "info", "another experiment's", T0);
    store_put_log(batch, REF(1, 2), 0, "info", "two", T0);
    store_put_log(batch, REF(1, 1), 1, "info", "three", T0);
    commit(store, batch);
    assert_int_equal(store_read_logs(store, REF(1, 0), 0, 2, &answer, NULL), 0);
    assert_json(at(answer, "lines"),
                "[{'id':1,'time':'2026-05-28T20:26:40.000Z','trial':null,'run':null,'level':'info','text':'about the"
                " experiment'},"
                "{'id':2,'time':'2026-05-28T20:26:40.001Z','trial':1,'run':1,'level':'error','text':'one'}]");
    assert_json(at(answer, "last"), "2");
    json_decref(answer);
    assert_int_equal(store_read_logs(store, REF(1, 0), 2, 10, &answer, NULL), 0);
    assert_int_equal(json_array_size(at(answer, "lines")), 2);
    assert_json(at(answer, "lines[0].text"), "'two'");
    assert_json(at(answer, "last"), "5");
    json_decref(answer);
    assert_int_equal(store_read_logs(store, REF(1, 1), 2, 10, &answer, NULL), 0);
    assert_int_equal(json_array_size(at(answer, "lines")), 1);
    json_decref(answer);
    assert_int_equal(store_read_logs(store, REF(1, 1), 5, 10, &answer, NULL), 0);
    assert_json(at(answer, "last"), "5"); /* nothing new */
    json_decref(answer);
    store_close(store);
}

static void says_which_experiment_or_trial_is_not_there(void **state)
{
    struct home *home = *state;
    struct store *store = open_store(home->path, NULL);
    struct store_batch *batch = store_batch_new();
    struct error err = {0};
    json_t *answer = NULL;

    assert_int_equal(store_read_describe(store, 1, &answer, &err), -ENOENT);
    assert_string_equal(err.text, "there is no experiment 1: this home has none");
    assert_int_equal(store_read_list(store, false, &answer, &err), 0);
    assert_json(at(answer, "experiments"), "[]");
    json_decref(answer);
    answer = NULL;
    put_experiment(batch, 1);
    put_experiment(batch, 2);
    put_trial(batch, 1, 1, "{}");
    put_trial(batch, 1, 2, "{}");
    commit(store, batch);
    assert_int_equal(store_read_trials(store, 9, &answer, &err), -ENOENT);
    assert_string_equal(err.text, "there is no experiment 9: the newest is 2 (flexp list shows all)");
    assert_int_equal(store_read_trial(store, REF(1, 7), &answer, &err), -ENOENT);
    assert_string_equal(err.text, "experiment 1 has no trial 7: its trials are 1 to 2");
    assert_int_equal(store_read_trial(store, REF(2, 1), &answer, &err), -ENOENT);
    assert_string_equal(err.text, "experiment 2 has no trial yet");
    assert_int_equal(store_read_logs(store, REF(3, 0), 0, 10, &answer, &err), -ENOENT);
    assert_int_equal(store_read_logs(store, REF(1, 5), 0, 10, &answer, &err), -ENOENT);
    assert_int_equal(store_read_metrics(store, REF(8, 1), NULL, -1, &answer, &err), -ENOENT);
    assert_string_equal(err.text, "there is no experiment 8: the newest is 2 (flexp list shows all)");
    assert_null(answer);
    store_close(store);
}

/* --- readers while a writer is at work ---------------------------------------------------------------------------- */

#define ROUNDS 300

struct watching {
    const char *path;
    bool failed;
};

/* Each batch adds one report and says so in the progress: a reader must see both or neither. */
static void *watch(void *arg)
{
    struct watching *watching = arg;
    struct store *store = open_reader(watching->path);
    double progress = 0, before = 0;

    while (progress < 1 && !watching->failed) {
        json_t *answer = NULL;
        if (store_read_describe(store, 1, &answer, NULL)) {
            watching->failed = true;
            break;
        }
        progress = json_double_or(answer, "progress", -1);
        int64_t unit = (int64_t)json_double_or(json_at(answer, "top[0]"), "best_metric", 0);
        watching->failed = progress < before || unit != (int64_t)(progress * ROUNDS + 0.5);
        before = progress;
        json_decref(answer);
    }
    store_close(store);
    return NULL;
}

static void readers_see_whole_batches_while_a_writer_writes(void **state)
{
    struct home *home = *state;
    struct store *store = open_store(home->path, NULL);
    struct store_batch *batch = store_batch_new();
    struct watching watching[2] = {{home->path, false}, {home->path, false}};
    pthread_t threads[2];
    json_t *answer;

    put_experiment(batch, 1);
    put_trial(batch, 1, 1, "{}");
    put_run(batch, 1, 1, 1, 1, 0);
    commit(store, batch);
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, watch, &watching[i]), 0);
    for (int i = 1; i <= ROUNDS; i++) {
        batch = store_batch_new();
        put_checkpoint(batch, 1, 1, i, 1, i, i);
        store_put_trial_best(batch, REF(1, 1), i, i, i);
        store_put_experiment_progress(batch, 1, (double)i / ROUNDS);
        store_submit(store, batch, expect_success, NULL);
        if (i % 16 == 0)
            store_flush(store);
        answer = describe(store, 1); /* and our own reads go on between */
        json_decref(answer);
    }
    store_flush(store);
    for (int i = 0; i < 2; i++) {
        pthread_join(threads[i], NULL);
        assert_false(watching[i].failed);
    }
    store_close(store);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        test_in_home(a_fresh_experiment_describes_itself_with_nulls),
        test_in_home(describes_the_best_trial_the_top_five_and_the_failures),
        test_in_home(smaller_is_better_turns_the_top_around),
        test_in_home(the_round_of_the_best_is_told_where_units_are_not_rounds),
        test_in_home(a_finished_experiment_has_its_times),
        test_in_home(lists_what_goes_on_and_the_newest),
        test_in_home(trials_are_told_in_the_order_of_their_numbers),
        test_in_home(a_trial_tells_all_of_itself),
        test_in_home(metrics_are_told_for_the_federation_a_client_or_all),
        test_in_home(logs_go_on_after_the_last_line),
        test_in_home(says_which_experiment_or_trial_is_not_there),
        test_in_home(readers_see_whole_batches_while_a_writer_writes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
