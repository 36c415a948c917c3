/* requests.h - the one table of requests: name, arguments, JSON answer, what it needs. It serves the CLI over the Unix
 * socket, read verbs in-process where no orchestrator runs, tests, and later HTTP.
 *
 * On the socket, newline-delimited JSON:
 *     {"id": 1, "request": "describe", "arguments": {"experiment": 1}}
 *     {"id": 1, "ok": true, "answer": {...}}
 *     {"id": 1, "ok": false, "error": {"code": "not_found", "text": "..."}}
 * error codes: usage, not_found, bad_input, conflict, stopping, internal, version. The first line from the server is
 *     {"flexp": "0.1.0", "pid": 123, "home": "/...", "lock": "which HOME/lock it holds"}
 * and the last is {"closing": true}: a request that has no answer by then was not carried out.
 * `subscribe {experiment}` answers once and then streams {"id": 1, "event": {...}}: the experiment's summary whenever
 * it changed (at most 5 a second; always the last one), until the client closes.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_ORCHESTRATOR_REQUESTS_H
#define FLEXP_ORCHESTRATOR_REQUESTS_H

#include "common/error.h"
#include "common/json.h"
#include "orchestrator/store/store.h"

struct server; /* server.h; NULL in-process */

enum request_need {
    REQUEST_READ,  /* works on the store alone */
    REQUEST_SERVER /* changes something or asks the running orchestrator */
};

struct request {
    const char *name;
    enum request_need need;
    const char *arguments; /* "experiment:int trial:int? name:string?" : checked before the handler is called */
    int (*handle)(struct server *server, struct store *store, const json_t *arguments, json_t **ret, struct error *err);
    const char *doc;
};

/* Names and arguments.
 * Read: list {all?}, describe {experiment}, trials {experiment}, trial {experiment, trial},
 *       metrics {experiment, trial, name?, client?}, logs {experiment, trial?, after?, limit?}
 * Server: create {text, resolved, paused?, folder?} answers {experiment}; folder: where an entrypoint runs;
 *       pause, activate, cancel, kill {experiment}, kill_trial {experiment, trial}, status {}, slots {}, down {},
 *       subscribe {experiment} */
extern const struct request REQUESTS[]; /* ends with name NULL */

/* Finds, checks arguments, calls. err->code: -ENOENT not_found, -EINVAL bad_input, -EBUSY conflict, -ESHUTDOWN stopping,
 * else internal. */
int request_run(struct server *server, struct store *store, const char *name, const json_t *arguments, json_t **ret,
                struct error *err);
const char *request_error_code(int code);

#endif
