/* home.h - which home a command means: --home, else FLEXP_HOME, else the nearest ancestor of the working directory that
 * holds results/flexp.db (the home is that results folder), else ./results. Absolute, links resolved where it exists.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_ORCHESTRATOR_HOME_H
#define FLEXP_ORCHESTRATOR_HOME_H

#include "common/error.h"

#include <stdbool.h>
#include <stddef.h>

/* The caller frees *ret. */
int home_find(const char *option, char **ret, struct error *err);

/* The home exists and belongs to another user (whose name is in ret): we can read in it what they let us, and no more. */
bool home_is_anothers(const char *home, char *ret, size_t room);

#endif
