/* svg.c - see svg.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/cli/svg.h"

#include "orchestrator/cli/term.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void svg_escape(FILE *out, const char *text)
{
    char *clean = text_clean(text); /* no control characters, valid UTF-8 */

    for (const char *at = clean ? clean : ""; *at; at++) {
        const char *entity = *at == '&' ? "&amp;" : *at == '<' ? "&lt;" : *at == '>' ? "&gt;" : *at == '"' ? "&quot;" : NULL;
        /* U+FFFE and U+FFFF are the two that UTF-8 can say and XML cannot. */
        if (!strncmp(at, "\xef\xbf\xbe", 3) || !strncmp(at, "\xef\xbf\xbf", 3)) {
            fputc('?', out);
            at += 2;
        } else if (entity) {
            fputs(entity, out);
        } else {
            fputc(*at, out);
        }
    }
    free(clean);
}

void svg_begin(FILE *out, double width, double height, const char *title)
{
    fprintf(out,
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%.0f\" height=\"%.0f\" viewBox=\"0 0 %.0f %.0f\">\n<title>", width,
            height, width, height);
    svg_escape(out, title);
    fputs("</title>\n<style>\n"
          "text { font-family: Helvetica, Arial, sans-serif; font-size: 12px; fill: #333333 }\n"
          ".title { font-size: 16px; font-weight: bold }\n.head { font-size: 13px; font-weight: bold }\n"
          ".small { font-size: 11px; fill: #666666 }\n.axis { stroke: #333333; stroke-width: 1 }\n"
          ".grid { stroke: #e4e4e4; stroke-width: 1 }\n.end { text-anchor: end }\n.middle { text-anchor: middle }\n"
          ".halo { paint-order: stroke; stroke: #ffffff; stroke-width: 3px }\n"
          "path { fill: none; stroke-linejoin: round }\n</style>\n",
          out);
    svg_rect(out, 0, 0, width, height, "fill=\"#ffffff\"");
}

void svg_end(FILE *out)
{
    fputs("</svg>\n", out);
}

void svg_line(FILE *out, double x1, double y1, double x2, double y2, const char *style)
{
    fprintf(out, "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" %s/>\n", x1, y1, x2, y2, style);
}

void svg_rect(FILE *out, double x, double y, double width, double height, const char *style)
{
    fprintf(out, "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" %s/>\n", x, y, width, height, style);
}

void svg_text(FILE *out, double x, double y, const char *style, const char *text)
{
    fprintf(out, "<text x=\"%.1f\" y=\"%.1f\" %s>", x, y, style);
    svg_escape(out, text);
    fputs("</text>\n", out);
}

void svg_path(FILE *out, const double *x, const double *y, size_t n, const char *style, const char *tip)
{
    bool down = false, any = false;

    fputs("<path d=\"", out);
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(x[i]) || !isfinite(y[i])) {
            down = false;
            continue;
        }
        fprintf(out, "%c%.1f,%.1f", down ? 'L' : 'M', x[i], y[i]);
        down = any = true;
    }
    fprintf(out, "%s\" %s", any ? "" : "M0,0", style);
    if (tip) {
        fputs("><title>", out);
        svg_escape(out, tip);
        fputs("</title></path>\n", out);
    } else {
        fputs("/>\n", out);
    }
}

struct scale scale_new(double low, double high, double from, double to, bool log)
{
    struct scale scale = {low, high, from, to, log && low > 0 && high > 0};

    if (!(high > low)) { /* one value: in the middle */
        double margin = low != 0 ? fabs(low) * 0.1 : 1;
        scale.low = scale.log ? low / 2 : low - margin;
        scale.high = scale.log ? low * 2 : low + margin;
    }
    return scale;
}

double scale_at(const struct scale *scale, double value)
{
    double share = scale->log ? (log(value) - log(scale->low)) / (log(scale->high) - log(scale->low))
                              : (value - scale->low) / (scale->high - scale->low);

    return scale->from + share * (scale->to - scale->from);
}

static size_t log_ticks(const struct scale *scale, double *ret)
{
    int first = (int)ceil(log10(scale->low) - 1e-9), last = (int)floor(log10(scale->high) + 1e-9), step = 1;
    size_t n = 0;

    while ((last - first) / step + 1 > SCALE_TICKS)
        step++;
    for (int power = first; power <= last && n < SCALE_TICKS; power += step)
        ret[n++] = pow(10, power);
    return n;
}

size_t scale_ticks(const struct scale *scale, double *ret)
{
    static const double STEPS[] = {1, 2, 5, 10};
    double span = scale->high - scale->low, size = pow(10, floor(log10(span / 5))), step = size;
    size_t n = 0;

    if (scale->log && (n = log_ticks(scale, ret)) >= 2)
        return n;
    for (size_t i = 0; i < 4 && span / step > 7; i++)
        step = size * STEPS[i];
    n = 0;
    for (double k = ceil(scale->low / step - 1e-9); k * step <= scale->high + step * 1e-9 && n < SCALE_TICKS; k++)
        ret[n++] = k == 0 ? 0 : k * step;
    return n;
}
