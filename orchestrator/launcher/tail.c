/* tail.c - the last lines that a program wrote.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/launcher/launcher_private.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void tail_add(struct tail *tail, const char *line)
{
    snprintf(tail->lines[tail->n++ % LAST_LINES], LAST_LINE_LENGTH + 1, "%s", line);
}

char *tail_text(const struct tail *tail, const char *head)
{
    size_t kept = tail->n < LAST_LINES ? tail->n : LAST_LINES;
    size_t used = strlen(head);
    char *text = malloc(used + kept * (LAST_LINE_LENGTH + 4) + 1);

    if (!text)
        return NULL;
    memcpy(text, head, used + 1);
    for (size_t i = tail->n - kept; i < tail->n; i++)
        used += (size_t)sprintf(text + used, "\n  %s", tail->lines[i % LAST_LINES]);
    return text;
}

bool tail_tells_memory(const struct tail *tail)
{
    static const char *const WORDS[] = {"std::bad_alloc", "MemoryError"}; /* of C++; of Python and of what it calls */

    for (size_t i = tail->n > 3 ? tail->n - 3 : 0; i < tail->n; i++)
        for (size_t w = 0; w < sizeof WORDS / sizeof *WORDS; w++)
            if (strstr(tail->lines[i % LAST_LINES], WORDS[w]))
                return true;
    return false;
}
