/* keys_nearest.c - which key was meant: other spellings, names that other tools use, and edit distance.
 * SPDX-License-Identifier: Apache-2.0 */
#include "common/keys_private.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#define NAME_ROOM 64

/* from: as normalise() leaves it. to: where the key stands in a whole file; a table that has the last part of it counts
 * too, so that a line serves every map with that key. The first line that fits wins. */
static const struct {
    const char *from, *to;
} SYNONYMS[] = {
    /* Determined AI, older spellings */
    {"max_steps", "searcher.max_time"},
    {"max_batches", "searcher.max_time"},
    {"max_epochs", "searcher.max_time"},
    {"max_rounds", "searcher.max_time"},
    {"target_trial_steps", "searcher.max_time"},
    {"step_budget", "searcher.max_time"},
    {"num_trials", "searcher.max_trials"},
    {"adaptive", "searcher.name"},
    {"brackets", "searcher.bracket_rungs"},
    {"global_batch_size", "training.batch_size"},
    {"per_slot_batch_size", "training.batch_size"},
    {"slots", "resources.slots_per_trial"},
    {"num_slots", "resources.slots_per_trial"},
    {"hparams", "hyperparameters"},
    {"hyperparams", "hyperparameters"},
    {"hyperparameter", "hyperparameters"},
    {"experiment_name", "name"},
    {"restarts", "max_restarts"},
    {"max_retries", "max_restarts"},
    {"max_failures", "max_restarts"},
    {"command", "entrypoint"},
    {"cmd", "entrypoint"},
    /* Flower */
    {"num_rounds", "searcher.max_time"},
    {"num_server_rounds", "searcher.max_time"},
    {"rounds", "searcher.max_time"},
    {"comm_round", "searcher.max_time"},
    {"global_rounds", "searcher.max_time"},
    {"fraction_fit", "federation.clients_per_round"},
    {"fraction_train", "federation.clients_per_round"},
    {"client_fraction", "federation.clients_per_round"},
    {"min_fit_clients", "federation.clients_per_round"},
    {"min_train_nodes", "federation.clients_per_round"},
    {"cohort", "federation.clients_per_round"},
    {"cohort_size", "federation.clients_per_round"},
    {"sample_size", "federation.clients_per_round"},
    {"fraction_evaluate", "federation.client_validation_fraction"},
    {"val_fraction", "data.validation_fraction"},
    {"validation_split", "data.validation_fraction"},
    {"num_clients", "federation.clients"},
    {"n_clients", "federation.clients"},
    {"num_supernodes", "federation.clients"},
    {"min_available_clients", "federation.clients"},
    {"n_parties", "federation.clients"},
    {"num_partitions", "federation.clients"},
    {"local_epoch", "federation.local_epochs"},
    {"num_local_epochs", "federation.local_epochs"},
    {"client_epochs", "federation.local_epochs"},
    {"epochs", "federation.local_epochs"},
    {"num_epochs", "federation.local_epochs"},
    {"epochs", "searcher.max_time"},
    {"num_epochs", "searcher.max_time"},
    {"aggregator", "federation.strategy"},
    {"aggregation", "federation.strategy"},
    {"algorithm", "federation.strategy"},
    {"alg", "federation.strategy"},
    {"fedavg", "federation.strategy"},
    {"server_lr", "federation.strategy.server_learning_rate"},
    {"eta_server", "federation.strategy.server_learning_rate"},
    {"dirichlet_alpha", "federation.partition.alpha"},
    {"concentration", "federation.partition.alpha"},
    {"beta", "federation.partition.alpha"},
    {"partition_method", "federation.partition.scheme"},
    {"partitioner", "federation.partition"},
    {"partition_alpha", "federation.partition.alpha"},
    {"min_partition_size", "federation.partition.min_samples"},
    {"early_stopping", "federation.convergence"},
    {"tolerance", "federation.convergence.min_delta"},
    /* Optuna */
    {"n_trials", "searcher.max_trials"},
    {"n_jobs", "searcher.max_concurrent_trials"},
    {"direction", "searcher.smaller_is_better"},
    {"minimize", "searcher.smaller_is_better"},
    {"maximize", "searcher.smaller_is_better"},
    {"pruner", "searcher.name"},
    {"reduction_factor", "searcher.divisor"},
    {"max_resource", "searcher.max_time"},
    {"study_name", "name"},
    {"timeout", "time_limit"},
    {"max_duration", "time_limit"},
    {"search_space", "hyperparameters"},
    {"params", "hyperparameters"},
    {"parameters", "hyperparameters"},
    {"low", "minval"},
    {"high", "maxval"},
    {"min", "minval"},
    {"max", "maxval"},
    {"lower", "minval"},
    {"upper", "maxval"},
    {"choices", "vals"},
    {"values", "vals"},
    {"options", "vals"},
    {"value", "val"},
    {"objective", "searcher.metric"},
    /* Ray Tune */
    {"num_samples", "searcher.max_trials"},
    {"samples", "searcher.max_trials"},
    {"max_concurrent", "searcher.max_concurrent_trials"},
    {"max_t", "searcher.max_time"},
    {"max_iterations", "searcher.max_time"},
    {"training_iteration", "searcher.max_time"},
    {"time_attr", "searcher.time_metric"},
    {"eta", "searcher.divisor"},
    {"scheduler", "searcher.name"},
    {"algorithm", "searcher.name"},
    {"type", "searcher.name"},
    {"search_alg", "searcher.sampler"},
    {"param_space", "hyperparameters"},
    {"resources_per_trial", "resources.slots_per_trial"},
    {"gpus", "resources.slots_per_trial"},
    {"num_gpus", "resources.slots_per_trial"},
    {"num_workers", "resources.slots_per_trial"},
    {"time_budget_s", "time_limit"},
    {"seed", "reproducibility.experiment_seed"},
    {"random_state", "reproducibility.experiment_seed"},
    {"random_seed", "reproducibility.experiment_seed"},
    /* FLAME and the deep learning libraries */
    {"lr", "training.learning_rate"},
    {"client_lr", "training.learning_rate"},
    {"local_lr", "training.learning_rate"},
    {"bs", "training.batch_size"},
    {"batch", "training.batch_size"},
    {"batchsize", "training.batch_size"},
    {"local_batch_size", "training.batch_size"},
    {"train_batch_size", "training.batch_size"},
    {"wd", "training.weight_decay"},
    {"l2", "training.weight_decay"},
    {"reg", "training.weight_decay"},
    {"opt", "training.optimizer"},
    {"optimiser", "training.optimizer"},
    {"lr_schedule", "training.schedule"},
    {"lr_scheduler", "training.schedule"},
    {"scheduler", "training.schedule"},
    {"dtype", "training.precision"},
    {"epsilon", "training.eps"},
    {"gamma", "training.schedule.factor"},
    {"step_size", "training.schedule.every"},
    {"warmup_steps", "training.schedule.warmup"},
    {"warmup_epochs", "training.schedule.warmup"},
    {"warmup_rounds", "training.schedule.warmup"},
    {"dataset", "data.source"},
    {"dataset", "data"},
    {"data_dir", "data.path"},
    {"data_path", "data.path"},
    {"root", "data.path"},
    {"dir", "data.path"},
    {"architecture", "model.preset"},
    {"network", "model"},
    {"net", "model"},
    {"arch", "model.preset"},
    {"augmentation", "data.augment"},
    {"transforms", "data.augment"},
    {"flip", "horizontal_flip"},
    {"crop", "random_crop"},
    {"in_channels", "filters"},
    {"out_channels", "filters"},
    {"channels", "filters"},
    {"kernel_size", "kernel"},
    {"strides", "stride"},
    {"pool_size", "size"},
    {"kernel_size", "size"},
    {"kernel", "size"},
    {"out_features", "units"},
    {"neurons", "units"},
    {"num_groups", "groups"},
    {"p", "rate"},
    {"rate", "dropout"},
    {"pad", "padding"},
    {"conv", "conv2d"},
    {"convolution", "conv2d"},
    {"linear", "dense"},
    {"fc", "dense"},
    {"fully_connected", "dense"},
    {"max_pool", "max_pool2d"},
    {"max_pooling2d", "max_pool2d"},
    {"maxpool", "max_pool2d"},
    {"pool", "max_pool2d"},
    {"avg_pool", "avg_pool2d"},
    {"average_pooling2d", "avg_pool2d"},
    {"global_avg_pool", "global_avg_pool2d"},
    {"global_average_pooling2d", "global_avg_pool2d"},
    {"adaptive_avg_pool2d", "global_avg_pool2d"},
    {"batch_normalization", "batch_norm"},
    {"batch_norm2d", "batch_norm"},
    {"bn", "batch_norm"},
    {"gn", "group_norm"},
    {"skip", "residual"},
    {"block", "residual"},
};

/* learningRate, Learning-Rate and LEARNING_RATE all become learning_rate. */
static void normalise(const char *name, char *ret)
{
    size_t n = 0;

    for (const char *c = name; *c && n + 2 < NAME_ROOM; c++) {
        if (isupper((unsigned char)*c) && c > name && islower((unsigned char)c[-1]))
            ret[n++] = '_';
        ret[n++] = (*c == '-' || *c == ' ') ? '_' : (char)tolower((unsigned char)*c);
    }
    ret[n] = 0;
}

const struct key *keys_row(const struct key *table, const char *name, size_t length)
{
    for (; table && table->name; table++)
        if (!strncmp(table->name, name, length) && !table->name[length])
            return table;
    return NULL;
}

static const struct key *usable_row(const struct key *table, const char *name)
{
    const struct key *row = keys_row(table, name, strlen(name));

    return row && row->type != KEY_IGNORED ? row : NULL;
}

const struct key *keys_same(const struct key *table, const char *name)
{
    char plain[NAME_ROOM];
    const struct key *row;

    normalise(name, plain);
    if ((row = usable_row(table, plain)))
        return row;
    for (size_t i = 0; i < sizeof SYNONYMS / sizeof *SYNONYMS; i++) {
        const char *last = strrchr(SYNONYMS[i].to, '.');
        if (!strcmp(SYNONYMS[i].from, plain) && (row = usable_row(table, last ? last + 1 : SYNONYMS[i].to)))
            return row;
    }
    return NULL;
}

size_t keys_distance(const char *a, const char *b, size_t most)
{
    char x[NAME_ROOM], y[NAME_ROOM];
    size_t rows[3][NAME_ROOM + 1], n, m;
    size_t *before = rows[0], *last = rows[1], *now = rows[2];

    normalise(a, x);
    normalise(b, y);
    n = strlen(x);
    m = strlen(y);
    if (n > m + most || m > n + most)
        return most + 1;
    for (size_t j = 0; j <= m; j++)
        last[j] = j;
    for (size_t i = 1; i <= n; i++) {
        size_t *oldest = before;
        now[0] = i;
        for (size_t j = 1; j <= m; j++) {
            size_t cost = last[j - 1] + (x[i - 1] != y[j - 1]);
            if (last[j] + 1 < cost)
                cost = last[j] + 1;
            if (now[j - 1] + 1 < cost)
                cost = now[j - 1] + 1;
            if (i > 1 && j > 1 && x[i - 1] == y[j - 2] && x[i - 2] == y[j - 1] && before[j - 2] + 1 < cost)
                cost = before[j - 2] + 1;
            now[j] = cost;
        }
        before = last;
        last = now;
        now = oldest;
    }
    return last[m] > most ? most + 1 : last[m];
}

size_t keys_distance_allowed(const char *name)
{
    size_t length = strlen(name);

    return length < 3 ? 1 : length / 3;
}

const struct key *keys_similar(const struct key *table, const char *name)
{
    size_t best = keys_distance_allowed(name);
    const struct key *found = NULL;

    for (; table && table->name; table++) {
        size_t distance = keys_distance(name, table->name, best);
        if (table->type == KEY_IGNORED || distance > best || (found && distance == best))
            continue;
        best = distance;
        found = table;
    }
    return found;
}

const char *keys_nearest(const struct key *table, const char *name)
{
    const struct key *row = keys_same(table, name);

    if (!row)
        row = keys_similar(table, name);
    return row ? row->name : NULL;
}

bool keys_elsewhere(const struct key *root, const char *name, char *ret, size_t room)
{
    char plain[NAME_ROOM];
    const struct key *row;

    normalise(name, plain);
    if (!strcmp(plain, "name")) /* too common a word to say anything */
        return false;
    for (size_t i = 0; i < sizeof SYNONYMS / sizeof *SYNONYMS; i++)
        if (!strcmp(SYNONYMS[i].from, plain) && (row = keys_find(root, SYNONYMS[i].to)) && row->type != KEY_IGNORED)
            return snprintf(ret, room, "%s", SYNONYMS[i].to) > 0;
    if ((row = usable_row(root, plain)))
        return snprintf(ret, room, "%s", row->name) > 0;
    for (const struct key *map = root; map && map->name; map++)
        if (map->type == KEY_MAP && (row = usable_row(map->sub, plain)))
            return snprintf(ret, room, "%s.%s", map->name, row->name) > 0;
    return false;
}

/* "cifar" for cifar10, "adaptive" for adaptive_asha. */
static bool begins(const char *word, const char *name)
{
    size_t length = strlen(name);

    return length >= 3 && !strncmp(word, name, length);
}

/* Values that are called otherwise elsewhere, and are nearer to a wrong one by their letters. */
static const struct {
    const char *from, *to;
} WORDS[] = {{"gpu", "cuda"}, {"gpus", "cuda"}, {"nvidia", "cuda"}};

static bool has_word(const char *words, const char *word)
{
    size_t length = strlen(word);
    const char *at = words;

    while (at && *at && (strncmp(at, word, length) != 0 || (at[length] && at[length] != ' '))) {
        at += strcspn(at, " ");
        at += strspn(at, " ");
    }
    return at && *at;
}

bool keys_nearest_word(const char *words, const char *name, char *ret, size_t room)
{
    size_t best = keys_distance_allowed(name);
    bool found = false;

    for (size_t i = 0; i < sizeof WORDS / sizeof *WORDS; i++)
        if (!strcasecmp(WORDS[i].from, name) && has_word(words, WORDS[i].to))
            return snprintf(ret, room, "%s", WORDS[i].to) > 0;

    while (words && *words) {
        char word[NAME_ROOM];
        size_t length = strcspn(words, " "), distance;
        snprintf(word, sizeof word, "%.*s", (int)length, words);
        words += length + strspn(words + length, " ");
        distance = begins(word, name) ? 0 : keys_distance(name, word, best);
        if (distance > best || (found && distance == best))
            continue;
        best = distance;
        found = true;
        snprintf(ret, room, "%s", word);
    }
    return found;
}
