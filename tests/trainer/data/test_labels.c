/* test_labels.c - classes from the names of files, a test split drawn from them, and any source in another size.
 * SPDX-License-Identifier: Apache-2.0 */
#include "tests/trainer/data/made_files.h"


static int try_data(const char *source, const char *path, const char *more, struct dataset **ret, struct error *err)
{
    json_t *data = json_loads(more, 0, NULL);
    int rc;

    json_object_set_new(data, "source", json_string(source));
    json_object_set_new(data, "path", json_string(path));
    rc = dataset_open(data, 1, made_path("cache"), ret, err);
    if (!rc) {
        struct data_shape shape;
        assert_int_equal(dataset_shape(data, 1, made_path("nothing"), &shape, err), 0);
        assert_true(shape.height == (*ret)->height && shape.width == (*ret)->width && shape.channels == (*ret)->channels);
        assert_true(shape.train_n == (*ret)->train.n && shape.test_n == (*ret)->test.n);
    }
    json_decref(data);
    return rc;
}

static struct dataset *open_data(const char *source, const char *path, const char *more)
{
    struct dataset *dataset = NULL;
    struct error err = {0};

    if (try_data(source, path, more, &dataset, &err))
        fail_msg("%s", err.text);
    return dataset;
}

/* Ten cats and five dogs of many sizes; every pixel of an animal of number i is about 10 * i. */
static void make_animals(const char *folder)
{
    char name[128];

    for (int i = 0; i < 15; i++) {
        snprintf(name, sizeof name, "%s/%s.%d.png", folder, i < 10 ? "cat" : "dog", i);
        made_png(name, (unsigned)(8 + i), (unsigned)(20 - i), 3, 10 * i);
    }
}

static void names_of_files_say_the_class(void **state)
{
    struct dataset *dataset;

    (void)state;
    make_animals("a");
    made_write("a/README.txt", "is not looked at", 16);
    dataset = open_data("images", made_path("a"), "{\"label_pattern\": \"^([a-z]+)\\\\.\\\\d+\\\\.png$\", \"resize\": {\"height\": 4}}");
    assert_int_equal(dataset->train.n, 15);
    assert_int_equal(dataset->test.n, 0);
    assert_string_equal(dataset->class_names[0], "cat");
    assert_string_equal(dataset->class_names[1], "dog");
    for (size_t i = 0; i < 15; i++) /* cat.0 ... cat.9, dog.10 ...: in the order of their names */
        assert_int_equal(dataset->train.labels[i], i >= 10);
    assert_int_equal(dataset->height, 4);
    assert_int_equal(dataset->width, 4);
    for (size_t p = 0; p < 48; p++) /* flat images stay flat, but for the maker's small pattern */
        assert_in_range(dataset->train.images[3 * 48 + p], 30, 37);
    dataset_close(dataset);
}

static void a_test_split_is_drawn_from_each_class(void **state)
{
    static const char MORE[] = "{\"label_pattern\": \"^([a-z]+)\", \"resize\": {\"height\": 4}, \"channels\": 1,"
                               " \"test_fraction\": 0.2}";
    struct dataset *one, *other;
    size_t dogs = 0;

    (void)state;
    make_animals("a");
    make_animals("b/deeper");
    one = open_data("images", made_path("a"), MORE);
    assert_int_equal(one->train.n, 12);
    assert_int_equal(one->test.n, 3);
    assert_int_equal(one->channels, 1);
    for (size_t i = 0; i < 3; i++)
        dogs += one->test.labels[i];
    assert_int_equal(dogs, 1);
    other = open_data("images", made_path("b"), MORE); /* it does not depend on where the data lies */
    assert_string_equal(one->hash, other->hash);
    dataset_close(one);
    dataset_close(other);
}

static void train_and_test_folders_are_kept_with_a_pattern(void **state)
{
    struct dataset *dataset;
    struct error err;

    (void)state;
    made_png("a/train/cat.1.png", 4, 4, 1, 0);
    made_png("a/train/dog.1.png", 4, 4, 1, 50);
    made_png("a/test/dog.2.png", 4, 4, 1, 90);
    dataset = open_data("images", made_path("a"), "{\"label_pattern\": \"^([a-z]+)\"}");
    assert_int_equal(dataset->train.n, 2);
    assert_int_equal(dataset->test.n, 1);
    assert_int_equal(dataset->test.labels[0], 1);
    dataset_close(dataset);
    assert_int_equal(try_data("images", made_path("a"), "{\"label_pattern\": \"^([a-z]+)\", \"test_fraction\": 0.5}", &dataset,
                              &err),
                     -EINVAL);
    assert_non_null(strstr(err.text, "data.test_fraction is for data without a test folder"));
}

static void what_a_pattern_does_not_fit_is_named(void **state)
{
    static const struct {
        const char *more, *text;
    } ROWS[] = {
        {"{\"label_pattern\": \"^(cat)\"}", "a/dog.10.png: data.label_pattern does not fit its name"},
        {"{\"label_pattern\": \"^([a-z\"}", "data.label_pattern: ^([a-z is no regular expression: "},
        {"{\"label_pattern\": \"(.+?)[.]\"}", "has \"+?\", which POSIX regular expressions read as something else"},
        {"{\"label_pattern\": \"^[a-z]+\"}", "data.label_pattern: ^[a-z]+ has no group"},
        {"{\"label_pattern\": \"([.])\", \"channels\": 1}", "data.label_pattern finds 1 class where at least 2"},
        {"{\"label_pattern\": \"^([a-z]+)\"}", "or data.resize gives them one"},
        {"{\"label_pattern\": \"^([a-z]+)\", \"channels\": 2}", "data.channels must be 1 (grey) or 3 (RGB), got 2"},
    };

    (void)state;
    make_animals("a");
    for (size_t i = 0; i < sizeof ROWS / sizeof *ROWS; i++) {
        struct dataset *dataset = NULL;
        struct error err = {0};
        assert_int_equal(try_data("images", made_path("a"), ROWS[i].more, &dataset, &err), -EINVAL);
        if (!strstr(err.text, ROWS[i].text))
            fail_msg("%s", err.text);
    }
}

static void any_source_comes_in_another_size(void **state)
{
    struct dataset *native, *larger, *again;

    (void)state;
    made_idx("a", "train", 20, 20, 6, 10);
    native = open_data("idx", made_path("a"), "{}");
    larger = open_data("idx", made_path("a"), "{\"resize\": {\"height\": 12, \"width\": 9}, \"channels\": 3}");
    assert_int_equal(larger->height, 12);
    assert_int_equal(larger->width, 9);
    assert_int_equal(larger->channels, 3);
    assert_int_equal(larger->train.n, native->train.n);
    assert_memory_equal(larger->train.labels, native->train.labels, 20 * sizeof(uint16_t));
    assert_string_not_equal(larger->hash, native->hash);
    for (size_t p = 0; p < 20 * 12 * 9; p++)
        assert_true(larger->train.images[3 * p] == larger->train.images[3 * p + 2]);
    again = open_data("idx", made_path("a"), "{\"resize\": {\"height\": 6}, \"channels\": 1}"); /* as it is */
    assert_string_equal(again->hash, native->hash);
    dataset_close(native);
    dataset_close(larger);
    dataset_close(again);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, made_setup, made_teardown)
int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(names_of_files_say_the_class),
        TEST(a_test_split_is_drawn_from_each_class),
        TEST(train_and_test_folders_are_kept_with_a_pattern),
        TEST(what_a_pattern_does_not_fit_is_named),
        TEST(any_source_comes_in_another_size),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
