/* supervise.h - the hidden verb `flexp supervise CORES FOLDER CWD PROGRAM [ARGUMENT...]`: one worker and all that it
 * starts. Becomes the subreaper of the worker, pins to CORES ("0,2", or "-": nowhere), runs PROGRAM in CWD ("-": where
 * it is), keeps its output in FOLDER/output.log ("-": nowhere), and leaves no process behind when the worker ends or
 * the orchestrator is gone. Descriptors, given by the launcher:
 *   1 what the worker prints is forwarded here       3 the trial protocol, handed on to the worker
 *   4 status: {"pid": n} at the start, at the end {"exit": code} or {"signal": n, "oom": bool} or {"exec": "text"}
 *   5 commands: "folder PATH" moves output.log; its end means kill all      6.. leases, held until the end
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_ORCHESTRATOR_SUPERVISE_H
#define FLEXP_ORCHESTRATOR_SUPERVISE_H

#define SUPERVISE_OUTPUT 1
#define SUPERVISE_PROTOCOL 3
#define SUPERVISE_STATUS 4
#define SUPERVISE_COMMANDS 5
#define SUPERVISE_LEASES 6

/* argv[1] is "supervise". Returns the program's exit code. */
int supervise_main(int argc, char **argv);

#endif
