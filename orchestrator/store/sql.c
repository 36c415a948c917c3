/* sql.c - talking to SQLite: one translator of its errors, and the few calls that every other file needs.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/store/store_private.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

/* By primary code. Where SQLite knows the operating system's errno, that one is told too. */
static const struct {
    int result, code;
} CODES[] = {
    {SQLITE_NOMEM, -ENOMEM},   {SQLITE_FULL, -ENOSPC},     {SQLITE_IOERR, -EIO},      {SQLITE_CORRUPT, -EUCLEAN},
    {SQLITE_NOTADB, -EINVAL},  {SQLITE_BUSY, -EBUSY},      {SQLITE_LOCKED, -EBUSY},   {SQLITE_READONLY, -EROFS},
    {SQLITE_CANTOPEN, -EACCES}, {SQLITE_CONSTRAINT, -EINVAL}, {SQLITE_INTERRUPT, -EINTR}, {SQLITE_TOOBIG, -EFBIG},
    {SQLITE_PERM, -EACCES},    {SQLITE_AUTH, -EACCES},
};

int sql_fail(sqlite3 *db, int result, struct error *err, const char *format, ...)
{
    char what[600];
    /* At a failed commit SQLite forgets to note errno; whoever ran the statement had set it to 0. */
    int left = errno, code = -EIO, system = db ? sqlite3_system_errno(db) : 0, primary = result & 0xff;
    bool tell_system = (primary == SQLITE_FULL || primary == SQLITE_IOERR || primary == SQLITE_CANTOPEN);
    va_list args;

    if (!system && (primary == SQLITE_FULL || primary == SQLITE_IOERR))
        system = left;
    tell_system = tell_system && system;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    for (size_t i = 0; i < sizeof CODES / sizeof *CODES; i++)
        if (CODES[i].result == primary)
            code = CODES[i].code;
    if (primary == SQLITE_IOERR && (system == ENOSPC || system == EDQUOT)) /* found out at a sync, or by a quota */
        code = -ENOSPC;
    return fail(err, code, "%s: %s%s%s%s", what,
                db && (sqlite3_errcode(db) & 0xff) == primary ? sqlite3_errmsg(db) : sqlite3_errstr(result),
                tell_system ? " (" : "", tell_system ? strerror(system) : "", tell_system ? ")" : "");
}

int sql_prepare(sqlite3 *db, const char *sql, sqlite3_stmt **ret, struct error *err)
{
    int result = sqlite3_prepare_v3(db, sql, -1, SQLITE_PREPARE_PERSISTENT, ret, NULL);

    return result ? sql_fail(db, result, err, "preparing \"%.60s\"", sql) : 0;
}

int sql_exec(sqlite3 *db, const char *sql, struct error *err)
{
    int result;

    errno = 0;
    result = sqlite3_exec(db, sql, NULL, NULL, NULL);
    return result ? sql_fail(db, result, err, "\"%.60s\"", sql) : 0;
}

int sql_text(sqlite3 *db, const char *sql, char **ret, struct error *err)
{
    sqlite3_stmt *statement;
    int rc = sql_prepare(db, sql, &statement, err), result;

    if (rc)
        return rc;
    result = sqlite3_step(statement);
    if (result == SQLITE_ROW) {
        const char *text = (const char *)sqlite3_column_text(statement, 0);
        char *copy = strdup(text ? text : "");
        if (copy)
            *ret = copy;
        else
            rc = fail(err, -ENOMEM, "out of memory");
    } else if (result == SQLITE_DONE) {
        rc = fail(err, -ENODATA, "\"%.60s\" gives no row", sql);
    } else {
        rc = sql_fail(db, result, err, "\"%.60s\"", sql);
    }
    sqlite3_finalize(statement);
    return rc;
}

int sql_int(sqlite3 *db, const char *sql, int64_t *ret, struct error *err)
{
    char *text;
    int rc = sql_text(db, sql, &text, err);

    if (rc)
        return rc;
    *ret = strtoll(text, NULL, 10);
    free(text);
    return 0;
}

int sql_pragma(sqlite3 *db, const char *pragma, const char *expected, struct error *err)
{
    char name[64], *got;
    int rc;

    /* Some pragmas answer when they are set and some do not: run it, then ask. */
    rc = sql_exec(db, pragma, err);
    if (rc)
        return rc;
    snprintf(name, sizeof name, "%.*s", (int)strcspn(pragma, "="), pragma);
    rc = sql_text(db, name, &got, err);
    if (rc)
        return rc;
    if (strcmp(got, expected))
        rc = fail(err, -EINVAL, "SQLite answers \"%s\" to \"%s\", not \"%s\"", got, name, expected);
    free(got);
    return rc;
}

enum value_status value_status(double value)
{
    if (isnan(value))
        return VALUE_NAN;
    if (isinf(value))
        return value > 0 ? VALUE_INFINITY : VALUE_MINUS_INFINITY;
    return VALUE_FINITE;
}

double value_from_column(sqlite3_stmt *statement, int value_column, int status_column)
{
    switch (sqlite3_column_int(statement, status_column)) {
    case VALUE_NAN:
        return NAN;
    case VALUE_INFINITY:
        return INFINITY;
    case VALUE_MINUS_INFINITY:
        return -INFINITY;
    default:
        return sqlite3_column_double(statement, value_column);
    }
}
