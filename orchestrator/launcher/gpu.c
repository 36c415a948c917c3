/* gpu.c - the GPUs and what processes use of them, asked of NVML. Its few types are written out here, for its header
 * comes with the CUDA toolkit only. Source: NVML API reference, nvmlDeviceGetComputeRunningProcesses_v3,
 * nvmlDeviceGetUtilizationRates, nvmlDeviceGetMemoryInfo, nvmlDeviceGetUUID. SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/launcher/launcher_private.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PROCESSES_MAX 256

typedef struct nvml_device *nvml_device;
struct nvml_process {
    unsigned pid;
    unsigned long long memory_bytes;
    unsigned instance, compute_instance;
};
struct nvml_rates {
    unsigned gpu, memory; /* percent */
};
struct nvml_memory {
    unsigned long long total, free, used;
};

static struct {
    int (*init)(void);
    int (*count)(unsigned *ret);
    int (*device)(unsigned index, nvml_device *ret);
    int (*processes)(nvml_device device, unsigned *n, struct nvml_process *ret);
    int (*rates)(nvml_device device, struct nvml_rates *ret);
    int (*uuid)(nvml_device device, char *ret, unsigned size);
    int (*name)(nvml_device device, char *ret, unsigned size);
    int (*memory)(nvml_device device, struct nvml_memory *ret);
    bool works;
} nvml; /* set once */

static void load(void)
{
    const char *path = getenv("FLEXP_NVML");
    void *handle = dlopen(path && *path ? path : "libnvidia-ml.so.1", RTLD_NOW);

    if (!handle)
        return;
    *(void **)&nvml.init = dlsym(handle, "nvmlInit_v2");
    *(void **)&nvml.count = dlsym(handle, "nvmlDeviceGetCount_v2");
    *(void **)&nvml.device = dlsym(handle, "nvmlDeviceGetHandleByIndex_v2");
    *(void **)&nvml.processes = dlsym(handle, "nvmlDeviceGetComputeRunningProcesses_v3");
    *(void **)&nvml.rates = dlsym(handle, "nvmlDeviceGetUtilizationRates");
    *(void **)&nvml.uuid = dlsym(handle, "nvmlDeviceGetUUID");
    *(void **)&nvml.name = dlsym(handle, "nvmlDeviceGetName");
    *(void **)&nvml.memory = dlsym(handle, "nvmlDeviceGetMemoryInfo");
    nvml.works = nvml.init && nvml.count && nvml.device && nvml.processes && nvml.rates && nvml.init() == 0;
}

/* Memory that the processes hold on a device; negative: none of them is there. */
static int64_t memory_on(nvml_device device, const pid_t *pids, size_t n)
{
    struct nvml_process list[PROCESSES_MAX];
    unsigned found = PROCESSES_MAX;
    int64_t sum = -1;

    if (nvml.processes(device, &found, list))
        return -1;
    for (unsigned i = 0; i < found && i < PROCESSES_MAX; i++)
        for (size_t k = 0; k < n; k++)
            if (list[i].pid == (unsigned)pids[k]) /* all ones: the driver does not know */
                sum = (sum < 0 ? 0 : sum) + (list[i].memory_bytes == ~0ULL ? 0 : (int64_t)list[i].memory_bytes);
    return sum;
}

static bool works(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    pthread_once(&once, load);
    return nvml.works;
}

/* CUDA_VISIBLE_DEVICES: indexes or the beginnings of UUIDs; what comes behind a wrong entry does not count, as in CUDA.
 */
bool gpu_is_visible(const char *visible, unsigned index, const char *uuid)
{
    while (visible && *visible) {
        size_t length = strcspn(visible, ",");
        char *end;
        unsigned long number = strtoul(visible, &end, 10);
        bool is_number = end > visible && (*end == ',' || !*end);
        if (is_number ? number == index : length >= 4 && !strncmp(uuid, visible, length))
            return true;
        if (!is_number && strncmp(visible, "GPU-", 4) != 0)
            return false;
        visible += length + (visible[length] == ',');
    }
    return !visible;
}

static void ask_one(nvml_device device, unsigned index, struct gpu_info *ret)
{
    struct nvml_process list[PROCESSES_MAX];
    struct nvml_memory memory = {0, 0, 0};
    unsigned found = PROCESSES_MAX;

    *ret = (struct gpu_info){.index = (int)index};
    if (nvml.uuid(device, ret->uuid, sizeof ret->uuid))
        snprintf(ret->uuid, sizeof ret->uuid, "?");
    if (nvml.name(device, ret->name, sizeof ret->name))
        snprintf(ret->name, sizeof ret->name, "?");
    if (!nvml.memory(device, &memory)) {
        ret->total_bytes = (int64_t)memory.total;
        ret->used_bytes = (int64_t)memory.used;
    }
    if (nvml.processes(device, &found, list))
        found = 0;
    for (unsigned i = 0; i < found && i < GPU_PROCESSES; i++) {
        ret->processes[ret->processes_n].pid = (int)list[i].pid;
        ret->processes[ret->processes_n++].bytes = list[i].memory_bytes == ~0ULL ? -1 : (int64_t)list[i].memory_bytes;
    }
}

size_t gpu_list(struct gpu_info **ret)
{
    unsigned devices = 0;
    size_t n = 0;

    *ret = NULL;
    if (!works() || !nvml.uuid || !nvml.name || !nvml.memory || nvml.count(&devices) || !devices)
        return 0;
    *ret = calloc(devices, sizeof **ret);
    for (unsigned i = 0; *ret && i < devices; i++) {
        nvml_device device;
        if (nvml.device(i, &device))
            continue;
        ask_one(device, i, &(*ret)[n]);
        n += gpu_is_visible(getenv("CUDA_VISIBLE_DEVICES"), i, (*ret)[n].uuid);
    }
    return n;
}

bool gpu_use(const pid_t *pids, size_t n, double *ret_utilisation, int64_t *ret_memory_bytes)
{
    unsigned devices = 0, on = 0;
    int64_t memory = 0;
    double sum = 0;

    if (!works() || nvml.count(&devices))
        return false;
    for (unsigned i = 0; i < devices; i++) {
        struct nvml_rates rates = {0, 0};
        nvml_device device;
        int64_t here = nvml.device(i, &device) ? -1 : memory_on(device, pids, n);
        if (here < 0)
            continue;
        memory += here;
        if (!nvml.rates(device, &rates))
            sum += (double)rates.gpu / 100;
        on++;
    }
    if (!on)
        return false;
    *ret_utilisation = sum / on;
    *ret_memory_bytes = memory;
    return true;
}
