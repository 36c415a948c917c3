/* test_open.c - opening the CPU backend: what the environment may say of it, and what it then calls itself.
 * SPDX-License-Identifier: Apache-2.0 */
#include "tests/trainer/backend/tiny.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

/* That is, what its bits depend on: one of the three sets, and the kernels that were forced. */
static void the_backend_names_itself_its_instruction_set_and_forced_kernels(void **state)
{
    static const char *const KERNELS[] = {NULL, "direct", "onednn"};
    const char *set = getenv("FLEXP_ISA"), *before = getenv("FLEXP_CPU_KERNELS");
    char *kept = before ? strdup(before) : NULL, name[64], expected[64];
    struct tiny t;

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        KERNELS[i] ? setenv("FLEXP_CPU_KERNELS", KERNELS[i], 1) : unsetenv("FLEXP_CPU_KERNELS");
        tiny_init(&t, "[\"flatten\", {\"dense\": {\"units\": \"classes\"}}]", 1, 4, 4, 2, 8, 8, 1);
        assert_string_equal(BACKEND_CPU.info(t.backend).name, "cpu");
        if (!i) {
            snprintf(name, sizeof name, "%s", BACKEND_CPU.info(t.backend).isa);
            assert_true(!strcmp(name, "avx512") || !strcmp(name, "avx2") || !strcmp(name, "portable"));
            if (set && *set)
                assert_string_equal(name, set);
        }
        snprintf(expected, sizeof expected, "%s%s%s", name, i ? " " : "", i ? KERNELS[i] : "");
        assert_string_equal(BACKEND_CPU.info(t.backend).isa, expected);
        tiny_done(&t);
    }
    kept ? setenv("FLEXP_CPU_KERNELS", kept, 1) : unsetenv("FLEXP_CPU_KERNELS");
    free(kept);
    assert_int_equal(BACKEND_CPU.api_version, BACKEND_API_VERSION);
}

static void wrong_words_in_the_environment_are_refused_at_once(void **state)
{
    static const struct {
        const char *name, *value, *says;
    } CASES[] = {
        {"FLEXP_ISA", "avx1024", "FLEXP_ISA=avx1024: must be avx512, avx2 or portable"},
        {"FLEXP_CPU_KERNELS", "onedn",
         "FLEXP_CPU_KERNELS=onedn: must be onednn, winograd_f4, winograd_f2, winograd_f2_5x5, direct, depthwise or batched"},
    };

    (void)state;
    for (size_t i = 0; i < 2; i++) {
        const char *before = getenv(CASES[i].name);
        char *kept = before ? strdup(before) : NULL;
        struct backend *backend = NULL;
        struct error err = {0};
        setenv(CASES[i].name, CASES[i].value, 1);
        assert_int_equal(BACKEND_CPU.open(&(struct backend_options){.cores = (const int[]){-1}, .cores_n = 1}, &backend, &err),
                         -EINVAL);
        assert_string_equal(err.text, CASES[i].says);
        assert_null(backend);
        kept ? setenv(CASES[i].name, kept, 1) : unsetenv(CASES[i].name);
        free(kept);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_backend_names_itself_its_instruction_set_and_forced_kernels),
        cmocka_unit_test(wrong_words_in_the_environment_are_refused_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
