/* test_graph.c - storage that layers share: what is done in place is seen by nobody else; small and odd shapes stay within
 * their buffers (the sanitizers tell). SPDX-License-Identifier: Apache-2.0 */
#include "tests/trainer/backend/tiny.h"
#include "trainer/backend/cpu/cpu_private.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#define CLASSES ", {\"dense\": {\"units\": \"classes\"}}]"
#define DENSE "{\"dense\": {\"units\": 10}}"
#define DROP "{\"dropout\": {\"rate\": 0.5}}"
#define SIZE ((size_t)4000)

static void train_step(const char *net, int channels, int height, int width, size_t batch, double *sum, struct replica *ret)
{
    struct tiny t;
    uint32_t samples[40];
    struct error err = {0};

    tiny_init(&t, net, channels, height, width, 4, 40, batch, 1);
    assert_true(t.model->weights_n <= SIZE);
    for (uint32_t i = 0; i < 40; i++)
        samples[i] = i;
    *ret = (struct replica){.start = t.weights, .samples = samples, .samples_n = batch, .epochs = 1, .batch = batch,
                            .lr = 0.05f, .seed = 3, .weight = 1};
    if (backend_train(&BACKEND_CPU, t.plan, ret, 1, NULL,
                      &(struct reduction){.type = REDUCE_WEIGHTED_SUM, .sum = sum}, NULL, &err))
        fail_msg("%s", err.text);
    tiny_done(&t);
}

/* A flatten that moves nothing shares the storage of its input, which a shortcut reads as well. */
static void dropout_behind_a_flatten_leaves_the_other_readers_alone(void **state)
{
    static const char *const NETS[] = {
        "[\"flatten\", " DENSE ", {\"residual\": {\"layers\": [" DROP ", " DENSE "]}}" CLASSES,
        "[\"flatten\", " DENSE ", {\"residual\": {\"layers\": [\"flatten\", " DROP ", " DENSE "]}}" CLASSES,
    };
    static double sums[2][4000];
    struct replica r[2];

    (void)state;
    for (int k = 0; k < 2; k++)
        train_step(NETS[k], 1, 5, 3, 8, sums[k], &r[k]);
    assert_memory_equal(sums[0], sums[1], sizeof sums[0]);
    assert_memory_equal(&r[0].loss_sum, &r[1].loss_sum, sizeof(double));
}

/* Dropout right behind an own convolution's or dense layer's ReLU is its epilogue's; any other is a pass. */
static void dropout_is_fused_where_its_order_and_readers_allow(void **state)
{
#define CONV "{\"conv2d\": {\"filters\": 4, \"kernel\": 3, \"padding\": \"same\"}}"
    static const struct {
        const char *net;
        int layer, dropout; /* of the layer, which is 0 where it is none of its own */
    } ROWS[] = {
        {"[" CONV ", \"relu\", " DROP ", \"flatten\"" CLASSES, 0, 2},
        {"[" CONV ", \"relu\", {\"max_pool2d\": {\"size\": 2}}, " DROP ", \"flatten\"" CLASSES, 0, 3},
        {"[" CONV ", " DROP ", \"relu\", \"flatten\"" CLASSES, 0, 0},
        {"[" CONV ", \"relu\", \"flatten\", " DROP CLASSES, 0, 0},
        {"[\"flatten\", " DENSE ", \"relu\", " DROP CLASSES, 1, 3},
        {"[\"flatten\", " DENSE ", " DROP CLASSES, 1, 0},
        {"[\"flatten\", " DENSE ", \"relu\", {\"residual\": {\"layers\": [" DROP ", " DENSE "]}}" CLASSES, 1, 0},
    };

    (void)state;
    for (size_t i = 0; i < sizeof ROWS / sizeof *ROWS; i++) {
        struct tiny t;
        const struct graph *g;

        tiny_init(&t, ROWS[i].net, 16, 8, 8, 4, 40, 8, 1);
        g = &t.plan->graph;
        if (g->nodes[ROWS[i].layer].dropout != ROWS[i].dropout)
            fail_msg("row %zu: layer %d has dropout %d", i, ROWS[i].layer, g->nodes[ROWS[i].layer].dropout);
        if (ROWS[i].dropout)
            assert_true(g->nodes[ROWS[i].dropout].absorbed && g->tensors[ROWS[i].dropout].absent);
        tiny_done(&t);
    }
}

static void norms_of_odd_images_and_even_batches_stay_in_their_buffers(void **state)
{
    static const struct {
        const char *net;
        int channels, height, width;
    } ROWS[] = {
        {"[{\"conv2d\": {\"filters\": 4, \"kernel\": 1}}, \"batch_norm\", \"global_avg_pool2d\"" CLASSES, 3, 3, 3},
        {"[{\"conv2d\": {\"filters\": 4, \"kernel\": 3, \"padding\": \"same\"}}, \"batch_norm\", \"global_avg_pool2d\"" CLASSES,
         1, 7, 7},
        {"[\"flatten\", {\"dense\": {\"units\": 5}}, \"batch_norm\"" CLASSES, 1, 3, 3},
        {"[{\"conv2d\": {\"filters\": 6, \"kernel\": 3}}, {\"group_norm\": {\"groups\": 3}}, \"global_avg_pool2d\"" CLASSES, 1, 5, 5},
    };
    static const size_t BATCHES[] = {1, 2, 8, 32};
    static double sum[4000];

    (void)state;
    for (size_t k = 0; k < sizeof ROWS / sizeof *ROWS; k++)
        for (size_t b = 0; b < sizeof BATCHES / sizeof *BATCHES; b++) {
            struct replica r;
            train_step(ROWS[k].net, ROWS[k].channels, ROWS[k].height, ROWS[k].width, BATCHES[b], sum, &r);
            assert_true(r.finite && r.update_norm > 0);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dropout_behind_a_flatten_leaves_the_other_readers_alone),
        cmocka_unit_test(dropout_is_fused_where_its_order_and_readers_allow),
        cmocka_unit_test(norms_of_odd_images_and_even_batches_stay_in_their_buffers),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
