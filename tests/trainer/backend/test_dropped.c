/* test_dropped.c - training with dropout: what drops in the epilogue of a kernel of our own does what a pass behind oneDNN's
 * does, on every instruction set; decisions are those of the stream, from batch to batch. SPDX-License-Identifier: Apache-2.0 */
#include "tests/trainer/backend/tiny.h"
#include "trainer/backend/cpu/native/native.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define CONV(n, groups)                                                                                                \
    "{\"conv2d\": {\"filters\": " #n ", \"kernel\": 3, \"padding\": \"same\", \"groups\": " #groups "}}, \"relu\", "
#define POOL "{\"max_pool2d\": {\"size\": 2}}, "
#define DROP(rate) "{\"dropout\": {\"rate\": " #rate "}}, "
#define DENSE(n) "{\"dense\": {\"units\": " #n ", \"activation\": \"relu\"}}, "
#define LAST "{\"dense\": {\"units\": \"classes\"}}]"

enum { SAMPLES = 40, BATCH = 8 };

static const char *const NETS[] = {
    "[" CONV(20, 1) POOL DROP(0.25) "\"flatten\", " DENSE(30) DROP(0.5) LAST,  /* direct, dense */
    "[" CONV(33, 1) CONV(36, 1) DROP(0.3) "\"flatten\", " LAST,                /* Winograd */
    "[" CONV(16, 1) CONV(20, 1) POOL DROP(0.3) DROP(0.2) "\"flatten\", " LAST, /* the second is a pass */
    "[" CONV(12, 1) CONV(12, 12) DROP(0.4) "\"flatten\", " DENSE(10) DROP(0.1) LAST, /* depthwise */
};

/* The sum of four batches' worth of training, and the weights that it began with. */
static double *train(const char *net, const char *isa, const char *kernels, struct tiny *t, double *ret_loss)
{
    uint32_t samples[SAMPLES];
    struct error err = {0};
    struct plan_options options = {.batch = BATCH, .precision = PRECISION_FP32_STRICT};
    struct replica r = {.samples = samples, .samples_n = SAMPLES - 3, .epochs = 1, .batch = BATCH, .lr = 0.05f, .seed = 3,
                        .weight = 1};
    double *sum;

    isa ? setenv("FLEXP_ISA", isa, 1) : unsetenv("FLEXP_ISA");
    kernels ? setenv("FLEXP_CPU_KERNELS", kernels, 1) : unsetenv("FLEXP_CPU_KERNELS");
    tiny_init(t, net, 3, 8, 8, 4, SAMPLES, BATCH, 1);
    BACKEND_CPU.release_plan(t->plan);
    if (BACKEND_CPU.compile(t->backend, t->model, &options, &t->plan, NULL, &err))
        fail_msg("%s", err.text);
    sum = calloc(t->model->weights_n, sizeof *sum);
    assert_non_null(sum);
    for (uint32_t i = 0; i < SAMPLES; i++)
        samples[i] = i;
    r.start = t->weights;
    if (backend_train(&BACKEND_CPU, t->plan, &r, 1, NULL, &(struct reduction){.type = REDUCE_WEIGHTED_SUM, .sum = sum},
                      NULL, &err))
        fail_msg("%s", err.text);
    *ret_loss = r.loss_sum;
    unsetenv("FLEXP_ISA");
    unsetenv("FLEXP_CPU_KERNELS");
    return sum;
}

/* Of the largest change of a weight: rounding leaves some 1e-5, a value that is dropped where it should not be 1e-2. */
static double apart(const struct tiny *t, const double *a, const double *b)
{
    double most = 0, change = 0;

    for (size_t i = 0; i < t->model->weights_n; i++) {
        most = fmax(most, fabs(a[i] - b[i]));
        change = fmax(change, fabs(a[i] - (double)t->weights[i]));
    }
    return most / change;
}

static void training_with_dropout_is_that_of_oneDNN_and_passes(void **state)
{
    (void)state;
    for (size_t n = 0; n < sizeof NETS / sizeof *NETS; n++) {
        struct tiny t;
        double loss, *truth = train(NETS[n], NULL, "onednn", &t, &loss);
        for (size_t set = 0; native_all()[set]; set++) {
            struct tiny own;
            double its, *sum = train(NETS[n], native_all()[set]->name, NULL, &own, &its);
            double e = apart(&t, truth, sum);
            if (!(e < 1e-3) || !(fabs(its - loss) < 1e-4 * fabs(loss)))
                fail_msg("%s %s: %g apart, loss %g for %g", native_all()[set]->name, NETS[n], e, its, loss);
            free(sum);
            tiny_done(&own);
        }
        free(truth);
        tiny_done(&t);
    }
}

/* flatten, dropout, dense by the definition: batches of the same image ROWS times, so that no order but that of the stream
 * of decisions matters; of epoch 0. w: [class][value], then the biases. */
enum { VALUES = 15, CLASSES = 4, ROWS = 5, BATCHES = 3 };

static void learn_by_hand(const struct tiny *t, double rate, double lr, struct pcg32 rng, double *w)
{
    for (int batch = 0; batch < BATCHES; batch++) {
        double gradient[CLASSES * (VALUES + 1)] = {0};
        uint32_t draw = 0;
        for (int i = 0, row = 0; row < ROWS; row++) {
            double x[VALUES], p[CLASSES], sum = 0;
            for (int k = 0; k < VALUES; k++, i++) {
                draw = i & 1 ? draw >> 16 : pcg32_next(&rng);
                x[k] = ((double)t->images[k] / 255 - (double)t->data.mean[0]) / (double)t->data.std[0];
                x[k] = (draw & 0xffff) < rate * 65536 ? 0 : x[k] / (1 - rate);
            }
            for (int c = 0; c < CLASSES; c++) {
                p[c] = w[CLASSES * VALUES + c];
                for (int k = 0; k < VALUES; k++)
                    p[c] += w[c * VALUES + k] * x[k];
                sum += p[c] = exp(p[c]);
            }
            for (int c = 0; c < CLASSES; c++) {
                double d = (p[c] / sum - (c == t->labels[0])) / ROWS;
                for (int k = 0; k < VALUES; k++)
                    gradient[c * VALUES + k] += d * x[k];
                gradient[CLASSES * VALUES + c] += d;
            }
        }
        for (int i = 0; i < CLASSES * (VALUES + 1); i++)
            w[i] -= lr * gradient[i];
    }
}

static void decisions_go_on_from_batch_to_batch(void **state)
{
    (void)state;
    for (int early = 0; early < 2; early++) {
        static const char *const LAYERS[] = {"[\"flatten\", " DROP(0.5) LAST, "[" DROP(0.25) "\"flatten\", " LAST};
        const double rate = early ? 0.25 : 0.5;
        uint32_t samples[ROWS * BATCHES] = {0};
        double sum[CLASSES * (VALUES + 1)], w[CLASSES * (VALUES + 1)];
        struct error err = {0};
        struct tiny t;
        struct replica r = {.samples = samples, .samples_n = ROWS * BATCHES, .epochs = 1, .batch = ROWS, .lr = 0.1f,
                            .seed = 3, .trial = 2, .round = 7, .client = 4, .weight = 1};

        tiny_init(&t, LAYERS[early], 1, 5, 3, CLASSES, SAMPLES, ROWS, 1);
        assert_int_equal(t.model->weights_n, CLASSES * (VALUES + 1));
        r.start = t.weights;
        for (int i = 0; i < CLASSES * (VALUES + 1); i++)
            w[i] = (double)t.weights[i];
        learn_by_hand(&t, rate, 0.1, rng_key(r.seed, RNG_DROPOUT, r.trial, r.round, r.client << 16), w);
        if (backend_train(&BACKEND_CPU, t.plan, &r, 1, NULL,
                          &(struct reduction){.type = REDUCE_WEIGHTED_SUM, .sum = sum}, NULL, &err))
            fail_msg("%s", err.text);
        for (int i = 0; i < CLASSES * (VALUES + 1); i++)
            if (!(fabs(sum[i] - w[i]) < 1e-5))
                fail_msg("rate %g: weight %d is %g, not %g", rate, i, sum[i], w[i]);
        tiny_done(&t);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(training_with_dropout_is_that_of_oneDNN_and_passes),
        cmocka_unit_test(decisions_go_on_from_batch_to_batch),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
