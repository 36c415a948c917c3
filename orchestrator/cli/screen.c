/* screen.c - see screen.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/cli/screen.h"

#include "common/file.h"

#include <stdlib.h>
#include <string.h>

void screen_init(struct screen *screen, int fd, struct term *term)
{
    memset(screen, 0, sizeof *screen);
    screen->fd = fd;
    screen->term = term;
}

void screen_resized(struct screen *screen)
{
    term_measure(screen->term, screen->fd);
}

/* Rows that the standing frame takes now. A terminal that became narrower has wrapped its longer lines. */
static int standing_rows(const struct screen *screen)
{
    int rows = 0, width = screen->term->width;

    for (int i = 0; i < screen->lines; i++)
        rows += screen->widths[i] > width ? (screen->widths[i] + width - 1) / width : 1;
    return rows;
}

static void write_lines(struct screen *screen, FILE *out, const char *text, int limit)
{
    screen->lines = 0;
    while (*text && screen->lines < limit) {
        size_t n = strcspn(text, "\n");
        char *line = strndup(text, n);
        /* One column stays free: a full line would leave the cursor in a place that differs between terminals. */
        screen->widths[screen->lines++] = line ? text_write(out, screen->term, line, screen->term->width - 1) : 0;
        fputs("\033[K\n", out);
        free(line);
        text += n + (text[n] == '\n');
    }
}

void screen_draw(struct screen *screen, const char *above, const char *frame)
{
    int rows = standing_rows(screen), limit = screen->term->height - 1;
    char *bytes = NULL;
    size_t length = 0;
    FILE *out = open_memstream(&bytes, &length);

    if (!out)
        return;
    fputs("\033[?25l\r", out);
    if (rows > 0)
        fprintf(out, "\033[%dA", rows);
    if (above && *above) {
        fputs("\033[J", out);
        fputs(above, out);
    }
    write_lines(screen, out, frame, limit < 1 ? 1 : limit < SCREEN_LINES_MAX ? limit : SCREEN_LINES_MAX);
    fputs("\033[J", out);
    fclose(out);
    if (bytes)
        fd_write_all(screen->fd, bytes, length); /* a terminal that is gone is noticed by its signal */
    free(bytes);
}

void screen_clear(struct screen *screen)
{
    int rows = standing_rows(screen);
    char *text = rows > 0 ? format_text("\r\033[%dA\033[J\033[?25h", rows) : format_text("\r\033[J\033[?25h");

    if (text)
        fd_write_all(screen->fd, text, strlen(text));
    free(text);
    screen->lines = 0;
}
