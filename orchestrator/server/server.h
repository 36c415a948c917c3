/* server.h - the orchestrator: one libuv loop that ties store, experiments, scheduler, launcher and clients together.
 * One thread (the store has its own). Holds flock on HOME/lock for its life; listens on a Unix socket (mode 0600) in
 * XDG_RUNTIME_DIR (else /tmp/flexp-UID, 0700), named by the hash of the home's real path and its lock. It goes down
 * when the home is moved or removed. Uncommitted consequences never leave: see struct turn.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_ORCHESTRATOR_SERVER_H
#define FLEXP_ORCHESTRATOR_SERVER_H

#include "common/error.h"

#include <stdbool.h>
#include <stddef.h>

/* Runs until `down` or SIGTERM (both: runs are preempted with a checkpoint, at most 10 s, then killed; experiments stay
 * active and go on at the next `up`). ready_fd: "ready\n" or one line of error is written and it is closed when
 * requests are being answered; -1: none. slots as in launcher_new. -EBUSY when another one holds the home's lock. */
int server_run(const char *home, const char *slots, int ready_fd, struct error *err);

/* Raises this process's limit of open files as far as is of use. -EMFILE when that leaves too few to work with. */
int server_raise_descriptors(struct error *err);

/* The socket's path for a home. Who answers there may serve another one: a home may have been copied with its lock. */
int server_socket_path(const char *home, char *ret, size_t room, struct error *err);
/* Whether `mark`, the greeting's "lock", is that of this home. */
bool server_serves(const char *home, const char *mark);

#endif
