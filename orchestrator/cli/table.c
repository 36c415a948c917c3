/* table.c - see table.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/cli/table.h"

#include "common/file.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define COLUMNS_MAX 24
#define SHRINK_TO 8 /* columns that may shrink keep this much */
#define GAP 2

struct cell {
    char *text;
    enum style style;
};

struct table {
    const char *titles[COLUMNS_MAX];
    unsigned flags[COLUMNS_MAX];
    size_t columns;
    struct cell *cells; /* row after row */
    size_t n, room;
};

struct table *table_new(void)
{
    return calloc(1, sizeof(struct table));
}

void table_free(struct table *table)
{
    if (!table)
        return;
    for (size_t i = 0; i < table->n; i++)
        free(table->cells[i].text);
    free(table->cells);
    free(table);
}

void table_column(struct table *table, const char *title, unsigned flags)
{
    if (!table || table->columns == COLUMNS_MAX)
        return;
    table->titles[table->columns] = title;
    table->flags[table->columns++] = flags;
}

void table_cell(struct table *table, enum style style, const char *format, ...)
{
    va_list args;
    char *raw = NULL;
    int length;

    if (!table)
        return;
    if (table->n == table->room) {
        size_t room = table->room ? table->room * 2 : 64;
        struct cell *grown = realloc(table->cells, room * sizeof *grown);
        if (!grown)
            return;
        table->cells = grown;
        table->room = room;
    }
    va_start(args, format);
    length = vasprintf(&raw, format, args);
    va_end(args);
    table->cells[table->n].text = length < 0 ? NULL : text_clean(raw);
    table->cells[table->n++].style = style;
    if (length >= 0)
        free(raw);
}

size_t table_rows(const struct table *table)
{
    return table && table->columns ? table->n / table->columns : 0;
}

static const char *cell_text(const struct table *table, size_t row, size_t column)
{
    const char *text = table->cells[row * table->columns + column].text;

    return text ? text : "";
}

static int total(const struct table *table, const int *widths, const bool *shown)
{
    int sum = 0;

    for (size_t i = 0; i < table->columns; i++)
        if (shown[i])
            sum += widths[i] + (sum ? GAP : 0);
    return sum;
}

static void fit(const struct table *table, int limit, int *widths, bool *shown)
{
    for (size_t i = table->columns; limit > 0 && i-- > 0;)
        if (table->flags[i] & TABLE_OPTIONAL && total(table, widths, shown) > limit)
            shown[i] = false;
    while (limit > 0 && total(table, widths, shown) > limit) {
        size_t widest = table->columns;
        for (size_t i = 0; i < table->columns; i++)
            if (shown[i] && table->flags[i] & TABLE_SHRINK && widths[i] > SHRINK_TO &&
                (widest == table->columns || widths[i] > widths[widest]))
                widest = i;
        if (widest == table->columns)
            return;
        widths[widest]--;
    }
}

static void pad(FILE *out, int n)
{
    for (; n > 0; n--)
        fputc(' ', out);
}

/* row: -1 is the head. The line is composed whole and then cut at the edge of the terminal. */
static void write_row(const struct table *table, FILE *out, const struct term *term, int indent, const int *widths,
                      const bool *shown, long row)
{
    char *line = NULL;
    size_t length = 0, last = 0;
    FILE *memory = open_memstream(&line, &length);

    if (!memory)
        return;
    for (size_t i = 0; i < table->columns; i++)
        if (shown[i])
            last = i;
    pad(memory, indent);
    for (size_t i = 0; i <= last && i < table->columns; i++) {
        const char *text = row < 0 ? table->titles[i] : cell_text(table, (size_t)row, i);
        enum style style = row < 0 ? STYLE_BOLD : table->cells[(size_t)row * table->columns + i].style;
        int free_columns;
        if (!shown[i])
            continue;
        free_columns = widths[i] - text_width(text);
        if (table->flags[i] & TABLE_RIGHT)
            pad(memory, free_columns);
        fputs(term_on(term, style), memory);
        text_write(memory, term, text, widths[i]);
        fputs(term_off(term, style), memory);
        if (i != last)
            pad(memory, GAP + (table->flags[i] & TABLE_RIGHT ? 0 : free_columns));
    }
    fclose(memory);
    if (line) {
        while (length && line[length - 1] == ' ')
            line[--length] = 0;
        text_write(out, term, line, term->width);
        fputc('\n', out);
    }
    free(line);
}

void table_write(const struct table *table, FILE *out, const struct term *term, int indent)
{
    int widths[COLUMNS_MAX] = {0};
    bool shown[COLUMNS_MAX];

    if (!table || !table->columns)
        return;
    for (size_t i = 0; i < table->columns; i++) {
        widths[i] = text_width(table->titles[i]);
        shown[i] = true;
        for (size_t row = 0; row < table_rows(table); row++) {
            int width = text_width(cell_text(table, row, i));
            widths[i] = width > widths[i] ? width : widths[i];
        }
    }
    fit(table, term->width ? (term->width > indent + 1 ? term->width - indent : 1) : 0, widths, shown);
    for (long row = -1; row < (long)table_rows(table); row++)
        write_row(table, out, term, indent, widths, shown, row);
}
