/* test_model.c - shapes, parameters, errors and starting weights of networks.
 * SPDX-License-Identifier: Apache-2.0 */
#include "common/rng.h"
#include "trainer/model/model.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static json_t *section_of(const char *text)
{
    struct error err = {0};
    json_t *section;

    if (json_parse(text, strlen(text), &section, &err))
        fail_msg("%s", err.text);
    return section;
}

static struct model *model_of(const char *text, int channels, int height, int width)
{
    struct data_shape data = {channels, height, width, 10, 100, 0};
    json_t *section = section_of(text);
    struct model *model = NULL;
    struct error err = {0};

    if (model_new(section, &data, &model, &err))
        fail_msg("%s: %s", text, err.text);
    json_decref(section);
    return model;
}

static void presets_have_the_published_numbers_of_parameters(void **state)
{
    /* lenet: NIID-Bench and BlazeFL; pfl_cnn: pfl-research; mcmahan_*: McMahan et al. 2017. The two benchmark nets by
     * hand: seed_cnn 896 + 18,496 + 16,384 * 128 + 128 + 1,290; bench_cnn 896 + 18,496 + 4,096 * 128 + 128 + 1,290. */
    static const struct {
        const char *name;
        int channels, side;
        size_t parameters;
    } ROWS[] = {{"seed_cnn", 3, 32, 2117962}, {"bench_cnn", 3, 32, 545098},   {"lenet", 3, 32, 62006},
                {"pfl_cnn", 3, 32, 1626442},  {"mcmahan_2nn", 1, 28, 199210}, {"mcmahan_cnn", 1, 28, 1663370}};
    size_t n = 0;

    (void)state;
    for (size_t i = 0; i < sizeof ROWS / sizeof ROWS[0]; i++) {
        char text[64];
        struct model *m;
        snprintf(text, sizeof text, "{\"preset\": \"%s\"}", ROWS[i].name);
        m = model_of(text, ROWS[i].channels, ROWS[i].side, ROWS[i].side);
        assert_int_equal(m->trainable_n, ROWS[i].parameters);
        assert_int_equal(m->weights_n, ROWS[i].parameters);
        model_free(m);
        assert_string_equal(model_presets()[n++], ROWS[i].name);
    }
    assert_null(model_presets()[n]);
}

static void counts_the_work_of_bench_cnn(void **state)
{
    struct model *m = model_of("{\"preset\": \"bench_cnn\"}", 3, 32, 32);
    double first = 2.0 * 27 * 32 * 1024;

    (void)state;
    /* 35.0 MFLOP forward and backward, the first layer having no input gradient */
    assert_true(fabs(3 * m->flops_forward - first - 35.0e6) < 0.1e6);
    model_free(m);
}

static void shapes_follow_from_kernels_strides_and_pads(void **state)
{
    /* one layer on 3 x 7 x 9; padding "same" as TensorFlow's and PyTorch's: out = ceil(in / stride), the odd pixel
     * after */
    static const struct {
        const char *layer;
        int c, h, w, top, left, bottom, right;
    } ROWS[] = {
        {"{\"conv2d\": {\"filters\": 4, \"kernel\": 3, \"padding\": \"same\"}}", 4, 7, 9, 1, 1, 1, 1},
        {"{\"conv2d\": {\"filters\": 4, \"kernel\": 3, \"padding\": \"valid\"}}", 4, 5, 7, 0, 0, 0, 0},
        {"{\"conv2d\": {\"filters\": 4, \"kernel\": 7}}", 4, 1, 3, 0, 0, 0, 0},
        {"{\"conv2d\": {\"filters\": 4, \"kernel\": 3, \"padding\": 2, \"stride\": 2}}", 4, 5, 6, 2, 2, 2, 2},
        {"{\"conv2d\": {\"filters\": 4, \"kernel\": 4, \"padding\": \"same\"}}", 4, 7, 9, 1, 1, 2, 2},
        {"{\"conv2d\": {\"filters\": 4, \"kernel\": 4, \"padding\": \"same\", \"stride\": 2}}", 4, 4, 5, 1, 1, 2, 2},
        {"{\"conv2d\": {\"filters\": 4, \"kernel\": 1, \"padding\": \"same\", \"stride\": 3}}", 4, 3, 3, 0, 0, 0, 0},
        {"{\"conv2d\": {\"filters\": 6, \"kernel\": 3, \"groups\": 3}}", 6, 5, 7, 0, 0, 0, 0},
        {"{\"max_pool2d\": {\"size\": 2, \"padding\": 0}}", 3, 3, 4, 0, 0, 0, 0},
        {"{\"max_pool2d\": {\"size\": 3, \"stride\": 2, \"padding\": 1}}", 3, 4, 5, 1, 1, 1, 1},
        {"{\"avg_pool2d\": {\"size\": 3, \"stride\": 1}}", 3, 5, 7, 0, 0, 0, 0},
        {"{\"batch_norm\": {}}", 3, 7, 9, 0, 0, 0, 0},
        {"{\"relu\": {}}", 3, 7, 9, 0, 0, 0, 0},
        {"\"relu\"", 3, 7, 9, 0, 0, 0, 0},
    };

    (void)state;
    for (size_t i = 0; i < sizeof ROWS / sizeof ROWS[0]; i++) {
        char text[300];
        struct model *m;
        struct layer *l;
        snprintf(text, sizeof text, "{\"layers\": [%s, {\"flatten\": {}}, {\"dense\": {\"units\": \"classes\"}}]}",
                 ROWS[i].layer);
        m = model_of(text, 3, 7, 9);
        l = &m->layers[0];
        assert_int_equal(l->out.c, ROWS[i].c);
        assert_int_equal(l->out.h, ROWS[i].h);
        assert_int_equal(l->out.w, ROWS[i].w);
        assert_int_equal(l->pad_top, ROWS[i].top);
        assert_int_equal(l->pad_left, ROWS[i].left);
        assert_int_equal(l->pad_bottom, ROWS[i].bottom);
        assert_int_equal(l->pad_right, ROWS[i].right);
        assert_int_equal(m->layers[1].out.c, ROWS[i].c * ROWS[i].h * ROWS[i].w);
        assert_true(m->layers[1].out.flat);
        model_free(m);
    }
}

static void parameters_are_named_as_in_a_pytorch_sequential(void **state)
{
    struct model *m =
        model_of("{\"layers\": [{\"conv2d\": {\"filters\": 4, \"kernel\": 3, \"bias\": false, \"activation\": "
                 "\"relu\"}}, {\"batch_norm\": {\"activation\": \"relu\"}}, {\"flatten\": {}}, "
                 "{\"dense\": {\"units\": \"classes\"}}]}",
                 3, 8, 8);
    static const struct {
        const char *name;
        size_t offset, size;
        bool trainable;
    } ROWS[] = {{"0.weight", 0, 108, true},       {"2.weight", 108, 4, true}, {"2.bias", 112, 4, true},
                {"5.weight", 116, 1440, true},    {"5.bias", 1556, 10, true}, {"2.running_mean", 1566, 4, false},
                {"2.running_var", 1570, 4, false}};

    (void)state;
    assert_int_equal(m->params_n, 7);
    for (size_t i = 0; i < 7; i++) {
        assert_string_equal(m->params[i].name, ROWS[i].name);
        assert_int_equal(m->params[i].offset, ROWS[i].offset);
        assert_int_equal(m->params[i].size, ROWS[i].size);
        assert_int_equal(m->params[i].trainable, ROWS[i].trainable);
    }
    assert_int_equal(m->trainable_n, 1566);
    assert_int_equal(m->weights_n, 1574);
    assert_int_equal(m->layers[2].running_mean, 5);
    assert_int_equal(m->layers[2].weight, 1);
    model_free(m);
}

static void repeat_and_residual_unfold_in_place(void **state)
{
    struct model *m =
        model_of("{\"layers\": [{\"repeat\": {\"times\": 2, \"layers\": [{\"residual\": {\"layers\": [{\"conv2d\": "
                 "{\"filters\": 8, \"kernel\": 3, \"padding\": \"same\", \"stride\": 2}}], \"shortcut\": "
                 "[{\"conv2d\": {\"filters\": 8, \"kernel\": 1, \"stride\": 2}}], \"activation\": \"relu\"}}]}}, "
                 "{\"global_avg_pool2d\": {}}, {\"dense\": {\"units\": \"classes\"}}]}",
                 3, 8, 8);

    (void)state;
    assert_int_equal(m->layers_n, 10);
    assert_int_equal(m->layers[0].input, -1);
    assert_int_equal(m->layers[1].input, -1);
    assert_int_equal(m->layers[2].type, LAYER_ADD);
    assert_int_equal(m->layers[2].input, 0);
    assert_int_equal(m->layers[2].from, 1);
    assert_int_equal(m->layers[3].type, LAYER_RELU);
    assert_int_equal(m->layers[4].input, 3);
    assert_int_equal(m->layers[5].input, 3);
    assert_int_equal(m->layers[6].out.h, 2);
    model_free(m);
}

static void equal_networks_have_equal_keys(void **state)
{
    struct model *a = model_of("{\"preset\": \"mcmahan_2nn\", \"init\": \"pytorch\"}", 1, 28, 28);
    struct model *b =
        model_of("{\"layers\": [\"flatten\", {\"repeat\": {\"times\": 2, \"layers\": [{\"dense\": {\"units\": 200, "
                 "\"activation\": \"relu\"}}]}}, {\"dense\": {\"units\": 10}}]}",
                 1, 28, 28);
    struct model *c = model_of("{\"preset\": \"mcmahan_2nn\"}", 1, 14, 28);

    (void)state;
    assert_string_equal(a->key, b->key);
    assert_string_not_equal(a->key, c->key);
    model_free(a);
    model_free(b);
    model_free(c);
}

static void dropout_rates_are_not_in_the_key_but_whether_there_is_one(void **state)
{
    static const char *const RATES[] = {"0.2", "0.5", "0"};
    struct model *m[3];

    (void)state;
    for (int i = 0; i < 3; i++) {
        char text[200];
        snprintf(text, sizeof text, "{\"layers\": [\"flatten\", {\"dropout\": {\"rate\": %s}}, {\"dense\": {\"units\": 10}}]}",
                 RATES[i]);
        m[i] = model_of(text, 1, 8, 8);
    }
    assert_string_equal(m[0]->key, m[1]->key);
    assert_string_not_equal(m[0]->key, m[2]->key);
    for (int i = 0; i < 3; i++)
        model_free(m[i]);
}

/* errors */

struct reports {
    int n;
    char text[2000];
};

static void keep(void *arg, bool warning, const char *path, const char *text)
{
    struct reports *r = arg;
    size_t length = strlen(r->text);

    (void)warning;
    r->n++;
    snprintf(r->text + length, sizeof r->text - length, "%s: %s\n", path, text);
}

static void mistakes_are_told_with_place_and_what_would_be_right(void **state)
{
    static const struct {
        const char *section, *text;
    } ROWS[] = {
        {"{}", "model: needs preset or layers\n"},
        {"{\"preset\": \"lenet\", \"layers\": [\"relu\"]}", "model: give preset or layers, not both\n"},
        {"{\"preset\": \"lenin\"}", "model.preset: there is no preset \"lenin\"\n"},
        {"{\"layers\": []}", "model.layers: must be a list of at least one layer\n"},
        {"{\"layers\": [\"flatten\", {\"dence\": {\"units\": 10}}]}", "model.layers[1]: there is no layer \"dence\"\n"},
        {"{\"layers\": [{\"conv2d\": {\"filters\": 4, \"kernel\": 3}}, {\"max_pool2d\": {\"size\": 2}}, {\"conv2d\": "
         "{\"filters\": "
         "4, \"kernel\": 5}}, \"flatten\", {\"dense\": {\"units\": \"classes\"}}]}",
         "model.layers[2].conv2d.kernel: kernel 5 is larger than its 3x3 input\n"},
        {"{\"layers\": [{\"conv2d\": {\"filters\": 4, \"kernel\": 13, \"padding\": 2}}, \"flatten\", {\"dense\": "
         "{\"units\": "
         "\"classes\"}}]}",
         "model.layers[0].conv2d.kernel: kernel 13 is larger than its 12x12 input (padding counted)\n"},
        {"{\"layers\": [{\"dense\": {\"units\": \"classes\"}}]}",
         "model.layers[0].dense: dense needs flat values, but what comes in is 3x8x8 (channels, height, width); put "
         "flatten or "
         "global_avg_pool2d before it\n"},
        {"{\"layers\": [\"flatten\", {\"dense\": {\"units\": 12}}]}",
         "model.layers[1]: the last layer must give one value for each of the data's 10 classes, but it gives 12 flat "
         "values\n"},
        {"{\"layers\": [{\"conv2d\": {\"filters\": 10, \"kernel\": 3}}]}",
         "model.layers[0]: the last layer must give one value for each of the data's 10 classes, but it gives 10x6x6 "
         "(channels, height, width)\n"},
        {"{\"layers\": [\"flatten\", {\"max_pool2d\": {\"size\": 1}}, \"flatten\", {\"dense\": {\"units\": 10}}]}",
         "model.layers[1].max_pool2d: max_pool2d needs an image, but what comes in is 192 flat values\n"},
        {"{\"layers\": [{\"conv2d\": {\"filters\": 5, \"kernel\": 3, \"groups\": 2}}, {\"max_pool2d\": {\"size\": 2, "
         "\"padding\": "
         "2}}, {\"group_norm\": {\"groups\": 3}}, \"flatten\", {\"dense\": {\"units\": 10}}]}",
         "model.layers[0].conv2d.groups: 2 groups do not divide 3 input channels and 5 filters\n"
         "model.layers[1].max_pool2d.padding: must be less than the window's size 2, got 2\n"
         "model.layers[2].group_norm.groups: 3 groups do not divide 5 channels\n"},
        {"{\"layers\": [{\"repeat\": {\"times\": 3, \"layers\": [{\"max_pool2d\": {\"size\": 4}}]}}, \"flatten\", "
         "{\"dense\": "
         "{\"units\": 10}}]}",
         "model.layers[0].repeat.layers[0].max_pool2d.size: window 4 is larger than its 2x2 input\n"},
        {"{\"layers\": [{\"residual\": {\"layers\": [{\"conv2d\": {\"filters\": 4, \"kernel\": 3}}]}}, \"flatten\", "
         "{\"dense\": "
         "{\"units\": 10}}]}",
         "model.layers[0].residual: the branch gives 4x6x6 (channels, height, width), but its input (there is no "
         "shortcut) "
         "gives 3x8x8 (channels, height, width); both must be equal\n"},
        {"{\"layers\": [\"flatten\", {\"dense\": {\"units\": 1048576}}, {\"dense\": {\"units\": 1048576}}, {\"dense\": "
         "{\"units\": "
         "10}}]}",
         "model: the network has more than 2147483647 parameters\n"},
        {"{\"layers\": [{\"repeat\": {\"times\": 1000, \"layers\": [{\"repeat\": {\"times\": 1000, \"layers\": "
         "[\"relu\"]}}]}}]}",
         "model.layers[0].repeat.layers[0]: the network has more than 10000 layers\n"},
        {"{\"preset\": \"lenet\"}", "model.preset: lenet does not fit this data: at layers[2].conv2d.kernel: kernel 5 "
                                    "is larger than its 2x2 input\n"
                                    "model.preset: lenet does not fit this data: at layers[3].max_pool2d.size: window "
                                    "2 is larger than its 1x1 input\n"},
        {"{\"layers\": [{\"conv2d\": {\"filters\": 0, \"kernel\": \"big\", \"padding\": \"full\"}}, 7, \"flatten\", "
         "{\"dense\": "
         "{\"units\": 10}}]}",
         "model.layers[0].conv2d.filters: must be a whole number from 1 to 65536\n"
         "model.layers[0].conv2d.kernel: must be a whole number from 1 to 64\n"
         "model.layers[0].conv2d.padding: must be same, valid or a number of pixels, got \"full\"\n"
         "model.layers[1]: must be the name of a layer, or a map of one layer's name to its settings\n"},
    };
    struct data_shape data = {3, 8, 8, 10, 100, 0};

    (void)state;
    for (size_t i = 0; i < sizeof ROWS / sizeof ROWS[0]; i++) {
        json_t *section = section_of(ROWS[i].section);
        struct reports reports = {0};
        struct model *model = NULL;
        struct error err = {0};
        assert_int_equal(model_new_report(section, &data, &model, keep, &reports), -EINVAL);
        assert_string_equal(reports.text, ROWS[i].text);
        assert_null(model);
        assert_int_equal(model_new(section, &data, &model, &err), -EINVAL);
        assert_int_equal(strncmp(err.text, ROWS[i].text, strcspn(ROWS[i].text, "\n")), 0);
        if (reports.n > 1) {
            char more[32];
            snprintf(more, sizeof more, " (and %d more)", reports.n - 1);
            assert_non_null(strstr(err.text, more));
        }
        json_decref(section);
    }
}

/* starting weights */

static void starting_weights_depend_on_seed_and_trial_alone(void **state)
{
    struct model *m = model_of("{\"preset\": \"lenet\"}", 3, 32, 32),
                 *again = model_of("{\"preset\": \"lenet\"}", 3, 32, 32);
    float *a = malloc(m->weights_n * sizeof *a), *b = malloc(m->weights_n * sizeof *b);

    (void)state;
    model_init_weights(m, 7, 3, a);
    model_init_weights(again, 7, 3, b);
    assert_memory_equal(a, b, m->weights_n * sizeof *a);
    model_init_weights(m, 7, 4, b);
    assert_memory_not_equal(a, b, m->weights_n * sizeof *a);
    model_init_weights(m, 8, 3, b);
    assert_memory_not_equal(a, b, m->weights_n * sizeof *a);
    /* The stream is RNG_INIT's, element after element: the first value by hand. */
    struct pcg32 rng = rng_key(7, RNG_INIT, 3, 0, 0);
    float first = (float)(sqrt(6.0 / 75) * (2.0 * (double)rng_float(&rng) - 1.0));
    assert_memory_equal(&a[0], &first, sizeof first);
    free(a);
    free(b);
    model_free(m);
    model_free(again);
}

/* Mean 0 and variance b^2/3 of U(-b, b). Over n values the mean strays by b / sqrt(3n) and the share of the variance by
 * sqrt(0.8 / n); five times that is allowed. */
static void check_uniform(const float *w, size_t n, double bound)
{
    double sum = 0, squares = 0, largest = 0, variance = bound * bound / 3;

    for (size_t i = 0; i < n; i++) {
        sum += (double)w[i];
        squares += (double)w[i] * (double)w[i];
        largest = fmax(largest, fabs((double)w[i]));
    }
    assert_true(largest <= bound * (1 + 1e-6));
    assert_true(largest > 0.95 * bound);
    assert_true(fabs(sum / (double)n) < 5 * bound / sqrt(3.0 * (double)n));
    assert_true(fabs(squares / (double)n / variance - 1) < 5 * sqrt(0.8 / (double)n));
}

static void starting_weights_have_the_bounds_of_their_papers(void **state)
{
    static const char *const NETS[] = {"{\"preset\": \"seed_cnn\"}", "{\"preset\": \"pfl_cnn\"}",
                                       "{\"preset\": \"seed_cnn\", \"init\": \"pytorch\"}",
                                       "{\"preset\": \"pfl_cnn\", \"init\": \"he_uniform\"}"};

    (void)state;
    for (size_t k = 0; k < 4; k++) {
        struct model *m = model_of(NETS[k], 3, 32, 32);
        float *w = malloc(m->weights_n * sizeof *w);
        model_init_weights(m, 1, 1, w);
        for (size_t i = 0; i < m->params_n; i++) {
            const struct param *p = &m->params[i];
            double area = p->dims == 4 ? 9 : 1, in = p->dims > 1 ? p->shape[1] * area : 0, out = p->shape[0] * area;
            if (p->dims > 1)
                check_uniform(w + p->offset, p->size,
                              k == 1   ? sqrt(6 / (in + out))
                              : k == 2 ? 1 / sqrt(in)
                                       : sqrt(6 / in));
            else if (k != 2)
                for (size_t j = 0; j < p->size; j++)
                    assert_true(w[p->offset + j] == 0);
            else
                assert_true(w[p->offset] != 0);
        }
        free(w);
        model_free(m);
    }
}

static void norms_start_as_the_identity(void **state)
{
    struct model *m = model_of(
        "{\"layers\": [\"batch_norm\", {\"group_norm\": {\"groups\": 3}}, \"flatten\", {\"dense\": {\"units\": "
        "10}}]}",
        3, 4, 4);
    float *w = malloc(m->weights_n * sizeof *w);

    (void)state;
    model_init_weights(m, 1, 1, w);
    for (size_t i = 0; i < m->params_n; i++) {
        const struct param *p = &m->params[i];
        bool one = !strcmp(p->name, "0.weight") || !strcmp(p->name, "1.weight") || strstr(p->name, "running_var");
        for (size_t k = 0; p->dims == 1 && k < p->size; k++)
            assert_true(w[p->offset + k] == (one ? 1 : 0));
    }
    free(w);
    model_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(presets_have_the_published_numbers_of_parameters),
        cmocka_unit_test(counts_the_work_of_bench_cnn),
        cmocka_unit_test(shapes_follow_from_kernels_strides_and_pads),
        cmocka_unit_test(parameters_are_named_as_in_a_pytorch_sequential),
        cmocka_unit_test(repeat_and_residual_unfold_in_place),
        cmocka_unit_test(equal_networks_have_equal_keys),
        cmocka_unit_test(dropout_rates_are_not_in_the_key_but_whether_there_is_one),
        cmocka_unit_test(mistakes_are_told_with_place_and_what_would_be_right),
        cmocka_unit_test(starting_weights_depend_on_seed_and_trial_alone),
        cmocka_unit_test(starting_weights_have_the_bounds_of_their_papers),
        cmocka_unit_test(norms_start_as_the_identity),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
