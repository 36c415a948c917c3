/* protocol.h - the trial protocol: what orchestrator and worker say to each other.
 * Newline-delimited JSON over one stream socket, each line an object with `op`. The full description, field by field and
 * with an example of each message, is docs/protocol.md; the table in protocol.c is what both sides check against.
 *
 * Unknown fields are ignored, an unknown operation is an error. `run` names the run on every message about one.
 * Worker to orchestrator messages that must not be lost (report, checkpoint, done, failed) carry `seq`, from 1, rising by
 * one per run; `ack {run, seq}` means that seq and all before it are on disk. Numbers that are not finite travel as "NaN",
 * "Infinity", "-Infinity".
 * Threads: any; a message belongs to one thread.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_COMMON_PROTOCOL_H
#define FLEXP_COMMON_PROTOCOL_H

#include "common/error.h"
#include "common/json.h"

enum message_op {
    /* worker to orchestrator */
    MSG_HELLO,       /* version, pid, rank, size, program; capabilities: ["reuse", "plan", "evaluate"]; isa */
    MSG_PLAN_ANSWER, /* id, ok; mem_bytes, pack_key, trials_per_slot; or errors: [{path, text}]  (op "plan") */
    MSG_REPORT,      /* run, seq, kind: training | validation | test; units, metrics, clients; or steps: [{...}] */
    MSG_PROGRESS,    /* run, units; not acknowledged */
    MSG_CHECKPOINT,  /* run, seq, units, path (relative to the trial's folder), bytes */
    MSG_LOG,         /* run, level, text; not acknowledged */
    MSG_DONE,        /* run, seq, reason: length | converged | stopped | preempted | evaluated; units */
    MSG_FAILED,      /* run, seq, reason: out_of_memory | memory_in_use | non_finite | bad_configuration |
                      * bad_checkpoint | error; text */
    MSG_HEARTBEAT,   /* rank */
    /* orchestrator to worker */
    MSG_PLAN,          /* id, sections, hyperparameters, slots (a number) */
    MSG_ASSIGN,        /* see protocol.md: everything that a run needs */
    MSG_TRAIN_UNTIL,   /* run, unit */
    MSG_CHECKPOINT_NOW,/* run */
    MSG_EVALUATE,      /* run, split: test, checkpoint (absolute path), plus all fields of assign */
    MSG_PREEMPT,       /* run: checkpoint at the round's end and answer done {preempted} */
    MSG_STOP,          /* run: answer done {stopped} at the round's end, no checkpoint needed */
    MSG_RELEASE,       /* run: you no longer hold it; forget it at once and say nothing more */
    MSG_ACK,           /* run, seq */
    MSG_OP_COUNT
};

struct message {
    enum message_op op;
    int64_t run; /* 0 where the operation has none */
    int64_t seq; /* 0 likewise */
    json_t *body; /* the whole object; owned */
};

/* Parses and checks one line from a worker (from_worker) or from the orchestrator. On success the caller calls
 * message_done. -EINVAL: err says which field, what was found, what would be right. */
int message_parse(const char *line, size_t length, bool from_worker, struct message *ret, struct error *err);
void message_done(struct message *message);

/* A hello's list of capabilities has this one. */
bool hello_can(const json_t *hello, const char *capability);

/* Of a failed: which reason of the protocol this one is misspelt from; false where it is one, or like none. */
bool message_reason_misspelt(const char *reason, char *ret, size_t room);

/* The operation's name in the text. */
const char *message_op_name(enum message_op op);

/* Lengths. A unit is one of time_metric's values; `units` objects hold any of them. */
enum unit_kind { UNIT_ROUNDS, UNIT_EPOCHS, UNIT_BATCHES, UNIT_SAMPLES, UNIT_SECONDS, UNIT_KINDS };
extern const char *const UNIT_NAMES[UNIT_KINDS];
/* -EINVAL when the name is none of them. */
int unit_kind_parse(const char *name, enum unit_kind *ret);

#endif
