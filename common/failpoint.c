/* failpoint.c - see failpoint.h. The environment is read once, into a table of this process.
 * SPDX-License-Identifier: Apache-2.0 */
#include "common/failpoint.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define POINTS_MAX 8

static struct {
    char name[64];
    _Atomic long left; /* dies when it reaches 0 */
} points[POINTS_MAX];
static int points_n;
static pthread_once_t read_once = PTHREAD_ONCE_INIT;

static void read_environment(void)
{
    const char *at = getenv("FLEXP_FAILPOINT");

    while (at && *at && points_n < POINTS_MAX) {
        size_t n = strcspn(at, ",");
        char item[80];
        char *colon;
        snprintf(item, sizeof item, "%.*s", (int)n, at);
        colon = strchr(item, ':');
        if (colon)
            *colon = 0;
        snprintf(points[points_n].name, sizeof points[points_n].name, "%.63s", item);
        points[points_n].left = colon && atol(colon + 1) > 0 ? atol(colon + 1) : 1;
        points_n++;
        at += n + (at[n] == ',');
    }
}

static void die(void)
{
    const char *once = getenv("FLEXP_FAILPOINT_ONCE");

    if (once && *once && open(once, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600) < 0)
        return;
    kill(getpid(), SIGKILL);
    for (;;)
        pause();
}

void failpoint(const char *name)
{
    pthread_once(&read_once, read_environment);
    for (int i = 0; i < points_n; i++)
        if (!strcmp(points[i].name, name) && atomic_fetch_sub(&points[i].left, 1) == 1)
            die();
}
