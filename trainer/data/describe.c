/* describe.c - a data set and its split over clients, for people.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/data/split.h"

#include <stdlib.h>

static json_t *counts_json(const uint16_t *labels, const uint32_t *samples, size_t n, int classes)
{
    json_int_t *counts = calloc((size_t)classes, sizeof *counts);
    json_t *list = json_array();

    for (size_t i = 0; counts && i < n; i++)
        counts[labels[samples ? samples[i] : i]]++;
    for (int c = 0; counts && c < classes; c++)
        json_array_append_new(list, json_integer(counts[c]));
    free(counts);
    return list;
}

json_t *dataset_json(const struct dataset *dataset, const struct federation_data *split)
{
    const struct data_split *train = &dataset->train, *test = &dataset->test;
    json_t *names = json_array(), *mean = json_array(), *std = json_array(), *clients = json_array();

    for (int c = 0; c < dataset->classes; c++)
        json_array_append_new(names, json_string(dataset->class_names[c]));
    for (int c = 0; c < dataset->channels; c++) {
        json_array_append_new(mean, json_real((double)dataset->mean[c]));
        json_array_append_new(std, json_real((double)dataset->std[c]));
    }
    for (size_t k = 0; k < split->clients_n; k++) {
        const struct client_data *client = &split->clients[k];
        json_array_append_new(clients,
                              json_pack("{s:I, s:I, s:o}", "samples", (json_int_t)client->train.n, "held_out",
                                        (json_int_t)client->held_out.n, "per_class",
                                        counts_json(train->labels, client->train.list, client->train.n, dataset->classes)));
    }
    return json_pack("{s:s, s:s, s:i, s:i, s:i, s:o, s:I, s:I, s:I, s:o, s:o, s:o, s:o, s:o}", "source", dataset->source,
                     "hash", dataset->hash, "channels", dataset->channels, "height", dataset->height, "width",
                     dataset->width, "class_names", names, "train", (json_int_t)train->n, "validation",
                     (json_int_t)split->validation.n, "test", (json_int_t)test->n, "train_per_class",
                     counts_json(train->labels, NULL, train->n, dataset->classes), "test_per_class",
                     counts_json(test->labels, NULL, test->n, dataset->classes), "mean", mean, "std", std, "clients", clients);
}
