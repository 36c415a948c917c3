/* migrate.c - from an older schema to this program's, in one transaction: all steps or none.
 * The schema's number is SQLite's user_version. A newer schema is never touched (open.c refuses it before).
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/store/store_private.h"

#include <stdio.h>

int migrations_latest(const struct migration *migrations)
{
    int latest = 0;

    for (; migrations->version; migrations++)
        latest = migrations->version;
    return latest;
}

static int make_views(sqlite3 *db, const struct view *views, struct error *err)
{
    char drop[128];
    int rc = 0;

    for (const struct view *view = views; view->name && !rc; view++) {
        snprintf(drop, sizeof drop, "DROP VIEW IF EXISTS %s", view->name);
        rc = sql_exec(db, drop, err);
    }
    for (const struct view *view = views; view->name && !rc; view++)
        rc = sql_exec(db, view->sql, err);
    return rc;
}

static int run_steps(sqlite3 *db, const struct migration *migrations, int64_t from, struct error *err)
{
    int rc = 0;

    for (; migrations->version && !rc; migrations++)
        for (const char *const *sql = migrations->sql; migrations->version > from && *sql && !rc; sql++) {
            rc = sql_exec(db, *sql, err);
            if (rc)
                fail_prefix(err, "migration to schema %d", migrations->version);
        }
    return rc;
}

int migrate(sqlite3 *db, const struct migration *migrations, const struct view *views, struct error *err)
{
    char version[64];
    int latest = migrations_latest(migrations), rc;
    int64_t from;

    rc = sql_int(db, "PRAGMA user_version", &from, err);
    if (rc || from == latest)
        return rc;
    if (from > latest)
        return fail(err, -EINVAL, "schema %lld is newer than this program's %d", (long long)from, latest);
    rc = sql_exec(db, "BEGIN IMMEDIATE", err);
    if (rc)
        return rc;
    snprintf(version, sizeof version, "PRAGMA user_version=%d", latest);
    rc = run_steps(db, migrations, from, err);
    if (!rc)
        rc = make_views(db, views, err);
    if (!rc)
        rc = sql_exec(db, version, err);
    if (!rc)
        rc = sql_exec(db, "COMMIT", err);
    if (rc && !sqlite3_get_autocommit(db))
        sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL);
    return rc;
}
