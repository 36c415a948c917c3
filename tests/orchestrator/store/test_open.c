/* test_open.c - which files are accepted, which are refused and left as they are; migrations; reading beside a writer,
 * without one, and where nothing can be written.
 * SPDX-License-Identifier: Apache-2.0 */
#include "store_test.h"
#include "orchestrator/store/store_private.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>

static size_t files_in(const char *folder)
{
    DIR *dir = opendir(folder);
    size_t n = 0;

    for (struct dirent *entry; (entry = readdir(dir));)
        n += entry->d_name[0] != '.';
    closedir(dir);
    return n;
}

static void fill_a_little(const char *path)
{
    struct store *store = open_store(path, NULL);
    struct store_batch *batch = store_batch_new();

    put_experiment(batch, 1);
    for (int i = 1; i <= 200; i++)
        put_trial(batch, 1, i, "{'lr':0.1,'text':'some hundred bytes of hyperparameters so that there are many pages"
                               " of them, some hundred bytes of hyperparameters'}");
    put_run(batch, 1, 1, 1, 1, 0);
    commit(store, batch);
    store_close(store);
}

/* Both ways of opening refuse it, say `expected`, change no byte and leave no file. */
static void assert_refused(struct home *home, const char *expected)
{
    char *before, *after;
    size_t before_n, after_n, files = files_in(home->folder);
    struct store *store = NULL;

    assert_int_equal(file_read(home->path, &before, &before_n, NULL), 0);
    for (int read_only = 0; read_only < 2; read_only++) {
        struct error err = {0};
        if (!store_open(home->path, read_only, NULL, NULL, &store, NULL, &err))
            fail_msg("was opened, though: %s", expected);
        assert_true(err.code < 0);
        assert_null(store);
        if (!strstr(err.text, expected) || !strstr(err.text, home->path))
            fail_msg("expected \"%s\" in: %s", expected, err.text);
        assert_int_equal(file_read(home->path, &after, &after_n, NULL), 0);
        assert_int_equal(before_n, after_n);
        assert_memory_equal(before, after, before_n);
        assert_int_equal(files_in(home->folder), files);
        free(after);
    }
    free(before);
}

static void refuses_what_is_not_a_database(void **state)
{
    struct home *home = *state;
    char text[5000];

    memset(text, 'x', sizeof text);
    assert_int_equal(file_write(home->path, text, sizeof text, NULL), 0);
    assert_refused(home, "is not a database");
    assert_int_equal(file_write(home->path, "short", 5, NULL), 0);
    assert_refused(home, "is not a database");
    assert_int_equal(file_write(home->path, "", 0, NULL), 0);
    assert_refused(home, "is empty");
}

static void refuses_a_folder_in_its_place(void **state)
{
    struct home *home = *state;
    struct error err = {0};
    struct store *store;

    assert_int_equal(mkdir(home->path, 0755), 0);
    assert_int_equal(store_open(home->path, false, NULL, NULL, &store, NULL, &err), -EINVAL);
    assert_non_null(strstr(err.text, "is not a file"));
}

static void says_when_the_folder_is_missing(void **state)
{
    struct home *home = *state;
    struct error err = {0};
    struct store *store;
    char path[200];

    snprintf(path, sizeof path, "%s/none/flexp.db", home->folder);
    assert_int_equal(store_open(path, false, NULL, NULL, &store, NULL, &err), -ENOENT);
    assert_non_null(strstr(err.text, "none"));
}

static void make_database(const char *path, const char *sql)
{
    sqlite3 *db;

    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
}

static void refuses_the_database_of_another_program(void **state)
{
    struct home *home = *state;

    make_database(home->path, "PRAGMA application_id=252006673; PRAGMA user_version=1; CREATE TABLE t (x);");
    assert_refused(home, "another program (application_id 0x0f055111");
    unlink(home->path);
    make_database(home->path, "CREATE TABLE t (x);");
    assert_refused(home, "another program (application_id 0x00000000");
}

static void refuses_a_newer_schema(void **state)
{
    struct home *home = *state;

    fill_a_little(home->path);
    make_database(home->path, "PRAGMA user_version=1000;");
    assert_refused(home, "has schema 1000, newer than the 7 of this flexp");
}

static void refuses_a_truncated_database(void **state)
{
    struct home *home = *state;
    struct stat st;

    fill_a_little(home->path);
    assert_int_equal(stat(home->path, &st), 0);
    assert_int_equal(truncate(home->path, st.st_size - 1), 0);
    assert_refused(home, "is cut short");
    assert_int_equal(truncate(home->path, st.st_size / 8192 * 4096), 0);
    assert_refused(home, "is cut short");
    assert_int_equal(truncate(home->path, 60), 0);
    assert_refused(home, "is cut short: 60 bytes");
}

/* A child that opens the store, commits and is killed: its log of changes is left behind. */
static void leave_a_log(const char *path)
{
    int status;
    pid_t pid = fork();

    if (pid == 0) {
        struct store *store = open_store(path, NULL);
        struct store_batch *batch = store_batch_new();
        put_experiment(batch, 50);
        commit(store, batch);
        kill(getpid(), SIGKILL);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status));
}

static void finds_damage_after_an_unclean_end(void **state)
{
    struct home *home = *state;
    struct error err = {0};
    struct store *store;
    struct stat st;
    int fd;
    char zeros[4096 * 3] = "";

    fill_a_little(home->path);
    leave_a_log(home->path);
    assert_int_equal(stat(home->path, &st), 0);
    fd = open(home->path, O_WRONLY);
    assert_int_equal(pwrite(fd, zeros, sizeof zeros, st.st_size - (off_t)sizeof zeros), sizeof zeros);
    close(fd);
    assert_int_equal(store_open(home->path, false, NULL, NULL, &store, NULL, &err), -EUCLEAN);
    assert_non_null(strstr(err.text, "is damaged"));
}

static void goes_on_after_an_unclean_end(void **state)
{
    struct home *home = *state;
    struct store_high high;

    fill_a_little(home->path);
    leave_a_log(home->path);
    store_close(open_store(home->path, &high));
    assert_int_equal(high.experiment, 50);
    assert_int_equal(files_in(home->folder), 1); /* the log is gone */
}

static void a_half_made_database_is_made_anew(void **state)
{
    struct home *home = *state;
    char fresh[120];

    snprintf(fresh, sizeof fresh, "%s.new", home->path);
    assert_int_equal(file_write(fresh, "half", 4, NULL), 0);
    store_close(open_store(home->path, NULL));
    assert_int_equal(files_in(home->folder), 1);
}

static void paths_may_hold_what_means_something_in_a_uri(void **state)
{
    struct home *home = *state;
    char path[200];

    snprintf(path, sizeof path, "%s/100%% a?mode=memory#b &c", home->folder);
    assert_int_equal(mkdir(path, 0755), 0);
    strcat(path, "/flexp.db");
    fill_a_little(path);
    assert_true(file_exists(path));
    store_close(open_reader(path));
}

/* --- migrations -------------------------------------------------------------------------------------------------- */

static const char *const STEP_1[] = {"CREATE TABLE a (x)", "INSERT INTO a VALUES (1)", NULL};
static const char *const STEP_2[] = {"ALTER TABLE a ADD COLUMN y", "UPDATE a SET y = x + 1", NULL};
static const char *const STEP_3[] = {"CREATE TABLE b AS SELECT x + y AS z FROM a", NULL};
static const char *const BROKEN[] = {"UPDATE a SET y = 100", "CREATE TABLE a (x)", NULL};
static const struct view OLD_VIEW[] = {{"v_a", "CREATE VIEW v_a AS SELECT 'old' AS x"}, {NULL, NULL}};
static const struct view NEW_VIEW[] = {{"v_a", "CREATE VIEW v_a AS SELECT 'new' AS x"}, {NULL, NULL}};

static void migrates_from_every_version_to_the_latest(void **state)
{
    static const struct migration ALL[] = {{1, STEP_1}, {2, STEP_2}, {3, STEP_3}, {0, NULL}};
    struct home *home = *state;

    for (int from = 0; from <= 3; from++) {
        struct migration part[4] = {{0, NULL}};
        struct error err = {0};
        sqlite3 *db;

        unlink(home->path);
        memcpy(part, ALL, (size_t)from * sizeof *part);
        assert_int_equal(sqlite3_open(home->path, &db), SQLITE_OK);
        assert_int_equal(migrate(db, part, OLD_VIEW, &err), 0);
        assert_int_equal(migrate(db, ALL, NEW_VIEW, &err), 0);
        assert_int_equal(migrate(db, ALL, NEW_VIEW, &err), 0); /* and again, for nothing */
        sqlite3_close(db);
        assert_query(home->path, "PRAGMA user_version; SELECT x, y FROM a; SELECT z FROM b", "3\n1|2\n3");
        assert_query(home->path, "SELECT x FROM v_a", from == 3 ? "old" : "new");
    }
}

static void a_migration_that_fails_changes_nothing(void **state)
{
    static const struct migration TWO[] = {{1, STEP_1}, {2, STEP_2}, {0, NULL}};
    static const struct migration BAD[] = {{1, STEP_1}, {2, STEP_2}, {3, BROKEN}, {0, NULL}};
    struct home *home = *state;
    struct error err = {0};
    sqlite3 *db;

    assert_int_equal(sqlite3_open(home->path, &db), SQLITE_OK);
    assert_int_equal(migrate(db, TWO, OLD_VIEW, &err), 0);
    assert_true(migrate(db, BAD, NEW_VIEW, &err) < 0);
    assert_non_null(strstr(err.text, "migration to schema 3"));
    sqlite3_close(db);
    assert_query(home->path, "PRAGMA user_version; SELECT y FROM a; SELECT x FROM v_a", "2\n2\nold");
}

static void the_schema_made_step_by_step_is_whole(void **state)
{
    struct home *home = *state;
    struct error err = {0};
    sqlite3 *db;

    assert_int_equal(sqlite3_open(home->path, &db), SQLITE_OK);
    assert_int_equal(migrate(db, MIGRATIONS, VIEWS, &err), 0);
    sqlite3_close(db);
    for (const struct view *view = VIEWS; view->name; view++) { /* every view can be read */
        char sql[100];
        snprintf(sql, sizeof sql, "SELECT count(*) FROM %s", view->name);
        assert_query(home->path, sql, "0");
    }
    assert_query(home->path, "SELECT count(*) FROM pragma_table_list WHERE type = 'table' AND schema = 'main'"
                             " AND NOT strict AND name NOT LIKE 'sqlite%'", "0");
    store_close(open_store(home->path, NULL));
}

/* Two reports of one name: what lost its place to the other cannot come back, what is there gets its kind. */
static void values_of_schema_3_are_kept_with_their_kinds(void **state)
{
    static const char *const FILL =
        "INSERT INTO names VALUES (1, 'loss'), (2, 'acc');"
        "INSERT INTO reports (run, seq, step, kind, unit, time_us) VALUES (1, 1, 0, 0, 1, 0), (1, 2, 0, 1, 1, 0),"
        " (1, 2, 1, 1, 2, 0), (2, 1, 0, 2, 2, 0);"
        "INSERT INTO metrics VALUES (1, 1, -1, 1, 1, 1, 0.5, 0), (1, 2, -1, 1, 1, 2, 0.25, 0),"
        " (1, 2, -1, 2, 1, 2, NULL, 1), (1, 2, -1, 2, 2, 1, 0.75, 0), (1, 1, 7, 1, 1, 1, 4, 0)";
    struct migration to_3[] = {MIGRATIONS[0], MIGRATIONS[1], MIGRATIONS[2], {0, NULL}};
    struct view no_views[] = {{NULL, NULL}};
    struct home *home = *state;
    struct error err = {0};
    sqlite3 *db;

    assert_int_equal(sqlite3_open(home->path, &db), SQLITE_OK);
    assert_int_equal(migrate(db, to_3, no_views, &err), 0);
    assert_int_equal(sqlite3_exec(db, FILL, NULL, NULL, NULL), SQLITE_OK);
    if (migrate(db, MIGRATIONS, VIEWS, &err))
        fail_msg("%s", err.text);
    sqlite3_close(db);
    assert_query(home->path,
                 "SELECT name, client, unit, run, kind, seq, value, status FROM metrics ORDER BY 1, 2, 3, 4",
                 "1|-1|1.0|1|0|1|0.5|0\n1|7|1.0|1|0|1|4.0|0\n"
                 "2|-1|1.0|1|1|2|0.25|0\n2|-1|2.0|1|1|2|NULL|1\n2|-1|2.0|2|2|1|0.75|0");
}

/* --- network file systems ----------------------------------------------------------------------------------------- */

static void knows_network_file_systems_by_name(void **state)
{
    (void)state;
    assert_string_equal(network_filesystem(0x6969, "nfs4"), "NFS");
    assert_string_equal(network_filesystem(0xff534d42, "cifs"), "CIFS (SMB)");
    assert_string_equal(network_filesystem((int32_t)0xfe534d42, "smb3"), "SMB2"); /* the field may be signed */
    assert_string_equal(network_filesystem(0x5346414f, NULL), "AFS");
    assert_string_equal(network_filesystem(0x01021997, "9p"), "9p");
    assert_string_equal(network_filesystem(0x65735546, "fuse.sshfs"), "sshfs");
    assert_null(network_filesystem(0x65735546, "fuse.fuse-overlayfs"));
    assert_null(network_filesystem(0x65735546, ""));
    assert_null(network_filesystem(0x65735546, NULL));
    assert_null(network_filesystem(0xef53, "fuse.sshfs")); /* ext4 */
    assert_null(network_filesystem(0x01021994, "tmpfs"));
}

/* --- reading ------------------------------------------------------------------------------------------------------ */

static void assert_reads(struct store *store, int64_t experiment)
{
    struct error err = {0};
    json_t *answer;

    if (store_read_describe(store, experiment, &answer, &err))
        fail_msg("%s", err.text);
    json_decref(answer);
}

static void reading_makes_no_file(void **state)
{
    struct home *home = *state;
    struct error err = {0};
    struct store *store;

    assert_int_equal(store_open(home->path, true, NULL, NULL, &store, NULL, &err), -ENOENT);
    assert_non_null(strstr(err.text, "nothing was created in this home yet"));
    assert_int_equal(files_in(home->folder), 0);
    fill_a_little(home->path);
    store = open_reader(home->path);
    assert_reads(store, 1);
    assert_int_equal(files_in(home->folder), 1);
    store_close(store);
    assert_int_equal(files_in(home->folder), 1);
}

static void note_status(void *arg, int given)
{
    *(int *)arg = given;
}

static void a_reader_refuses_to_write(void **state)
{
    struct home *home = *state;
    struct store *store;
    struct store_batch *batch = store_batch_new();
    int status = 0;

    fill_a_little(home->path);
    store = open_reader(home->path);
    put_experiment(batch, 9);
    store_submit(store, batch, note_status, &status);
    store_flush(store);
    assert_int_equal(status, -EROFS);
    store_close(store);
}

static void a_reader_sees_what_a_writer_commits(void **state)
{
    struct home *home = *state;
    struct store *writer, *reader;
    struct error err = {0};
    json_t *answer;

    fill_a_little(home->path);
    reader = open_reader(home->path); /* opened while nobody writes */
    assert_reads(reader, 1);
    writer = open_store(home->path, NULL);
    for (int i = 2; i <= 4; i++) {
        struct store_batch *batch = store_batch_new();
        put_experiment(batch, i);
        commit(writer, batch);
        assert_reads(reader, i);
    }
    store_close(writer);
    assert_reads(reader, 4);
    assert_int_equal(store_read_describe(reader, 5, &answer, &err), -ENOENT);
    assert_string_equal(err.text, "there is no experiment 5: the newest is 4 (flexp list shows all)");
    store_close(reader);
}

/* 'y' or 'n'. 'n': another process may take itself for the only one that uses the file, and remove the log. */
static char locked_for_others(const char *path)
{
    char answer = '?';
    int pipes[2], status;
    pid_t child;

    assert_int_equal(pipe(pipes), 0);
    child = fork();
    if (child == 0) { /* the locks of its parent are another's to it */
        struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0x40000002, .l_len = 510};
        int fd = open(path, O_RDWR);
        answer = fcntl(fd, F_GETLK, &lock) ? '!' : lock.l_type == F_UNLCK ? 'n' : 'y';
        _exit(write(pipes[1], &answer, 1) != 1);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(read(pipes[0], &answer, 1), 1);
    close(pipes[0]);
    close(pipes[1]);
    return answer;
}

/* SQLite's shared range is locked as long as the store is open, so that no reader's close removes the log. */
static void the_database_stays_locked_while_it_is_open(void **state)
{
    struct home *home = *state;
    struct store *store;
    struct store_batch *batch = store_batch_new();
    json_t *answer = NULL;

    fill_a_little(home->path);
    store = open_store(home->path, NULL);
    assert_int_equal(locked_for_others(home->path), 'y');
    put_experiment(batch, 2);
    commit(store, batch);
    assert_int_equal(store_read_list(store, true, &answer, NULL), 0);
    json_decref(answer);
    assert_int_equal(locked_for_others(home->path), 'y');
    store_close(store);
    assert_int_equal(locked_for_others(home->path), 'n');
}

static void reads_what_a_killed_writer_left(void **state)
{
    struct home *home = *state;
    struct store *store;

    fill_a_little(home->path);
    leave_a_log(home->path);
    store = open_reader(home->path);
    assert_reads(store, 50);
    store_close(store);
}

/* In a child that may not write to the folder, root or not. */
static int read_as_nobody(const char *path, int64_t experiment, const char *expected)
{
    struct error err = {0};
    struct store *store;
    json_t *answer;
    int rc;

    if (geteuid() == 0 && (setgid(65534) || setuid(65534)))
        return 10;
    rc = store_open(path, true, NULL, NULL, &store, NULL, &err);
    if (expected)
        return rc < 0 && strstr(err.text, expected) ? 0 : (fprintf(stderr, "%d %s\n", rc, err.text), 11);
    if (rc)
        return fprintf(stderr, "%s\n", err.text), 12;
    rc = store_read_describe(store, experiment, &answer, &err);
    if (rc)
        return fprintf(stderr, "%s\n", err.text), 13;
    json_decref(answer);
    store_close(store);
    return 0;
}

static void assert_child(const char *path, int64_t experiment, const char *expected)
{
    int status;
    pid_t pid = fork();

    if (pid == 0)
        _exit(read_as_nobody(path, experiment, expected));
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

static void reads_where_nothing_can_be_written(void **state)
{
    struct home *home = *state;
    char shm[120];

    fill_a_little(home->path);
    assert_int_equal(chmod(home->path, 0444), 0);
    assert_int_equal(chmod(home->folder, 0555), 0);
    assert_child(home->path, 1, NULL);
    /* with a log, and the index of the log that its writer left */
    assert_int_equal(chmod(home->folder, 0755), 0);
    assert_int_equal(chmod(home->path, 0644), 0);
    leave_a_log(home->path);
    snprintf(shm, sizeof shm, "%s-shm", home->path);
    assert_int_equal(chmod(home->folder, 0555), 0);
    assert_child(home->path, 50, NULL);
    /* with a log but no index, which cannot be made here: say what to do */
    assert_int_equal(chmod(home->folder, 0755), 0);
    assert_int_equal(unlink(shm), 0);
    assert_int_equal(chmod(home->folder, 0555), 0);
    assert_child(home->path, 50, "Copy both to a folder that you may write to");
    assert_int_equal(chmod(home->folder, 0755), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        test_in_home(refuses_what_is_not_a_database),
        test_in_home(refuses_a_folder_in_its_place),
        test_in_home(says_when_the_folder_is_missing),
        test_in_home(refuses_the_database_of_another_program),
        test_in_home(refuses_a_newer_schema),
        test_in_home(refuses_a_truncated_database),
        test_in_home(finds_damage_after_an_unclean_end),
        test_in_home(goes_on_after_an_unclean_end),
        test_in_home(a_half_made_database_is_made_anew),
        test_in_home(paths_may_hold_what_means_something_in_a_uri),
        test_in_home(migrates_from_every_version_to_the_latest),
        test_in_home(a_migration_that_fails_changes_nothing),
        test_in_home(values_of_schema_3_are_kept_with_their_kinds),
        test_in_home(the_schema_made_step_by_step_is_whole),
        cmocka_unit_test(knows_network_file_systems_by_name),
        test_in_home(reading_makes_no_file),
        test_in_home(a_reader_refuses_to_write),
        test_in_home(a_reader_sees_what_a_writer_commits),
        test_in_home(the_database_stays_locked_while_it_is_open),
        test_in_home(reads_what_a_killed_writer_left),
        test_in_home(reads_where_nothing_can_be_written),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
