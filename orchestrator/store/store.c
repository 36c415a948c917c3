/* store.c - opening, closing, and the caller's side of the queue.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/store/store_private.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>

static int read_high(sqlite3 *db, struct store_high *ret, struct error *err)
{
    struct store_high high = {0};
    int rc = sql_int(db, "SELECT max(coalesce((SELECT max(id) FROM experiments), 0),"
                         " coalesce((SELECT max(experiment) FROM deleted), 0))", &high.experiment, err);

    if (!rc)
        rc = sql_int(db, "SELECT max(coalesce((SELECT max(id) FROM runs), 0), coalesce((SELECT max(last_run) FROM deleted),"
                         " 0))", &high.run, err);
    if (!rc)
        rc = sql_int(db, "SELECT max(coalesce((SELECT max(id) FROM checkpoints), 0),"
                         " coalesce((SELECT max(last_checkpoint) FROM deleted), 0))", &high.checkpoint, err);
    if (!rc && ret)
        *ret = high;
    return rc;
}

static void *check_all(void *arg)
{
    struct store *store = arg;
    struct error err = {0};

    if (check_to_the_end(store->path, &store->stop_checking, &err) != -EUCLEAN)
        return NULL;
    pthread_mutex_lock(&store->lock);
    if (!store->failed)
        store->failure = err;
    store->failed = true;
    pthread_mutex_unlock(&store->lock);
    if (store->wake)
        store->wake(store->wake_arg);
    return NULL;
}

/* No thread: no check; what is damaged then shows where it is read. */
static void start_checker(struct store *store)
{
    sigset_t all, before;

    sigfillset(&all); /* signals are for the loop's thread */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    store->checker_runs = pthread_create(&store->checker, NULL, check_all, store) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

int store_open(const char *path, bool read_only, void (*wake)(void *arg), void *wake_arg, struct store **ret,
               struct store_high *ret_high, struct error *err)
{
    struct store *store = calloc(1, sizeof *store);
    pthread_condattr_t monotonic;
    bool whole = true;
    int rc = 0;

    if (!store)
        return fail(err, -ENOMEM, "out of memory");
    pthread_mutex_init(&store->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&store->work, &monotonic);
    pthread_condattr_destroy(&monotonic);
    pthread_cond_init(&store->progress, NULL);
    store->read_only = read_only;
    store->wake = wake;
    store->wake_arg = wake_arg;
    store->path = strdup(path);
    if (!store->path)
        rc = fail(err, -ENOMEM, "out of memory");
    if (!rc && !read_only)
        rc = open_for_writing(path, &store->writer, &whole, &store->note, err);
    if (!rc)
        rc = open_for_reading(path, !read_only, &store->reader, &store->immutable, &store->seen, err);
    if (!rc)
        rc = read_high(store->reader, ret_high, err);
    if (!rc && !read_only)
        rc = writer_start(store, err);
    if (!rc && !whole)
        start_checker(store);
    if (rc) {
        store_close(store);
        return rc;
    }
    *ret = store;
    return 0;
}

void store_close(struct store *store)
{
    if (!store)
        return;
    store_be_patient(store, false);
    if (store->thread_runs)
        store_flush(store);
    writer_stop(store);
    atomic_store(&store->stop_checking, true);
    if (store->checker_runs)
        pthread_join(store->checker, NULL);
    applier_done(&store->applier);
    read_done(store);
    sqlite3_close(store->writer); /* last, so that it can move the log into the file */
    pthread_mutex_destroy(&store->lock);
    pthread_cond_destroy(&store->work);
    pthread_cond_destroy(&store->progress);
    free(store->path);
    free(store);
}

void store_submit(struct store *store, struct store_batch *batch, void (*done)(void *arg, int status), void *arg)
{
    /* A batch that could not even be made fails as one that could not be carried out, and stops what follows it. */
    if (!batch && (batch = store_batch_new()))
        batch->broken = true;
    if (!batch) {
        pthread_mutex_lock(&store->lock);
        if (!store->failed)
            fail(&store->failure, -ENOMEM, "%s: out of memory for a batch", store->path);
        store->failed = true;
        pthread_mutex_unlock(&store->lock);
        if (done)
            done(arg, -ENOMEM);
        return;
    }
    batch->done = done;
    batch->arg = arg;
    pthread_mutex_lock(&store->lock);
    if (store->read_only) {
        batch->status = -EROFS;
        batch_list_push(&store->finished, batch);
    } else {
        batch_list_push(&store->submitted, batch);
        store->unfinished++;
        if (!store->held)
            pthread_cond_signal(&store->work);
    }
    pthread_mutex_unlock(&store->lock);
    if (store->read_only && store->wake)
        store->wake(store->wake_arg);
}

void store_hold(struct store *store)
{
    pthread_mutex_lock(&store->lock);
    store->held = true;
    pthread_mutex_unlock(&store->lock);
}

void store_go(struct store *store)
{
    pthread_mutex_lock(&store->lock);
    store->held = false;
    pthread_cond_signal(&store->work);
    pthread_mutex_unlock(&store->lock);
}

void store_poll(struct store *store)
{
    struct store_batch *batch;

    /* One at a time, for a callback may submit, poll or flush. */
    for (;;) {
        pthread_mutex_lock(&store->lock);
        batch = store->finished.first;
        if (batch) {
            store->finished.first = batch->next;
            if (!batch->next)
                store->finished.last = NULL;
        }
        pthread_mutex_unlock(&store->lock);
        if (!batch)
            return;
        if (batch->done)
            batch->done(batch->arg, batch->status);
        store_batch_free(batch);
    }
}

void store_flush(struct store *store)
{
    bool more;

    do {
        pthread_mutex_lock(&store->lock);
        while (store->unfinished)
            pthread_cond_wait(&store->progress, &store->lock);
        pthread_mutex_unlock(&store->lock);
        store_poll(store);
        /* What the callbacks submitted was submitted too. */
        pthread_mutex_lock(&store->lock);
        more = store->unfinished > 0;
        pthread_mutex_unlock(&store->lock);
    } while (more);
}

void store_be_patient(struct store *store, bool patient)
{
    pthread_mutex_lock(&store->lock);
    store->patient = patient;
    pthread_cond_signal(&store->work);
    pthread_mutex_unlock(&store->lock);
}

bool store_waits_for_space(struct store *store, struct error *ret_why)
{
    bool waits;

    pthread_mutex_lock(&store->lock);
    waits = store->waiting.code != 0;
    if (waits)
        *ret_why = store->waiting;
    pthread_mutex_unlock(&store->lock);
    return waits;
}

const char *store_failure(const struct store *store)
{
    struct store *locked = (struct store *)store;
    bool failed;

    pthread_mutex_lock(&locked->lock);
    failed = store->failed; /* the text is written once, before */
    pthread_mutex_unlock(&locked->lock);
    return failed ? store->failure.text : NULL;
}

const char *store_note(const struct store *store)
{
    return store->note.code ? store->note.text : NULL;
}

const char *store_path(const struct store *store)
{
    return store->path;
}
