/* presets.c - networks by name.
 * seed_cnn and bench_cnn are the two of the benchmarks; lenet is NIID-Bench's (Li et al. 2021), pfl_cnn that of
 * pfl-research's CIFAR-10 benchmark (Granqvist et al. 2024), mcmahan_2nn and mcmahan_cnn those of McMahan et al. 2017.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/model/model_private.h"

#include <string.h>

#define CONV(filters, kernel, padding)                                                                                 \
    "{\"conv2d\": {\"filters\": " #filters ", \"kernel\": " #kernel ", \"padding\": \"" padding                        \
    "\", \"activation\": \"relu\"}}, "
#define POOL "{\"max_pool2d\": {\"size\": 2}}, "
#define DROP(rate) "{\"dropout\": {\"rate\": " #rate "}}, "
#define FLAT "{\"flatten\": {}}, "
#define DENSE(units) "{\"dense\": {\"units\": " #units ", \"activation\": \"relu\"}}, "
#define LAST "{\"dense\": {\"units\": \"classes\"}}"

static const struct preset PRESETS[] = {
    {"seed_cnn", "[" CONV(32, 3, "same") CONV(64, 3, "same") POOL DROP(0.25) FLAT DENSE(128) DROP(0.5) LAST "]",
     INIT_HE_UNIFORM},
    {"bench_cnn", "[" CONV(32, 3, "same") POOL CONV(64, 3, "same") POOL FLAT DENSE(128) LAST "]", INIT_HE_UNIFORM},
    {"lenet", "[" CONV(6, 5, "valid") POOL CONV(16, 5, "valid") POOL FLAT DENSE(120) DENSE(84) LAST "]",
     INIT_HE_UNIFORM},
    {"pfl_cnn", "[" CONV(32, 3, "valid") CONV(64, 3, "valid") POOL DROP(0.25) FLAT DENSE(128) DROP(0.5) LAST "]",
     INIT_GLOROT_UNIFORM},
    {"mcmahan_2nn", "[" FLAT DENSE(200) DENSE(200) LAST "]", INIT_HE_UNIFORM},
    {"mcmahan_cnn", "[" CONV(32, 5, "same") POOL CONV(64, 5, "same") POOL FLAT DENSE(512) LAST "]", INIT_HE_UNIFORM},
};
#define PRESETS_N (sizeof PRESETS / sizeof PRESETS[0])

static const char *const NAMES[] = {"seed_cnn", "bench_cnn", "lenet", "pfl_cnn", "mcmahan_2nn", "mcmahan_cnn", NULL};
_Static_assert(sizeof NAMES / sizeof NAMES[0] == PRESETS_N + 1, "one name for each preset");

const char *const *model_presets(void)
{
    return NAMES;
}

const struct preset *preset_find(const char *name)
{
    for (size_t i = 0; i < PRESETS_N; i++)
        if (!strcmp(PRESETS[i].name, name))
            return &PRESETS[i];
    return NULL;
}
