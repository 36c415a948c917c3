/* gpu.c - what processes use of the GPUs, asked of NVML. Its few types are written out here, for its header comes with the
 * CUDA toolkit only. Source: NVML API reference, nvmlDeviceGetComputeRunningProcesses_v3, nvmlDeviceGetUtilizationRates.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/launcher/launcher_private.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>

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

static struct {
    int (*init)(void);
    int (*count)(unsigned *ret);
    int (*device)(unsigned index, nvml_device *ret);
    int (*processes)(nvml_device device, unsigned *n, struct nvml_process *ret);
    int (*rates)(nvml_device device, struct nvml_rates *ret);
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

bool gpu_use(const pid_t *pids, size_t n, double *ret_utilisation, int64_t *ret_memory_bytes)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    unsigned devices = 0, on = 0;
    int64_t memory = 0;
    double sum = 0;

    pthread_once(&once, load);
    if (!nvml.works || nvml.count(&devices))
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
