/* test_real_store.c - an experiment on a database file, which is closed and opened again at every turn in turn: the end is
 * that of one whose store stayed open. (test_crash.c does the same in memory, in more ways and with more searches.)
 * SPDX-License-Identifier: Apache-2.0 */
#include "common/file.h"
#include "tests/orchestrator/experiment/world.h"

struct disk {
    char folder[64], path[96];
    struct store *store;
};

static void opened(struct disk *disk)
{
    struct store_high high;
    struct error err;

    if (store_open(disk->path, false, NULL, NULL, &disk->store, &high, &err))
        fail_msg("%s", err.text);
}

static void committed(void *arg, int status)
{
    *(int *)arg = status;
}

static bool disk_can_cut(struct disk *disk, const struct store_batch *batch)
{
    (void)disk;
    (void)batch;
    return false; /* a commit is whole or not at all */
}

static void disk_write(struct disk *disk, struct store_batch *batch, bool cut)
{
    int status = 1;

    (void)cut;
    store_submit(disk->store, batch, committed, &status);
    store_flush(disk->store);
    if (status)
        fail_msg("%s", store_failure(disk->store));
}

static struct experiment *disk_restore(struct world *world, struct turn *turn)
{
    struct id_source ids = world_ids(world);
    struct experiment *experiment = NULL;
    struct stored_experiment *list;
    struct error err;
    size_t n;

    store_close(world->disk->store);
    opened(world->disk);
    if (store_load(world->disk->store, &list, &n, &err))
        fail_msg("%s", err.text);
    assert_true(n <= 1);
    if (n && experiment_restore(list, WORLD_HOME, &ids, turn, &experiment, &err))
        fail_msg("turn %lld: %s", (long long)world->turns, err.text);
    stored_experiments_free(list, n);
    return experiment;
}

static void copy_keys(json_t *to, const json_t *from, const char *const *keys)
{
    for (; *keys; keys++) {
        assert_non_null(json_object_get(from, *keys));
        json_object_set(to, *keys, json_object_get(from, *keys));
    }
}

/* What people are shown, but for times and identifiers. */
static json_t *shown(struct disk *disk)
{
    static const char *const EXPERIMENT[] = {"state", "reason", "progress", "best_trial_id", "best_validation_metrics",
                                             "best_hyperparameters", "test_metrics", "trials", "failures", NULL};
    static const char *const TRIAL[] = {"id", "state", "reason", "hyperparameters", NULL};
    static const char *const VALUES[] = {"best_metric", "best_unit", "latest_metric", "latest_unit", "units", NULL};
    json_t *result = json_object(), *trials = json_array(), *answer, *row;
    struct error err;
    size_t i;

    if (store_read_describe(disk->store, 1, &answer, &err))
        fail_msg("%s", err.text);
    copy_keys(result, answer, EXPERIMENT);
    json_decref(answer);
    if (store_read_trials(disk->store, 1, &answer, &err))
        fail_msg("%s", err.text);
    json_array_foreach (json_object_get(answer, "trials"), i, row) {
        json_t *one = json_object();
        copy_keys(one, row, TRIAL);
        if (strcmp(json_string_or(row, "reason", ""), "searcher"))
            copy_keys(one, row, VALUES);
        json_array_append_new(trials, one);
    }
    json_decref(answer);
    json_object_set_new(result, "rows", trials);
    return result;
}

static json_t *play(const char *yaml, size_t slots, const struct disturbances *disturb, int64_t *ret_turns,
                    int64_t *ret_crashes)
{
    struct disk disk = {.folder = "/tmp/flexp-experiment-XXXXXX"};
    struct world world;
    json_t *result;

    assert_non_null(mkdtemp(disk.folder));
    snprintf(disk.path, sizeof disk.path, "%s/flexp.db", disk.folder);
    opened(&disk);
    world_open(&world, yaml, slots, &disk, disturb);
    world_run(&world);
    result = shown(&disk);
    if (ret_turns)
        *ret_turns = world.turns;
    if (ret_crashes)
        *ret_crashes += world.crashes;
    world_close(&world);
    store_close(disk.store);
    assert_int_equal(file_remove_tree(disk.folder, NULL), 0);
    return result;
}

static void expect_equal(const json_t *expected, json_t *got, int64_t at)
{
    if (!json_equal(expected, got)) {
        char *a = json_canonical(expected), *b = json_canonical(got);
        printf("# crash at turn %lld\n#   %s\n#   %s\n", (long long)at, a, b);
        fail_msg("another end");
    }
    json_decref(got);
}

#define YAML(rest)                                                                                                    \
    "name: real\nhyperparameters: {lr: {type: double, minval: 0.01, maxval: 1, count: 2}}\n"                          \
    "searcher: {metric: validation_accuracy, smaller_is_better: false, time_metric: rounds, " rest "}\n"              \
    "max_restarts: 1000\nreproducibility: {experiment_seed: 7}\ndata: {source: synthetic}\nmodel: {preset: lenet}\n"  \
    "training: {learning_rate: $lr}\nfederation: {clients: 4, partition: {scheme: iid}}\n"

static void closed_and_restored_at_every_turn_it_ends_the_same(void **state)
{
    static const char *const SEARCHES[] = {
        YAML("name: grid, max_time: 3, max_concurrent_trials: 2"),
        YAML("name: async_halving, order: logical, max_time: 4, divisor: 2, num_rungs: 2, max_trials: 3, "
             "max_concurrent_trials: 2, stop_once: false"),
    };

    (void)state;
    for (size_t s = 0; s < sizeof SEARCHES / sizeof *SEARCHES; s++) {
        int64_t turns, crashes = 0;
        json_t *expected = play(SEARCHES[s], 2, &(struct disturbances){.seed = 1}, &turns, NULL);
        assert_string_equal(json_string_or(expected, "state", ""), "completed");
        assert_true(json_is_object(json_object_get(expected, "test_metrics")));
        for (int64_t at = 1; at <= turns; at++) {
            enum crash mode = at % 2 ? CRASH_AFTER_COMMIT : CRASH_BEFORE_COMMIT;
            struct disturbances disturb = {.crash_turn = at, .mode = mode, .seed = 1};
            expect_equal(expected, play(SEARCHES[s], 2, &disturb, NULL, &crashes), at);
        }
        assert_int_equal(crashes, turns);
        json_decref(expected);
    }
}

static void many_crashes_and_disturbances_end_the_same(void **state)
{
    static const char *const SEARCH =
        YAML("name: adaptive_asha, order: logical, max_trials: 9, max_time: 9, divisor: 3, max_rungs: 3, "
             "max_concurrent_trials: 3, mode: standard");
    json_t *expected = play(SEARCH, 3, &(struct disturbances){.seed = 1}, NULL, NULL);
    int64_t crashes = 0;

    (void)state;
    for (uint64_t seed = 1; seed <= 8; seed++) {
        struct disturbances disturb = {.crash_each = 40, .death_each = 50, .preempt_each = 40, .pause_each = 60, .seed = seed};
        expect_equal(expected, play(SEARCH, 1 + seed % 4, &disturb, NULL, &crashes), (int64_t)seed);
    }
    assert_true(crashes > 20);
    json_decref(expected);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(closed_and_restored_at_every_turn_it_ends_the_same),
        cmocka_unit_test(many_crashes_and_disturbances_end_the_same),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
