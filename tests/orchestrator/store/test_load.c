/* test_load.c - a restart gets back exactly what was put.
 * SPDX-License-Identifier: Apache-2.0 */
#include "store_test.h"

static void put_journal(struct store_batch *batch, int64_t experiment, int64_t index, const char *kind, int64_t answers,
                        const char *body)
{
    json_t *value = json_of(body);

    store_put_journal(batch, experiment, index, kind, answers, value, T0 + index);
    json_decref(value);
}

static void put_best(struct store_batch *batch, int64_t experiment, int64_t trial, double unit, const char *metrics,
                     int64_t checkpoint)
{
    json_t *value = json_of(metrics);

    store_put_experiment_best(batch, experiment, trial, unit, value, checkpoint);
    json_decref(value);
}

static struct stored_experiment *load(struct home *home, size_t *n)
{
    struct store *store = open_store(home->path, NULL);
    struct stored_experiment *list = NULL;
    struct error err = {0};

    if (store_load(store, &list, n, &err))
        fail_msg("%s", err.text);
    store_close(store);
    return list;
}

/* Two trials of experiment 2, the first with a run that was lost and one that goes on; all of it in several batches. */
static void put_scenario(struct store *store)
{
    struct trial_ref first = {2, 1};
    struct store_batch *batch = store_batch_new();

    put_experiment(batch, 2);
    put_journal(batch, 2, 1, "event", 0, "{'event':'start'}");
    put_journal(batch, 2, 2, "operations", 1, "[{'op':'create','trial':1,'hyperparameters':{'lr':0.1}}]");
    put_trial(batch, 2, 1, "{'lr':0.10000000000000001,'net':{'layers':3,'name':'gr\xc3\xbc\xc3\x9f'}}");
    put_trial(batch, 2, 2, "{'lr':1e-300}");
    put_run(batch, 2, 1, 5, 1, 0);
    store_put_trial_state(batch, first, "running", NULL, NULL, 0, T0 + 60 * SECOND);
    commit(store, batch);
    batch = store_batch_new();
    put_report(batch, 2, 1, 5, 1, "{'kind':'validation','units':{'rounds':4},'metrics':{'validation_accuracy':0.5}}");
    put_checkpoint(batch, 2, 1, 10, 5, 2, 4);
    put_checkpoint(batch, 2, 1, 11, 5, 3, 5);
    put_report(batch, 2, 1, 5, 4, "{'kind':'validation','units':{'rounds':6},'metrics':{'validation_accuracy':'NaN'}}");
    put_checkpoint(batch, 2, 1, 12, 5, 5, 6);
    put_checkpoint(batch, 2, 1, 13, 5, 6, 7);
    store_put_checkpoint_deleted(batch, 13, T0 + 70 * SECOND);
    store_put_trial_best(batch, first, 0.5, 4, 10);
    put_best(batch, 2, 1, 4, "{'validation_accuracy':0.5,'validation_loss':1.25}", 10);
    put_journal(batch, 2, 3, "event", 0, "{'event':'validation','trial':1,'unit':4,'value':0.5}");
    commit(store, batch);
    batch = store_batch_new();
    store_put_run_end(batch, 5, "exit", "exit status 9", T0 + 80 * SECOND);
    store_put_trial_state(batch, first, "queued", "exit", "its worker died", 1, T0 + 80 * SECOND);
    store_put_trial_alone(batch, first, true, 6.5);
    store_put_trial_alone(batch, (struct trial_ref){2, 2}, true, INFINITY);
    put_run(batch, 2, 1, 6, 2, 12);
    store_put_trial_state(batch, first, "running", NULL, NULL, 1, T0 + 81 * SECOND);
    commit(store, batch);
}

static void gets_back_what_was_put(void **state)
{
    struct home *home = *state;
    struct store *store = open_store(home->path, NULL);
    struct store_batch *batch = store_batch_new();
    struct stored_experiment *list, *one;
    struct stored_trial *trial;
    size_t n;

    put_experiment(batch, 1);
    store_put_experiment_state(batch, 1, "completed", NULL, T0 + SECOND);
    commit(store, batch);
    put_scenario(store);
    store_close(store);
    list = load(home, &n);
    assert_int_equal(n, 1); /* the completed one does not go on */
    one = &list[0];
    assert_int_equal(one->id, 2);
    assert_int_equal(one->created_us, T0);
    assert_string_equal(one->state, "active");
    assert_json(one->resolved, CONFIG);
    assert_int_equal(one->best_trial, 1);
    assert_false(one->tested);
    assert_int_equal(one->trials_n, 2);
    trial = &one->trials[0];
    assert_int_equal(trial->number, 1);
    assert_json(trial->hyperparameters, "{'lr':0.1,'net':{'layers':3,'name':'gr\xc3\xbc\xc3\x9f'}}");
    assert_string_equal(trial->state, "running");
    assert_null(trial->reason);
    assert_int_equal(trial->restarts, 1);
    assert_int_equal(trial->attempts, 2);
    assert_true(trial->alone && trial->alone_past == 6.5);
    assert_true(one->trials[1].alone && isinf(one->trials[1].alone_past));
    assert_true(trial->has_best);
    assert_true(trial->best_value == 0.5 && trial->best_unit == 4);
    assert_int_equal(trial->best_checkpoint, 10);
    assert_int_equal(trial->open_run, 6);
    assert_int_equal(trial->checkpoints_n, 3); /* the deleted one is not kept */
    assert_int_equal(trial->checkpoints[0].id, 10);
    assert_int_equal(trial->checkpoints[0].run, 5);
    assert_true(trial->checkpoints[0].unit == 4);
    assert_json(trial->checkpoints[0].units, "{'rounds':4.0}");
    assert_string_equal(trial->checkpoints[0].path, "runs/5/checkpoint-4.safetensors");
    assert_int_equal(trial->checkpoints[0].bytes, 1010);
    assert_true(trial->checkpoints[0].has_value && trial->checkpoints[0].value == 0.5);
    assert_false(trial->checkpoints[1].has_value);
    assert_true(trial->checkpoints[2].has_value && isnan(trial->checkpoints[2].value));
    trial = &one->trials[1];
    assert_string_equal(trial->state, "queued");
    assert_true(json_number_value(json_object_get(trial->hyperparameters, "lr")) == 1e-300);
    assert_false(trial->has_best);
    assert_int_equal(trial->attempts + trial->open_run + (int64_t)trial->checkpoints_n, 0);
    assert_int_equal(one->journal_n, 3);
    assert_int_equal(one->journal[1].index, 2);
    assert_int_equal(one->journal[1].answers, 1);
    assert_string_equal(one->journal[1].kind, "operations");
    assert_json(one->journal[1].body, "[{'op':'create','trial':1,'hyperparameters':{'lr':0.1}}]");
    assert_int_equal(one->journal[2].answers, 0);
    assert_json(one->journal[2].body, "{'event':'validation','trial':1,'unit':4,'value':0.5}");
    stored_experiments_free(list, n);
}

/* A program may call both "validation_accuracy": neither takes the other's place, in whatever order they come. */
static void a_validation_is_not_mistaken_for_training_of_the_same_name(void **state)
{
    struct home *home = *state;
    struct store *store = open_store(home->path, NULL);
    struct store_batch *batch = store_batch_new();
    struct stored_experiment *list;
    struct error err = {0};
    json_t *answer = NULL;
    size_t n;

    put_experiment(batch, 1);
    put_trial(batch, 1, 1, "{}");
    put_run(batch, 1, 1, 1, 1, 0);
    put_report(batch, 1, 1, 1, 1, "{'kind':'training','units':{'rounds':1},'metrics':{'validation_accuracy':0.875}}");
    put_report(batch, 1, 1, 1, 2, "{'kind':'validation','units':{'rounds':1},'metrics':{'validation_accuracy':0.5}}");
    put_checkpoint(batch, 1, 1, 1, 1, 3, 1);
    put_report(batch, 1, 1, 1, 4, "{'kind':'validation','units':{'rounds':2},'metrics':{'validation_accuracy':0.25}}");
    put_checkpoint(batch, 1, 1, 2, 1, 5, 2);
    put_report(batch, 1, 1, 1, 6, "{'kind':'training','units':{'rounds':2},'metrics':{'validation_accuracy':0.75}}");
    put_report(batch, 1, 1, 1, 7, "{'kind':'training','units':{'rounds':3},'metrics':{'validation_accuracy':1}}");
    put_checkpoint(batch, 1, 1, 3, 1, 8, 3); /* not validated */
    store_put_trial_best(batch, (struct trial_ref){1, 1}, 0.5, 1, 1);
    store_put_experiment_best(batch, 1, 1, 1, NULL, 1);
    commit(store, batch);
    if (store_read_metrics(store, (struct trial_ref){1, 1}, "validation_accuracy", -1, &answer, &err))
        fail_msg("%s", err.text);
    assert_int_equal(json_array_size(at(answer, "metrics")), 3);
    json_decref(answer);
    store_close(store);
    assert_query(home->path, "SELECT unit, kind, value FROM metrics ORDER BY 1, 2;"
                             " SELECT unit, kind, value FROM v_metrics; SELECT latest_unit, latest_value FROM v_trials; SELECT value, metrics FROM v_best",
                 "1.0|0|0.875\n1.0|1|0.5\n2.0|0|0.75\n2.0|1|0.25\n3.0|0|1.0\n1.0|validation|0.5\n2.0|validation|0.25\n"
                 "3.0|training|1.0\n2.0|0.25\n0.5|{\"validation_accuracy\":0.5}");
    list = load(home, &n);
    assert_int_equal(list[0].trials[0].checkpoints_n, 3);
    assert_true(list[0].trials[0].checkpoints[0].value == 0.5 && list[0].trials[0].checkpoints[1].value == 0.25);
    assert_false(list[0].trials[0].checkpoints[2].has_value);
    stored_experiments_free(list, n);
}

static void assert_deleted_files(struct store *store, const char *expected)
{
    struct error err = {0};
    json_t *list = NULL;

    if (store_read_deleted_files(store, &list, &err))
        fail_msg("%s", err.text);
    assert_json(list, expected);
    json_decref(list);
}

/* A damaged checkpoint is given up, and the next run writes the same path. */
static void a_path_that_is_kept_again_is_no_leftover(void **state)
{
    struct home *home = *state;
    struct store *store = open_store(home->path, NULL);
    struct store_batch *batch = store_batch_new();
    json_t *units = json_of("{'rounds':4}");

    put_experiment(batch, 1);
    for (int trial = 1; trial <= 2; trial++) {
        put_trial(batch, 1, trial, "{}");
        put_run(batch, 1, trial, trial, 1, 0);
        store_put_checkpoint(batch, trial, (struct trial_ref){1, trial}, trial, 1, 4, units, "c4", 1, T0);
        store_put_checkpoint_deleted(batch, trial, T0);
    }
    commit(store, batch);
    assert_deleted_files(store, "['experiments/1/trials/1/c4', 'experiments/1/trials/2/c4']");
    batch = store_batch_new();
    store_put_checkpoint(batch, 3, (struct trial_ref){1, 1}, 1, 2, 4, units, "c4", 1, T0);
    commit(store, batch);
    assert_deleted_files(store, "['experiments/1/trials/2/c4']");
    store_close(store);
    json_decref(units);
}

static void knows_when_the_best_trial_was_tested(void **state)
{
    struct home *home = *state;
    struct store *store = open_store(home->path, NULL);
    struct store_batch *batch = store_batch_new();
    struct stored_experiment *list;
    json_t *metrics = json_of("{'test_accuracy':0.4}");
    size_t n;

    put_scenario(store);
    store_put_test(batch, (struct trial_ref){2, 2}, 0, 4, metrics, "request", T0); /* another trial */
    store_put_test(batch, (struct trial_ref){2, 1}, 0, 1, metrics, "request", T0); /* another unit */
    commit(store, batch);
    list = load(home, &n);
    assert_false(list[0].tested);
    stored_experiments_free(list, n);
    batch = store_batch_new();
    store_put_test(batch, (struct trial_ref){2, 1}, 6, 4, metrics, "best", T0);
    commit(store, batch);
    store_close(store);
    list = load(home, &n);
    assert_true(list[0].tested);
    stored_experiments_free(list, n);
    json_decref(metrics);
}

static void an_empty_store_loads_as_nothing(void **state)
{
    size_t n = 5;
    struct stored_experiment *list = load(*state, &n);

    assert_int_equal(n, 0);
    stored_experiments_free(list, n);
}

static void refuses_to_go_on_from_what_was_tampered_with(void **state)
{
    struct home *home = *state;
    struct store *store = open_store(home->path, NULL);
    struct stored_experiment *list = NULL;
    struct error err = {0};
    size_t n;

    put_scenario(store);
    free(query(home->path, "UPDATE trials SET hyperparameters = '{\"lr\": ' WHERE number = 2"));
    assert_int_equal(store_load(store, &list, &n, &err), -EINVAL);
    assert_non_null(strstr(err.text, "hyperparameters of a trial"));
    assert_null(list);
    store_close(store);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        test_in_home(gets_back_what_was_put),
        test_in_home(a_validation_is_not_mistaken_for_training_of_the_same_name),
        test_in_home(a_path_that_is_kept_again_is_no_leftover),
        test_in_home(knows_when_the_best_trial_was_tested),
        test_in_home(an_empty_store_loads_as_nothing),
        test_in_home(refuses_to_go_on_from_what_was_tampered_with),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
