/* home.c - see home.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/cli/home.h"

#include "common/file.h"

#include <limits.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int out_of_memory(struct error *err)
{
    return fail(err, -ENOMEM, "out of memory");
}

/* The real path of the longest part of path (absolute) that exists, then the rest as it stands without "." and "". A
 * ".." behind what does not exist is refused: nobody can say where it would lead. */
static int resolve(const char *path, char **ret, struct error *err)
{
    char *head = strdup(path), *real = NULL, *slash, *joined, *rest, *word, *next;
    size_t tail;
    int code = 0;

    if (!head)
        return out_of_memory(err);
    while (!(real = realpath(head, NULL)) && errno == ENOENT && (slash = strrchr(head, '/')) && slash != head)
        *slash = 0;
    if (!real && errno == ENOENT)
        real = strdup("/");
    if (!real) {
        code = fail(err, -errno, "home %s: %s", path, strerror(errno));
        goto out;
    }
    tail = strlen(head);
    rest = strdup(path + (path[tail] ? tail : strlen(path)));
    for (word = rest; word && code == 0 && *word; word = next) {
        next = word + strcspn(word, "/");
        if (*next)
            *next++ = 0;
        if (!*word || !strcmp(word, "."))
            continue;
        if (!strcmp(word, "..")) {
            code = fail(err, -EINVAL, "home %s: %s does not exist, so '..' leads nowhere", path, real);
            break;
        }
        joined = format_text("%s/%s", strcmp(real, "/") ? real : "", word);
        if (!joined) {
            code = out_of_memory(err);
            break;
        }
        free(real);
        real = joined;
    }
    free(rest);
    if (code == 0) {
        *ret = real;
        real = NULL;
    }
out:
    free(head);
    free(real);
    return code;
}

/* The nearest folder at or above `from` that holds results/flexp.db; NULL when none does. The caller frees. */
static char *search(const char *from)
{
    char *folder = strdup(from), *home, *slash;

    while (folder) {
        char *database = format_text("%s/results/flexp.db", folder);
        bool found = database && file_exists(database);
        free(database);
        if (found) {
            home = format_text("%s/results", folder);
            free(folder);
            return home;
        }
        slash = strrchr(folder, '/');
        if (!slash || !*folder)
            break;
        *slash = 0; /* "/a" becomes "", whose results folder is /results */
    }
    free(folder);
    return NULL;
}

int home_find(const char *option, char **ret, struct error *err)
{
    const char *given = option ? option : getenv("FLEXP_HOME");
    char *here = NULL, *path = NULL;
    int code;

    if (option && !*option)
        return fail(err, -EINVAL, "--home is empty; want a folder");
    if (given && *given == '/')
        return resolve(given, ret, err);
    here = getcwd(NULL, 0);
    if (!here)
        return fail(err, -errno, "the working directory cannot be read (%s); give --home DIR", strerror(errno));
    if (given && *given)
        path = format_text("%s/%s", here, given);
    else if (!(path = search(here)))
        path = format_text("%s/results", here);
    code = path ? resolve(path, ret, err) : out_of_memory(err);
    free(here);
    free(path);
    return code;
}

bool home_is_anothers(const char *home, char *ret, size_t room)
{
    struct passwd *user;
    struct stat st;

    if (geteuid() == 0 || stat(home, &st) || st.st_uid == geteuid())
        return false;
    user = getpwuid(st.st_uid);
    if (user)
        snprintf(ret, room, "%s", user->pw_name);
    else
        snprintf(ret, room, "user %u", (unsigned)st.st_uid);
    return true;
}
