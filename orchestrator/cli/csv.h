/* csv.h - comma-separated values as RFC 4180 has them, but lines end with a newline alone. Numbers have all digits; null is
 * an empty field; values that are not finite are NaN, Infinity, -Infinity.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_ORCHESTRATOR_CLI_CSV_H
#define FLEXP_ORCHESTRATOR_CLI_CSV_H

#include "common/json.h"

#include <stdbool.h>
#include <stdio.h>

/* first: of its line. */
void csv_text(FILE *out, const char *text, bool first);
void csv_number(FILE *out, double number, bool first);
void csv_value(FILE *out, const json_t *value, bool first);
void csv_end(FILE *out);

#endif
