/* server.c - the orchestrator's start, its end, and nothing between.
 * The end comes in steps: runs are preempted (SERVER_STOPS), then whoever is left is killed and waited for
 * (SERVER_CLOSES), then what was submitted is on disk, the last answers leave and all handles close (SERVER_CLOSED).
 * SPDX-License-Identifier: Apache-2.0 */
#include "common/file.h"
#include "common/log.h"
#include "orchestrator/server/server_private.h"

#include <assert.h>
#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* --- the end ---------------------------------------------------------------------------------------------------- */

static void close_handles(struct server *server)
{
    uv_handle_t *handles[] = {(uv_handle_t *)&server->wake, (uv_handle_t *)&server->tick,
                              (uv_handle_t *)&server->publish, (uv_handle_t *)&server->signals[0],
                              (uv_handle_t *)&server->signals[1]};

    for (size_t i = 0; i < sizeof handles / sizeof *handles; i++)
        uv_close(handles[i], NULL);
}

static void on_launcher_closed(void *arg)
{
    struct server *server = arg;

    server->launcher = NULL;
    server->state = SERVER_CLOSED;
    if (server->store)
        store_be_patient(server->store, false); /* there is no more time to wait for space */
    if (server->store)
        store_flush(server->store); /* effects find nobody to send to; what they would delete goes */
    answers_deliver(server);
    connections_close(server);
    store_close(server->store); /* its thread wakes us no more */
    server->store = NULL;
    close_handles(server);
}

static void close_launcher(struct server *server)
{
    server->state = SERVER_CLOSES;
    if (server->launcher)
        launcher_close(server->launcher, on_launcher_closed, server);
    else
        on_launcher_closed(server);
}

void server_check_stopped(struct server *server)
{
    if (server->state != SERVER_STOPS)
        return;
    if (server->failure.code || !server->attempts || clock_ms() - server->stop_ms > server->limits.down) {
        if (server->attempts)
            log_warning("some runs did not checkpoint in time and are killed; they go on from their last checkpoint");
        close_launcher(server);
    }
}

void server_stop(struct server *server)
{
    if (server->state != SERVER_RUNS)
        return;
    server->state = SERVER_STOPS;
    server->stop_ms = clock_ms();
    atomic_store(&server->hooks_stop, true);
    for (struct attempt *attempt = server->attempts, *next; attempt; attempt = next) {
        struct entry *entry = entry_find(server, attempt->experiment);
        struct turn turn;
        next = attempt->next;
        if (attempt->phase != ATTEMPT_RUNS || !entry) {
            attempt_cancel(server, attempt);
            continue;
        }
        turn_init(&turn, clock_us());
        experiment_preempt(entry->experiment, attempt->run, &turn);
        server_submit(server, attempt->experiment, &turn);
    }
    for (struct hand *hand = server->hands; hand; hand = hand->next)
        if (!hand_first(hand))
            hand_dismiss(hand);
}

void server_fail(struct server *server, int code, const char *text)
{
    if (server->failure.code)
        return;
    fail(&server->failure, code, "%s", text);
    log_error("the orchestrator stops: %s", text);
    atomic_store(&server->hooks_stop, true);
    if (server->state == SERVER_RUNS)
        server->state = SERVER_STOPS; /* server_check_stopped goes on at once */
}

int server_check_home(struct server *server, struct error *err)
{
    int rc = home_check(server->home, server->lock_fd, err);

    if (rc)
        server_fail(server, -EIO, err->text);
    return rc;
}

/* The first asks, the second insists. */
static void on_signal(uv_signal_t *handle, int number)
{
    struct server *server = handle->data;

    log_info("going down on signal %d", number);
    if (server->state == SERVER_STOPS)
        server->stop_ms = 0;
    server_stop(server);
    server_check_stopped(server);
}

/* --- the start -------------------------------------------------------------------------------------------------- */

static void wake_up(void *arg)
{
    struct server *server = arg;

    uv_async_send(&server->wake);
}

static int init_handles(struct server *server, struct error *err)
{
    static const int NUMBERS[] = {SIGTERM, SIGINT};
    int rc = uv_loop_init(&server->loop);

    if (rc)
        return fail(err, rc, "the event loop cannot be made: %s", uv_strerror(rc));
    uv_async_init(&server->loop, &server->wake, server_on_wake);
    uv_timer_init(&server->loop, &server->tick);
    uv_timer_init(&server->loop, &server->publish);
    server->wake.data = server->tick.data = server->publish.data = server;
    for (int i = 0; i < 2; i++) {
        uv_signal_init(&server->loop, &server->signals[i]);
        server->signals[i].data = server;
        uv_signal_start(&server->signals[i], on_signal, NUMBERS[i]);
    }
    return 0;
}

/* A database that was made anew, or put back from a backup, may know less than the folders: an experiment must not be given
 * the number of one whose files are there. */
static int64_t highest_folder(const char *home, int64_t known)
{
    char *path = format_text("%s/experiments", home);
    DIR *folder = path ? opendir(path) : NULL;
    struct dirent *entry;
    int64_t highest = known;

    while (folder && (entry = readdir(folder)) != NULL) {
        char *end;
        long long number = strtoll(entry->d_name, &end, 10);
        if (!*end && number > highest && number < INT32_MAX)
            highest = number;
    }
    if (folder)
        closedir(folder);
    free(path);
    if (highest > known)
        log_warning("%s/experiments has files of experiment %lld, which the database does not know: the next one gets a higher"
                    " number", home, (long long)highest);
    return highest;
}

static int open_store(struct server *server, struct error *err)
{
    char *path = format_text("%s/flexp.db", server->home);
    struct store_high high;
    int rc;

    if (!path)
        return fail(err, -ENOMEM, "out of memory");
    rc = store_open(path, false, wake_up, server, &server->store, &high, err);
    free(path);
    if (rc)
        return rc;
    if (store_note(server->store))
        log_warning("%s", store_note(server->store));
    server->last_experiment = highest_folder(server->home, high.experiment);
    server->last_run = high.run;
    server->last_checkpoint = high.checkpoint;
    return 0;
}

static void kill_leftovers(struct server *server)
{
    size_t n = home_was_left(server->lock_fd) ? launcher_kill_leftovers(server->launcher) : 0;

    server->closed_well = true; /* and whoever ends in order leaves none */
    if (n)
        log_warning("%zu process%s that the last orchestrator's workers had left behind %s killed", n, n == 1 ? "" : "es",
                    n == 1 ? "was" : "were");
}

static void log_gpus(const struct server *server)
{
    const struct gpu_check *checks;
    size_t n = launcher_checks(server->launcher, &checks);

    for (size_t i = 0; i < n; i++)
        if (checks[i].verdict != SELF_CHECK_PASSED)
            log_warning("cuda:%d: %s", checks[i].index, checks[i].text);
}

/* Everything up to answering requests. */
static int open_all(struct server *server, const char *slots, struct error *err)
{
    char socket[PATH_MAX];
    int rc = home_new_socket(server->home, socket, sizeof socket, err);

    if (rc)
        return rc;
    server->socket = strdup(socket);
    if (!server->socket)
        return fail(err, -ENOMEM, "out of memory");
    rc = launcher_new(&server->loop, server->home, slots, &HAND_EVENTS, server, &server->launcher, err);
    if (!rc) {
        log_gpus(server);
        kill_leftovers(server);
    }
    if (!rc)
        rc = open_store(server, err);
    if (!rc)
        rc = entries_restore(server, err);
    if (!rc)
        rc = erase_restore(server, err);
    if (!rc)
        rc = connections_listen(server, err);
    if (!rc)
        rc = home_write_lock(server->lock_fd, server->socket, err);
    if (!rc)
        rc = hooks_restore(server, err); /* last: a start that fails runs no commands */
    return rc;
}

static void say_ready(struct server *server, const char *text)
{
    if (server->ready_fd < 0)
        return;
    if (fd_write_all(server->ready_fd, text, strlen(text)) || fd_write_all(server->ready_fd, "\n", 1))
        log_warning("whoever started this orchestrator is gone");
    close(server->ready_fd);
    server->ready_fd = -1;
}

static struct server *server_new(int ready_fd)
{
    struct server *server = calloc(1, sizeof *server);

    if (!server)
        return NULL;
    server->ready_fd = ready_fd;
    server->lock_fd = -1;
    server->answers_end = &server->answers;
    server->started_us = clock_us();
    server->problems = json_array();
    limits_read(&server->limits);
    return server;
}

static void server_free(struct server *server)
{
    while (server->attempts)
        attempt_free(server, server->attempts);
    entries_free(server);
    erasings_free(server);
    json_decref(server->problems);
    if (server->socket && server->lock_fd >= 0)
        unlink(server->socket);
    if (server->lock_fd >= 0 && server->closed_well && ftruncate(server->lock_fd, 0))
        log_warning("%s/lock cannot be emptied: %s", server->home, strerror(errno));
    if (server->lock_fd >= 0)
        close(server->lock_fd);
    free(server->socket);
    free(server->home);
    free(server);
}

/* With the lock held. */
static int run_loop(struct server *server, const char *slots, struct error *err)
{
    int rc = init_handles(server, err);

    if (rc)
        return rc;
    rc = open_all(server, slots, err);
    if (rc) {
        server->state = SERVER_STOPS;
        close_launcher(server);
    } else {
        log_info("orchestrator of %s answers at %s, %zu slots", server->home, server->socket,
                 launcher_capacity(server->launcher, SLOT_KIND_CPU) + launcher_capacity(server->launcher, SLOT_KIND_CUDA));
        say_ready(server, "ready");
        store_be_patient(server->store, true);
        clock_start(server);
        schedule(server);
    }
    uv_run(&server->loop, UV_RUN_DEFAULT);
    if (uv_loop_close(&server->loop))
        assert(!"handles are open at the end");
    if (!rc && server->failure.code)
        rc = fail(err, server->failure.code, "the orchestrator stopped: %s", server->failure.text);
    if (!rc)
        log_info("orchestrator of %s is down", server->home);
    return rc;
}

int server_run(const char *home, const char *slots, int ready_fd, struct error *err)
{
    struct server *server = server_new(ready_fd);
    struct error local = {0};
    int rc;

    if (!server)
        return fail(err, -ENOMEM, "out of memory");
    signal(SIGPIPE, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* a file that may not grow is an error of that write */
    rc = server_raise_descriptors(&local);
    if (!rc)
        rc = file_make_folder(home, &local);
    if (!rc && !(server->home = realpath(home, NULL)))
        rc = fail(&local, -errno, "%s: %s", home, strerror(errno));
    if (!rc)
        rc = home_lock(server->home, &server->lock_fd, &local);
    if (!rc)
        rc = run_loop(server, slots, &local);
    if (rc)
        say_ready(server, local.text);
    if (rc && err)
        *err = local;
    server_free(server);
    return rc;
}
