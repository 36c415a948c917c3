/* json.h - the few things we need beside jansson.
 * Reals travel with 17 digits; values that are not finite as the strings "NaN", "Infinity", "-Infinity".
 * Threads: as jansson (a value belongs to one thread).
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_COMMON_JSON_H
#define FLEXP_COMMON_JSON_H

#include "common/error.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

/* A number as a JSON value, non-finite ones as strings. New reference. */
json_t *json_from_double(double value);
/* True and *ret when value is a number or one of the three strings. */
bool json_to_double(const json_t *value, double *ret);

/* Members with a default where absent or of another type. */
double json_double_or(const json_t *object, const char *key, double absent);
int64_t json_int_or(const json_t *object, const char *key, int64_t absent);
bool json_bool_or(const json_t *object, const char *key, bool absent);
/* Borrowed from the object. */
const char *json_string_or(const json_t *object, const char *key, const char *absent);

/* The value at a dotted path such as "training.learning_rate" or "layers[2].dense.units"; NULL where there is none.
 * Borrowed. */
json_t *json_at(const json_t *root, const char *path);

/* One line, compact, 17 digits, without a newline; sorted keys where canonical (so that equal values give equal text).
 * The caller frees. */
char *json_line(const json_t *value);
char *json_canonical(const json_t *value);

/* Parses one document, refusing duplicate keys; -EINVAL with position in err. New reference. */
int json_parse(const char *text, size_t length, json_t **ret, struct error *err);
/* Reads, or writes by temporary file, fsync and rename (indented, newline at the end). */
int json_read_file(const char *path, json_t **ret, struct error *err);
int json_write_file(const char *path, const json_t *value, struct error *err);

#endif
