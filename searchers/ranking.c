/* ranking.c - see ranking.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "searchers/ranking.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

void ranking_done(struct ranking *ranking)
{
    free(ranking->nodes);
    memset(ranking, 0, sizeof *ranking);
}

static bool less(double score, int64_t trial, const struct ranking_node *than)
{
    return score < than->score || (score == than->score && trial < than->trial);
}

static void resize(struct ranking_node *nodes, uint32_t at)
{
    nodes[at].size = nodes[nodes[at].left].size + nodes[nodes[at].right].size + 1;
}

/* Cuts the subtree at into those before key and the others. */
static void split(struct ranking_node *nodes, uint32_t at, const struct ranking_node *key, uint32_t *left,
                  uint32_t *right)
{
    if (!at) {
        *left = *right = 0;
    } else if (less(key->score, key->trial, &nodes[at])) {
        split(nodes, nodes[at].left, key, left, &nodes[at].left);
        *right = at;
        resize(nodes, at);
    } else {
        split(nodes, nodes[at].right, key, &nodes[at].right, right);
        *left = at;
        resize(nodes, at);
    }
}

int ranking_insert(struct ranking *ranking, double score, int64_t trial)
{
    struct ranking_node *nodes = ranking->nodes, *node;
    uint32_t fresh = ranking->n + 1, *link = &ranking->root, hash = fresh * 0x9e3779b9u;

    if (fresh >= ranking->room) {
        uint32_t room = ranking->room ? 2 * ranking->room : 32;
        nodes = realloc(nodes, room * sizeof *nodes);
        if (!nodes)
            return -ENOMEM;
        memset(&nodes[0], 0, sizeof nodes[0]);
        ranking->nodes = nodes;
        ranking->room = room;
    }
    node = &nodes[fresh];
    hash = (hash ^ (hash >> 16)) * 0x85ebca6bu; /* MurmurHash3's finaliser */
    hash = (hash ^ (hash >> 13)) * 0xc2b2ae35u;
    *node = (struct ranking_node){.score = score, .trial = trial, .size = 1, .priority = hash ^ (hash >> 16)};
    while (*link && nodes[*link].priority >= node->priority) {
        nodes[*link].size++;
        link = less(score, trial, &nodes[*link]) ? &nodes[*link].left : &nodes[*link].right;
    }
    split(nodes, *link, node, &node->left, &node->right);
    resize(nodes, fresh);
    *link = fresh;
    ranking->n++;
    return 0;
}

uint32_t ranking_index(const struct ranking *ranking, double score, int64_t trial)
{
    uint32_t index = 0, at = ranking->root;

    while (at) {
        const struct ranking_node *node = &ranking->nodes[at];
        if (node->score < score || (node->score == score && node->trial < trial)) {
            index += ranking->nodes[node->left].size + 1;
            at = node->right;
        } else {
            at = node->left;
        }
    }
    return index;
}

uint32_t ranking_better(const struct ranking *ranking, double score)
{
    return ranking_index(ranking, score, INT64_MIN);
}

int64_t ranking_at(const struct ranking *ranking, uint32_t index)
{
    uint32_t at = ranking->root;

    for (;;) {
        const struct ranking_node *node = &ranking->nodes[at];
        uint32_t left = ranking->nodes[node->left].size;
        if (index == left)
            return node->trial;
        if (index < left) {
            at = node->left;
        } else {
            index -= left + 1;
            at = node->right;
        }
    }
}
