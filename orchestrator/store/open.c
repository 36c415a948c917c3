/* open.c - which files we accept, and how they are opened. A file that is not ours is refused before anything is
 * written: the checks run on a connection that cannot write. A new database is made beside its place and renamed into
 * it, so that a half-made one is never seen. The quick check runs for QUICK_CHECK_MS at most, and longer when the last
 * close was not clean (a log of changes is left); a database that is too large for that is checked to its end by a thread
 * while it is used (store.c).
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/store/store_private.h"
#include "common/file.h"
#include "common/version.h"

#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define QUICK_CHECK_MS 25 /* starting is to be quick: some 20 MB */
#define UNCLEAN_CHECK_MS 3000
/* A shell that a user left inside a transaction holds us up; a minute of that and we say so. */
#define BUSY_MS 60000
#define WAL_LIMIT "PRAGMA journal_size_limit=67108864"

static int path_with(const char *path, const char *suffix, char *ret, size_t room, struct error *err)
{
    if ((size_t)snprintf(ret, room, "%s%s", path, suffix) >= room)
        return fail(err, -ENAMETOOLONG, "%s: the path is too long", path);
    return 0;
}

static int64_t file_bytes(const char *path, const char *suffix)
{
    char name[PATH_MAX];
    struct stat st;

    return path_with(path, suffix, name, sizeof name, NULL) || stat(name, &st) ? -1 : (int64_t)st.st_size;
}

/* "file:" and the path with what means something in a URI escaped. */
static int open_uri(const char *path, const char *parameters, int flags, sqlite3 **ret, struct error *err)
{
    char uri[3 * PATH_MAX + 64];
    size_t used = (size_t)snprintf(uri, sizeof uri, "file:");
    sqlite3 *db;
    int result;

    for (const char *at = path; *at && used < sizeof uri - 40; at++)
        used += (size_t)snprintf(uri + used, sizeof uri - used, strchr("%?#", *at) ? "%%%02x" : "%c", (unsigned)*at);
    snprintf(uri + used, sizeof uri - used, "%s", parameters);
    result = sqlite3_open_v2(uri, &db, flags | SQLITE_OPEN_URI | SQLITE_OPEN_NOMUTEX, NULL);
    if (result) {
        int rc = sql_fail(db, result, err, "%s", path);
        sqlite3_close(db);
        return rc;
    }
    sqlite3_extended_result_codes(db, 1);
    sqlite3_busy_timeout(db, BUSY_MS);
    *ret = db;
    return 0;
}

static uint32_t big_endian(const unsigned char *at, int n)
{
    uint32_t value = 0;

    while (n--)
        value = value << 8 | *at++;
    return value;
}

/* The size that the header promises (SQLite's "Database File Format", 1.3); 0 where it says nothing. */
static int64_t promised_bytes(const unsigned char *head)
{
    int64_t page = big_endian(head + 16, 2);

    if (big_endian(head + 24, 4) != big_endian(head + 92, 4))
        return 0;
    return (page == 1 ? 65536 : page) * big_endian(head + 28, 4);
}

/* What the first bytes tell, before SQLite sees the file. all_there: no log holds what the file may lack; SQLite itself
 * takes bytes missing at the end for zeros. */
static int check_header(const char *path, bool all_there, struct error *err)
{
    static const char MAGIC[16] = "SQLite format 3";
    unsigned char head[100] = "";
    ssize_t n;
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

    if (fd < 0)
        return fail(err, -errno, "%s: %s", path, strerror(errno));
    n = fstat(fd, &st) || !S_ISREG(st.st_mode) ? -2 : read(fd, head, sizeof head);
    close(fd);
    if (n == -2)
        return fail(err, -EINVAL, "%s is not a file, so it cannot be the database", path);
    if (n < 0)
        return fail(err, -EIO, "%s cannot be read", path);
    if (n == 0)
        return fail(err, -EINVAL, "%s is empty, which a database never is: if nothing in it was of worth, remove it",
                    path);
    if (memcmp(head, MAGIC, n < 16 ? (size_t)n : sizeof MAGIC))
        return fail(err, -EINVAL, "%s is not a database: its first bytes are not SQLite's", path);
    if (n < (ssize_t)sizeof head)
        return fail(err, -EUCLEAN, "%s is cut short: %zd bytes are left of a database", path, n);
    if (all_there && promised_bytes(head) > st.st_size)
        return fail(err, -EUCLEAN, "%s is cut short: %lld bytes are left of %lld", path, (long long)st.st_size,
                    (long long)promised_bytes(head));
    return 0;
}

/* How a file that is damaged is refused; why may be of several lines. */
static int fail_damaged(struct error *err, const char *path, const char *why)
{
    static const char HEAD[] = "*** in database main ***";
    char line[300];

    if (!strncmp(why, HEAD, sizeof HEAD - 1))
        why += sizeof HEAD - 1;
    why += strspn(why, " \n");
    snprintf(line, sizeof line, "%s", why);
    for (char *at = line; *at; at++)
        if (*at == '\n')
            *at = ' ';
    return fail(err, -EUCLEAN,
                "%s is damaged: %s. It is left as it is. Put a backup in its place, or save what can be read of it:"
                " docs/reliability.md, \"A damaged database\", says how",
                path, line);
}

struct deadline {
    struct timespec at;
    const atomic_bool *stop; /* or NULL */
};

static int out_of_time(void *arg)
{
    const struct deadline *deadline = arg;
    struct timespec now;

    if (deadline->stop)
        return atomic_load(deadline->stop);
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec > deadline->at.tv_sec ||
           (now.tv_sec == deadline->at.tv_sec && now.tv_nsec > deadline->at.tv_nsec);
}

static int run_check(sqlite3 *db, const char *path, struct deadline *deadline, bool *ret_whole, struct error *err)
{
    struct error why = {0};
    char *answer = NULL;
    int rc;

    sqlite3_progress_handler(db, 2000, out_of_time, deadline);
    rc = sql_text(db, "PRAGMA quick_check(1)", &answer, &why);
    sqlite3_progress_handler(db, 0, NULL, NULL);
    *ret_whole = !rc;
    if (rc == -EINTR)
        rc = 0; /* nothing was found so far */
    else if (rc == -ENOMEM || rc == -EACCES || rc == -EBUSY)
        rc = fail(err, rc, "%s: %s", path, why.text);
    else if (rc)
        rc = fail_damaged(err, path, sqlite3_errmsg(db));
    else if (strcmp(answer, "ok"))
        rc = fail_damaged(err, path, answer);
    free(answer);
    return rc;
}

static int quick_check(sqlite3 *db, const char *path, long limit_ms, bool *ret_whole, struct error *err)
{
    struct deadline deadline = {0};

    clock_gettime(CLOCK_MONOTONIC, &deadline.at);
    deadline.at.tv_nsec += limit_ms % 1000 * 1000000;
    deadline.at.tv_sec += limit_ms / 1000 + deadline.at.tv_nsec / 1000000000;
    deadline.at.tv_nsec %= 1000000000;
    return run_check(db, path, &deadline, ret_whole, err);
}

int check_to_the_end(const char *path, const atomic_bool *stop, struct error *err)
{
    struct deadline deadline = {.stop = stop};
    bool whole;
    sqlite3 *db;
    int rc = open_uri(path, "?mode=ro", SQLITE_OPEN_READONLY, &db, err);

    if (rc)
        return rc;
    rc = run_check(db, path, &deadline, &whole, err);
    sqlite3_close(db);
    return rc;
}

/* Is it ours, of a schema that we know, whole? */
static int check_database(sqlite3 *db, const char *path, bool read_only, bool unclean, bool *ret_whole,
                          struct error *err)
{
    int latest = migrations_latest(MIGRATIONS), rc;
    int64_t application, version;
    struct error why = {0};

    rc = sql_int(db, "PRAGMA application_id", &application, &why);
    if (!rc)
        rc = sql_int(db, "PRAGMA user_version", &version, &why);
    if (rc == -EUCLEAN)
        return fail_damaged(err, path, why.text);
    if (rc == -EACCES || rc == -EROFS)
        return fail(err, rc,
                    "%s cannot be read here: changes wait in %s-wal, and reading them needs a file beside it that"
                    " cannot be made (%s). Copy both to a folder that you may write to and read them there",
                    path, path, why.text);
    if (rc)
        return fail(err, rc, "%s: %s", path, why.text);
    if (application != STORE_APPLICATION_ID)
        return fail(err, -EINVAL, "%s is an SQLite database of another program (application_id 0x%08llx, not 0x%08x)",
                    path, (unsigned long long)application & 0xffffffffu, STORE_APPLICATION_ID);
    if (version > latest)
        return fail(err, -EINVAL,
                    "%s has schema %lld, newer than the %d of this flexp %s: use the flexp that wrote it, or a newer"
                    " one",
                    path, (long long)version, latest, FLEXP_VERSION);
    if (version < 1)
        return fail(err, -EINVAL, "%s has no schema number, which flexp never writes: it was tampered with", path);
    if (read_only && version < latest)
        return fail(err, -EINVAL, "%s has schema %lld, older than this flexp's %d: `flexp up` brings it up to date",
                    path, (long long)version, latest);
    return quick_check(db, path, unclean ? UNCLEAN_CHECK_MS : QUICK_CHECK_MS, ret_whole, err);
}

bool file_has_changed(const char *path, const struct stat *seen)
{
    struct stat st;

    return file_bytes(path, "-wal") > 0 || stat(path, &st) || st.st_ino != seen->st_ino ||
           st.st_size != seen->st_size ||
           st.st_mtim.tv_sec != seen->st_mtim.tv_sec || st.st_mtim.tv_nsec != seen->st_mtim.tv_nsec;
}

static int open_checked(const char *path, bool read_only, bool live, sqlite3 **ret, bool *ret_immutable,
                        struct stat *ret_stat, bool *ret_whole, struct error *err)
{
    bool log_is_left, immutable;
    sqlite3 *db;
    int rc;

    log_is_left = file_bytes(path, "-wal") > 0;
    /* Beside our own writer, which has looked already, the file is not opened by hand: closing it would drop the
     * writer's locks (POSIX), and whoever else opened and closed the database would then delete the log in use. */
    rc = live ? 0 : check_header(path, !log_is_left, err);
    if (!rc && read_only && !live)
        rc = wal_check(path, NULL, err);
    if (rc)
        return rc;
    /* Without a log the file is all there is. To open it as immutable makes no file beside it and needs no locks, so
     * that it works on a read-only medium and on a network. Whoever reads looks whether it changed meanwhile. */
    immutable = !live && !log_is_left;
    if (!immutable && (rc = refuse_network_filesystem(path, err)))
        return rc;
    if (stat(path, ret_stat))
        return fail(err, -errno, "%s: %s", path, strerror(errno));
    rc = open_uri(path, immutable ? "?mode=ro&immutable=1" : "?mode=ro", SQLITE_OPEN_READONLY, &db, err);
    if (rc)
        return rc;
    rc = live ? 0 : check_database(db, path, read_only, log_is_left, ret_whole, err);
    if (!rc)
        rc = sql_exec(db, "PRAGMA temp_store=MEMORY", err);
    if (rc) {
        sqlite3_close(db);
        return rc;
    }
    *ret = db;
    *ret_immutable = immutable;
    return 0;
}

int open_for_reading(const char *path, bool live, sqlite3 **ret, bool *ret_immutable, struct stat *ret_stat,
                     struct error *err)
{
    bool whole;

    if (!file_exists(path))
        return fail(err, -ENOENT, "%s does not exist: nothing was created in this home yet", path);
    return open_checked(path, true, live, ret, ret_immutable, ret_stat, &whole, err);
}

static int set_pragmas(sqlite3 *db, struct error *err)
{
    static const struct {
        const char *pragma, *expected;
    } PRAGMAS[] = {
        {"PRAGMA journal_mode=wal", "wal"}, {"PRAGMA synchronous=2", "2"},        {"PRAGMA foreign_keys=1", "1"},
        {"PRAGMA temp_store=2", "2"},       {"PRAGMA cache_size=-8192", "-8192"}, {WAL_LIMIT, "67108864"},
    };
    int rc = 0;

    for (size_t i = 0; i < sizeof PRAGMAS / sizeof *PRAGMAS && !rc; i++)
        rc = sql_pragma(db, PRAGMAS[i].pragma, PRAGMAS[i].expected, err);
    return rc;
}

static int sync_folder_of(const char *path, struct error *err)
{
    char copy[PATH_MAX];
    int fd, rc = 0;

    snprintf(copy, sizeof copy, "%s", path);
    fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || fsync(fd))
        rc = fail(err, -errno, "the folder of %s cannot be synced: %s", path, strerror(errno));
    if (fd >= 0)
        close(fd);
    return rc;
}

static void remove_leftovers(const char *path)
{
    static const char *const SUFFIXES[] = {"", "-journal", "-wal", "-shm"};
    char name[PATH_MAX];

    for (size_t i = 0; i < sizeof SUFFIXES / sizeof *SUFFIXES; i++)
        if (!path_with(path, SUFFIXES[i], name, sizeof name, NULL))
            unlink(name);
}

static int create_database(const char *path, struct error *err)
{
    char fresh[PATH_MAX];
    sqlite3 *db;
    int rc = path_with(path, ".new", fresh, sizeof fresh, err);

    if (rc)
        return rc;
    remove_leftovers(fresh);
    rc = open_uri(fresh, "", SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, &db, err);
    if (rc)
        return rc;
    rc = set_pragmas(db, err);
    if (!rc)
        rc = migrate(db, MIGRATIONS, VIEWS, err);
    if (sqlite3_close(db) && !rc)
        rc = fail(err, -EBUSY, "%s cannot be closed", fresh);
    /* The close has moved everything from the log into the file and synced it. */
    if (!rc && file_bytes(fresh, "-wal") > 0)
        rc = fail(err, -EIO, "%s keeps a log after its close", fresh);
    if (!rc && rename(fresh, path))
        rc = fail(err, -errno, "%s: %s", path, strerror(errno));
    if (!rc)
        rc = sync_folder_of(path, err);
    if (rc)
        remove_leftovers(fresh);
    return rc;
}

/* A new database must not be made beside the log of one that is gone: SQLite would take the one for the other's. */
static int refuse_orphan_log(const char *path, struct error *err)
{
    if (file_exists(path) || file_bytes(path, "-wal") <= 0)
        return 0;
    return fail(err, -EUCLEAN,
                "%s is gone, but %s-wal is there, which holds what was stored last. Put the database back; or, to begin anew,"
                " move the other away",
                path, path);
}

int open_for_writing(const char *path, sqlite3 **ret, bool *ret_whole, struct error *ret_note, struct error *err)
{
    sqlite3 *db;
    bool immutable;
    struct stat seen;
    int rc = refuse_network_filesystem(path, err);

    if (rc || (rc = refuse_orphan_log(path, err)) || (rc = wal_check(path, ret_note, err)))
        return rc;
    if (!file_exists(path) && (rc = create_database(path, err)))
        return fail_prefix(err, "%s cannot be created", path), rc;
    rc = open_checked(path, false, false, &db, &immutable, &seen, ret_whole, err);
    if (rc)
        return rc;
    sqlite3_close(db);
    if (access(path, W_OK))
        return fail(err, -errno, "%s cannot be written: %s", path, strerror(errno));
    rc = open_uri(path, "?mode=rw", SQLITE_OPEN_READWRITE, &db, err);
    if (rc)
        return rc;
    rc = set_pragmas(db, err);
    if (!rc)
        rc = migrate(db, MIGRATIONS, VIEWS, err);
    if (rc) {
        sqlite3_close(db);
        return fail_prefix(err, "%s", path), rc;
    }
    *ret = db;
    return 0;
}
