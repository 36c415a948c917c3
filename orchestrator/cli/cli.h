/* cli.h - the command line of flexp: takes it apart, runs the verb, returns the exit code.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_ORCHESTRATOR_CLI_H
#define FLEXP_ORCHESTRATOR_CLI_H

int cli_main(int argc, char **argv);

#endif
