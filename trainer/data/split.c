/* split.c - see split.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/data/split.h"
#include "common/rng.h"

#include <stdlib.h>
#include <string.h>

#define TRIES_MAX 100
#define GAMMAS_MAX ((size_t)4 << 20) /* draws in all: keeps a hopeless request from taking minutes */

/* Samples by label, ascending within a label: those of label k are list[start[k] .. start[k + 1]). */
struct by_label {
    uint32_t *list;
    size_t *start;
    size_t classes;
};

struct partition {
    size_t clients, min_samples;
    bool dirichlet;
    double alpha;
};

static int compare_u32(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return (x > y) - (x < y);
}

static void sort_u32(struct indices *indices)
{
    if (indices->n)
        qsort(indices->list, indices->n, sizeof *indices->list, compare_u32);
}

static int indices_make(struct indices *ret, size_t n, struct error *err)
{
    ret->list = malloc((n ? n : 1) * sizeof *ret->list);
    if (!ret->list)
        return fail(err, -ENOMEM, "out of memory for %zu sample indices", n);
    ret->n = n;
    return 0;
}

static void by_label_done(struct by_label *groups)
{
    free(groups->list);
    free(groups->start);
}

static int by_label_make(const struct dataset *dataset, const uint32_t *samples, size_t n, struct by_label *ret,
                         struct error *err)
{
    const uint16_t *labels = dataset->train.labels;
    size_t classes = (size_t)dataset->classes;
    struct by_label groups = {malloc((n ? n : 1) * sizeof *groups.list), calloc(classes + 2, sizeof *groups.start), classes};

    if (!groups.list || !groups.start) {
        by_label_done(&groups);
        return fail(err, -ENOMEM, "out of memory for %zu sample indices", n);
    }
    /* Counted one place further on, so that filling moves each start to where it belongs. */
    for (size_t i = 0; i < n; i++)
        groups.start[labels[samples[i]] + 2]++;
    for (size_t k = 2; k < classes + 2; k++)
        groups.start[k] += groups.start[k - 1];
    for (size_t i = 0; i < n; i++)
        groups.list[groups.start[labels[samples[i]] + 1]++] = samples[i];
    *ret = groups;
    return 0;
}

/* How many of each label are held out: fraction of each, the total being fraction of all (largest remainders, ties to the
 * lower label), never all of a label. */
static size_t stratified_counts(const struct by_label *groups, size_t n, double fraction, size_t *counts)
{
    size_t wanted = (size_t)(fraction * (double)n + 0.5), total = 0;

    if (!wanted && fraction > 0 && n >= 2)
        wanted = 1;
    for (size_t k = 0; k < groups->classes; k++) {
        counts[k] = (size_t)(fraction * (double)(groups->start[k + 1] - groups->start[k]));
        total += counts[k];
    }
    while (total < wanted) {
        double best = -1;
        size_t at = groups->classes;
        for (size_t k = 0; k < groups->classes; k++) {
            size_t size = groups->start[k + 1] - groups->start[k];
            double short_by = fraction * (double)size - (double)counts[k];
            if (counts[k] + 1 < size && short_by > best) {
                best = short_by;
                at = k;
            }
        }
        if (at == groups->classes)
            break;
        counts[at]++;
        total++;
    }
    return total;
}

static int central_split(const struct dataset *dataset, double fraction, uint64_t seed, struct indices *ret_train,
                         struct indices *ret_validation, struct error *err)
{
    struct pcg32 rng = rng_key(seed, RNG_SPLIT, 0, 0, 0);
    struct indices all = {0}, train = {0}, validation = {0};
    struct by_label groups = {0};
    size_t *counts = calloc((size_t)dataset->classes, sizeof *counts), held = 0;
    int rc = counts ? indices_make(&all, dataset->train.n, err) : fail(err, -ENOMEM, "out of memory");

    if (rc)
        goto out;
    for (size_t i = 0; i < all.n; i++)
        all.list[i] = (uint32_t)i;
    rc = by_label_make(dataset, all.list, all.n, &groups, err);
    if (rc)
        goto out;
    held = stratified_counts(&groups, all.n, fraction, counts);
    rc = indices_make(&validation, held, err);
    if (!rc)
        rc = indices_make(&train, all.n - held, err);
    if (rc)
        goto out;
    held = 0;
    for (size_t k = 0, kept = 0; k < groups.classes; k++) {
        uint32_t *list = groups.list + groups.start[k];
        size_t size = groups.start[k + 1] - groups.start[k];
        rng_shuffle_u32(&rng, list, size);
        for (size_t i = 0; i < counts[k]; i++)
            validation.list[held++] = list[i];
        for (size_t i = counts[k]; i < size; i++)
            train.list[kept++] = list[i];
    }
    sort_u32(&train);
    sort_u32(&validation);
    *ret_train = train;
    *ret_validation = validation;
    train.list = validation.list = NULL;
out:
    by_label_done(&groups);
    free(all.list);
    free(train.list);
    free(validation.list);
    free(counts);
    return rc;
}

/* owner[i]: the client of sample i of `train`. Sizes differ by one at most. */
static int deal_iid(const struct indices *train, size_t clients, uint64_t seed, uint32_t *owner, struct error *err)
{
    struct pcg32 rng = rng_key(seed, RNG_PARTITION, 0, 0, 0);
    uint32_t *places = malloc((train->n ? train->n : 1) * sizeof *places);
    size_t share = train->n / clients, longer = train->n % clients, at = 0;

    if (!places)
        return fail(err, -ENOMEM, "out of memory for %zu sample indices", train->n);
    for (size_t i = 0; i < train->n; i++)
        places[i] = (uint32_t)i;
    rng_shuffle_u32(&rng, places, train->n);
    for (size_t client = 0; client < clients; client++)
        for (size_t end = at + share + (client < longer); at < end; at++)
            owner[places[at]] = (uint32_t)client;
    free(places);
    return 0;
}

/* One draw of Dir(alpha) over the clients as cumulative counts of `size` samples: cuts[clients] = size. */
static void dirichlet_cuts(struct pcg32 *rng, double alpha, size_t clients, size_t size, double *logs, size_t *cuts)
{
    double most, sum = 0, cumulated = 0;

    for (size_t j = 0; j < clients; j++)
        rng_gamma(rng, alpha, &logs[j]);
    most = logs[0];
    for (size_t j = 1; j < clients; j++)
        if (logs[j] > most)
            most = logs[j];
    for (size_t j = 0; j < clients; j++) {
        logs[j] = rng_exp(logs[j] - most);
        sum += logs[j];
    }
    cuts[0] = 0;
    for (size_t j = 0; j < clients; j++) {
        cumulated += logs[j];
        cuts[j + 1] = (size_t)(cumulated / sum * (double)size);
        if (cuts[j + 1] > size)
            cuts[j + 1] = size;
    }
    cuts[clients] = size;
}

/* A heap of clients, the one with the most samples (ties: the lowest number) on top. */
struct heap {
    uint32_t *clients;
    size_t n;
    const size_t *sizes;
};

static bool above(const struct heap *heap, uint32_t a, uint32_t b)
{
    return heap->sizes[a] != heap->sizes[b] ? heap->sizes[a] > heap->sizes[b] : a < b;
}

static void heap_sift(struct heap *heap, size_t at)
{
    for (;;) {
        size_t child = 2 * at + 1;
        uint32_t kept = heap->clients[at];
        if (child >= heap->n)
            return;
        if (child + 1 < heap->n && above(heap, heap->clients[child + 1], heap->clients[child]))
            child++;
        if (!above(heap, heap->clients[child], kept))
            return;
        heap->clients[at] = heap->clients[child];
        heap->clients[child] = kept;
        at = child;
    }
}

/* Gives every client min_samples by taking random samples from whoever has most. */
static int fill_up(uint32_t *owner, size_t n, size_t *sizes, size_t clients, size_t min_samples, struct pcg32 *rng,
                   struct error *err)
{
    uint32_t *held = malloc((n ? n : 1) * sizeof *held), *order = malloc(clients * sizeof *order);
    size_t *start = calloc(clients + 1, sizeof *start);
    struct heap heap = {order, clients, sizes};
    int rc = 0;

    if (!held || !order || !start) {
        rc = fail(err, -ENOMEM, "out of memory for %zu sample indices", n);
        goto out;
    }
    for (size_t j = 0; j < clients; j++) {
        start[j + 1] = start[j] + sizes[j];
        order[j] = (uint32_t)j;
    }
    for (size_t i = n; i-- > 0;)
        held[--start[owner[i] + 1]] = (uint32_t)i;
    /* start[j + 1] is now where client j's samples begin; its first sizes[j] places are those it still has */
    for (size_t j = clients / 2; j-- > 0;)
        heap_sift(&heap, j);
    for (uint32_t needy = 0; needy < clients; needy++)
        while (sizes[needy] < min_samples) {
            uint32_t rich = order[0], *list = held + start[rich + 1];
            uint32_t pick = rng_below(rng, (uint32_t)sizes[rich]);
            owner[list[pick]] = needy;
            list[pick] = list[--sizes[rich]];
            heap_sift(&heap, 0);
            /* The needy one's own list is not read again before it has min_samples, and then never: all are at least as
             * rich as it. Its place in the heap stays right because it stays below whoever gives. */
            sizes[needy]++;
        }
out:
    free(held);
    free(order);
    free(start);
    return rc;
}

static int deal_dirichlet(const struct dataset *dataset, const struct indices *train, const struct partition *how,
                          uint64_t seed, uint32_t *owner, struct error *err)
{
    struct pcg32 rng = rng_key(seed, RNG_PARTITION, 0, 0, 0);
    size_t clients = how->clients, per_try = clients * (size_t)dataset->classes, tries = GAMMAS_MAX / per_try;
    double *logs = malloc(clients * sizeof *logs);
    size_t *cuts = malloc((clients + 1) * sizeof *cuts), *sizes = calloc(clients, sizeof *sizes);
    uint32_t *place = malloc(dataset->train.n * sizeof *place); /* of a sample in `train` */
    struct by_label groups = {0};
    bool enough = false;
    int rc = logs && cuts && sizes && place ? 0 : fail(err, -ENOMEM, "out of memory for %zu clients", clients);

    if (!rc)
        rc = by_label_make(dataset, train->list, train->n, &groups, err);
    if (rc)
        goto out;
    for (size_t i = 0; i < train->n; i++)
        place[train->list[i]] = (uint32_t)i;
    for (size_t k = 0; k < groups.classes; k++)
        rng_shuffle_u32(&rng, groups.list + groups.start[k], groups.start[k + 1] - groups.start[k]);
    tries = tries < 1 ? 1 : tries > TRIES_MAX ? TRIES_MAX : tries;
    for (size_t try = 0; try < tries && !enough; try++) {
        memset(sizes, 0, clients * sizeof *sizes);
        for (size_t k = 0; k < groups.classes; k++) {
            const uint32_t *list = groups.list + groups.start[k];
            dirichlet_cuts(&rng, how->alpha, clients, groups.start[k + 1] - groups.start[k], logs, cuts);
            for (size_t j = 0; j < clients; j++) {
                for (size_t i = cuts[j]; i < cuts[j + 1]; i++)
                    owner[place[list[i]]] = (uint32_t)j;
                sizes[j] += cuts[j + 1] - cuts[j];
            }
        }
        enough = true;
        for (size_t j = 0; j < clients; j++)
            enough = enough && sizes[j] >= how->min_samples;
    }
    if (!enough)
        rc = fill_up(owner, train->n, sizes, clients, how->min_samples, &rng, err);
out:
    by_label_done(&groups);
    free(logs);
    free(cuts);
    free(sizes);
    free(place);
    return rc;
}

/* Splits one client's samples (ascending) into what it trains on and what it holds out. */
static int hold_out(const struct indices *samples, double fraction, struct pcg32 rng, struct client_data *ret,
                    struct error *err)
{
    size_t held = (size_t)(fraction * (double)samples->n + 0.5);
    uint32_t *order;
    int rc;

    if (held >= samples->n)
        held = samples->n ? samples->n - 1 : 0;
    order = malloc((samples->n ? samples->n : 1) * sizeof *order);
    rc = order ? indices_make(&ret->train, samples->n - held, err) : fail(err, -ENOMEM, "out of memory");
    if (!rc)
        rc = indices_make(&ret->held_out, held, err);
    if (rc)
        goto out;
    memcpy(order, samples->list, samples->n * sizeof *order);
    if (held)
        rng_shuffle_u32(&rng, order, samples->n);
    memcpy(ret->held_out.list, order, held * sizeof *order);
    memcpy(ret->train.list, order + held, (samples->n - held) * sizeof *order);
    sort_u32(&ret->held_out);
    sort_u32(&ret->train);
out:
    free(order);
    return rc;
}

/* owner -> each client's samples, ascending, then its held-out share. */
static int hand_out(struct federation_data *split, const uint32_t *owner, double held_fraction, uint64_t seed,
                    struct error *err)
{
    size_t *start = calloc(split->clients_n + 2, sizeof *start);
    uint32_t *list = malloc((split->train.n ? split->train.n : 1) * sizeof *list);
    int rc = start && list ? 0 : fail(err, -ENOMEM, "out of memory for %zu clients", split->clients_n);

    if (rc)
        goto out;
    for (size_t i = 0; i < split->train.n; i++)
        start[owner[i] + 2]++;
    for (size_t j = 2; j < split->clients_n + 2; j++)
        start[j] += start[j - 1];
    for (size_t i = 0; i < split->train.n; i++)
        list[start[owner[i] + 1]++] = split->train.list[i];
    for (size_t j = 0; j < split->clients_n && !rc; j++) {
        struct indices mine = {list + start[j], start[j + 1] - start[j]};
        rc = hold_out(&mine, held_fraction, rng_key(seed, RNG_SPLIT, 1 + j, 0, 0), &split->clients[j], err);
    }
out:
    free(start);
    free(list);
    return rc;
}

static struct partition partition_from(const json_t *federation)
{
    const json_t *section = json_object_get(federation, "partition");
    const char *scheme = json_is_string(section) ? json_string_value(section) : json_string_or(section, "scheme", "iid");
    int64_t clients = json_int_or(federation, "clients", 10), least = json_int_or(section, "min_samples", 1);
    double alpha = json_double_or(section, "alpha", 0.5);

    return (struct partition){
        .clients = clients < 1 ? 1 : (size_t)clients,
        .min_samples = least < 1 ? 1 : (size_t)least,
        .dirichlet = !strcmp(scheme, "dirichlet"),
        .alpha = alpha > 1e-300 ? alpha : 1e-300, /* log(u) / alpha stays finite */
    };
}

static int make_clients(const struct dataset *dataset, const json_t *federation, uint64_t seed,
                        struct federation_data *split, struct error *err)
{
    bool enabled = json_is_object(federation) && json_bool_or(federation, "enabled", true);
    struct partition how = partition_from(federation);
    double fraction = enabled ? json_double_or(federation, "client_validation_fraction", 0.1) : 0;
    uint32_t *owner;
    int rc;

    if (!enabled)
        how = (struct partition){.clients = 1, .min_samples = 1};
    if (how.clients > split->train.n / how.min_samples)
        return fail(err, -EINVAL, "federation.clients: %zu clients with at least %zu samples each cannot share %zu training "
                    "samples; at most %zu clients can", how.clients, how.min_samples, split->train.n,
                    split->train.n / how.min_samples);
    owner = calloc(split->train.n, sizeof *owner);
    split->clients = calloc(how.clients, sizeof *split->clients);
    if (!owner || !split->clients) {
        free(owner);
        return fail(err, -ENOMEM, "out of memory for %zu clients", how.clients);
    }
    split->clients_n = how.clients;
    rc = how.dirichlet ? deal_dirichlet(dataset, &split->train, &how, seed, owner, err)
                       : deal_iid(&split->train, how.clients, seed, owner, err);
    if (!rc)
        rc = hand_out(split, owner, fraction, seed, err);
    free(owner);
    return rc;
}

int split_make(const struct dataset *dataset, const json_t *data, const json_t *federation, uint64_t data_seed,
               struct federation_data **ret, struct error *err)
{
    bool official = !strcmp(json_string_or(data, "validation", "split"), "official_test");
    double fraction = official ? 0 : json_double_or(data, "validation_fraction", 0.1);
    struct federation_data *split = calloc(1, sizeof *split);
    int rc;

    if (!split)
        return fail(err, -ENOMEM, "out of memory");
    if (official && !dataset->test.n) {
        rc = fail(err, -EINVAL, "data.validation: official_test, but this data has no test split");
        goto out;
    }
    rc = central_split(dataset, fraction, data_seed, &split->train, &split->validation, err);
    if (!rc && official) {
        free(split->validation.list);
        split->validation = (struct indices){0};
        rc = indices_make(&split->validation, dataset->test.n, err);
        for (size_t i = 0; !rc && i < dataset->test.n; i++)
            split->validation.list[i] = (uint32_t)i;
    }
    if (!rc)
        rc = make_clients(dataset, federation, data_seed, split, err);
out:
    if (rc)
        split_free(split);
    else
        *ret = split;
    return rc;
}

void split_free(struct federation_data *split)
{
    if (!split)
        return;
    for (size_t j = 0; j < split->clients_n; j++) {
        free(split->clients[j].train.list);
        free(split->clients[j].held_out.list);
    }
    free(split->clients);
    free(split->train.list);
    free(split->validation.list);
    free(split);
}
