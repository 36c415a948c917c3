/* ranking.h - the results of a rung in order: by (score, trial), smaller first. A treap that knows the size of every
 * subtree, so that inserting, ranking and taking the k-th cost O(log n). Its priorities are a hash of the order of
 * insertion: no random stream is touched. Source: Seidel and Aragon, "Randomized search trees", Algorithmica 16, 1996.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_SEARCHERS_RANKING_H
#define FLEXP_SEARCHERS_RANKING_H

#include <stddef.h>
#include <stdint.h>

struct ranking_node {
    double score;
    int64_t trial;
    uint32_t left, right, size, priority; /* node 0 stands for none */
};

struct ranking {
    struct ranking_node *nodes;
    uint32_t root, n, room;
};

void ranking_done(struct ranking *ranking);
/* A zeroed ranking is empty. score must not be NaN, each trial comes once. -ENOMEM. */
int ranking_insert(struct ranking *ranking, double score, int64_t trial);
/* How many are before (score, trial): its index, if it is in. */
uint32_t ranking_index(const struct ranking *ranking, double score, int64_t trial);
/* How many have a score strictly smaller. */
uint32_t ranking_better(const struct ranking *ranking, double score);
/* The trial with index < n. */
int64_t ranking_at(const struct ranking *ranking, uint32_t index);

#endif
