/* render_describe.c - `describe` on a terminal: the experiment, its best trial, the top 5, failures, what to type next.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/cli/format.h"
#include "orchestrator/cli/render.h"
#include "orchestrator/cli/table.h"

#include <stdlib.h>
#include <string.h>

#define BAR 20

static void line(FILE *out, const struct term *term, const char *name, const char *text)
{
    if (!text || !*text)
        return;
    fprintf(out, "  %-10s ", name);
    text_write(out, term, text, term->width ? term->width - 13 : 0);
    fputc('\n', out);
}

static void head(FILE *out, const struct term *term, const json_t *answer)
{
    const char *state = json_string_or(answer, "state", "?");
    const json_t *timings = json_object_get(answer, "timings");
    char *name = text_clean(json_string_or(answer, "name", "")), *text, *bar;
    double progress = json_double_or(answer, "progress", -1), elapsed;

    fprintf(out, "%sExperiment %lld%s  %s  %s%s%s\n", term_on(term, STYLE_BOLD),
            (long long)json_int_or(answer, "id", 0), term_off(term, STYLE_BOLD), name ? name : "",
            term_on(term, state_style(state)), state, term_off(term, state_style(state)));
    free(name);
    line(out, term, "reason", json_string_or(answer, "reason", NULL));
    line(out, term, "waiting", json_string_or(answer, "waiting", NULL));
    if (progress >= 0) {
        bar = render_bar(term, progress, BAR);
        fprintf(out, "  %-10s %s %.0f%%\n", "progress", bar ? bar : "", progress * 100);
        free(bar);
    }
    text = render_counts(term, json_object_get(answer, "trials"));
    line(out, term, "trials", text);
    free(text);
    text = format_time(json_object_get(timings, "created"));
    if (text && strcmp(text, "-") != 0)
        line(out, term, "created", text);
    free(text);
    elapsed = json_double_or(timings, "elapsed_seconds", -1);
    if (elapsed >= 0) {
        text = format_seconds(elapsed);
        line(out, term, "took", text);
        free(text);
    }
}

static void top(FILE *out, const struct term *term, const json_t *answer)
{
    const json_t *rows = json_object_get(answer, "top");
    const char *metric = json_string_or(answer, "metric", "value");
    const char *unit = json_string_or(answer, "time_metric", "units");
    struct table *table;
    char title[32];
    json_t *row;
    size_t i;

    if (!json_array_size(rows))
        return;
    table = table_new();
    snprintf(title, sizeof title, "%s", unit);
    for (char *at = title; *at; at++)
        *at = (char)(*at >= 'a' && *at <= 'z' ? *at - 32 : *at);
    fprintf(out, "\n%sTop %zu by %s%s\n", term_on(term, STYLE_BOLD), json_array_size(rows), metric,
            term_off(term, STYLE_BOLD));
    table_column(table, "TRIAL", TABLE_RIGHT);
    table_column(table, "VALUE", TABLE_RIGHT);
    table_column(table, title, TABLE_RIGHT | TABLE_OPTIONAL);
    table_column(table, "STATE", TABLE_LEFT | TABLE_OPTIONAL);
    table_column(table, "HYPERPARAMETERS", TABLE_SHRINK);
    json_array_foreach((json_t *)rows, i, row) {
        const char *state = json_string_or(row, "state", "-");
        char *value = format_metric(metric, json_object_get(row, "best_metric"));
        char *hyperparameters = format_hyperparameters(json_object_get(row, "hyperparameters"));
        const json_t *at = json_object_get(row, "best_unit");
        char *units = json_is_number(at) ? format_units(json_number_value(at)) : NULL;
        table_cell(table, STYLE_NONE, "%lld", (long long)json_int_or(row, "id", 0));
        table_cell(table, STYLE_BOLD, "%s", value ? value : "");
        table_cell(table, STYLE_NONE, "%s", units ? units : "-");
        table_cell(table, state_style(state), "%s", state);
        table_cell(table, STYLE_NONE, "%s", hyperparameters ? hyperparameters : "");
        free(value);
        free(hyperparameters);
        free(units);
    }
    table_write(table, out, term, 2);
    table_free(table);
}

static void failures(FILE *out, const struct term *term, const json_t *answer)
{
    const json_t *map = json_object_get(answer, "failures");
    const char *reason;
    json_t *n;

    if (!json_object_size(map))
        return;
    fprintf(out, "\n%sFailures%s\n", term_on(term, STYLE_RED), term_off(term, STYLE_RED));
    json_object_foreach((json_t *)map, reason, n) {
        char *clean = text_clean(reason);
        fprintf(out, "  %4lld  %s\n", (long long)json_integer_value(n), clean ? clean : "");
        free(clean);
    }
}

static void hook(FILE *out, const struct term *term, const json_t *answer)
{
    const json_t *found = json_object_get(answer, "on_complete");
    const char *state = json_string_or(found, "state", NULL), *text = json_string_or(found, "text", "");
    enum style style = state && !strcmp(state, "failed") ? STYLE_RED : STYLE_NONE;

    if (state)
        fprintf(out, "\n%son_complete%s  %s%s%s%s%s\n", term_on(term, STYLE_BOLD), term_off(term, STYLE_BOLD),
                term_on(term, style), !strcmp(state, "due") ? "running" : state, term_off(term, style), *text ? ": " : "", text);
}

static void next(FILE *out, const struct term *term, const json_t *answer, const char *suffix)
{
    const char *state = json_string_or(answer, "state", "");
    long long id = json_int_or(answer, "id", 0), best = json_int_or(answer, "best_trial_id", 0);

    fprintf(out, "\n%sNext%s\n", term_on(term, STYLE_BOLD), term_off(term, STYLE_BOLD));
    if (!strcmp(state, "paused"))
        fprintf(out, "  flexp activate %lld%s\n", id, suffix);
    else if (!state_has_ended(state))
        fprintf(out, "  flexp wait %lld -f%s\n", id, suffix);
    if (best)
        fprintf(out, "  flexp trial describe %lld/%lld%s\n", id, best, suffix);
    fprintf(out, "  flexp trials %lld%s\n", id, suffix);
}

void render_describe(FILE *out, const struct term *term, const json_t *answer, const char *home, const char *suffix)
{
    head(out, term, answer);
    fputc('\n', out);
    render_best(out, term, answer, home);
    top(out, term, answer);
    failures(out, term, answer);
    hook(out, term, answer);
    next(out, term, answer, suffix);
}
