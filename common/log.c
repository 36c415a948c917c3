/* log.c - one write(2) a line, so that lines of several processes do not mix.
 * SPDX-License-Identifier: Apache-2.0 */
#include "common/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const char *const LEVELS[] = {"debug", "info", "warning", "error"};
static _Atomic int lowest = -1;

static int level_from_environment(void)
{
    const char *wanted = getenv("FLEXP_LOG");

    for (int i = 0; wanted && i < 4; i++)
        if (!strcmp(wanted, LEVELS[i]))
            return i;
    return LOG_INFO;
}

void log_set_level(enum log_level level)
{
    lowest = (int)level;
}

void log_line(enum log_level level, const char *format, ...)
{
    char line[2048];
    struct timespec now;
    struct tm utc;
    size_t used;
    int n;
    va_list args;

    if (lowest < 0)
        lowest = level_from_environment();
    if ((int)level < lowest)
        return;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    used = strftime(line, sizeof line, "%Y-%m-%dT%H:%M:%S", &utc);
    used += (size_t)snprintf(line + used, sizeof line - used, ".%03ldZ %s ", now.tv_nsec / 1000000, LEVELS[level]);
    va_start(args, format);
    n = vsnprintf(line + used, sizeof line - used - 1, format, args);
    va_end(args);
    if (n > 0)
        used += (size_t)n < sizeof line - used - 1 ? (size_t)n : sizeof line - used - 2;
    line[used++] = '\n';
    if (write(STDERR_FILENO, line, used) < 0)
        return;
}
