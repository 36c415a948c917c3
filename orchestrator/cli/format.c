/* format.c - see format.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/cli/format.h"

#include "common/file.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static bool is_share(const char *metric)
{
    static const char *const SHARES[] = {"accuracy", "f1", "precision", "recall"};

    for (size_t i = 0; metric && i < sizeof SHARES / sizeof *SHARES; i++) {
        const char *at = strstr(metric, SHARES[i]);
        size_t n = strlen(SHARES[i]);
        if (at && (at == metric || at[-1] == '_') && (!at[n] || at[n] == '_'))
            return true;
    }
    return false;
}

static char *plain(double value, int digits)
{
    if (isnan(value))
        return strdup("NaN");
    if (isinf(value))
        return strdup(value > 0 ? "Infinity" : "-Infinity");
    if (value == floor(value) && fabs(value) < 1e9)
        return format_text("%.0f", value);
    return format_text("%.*g", digits, value);
}

char *format_metric(const char *metric, const json_t *value)
{
    double number;

    if (!json_to_double(value, &number))
        return json_is_string(value) ? strdup(json_string_value(value)) : strdup("-");
    if (is_share(metric) && isfinite(number))
        return format_text("%.2f%%", number * 100);
    if (isfinite(number) && fabs(number) < 1e5 && fabs(number) >= 1e-3)
        return format_text("%.4f", number);
    return plain(number, 4);
}

char *format_value(const json_t *value)
{
    char *text, *copy;

    if (!value || json_is_null(value))
        return strdup("-");
    if (json_is_string(value))
        return strdup(json_string_value(value));
    if (json_is_integer(value))
        return format_text("%lld", (long long)json_integer_value(value));
    if (json_is_real(value))
        return plain(json_real_value(value), 3);
    if (json_is_boolean(value))
        return strdup(json_is_true(value) ? "true" : "false");
    text = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY | JSON_REAL_PRECISION(3));
    copy = text ? strdup(text) : NULL;
    free(text);
    return copy;
}

char *format_words(const json_t *list)
{
    char *text = strdup("");
    json_t *word;
    size_t i;

    json_array_foreach((json_t *)list, i, word) {
        char *shown = format_value(word);
        char *longer = format_text("%s%s%s", text ? text : "", i ? " " : "", shown ? shown : "");
        free(shown);
        free(text);
        text = longer;
    }
    return text;
}

void each_leaf(const json_t *object, const char *prefix, leaf_fn *call, void *arg)
{
    const char *key;
    json_t *value;

    json_object_foreach((json_t *)object, key, value) {
        char *name = *prefix ? format_text("%s.%s", prefix, key) : strdup(key);
        if (!name)
            return;
        if (json_is_object(value) && json_object_size(value))
            each_leaf(value, name, call, arg);
        else
            call(arg, name, value);
        free(name);
    }
}

static int compare_trials(const void *a, const void *b)
{
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

    return (x > y) - (x < y);
}

char *format_trials(const json_t *runs)
{
    size_t n = json_array_size(runs), length = 0;
    int64_t *trials = calloc(n + 1, sizeof *trials);
    char *text = NULL;
    FILE *out = trials ? open_memstream(&text, &length) : NULL;

    if (!out) {
        free(trials);
        return NULL;
    }
    for (size_t i = 0; i < n; i++)
        trials[i] = json_int_or(json_array_get(runs, i), "trial", 0);
    qsort(trials, n, sizeof *trials, compare_trials);
    if (n)
        fprintf(out, "%lld/", (long long)json_int_or(json_array_get(runs, 0), "experiment", 0));
    else
        fputc('-', out);
    for (size_t i = 0, last; i < n; i = last + 1) {
        for (last = i; last + 1 < n && trials[last + 1] == trials[last] + 1;)
            last++;
        fprintf(out, "%s%lld", i ? "," : "", (long long)trials[i]);
        if (last > i)
            fprintf(out, "%c%lld", last == i + 1 ? ',' : '-', (long long)trials[last]);
    }
    free(trials);
    return fclose(out) ? NULL : text;
}

static void append_leaf(void *arg, const char *name, const json_t *value)
{
    char **text = arg, *shown = format_value(value), *longer;

    longer = format_text("%s%s%s=%s", *text ? *text : "", *text ? ", " : "", name, shown ? shown : "");
    free(shown);
    free(*text);
    *text = longer;
}

char *format_hyperparameters(const json_t *object)
{
    char *text = NULL;

    if (json_is_object(object))
        each_leaf(object, "", append_leaf, &text);
    return text ? text : strdup("-");
}

char *format_units(double units)
{
    return plain(units, 4);
}

char *format_seconds(double seconds)
{
    long long whole;

    if (!isfinite(seconds) || seconds < 0)
        return strdup("-");
    if (seconds < 9.95)
        return format_text("%.1fs", seconds);
    whole = (long long)(seconds + 0.5);
    if (whole < 60)
        return format_text("%llds", whole);
    if (whole < 3600)
        return format_text("%lldm%02llds", whole / 60, whole % 60);
    if (whole < 86400)
        return format_text("%lldh%02lldm", whole / 3600, whole / 60 % 60);
    return format_text("%lldd%02lldh", whole / 86400, whole / 3600 % 24);
}

char *format_time(const json_t *value)
{
    char text[64];
    struct tm local, utc = {0};
    time_t seconds;

    if (json_is_string(value) && strptime(json_string_value(value), "%Y-%m-%dT%H:%M:%S", &utc))
        seconds = timegm(&utc);
    else if (json_is_number(value))
        seconds = (time_t)(json_number_value(value) / 1e6);
    else
        return strdup("-");
    localtime_r(&seconds, &local);
    strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S", &local);
    return strdup(text);
}

char *format_bytes(double bytes)
{
    static const char *const UNITS[] = {"B", "kB", "MB", "GB", "TB"};
    size_t i = 0;

    while (bytes >= 999.5 && i + 1 < sizeof UNITS / sizeof *UNITS) {
        bytes /= 1000;
        i++;
    }
    return format_text(i && bytes < 99.95 ? "%.1f %s" : "%.0f %s", bytes, UNITS[i]);
}

enum style state_style(const char *state)
{
    static const struct {
        const char *state;
        enum style style;
    } STYLES[] = {
        {"active", STYLE_CYAN},     {"running", STYLE_CYAN},   {"completed", STYLE_GREEN}, {"paused", STYLE_YELLOW},
        {"stopping", STYLE_YELLOW}, {"waiting", STYLE_YELLOW}, {"canceled", STYLE_YELLOW}, {"error", STYLE_RED},
        {"stopped", STYLE_BLUE},    {"queued", STYLE_DIM},
    };

    for (size_t i = 0; i < sizeof STYLES / sizeof *STYLES; i++)
        if (!strcmp(STYLES[i].state, state))
            return STYLES[i].style;
    return STYLE_NONE;
}

bool state_has_ended(const char *state)
{
    return !strcmp(state, "completed") || !strcmp(state, "canceled") || !strcmp(state, "error");
}
