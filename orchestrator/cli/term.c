/* term.c - see term.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/cli/term.h"

#include <langinfo.h>
#include <locale.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <wchar.h>

static const char *const STYLE_CODES[] = {
    [STYLE_NONE] = "",          [STYLE_BOLD] = "\033[1m",    [STYLE_DIM] = "\033[2m",   [STYLE_RED] = "\033[31m",
    [STYLE_GREEN] = "\033[32m", [STYLE_YELLOW] = "\033[33m", [STYLE_BLUE] = "\033[34m", [STYLE_CYAN] = "\033[36m",
};

bool term_locale(void)
{
    bool utf8;

    setlocale(LC_CTYPE, "");
    utf8 = !strcmp(nl_langinfo(CODESET), "UTF-8");
    setlocale(LC_CTYPE, "C.UTF-8");
    return utf8;
}

static int environment_size(const char *name)
{
    const char *text = getenv(name);
    long value = text ? strtol(text, NULL, 10) : 0;

    return value > 0 && value < 10000 ? (int)value : 0;
}

void term_measure(struct term *term, int fd)
{
    struct winsize size = {0};

    term->width = term->height = 0;
    if (!isatty(fd))
        return;
    if (ioctl(fd, TIOCGWINSZ, &size) == 0) {
        term->width = size.ws_col;
        term->height = size.ws_row;
    }
    if (!term->width)
        term->width = environment_size("COLUMNS");
    if (!term->height)
        term->height = environment_size("LINES");
    if (!term->width)
        term->width = 80;
    if (!term->height)
        term->height = 24;
}

void term_stop(void)
{
    sigset_t stop;

    sigemptyset(&stop);
    sigaddset(&stop, SIGTSTP);
    raise(SIGTSTP); /* pending until it is unblocked */
    sigprocmask(SIG_UNBLOCK, &stop, NULL);
    sigprocmask(SIG_BLOCK, &stop, NULL);
}

void term_init(struct term *term, int fd, bool utf8, bool no_color)
{
    const char *kind = getenv("TERM"), *unwanted = getenv("NO_COLOR");
    bool able = kind && *kind && strcmp(kind, "dumb") != 0;

    memset(term, 0, sizeof *term);
    term->utf8 = utf8;
    term->tty = isatty(fd) && able;
    term->color = term->tty && !no_color && !(unwanted && *unwanted);
    term_measure(term, fd);
}

const char *term_on(const struct term *term, enum style style)
{
    return term->color ? STYLE_CODES[style] : "";
}

const char *term_off(const struct term *term, enum style style)
{
    return term->color && style != STYLE_NONE ? "\033[0m" : "";
}

/* The length in bytes of what stands at text: a colour sequence (*ret_width 0), or one character. An invalid byte
 * counts as one character of one column. */
static size_t step(const char *text, int *ret_width)
{
    wchar_t wide = 0;
    mbstate_t state = {0};
    size_t n;

    if (text[0] == '\033' && text[1] == '[') {
        n = 2 + strspn(text + 2, "0123456789;");
        *ret_width = 0;
        return text[n] ? n + 1 : n;
    }
    n = mbrtowc(&wide, text, strlen(text), &state);
    if (n == (size_t)-1 || n == (size_t)-2 || n == 0) {
        *ret_width = 1;
        return 1;
    }
    *ret_width = wcwidth(wide);
    if (*ret_width < 0)
        *ret_width = 1;
    return n;
}

int text_width(const char *text)
{
    int width = 0, one;

    while (*text) {
        text += step(text, &one);
        width += one;
    }
    return width;
}

int text_write(FILE *out, const struct term *term, const char *text, int width)
{
    const char *ellipsis = term->utf8 ? "…" : ".";
    int used = 0, one, room;
    bool styled = false;
    size_t n;

    if (width <= 0 || text_width(text) <= width) {
        fputs(text, out);
        return text_width(text);
    }
    room = width - 1;
    while (*text) {
        n = step(text, &one);
        if (one && used + one > room)
            break;
        if (!one && *text == '\033')
            styled = true;
        fwrite(text, 1, n, out);
        used += one;
        text += n;
    }
    fputs(ellipsis, out);
    if (styled)
        fputs("\033[0m", out);
    return used + 1;
}

char *text_clean(const char *text)
{
    size_t length = strlen(text), used = 0, n;
    char *clean = malloc(length * 3 + 1);
    mbstate_t state;
    wchar_t wide;

    if (!clean)
        return NULL;
    while (*text) {
        memset(&state, 0, sizeof state);
        n = mbrtowc(&wide, text, strlen(text), &state);
        if (n == (size_t)-1 || n == (size_t)-2 || n == 0) {
            clean[used++] = '?';
            text++;
            continue;
        }
        if (*text == '\t')
            clean[used++] = ' ';
        else if (wide < 32 || (wide >= 127 && wide < 160) || wide == 0x2028 || wide == 0x2029)
            clean[used++] = '?';
        else {
            memcpy(clean + used, text, n);
            used += n;
        }
        text += n;
    }
    clean[used] = 0;
    return clean;
}
