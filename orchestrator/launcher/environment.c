/* environment.c - the environment that workers get, made anew so that nothing of the caller's leaks into a trial; and
 * which programs are meant.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/launcher/launcher_private.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

extern char **environ;

static const char *const KEPT[] = {"PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", NULL};

static bool is_kept(const char *entry)
{
    if (!strncmp(entry, "FLEXP_", 6))
        return true;
    for (size_t i = 0; KEPT[i]; i++) {
        size_t n = strlen(KEPT[i]);
        if (!strncmp(entry, KEPT[i], n) && entry[n] == '=')
            return true;
    }
    return false;
}

/* Takes ownership of entry; one of the same name is replaced. */
static int set(char **list, size_t *n, char *entry)
{
    size_t name;

    if (!entry)
        return -ENOMEM;
    name = strcspn(entry, "=") + 1;
    for (size_t i = 0; i < *n; i++)
        if (!strncmp(list[i], entry, name)) {
            free(list[i]);
            list[i] = entry;
            return 0;
        }
    list[(*n)++] = entry;
    list[*n] = NULL;
    return 0;
}

char **environment_new(const char *const *extra)
{
    size_t room = 2, n = 0;
    char **list;
    int rc = 0;

    for (char **at = environ; at && *at; at++)
        room++;
    for (const char *const *at = extra; at && *at; at++)
        room++;
    list = calloc(room, sizeof *list);
    if (!list)
        return NULL;
    for (char **at = environ; at && *at && !rc; at++)
        if (is_kept(*at))
            rc = set(list, &n, strdup(*at));
    if (!rc && !getenv("PATH"))
        rc = set(list, &n, strdup("PATH=/usr/local/bin:/usr/bin:/bin"));
    for (const char *const *at = extra; at && *at && !rc; at++)
        rc = set(list, &n, strdup(*at));
    if (rc) {
        environment_free(list);
        return NULL;
    }
    return list;
}

void environment_free(char **environment)
{
    for (char **at = environment; at && *at; at++)
        free(*at);
    free(environment);
}

const char *supervisor_path(void)
{
    const char *wanted = getenv("FLEXP_SUPERVISOR");

    return wanted && *wanted ? wanted : "/proc/self/exe";
}

int trainer_path(char *ret, size_t room, struct error *err)
{
    const char *wanted = getenv("FLEXP_TRAINER");
    char self[PATH_MAX], path[PATH_MAX + 16];
    ssize_t n;
    char *slash;

    if (wanted && *wanted) {
        snprintf(path, sizeof path, "%s", wanted);
    } else {
        n = readlink("/proc/self/exe", self, sizeof self - 1);
        if (n <= 0)
            return fail(err, -errno, "/proc/self/exe: %s", strerror(errno));
        self[n] = 0;
        slash = strrchr(self, '/');
        *(slash ? slash : self) = 0;
        snprintf(path, sizeof path, "%s/flexp-trainer", self);
    }
    if (access(path, X_OK))
        return fail(err, -errno, "the trainer %s cannot be run: %s (set FLEXP_TRAINER to where it is)", path,
                    strerror(errno));
    if (strlen(path) >= room)
        return fail(err, -ENAMETOOLONG, "%s: the path is too long", path);
    memcpy(ret, path, strlen(path) + 1);
    return 0;
}
