/* csv.c - see csv.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/cli/csv.h"

#include <stdlib.h>
#include <string.h>

void csv_text(FILE *out, const char *text, bool first)
{
    if (!first)
        fputc(',', out);
    if (!text[strcspn(text, ",\"\r\n")]) {
        fputs(text, out);
        return;
    }
    fputc('"', out);
    for (; *text; text++)
        fprintf(out, *text == '"' ? "\"\"" : "%c", *text);
    fputc('"', out);
}

void csv_number(FILE *out, double number, bool first)
{
    fprintf(out, "%s%.17g", first ? "" : ",", number);
}

void csv_value(FILE *out, const json_t *value, bool first)
{
    char *text;

    if (!value || json_is_null(value)) {
        csv_text(out, "", first);
    } else if (json_is_string(value)) {
        csv_text(out, json_string_value(value), first);
    } else {
        text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(17));
        csv_text(out, text ? text : "", first);
        free(text);
    }
}

void csv_end(FILE *out)
{
    fputc('\n', out);
}
