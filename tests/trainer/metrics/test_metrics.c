/* test_metrics.c - scores against scikit-learn's numbers (tests/golden/trainer/metrics.txt), merging, JSON.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/metrics/metrics.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void scores_are_those_of_scikit_learn(void **state)
{
    FILE *file = fopen("tests/golden/trainer/metrics.txt", "r");
    char comment[400];
    int classes, n, cases = 0;

    (void)state;
    assert_non_null(file);
    assert_non_null(fgets(comment, sizeof comment, file));
    while (fscanf(file, " case %d %d", &classes, &n) == 2) {
        struct evaluation e, half[2];
        int *labels = malloc((size_t)n * sizeof *labels);
        double expected[4];
        struct scores s;

        assert_int_equal(evaluation_init(&e, classes), 0);
        evaluation_init(&half[0], classes);
        evaluation_init(&half[1], classes);
        for (int i = 0; i < n; i++)
            assert_int_equal(fscanf(file, "%d", &labels[i]), 1);
        for (int i = 0; i < n; i++) {
            int p;
            struct evaluation *h = &half[i & 1];
            assert_int_equal(fscanf(file, "%d", &p), 1);
            h->confusion[labels[i] * classes + p]++;
            h->n++;
            h->loss_sum += 0.25 * i;
        }
        for (int i = 0; i < 4; i++)
            assert_int_equal(fscanf(file, "%lf", &expected[i]), 1);
        evaluation_merge(&e, &half[0]);
        evaluation_merge(&e, &half[1]);
        s = evaluation_scores(&e);
        assert_true(fabs(s.accuracy - expected[0]) < 1e-13);
        assert_true(fabs(s.f1 - expected[1]) < 1e-13);
        assert_true(fabs(s.precision - expected[2]) < 1e-13);
        assert_true(fabs(s.recall - expected[3]) < 1e-13);
        assert_true(fabs(s.loss - 0.125 * (n - 1)) < 1e-13);
        evaluation_clear(&e);
        assert_int_equal(e.n, 0);
        assert_true(isnan(evaluation_scores(&e).accuracy));
        evaluation_done(&e);
        evaluation_done(&half[0]);
        evaluation_done(&half[1]);
        free(labels);
        cases++;
    }
    assert_int_equal(cases, 8);
    fclose(file);
}

static void scores_travel_under_their_prefix(void **state)
{
    json_t *object = json_object(), *rows;
    struct scores s = {.loss = INFINITY, .accuracy = 0.5, .f1 = 0.25, .precision = 0.125, .recall = 1};
    struct evaluation e;
    char *text;

    (void)state;
    scores_put(object, "client_validation", &s);
    text = json_canonical(object);
    assert_string_equal(text, "{\"client_validation_accuracy\":0.5,\"client_validation_f1\":0.25,"
                              "\"client_validation_loss\":\"Infinity\",\"client_validation_precision\":0.125,"
                              "\"client_validation_recall\":1.0}");
    free(text);
    json_decref(object);
    evaluation_init(&e, 2);
    e.confusion[0 * 2 + 1] = 3;
    e.confusion[1 * 2 + 1] = 7;
    rows = evaluation_confusion_json(&e);
    text = json_canonical(rows);
    assert_string_equal(text, "[[0,3],[0,7]]");
    free(text);
    json_decref(rows);
    evaluation_done(&e);
    evaluation_done(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scores_are_those_of_scikit_learn),
        cmocka_unit_test(scores_travel_under_their_prefix),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
