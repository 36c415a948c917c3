/* scarcity.c - what the machine lacks for a while: space on the disk, descriptors, memory. It is said once, nothing is
 * taken on that could not be kept, no trial is blamed for it, and when there is enough again everything goes on by itself.
 * While the store waits for space, workers are not heard: they wait for what they have said to be acknowledged.
 * SPDX-License-Identifier: Apache-2.0 */
#include "common/log.h"
#include "orchestrator/server/server_private.h"

#include <string.h>
#include <sys/statvfs.h>

#define SHORT_BYTES (1u << 20)
#define HEARD_LATE_MS 10000 /* ends of workers that died while nothing was read from them */

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
