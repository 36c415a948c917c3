/* driver.c - the table of driver.h over the CUDA runtime.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cuda/device/device.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

int cuda_fail(struct error *err, cudaError_t status, const char *what)
{
    if (status == cudaSuccess)
        return 0;
    cudaGetLastError(); /* what is not sticky is over with this report */
    if (status == cudaErrorMemoryAllocation)
        return fail(err, -ENOMEM, "out of GPU memory (%s)", what);
    return fail(err, -EIO, "CUDA: %s: %s (%s)", cudaGetErrorName(status), cudaGetErrorString(status), what);
}

int open_library(const char *const *names, const struct symbol *symbols, struct error *err)
{
    void *handle = NULL;

    for (size_t i = 0; names[i] && !handle; i++)
        handle = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    if (!handle)
        return fail(err, -ENOTSUP, "%s", dlerror());
    for (; symbols->name; symbols++) {
        *(void **)symbols->to = dlsym(handle, symbols->name);
        if (!*(void **)symbols->to)
            return fail(err, -ENOTSUP, "%s has no %s", names[0], symbols->name);
    }
    return 0;
}

static void uuid_text(const struct cudaDeviceProp *prop, char *text, size_t size)
{
    const unsigned char *b = (const unsigned char *)prop->uuid.bytes;

    snprintf(text, size, "GPU-%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", b[0], b[1], b[2],
             b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]);
}

static int count_devices(int *ret, struct error *err)
{
    const char *visible = getenv("CUDA_VISIBLE_DEVICES");
    cudaError_t status = cudaGetDeviceCount(ret);

    if (status == cudaErrorInsufficientDriver) {
        int driver = 0;
        cudaDriverGetVersion(&driver);
        cudaGetLastError();
        if (!driver)
            return fail(err, -ENODEV, "no NVIDIA driver is installed");
        return fail(err, -ENODEV, "the NVIDIA driver is for CUDA %d.%d, and this build needs %d.%d", driver / 1000,
                    driver % 1000 / 10, CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
    }
    if (status == cudaErrorNoDevice || (status == cudaSuccess && !*ret)) {
        cudaGetLastError();
        if (visible)
            return fail(err, -ENODEV, "no GPU is visible (CUDA_VISIBLE_DEVICES is \"%s\")", visible);
        return fail(err, -ENODEV, "no GPU is there");
    }
    if (status != cudaSuccess) {
        cuda_fail(err, status, "counting GPUs");
        return -ENODEV;
    }
    return 0;
}

/* A small kernel computes what is known. */
static int self_check(struct device *d, struct error *err)
{
    float from[64], to[64] = {0}, *memory = NULL;
    struct spread_args a = {.count = 64, .n = 64};
    int rc;

    for (int i = 0; i < 64; i++)
        from[i] = (float)i + 0.5f;
    if ((rc = cuda_fail(err, cudaMalloc((void **)&memory, 2 * sizeof from), "self-check")))
        return rc;
    a.from = memory;
    a.to = memory + 64;
    if (!(rc = cuda_fail(err, cudaMemcpyAsync(memory, from, sizeof from, cudaMemcpyHostToDevice, d->stream),
                         "self-check")) &&
        !(rc = cuda_fail(err, cuda_launch(d->stream, KERNEL_spread, &a, sizeof a), "self-check")) &&
        !(rc = cuda_fail(err, cudaMemcpyAsync(to, a.to, sizeof to, cudaMemcpyDeviceToHost, d->stream), "self-check")) &&
        !(rc = cuda_fail(err, cudaStreamSynchronize(d->stream), "self-check")) && memcmp(from, to, sizeof from) != 0)
        rc = fail(err, -ENODEV, "%s does not pass the self-check", d->prop.name);
    cudaFree(memory);
    return rc;
}

static void device_close(struct device *d)
{
    if (!d)
        return;
    if (d->stream)
        enter(d);
    link_free(d);
    if (d->stream)
        cudaStreamSynchronize(d->stream);
    cudnn_close(d);
    cublas_close(d);
    for (int i = 0; i < 2; i++)
        if (d->events[i])
            cudaEventDestroy(d->events[i]);
    if (d->stream)
        cudaStreamDestroy(d->stream);
    free(d->blocks);
    free(d);
}

static int find_device(int index, const char *uuid, struct device *d, struct error *err)
{
    int n, rc = count_devices(&n, err);

    if (rc)
        return rc;
    for (d->index = uuid ? 0 : index < 0 ? 0 : index; d->index < n; d->index++) {
        if ((rc = cuda_fail(err, cudaGetDeviceProperties(&d->prop, d->index), "asking a GPU")))
            return rc;
        uuid_text(&d->prop, d->info.uuid, sizeof d->info.uuid);
        if (!uuid || !strcmp(uuid, d->info.uuid))
            return 0;
    }
    if (uuid)
        return fail(err, -ENODEV, "there is no GPU %s", uuid);
    return fail(err, -ENODEV, "there is no GPU %d: %d are visible", index, n);
}

/* No call of it makes a context. */
static void describe(struct device *d)
{
    snprintf(d->info.name, sizeof d->info.name, "%s", d->prop.name);
    snprintf(d->info.isa, sizeof d->info.isa, "sm_%d%d", d->prop.major, d->prop.minor);
    d->info.total_bytes = d->prop.totalGlobalMem;
    d->info.runtime_version = CUDART_VERSION;
    cudaDriverGetVersion(&d->info.driver_version);
}

static int device_look(int index, const char *uuid, struct device_info *ret, struct error *err)
{
    struct device d = {0};
    int rc = find_device(index, uuid, &d, err);

    if (rc)
        return rc == -EIO ? -ENODEV : rc;
    describe(&d);
    *ret = d.info;
    return 0;
}

static int device_open(int index, const char *uuid, struct device **ret, struct error *err)
{
    struct device *d = calloc(1, sizeof *d);
    struct error ignored;
    int rc;

    if (!d)
        return fail(err, -ENOMEM, "out of memory");
    if ((rc = link_new(d, err)) || (rc = find_device(index, uuid, d, err)))
        goto out;
    if (d->prop.major < 8) {
        rc = fail(err, -ENODEV, "%s has compute capability %d.%d; 8.0 or later is needed", d->prop.name, d->prop.major,
                  d->prop.minor);
        goto out;
    }
    if ((rc = cuda_fail(err, cudaSetDevice(d->index), "opening a GPU")) ||
        (rc = cuda_fail(err, cudaStreamCreateWithFlags(&d->stream, cudaStreamNonBlocking), "opening a GPU")) ||
        (rc = cuda_fail(err, cudaEventCreate(&d->events[0]), "opening a GPU")) ||
        (rc = cuda_fail(err, cudaEventCreate(&d->events[1]), "opening a GPU")) ||
        (rc = cuda_fail(err, cuda_load_count_down(), "opening a GPU")) || (rc = self_check(d, err)))
        goto out;
    describe(d);
    /* Without them the own kernels compute everything. */
    d->info.has_cublas = !cublas_open(d, &ignored);
    d->info.has_cudnn = !cudnn_open(d, &ignored);
out:
    if (rc) {
        device_close(d);
        return rc == -EIO ? -ENODEV : rc;
    }
    *ret = d;
    return 0;
}

static void device_info(const struct device *d, struct device_info *ret)
{
    *ret = d->info;
}

static int device_memory(struct device *d, size_t *ret_free, size_t *ret_total, struct error *err)
{
    enter(d);
    return cuda_fail(err, cudaMemGetInfo(ret_free, ret_total), "asking for memory");
}

static size_t device_own(const struct device *d)
{
    return d->own_bytes;
}

static int room_for_block(struct device *d, struct error *err)
{
    size_t room = d->blocks_room ? 2 * d->blocks_room : 64;
    struct block *grown;

    if (d->blocks_n < d->blocks_room)
        return 0;
    grown = realloc(d->blocks, room * sizeof *grown);
    if (!grown)
        return fail(err, -ENOMEM, "out of memory");
    d->blocks = grown;
    d->blocks_room = room;
    return 0;
}

static int device_alloc(struct device *d, size_t bytes, void **ret, struct error *err)
{
    char what[64];
    void *memory;
    int rc = room_for_block(d, err);

    enter(d);
    snprintf(what, sizeof what, "%zu MiB", bytes >> 20);
    if (rc || (rc = cuda_fail(err, cudaMalloc(&memory, bytes ? bytes : 1), what)))
        return rc;
    d->blocks[d->blocks_n++] = (struct block){memory, bytes};
    d->own_bytes += bytes;
    *ret = memory;
    return 0;
}

static void device_release(struct device *d, void *memory)
{
    size_t i = d->blocks_n;

    if (!memory)
        return;
    enter(d);
    cudaFree(memory);
    while (i && d->blocks[i - 1].memory != memory)
        i--;
    d->own_bytes -= d->blocks[i - 1].bytes;
    d->blocks[i - 1] = d->blocks[--d->blocks_n];
}

static int device_upload(struct device *d, void *to, const void *from, size_t bytes, struct error *err)
{
    int rc;

    enter(d);
    rc = bytes ? cuda_fail(err, cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, d->stream), "upload") : 0;
    /* Pageable memory is staged before that returns, but where the GPU reads it as it is; callers write it again. */
    if (!rc && bytes && d->prop.pageableMemoryAccessUsesHostPageTables)
        rc = cuda_fail(err, cudaStreamSynchronize(d->stream), "upload");
    return rc;
}

static int device_download(struct device *d, void *to, const void *from, size_t bytes, struct error *err)
{
    int rc;

    enter(d);
    rc = bytes ? cuda_fail(err, cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, d->stream), "download") : 0;
    return rc ? rc : cuda_fail(err, cudaStreamSynchronize(d->stream), "download");
}

static int device_pin(struct device *d, size_t bytes, void **ret, struct error *err)
{
    cudaError_t status;

    enter(d);
    status = cudaHostAlloc(ret, bytes ? bytes : 1, cudaHostAllocDefault);
    if (status == cudaErrorMemoryAllocation) {
        cudaGetLastError();
        return fail(err, -ENOMEM, "out of memory: %zu bytes that a GPU reads cannot be pinned", bytes);
    }
    return cuda_fail(err, status, "pinning memory");
}

static void device_unpin(struct device *d, void *pinned)
{
    enter(d);
    if (pinned)
        cudaFreeHost(pinned);
}

static int device_copy_in(struct device *d, void *to, const void *pinned, size_t bytes, struct error *err)
{
    enter(d);
    return bytes ? cuda_fail(err, cudaMemcpyAsync(to, pinned, bytes, cudaMemcpyHostToDevice, d->stream), "copy") : 0;
}

static int device_copy_out(struct device *d, void *pinned, const void *from, size_t bytes, struct error *err)
{
    enter(d);
    return bytes ? cuda_fail(err, cudaMemcpyAsync(pinned, from, bytes, cudaMemcpyDeviceToHost, d->stream), "copy") : 0;
}

static int device_clear(struct device *d, void *memory, size_t bytes, struct error *err)
{
    enter(d);
    return bytes ? cuda_fail(err, cudaMemsetAsync(memory, 0, bytes, d->stream), "clearing memory") : 0;
}

static int device_launch(struct device *d, enum kernel kernel, const void *args, size_t size, struct error *err)
{
#define NAME(name, type) #name,
    static const char *const NAMES[] = {KERNELS(NAME)};

    enter(d);
    return cuda_fail(err, cuda_launch(d->stream, kernel, args, size), NAMES[kernel]);
}

static int device_gemm(struct device *d, const struct gemm_args *args, struct error *err)
{
    static const char *const NAMES[] = {"product, forward", "product, data", "product, weights"};

    enter(d);
    return cuda_fail(err, cuda_gemm(d->stream, args), NAMES[args->mode]);
}

static int device_shared_sum(struct device *d, const struct shared_sum_args *args, struct error *err)
{
    enter(d);
    return cuda_fail(err, cuda_shared_sum(d->stream, args), "sum over factors");
}

static int device_wait(struct device *d, struct error *err)
{
    enter(d);
    return cuda_fail(err, cudaStreamSynchronize(d->stream), "waiting");
}

static int mark(struct device *d, int which, struct error *err)
{
    enter(d);
    return cuda_fail(err, cudaEventRecord(d->events[which & 1], d->stream), "clock");
}

static int seconds(struct device *d, double *ret, struct error *err)
{
    float ms = 0;
    int rc;

    enter(d);
    rc = cuda_fail(err, cudaEventSynchronize(d->events[1]), "clock");
    rc = rc ? rc : cuda_fail(err, cudaEventElapsedTime(&ms, d->events[0], d->events[1]), "clock");
    *ret = (double)ms / 1000;
    return rc;
}

/* libraries */

int clear_dead_rows(struct device *d, const struct gemm_args *a, struct error *err)
{
    uint32_t in = a->in_h * a->in_w * a->in_c, out = a->out_h * a->out_w * a->out_c;
    struct dead_args x = {
        .count = (uint64_t)a->lanes * a->rows * in, .live = {a->steps, a->rows, in}, .x = (float *)a->x};
    struct dead_args dy = {
        .count = (uint64_t)a->lanes * a->rows * out, .live = {a->steps, a->rows, out}, .x = (float *)a->dy};
    int rc = device_launch(d, KERNEL_dead, &x, sizeof x, err);

    return rc ? rc : device_launch(d, KERNEL_dead, &dy, sizeof dy, err);
}

int mask_gradient(struct device *d, const struct gemm_args *a, struct error *err)
{
    uint32_t in = a->in_h * a->in_w * a->in_c;
    struct pass_args pass = {.count = (uint64_t)a->lanes * a->rows * in,
                             .live = {a->steps, a->rows, in},
                             .dy = a->out,
                             .mask = a->mask,
                             .dx = a->out};

    return a->mask ? device_launch(d, KERNEL_pass, &pass, sizeof pass, err) : 0;
}

static uint32_t bias_parts(const struct gemm_args *a)
{
    return (uint32_t)(((uint64_t)a->rows * a->out_h * a->out_w + BIAS_RUN - 1) / BIAS_RUN);
}

size_t bias_gradient_bytes(const struct gemm_args *a)
{
    return (size_t)a->lanes * bias_parts(a) * a->out_c * sizeof(float);
}

int bias_gradient(struct device *d, const struct gemm_args *a, void *workspace, struct error *err)
{
    struct bias_gradient_args b = {.steps = a->steps,
                                   .dy = a->dy,
                                   .parts = workspace,
                                   .out = a->bias_out,
                                   .out_stride = a->out_stride,
                                   .rows = a->rows,
                                   .pixels = a->out_h * a->out_w,
                                   .c = a->out_c,
                                   .parts_n = bias_parts(a)};
    int rc;

    b.count = (uint64_t)a->lanes * b.parts_n * b.c;
    if ((rc = device_launch(d, KERNEL_bias_gradient, &b, sizeof b, err)))
        return rc;
    b.count = (uint64_t)a->lanes * b.c;
    return device_launch(d, KERNEL_bias_gradient_sum, &b, sizeof b, err);
}

static int library_new(struct device *d, const struct gemm_args *a, struct library **ret, size_t *ret_workspace,
                       struct error *err)
{
    bool dense = a->in_h * a->in_w * a->kernel_h * a->kernel_w == 1;
    const char *wanted = getenv("FLEXP_CUDA_LIBRARIES");

    enter(d);
    if (wanted && !strcmp(wanted, "none"))
        return fail(err, -ENOTSUP, "FLEXP_CUDA_LIBRARIES is none");
    if (dense && d->cublas)
        return cublas_library(d, a, ret, ret_workspace, err);
    if (!dense && d->cudnn && a->lanes == 1)
        return cudnn_library(d, a, ret, ret_workspace, err);
    return fail(err, -ENOTSUP, "no library for it");
}

static int library_run(struct device *d, struct library *library, const struct gemm_args *a, void *workspace,
                       struct error *err)
{
    enter(d);
    return library->run(d, library, a, workspace, err);
}

static void library_free(struct device *d, struct library *library)
{
    enter(d);
    if (library)
        library->free(library);
}

__attribute__((visibility("default"))) extern const struct driver flexp_cuda_driver;
const struct driver flexp_cuda_driver = {
    .api_version = DRIVER_API_VERSION,
    .open = device_open,
    .close = device_close,
    .info = device_info,
    .look = device_look,
    .memory = device_memory,
    .own = device_own,
    .alloc = device_alloc,
    .release = device_release,
    .upload = device_upload,
    .download = device_download,
    .pin = device_pin,
    .unpin = device_unpin,
    .copy_in = device_copy_in,
    .copy_out = device_copy_out,
    .clear = device_clear,
    .launch = device_launch,
    .gemm = device_gemm,
    .shared_sum = device_shared_sum,
    .wait = device_wait,
    .capture_begin = capture_begin,
    .capture_end = capture_end,
    .loop_begin = capture_loop_begin,
    .loop_end = capture_loop_end,
    .replay = capture_replay,
    .captured_free = captured_free,
    .mark = mark,
    .seconds = seconds,
    .library_new = library_new,
    .library_run = library_run,
    .library_free = library_free,
    .link_id = link_id,
    .link_open = link_open,
    .link_abort = link_abort,
    .link_fork = link_fork,
    .link_join = link_join,
    .link_sum = link_sum,
    .link_send = link_send,
    .link_receive = link_receive,
    .link_broadcast = link_broadcast,
};
