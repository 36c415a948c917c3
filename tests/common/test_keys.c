/* test_keys.c - tables of keys: what is refused with which words, references, defaults, substitution, nearest names.
 * SPDX-License-Identifier: Apache-2.0 */
#include "common/keys.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* JSON is easier to read here with single quotes. */
static json_t *parse(const char *text)
{
    char *copy = strdup(text);
    json_error_t at;
    json_t *value;

    for (char *c = copy; *c; c++)
        if (*c == '\'')
            *c = '"';
    value = json_loads(copy, JSON_DECODE_ANY, &at);
    if (!value)
        fail_msg("%s: %s", text, at.text);
    free(copy);
    return value;
}

struct said {
    char text[4000];
    int errors;
};

static void report(void *arg, bool warning, const char *path, const char *text)
{
    struct said *said = arg;
    size_t used = strlen(said->text);

    said->errors += !warning;
    snprintf(said->text + used, sizeof said->text - used, "%s%s| %s\n", warning ? "(warning) " : "", path, text);
}

static const char HYPERPARAMETERS[] =
    "{'lr': {'type': 'log', 'minval': -3, 'maxval': -1}, 'n': {'type': 'int', 'minval': 0, 'maxval': 8},"
    " 'b': {'type': 'categorical', 'vals': [16, 32]}, 'mixed': {'type': 'categorical', 'vals': [16, 'x']},"
    " 'd': {'type': 'double', 'minval': 0.5, 'maxval': 2}, 'c': 0.9, 'flag': {'type': 'const', 'val': true},"
    " 'g': {'inner': {'type': 'int', 'minval': 1, 'maxval': 2}, 'name': 'sgd'},"
    " 'norm': {'type': 'categorical', 'vals': ['batch_norm', 'relu']},"
    " 'whole': {'type': 'categorical', 'vals': [16.0]}}";

/* {section, value, what is said; "" when it is good} */
static const struct {
    const char *section, *value, *said;
} CHECKS[] = {
    {"training", "{'learning_rate': 0.1}", ""},
    {"training", "{'learning_rate': 1}", ""},
    {"training", "{}", "training.learning_rate| is missing; for example learning_rate: $lr\n"},
    {"training", "[]", "training| must be a map, got a list; for example training: {learning_rate: 0.01}\n"},
    {"training", "{'learning_rate': 0}", "training.learning_rate| must be greater than 0, got 0\n"},
    {"training", "{'learning_rate': 1001}", "training.learning_rate| must be at most 1000, got 1001\n"},
    {"training", "{'learning_rate': '0.1'}",
     "training.learning_rate| must be a number, got \"0.1\"; leave out the quotes\n"},
    {"training", "{'learning_rate': 'nan'}", "training.learning_rate| must be a number, got \"nan\"; for example learning_rate: $lr\n"},
    {"training", "{'learning_rate': '1e999'}",
     "training.learning_rate| must be a number, got \"1e999\"; for example learning_rate: $lr\n"},
    {"training", "{'learning_rate': 'NaN'}",
     "training.learning_rate| must be a finite number, got .nan; for example learning_rate: $lr\n"},
    {"training", "{'learning_rate': '-Infinity'}",
     "training.learning_rate| must be a finite number, got -.inf; for example learning_rate: $lr\n"},
    {"training", "{'learning_rate': 0.1, 'batch_size': 'Infinity'}",
     "training.batch_size| must be an integer, got .inf; for example batch_size: 32\n"},
    {"model", "{'layers': [{'dropout': {'rate': 'NaN'}}]}",
     "model.layers[0].dropout.rate| must be a finite number, got .nan; for example rate: 0.5\n"},
    {"training", "{'learning_rate': true}",
     "training.learning_rate| must be a number, got true; for example learning_rate: $lr\n"},
    {"training", "{'learning_rate': null}",
     "training.learning_rate| has no value; give it one, for example learning_rate: $lr, or remove the key\n"},
    {"training", "{'learning_rate': 0.1, 'batch_size': 16.0}", ""}, /* keys_resolve makes it an integer */
    {"training", "{'learning_rate': 0.1, 'batch_size': 16.5}",
     "training.batch_size| must be an integer, got 16.5; for example batch_size: 32\n"},
    {"training", "{'learning_rate': 0.1, 'nesterov': 'yes'}",
     "training.nesterov| must be true or false; write true, not yes\n"},
    {"training", "{'learning_rate': 0.1, 'nesterov': 1}",
     "training.nesterov| must be true or false, got 1; for example nesterov: true\n"},
    {"training", "{'learning_rate': 0.1, 'optimizer': 'SGD'}",
     "training.optimizer| must be sgd, adam or adamw, got \"SGD\"; did you mean sgd?\n"},
    {"training", "{'learning_rate': 0.1, 'momentun': 0.9}",
     "training.momentun| is not a known key; did you mean momentum?\n"},
    {"training", "{'learning_rate': 0.1, 'clients': 9}",
     "training.clients| is not a known key here; did you mean federation.clients?\n"},
    {"training", "{'learning_rate': 0.1, 'schedule': 'cosine'}", ""},
    {"training", "{'learning_rate': 0.1, 'schedule': {'type': 'cosine', 'warmp': 3}}",
     "training.schedule.warmp| is not a known key; did you mean warmup?\n"},
    {"training", "{'learning_rate': '$lr', 'batch_size': '$b', 'momentum': '$c', 'nesterov': '$flag'}", ""},
    {"training", "{'learning_rate': '$g.inner', 'optimizer': '$g.name', 'batch_size': '$g.inner'}", ""},
    {"training", "{'learning_rate': '$lrr'}",
     "training.learning_rate| takes $lrr, which is not a hyperparameter; did you mean $lr?\n"},
    {"training", "{'learning_rate': '$inner'}",
     "training.learning_rate| takes $inner, which is not a hyperparameter; did you mean $g.inner?\n"},
    {"training", "{'learning_rate': '$something'}",
     "training.learning_rate| takes $something, which is not a hyperparameter of this file\n"},
    {"training", "{'learning_rate': '$g'}",
     "training.learning_rate| takes $g, which is a group of hyperparameters; name one of them, as in $g.NAME\n"},
    {"training", "{'learning_rate': '$n'}",
     "training.learning_rate| takes $n, which can be 0, but must be greater than 0\n"},
    {"training", "{'learning_rate': 1, 'momentum': '$d'}",
     "training.momentum| takes $d, which can be 2, but must be at most 0.9999\n"},
    {"training", "{'learning_rate': 1, 'batch_size': '$mixed'}",
     "training.batch_size| takes $mixed, which can be \"x\", but must be an integer\n"},
    {"training", "{'learning_rate': 1, 'batch_size': '$d'}",
     "training.batch_size| takes $d, which is of type double, but must be an integer (type: int, or categorical with "
     "integers)\n"},
    {"training", "{'learning_rate': 1, 'batch_size': '$whole'}",
     "training.batch_size| takes $whole, which can be 16.0, but must be an integer\n"},
    {"training", "{'learning_rate': 1, 'batch_size': '$'}",
     "training.batch_size| must be an integer, got \"$\" (a reference is $ and a hyperparameter's name)\n"},
    {"training", "{'learning_rate': 1, 'schedule': {'type': '$g.name'}}",
     "training.schedule.type| takes $g.name, which can be \"sgd\", but must be constant, step, exponential or "
     "cosine\n"},
    {"model", "{'layers': ['flatten', {'dense': 'classes'}, '$norm', {'relu': null}, {'dropout': '$d'}]}",
     "model.layers[4].dropout| takes $d, which can be 2, but must be at most 0.99\n"},
    {"model", "{'layers': ['$b']}",
     "model.layers[0]| takes $b, which can be 16, but must be a layer's name or a map with one key, the layer's name\n"
     "model.layers[0]| takes $b, which can be 32, but must be a layer's name or a map with one key, the layer's "
     "name\n"},
    {"model", "{'layers': '$b'}",
     "model.layers| must be a list, got \"$b\" (a reference is $ and a hyperparameter's name)\n"},
    {"model", "{'layers': [{'repeat': {'times': 2, 'layers': ['relus']}}]}",
     "model.layers[0].repeat.layers[0]| cannot be relus; did you mean relu?\n"},
    {"federation", "{'clients_per_round': 'al'}",
     "federation.clients_per_round| cannot be \"al\"; did you mean all?\n"},
    {"federation", "{'clients_per_round': 'half'}",
     "federation.clients_per_round| must be an integer or all, got \"half\"; for example clients_per_round: 5\n"},
    {"federation", "{'clients_per_round': '$b', 'partition': 'dirichlet', 'strategy': '$g.name'}",
     "federation.strategy| takes $g.name, which can be \"sgd\", but must be fedavg\n"},
    {"data", "{'source': 'idx', 'path': ''}", "data.path| must not be empty\n"},
    {"data", "{'source': 'idx', 'path': '$HOME/x'}",
     "data.path| must be a string that does not begin with $, got \"$HOME/x\" (a reference is $ and a hyperparameter's "
     "name)\n"},
};

static void refuses_with_what_would_be_right(void **state)
{
    json_t *hyperparameters = parse(HYPERPARAMETERS);

    (void)state;
    for (size_t i = 0; i < sizeof CHECKS / sizeof *CHECKS; i++) {
        struct said said = {0};
        json_t *value = parse(CHECKS[i].value), *whole = json_object();
        struct key rows[2] = {*keys_find(SECTION_KEYS, CHECKS[i].section), {.name = NULL}};
        struct key all[5];
        int errors;
        /* the whole table, so that a key can be found elsewhere, with one section required */
        memcpy(all, SECTION_KEYS, sizeof all);
        for (struct key *row = all; row->name; row++)
            row->required = !strcmp(row->name, rows[0].name);
        json_object_set_new(whole, CHECKS[i].section, value);
        errors = keys_check(all, whole, "", true, hyperparameters, report, &said);
        if (strcmp(said.text, CHECKS[i].said))
            fail_msg("%s: wanted\n%sgot\n%s", CHECKS[i].value, CHECKS[i].said, said.text);
        assert_int_equal(errors, said.errors);
        assert_int_equal(errors == 0, !*CHECKS[i].said);
        json_decref(whole);
    }
    json_decref(hyperparameters);
}

static void any_reference_is_good_where_hyperparameters_are_unknown(void **state)
{
    json_t *value = parse("{'learning_rate': '$whatever', 'batch_size': 0}");
    struct said said = {0};

    (void)state;
    assert_int_equal(keys_check(TRAINING_KEYS, value, "training", true, NULL, report, &said), 1);
    assert_string_equal(said.text, "training.batch_size| must be at least 1, got 0\n");
    assert_int_equal(keys_check(TRAINING_KEYS, value, "training", false, NULL, NULL, NULL), 2);
    json_decref(value);
}

static void a_reference_left_over_is_refused_where_none_is_allowed(void **state)
{
    json_t *value =
        parse("{'data': {'source': 'synthetic'}, 'model': {'preset': 'lenet'}, 'training': {'learning_rate': '$lr'}}");
    struct said said = {0};

    (void)state;
    assert_int_equal(keys_check(SECTION_KEYS, value, "", false, NULL, report, &said), 1);
    assert_int_equal(strncmp(said.text, "training.learning_rate| must be a number, got \"$lr\"", 50), 0);
    json_decref(value);
}

/* Values in place of descriptions: what a trainer has. */
static void plain_values_are_hyperparameters_too(void **state)
{
    json_t *value = parse("{'learning_rate': '$lr', 'batch_size': '$net.batch'}");
    json_t *values = parse("{'lr': -1, 'net': {'batch': 16}}");
    struct said said = {0};

    (void)state;
    assert_int_equal(keys_check(TRAINING_KEYS, value, "", true, values, report, &said), 1);
    assert_string_equal(said.text, "learning_rate| takes $lr, which can be -1, but must be greater than 0\n");
    json_decref(values);
    json_decref(value);
}

/* {section, value, resolved} */
static const struct {
    const char *section, *value, *resolved;
} RESOLVED[] = {
    {"data", "{'source': 'synthetic', 'augment': {'random_crop': 2}}",
     "{'source': 'synthetic', 'validation': 'split', 'validation_fraction': 0.1,"
     " 'augment': {'random_crop': {'padding': 2}, 'horizontal_flip': false}}"},
    {"training", "{'learning_rate': '$lr', 'batch_size': 1e2, 'schedule': '$s'}",
     "{'optimizer': 'sgd', 'learning_rate': '$lr', 'momentum': 0, 'nesterov': false, 'weight_decay': 0, 'beta1': 0.9,"
     " 'beta2': 0.999, 'eps': 1e-8, 'batch_size': 100, 'precision': 'fp32', 'schedule': {'type': '$s', 'warmup': 0,"
     " 'every': 10, 'factor': 0.1, 'decay': 0.99, 'final_fraction': 0}, 'validation_period': 1}"},
    {"federation", "{}",
     "{'enabled': true, 'strategy': {'name': 'fedavg', 'weighting': 'samples', 'server_learning_rate': 1.0}, "
     "'clients': 10,"
     " 'clients_per_round': 'all', 'local_epochs': 1, 'partition': {'scheme': 'iid', 'alpha': 0.5, 'min_samples': 1},"
     " 'client_validation_fraction': 0.1}"},
    {"model",
     "{'layers': ['flatten', '$norm', {'relu': null}, {'dense': 10}, {'repeat': {'times': '$n', 'layers': [{'dropout': "
     "0.5}]}}]}",
     "{'layers': [{'flatten': {}}, '$norm', {'relu': {}}, {'dense': {'units': 10, 'bias': true, 'activation': 'none'}},"
     " {'repeat': {'times': '$n', 'layers': [{'dropout': {'rate': 0.5}}]}}]}"},
    {"model", "{'preset': 'lenet', 'layers': 'wrong', 'unknown': 1}", "{'preset': 'lenet', 'layers': 'wrong'}"},
};

static void fills_in_defaults_once(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof RESOLVED / sizeof *RESOLVED; i++) {
        const struct key *table = keys_find(SECTION_KEYS, RESOLVED[i].section)->sub;
        json_t *value = parse(RESOLVED[i].value), *wanted = parse(RESOLVED[i].resolved);
        json_t *first = keys_resolve(table, value), *second = keys_resolve(table, first);
        if (!json_equal(first, wanted))
            fail_msg("%s became %s", RESOLVED[i].value, json_line(first));
        assert_true(json_equal(first, second));
        json_decref(value);
        json_decref(wanted);
        json_decref(first);
        json_decref(second);
    }
}

static void substitutes_references_by_values(void **state)
{
    json_t *value =
        parse("{'a': '$lr', 'b': ['$net.units', 'plain', '$', '$1', {'c': '$list'}], 'd': 'x $lr', 'e': null}");
    json_t *values = parse("{'lr': 0.1, 'net': {'units': 3}, 'list': [1, 2]}"), *got = NULL;
    json_t *wanted = parse("{'a': 0.1, 'b': [3, 'plain', '$', '$1', {'c': [1, 2]}], 'd': 'x $lr', 'e': null}");
    struct error err = {0};

    (void)state;
    assert_int_equal(keys_substitute(value, values, &got, &err), 0);
    assert_true(json_equal(got, wanted));
    json_decref(got);
    json_decref(value);
    got = NULL;
    value = parse("{'ok': 1, 'list': ['$lr', {'deep': '$nett.units'}]}");
    assert_int_equal(keys_substitute(value, values, &got, &err), -EINVAL);
    assert_string_equal(err.text, "$nett.units is not a hyperparameter; did you mean $net.units?");
    assert_null(got);
    json_decref(value);
    json_decref(values);
    json_decref(wanted);
}

/* {table's path in SECTION_KEYS, name, nearest or NULL} */
static const char *const NEAREST[][3] = {
    {"training", "learning_rate", "learning_rate"},
    {"training", "learningRate", "learning_rate"},
    {"training", "lerning_rate", "learning_rate"},
    {"training", "laerning_rate", "learning_rate"},
    {"training", "lr", "learning_rate"},
    {"training", "LR", "learning_rate"},
    {"training", "batchSize", "batch_size"},
    {"training", "batch-size", "batch_size"},
    {"training", "wd", "weight_decay"},
    {"training", "opt", "optimizer"},
    {"training", "lr_scheduler", "schedule"},
    {"training", "xyz", NULL},
    {"training", "unrelated_words", NULL},
    {"federation", "num_clients", "clients"},
    {"federation", "fraction_fit", "clients_per_round"},
    {"federation", "min_fit_clients", "clients_per_round"},
    {"federation", "epochs", "local_epochs"},
    {"federation", "local-epochs", "local_epochs"},
    {"federation", "aggregator", "strategy"},
    {"federation.partition", "beta", "alpha"},
    {"federation.partition", "dirichlet_alpha", "alpha"},
    {"data", "dataset", "source"},
    {"data", "val_fraction", "validation_fraction"},
    {"model.layers", "MaxPooling2D", "max_pool2d"},
    {"model.layers", "Conv2d", "conv2d"},
    {"model.layers", "Linear", "dense"},
    {"model.layers", "BatchNorm2d", "batch_norm"},
    {"model.layers", "transformer", NULL},
    {"model.layers.conv2d", "kernel_size", "kernel"},
    {"model.layers.conv2d", "out_channels", "filters"},
    {"model.layers.dropout", "p", "rate"},
};

static void knows_what_other_tools_call_a_key(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof NEAREST / sizeof *NEAREST; i++) {
        const struct key *row = keys_find(SECTION_KEYS, NEAREST[i][0]);
        const struct key *table = row->type == KEY_LIST ? row->sub->sub : row->sub;
        const char *got = keys_nearest(table, NEAREST[i][1]);
        if ((got == NULL) != (NEAREST[i][2] == NULL) || (got && strcmp(got, NEAREST[i][2])))
            fail_msg("%s in %s: %s", NEAREST[i][1], NEAREST[i][0], got ? got : "nothing");
    }
}

static void finds_rows_by_path(void **state)
{
    (void)state;
    assert_string_equal(keys_find(SECTION_KEYS, "training.learning_rate")->name, "learning_rate");
    assert_string_equal(keys_find(SECTION_KEYS, "model.layers[3].conv2d.filters")->name, "filters");
    assert_string_equal(keys_find(SECTION_KEYS, "model.layers[0].repeat.layers[1].dense")->name, "dense");
    assert_string_equal(keys_find(SECTION_KEYS, "model.layers.dense.units")->name, "units");
    assert_non_null(keys_find(SECTION_KEYS, "model.layers[3]"));
    assert_null(keys_find(SECTION_KEYS, ""));
    assert_null(keys_find(SECTION_KEYS, "training.nothing"));
    assert_null(keys_find(SECTION_KEYS, "training[0]"));
    assert_null(keys_find(SECTION_KEYS, "training.learning_rate.deeper"));
    assert_null(keys_find(SECTION_KEYS, "model.layers[3"));
}

static void nearest_words_come_from_the_list(void **state)
{
    char near[64];

    (void)state;
    assert_true(keys_nearest_word("constant step cosine", "cosin", near, sizeof near));
    assert_string_equal(near, "cosine");
    assert_true(keys_nearest_word("cifar10 idx", "cifar", near, sizeof near));
    assert_string_equal(near, "cifar10");
    assert_false(keys_nearest_word("cifar10 idx", "imagenet", near, sizeof near));
    assert_false(keys_nearest_word("", "x", near, sizeof near));
}

static void texts_are_one_line_of_utf8(void **state)
{
    static const char *const TEXTS[][2] = {{"plain", "plain"},
                                           {"a\nb\tc\x7f", "a b c "},
                                           {"caf\xc3\xa9", "caf\xc3\xa9"},
                                           {"caf\xc3", "caf"},
                                           {"\xe2\x82", ""},
                                           {"\xe2\x82 x", " x"},
                                           {"\x80\xbfx", "x"},
                                           {"a\xc2\x9bm\x1b[1m", "a m [1m"},
                                           {"\xc2\xa0", "\xc2\xa0"},
                                           {"\xf0\x9f\x98\x80", "\xf0\x9f\x98\x80"},
                                           {"", ""}};
    char long_text[200] = "\"";

    (void)state;
    for (size_t i = 0; i < sizeof TEXTS / sizeof *TEXTS; i++) {
        char text[40];
        snprintf(text, sizeof text, "%s", TEXTS[i][0]);
        keys_clean_text(text);
        assert_string_equal(text, TEXTS[i][1]);
    }
    for (size_t cut = 55; cut < 62; cut++) { /* wherever a long value is cut */
        char shown[100];
        json_t *value;
        memset(long_text, 'x', cut);
        strcpy(long_text + cut, "\xf0\x9f\x98\x80 and more and more and more");
        value = json_string(long_text);
        keys_value_text(value, shown, sizeof shown);
        json_decref(value);
        value = json_string(shown);
        assert_non_null(value);
        json_decref(value);
    }
}

static void a_reference_is_a_dollar_and_a_name(void **state)
{
    static const char *const TEXTS[][2] = {{"$lr", "lr"}, {"$a.b-c_1", "a.b-c_1"}, {"$", NULL},   {"lr", NULL},
                                           {"$1", NULL},  {"$a b", NULL},          {"$a.", NULL}, {"$$a", NULL}};

    (void)state;
    for (size_t i = 0; i < sizeof TEXTS / sizeof *TEXTS; i++) {
        json_t *value = json_string(TEXTS[i][0]);
        const char *name = keys_reference(value);
        assert_int_equal(name == NULL, TEXTS[i][1] == NULL);
        if (name)
            assert_string_equal(name, TEXTS[i][1]);
        json_decref(value);
    }
    assert_null(keys_reference(NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refuses_with_what_would_be_right),
        cmocka_unit_test(any_reference_is_good_where_hyperparameters_are_unknown),
        cmocka_unit_test(a_reference_left_over_is_refused_where_none_is_allowed),
        cmocka_unit_test(plain_values_are_hyperparameters_too),
        cmocka_unit_test(fills_in_defaults_once),
        cmocka_unit_test(substitutes_references_by_values),
        cmocka_unit_test(knows_what_other_tools_call_a_key),
        cmocka_unit_test(finds_rows_by_path),
        cmocka_unit_test(nearest_words_come_from_the_list),
        cmocka_unit_test(texts_are_one_line_of_utf8),
        cmocka_unit_test(a_reference_is_a_dollar_and_a_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
