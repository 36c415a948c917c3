/* leases.c - one file per core in one folder per machine; who holds the flock on it may use the core.
 * The files are never removed (a removed file could be locked by two), may belong to any user (so they are opened for
 * reading where they cannot be for writing, and created only with O_EXCL, as sticky folders demand), and hold the pid
 * and home of the holder, for messages alone.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/launcher/launcher_private.h"
#include "common/file.h"

#include <ctype.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

const char *lease_folder(void)
{
    const char *wanted = getenv("FLEXP_LEASES");

    return wanted && *wanted ? wanted : "/tmp/flexp-slots";
}

static int make_folder(const char *folder, struct error *err)
{
    struct stat st;

    if (mkdir(folder, 0777) == 0) {
        if (chmod(folder, 01777))
            return fail(err, -errno, "%s: %s", folder, strerror(errno));
    } else if (errno != EEXIST) {
        return fail(err, -errno, "%s: cannot be made, and the cores are leased there: %s", folder, strerror(errno));
    }
    if (lstat(folder, &st))
        return fail(err, -errno, "%s: %s", folder, strerror(errno));
    if (!S_ISDIR(st.st_mode))
        return fail(err, -ENOTDIR, "%s: is not a folder, and the cores are leased there", folder);
    return 0;
}

static int open_lease(const char *path)
{
    for (int attempt = 0; attempt < 3; attempt++) {
        int fd = open(path, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0 && errno == EACCES)
            fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
        if (fd >= 0 || errno != ENOENT)
            return fd;
        fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
        if (fd >= 0) {
            fchmod(fd, 0666); /* whatever the umask says */
            return fd;
        }
        if (errno != EEXIST)
            return -1;
    }
    return -1;
}

/* "PID HOME\n" as the holder wrote it; another user may have written anything. */
static void read_holder(int fd, char *holder, size_t room)
{
    char text[PATH_MAX + 32];
    ssize_t n = pread(fd, text, sizeof text - 1, 0);
    char *home;
    long pid;

    snprintf(holder, room, "another process");
    if (n <= 0)
        return;
    text[n] = 0;
    text[strcspn(text, "\n")] = 0;
    for (char *at = text; *at; at++)
        if (iscntrl((unsigned char)*at))
            *at = '?';
    pid = strtol(text, &home, 10);
    if (pid > 0 && *home == ' ')
        snprintf(holder, room, "pid %ld, home %s", pid, home + 1);
}

int lease_take(const char *folder, const char *name, const char *home, int *ret_fd, char *holder, size_t room,
               struct error *err)
{
    char path[PATH_MAX];
    char *text;
    int fd, rc = make_folder(folder, err);

    if (rc)
        return rc;
    if ((size_t)snprintf(path, sizeof path, "%s/%s", folder, name) >= sizeof path)
        return fail(err, -ENAMETOOLONG, "%s: the path is too long", folder);
    fd = open_lease(path);
    if (fd < 0)
        return fail(err, -errno, "%s: the lease cannot be opened: %s", path, strerror(errno));
    if (flock(fd, LOCK_EX | LOCK_NB)) {
        rc = -errno;
        if (rc == -EWOULDBLOCK) {
            read_holder(fd, holder, room);
            rc = fail(err, -EBUSY, "%s is held by %s", name, holder);
        } else {
            fail(err, rc, "%s: cannot be locked: %s", path, strerror(-rc));
        }
        close(fd);
        return rc;
    }
    text = format_text("%ld %s\n", (long)getpid(), home);
    if (text && ftruncate(fd, 0) == 0)
        rc = fd_write_all(fd, text, strlen(text)); /* who holds it is a courtesy; the lock is what counts */
    free(text);
    *ret_fd = fd;
    return 0;
}

void lease_give(int fd)
{
    if (fd < 0)
        return;
    if (ftruncate(fd, 0))
        errno = 0; /* opened for reading only: the text is another's */
    close(fd);
}
