/* writer.c - the thread that owns the write connection. It takes all that waits, carries it out in one transaction and
 * commits once (group commit): while one fsync is under way the next group gathers. A batch that cannot be carried out
 * takes the group back; those before it go again without it, and stand. The first failure is kept, and everything after
 * it fails: what comes later may depend on what was lost.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/store/store_private.h"
#include "common/failpoint.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define SPACE_RETRY_S 1

void batch_list_push(struct batch_list *list, struct store_batch *batch)
{
    batch->next = NULL;
    if (list->last)
        list->last->next = batch;
    else
        list->first = batch;
    list->last = batch;
}

/* A deferred foreign key fails at the commit, which cannot say whose it was. */
static int name_broken_key(struct store *store, int rc, struct error *err)
{
    static const char *const TABLES[] = {"experiments", "trials", "runs"};
    char sql[200], *found;

    for (size_t i = 0; i < sizeof TABLES / sizeof *TABLES; i++) {
        snprintf(sql, sizeof sql,
                 "SELECT 'row ' || rowid || ' of %s names a row of ' || parent || ' that is not there'"
                 " FROM pragma_foreign_key_check('%s')",
                 TABLES[i], TABLES[i]);
        if (!sql_text(store->writer, sql, &found, NULL)) {
            fail(err, rc, "%s", found);
            free(found);
            break;
        }
    }
    return rc;
}

/* Carries out the batches from first up to end (NULL: all), and returns the one that failed, NULL when none did. */
static struct store_batch *apply_until(struct store *store, struct store_batch *first, const struct store_batch *end,
                                       int *ret_rc, struct error *err)
{
    struct store_batch *batch = first;
    int rc = 0;

    for (; batch != end; batch = batch->next) {
        rc = apply_batch(&store->applier, batch, err);
        if (rc)
            break;
    }
    if (!rc)
        rc = applier_flush(&store->applier, err);
    *ret_rc = rc;
    return rc && batch == end ? first : rc ? batch : NULL;
}

static void roll_back(struct store *store)
{
    applier_forget(&store->applier);
    if (!sqlite3_get_autocommit(store->writer)) /* a full disk may have done so by itself */
        sqlite3_exec(store->writer, "ROLLBACK", NULL, NULL, NULL);
}

/* One that deletes goes alone: nobody wants to look for rows that refer to each of its rows, and it takes them all. */
static struct store_batch *take_group(struct store *store)
{
    struct store_batch *first = store->submitted.first, *last = first;

    while (last->next && !last->deletes && !last->next->deletes)
        last = last->next;
    store->submitted.first = last->next;
    if (!last->next)
        store->submitted.last = NULL;
    last->next = NULL;
    return first;
}

static int check_foreign_keys(struct store *store, bool check, struct error *err)
{
    return sql_exec(store->writer, check ? "PRAGMA foreign_keys=1" : "PRAGMA foreign_keys=0", err);
}

/* One transaction of the batches from first up to end; what it returns failed, and then nothing is changed. */
static struct store_batch *try_group(struct store *store, struct store_batch *first, const struct store_batch *end,
                                     int *ret_rc, struct error *err)
{
    struct store_batch *failed = NULL;
    int rc = sql_exec(store->writer, "BEGIN IMMEDIATE", err);

    if (rc)
        failed = first;
    else
        failed = apply_until(store, first, end, &rc, err);
    if (!rc) {
        failpoint("in_commit");
        rc = sql_exec(store->writer, "COMMIT", err);
        if (rc && (sqlite3_extended_errcode(store->writer) & 0xff) == SQLITE_CONSTRAINT)
            name_broken_key(store, rc, err);
        failed = rc ? first : NULL;
    }
    if (rc)
        roll_back(store);
    *ret_rc = rc;
    return failed;
}

/* Sets every batch's status; *first becomes the first that failed. Those before one that cannot be carried out stand: they
 * go again without it. */
static int commit_group(struct store *store, struct store_batch **at_first, struct error *err)
{
    struct store_batch *first = *at_first;
    int rc = first->deletes ? check_foreign_keys(store, false, err) : 0, again;
    struct store_batch *failed = rc ? first : try_group(store, first, NULL, &rc, err);

    if (first->deletes)
        check_foreign_keys(store, true, NULL);
    if (failed && failed != first && try_group(store, first, failed, &again, NULL))
        failed = first;
    for (struct store_batch *batch = first; batch != failed; batch = batch->next)
        batch->status = 0;
    for (struct store_batch *batch = failed; batch; batch = batch->next)
        batch->status = rc;
    *at_first = failed;
    return rc;
}

static void wake(struct store *store)
{
    pthread_mutex_unlock(&store->lock);
    if (store->wake)
        store->wake(store->wake_arg);
    pthread_mutex_lock(&store->lock);
}

/* After a failed commit: true where it is to be tried again, a second later. With the lock. */
static bool wait_for_space(struct store *store, const struct error *why)
{
    struct timespec until;

    if (why->code != -ENOSPC || !store->patient)
        return false;
    if (!store->waiting.code) {
        store->waiting = *why;
        wake(store);
    }
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += SPACE_RETRY_S;
    while (store->patient && pthread_cond_timedwait(&store->work, &store->lock, &until) == 0)
        ; /* more was submitted: it waits too */
    return store->patient;
}

/* Commits, with the lock let go meanwhile, until it succeeds or must fail. */
static int commit_patiently(struct store *store, struct store_batch *first, struct error *err)
{
    int rc;

    do {
        pthread_mutex_unlock(&store->lock);
        *err = (struct error){0};
        rc = commit_group(store, &first, err);
        pthread_mutex_lock(&store->lock);
    } while (rc && wait_for_space(store, err));
    store->waiting.code = 0;
    return rc;
}

static bool has_work(const struct store_batch *batch)
{
    for (; batch; batch = batch->next)
        if (!store_batch_is_empty(batch))
            return true;
    return false;
}

/* Called with the lock, which it lets go while it works. */
static void finish_group(struct store *store)
{
    struct store_batch *first = take_group(store), *next;
    struct error err = {0};
    bool was_failed = store->failed;
    int rc = was_failed ? store->failure.code : 0;

    if (!was_failed && has_work(first)) {
        rc = commit_patiently(store, first, &err);
    } else {
        for (struct store_batch *batch = first; batch; batch = batch->next)
            batch->status = rc;
    }
    if (rc && !was_failed) {
        fail(&store->failure, rc, "%s: a commit failed: %s", store->path, err.text);
        store->failed = true;
    }
    for (struct store_batch *batch = first; batch; batch = next) {
        next = batch->next;
        store->unfinished--;
        batch_list_push(&store->finished, batch);
    }
    pthread_cond_broadcast(&store->progress);
    wake(store);
}

static void *run_writer(void *arg)
{
    struct store *store = arg;

    pthread_mutex_lock(&store->lock);
    for (;;) {
        while ((!store->submitted.first || store->held) && !store->closing)
            pthread_cond_wait(&store->work, &store->lock);
        if (!store->submitted.first)
            break;
        finish_group(store);
    }
    pthread_mutex_unlock(&store->lock);
    return NULL;
}

int writer_start(struct store *store, struct error *err)
{
    sigset_t all, before;
    int result, rc = applier_init(&store->applier, store->writer, err);

    if (rc)
        return rc;
    /* Signals are for the loop's thread. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    result = pthread_create(&store->thread, NULL, run_writer, store);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (result)
        return fail(err, -result, "the store's thread cannot be started: %s", strerror(result));
    store->thread_runs = true;
    return 0;
}

void writer_stop(struct store *store)
{
    if (!store->thread_runs)
        return;
    pthread_mutex_lock(&store->lock);
    store->closing = true;
    pthread_cond_signal(&store->work);
    pthread_mutex_unlock(&store->lock);
    pthread_join(store->thread, NULL);
    store->thread_runs = false;
}
