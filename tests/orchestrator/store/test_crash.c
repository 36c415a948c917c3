/* test_crash.c - what was acknowledged is there: after kill -9 in the middle of commits, and after a disk that filled
 * up.
 * SPDX-License-Identifier: Apache-2.0 */
#include "store_test.h"
#include "common/rng.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>

#define KILLS 50
#define IN_FLIGHT 8

/* --- kill -9 ------------------------------------------------------------------------------------------------------ */

struct writing {
    struct store *store;
    int pipe;
    int64_t run, next; /* seq */
};
struct ticket {
    struct writing *writing;
    int64_t seq;
};

static void submit_one(struct writing *writing);

static void acknowledge(void *arg, int status)
{
    struct ticket *ticket = arg;
    struct writing *writing = ticket->writing;

    if (status || write(writing->pipe, &ticket->seq, sizeof ticket->seq) != sizeof ticket->seq)
        _exit(3);
    free(ticket);
    submit_one(writing);
}

/* A report with clients, a checkpoint now and then, a log line: several tables in each batch. */
static void submit_one(struct writing *writing)
{
    struct store_batch *batch = store_batch_new();
    struct ticket *ticket = malloc(sizeof *ticket);
    char body[400];

    *ticket = (struct ticket){writing, writing->next++};
    snprintf(body, sizeof body,
             "{'kind':'validation','units':{'rounds':%lld},'metrics':{'validation_accuracy':%lld.5,'other':1},"
             "'clients':[{'client':1,'samples':5,'metrics':{'train_loss':0.5}},{'client':2,'samples':7}]}",
             (long long)ticket->seq, (long long)(writing->run * 100000 + ticket->seq));
    put_report(batch, 1, 1, writing->run, ticket->seq, body);
    store_put_log(batch, (struct trial_ref){1, 1}, writing->run, "info", "a line", T0);
    store_submit(writing->store, batch, acknowledge, ticket);
}

static void write_until_killed(const char *path, int64_t run, int out)
{
    struct writing writing = {open_store(path, NULL), out, run, 1};
    struct store_batch *batch = store_batch_new();

    if (run == 1) {
        put_experiment(batch, 1);
        put_trial(batch, 1, 1, "{}");
    }
    put_run(batch, 1, 1, run, run, 0);
    commit(writing.store, batch);
    for (int i = 0; i < IN_FLIGHT; i++)
        submit_one(&writing);
    for (;;) {
        store_poll(writing.store);
        sched_yield();
    }
}

/* The highest seq that the child told of before it died. */
static int64_t kill_one(const char *path, int64_t run, struct pcg32 *rng)
{
    int64_t seq, last = 0;
    int ends[2], status;
    pid_t pid;

    assert_int_equal(pipe(ends), 0);
    pid = fork();
    if (pid == 0) {
        close(ends[0]);
        write_until_killed(path, run, ends[1]);
    }
    close(ends[1]);
    /* It writes for sure; then a moment later, anywhere within its commits. */
    assert_int_equal(read(ends[0], &seq, sizeof seq), sizeof seq);
    last = seq;
    nanosleep(&(struct timespec){.tv_nsec = (long)rng_below(rng, 15000000)}, NULL);
    kill(pid, SIGKILL);
    while (read(ends[0], &seq, sizeof seq) == sizeof seq) {
        assert_int_equal(seq, last + 1); /* in order, none left out */
        last = seq;
    }
    close(ends[0]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    return last;
}

static void every_acknowledged_row_survives_kill_9(void **state)
{
    struct home *home = *state;
    struct pcg32 rng = rng_key(7, RNG_RETRY, 1, 2, 3);
    int64_t acknowledged[KILLS + 1] = {0}, total = 0;
    char sql[400], expected[100];

    for (int run = 1; run <= KILLS; run++) {
        acknowledged[run] = kill_one(home->path, run, &rng);
        total += acknowledged[run];
    }
    assert_query(home->path, "PRAGMA quick_check; SELECT count(*) FROM pragma_foreign_key_check", "ok\n0");
    for (int run = 1; run <= KILLS; run++) {
        char *got;
        long long reports, seqs, values, clients, logs;

        snprintf(sql, sizeof sql,
                 "SELECT (SELECT count(*) FROM reports WHERE run = %d), (SELECT max(seq) FROM reports WHERE run = %d),"
                 " (SELECT count(*) FROM metrics WHERE run = %d AND value = run * 100000 + seq + 0.5),"
                 " (SELECT count(*) FROM client_rounds WHERE run = %d), (SELECT count(*) FROM logs WHERE run = %d)",
                 run, run, run, run, run);
        got = query(home->path, sql);
        assert_int_equal(sscanf(got, "%lld|%lld|%lld|%lld|%lld", &reports, &seqs, &values, &clients, &logs), 5);
        free(got);
        assert_true(reports >= acknowledged[run]);
        assert_int_equal(seqs, reports); /* without gaps, and no batch in part */
        assert_int_equal(values, reports);
        assert_int_equal(clients, 2 * reports);
        assert_int_equal(logs, reports);
    }
    snprintf(expected, sizeof expected, "%d", KILLS);
    assert_query(home->path, "SELECT count(*) FROM runs", expected);
    assert_true(total > KILLS);
    print_message("# %lld acknowledged reports over %d kills\n", (long long)total, KILLS);
}

/* --- a full disk -------------------------------------------------------------------------------------------------- */

#define BATCHES 400

struct outcome {
    int status[BATCHES];
    int n;
};

static void note(void *arg, int status)
{
    struct outcome *outcome = arg;

    outcome->status[outcome->n++] = status;
}

/* In a child: fills until it fails. Writes how many batches were committed to the pipe. */
static int fill_the_disk(const char *path, bool limit_files, int out)
{
    struct outcome outcome = {0};
    struct store *store = open_store(path, NULL);
    struct store_batch *batch = store_batch_new();
    char *big = malloc(50001);
    int good = 0;

    put_experiment(batch, 1);
    commit(store, batch);
    if (limit_files) {
        signal(SIGXFSZ, SIG_IGN);
        setrlimit(RLIMIT_FSIZE, &(struct rlimit){2 << 20, 2 << 20});
    }
    memset(big, 'x', 50000);
    big[50000] = 0;
    for (int i = 0; i < BATCHES; i++) {
        batch = store_batch_new();
        store_put_journal(batch, 1, i + 1, "event", 0, NULL, T0);
        store_put_log(batch, (struct trial_ref){1, 0}, 0, "info", big, T0);
        store_submit(store, batch, note, &outcome);
        if (i % 10 == 9)
            store_flush(store);
    }
    store_flush(store);
    while (good < outcome.n && !outcome.status[good])
        good++;
    if (outcome.n != BATCHES || good == 0 || good == BATCHES)
        return 20;
    for (int i = good; i < BATCHES; i++)
        if (outcome.status[i] != outcome.status[good] ||
            (outcome.status[i] != -ENOSPC && !(limit_files && outcome.status[i] == -EIO)))
            return 21;
    if (!store_failure(store) || !strstr(store_failure(store), "a commit failed") ||
        !strstr(store_failure(store), path))
        return 22;
    if (!strstr(store_failure(store), "full") && !strstr(store_failure(store), "File too large"))
        return fprintf(stderr, "%s\n", store_failure(store)), 23;
    store_close(store);
    free(big);
    return write(out, &good, sizeof good) == sizeof good ? 0 : 24;
}

/* Where there is room again, the store opens and goes on from what was acknowledged. */
static void check_after(const char *path, int good)
{
    struct store *store = open_store(path, NULL);
    struct store_batch *batch = store_batch_new();
    char expected[60];

    snprintf(expected, sizeof expected, "ok\n%d|%d", good, good);
    assert_query(path, "PRAGMA quick_check; SELECT (SELECT count(*) FROM journal), (SELECT count(*) FROM logs)",
                 expected);
    store_put_journal(batch, 1, good + 1, "event", 0, NULL, T0);
    commit(store, batch);
    store_close(store);
}

static void a_full_disk_loses_nothing_that_was_acknowledged(void **state)
{
    struct home *home = *state;
    int ends[2], status, good;
    pid_t pid;

    assert_int_equal(pipe(ends), 0);
    pid = fork();
    if (pid == 0)
        _exit(fill_the_disk(home->path, true, ends[1]));
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    assert_int_equal(read(ends[0], &good, sizeof good), sizeof good);
    close(ends[0]);
    close(ends[1]);
    check_after(home->path, good);
}

/* The same on a file system of 2 MB, where this may be mounted (in a namespace of our own); a limit on the size of
 * files, as above, is all that can be had elsewhere. */
static int on_a_small_filesystem(const char *folder, const char *path, int out)
{
    int rc;

    if ((geteuid() ? unshare(CLONE_NEWUSER | CLONE_NEWNS) : unshare(CLONE_NEWNS)) ||
        mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) || mount("none", folder, "tmpfs", 0, "size=2m"))
        return 77;
    rc = fill_the_disk(path, false, out);
    if (rc)
        return rc;
    return mount("none", folder, "tmpfs", MS_REMOUNT, "size=20m") ? 78 : 0;
}

static void a_full_filesystem_loses_nothing_that_was_acknowledged(void **state)
{
    struct home *home = *state;
    int ends[2], status;
    pid_t pid;

    assert_int_equal(pipe(ends), 0);
    pid = fork();
    if (pid == 0) {
        int rc = on_a_small_filesystem(home->folder, home->path, ends[1]), good;
        if (!rc && read(ends[0], &good, sizeof good) == sizeof good)
            check_after(home->path, good);
        _exit(rc);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    close(ends[0]);
    close(ends[1]);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == 77) {
        print_message("# no file system can be mounted here: only the limit on file sizes was tried\n");
        return;
    }
    assert_int_equal(WEXITSTATUS(status), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        test_in_home(every_acknowledged_row_survives_kill_9),
        test_in_home(a_full_disk_loses_nothing_that_was_acknowledged),
        test_in_home(a_full_filesystem_loses_nothing_that_was_acknowledged),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
