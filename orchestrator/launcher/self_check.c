/* self_check.c - which GPUs can be slots: the trainer's self-check in an environment as its worker's would be, on all GPUs at
 * the same time, each on its own.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/launcher/launcher_private.h"

#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LIMIT_MS 60000

struct asked {
    struct gpu_check *check;
    const char *command;
    char said[200];
    pthread_t thread;
    bool started;
};

/* The trainer prints one line where it cannot use the GPU. */
static void keep_line(void *arg, const char *line)
{
    struct asked *asked = arg;

    snprintf(asked->said, sizeof asked->said, "%s", line);
}

/* In one line of UTF-8, whatever the trainer printed. */
static void refuse(struct gpu_check *check, const char *why)
{
    struct error err;

    fail(&err, -ENODEV, "it is no slot: %.200s", why);
    check->verdict = SELF_CHECK_FAILED;
    snprintf(check->text, sizeof check->text, "%s", err.text);
}

static void *ask(void *arg)
{
    struct asked *asked = arg;
    struct gpu_check *check = asked->check;
    char visible[sizeof check->uuid + 32], *text = NULL;
    const char *env[] = {visible, NULL};
    atomic_bool stop = false;

    snprintf(visible, sizeof visible, "CUDA_VISIBLE_DEVICES=%s", check->uuid);
    if (!launcher_run_command(asked->command, env, NULL, LIMIT_MS, &stop, keep_line, asked, &text)) {
        check->verdict = SELF_CHECK_PASSED;
    } else if (text && !strcmp(text, "exit code 4")) {
        check->verdict = SELF_CHECK_FULL;
        snprintf(check->text, sizeof check->text, "other processes hold all its memory: trials wait until they go");
    } else {
        refuse(check, *asked->said ? asked->said : text ? text : "out of memory");
    }
    free(text);
    return NULL;
}

size_t gpus_check(const struct gpu_info *gpus, size_t n, struct gpu_check **ret)
{
    struct asked *asked = calloc(n + 1, sizeof *asked);
    struct gpu_check *checks = calloc(n + 1, sizeof *checks);
    char trainer[PATH_MAX] = "", command[PATH_MAX + 64];
    struct error err;
    bool found;

    if (!asked || !checks) {
        free(asked);
        free(checks);
        *ret = NULL;
        return 0;
    }
    found = !trainer_path(trainer, sizeof trainer, &err);
    snprintf(command, sizeof command, "exec '%s' selftest --backend cuda --no-checks 2>&1", trainer);
    for (size_t i = 0; i < n; i++) {
        checks[i].index = gpus[i].index;
        snprintf(checks[i].uuid, sizeof checks[i].uuid, "%s", gpus[i].uuid);
        asked[i] = (struct asked){.check = &checks[i], .command = command};
        if (!found)
            refuse(&checks[i], err.text);
        else if (!(asked[i].started = !pthread_create(&asked[i].thread, NULL, ask, &asked[i])))
            ask(&asked[i]);
    }
    for (size_t i = 0; i < n; i++)
        if (asked[i].started)
            pthread_join(asked[i].thread, NULL);
    free(asked);
    *ret = checks;
    return n;
}
