/* client.h - one connection to the orchestrator of a home, over its Unix socket: requests, and a subscription's events.
 * What travels is described in server/requests.h. Every wait has a deadline, so that a stuck orchestrator is named and
 * not waited for. Errors: -ECONNREFUSED none runs; -ECONNRESET it has gone; -ETIMEDOUT it does not answer; -EPROTO it
 * is of another version; -ENOENT, -EINVAL, -EBUSY, -EIO are the server's not_found, bad_input and usage, conflict,
 * internal. Threads: one.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_ORCHESTRATOR_CLI_CLIENT_H
#define FLEXP_ORCHESTRATOR_CLI_CLIENT_H

#include "common/error.h"
#include "common/json.h"

struct client;

/* any_version: an orchestrator of another version is accepted (for down and status). */
int client_open(const char *home, bool any_version, struct client **ret, struct error *err);
void client_close(struct client *client);
int64_t client_pid(const struct client *client); /* the orchestrator's */
int client_fd(const struct client *client);      /* to poll */

/* arguments is borrowed, NULL for none. *ret is a new reference. Events that come meanwhile are kept. -ESHUTDOWN: it was
 * not carried out, for the orchestrator is going down; -ECONNRESET: nobody knows whether it was. */
int client_request(struct client *client, const char *name, const json_t *arguments, json_t **ret, struct error *err);

/* The next event of a subscription: 1 and *ret, 0 when none came within timeout_ms, or an error. */
int client_event(struct client *client, int timeout_ms, json_t **ret, struct error *err);

/* Waits until the orchestrator has closed the connection: 0, or -ETIMEDOUT. */
int client_wait_gone(struct client *client, int timeout_ms);

#endif
