/* config_docs.h - docs/config.md and `flexp explain`, written from the tables of keys, so that they cannot fall behind them.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_ORCHESTRATOR_CONFIG_DOCS_H
#define FLEXP_ORCHESTRATOR_CONFIG_DOCS_H

#include "orchestrator/config/config.h"

#include <stdio.h>

void config_write_docs(FILE *out);
/* In Markdown: "integer, 1 to 64", "`16`" (nothing where there is no default). */
void config_write_type(FILE *out, const struct key *key);
void config_write_default(FILE *out, const struct key *key);

#endif
