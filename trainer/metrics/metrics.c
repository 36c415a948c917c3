/* metrics.c - sums of an evaluation, and the scores made from them.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/metrics/metrics.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static size_t cells(const struct evaluation *e)
{
    return (size_t)e->classes * (size_t)e->classes;
}

int evaluation_init(struct evaluation *evaluation, int classes)
{
    struct evaluation e = {.classes = classes};

    e.confusion = calloc(cells(&e), sizeof *e.confusion);
    if (!e.confusion)
        return -ENOMEM;
    *evaluation = e;
    return 0;
}

void evaluation_done(struct evaluation *evaluation)
{
    if (!evaluation)
        return;
    free(evaluation->confusion);
    *evaluation = (struct evaluation){0};
}

void evaluation_clear(struct evaluation *evaluation)
{
    evaluation->n = 0;
    evaluation->loss_sum = 0;
    memset(evaluation->confusion, 0, cells(evaluation) * sizeof *evaluation->confusion);
}

void evaluation_merge(struct evaluation *into, const struct evaluation *from)
{
    into->n += from->n;
    into->loss_sum += from->loss_sum;
    for (size_t i = 0; i < cells(into); i++)
        into->confusion[i] += from->confusion[i];
}

struct scores evaluation_scores(const struct evaluation *e)
{
    struct scores s = {NAN, NAN, NAN, NAN, NAN};
    size_t k = (size_t)e->classes, occurring = 0;
    uint64_t correct = 0;
    double f1 = 0, precision = 0, recall = 0;

    if (!e->n)
        return s;
    for (size_t c = 0; c < k; c++) {
        uint64_t label = 0, predicted = 0, hit = e->confusion[c * k + c];
        double p, r;
        for (size_t o = 0; o < k; o++) {
            label += e->confusion[c * k + o];
            predicted += e->confusion[o * k + c];
        }
        correct += hit;
        if (!label)
            continue;
        occurring++;
        p = predicted ? (double)hit / (double)predicted : 0;
        r = (double)hit / (double)label;
        precision += p;
        recall += r;
        f1 += p + r > 0 ? 2 * p * r / (p + r) : 0;
    }
    s.loss = e->loss_sum / (double)e->n;
    s.accuracy = (double)correct / (double)e->n;
    if (occurring) {
        s.f1 = f1 / (double)occurring;
        s.precision = precision / (double)occurring;
        s.recall = recall / (double)occurring;
    }
    return s;
}

void scores_put(json_t *object, const char *prefix, const struct scores *scores)
{
    const struct {
        const char *name;
        double value;
    } rows[] = {{"loss", scores->loss},
                {"accuracy", scores->accuracy},
                {"f1", scores->f1},
                {"precision", scores->precision},
                {"recall", scores->recall}};
    char key[96];

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        snprintf(key, sizeof key, "%s_%s", prefix, rows[i].name);
        json_object_set_new(object, key, json_from_double(rows[i].value));
    }
}

json_t *evaluation_confusion_json(const struct evaluation *e)
{
    json_t *rows = json_array();
    size_t k = (size_t)e->classes;

    for (size_t c = 0; c < k; c++) {
        json_t *row = json_array();
        for (size_t o = 0; o < k; o++)
            json_array_append_new(row, json_integer((json_int_t)e->confusion[c * k + o]));
        json_array_append_new(rows, row);
    }
    return rows;
}
