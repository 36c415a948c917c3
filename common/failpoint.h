/* failpoint.h - places at which a test may have the process killed (SIGKILL to itself), compiled in always.
 * FLEXP_FAILPOINT="name[:count]": the count-th time (1 when absent) that failpoint("name") is reached; several, separated
 * by commas. FLEXP_FAILPOINT_ONCE=FILE: only the process that manages to create FILE dies, so that what is restarted with
 * the same environment lives. Without the variable a call costs one load.
 * Orchestrator: before_commit, after_commit_before_effects, after_assign, during_create, before_delete, after_delete,
 * in_journal, in_commit (a group's rows are written, not committed). Trainer: worker_mid_round, worker_before_checkpoint,
 * worker_after_checkpoint.
 * Threads: any.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_COMMON_FAILPOINT_H
#define FLEXP_COMMON_FAILPOINT_H

void failpoint(const char *name);

#endif
