/* keys_private.h - what keys.c, keys_check.c and keys_nearest.c share.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_COMMON_KEYS_PRIVATE_H
#define FLEXP_COMMON_KEYS_PRIVATE_H

#include "common/keys.h"

#define KEYS_PATH_ROOM 8192

/* The row that name means beyond doubt: written another way (learningRate, LEARNING-RATE), or a synonym. NULL: none. */
const struct key *keys_same(const struct key *table, const char *name);
/* The row whose name looks like it. NULL: none. */
const struct key *keys_similar(const struct key *table, const char *name);
/* The key of that name, or the one that it is a synonym of, at the top of root or in one of its maps. */
bool keys_elsewhere(const struct key *root, const char *name, char *ret, size_t room);

/* Edit distance with transpositions (optimal string alignment), case and '-' against '_' ignored; more than `most`
 * counts as most + 1. */
size_t keys_distance(const char *a, const char *b, size_t most);
/* How many edits a name of this length may be away to be suggested. */
size_t keys_distance_allowed(const char *name);

/* The shortest text that reads back as the same number. */
void keys_number_text(double value, char *ret, size_t room);
/* A real without a fraction: 1e5 is a float in YAML, and fine as a number of samples. */
bool keys_is_whole(const json_t *value);
/* A description without a type: a nested group of hyperparameters. */
bool keys_is_group(const json_t *description);
bool keys_nearest_hyperparameter(const json_t *hyperparameters, const char *name, char *ret, size_t room);

const struct key *keys_row(const struct key *table, const char *name, size_t length);

#endif
