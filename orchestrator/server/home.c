/* home.c - the lock that makes one orchestrator per home, which home that is, and where its socket is.
 * The lock's file says the pid and the socket's path, so that a client whose environment names another runtime folder
 * (a cron job, an ssh session) finds the same socket. A copied home has a copy of that text, so the greeting says by
 * device and inode which lock the orchestrator holds: that is the home it serves, wherever its path leads by now.
 * SPDX-License-Identifier: Apache-2.0 */
#include "common/file.h"
#include "orchestrator/server/server_private.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include <xxhash.h>

#define SOCKET_ROOM (sizeof((struct sockaddr_un *)NULL)->sun_path)

int home_lock(const char *home, int *ret_fd, struct error *err)
{
    char path[PATH_MAX], text[32] = "";
    int fd, rc;

    if ((size_t)snprintf(path, sizeof path, "%s/lock", home) >= sizeof path)
        return fail(err, -ENAMETOOLONG, "%s: the path is too long", home);
    fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return fail(err, -errno, "%s: %s", path, strerror(errno));
    if (flock(fd, LOCK_EX | LOCK_NB) == 0) {
        *ret_fd = fd;
        return 0;
    }
    rc = -errno;
    if (rc == -EWOULDBLOCK) {
        if (pread(fd, text, sizeof text - 1, 0) < 0)
            text[0] = 0;
        rc = fail(err, -EBUSY, "an orchestrator (pid %ld) is running for %s already", strtol(text, NULL, 10), home);
    } else {
        fail(err, rc, "%s: cannot be locked: %s", path, strerror(-rc));
    }
    close(fd);
    return rc;
}

bool home_was_left(int fd)
{
    struct stat st;

    return fstat(fd, &st) == 0 && st.st_size > 0;
}

int home_write_lock(int fd, const char *socket, struct error *err)
{
    char *text = format_text("%ld\n%s\n", (long)getpid(), socket);
    int rc = text ? 0 : -ENOMEM;

    if (!rc && (ftruncate(fd, 0) || lseek(fd, 0, SEEK_SET) < 0))
        rc = -errno;
    if (!rc)
        rc = fd_write_all(fd, text, strlen(text));
    free(text);
    return rc ? fail(err, rc, "the home's lock cannot be written: %s", strerror(-rc)) : 0;
}

static bool stat_lock(const char *home, struct stat *ret)
{
    char path[PATH_MAX];

    return (size_t)snprintf(path, sizeof path, "%s/lock", home) < sizeof path && stat(path, ret) == 0;
}

static void mark_of(const struct stat *lock, char ret[HOME_MARK_ROOM])
{
    snprintf(ret, HOME_MARK_ROOM, "%llx:%llx", (unsigned long long)lock->st_dev, (unsigned long long)lock->st_ino);
}

void home_mark(int fd, char ret[HOME_MARK_ROOM])
{
    struct stat st = {0};

    fstat(fd, &st);
    mark_of(&st, ret);
}

bool server_serves(const char *home, const char *mark)
{
    char own[HOME_MARK_ROOM];
    struct stat st;

    if (!stat_lock(home, &st))
        return false;
    mark_of(&st, own);
    return !strcmp(own, mark);
}

int home_check(const char *home, int fd, struct error *err)
{
    static const char DELETED[] = " (deleted)";
    char held[HOME_MARK_ROOM], link[40], now[PATH_MAX] = "", *slash;

    home_mark(fd, held);
    errno = ENOENT; /* another's lock is there */
    if (server_serves(home, held) || (errno != ENOENT && errno != ENOTDIR))
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    if (readlink(link, now, sizeof now - 1) < 0)
        now[0] = 0;
    slash = strrchr(now, '/');
    if (slash && !strcmp(slash, "/lock"))
        *slash = 0;
    if (slash && !*slash && strcmp(now, home) != 0)
        return fail(err, -ESHUTDOWN,
                    "%s was moved to %s while its orchestrator ran, which goes down: `flexp up --home %s` goes on there",
                    home, now, now);
    return fail(err, -ESHUTDOWN, "%s, or the file lock in it, was %s while its orchestrator ran, which goes down", home,
                strstr(now, DELETED) ? "removed" : "moved");
}

/* What another user could have put there is not trusted. */
static int check_folder(const char *path, bool make, struct error *err)
{
    struct stat st;

    if (make && mkdir(path, 0700) && errno != EEXIST)
        return fail(err, -errno, "%s: %s", path, strerror(errno));
    if (lstat(path, &st))
        return errno == ENOENT && !make ? 0 : fail(err, -errno, "%s: %s", path, strerror(errno));
    if (!S_ISDIR(st.st_mode))
        return fail(err, -ENOTDIR, "%s: is not a folder, and the orchestrator's socket belongs there", path);
    if (st.st_uid != getuid())
        return fail(err, -EPERM, "%s: belongs to user %u, not to you, and the orchestrator's socket belongs there",
                    path, st.st_uid);
    if ((st.st_mode & 077) && (!make || chmod(path, 0700)))
        return fail(err, -EPERM,
                    "%s: others may enter it (mode %o; 700 is right), and the orchestrator's socket belongs there",
                    path, st.st_mode & 0777);
    return 0;
}

static int place_socket(const char *home, bool make, char *ret, size_t room, struct error *err)
{
    const char *runtime = getenv("XDG_RUNTIME_DIR");
    char real[PATH_MAX], folder[64], mark[HOME_MARK_ROOM];
    unsigned long long hash;
    size_t limit = room < SOCKET_ROOM ? room : SOCKET_ROOM;
    struct stat st;
    int rc;

    if (!realpath(home, real))
        snprintf(real, sizeof real, "%s", home);
    hash = (unsigned long long)XXH64(real, strlen(real), 0);
    if (stat_lock(home, &st)) { /* one that is still about to go from a home that was here before has another */
        mark_of(&st, mark);
        hash = (unsigned long long)XXH64(mark, strlen(mark), hash);
    }
    if (runtime && *runtime == '/' && stat(runtime, &st) == 0 && S_ISDIR(st.st_mode) && st.st_uid == getuid() &&
        access(runtime, W_OK) == 0 &&
        (size_t)snprintf(ret, limit, "%s/flexp-%016llx.sock", runtime, hash) < limit)
        return 0;
    snprintf(folder, sizeof folder, "/tmp/flexp-%u", getuid());
    rc = check_folder(folder, make, err);
    if (rc)
        return rc;
    if ((size_t)snprintf(ret, limit, "%s/%016llx.sock", folder, hash) >= limit)
        return fail(err, -ENAMETOOLONG, "%s: no room for the socket's path", folder);
    return 0;
}

int home_new_socket(const char *home, char *ret, size_t room, struct error *err)
{
    return place_socket(home, true, ret, room, err);
}

int server_socket_path(const char *home, char *ret, size_t room, struct error *err)
{
    char path[PATH_MAX], text[512] = "", *line, *end;
    struct stat st;
    int fd;
    ssize_t n;

    snprintf(path, sizeof path, "%s/lock", home);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    n = fd < 0 ? 0 : read(fd, text, sizeof text - 1);
    if (fd >= 0)
        close(fd);
    text[n > 0 ? n : 0] = 0;
    line = strchr(text, '\n');
    end = line ? strchr(line + 1, '\n') : NULL;
    if (end && line[1] == '/' && (size_t)(end - line - 1) < room) {
        *end = 0;
        if (lstat(line + 1, &st) == 0 && S_ISSOCK(st.st_mode) && st.st_uid == getuid()) {
            memcpy(ret, line + 1, (size_t)(end - line));
            return 0;
        }
    }
    return place_socket(home, false, ret, room, err);
}
