/* progress.c - see progress.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/cli/progress.h"

#include "common/file.h"
#include "orchestrator/cli/format.h"
#include "orchestrator/cli/render.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define RATE_WINDOW 30.0  /* seconds: rounds per second */
#define ETA_WINDOW 300.0
#define BAR_MAX 40
#define RUNNING_MAX 16    /* lines of running trials */
#define NARROW 60         /* columns below which bars of trials are left out */

void progress_init(struct progress *progress, const json_t *describe, double now)
{
    memset(progress, 0, sizeof *progress);
    progress->describe = json_incref((json_t *)describe);
    progress->summary = json_incref((json_t *)describe);
    progress->metric = json_string_or(describe, "metric", "value");
    progress->unit = json_string_or(describe, "time_metric", "units");
    progress->started = now - json_double_or(json_object_get(describe, "timings"), "elapsed_seconds", 0);
    progress->units_trained = progress->units_total = NAN;
    rate_init(&progress->rate_units, RATE_WINDOW);
    rate_init(&progress->rate_done, ETA_WINDOW);
}

void progress_done(struct progress *progress)
{
    json_decref(progress->describe);
    json_decref(progress->summary);
    memset(progress, 0, sizeof *progress);
}

const char *progress_state(const struct progress *progress)
{
    return json_string_or(progress->summary, "state", json_string_or(progress->describe, "state", "?"));
}

/* As `list`, `describe` and `top` show it. */
static double share(const struct progress *progress)
{
    return json_double_or(progress->summary, "progress", 0);
}

void progress_units(struct progress *progress, double units, double now)
{
    progress->units_trained = units;
    rate_add(&progress->rate_units, now, units);
    rate_add(&progress->rate_done, now, share(progress));
}

void progress_event(struct progress *progress, const json_t *event, double now)
{
    double units = json_double_or(event, "units_trained", NAN);

    progress->units_total = json_double_or(event, "total_units", progress->units_total);
    json_decref(progress->summary);
    progress->summary = json_incref((json_t *)event);
    if (isfinite(units))
        progress_units(progress, units, now);
    else
        rate_add(&progress->rate_done, now, share(progress));
}

/* Seconds left, negative where nobody can say. */
static double eta(const struct progress *progress, double now)
{
    double rate = rate_get(&progress->rate_done, now), left = 1 - share(progress);

    if (strcmp(progress_state(progress), "active") != 0 || rate <= 0 || left <= 0)
        return -1;
    return left / rate;
}

static json_int_t best_trial(const struct progress *progress)
{
    return json_int_or(progress->summary, "best_trial_id", 0);
}

/* "81.23%", or NULL when there is none yet. */
static char *best_value(const struct progress *progress)
{
    const json_t *metrics = json_object_get(progress->summary, "best_validation_metrics");
    const json_t *value = json_object_get(metrics, progress->metric);

    if (!best_trial(progress))
        return NULL;
    if (!value)
        value = json_object_get(progress->summary, "best_metric");
    return value ? format_metric(progress->metric, value) : NULL;
}

/* " at round 16", or "". */
static char *best_at(const struct progress *progress)
{
    const json_t *metrics = json_object_get(progress->summary, "best_validation_metrics");
    const char *unit = unit_singular(progress->unit);
    double at;
    char *number, *text;

    if (!json_to_double(json_object_get(metrics, "unit"), &at))
        return strdup("");
    number = format_units(at);
    text = format_text(" at %s %s", unit, number ? number : "");
    free(number);
    return text;
}

/* Two texts on a line, the second at the right edge where there is room. */
static void both_ends(FILE *out, const struct term *term, const char *left, const char *right)
{
    int room = term->width - 1 - text_width(left) - text_width(right);

    if (room >= 2)
        fprintf(out, "%s%*s%s\n", left, room, "", right);
    else
        fprintf(out, "%s\n", left);
}

static void frame_head(const struct progress *progress, FILE *out, const struct term *term, double now)
{
    const char *state = progress_state(progress);
    char *name = text_clean(json_string_or(progress->describe, "name", ""));
    char *elapsed = format_seconds(now - progress->started);
    char *left = format_text("%sExperiment %lld%s  %s%s%s  %s", term_on(term, STYLE_BOLD),
                             (long long)json_int_or(progress->describe, "id", 0), term_off(term, STYLE_BOLD),
                             term_on(term, state_style(state)), state, term_off(term, state_style(state)),
                             name ? name : "");

    both_ends(out, term, left ? left : "", elapsed ? elapsed : "");
    free(left);
    free(elapsed);
    free(name);
}

static void frame_bar(const struct progress *progress, FILE *out, const struct term *term, double now)
{
    double left = eta(progress, now);
    char *remaining = left >= 0 ? format_seconds(left) : NULL;
    char *behind = format_text("  %3.0f%%%s%s", share(progress) * 100, remaining ? "  ETA " : "",
                               remaining ? remaining : "");
    int columns = term->width - 1 - (behind ? text_width(behind) : 0);
    char *bar = render_bar(term, share(progress), columns > BAR_MAX ? BAR_MAX : columns > 1 ? columns : 1);

    fprintf(out, "%s%s\n", bar ? bar : "", behind ? behind : "");
    free(bar);
    free(behind);
    free(remaining);
}

static void frame_best(const struct progress *progress, FILE *out)
{
    char *value = best_value(progress), *at = best_at(progress), *hyperparameters, *clean;

    if (!value) {
        fputs("best    none yet\n", out);
    } else {
        hyperparameters = format_hyperparameters(json_object_get(progress->summary, "best_hyperparameters"));
        clean = text_clean(hyperparameters ? hyperparameters : "");
        fprintf(out, "best    %s, trial %lld%s (%s)\n        %s\n", value, (long long)best_trial(progress),
                at ? at : "", progress->metric, clean ? clean : "");
        free(hyperparameters);
        free(clean);
    }
    free(value);
    free(at);
}

static void frame_speed(const struct progress *progress, FILE *out, double now)
{
    double rate = rate_get(&progress->rate_units, now), units = progress->units_trained, total = progress->units_total;
    char *done = isfinite(units) ? format_units(units) : NULL, *all = isfinite(total) ? format_units(total) : NULL;

    if (rate >= 0)
        fprintf(out, "speed   %.*f %s/s", rate < 10 ? 2 : 0, rate, progress->unit);
    else if (done)
        fputs("speed   -", out);
    if (done)
        fprintf(out, ", %s%s%s trained", done, all ? " of about " : "", all ? all : "");
    if (rate >= 0 || done)
        fputc('\n', out);
    free(done);
    free(all);
}

static void frame_running(const struct progress *progress, FILE *out, const struct term *term)
{
    const json_t *running = json_object_get(progress->summary, "running");
    int room = term->height - 9 < RUNNING_MAX ? term->height - 9 : RUNNING_MAX;
    size_t i, n = json_array_size(running), shown = room < 1 ? 1 : (size_t)room;
    json_t *row;

    json_array_foreach((json_t *)running, i, row) {
        double unit = json_double_or(row, "unit", 0), until = json_double_or(row, "until", NAN);
        char *at = format_units(unit), *goal = isfinite(until) ? format_units(until) : NULL;
        char *bar = isfinite(until) && until > 0 && term->width >= NARROW ? render_bar(term, unit / until, 10) : NULL;
        char *slots = format_words(json_object_get(row, "slots")), *clean = text_clean(slots ? slots : "");
        if (i == shown && n > shown + 1) {
            fprintf(out, "        and %zu more\n", n - i);
            i = n;
        } else {
            fprintf(out, "%s trial %-4lld %s%s%s %s%s%s  %s%s%s\n", i ? "       " : "running",
                    (long long)json_int_or(row, "trial", json_int_or(row, "trial_id", 0)), bar ? bar : "",
                    bar ? " " : "", unit_singular(progress->unit), at ? at : "", goal ? "/" : "", goal ? goal : "",
                    term_on(term, STYLE_DIM), clean ? clean : "", term_off(term, STYLE_DIM));
        }
        free(at);
        free(goal);
        free(bar);
        free(slots);
        free(clean);
    }
}

/* Another orchestrator of this machine has the slots. */
static void frame_waiting(const struct progress *progress, FILE *out)
{
    char *waiting = text_clean(json_string_or(progress->summary, "waiting", ""));

    if (waiting && *waiting)
        fprintf(out, "waiting %s\n", waiting);
    free(waiting);
}

char *progress_frame(const struct progress *progress, const struct term *term, double now)
{
    const char *state = progress_state(progress);
    char *text = NULL, *counts = render_counts(term, json_object_get(progress->summary, "trials"));
    size_t length = 0;
    FILE *out = open_memstream(&text, &length);

    if (out) {
        frame_head(progress, out, term, now);
        frame_bar(progress, out, term, now);
        fprintf(out, "trials  %s\n", counts && *counts ? counts : "none yet");
        frame_waiting(progress, out);
        frame_best(progress, out);
        frame_speed(progress, out, now);
        frame_running(progress, out, term);
        if (!strcmp(state, "paused"))
            fprintf(out, "paused: `flexp activate %lld` lets it go on\n",
                    (long long)json_int_or(progress->describe, "id", 0));
        else
            fprintf(out, "%sCtrl-C leaves it running%s\n", term_on(term, STYLE_DIM), term_off(term, STYLE_DIM));
        fclose(out);
    }
    free(counts);
    return text;
}

char *progress_line(const struct progress *progress)
{
    struct term plain = {0};
    char *counts = render_counts(&plain, json_object_get(progress->summary, "trials")), *value = best_value(progress);
    char *at = best_at(progress), *waiting = text_clean(json_string_or(progress->summary, "waiting", "")), *text;
    char *best = NULL;

    if (value)
        best = format_text(", best %s %s (trial %lld%s)", progress->metric, value, (long long)best_trial(progress),
                           at ? at : "");
    text = format_text("%s %.0f%%: %s%s%s%s", progress_state(progress), share(progress) * 100,
                       counts && *counts ? counts : "no trials yet", best ? best : "",
                       waiting && *waiting ? ", waiting " : "", waiting ? waiting : "");
    free(waiting);
    free(counts);
    free(value);
    free(at);
    free(best);
    return text;
}

char *progress_line_timed(const struct progress *progress, const char *line, double now)
{
    double rate = rate_get(&progress->rate_units, now), left = eta(progress, now);
    char *elapsed = format_seconds(now - progress->started), *remaining = left >= 0 ? format_seconds(left) : NULL;
    char *speed = rate >= 0 ? format_text(", %.*f %s/s", rate < 10 ? 2 : 0, rate, progress->unit) : NULL;
    char *text = format_text("[%7s] %s%s%s%s", elapsed ? elapsed : "", line, speed ? speed : "",
                             remaining ? ", ETA " : "", remaining ? remaining : "");

    free(elapsed);
    free(remaining);
    free(speed);
    return text;
}
