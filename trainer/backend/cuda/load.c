/* load.c - opens flexp-cuda.so: FLEXP_CUDA, beside the executable, ../lib/flexp of it.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cuda/cuda.h"
#include "trainer/backend/cuda/driver.h"

#include <dlfcn.h>
#include <libgen.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define NAME "flexp-cuda.so"

static struct {
    pthread_once_t once;
    const struct driver *driver;
    struct error err;
} loaded = {.once = PTHREAD_ONCE_INIT};

static void *open_at(const char *path)
{
    void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);

    if (!handle && !access(path, F_OK)) /* it is there, but something that it needs is not */
        fail(&loaded.err, -ENODEV, "%s", dlerror());
    return handle;
}

static void load(void)
{
    static const char *const PLACES[] = {"%s/" NAME, "%s/../lib/flexp/" NAME};
    const char *named = getenv("FLEXP_CUDA");
    char self[4096] = "", path[4200], *folder;
    ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
    void *handle = NULL;

    fail(&loaded.err, -ENODEV, "this build has no CUDA backend (" NAME " is built where nvcc is found)");
    if (named && *named) {
        handle = open_at(named);
    } else if (length > 0) {
        self[length] = 0;
        folder = dirname(self);
        for (size_t i = 0; i < 2 && !handle; i++) {
            snprintf(path, sizeof path, PLACES[i], folder);
            handle = open_at(path);
        }
    }
    if (!handle)
        return;
    loaded.driver = dlsym(handle, DRIVER_SYMBOL);
    if (!loaded.driver || loaded.driver->api_version != DRIVER_API_VERSION) {
        loaded.driver = NULL;
        fail(&loaded.err, -ENODEV, NAME " is of another version of flexp");
    }
}

int cuda_driver(const struct driver **ret, struct error *err)
{
    pthread_once(&loaded.once, load);
    if (!loaded.driver)
        return fail(err, -ENODEV, "%s", loaded.err.text);
    *ret = loaded.driver;
    return 0;
}
