/* test_ranking.c - the order of a rung against a plain sorted list.
 * SPDX-License-Identifier: Apache-2.0 */
#include "common/rng.h"
#include "searchers/ranking.h"
#include "tests/searchers/driver.h"

struct entry {
    double score;
    int64_t trial;
};

static int compare(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;

    if (x->score != y->score)
        return x->score < y->score ? -1 : 1;
    return (x->trial > y->trial) - (x->trial < y->trial);
}

static void agrees_with_a_sorted_list(void **state)
{
    struct entry list[600];
    struct pcg32 rng = rng_key(1, RNG_SEARCH, 0, 0, 0);
    struct ranking ranking = {0};

    (void)state;
    for (uint32_t n = 0; n < 600; n++) {
        uint32_t draw = rng_below(&rng, 40);
        struct entry fresh = {.score = draw ? (double)draw : (double)INFINITY, .trial = (int64_t)((n * 7919) % 600)};
        uint32_t better = 0;
        assert_int_equal(ranking_insert(&ranking, fresh.score, fresh.trial), 0);
        list[n] = fresh;
        qsort(list, n + 1, sizeof *list, compare);
        for (uint32_t i = 0; i <= n; i++) {
            assert_int_equal(ranking_at(&ranking, i), list[i].trial);
            assert_int_equal(ranking_index(&ranking, list[i].score, list[i].trial), i);
            better += list[i].score < fresh.score;
        }
        assert_int_equal(ranking_better(&ranking, fresh.score), better);
    }
    ranking_done(&ranking);
}

static uint32_t depth(const struct ranking *ranking, uint32_t at)
{
    uint32_t left, right;

    if (!at)
        return 0;
    left = depth(ranking, ranking->nodes[at].left);
    right = depth(ranking, ranking->nodes[at].right);
    return 1 + (left > right ? left : right);
}

/* A treap of n nodes is 2 ln n deep on average; a list would be n. */
static void stays_shallow_whatever_the_order(void **state)
{
    (void)state;
    for (int order = 0; order < 4; order++) {
        struct ranking ranking = {0};
        struct pcg32 rng = rng_key(2, RNG_SEARCH, 0, 0, 0);
        for (int64_t i = 0; i < 50000; i++) {
            double score = order == 0 ? (double)i : order == 1 ? (double)-i : order == 2 ? 0 : rng_double(&rng);
            assert_int_equal(ranking_insert(&ranking, score, i), 0);
        }
        assert_true(depth(&ranking, ranking.root) < 60);
        ranking_done(&ranking);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(agrees_with_a_sorted_list),
        cmocka_unit_test(stays_shallow_whatever_the_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
