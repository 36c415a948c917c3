/* connection.h - the worker's end of the trial protocol (docs/protocol.md).
 * A reader thread takes lines from the socket and queues them, so that a round hears `release` while it computes, and says
 * that the worker lives when nothing else was said for 10 s. At the end of the stream, and after a line it cannot read, the
 * process exits: nobody is left to train for.
 * FLEXP_PROTOCOL_LOG=FOLDER: every line is also appended to FOLDER/PID.log after the monotonic clock's seconds and a mark: >
 * is said, < is heard, = is done (connection_note).
 * Threads: connection_next has one caller, an inbox has one; connection_send and the note are anybody's.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_TRAINER_CONNECTION_H
#define FLEXP_TRAINER_CONNECTION_H

#include "common/protocol.h"

struct connection;

/* Takes ownership of fd. Says hello. isa: NULL where it is not known. */
int connection_open(int fd, const char *isa, struct connection **ret, struct error *err);

/* Sends one message; takes ownership of it. Exits the process when the orchestrator is gone. */
void connection_send(struct connection *connection, json_t *message);

/* A line for the protocol log alone. */
void connection_note(struct connection *connection, int64_t run, const char *what);

/* Waits for the next message that begins something: assign, evaluate, plan. The caller calls message_done. */
void connection_next(struct connection *connection, struct message *ret);

/* What else is said to a run, from the moment on that its assign or evaluate arrived. */
struct inbox;

/* Of a run whose assign or evaluate connection_next gave. */
struct inbox *connection_inbox(struct connection *connection, int64_t run);
/* The next message, waiting for it where wait is set; false where there is none yet. The caller calls message_done. */
bool inbox_next(struct inbox *inbox, bool wait, struct message *ret);
/* A flag that becomes non-zero at once when `release` arrives. */
const volatile int *inbox_released(const struct inbox *inbox);
/* What is still said to this run is dropped. */
void inbox_close(struct inbox *inbox);

#endif
