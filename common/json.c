/* json.c - see json.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "common/json.h"
#include "common/file.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

json_t *json_from_double(double value)
{
    if (isnan(value))
        return json_string("NaN");
    if (isinf(value))
        return json_string(value > 0 ? "Infinity" : "-Infinity");
    return json_real(value);
}

bool json_to_double(const json_t *value, double *ret)
{
    static const struct {
        const char *text;
        double value;
    } SPECIAL[] = {{"NaN", NAN}, {"Infinity", INFINITY}, {"-Infinity", -INFINITY}};

    if (json_is_number(value)) {
        *ret = json_number_value(value);
        return true;
    }
    for (size_t i = 0; json_is_string(value) && i < 3; i++)
        if (!strcmp(json_string_value(value), SPECIAL[i].text)) {
            *ret = SPECIAL[i].value;
            return true;
        }
    return false;
}

double json_double_or(const json_t *object, const char *key, double absent)
{
    double value;

    return json_to_double(json_object_get(object, key), &value) ? value : absent;
}

int64_t json_int_or(const json_t *object, const char *key, int64_t absent)
{
    const json_t *value = json_object_get(object, key);

    return json_is_integer(value) ? json_integer_value(value) : absent;
}

bool json_bool_or(const json_t *object, const char *key, bool absent)
{
    const json_t *value = json_object_get(object, key);

    return json_is_boolean(value) ? json_is_true(value) : absent;
}

const char *json_string_or(const json_t *object, const char *key, const char *absent)
{
    const json_t *value = json_object_get(object, key);

    return json_is_string(value) ? json_string_value(value) : absent;
}

json_t *json_at(const json_t *root, const char *path)
{
    const json_t *at = root;

    while (at && *path) {
        if (*path == '[') {
            char *end;
            unsigned long index = strtoul(path + 1, &end, 10);
            if (end == path + 1 || *end != ']')
                return NULL;
            at = json_array_get(at, index);
            path = end + 1;
        } else {
            char key[256];
            size_t n = strcspn(path, ".[");
            if (n >= sizeof key)
                return NULL;
            memcpy(key, path, n);
            key[n] = 0;
            at = json_object_get(at, key);
            path += n;
        }
        if (*path == '.')
            path++;
    }
    return (json_t *)at;
}

char *json_line(const json_t *value)
{
    return json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY | JSON_REAL_PRECISION(17));
}

char *json_canonical(const json_t *value)
{
    return json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY | JSON_REAL_PRECISION(17) | JSON_SORT_KEYS);
}

int json_parse(const char *text, size_t length, json_t **ret, struct error *err)
{
    json_error_t at;
    json_t *value = json_loadb(text, length, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &at);

    if (!value)
        return fail(err, -EINVAL, "not JSON at line %d, column %d: %s", at.line, at.column, at.text);
    *ret = value;
    return 0;
}

int json_read_file(const char *path, json_t **ret, struct error *err)
{
    char *text;
    size_t length;
    int rc = file_read(path, &text, &length, err);

    if (rc)
        return rc;
    rc = json_parse(text, length, ret, err);
    free(text);
    return rc ? fail_prefix(err, "%s", path) : 0;
}

int json_write_file(const char *path, const json_t *value, struct error *err)
{
    char *text = json_dumps(value, JSON_INDENT(2) | JSON_ENCODE_ANY | JSON_REAL_PRECISION(17));
    size_t length;
    char *grown;
    int rc;

    if (!text)
        return fail(err, -ENOMEM, "%s: out of memory", path);
    length = strlen(text);
    grown = realloc(text, length + 2);
    if (!grown) {
        free(text);
        return fail(err, -ENOMEM, "%s: out of memory", path);
    }
    memcpy(grown + length, "\n", 2);
    rc = file_write(path, grown, length + 1, err);
    free(grown);
    return rc;
}
