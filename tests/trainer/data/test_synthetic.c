/* test_synthetic.c - the embedded data set is neither trivial nor hopeless: simple methods fail on it, and nothing leaks from
 * the labels or from training into test. That a small network learns it is the demo's to show (tests/integration).
 * Measured at the defaults, data seed 7: 1-nearest-neighbour 60.1%, softmax regression 25.5%, with shuffled labels 8.8% and 10.2%.
 * SPDX-License-Identifier: Apache-2.0 */
#include "common/file.h"
#include "common/rng.h"
#include "trainer/data/dataset.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define PIXELS 3072
#define CLASSES 10
#define ASKED 600 /* test images that the slow method is asked for: standard error 2 points */

static struct dataset *dataset;
static char folder[] = "/tmp/flexp-synthetic-XXXXXX";

static int open_dataset(void **state)
{
    json_t *data = json_pack("{s:s, s:{s:i, s:i, s:i, s:i, s:i, s:f}}", "source", "synthetic", "synthetic", "samples", 10000,
                             "test_samples", 2000, "classes", CLASSES, "channels", 3, "size", 32, "noise", 1.0);
    struct error err;
    int rc;

    (void)state;
    if (!mkdtemp(folder))
        return -1;
    rc = dataset_open(data, 7, folder, &dataset, &err);
    if (rc)
        fprintf(stderr, "%s\n", err.text);
    json_decref(data);
    return rc;
}

static int close_dataset(void **state)
{
    (void)state;
    dataset_close(dataset);
    return file_remove_tree(folder, NULL);
}

__attribute__((optimize("O3"))) static int distance(const uint8_t *a, const uint8_t *b)
{
    int sum = 0;

    for (int i = 0; i < PIXELS; i++) {
        int d = a[i] - b[i];
        sum += d * d;
    }
    return sum;
}

/* These read every pixel thousands of times, on one thread. */
static void skip_under_thread_sanitizer(void)
{
#ifdef __SANITIZE_THREAD__
    printf("# because: takes ten minutes under the thread sanitizer, and has one thread\n");
    skip();
#endif
}

static double nearest_neighbour(const uint16_t *labels)
{
    int hits = 0;

    for (size_t t = 0; t < ASKED; t++) {
        const uint8_t *image = dataset->test.images + t * PIXELS;
        int best = INT32_MAX, label = 0;
        for (size_t i = 0; i < dataset->train.n; i++) {
            int d = distance(image, dataset->train.images + i * PIXELS);
            if (d < best) {
                best = d;
                label = labels[i];
            }
        }
        hits += label == dataset->test.labels[t];
    }
    return (double)hits / ASKED;
}

/* Scores of one image; mean 120, deviation 60: near enough to the data's for a linear model */
__attribute__((optimize("O3"))) static int predict(const float *w, const uint8_t *image, float *x, double *p)
{
    double most = -1e30, total = 0;
    int best = 0;

    for (int i = 0; i < PIXELS; i++)
        x[i] = ((float)image[i] - 120) / 60;
    for (int c = 0; c < CLASSES; c++) {
        float part[16] = {0};
        double sum = (double)w[CLASSES * PIXELS + c];
        for (int i = 0; i < PIXELS; i += 16)
            for (int j = 0; j < 16; j++)
                part[j] += w[c * PIXELS + i + j] * x[i + j];
        for (int j = 0; j < 16; j++)
            sum += (double)part[j];
        p[c] = sum;
        if (sum > most) {
            most = sum;
            best = c;
        }
    }
    for (int c = 0; c < CLASSES; c++)
        total += p[c] = exp(p[c] - most);
    for (int c = 0; c < CLASSES; c++)
        p[c] /= total;
    return best;
}

/* SGD sample by sample with weight decay; the best of all epochs on the test split, which favours it. */
__attribute__((optimize("O3"))) static double softmax_regression(const uint16_t *labels, float rate, float decay, int epochs)
{
    float *w = calloc(CLASSES * PIXELS + CLASSES, sizeof *w), x[PIXELS];
    uint32_t *order = malloc(dataset->train.n * sizeof *order);
    double p[CLASSES], best = 0;

    assert_non_null(w);
    assert_non_null(order);
    for (uint32_t i = 0; i < dataset->train.n; i++)
        order[i] = i;
    for (int epoch = 0; epoch < epochs; epoch++) {
        struct pcg32 rng = rng_key(1, RNG_SHUFFLE, (uint64_t)epoch, 0, 0);
        int hits = 0;
        rng_shuffle_u32(&rng, order, dataset->train.n);
        for (size_t k = 0; k < dataset->train.n; k++) {
            size_t i = order[k];
            predict(w, dataset->train.images + i * PIXELS, x, p);
            for (int c = 0; c < CLASSES; c++) {
                float step = rate * ((float)p[c] - (c == labels[i]));
                for (int j = 0; j < PIXELS; j++)
                    w[c * PIXELS + j] -= step * x[j] + rate * decay * w[c * PIXELS + j];
                w[CLASSES * PIXELS + c] -= step;
            }
        }
        for (size_t t = 0; t < dataset->test.n; t++)
            hits += predict(w, dataset->test.images + t * PIXELS, x, p) == dataset->test.labels[t];
        if (hits > best)
            best = hits;
    }
    free(w);
    free(order);
    return best / (double)dataset->test.n;
}

static uint16_t *shuffled_labels(void)
{
    uint16_t *labels = malloc(dataset->train.n * sizeof *labels);
    uint32_t *order = malloc(dataset->train.n * sizeof *order);
    struct pcg32 rng = rng_key(3, RNG_SHUFFLE, 0, 0, 0);

    assert_non_null(labels);
    assert_non_null(order);
    for (uint32_t i = 0; i < dataset->train.n; i++)
        order[i] = i;
    rng_shuffle_u32(&rng, order, dataset->train.n);
    for (size_t i = 0; i < dataset->train.n; i++)
        labels[i] = dataset->train.labels[order[i]];
    free(order);
    return labels;
}

static void tuned_softmax_regression_stays_under_60_percent(void **state)
{
    skip_under_thread_sanitizer();
    static const float RATES[] = {1e-5f, 1e-4f, 1e-3f}, DECAYS[] = {0, 0.1f, 0};

    (void)state;
    for (int i = 0; i < 3; i++) {
        double accuracy = softmax_regression(dataset->train.labels, RATES[i], DECAYS[i], 4);
        printf("# softmax regression at rate %g: %.3f\n", (double)RATES[i], accuracy);
        assert_true(accuracy < 0.60);
    }
}

static void nearest_neighbour_stays_under_70_percent(void **state)
{
    skip_under_thread_sanitizer();
    double accuracy = nearest_neighbour(dataset->train.labels);

    (void)state;
    printf("# 1-nearest-neighbour: %.3f\n", accuracy);
    assert_true(accuracy < 0.70);
}

static void shuffled_labels_give_chance(void **state)
{
    skip_under_thread_sanitizer();
    uint16_t *labels = shuffled_labels();
    double neighbour = nearest_neighbour(labels), softmax = softmax_regression(labels, 1e-4f, 0.1f, 2);

    (void)state;
    printf("# shuffled labels: 1-nearest-neighbour %.3f, softmax %.3f\n", neighbour, softmax);
    free(labels);
    assert_true(fabs(neighbour - 0.1) <= 0.03);
    assert_true(fabs(softmax - 0.1) <= 0.03);
}

static int compare_images(const void *a, const void *b)
{
    return memcmp(*(const uint8_t *const *)a, *(const uint8_t *const *)b, PIXELS);
}

static void no_image_stands_twice_in_train_or_test(void **state)
{
    size_t n = dataset->train.n + dataset->test.n;
    const uint8_t **images = malloc(n * sizeof *images);

    (void)state;
    assert_non_null(images);
    for (size_t i = 0; i < n; i++)
        images[i] = i < dataset->train.n ? dataset->train.images + i * PIXELS
                                         : dataset->test.images + (i - dataset->train.n) * PIXELS;
    qsort(images, n, sizeof *images, compare_images);
    for (size_t i = 1; i < n; i++)
        assert_int_not_equal(compare_images(&images[i - 1], &images[i]), 0);
    free(images);
}

static void classes_are_of_equal_size(void **state)
{
    int count[CLASSES] = {0};

    (void)state;
    assert_int_equal(dataset->train.n, 10000);
    assert_int_equal(dataset->test.n, 2000);
    for (size_t i = 0; i < dataset->train.n; i++)
        count[dataset->train.labels[i]]++;
    for (int c = 0; c < CLASSES; c++)
        assert_int_equal(count[c], 1000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(classes_are_of_equal_size),
        cmocka_unit_test(no_image_stands_twice_in_train_or_test),
        cmocka_unit_test(nearest_neighbour_stays_under_70_percent),
        cmocka_unit_test(tuned_softmax_regression_stays_under_60_percent),
        cmocka_unit_test(shuffled_labels_give_chance),
    };

    return cmocka_run_group_tests(tests, open_dataset, close_dataset);
}
