/* choose.c - whose kernel a layer gets: a rule over shapes, batch, precision and instruction set, so that a trial's bits
 * depend on nothing else. The figures behind the rule are in docs/performance.md.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cpu/cpu_private.h"

#include <stdlib.h>
#include <string.h>

/* FLEXP_CPU_KERNELS is for comparing: "onednn" for oneDNN everywhere, or a convolution kernel's name for this one where it
 * fits, with oneDNN for the other convolutions. */
static const char *wanted_kernels(void)
{
    const char *wanted = getenv("FLEXP_CPU_KERNELS");

    return wanted && *wanted ? wanted : NULL;
}

int choose_native(const struct native **ret, struct error *err)
{
    const char *why = NULL;
    const struct native *native = native_pick(&why);

    if (!native)
        return fail(err, -EINVAL, "%s (FLEXP_ISA=%s)", why, getenv("FLEXP_ISA"));
    *ret = native;
    return 0;
}

int choose_rules(const struct native *native, size_t batch, enum precision precision, struct choose_rules *ret,
                 struct error *err)
{
    const char *wanted = wanted_kernels();
    bool found = !wanted || !strcmp(wanted, "onednn");

    for (size_t i = 0; native->convs[i] && !found; i++)
        found = !strcmp(native->convs[i]->name, wanted);
    if (!found)
        return fail(err, -EINVAL,
                    "FLEXP_CPU_KERNELS=%s: must be onednn, winograd_f4, winograd_f2, direct, depthwise or batched",
                    wanted);
    *ret = (struct choose_rules){
        .native = wanted && !strcmp(wanted, "onednn") ? NULL : native,
        .batch = batch,
        .strict = precision == PRECISION_FP32_STRICT,
        .only = wanted,
    };
    return 0;
}

static const struct conv_kernel *named(const struct choose_rules *r, const char *name, const struct conv *c)
{
    for (size_t i = 0; r->native->convs[i]; i++)
        if (!strcmp(r->native->convs[i]->name, name) && r->native->convs[i]->covers(c))
            return r->native->convs[i];
    return NULL;
}

const struct conv_kernel *choose_conv(const struct choose_rules *r, const struct conv *c)
{
    const struct conv_kernel *kernel = NULL;
    int least;

    if (!r->native)
        return NULL;
    if (r->only)
        return named(r, r->only, c);
    if (c->groups > 1)
        return named(r, "depthwise", c);
    if (c->c < NATIVE_LANES && c->k <= NATIVE_LANES && r->batch >= 10)
        kernel = named(r, "batched", c);
    least = c->stride == 2 ? 64 : r->strict ? 32 : 16;
    if (!kernel && c->c >= least && c->k >= least)
        kernel = named(r, r->strict ? "winograd_f2" : "winograd_f4", c);
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
