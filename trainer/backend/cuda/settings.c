/* settings.c - what the environment may say to the CUDA backend. Who uses a setting reads it anew: checks change them.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cuda/cuda.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static bool is_seconds(const char *text)
{
    char *end;
    double seconds = strtod(text, &end);

    return end > text && !*end && isfinite(seconds) && seconds > 0;
}

int cuda_settings(struct error *err)
{
    static const struct {
        const char *name, *words[3]; /* no words: seconds */
        const char *must;
    } SETTINGS[] = {{"FLEXP_CUDA_ROUNDS", {"calls"}, "calls"},
                    {"FLEXP_CUDA_SHARED", {"0", "1"}, "0 or 1"},
                    {"FLEXP_CUDA_LIBRARIES", {"none"}, "none"},
                    {"FLEXP_CUDA_TIMEOUT", {NULL}, "a number of seconds greater than 0"}};

    for (size_t i = 0; i < sizeof SETTINGS / sizeof *SETTINGS; i++) {
        const char *value = getenv(SETTINGS[i].name), *const *words = SETTINGS[i].words;
        bool right = !value || !*value || (!*words && is_seconds(value));
        for (; !right && *words; words++)
            right = !strcmp(value, *words);
        if (!right)
            return fail(err, -EINVAL, "%s=%.40s: must be %s", SETTINGS[i].name, value, SETTINGS[i].must);
    }
    return 0;
}
