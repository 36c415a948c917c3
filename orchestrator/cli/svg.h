/* svg.h - drawing into an SVG 1.1 file: a few elements, text that is escaped, scales with ticks at round numbers.
 * Coordinates are pixels from the top left corner.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_ORCHESTRATOR_CLI_SVG_H
#define FLEXP_ORCHESTRATOR_CLI_SVG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

void svg_begin(FILE *out, double width, double height, const char *title);
void svg_end(FILE *out);
/* style: attributes as they stand in the file, such as class="axis". */
void svg_line(FILE *out, double x1, double y1, double x2, double y2, const char *style);
void svg_rect(FILE *out, double x, double y, double width, double height, const char *style);
void svg_text(FILE *out, double x, double y, const char *style, const char *text);
/* A path through points that are finite; it breaks where one is not. tip: shown by a viewer over the line, or NULL. */
void svg_path(FILE *out, const double *x, const double *y, size_t n, const char *style, const char *tip);
/* Text with what XML wants escaped; characters that XML 1.0 cannot hold become '?'. */
void svg_escape(FILE *out, const char *text);

struct scale {
    double low, high; /* values at the two ends below */
    double from, to;  /* pixels */
    bool log;
};
/* low and high made to differ; log only where both are positive. */
struct scale scale_new(double low, double high, double from, double to, bool log);
double scale_at(const struct scale *scale, double value);
#define SCALE_TICKS 12
/* Round numbers from low to high, at most SCALE_TICKS; how many. */
size_t scale_ticks(const struct scale *scale, double *ret);

#endif
