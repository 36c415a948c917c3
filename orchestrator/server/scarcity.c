/* scarcity.c - what the machine lacks for a while: space on the disk, descriptors, memory. It is said once, nothing is
 * taken on that could not be kept, no trial is blamed for it, and when there is enough again everything goes on by itself.
 * While the store waits for space, workers are not heard: they wait for what they have said to be acknowledged.
 * SPDX-License-Identifier: Apache-2.0 */
#include "common/keys.h"
#include "common/log.h"
#include "orchestrator/server/server_private.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define SHORT_BYTES (1u << 20)
#define DESCRIPTORS_WANTED 8192
#define DESCRIPTORS_NEEDED 64
#define DESCRIPTORS_PER_SLOT 8 /* a worker's pipes, its lease, and what starting one takes for a moment */
#define CLIENTS_MIN 8
#define HEARD_LATE_MS 10000 /* ends of workers that died while nothing was read from them */

int server_raise_descriptors(struct error *err)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit))
        return 0;
    if (limit.rlim_cur < DESCRIPTORS_WANTED) {
        limit.rlim_cur = limit.rlim_max < DESCRIPTORS_WANTED ? limit.rlim_max : DESCRIPTORS_WANTED;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
    if (limit.rlim_cur < DESCRIPTORS_NEEDED)
        return fail(err, -EMFILE, "this process may open only %llu files at once (ulimit -n); the orchestrator needs %d",
                    (unsigned long long)limit.rlim_cur, DESCRIPTORS_NEEDED);
    return 0;
}

size_t clients_max(const struct server *server)
{
    struct rlimit limit;
    size_t reserved = DESCRIPTORS_NEEDED / 2;

    if (server->launcher)
        reserved += DESCRIPTORS_PER_SLOT * (launcher_capacity(server->launcher, SLOT_KIND_CPU) +
                                            launcher_capacity(server->launcher, SLOT_KIND_CUDA));
    if (getrlimit(RLIMIT_NOFILE, &limit) || limit.rlim_cur > reserved + SERVER_CLIENTS_MAX)
        return SERVER_CLIENTS_MAX;
    return limit.rlim_cur > reserved + CLIENTS_MIN ? (size_t)limit.rlim_cur - reserved : CLIENTS_MIN;
}

/* libuv turns a client away when there is no descriptor for it, and tells nobody. */
void descriptors_check(struct server *server)
{
    int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    bool none = fd < 0 && (errno == EMFILE || errno == ENFILE);

    if (fd >= 0)
        close(fd);
    if (none == server->no_descriptors)
        return;
    server->no_descriptors = none;
    if (none)
        log_error("no descriptors are left (ulimit -n): clients are turned away and no worker is started until there are");
    else
        log_info("there are descriptors again");
}

bool is_scarcity(int code)
{
    static const int CODES[] = {-ENOSPC, -EDQUOT, -EMFILE, -ENFILE, -ENOMEM, -EAGAIN};

    for (size_t i = 0; i < sizeof CODES / sizeof *CODES; i++)
        if (CODES[i] == code)
            return true;
    return false;
}

bool space_is_short(const struct server *server)
{
    struct statvfs disk;

    if (server->no_space || (server->space_ms && clock_ms() - server->space_ms < HEARD_LATE_MS))
        return true;
    if (statvfs(server->home, &disk))
        return false;
    return disk.f_bavail * disk.f_frsize < SHORT_BYTES || (disk.f_files && !disk.f_favail);
}

int space_refuse(const struct server *server, struct error *err)
{
    if (!server->no_space)
        return 0;
    return fail(err, -ENOSPC, "no space is left on the disk of %s: free some, and the orchestrator goes on by itself",
                server->home);
}

void attempt_note_waits(struct attempt *attempt, const json_t *log)
{
    const json_t *waits = json_object_get(log, "waits");
    char name[96], *text;

    if (!json_is_boolean(waits))
        return;
    text = keys_shown_text(json_string_or(log, "text", ""));
    attempt_name(attempt, name, sizeof name);
    if (json_is_true(waits))
        log_warning("%s: %s", name, text ? text : "");
    else
        log_info("%s: %s", name, text ? text : "");
    free(attempt->waits);
    attempt->waits = json_is_true(waits) ? text : NULL;
    if (!attempt->waits)
        free(text);
}

/* Of several trials the first is quoted. */
static json_t *squeezed_text(const struct entry *entry)
{
    const struct squeeze *first = entry ? squeeze_next(entry, NULL) : NULL, *other = first;
    char more[40] = "";
    size_t n = 0;

    while (other && (other = squeeze_next(entry, other)))
        n++;
    if (n)
        snprintf(more, sizeof more, " and %zu more", n);
    return first ? json_sprintf("in trial %lld%s: for memory that other programs hold: %s", (long long)first->trial, more,
                                first->text)
                 : NULL;
}

json_t *waiting_of(const struct server *server, int64_t experiment)
{
    json_t *squeezed;

    if (!server->no_space)
        for (const struct attempt *attempt = server->attempts; attempt; attempt = attempt->next)
            if (attempt->experiment == experiment && attempt->waits)
                return json_sprintf("in trial %lld: %s", (long long)attempt->trial, attempt->waits);
    if (*server->waiting)
        return json_string(server->waiting);
    squeezed = squeezed_text(entry_find(server, experiment));
    return squeezed ? squeezed : json_null();
}

static void add_problem(json_t *rows, int64_t experiment, int64_t trial, const char *text)
{
    json_array_append_new(rows, json_pack("{s:I, s:I, s:s}", "experiment", (json_int_t)experiment, "trial", (json_int_t)trial,
                                          "text", text));
}

json_t *problems_of(const struct server *server)
{
    json_t *rows = json_copy(server->problems);

    for (const struct entry *entry = server->entries; entry; entry = entry->next)
        for (const struct squeeze *one = squeeze_next(entry, NULL); one; one = squeeze_next(entry, one))
            add_problem(rows, entry->id, one->trial, one->text);
    for (const struct attempt *attempt = server->attempts; attempt; attempt = attempt->next)
        if (attempt->waits)
            add_problem(rows, attempt->experiment, attempt->trial, attempt->waits);
    if (server->no_space)
        json_array_append_new(rows, json_pack("{s:n, s:n, s:s}", "experiment", "trial", "text",
                                              server->no_space_why.text));
    return rows;
}

/* What was not heard meanwhile was not silence. */
static void forgive(struct server *server)
{
    uint64_t now = clock_ms();

    for (struct hand *hand = server->hands; hand; hand = hand->next)
        hand->started_ms = hand->heard_ms = now;
    for (struct attempt *attempt = server->attempts; attempt; attempt = attempt->next) {
        attempt->reported_ms = now;
        if (attempt->told_ms)
            attempt->told_ms = now;
    }
}

void space_check(struct server *server)
{
    struct error why = {0};
    bool waits = store_waits_for_space(server->store, &why);

    if (waits == server->no_space)
        return;
    server->no_space = waits;
    if (waits) {
        server->no_space_ms = clock_ms();
        server->no_space_why = why;
        log_error("no space is left on the disk of %s: nothing more is taken on until there is, nothing is lost (%s)",
                  server->home, why.text);
    } else {
        log_info("there is space on the disk of %s again after %.0f s", server->home,
                 (double)(clock_ms() - server->no_space_ms) / 1000);
        server->space_ms = clock_ms();
        forgive(server);
    }
    if (server->launcher)
        launcher_hold(server->launcher, waits);
    server->schedule_wanted = true;
}
