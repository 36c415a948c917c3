/* screen.h - a few lines at the bottom of the terminal that are redrawn in place. A frame is composed whole, cut to the
 * terminal's width and height, and written in one go: each line over the old one, what is left of that erased after, so
 * that nothing flickers. Text that should stay (log lines) is printed above. The cursor is hidden while a frame stands.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_ORCHESTRATOR_CLI_SCREEN_H
#define FLEXP_ORCHESTRATOR_CLI_SCREEN_H

#include "orchestrator/cli/term.h"

#define SCREEN_LINES_MAX 200

struct screen {
    int fd;
    struct term *term;           /* borrowed; measured anew by screen_resized */
    int widths[SCREEN_LINES_MAX]; /* columns of the lines that stand */
    int lines;
};

void screen_init(struct screen *screen, int fd, struct term *term);
void screen_resized(struct screen *screen);
/* above: whole lines that stay and scroll up, or NULL; frame: lines that are replaced by the next call. */
void screen_draw(struct screen *screen, const char *above, const char *frame);
/* Erases the frame and gives the cursor back. */
void screen_clear(struct screen *screen);

#endif
