/* test_crash.c - the heart: an experiment that is killed at any point ends as one that never was.
 * For each search a world is run undisturbed, then again with a crash at every single turn in four ways (before the commit,
 * after it, after its effects, and with a commit cut right behind the journal's event), then with many crashes, dying
 * workers, preemptions and pauses. Compared are states, bests, test metrics and the search as the journal has it.
 * The order in which workers act differs after each crash, so this is also the test that logical order does not depend on
 * timing or on the number of slots.
 * SPDX-License-Identifier: Apache-2.0 */
#include "tests/orchestrator/experiment/fake_store.h"
#include "tests/orchestrator/experiment/world.h"

struct disk {
    json_t *tree;
};

static bool disk_can_cut(struct disk *disk, const struct store_batch *batch)
{
    (void)disk;
    return puts_to_last_event(batch) > 0;
}

static void disk_write(struct disk *disk, struct store_batch *batch, bool cut)
{
    if (cut)
        disk_commit_some(disk->tree, batch, puts_to_last_event(batch));
    else
        disk_commit(disk->tree, batch);
}

static bool is_final(const char *state)
{
    return !strcmp(state, "completed") || !strcmp(state, "canceled") || !strcmp(state, "error");
}

static struct experiment *disk_restore(struct world *world, struct turn *turn)
{
    struct id_source ids = world_ids(world);
    struct experiment *experiment = NULL;
    struct stored_experiment stored;
    struct error err;

    if (!json_object_size(json_object_get(world->disk->tree, "experiment")))
        return NULL;
    stored = disk_load(world->disk->tree);
    if (!is_final(stored.state) && experiment_restore(&stored, WORLD_HOME, &ids, turn, &experiment, &err))
        fail_msg("turn %lld: %s", (long long)world->turns, err.text);
    stored_done(&stored);
    return experiment;
}

/* --- what must be equal ------------------------------------------------------------------------------------------- */

static int compare_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* The journal's events or operations. Pauses are left out: in logical order they tell when a value came, not what came of
 * it. sorted: as a set, for searches in which trials do not meet. */
static json_t *search_as_journalled(const json_t *journal, const char *kind, bool sorted)
{
    char *lines[4000];
    json_t *result = json_array(), *record, *op;
    size_t n = 0, i, k;

    json_array_foreach ((json_t *)journal, i, record) {
        json_t *body = json_object_get(record, "body"), *list;
        if (strcmp(json_string_or(record, "kind", ""), kind))
            continue;
        list = json_is_array(body) ? json_incref(body) : json_pack("[O]", body);
        json_array_foreach (list, k, op)
            if (strcmp(json_string_or(op, "op", ""), "pause"))
                lines[n++] = json_canonical(op);
        json_decref(list);
        assert_true(n < 3900);
    }
    if (sorted)
        qsort(lines, n, sizeof *lines, compare_text);
    for (i = 0; i < n; i++) {
        json_array_append_new(result, json_string(lines[i]));
        free(lines[i]);
    }
    return result;
}

static json_t *best_of(const json_t *row)
{
    const json_t *best = json_object_get(row, "best");

    return best ? json_pack("{s:O*, s:O*, s:O*, s:O*}", "trial", json_object_get(best, "trial"), "unit",
                            json_object_get(best, "unit"), "value", json_object_get(best, "value"), "metrics",
                            json_object_get(best, "metrics"))
                : json_null();
}

static json_t *summary(const json_t *disk, bool ordered)
{
    json_t *trials = json_array(), *row, *tests = json_object_get(disk, "tests");
    const json_t *experiment = json_object_get(disk, "experiment"), *journal = json_object_get(disk, "journal");
    size_t i;

    json_array_foreach (json_object_get(disk, "trials"), i, row) {
        const char *reason = json_string_or(row, "reason", "");
        /* Who was stopped is not trained again for a checkpoint that was lost, so its own best may be an earlier one. */
        bool stopped = !strcmp(reason, "searcher");
        json_array_append_new(trials, json_pack("{s:O, s:O, s:s, s:o}", "hyperparameters",
                                                json_object_get(row, "hyperparameters"), "state",
                                                json_object_get(row, "state"), "reason", reason, "best",
                                                stopped ? json_null() : best_of(row)));
    }
    assert_int_equal(json_array_size(tests), 1); /* the test split is read once */
    return json_pack("{s:O, s:o, s:o, s:O, s:o, s:o}", "state", json_object_get(experiment, "state"), "best",
                     best_of(experiment), "trials", trials, "test", json_object_get(json_array_get(tests, 0), "metrics"),
                     "events", search_as_journalled(journal, "event", true), "operations",
                     search_as_journalled(journal, "operations", !ordered));
}

/* Every acknowledged message is there; no run is left open; the winner's checkpoint is kept. */
static void check_disk(const struct world *world)
{
    const json_t *disk = world->disk->tree, *best = json_object_get(json_object_get(disk, "experiment"), "best");
    const char *run;
    json_t *seq, *row;
    size_t i;

    json_object_foreach (world->acked, run, seq) {
        row = json_object_get(json_object_get(disk, "runs"), run);
        assert_non_null(row);
        /* the last one may be its done or failed, which are no rows */
        assert_true(json_int_or(row, "last_seq", 0) >= json_integer_value(seq) - 1);
    }
    json_object_foreach (json_object_get(disk, "runs"), run, row)
        assert_non_null(json_object_get(row, "reason"));
    json_array_foreach (json_object_get(disk, "trials"), i, row)
        assert_true(is_over(row));
    if (best)
        assert_false(json_bool_or(by_id(json_object_get(disk, "checkpoints"), json_int_or(best, "checkpoint", 0)),
                                  "deleted", false));
}

/* --- the searches ------------------------------------------------------------------------------------------------- */

#define REST                                                                                                          \
    "max_restarts: 1000\n"                                                                                            \
    "reproducibility: {experiment_seed: 7}\n"                                                                         \
    "data: {source: synthetic}\n"                                                                                     \
    "model: {preset: lenet}\n"                                                                                        \
    "training: {learning_rate: $lr}\n"                                                                                \
    "federation: {clients: 4, partition: {scheme: iid}}\n"
#define LR "hyperparameters: {lr: {type: double, minval: 0.01, maxval: 1, count: 6}}\n"
#define SEARCHER(rest) "searcher: {metric: validation_accuracy, smaller_is_better: false, time_metric: rounds, " rest "}\n"

static const struct search {
    const char *name, *yaml;
    bool ordered;
    int64_t converges_at;
} SEARCHES[] = {
    {"grid", "name: grid\n" LR SEARCHER("name: grid, max_time: 6, max_concurrent_trials: 3") REST, false, 0},
    {"random, some converge",
     "name: random\n" LR SEARCHER("name: random, max_trials: 7, max_time: 7, max_concurrent_trials: 3") REST, false, 5},
    {"adaptive_asha, stopping rule, logical",
     "name: stopping\n" LR SEARCHER("name: adaptive_asha, order: logical, max_trials: 12, max_time: 9, divisor: 3, "
                                    "max_rungs: 3, max_concurrent_trials: 4, mode: standard, stop_once: true") REST,
     true, 0},
    {"adaptive_asha, promotion rule, logical",
     "name: promotion\n" LR SEARCHER("name: adaptive_asha, order: logical, max_trials: 12, max_time: 9, divisor: 3, "
                                     "max_rungs: 3, max_concurrent_trials: 4, mode: aggressive, stop_once: false") REST,
     true, 0},
    {"async_halving, promotion rule, logical, some converge",
     "name: halving\n" LR SEARCHER("name: async_halving, order: logical, max_trials: 10, max_length: 9, divisor: 3, "
                                   "num_rungs: 3, max_concurrent_trials: 3") REST, true, 5},
    {"async_halving, promotion rule, logical, some converge at a rung",
     "name: halving\n" LR SEARCHER("name: async_halving, order: logical, max_trials: 10, max_length: 9, divisor: 3, "
                                   "num_rungs: 3, max_concurrent_trials: 3") REST, true, 4},
};
#define SEARCHES_N (sizeof SEARCHES / sizeof *SEARCHES)

/* Runs a world to its end; *ret_turns how many turns it took. */
static json_t *play(const struct search *search, size_t slots, const struct disturbances *disturb, int64_t *ret_turns,
                    int64_t *ret_crashes)
{
    struct disk disk = {disk_new()};
    struct world world;
    json_t *result;

    world_open(&world, search->yaml, slots, &disk, disturb);
    world.converges_at = search->converges_at;
    world_run(&world);
    check_disk(&world);
    result = summary(disk.tree, search->ordered);
    if (ret_turns)
        *ret_turns = world.turns;
    if (ret_crashes)
        *ret_crashes += world.crashes;
    world_close(&world);
    json_decref(disk.tree);
    return result;
}

static void expect_equal(json_t *expected, json_t *got, const char *what)
{
    if (!json_equal(expected, got)) {
        const char *key;
        json_t *value;
        json_object_foreach (expected, key, value) {
            if (!json_equal(value, json_object_get(got, key))) {
                char *a = json_canonical(value), *b = json_canonical(json_object_get(got, key));
                printf("# %s: %s differs\n#   %s\n#   %s\n", what, key, a, b);
                free(a);
                free(b);
            }
        }
        fail_msg("%s", what);
    }
    json_decref(got);
}

static void a_crash_at_any_turn_changes_nothing(void **state)
{
    (void)state;
    for (size_t s = 0; s < SEARCHES_N; s++) {
        int64_t turns, crashes = 0;
        json_t *expected = play(&SEARCHES[s], 3, &(struct disturbances){.seed = 1}, &turns, NULL);
        assert_true(turns > 60);
        for (int64_t at = 1; at <= turns; at++)
            for (enum crash mode = CRASH_BEFORE_COMMIT; mode < CRASH_MODES; mode++) {
                char what[160];
                snprintf(what, sizeof what, "%s, crash %d at turn %lld", SEARCHES[s].name, (int)mode, (long long)at);
                expect_equal(expected,
                             play(&SEARCHES[s], 3, &(struct disturbances){.crash_turn = at, .mode = mode, .seed = 1},
                                  NULL, &crashes),
                             what);
            }
        assert_int_equal(crashes, turns * (CRASH_MODES - 1));
        print_message("%s: %lld crashes\n", SEARCHES[s].name, (long long)crashes);
        json_decref(expected);
    }
}

static void neither_slots_nor_timing_change_anything(void **state)
{
    (void)state;
    for (size_t s = 0; s < SEARCHES_N; s++) {
        json_t *expected = play(&SEARCHES[s], 1, &(struct disturbances){.seed = 1}, NULL, NULL);
        for (size_t slots = 1; slots <= WORKERS; slots++)
            for (uint64_t seed = 2; seed < 12; seed++)
                expect_equal(expected, play(&SEARCHES[s], slots, &(struct disturbances){.seed = seed}, NULL, NULL),
                             SEARCHES[s].name);
        json_decref(expected);
    }
}

static void crashes_deaths_preemptions_and_pauses_change_nothing(void **state)
{
    int64_t crashes = 0;

    (void)state;
    for (size_t s = 0; s < SEARCHES_N; s++) {
        json_t *expected = play(&SEARCHES[s], 4, &(struct disturbances){.seed = 1}, NULL, NULL);
        for (uint64_t seed = 1; seed <= 60; seed++) {
            struct disturbances disturb = {.crash_each = seed % 3 ? 60 : 0,
                                           .death_each = seed % 2 ? 40 : 0,
                                           .preempt_each = seed % 5 ? 30 : 0,
                                           .pause_each = seed % 4 ? 50 : 0,
                                           .seed = seed};
            expect_equal(expected, play(&SEARCHES[s], 1 + seed % 5, &disturb, NULL, &crashes), SEARCHES[s].name);
        }
        json_decref(expected);
    }
    assert_true(crashes > 400);
}

/* By arrival the result may be another one, but it is whole: the journal replays at each crash and all trials end. */
static void by_arrival_every_crash_is_survived(void **state)
{
    static const struct search SEARCH = {
        "by arrival", "name: arrival\n" LR SEARCHER("name: adaptive_asha, max_trials: 12, max_time: 9, divisor: 3, "
                                                    "max_rungs: 3, max_concurrent_trials: 4") REST, false, 5};
    int64_t turns, crashes = 0;

    (void)state;
    json_decref(play(&SEARCH, 3, &(struct disturbances){.seed = 1}, &turns, NULL));
    for (int64_t at = 1; at <= turns; at++) {
        struct disturbances disturb = {.crash_turn = at, .mode = 1 + (enum crash)(at % 4), .crash_each = 80, .seed = 1};
        json_t *got = play(&SEARCH, 3, &disturb, NULL, &crashes);
        assert_string_equal(json_string_or(got, "state", ""), "completed");
        assert_int_equal(json_array_size(json_object_get(got, "trials")), 12);
        json_decref(got);
    }
    assert_true(crashes >= turns);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(neither_slots_nor_timing_change_anything),
        cmocka_unit_test(a_crash_at_any_turn_changes_nothing),
        cmocka_unit_test(crashes_deaths_preemptions_and_pauses_change_nothing),
        cmocka_unit_test(by_arrival_every_crash_is_survived),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
