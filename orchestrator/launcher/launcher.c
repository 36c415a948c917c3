/* launcher.c - the slots of one orchestrator: found once, leased while needed.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/launcher/launcher_private.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <xxhash.h>

/* For tests: N cores, whatever there are. */
static size_t pretended_cores(void)
{
    const char *wanted = getenv("FLEXP_CORES");
    long n = wanted ? strtol(wanted, NULL, 10) : 0;

    return n > 0 && n <= 4096 ? (size_t)n : 0;
}

static int parse_slots(const char *slots, size_t cores, size_t *ret, struct error *err)
{
    size_t quota = pretended_cores() ? 0 : cores_quota();
    char *end;
    long n;

    if (!slots || !*slots || !strcmp(slots, "cpu") || !strcmp(slots, "auto")) {
        *ret = quota && quota < cores ? quota : cores;
        return 0;
    }
    if (!strcmp(slots, "gpu") || !strcmp(slots, "cuda")) {
        *ret = 0;
        return 0;
    }
    errno = 0;
    n = strtol(slots, &end, 10);
    if (errno || end == slots || *end || n < 1)
        return fail(err, -EINVAL, "slots: must be \"cpu\", \"gpu\" or a number from 1, got \"%.40s\"", slots);
    if ((size_t)n > cores)
        return fail(err, -EINVAL, "slots: %ld asked for, but this process may use %zu core%s", n, cores,
                    cores == 1 ? "" : "s");
    *ret = (size_t)n;
    return 0;
}

/* Of the GPUs that are visible, those that can be slots: also where others hold all their memory now, for they go some time, and
 * trials wait until then. */
static int find_gpus(struct launcher *launcher, const char *slots, struct gpu_info **ret, size_t *ret_n, struct error *err)
{
    bool wanted = slots && (!strcmp(slots, "gpu") || !strcmp(slots, "cuda"));
    size_t listed = slots && !strcmp(slots, "cpu") ? 0 : gpu_list(ret), n = 0;

    launcher->checks_n = listed ? gpus_check(*ret, listed, &launcher->checks) : 0;
    if (launcher->checks_n < listed)
        return fail(err, -ENOMEM, "out of memory");
    for (size_t i = 0; i < listed; i++)
        if (launcher->checks[i].verdict != SELF_CHECK_FAILED)
            (*ret)[n++] = (*ret)[i];
    *ret_n = n;
    if (wanted && !n)
        return fail(err, -ENODEV, "slots: no GPU can be used (%s); use \"cpu\" or a number",
                    listed ? launcher->checks[0].text : "NVML lists none that is visible");
    return 0;
}

static void show(struct launcher *launcher, size_t i)
{
    launcher->infos[i] = launcher->slots[i].info;
}

static int make_slots(struct launcher *launcher, const struct core *cores, size_t cores_n, const struct gpu_info *gpus, size_t gpus_n)
{
    size_t n = pretended_cores() ? pretended_cores() : cores_n;

    launcher->slots = calloc(n + gpus_n + 1, sizeof *launcher->slots);
    launcher->infos = calloc(n + gpus_n + 1, sizeof *launcher->infos);
    if (!launcher->slots || !launcher->infos)
        return -ENOMEM;
    launcher->slots_n = n + gpus_n;
    launcher->gpus_n = gpus_n;
    for (size_t i = 0; i < gpus_n; i++) {
        struct slot *slot = &launcher->slots[n + i];
        slot->cpu = cores[i * cores_n / gpus_n].cpu;
        slot->lease = -1;
        slot->info.kind = SLOT_KIND_CUDA;
        slot->info.index = gpus[i].index;
        snprintf(slot->info.name, sizeof slot->info.name, "cuda:%d", gpus[i].index);
        snprintf(slot->info.uuid, sizeof slot->info.uuid, "%s", gpus[i].uuid);
        show(launcher, n + i);
    }
    for (size_t i = 0; i < n; i++) {
        struct slot *slot = &launcher->slots[i];
        slot->cpu = cores[i % cores_n].cpu;
        slot->info.cache = cores[i % cores_n].place.cache;
        slot->info.node = cores[i % cores_n].place.node;
        slot->lease = -1;
        slot->info.kind = SLOT_KIND_CPU;
        slot->info.index = pretended_cores() ? (int)i : slot->cpu;
        snprintf(slot->info.name, sizeof slot->info.name, "cpu:%d", slot->info.index);
        show(launcher, i);
    }
    return 0;
}

static void free_launcher(struct launcher *launcher)
{
    if (!launcher)
        return;
    for (size_t i = 0; i < launcher->slots_n; i++)
        lease_give(launcher->slots[i].lease);
    free(launcher->slots);
    free(launcher->infos);
    free(launcher->checks);
    free(launcher->home);
    free(launcher->lease_folder);
    free(launcher);
}

int launcher_new(uv_loop_t *loop, const char *home, const char *slots, const struct launcher_events *events, void *arg,
                 struct launcher **ret, struct error *err)
{
    struct launcher *launcher = calloc(1, sizeof *launcher);
    struct gpu_info *gpus = NULL;
    struct core *cores = NULL;
    size_t cores_n = 0, gpus_n = 0;
    int rc;

    if (!launcher)
        return fail(err, -ENOMEM, "out of memory");
    launcher->loop = loop;
    launcher->events = *events;
    launcher->arg = arg;
    launcher->home = strdup(home);
    launcher->lease_folder = strdup(lease_folder());
    snprintf(launcher->mark, sizeof launcher->mark, "FLEXP_WORKER=%016llx.",
             (unsigned long long)XXH64(home, strlen(home), 0));
    rc = cores_find(&cores, &cores_n, err);
    if (rc)
        goto out;
    rc = find_gpus(launcher, slots, &gpus, &gpus_n, err);
    if (rc)
        goto out;
    if (!launcher->home || !launcher->lease_folder || make_slots(launcher, cores, cores_n, gpus, gpus_n)) {
        rc = fail(err, -ENOMEM, "out of memory");
        goto out;
    }
    rc = parse_slots(slots, launcher->slots_n - launcher->gpus_n, &launcher->limit, err);
    if (rc)
        goto out;
    /* What a supervisor leaves behind that was itself killed comes to us, see worker.c. */
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    *ret = launcher;
    launcher = NULL;
out:
    free(gpus);
    free(cores);
    free_launcher(launcher);
    return rc;
}

size_t launcher_kill_leftovers(struct launcher *launcher)
{
    return kill_leftovers(launcher->mark);
}

size_t launcher_slots(const struct launcher *launcher, const struct slot_info **ret)
{
    *ret = launcher->infos;
    return launcher->slots_n;
}

size_t launcher_checks(const struct launcher *launcher, const struct gpu_check **ret)
{
    *ret = launcher->checks;
    return launcher->checks_n;
}

size_t launcher_capacity(const struct launcher *launcher, enum slot_kind kind)
{
    return kind == SLOT_KIND_CPU ? launcher->limit : launcher->gpus_n;
}

size_t launcher_lease(struct launcher *launcher)
{
    size_t ours = 0, cores = 0;

    for (size_t i = 0; i < launcher->slots_n; i++) {
        ours += launcher->slots[i].info.ours;
        cores += launcher->slots[i].info.ours && launcher->slots[i].info.kind == SLOT_KIND_CPU;
    }
    for (size_t i = 0; i < launcher->slots_n; i++) {
        struct slot *slot = &launcher->slots[i];
        bool core = slot->info.kind == SLOT_KIND_CPU;
        struct error err = {0};
        char name[96];
        if (slot->info.ours || (core && cores >= launcher->limit))
            continue;
        if (core)
            snprintf(name, sizeof name, "cpu-%d", slot->info.index);
        else
            snprintf(name, sizeof name, "%s", slot->info.uuid);
        slot->info.holder[0] = 0;
        if (lease_take(launcher->lease_folder, name, launcher->home, &slot->lease, slot->info.holder,
                       sizeof slot->info.holder, &err) == 0) {
            slot->info.ours = true;
            slot->info.holder[0] = 0;
            ours++;
            cores += core;
        } else if (!slot->info.holder[0]) {
            snprintf(slot->info.holder, sizeof slot->info.holder, "%s", err.text);
        }
        show(launcher, i);
    }
    return ours;
}

void launcher_unlease(struct launcher *launcher)
{
    for (size_t i = 0; i < launcher->slots_n; i++) {
        struct slot *slot = &launcher->slots[i];
        if (slot->workers)
            continue;
        lease_give(slot->lease);
        slot->lease = -1;
        slot->info.ours = false;
        slot->info.holder[0] = 0;
        show(launcher, i);
    }
}

void launcher_worker_gone(struct launcher *launcher)
{
    void (*closed)(void *arg) = launcher->closed;
    void *arg = launcher->closed_arg;

    if (!launcher->closing || launcher->workers)
        return;
    free_launcher(launcher);
    if (closed)
        closed(arg);
}

void launcher_close(struct launcher *launcher, void (*closed)(void *arg), void *arg)
{
    launcher->closing = true;
    launcher->closed = closed;
    launcher->closed_arg = arg;
    launcher_kill_all(launcher);
    launcher_worker_gone(launcher);
}
