/* test_split.c - who holds which samples: whatever the scheme, every training sample is somewhere exactly once.
 * SPDX-License-Identifier: Apache-2.0 */
#include "common/json.h"
#include "trainer/data/split.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define CLASSES 10

/* Labels alone: split_make looks at nothing else. Class k has about 1/(k + 2) of what class 0 has twice of. */
static uint16_t labels[20000];
static struct dataset dataset_of(size_t n, bool even)
{
    for (size_t i = 0; i < n; i++) {
        size_t k = i * 7919 % (even ? CLASSES : 55), up_to = CLASSES;
        if (!even) { /* 10, 9, ..., 1 of 55 */
            size_t class = 0;
            for (; k >= up_to; k -= up_to--)
                class ++;
            k = class;
        }
        labels[i] = (uint16_t)k;
    }
    return (struct dataset){.channels = 1, .height = 1, .width = 1, .classes = CLASSES, .train = {n, NULL, labels}};
}

static json_t *json_of(const char *text)
{
    json_t *value = NULL;

    if (text)
        assert_int_equal(json_parse(text, strlen(text), &value, NULL), 0);
    return value;
}

static int try_split(const struct dataset *dataset, const char *data, const char *federation, uint64_t seed,
                     struct federation_data **ret, struct error *err)
{
    json_t *data_section = json_of(data), *federation_section = json_of(federation);
    int rc = split_make(dataset, data_section, federation_section, seed, ret, err);

    json_decref(data_section);
    json_decref(federation_section);
    return rc;
}

static struct federation_data *make(const struct dataset *dataset, const char *data, const char *federation,
                                    uint64_t seed)
{
    struct federation_data *split = NULL;
    struct error err = {0};

    if (try_split(dataset, data, federation, seed, &split, &err))
        fail_msg("%s", err.text);
    return split;
}

static void mark(uint8_t *seen, const struct indices *indices, size_t n)
{
    for (size_t i = 0; i < indices->n; i++) {
        assert_true(indices->list[i] < n);
        assert_true(!i || indices->list[i] > indices->list[i - 1]);
        assert_int_equal(seen[indices->list[i]]++, 0);
    }
}

/* train and validation share out all samples; the clients share out train. */
static void check_disjoint_and_complete(const struct federation_data *split, size_t n, bool official)
{
    uint8_t *seen = calloc(n, 1), *held = calloc(n, 1);
    size_t total = 0;

    assert_non_null(seen);
    assert_non_null(held);
    mark(seen, &split->train, n);
    for (size_t j = 0; j < split->clients_n; j++) {
        mark(held, &split->clients[j].train, n);
        mark(held, &split->clients[j].held_out, n);
        total += split->clients[j].train.n + split->clients[j].held_out.n;
    }
    assert_int_equal(total, split->train.n);
    assert_memory_equal(seen, held, n);
    if (!official) {
        mark(seen, &split->validation, n);
        assert_int_equal(split->train.n + split->validation.n, n);
    }
    free(seen);
    free(held);
}

static size_t size_of(const struct client_data *client)
{
    return client->train.n + client->held_out.n;
}

static bool equal_indices(const struct indices *a, const struct indices *b)
{
    return a->n == b->n && (!a->n || !memcmp(a->list, b->list, a->n * sizeof *a->list));
}

static bool equal(const struct federation_data *a, const struct federation_data *b)
{
    bool same = equal_indices(&a->train, &b->train) && equal_indices(&a->validation, &b->validation) &&
                a->clients_n == b->clients_n;

    for (size_t j = 0; same && j < a->clients_n; j++)
        same = equal_indices(&a->clients[j].train, &b->clients[j].train) &&
               equal_indices(&a->clients[j].held_out, &b->clients[j].held_out);
    return same;
}

static void iid_shares_differ_by_one_at_most(void **state)
{
    struct dataset dataset = dataset_of(10000, true);
    struct federation_data *split =
        make(&dataset, "{\"validation_fraction\": 0.1}", "{\"clients\": 7, \"partition\": {\"scheme\": \"iid\"}}", 1);
    size_t count;

    (void)state;
    check_disjoint_and_complete(split, 10000, false);
    assert_int_equal(split->clients_n, 7);
    assert_int_equal(split->train.n, 9000);
    for (size_t j = 0; j < 7; j++) {
        assert_in_range(size_of(&split->clients[j]), 1285, 1286);
        count = 0; /* of class 0: 128.6 expected, standard deviation 10 */
        for (size_t i = 0; i < split->clients[j].train.n; i++)
            count += labels[split->clients[j].train.list[i]] == 0;
        assert_in_range(count, 70, 165);
    }
    split_free(split);
}

static void dirichlet_of_1000_clients_at_tiny_alpha_leaves_none_short(void **state)
{
    static const char *const FEDERATIONS[] = {
        "{\"clients\": 1000, \"partition\": {\"scheme\": \"dirichlet\", \"alpha\": 0.001}}",
        "{\"clients\": 1000, \"partition\": {\"scheme\": \"dirichlet\", \"alpha\": 0.001, \"min_samples\": 10}}",
        "{\"clients\": 1000, \"partition\": {\"scheme\": \"dirichlet\", \"alpha\": 1e-320, \"min_samples\": 5}}",
        "{\"clients\": 1000, \"partition\": {\"scheme\": \"dirichlet\", \"alpha\": 0.1, \"min_samples\": 18}}",
    };
    static const size_t LEAST[] = {1, 10, 5, 18};
    struct dataset dataset = dataset_of(20000, true);

    (void)state;
    for (int i = 0; i < 4; i++) {
        struct federation_data *split = make(&dataset, "{\"validation_fraction\": 0.1}", FEDERATIONS[i], 3);
        check_disjoint_and_complete(split, 20000, false);
        assert_int_equal(split->clients_n, 1000);
        for (size_t j = 0; j < 1000; j++) {
            assert_true(size_of(&split->clients[j]) >= LEAST[i]);
            assert_true(split->clients[j].train.n >= 1);
        }
        split_free(split);
    }
}

static void min_samples_that_leave_no_slack_are_met_exactly(void **state)
{
    struct dataset dataset = dataset_of(1000, true);
    struct federation_data *split =
        make(&dataset, "{\"validation_fraction\": 0}",
             "{\"clients\": 100, \"partition\": {\"scheme\": \"dirichlet\", \"alpha\": 0.01, \"min_samples\": 10}}", 3);

    (void)state;
    check_disjoint_and_complete(split, 1000, false);
    assert_int_equal(split->validation.n, 0);
    for (size_t j = 0; j < 100; j++)
        assert_int_equal(size_of(&split->clients[j]), 10);
    split_free(split);
}

static void equal_seeds_give_equal_splits_and_others_do_not(void **state)
{
    static const char *const FEDERATIONS[] = {
        "{\"clients\": 20, \"partition\": {\"scheme\": \"iid\"}}",
        "{\"clients\": 20, \"partition\": {\"scheme\": \"dirichlet\", \"alpha\": 0.3}}"};
    struct dataset dataset = dataset_of(5000, false);

    (void)state;
    for (int i = 0; i < 2; i++) {
        struct federation_data *a = make(&dataset, "{\"validation_fraction\": 0.1}", FEDERATIONS[i], 11),
                               *b = make(&dataset, "{\"validation_fraction\": 0.1}", FEDERATIONS[i], 11),
                               *c = make(&dataset, "{\"validation_fraction\": 0.1}", FEDERATIONS[i], 12);
        assert_true(equal(a, b));
        assert_false(equal_indices(&a->validation, &c->validation));
        assert_false(equal_indices(&a->clients[0].train, &c->clients[0].train));
        split_free(a);
        split_free(b);
        split_free(c);
    }
}

/* Mean over clients of the largest class's share: 1 where each client has one class, 0.1 where all have all. */
static double unevenness(double alpha)
{
    struct dataset dataset = dataset_of(20000, true);
    char federation[128];
    struct federation_data *split;
    double sum = 0;

    snprintf(federation, sizeof federation,
             "{\"clients\": 50, \"partition\": {\"scheme\": \"dirichlet\", \"alpha\": %.17g}}", alpha);
    split = make(&dataset, "{\"validation_fraction\": 0}", federation, 5);
    for (size_t j = 0; j < 50; j++) {
        const struct indices *mine = &split->clients[j].train;
        size_t counts[CLASSES] = {0}, most = 0;
        for (size_t i = 0; i < mine->n; i++)
            counts[labels[mine->list[i]]]++;
        for (size_t k = 0; k < CLASSES; k++)
            most = counts[k] > most ? counts[k] : most;
        sum += (double)most / (double)mine->n;
    }
    split_free(split);
    return sum / 50;
}

static void larger_alpha_is_more_even(void **state)
{
    static const double ALPHAS[] = {0.01, 0.1, 0.5, 5, 1000};
    double before = 1.01;

    (void)state;
    for (int i = 0; i < 5; i++) {
        double now = unevenness(ALPHAS[i]);
        assert_true(now < before - 0.03);
        before = now;
    }
    assert_true(before < 0.13);
    assert_true(unevenness(0.01) > 0.8);
}

/* With shares from Dir(alpha) over m clients, a client's share of a class has variance (m - 1) / (m^2 (m alpha + 1)).
 */
static void shares_have_the_variance_of_the_dirichlet_distribution(void **state)
{
    struct dataset dataset = dataset_of(20000, true);
    double sum = 0, n = 0;

    (void)state;
    for (uint64_t seed = 0; seed < 60; seed++) {
        struct federation_data *split = make(&dataset, "{\"validation_fraction\": 0}",
                                             "{\"clients\": 5, \"client_validation_fraction\": 0, \"partition\": "
                                             "{\"scheme\": \"dirichlet\", \"alpha\": 0.8}}",
                                             seed);
        for (size_t j = 0; j < 5; j++) {
            double counts[CLASSES] = {0};
            for (size_t i = 0; i < split->clients[j].train.n; i++)
                counts[labels[split->clients[j].train.list[i]]]++;
            for (size_t k = 0; k < CLASSES; k++, n++)
                sum += (counts[k] / 2000 - 0.2) * (counts[k] / 2000 - 0.2);
        }
        split_free(split);
    }
    assert_true(fabs(sum / n - 4.0 / 25 / 5) < 0.003); /* 3,000 shares; measured standard error about 0.001 */
}

static void validation_is_stratified(void **state)
{
    static const double FRACTIONS[] = {0.1, 0.05, 0.333, 0.5};
    struct dataset dataset = dataset_of(5500, false);

    (void)state;
    for (int f = 0; f < 4; f++) {
        char data[64];
        size_t all[CLASSES] = {0}, held[CLASSES] = {0};
        struct federation_data *split;
        snprintf(data, sizeof data, "{\"validation_fraction\": %.3f}", FRACTIONS[f]);
        split = make(&dataset, data, NULL, 2);
        check_disjoint_and_complete(split, 5500, false);
        assert_int_equal(split->validation.n, (size_t)(5500 * FRACTIONS[f] + 0.5));
        for (size_t i = 0; i < 5500; i++)
            all[labels[i]]++;
        for (size_t i = 0; i < split->validation.n; i++)
            held[labels[split->validation.list[i]]]++;
        for (size_t k = 0; k < CLASSES; k++) {
            assert_int_equal(all[k], 1000 - 100 * k);
            assert_true(fabs((double)held[k] - FRACTIONS[f] * (double)all[k]) < 1);
        }
        split_free(split);
    }
}

static void tiny_validation_holds_one_and_never_all_of_a_label(void **state)
{
    struct dataset dataset = dataset_of(10, true); /* one of each label */
    struct federation_data *split;

    (void)state;
    split = make(&dataset, "{\"validation_fraction\": 0.5}", NULL, 2);
    assert_int_equal(split->validation.n, 0);
    split_free(split);
    dataset = dataset_of(40, true);
    split = make(&dataset, "{\"validation_fraction\": 0.001}", NULL, 2);
    assert_int_equal(split->validation.n, 1);
    split_free(split);
}

static void clients_hold_out_their_share(void **state)
{
    struct dataset dataset = dataset_of(10000, true);
    struct federation_data *split = make(&dataset, "{\"validation_fraction\": 0}",
                                         "{\"clients\": 30, \"client_validation_fraction\": 0.2, \"partition\": "
                                         "{\"scheme\": \"dirichlet\", \"alpha\": 0.5}}",
                                         4);

    (void)state;
    check_disjoint_and_complete(split, 10000, false);
    for (size_t j = 0; j < 30; j++) {
        size_t size = size_of(&split->clients[j]), held = (size_t)(0.2 * (double)size + 0.5);
        assert_int_equal(split->clients[j].held_out.n, held < size ? held : size - 1);
    }
    split_free(split);
    split = make(&dataset, "{\"validation_fraction\": 0}",
                 "{\"clients\": 30, \"client_validation_fraction\": 0, \"partition\": {\"scheme\": \"iid\"}}", 4);
    for (size_t j = 0; j < 30; j++)
        assert_int_equal(split->clients[j].held_out.n, 0);
    split_free(split);
    /* one sample each: it is trained on */
    split = make(&dataset, "{\"validation_fraction\": 0}",
                 "{\"clients\": 10000, \"client_validation_fraction\": 0.9, \"partition\": {\"scheme\": \"iid\"}}", 4);
    for (size_t j = 0; j < 10000; j++) {
        assert_int_equal(split->clients[j].train.n, 1);
        assert_int_equal(split->clients[j].held_out.n, 0);
    }
    split_free(split);
}

static void official_test_validates_on_the_test_split_and_trains_on_all(void **state)
{
    struct dataset dataset = dataset_of(500, true);
    struct federation_data *split = NULL;
    struct error err = {0};

    (void)state;
    dataset.test = (struct data_split){30, NULL, labels};
    split = make(&dataset, "{\"validation_fraction\": 0.1, \"validation\": \"official_test\"}", "{\"clients\": 5}", 1);
    check_disjoint_and_complete(split, 500, true);
    assert_int_equal(split->train.n, 500);
    assert_int_equal(split->validation.n, 30);
    for (size_t i = 0; i < 30; i++)
        assert_int_equal(split->validation.list[i], i);
    split_free(split);
    split = NULL;
    dataset.test.n = 0;
    assert_int_equal(try_split(&dataset, "{\"validation\": \"official_test\"}", NULL, 1, &split, &err), -EINVAL);
    assert_string_equal(err.text, "data.validation: official_test, but this data has no test split");
    assert_null(split);
}

static void more_clients_than_samples_are_refused(void **state)
{
    struct dataset dataset = dataset_of(100, true);
    struct federation_data *split = NULL;
    struct error err = {0};

    (void)state;
    assert_int_equal(try_split(&dataset, "{\"validation_fraction\": 0}", "{\"clients\": 101}", 1, &split, &err),
                     -EINVAL);
    assert_string_equal(
        err.text, "federation.clients: 101 clients with at least 1 samples each cannot share 100 training samples; "
                  "at most 100 clients can");
    assert_int_equal(
        try_split(&dataset, "{\"validation_fraction\": 0.1}",
                  "{\"clients\": 31, \"partition\": {\"scheme\": \"dirichlet\", \"alpha\": 1, \"min_samples\": 3}}", 1,
                  &split, &err),
        -EINVAL);
    assert_string_equal(err.text,
                        "federation.clients: 31 clients with at least 3 samples each cannot share 90 training samples; "
                        "at most 30 clients can");
    assert_null(split);
    split = make(&dataset, "{\"validation_fraction\": 0}", "{\"clients\": 100}", 1);
    assert_int_equal(split->clients_n, 100);
    split_free(split);
}

static void without_federation_one_client_holds_all(void **state)
{
    static const char *const NONE[] = {NULL, "{\"enabled\": false, \"clients\": 7}", "null"};
    struct dataset dataset = dataset_of(1000, true);
    struct federation_data *first = make(&dataset, "{\"validation_fraction\": 0.2}", NULL, 9);

    (void)state;
    for (int i = 0; i < 3; i++) {
        json_t *null = json_null(), *data = json_of("{\"validation_fraction\": 0.2}");
        struct federation_data *split = NULL;
        if (i == 2)
            assert_int_equal(split_make(&dataset, data, null, 9, &split, NULL), 0);
        else
            split = make(&dataset, "{\"validation_fraction\": 0.2}", NONE[i], 9);
        json_decref(data);
        assert_int_equal(split->clients_n, 1);
        assert_int_equal(split->clients[0].held_out.n, 0);
        assert_true(equal_indices(&split->clients[0].train, &split->train));
        assert_int_equal(split->train.n, 800);
        assert_true(equal(split, first));
        split_free(split);
    }
    split_free(first);
}

/* What is held out centrally does not depend on the federation. */
static void validation_is_the_same_whatever_the_clients(void **state)
{
    struct dataset dataset = dataset_of(1000, true);
    struct federation_data *a = make(&dataset, "{\"validation_fraction\": 0.2}", NULL, 9),
                           *b = make(&dataset, "{\"validation_fraction\": 0.2}", "{\"clients\": 13}", 9);

    (void)state;
    assert_true(equal_indices(&a->validation, &b->validation));
    assert_true(equal_indices(&a->train, &b->train));
    split_free(a);
    split_free(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(iid_shares_differ_by_one_at_most),
        cmocka_unit_test(dirichlet_of_1000_clients_at_tiny_alpha_leaves_none_short),
        cmocka_unit_test(min_samples_that_leave_no_slack_are_met_exactly),
        cmocka_unit_test(equal_seeds_give_equal_splits_and_others_do_not),
        cmocka_unit_test(larger_alpha_is_more_even),
        cmocka_unit_test(shares_have_the_variance_of_the_dirichlet_distribution),
        cmocka_unit_test(validation_is_stratified),
        cmocka_unit_test(tiny_validation_holds_one_and_never_all_of_a_label),
        cmocka_unit_test(clients_hold_out_their_share),
        cmocka_unit_test(official_test_validates_on_the_test_split_and_trains_on_all),
        cmocka_unit_test(more_clients_than_samples_are_refused),
        cmocka_unit_test(without_federation_one_client_holds_all),
        cmocka_unit_test(validation_is_the_same_whatever_the_clients),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
