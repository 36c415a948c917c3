/* result.c - see result.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/artifact/result.h"

#include "common/file.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SCORE_ROOM 16 /* of one score with its comma */

/* The long lists are written straight: as JSON values they would cost more than the training of a small trial. */
static char *lists_text(const struct result *result, size_t *ret_length)
{
    size_t classes = (size_t)result->dataset->classes, room = result->n * (classes * SCORE_ROOM + 40) + 200, used = 0;
    char *text = malloc(room);

    if (!text)
        return NULL;
    used += (size_t)snprintf(text, room, ",\n  \"samples\": [");
    for (size_t i = 0; i < result->n; i++)
        used += (size_t)snprintf(text + used, room - used, "%s%u", i ? "," : "", result->samples[i]);
    used += (size_t)snprintf(text + used, room - used, "],\n  \"labels\": [");
    for (size_t i = 0; i < result->n; i++)
        used += (size_t)snprintf(text + used, room - used, "%s%u", i ? "," : "", result->data->labels[result->samples[i]]);
    used += (size_t)snprintf(text + used, room - used, "],\n  \"prediction_scores\": [");
    for (size_t i = 0; i < result->n; i++) {
        for (size_t c = 0; c < classes; c++) {
            double score = (double)result->scores[i * classes + c];
            used += (size_t)snprintf(text + used, room - used, isfinite(score) ? "%s%.6f" : "%snull",
                                     c ? "," : (i ? ",\n    [" : "\n    ["), score);
        }
        text[used++] = ']';
    }
    used += (size_t)snprintf(text + used, room - used, "\n  ]\n}\n");
    *ret_length = used;
    return text;
}

static json_t *head(const struct result *result)
{
    const struct dataset *dataset = result->dataset;
    struct scores scores = evaluation_scores(result->evaluation);
    json_t *object = json_object(), *names = json_array();

    for (int c = 0; c < dataset->classes; c++)
        json_array_append_new(names, json_string(dataset->class_names[c]));
    json_object_set_new(object, "schema_version", json_integer(1));
    json_object_set_new(object, "model", json_string(result->model_file));
    json_object_set_new(object, "split", json_string(result->split));
    json_object_set_new(object, "data", json_string(dataset->source));
    json_object_set(object, "units", (json_t *)result->units);
    json_object_set(object, "hyperparameters", (json_t *)result->hyperparameters);
    json_object_set_new(object, "num_samples", json_integer((json_int_t)result->n));
    json_object_set_new(object, "num_classes", json_integer(dataset->classes));
    json_object_set_new(object, "class_names", names);
    json_object_set_new(object, "loss", json_from_double(scores.loss));
    json_object_set_new(object, "accuracy", json_from_double(scores.accuracy));
    json_object_set_new(object, "avg_f1", json_from_double(scores.f1));
    json_object_set_new(object, "avg_precision", json_from_double(scores.precision));
    json_object_set_new(object, "avg_recall", json_from_double(scores.recall));
    json_object_set_new(object, "confusion", evaluation_confusion_json(result->evaluation));
    return object;
}

int result_write(const char *path, const struct result *result, struct error *err)
{
    json_t *object = head(result);
    char *front = json_dumps(object, JSON_INDENT(2) | JSON_REAL_PRECISION(17)), *lists;
    size_t length = 0;
    int rc;

    json_decref(object);
    lists = lists_text(result, &length);
    if (!front || !lists) {
        rc = fail(err, -ENOMEM, "%s: out of memory", path);
    } else {
        size_t front_length = strlen(front) - 2; /* without "\n}" */
        rc = file_write_pieces(path, (struct file_piece[]){{front, front_length}, {lists, length}}, 2, err);
    }
    free(front);
    free(lists);
    return rc;
}
