/* table.h - aligned tables for people. Cells are copied and cleaned (see text_clean). On a terminal a table that is too
 * wide first loses its optional columns from the right, then narrows the columns that may shrink, then is cut at the
 * edge; in a file or pipe nothing is lost.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_ORCHESTRATOR_CLI_TABLE_H
#define FLEXP_ORCHESTRATOR_CLI_TABLE_H

#include "orchestrator/cli/term.h"

enum table_flags { TABLE_LEFT = 0, TABLE_RIGHT = 1, TABLE_SHRINK = 2, TABLE_OPTIONAL = 4 };

struct table;

struct table *table_new(void); /* NULL when out of memory; the functions below then do nothing */
void table_free(struct table *table);
/* All columns before the first cell. */
void table_column(struct table *table, const char *title, unsigned flags);
/* Cells of a row from left to right; a row is full when every column has one. */
void table_cell(struct table *table, enum style style, const char *format, ...) __attribute__((format(printf, 3, 4)));
size_t table_rows(const struct table *table);
/* indent: columns left of it. */
void table_write(const struct table *table, FILE *out, const struct term *term, int indent);

#endif
