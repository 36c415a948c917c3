/* test_metrics.c - scores against values worked out by hand (and equal to scikit-learn's average="macro", zero_division=0 over
 * the labels that occur).
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/metrics/metrics.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static void near(double found, double wanted)
{
    if (!(fabs(found - wanted) < 1e-12))
        print_message("# %.17g for %.17g\n", found, wanted);
    assert_true(fabs(found - wanted) < 1e-12);
}

static struct evaluation made(int classes, const uint64_t *confusion, double loss_sum)
{
    struct evaluation evaluation;

    assert_int_equal(evaluation_init(&evaluation, classes), 0);
    memcpy(evaluation.confusion, confusion, (size_t)(classes * classes) * sizeof *confusion);
    for (int i = 0; i < classes * classes; i++)
        evaluation.n += confusion[i];
    evaluation.loss_sum = loss_sum;
    return evaluation;
}

static void scores_of_two_unbalanced_classes(void **state)
{
    /* labels 0: 6 right, 2 wrong; labels 1: 1 right, 1 wrong */
    struct evaluation evaluation = made(2, (uint64_t[]){6, 2, 1, 1}, 5);
    struct scores scores = evaluation_scores(&evaluation);

    (void)state;
    near(scores.loss, 0.5);
    near(scores.accuracy, 0.7);
    near(scores.precision, (6.0 / 7 + 1.0 / 3) / 2);
    near(scores.recall, (6.0 / 8 + 1.0 / 2) / 2);
    near(scores.f1, (2 * 6.0 / 15 + 2 * 1.0 / 5) / 2); /* 2 tp / (2 tp + fp + fn) */
    evaluation_done(&evaluation);
}

static void a_class_that_is_never_predicted_scores_zero(void **state)
{
    struct evaluation evaluation = made(3, (uint64_t[]){4, 0, 0, 2, 2, 0, 2, 0, 0}, 1);
    struct scores scores = evaluation_scores(&evaluation);

    (void)state;
    near(scores.accuracy, 0.6);
    near(scores.precision, (4.0 / 8 + 1 + 0) / 3);
    near(scores.recall, (1 + 0.5 + 0) / 3);
    near(scores.f1, (2 * 4.0 / 12 + 2 * 2.0 / 6 + 0) / 3);
    evaluation_done(&evaluation);
}

static void a_class_that_neither_occurs_nor_is_predicted_does_not_count(void **state)
{
    struct evaluation evaluation = made(3, (uint64_t[]){3, 1, 0, 0, 4, 0, 0, 0, 0}, 1);
    struct scores scores = evaluation_scores(&evaluation);

    (void)state;
    near(scores.recall, (0.75 + 1) / 2);
    near(scores.precision, (1 + 0.8) / 2);
    evaluation_done(&evaluation);
}

static void merging_adds_counts_and_losses(void **state)
{
    struct evaluation a = made(2, (uint64_t[]){1, 2, 3, 4}, 1.5), b = made(2, (uint64_t[]){10, 20, 30, 40}, 2);

    (void)state;
    evaluation_merge(&a, &b);
    assert_int_equal(a.n, 110);
    assert_true(a.loss_sum == 3.5);
    assert_int_equal(a.confusion[0], 11);
    assert_int_equal(a.confusion[3], 44);
    evaluation_clear(&a);
    assert_int_equal(a.n, 0);
    assert_int_equal(a.confusion[3], 0);
    evaluation_done(&a);
    evaluation_done(&b);
}

static void a_loss_that_is_not_finite_stays_so_and_travels_as_text(void **state)
{
    struct evaluation evaluation = made(2, (uint64_t[]){1, 0, 0, 1}, NAN);
    struct scores scores = evaluation_scores(&evaluation);
    json_t *object = json_object();

    (void)state;
    assert_true(isnan(scores.loss));
    scores_put(object, "validation", &scores);
    assert_string_equal(json_string_value(json_object_get(object, "validation_loss")), "NaN");
    near(json_real_value(json_object_get(object, "validation_accuracy")), 1);
    assert_int_equal(json_object_size(object), 5);
    json_decref(object);
    evaluation_done(&evaluation);
}

static void confusion_has_labels_as_rows(void **state)
{
    struct evaluation evaluation = made(2, (uint64_t[]){6, 2, 1, 1}, 5);
    json_t *rows = evaluation_confusion_json(&evaluation);

    (void)state;
    assert_int_equal(json_integer_value(json_array_get(json_array_get(rows, 0), 1)), 2);
    assert_int_equal(json_integer_value(json_array_get(json_array_get(rows, 1), 0)), 1);
    json_decref(rows);
    evaluation_done(&evaluation);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scores_of_two_unbalanced_classes),
        cmocka_unit_test(a_class_that_is_never_predicted_scores_zero),
        cmocka_unit_test(a_class_that_neither_occurs_nor_is_predicted_does_not_count),
        cmocka_unit_test(merging_adds_counts_and_losses),
        cmocka_unit_test(a_loss_that_is_not_finite_stays_so_and_travels_as_text),
        cmocka_unit_test(confusion_has_labels_as_rows),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
