/* native.c - which instruction set's kernels to use. Compiled once, unlike its neighbours.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cpu/native/native.h"

#include <stdlib.h>
#include <string.h>

#ifdef __x86_64__
extern const struct native native_avx512, native_avx2;
#endif
extern const struct native native_portable;

const struct native *const *native_all(void)
{
    static const struct native *all[4];
    const struct native *found[4] = {NULL};
    size_t n = 0;

#ifdef __x86_64__
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
        found[n++] = &native_avx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        found[n++] = &native_avx2;
#endif
    found[n++] = &native_portable;
    for (size_t i = 0; i < n; i++) /* every thread writes the same */
        all[i] = found[i];
    return all;
}

int native_pick(const struct native **ret, struct error *err)
{
    const char *wanted = getenv("FLEXP_ISA");
    const struct native *const *all = native_all();
    struct words here = {0};

    for (size_t i = 0; all[i]; i++) {
        if (!wanted || !*wanted || !strcmp(all[i]->name, wanted)) {
            *ret = all[i];
            return 0;
        }
        words_add(&here, all[i]->name);
    }
    if (!strcmp(wanted, "avx512") || !strcmp(wanted, "avx2"))
        return fail(err, -EINVAL, "FLEXP_ISA=%s: this processor has no such instructions; it has %s", wanted, words_text(&here));
    return fail(err, -EINVAL, "FLEXP_ISA=%.40s: must be avx512, avx2 or portable", wanted);
}
