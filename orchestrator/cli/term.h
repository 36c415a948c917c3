/* term.h - what a stream is (terminal or not, colours, UTF-8, size) and text that fits it.
 * Width is counted in columns as a terminal shows them: combining marks take none, wide characters two, and escape
 * sequences that set colours none. Control characters in text from files or programs are never passed to a terminal.
 * NO_COLOR (https://no-color.org), TERM=dumb and --no-color switch colours off.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_ORCHESTRATOR_CLI_TERM_H
#define FLEXP_ORCHESTRATOR_CLI_TERM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

enum style { STYLE_NONE, STYLE_BOLD, STYLE_DIM, STYLE_RED, STYLE_GREEN, STYLE_YELLOW, STYLE_BLUE, STYLE_CYAN };

struct term {
    bool tty;   /* a terminal that can move its cursor */
    bool color;
    bool utf8;
    int width;  /* columns; 0: no limit (not a terminal) */
    int height; /* 0 likewise */
};

/* Call once at the start of the program: lets wcwidth know UTF-8 whatever the locale; says whether the locale is UTF-8.
 * */
bool term_locale(void);
void term_init(struct term *term, int fd, bool utf8, bool no_color);
/* After a resize. */
void term_measure(struct term *term, int fd);
/* Stops the process as Ctrl-Z does, and returns when it goes on. SIGTSTP is blocked, and stays so. */
void term_stop(void);

/* The escape sequence that begins a style and the one that ends it; "" where the stream has no colours. */
const char *term_on(const struct term *term, enum style style);
const char *term_off(const struct term *term, enum style style);

/* Columns that text takes. */
int text_width(const char *text);
/* Writes text cut to width columns (0: no limit), with an ellipsis where something was cut; colours that are open at
 * the cut are closed. Returns the columns written. */
int text_write(FILE *out, const struct term *term, const char *text, int width);
/* A copy without control characters (each becomes '?', a tab a space) and with invalid UTF-8 replaced. The caller
 * frees. */
char *text_clean(const char *text);

#endif
