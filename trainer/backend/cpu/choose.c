/* choose.c - whose kernel a layer gets: a rule over shapes, batch, precision and instruction set, so that a trial's bits
 * depend on nothing else. tests/bench/cpu/rule.py measures what is behind it; docs/performance.md has the figures.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cpu/cpu_private.h"

#include <stdlib.h>
#include <string.h>

/* FLEXP_CPU_KERNELS is for comparing: "onednn" for oneDNN everywhere, or a convolution kernel's name for this one where it
 * fits, with oneDNN for the other convolutions. NULL: by rule. */
static int forced_kernels(const struct native *native, const char **ret, struct error *err)
{
    const char *wanted = getenv("FLEXP_CPU_KERNELS");

    *ret = NULL;
    if (!wanted || !*wanted)
        return 0;
    if (!strcmp(wanted, "onednn"))
        *ret = "onednn";
    for (size_t i = 0; native->convs[i] && !*ret; i++)
        if (!strcmp(native->convs[i]->name, wanted))
            *ret = native->convs[i]->name;
    return *ret ? 0
                : fail(err, -EINVAL,
                       "FLEXP_CPU_KERNELS=%.40s: must be onednn, winograd_f4, winograd_f2, winograd_f2_5x5, direct,"
                       " depthwise or batched",
                       wanted);
}

int choose_kernels(const struct native **ret_native, const char **ret_only, struct error *err)
{
    const struct native *native;
    int rc = native_pick(&native, err);

    if (rc || (rc = forced_kernels(native, ret_only, err)))
        return rc;
    *ret_native = native;
    return 0;
}

struct choose_rules choose_rules(const struct native *native, const char *only, size_t batch, enum precision precision)
{
    return (struct choose_rules){
        .native = only && !strcmp(only, "onednn") ? NULL : native,
        .batch = batch,
        .strict = precision == PRECISION_FP32_STRICT,
        .only = only,
    };
}

static const struct conv_kernel *named(const struct choose_rules *r, const char *name, const struct conv *c)
{
    for (size_t i = 0; r->native->convs[i]; i++)
        if (!strcmp(r->native->convs[i]->name, name) && r->native->convs[i]->covers(c))
            return r->native->convs[i];
    return NULL;
}

/* Few channels fill no vector: a lane for each sample. Vectors of eight are filled sooner, but for large kernels. With those,
 * of very few channels and stride 1, a lane for each sample is worth it to vectors of sixteen also with many filters, where
 * dx is wanted too. */
static bool batched_pays(const struct choose_rules *r, const struct conv *c)
{
    bool wide = r->native->lanes == NATIVE_LANES, large = c->r * c->s > 9;
    bool many = wide && large && c->c < NATIVE_LANES / 2 && c->stride == 1 && c->need_dx;

    return c->c < NATIVE_LANES && (c->k <= NATIVE_LANES || many) && 2 * r->batch >= NATIVE_LANES && (wide || large);
}

/* Transforms grow with channels and with filters, what they save with their product. For 5x5 they are larger; up to 16
 * channels, on vectors of sixteen, a lane for each sample is quicker until the product is too. */
static bool winograd_pays(const struct choose_rules *r, const struct conv *c)
{
    bool narrow = r->native->lanes < NATIVE_LANES;
    int product = c->c * c->k, least = r->strict ? narrow ? 128 : 256 : narrow ? 32 : 128;

    if (c->stride == 2)
        return !r->strict && c->c >= 16 && c->k >= 16 && product >= 512;
    if (!c->need_dx)
        return c->c >= 16 && c->k >= 16;
    if (c->r == 5)
        least = narrow ? 64 : c->c < 8 ? 320 : c->c < 16 ? 192 : 128;
    return c->c >= (c->r == 5 && !narrow ? 6 : 4) && c->k >= 8 && product >= least;
}

const struct conv_kernel *choose_conv(const struct choose_rules *r, const struct conv *c)
{
    const struct conv_kernel *kernel = NULL;

    if (!r->native)
        return NULL;
    if (r->only)
        return named(r, r->only, c);
    if (c->groups > 1)
        return named(r, "depthwise", c);
    if (winograd_pays(r, c))
        kernel = named(r, r->strict ? "winograd_f2" : c->r == 5 ? "winograd_f2_5x5" : "winograd_f4", c);
    if (!kernel && batched_pays(r, c))
        kernel = named(r, "batched", c);
    return kernel ? kernel : named(r, "direct", c);
}

bool choose_dense(const struct choose_rules *r)
{
    return r->native != NULL;
}

bool choose_is_batched(const struct conv_kernel *kernel)
{
    return !strcmp(kernel->name, "batched");
}

/* The sums of chunks are added up at the end: as many chunks as keep eight threads busy, as long as that costs little
 * beside the layer itself, and a chunk is worth a call; of a small batch four, as even as can be. */
size_t choose_chunk(const struct conv_kernel *kernel, const struct conv *c, size_t batch)
{
    double work = 4.0 * (double)batch * c->p * c->q * c->r * c->s * c->c * c->k / c->groups;
    double cost = 40.0 * (double)kernel->partial_floats(c);
    size_t chunk = choose_is_batched(kernel) ? NATIVE_LANES : batch < 32 ? (batch + 3) / 4 : 8, chunks;

    for (chunks = (batch + chunk - 1) / chunk; chunks > 1 && (chunks > 8 || (double)chunks * cost > 0.05 * work);) {
        chunk *= 2;
        chunks = (batch + chunk - 1) / chunk;
    }
    return chunk;
}
