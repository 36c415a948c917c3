/* plot.c - see plot.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/cli/plot.h"

#include "common/file.h"
#include "orchestrator/cli/format.h"
#include "orchestrator/cli/svg.h"
#include "orchestrator/cli/trial_rows.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define WIDTH 960.0
#define LEFT 70.0
#define RIGHT 930.0
#define PANEL 330.0 /* height of one, with its head */
#define TOP 70.0
#define INSIDE 36.0  /* from a panel's top to its frame */
#define FRAME 230.0
#define BEST "#d55e00"  /* vermilion and blue of Okabe and Ito: told apart by everybody */
#define OTHER "#0072b2"
#define AXES_MAX 12
#define WORDS_MAX 18 /* labels of choices on one axis; of more, every second or third is written */

struct picture {
    FILE *out;
    const json_t *describe, *curves;
    struct trial_rows rows; /* best first */
    const char *metric, *unit;
    size_t left_out; /* values that are not finite */
};

/* --- what all panels have ----------------------------------------------------------------------------------------- */

static void tick_text(char ret[32], double value)
{
    snprintf(ret, 32, "%.6g", value);
}

static void y_axis(FILE *out, const struct scale *y, const char *name)
{
    double ticks[SCALE_TICKS];
    size_t n = scale_ticks(y, ticks);
    char text[32];

    for (size_t i = 0; i < n; i++) {
        svg_line(out, LEFT, scale_at(y, ticks[i]), RIGHT, scale_at(y, ticks[i]), "class=\"grid\"");
        tick_text(text, ticks[i]);
        svg_text(out, LEFT - 8, scale_at(y, ticks[i]) + 4, "class=\"end\"", text);
    }
    svg_line(out, LEFT, y->from, LEFT, y->to, "class=\"axis\"");
    svg_text(out, LEFT, y->to - 8, "class=\"small\"", name);
}

static void x_axis(FILE *out, const struct scale *x, double bottom, const char *name, bool seconds)
{
    double ticks[SCALE_TICKS];
    size_t n = scale_ticks(x, ticks);

    svg_line(out, LEFT, bottom, RIGHT, bottom, "class=\"axis\"");
    for (size_t i = 0; i < n; i++) {
        /* with as many digits as tell the ticks of a short time apart */
        char text[32], *shown = NULL;
        if (seconds)
            shown = ticks[i] < 60 ? format_text("%.6gs", ticks[i]) : format_seconds(ticks[i]);
        tick_text(text, ticks[i]);
        svg_line(out, scale_at(x, ticks[i]), bottom, scale_at(x, ticks[i]), bottom + 5, "class=\"axis\"");
        svg_text(out, scale_at(x, ticks[i]), bottom + 19, "class=\"middle\"", shown ? shown : text);
        free(shown);
    }
    svg_text(out, (LEFT + RIGHT) / 2, bottom + 36, "class=\"small middle\"", name);
}

static void head(FILE *out, double top, const char *text)
{
    svg_text(out, LEFT, top, "class=\"head\"", text);
}

/* "trial 7: lr=0.1 ... best 0.93" */
static char *tip_of(const struct picture *picture, const json_t *row)
{
    char *values = format_hyperparameters(json_object_get(row, "hyperparameters"));
    char *best = format_metric(picture->metric, json_object_get(row, "best_metric"));
    char *text = format_text("trial %lld: %s; best %s", (long long)json_int_or(row, "id", 0), values ? values : "",
                             best ? best : "-");

    free(values);
    free(best);
    return text;
}

static double epoch_seconds(const json_t *value)
{
    const char *text = json_string_value(value), *rest;
    struct tm utc = {0};

    if (!text || !(rest = strptime(text, "%Y-%m-%dT%H:%M:%S", &utc)))
        return NAN;
    return (double)timegm(&utc) + (*rest == '.' ? strtod(rest, NULL) : 0);
}

static const json_t *curve_of(const struct picture *picture, const json_t *row)
{
    char key[32];

    snprintf(key, sizeof key, "%lld", (long long)json_int_or(row, "id", 0));
    return json_object_get(picture->curves, key);
}

/* --- learning curves ------------------------------------------------------------------------------------------------ */

struct range {
    double low, high;
};

static void widen(struct range *range, double value)
{
    if (isfinite(value)) {
        range->low = fmin(range->low, value);
        range->high = fmax(range->high, value);
    }
}

static void measure(struct picture *picture, struct range *units, struct range *values)
{
    for (size_t i = 0; i < picture->rows.n; i++) {
        const json_t *curve = curve_of(picture, picture->rows.rows[i]);
        json_t *point;
        size_t k;
        json_array_foreach ((json_t *)curve, k, point) {
            double value = NAN;
            json_to_double(json_object_get(point, "value"), &value);
            picture->left_out += isfinite(value) ? 0 : 1;
            widen(values, value);
            widen(units, json_double_or(point, "unit", NAN));
        }
    }
}

/* A loss that has exploded somewhere must not flatten all the others: the axis ends at three times the span of what the
 * trials reached at their best. */
static void tame(const struct picture *picture, struct range *values)
{
    struct range best = {INFINITY, -INFINITY};
    double reach;

    for (size_t i = 0; i < picture->rows.n; i++)
        widen(&best, json_double_or(picture->rows.rows[i], "best_metric", NAN));
    if (!(best.high > best.low))
        return;
    reach = 3 * (best.high - best.low);
    values->high = fmin(values->high, best.high + reach);
    values->low = fmax(values->low, best.low - reach);
}

static void draw_curve(const struct picture *picture, const json_t *row, const struct scale *x, const struct scale *y,
                       const char *style)
{
    const json_t *curve = curve_of(picture, row);
    size_t n = json_array_size(curve), shown = n < PLOT_POINTS ? n : PLOT_POINTS;
    double xs[PLOT_POINTS], ys[PLOT_POINTS];
    char *tip = tip_of(picture, row);

    for (size_t i = 0; i < shown; i++) {
        const json_t *point = json_array_get(curve, shown < 2 ? n - 1 : i * (n - 1) / (shown - 1));
        double value = NAN;
        json_to_double(json_object_get(point, "value"), &value);
        xs[i] = scale_at(x, json_double_or(point, "unit", NAN));
        ys[i] = fmin(fmax(scale_at(y, value), y->to), y->from); /* what leaves the axis runs along its edge */
        if (!isfinite(value))
            ys[i] = NAN;
    }
    if (shown == 1 && isfinite(ys[0])) {
        char dot[120];
        snprintf(dot, sizeof dot, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"2.5\" fill=\"%s\"/>\n", xs[0], ys[0],
                 strstr(style, BEST) ? BEST : OTHER);
        fputs(dot, picture->out);
    } else if (shown) {
        svg_path(picture->out, xs, ys, shown, style, tip);
    }
    free(tip);
}

static void curves_panel(struct picture *picture, double top)
{
    struct range units = {INFINITY, -INFINITY}, values = {INFINITY, -INFINITY};
    struct scale x, y;
    char *title;

    measure(picture, &units, &values);
    if (!(units.low <= units.high))
        return;
    tame(picture, &values);
    x = scale_new(units.low < 1 ? units.low : 0, units.high, LEFT, RIGHT, false);
    y = scale_new(values.low, values.high, top + INSIDE + FRAME, top + INSIDE, false);
    title = format_text("Learning curves of %zu of %zu trials", json_object_size(picture->curves), picture->rows.n);
    head(picture->out, top, title ? title : "");
    free(title);
    y_axis(picture->out, &y, picture->metric);
    x_axis(picture->out, &x, y.from, picture->unit, false);
    for (size_t i = picture->rows.n; i-- > 1;) {
        const char *state = json_string_or(picture->rows.rows[i], "state", "");
        draw_curve(picture, picture->rows.rows[i], &x, &y,
                   !strcmp(state, "stopped") || !strcmp(state, "error")
                       ? "stroke=\"" OTHER "\" stroke-width=\"1\" stroke-opacity=\"0.25\""
                       : "stroke=\"" OTHER "\" stroke-width=\"1.3\" stroke-opacity=\"0.6\"");
    }
    draw_curve(picture, picture->rows.rows[0], &x, &y, "stroke=\"" BEST "\" stroke-width=\"2.5\"");
}

/* --- best against time ---------------------------------------------------------------------------------------------- */

struct moment {
    double time, value;
};

static int by_time(const void *a, const void *b)
{
    const struct moment *x = a, *y = b;

    return (x->time > y->time) - (x->time < y->time);
}

/* Every value whose time is known: of the curves that were asked for, and the best of each other trial at its end. */
static struct moment *moments(const struct picture *picture, size_t *ret_n)
{
    size_t n = 0, room = picture->rows.n + 1;
    struct moment *list;
    const char *key;
    json_t *curve, *point;

    json_object_foreach ((json_t *)picture->curves, key, curve)
        room += json_array_size(curve);
    list = calloc(room, sizeof *list);
    for (size_t i = 0; list && i < picture->rows.n; i++) {
        const json_t *row = picture->rows.rows[i];
        struct moment end = {epoch_seconds(json_object_get(row, "ended")), json_double_or(row, "best_metric", NAN)};
        size_t k;
        if (isfinite(end.time) && isfinite(end.value))
            list[n++] = end;
        json_array_foreach ((json_t *)curve_of(picture, row), k, point) {
            struct moment at = {epoch_seconds(json_object_get(point, "time")), json_double_or(point, "value", NAN)};
            if (isfinite(at.time) && isfinite(at.value))
                list[n++] = at;
        }
    }
    if (list)
        qsort(list, n, sizeof *list, by_time);
    *ret_n = n;
    return list;
}

static void best_panel(struct picture *picture, double top)
{
    size_t n, steps = 0;
    struct moment *list = moments(picture, &n);
    double start = epoch_seconds(json_object_get(json_object_get(picture->describe, "timings"), "created"));
    double *xs = calloc(2 * n + 2, sizeof *xs), *ys = calloc(2 * n + 2, sizeof *ys);
    struct scale x, y;

    if (!list || !xs || !ys || !n)
        goto out;
    start = isfinite(start) && start < list[0].time ? start : list[0].time;
    for (size_t i = 0; i < n; i++) { /* the best so far goes on level until a better one comes */
        double value = list[i].value;
        bool better = !steps || (picture->rows.smaller_is_better ? value < ys[steps - 1] : value > ys[steps - 1]);
        if (!better)
            continue;
        if (steps) {
            xs[steps] = list[i].time - start;
            ys[steps] = ys[steps - 1];
            steps++;
        }
        xs[steps] = list[i].time - start;
        ys[steps++] = value;
    }
    xs[steps] = list[n - 1].time - start;
    ys[steps] = ys[steps - 1];
    steps++;
    x = scale_new(0, list[n - 1].time - start, LEFT, RIGHT, false);
    y = scale_new(fmin(ys[0], ys[steps - 1]), fmax(ys[0], ys[steps - 1]), top + INSIDE + FRAME, top + INSIDE, false);
    head(picture->out, top, "Best so far");
    y_axis(picture->out, &y, picture->metric);
    x_axis(picture->out, &x, y.from, "time since it was created", true);
    for (size_t i = 0; i < steps; i++) {
        xs[i] = scale_at(&x, xs[i]);
        ys[i] = scale_at(&y, ys[i]);
    }
    svg_path(picture->out, xs, ys, steps, "stroke=\"" BEST "\" stroke-width=\"2.5\"", NULL);
out:
    free(list);
    free(xs);
    free(ys);
}

/* --- parallel coordinates ------------------------------------------------------------------------------------------- */

struct axis {
    const char *name;
    json_t *words; /* of a category: {"value as text": place}, every choice of the file; NULL: numbers */
    struct scale scale;
};

static void collect_name(void *arg, const char *name, const json_t *value)
{
    (void)value;
    json_object_set_new(arg, name, json_true());
}

static char *word_of(const json_t *value)
{
    return json_is_string(value) ? strdup(json_string_value(value))
                                 : json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(15));
}

/* What a categorical hyperparameter may be, in the file's order; NULL: it is of another type. */
static const json_t *choices_of(const struct picture *picture, const char *name)
{
    const json_t *definition = json_at(json_at(picture->describe, "config.hyperparameters"), name);

    return strcmp(json_string_or(definition, "type", ""), "categorical") ? NULL : json_object_get(definition, "vals");
}

static void add_word(struct axis *axis, const json_t *value)
{
    char *word = value ? word_of(value) : NULL;

    if (word && !json_object_get(axis->words, word))
        json_object_set_new(axis->words, word, json_integer((json_int_t)json_object_size(axis->words)));
    free(word);
}

/* Numbers that are all positive and span more than a factor of 30 are shown on a logarithmic axis. */
static struct axis axis_of(const struct picture *picture, const char *name, double bottom, double top)
{
    const json_t *choices = choices_of(picture, name);
    struct axis axis = {.name = name};
    struct range range = {INFINITY, -INFINITY};
    bool numbers = !choices;

    for (size_t i = 0; i < picture->rows.n; i++) {
        const json_t *value = trial_hyperparameter(picture->rows.rows[i], name);
        numbers = numbers && (!value || json_is_number(value));
        if (json_is_number(value))
            widen(&range, json_number_value(value));
    }
    if (numbers) {
        axis.scale = scale_new(range.low, range.high, bottom, top, range.low > 0 && range.high / range.low > 30);
        return axis;
    }
    axis.words = json_object();
    for (size_t i = 0; i < json_array_size(choices); i++)
        add_word(&axis, json_array_get(choices, i));
    for (size_t i = 0; i < picture->rows.n; i++)
        add_word(&axis, trial_hyperparameter(picture->rows.rows[i], name));
    axis.scale = scale_new(0, (double)json_object_size(axis.words) - 1, bottom, top, false);
    return axis;
}

static double place_on(const struct axis *axis, const json_t *value)
{
    char *word;
    double place;

    if (!value)
        return NAN;
    if (!axis->words)
        return json_is_number(value) ? scale_at(&axis->scale, json_number_value(value)) : NAN;
    word = word_of(value);
    place = word ? scale_at(&axis->scale, (double)json_int_or(axis->words, word, 0)) : NAN;
    free(word);
    return place;
}

static void axis_tick(FILE *out, const struct axis *axis, double x, double value, const char *text)
{
    double y = scale_at(&axis->scale, value);

    svg_line(out, x - 4, y, x, y, "class=\"axis\"");
    svg_text(out, x - 7, y + 4, "class=\"small end halo\"", text);
}

static void axis_draw(FILE *out, const struct axis *axis, double x)
{
    double ticks[SCALE_TICKS];
    size_t n = axis->words ? 0 : scale_ticks(&axis->scale, ticks);
    size_t every = 1 + json_object_size(axis->words) / WORDS_MAX;
    const char *word;
    json_t *place;
    char text[32];

    svg_line(out, x, axis->scale.from, x, axis->scale.to, "class=\"axis\"");
    svg_text(out, x > RIGHT - 40 ? RIGHT : x, axis->scale.to - 12, x > RIGHT - 40 ? "class=\"end\"" : "class=\"middle\"",
             axis->name);
    for (size_t i = 0; i < n; i++) {
        tick_text(text, ticks[i]);
        axis_tick(out, axis, x, ticks[i], text);
    }
    json_object_foreach (axis->words, word, place)
        if ((size_t)json_integer_value(place) % every == 0)
            axis_tick(out, axis, x, (double)json_integer_value(place), word);
}

/* From pale blue (worst) over blue to vermilion (best): the order reads in grey, too. */
static void colour_of(double goodness, char ret[8])
{
    static const double STOPS[3][3] = {{200, 215, 230}, {0, 114, 178}, {213, 94, 0}};
    double at = fmin(fmax(goodness, 0), 1) * 2;
    int from = at >= 1 ? 1 : 0, rgb[3];

    for (int c = 0; c < 3; c++)
        rgb[c] = (int)(STOPS[from][c] + (at - from) * (STOPS[from + 1][c] - STOPS[from][c]) + 0.5);
    snprintf(ret, 8, "#%02x%02x%02x", (unsigned)rgb[0] & 255u, (unsigned)rgb[1] & 255u, (unsigned)rgb[2] & 255u);
}

static void coordinates_panel(struct picture *picture, double top)
{
    struct axis axes[AXES_MAX + 1];
    json_t *names = json_object(), *ignored;
    double bottom = top + INSIDE + FRAME, xs[AXES_MAX + 1], ys[AXES_MAX + 1];
    struct range best = {INFINITY, -INFINITY};
    size_t n = 0, drawn = 0, valued = 0, step;
    const char *name;
    char *title;

    for (size_t i = 0; i < picture->rows.n; i++) {
        double value = json_double_or(picture->rows.rows[i], "best_metric", NAN);
        each_leaf(json_object_get(picture->rows.rows[i], "hyperparameters"), "", collect_name, names);
        widen(&best, value);
        valued += isfinite(value);
    }
    json_object_foreach (names, name, ignored)
        if (n < AXES_MAX)
            axes[n++] = axis_of(picture, name, bottom, top + INSIDE + 20);
    if (!n || !(best.low <= best.high))
        goto out;
    axes[n++] = (struct axis){.name = picture->metric, .scale = scale_new(best.low, best.high, bottom, top + INSIDE + 20, false)};
    for (size_t a = 0; a < n; a++)
        xs[a] = LEFT + 20 + (RIGHT - LEFT - 40) * (double)a / (double)(n - 1);
    step = valued > PLOT_LINES ? (valued + PLOT_LINES - 1) / PLOT_LINES : 1;
    for (size_t i = valued; i-- > 0;) { /* those with a value stand first, best first: the best is drawn last */
        const json_t *row = picture->rows.rows[i];
        double value = json_double_or(row, "best_metric", NAN), share = best.high > best.low ? (value - best.low) /
                                                                            (best.high - best.low) : 1;
        char colour[8], style[120], *tip;
        if (i % step)
            continue;
        for (size_t a = 0; a + 1 < n; a++)
            ys[a] = place_on(&axes[a], trial_hyperparameter(row, axes[a].name));
        ys[n - 1] = scale_at(&axes[n - 1].scale, value);
        colour_of(picture->rows.smaller_is_better ? 1 - share : share, colour);
        snprintf(style, sizeof style, "stroke=\"%s\" stroke-width=\"%s\" stroke-opacity=\"%s\"", colour, i ? "1.2" : "2.5",
                 i ? "0.7" : "1");
        tip = tip_of(picture, row);
        svg_path(picture->out, xs, ys, n, style, tip);
        free(tip);
        drawn++;
    }
    for (size_t a = 0; a < n; a++)
        axis_draw(picture->out, &axes[a], xs[a]);
    title = format_text("Hyperparameters and the best %s of %zu of %zu trials (pale: worst, blue, vermilion: best)",
                        picture->metric, drawn, picture->rows.n);
    head(picture->out, top, title ? title : "");
    free(title);
out:
    for (size_t a = 0; a < n; a++)
        json_decref(axes[a].words);
    json_decref(names);
}

/* --- the whole ------------------------------------------------------------------------------------------------------ */

json_t *plot_choose(const json_t *trials)
{
    json_t *chosen = json_array();
    struct trial_rows rows;
    size_t step;

    if (trial_rows_init(&rows, trials))
        return chosen;
    step = rows.n > PLOT_CURVES ? (rows.n + PLOT_CURVES - 1) / PLOT_CURVES : 1;
    for (size_t i = 0; i < rows.n && json_array_size(chosen) < PLOT_CURVES; i += step)
        if (!json_is_null(json_object_get(rows.rows[i], "latest_unit")) || !json_is_null(json_object_get(rows.rows[i], "best_unit")))
            json_array_append(chosen, json_object_get(rows.rows[i], "id"));
    trial_rows_done(&rows);
    return chosen;
}

void plot_write(FILE *out, const json_t *describe, const json_t *trials, const json_t *curves)
{
    struct picture picture = {.out = out,
                              .describe = describe,
                              .curves = curves,
                              .metric = json_string_or(describe, "metric", "value"),
                              .unit = json_string_or(describe, "time_metric", "rounds")};
    char *title = format_text("%lld: %s", (long long)json_int_or(describe, "id", 0), json_string_or(describe, "name", ""));
    char *state = format_text("%s, %zu trials", json_string_or(describe, "state", ""),
                              json_array_size(json_object_get(trials, "trials")));

    if (trial_rows_init(&picture.rows, trials) == 0) {
        svg_begin(out, WIDTH, TOP + 3 * PANEL, title ? title : "");
        svg_text(out, LEFT, 30, "class=\"title\"", title ? title : "");
        svg_text(out, RIGHT, 30, "class=\"small end\"", state ? state : "");
        curves_panel(&picture, TOP);
        best_panel(&picture, TOP + PANEL);
        coordinates_panel(&picture, TOP + 2 * PANEL);
        if (picture.left_out) {
            char *text = format_text("%zu values that are not finite are not drawn", picture.left_out);
            svg_text(out, RIGHT, 46, "class=\"small end\"", text ? text : "");
            free(text);
        }
        svg_end(out);
        trial_rows_done(&picture.rows);
    }
    free(title);
    free(state);
}
