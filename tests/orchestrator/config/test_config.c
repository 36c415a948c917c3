/* test_config.c - experiment files as text: bad ones with the exact lines a person sees, good ones with their
 * resolved form; overrides; the way from the resolved form back to the struct.
 * SPDX-License-Identifier: Apache-2.0 */
#include "tests/orchestrator/config/config_test.h"

#include <glob.h>
#include <unistd.h>

#define FOLDER "tests/golden/config/"

/* Calls check for each file of the pattern, of which there are at least `least`. */
static void each_file(const char *pattern, size_t least, void (*check)(const char *path))
{
    glob_t found;

    assert_int_equal(glob(pattern, 0, NULL, &found), 0);
    assert_true(found.gl_pathc >= least);
    for (size_t i = 0; i < found.gl_pathc; i++)
        check(found.gl_pathv[i]);
    globfree(&found);
}

static struct experiment_config *read_path(const char *path, const char *const *overrides, size_t n, char **ret_text)
{
    struct experiment_config *config;
    struct error err = {0};
    char *text;
    size_t length;

    if (file_read(path, &text, &length, &err))
        fail_msg("%s", err.text);
    config = read_config(text, length, overrides, n, strrchr(path, '/') + 1, ret_text);
    free(text);
    return config;
}

static void golden_path(const char *path, const char *ending, char *ret, size_t room)
{
    snprintf(ret, room, "%.*s%s", (int)(strlen(path) - strlen(".yaml")), path, ending);
}

static void check_bad(const char *path)
{
    char *text, golden[300];
    struct experiment_config *config = read_path(path, NULL, 0, &text);

    if (config)
        fail_msg("%s is accepted", path);
    golden_path(path, ".errors", golden, sizeof golden);
    assert_golden(golden, text);
    free(text);
}

static void shows_every_error_of_a_bad_file_at_once_with_its_place(void **state)
{
    (void)state;
    each_file(FOLDER "bad_*.yaml", 40, check_bad);
}

static void assert_equal_configs(const struct experiment_config *a, const struct experiment_config *b)
{
    const struct searcher_config *s = &a->searcher, *t = &b->searcher;

    assert_true(json_equal(a->resolved, b->resolved));
    assert_true(json_equal(a->sections, b->sections));
    assert_true(json_equal(a->hyperparameters, b->hyperparameters));
    assert_string_equal(a->name, b->name);
    assert_string_equal(a->description, b->description);
    assert_string_equal(a->metric, b->metric);
    assert_int_equal(a->smaller_is_better, b->smaller_is_better);
    assert_int_equal(a->time_metric, b->time_metric);
    assert_int_equal(a->slots_per_trial, b->slots_per_trial);
    assert_int_equal(a->trials_per_slot, b->trials_per_slot);
    assert_int_equal(a->max_slots, b->max_slots);
    assert_int_equal(a->priority, b->priority);
    assert_true(a->weight == b->weight);
    assert_int_equal(a->slot_type, b->slot_type);
    assert_int_equal(a->max_restarts, b->max_restarts);
    assert_int_equal(a->save_experiment_best, b->save_experiment_best);
    assert_int_equal(a->save_trial_best, b->save_trial_best);
    assert_int_equal(a->save_trial_latest, b->save_trial_latest);
    assert_true(a->experiment_seed == b->experiment_seed && a->data_seed == b->data_seed);
    assert_true(a->time_limit_s == b->time_limit_s && a->min_checkpoint_period == b->min_checkpoint_period);
    assert_int_equal(a->entrypoint == NULL, b->entrypoint == NULL);
    assert_true(!a->entrypoint || json_equal(a->entrypoint, b->entrypoint));
    assert_int_equal(a->space->n, b->space->n);
    assert_string_equal(s->scheduler, t->scheduler);
    assert_string_equal(s->sampler, t->sampler);
    assert_int_equal(s->smaller_is_better, t->smaller_is_better);
    assert_true(s->max_units == t->max_units && s->divisor == t->divisor && s->seed == t->seed);
    assert_int_equal(s->max_trials, t->max_trials);
    assert_int_equal(s->max_concurrent_trials, t->max_concurrent_trials);
    assert_int_equal(s->max_rungs, t->max_rungs);
    assert_int_equal(s->num_rungs, t->num_rungs);
    assert_int_equal(s->mode, t->mode);
    assert_int_equal(s->stop_once, t->stop_once);
    assert_int_equal(s->accumulate_rungs, t->accumulate_rungs);
    assert_int_equal(s->logical_order, t->logical_order);
    assert_int_equal(s->bracket_rungs_n, t->bracket_rungs_n);
    for (size_t i = 0; i < s->bracket_rungs_n; i++)
        assert_int_equal(s->bracket_rungs[i], t->bracket_rungs[i]);
}

/* Through text too, as the store has it. */
static void check_round_trip(const struct experiment_config *config)
{
    struct experiment_config *again = NULL;
    struct error err = {0};
    char *line = json_line(config->resolved);
    json_t *stored;

    assert_int_equal(json_parse(line, strlen(line), &stored, &err), 0);
    if (config_from_resolved(stored, &again, &err))
        fail_msg("%s", err.text);
    assert_equal_configs(config, again);
    config_free(again);
    json_decref(stored);
    free(line);
}

static void check_good(const char *path)
{
    char *text, golden[300], *resolved, *lines;
    struct experiment_config *config = read_path(path, NULL, 0, &text);

    if (!config)
        fail_msg("%s is refused:\n%s", path, text);
    golden_path(path, ".errors", golden, sizeof golden);
    assert_golden(golden, text);
    golden_path(path, ".json", golden, sizeof golden);
    resolved = json_dumps(config->resolved, JSON_INDENT(2) | JSON_REAL_PRECISION(17));
    lines = format_text("%s\n", resolved);
    assert_golden(golden, lines);
    check_round_trip(config);
    config_free(config);
    free(lines);
    free(resolved);
    free(text);
}

static void resolves_good_files_and_reads_them_back_equal(void **state)
{
    (void)state;
    each_file(FOLDER "good_*.yaml", 7, check_good);
}

static void check_example(const char *path)
{
    char *text;
    struct experiment_config *config = read_path(path, NULL, 0, &text);

    if (!config || *text)
        fail_msg("%s: %s", path, text);
    check_round_trip(config);
    config_free(config);
    free(text);
}

static void accepts_the_examples_without_a_warning(void **state)
{
    (void)state;
    each_file("configs/*.yaml", 4, check_example);
}

static void fills_the_struct_from_the_file(void **state)
{
    char *text;
    struct experiment_config *config = read_path(FOLDER "good_everything.yaml", NULL, 0, &text);

    (void)state;
    assert_non_null(config);
    assert_string_equal(config->name, "everything");
    assert_string_equal(config->description, "each key once");
    assert_string_equal(config->metric, "client_validation_accuracy_worst");
    assert_false(config->smaller_is_better);
    assert_int_equal(config->time_metric, UNIT_ROUNDS);
    assert_int_equal(config->slots_per_trial, 2);
    assert_int_equal(config->max_slots, 4);
    assert_int_equal(config->priority, 10);
    assert_true(config->weight == 2.5);
    assert_int_equal(config->slot_type, SLOT_CPU);
    assert_int_equal(config->max_restarts, 0);
    assert_int_equal(config->save_experiment_best, 2);
    assert_int_equal(config->save_trial_best, 3);
    assert_int_equal(config->save_trial_latest, 0);
    assert_true(config->experiment_seed == 9000000000000000000u && config->data_seed == 3);
    assert_true(config->time_limit_s == 3600 && config->min_checkpoint_period == 5);
    assert_null(config->entrypoint);
    assert_int_equal(json_object_size(config->sections), 4);
    assert_int_equal(config->space->n, 9);
    assert_string_equal(config->space->axes[3].path, "net.filters");
    assert_string_equal(config->searcher.scheduler, "adaptive_asha");
    assert_string_equal(config->searcher.sampler, "random");
    assert_true(config->searcher.max_units == 27 && config->searcher.divisor == 3);
    assert_int_equal(config->searcher.max_trials, 30);
    assert_int_equal(config->searcher.max_concurrent_trials, 0);
    assert_int_equal(config->searcher.max_rungs, 3);
    assert_int_equal(config->searcher.mode, MODE_CONSERVATIVE);
    assert_int_equal(config->searcher.bracket_rungs_n, 2);
    assert_int_equal(config->searcher.bracket_rungs[1], 2);
    assert_false(config->searcher.stop_once);
    assert_false(config->searcher.accumulate_rungs);
    assert_true(config->searcher.logical_order);
    assert_true(config->searcher.seed == config->experiment_seed);
    assert_non_null(strstr(config->text, "description: each key once"));
    config_free(config);
    free(text);
}

static void older_lengths_accumulate_and_promote(void **state)
{
    char *text;
    struct experiment_config *config = read_path(FOLDER "good_determined.yaml", NULL, 0, &text);

    (void)state;
    assert_non_null(config);
    assert_true(config->searcher.accumulate_rungs);
    assert_false(config->searcher.stop_once);
    assert_int_equal(config->time_metric, UNIT_EPOCHS);
    assert_int_equal(json_object_size(config->sections), 1); /* data alone: the program is the user's */
    config_free(config);
    free(text);
}

/* {override, path, JSON of the value there, or NULL: refused, with this text} */
static const struct {
    const char *override, *path, *value, *text;
} OVERRIDES[] = {
    {"searcher.max_trials=7", "searcher.max_trials", "7", NULL},
    {"hyperparameters.lr.minval=-3.5", "hyperparameters.lr.minval", "-3.5", NULL},
    {"hyperparameters.lr=1e-5", "hyperparameters.lr", "1e-5", NULL},
    {"name=a=b", "name", "\"a=b\"", NULL},
    {"name='5'", "name", "\"5\"", NULL},
    {"checkpoint_storage.save_trial_best=3", "checkpoint_storage.save_trial_best", "3", NULL},
    {"data.augment={horizontal_flip: true}", "data.augment.horizontal_flip", "true", NULL},
    {"federation.strategy.weighting=uniform", "federation.strategy.weighting", "\"uniform\"", NULL},
    {"federation.strategy=fedavg", "federation.strategy.name", "\"fedavg\"", NULL},
    {"training.schedule.warmup=2", "training.schedule",
     "{\"type\":\"cosine\",\"warmup\":2,\"every\":10,\"factor\":0.1,"
     "\"decay\":0.99,\"final_fraction\":0}",
     NULL},
    {"model.layers[1].dense=20", "model.layers[1].dense.units", "20", NULL},
    {"model.layers[1].dense.bias=false", "model.layers[1].dense",
     "{\"units\":10,\"bias\":false,\"activation\":\"none\"}", NULL},
    {"data.path=x", "data.path", "\"/data/x\"", NULL},
    {"federation=null", "federation", "{\"enabled\":false}", NULL},
    {"max_restarts=", NULL, NULL,
     "--config: error: \"max_restarts=\" has no value; to remove the key write max_restarts=null\n"},
    {"max_restarts", NULL, NULL,
     "--config: error: \"max_restarts\" must be KEY.PATH=VALUE, such as searcher.max_trials=8\n"},
    {"=3", NULL, NULL, "--config: error: \"=3\" needs a key path before =, such as searcher.max_trials=8\n"},
    {"a..b=3", NULL, NULL, "--config: error: \"a..b=3\" needs a key path before =, such as searcher.max_trials=8\n"},
    {"name.x=3", NULL, NULL, "--config: error: \"name.x=3\" cannot be set: name is not a map\n"},
    {"model.layers[7]=relu", NULL, NULL,
     "--config: error: \"model.layers[7]=relu\" cannot be set: model.layers has no such element\n"},
    {"searcher.max_trials={", NULL, NULL,
     "--config: error: \"searcher.max_trials={\" has a value that is not YAML: did not find expected node content\n"},
    {"searcher.max_trials=0", NULL, NULL, "--config: error: searcher.max_trials must be at least 1, got 0\n"},
    {"searcher.max_trails=1", NULL, NULL,
     "--config: error: searcher.max_trails is not a known key; did you mean max_trials?\n"},
    {"searcher.metric=null", NULL, NULL,
     "--config: error: searcher.metric is missing; for example metric: validation_accuracy\n"},
    {"federation.partition={scheme: dirichlet, alpha: -1}", NULL, NULL,
     "--config: error: federation.partition.alpha must be greater than 0, got -1\n"},
};

static const char BASE[] = "name: base\n"
                           "searcher: {name: random, metric: validation_loss, max_trials: 4, max_time: 8}\n"
                           "hyperparameters: {lr: {type: log, minval: -4, maxval: -1}}\n"
                           "data: {source: cifar10, path: cifar10}\n"
                           "model: {layers: [flatten, {dense: 10}]}\n"
                           "training: {learning_rate: $lr, schedule: cosine}\n"
                           "federation: {clients: 4}\n"
                           "reproducibility: {experiment_seed: 1}\n";

static void overrides_keys_from_the_command_line(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof OVERRIDES / sizeof *OVERRIDES; i++) {
        char *text;
        struct experiment_config *config = read_config(BASE, strlen(BASE), &OVERRIDES[i].override, 1, "x.yaml", &text);
        if (OVERRIDES[i].text) {
            assert_null(config);
            assert_string_equal(text, OVERRIDES[i].text);
        } else {
            json_t *wanted = json_loads(OVERRIDES[i].value, JSON_DECODE_ANY, NULL);
            if (!config)
                fail_msg("%s: %s", OVERRIDES[i].override, text);
            if (!json_equal(json_at(config->resolved, OVERRIDES[i].path), wanted))
                fail_msg("%s: %s", OVERRIDES[i].override, json_line(json_at(config->resolved, OVERRIDES[i].path)));
            json_decref(wanted);
        }
        config_free(config);
        free(text);
    }
}

static void later_overrides_win_and_all_are_applied(void **state)
{
    static const char *const LIST[] = {"name=a", "name=b", "max_restarts=0"};
    char *text;
    struct experiment_config *config = read_config(BASE, strlen(BASE), LIST, 3, "x.yaml", &text);

    (void)state;
    assert_non_null(config);
    assert_string_equal(config->name, "b");
    assert_int_equal(config->max_restarts, 0);
    assert_string_equal(config->text, BASE); /* the file as it was given */
    config_free(config);
    free(text);
}

static void draws_a_seed_where_the_file_has_none(void **state)
{
    static const char *const NO_SEED = "reproducibility=null";
    char *text;
    struct experiment_config *a = read_config(BASE, strlen(BASE), &NO_SEED, 1, "x.yaml", &text), *b;

    (void)state;
    assert_non_null(a);
    free(text);
    b = read_config(BASE, strlen(BASE), &NO_SEED, 1, "x.yaml", &text);
    assert_non_null(b);
    assert_true(a->experiment_seed != b->experiment_seed); /* by chance equal once in 2^31 */
    assert_true(json_integer_value(json_at(a->resolved, "reproducibility.experiment_seed")) ==
                (json_int_t)a->experiment_seed);
    assert_true(a->data_seed == a->experiment_seed && a->searcher.seed == a->experiment_seed);
    check_round_trip(a);
    config_free(a);
    config_free(b);
    free(text);
}

static const struct {
    const char *path, *root, *wanted; /* wanted NULL: below the working directory */
} PATHS[] = {
    {"a/b", "/r", "/r/a/b"},         {"/a/b", "/r", "/a/b"}, {"a", NULL, NULL},
    {"~/a", "/r", "/home/nobody/a"}, {"a", "", NULL},
};

static void makes_data_paths_absolute(void **state)
{
    char *home = getenv("HOME") ? strdup(getenv("HOME")) : NULL, *here = getcwd(NULL, 0);

    (void)state;
    setenv("HOME", "/home/nobody", 1);
    for (size_t i = 0; i < sizeof PATHS / sizeof *PATHS; i++) {
        struct experiment_config *config = NULL;
        struct config_problems problems;
        char *override = format_text("data.path=%s", PATHS[i].path);
        char *wanted = PATHS[i].wanted ? strdup(PATHS[i].wanted) : format_text("%s/%s", here, PATHS[i].path);
        const char *root = PATHS[i].root && !*PATHS[i].root ? NULL : PATHS[i].root;
        assert_int_equal(config_read(BASE, strlen(BASE), (const char *const *)&override, 1, root, &config, &problems),
                         0);
        assert_string_equal(json_string_value(json_at(config->resolved, "data.path")), wanted);
        config_free(config);
        config_problems_done(&problems);
        free(wanted);
        free(override);
    }
    if (home)
        setenv("HOME", home, 1);
    free(home);
    free(here);
}

static void places_what_a_trainers_plan_reports(void **state)
{
    struct experiment_config *config = NULL;
    struct config_problems problems;
    char *text;

    (void)state;
    assert_int_equal(config_read(BASE, strlen(BASE), NULL, 0, NULL, &config, &problems), 0);
    config_add_problem(&problems, config, false, "model.layers[1].dense.units", "10 units do not fit 100 classes");
    config_add_problem(&problems, config, false, "data.path", "no such folder");
    config_add_problem(&problems, config, true, "training", "is slow");
    assert_int_equal(problems.errors, 2);
    text = config_problems_text(&problems, "x.yaml");
    assert_string_equal(text, "x.yaml:4:31: error: data.path: no such folder\n"
                              "x.yaml:5:35: error: model.layers[1].dense.units: 10 units do not fit 100 classes\n"
                              "x.yaml:6:1: warning: training is slow\n");
    free(text);
    config_problems_done(&problems);
    config_free(config);
}

static void refuses_a_stored_file_that_was_tampered_with(void **state)
{
    static const char *const CHANGES[][2] = {
        {"searcher.max_trials", "0"},
        {"searcher.unheard_of", "1"},
        {"reproducibility.experiment_seed", "null"},
        {"searcher", "[]"},
        {"data", "null"},
    };
    char *text;
    struct experiment_config *config = read_config(BASE, strlen(BASE), NULL, 0, "x.yaml", &text), *again = NULL;

    (void)state;
    for (size_t i = 0; i < sizeof CHANGES / sizeof *CHANGES; i++) {
        json_t *stored = json_deep_copy(config->resolved), *at = stored;
        struct error err = {0};
        const char *dot = strchr(CHANGES[i][0], '.');
        if (dot)
            at = json_object_get(stored, dot - CHANGES[i][0] == 8 ? "searcher" : "reproducibility");
        json_object_set_new(at, dot ? dot + 1 : CHANGES[i][0], json_loads(CHANGES[i][1], JSON_DECODE_ANY, NULL));
        assert_int_equal(config_from_resolved(stored, &again, &err), -EINVAL);
        assert_non_null(strstr(err.text, "the stored file is not one that this version wrote"));
        assert_null(again);
        json_decref(stored);
    }
    config_free(config);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shows_every_error_of_a_bad_file_at_once_with_its_place),
        cmocka_unit_test(resolves_good_files_and_reads_them_back_equal),
        cmocka_unit_test(accepts_the_examples_without_a_warning),
        cmocka_unit_test(fills_the_struct_from_the_file),
        cmocka_unit_test(older_lengths_accumulate_and_promote),
        cmocka_unit_test(overrides_keys_from_the_command_line),
        cmocka_unit_test(later_overrides_win_and_all_are_applied),
        cmocka_unit_test(draws_a_seed_where_the_file_has_none),
        cmocka_unit_test(makes_data_paths_absolute),
        cmocka_unit_test(places_what_a_trainers_plan_reports),
        cmocka_unit_test(refuses_a_stored_file_that_was_tampered_with),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
