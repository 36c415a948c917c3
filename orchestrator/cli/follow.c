/* follow.c - see follow.h. One poll over the connection and a signalfd; signals that the caller ignores (nohup, a
 * shell's &) stay ignored.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/cli/follow.h"

#include "common/file.h"
#include "orchestrator/cli/client.h"
#include "orchestrator/cli/format.h"
#include "orchestrator/cli/progress.h"
#include "orchestrator/cli/render.h"
#include "orchestrator/cli/screen.h"
#include "orchestrator/config/config.h"

#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#define DRAW_S 0.1       /* at most ten frames a second */
#define IDLE_DRAW_S 1.0  /* the clock on the screen */
#define LINE_S 1.0       /* plain lines */
#define LOGS_S 0.4
#define UNITS_S 1.0      /* adding up what the trials were trained */
#define UNITS_SHARE 0.02 /* of the time, at most, with many trials */

struct watch {
    struct cli *cli;
    const struct follow *how;
    int64_t id;
    FILE *out;         /* where progress goes: stderr under --json */
    struct term *term;
    bool live;         /* a live screen */
    struct screen screen;
    struct progress progress;
    int signals;       /* signalfd */
    sigset_t blocked, before;
    bool changed, ended;
    int got_signal;    /* that ends the watching */
    double drawn, logged, line_at, deadline;
    double units_next; /* when to add up again */
    char *line;        /* the last plain line */
    int64_t last_log;
};

static double now_s(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

char *home_suffix(const struct cli *cli)
{
    const char *home = cli->options.value[OPT_HOME];
    char *text, *at;

    if (!home)
        return strdup("");
    text = malloc(strlen(home) * 4 + 16);
    if (!text)
        return NULL;
    if (strspn(home, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+=:@,") == strlen(home)) {
        sprintf(text, " --home %s", home);
        return text;
    }
    at = text + sprintf(text, " --home '");
    for (; *home; home++)
        at += sprintf(at, *home == '\'' ? "'\\''" : "%c", *home);
    strcpy(at, "'");
    return text;
}

/* --- signals ---------------------------------------------------------------------------------------------------- */

static int signals_open(struct watch *watch, struct error *err)
{
    static const int NUMBERS[] = {SIGINT, SIGTERM, SIGHUP, SIGWINCH, SIGTSTP};
    struct sigaction now;

    sigemptyset(&watch->blocked);
    for (size_t i = 0; i < sizeof NUMBERS / sizeof *NUMBERS; i++) {
        if (NUMBERS[i] == SIGTSTP && !watch->live)
            continue;
        if (sigaction(NUMBERS[i], NULL, &now) == 0 && now.sa_handler == SIG_IGN)
            continue;
        sigaddset(&watch->blocked, NUMBERS[i]);
    }
    sigprocmask(SIG_BLOCK, &watch->blocked, &watch->before);
    watch->signals = signalfd(-1, &watch->blocked, SFD_NONBLOCK | SFD_CLOEXEC);
    return watch->signals < 0 ? fail(err, -errno, "cannot watch for signals: %s", strerror(errno)) : 0;
}

/* Ctrl-Z: the cursor is given back, the process stops as the shell expects, and `fg` draws anew. */
static void suspend(struct watch *watch)
{
    screen_clear(&watch->screen);
    term_stop();
    screen_resized(&watch->screen);
    watch->changed = true;
    watch->drawn = 0;
}

static void signals_read(struct watch *watch)
{
    struct signalfd_siginfo info;

    while (read(watch->signals, &info, sizeof info) == sizeof info) {
        if (info.ssi_signo == SIGWINCH) {
            screen_resized(&watch->screen);
            watch->changed = true;
        } else if (info.ssi_signo == SIGTSTP) {
            suspend(watch);
        } else {
            watch->got_signal = (int)info.ssi_signo;
        }
    }
}

/* --- drawing ---------------------------------------------------------------------------------------------------- */

static void draw(struct watch *watch, const char *above)
{
    double now = now_s();
    char *frame;

    if (!watch->live)
        return;
    if (!above && now - watch->drawn < (watch->changed ? DRAW_S : IDLE_DRAW_S))
        return;
    frame = progress_frame(&watch->progress, watch->term, now);
    screen_draw(&watch->screen, above, frame ? frame : "");
    free(frame);
    watch->drawn = now;
    watch->changed = false;
}

static void say_line(struct watch *watch, bool last)
{
    double now = now_s();
    char *line, *timed;

    if (watch->live || !watch->how->progress || watch->how->logs || (!last && now - watch->line_at < LINE_S))
        return;
    line = progress_line(&watch->progress);
    if (line && (!watch->line || strcmp(line, watch->line) != 0)) {
        timed = progress_line_timed(&watch->progress, line, now);
        fprintf(watch->out, "%s\n", timed ? timed : line);
        fflush(watch->out);
        free(timed);
        free(watch->line);
        watch->line = line;
        watch->line_at = now;
        line = NULL;
    }
    free(line);
}

static int show_logs(struct watch *watch, struct error *err)
{
    char *text = NULL;
    size_t length = 0;
    FILE *out;
    int code;

    if (!watch->how->logs || (!watch->ended && now_s() - watch->logged < LOGS_S))
        return 0;
    out = watch->live ? open_memstream(&text, &length) : stdout;
    if (!out)
        return fail(err, -ENOMEM, "out of memory");
    code = logs_print(watch->cli, out, watch->id, watch->how->trial, &watch->last_log, err);
    watch->logged = now_s();
    if (!watch->live) {
        fflush(stdout);
        return code;
    }
    fclose(out);
    if (text && *text)
        draw(watch, text);
    free(text);
    return code;
}

/* --- the loop --------------------------------------------------------------------------------------------------- */

static int take_events(struct watch *watch, struct error *err)
{
    json_t *event = NULL;
    int code;

    while ((code = client_event(watch->cli->client, 0, &event, err)) > 0) {
        progress_event(&watch->progress, event, now_s());
        json_decref(event);
        watch->changed = true;
    }
    watch->ended = watch->ended || state_has_ended(progress_state(&watch->progress));
    return code;
}

/* Events say how each running trial stands, not what all were trained together. */
static void add_up_units(struct watch *watch)
{
    double started = now_s(), sum = 0, cost;
    json_t *answer = NULL, *row;
    size_t i;

    if (!watch->how->progress || started < watch->units_next ||
        json_object_get(watch->progress.summary, "units_trained") ||
        cli_ask(watch->cli, false, "trials", json_pack("{s:I}", "experiment", (json_int_t)watch->id), &answer, NULL))
        return;
    json_array_foreach(json_object_get(answer, "trials"), i, row)
        sum += json_double_or(row, "units", 0);
    json_decref(answer);
    cost = now_s() - started;
    progress_units(&watch->progress, sum, now_s());
    watch->units_next = started + (cost / UNITS_SHARE > UNITS_S ? cost / UNITS_SHARE : UNITS_S);
}

/* What the whole search is expected to train, by the searcher's preview of its stored file. */
static void expect_units(struct watch *watch, const json_t *describe)
{
    struct experiment_config *config = NULL;
    struct preview_row *rows = NULL;
    double total;
    size_t n;

    if (config_from_resolved(json_object_get(describe, "config"), &config, NULL))
        return;
    if (searcher_preview(&config->searcher, config->space, &rows, &n, &total, NULL) == 0)
        watch->progress.units_total = total;
    free(rows);
    config_free(config);
}

static int trial_has_ended(struct watch *watch)
{
    static const char *const ENDED[] = {"completed", "stopped", "canceled", "error"};
    json_t *answer = NULL;
    bool ended = false;

    if (!watch->how->trial || cli_read(watch->cli, "trial",
                                       json_pack("{s:I, s:I}", "experiment", (json_int_t)watch->id, "trial",
                                                 (json_int_t)watch->how->trial), &answer, NULL))
        return false;
    for (size_t i = 0; i < sizeof ENDED / sizeof *ENDED; i++)
        ended = ended || !strcmp(json_string_or(answer, "state", ""), ENDED[i]);
    json_decref(answer);
    return ended;
}

static int loop(struct watch *watch, struct error *err)
{
    int code = 0;

    while (code == 0 && !watch->ended && !watch->got_signal) {
        struct pollfd waits[2] = {{.fd = client_fd(watch->cli->client), .events = POLLIN},
                                  {.fd = watch->signals, .events = POLLIN}};
        if (watch->how->trial && now_s() - watch->logged >= LOGS_S && trial_has_ended(watch))
            watch->ended = true; /* the lines that are left follow below */
        code = show_logs(watch, err);
        if (code == 0)
            code = take_events(watch, err);
        if (code || watch->ended)
            break;
        add_up_units(watch);
        draw(watch, NULL);
        say_line(watch, false);
        if (watch->deadline > 0 && now_s() >= watch->deadline)
            return -ETIME;
        poll(waits, 2, watch->live || watch->how->logs ? 100 : 250);
        signals_read(watch);
    }
    if (code == 0 && watch->ended)
        code = show_logs(watch, err);
    return code;
}

static int describe(struct watch *watch, json_t **ret, struct error *err)
{
    json_t *arguments = json_pack("{s:I}", "experiment", (json_int_t)watch->id);

    return cli_read(watch->cli, "describe", arguments, ret, err);
}

static int subscribe(struct watch *watch, struct error *err)
{
    json_t *arguments = json_pack("{s:I}", "experiment", (json_int_t)watch->id), *answer = NULL;
    int code = cli_ask(watch->cli, false, "subscribe", arguments, &answer, err);

    if (code == 0) /* how it stands now: an end since the description above comes as no event */
        progress_event(&watch->progress, answer, now_s());
    json_decref(answer);
    return code;
}

static int detached(struct watch *watch)
{
    char *suffix = home_suffix(watch->cli);
    const char *with = suffix ? suffix : "";

    fprintf(stderr, "flexp: no longer following; experiment %lld goes on\n"
                    "  follow again   flexp wait %lld -f%s\n"
                    "  its best yet   flexp describe %lld%s\n"
                    "  end it         flexp cancel %lld%s\n",
            (long long)watch->id, (long long)watch->id, with, (long long)watch->id, with, (long long)watch->id, with);
    free(suffix);
    return watch->got_signal == SIGINT ? CLI_DETACHED : 128 + watch->got_signal;
}

static int outcome(struct watch *watch, const json_t *answer)
{
    const char *state = json_string_or(answer, "state", "?"), *reason = json_string_or(answer, "reason", "");

    if (!watch->how->outcome || !strcmp(state, "completed"))
        return CLI_OK;
    return cli_fail(CLI_INCOMPLETE, "experiment %lld did not complete: %s%s%s", (long long)watch->id, state,
                    *reason ? ", " : "", reason);
}

static int finish(struct watch *watch, struct error *err)
{
    json_t *answer = NULL;
    char *suffix;
    int code = describe(watch, &answer, err);

    if (code)
        return cli_fail_error(err);
    code = outcome(watch, answer);
    if (watch->how->summary && cli_json(watch->cli)) {
        cli_print_json(watch->cli, answer);
        return code;
    }
    if (watch->how->summary && watch->how->progress) {
        const char *state = json_string_or(answer, "state", "?");
        suffix = home_suffix(watch->cli);
        printf("%sExperiment %lld %s%s\n\n", term_on(watch->term, STYLE_BOLD), (long long)watch->id, state,
               term_off(watch->term, STYLE_BOLD));
        render_best(stdout, watch->term, answer, watch->cli->home);
        printf("\n%sMore%s: flexp describe %lld%s\n", term_on(watch->term, STYLE_BOLD),
               term_off(watch->term, STYLE_BOLD), (long long)watch->id, suffix ? suffix : "");
        free(suffix);
    }
    json_decref(answer);
    return code;
}

/* With --json there is one document whatever happened, so that the experiment's number is never lost. */
static void print_cut_short(struct watch *watch)
{
    json_t *answer;

    if (!cli_json(watch->cli) || !watch->how->summary)
        return;
    answer = cli_json_answer();
    json_object_set_new(answer, "id", json_integer(watch->id));
    json_object_set_new(answer, "state", json_string(progress_state(&watch->progress)));
    cli_print_json(watch->cli, answer);
}

static int watch_it(struct watch *watch, struct error *err)
{
    int code = signals_open(watch, err);

    if (code == 0)
        code = subscribe(watch, err);
    if (code == 0)
        code = loop(watch, err);
    say_line(watch, true);
    if (watch->live && (watch->ended || code))
        draw(watch, ""); /* the last frame stands no longer, but log lines above it do */
    if (watch->live)
        screen_clear(&watch->screen);
    return code;
}

int follow_experiment(struct cli *cli, int64_t id, const struct follow *how)
{
    struct watch watch = {.cli = cli, .how = how, .id = id, .signals = -1};
    struct error err = {0};
    json_t *answer = NULL;
    bool stopped = false;
    int code = describe(&watch, &answer, &err);

    if (code)
        return cli_fail_error(&err);
    watch.out = cli_json(cli) ? stderr : stdout;
    watch.term = cli_json(cli) ? &cli->err : &cli->out;
    watch.live = how->progress && watch.term->tty;
    watch.deadline = how->timeout_s > 0 ? now_s() + how->timeout_s : 0;
    screen_init(&watch.screen, fileno(watch.out), watch.term);
    progress_init(&watch.progress, answer, now_s());
    expect_units(&watch, answer);
    watch.ended = state_has_ended(progress_state(&watch.progress));
    json_decref(answer);
    sigemptyset(&watch.blocked);
    fflush(stdout);
    if (watch.ended) {
        code = show_logs(&watch, &err);
    } else if (!cli->client) {
        code = fail(&err, -ECONNREFUSED, "no orchestrator is running, so experiment %lld does not go on; `flexp up` "
                                         "starts it", (long long)id);
    } else {
        stopped = true;
        code = watch_it(&watch, &err);
    }
    if (watch.got_signal) {
        print_cut_short(&watch);
        code = detached(&watch);
    } else if (code == -ETIME) {
        print_cut_short(&watch);
        code = cli_fail(CLI_INCOMPLETE, "experiment %lld has not ended within %g s; it goes on", (long long)id,
                        how->timeout_s);
    } else if (code) {
        print_cut_short(&watch);
        code = cli_fail(err.code == -ENOENT || err.code == -EINVAL ? CLI_USAGE : CLI_LOST, "%s", err.text);
    } else {
        code = finish(&watch, &err);
    }
    if (watch.signals >= 0)
        close(watch.signals);
    if (stopped)
        sigprocmask(SIG_SETMASK, &watch.before, NULL);
    free(watch.line);
    progress_done(&watch.progress);
    return code;
}
