/* nvml_fake.c - a library as NVML's for test_watch.py and test_gpus.py: two GPUs of 80 and 24 GiB, 1 GiB of which the process named in FLEXP_TEST_GPU_PID's file
 * holds on the second, 40% busy.
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <stdlib.h>

struct process {
    unsigned pid;
    unsigned long long memory;
    unsigned instance, compute_instance;
};

int nvmlInit_v2(void)
{
    return 0;
}

int nvmlDeviceGetCount_v2(unsigned *ret)
{
    *ret = 2;
    return 0;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **ret)
{
    *ret = (void *)(size_t)(index + 1);
    return 0;
}

int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned *n, struct process *ret)
{
    const char *path = getenv("FLEXP_TEST_GPU_PID");
    FILE *file = path ? fopen(path, "r") : NULL;

    *n = 0;
    if (file && device == (void *)2 && fscanf(file, "%u", &ret[0].pid) == 1) {
        ret[0].memory = 1ull << 30;
        *n = 1;
    }
    if (file)
        fclose(file);
    return 0;
}

int nvmlDeviceGetUUID(void *device, char *ret, unsigned size)
{
    snprintf(ret, size, "GPU-%08x-0000-1111-2222-333344445555", (unsigned)(size_t)device);
    return 0;
}

int nvmlDeviceGetName(void *device, char *ret, unsigned size)
{
    snprintf(ret, size, "Fake GPU %u", (unsigned)(size_t)device);
    return 0;
}

int nvmlDeviceGetMemoryInfo(void *device, unsigned long long *ret)
{
    ret[0] = device == (void *)1 ? 80ull << 30 : 24ull << 30;
    ret[2] = device == (void *)1 ? 0 : 3ull << 30;
    ret[1] = ret[0] - ret[2];
    return 0;
}

int nvmlDeviceGetUtilizationRates(void *device, unsigned *ret)
{
    ret[0] = device == (void *)2 ? 40 : 90;
    ret[1] = 10;
    return 0;
}
