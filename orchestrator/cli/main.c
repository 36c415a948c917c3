/* main.c - flexp, the program that people type. See verbs.c.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/cli/cli.h"

int main(int argc, char **argv)
{
    return cli_main(argc, argv);
}
