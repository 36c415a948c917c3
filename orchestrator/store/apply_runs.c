/* apply_runs.c - the rows of runs and trials that every report touches. Reports come in hundreds a commit: the rows are
 * read at a run's first report and written once, before the commit and before any operation that could read them.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/store/store_private.h"

#include <stdlib.h>
#include <string.h>

static int write_run(struct applier *applier, struct reported_run *run, struct error *err)
{
    sqlite3_stmt *latest = applier->report[REPORT_LATEST], *unit = applier->report[REPORT_UNIT],
                 *seen = applier->report[REPORT_SEEN];
    int rc = 0;

    if (run->has_latest) {
        sqlite3_bind_int64(latest, 1, run->trial);
        sqlite3_bind_double(latest, 2, run->latest_unit);
        if (run->latest_status == VALUE_FINITE)
            sqlite3_bind_double(latest, 3, run->latest);
        sqlite3_bind_int(latest, 4, run->latest_status);
        rc = run_report_sql(applier, REPORT_LATEST, err);
    }
    if (!rc && run->has_unit) {
        sqlite3_bind_int64(unit, 1, run->trial);
        sqlite3_bind_double(unit, 2, run->unit);
        rc = run_report_sql(applier, REPORT_UNIT, err);
    }
    if (!rc && run->has_seen) {
        sqlite3_bind_int64(seen, 1, run->run);
        sqlite3_bind_int64(seen, 2, run->last_seq);
        sqlite3_bind_int64(seen, 3, run->last_us);
        rc = run_report_sql(applier, REPORT_SEEN, err);
    }
    if (rc)
        fail_prefix(err, "put_report of %lld/%lld, run %lld", (long long)run->experiment, (long long)run->number,
                    (long long)run->run);
    return rc;
}

static void empty(struct applier *applier, struct reported_run *run)
{
    if (run->run)
        applier->runs_n--;
    free(run->metric);
    *run = (struct reported_run){0};
}

int applier_flush(struct applier *applier, struct error *err)
{
    int rc = 0;

    for (size_t i = 0; i < RUN_CACHE && applier->runs_n && !rc; i++) {
        if (applier->runs[i].run)
            rc = write_run(applier, &applier->runs[i], err);
        empty(applier, &applier->runs[i]);
    }
    return rc;
}

void applier_forget(struct applier *applier)
{
    for (size_t i = 0; i < RUN_CACHE; i++)
        empty(applier, &applier->runs[i]);
    for (size_t i = 0; i < NAME_CACHE; i++) {
        free(applier->names[i].name);
        applier->names[i].name = NULL;
    }
}

static int read_run(struct applier *applier, int64_t experiment, int64_t number, int64_t id, struct reported_run *run,
                    struct error *err)
{
    sqlite3_stmt *find = applier->report[REPORT_RUN];
    const char *metric;
    int result, rc = 0;

    sqlite3_bind_int64(find, 1, experiment);
    sqlite3_bind_int64(find, 2, number);
    sqlite3_bind_int64(find, 3, id);
    result = sqlite3_step(find);
    if (result == SQLITE_ROW) {
        metric = (const char *)sqlite3_column_text(find, 2);
        *run = (struct reported_run){.run = id,
                                     .experiment = experiment,
                                     .number = number,
                                     .trial = sqlite3_column_int64(find, 0),
                                     .last_seq = sqlite3_column_int64(find, 1),
                                     .metric = metric ? strdup(metric) : NULL};
        applier->runs_n++;
    } else {
        rc = result == SQLITE_DONE ? fail(err, -EINVAL, "there is no such run")
                                   : sql_fail(applier->db, result, err, "report");
    }
    sqlite3_reset(find);
    return rc;
}

int reported_run(struct applier *applier, int64_t experiment, int64_t number, int64_t id, struct reported_run **ret,
                 struct error *err)
{
    struct reported_run *run = &applier->runs[(uint64_t)id % RUN_CACHE];
    int rc = 0;

    if (run->run != id || run->experiment != experiment || run->number != number) {
        if (run->run)
            rc = write_run(applier, run, err);
        empty(applier, run);
        if (!rc)
            rc = read_run(applier, experiment, number, id, run, err);
    }
    if (!rc)
        *ret = run;
    return rc;
}
