/* config_docs.h - docs/config.md, written from the tables of keys, so that it cannot fall behind them.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_ORCHESTRATOR_CONFIG_DOCS_H
#define FLEXP_ORCHESTRATOR_CONFIG_DOCS_H

#include <stdio.h>

void config_write_docs(FILE *out);

#endif
