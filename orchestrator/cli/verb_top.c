/* verb_top.c - top: experiments, slots, trials and their curves, drawn anew each second on the terminal's other screen, which
 * goes when it ends. Without a terminal one frame is printed.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/cli/cli_private.h"
#include "orchestrator/cli/screen.h"
#include "orchestrator/cli/top_frame.h"

#include "common/file.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define PERIOD_MS 1000
#define CURVES_MAX 64 /* running trials whose curves are asked for */

struct top {
    int64_t only;
    size_t skip;
    json_t *status, *slots, *list, *describes, *curves;
};

static void forget(struct top *top)
{
    json_decref(top->status);
    json_decref(top->slots);
    json_decref(top->list);
    json_decref(top->describes);
    json_decref(top->curves);
    top->status = top->slots = top->list = top->describes = top->curves = NULL;
}

/* --- asking --------------------------------------------------------------------------------------------------------- */

/* The searcher's metric of a running trial, by unit. */
static int add_curve(struct cli *cli, struct top *top, int64_t experiment, int64_t trial, const char *metric, struct error *err)
{
    json_t *answer = NULL, *values, *row;
    char key[48];
    size_t i;
    int code = cli_ask(cli, false, "metrics",
                       json_pack("{s:I, s:I, s:s, s:i}", "experiment", (json_int_t)experiment, "trial", (json_int_t)trial, "name",
                                 metric, "client", -1),
                       &answer, err);

    if (code == -ENOENT) /* it has ended meanwhile, or has not reported it yet */
        return 0;
    if (code)
        return code;
    values = json_array();
    json_array_foreach (json_object_get(answer, "metrics"), i, row)
        json_array_append(values, json_object_get(row, "value"));
    snprintf(key, sizeof key, "%lld/%lld", (long long)experiment, (long long)trial);
    json_object_set_new(top->curves, key, values);
    json_decref(answer);
    return 0;
}

static int add_describe(struct cli *cli, struct top *top, int64_t experiment, struct error *err)
{
    json_t *answer = NULL;
    char key[32];
    int code = cli_ask(cli, false, "describe", json_pack("{s:I}", "experiment", (json_int_t)experiment), &answer, err);

    snprintf(key, sizeof key, "%lld", (long long)experiment);
    if (code == 0)
        json_object_set_new(top->describes, key, answer);
    return code == -ENOENT ? 0 : code;
}

static int ask_all(struct cli *cli, struct top *top, struct error *err)
{
    json_t *row, *run;
    size_t i, k, asked = 0;
    int code = cli_ask(cli, false, "status", NULL, &top->status, err);

    top->describes = json_object();
    top->curves = json_object();
    if (code == 0)
        code = cli_ask(cli, false, "slots", NULL, &top->slots, err);
    if (code == 0)
        code = cli_ask(cli, false, "list", json_pack("{s:b}", "all", top->only != 0), &top->list, err);
    json_array_foreach (json_object_get(top->list, "experiments"), i, row) {
        const char *state = json_string_or(row, "state", "");
        int64_t id = json_int_or(row, "id", 0);
        bool goes_on = !strcmp(state, "active") || !strcmp(state, "stopping") || !strcmp(state, "paused");
        if (code == 0 && (top->only ? id == top->only : goes_on))
            code = add_describe(cli, top, id, err);
    }
    json_array_foreach (json_object_get(top->slots, "slots"), i, row)
        json_array_foreach (json_object_get(row, "runs"), k, run) {
            int64_t experiment = json_int_or(run, "experiment", 0), trial = json_int_or(run, "trial", 0);
            char key[32];
            const char *metric;
            snprintf(key, sizeof key, "%lld", (long long)experiment);
            metric = json_string_or(json_object_get(top->describes, key), "metric", NULL);
            if (code == 0 && metric && asked++ < CURVES_MAX)
                code = add_curve(cli, top, experiment, trial, metric, err);
        }
    return code;
}

static char *frame_of(const struct term *term, const struct top *top)
{
    char now[16];
    time_t seconds = time(NULL);
    struct tm local;

    strftime(now, sizeof now, "%H:%M:%S", localtime_r(&seconds, &local));
    return top_frame(term, top->status, top->slots, top->list, top->describes, top->curves, top->only, top->skip, now);
}

/* --- once ----------------------------------------------------------------------------------------------------------- */

static int print_once(struct cli *cli, struct top *top)
{
    struct error err = {0};
    json_t *answer;
    char *frame;

    if (ask_all(cli, top, &err))
        return cli_fail_error(&err);
    if (cli_json(cli)) {
        answer = cli_json_answer();
        json_object_set(answer, "status", top->status);
        json_object_set(answer, "slots", json_object_get(top->slots, "slots"));
        json_object_set(answer, "experiments", top->describes);
        json_object_set(answer, "curves", top->curves);
        return cli_print_json(cli, answer);
    }
    frame = frame_of(&cli->out, top);
    fputs(frame ? frame : "", stdout);
    free(frame);
    return CLI_OK;
}

/* --- live ----------------------------------------------------------------------------------------------------------- */

static void say(const char *text)
{
    fd_write_all(STDOUT_FILENO, text, strlen(text));
}

static struct termios before; /* what the terminal is given back as */

/* The other screen, without a cursor, keys one by one; and back. */
static void enter(void)
{
    struct termios raw = before;

    raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
    tcsetattr(STDIN_FILENO, TCSANOW, &raw);
    say("\033[?1049h\033[?25l");
}

static void leave(void)
{
    tcsetattr(STDIN_FILENO, TCSANOW, &before);
    say("\033[?25h\033[?1049l");
}

/* At once, whatever is being waited for: an orchestrator that does not answer does not hold the terminal. All that is called
 * may be called here. */
static void on_end(int number)
{
    (void)number;
    leave();
    _exit(CLI_OK);
}

/* The frame from the top left corner, each line over the old one; in one write, marked as one where terminals know that. */
static void draw(const struct term *term, const char *frame, const char *below)
{
    char *bytes = NULL;
    size_t length;
    int line = 1, height = term->height > 0 ? term->height : 24;
    FILE *out = open_memstream(&bytes, &length);

    if (!out)
        return;
    fputs("\033[?2026h\033[H", out);
    while (*frame && line < height) {
        size_t n = strcspn(frame, "\n");
        char *one = strndup(frame, n);
        text_write(out, term, one ? one : "", term->width > 1 ? term->width - 1 : 0);
        fputs("\033[K\r\n", out);
        free(one);
        frame += n + (frame[n] == '\n');
        line++;
    }
    fputs("\033[J", out);
    fprintf(out, "\033[%d;1H%s", height, term_on(term, STYLE_DIM));
    text_write(out, term, below, term->width > 1 ? term->width - 1 : 0);
    fprintf(out, "%s\033[K\033[?2026l", term_off(term, STYLE_DIM));
    fclose(out);
    say(bytes);
    free(bytes);
}

/* False: the end is wanted. */
static bool handle_keys(struct top *top)
{
    size_t n = top_slot_lines(top->slots);
    char keys[32];
    ssize_t got = read(STDIN_FILENO, keys, sizeof keys);

    if (got <= 0)
        return false;
    for (ssize_t i = 0; i < got; i++) {
        char key = keys[i];
        if (key == '\033' && i + 2 < got && keys[i + 1] == '[') {
            i += 2;
            key = keys[i] == 'A' ? 'k' : keys[i] == 'B' ? 'j' : 0;
        }
        if (key == 'q' || key == 'Q')
            return false;
        if (key == 'j' && top->skip + 1 < n)
            top->skip++;
        if (key == 'k' && top->skip)
            top->skip--;
    }
    return true;
}

/* Suspended as other programs are: the old screen while it sleeps. */
static void suspend(void)
{
    leave();
    term_stop();
    enter();
}

/* SIGWINCH and SIGTSTP, between frames. */
static void handle_signals(struct cli *cli, int signals)
{
    struct signalfd_siginfo info;

    while (read(signals, &info, sizeof info) == sizeof info)
        if (info.ssi_signo == SIGTSTP)
            suspend();
    term_measure(&cli->out, STDOUT_FILENO);
}

/* Until a key ends it. */
static int frames(struct cli *cli, struct top *top, int signals, struct error *err)
{
    for (;;) {
        struct pollfd in[2] = {{.fd = STDIN_FILENO, .events = POLLIN}, {.fd = signals, .events = POLLIN}};
        char *frame;
        int code;

        forget(top);
        code = ask_all(cli, top, err);
        if (code)
            return code;
        frame = frame_of(&cli->out, top);
        if (frame)
            draw(&cli->out, frame, "q ends   j k scroll the slots");
        free(frame);
        if (poll(in, 2, PERIOD_MS) <= 0)
            continue;
        if (in[1].revents)
            handle_signals(cli, signals);
        if (in[0].revents && !handle_keys(top))
            return 0;
    }
}

/* The descriptor that tells of those that wait for the end of a frame. */
static int watch_signals(struct error *err)
{
    static const int ENDS[] = {SIGINT, SIGTERM, SIGHUP};
    sigset_t blocked;
    int fd;

    for (size_t i = 0; i < sizeof ENDS / sizeof *ENDS; i++)
        sigaction(ENDS[i], &(struct sigaction){.sa_handler = on_end}, NULL);
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGWINCH);
    sigaddset(&blocked, SIGTSTP);
    sigprocmask(SIG_BLOCK, &blocked, NULL);
    fd = signalfd(-1, &blocked, SFD_NONBLOCK | SFD_CLOEXEC);
    return fd < 0 ? fail(err, -errno, "cannot watch for signals: %s", strerror(errno)) : fd;
}

static int live(struct cli *cli, struct top *top)
{
    struct error err = {0};
    int code, signals;

    if (tcgetattr(STDIN_FILENO, &before))
        return print_once(cli, top);
    signals = watch_signals(&err);
    if (signals < 0)
        return cli_fail_error(&err);
    enter();
    code = frames(cli, top, signals, &err);
    leave();
    close(signals);
    return code ? cli_fail_error(&err) : CLI_OK;
}

int verb_top(struct cli *cli)
{
    struct top top = {0};
    struct error err = {0};
    int code = CLI_OK;

    if (cli->options.arguments_n && cli_experiment(cli, cli->options.arguments[0], &top.only, &err))
        return cli_fail_error(&err);
    code = cli->out.tty && !cli_json(cli) && isatty(STDIN_FILENO) ? live(cli, &top) : print_once(cli, &top);
    forget(&top);
    return code;
}
