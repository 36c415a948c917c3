/* erase.c - deleting an experiment that has ended. The row that says so is committed first; then its folder goes, on another
 * thread, then its rows, a few trials a turn, so that nobody waits long for a commit. What a kill interrupts is taken up
 * at the next start; doing a step twice does no harm.
 * SPDX-License-Identifier: Apache-2.0 */
#include "common/failpoint.h"
#include "common/file.h"
#include "common/log.h"
#include "orchestrator/server/server_private.h"

#include <stdlib.h>
#include <string.h>

#define TRIALS_A_TURN 4

static struct erasing *find(const struct server *server, int64_t experiment)
{
    struct erasing *erasing = server->erasings;

    while (erasing && erasing->experiment != experiment)
        erasing = erasing->next;
    return erasing;
}

static void drop(struct erasing *erasing)
{
    struct erasing **at = &erasing->server->erasings;

    while (*at != erasing)
        at = &(*at)->next;
    *at = erasing->next;
    free(erasing->folder);
    free(erasing);
}

/* Rows of some trials, or at the end what is left. */
static void next_rows(struct server *server, struct erasing *erasing)
{
    struct turn turn;

    turn_init(&turn, clock_us());
    for (int i = 0; i < TRIALS_A_TURN && erasing->next_trial <= erasing->trials; i++)
        store_put_delete_trial(turn.writes, (struct trial_ref){erasing->experiment, erasing->next_trial++});
    if (store_batch_is_empty(turn.writes)) {
        store_put_delete_experiment(turn.writes, erasing->experiment);
        log_info("experiment %lld is deleted", (long long)erasing->experiment);
        drop(erasing);
    } else {
        turn_add_erase(&turn, erasing->experiment);
    }
    failpoint("in_erase");
    server_submit(server, 0, &turn);
}

static void remove_files(uv_work_t *work)
{
    struct erasing *erasing = work->data;

    failpoint("before_erase");
    file_remove_tree(erasing->folder, &erasing->err);
}

static void on_files_removed(uv_work_t *work, int status)
{
    struct erasing *erasing = work->data;
    struct server *server = erasing->server;

    if (erasing->err.code || status || server->state != SERVER_RUNS) {
        if (erasing->err.code)
            log_warning("experiment %lld is not deleted whole, and `flexp up` tries again: %s",
                        (long long)erasing->experiment, erasing->err.text);
        drop(erasing);
        return;
    }
    erasing->files_gone = true;
    next_rows(server, erasing);
}

void erase_go_on(struct server *server, int64_t experiment)
{
    struct erasing *erasing = find(server, experiment);

    if (!erasing || server->state != SERVER_RUNS)
        return;
    if (erasing->files_gone)
        next_rows(server, erasing);
    else if (uv_queue_work(&server->loop, &erasing->work, remove_files, on_files_removed))
        drop(erasing);
}

static struct erasing *add(struct server *server, int64_t experiment, int64_t trials)
{
    struct erasing *erasing = calloc(1, sizeof *erasing);
    char *folder = format_text("%s/experiments/%lld", server->home, (long long)experiment);

    if (!erasing || !folder) {
        free(erasing);
        free(folder);
        return NULL;
    }
    *erasing = (struct erasing){.next = server->erasings, .server = server, .experiment = experiment, .trials = trials,
                                .next_trial = 1, .folder = folder};
    erasing->work.data = erasing;
    server->erasings = erasing;
    log_info("experiment %lld goes, with %lld trials", (long long)experiment, (long long)trials);
    return erasing;
}

/* Asked for again before the first turn is on disk, it goes once, and the answer waits for a commit all the same. */
int erase_begin(struct server *server, int64_t experiment, int64_t trials)
{
    bool begun = find(server, experiment) != NULL;
    struct turn turn;

    if (!begun && !add(server, experiment, trials))
        return -ENOMEM;
    turn_init(&turn, clock_us());
    store_put_deleting(turn.writes, experiment, turn.now_us);
    if (!begun)
        turn_add_erase(&turn, experiment);
    server_submit(server, 0, &turn);
    return 0;
}

static void remove_leftover(struct server *server, const char *path)
{
    char *whole = format_text("%s/%s", server->home, path);
    struct error err = {0};

    if (whole && may_delete(server, whole) && file_remove_tree(whole, &err))
        log_warning("%s", err.text);
    free(whole);
}

/* Files of checkpoints whose deletion was committed and not carried out. Here and now, not on another thread: a run
 * that starts later may write a file of that name. */
static int remove_leftovers(struct server *server, struct error *err)
{
    json_t *list = NULL, *path;
    size_t i;
    int rc = store_read_deleted_files(server->store, &list, err);

    if (rc)
        return rc;
    remove_leftover(server, "deleted"); /* those that were set aside */
    json_array_foreach (list, i, path)
        remove_leftover(server, json_string_value(path));
    json_decref(list);
    return 0;
}

int erase_restore(struct server *server, struct error *err)
{
    json_t *list = NULL, *row;
    size_t i;
    int rc = remove_leftovers(server, err);

    if (!rc)
        rc = store_read_deleting(server->store, &list, err);

    json_array_foreach (list, i, row)
        if (!rc && erase_begin(server, json_integer_value(json_array_get(row, 0)), json_integer_value(json_array_get(row, 1))))
            rc = fail(err, -ENOMEM, "out of memory");
    json_decref(list);
    return rc;
}

void erasings_free(struct server *server)
{
    while (server->erasings)
        drop(server->erasings);
}
